//! Towline: a proxy in front of MySQL and MariaDB, with middleware for every command and exact row replication to any
//! number of slaves over HTTP.
//!
//! # The code map
//! - [`frontend`] is towards clients: the MySQL protocol and HTTP with JSON. Both turn what they read into a
//!   [`Command`](towline_middleware::Command) and send it through the same stack of tower layers.
//! - [`towline_middleware`] holds the words and the layers: trace ▸ admission ▸ classify ▸ the user's ▸ guard ▸ fan-out.
//! - [`layers`] are those that come with a node, for the configuration to name.
//! - [`classify`] tells reads from writes; [`router`] is the innermost service; [`upstream`] is towards MySQL;
//!   [`wire`] turns bytes into packets and back; [`transport`] is the byte stream on either side, under
//!   [`tls`] or in clear, and [`keepalive`] finds out when its other end has vanished.
//! - [`capture`] reads the master's binlog into transactions; [`replication`] pushes them to the slaves and applies
//!   them there.
//! - [`config`], [`cli`], [`check`], [`managed`], [`node`] and [`demo`] make a process of it; [`fail_point`] lets a test
//!   end one between two steps.

pub mod capture;
pub mod check;
pub mod classify;
pub mod cli;
pub mod config;
pub mod demo;
mod explain;
pub mod fail_point;
pub mod frontend;
pub mod keepalive;
pub mod layers;
pub mod managed;
pub mod metrics;
pub mod node;
pub mod replication;
pub mod router;
pub mod tls;
pub mod transport;
pub mod upstream;
pub mod wire;

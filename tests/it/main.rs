//! The integration tests: real nodes, real MariaDB servers.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod ack;
mod apply;
mod capture;
mod check;
mod cli;
mod cluster;
mod corpus;
mod default_schema;
mod guard;
mod history;
mod http;
mod hub;
mod layers;
mod least_rights;
mod managed;
mod matrix;
mod mysql_front;
mod node;
mod outlook;
mod readme;
mod round_trip;
mod same_rights;
mod schema_crashes;
mod settings;
mod snapshot;
mod streamed;
mod support;
mod torture;
mod verify;
mod xa;

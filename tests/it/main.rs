//! The integration tests: real nodes, real MariaDB servers.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod managed;
mod mysql_front;
mod support;

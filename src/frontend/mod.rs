//! Towards clients.

pub mod http;
pub mod mysql;

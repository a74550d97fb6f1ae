//! Towards clients.

mod accept;
pub mod http;
pub mod mysql;

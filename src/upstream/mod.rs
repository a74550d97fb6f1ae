//! Towards this node's MySQL: connecting, and one command's exchange on a connection.

#[cfg(test)]
mod captures;
mod connection;
mod endpoint;
mod exchange;
mod killer;
mod login;
mod opening;
mod own_statements;
mod password_bridge;
mod reader;
mod rsa_key;
mod tracking;

pub use connection::{ConnectError, Upstream};
pub use endpoint::Endpoint;
pub use exchange::Lease;
pub use killer::Killer;
pub use login::{Credentials, LoginError, log_in};
pub use opening::Opening;
pub(crate) use password_bridge::{PasswordBridge, Turn};
pub use rsa_key::LoginKey;
pub use tracking::Fence;
pub(crate) use tracking::{Wanted, learn, learn_collation};

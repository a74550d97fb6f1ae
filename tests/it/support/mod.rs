//! What the tests share: private servers, conditions with a deadline.

pub(crate) mod front;
mod server;
mod wait;
pub(crate) mod wire_client;

pub(crate) use self::{
    server::{TestServer, copy_template},
    wait::eventually,
};

//! What the tests share: private servers, conditions with a deadline.

mod changes;
pub(crate) mod front;
mod server;
mod wait;
pub(crate) mod wire_client;

pub(crate) use self::{
    changes::{Changes, batch},
    server::{TestServer, copy_template},
    wait::eventually,
};

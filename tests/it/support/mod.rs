//! What the tests share: private servers, conditions with a deadline.

mod server;
mod wait;

pub(crate) use self::{
    server::{TestServer, copy_template},
    wait::eventually,
};

//! What the tests share: private servers, nodes and clusters, conditions with a deadline.

mod changes;
mod cluster;
pub(crate) mod front;
pub(crate) mod http;
mod node;
mod server;
mod wait;
pub(crate) mod wire_client;

pub(crate) use self::{
    changes::{Changes, batch},
    cluster::{CLIENT, TestCluster, checksums},
    node::TestNode,
    server::{TestServer, copy_template},
    wait::eventually,
};

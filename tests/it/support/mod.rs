//! What the tests share: private servers, nodes and clusters, conditions with a deadline.

pub(crate) mod certificates;
mod changes;
mod cluster;
mod database;
mod disk;
pub(crate) mod front;
pub(crate) mod http;
mod mysql9;
mod node;
mod proxy;
pub(crate) mod server;
mod wait;
pub(crate) mod wire_client;

pub(crate) use self::{
    changes::{Changes, batch},
    cluster::{CLIENT, TestCluster, checksums},
    database::Database,
    disk::SmallDisk,
    mysql9::{Mysql9, mysql_node, mysql_server},
    node::TestNode,
    proxy::{FaultProxy, Weather},
    server::{TestServer, copy_template},
    wait::eventually,
};

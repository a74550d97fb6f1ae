//! What a node does of replication, by its role.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use towline_middleware::{ChangeFeed, Classifier, Role, layers::fan_out::FanOutLayer};

use super::{NodeError, server::Server};
use crate::{
    config::Config,
    frontend::http::NodeReplication,
    replication::{
        apply::{Applier, ApplyOptions},
        hub::{Hub, HubOptions},
        registration::Registration,
        snapshot::SnapshotOptions,
    },
};

/// How many transactions one push carries: above it a bigger batch no longer measured faster.
const BATCH_TRANSACTIONS_MAX: usize = 1000;

/// How often a master looks for what is about to go wrong with its slaves.
const OUTLOOK_INTERVAL: Duration = Duration::from_secs(10);

/// The part of replication that a role has.
#[derive(Debug)]
pub(super) enum Replicating {
    Master(Hub),
    Slave(Applier),
}

impl Replicating {
    pub(super) fn start(
        config: &Config,
        role: Role,
        server: &Server,
        classifier: Arc<dyn Classifier>,
        changes: ChangeFeed,
        snapshot: Option<SnapshotOptions>,
    ) -> Result<Self, NodeError> {
        let cluster = &config.cluster;
        match role {
            Role::Slave => {
                Ok(Self::Slave(Applier::start(ApplyOptions { changes, snapshot, ..ApplyOptions::new(server.opts()) })))
            }
            Role::Master => Ok(Self::Master(Hub::start(HubOptions {
                mysql: server.opts(),
                secret: cluster.secret.as_ref().map(|secret| secret.reveal().to_owned()),
                slaves: cluster.slaves.iter().map(|url| url.as_str().to_owned()).collect(),
                ack: cluster.ack,
                ack_timeout: cluster.ack_timeout,
                ack_on_timeout: cluster.ack_on_timeout,
                ring_bytes_max: cluster.ring_bytes_max.get(),
                batch_bytes_max: cluster.batch_bytes_max.get(),
                batch_transactions_max: BATCH_TRANSACTIONS_MAX,
                transaction_bytes_max: cluster.transaction_buffer_bytes_max.get(),
                push_timeout: cluster.push_timeout,
                outlook_interval: OUTLOOK_INTERVAL,
                verify_interval: Some(cluster.verify_interval).filter(|interval| !interval.is_zero()),
                verify_stops_slave: cluster.verify_stops_slave,
                classifier,
                changes,
            })?)),
        }
    }

    pub(super) fn fan_out(&self) -> FanOutLayer {
        match self {
            Self::Master(hub) => FanOutLayer::master(Arc::new(hub.clone())),
            Self::Slave(_) => FanOutLayer::slave(),
        }
    }

    pub(super) fn for_http(&self) -> NodeReplication {
        match self {
            Self::Master(hub) => NodeReplication::Master(hub.clone()),
            Self::Slave(applier) => NodeReplication::Slave(applier.clone()),
        }
    }

    pub(super) async fn stop(&self) {
        match self {
            Self::Master(hub) => hub.stop().await,
            Self::Slave(applier) => applier.stop().await,
        }
    }
}

/// What a slave tells its master; none if it is not told of one, or this is a master.
pub(super) fn registration(config: &Config, role: Role, http: SocketAddr) -> Result<Option<Registration>, NodeError> {
    let (Role::Slave, Some(master)) = (role, &config.cluster.master) else { return Ok(None) };
    let url = match &config.cluster.url {
        Some(url) => url.as_str().to_owned(),
        None if http.ip().is_unspecified() => return Err(NodeError::NoUrl { listen: http }),
        None => format!("http://{http}"),
    };
    Ok(Some(Registration {
        master: master.as_str().to_owned(),
        secret: config.cluster.secret.as_ref().map(|secret| secret.reveal().to_owned()),
        id: config.cluster.id.clone().unwrap_or_else(|| url.clone()),
        family: None,
        url,
    }))
}

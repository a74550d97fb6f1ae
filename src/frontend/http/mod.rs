//! Clients that speak HTTP and JSON.
//!
//! A request's command is JSON (`json_command`), becomes SQL whose names and values can't inject (`sql_text`), and goes
//! through the same stack of layers as a MySQL client's, on a session of the account whose credentials the request
//! carries (`accounts`). Rows come back as JSON, whole (`run`) or as a stream (`stream`).
//!
//! | path | what |
//! | --- | --- |
//! | `/master`, `/slave` | commands of clients; on a slave also the master's pushes |
//! | `/healthz`, `/readyz` | whether the process lives, and whether it can serve |
//! | `/status`, `/metrics` | how it fares, as JSON and for Prometheus |
//! | `/slave/server`, `/admin/server` | what other nodes must know of this one's server |
//! | `/admin/…` | the master's list of slaves, and snapshots for them; a slave's applier |

mod accounts;
mod admin;
mod column_definition;
mod commands;
mod condition;
mod definition_tokens;
mod error;
mod execute;
mod forward;
mod json;
mod json_command;
mod parameters;
mod request;
mod rows;
mod run;
mod search;
mod server;
mod slave;
mod snapshots;
mod sql_text;
mod status;
mod stream;

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use mysql_async::Opts;
use towline_middleware::{Position, Role};

use crate::{
    config::{HttpUrl, Secret},
    frontend::mysql::SessionCount,
    node::Reload,
    replication::{apply::Applier, hub::Hub},
    upstream::Credentials,
};

pub use accounts::{AccountLimits, SessionParts};
use error::HttpError;
pub use server::{Routes, serve};

/// What the front needs of its node.
#[derive(Clone, Debug)]
pub struct HttpState {
    /// What the sessions of clients need.
    pub sessions: SessionParts,
    /// The node's side of the replication.
    pub replication: NodeReplication,
    /// The node's own account of its MySQL, to find out whether that answers.
    pub mysql: Opts,
    /// Where the MySQL front listens, and its sessions.
    pub mysql_front: (SocketAddr, SessionCount),
    /// Limits and secrets.
    pub options: HttpOptions,
    /// What reads the configuration again, for `/admin/reload`.
    pub reload: Reload,
}

/// A node's side of the replication.
#[derive(Clone, Debug)]
pub enum NodeReplication {
    /// It pushes.
    Master(Hub),
    /// It applies.
    Slave(Applier),
}

/// Limits and secrets of the HTTP front.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// The account of requests without credentials; none refuses them with 401.
    pub anonymous_as: Option<Credentials>,
    /// What a push and administration must know; none asks for nothing, which is for loopback only.
    pub secret: Option<Secret>,
    /// A slave's: the master that gets the writes which this node refuses; none if they stay refused.
    pub writes_to: Option<HttpUrl>,
    /// Connections at a time; one more gets 503.
    pub connections_max: usize,
    /// The longest body of a client's request.
    pub body_bytes_max: usize,
    /// The longest body of a push.
    pub push_bytes_max: usize,
    /// The longest answer that is not streamed, and the longest row of one that is.
    pub response_bytes_max: usize,
    /// From the first byte of a request to the end of its head; an idle connection is closed after as long.
    pub head_timeout: Duration,
    /// How long a command may take until its answer begins, a body to arrive, and a stream to stand still.
    pub request_timeout: Duration,
    /// How long running requests may go on when the node stops.
    pub shutdown_grace: Duration,
    /// The sessions of each account.
    pub accounts: AccountLimits,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            anonymous_as: None,
            secret: None,
            writes_to: None,
            connections_max: 1000,
            body_bytes_max: 16 << 20,
            push_bytes_max: 64 << 20,
            response_bytes_max: 64 << 20,
            head_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(10),
            accounts: AccountLimits::default(),
        }
    }
}

/// Why there can be no HTTP front.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    /// The system has no random numbers.
    #[error("the system gives no random numbers")]
    Random(#[from] getrandom::Error),
    /// The system does not let the node ask others by HTTP.
    #[error("the system lets no HTTP client be made")]
    Client(#[from] reqwest::Error),
}

/// The HTTP front of a node, which one or two listeners serve.
#[derive(Clone, Debug)]
pub struct HttpFront(Arc<Front>);

#[derive(Debug)]
struct Front {
    state: HttpState,
    accounts: accounts::Accounts,
    forwarder: Option<forward::Forwarder>,
    probe: status::Probe,
    /// Requests that were to know the cluster's secret and did not.
    wrong_secrets: AtomicU64,
}

impl HttpFront {
    /// A front that serves nothing yet.
    ///
    /// # Errors
    /// See [`FrontError`].
    pub fn new(state: HttpState) -> Result<Self, FrontError> {
        let accounts = accounts::Accounts::new(
            state.sessions.clone(),
            state.options.accounts.clone(),
            state.options.writes_to.is_some(),
        )?;
        let HttpOptions { writes_to, request_timeout, .. } = &state.options;
        let forwarder =
            writes_to.clone().map(|master| forward::Forwarder::new(master, *request_timeout)).transpose()?;
        let probe = status::Probe::new(state.mysql.clone());
        Ok(Self(Arc::new(Front { state, accounts, forwarder, probe, wrong_secrets: AtomicU64::default() })))
    }

    fn role(&self) -> Role {
        self.0.state.sessions.role
    }

    fn options(&self) -> &HttpOptions {
        &self.0.state.options
    }

    /// What a read that begins now is sure to see: on a slave what is applied. A master shows all that is committed.
    fn read_position(&self) -> Option<Position> {
        match &self.0.state.replication {
            NodeReplication::Master(_) => None,
            NodeReplication::Slave(applier) => Some(applier.position().borrow().position),
        }
    }
}

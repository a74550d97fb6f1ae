//! A server checked against what replication needs.
//!
//! [`run`] reads everything from the server itself and changes nothing. Each requirement becomes one [`Line`], with the
//! very line of `my.cnf` or statement that mends it: `settings` compares variables, `log` reads what else concerns the
//! master's binlog, `rights` and `accounts` look at who may do what, `hosts` at who may come through the node, and
//! `neighbours` asks the other nodes.

mod accounts;
mod engines;
mod hosts;
mod log;
mod neighbours;
mod rights;
mod server;
mod settings;

use std::{fmt, time::Duration};

use mysql_async::Opts;
use towline_middleware::Role;

use self::server::Server;
use crate::{
    config::{Cluster, Limits},
    tls::Connector,
};

/// How long connecting and all questions together may take.
const TIMEOUT: Duration = Duration::from_secs(15);
/// How long another node may take to answer; all are asked at a time.
const NEIGHBOUR_TIMEOUT: Duration = Duration::from_secs(5);

/// What the check of a server found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The server's own words on its version.
    pub version: String,
    /// One for each requirement.
    pub lines: Vec<Line>,
}

/// What became of one requirement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The setting, or what is asked for.
    pub name: &'static str,
    /// What became of it.
    pub outcome: Outcome,
}

/// Whether a requirement is met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is.
    Ok,
    /// It is not, and replication would not work or not be safe.
    Failed {
        /// What there is instead.
        found: String,
        /// The line of `my.cnf` or the statement that mends it.
        mend: String,
    },
    /// It is not; replication works, with a weakness.
    Warning {
        /// What there is instead.
        found: String,
        /// The line of `my.cnf` or the statement that mends it.
        mend: String,
    },
}

impl Report {
    /// Whether nothing failed. Warnings pass.
    pub fn passed(&self) -> bool {
        !self.lines.iter().any(|line| matches!(line.outcome, Outcome::Failed { .. }))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Outcome::Ok => write!(f, "ok       {}", self.name),
            Outcome::Failed { found, mend } => write!(f, "FAILED   {}: {found}; {mend}", self.name),
            Outcome::Warning { found, mend } => write!(f, "warning  {}: {found}; {mend}", self.name),
        }
    }
}

/// Why a server could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The account's name or password is wrong, or it may not connect from here.
    #[error("MySQL at {address} refuses the account `{user}`: {source}")]
    Refused {
        /// Where.
        address: String,
        /// Who.
        user: String,
        /// What the server said.
        #[source]
        source: mysql_async::Error,
    },
    /// Nothing answers there, or nothing that speaks MySQL's protocol.
    #[error("MySQL at {address} can't be reached: {source}. Is it running, and is the address right?")]
    Unreachable {
        /// Where.
        address: String,
        /// What happened.
        #[source]
        source: mysql_async::Error,
    },
    /// TLS with it can't be had as configured.
    #[error("MySQL at {address} can't be trusted or has no TLS, as `tls.backend` wants it: {source}")]
    Tls {
        /// Where.
        address: String,
        /// What happened.
        #[source]
        source: mysql_async::Error,
    },
    /// It took too long.
    #[error("MySQL at {address} did not answer within {TIMEOUT:?}")]
    Silent {
        /// Where.
        address: String,
    },
    /// A question failed.
    #[error("MySQL at {address} could not be asked for {what}: {source}")]
    Query {
        /// Where.
        address: String,
        /// What for.
        what: &'static str,
        /// What happened.
        #[source]
        source: mysql_async::Error,
    },
}

/// The server to be checked, and how the node reaches it.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// How the node itself logs in, but for TLS.
    pub opts: &'a Opts,
    /// TLS; none for connections in clear.
    pub tls: Option<&'a Connector>,
    /// Whether the server is told clients' addresses.
    pub proxy_protocol: bool,
    /// How long clients may take to log in.
    pub handshake_timeout: Duration,
    /// Whether layer `idempotency` is in the node's stack.
    pub keeps_keys: bool,
    /// The node's part of a cluster, to compare with the servers of the other nodes; none compares with nothing.
    pub cluster: Option<&'a Cluster>,
}

impl<'a> From<&'a Opts> for Target<'a> {
    /// In clear, without the PROXY protocol and other nodes, and with the configuration's default of a time for the login.
    fn from(opts: &'a Opts) -> Self {
        let handshake_timeout = Limits::default().handshake_timeout;
        Self { opts, tls: None, proxy_protocol: false, handshake_timeout, keeps_keys: false, cluster: None }
    }
}

/// Checks the server behind a node of this role. Changes nothing on it. Returns also how the node is to log in, TLS
/// included.
///
/// # Errors
/// When the server can't be asked; a requirement that is not met is no error but a [`Line`].
pub async fn run(role: Role, target: Target<'_>) -> Result<(Opts, Report), CheckError> {
    let silent = || CheckError::Silent { address: server::address(target.opts) };
    tokio::time::timeout(TIMEOUT, ask(role, target)).await.map_err(|_| silent())?
}

async fn ask(role: Role, target: Target<'_>) -> Result<(Opts, Report), CheckError> {
    let (mut server, opts) = Server::connect(target).await?;
    let mut lines = settings::check(role, &server);
    lines.extend(settings::connect_timeout(target.handshake_timeout, &server));
    if role == Role::Master {
        lines.extend(log::check(&mut server).await?);
        lines.push(engines::check(&mut server).await?);
    }
    lines.extend(rights::check(role, target.keeps_keys, &mut server).await?);
    lines.extend(accounts::check(&mut server).await?);
    lines.extend(hosts::check(target, &mut server).await?);
    if let Some(cluster) = target.cluster {
        lines.extend(neighbours::check(role, cluster, &mut server).await?);
    }
    let version = server.version.clone();
    server.disconnect().await;
    Ok((opts, Report { version, lines }))
}

impl Line {
    fn ok(name: &'static str) -> Self {
        Self { name, outcome: Outcome::Ok }
    }

    fn failed(name: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Failed { found: found.into(), mend: mend.into() } }
    }

    /// A failure made a warning, where replication works without what is missing.
    fn weakened(self) -> Self {
        match self.outcome {
            Outcome::Failed { found, mend } => Self { outcome: Outcome::Warning { found, mend }, ..self },
            Outcome::Ok | Outcome::Warning { .. } => self,
        }
    }

    fn warning(name: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Warning { found: found.into(), mend: mend.into() } }
    }
}

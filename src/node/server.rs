//! The MySQL behind a node: a private one, or one that exists.

use std::time::Duration;

use mysql_async::Opts;
use towline_middleware::Role;

use super::NodeError;
use crate::{
    check::{self, CheckError, Target},
    config::{Config, MysqlServer},
    keepalive::Keepalive,
    managed::ManagedServer,
    tls::Connector,
    upstream::Endpoint,
};

const BACK_OFF_MIN: Duration = Duration::from_millis(500);
const BACK_OFF_MAX: Duration = Duration::from_secs(10);

/// The MySQL behind a node.
#[derive(Debug)]
pub(super) struct Server {
    opts: Opts,
    tls: Option<Connector>,
    proxy_protocol: bool,
    handshake_timeout: Duration,
    keepalive: Keepalive,
    managed: Option<ManagedServer>,
}

impl Server {
    /// Starts the private server, or takes the one that the configuration names.
    pub(super) async fn start(config: &Config, role: Role) -> Result<Self, NodeError> {
        let tls = config.tls.connector()?;
        let (opts, managed) = match config.mysql_server(role) {
            MysqlServer::Existing(opts) => (opts, None),
            MysqlServer::Private(options) => {
                let managed = ManagedServer::start(options).await?;
                (managed.opts(), Some(managed))
            }
        };
        Ok(Self {
            opts,
            tls,
            proxy_protocol: config.mysql.proxy_protocol,
            handshake_timeout: config.limits.handshake_timeout,
            keepalive: Keepalive::new(config.limits.keepalive),
            managed,
        })
    }

    /// Checks it for this role and returns its version. A server that is away is waited for; what has a mend is an
    /// error that names it.
    pub(super) async fn check(&mut self, role: Role) -> Result<String, NodeError> {
        let mut delay = BACK_OFF_MIN;
        loop {
            let target = Target {
                opts: &self.opts,
                tls: self.tls.as_ref(),
                proxy_protocol: self.proxy_protocol,
                handshake_timeout: self.handshake_timeout,
                // The layer tells it by itself.
                keeps_keys: false,
                // They may start later.
                cluster: None,
            };
            let report = match check::run(role, target).await {
                Ok((opts, report)) => {
                    self.opts = opts;
                    report
                }
                Err(error @ (CheckError::Unreachable { .. } | CheckError::Silent { .. })) => {
                    let cause = &error as &dyn std::error::Error;
                    tracing::warn!(error = cause, again_in = ?delay, "waiting for MySQL before this node serves");
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(BACK_OFF_MAX);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            for line in report.lines.iter().filter(|line| matches!(line.outcome, check::Outcome::Warning { .. })) {
                tracing::warn!("{line}");
            }
            return if report.passed() { Ok(report.version) } else { Err(NodeError::Unfit(report)) };
        }
    }

    /// How the node itself logs in.
    pub(super) fn opts(&self) -> Opts {
        self.opts.clone()
    }

    /// Where clients' sessions are opened.
    pub(super) fn endpoint(&self) -> Endpoint {
        let endpoint = match self.opts.socket() {
            Some(socket) => Endpoint::unix(socket),
            None => Endpoint::tcp(self.opts.ip_or_hostname(), self.opts.tcp_port()),
        };
        let endpoint = endpoint.with_tls(self.tls.clone()).with_proxy_protocol(self.proxy_protocol);
        endpoint.with_keepalive(self.keepalive)
    }

    /// Stops a private server; one that existed before goes on.
    pub(super) async fn stop(&self) {
        if let Some(managed) = &self.managed {
            managed.stop().await;
        }
    }
}

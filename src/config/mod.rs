//! `config.toml` and the environment, made into a typed and validated [`Config`].
//!
//! The file's top-level tables are profiles: `[default.mysql]` holds for both roles, `[master.mysql]` and
//! `[slave.mysql]` for one; a role's list replaces the default's. Variables of the environment win over the file:
//! `TOWLINE_HTTP__LISTEN` is `http.listen`. The annotated reference is `config.toml` in the repository.

mod cluster;
mod limits;
mod load;
mod tls;
mod values;

use std::{
    net::SocketAddr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use mysql_async::Opts;
use serde::Deserialize;
use towline_middleware::{LayerHome, LayerOptions, LayerSetup, Role};
use tracing_subscriber::EnvFilter;

use crate::{frontend::mysql::Networks, managed::ManagedOptions};

pub use self::{
    cluster::{Ack, AckOnTimeout, Cluster},
    limits::Limits,
    load::{ConfigError, Problem},
    tls::{BackendTls, Tls},
    values::{HttpUrl, MysqlUrl, Secret},
};

/// Where administration is served when it has no place of its own and clients' HTTP is reachable from elsewhere.
pub const ADMIN_LISTEN_DEFAULT: &str = "127.0.0.1:5900";

/// How many connections a node's private server takes besides those of MySQL clients: for HTTP clients, replication,
/// administration, and people with a console.
const CONNECTIONS_OWN: u32 = 150;

/// How a node is to run. Made by [`Config::load`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The server behind the node.
    pub mysql: Mysql,
    /// Clients that speak the MySQL protocol.
    pub mysql_front: MysqlFront,
    /// Clients that speak HTTP and JSON.
    pub http: Http,
    /// Status, metrics and administration.
    pub admin: Admin,
    /// TLS on connections of the MySQL protocol.
    pub tls: Tls,
    /// The other nodes.
    pub cluster: Cluster,
    /// What one node may be asked at once, and how long things may take.
    pub limits: Limits,
    /// What the node says about itself.
    pub log: Log,
    /// The user's layers, outermost first.
    pub layer: Vec<LayerConfig>,
    /// The file that it was read from.
    #[serde(skip)]
    pub file: Option<PathBuf>,
}

/// The server behind the node.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mysql {
    /// Whether the node runs a private MariaDB of its own.
    pub managed: bool,
    /// The private MariaDB's folder. Relative to the configuration file.
    #[serde(deserialize_with = "values::relative_path")]
    pub data_dir: PathBuf,
    /// Where the private MariaDB listens on 127.0.0.1 besides its socket.
    pub port: Option<u16>,
    /// More options of the private `mariadbd`.
    pub args: Vec<String>,
    /// The server that exists already, when `managed` is false.
    pub url: Option<MysqlUrl>,
    /// Whether the server is told each client's address by the PROXY protocol.
    pub proxy_protocol: bool,
}

impl Default for Mysql {
    fn default() -> Self {
        Self { managed: true, data_dir: "data".into(), port: None, args: Vec::new(), url: None, proxy_protocol: false }
    }
}

/// Which server is behind a node.
#[derive(Clone, Debug)]
pub enum MysqlServer {
    /// A private one, to be run so.
    Private(ManagedOptions),
    /// One that exists already, and how to log in.
    Existing(Opts),
}

/// Clients that speak the MySQL protocol.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MysqlFront {
    /// Where the node listens for them.
    pub listen: SocketAddr,
    /// The Unix socket where it listens for those on its own machine. Relative to the configuration file.
    #[serde(deserialize_with = "values::optional_relative_path")]
    pub socket: Option<PathBuf>,
    /// The proxies in front of the node that begin each connection with a PROXY header, version 1 or 2.
    pub proxy_protocol_networks: Networks,
    /// Whether LOAD DATA LOCAL may ask them for files.
    pub local_infile: bool,
}

impl Default for MysqlFront {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 4306)),
            socket: None,
            local_infile: true,
            proxy_protocol_networks: Networks::default(),
        }
    }
}

/// Clients that speak HTTP and JSON.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Where the node listens for them, and a slave for its master.
    pub listen: SocketAddr,
    /// What a slave does with a client's write.
    pub writes: Writes,
    /// A slave's: where its master listens for HTTP clients, for writes that are forwarded.
    pub master: Option<HttpUrl>,
    /// The account of requests without credentials; none refuses them with 401.
    pub anonymous_as: Option<Account>,
    /// The longest body of a client's request.
    pub body_bytes_max: NonZeroUsize,
    /// The longest answer that is not streamed.
    pub response_bytes_max: NonZeroUsize,
    /// How long a client's request may take until its answer begins.
    #[serde(rename = "request_timeout_ms", deserialize_with = "values::milliseconds")]
    pub request_timeout: Duration,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 5000)),
            writes: Writes::Refuse,
            master: None,
            anonymous_as: None,
            body_bytes_max: const { NonZeroUsize::new(16 << 20).unwrap() },
            response_bytes_max: const { NonZeroUsize::new(64 << 20).unwrap() },
            request_timeout: Duration::from_secs(30),
        }
    }
}

impl Http {
    /// The master that gets a slave's clients' writes; none if they are refused.
    pub fn writes_to(&self) -> Option<&HttpUrl> {
        self.master.as_ref().filter(|_| self.writes == Writes::Forward)
    }

    fn validate(&self, role: Role) -> Result<(), ConfigError> {
        match (self.writes, &self.master) {
            (Writes::Forward, _) if role == Role::Master => Err(ConfigError::OtherRole { key: "http.writes", role }),
            (_, Some(_)) if role == Role::Master => Err(ConfigError::OtherRole { key: "http.master", role }),
            (Writes::Forward, None) => Err(ConfigError::NoMaster),
            _ => Ok(()),
        }
    }
}

/// What a slave does with a write of an HTTP client's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Writes {
    /// The client gets an error.
    #[default]
    Refuse,
    /// It is sent to the master, and the client gets the master's answer.
    Forward,
}

/// An account of the server behind the node.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// Its name.
    pub user: String,
    /// Its password.
    pub password: Secret,
}

/// Status, metrics and administration.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Where they are served; see [`Config::admin_listen`] for what absence means.
    pub listen: Option<SocketAddr>,
}

/// What the node says about itself.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// A level, or a filter as in `info,towline::capture=debug`.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// One of the user's layers.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct LayerConfig {
    /// Its name in the registry.
    pub name: String,
    /// Its own options, which the layer checks.
    #[serde(flatten)]
    pub options: LayerOptions,
}

impl LayerConfig {
    /// What the layer is set up with.
    pub(crate) fn setup(&self, home: &LayerHome) -> LayerSetup {
        LayerSetup::new(&self.name, self.options.clone(), home.clone())
    }
}

impl Config {
    /// A fresh home for the layers of a node of this role.
    pub(crate) fn layer_home(&self, role: Role) -> LayerHome {
        let folder = self.file.as_deref().and_then(Path::parent).map(Path::to_owned);
        let mut home = LayerHome::new(role);
        home.folder = folder.unwrap_or_default();
        home
    }

    /// Where status, metrics and administration are served; none if by the same listener as clients' HTTP, which is so
    /// while that is on loopback and `admin.listen` is absent.
    pub fn admin_listen(&self) -> Option<SocketAddr> {
        match self.admin.listen {
            Some(own) if own == self.http.listen && own.port() != 0 => None,
            Some(own) => Some(own),
            None if self.http.listen.ip().is_loopback() => None,
            None => Some(ADMIN_LISTEN_DEFAULT.parse().expect("the constant is an address")),
        }
    }

    /// The server behind a node of this role.
    pub fn mysql_server(&self, role: Role) -> MysqlServer {
        // A private server is the node's alone, which comes by its socket.
        let proxies = self.mysql.proxy_protocol.then(|| "--proxy-protocol-networks=localhost".to_owned());
        match &self.mysql.url {
            Some(url) => MysqlServer::Existing(url.opts()),
            None => MysqlServer::Private(ManagedOptions {
                port: self.mysql.port,
                connections_max: self.limits.connections_max.get().saturating_add(CONNECTIONS_OWN),
                extra_args: self.mysql.args.iter().cloned().chain(proxies).collect(),
                ..ManagedOptions::new(&self.mysql.data_dir, role)
            }),
        }
    }

    /// What only shows when all is known: keys that need or exclude each other.
    fn validate(&self, role: Role) -> Result<(), ConfigError> {
        match (self.mysql.managed, &self.mysql.url) {
            (true, Some(_)) => return Err(ConfigError::ManagedWithUrl),
            (false, None) => return Err(ConfigError::NoUrl),
            (true, None) | (false, Some(_)) => {}
        }
        self.tls.validate()?;
        let listeners = [
            ("mysql_front.listen", Some(self.mysql_front.listen)),
            ("http.listen", Some(self.http.listen)),
            ("admin.listen", self.admin.listen),
        ];
        for (key, listen) in listeners {
            if let Some(listen) = listen
                && !listen.ip().is_loopback()
                && self.cluster.secret.is_none()
            {
                return Err(ConfigError::NoSecret { key, listen });
            }
        }
        if self.http.anonymous_as.is_some() && !self.http.listen.ip().is_loopback() {
            return Err(ConfigError::AnonymousBeyondLoopback { listen: self.http.listen });
        }
        self.http.validate(role)?;
        let level = &self.log.level;
        EnvFilter::try_new(level).map_err(|source| ConfigError::LogLevel { level: level.clone(), source })?;
        match role {
            Role::Master if self.cluster.master.is_some() => {
                Err(ConfigError::OtherRole { key: "cluster.master", role })
            }
            Role::Slave if !self.cluster.slaves.is_empty() => {
                Err(ConfigError::OtherRole { key: "cluster.slaves", role })
            }
            Role::Master | Role::Slave => Ok(()),
        }
    }
}

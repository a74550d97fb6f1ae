//! The assembly of a node: one linear list, with the reason for each place in the order. Stopping is its mirror.
//!
//! ```no_run
//! # async fn main_() -> Result<(), Box<dyn std::error::Error>> {
//! use towline::{config::Config, node::Node};
//! use towline_middleware::{Command, Error, Next, Reply, Role, from_fn};
//!
//! async fn pass(command: Command, next: Next) -> Result<Reply, Error> {
//!     next.run(command).await
//! }
//!
//! let config = Config::load(Some("config.toml".as_ref()), Role::Master)?;
//! Node::builder(config, Role::Master).register("pass", |_setup| Ok(from_fn(pass))).run().await?;
//! # Ok(())
//! # }
//! ```

mod descriptors;
mod error;
mod listen;
mod reload;
mod replicating;
mod server;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use towline_middleware::{
    Classifier, LayerProblem, LayerSetup, Role, Stack, UserLayer,
    layers::{admission::AdmissionLayer, classify::ClassifyLayer, guard::GuardLayer, trace::TraceLayer},
};

pub use self::{
    error::NodeError,
    reload::{Reload, ReloadError},
};
use self::{
    listen::{listen, listen_unix},
    replicating::{Replicating, registration},
    server::Server,
};
use crate::{
    classify::SqlClassifier,
    config::Config,
    frontend::{
        http::{self, AccountLimits, HttpFront, HttpOptions, HttpState, Routes, SessionParts},
        mysql::{self, Limits, Listeners, MySqlFront, SessionCount},
    },
    keepalive::Keepalive,
    layers::Layers,
    replication::{protocol::Family, registration::Registration, snapshot::SnapshotOptions},
    upstream::{Credentials, Killer, LoginKey},
};

/// How long layers may take to finish when the node stops.
const LAYERS_STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// What a node prints on its standard output, as one line of JSON, once it serves: its ports may have been chosen by
/// the system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The node's role.
    pub role: Role,
    /// Where it serves the MySQL protocol.
    pub mysql_front: SocketAddr,
    /// Where it serves HTTP.
    pub http: SocketAddr,
    /// Where it serves status, metrics and administration.
    pub admin: SocketAddr,
}

/// Runs a node without layers of the user's until it is told to stop by SIGTERM or Ctrl-C.
///
/// # Errors
/// Why it could not start, or what ended it.
pub async fn run(config: Config, role: Role) -> Result<(), NodeError> {
    Node::builder(config, role).run().await
}

/// A node before its start: its configuration and the layers that the configuration may name.
#[derive(Debug)]
pub struct NodeBuilder {
    config: Config,
    role: Role,
    layers: Layers,
    replace: bool,
}

impl NodeBuilder {
    /// Lets a slave that is of no cluster yet replace whatever data its server holds by its master's.
    #[must_use]
    pub fn replace_data(mut self, replace: bool) -> Self {
        self.replace = replace;
        self
    }

    /// Makes a layer known under a name, for the configuration's `[[layer]]` blocks.
    #[must_use]
    pub fn register<L: UserLayer + 'static>(
        mut self,
        name: &str,
        factory: impl Fn(&mut LayerSetup) -> Result<L, LayerProblem> + Send + Sync + 'static,
    ) -> Self {
        self.layers = self.layers.register(name, factory);
        self
    }

    /// Takes these layers in place of those that come with the node.
    #[must_use]
    pub fn layers(mut self, layers: Layers) -> Self {
        self.layers = layers;
        self
    }

    /// Starts the node, prints [`Ready`], and stops it on SIGTERM or Ctrl-C. SIGHUP reads the certificate again.
    ///
    /// # Errors
    /// Why it could not start.
    pub async fn run(self) -> Result<(), NodeError> {
        descriptors::raise_limit(self.config.limits.connections_max.get());
        // Heard from the first moment on, so that a node can be stopped while it starts.
        let mut terminate = signal(SignalKind::terminate()).map_err(NodeError::System)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(NodeError::System)?;
        // Without a listener of its own it would end the process.
        let hang_up = signal(SignalKind::hangup()).map_err(NodeError::System)?;
        let mut asked_to_stop = std::pin::pin!(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        let node = tokio::select! {
            started = self.start() => started?,
            () = &mut asked_to_stop => return Ok(()),
        };
        // The line is for whoever waits for it; a closed standard output is nobody.
        let _ = print_line(&serde_json::to_string(&node.ready).unwrap_or_default());
        tokio::select! {
            () = asked_to_stop => {}
            () = node.reload_on(hang_up) => {}
        }
        tracing::info!("stopping");
        node.stop().await;
        Ok(())
    }

    /// Starts the node and returns when it serves.
    ///
    /// # Errors
    /// Why it could not start.
    ///
    /// # Cancel safety
    /// What was started is ended, a private MariaDB by force, which loses nothing.
    pub async fn start(self) -> Result<Node, NodeError> {
        let Self { config, role, layers, replace } = self;
        // The cheapest mistakes first: before anything is started.
        let tls = config.tls.acceptor()?;
        let reload = Reload::new(config.clone(), layers.registry, config.layer_home(role), tls.clone());
        let user = reload.first()?;
        registration(&config, role, config.http.listen)?;

        // MySQL before everything else: all state lives there. It is checked before it is relied on.
        let mut server = Server::start(&config, role).await?;
        let version = server.check(role).await?;
        layers.server.set(server.opts());
        let classifier: Arc<dyn Classifier> = Arc::new(SqlClassifier::for_server(&version));

        // All ports before anything serves: a port in use ends the start, and not a node at work.
        let mysql_listener = listen("mysql_front.listen", config.mysql_front.listen)?;
        let unix = config.mysql_front.socket.as_deref().map(listen_unix).transpose()?;
        let http_listener = listen("http.listen", config.http.listen)?;
        let admin_listener = match config.admin_listen() {
            Some(addr) => Some(listen("admin.listen", addr)?),
            None => None,
        };
        let http_addr = http_listener.local_addr().map_err(NodeError::System)?;
        let ready = Ready {
            role,
            mysql_front: mysql_listener.local_addr().map_err(NodeError::System)?,
            http: http_addr,
            admin: admin_listener.as_ref().map_or(Ok(http_addr), TcpListener::local_addr).map_err(NodeError::System)?,
        };

        let registration = registration(&config, role, http_addr)?;
        // Replication before the fronts: no write may be acknowledged that nobody would push.
        let admission = AdmissionLayer::default();
        let snapshot = registration.as_ref().map(|slave| SnapshotOptions {
            master: slave.master.clone(),
            secret: slave.secret.clone(),
            replace,
            again: config.cluster.resnapshot,
            admission: admission.clone(),
        });
        let replicating =
            Replicating::start(&config, role, &server, classifier.clone(), reload.home().changes.clone(), snapshot)?;
        // The layers after what they hear from and ask, and before their first command.
        reload.user().replace(user).await?;
        let stack = Stack {
            trace: TraceLayer::default(),
            admission,
            classify: ClassifyLayer::default(),
            user: reload.user().clone(),
            guard: GuardLayer::new(role),
            fan_out: replicating.fan_out(),
        };

        // The fronts last: from here on clients are served.
        let stop = CancellationToken::new();
        let sessions = SessionCount::default();
        let front = Arc::new(MySqlFront {
            role,
            endpoint: server.endpoint(),
            stack: stack.clone(),
            classifier: classifier.clone(),
            local_infile: config.mysql_front.local_infile,
            killer: Killer::start(server.opts()),
            tls,
            tls_required: config.tls.required,
            login_key: LoginKey::default(),
            proxies: config.mysql_front.proxy_protocol_networks.clone(),
            limits: Limits {
                connections_max: config.limits.connections_max.get() as usize,
                handshake_timeout: config.limits.handshake_timeout,
                packet_bytes_max: config.limits.packet_bytes_max.get(),
                idle_timeout: config.limits.idle_timeout,
                write_timeout: config.limits.write_timeout,
                keepalive: Keepalive::new(config.limits.keepalive),
                shutdown_grace: config.limits.shutdown_grace,
            },
        });
        let listeners = Listeners { tcp: mysql_listener, unix };
        let mut serving = vec![tokio::spawn(mysql::serve(listeners, front, sessions.clone(), stop.clone()))];
        let http = HttpFront::new(HttpState {
            sessions: SessionParts { role, endpoint: server.endpoint(), stack: stack.clone(), classifier },
            replication: replicating.for_http(),
            mysql: server.opts(),
            mysql_front: (ready.mysql_front, sessions),
            options: http_options(&config),
            reload: reload.clone(),
        })?;
        let routes = if admin_listener.is_some() { Routes::Clients } else { Routes::All };
        serving.push(tokio::spawn(http::serve(http_listener, http.clone(), routes, stop.clone())));
        if let Some(listener) = admin_listener {
            serving.push(tokio::spawn(http::serve(listener, http, Routes::Administration, stop.clone())));
        }
        // Once pushes can be taken, and not before.
        if let Some(registration) = registration {
            let registration = Registration { family: Some(Family::of_version(&version)), ..registration };
            serving.push(tokio::spawn(registration.run(stop.clone())));
        }
        tracing::info!(%role, mysql = %ready.mysql_front, http = %ready.http, server = version, "serving");
        Ok(Node { ready, admission: stack.admission, reload, stop, serving, replicating, server })
    }
}

/// A node that serves.
#[derive(Debug)]
pub struct Node {
    ready: Ready,
    admission: AdmissionLayer,
    reload: Reload,
    stop: CancellationToken,
    serving: Vec<JoinHandle<()>>,
    replicating: Replicating,
    server: Server,
}

impl Node {
    /// A node to be started, with this configuration and role.
    pub fn builder(config: Config, role: Role) -> NodeBuilder {
        NodeBuilder { config, role, layers: Layers::default(), replace: false }
    }

    /// Where it serves.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Reloads the configuration at each SIGHUP.
    async fn reload_on(&self, mut hang_up: Signal) {
        while hang_up.recv().await.is_some() {
            if let Err(error) = self.reload.run().await {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "the configuration was not reloaded: the old one stays in use");
            }
        }
    }

    /// Stops the node, the last started first: no new sessions and commands, then what runs may finish, then
    /// replication, whose positions are in MySQL already, then a private MySQL.
    pub async fn stop(self) {
        self.admission.close();
        self.stop.cancel();
        for serving in self.serving {
            // A panic has been reported where it happened; the rest is stopped all the same.
            let _ = serving.await;
        }
        // What a layer does at its end may need MySQL; a session that hangs must not hold up the node.
        if tokio::time::timeout(LAYERS_STOP_TIMEOUT, self.reload.user().stop()).await.is_err() {
            tracing::warn!("layers still at work at the end of their time are cut");
        }
        self.replicating.stop().await;
        self.server.stop().await;
    }
}

fn http_options(config: &Config) -> HttpOptions {
    let account = config.http.anonymous_as.as_ref();
    HttpOptions {
        anonymous_as: account
            .map(|account| Credentials { user: account.user.clone(), password: account.password.reveal().to_owned() }),
        secret: config.cluster.secret.clone(),
        writes_to: config.http.writes_to().cloned(),
        body_bytes_max: config.http.body_bytes_max.get(),
        // The longest transaction that is not streamed, in base64, with room for the JSON around it.
        push_bytes_max: config.cluster.transaction_buffer_bytes_max.get() / 2 * 3 + (16 << 20),
        response_bytes_max: config.http.response_bytes_max.get(),
        request_timeout: config.http.request_timeout,
        shutdown_grace: config.limits.shutdown_grace,
        accounts: AccountLimits::default(),
        ..HttpOptions::default()
    }
}

fn print_line(line: &str) -> std::io::Result<()> {
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

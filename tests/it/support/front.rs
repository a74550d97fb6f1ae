//! A MySQL front inside the test's own process, before a private server: what it tells replication can be seen.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use mysql_async::{Opts, OptsBuilder};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, UnixListener},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use towline::{
    classify::SqlClassifier,
    frontend::mysql::{Limits, Listeners, MySqlFront, Networks, SessionCount, serve},
    keepalive::Keepalive,
    upstream::{Endpoint, Killer, LoginKey},
};
use towline_middleware::{
    Acknowledgement, BoxFuture, Classifier, Position, Replication, Role, Stack,
    layers::{fan_out::FanOutLayer, guard::GuardLayer, user::UserLayers},
};

use super::{TestServer, wire_client::Target};

/// Remembers the GTIDs that the fan-out layer asked about.
#[derive(Debug, Default)]
pub(crate) struct SeenCommits(Mutex<Vec<String>>);

impl SeenCommits {
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Replication for SeenCommits {
    fn position_of(&self, gtid: &str) -> Option<Position> {
        self.0.lock().unwrap().push(gtid.to_owned());
        None
    }

    fn waits(&self) -> bool {
        false
    }

    fn known(&self) -> Position {
        Position::default()
    }

    fn acknowledged(&self, _: Position, _: Position) -> BoxFuture<'_, Acknowledgement> {
        Box::pin(async { Acknowledgement::Given })
    }

    fn misclassified(&self, key: u64) {
        panic!("a statement taken for a read has committed (key {key:x})");
    }

    fn unlogged_write(&self) {}
}

#[derive(Debug)]
pub(crate) struct TestFront {
    pub(crate) addr: SocketAddr,
    pub(crate) seen: Arc<SeenCommits>,
    pub(crate) stop: CancellationToken,
    pub(crate) sessions: SessionCount,
    pub(crate) serving: JoinHandle<()>,
    folder: TempDir,
}

impl TestFront {
    /// A front as a node of this role has it.
    pub(crate) async fn start(role: Role, server: &TestServer) -> Self {
        Self::start_with(role, server, Arc::new(SqlClassifier::new()), |_| {}).await
    }

    /// The same with another classifier and other settings.
    pub(crate) async fn start_with(
        role: Role,
        server: &TestServer,
        classifier: Arc<dyn Classifier>,
        change: impl FnOnce(&mut MySqlFront),
    ) -> Self {
        let endpoint = Endpoint::unix(server.managed().socket());
        Self::before(role, endpoint, server.opts(), classifier, change).await
    }

    /// A front with a slave's guard and nothing behind it: its sessions and its server are a master's, and may write.
    pub(crate) async fn guarded_only(server: &TestServer) -> Self {
        let endpoint = Endpoint::unix(server.managed().socket());
        let classifier = Arc::new(SqlClassifier::for_server("10.11.19-MariaDB"));
        Self::with_guard(Role::Slave, Role::Master, endpoint, server.opts(), classifier, |_| {}).await
    }

    /// A front before whatever listens there; by `opts` its administrator logs in.
    pub(crate) async fn before(
        role: Role,
        endpoint: Endpoint,
        opts: Opts,
        classifier: Arc<dyn Classifier>,
        change: impl FnOnce(&mut MySqlFront),
    ) -> Self {
        Self::with_guard(role, role, endpoint, opts, classifier, change).await
    }

    async fn with_guard(
        guard: Role,
        role: Role,
        endpoint: Endpoint,
        opts: Opts,
        classifier: Arc<dyn Classifier>,
        change: impl FnOnce(&mut MySqlFront),
    ) -> Self {
        let seen = Arc::new(SeenCommits::default());
        let limits = Limits {
            connections_max: 50,
            handshake_timeout: Duration::from_secs(10),
            packet_bytes_max: 64 << 20,
            idle_timeout: Duration::from_secs(600),
            write_timeout: Duration::from_secs(60),
            keepalive: Keepalive::new(Duration::from_secs(60)),
            shutdown_grace: Duration::from_secs(10),
        };
        let mut front = MySqlFront {
            role,
            endpoint,
            stack: Stack {
                trace: Default::default(),
                admission: Default::default(),
                classify: Default::default(),
                user: UserLayers::new([]),
                guard: GuardLayer::new(guard),
                fan_out: match guard {
                    Role::Master => FanOutLayer::master(seen.clone()),
                    Role::Slave => FanOutLayer::slave(),
                },
            },
            classifier,
            killer: Killer::start(opts),
            local_infile: true,
            tls: None,
            tls_required: false,
            login_key: LoginKey::default(),
            proxies: Networks::default(),
            limits,
        };
        change(&mut front);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let (stop, sessions) = (CancellationToken::new(), SessionCount::default());
        let folder = tempfile::tempdir().expect("a temporary folder");
        let unix = UnixListener::bind(folder.path().join("front.sock")).expect("a socket");
        let listeners = Listeners { tcp: listener, unix: Some(unix) };
        let serving = tokio::spawn(serve(listeners, Arc::new(front), sessions.clone(), stop.clone()));
        Self { addr, seen, stop, sessions, serving, folder }
    }

    /// Where clients on this machine connect.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("front.sock")
    }

    /// How a driver logs in over TCP.
    pub(crate) fn opts(&self, user: &str, password: &str) -> OptsBuilder {
        let opts = OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(self.addr.port());
        opts.prefer_socket(false).user(Some(user)).pass(Some(password))
    }

    pub(crate) fn target(&self) -> Target {
        Target::Front(self.addr)
    }
}

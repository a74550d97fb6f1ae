//! An HTTP front inside the test's own process, before a private server.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use towline::{
    classify::SqlClassifier,
    config::{Ack, AckOnTimeout, Config},
    frontend::{
        http::{HttpFront, HttpOptions, HttpState, NodeReplication, Routes, SessionParts, serve},
        mysql::SessionCount,
    },
    node::Reload,
    replication::{
        apply::{Applier, ApplyOptions},
        hub::{Hub, HubOptions},
    },
    upstream::Endpoint,
};
use towline_middleware::{
    ChangeFeed, Classifier, LayerHome, Registry, Role, Stack,
    layers::{admission::AdmissionLayer, fan_out::FanOutLayer, guard::GuardLayer, user::UserLayers},
};

use super::{TestServer, eventually};

/// The account of these tests.
pub(crate) const APP: (&str, &str) = ("app", "secret");

/// A front and a client for it.
#[derive(Debug)]
pub(crate) struct TestHttp {
    pub(crate) addr: SocketAddr,
    pub(crate) stop: CancellationToken,
    pub(crate) serving: JoinHandle<()>,
    pub(crate) admission: AdmissionLayer,
    client: reqwest::Client,
    path: &'static str,
}

/// An answer's status and body.
pub(crate) type Answer = (StatusCode, Value);

impl TestHttp {
    /// The front of a master whose server has the account [`APP`] and the schema `shop`.
    pub(crate) async fn master() -> (TestServer, Self) {
        Self::start(Role::Master, |_| {}).await
    }

    /// The same with another role and other options.
    pub(crate) async fn start(role: Role, change: impl FnOnce(&mut HttpOptions)) -> (TestServer, Self) {
        let server = TestServer::start(role).await;
        server
            .run(&[
                "CREATE USER app@'%' IDENTIFIED BY 'secret'",
                "GRANT ALL ON *.* TO app@'%'",
                "CREATE DATABASE shop",
                "CREATE TABLE shop.item (id INT PRIMARY KEY AUTO_INCREMENT, name VARCHAR(50), price DECIMAL(10,2))",
                "INSERT INTO shop.item (name, price) VALUES ('lamp', 9.90), ('chair', NULL)",
            ])
            .await;
        let front = Self::before(role, &server, change).await;
        if role == Role::Master {
            front.ready().await;
        }
        (server, front)
    }

    /// A front before a server that is there already.
    pub(crate) async fn before(role: Role, server: &TestServer, change: impl FnOnce(&mut HttpOptions)) -> Self {
        Self::with_guard(role, role, server, change).await
    }

    /// A front with a slave's guard and nothing behind it: its sessions and its server are a master's, and may write.
    pub(crate) async fn guarded_only(server: &TestServer) -> Self {
        Self::with_guard(Role::Slave, Role::Master, server, |_| {}).await
    }

    async fn with_guard(guard: Role, role: Role, server: &TestServer, change: impl FnOnce(&mut HttpOptions)) -> Self {
        let mut options = HttpOptions::default();
        change(&mut options);
        let classifier: Arc<dyn Classifier> = Arc::new(SqlClassifier::new());
        let replication = replication(role, server, &classifier);
        let fan_out = match &replication {
            NodeReplication::Master(hub) => FanOutLayer::master(Arc::new(hub.clone())),
            NodeReplication::Slave(_) => FanOutLayer::slave(),
        };
        let admission = AdmissionLayer::default();
        let stack = Stack {
            trace: Default::default(),
            admission: admission.clone(),
            classify: Default::default(),
            user: UserLayers::new([]),
            guard: GuardLayer::new(guard),
            fan_out,
        };
        let endpoint = Endpoint::unix(server.managed().socket());
        let state = HttpState {
            sessions: SessionParts { role, endpoint, stack, classifier },
            replication,
            mysql: server.opts(),
            mysql_front: (SocketAddr::from(([127, 0, 0, 1], 4306)), SessionCount::default()),
            options,
            reload: Reload::new(Config::default(), Registry::default(), LayerHome::new(role), None),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let stop = CancellationToken::new();
        let front = HttpFront::new(state).expect("random numbers");
        let serving = tokio::spawn(serve(listener, front, Routes::All, stop.clone()));
        let path = if role == Role::Master { "/master" } else { "/slave" };
        Self { addr, stop, serving, admission, client: reqwest::Client::new(), path }
    }

    /// Waits until the node says that it is ready.
    pub(crate) async fn ready(&self) {
        eventually("a node that is ready", async || match answer(self.bare(Method::GET, "/readyz")).await {
            (StatusCode::OK, _) => Ok(()),
            other => Err(other),
        })
        .await;
    }

    /// A request without credentials.
    pub(crate) fn bare(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.addr)).timeout(Duration::from_secs(60))
    }

    /// A request of [`APP`] to the path for commands.
    pub(crate) fn request(&self, method: Method, parameters: &str) -> RequestBuilder {
        self.bare(method, &format!("{}{parameters}", self.path)).basic_auth(APP.0, Some(APP.1))
    }

    /// Posts a command as [`APP`].
    pub(crate) async fn post(&self, command: Value) -> Answer {
        answer(self.request(Method::POST, "").json(&command)).await
    }

    /// Posts a command that must succeed.
    pub(crate) async fn run(&self, command: Value) -> Value {
        let (status, body) = self.post(command.clone()).await;
        assert_eq!(status, StatusCode::OK, "{command}: {body}");
        body
    }

    /// The rows of one statement.
    pub(crate) async fn rows(&self, sql: &str) -> Value {
        self.run(serde_json::json!({"action": "query", "sql": sql})).await["rows"].clone()
    }
}

/// Sends a request and reads its JSON answer.
pub(crate) async fn answer(request: RequestBuilder) -> Answer {
    let response = request.send().await.expect("an answer");
    let status = response.status();
    let text = response.text().await.expect("a whole answer");
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

fn replication(role: Role, server: &TestServer, classifier: &Arc<dyn Classifier>) -> NodeReplication {
    if role == Role::Slave {
        return NodeReplication::Slave(Applier::start(ApplyOptions::new(server.opts())));
    }
    let options = HubOptions {
        mysql: server.opts(),
        secret: None,
        slaves: Vec::new(),
        ack: Ack::None,
        ack_timeout: Duration::from_secs(1),
        ack_on_timeout: AckOnTimeout::Warning,
        ring_bytes_max: 1 << 20,
        batch_bytes_max: 1 << 20,
        batch_transactions_max: 100,
        transaction_bytes_max: 16 << 20,
        push_timeout: Duration::from_secs(5),
        outlook_interval: Duration::from_secs(10),
        verify_interval: None,
        verify_stops_slave: false,
        classifier: classifier.clone(),
        changes: ChangeFeed::default(),
    };
    NodeReplication::Master(Hub::start(options).expect("a hub"))
}

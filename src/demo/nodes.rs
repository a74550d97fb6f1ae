//! The nodes of a demo: their configuration, start and end.

use std::{net::TcpListener, path::Path};

use futures_util::future::{join_all, select_all};
use mysql_async::{Conn, OptsBuilder, prelude::Queryable};
use toml::{Table, Value};
use towline_middleware::Role;

use super::{
    DemoError, DemoOptions, NodeProcess, NodeSpec,
    clients::{MysqlClient, login_until},
    narration::Narration,
};
use crate::{managed, node::Ready};

/// The account that everything in the demo is done with.
pub(super) const ACCOUNT: &str = "demo";

/// What makes the account. It may do everything but write to Towline's own schema, and to the server's: rows changed
/// in there by hand can't be replicated. Of two rows that match a schema, the server takes the one without wildcards.
const MAKE_ACCOUNT: [&str; 4] = [
    "CREATE USER IF NOT EXISTS demo@'%' IDENTIFIED BY 'demo'",
    "GRANT ALL ON `%`.* TO demo@'%'",
    "GRANT SELECT ON towline.* TO demo@'%'",
    "GRANT SELECT ON mysql.* TO demo@'%'",
];

/// A master and its slaves.
pub(super) struct Nodes {
    specs: Vec<NodeSpec>,
    /// In the order of the specifications, the master first; empty until they are started.
    running: Vec<RunningNode>,
}

/// A node that serves.
pub(super) struct RunningNode {
    process: NodeProcess,
    ready: Option<Ready>,
}

impl Nodes {
    /// Chooses names, ports and folders; nothing runs yet.
    pub(super) fn prepare(options: &DemoOptions, folder: &Path) -> Result<Self, DemoError> {
        let count = usize::from(options.slaves.get()) + 1;
        let http = ports("--http-port", options.http_port, count)?;
        let mysql = ports("--mysql-port", options.mysql_port, count)?;
        let program = std::env::current_exe().map_err(DemoError::io("find", "the program itself"))?;
        let slaves: Vec<Value> = http[1..].iter().map(|port| format!("http://127.0.0.1:{port}").into()).collect();
        let specs = (0..count).map(|number| {
            let mut config = Table::new();
            config.insert(
                "http".to_owned(),
                table([
                    ("listen", format!("127.0.0.1:{}", http[number]).into()),
                    ("anonymous_as", table([("user", ACCOUNT.into()), ("password", ACCOUNT.into())])),
                ]),
            );
            config.insert("mysql_front".to_owned(), table([("listen", format!("127.0.0.1:{}", mysql[number]).into())]));
            let (name, role) = if number == 0 {
                config.insert("cluster".to_owned(), table([("slaves", slaves.clone().into())]));
                ("master".to_owned(), Role::Master)
            } else {
                (format!("slave-{number}"), Role::Slave)
            };
            NodeSpec { program: program.clone(), folder: folder.join(&name), name, role, config, variables: Vec::new() }
        });
        Ok(Self { specs: specs.collect(), running: Vec::new() })
    }

    /// Starts all at once and waits until each serves.
    pub(super) async fn start(&mut self, narration: &Narration) -> Result<(), DemoError> {
        for spec in &self.specs {
            self.running.push(RunningNode { process: NodeProcess::spawn(spec.clone())?, ready: None });
        }
        let starts = self.running.iter_mut().map(async |node| {
            let step = narration.starting(node.name());
            let ready = node.process.ready().await?;
            step.done(&ready);
            node.ready = Some(ready);
            Ok(())
        });
        join_all(starts).await.into_iter().collect()
    }

    /// Makes the account on the master as its administrator and waits until replication has made it on every slave.
    pub(super) async fn make_account(&self) -> Result<(), DemoError> {
        let opts = managed::login(&self.master().process.spec().data_dir()).map_err(DemoError::Login)?;
        let failed = |statement: &str| {
            let (node, statement) = (self.master().name().to_owned(), statement.to_owned());
            move |source| DemoError::Mysql { node, statement, source }
        };
        let mut connection = Conn::new(opts).await.map_err(failed("(login of the administrator)"))?;
        for statement in MAKE_ACCOUNT {
            connection.query_drop(statement).await.map_err(failed(statement))?;
        }
        connection.disconnect().await.map_err(failed("(farewell)"))?;
        for node in self.all() {
            login_until(node).await?.leave().await?;
        }
        Ok(())
    }

    /// The master.
    pub(super) fn master(&self) -> &RunningNode {
        &self.running[0]
    }

    /// The slaves.
    pub(super) fn slaves(&self) -> &[RunningNode] {
        &self.running[1..]
    }

    /// All, the master first.
    pub(super) fn all(&self) -> &[RunningNode] {
        &self.running
    }

    /// Waits until one ends by itself.
    pub(super) async fn first_to_end(&mut self) -> DemoError {
        let ends = self.running.iter_mut().map(|node| Box::pin(node.process.ended()));
        select_all(ends).await.0
    }

    /// Stops all, the master first so that the slaves get what it still sends.
    pub(super) async fn stop(&mut self) {
        for node in &mut self.running {
            node.process.stop().await;
        }
    }
}

impl RunningNode {
    /// What it is called.
    pub(super) fn name(&self) -> &str {
        &self.process.spec().name
    }

    /// Where it serves. Called only once it has been started.
    pub(super) fn ready(&self) -> &Ready {
        self.ready.as_ref().expect("nodes are shown and asked only after `start`")
    }

    /// Where it answers commands over HTTP.
    pub(super) fn url(&self) -> String {
        format!("http://{}/{}", self.ready().http, self.ready().role)
    }

    /// Its process.
    pub(super) fn process(&self) -> &NodeProcess {
        &self.process
    }

    /// A connection of the demo's account.
    pub(super) async fn login(&self) -> Result<MysqlClient, mysql_async::Error> {
        let address = self.ready().mysql_front;
        let opts = OptsBuilder::default().ip_or_hostname(address.ip().to_string()).tcp_port(address.port());
        // Otherwise the driver asks for the server's own socket and goes past the node.
        let opts = opts.prefer_socket(false).user(Some(ACCOUNT)).pass(Some(ACCOUNT));
        Ok(MysqlClient::new(self.name(), Conn::new(opts).await?))
    }
}

/// So many ports, following the first one, or free ones if it is 0.
fn ports(flag: &'static str, first: u16, count: usize) -> Result<Vec<u16>, DemoError> {
    let listen = |offset: usize| {
        let port = match first {
            0 => 0,
            _ => u16::try_from(usize::from(first) + offset).map_err(|_| DemoError::NoPort { flag, first, count })?,
        };
        let listener =
            TcpListener::bind(("127.0.0.1", port)).and_then(|listener| listener.local_addr().map(|at| (at, listener)));
        listener.map_err(|source| DemoError::Port { flag, port, source })
    };
    // All are held until the last is found, so that none is given twice.
    let listeners = (0..count).map(listen).collect::<Result<Vec<_>, _>>()?;
    Ok(listeners.iter().map(|(address, _)| address.port()).collect())
}

fn table<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Table(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

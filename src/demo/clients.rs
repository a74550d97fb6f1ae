//! The demo's clients: one of the MySQL protocol, one of HTTP.

use std::time::{Duration, Instant};

use mysql_async::{Conn, prelude::Queryable};
use reqwest::{Client, Method};
use serde_json::Value;

use super::{DemoError, nodes::RunningNode};

/// How long replication may take before the demo has failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// How often a condition is looked at.
pub(super) const POLL: Duration = Duration::from_millis(2);

/// A connection to a node by the MySQL protocol.
pub(super) struct MysqlClient {
    node: String,
    connection: Conn,
}

impl MysqlClient {
    pub(super) fn new(node: &str, connection: Conn) -> Self {
        Self { node: node.to_owned(), connection }
    }

    /// Runs a statement.
    pub(super) async fn run(&mut self, statement: &str) -> Result<(), DemoError> {
        self.connection.query_drop(statement).await.map_err(|source| self.failed(statement, source))
    }

    /// The first column of every row, as text.
    pub(super) async fn rows(&mut self, statement: &str) -> Result<Vec<String>, DemoError> {
        self.connection.query(statement).await.map_err(|source| self.failed(statement, source))
    }

    /// The first two columns of the first row, as text.
    pub(super) async fn pair(&mut self, statement: &str) -> Result<Option<(String, Option<String>)>, DemoError> {
        self.connection.query_first(statement).await.map_err(|source| self.failed(statement, source))
    }

    /// The message with which a slave refuses a statement.
    pub(super) async fn refusal(&mut self, statement: &str) -> Result<String, DemoError> {
        match self.connection.query_drop(statement).await {
            Ok(()) => Err(DemoError::NotRefused { node: self.node.clone(), request: statement.to_owned() }),
            Err(mysql_async::Error::Server(error)) => {
                Ok(format!("ERROR {} ({}): {}", error.code, error.state, error.message))
            }
            Err(error) => Err(self.failed(statement, error)),
        }
    }

    /// Says farewell.
    pub(super) async fn leave(self) -> Result<(), DemoError> {
        let node = self.node;
        self.connection.disconnect().await.map_err(|source| DemoError::Mysql {
            node,
            statement: "(farewell)".to_owned(),
            source,
        })
    }

    fn failed(&self, statement: &str, source: mysql_async::Error) -> DemoError {
        DemoError::Mysql { node: self.node.clone(), statement: statement.to_owned(), source }
    }
}

/// Logs in as soon as the account has arrived.
pub(super) async fn login_until(node: &RunningNode) -> Result<MysqlClient, DemoError> {
    let start = Instant::now();
    loop {
        match node.login().await {
            Ok(client) => return Ok(client),
            Err(_) if start.elapsed() < PATIENCE => tokio::time::sleep(POLL).await,
            Err(source) => {
                let (node, statement) = (node.name().to_owned(), "(login of the account `demo`)".to_owned());
                return Err(DemoError::Mysql { node, statement, source });
            }
        }
    }
}

/// Asks a node over HTTP and takes the answer if it has the status that is due.
pub(super) async fn http(
    client: &Client,
    node: &RunningNode,
    (method, url): (Method, String),
    body: Option<&Value>,
    wanted: u16,
) -> Result<Value, DemoError> {
    let request = format!("{method} {url}{}", body.map(|body| format!(" {body}")).unwrap_or_default());
    let failed = |source| DemoError::Http { node: node.name().to_owned(), request: request.clone(), source };
    let mut builder = client.request(method, &url);
    if let Some(body) = body {
        builder = builder.json(body);
    }
    let answer = builder.send().await.map_err(failed)?;
    let status = answer.status().as_u16();
    let body = answer.text().await.map_err(failed)?;
    match serde_json::from_str(&body) {
        Ok(value) if status == wanted => Ok(value),
        Ok(_) | Err(_) => Err(DemoError::Status { node: node.name().to_owned(), request, wanted, status, body }),
    }
}

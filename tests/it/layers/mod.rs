//! The layers that come with a node, before a real server and through both fronts.

mod cache;
mod cached_sessions;
mod contract;
mod evasions;
mod idempotency;
mod limited;
mod mirror;
mod reload;
mod shipped;
mod sysbench;
mod tenant;
mod together;

use mysql_async::{Conn, prelude::Queryable};
use reqwest::StatusCode;
use serde_json::{Value, json};
use towline_middleware::Role;

use crate::support::{TestNode, eventually, http::answer};

/// The account of these tests.
const APP: (&str, &str) = ("app", "secret");

/// A master with these `[[layer]]` blocks, the account [`APP`], and a schema with two tables.
async fn master(layers: &str) -> TestNode {
    let node = TestNode::start("master", Role::Master, layers).await;
    let mut server = Conn::new(node.server_opts()).await.unwrap();
    for statement in [
        "CREATE USER app@'%' IDENTIFIED BY 'secret'",
        "GRANT ALL ON *.* TO app@'%'",
        "CREATE DATABASE shop",
        "CREATE TABLE shop.item (id INT PRIMARY KEY, name VARCHAR(40), n INT)",
        "CREATE TABLE shop.secret (id INT PRIMARY KEY)",
        "INSERT INTO shop.item VALUES (1, 'lamp', 0), (2, 'chair', 0)",
    ] {
        server.query_drop(statement).await.unwrap();
    }
    server.disconnect().await.unwrap();
    node
}

async fn client(node: &TestNode) -> Conn {
    node.connect(APP.0, APP.1).await.unwrap_or_else(|error| panic!("{error}; {}", node.log()))
}

/// Has the node read its file again.
async fn reload(node: &TestNode) -> (StatusCode, Value) {
    answer(node.admin("/admin/reload")).await
}

/// Runs SQL over HTTP.
async fn http(node: &TestNode, sql: &str, params: Value) -> (StatusCode, Value) {
    let command = json!({"action": "query", "sql": sql, "params": params});
    let url = node.url(if node.is_slave() { "/slave" } else { "/master" });
    answer(reqwest::Client::new().post(url).basic_auth(APP.0, Some(APP.1)).json(&command)).await
}

/// The number of the server's error, if it is one.
fn code<T>(result: Result<T, mysql_async::Error>) -> Option<u16> {
    match result {
        Err(mysql_async::Error::Server(error)) => Some(error.code),
        Err(error) => panic!("{error}"),
        Ok(_) => None,
    }
}

/// The value of a figure on the page of metrics.
async fn figure(node: &TestNode, name: &str) -> u64 {
    let page = reqwest::get(node.url("/metrics")).await.unwrap().text().await.unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} is not in\n{page}")).parse().unwrap()
}

/// Waits until the server works on one command with a text like this.
async fn until_it_runs(server: &mut Conn, like: &str) {
    eventually("the server works on it", async || {
        let sql = "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE ?";
        match server.exec_first::<u64, _, _>(sql, (like,)).await.unwrap() {
            Some(1) => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

//! What a layer of anybody's may do, before a real server.

use std::{sync::Arc, time::Duration};

use mysql_async::{Conn, prelude::Queryable};
use towline::classify::SqlClassifier;
use towline_middleware::{
    Command, CommandKind, Error, Next, Reply, Role, UserLayer, from_fn,
    layers::user::UserLayers,
    rows::{Column, ResultSet},
};

use super::{APP, code};
use crate::support::{TestServer, front::TestFront};

async fn start(role: Role, layer: impl UserLayer + 'static) -> (TestServer, TestFront) {
    let server = TestServer::start(role).await;
    server
        .run(&[
            "SET sql_log_bin = 0",
            "CREATE USER app@'%' IDENTIFIED BY 'secret'",
            "GRANT ALL ON *.* TO app@'%'",
            "CREATE DATABASE shop",
            "CREATE TABLE shop.item (id INT PRIMARY KEY, name VARCHAR(40), at DATETIME(3), price DECIMAL(10,2), b BLOB)",
            "INSERT INTO shop.item VALUES (1, 'lamp', '2026-01-02 03:04:05.678', 9.90, x'00ff'), (2, NULL, NULL, NULL, NULL)",
        ])
        .await;
    let layers = UserLayers::new([("tested".to_owned(), Arc::new(layer) as Arc<dyn UserLayer>)]);
    let classifier = Arc::new(SqlClassifier::new());
    let front = TestFront::start_with(role, &server, classifier, |front| front.stack.user = layers).await;
    (server, front)
}

async fn connect(front: &TestFront) -> Conn {
    Conn::new(front.opts(APP.0, APP.1)).await.unwrap()
}

/// What the client asked is looked for in comments, which only the layer understands.
fn asks(command: &Command, word: &str) -> bool {
    command.kind() == CommandKind::Query && String::from_utf8_lossy(command.sql()).contains(word)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_asks_rewrites_and_answers_on_the_session_of_its_client() {
    let layer = from_fn(async |mut command: Command, next: Next| {
        if asks(&command, "whoami") {
            let ask = Command::query(command.session(), "SELECT CURRENT_USER(), CONNECTION_ID()");
            let found = next.run(ask.clone()).await?.collect(&ask, 1024).await?;
            let result = ResultSet::new([Column::text("who"), Column::unsigned("connection")]);
            let reply = result.row(found.rows.into_iter().next().unwrap_or_default()).reply(&command);
            return Ok(reply.expect("an account is text, and an id a number"));
        }
        if asks(&command, "become a write") {
            assert!(command.rewrite("DELETE FROM shop.item"));
        }
        next.run(command).await
    });
    let (_server, front) = start(Role::Slave, layer).await;
    let mut conn = connect(&front).await;
    let connection: Option<u64> = conn.query_first("SELECT CONNECTION_ID()").await.unwrap();
    let who: Option<(String, u64)> = conn.query_first("whoami").await.unwrap();
    assert_eq!(who, Some(("app@%".to_owned(), connection.unwrap())));
    assert_eq!(code(conn.query_drop("SELECT 'become a write'").await), Some(1290));
    assert_eq!(conn.query_first("SELECT COUNT(*) FROM shop.item").await.unwrap(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_mapped_in_both_forms_and_all_else_keeps_its_bytes() {
    let layer = from_fn(async |command: Command, next: Next| {
        let reply = next.run(command.clone()).await?;
        Ok(reply.map_rows(&command, |row| {
            for index in 0..row.columns().len() {
                if row.columns()[index].original_name == "name" && !row.get(index).is_null() {
                    row.set(index, "another, longer name").expect("text goes where text was");
                }
            }
            Ok(())
        }))
    });
    let (server, front) = start(Role::Master, layer).await;
    let (mut through, mut direct) = (connect(&front).await, server.connect().await);
    let sql = "SELECT id, name, at, price, b FROM shop.item ORDER BY id";
    type Item = (i64, Option<String>, mysql_async::Value, Option<String>, Option<Vec<u8>>);
    let expected = |mut rows: Vec<Item>| {
        rows[0].1 = Some("another, longer name".to_owned());
        rows
    };
    assert_eq!(through.query::<Item, _>(sql).await.unwrap(), expected(direct.query(sql).await.unwrap()));
    assert_eq!(through.exec::<Item, _, _>(sql, ()).await.unwrap(), expected(direct.exec(sql, ()).await.unwrap()));
    let many = "SELECT seq, REPEAT('x', 300) FROM shop.item JOIN shop.seq_1_to_2000 WHERE id = 1 ORDER BY seq";
    let rows: Vec<(u64, String)> = through.query(many).await.unwrap();
    assert_eq!(rows, direct.query::<(u64, String), _>(many).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_seen_with_their_types() {
    let layer = from_fn(async |command: Command, next: Next| match command.parameters() {
        Some(values) if values.iter().any(|value| value.to_text() == "secret") => {
            let text = values.iter().map(|value| value.to_sql()).collect::<Vec<_>>().join(", ");
            Ok(Reply::err(towline_middleware::ServerError::refused(text)))
        }
        _ => next.run(command).await,
    });
    let (_server, front) = start(Role::Master, layer).await;
    let mut conn = connect(&front).await;
    let statement = conn.prep("SELECT ?, ?, ?, ?").await.unwrap();
    conn.exec_drop(&statement, (1, 2.5, "harmless", None::<i64>)).await.unwrap();
    // The driver may name the types once only: a refusal must not keep them from the server.
    for _ in 0..2 {
        let refusal = conn.exec_drop(&statement, (-1, 2.5, "secret", None::<i64>)).await.unwrap_err();
        assert!(refusal.to_string().contains("-1, 2.5, x'736563726574', NULL"), "{refusal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_is_not_read_to_its_end_never_becomes_the_next_commands() {
    let layer = from_fn(async |command: Command, next: Next| {
        if asks(&command, "two at once") {
            let ask = Command::query(command.session(), "SELECT REPEAT('x', 1000) FROM shop.seq_1_to_1000");
            let unread = next.run(ask).await?;
            let second = next.run(command).await;
            drop(unread);
            return second;
        }
        if asks(&command, "given up") {
            let given_up = tokio::time::timeout(Duration::from_millis(50), next.run(command.clone())).await;
            assert!(given_up.is_err(), "the server sleeps");
            return Ok(Reply::ok(Default::default()));
        }
        next.run(command).await
    });
    let (_server, front) = start(Role::Master, layer).await;
    let mut conn = connect(&front).await;
    conn.query_drop("USE shop").await.unwrap();
    assert_eq!(code(conn.query_drop("SELECT 'two at once'").await), Some(2014));
    assert!(conn.query_drop("SELECT 'next'").await.is_err(), "the session must end");
    let mut conn = connect(&front).await;
    conn.query_drop("SELECT SLEEP(1) /* given up */").await.unwrap();
    let next: Result<Option<String>, _> = conn.query_first("SELECT 'next'").await;
    assert!(next.is_err(), "the session must end: {next:?}");
}

/// Errors of layers stay errors of their session alone.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_ends_its_own_session_only() {
    let layer = from_fn(async |command: Command, next: Next| {
        if asks(&command, "fail") {
            return Err(Error::Layer { layer: "tested", source: "on purpose".into() });
        }
        next.run(command).await
    });
    let (_server, front) = start(Role::Master, layer).await;
    let (mut failing, mut other) = (connect(&front).await, connect(&front).await);
    assert_eq!(code(failing.query_drop("SELECT 'fail'").await), Some(1105));
    assert!(failing.query_drop("SELECT 1").await.is_err());
    other.query_drop("SELECT 1").await.unwrap();
}

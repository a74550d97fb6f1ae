//! What a layer of anybody's may do, before a real server.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use mysql_async::{Conn, prelude::Queryable};
use towline::classify::SqlClassifier;
use towline_middleware::{
    Command, CommandKind, Error, Next, Reply, Role, UserLayer, from_fn,
    layers::user::{Generation, UserLayers},
    rows::{Collected, Column, ResultSet, Value},
};

use super::{APP, code};
use crate::support::{
    TestServer,
    front::TestFront,
    wire_client::{MODERN, OLD, Target, WireClient},
};

async fn start(role: Role, layer: impl UserLayer + 'static) -> (TestServer, TestFront) {
    start_with(role, UserLayers::new([placed(layer)])).await
}

fn placed(layer: impl UserLayer + 'static) -> (String, Arc<dyn UserLayer>) {
    ("tested".to_owned(), Arc::new(layer))
}

async fn start_with(role: Role, layers: UserLayers) -> (TestServer, TestFront) {
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

/// Opens a cursor over the items, and returns its statement's id.
async fn open_cursor(client: &mut WireClient) -> Vec<u8> {
    let prepared = client.command(b"\x16SELECT id, name FROM item ORDER BY id").await;
    let id = prepared[0].payload[1..5].to_vec();
    // The byte behind the id asks for a cursor.
    let opened = client.command(&[&b"\x17"[..], &id, &[1, 1, 0, 0, 0]].concat()).await;
    assert!(opened.iter().all(|packet| packet.error_code().is_none()), "{opened:?}");
    id
}

fn fetch(id: &[u8]) -> Vec<u8> {
    [&b"\x1c"[..], id, &1u32.to_le_bytes()].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_cursor_are_mapped_and_lists_of_columns_pass() {
    let mapping = || {
        from_fn(async |command: Command, next: Next| {
            let reply = next.run(command.clone()).await?;
            Ok(reply.map_rows(&command, |row| {
                if row.columns().len() == 2 && !row.get(1).is_null() {
                    row.set(1, "mapped").expect("text goes where text was");
                }
                Ok(())
            }))
        })
    };
    let layers = UserLayers::default();
    let (server, front) = start_with(Role::Master, layers.clone()).await;
    let direct = Target::Server(server.managed().socket().to_owned());
    let columns = WireClient::connect(&direct, MODERN, APP, "shop").await.command(b"\x04item\0").await;
    let mut early = WireClient::connect(&front.target(), MODERN, APP, "shop").await;
    let of_early = open_cursor(&mut early).await;
    layers.replace(Generation::of([placed(mapping())])).await.unwrap();
    for capabilities in [MODERN, OLD] {
        let mut client = WireClient::connect(&front.target(), capabilities, APP, "shop").await;
        let id = open_cursor(&mut client).await;
        // A byte, the map of NULLs, the id, and the name with its length.
        for row in [&b"\0\0\x01\0\0\0\x06mapped"[..], b"\0\x08\x02\0\0\0"] {
            let fetched = client.command(&fetch(&id)).await;
            assert_eq!((fetched.len(), &fetched[0].payload[..]), (2, row), "{fetched:?}");
        }
        if capabilities == MODERN {
            assert_eq!(client.command(b"\x04item\0").await, columns);
        }
        client.run("SELECT 1").await;
    }
    // Its columns came before the layer: it can't tell what to map, and nothing passes unmapped.
    let refused = early.command(&fetch(&of_early)).await;
    assert_eq!((refused.len(), refused[0].error_code()), (1, Some(1105)), "{refused:?}");
    let id = open_cursor(&mut early).await;
    assert!(early.command(&fetch(&id)).await[0].payload.ends_with(b"mapped"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_cursor_and_lists_of_columns_are_collected() {
    let collected: Arc<Mutex<Vec<Collected>>> = Arc::default();
    let seen = collected.clone();
    let layer = from_fn(move |command: Command, next: Next| {
        let seen = seen.clone();
        async move {
            let reply = next.run(command.clone()).await?;
            if !matches!(command.kind(), CommandKind::Fetch | CommandKind::FieldList) {
                return Ok(reply);
            }
            let answer = reply.collect(&command, 4096).await?;
            seen.lock().unwrap().push(answer);
            Ok(Reply::ok(Default::default()))
        }
    });
    let (_server, front) = start(Role::Master, layer).await;
    let mut client = WireClient::connect(&front.target(), MODERN, APP, "shop").await;
    let id = open_cursor(&mut client).await;
    client.command(&fetch(&id)).await;
    client.command(b"\x04item\0").await;
    let collected = collected.lock().unwrap();
    assert_eq!(collected[0].rows, [vec![Value::Integer(1), "lamp".into()]]);
    let names: Vec<_> = collected[1].columns.iter().map(|column| &*column.name).collect();
    assert_eq!((names, collected[1].rows.len()), (vec!["id", "name", "at", "price", "b"], 0));
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

//! All layers in one stack, under a load of the shape of sysbench's oltp_read_write.

use std::sync::Arc;

use mysql_async::{Conn, TxOpts, prelude::Queryable};
use reqwest::StatusCode;
use serde_json::{Value, json};
use towline_middleware::Role;

use super::{figure, reload};
use crate::support::{TestNode, eventually, http::answer};

const CLIENTS: i64 = 4;
const TRANSACTIONS: i64 = 60;
/// Rows of each tenant.
const ROWS: i64 = 400;

/// Every layer, each with something to do.
const LAYERS: &str = "
[[layer]]
name = 'audit'
file = 'audit.log'
[[layer]]
name = 'slow_log'
threshold_ms = 10000
[[layer]]
name = 'rules'
rule = [{ table = 'sb.secret', action = 'deny' }, { intent = 'write', action = 'label', label = 'writes' }]
[[layer]]
name = 'limit'
limit = [{ by = 'user', running_max = 2, waiting_max = 100, wait_ms = 60000 }]
[[layer]]
name = 'mask'
column = [
    { column = 'sb.person.name', with = '***' },
    { column = 'sb.sbtest1.c', users = ['masked'], with = '***' },
]
[[layer]]
name = 'tenant'
tables = ['sb.sbtest1', 'sb.person']
tenant = [{ user = 'a', value = 'a' }, { user = 'b', value = 'b' }, { user = 'masked', value = 'a' }]
[[layer]]
name = 'cache'
[[layer]]
name = 'mirror'
url = 'SECOND'
[[layer]]
name = 'idempotency'
[[layer]]
name = 'timeout'
read_ms = 60000
write_ms = 60000
";

/// Makes the schema and the accounts, and so many rows of each tenant.
pub(super) async fn make_tables(node: &TestNode, rows: [(&str, i64); 2]) {
    let mut server = Conn::new(node.server_opts()).await.unwrap();
    for statement in [
        "CREATE DATABASE sb",
        "CREATE TABLE sb.person (id INT PRIMARY KEY, tenant_id VARCHAR(9), name VARCHAR(20))",
        "INSERT INTO sb.person VALUES (1, 'a', 'Alma'), (2, 'b', 'Berta')",
        "CREATE TABLE sb.sbtest1 (id INT, tenant_id VARCHAR(9), k INT NOT NULL, c CHAR(120) NOT NULL, pad CHAR(60) NOT NULL, \
         PRIMARY KEY (tenant_id, id), KEY (k))",
        "CREATE USER reader@'%' IDENTIFIED BY 'reader'",
        "GRANT SELECT ON *.* TO reader@'%'",
    ] {
        server.query_drop(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    for user in ["a", "b", "masked"] {
        server.query_drop(format!("CREATE USER {user}@'%' IDENTIFIED BY 'secret'")).await.unwrap();
        server.query_drop(format!("GRANT ALL ON sb.* TO {user}@'%'")).await.unwrap();
    }
    for (tenant, rows) in rows {
        let from = format!("SELECT seq, '{tenant}', seq, REPEAT('c', 120), 'pad' FROM sb.seq_0_to_{}", rows - 1);
        server.query_drop(format!("INSERT INTO sb.sbtest1 (id, tenant_id, k, c, pad) {from}")).await.unwrap();
    }
}

/// Puts all layers into the node's stack. The second server of `mirror` is the node's own.
pub(super) async fn put_in_all(node: &TestNode) {
    let opts = node.server_opts();
    let socket = opts.socket().expect("a private server has a socket").replace('/', "%2F");
    node.write_layers(&LAYERS.replace("SECOND", &format!("mysql://reader:reader@localhost/?socket={socket}")));
    let (status, body) = reload(node).await;
    assert!(status.is_success(), "{body}");
    assert_eq!(body["layers"].as_array().map(Vec::len), Some(towline::layers::SHIPPED.len()), "{body}");
}

/// One client's transactions, on rows of its own, as text or prepared. What it writes it reads again.
async fn client(node: Arc<TestNode>, user: &'static str, number: i64, prepared: bool) {
    let mut conn = node.connect(user, "secret").await.unwrap_or_else(|error| panic!("{error}; {}", node.log()));
    conn.query_drop("USE sb").await.unwrap();
    for round in 0..TRANSACTIONS {
        // Each client changes every so many-th row, and reads all.
        let id = (round * CLIENTS) % ROWS / CLIENTS * CLIENTS + number;
        let read = "SELECT c FROM sbtest1 WHERE id = ";
        match prepared {
            true => conn.exec_drop(format!("{read}?"), (round,)).await.unwrap(),
            false => conn.query_drop(format!("{read}{round}")).await.unwrap(),
        }
        let mut transaction = conn.start_transaction(TxOpts::default()).await.unwrap();
        for sql in [
            format!("SELECT c FROM sbtest1 WHERE id BETWEEN {round} AND {}", round + 99),
            format!("SELECT SUM(k) FROM sbtest1 WHERE id BETWEEN {round} AND {}", round + 99),
            format!("SELECT c FROM sbtest1 WHERE id BETWEEN {round} AND {} ORDER BY c", round + 99),
            format!("SELECT DISTINCT c FROM sbtest1 WHERE id BETWEEN {round} AND {} ORDER BY c", round + 99),
        ] {
            transaction.query_drop(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
        if prepared {
            transaction.exec_drop("UPDATE sbtest1 SET k = k + ? WHERE id = ?", (1, id)).await.unwrap();
            transaction.exec_drop("DELETE FROM sbtest1 WHERE id = ?", (id,)).await.unwrap();
            let insert = "INSERT INTO sbtest1 (id, k, c, pad) VALUES (?, ?, ?, ?)";
            transaction.exec_drop(insert, (id, round, "c", user)).await.unwrap();
        } else {
            transaction.query_drop(format!("UPDATE sbtest1 SET c = 'd' WHERE id = {id}")).await.unwrap();
            transaction.query_drop(format!("DELETE FROM sbtest1 WHERE id = {id}")).await.unwrap();
            let insert = format!("INSERT INTO sbtest1 (id, k, c, pad) VALUES ({id}, {round}, 'c', '{user}')");
            transaction.query_drop(insert).await.unwrap();
        }
        transaction.commit().await.unwrap();
        let mut seen: Vec<i64> = conn.query(format!("SELECT k FROM sbtest1 WHERE id = {id}")).await.unwrap();
        assert_eq!(seen.pop(), Some(round), "row {id} of {user}");
        // Twice, with a key: it counts once.
        let add = format!("UPDATE sbtest1 SET k = k + 1 WHERE id = {id} /* idempotency-key: {number}-{round} */");
        for _ in 0..2 {
            conn.query_drop(&add).await.unwrap_or_else(|error| panic!("{add}: {error}"));
        }
        let k: Option<i64> = conn.query_first(format!("SELECT k FROM sbtest1 WHERE id = {id}")).await.unwrap();
        assert_eq!(k, Some(round + 1), "row {id} of {user}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_layers_serve_a_load_without_an_error() {
    let node = Arc::new(TestNode::start("master", Role::Master, "").await);
    make_tables(&node, [("a", ROWS), ("b", ROWS)]).await;
    put_in_all(&node).await;
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        for user in ["a", "b"] {
            clients.push(tokio::spawn(client(node.clone(), user, number, number % 2 == 0)));
        }
    }
    let request = |user: &'static str, key: Option<String>, command: Value| {
        let request = reqwest::Client::new().post(node.url("/master")).basic_auth(user, Some("secret"));
        answer(key.into_iter().fold(request, |request, key| request.header("Idempotency-Key", key)).json(&command))
    };
    let people = json!({"action": "query", "dbname": "sb", "sql": "SELECT id, name FROM person"});
    for round in 0..TRANSACTIONS {
        for (user, id) in [("a", 1), ("b", 2)] {
            let (_, body) = request(user, None, people.clone()).await;
            assert_eq!(body["rows"], json!([[id, "***"]]), "{body}");
            let row = json!({"id": ROWS + round, "k": round, "c": "c", "pad": user});
            let insert = json!({"action": "insert", "dbname": "sb", "table": "sbtest1", "data": row});
            for _ in 0..2 {
                let (status, body) = request(user, Some(format!("http-{round}")), insert.clone()).await;
                assert_eq!((status, &body["affected_rows"]), (StatusCode::OK, &json!(1)), "{body}");
            }
            let sql = "SELECT k FROM sbtest1 WHERE id = ?";
            let read = json!({"action": "query", "dbname": "sb", "sql": sql, "params": [ROWS + round]});
            let (_, body) = request(user, None, read).await;
            assert_eq!(body["rows"], json!([[round]]), "{body}");
        }
    }
    for client in clients {
        client.await.unwrap();
    }
    let mut server = Conn::new(node.server_opts()).await.unwrap();
    let counts: Vec<(String, i64)> =
        server.query("SELECT tenant_id, COUNT(*) FROM sb.sbtest1 GROUP BY tenant_id").await.unwrap();
    assert_eq!(counts, ["a", "b"].map(|tenant| (tenant.to_owned(), ROWS + TRANSACTIONS)));
    let foreign = "SELECT COUNT(*) FROM sb.sbtest1 WHERE pad <> 'pad' AND pad <> tenant_id";
    assert_eq!(server.query_first(foreign).await.unwrap(), Some(0));
    // Under so many writes hardly anything is answered from memory.
    eventually("an answer from memory", async || {
        let (status, body) = request("a", None, people.clone()).await;
        assert!(status.is_success(), "{body}");
        if figure(&node, "towline_layer_cache_hits_total").await > 0 { Ok(()) } else { Err(body) }
    })
    .await;
    assert!(figure(&node, "towline_layer_mirror_compared_total").await > 0);
    assert_eq!(
        figure(&node, "towline_layer_idempotency_repeated_total").await,
        2 * (CLIENTS + 1) as u64 * TRANSACTIONS as u64,
        "{}",
        node.log()
    );
}

//! `http.writes = "forward"`: what a slave sends on to its master, and what it never does.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use mysql_async::{Conn, prelude::Queryable};
use reqwest::{Method, RequestBuilder, StatusCode, header};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use towline_middleware::Role;

use crate::support::{
    CLIENT, TestNode, TestServer, eventually,
    http::{Answer, TestHttp, answer},
};

/// A master, and a slave that sends its HTTP clients' writes there.
struct Pair {
    master: TestNode,
    slave: TestNode,
}

impl Pair {
    async fn start() -> Self {
        let secret = "[cluster]\nsecret = 'a secret of the tests'";
        let master = TestNode::start("master", Role::Master, secret).await;
        let url = master.url("");
        let forward = format!("{secret}\nmaster = '{url}'\n[http]\nwrites = 'forward'\nmaster = '{url}'");
        let slave = TestNode::start("slave-1", Role::Slave, &forward).await;
        let mut server = Conn::new(master.server_opts()).await.unwrap();
        for sql in [
            "CREATE USER app@'%' IDENTIFIED BY 'app'",
            "GRANT ALL ON *.* TO app@'%'",
            "CREATE USER reader@'%' IDENTIFIED BY 'reader'",
            "GRANT SELECT ON *.* TO reader@'%'",
            "CREATE DATABASE shop",
            "CREATE TABLE shop.item (id INT PRIMARY KEY AUTO_INCREMENT, name VARCHAR(50))",
            "INSERT INTO shop.item (name) VALUES ('lamp'), ('chair')",
            "CREATE FUNCTION shop.adds() RETURNS INT NO SQL BEGIN INSERT INTO shop.item (name) VALUES ('f'); RETURN 7; END",
            "CREATE PROCEDURE shop.done() SELECT 1",
        ] {
            server.query_drop(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
        let pair = Self { master, slave };
        // It has fetched a snapshot, of before or behind the statements above.
        eventually("a slave that takes clients", async || {
            match reqwest::get(pair.slave.url("/readyz")).await.map_err(|error| error.to_string())? {
                ready if ready.status() == StatusCode::OK => Ok(()),
                other => Err(other.text().await.unwrap_or_default()),
            }
        })
        .await;
        // Not by an account's session, which would keep the rights that the account had when it began.
        eventually("a slave that has it all", async || {
            let mut server = Conn::new(pair.slave.server_opts()).await.map_err(|error| error.to_string())?;
            server.query_drop("SHOW CREATE PROCEDURE shop.done").await.map_err(|error| error.to_string())
        })
        .await;
        pair
    }

    /// A request of [`CLIENT`] to the slave.
    fn request(&self, method: Method) -> RequestBuilder {
        reqwest::Client::new().request(method, self.slave.url("/slave")).basic_auth(CLIENT.0, Some(CLIENT.1))
    }

    async fn post(&self, command: Value) -> Answer {
        answer(self.request(Method::POST).json(&command)).await
    }

    /// What the master's table holds.
    async fn names(&self) -> Vec<String> {
        let mut server = Conn::new(self.master.server_opts()).await.unwrap();
        server.query("SELECT name FROM shop.item ORDER BY id").await.unwrap()
    }
}

fn item(action: &str, rest: Value) -> Value {
    let mut command = json!({"action": action, "dbname": "shop", "table": "item"});
    command.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    command
}

fn query(sql: &str) -> Value {
    json!({"action": "query", "dbname": "shop", "sql": sql})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_write_is_the_masters_and_can_be_read_back_by_its_position() {
    let pair = Pair::start().await;
    let (status, body) = pair.post(item("insert", json!({"data": {"name": "table"}}))).await;
    assert_eq!((status, &body["affected_rows"], &body["last_insert_id"]), (StatusCode::OK, &json!(1), &json!(3)));
    let written = body["position"].as_str().expect("a position").to_owned();
    eventually("the write on the slave", async || {
        let (_, read) = pair.post(item("select", json!({"attrs": ["name"], "query": {"id": 3}}))).await;
        let at = read["position"].as_str().map(str::to_owned);
        if at.as_deref() == Some(&*written) {
            assert_eq!(read["rows"], json!([["table"]]), "the slave is there, and its row is not");
            return Ok(());
        }
        Err(read)
    })
    .await;

    // Each form of one write; PUT and DELETE bring their actions with them.
    let row = json!({"dbname": "shop", "table": "item", "query": {"id": 3}, "data": {"name": "desk"}});
    let (status, body) = answer(pair.request(Method::PUT).json(&row)).await;
    assert_eq!((status, &body["affected_rows"]), (StatusCode::OK, &json!(1)), "{body}");
    let row = json!({"dbname": "shop", "table": "item", "query": {"id": 1}});
    let (status, body) = answer(pair.request(Method::DELETE).json(&row)).await;
    assert_eq!((status, &body["affected_rows"]), (StatusCode::OK, &json!(1)), "{body}");
    let insert = json!({"action": "query", "sql": "INSERT INTO shop.item (name) VALUES (?)", "params": ["bed"]});
    for command in [insert, query("SELECT adds()"), query("CREATE TABLE other (a INT)"), query("CALL done()")] {
        let (status, body) = pair.post(command.clone()).await;
        assert_eq!(status, StatusCode::OK, "{command}: {body}");
    }
    assert_eq!(pair.names().await, ["chair", "desk", "bed", "f"]);

    // A stream is streamed on.
    let returning = query("INSERT INTO item (name) VALUES ('x'), ('y') RETURNING name");
    let request = pair.request(Method::POST).header(header::ACCEPT, "application/x-ndjson").json(&returning);
    let streamed = request.send().await.unwrap();
    assert_eq!(streamed.headers()[header::CONTENT_TYPE], "application/x-ndjson");
    let text = streamed.text().await.unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(&lines[1..3], [r#"["x"]"#, r#"["y"]"#], "{text}");

    let (_, body) = pair.post(query("EXPLAIN TOWLINE DELETE FROM item")).await;
    assert_eq!((&body["rows"][0][3], &body["rows"][0][4]), (&json!("guard"), &json!("master")), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_masters_word_is_the_answer_and_everything_else_stays_refused() {
    let pair = Pair::start().await;
    // What the master says no to.
    for (command, status, code) in [
        (query("INSERT INTO item (id) VALUES (1)"), StatusCode::CONFLICT, 1062),
        (query("DELETE FROM nowhere"), StatusCode::NOT_FOUND, 1146),
        (query("DELETE FROM item WHERE"), StatusCode::UNPROCESSABLE_ENTITY, 1064),
    ] {
        let (found, body) = pair.post(command.clone()).await;
        assert_eq!((found, &body["error"]["code"]), (status, &json!(code)), "{command}: {body}");
    }
    let delete = query("DELETE FROM item");
    let as_reader = reqwest::Client::new().post(pair.slave.url("/slave")).basic_auth("reader", Some("reader"));
    let (status, body) = answer(as_reader.json(&delete)).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::FORBIDDEN, &json!(1142)), "{body}");
    let wrong = reqwest::Client::new().post(pair.slave.url("/slave")).basic_auth("reader", Some("wrong"));
    assert_eq!(answer(wrong.json(&delete)).await.0, StatusCode::UNAUTHORIZED);

    // What the slave's guard refuses for more than being a write.
    let insert = item("insert", json!({"data": {"name": "x"}}));
    for command in [
        json!([insert]),
        json!([item("select", json!({})), insert]),
        query("SET GLOBAL max_connections = 50"),
        query("SET @a = adds()"),
        query("SET PASSWORD = PASSWORD('x')"),
        query("SET STATEMENT max_statement_time = 1 FOR DELETE FROM item"),
        query("START TRANSACTION READ WRITE"),
        query("KILL 1"),
        query("SHUTDOWN"),
        query("FLUSH TABLES"),
        query("PURGE BINARY LOGS BEFORE NOW()"),
        query("DELETE FROM item; DELETE FROM item"),
        query("SELECT 1; DELETE FROM item"),
        query("BEGIN NOT ATOMIC DELETE FROM item; END"),
        query("FROBNICATE item"),
        query("EXECUTE s"),
        query("PREPARE s FROM 'DELETE FROM item'"),
        query("XA START 'a'"),
        query("SELECT * FROM item FOR UPDATE"),
        query("SELECT * FROM item INTO OUTFILE '/tmp/towline-forwarded'"),
        query("DELETE FROM towline.position"),
        json!({"action": "query", "dbname": "towline", "sql": "DELETE FROM position"}),
    ] {
        let (status, body) = pair.post(command.clone()).await;
        assert_eq!((status, &body["error"]["code"]), (StatusCode::FORBIDDEN, &json!(1290)), "{command}: {body}");
    }
    // A refused write leaves nothing behind that would send the next command on.
    assert_eq!(pair.post(query("SELECT * FROM nowhere")).await.0, StatusCode::NOT_FOUND);
    // One that was forwarded already goes no further.
    let again = pair.request(Method::POST).header("Towline-Forwarded", "1").json(&insert);
    let (status, body) = answer(again).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::MISDIRECTED_REQUEST, &json!(1290)), "{body}");
    // A client of the MySQL protocol is refused as ever.
    let mut client = pair.slave.connect(CLIENT.0, CLIENT.1).await.unwrap();
    match client.query_drop("DELETE FROM shop.item").await {
        Err(mysql_async::Error::Server(error)) => assert_eq!(error.code, 1290),
        outcome => panic!("{outcome:?}"),
    }
    assert_eq!(pair.names().await, ["lamp", "chair"]);
}

/// A slave whose `http.master` is at this address.
async fn slave_of(master: SocketAddr) -> (TestServer, TestHttp) {
    let url = serde_json::from_value(json!(format!("http://{master}"))).unwrap();
    TestHttp::start(Role::Slave, |options| {
        options.writes_to = Some(url);
        options.request_timeout = Duration::from_secs(2);
    })
    .await
}

/// Somebody in the master's place, who takes a whole request, says this, and hangs up, or holds the line without a word.
async fn impostor(says: Option<&'static str>) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, asked) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = asked.clone();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"}") && stream.read_buf(&mut request).await.is_ok_and(|read| read > 0) {}
            count.fetch_add(1, Relaxed);
            match says {
                Some(text) => stream.write_all(text.as_bytes()).await.unwrap(),
                None => held.push(stream),
            }
        }
    });
    (address, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_is_away_is_named_and_nothing_is_sent_twice() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let free = listener.local_addr().unwrap();
    drop(listener);
    let (_server, slave) = slave_of(free).await;
    let insert = item("insert", json!({"data": {"name": "x"}}));
    let refused = slave.request(Method::POST, "").json(&insert).send().await.unwrap();
    assert_eq!(
        (refused.status(), &refused.headers()[header::RETRY_AFTER]),
        (StatusCode::SERVICE_UNAVAILABLE, &"1".parse().unwrap())
    );
    let body: Value = refused.json().await.unwrap();
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains(&free.to_string()) && message.contains("not carried out"), "{message}");

    for (says, status, words) in [
        (Some(""), StatusCode::BAD_GATEWAY, "whether the write was carried out is not known"),
        (Some("HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n"), StatusCode::BAD_GATEWAY, "not known"),
        (Some("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"), StatusCode::BAD_GATEWAY, "no master"),
        (None, StatusCode::GATEWAY_TIMEOUT, "whether the write was carried out is not known"),
    ] {
        let (master, asked) = impostor(says).await;
        let (_server, slave) = slave_of(master).await;
        let (found, body) = slave.post(insert.clone()).await;
        let message = body["error"]["message"].as_str().unwrap_or_default();
        assert_eq!(found, status, "{says:?}: {body}");
        assert!(message.contains(&master.to_string()) && message.contains(words), "{says:?}: {message}");
        assert_eq!(asked.load(Relaxed), 1, "{says:?}: a write was sent twice");
        // The slave serves on.
        assert_eq!(slave.rows("SELECT COUNT(*) FROM shop.item").await, json!([[2]]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slaves_that_name_each_other_send_nothing_in_a_circle() {
    let (_first_server, first) = slave_of("127.0.0.1:9".parse().unwrap()).await;
    let (_second_server, second) = slave_of(first.addr).await;
    let (status, body) = second.post(item("insert", json!({"data": {"name": "x"}}))).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{body}");
    assert!(body["error"]["message"].as_str().is_some_and(|text| text.contains("this node is a slave")), "{body}");
}

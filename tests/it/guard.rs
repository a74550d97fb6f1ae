//! No client of a slave writes, however the write is dressed and by whichever way it comes.

use std::{collections::BTreeMap, path::Path};

use mysql_async::{ChangeUserOpts, Conn, Opts, OptsBuilder, prelude::Queryable};
use reqwest::RequestBuilder;
use serde_json::json;
use towline_middleware::Role;

use crate::support::{
    TestCluster, TestNode, TestServer, checksums, eventually,
    front::TestFront,
    http::TestHttp,
    mysql_node, mysql_server,
    wire_client::{MODERN, Target, WireClient},
};

/// An account that the server itself would refuse nothing.
const ANYBODY: (&str, &str) = ("boss", "secret");

/// What the disguises aim at.
const SCHEMA: [&str; 14] = [
    "CREATE USER boss@'%' IDENTIFIED BY 'secret'",
    "GRANT ALL ON *.* TO boss@'%' WITH GRANT OPTION",
    "CREATE USER other@'%' IDENTIFIED BY 'secret'",
    "CREATE DATABASE d",
    "USE d",
    "CREATE TABLE t (id INT PRIMARY KEY, v INT)",
    "INSERT INTO t VALUES (1, 1), (2, 2)",
    "CREATE SEQUENCE s",
    "CREATE TABLE n (n INT DEFAULT NEXTVAL(s))",
    "INSERT INTO n VALUES (1)",
    "CREATE FUNCTION f() RETURNS INT NO SQL BEGIN INSERT INTO d.t VALUES (100, 1); RETURN 1; END",
    "CREATE PROCEDURE p() BEGIN INSERT INTO d.t VALUES (101, 1); END",
    "CREATE VIEW innocent AS SELECT f() AS x",
    "CREATE TABLE done (n INT)",
];

/// One line of `disguises.txt`.
struct Disguise {
    label: String,
    sql_mode: Option<String>,
    sql: String,
}

fn disguises() -> Vec<Disguise> {
    let lines = include_str!("disguises.txt").lines().filter(|line| !line.starts_with('#'));
    let disguises: Vec<Disguise> = lines
        .map(|line| {
            let [label, mode, sql] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("three fields: {line}") };
            let sql_mode = (mode != "-").then(|| mode.to_owned());
            Disguise { label: label.to_owned(), sql_mode, sql: sql.replace('⏎', "\n") }
        })
        .collect();
    assert!(disguises.len() >= 300, "{} disguises", disguises.len());
    disguises
}

/// A cluster of one slave, with what the disguises aim at.
async fn cluster() -> TestCluster {
    let cluster = TestCluster::start(1).await;
    let mut server = Conn::new(cluster.master.server_opts()).await.unwrap();
    for sql in SCHEMA {
        server.query_drop(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    cluster.wait_equal().await;
    cluster
}

async fn anybody(node: &TestNode) -> Conn {
    node.connect(ANYBODY.0, ANYBODY.1).await.expect("the slave takes connections")
}

/// What a client of the MySQL protocol must be told.
fn check_refusal(label: &str, way: &str, outcome: Result<(), mysql_async::Error>) {
    match outcome {
        Err(mysql_async::Error::Server(error)) => {
            assert_eq!(error.code, 1290, "{label}, {way}: {error}");
            assert!(error.message.contains("Towline"), "{label}, {way}: {error}");
        }
        Err(error) => panic!("{label}, {way}: the session ended: {error}"),
        Ok(()) => panic!("{label}, {way}: it was not refused"),
    }
}

struct Untouched<'a> {
    cluster: &'a TestCluster,
    tables: BTreeMap<String, Option<u64>>,
}

impl<'a> Untouched<'a> {
    async fn now(cluster: &'a TestCluster) -> Self {
        Self { cluster, tables: checksums(&cluster.slaves[0]).await.unwrap() }
    }

    /// The tables are as they were, no file was written, and the slave still follows its master.
    async fn check(self) {
        assert_eq!(checksums(&self.cluster.slaves[0]).await.unwrap(), self.tables);
        for number in 1..=9 {
            let file = format!("/tmp/towline-disguise-{number}");
            assert!(!Path::new(&file).exists(), "{file} was written");
        }
        let mut server = Conn::new(self.cluster.master.server_opts()).await.unwrap();
        server.query_drop("INSERT INTO d.done VALUES (1)").await.unwrap();
        self.cluster.wait_equal().await;
    }
}

/// Tries every disguise on a MySQL front, each in a session of its own.
async fn refuses_as_text_and_prepared(opts: &Opts) {
    for Disguise { label, sql_mode, sql } in disguises() {
        let mut client = Conn::new(opts.clone()).await.expect("the front takes connections");
        if let Some(mode) = sql_mode {
            client.query_drop(format!("SET SESSION sql_mode = '{mode}'")).await.unwrap();
        }
        check_refusal(&label, "as text", client.query_drop(&sql).await);
        let prepared = match client.prep(&sql).await {
            Ok(statement) => client.exec_drop(&statement, ()).await,
            Err(error) => Err(error),
        };
        check_refusal(&label, "prepared", prepared);
        let read: Option<u8> = client.query_first("SELECT 1").await.expect("the session goes on");
        assert_eq!(read, Some(1), "{label}");
        client.disconnect().await.unwrap();
    }
}

/// Tries every disguise on an HTTP front. A request has no session whose sql_mode it could set.
async fn refuses_over_http(request: impl Fn() -> RequestBuilder) {
    for Disguise { label, sql, .. } in disguises().into_iter().filter(|disguise| disguise.sql_mode.is_none()) {
        for params in [json!([]), json!([1])] {
            let body = json!({"action": "query", "sql": sql, "params": params}).to_string();
            let request = request().basic_auth(ANYBODY.0, Some(ANYBODY.1)).header("Content-Type", "application/json");
            let answer = request.body(body).send().await.unwrap();
            let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
            // 400 where the front itself sees what a single command must not be.
            assert!(matches!(status, 400 | 403), "{label}: {status} {text}");
            assert!(text.contains("\"message\""), "{label}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slave_refuses_every_disguise() {
    let cluster = cluster().await;
    let untouched = Untouched::now(&cluster).await;
    let slave = &cluster.slaves[0];
    refuses_as_text_and_prepared(&slave.opts(ANYBODY.0, ANYBODY.1)).await;
    let client = reqwest::Client::new();
    refuses_over_http(|| client.post(slave.url("/slave"))).await;
    untouched.check().await;
}

/// The second and the third fence are down: the sessions may write, and so may the server.
#[tokio::test(flavor = "multi_thread")]
async fn the_guard_alone_refuses_every_disguise() {
    let server = TestServer::start(Role::Master).await;
    server.run(&SCHEMA).await;
    server.run(&["CREATE DATABASE IF NOT EXISTS towline", "CREATE TABLE towline.position (seq INT)"]).await;
    let (front, http) = (TestFront::guarded_only(&server).await, TestHttp::guarded_only(&server).await);
    http.ready().await;
    let before = everything(&server).await;

    let opts = OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(front.addr.port());
    let opts = opts.user(Some(ANYBODY.0)).pass(Some(ANYBODY.1)).prefer_socket(false);
    refuses_as_text_and_prepared(&opts.clone().into()).await;
    refuses_over_http(|| http.bare(reqwest::Method::POST, "/master")).await;
    every_command_byte_is_known_or_refused(&front).await;

    assert_eq!(everything(&server).await, before);
    // What the text does not show passes: the fences are really down.
    let mut client = Conn::new(opts).await.unwrap();
    client.query_drop("SELECT * FROM d.innocent").await.unwrap();
    assert_ne!(everything(&server).await, before);
}

/// All that a client could have changed: the end of the binlog and every global variable.
async fn everything(server: &TestServer) -> Vec<(String, String)> {
    let sql = "SELECT variable_name, variable_value FROM information_schema.global_variables ORDER BY 1";
    server.connect().await.query(sql).await.unwrap()
}

async fn every_command_byte_is_known_or_refused(front: &TestFront) {
    /// Quit, InitDb, Query, FieldList, Statistics, ProcessInfo, Ping, ChangeUser, the prepared statements', SetOption
    /// and ResetConnection.
    const KNOWN: [u8; 16] =
        [0x01, 0x02, 0x03, 0x04, 0x09, 0x0a, 0x0e, 0x11, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1f];
    let mut client = WireClient::connect(&front.target(), MODERN, ANYBODY, "d").await;
    for byte in (0..=u8::MAX).filter(|byte| !KNOWN.contains(byte)) {
        let reply = client.command(&[byte, 1, 0, 0, 0]).await;
        assert!(matches!(reply[0].error_code(), Some(1047 | 1290)), "command byte {byte:#x}: {reply:?}");
    }
}

/// On a slave a statement that SQL names is as good as its text.
#[tokio::test(flavor = "multi_thread")]
async fn a_slave_runs_what_was_prepared_by_name_and_reads() {
    let cluster = cluster().await;
    let mut client = anybody(&cluster.slaves[0]).await;
    client.query_drop("PREPARE Sel FROM 'SELECT v + ? FROM d.t WHERE id = 2'").await.unwrap();
    client.query_drop("SET @one = 1").await.unwrap();
    let value: Option<u8> = client.query_first("EXECUTE sel USING @one").await.unwrap();
    assert_eq!(value, Some(3));
    check_refusal("a function in USING", "by name", client.query_drop("EXECUTE sel USING d.f()").await);
    check_refusal("another name", "by name", client.query_drop("EXECUTE other").await);
    let write = client.query_drop("PREPARE sel FROM 'DELETE FROM d.t'").await;
    check_refusal("the same name for a write", "by name", write);
    check_refusal("the same name for a write", "executed", client.query_drop("EXECUTE sel").await);
}

/// Ways to KILL.
#[derive(Clone, Copy, Debug)]
enum Kill {
    Text,
    Prepared,
    CommandByte,
}

impl Kill {
    async fn send(self, client: &mut WireClient, words: &str, id: u32) -> Option<u16> {
        let sql = format!("{words} {id}");
        let reply = match self {
            Self::Text => client.query(&sql).await,
            Self::CommandByte => client.command(&[&b"\x0c"[..], &id.to_le_bytes()].concat()).await,
            Self::Prepared => {
                let prepared = client.command(&[b"\x16", sql.as_bytes()].concat()).await;
                if prepared[0].error_code().is_some() {
                    prepared
                } else {
                    let statement = &prepared[0].payload[1..5];
                    client.command(&[b"\x17", statement, &[0, 1, 0, 0, 0]].concat()).await
                }
            }
        };
        reply[0].error_code()
    }
}

/// As when Ctrl-C is pressed in `mariadb`: another session of the same account ends the query.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_slave_a_client_kills_sessions_of_its_own_account_and_no_others() {
    let cluster = cluster().await;
    let slave = &cluster.slaves[0];
    let target = Target::Front(slave.mysql_front());
    let mut killer = WireClient::connect(&target, MODERN, ANYBODY, "d").await;
    let mut observer = Conn::new(slave.server_opts()).await.unwrap();
    let mut sleeping = async |id: u32| {
        let sql =
            format!("SELECT COUNT(*) FROM information_schema.processlist WHERE id = {id} AND info LIKE '%SLEEP%'");
        eventually("the query runs", async || match observer.query_first::<u8, _>(&*sql).await.unwrap() {
            Some(1) => Ok(()),
            found => Err(found),
        })
        .await;
    };
    for way in [Kill::Text, Kill::Prepared, Kill::CommandByte] {
        for words in ["KILL QUERY", "kill", "KILL CONNECTION"] {
            let mut victim = anybody(slave).await;
            let id = victim.id();
            let running = tokio::spawn(async move {
                let outcome = victim.query_drop("SELECT SLEEP(100) FROM d.t").await;
                (outcome, victim.ping().await)
            });
            sleeping(id).await;
            assert_eq!(way.send(&mut killer, words, id).await, None, "{way:?} {words}");
            let (outcome, ping) = running.await.unwrap();
            let goes_on = words == "KILL QUERY" && !matches!(way, Kill::CommandByte);
            assert!(outcome.is_err() && ping.is_ok() == goes_on, "{way:?} {words}: {outcome:?}, {ping:?}");
        }
    }
    // Its own, by the id that it sees: the connection ends.
    let mut own = WireClient::connect(&target, MODERN, ANYBODY, "d").await;
    let id = own.connection_id;
    assert!(matches!(Kill::Text.send(&mut own, "KILL QUERY", id).await, None | Some(1317)));
    own.run("SELECT 1").await;

    let mut server = Conn::new(slave.server_opts()).await.unwrap();
    let appliers = "SELECT id FROM information_schema.processlist WHERE user IN ('towline', 'system user', 'root')";
    let appliers: Vec<u32> = server.query(appliers).await.unwrap();
    assert!(appliers.contains(&server.id()) && appliers.len() > 1, "the node's own are there: {appliers:?}");
    let other = slave.connect("other", "secret").await.expect("a session of another account");
    let gone = id + 1_000_000;
    for refused in appliers.into_iter().chain([other.id(), gone, 0, u32::MAX]) {
        for way in [Kill::Text, Kill::Prepared, Kill::CommandByte] {
            for words in ["KILL QUERY", "KILL", "KILL CONNECTION"] {
                assert_eq!(way.send(&mut killer, words, refused).await, Some(1290), "{way:?} {words} {refused}");
            }
        }
    }
    // What is not a plain number is refused even where it comes to a session of its own.
    let mine = own.connection_id;
    for sql in [
        format!("KILL {mine} + 0"),
        format!("KILL ({mine})"),
        format!("KILL QUERY ID {mine}"),
        format!("KILL HARD {mine}"),
        format!("/*!KILL*/ {mine}"),
        format!("KILL /* */ {mine}"),
        format!("KILL {mine}; KILL {mine}"),
        format!("EXECUTE IMMEDIATE 'KILL {mine}'"),
        "KILL ?".to_owned(),
        "KILL USER boss".to_owned(),
    ] {
        assert_eq!(killer.query(&sql).await[0].error_code(), Some(1290), "{sql}");
        let prepared = killer.command(&[b"\x16", sql.as_bytes()].concat()).await;
        assert_eq!(prepared[0].error_code(), Some(1290), "{sql}, prepared");
    }
    own.run("SELECT 1").await;

    // A session that has become another account's is no longer its first one's.
    let mut changed = anybody(slave).await;
    let id = changed.id();
    assert_eq!(explained(&mut killer, &format!("KILL QUERY {id}")).await, "this slave");
    changed
        .change_user(ChangeUserOpts::new().with_user(Some("other".to_owned())).with_pass(Some("secret".to_owned())))
        .await
        .unwrap();
    assert_eq!(Kill::Text.send(&mut killer, "KILL", id).await, Some(1290));
    assert_eq!(explained(&mut killer, &format!("KILL QUERY {id}")).await, "nowhere");
    changed.ping().await.expect("it goes on");
    cluster.wait_equal().await;
}

/// Where EXPLAIN TOWLINE says that a statement runs.
async fn explained(client: &mut WireClient, sql: &str) -> &'static str {
    let reply = client.query(&format!("EXPLAIN TOWLINE {sql}")).await;
    let says =
        |place: &str| reply.iter().any(|packet| memchr::memmem::find(&packet.payload, place.as_bytes()).is_some());
    ["this slave", "nowhere"]
        .into_iter()
        .find(|place| says(&format!("{}{place}", char::from(place.len() as u8))))
        .expect("a place")
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_towline_tells_what_was_decided_and_why() {
    let cluster = cluster().await;
    type Row = (String, String, String, String, String, String, String, String, String);
    let explain = "EXPLAIN TOWLINE SELECT COUNT(*), d.f() FROM d.t";
    let mut client = anybody(&cluster.slaves[0]).await;
    for cached in ["no", "yes"] {
        let row: Option<Row> = client.query_first(explain).await.unwrap();
        let (digest, class, rule, layer, runs_on, refusal, functions, tables, was_cached) = row.unwrap();
        assert_eq!((digest.len(), &*class, &*rule), (16, "write", "function f may be a stored one"));
        assert_eq!((&*layer, &*runs_on), ("guard", "nowhere"));
        assert!(refusal.contains("read-only slave"), "{refusal}");
        assert_eq!((&*functions, &*tables, &*was_cached), ("COUNT, f", "d.t", cached));
    }
    let row: Option<Row> = client.exec_first("explain towline SELECT 1", ()).await.unwrap();
    assert!(row.is_some_and(|row| row.1 == "read" && row.4 == "this slave"));

    let body = json!({"action": "query", "sql": "EXPLAIN TOWLINE DELETE FROM d.t"});
    let request = reqwest::Client::new().post(cluster.master.url("/master")).basic_auth(ANYBODY.0, Some(ANYBODY.1));
    let answer: serde_json::Value = request.json(&body).send().await.unwrap().json().await.unwrap();
    let row: Vec<&str> = (1..6).filter_map(|column| answer["rows"][0][column].as_str()).collect();
    assert_eq!(row, ["write", "keyword DELETE", "classify", "master", ""], "{answer}");
}

/// What no text shows is for the server's own fence: a view that calls a function that writes.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_text_does_not_show_the_server_refuses() {
    let cluster = cluster().await;
    let untouched = Untouched::now(&cluster).await;
    let mut client = anybody(&cluster.slaves[0]).await;
    match client.query_drop("SELECT * FROM d.innocent").await {
        Err(mysql_async::Error::Server(error)) => assert_eq!(error.code, 1792, "{error}"),
        outcome => panic!("{outcome:?}"),
    }
    // What the server has shown is known from then on.
    check_refusal("a view that writes", "again", client.query_drop("SELECT * FROM d.innocent").await);
    // So is what it says behind more rows than are read at once.
    let late = "SELECT seq, REPEAT('x', 100) FROM d.seq_1_to_20000; SELECT * FROM d.innocent";
    match client.query_drop(late).await {
        Err(mysql_async::Error::Server(error)) => assert_eq!(error.code, 1792, "{error}"),
        outcome => panic!("{outcome:?}"),
    }
    check_refusal("a view that writes", "again, behind rows", client.query_drop(late).await);
    assert_eq!(cluster.slaves[0].status().await["misclassified"], 2);
    client.disconnect().await.unwrap();
    untouched.check().await;
}

/// MySQL knows a variable by its name without accents and without spaces at its end.
#[tokio::test(flavor = "multi_thread")]
async fn on_mysql_no_accent_takes_the_fence_down_or_hides_a_write() {
    let Some(mysql) = mysql_server(&[]).await else { return };
    let names = |role: Role| match role {
        Role::Master => ["sql_l\u{f3}g_bin", "`sql_log_bin `", "sql_log_b\u{131}n"],
        Role::Slave => ["transaction_re\u{e1}d_only", "`transaction_read_only `", "tr\u{e4}ns\u{e4}ction_read_only"],
    };
    for (role, variable) in [(Role::Master, "sql_log_bin"), (Role::Slave, "transaction_read_only")] {
        let node = mysql_node(&mysql, role, "").await;
        for name in names(role) {
            let mut server = mysql.connect().await;
            for value in [1, 0] {
                server.query_drop(format!("SET SESSION {name} = {value}")).await.unwrap();
                let found: Option<u8> = server.query_first(format!("SELECT @@session.{variable}")).await.unwrap();
                assert_eq!(found, Some(value), "the server itself, by {name}");
            }
            let mut conn = node.connect("towline", "towline").await.unwrap();
            for sql in [format!("SET SESSION {name} = 0"), format!("/*!50000 SET SESSION {name} = 0 */")] {
                let error = conn.query_drop(&sql).await.expect_err(&sql);
                assert!(matches!(&error, mysql_async::Error::Server(error) if error.code == 1290), "{sql}: {error}");
            }
            let program = format!("CREATE PROCEDURE p() SET SESSION {name} = 0");
            conn.query_drop(&program).await.expect_err(&program);
        }
    }
}

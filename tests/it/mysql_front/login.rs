//! The login reaches the server as the client sent it, and the server's answer the client.

use std::sync::Arc;

use mysql_async::{ChangeUserOpts, Conn, Opts, OptsBuilder, prelude::Queryable};
use towline::{
    classify::SqlClassifier,
    tls::{Connector, Verify},
    upstream::Endpoint,
    wire::{capability, greeting::Greeting},
};
use towline_middleware::Role;

use super::{APP, prepare};
use crate::support::{
    Mysql9, TestServer,
    certificates::Certificates,
    front::TestFront,
    wire_client::{MODERN, OLD, Target, WireClient},
};

/// The client can change a password that has expired.
const CAN_HANDLE_EXPIRED_PASSWORDS: u32 = 1 << 22;

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_own_answer_reaches_the_client() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    let front = TestFront::start(Role::Master, &server).await;
    let direct = Target::Server(server.managed().socket().to_owned());
    for (account, db) in [(APP, "shop"), (("app", "wrong"), ""), (("nobody", "x"), ""), (APP, "no_such_schema")] {
        for capabilities in [MODERN, OLD] {
            let (_, through) = WireClient::login(&front.target(), capabilities, account, db).await;
            let (_, direct) = WireClient::login(&direct, capabilities, account, db).await;
            assert_eq!(through, direct, "{account:?} {db:?} {capabilities:x}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_offered_is_refused_with_its_name() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    let front = TestFront::start(Role::Master, &server).await;
    let mut client = WireClient::open(&front.target()).await;
    client.read().await.expect("a greeting");
    let tls = (MODERN | capability::SSL).to_le_bytes();
    client.send(1, &[&tls[..], &[0, 0, 0, 1, 45], &[0; 23]].concat()).await;
    let refusal = client.read().await.expect("a refusal");
    assert_eq!(refusal.error_code(), Some(1043));
    assert!(String::from_utf8_lossy(&refusal.payload).contains("TLS"), "{refusal:?}");
}

/// The way from client to front, and from front to server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Clear,
    Tls,
    Socket,
}

const WAYS: [Way; 3] = [Way::Clear, Way::Tls, Way::Socket];

/// What a driver says to a failed login.
async fn refusal(opts: impl Into<Opts>) -> (u16, String, String) {
    match Conn::new(opts).await {
        Err(mysql_async::Error::Server(error)) => (error.code, error.state, error.message),
        other => panic!("no refusal: {:?}", other.map(|_| ())),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_9_gets_the_password_itself_over_any_two_streams_and_then_takes_it_from_its_cache() {
    let Some(server) = Mysql9::shared().await else { return };
    let certificates = Certificates::new();
    server
        .run(&[
            "CREATE USER relayed@'%' IDENTIFIED BY 'secret'",
            "CREATE USER other@'%' IDENTIFIED BY 'another secret'",
            "CREATE USER open@'%' IDENTIFIED BY ''",
        ])
        .await;
    let direct = OptsBuilder::default().socket(Some(server.socket.to_string_lossy()));
    for behind in WAYS {
        let tls = (behind == Way::Tls).then(|| Connector::new(Verify::Nothing, true).expect("a connector"));
        let endpoint = match behind {
            Way::Socket => Endpoint::unix(&server.socket),
            Way::Clear | Way::Tls => Endpoint::tcp("127.0.0.1", server.port).with_tls(tls),
        };
        let classifier = Arc::new(SqlClassifier::new());
        let front = TestFront::before(Role::Master, endpoint, server.opts(), classifier, |front| {
            front.tls = Some(certificates.acceptor());
        })
        .await;
        for before in WAYS {
            let opts = |user, password| match before {
                Way::Clear => front.opts(user, password),
                Way::Tls => front.opts(user, password).ssl_opts(certificates.client()),
                Way::Socket => front.opts(user, password).socket(Some(front.socket().to_string_lossy())),
            };
            let ways = format!("{before:?} to the front, {behind:?} to the server");
            // Empties the server's cache of passwords.
            server.run(&["FLUSH PRIVILEGES"]).await;
            for login in ["full", "cached"] {
                let client = Conn::new(opts("relayed", "secret")).await;
                let mut client = client.unwrap_or_else(|error| panic!("{login}, {ways}: {error}"));
                let user: Option<String> = client.query_first("SELECT CURRENT_USER()").await.expect("a session");
                assert_eq!(user.as_deref(), Some("relayed@%"), "{login}, {ways}");
                let cipher: Option<(String, String)> =
                    client.query_first("SHOW SESSION STATUS LIKE 'Ssl_cipher'").await.expect("a session");
                assert_eq!(cipher.expect("a row").1.is_empty(), behind != Way::Tls, "{ways}");
                let other = ChangeUserOpts::default().with_user(Some("other".into()));
                let changed = client.change_user(other.with_pass(Some("another secret".into()))).await;
                changed.unwrap_or_else(|error| panic!("COM_CHANGE_USER, {login}, {ways}: {error}"));
                let user: Option<String> = client.query_first("SELECT CURRENT_USER()").await.expect("a session");
                assert_eq!(user.as_deref(), Some("other@%"), "{login}, {ways}");
            }
            Conn::new(opts("open", "")).await.unwrap_or_else(|error| panic!("no password, {ways}: {error}"));
            server.run(&["FLUSH PRIVILEGES"]).await;
            let told = refusal(opts("relayed", "wrong")).await;
            assert_eq!(told, refusal(direct.clone().user(Some("relayed")).pass(Some("wrong"))).await, "{ways}");
        }
    }
    server.run(&["DROP USER relayed@'%', other@'%', open@'%'"]).await;
}

/// MySQL's own client logs in by `sha256_password`, which drivers no longer do; the server asks for it also where there
/// is no such account.
#[tokio::test(flavor = "multi_thread")]
async fn sha256_password_passes_between_unlike_streams() {
    let Some(server) = Mysql9::shared().await else { return };
    let certificates = Certificates::new();
    server.run(&["CREATE USER elder@'%' IDENTIFIED WITH sha256_password BY 'secret'"]).await;
    for endpoint in [Endpoint::tcp("127.0.0.1", server.port), Endpoint::unix(&server.socket)] {
        let classifier = Arc::new(SqlClassifier::new());
        let front = TestFront::before(Role::Master, endpoint.clone(), server.opts(), classifier, |front| {
            front.tls = Some(certificates.acceptor());
        })
        .await;
        for ssl_mode in ["DISABLED", "REQUIRED"] {
            let port = front.addr.port();
            for (password, said) in [("secret", "elder@%"), ("wrong", "ERROR 1045 (28000): Access denied")] {
                let output = server.client(port, ssl_mode, "elder", password, "SELECT CURRENT_USER()").await;
                assert!(output.contains(said), "{endpoint}, {ssl_mode}, {password}: {output}");
            }
            let output = server.client(port, ssl_mode, "nobody at all", "secret", "SELECT 1").await;
            assert!(output.contains("ERROR 1045 (28000): Access denied for user 'nobody at all'"), "{output}");
        }
    }
    server.run(&["DROP USER elder@'%'"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_the_servers_refusals_reaches_the_client_as_it_is() {
    let Some(server) = Mysql9::shared().await else { return };
    server
        .run(&[
            "CREATE USER locked@'%' IDENTIFIED BY 'secret' ACCOUNT LOCK",
            "CREATE USER expired@'%' IDENTIFIED BY 'secret' PASSWORD EXPIRE",
            "CREATE USER bare@'%' IDENTIFIED BY 'secret'",
            "CREATE USER needs_ssl@'%' IDENTIFIED BY 'secret' REQUIRE SSL",
            "CREATE DATABASE forbidden",
        ])
        .await;
    let endpoint = Endpoint::unix(&server.socket);
    let front = TestFront::before(Role::Master, endpoint, server.opts(), Arc::new(SqlClassifier::new()), |_| {}).await;
    for (user, password, db) in [
        ("locked", "secret", ""),
        ("expired", "secret", ""),
        ("bare", "secret", "forbidden"),
        ("bare", "secret", "no_such_schema"),
        ("bare", "wrong", ""),
        ("bare", "", ""),
        ("needs_ssl", "secret", ""),
    ] {
        let db = (!db.is_empty()).then_some(db);
        let account = |opts: OptsBuilder| opts.user(Some(user)).pass(Some(password)).db_name(db);
        let direct = OptsBuilder::default().socket(Some(server.socket.to_string_lossy()));
        let through = refusal(account(front.opts("", ""))).await;
        assert_eq!(through, refusal(account(direct)).await, "{user} {password} {db:?}");
    }
    server.run(&["DROP USER locked@'%', expired@'%', bare@'%', needs_ssl@'%'", "DROP DATABASE forbidden"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_password_is_changed_through_the_front_and_the_session_is_fenced_then() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    server.run(&["SET sql_log_bin=0", "ALTER USER app@'%' PASSWORD EXPIRE"]).await;
    let front = TestFront::start(Role::Master, &server).await;
    let direct = Target::Server(server.managed().socket().to_owned());
    let (_, through) = WireClient::login(&front.target(), MODERN, APP, "").await;
    let (_, told) = WireClient::login(&direct, MODERN, APP, "").await;
    assert_eq!(through, told, "a client that can't change it is turned away");
    let can_change = MODERN | CAN_HANDLE_EXPIRED_PASSWORDS;
    let mut through = WireClient::connect(&front.target(), can_change, APP, "").await;
    let mut direct = WireClient::connect(&direct, can_change, APP, "").await;
    let refusals = [through.query("SELECT 1").await, direct.query("SELECT 1").await];
    assert_eq!(refusals[0], refusals[1]);
    assert_eq!(refusals[0][0].error_code(), Some(1820));
    through.run("SET PASSWORD = PASSWORD('secret')").await;
    front.seen.take();
    through.run("INSERT INTO shop.item (name) VALUES ('x')").await;
    assert_eq!(front.seen.take().len(), 1, "the commit is reported");
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_and_schema_pass_and_every_login_has_a_salt_of_its_own() {
    let Some(server) = Mysql9::start_with(&["--performance-schema=ON"]).await else { return };
    server
        .run(&["CREATE USER app@'%' IDENTIFIED BY 'secret'", "CREATE DATABASE shop", "GRANT ALL ON *.* TO app@'%'"])
        .await;
    let endpoint = Endpoint::unix(&server.socket);
    let front = TestFront::before(Role::Master, endpoint, server.opts(), Arc::new(SqlClassifier::new()), |_| {}).await;
    let attributes = [("program_name".to_owned(), "ledger".to_owned()), ("shift".to_owned(), "night".to_owned())];
    let opts = front.opts("app", "secret").db_name(Some("shop")).connect_attributes(attributes.clone().into());
    let mut client = Conn::new(opts).await.expect("a session");
    let schema: Option<String> = client.query_first("SELECT DATABASE()").await.expect("an answer");
    assert_eq!(schema.as_deref(), Some("shop"));
    let sql = "SELECT attr_name, attr_value FROM performance_schema.session_account_connect_attrs \
               WHERE processlist_id = CONNECTION_ID() AND attr_name IN ('program_name', 'shift') ORDER BY 1";
    let seen: Vec<(String, String)> = client.query(sql).await.expect("an answer");
    assert_eq!(seen, attributes);
    let mut salts = std::collections::BTreeSet::new();
    for _ in 0..5 {
        let greeting = WireClient::open(&front.target()).await.read().await.expect("a greeting");
        salts.insert(Greeting::decode(&greeting.payload).expect("a greeting").salt);
    }
    assert_eq!(salts.len(), 5);
}

/// What the node can't carry is supported nowhere and not by half: a client that asks for it, though it is not offered,
/// speaks and is spoken to as one that doesn't.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_masked_is_withheld_from_a_client_that_asks_for_it() {
    const ASKED: u32 = capability::MASKED & !capability::SSL;
    let Some(server) = Mysql9::shared().await else { return };
    server.run(&["CREATE USER asks@'%' IDENTIFIED BY ''"]).await;
    let endpoint = Endpoint::unix(&server.socket);
    let front = TestFront::before(Role::Master, endpoint, server.opts(), Arc::new(SqlClassifier::new()), |_| {}).await;
    let offered = async |target: &Target| {
        let greeting = WireClient::open(target).await.read().await.expect("a greeting");
        Greeting::decode(&greeting.payload).expect("a greeting").capabilities
    };
    assert_eq!(offered(&Target::Server(server.socket.clone())).await & ASKED, ASKED, "the server has it all");
    assert_eq!(offered(&front.target()).await & ASKED, 0);
    let mut replies = Vec::new();
    for capabilities in [MODERN | ASKED, MODERN] {
        let mut client = WireClient::connect(&front.target(), capabilities, ("asks", ""), "").await;
        let mut seen = client.query("SELECT 1 AS one, 'two' AS two").await;
        let prepared = client.command(b"\x16SELECT ? AS value").await;
        let id = prepared[0].payload[1..5].to_vec();
        let execute = [&b"\x17"[..], &id, &[0, 1, 0, 0, 0, 0, 1, 3, 0, 7, 0, 0, 0]].concat();
        seen.extend(client.command(&execute).await);
        replies.push(seen);
    }
    assert_eq!(replies[0], replies[1]);
    server.run(&["DROP USER asks@'%'"]).await;
}

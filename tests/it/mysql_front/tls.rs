//! TLS towards clients and towards the server.

use std::sync::Arc;

use mysql_async::{Conn, Opts, OptsBuilder, prelude::Queryable};
use towline::{
    check::{self, CheckError, Target},
    classify::SqlClassifier,
    config::Config,
    node::Reload,
    tls::{Acceptor, Connector, Verify},
    upstream::Endpoint,
    wire::capability,
};
use towline_middleware::{Command, LayerHome, Next, Registry, Role, from_fn};

use super::{APP, prepare};
use crate::support::{
    Mysql9, TestServer,
    certificates::Certificates,
    front::TestFront,
    server::free_port,
    wire_client::{MODERN, WireClient},
};

/// A MariaDB that takes TLS on a port of 127.0.0.1.
async fn tls_server(certificates: &Certificates) -> (TestServer, u16) {
    let port = free_port();
    let mut args = vec!["--skip-networking=0".to_owned(), "--bind-address=127.0.0.1".into(), format!("--port={port}")];
    args.extend(certificates.server_args());
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let server = TestServer::start_with(Role::Master, &args).await;
    prepare(&server).await;
    (server, port)
}

async fn front_before(server: &TestServer, port: u16, connector: Option<Connector>) -> TestFront {
    let endpoint = Endpoint::tcp("127.0.0.1", port).with_tls(connector);
    TestFront::before(Role::Master, endpoint, server.opts(), Arc::new(SqlClassifier::new()), |_| {}).await
}

/// A front whose clients come under TLS, before a server on its socket.
async fn tls_front(server: &TestServer, acceptor: Acceptor, required: bool) -> TestFront {
    let endpoint = Endpoint::unix(server.managed().socket());
    TestFront::before(Role::Master, endpoint, server.opts(), Arc::new(SqlClassifier::new()), |front| {
        front.tls = Some(acceptor);
        front.tls_required = required;
    })
    .await
}

async fn cipher(opts: OptsBuilder) -> Result<String, mysql_async::Error> {
    let mut client = Conn::new(opts).await?;
    let row: Option<(String, String)> = client.query_first("SHOW SESSION STATUS LIKE 'Ssl_cipher'").await?;
    Ok(row.expect("a row").1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_under_tls_reads_what_one_in_clear_reads() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    let certificates = Certificates::new();
    let front = tls_front(&server, certificates.acceptor(), false).await;
    let long = "x".repeat(20_000_000);
    for opts in [front.opts(APP.0, APP.1), front.opts(APP.0, APP.1).ssl_opts(certificates.client())] {
        let mut client = Conn::new(opts.db_name(Some("shop"))).await.expect("a session");
        let names: Vec<String> = client.query("SELECT name FROM item ORDER BY id").await.expect("rows");
        assert_eq!(names, ["lamp", "chair"]);
        // More than the sockets take at once, in both directions.
        let sql = format!("SELECT LENGTH('{long}'), REPEAT('y', 30000000)");
        let row: Option<(usize, String)> = client.query_first(sql).await.expect("a row");
        assert_eq!(row.map(|(sent, got)| (sent, got.len())), Some((20_000_000, 30_000_000)));
        let twice: Vec<u32> = client.exec("SELECT ? + ?", (1, 2)).await.expect("a prepared statement");
        assert_eq!(twice, [3]);
    }
    // One that trusts another authority.
    let stranger = Certificates::new().client();
    let error = Conn::new(front.opts(APP.0, APP.1).ssl_opts(stranger)).await.expect_err("an unknown authority");
    assert!(matches!(error, mysql_async::Error::Io(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_required_turns_away_clients_in_clear_and_not_those_on_the_socket() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    let certificates = Certificates::new();
    let front = tls_front(&server, certificates.acceptor(), true).await;
    let (_, refusal) = WireClient::login(&front.target(), MODERN, APP, "").await;
    assert_eq!((refusal.error_code(), refusal.sequence), (Some(3159), 2), "{refusal:?}");
    Conn::new(front.opts(APP.0, APP.1).ssl_opts(certificates.client())).await.expect("a session under TLS");
    let socket = front.socket();
    Conn::new(front.opts(APP.0, APP.1).socket(Some(socket.to_string_lossy()))).await.expect("a session on the socket");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_in_clear_behind_the_wish_for_tls_are_not_taken() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    let certificates = Certificates::new();
    let front = tls_front(&server, certificates.acceptor(), false).await;
    let mut client = WireClient::open(&front.target()).await;
    client.read().await.expect("a greeting");
    let wish = [&(MODERN | capability::SSL).to_le_bytes()[..], &[0, 0, 0, 1, 45], &[0; 23]].concat();
    let mut bytes = Vec::new();
    towline::wire::frame::put_packet(&mut bytes, 1, &wish);
    towline::wire::frame::put_packet(&mut bytes, 2, b"a login that somebody in between has put here");
    client.send_raw(&bytes).await;
    while let Ok(packet) = client.read().await {
        // A TLS alert at most, which is no packet of the protocol.
        assert_ne!(packet.payload.first(), Some(&0), "{packet:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_taken_at_a_reload_and_one_that_is_none_is_not() {
    let server = TestServer::start(Role::Master).await;
    prepare(&server).await;
    let certificates = Certificates::new();
    let acceptor = certificates.acceptor();
    let front = tls_front(&server, acceptor.clone(), false).await;
    let connect = || Conn::new(front.opts(APP.0, APP.1).ssl_opts(certificates.client()));
    connect().await.expect("a session");
    certificates.sign("localhost");
    connect().await.expect_err("the client's authority is new, and the certificate old");
    let file = certificates.path("node.toml");
    let reload = async |layers: &str| {
        std::fs::write(&file, layers).expect("a file");
        let config = Config::load(Some(&file), Role::Master).expect("a configuration");
        let mut registry = Registry::default();
        registry.register("fails", |setup| {
            setup.on_start(async { Err("on purpose".into()) });
            Ok(from_fn(async |command: Command, next: Next| next.run(command).await))
        });
        Reload::new(config, registry, LayerHome::new(Role::Master), Some(acceptor.clone())).run().await
    };
    reload("[[master.layer]]\nname = 'fails'").await.expect_err("a layer does not start");
    connect().await.expect_err("a reload that fails changes nothing");
    reload("").await.expect("a usable certificate");
    connect().await.expect("a session");
    std::fs::write(certificates.path("key.pem"), "no key").expect("a file");
    reload("").await.expect_err("no key");
    connect().await.expect("the last usable certificate holds");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mode_asks_of_a_mariadb_what_it_says() {
    let certificates = Certificates::new();
    let (server, port) = tls_server(&certificates).await;
    let (ca, stranger) = (certificates.path("ca.pem"), Certificates::new());
    let other_ca = stranger.path("ca.pem");
    for (verify, needed) in [
        (Verify::Nothing, false),
        (Verify::Nothing, true),
        (Verify::Authority(&ca), true),
        (Verify::Identity(&ca), true),
    ] {
        let front = front_before(&server, port, Some(Connector::new(verify, needed).expect("a connector"))).await;
        let cipher = cipher(front.opts(APP.0, APP.1)).await.unwrap_or_else(|error| panic!("{verify:?}: {error}"));
        assert!(cipher.starts_with("TLS_"), "{verify:?}: {cipher}");
    }
    let front = front_before(&server, port, None).await;
    assert_eq!(cipher(front.opts(APP.0, APP.1)).await.expect("a session in clear"), "");
    for verify in [Verify::Authority(&other_ca), Verify::Identity(&other_ca)] {
        let front = front_before(&server, port, Some(Connector::new(verify, true).expect("a connector"))).await;
        let error = cipher(front.opts(APP.0, APP.1)).await.expect_err("an unknown authority");
        assert!(error.to_string().contains("1053"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls_is_refused_where_it_is_needed_and_taken_where_it_is_preferred() {
    let port = free_port();
    let args = ["--skip-networking=0", "--bind-address=127.0.0.1", &format!("--port={port}")];
    let server = TestServer::start_with(Role::Master, &args).await;
    prepare(&server).await;
    let preferred = Connector::new(Verify::Nothing, false).expect("a connector");
    let front = front_before(&server, port, Some(preferred)).await;
    assert_eq!(cipher(front.opts(APP.0, APP.1)).await.expect("a session"), "");
    let needed = Connector::new(Verify::Nothing, true).expect("a connector");
    let front = front_before(&server, port, Some(needed)).await;
    let error = cipher(front.opts(APP.0, APP.1)).await.expect_err("no TLS");
    assert!(error.to_string().contains("2012"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_9_is_known_by_its_own_authority_and_has_no_name() {
    let Some(server) = Mysql9::shared().await else { return };
    server.run(&["CREATE USER verified@'%' IDENTIFIED BY 'secret' REQUIRE SSL"]).await;
    let ca = server.data_dir().join("ca.pem");
    let front = |verify| {
        let connector = Connector::new(verify, true).expect("a connector");
        let endpoint = Endpoint::tcp("127.0.0.1", server.port).with_tls(Some(connector));
        TestFront::before(Role::Master, endpoint, server.opts(), Arc::new(SqlClassifier::new()), |_| {})
    };
    let by_authority = front(Verify::Authority(&ca)).await;
    let used = cipher(by_authority.opts("verified", "secret")).await.expect("a session");
    assert!(used.starts_with("TLS_"), "{used}");
    let by_name = front(Verify::Identity(&ca)).await;
    cipher(by_name.opts("verified", "secret")).await.expect_err("its certificate names no host");
    server.run(&["DROP USER verified@'%'"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_own_sessions_keep_to_the_same_mode() {
    let certificates = Certificates::new();
    let (server, port) = tls_server(&certificates).await;
    let own = server.opts();
    let opts = OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(port).prefer_socket(false);
    let opts: Opts = opts.user(own.user()).pass(own.pass()).into();
    server
        .run(&[
            "SET sql_log_bin=0",
            &format!("CREATE USER towline@'%' IDENTIFIED BY '{}'", own.pass().expect("a password")),
            "GRANT ALL ON *.* TO towline@'%'",
        ])
        .await;
    let (ca, stranger) = (certificates.path("ca.pem"), Certificates::new());
    for verify in [Verify::Nothing, Verify::Authority(&ca), Verify::Identity(&ca)] {
        let connector = Connector::new(verify, true).expect("a connector");
        let target = Target { tls: Some(&connector), ..Target::from(&opts) };
        let (opts, _) = check::run(Role::Master, target).await.unwrap_or_else(|error| panic!("{verify:?}: {error}"));
        let used = cipher(OptsBuilder::from_opts(opts)).await.expect("a session");
        assert!(used.starts_with("TLS_"), "{verify:?}: {used}");
    }
    let connector = Connector::new(Verify::Identity(&stranger.path("ca.pem")), true).expect("a connector");
    let target = Target { tls: Some(&connector), ..Target::from(&opts) };
    let error = check::run(Role::Master, target).await.expect_err("an unknown authority");
    assert!(matches!(error, CheckError::Tls { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_own_sessions_do_without_where_tls_is_preferred_and_there_is_none() {
    let port = free_port();
    let args = ["--skip-networking=0", "--bind-address=127.0.0.1", &format!("--port={port}")];
    let server = TestServer::start_with(Role::Master, &args).await;
    prepare(&server).await;
    let opts = OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(port).prefer_socket(false);
    let opts: Opts = opts.user(Some(APP.0)).pass(Some(APP.1)).into();
    let preferred = Connector::new(Verify::Nothing, false).expect("a connector");
    let target = Target { tls: Some(&preferred), ..Target::from(&opts) };
    let (opts, _) = check::run(Role::Slave, target).await.expect("a report");
    assert_eq!(cipher(OptsBuilder::from_opts(opts.clone())).await.expect("a session"), "");
    let needed = Connector::new(Verify::Nothing, true).expect("a connector");
    let target = Target { tls: Some(&needed), ..Target::from(&opts) };
    let error = check::run(Role::Slave, target).await.expect_err("no TLS");
    assert!(matches!(error, CheckError::Tls { .. }), "{error:?}");
}

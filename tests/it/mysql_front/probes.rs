//! Clients that never log in must not make the server refuse the node's host (`max_connect_errors`).
//!
//! Servers don't count the errors of loopback addresses, so this is tried in a network namespace of the test's own.

use std::{fs, io::Write, process::Command, sync::Arc, time::Duration};

use mysql_async::{Conn, Opts, OptsBuilder};
use tokio::{io::AsyncReadExt, net::TcpStream};
use towline::{classify::SqlClassifier, upstream::Endpoint, wire::capability};
use towline_middleware::Role;

use super::APP;
use crate::support::{
    Mysql9, TestServer,
    certificates::Certificates,
    eventually,
    front::TestFront,
    server::free_port,
    wire_client::{MODERN, WireClient},
};

/// Set for the test inside the namespace.
const INSIDE: &str = "TOWLINE_TEST_NAMESPACE";
/// The one address there that is not loopback's.
pub(super) const ADDRESS: &str = "10.99.0.1";
/// So many broken logins of a host are too many.
const ERRORS_MAX: usize = 3;

/// Runs the test of this module and name again in a namespace of its own. Whether this already is that one.
pub(super) fn in_namespace(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let hosts = tempfile::NamedTempFile::new().expect("a temporary file");
    fs::write(hosts.path(), format!("127.0.0.1 localhost\n{ADDRESS} prober.test\n")).expect("a file");
    // The server only counts errors of hosts that have a name.
    let script = "ip link set lo up && ip addr add $0/24 dev lo && mount --bind \"$1\" /etc/hosts || exit 77; shift; exec \"$@\"";
    let output = Command::new("unshare")
        .args(["--net", "--mount", "sh", "-c", script, ADDRESS])
        .arg(hosts.path())
        .arg(std::env::current_exe().expect("the tests' program"))
        .args(["--exact", "--nocapture", &format!("mysql_front::{test}")])
        .env(INSIDE, "1")
        .output();
    match output {
        Ok(output) if output.status.success() => {
            assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "no such test: {test}");
        }
        Ok(output) if output.status.code() == Some(101) => {
            panic!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
        }
        other => {
            let why = other.map(|output| String::from_utf8_lossy(&output.stderr).trim().to_owned());
            // Not by a macro: those are kept from whoever runs the tests.
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: {test} needs root and a network namespace of its own (unshare, ip): {why:?}"
            );
        }
    }
    false
}

/// What scanners and health checks do to a port, and clients that break off.
async fn probe(front: &TestFront, account: (&str, &str)) {
    // Connect and leave.
    drop(TcpStream::connect(front.addr).await.expect("the front answers"));
    // Read the greeting and leave.
    let greeting = WireClient::open(&front.target()).await.read().await.expect("a greeting");
    assert_eq!(greeting.error_code(), None, "{greeting:?}");
    // Half a login, nonsense, and a wish for TLS without a handshake.
    let wish = [&(MODERN | capability::SSL).to_le_bytes()[..], &[0, 0, 0, 1, 45], &[0; 23]].concat();
    let mut asks_for_tls = Vec::new();
    towline::wire::frame::put_packet(&mut asks_for_tls, 1, &wish);
    for bytes in [&b"\x50\x00\x00\x01\x05\xa2"[..], b"GET / HTTP/1.1\r\n\r\n", &asks_for_tls] {
        let mut client = WireClient::open(&front.target()).await;
        client.read().await.expect("a greeting");
        client.send_raw(bytes).await;
    }
    // Leave when the server asks on, in the middle of a login.
    let mut client = WireClient::open(&front.target()).await;
    client.read().await.expect("a greeting");
    client.send_login_by(b"some_other_plugin", MODERN, account.0).await;
    let question = client.read().await.expect("a question");
    assert_eq!(question.payload[0], 0xfe, "{question:?}");
}

/// Probes the front often enough, logs in, and then shows that the same without the front is too often.
async fn try_probes(server: Opts, port: u16, account: (&'static str, &'static str)) {
    let certificates = Certificates::new();
    let endpoint = Endpoint::tcp(ADDRESS, port);
    let front = TestFront::before(Role::Master, endpoint, server, Arc::new(SqlClassifier::new()), |front| {
        front.tls = Some(certificates.acceptor());
        front.limits.handshake_timeout = Duration::from_secs(3);
    })
    .await;
    let mut silent = Vec::new();
    for _ in 0..=ERRORS_MAX {
        // Says nothing until the front has had enough.
        silent.push(TcpStream::connect(front.addr).await.expect("the front answers"));
        probe(&front, account).await;
    }
    for mut client in silent {
        client.read_to_end(&mut Vec::new()).await.expect("an end");
    }
    eventually("the probes are done with", async || match front.sessions.get() {
        0 => Ok(()),
        n => Err(n),
    })
    .await;
    Conn::new(front.opts(account.0, account.1)).await.expect("the server still takes the node's host");

    let direct = OptsBuilder::default().ip_or_hostname(ADDRESS).tcp_port(port).prefer_socket(false);
    eventually("without the front the host is refused", async || {
        drop(TcpStream::connect((ADDRESS, port)).await.expect("the server answers"));
        match Conn::new(direct.clone().user(Some("nobody"))).await {
            Err(mysql_async::Error::Server(error)) if error.code == 1129 => Ok(()),
            other => Err(other.map(|_| ())),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_do_not_make_mariadb_refuse_the_node() {
    if !in_namespace("probes::probes_do_not_make_mariadb_refuse_the_node") {
        return;
    }
    let port = free_port();
    let args = [
        "--skip-networking=0",
        &format!("--bind-address={ADDRESS}"),
        &format!("--port={port}"),
        "--skip-name-resolve=0",
        &format!("--max-connect-errors={ERRORS_MAX}"),
    ];
    let server = TestServer::start_with(Role::Master, &args).await;
    super::prepare(&server).await;
    try_probes(server.opts(), port, APP).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_do_not_make_mysql_9_refuse_the_node() {
    // The script that gets MySQL needs the network, which there is none of inside.
    if std::env::var_os(INSIDE).is_none() && Mysql9::shared().await.is_none() {
        return;
    }
    if !in_namespace("probes::probes_do_not_make_mysql_9_refuse_the_node") {
        return;
    }
    let errors = format!("--max-connect-errors={ERRORS_MAX}");
    let args = [&format!("--bind-address={ADDRESS}"), "--performance-schema=ON", errors.as_str()];
    let server = Mysql9::start_with(&args).await.expect("it could be had outside");
    server.run(&["CREATE USER app@'%' IDENTIFIED BY 'secret'"]).await;
    try_probes(server.opts(), server.port, APP).await;
}

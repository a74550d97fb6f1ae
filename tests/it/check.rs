//! Each requirement met and failed, on real servers.

use std::time::Duration;

use mysql_async::{Opts, OptsBuilder};
use towline::check::{self, CheckError, Outcome, Report, Target};
use towline_middleware::Role;

use crate::support::TestServer;

async fn report(role: Role, opts: &Opts) -> Report {
    check::run(role, opts.into()).await.unwrap_or_else(|error| panic!("{error}")).1
}

/// The lines that are not ok: name, whether it failed, and the text.
fn complaints(report: &Report) -> Vec<(&'static str, bool, String)> {
    let complaint = |line: &check::Line| match &line.outcome {
        Outcome::Ok => None,
        Outcome::Failed { .. } => Some((line.name, true, line.to_string())),
        Outcome::Warning { .. } => Some((line.name, false, line.to_string())),
    };
    report.lines.iter().filter_map(complaint).collect()
}

#[tokio::test]
async fn a_nodes_own_server_passes() {
    for role in [Role::Master, Role::Slave] {
        let server = TestServer::start(role).await;
        let report = report(role, &server.opts()).await;
        assert_eq!(complaints(&report), [], "{role:?}");
        assert!(report.passed() && report.lines.len() > 10, "{report}");
        assert!(report.version.contains("MariaDB"));
    }
}

#[tokio::test]
async fn each_setting_of_a_master_is_missed() {
    let cases: [(&str, &str, bool, &str); 10] = [
        ("--skip-log-bin", "log_bin", true, "`log_bin` into [mysqld]"),
        ("--binlog-format=MIXED", "binlog_format", true, "`SET GLOBAL binlog_format = 'ROW'`"),
        ("--binlog-row-image=MINIMAL", "binlog_row_image", true, "`binlog_row_image=FULL`"),
        ("--binlog-checksum=NONE", "binlog_checksum", true, "`binlog_checksum=CRC32`"),
        ("--gtid-strict-mode=OFF", "gtid_strict_mode", true, "`SET GLOBAL gtid_strict_mode = 'ON'`"),
        ("--sync-binlog=0", "sync_binlog", false, "`SET GLOBAL sync_binlog = 1`"),
        (
            "--innodb-flush-log-at-trx-commit=2",
            "innodb_flush_log_at_trx_commit",
            false,
            "innodb_flush_log_at_trx_commit=1",
        ),
        ("--binlog-do-db=shop", "no binlog_do_db, no binlog_ignore_db", true, "binlog_do_db=shop"),
        ("--binlog-ignore-db=log", "no binlog_do_db, no binlog_ignore_db", true, "binlog_ignore_db=log"),
        ("--gtid-domain-id=7", "one GTID domain", true, "DELETE_DOMAIN_ID=(0)"),
    ];
    for (argument, name, fails, says) in cases {
        assert_complains(Role::Master, argument, name, fails, says).await;
    }
}

#[tokio::test]
async fn a_server_that_gives_up_logins_before_the_node_does_is_told() {
    let server = TestServer::start(Role::Master).await;
    let opts = server.opts();
    for (milliseconds, told) in [(8_000, false), (9_999, false), (10_000, true), (60_000, true)] {
        let handshake_timeout = Duration::from_millis(milliseconds);
        let target = Target { handshake_timeout, ..Target::from(&opts) };
        let (_, report) = check::run(Role::Master, target).await.expect("a report");
        assert!(report.passed(), "{report}");
        let told_of = complaints(&report);
        assert_eq!(told_of.iter().any(|(name, ..)| *name == "connect_timeout"), told, "{told_of:?}");
        assert!(!told || told_of[0].2.contains("limits.handshake_timeout_ms"), "{told_of:?}");
    }
}

#[tokio::test]
async fn each_setting_of_a_slave_is_missed() {
    let cases: [(&str, &str, bool, &str); 8] = [
        ("--skip-log-bin", "log_bin", true, "restart"),
        ("--binlog-format=STATEMENT", "binlog_format", true, "`binlog_format=ROW`"),
        ("--slave-exec-mode=IDEMPOTENT", "slave_exec_mode", true, "`SET GLOBAL slave_exec_mode = 'STRICT'`"),
        ("--slave-run-triggers-for-rbr=YES", "slave_run_triggers_for_rbr", true, "slave_run_triggers_for_rbr=NO"),
        (
            "--slave-type-conversions=ALL_LOSSY",
            "slave_type_conversions",
            true,
            "`SET GLOBAL slave_type_conversions = ''`",
        ),
        ("--event-scheduler=ON", "event_scheduler", true, "event_scheduler=OFF"),
        ("--max-allowed-packet=16M", "max_allowed_packet", false, "`SET GLOBAL max_allowed_packet = 1073741824`"),
        ("--read-only=OFF", "read_only", false, "read_only=ON"),
    ];
    for (argument, name, fails, says) in cases {
        assert_complains(Role::Slave, argument, name, fails, says).await;
    }
}

async fn assert_complains(role: Role, argument: &str, name: &str, fails: bool, says: &str) {
    let server = TestServer::start_with(role, &[argument]).await;
    // So that the binlog holds something.
    server.run(&["SET gtid_domain_id = 0", "CREATE DATABASE shop"]).await;
    let report = report(role, &server.opts()).await;
    let complaints = complaints(&report);
    let [(found, failed, text)] = &complaints[..] else { panic!("{argument}: {complaints:?}") };
    assert_eq!((*found, *failed), (name, fails), "{argument}");
    assert!(text.contains(says), "{argument}: {text}");
    assert_eq!(report.passed(), !fails);
}

#[tokio::test]
async fn each_missing_right_is_named_with_its_grant() {
    let server = TestServer::start(Role::Master).await;
    server.run(&["CREATE USER node@localhost IDENTIFIED BY 'secret'"]).await;
    let opts: Opts = OptsBuilder::from_opts(server.opts()).user(Some("node")).pass(Some("secret")).into();
    let names = |report: &Report| complaints(report).into_iter().map(|(name, ..)| name).collect::<Vec<_>>();

    let bare = report(Role::Master, &opts).await;
    let expected = [
        "no binlog_do_db, no binlog_ignore_db",
        "right to read the binlog",
        "rights on the schema towline",
        "right to end queries that clients abandon",
        "rights to give new slaves a snapshot",
        "no account without a password over the Unix socket",
        "every account can be used from the node's address",
    ];
    assert_eq!(names(&bare), expected);
    let bare = report(Role::Slave, &opts).await;
    let rights = [
        "rights to apply rows",
        "rights to end sessions that block changes",
        "rights on the schema towline",
        "rights to change schemas",
        "right to create for other definers",
    ];
    for right in rights {
        assert!(names(&bare).contains(&right), "{right} of {bare}");
    }

    // The statements that the lines propose are run as they are.
    for role in [Role::Master, Role::Slave] {
        for (_, _, text) in complaints(&report(role, &opts).await) {
            if let Some((_, rest)) = text.split_once("`GRANT ") {
                let (grant, _) = rest.split_once('`').unwrap();
                server.run(&[&format!("GRANT {grant}")]).await;
            }
        }
    }
    assert_eq!(complaints(&report(Role::Master, &opts).await), []);
    let rest = names(&report(Role::Slave, &opts).await);
    assert!(rights.iter().all(|right| !rest.contains(right)), "{rest:?}");
}

#[tokio::test]
async fn an_account_that_the_socket_alone_proves_fails_over_the_socket_only() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listen = ["--skip-networking=OFF", "--bind-address=127.0.0.1", &format!("--port={port}")];
    let server = TestServer::start_with(Role::Master, &listen).await;
    server.run(&["CREATE USER root@localhost IDENTIFIED VIA mysql_native_password USING '' OR unix_socket"]).await;
    let by_socket = report(Role::Master, &server.opts()).await;
    let complaints = complaints(&by_socket);
    let [(_, true, text)] = &complaints[..] else { panic!("{complaints:?}") };
    assert!(text.contains("ALTER USER 'root'@'localhost'"), "{text}");
    server.run(&["ALTER USER root@localhost IDENTIFIED BY 'secret'"]).await;
    assert!(report(Role::Master, &server.opts()).await.passed());

    server.run(&["ALTER USER root@localhost IDENTIFIED VIA unix_socket"]).await;
    server.run(&["GRANT ALL ON *.* TO node@127.0.0.1 IDENTIFIED BY 'secret'"]).await;
    let by_tcp =
        OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(port).user(Some("node")).pass(Some("secret"));
    let by_tcp = report(Role::Master, &by_tcp.into()).await;
    assert!(by_tcp.passed(), "{by_tcp}");
}

#[tokio::test]
async fn a_server_that_cannot_be_asked_is_an_error_that_says_why() {
    let server = TestServer::start(Role::Master).await;
    let wrong: Opts = OptsBuilder::from_opts(server.opts()).pass(Some("wrong")).into();
    let error = check::run(Role::Master, (&wrong).into()).await.expect_err("a wrong password");
    assert!(matches!(error, CheckError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("refuses the account") && !error.to_string().contains("wrong"), "{error}");

    let opts = server.opts();
    server.managed().stop().await;
    let error = check::run(Role::Master, (&opts).into()).await.expect_err("nobody there");
    assert!(matches!(error, CheckError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("Is it running"), "{error}");

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let web = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    });
    let opts: Opts = OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(port).user(Some("node")).into();
    let error = check::run(Role::Slave, (&opts).into()).await.expect_err("no MySQL");
    assert!(matches!(error, CheckError::Unreachable { .. }), "{error}");
    web.await.unwrap();
}

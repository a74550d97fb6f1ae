//! Each requirement met and failed, on real servers.

use std::time::Duration;

use mysql_async::{Opts, OptsBuilder, prelude::Queryable};
use serde_json::json;
use towline::{
    check::{self, CheckError, Outcome, Report, Target},
    config::{Cluster, Secret},
};
use towline_middleware::Role;

use crate::support::{Mysql9, TestServer, eventually, http::TestHttp, mysql_server};

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
    assert_complaints(&report(role, &server.opts()).await, &[&(name, fails, says)], &[argument]);
}

/// On one server, since most can be set while it runs; what it complains of besides is the same each time.
#[tokio::test]
async fn each_setting_is_missed_on_mysql() {
    let options = ["--binlog-ignore-db=log", "--sync-binlog=1", "--innodb-flush-log-at-trx-commit=1", "--read-only=ON"];
    let Some(server) = mysql_server(&[&options[..], &["--max-allowed-packet=1G"]].concat()).await else { return };
    let account = OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(server.port);
    let account: Opts = account.prefer_socket(Some(false)).user(Some("towline")).pass(Some("towline")).into();
    const LOG: (&str, bool, &str) = ("no binlog_do_db, no binlog_ignore_db", true, "binlog_ignore_db=log");
    // The settings, how they are taken back, and the complaints besides those of the start.
    type Case<'a> = (Role, &'a [&'a str], &'a [&'a str], &'a [(&'a str, bool, &'a str)]);
    let cases: [Case<'_>; 17] = [
        (Role::Master, &[], &[], &[]),
        (
            Role::Master,
            &["binlog_format = MIXED"],
            &["binlog_format = ROW"],
            &[("binlog_format", true, "`SET GLOBAL binlog_format = 'ROW'`")],
        ),
        (
            Role::Master,
            &["binlog_row_image = MINIMAL"],
            &["binlog_row_image = FULL"],
            &[("binlog_row_image", true, "`binlog_row_image=FULL`")],
        ),
        (
            Role::Master,
            &["binlog_checksum = NONE"],
            &["binlog_checksum = CRC32"],
            &[("binlog_checksum", true, "`binlog_checksum=CRC32`")],
        ),
        (Role::Master, &["gtid_mode = ON_PERMISSIVE"], &["gtid_mode = ON"], &[("gtid_mode", true, "`gtid_mode=ON`")]),
        (
            Role::Master,
            &["gtid_mode = ON_PERMISSIVE", "enforce_gtid_consistency = WARN"],
            &["enforce_gtid_consistency = ON", "gtid_mode = ON"],
            &[("gtid_mode", true, "restart"), ("enforce_gtid_consistency", true, "`enforce_gtid_consistency=ON`")],
        ),
        (
            Role::Master,
            &["sync_binlog = 0"],
            &["sync_binlog = 1"],
            &[("sync_binlog", false, "`SET GLOBAL sync_binlog = 1`")],
        ),
        (
            Role::Master,
            &["innodb_flush_log_at_trx_commit = 2"],
            &["innodb_flush_log_at_trx_commit = 1"],
            &[("innodb_flush_log_at_trx_commit", false, "innodb_flush_log_at_trx_commit=1")],
        ),
        (
            Role::Master,
            &["binlog_order_commits = OFF"],
            &["binlog_order_commits = ON"],
            &[("binlog_order_commits", false, "'ON'")],
        ),
        (Role::Slave, &[], &[], &[]),
        (
            Role::Slave,
            &["binlog_format = STATEMENT"],
            &["binlog_format = ROW"],
            &[("binlog_format", true, "`binlog_format=ROW`")],
        ),
        (
            Role::Slave,
            &["replica_type_conversions = ALL_LOSSY"],
            &["replica_type_conversions = ''"],
            &[("replica_type_conversions", true, "`SET GLOBAL replica_type_conversions = ''`")],
        ),
        (
            Role::Slave,
            &["event_scheduler = ON"],
            &["event_scheduler = OFF"],
            &[("event_scheduler", true, "event_scheduler=OFF")],
        ),
        (
            Role::Slave,
            &["log_bin_trust_function_creators = OFF"],
            &["log_bin_trust_function_creators = ON"],
            &[("log_bin_trust_function_creators", true, "log_bin_trust_function_creators=ON")],
        ),
        (
            Role::Slave,
            &["super_read_only = ON"],
            &["super_read_only = OFF"],
            &[("super_read_only", true, "super_read_only=OFF")],
        ),
        (
            Role::Slave,
            &["max_allowed_packet = 16777216"],
            &["max_allowed_packet = 1073741824"],
            &[("max_allowed_packet", false, "`SET GLOBAL max_allowed_packet = 1073741824`")],
        ),
        (Role::Slave, &["read_only = OFF"], &["read_only = ON"], &[("read_only", false, "read_only=ON")]),
    ];
    let set = async |settings: &[&str]| {
        for setting in settings {
            server.run(&[&format!("SET GLOBAL {setting}")]).await;
        }
    };
    for (role, wrong, right, expected) in cases {
        set(wrong).await;
        let report = report(role, &account).await;
        let of_log = (role == Role::Master).then_some(&LOG);
        let expected: Vec<_> = expected.iter().chain(of_log).collect();
        assert_complaints(&report, &expected, wrong);
        set(right).await;
    }

    // Numbers that have no order with this server's own.
    let mut conn = server.connect().await;
    for sql in ["SET gtid_next = 'aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa:5'", "CREATE DATABASE shop"] {
        conn.query_drop(sql).await.unwrap();
    }
    let foreign = ("one server's GTIDs", true, "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa:5");
    assert_complaints(&report(Role::Master, &account).await, &[&LOG, &foreign], &["gtid_next"]);
    drop(server);

    let Some(server) = Mysql9::start_with(&["--skip-log-bin"]).await else { return };
    for role in [Role::Master, Role::Slave] {
        let complaints = complaints(&report(role, &server.opts()).await);
        let log: Vec<_> = complaints.iter().filter(|(name, ..)| *name == "log_bin").collect();
        assert!(matches!(log[..], [(_, true, text)] if text.contains("`log_bin` into [mysqld]")), "{complaints:?}");
    }
}

fn assert_complaints(report: &Report, expected: &[&(&str, bool, &str)], what: &[&str]) {
    let found = complaints(report);
    assert_eq!(found.len(), expected.len(), "{what:?}: {found:?}");
    for ((name, failed, text), (expected, fails, says)) in found.iter().zip(expected) {
        assert_eq!((name, failed), (expected, fails), "{what:?}: {text}");
        assert!(text.contains(says), "{what:?}: {text}");
    }
    assert_eq!(report.passed(), !expected.iter().any(|(_, fails, _)| *fails), "{what:?}");
}

#[tokio::test]
async fn a_table_without_transactions_is_named_before_a_slave_stops_at_it() {
    let server = TestServer::start(Role::Master).await;
    server.run(&["CREATE DATABASE shop", "CREATE TABLE shop.t (i INT)", "CREATE SEQUENCE shop.s"]).await;
    assert_eq!(complaints(&report(Role::Master, &server.opts()).await), []);
    for n in 0..7 {
        server.run(&[&format!("CREATE TABLE shop.m{n} (i INT) ENGINE=MyISAM")]).await;
    }
    let report = report(Role::Master, &server.opts()).await;
    let complaints = complaints(&report);
    let [(_, false, text)] = &complaints[..] else { panic!("{complaints:?}") };
    assert!(text.contains("`shop`.`m0` (MyISAM)") && text.contains("and 2 more: "), "{text}");
}

/// A node's part of the cluster, with the slaves or the master that it is told of.
fn cluster(neighbours: serde_json::Value) -> Cluster {
    let secret = Secret::try_from("a secret of the tests".to_owned()).unwrap();
    Cluster { secret: Some(secret), ..serde_json::from_value(neighbours).unwrap() }
}

#[tokio::test]
async fn a_slave_that_rows_of_the_masters_do_not_fit_is_told_by_either_side() {
    const NAME: &str = "rows of the master's fit the slave's max_allowed_packet";
    let with_secret = |options: &mut towline::frontend::http::HttpOptions| options.secret = cluster(json!({})).secret;
    let (master_server, master) = TestHttp::start(Role::Master, with_secret).await;
    let (slave_server, slave) = TestHttp::start(Role::Slave, with_secret).await;
    let (master_url, slave_url) = (format!("http://{}", master.addr), format!("http://{}", slave.addr));
    let told = async |role, server: &TestServer, cluster: &Cluster| {
        let opts = server.opts();
        let (_, report) = check::run(role, Target { cluster: Some(cluster), ..Target::from(&opts) }).await.unwrap();
        assert!(report.passed(), "{report}");
        report.lines.into_iter().filter(|line| line.name == NAME).map(|line| line.to_string()).collect::<Vec<_>>()
    };
    let of_master = cluster(json!({"slaves": [&slave_url]}));
    let of_slave = cluster(json!({"master": &master_url}));
    let ok = [format!("ok       {NAME}")];
    assert_eq!(told(Role::Master, &master_server, &of_master).await, ok);
    assert_eq!(told(Role::Slave, &slave_server, &of_slave).await, ok);
    assert_eq!(told(Role::Slave, &slave_server, &cluster(json!({}))).await, [""; 0], "there is nobody to compare with");

    slave_server.run(&["SET GLOBAL max_allowed_packet = 16777216"]).await;
    for (role, server, cluster) in [(Role::Master, &master_server, &of_master), (Role::Slave, &slave_server, &of_slave)]
    {
        // A node asks its server no oftener than once a second.
        let line = eventually("a warning", async || match &told(role, server, cluster).await[..] {
            [line] if line.starts_with("warning") => Ok(line.clone()),
            other => Err(format!("{role:?}: {other:?}")),
        })
        .await;
        for says in ["is 16777216, the master's 268435456", "`SET GLOBAL max_allowed_packet = 1073741824`"] {
            assert!(line.contains(says), "{says} is not in {line}");
        }
    }

    // One that has registered itself, and is down.
    let register = master.bare(reqwest::Method::POST, "/admin/slaves").bearer_auth("a secret of the tests");
    let down = format!("http://127.0.0.1:{}", crate::support::server::free_port());
    let registered = register.json(&json!({"id": "down", "url": &down})).send().await.unwrap();
    assert!(registered.status().is_success(), "{registered:?}");
    let told = told(Role::Master, &master_server, &of_master).await;
    let [by_file, by_itself] = &told[..] else { panic!("{told:?}") };
    let (shortage, unknown) = if by_file.contains(&down) { (by_itself, by_file) } else { (by_file, by_itself) };
    assert!(shortage.contains(&slave_url) && shortage.contains("16777216"), "{shortage}");
    assert!(unknown.contains(&format!("the slave {down} could not be asked")), "{unknown}");
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
    let target = Target { keeps_keys: true, ..Target::from(&opts) };
    let (_, keyed) = check::run(Role::Master, target).await.unwrap();
    let told = keyed.to_string();
    let grant = "GRANT CREATE, CREATE ROUTINE, SELECT, INSERT, UPDATE, DELETE ON towline_app.* TO";
    assert!(names(&keyed).len() == expected.len() + 1 && told.contains(grant), "{told}");
    let bare = report(Role::Slave, &opts).await;
    let rights = [
        "rights to apply rows",
        "rights to end sessions that block changes",
        "rights on the schema towline",
        "rights to change schemas",
        "right to create for other definers",
        "rights to give rights and roles",
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

//! The program from outside: its exit codes and what it says.

use std::process::{Command, Output};

use towline_middleware::Role;

use crate::support::TestServer;

fn towline(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_towline"));
    command.args(arguments).envs(environment.iter().copied()).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_wrong_configuration_exits_with_2_and_names_the_mend() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("node.toml");
    std::fs::write(&file, "[master.http]\nlistn = '127.0.0.1:1'").unwrap();
    for command in ["run", "check"] {
        let output = towline(&[command, "--role", "master", "--config", file.to_str().unwrap()], &[]);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains("did you mean `listen`?"), "{}", said(&output));
        assert!(said(&output).contains("node.toml"), "{}", said(&output));
    }
}

#[test]
fn the_environment_wins_over_the_file_and_its_mistakes_are_named_as_variables() {
    let reference = concat!(env!("CARGO_MANIFEST_DIR"), "/config.toml");
    for (variable, value, wanted) in [
        ("TOWLINE_HTPP__LISTEN", "127.0.0.1:1", "`TOWLINE_HTPP`: no such key (did you mean `http`?)"),
        ("TOWLINE_HTTP__LISTEN", "here", "`TOWLINE_HTTP__LISTEN`: invalid socket address"),
        ("TOWLINE_HTTP__LISTEN", "0.0.0.0:5000", "cluster.secret"),
        ("TOWLINE_CLUSTER__SECRET", "0123", "`TOWLINE_CLUSTER__SECRET`: invalid type"),
        ("TOWLINE_MYSQL__URL", "mysql://towline:x@127.0.0.1:1", "mysql.managed"),
    ] {
        let output = towline(&["run"], &[("TOWLINE_ROLE", "master"), ("TOWLINE_CONFIG", reference), (variable, value)]);
        assert_eq!(output.status.code(), Some(2), "{variable}: {}", said(&output));
        assert!(said(&output).contains(wanted), "{variable}: {}", said(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_says_what_mends_a_server_that_exists_and_exits_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("node.toml");
    let check = |server: &TestServer, password: &str| {
        let (socket, user) = (server.managed().socket().display().to_string(), server.opts());
        let url = format!("mysql://{}:{password}@localhost?socket={socket}", user.user().unwrap());
        std::fs::write(&file, format!("[default.mysql]\nmanaged = false\nurl = {url:?}")).unwrap();
        towline(&["check", "--role", "master", "--config", file.to_str().unwrap()], &[])
    };
    let good = TestServer::start(Role::Master).await;
    let password = |server: &TestServer| server.opts().pass().unwrap().to_owned();
    let output = check(&good, &password(&good));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("ok       "), "{output:?}");
    let output = check(&good, "wrong");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(said(&output).contains("refuses the account"), "{output:?}");

    let bad = TestServer::start_with(Role::Master, &["--binlog-format=STATEMENT", "--skip-log-bin"]).await;
    let output = check(&bad, &password(&bad));
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("FAILED   "), "{output:?}");
}

#[test]
fn a_check_of_a_private_server_starts_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data").display().to_string();
    for role in ["master", "slave"] {
        let data = format!("{data}-{role}");
        let output = towline(&["check", "--role", role], &[("TOWLINE_MYSQL__DATA_DIR", &data)]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(!String::from_utf8_lossy(&output.stdout).contains("FAILED"), "{output:?}");
    }
}

#[test]
fn a_wrong_command_line_exits_with_2() {
    let output = towline(&["run", "--role", "mastr"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("a node is `master` or `slave`"), "{}", said(&output));
}

#[test]
fn a_node_that_is_not_there_exits_with_1() {
    let output = towline(&["status", "--url", "http://127.0.0.1:1"], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("no node answers at http://127.0.0.1:1/status"), "{}", said(&output));
}

#[test]
fn a_demo_whose_port_is_taken_says_which_flag_mends_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = towline(&["demo", "--once", "--mysql-port", "0", "--http-port", &port], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("--http-port"), "{}", said(&output));
}

#[test]
fn the_demo_ends_with_equal_slaves_and_refused_writes() {
    let output = towline(&["demo", "--once", "--http-port", "0", "--mysql-port", "0"], &[]);
    let story = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{story}\n{}", said(&output));
    assert!(story.contains("after the start of the program"), "{story}");
    assert!(story.contains("`shop`.`item`") && story.contains("on all 3 nodes"), "{story}");
    assert!(story.contains("slave-2  shows it"), "{story}");
    assert!(story.contains("ERROR 1290"), "{story}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_start_says_why_and_what_mends_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("node.toml");
    let server = TestServer::start(Role::Master).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = |password: &str, place: &str| format!("url = \"mysql://towline:{password}@{place}\"");
    let socket = format!("localhost?socket={}", server.managed().socket().display());
    let good = url(server.opts().pass().unwrap(), &socket);
    let unfit = TestServer::start_with(Role::Master, &["--binlog-format=MIXED"]).await;
    let unfit_place = format!("localhost?socket={}", unfit.managed().socket().display());
    let busy = format!("{good}\n[master.http]\nlisten = \"{}\"", taken.local_addr().unwrap());
    for (mysql, code, words) in [
        (busy.as_str(), 1, ["`http.listen`", "in use"]),
        (&url("wrong", &socket), 2, ["refuses the account", "towline"]),
        (&url(unfit.opts().pass().unwrap(), &unfit_place), 2, ["binlog_format", "ROW"]),
    ] {
        let listen = "[default.mysql_front]\nlisten = \"127.0.0.1:0\"\n[default.http]\nlisten = \"127.0.0.1:0\"";
        std::fs::write(&file, format!("{listen}\n[master.mysql]\nmanaged = false\n{mysql}")).unwrap();
        let output = towline(&["run", "--role", "master", "--config", file.to_str().unwrap()], &[]);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        for word in words {
            assert!(said(&output).contains(word), "`{word}` in {}", said(&output));
        }
    }
}

#[test]
fn explain_tells_why_without_a_node() {
    let output = towline(&["explain", "SELECT MD5(f()) FROM shop.item", "--server", "10.11.19-MariaDB"], &[]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.lines().any(|told| told.len() == 28 && told.starts_with("digest      ")), "{told}");
    for line in [
        "class       write",
        "rule        function f may be a stored one",
        "refused on  slaves",
        "functions   MD5, f",
        "tables      shop.item",
    ] {
        assert!(told.lines().any(|told| told == line), "{line}: {told}");
    }
}

#[test]
fn classify_prints_a_line_for_each_statement_and_tells_changes() {
    let folder = tempfile::tempdir().unwrap();
    let (statements, before) = (folder.path().join("statements.sql"), folder.path().join("before.tsv"));
    std::fs::write(&statements, "SELECT ';',\n 1; DELETE FROM t;;\nSET sql_log_bin = 0;").unwrap();
    let classify = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_towline"));
        let statements = std::fs::File::open(&statements).unwrap();
        let output = command.arg("classify").args(arguments).stdin(statements).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, lines) = classify(&[]);
    let wanted = "read\t-\tkeyword SELECT\tSELECT ';',\\n 1\nwrite\tslaves\tkeyword DELETE\tDELETE FROM t\n\
                  session_state\tevery node\tkeyword SET\tSET sql_log_bin = 0\n";
    assert_eq!((code, &*lines), (Some(0), wanted));

    let diff = ["--diff", before.to_str().unwrap()];
    std::fs::write(&before, &lines).unwrap();
    assert_eq!(classify(&diff), (Some(0), String::new()));
    std::fs::write(&before, lines.replace("write\tslaves\tkeyword DELETE", "read\t-\tkeyword DELETE")).unwrap();
    let changed = "-read\t-\tkeyword DELETE\tDELETE FROM t\n+write\tslaves\tkeyword DELETE\tDELETE FROM t\n";
    assert_eq!(classify(&diff), (Some(1), changed.to_owned()));
    std::fs::write(&before, "nonsense").unwrap();
    assert_eq!(classify(&diff).0, Some(1));
}

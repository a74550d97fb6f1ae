//! A private MariaDB through its life.

use std::{os::unix::fs::PermissionsExt, path::Path, process::Command};

use mysql_async::{Conn, OptsBuilder, prelude::Queryable};
use rustix::process::{Pid, Signal, kill_process};
use towline::managed::{ManagedError, ManagedOptions, ManagedServer, ManagedState};
use towline_middleware::Role;

use crate::support::{TestServer, copy_template, eventually};

#[tokio::test]
async fn a_new_folder_becomes_a_server_that_keeps_its_data() {
    let folder = tempfile::tempdir().unwrap();
    let options = || ManagedOptions::new(folder.path().join("new/er"), Role::Master);
    let server = ManagedServer::start(options()).await.unwrap();
    let mut connection = Conn::new(server.opts()).await.unwrap();
    connection.query_drop("CREATE DATABASE shop; CREATE TABLE shop.item (id INT PRIMARY KEY)").await.unwrap();
    connection.query_drop("INSERT INTO shop.item VALUES (7)").await.unwrap();
    let settings: Option<(String, String, String, u8, String)> = connection
        .query_first(
            "SELECT @@binlog_format, @@binlog_row_image, @@binlog_row_metadata, @@gtid_strict_mode, @@binlog_checksum",
        )
        .await
        .unwrap();
    assert_eq!(settings, Some(("ROW".into(), "FULL".into(), "FULL".into(), 1, "CRC32".into())));
    let id: Option<u32> = connection.query_first("SELECT @@server_id").await.unwrap();
    server.stop().await;
    assert!(matches!(*server.state().borrow(), ManagedState::Stopped));
    assert!(server.pid().is_none());

    let server = ManagedServer::start(options()).await.unwrap();
    let mut connection = Conn::new(server.opts()).await.unwrap();
    assert_eq!(connection.query_first("SELECT id FROM shop.item").await.unwrap(), Some(7));
    assert_eq!(connection.query_first("SELECT @@server_id").await.unwrap(), id, "the number is kept");
    server.stop().await;
}

#[tokio::test]
async fn only_the_administrator_with_the_password_can_log_in() {
    let server = TestServer::start(Role::Master).await;
    let accounts: Vec<String> = {
        let mut connection = server.connect().await;
        let sql = "SELECT CONCAT(user, '@', host) FROM mysql.global_priv \
                   WHERE NOT IFNULL(JSON_VALUE(priv, '$.account_locked'), 0)";
        connection.query(sql).await.unwrap()
    };
    assert_eq!(accounts, ["towline@localhost"]);
    for user in ["root", "towline", "", "mysql", "mariadb.sys"] {
        let opts = OptsBuilder::default().socket(Some(server.managed().socket().to_string_lossy())).user(Some(user));
        let refusal = Conn::new(opts).await.expect_err(user);
        assert!(matches!(&refusal, mysql_async::Error::Server(_)), "{user}: {refusal}");
    }
    let file = server.folder().join("client.cnf");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let answer = Command::new("mariadb")
        .arg(format!("--defaults-file={}", file.display()))
        .args(["--batch", "--skip-column-names", "--execute", "SELECT CURRENT_USER()"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&answer.stdout), "towline@localhost\n", "{answer:?}");
}

#[tokio::test]
async fn two_nodes_cannot_take_the_same_folder() {
    let server = TestServer::start(Role::Master).await;
    let second = ManagedServer::start(ManagedOptions::new(server.folder(), Role::Master)).await;
    let error = second.expect_err("the folder is taken");
    assert!(matches!(error, ManagedError::Locked { .. }), "{error}");
    assert!(error.to_string().contains("mysql.data_dir"), "{error}");
}

#[tokio::test]
async fn a_folder_with_other_things_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ibdata1"), "somebody's").unwrap();
    let error = ManagedServer::start(ManagedOptions::new(folder.path(), Role::Master)).await.expect_err("foreign");
    assert!(matches!(&error, ManagedError::Foreign { found, .. } if found == "ibdata1"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing was added");
}

#[tokio::test]
async fn a_server_that_is_killed_comes_back_with_its_data() {
    let server = TestServer::start(Role::Master).await;
    server.run(&["CREATE DATABASE shop", "CREATE TABLE shop.item (id INT)", "INSERT INTO shop.item VALUES (1)"]).await;
    let first = server.managed().pid().unwrap();
    let mut state = server.managed().state();
    kill(first);
    let down = state.wait_for(|state| matches!(state, ManagedState::Down { .. })).await.unwrap().clone();
    let ManagedState::Down { reason, .. } = down else { unreachable!() };
    assert!(reason.to_string().contains("signal: 9"), "{reason}");
    state.wait_for(|state| matches!(state, ManagedState::Ready { pid } if *pid != first)).await.unwrap();
    assert_eq!(server.connect().await.query_first("SELECT id FROM shop.item").await.unwrap(), Some(1));
}

#[tokio::test]
async fn the_server_of_a_node_that_was_killed_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    copy_template(folder.path()).await;
    let options = ManagedOptions::new(folder.path(), Role::Master);
    let first = ManagedServer::start(options.clone()).await.unwrap();
    // What a kill -9 of the node leaves: the child is not waited for, the lock is free.
    let orphan = respawn(&first, folder.path()).await;

    let second = ManagedServer::start(options.clone()).await.unwrap();
    assert_eq!(second.pid(), Some(orphan), "taken over, not replaced");
    let mut state = second.state();
    kill(orphan);
    state.wait_for(|state| matches!(state, ManagedState::Ready { pid } if *pid != orphan)).await.unwrap();
    let orphan = respawn(&second, folder.path()).await;

    let other = ManagedOptions { connections_max: 77, ..options };
    let third = ManagedServer::start(other).await.unwrap();
    assert_ne!(third.pid(), Some(orphan), "replaced, since it ran with other options");
    let mut connection = Conn::new(third.opts()).await.unwrap();
    assert_eq!(connection.query_first("SELECT @@max_connections").await.unwrap(), Some(77));
    third.stop().await;
    assert!(!is_running(orphan));
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    copy_template(folder.path()).await;
    let port = taken.local_addr().unwrap().port();
    let options = ManagedOptions { port: Some(port), ..ManagedOptions::new(folder.path(), Role::Master) };
    let error = ManagedServer::start(options).await.expect_err("the port is taken");
    assert!(matches!(error, ManagedError::Died { .. }), "{error}");
    assert!(error.to_string().contains("Bind on TCP/IP port"), "{error}");
}

#[tokio::test]
async fn a_long_path_gets_its_socket_elsewhere_and_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let long = folder.path().join("x".repeat(100));
    copy_template(&long).await;
    let options = ManagedOptions::new(&long, Role::Slave);
    let server = ManagedServer::start(options.clone()).await.unwrap();
    let socket = server.socket().to_owned();
    assert!(socket.as_os_str().len() <= 107 && !socket.starts_with(&long), "{}", socket.display());
    let mut connection = Conn::new(server.opts()).await.unwrap();
    assert_eq!(connection.query_first("SELECT @@read_only").await.unwrap(), Some(1), "a slave's server");
    server.stop().await;
    let again = ManagedServer::start(options).await.unwrap();
    assert_eq!(again.socket(), socket);
    again.stop().await;
    std::fs::remove_dir_all(socket.parent().unwrap()).unwrap();
}

#[tokio::test]
async fn a_changed_password_is_named_with_its_file() {
    let folder = tempfile::tempdir().unwrap();
    copy_template(folder.path()).await;
    let file = folder.path().join("client.cnf");
    std::fs::write(&file, "[client]\nuser=towline\npassword=wrong\n").unwrap();
    let error = ManagedServer::start(ManagedOptions::new(folder.path(), Role::Master)).await.expect_err("wrong");
    assert!(matches!(error, ManagedError::Login { .. }), "{error}");
    assert!(error.to_string().contains("client.cnf"), "{error}");
    std::fs::remove_file(&file).unwrap();
    let error = ManagedServer::start(ManagedOptions::new(folder.path(), Role::Master)).await.expect_err("none");
    assert!(matches!(error, ManagedError::NoCredentials { .. }), "{error}");
}

#[tokio::test]
async fn an_unfinished_folder_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("lock"), "").unwrap();
    std::fs::create_dir(folder.path().join("mariadb.new")).unwrap();
    std::fs::write(folder.path().join("mariadb.new/ibdata1"), "half").unwrap();
    let server = ManagedServer::start(ManagedOptions::new(folder.path(), Role::Master)).await.unwrap();
    assert!(!folder.path().join("mariadb.new").exists());
    server.stop().await;
}

/// Puts a server that is nobody's in the place of this one, with the same command line.
async fn respawn(server: &ManagedServer, folder: &Path) -> u32 {
    let pid = server.pid().unwrap();
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    let line = String::from_utf8(line).unwrap();
    let mut arguments = line.trim_end_matches('\0').split('\0');
    let program = arguments.next().unwrap();
    server.stop().await;
    let log = std::fs::File::options().append(true).open(folder.join("error.log")).unwrap();
    let mut child = Command::new(program).args(arguments).stderr(log).spawn().unwrap();
    let pid = child.id();
    std::thread::spawn(move || child.wait());
    let opts = server.opts();
    eventually("the orphan answers", async || Conn::new(opts.clone()).await?.disconnect().await).await;
    pid
}

fn kill(pid: u32) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
}

fn is_running(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

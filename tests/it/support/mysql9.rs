//! An Oracle MySQL 9.7, where `scripts/mysql8.sh` can get one; where not, the test says so and passes.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use mysql_async::{Conn, Opts, OptsBuilder};
use tempfile::TempDir;
use tokio::sync::OnceCell;
use towline_middleware::Role;

use super::TestNode;

/// The exit code of the script where MySQL can't be had.
const CANNOT_BE_HAD: i32 = 3;
/// From the start of the process to the first login. The other tests run at the same time.
const START_DEADLINE: Duration = Duration::from_secs(120);

/// What a master's server must have, in little memory.
const SETTINGS: [&str; 12] = [
    "--bind-address=127.0.0.1",
    "--mysqlx=OFF",
    "--gtid-mode=ON",
    "--enforce-gtid-consistency=ON",
    "--binlog-row-metadata=FULL",
    "--performance-schema=OFF",
    "--innodb-buffer-pool-size=32M",
    "--innodb-flush-log-at-trx-commit=2",
    "--sync-binlog=0",
    "--table-open-cache=200",
    "--table-definition-cache=400",
    "--max-connections=200",
];

/// Kills the server for each line of the standard input and starts it again; ends it and removes its folder when this
/// process, however it ends, no longer holds the other end: what is shared is never dropped.
const WATCHED: &str = r#"
    "$@" & server=$!
    while read -r _; do kill -9 $server; wait $server 2>/dev/null; "$@" & server=$!; done
    kill -9 $server; wait $server 2>/dev/null; rm -rf "$0""#;

/// A running MySQL. Its accounts: `root` without a password, over the socket only.
#[derive(Debug)]
pub(crate) struct Mysql9 {
    pub(crate) port: u16,
    pub(crate) socket: PathBuf,
    watcher: Child,
    folder: TempDir,
}

impl Drop for Mysql9 {
    fn drop(&mut self) {
        drop(self.watcher.stdin.take());
        // It ends either way; waiting keeps the folder until nobody writes to it.
        let _ = self.watcher.wait();
    }
}

impl Mysql9 {
    /// The one that the tests of this process share: each makes schemas and accounts of its own. None, after a loud
    /// word, where MySQL can't be had.
    pub(crate) async fn shared() -> Option<&'static Self> {
        static SHARED: OnceCell<Option<Mysql9>> = OnceCell::const_new();
        SHARED.get_or_init(|| Self::start_with(&[])).await.as_ref()
    }

    /// One of the test's own, with more options of `mysqld`.
    pub(crate) async fn start_with(extra_args: &[&str]) -> Option<Self> {
        let Some(programs) = programs().await else {
            let test = std::thread::current().name().unwrap_or("a test").to_owned();
            // Not by a macro: those are kept from whoever runs the tests.
            let _ = writeln!(std::io::stderr(), "SKIPPED: {test} needs MySQL 9.7 (scripts/mysql8.sh can't get it)");
            return None;
        };
        for _ in 0..3 {
            if let Some(server) = Self::start(programs, extra_args).await {
                return Some(server);
            }
        }
        panic!("MySQL does not start; see its log above");
    }

    async fn start(programs: &Path, extra_args: &[&str]) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = folder.path().join("data");
        super::server::copy(&data_template(programs).await, &data);
        fs::remove_file(data.join("auto.cnf")).expect("the template's identity");
        let port = super::server::free_port();
        let socket = folder.path().join("my.sock");
        let log = fs::File::create(folder.path().join("log")).expect("a log");
        let watcher = Command::new("sh")
            .args(["-c", WATCHED])
            .arg(folder.path())
            .arg(programs.join("bin/mysqld"))
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--port={port}"))
            .arg(format!("--socket={}", socket.display()))
            .arg(format!("--pid-file={}", folder.path().join("pid").display()))
            .arg(format!("--server-id={port}"))
            .args(SETTINGS)
            .args(extra_args)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn()
            .expect("a shell");
        let server = Self { port, socket, watcher, folder };
        let started = std::time::Instant::now();
        loop {
            match Conn::new(server.opts()).await {
                Ok(_) => return Some(server),
                Err(error) if started.elapsed() > START_DEADLINE || server.has_ended() => {
                    eprintln!("{error}: {}", fs::read_to_string(server.folder.path().join("log")).unwrap_or_default());
                    return None;
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    fn has_ended(&self) -> bool {
        // The server writes the file early and removes it when it gives up; a port in use shows in its log at once.
        fs::read_to_string(self.folder.path().join("log")).is_ok_and(|log| log.contains("[ERROR]"))
    }

    /// Kills it with -9 and starts it again.
    pub(crate) fn crash(&self) {
        writeln!(self.watcher.stdin.as_ref().expect("only `drop` takes it")).expect("a watcher");
    }

    /// How to log in as the administrator.
    pub(crate) fn opts(&self) -> Opts {
        OptsBuilder::default().socket(Some(self.socket.to_string_lossy())).user(Some("root")).into()
    }

    /// A connection of the administrator's.
    pub(crate) async fn connect(&self) -> Conn {
        Conn::new(self.opts()).await.expect("a server that was started takes connections")
    }

    /// Runs statements as the administrator, one by one.
    pub(crate) async fn run(&self, statements: &[&str]) {
        super::server::run(self.connect().await, statements).await;
    }

    /// Runs a statement by MySQL's own client through a front on this port of 127.0.0.1, and returns what it prints.
    pub(crate) async fn client(&self, port: u16, ssl_mode: &str, user: &str, password: &str, sql: &str) -> String {
        let programs = programs().await.expect("a server that runs has been fetched");
        let output = tokio::process::Command::new(programs.join("bin/mysql"))
            .args(["--host=127.0.0.1", "--protocol=TCP", "--get-server-public-key", "--batch"])
            .args([format!("--port={port}"), format!("--ssl-mode={ssl_mode}")])
            .args([format!("--user={user}"), format!("--password={password}"), format!("--execute={sql}")])
            .output();
        let output = output.await.expect("a client");
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    /// Where it keeps the certificates that it makes by itself: `ca.pem`, `server-cert.pem`, `server-key.pem`.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

/// The folder with MySQL's programs, fetched by the first run of the tests and kept for the next.
async fn programs() -> Option<&'static Path> {
    static PROGRAMS: OnceCell<Option<PathBuf>> = OnceCell::const_new();
    let fetched = PROGRAMS.get_or_init(async || {
        tokio::task::spawn_blocking(|| {
            let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mysql9");
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/mysql8.sh");
            let output = Command::new("bash").arg(script).arg(&folder).output().expect("bash");
            match output.status.code() {
                Some(0) => Some(folder),
                Some(CANNOT_BE_HAD) => {
                    let _ = std::io::stderr().write_all(&output.stderr);
                    None
                }
                _ => panic!("scripts/mysql8.sh: {}", String::from_utf8_lossy(&output.stderr)),
            }
        })
        .await
        .expect("a script that ends")
    });
    fetched.await.as_deref()
}

/// A fresh data folder, made once and copied for each server, which is faster than making one.
async fn data_template(programs: &Path) -> PathBuf {
    static TEMPLATE: OnceCell<()> = OnceCell::const_new();
    let template = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mysql9-data");
    let make = async || {
        if template.exists() {
            return;
        }
        let making = template.with_extension(std::process::id().to_string());
        let mysqld = programs.join("bin/mysqld");
        let made = making.clone();
        let output = tokio::task::spawn_blocking(move || {
            Command::new(mysqld)
                .args(["--initialize-insecure", "--innodb-redo-log-capacity=32M"])
                .arg(format!("--datadir={}", made.display()))
                .output()
                .expect("mysqld")
        });
        let output = output.await.expect("an initialization that ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // Another run of the tests may have been faster.
        let _ = fs::rename(&making, &template);
    };
    TEMPLATE.get_or_init(make).await;
    template
}

/// A server with the account of the nodes, and with what a slave's must have.
pub(crate) async fn mysql_server(options: &[&str]) -> Option<Mysql9> {
    let of_slaves = ["--event-scheduler=OFF", "--log-bin-trust-function-creators=ON"];
    let server = Mysql9::start_with(&[&of_slaves, options].concat()).await?;
    server
        .run(&[
            "SET sql_log_bin = 0",
            "CREATE USER towline@'%' IDENTIFIED BY 'towline'",
            "GRANT ALL ON *.* TO towline@'%' WITH GRANT OPTION",
        ])
        .await;
    Some(server)
}

/// A node before it.
pub(crate) async fn mysql_node(server: &Mysql9, role: Role, cluster: &str) -> TestNode {
    let url = format!("mysql://towline:towline@127.0.0.1:{}", server.port);
    let config = format!("[mysql]\nmanaged = false\nurl = {url:?}\n[cluster]\nsecret = 'of the tests'\n{cluster}");
    TestNode::start(&role.to_string(), role, &config).await
}

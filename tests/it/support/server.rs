//! A private MariaDB for one test.

use std::{
    fs,
    path::{Path, PathBuf},
};

use mysql_async::{Conn, Opts, prelude::Queryable};
use tempfile::TempDir;
use tokio::sync::OnceCell;
use towline::managed::{ManagedOptions, ManagedServer};
use towline_middleware::Role;

/// A private MariaDB in a folder of its own, killed and removed when dropped.
pub(crate) struct TestServer {
    server: ManagedServer,
    folder: TempDir,
}

impl TestServer {
    /// A server with the settings that a node of this role gives its own.
    pub(crate) async fn start(role: Role) -> Self {
        Self::start_with(role, &[]).await
    }

    /// The same with more options of `mariadbd`.
    pub(crate) async fn start_with(role: Role, extra_args: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        copy_template(folder.path()).await;
        let mut options = ManagedOptions::new(folder.path(), role);
        options.extra_args = extra_args.iter().map(|argument| (*argument).to_owned()).collect();
        let server = ManagedServer::start(options).await.unwrap_or_else(|error| panic!("{error}"));
        Self { server, folder }
    }

    /// How to log in as the administrator.
    pub(crate) fn opts(&self) -> Opts {
        self.server.opts()
    }

    /// A connection of the administrator's.
    pub(crate) async fn connect(&self) -> Conn {
        Conn::new(self.opts()).await.expect("a server that was started takes connections")
    }

    /// Runs statements as the administrator, one by one.
    pub(crate) async fn run(&self, statements: &[&str]) {
        run(self.connect().await, statements).await;
    }

    /// The server as the node sees it.
    pub(crate) fn managed(&self) -> &ManagedServer {
        &self.server
    }

    /// The folder that it lives in.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// A port of 127.0.0.1 that nobody listens on.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port()
}

/// Makes this folder a ready data folder: a copy of one that is made once per test run, which is faster than making one.
pub(crate) async fn copy_template(folder: &Path) {
    static TEMPLATE: OnceCell<PathBuf> = OnceCell::const_new();
    let template = TEMPLATE.get_or_init(make_template).await;
    copy(template, folder);
}

async fn make_template() -> PathBuf {
    // A process's statics are not dropped: the next run removes what this one leaves.
    let templates = Path::new(env!("CARGO_TARGET_TMPDIR")).join("templates");
    for old in fs::read_dir(&templates).into_iter().flatten().flatten() {
        if !Path::new("/proc").join(old.file_name()).exists() {
            // Another run may be removing it too.
            let _ = fs::remove_dir_all(old.path());
        }
    }
    let folder = templates.join(std::process::id().to_string());
    let server = ManagedServer::start(ManagedOptions::new(&folder, Role::Master)).await;
    server.unwrap_or_else(|error| panic!("{error}")).stop().await;
    // Each copy draws its own number and begins its own binlog.
    fs::remove_file(folder.join("server-id")).expect("a file of the template's");
    for entry in fs::read_dir(folder.join("mariadb")).expect("the template's data").flatten() {
        if entry.file_name().to_string_lossy().starts_with("binlog.") {
            fs::remove_file(entry.path()).expect("a file of the template's");
        }
    }
    folder
}

/// Copies a folder with all that is in it.
pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("the template").flatten() {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().expect("a file's type");
        if kind.is_dir() {
            copy(&source, &target);
        } else if kind.is_file() {
            fs::copy(&source, &target).expect("a copy");
        }
    }
}

/// Runs statements one by one.
pub(super) async fn run(mut connection: Conn, statements: &[&str]) {
    for statement in statements {
        connection.query_drop(*statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    connection.disconnect().await.expect("a farewell");
}

//! A real node: the `towline` program with a private MariaDB, on ports that the system chooses.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use mysql_async::{Conn, Opts, OptsBuilder, prelude::Queryable};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::timeout;
use toml::{Table, Value};
use towline::{
    demo::{NodeProcess, NodeSpec},
    fail_point::FailPoint,
    managed,
    node::Ready,
};
use towline_middleware::Role;

use super::{CLIENT, SmallDisk, server::copy_template, wait::deadline};

/// A node in a process of its own, killed and removed when dropped.
pub(crate) struct TestNode {
    process: NodeProcess,
    config: Table,
    ready: Ready,
    disk: Option<SmallDisk>,
    folder: TempDir,
}

impl TestNode {
    /// A node with this configuration, as a role's tables have it; the listeners' ports are added.
    pub(crate) async fn start(name: &str, role: Role, config: &str) -> Self {
        Self::start_on(name, role, config, |_| None).await
    }

    /// The same with its server's data on the disk that is made for this folder.
    pub(crate) async fn start_on(
        name: &str,
        role: Role,
        config: &str,
        disk: impl FnOnce(&Path) -> Option<SmallDisk>,
    ) -> Self {
        let mut config: Table = config.parse().expect("the configuration of a test");
        for listener in ["http", "mysql_front"] {
            let table = config.entry(listener).or_insert_with(|| Table::new().into());
            let table = table.as_table_mut().expect("a listener is a table");
            table.entry("listen").or_insert_with(|| "127.0.0.1:0".into());
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let program = env!("CARGO_BIN_EXE_towline").into();
        let (name, variables) = (name.to_owned(), Vec::new());
        let spec = NodeSpec { program, name, role, folder: folder.path().to_owned(), config, variables };
        let disk = disk(&spec.data_dir());
        let managed = |mysql: &Value| mysql.get("managed").and_then(Value::as_bool);
        if spec.config.get("mysql").and_then(managed) != Some(false) {
            copy_template(&spec.data_dir()).await;
        }
        let mut config = spec.config.clone();
        let mut process = NodeProcess::spawn(spec).unwrap_or_else(|error| panic!("{error}"));
        let ready = process.ready().await.unwrap_or_else(|error| panic!("{error}"));
        // After a restart the others must find it where it was.
        for (listener, address) in [("http", ready.http), ("mysql_front", ready.mysql_front)] {
            config[listener]["listen"] = Value::from(address.to_string());
        }
        Self { process, config, ready, disk, folder }
    }

    /// A POST to its administration.
    pub(crate) fn admin(&self, path: &str) -> reqwest::RequestBuilder {
        reqwest::Client::new().post(self.url(path)).bearer_auth(self.secret())
    }

    /// Empty without a cluster.
    fn secret(&self) -> &str {
        self.config.get("cluster").and_then(|cluster| cluster.get("secret")?.as_str()).unwrap_or_default()
    }

    /// Runs `towline verify` against it: the exit code and what it printed.
    pub(crate) async fn verify(&self) -> (Option<i32>, String) {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_towline"));
        command.args(["verify", "--url", &self.url("")]).env("TOWLINE_CLUSTER__SECRET", self.secret());
        let output = command.output().await.expect("the program");
        let told = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        (output.status.code(), told)
    }

    /// The URL of a path of its HTTP.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.ready.http)
    }

    /// What its `/status` tells.
    pub(crate) async fn status(&self) -> serde_json::Value {
        reqwest::get(self.url("/status")).await.unwrap().json().await.unwrap()
    }

    /// Where it serves HTTP.
    pub(crate) fn http(&self) -> SocketAddr {
        self.ready.http
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Pid {
        let pid = self.process.pid().expect("the node runs");
        Pid::from_raw(pid.cast_signed()).expect("a pid")
    }

    /// Where it serves the MySQL protocol.
    pub(crate) fn mysql_front(&self) -> SocketAddr {
        self.ready.mysql_front
    }

    /// Makes the account [`CLIENT`] on the server behind the node.
    pub(crate) async fn make_client(&self) {
        let mut administrator = Conn::new(self.server_opts()).await.expect("the node's server");
        let (user, password) = CLIENT;
        let sql = format!("CREATE USER {user}@'%' IDENTIFIED BY '{password}'");
        administrator.query_drop(sql).await.expect("an account");
    }

    /// Whether it is a slave.
    pub(crate) fn is_slave(&self) -> bool {
        self.process.spec().role == Role::Slave
    }

    /// How a client of the MySQL protocol logs in through the node.
    pub(crate) fn opts(&self, user: &str, password: &str) -> Opts {
        let address = self.ready.mysql_front;
        let opts = OptsBuilder::default().ip_or_hostname(address.ip().to_string()).tcp_port(address.port());
        // Otherwise the driver asks for the server's own socket and goes past the node.
        opts.prefer_socket(false).user(Some(user)).pass(Some(password)).into()
    }

    /// A connection through the node.
    pub(crate) async fn connect(&self, user: &str, password: &str) -> Result<Conn, mysql_async::Error> {
        Conn::new(self.opts(user, password)).await
    }

    /// How the administrator logs in to the server behind the node, past it.
    pub(crate) fn server_opts(&self) -> Opts {
        managed::login(&self.process.spec().data_dir()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Puts these `[[layer]]` blocks in the place of those in its file, or spoils the file if they are no TOML. The node
    /// is not told.
    pub(crate) fn write_layers(&self, blocks: &str) {
        let spec = self.process.spec();
        let file = spec.folder.join("config.toml");
        let Ok(mut blocks) = blocks.parse::<Table>() else { return fs::write(file, blocks).expect("its file") };
        let mut config: Table = fs::read_to_string(&file).expect("its file").parse().expect("as it was started");
        let role = config[spec.role.as_str()].as_table_mut().expect("a role is a table");
        role.insert("layer".to_owned(), blocks.remove("layer").unwrap_or_else(|| Value::Array(Vec::new())));
        fs::write(file, config.to_string()).expect("its file");
    }

    /// A file in its folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.process.spec().folder.join(name)
    }

    /// Sends it SIGHUP.
    pub(crate) fn hang_up(&self) {
        kill_process(self.pid(), Signal::HUP).expect("it runs");
    }

    /// The end of its log, for a test that fails.
    pub(crate) fn log(&self) -> String {
        self.process.log_end().to_string()
    }

    /// Kills the node with -9 and returns when it is dead. Its server goes on.
    pub(crate) async fn kill(&mut self) {
        self.process.kill().await;
    }

    /// Kills the server behind the node with -9, if it runs.
    pub(crate) fn kill_server(&self) {
        managed::kill_left_over(&self.process.spec().data_dir()).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Holds it where it is, or lets it go on.
    pub(crate) fn freeze(&self, frozen: bool) {
        kill_process(self.pid(), if frozen { Signal::STOP } else { Signal::CONT }).expect("it runs");
    }

    /// Fills the disk under its server's data; false if that has none of its own.
    pub(crate) fn fill_disk(&self) -> bool {
        self.disk.as_ref().map(SmallDisk::fill).is_some()
    }

    /// Makes room on it again.
    pub(crate) fn clear_disk(&self) {
        self.disk.as_ref().expect("a disk of its own").clear();
    }

    /// Leaves its folder behind, for a test that fails, and says where that is.
    pub(crate) fn keep_folder(&mut self) -> &Path {
        self.folder.disable_cleanup(true);
        self.disk.as_mut().into_iter().for_each(SmallDisk::keep);
        self.folder.path()
    }

    /// Waits until it ends by itself.
    pub(crate) async fn ended(&mut self) {
        timeout(deadline(), self.process.ended())
            .await
            .unwrap_or_else(|_| panic!("{:?}: it did not end; {}", self.process.spec().variables, self.log()));
    }

    /// Lets it die at a fail point of its next start, as often as that must be passed; or not.
    pub(crate) fn set_fail_point(&mut self, point: Option<(FailPoint, u32)>) {
        let variable = point.map(|(point, passage)| (FailPoint::VARIABLE.to_owned(), format!("{point:?}:{passage}")));
        self.process.spec_mut().variables = variable.into_iter().collect();
    }

    /// Stops it in good order and returns its exit code.
    pub(crate) async fn stop(&mut self) -> Option<i32> {
        self.process.stop().await.and_then(|status| status.code())
    }

    /// Sets a key of its configuration for the next start.
    pub(crate) fn set(&mut self, table: &str, key: &str, value: impl Into<Value>) {
        self.config[table].as_table_mut().expect("a table").insert(key.to_owned(), value.into());
    }

    /// Kills it and starts it again with a fail point, so that it dies there; or is killed once more after so long.
    pub(crate) async fn die_at(&mut self, point: FailPoint, passage: u32, patience: Duration) {
        self.respawn_to_die(point, passage).await;
        // Whether or not what it takes to pass the point has come.
        let _ = timeout(patience, self.process.ended()).await;
        self.kill().await;
        self.set_fail_point(None);
    }

    async fn respawn_to_die(&mut self, point: FailPoint, passage: u32) {
        self.kill().await;
        self.set_fail_point(Some((point, passage)));
        self.respawn();
    }

    fn respawn(&mut self) {
        self.process.spec_mut().config.clone_from(&self.config);
        self.process.respawn().unwrap_or_else(|error| panic!("{error}"));
    }

    /// Starts it again, after it was killed or stopped, on the same ports and data.
    pub(crate) async fn restart(&mut self) {
        self.respawn();
        self.ready = self.process.ready().await.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Starts it again with a fail point, at which it may die before it is ready, too.
    pub(crate) async fn restart_to_die(&mut self, point: FailPoint, passage: u32) {
        self.respawn_to_die(point, passage).await;
        if let Ok(ready) = self.process.ready().await {
            self.ready = ready;
        }
    }
}

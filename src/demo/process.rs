//! A node as a process of its own.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdout, Command},
    time::timeout,
};
use towline_middleware::Role;

use super::{DemoError, LogEnd};
use crate::{
    managed::{self, log_tail},
    node::Ready,
};

/// The folder of the node's private MariaDB, within the node's.
const DATA_DIR: &str = "mysql";
/// How long a first start may take, the making of the data folder among it.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a node may take to stop: its own grace, its server's end, and some more.
const STOP_TIMEOUT: Duration = Duration::from_secs(90);

/// How a node's process is to be.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// The `towline` program.
    pub program: PathBuf,
    /// What to call it.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// Its own folder: configuration, log, data of its private MariaDB.
    pub folder: PathBuf,
    /// Its configuration, as `config.toml` has it. `mysql.data_dir` is added unless `mysql.managed` is false.
    pub config: toml::Table,
    /// Variables of its environment, besides those of this process.
    pub variables: Vec<(String, String)>,
}

/// A node as a process of its own, with a private MariaDB that it manages.
///
/// Dropped while it runs, it is killed, and its MariaDB with it.
#[derive(Debug)]
pub struct NodeProcess {
    spec: NodeSpec,
    child: Child,
    stdout: Option<BufReader<ChildStdout>>,
    ready: Option<Ready>,
}

impl NodeProcess {
    /// Writes the configuration and starts the process. It is not ready yet.
    ///
    /// # Errors
    /// The folder can't be written, the program can't be run.
    pub fn spawn(spec: NodeSpec) -> Result<Self, DemoError> {
        let mut child = run(&spec)?;
        let stdout = child.stdout.take().map(BufReader::new);
        Ok(Self { spec, child, stdout, ready: None })
    }

    /// Starts it again after its end. It is not ready yet.
    ///
    /// # Errors
    /// As for [`spawn`](Self::spawn).
    pub fn respawn(&mut self) -> Result<(), DemoError> {
        self.child = run(&self.spec)?;
        self.stdout = self.child.stdout.take().map(BufReader::new);
        self.ready = None;
        Ok(())
    }

    /// Waits until it serves, and says where.
    ///
    /// # Errors
    /// It ended instead, or takes too long.
    ///
    /// # Cancel safety
    /// May be called again.
    pub async fn ready(&mut self) -> Result<Ready, DemoError> {
        if let Some(ready) = &self.ready {
            return Ok(ready.clone());
        }
        let mut line = String::new();
        let read = async {
            match &mut self.stdout {
                Some(stdout) => stdout.read_line(&mut line).await.map(drop),
                None => Ok(()),
            }
        };
        match timeout(START_TIMEOUT, read).await {
            Ok(Ok(())) => {}
            Ok(Err(source)) => return Err(DemoError::io("read the output of", &self.spec.program)(source)),
            Err(_) => {
                let (name, log) = (self.spec.name.clone(), self.log_end());
                return Err(DemoError::NotReady { name, after: START_TIMEOUT, log });
            }
        }
        if line.is_empty() {
            return Err(self.ended().await);
        }
        let ready: Ready = serde_json::from_str(&line).map_err(|source| DemoError::NotANode {
            name: self.spec.name.clone(),
            line: line.trim_end().to_owned(),
            source,
        })?;
        self.ready = Some(ready.clone());
        Ok(ready)
    }

    /// Waits until it ends by itself, and says how that was.
    ///
    /// # Cancel safety
    /// May be called again.
    pub async fn ended(&mut self) -> DemoError {
        let status = self.child.wait().await.unwrap_or_default();
        DemoError::Ended { name: self.spec.name.clone(), status, log: self.log_end() }
    }

    /// What it was made from.
    pub fn spec(&self) -> &NodeSpec {
        &self.spec
    }

    /// What its next start is made from.
    pub fn spec_mut(&mut self) -> &mut NodeSpec {
        &mut self.spec
    }

    /// Its process; none once it has ended.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// The end of its log.
    pub fn log_end(&self) -> Box<LogEnd> {
        let path = self.spec.log();
        let tail = log_tail(&path, 0);
        Box::new(LogEnd { path, tail })
    }

    /// Stops it in good order; kills it, and its MariaDB, if it takes too long. Returns how it ended.
    pub async fn stop(&mut self) -> Option<ExitStatus> {
        self.signal(Signal::TERM);
        let status = match timeout(STOP_TIMEOUT, self.child.wait()).await {
            Ok(status) => status.ok(),
            Err(_) => self.kill().await,
        };
        // Nothing of it is to be left, not even after it died by itself.
        let _ = managed::kill_left_over(&self.spec.data_dir());
        status
    }

    /// Kills it with -9. Its MariaDB goes on, as it would.
    pub async fn kill(&mut self) -> Option<ExitStatus> {
        self.signal(Signal::KILL);
        self.child.wait().await.ok()
    }

    fn signal(&self, signal: Signal) {
        // A number of a child that was not waited for is still its own.
        if let Some(pid) = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            // It fails only for a process that has ended.
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        // Whatever can't be looked at can't be killed either.
        let _ = managed::kill_left_over(&self.spec.data_dir());
    }
}

impl NodeSpec {
    /// The node's own log.
    pub fn log(&self) -> PathBuf {
        self.folder.join("node.log")
    }

    /// The folder of its private MariaDB.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.join(DATA_DIR)
    }
}

fn run(spec: &NodeSpec) -> Result<Child, DemoError> {
    fs::create_dir_all(&spec.folder).map_err(DemoError::io("make the folder", &spec.folder))?;
    let config = spec.folder.join("config.toml");
    fs::write(&config, configuration(spec)).map_err(DemoError::io("write", &config))?;
    let log = File::options().create(true).append(true).open(spec.log()).map_err(DemoError::io("open", spec.log()))?;
    let mut command = Command::new(&spec.program);
    command.arg("run").arg("--config").arg(&config).args(["--role", spec.role.as_str()]);
    command.envs(spec.variables.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
    // Ctrl-C is for whoever started it, who stops it in good order.
    command.process_group(0);
    command.spawn().map_err(DemoError::io("run", &spec.program))
}

/// The file's text: the given keys under the node's role, the data folder added.
fn configuration(spec: &NodeSpec) -> String {
    let mut config = spec.config.clone();
    let mysql = config.entry("mysql").or_insert_with(|| toml::Table::new().into());
    if let Some(mysql) = mysql.as_table_mut()
        && mysql.get("managed").and_then(toml::Value::as_bool) != Some(false)
    {
        mysql.insert("data_dir".to_owned(), DATA_DIR.into());
    }
    toml::Table::from_iter([(spec.role.as_str().to_owned(), toml::Value::Table(config))]).to_string()
}

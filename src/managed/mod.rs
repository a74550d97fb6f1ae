//! A private MariaDB as a child process: made, started, watched and stopped with the node.
//!
//! Everything lives in one folder of the node's own:
//!
//! ```text
//! lock          held while a node uses the folder
//! client.cnf    the administrative account; `mariadb --defaults-file=…/client.cnf` logs in with it
//! server-id     the number that tells this server's binlog events from others'
//! error.log     what the server said
//! mysqld.sock   where it listens (elsewhere if this path is too long for a socket)
//! mariadb/      its data
//! tmp/          its temporary files
//! ```
//!
//! - The server has exactly one account that can log in: `towline`@`localhost` with a random password. Clients of the
//!   node reach the server over its socket, so an account without a password, or one that trusts the socket's peer,
//!   would let anybody in.
//! - A node that was killed leaves its server running. The next start takes it over if it runs as it should now, and
//!   else replaces it.

mod bootstrap;
mod error;
mod folder;
mod process;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use mysql_async::{Conn, Opts, OptsBuilder};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use towline_middleware::Role;
use tracing::{info, warn};

pub use self::error::ManagedError;
pub(crate) use self::folder::log_tail;
use self::{
    folder::{Credentials, Folder},
    process::{Process, Programs},
};

/// How often a server that starts is asked whether it answers.
const READY_POLL: Duration = Duration::from_millis(20);
/// How long the first restart waits; each next one twice as long.
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
/// The longest wait before a restart.
const BACK_OFF_MAX: Duration = Duration::from_secs(10);
/// A server that ran so long is no longer one that keeps dying.
const STEADY: Duration = Duration::from_secs(30);
/// The server's error number for a wrong password.
const ACCESS_DENIED: u16 = 1045;

/// How a private MariaDB is to run.
#[derive(Clone, Debug)]
pub struct ManagedOptions {
    /// The folder of its own. Made if it does not exist; it must be empty or made by Towline.
    pub data_dir: PathBuf,
    /// Where it listens on 127.0.0.1; none to listen on its socket only.
    pub port: Option<u16>,
    /// A slave's server is `read_only` and runs no events.
    pub role: Role,
    /// The most connections at once, those of the node included.
    pub connections_max: u32,
    /// More options of `mariadbd`, each as `--name=value`. The last one of a name counts, so these win.
    pub extra_args: Vec<String>,
    /// How long a start may take. Recovery after a crash is part of it.
    pub start_timeout: Duration,
    /// How long a stop may take before the server is killed, which loses nothing but makes the next start slower.
    pub stop_timeout: Duration,
}

impl ManagedOptions {
    /// A server in this folder, on its socket only, with the default limits.
    pub fn new(data_dir: impl Into<PathBuf>, role: Role) -> Self {
        Self {
            data_dir: data_dir.into(),
            port: None,
            role,
            connections_max: 500,
            extra_args: Vec::new(),
            start_timeout: Duration::from_secs(120),
            stop_timeout: Duration::from_secs(60),
        }
    }
}

/// What a private MariaDB is doing.
#[derive(Clone, Debug)]
pub enum ManagedState {
    /// It answers.
    Ready {
        /// Its process.
        pid: u32,
    },
    /// It died, or a restart failed.
    Down {
        /// Why.
        reason: Arc<ManagedError>,
        /// How long until it is started again.
        retry_in: Duration,
    },
    /// It was stopped.
    Stopped,
}

/// A private MariaDB that answers, and is started again when it dies.
///
/// Dropped without [`stop`](Self::stop) it is killed, which InnoDB recovers from at the next start.
#[derive(Debug)]
pub struct ManagedServer {
    opts: Opts,
    socket: PathBuf,
    data: PathBuf,
    state: watch::Receiver<ManagedState>,
    stop: CancellationToken,
    supervisor: JoinHandle<()>,
}

impl ManagedServer {
    /// Makes the folder if it is new, starts the server or takes over one that runs there, and returns when it answers.
    ///
    /// # Errors
    /// What is missing, or why the server did not start, with the tail of its log.
    ///
    /// # Cancel safety
    /// A server that was started is killed.
    pub async fn start(options: ManagedOptions) -> Result<Self, ManagedError> {
        let programs = Programs::find()?;
        let folder = Folder::open(&options.data_dir)?;
        if !folder.is_made() {
            bootstrap::run(&programs, &folder).await?;
        }
        let opts = folder.login()?;
        let launcher = Launcher { programs, folder, opts, options };
        let process = launcher.launch().await?;
        let (sender, state) = watch::channel(ManagedState::Ready { pid: process.pid() });
        let stop = CancellationToken::new();
        let (opts, socket, data) = (launcher.opts.clone(), launcher.folder.socket(), launcher.folder.data());
        let supervisor = tokio::spawn(supervise(launcher, process, sender, stop.clone()));
        Ok(Self { opts, socket, data, state, stop, supervisor })
    }

    /// How to log in with the administrative account.
    pub fn opts(&self) -> Opts {
        self.opts.clone()
    }

    /// Where the server listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The server's process; none while it is down.
    pub fn pid(&self) -> Option<u32> {
        match *self.state.borrow() {
            ManagedState::Ready { pid } => Some(pid),
            ManagedState::Down { .. } | ManagedState::Stopped => None,
        }
    }

    /// What the server is doing, now and at each change.
    pub fn state(&self) -> watch::Receiver<ManagedState> {
        self.state.clone()
    }

    /// Stops the server and returns when its process has ended. Killed if it takes longer than `stop_timeout`.
    ///
    /// # Cancel safety
    /// The stop goes on.
    pub async fn stop(&self) {
        self.stop.cancel();
        // An error means that the supervisor is gone, and the server with it.
        let _ = self.state.clone().wait_for(|state| matches!(state, ManagedState::Stopped)).await;
    }
}

impl Drop for ManagedServer {
    fn drop(&mut self) {
        self.supervisor.abort();
        if !matches!(*self.state.borrow(), ManagedState::Stopped) {
            // Whatever can't be looked at can't be killed either; the supervisor's own handle is dropped too.
            let _ = process::kill_all_of(&self.data);
        }
    }
}

/// How to log in as the administrator of the server in this folder, which a node may be running.
///
/// # Errors
/// The folder has no account yet.
pub fn login(data_dir: &Path) -> Result<Opts, ManagedError> {
    let Credentials { user, password, socket } = Credentials::read(data_dir)?;
    Ok(opts(&socket, &user, &password))
}

/// Kills the server that a node which is no more has left running on this folder, if there is one: for a folder that is
/// about to be removed. A node that is to go on takes its server over by itself.
///
/// # Errors
/// The processes of this machine can't be looked at.
pub fn kill_left_over(data_dir: &Path) -> Result<(), ManagedError> {
    let Ok(data_dir) = data_dir.canonicalize() else { return Ok(()) };
    process::kill_all_of(&Folder::data_of(&data_dir))
}

/// What every start and restart needs.
struct Launcher {
    programs: Programs,
    folder: Folder,
    opts: Opts,
    options: ManagedOptions,
}

impl Launcher {
    /// A server that answers: the one that runs already, or a new one.
    async fn launch(&self) -> Result<Process, ManagedError> {
        let command_line = self.programs.server(&self.folder, &self.options)?;
        // Only what the log says from here on explains this start.
        let log_from = self.folder.log_length();
        if let Some(mut running) = Process::find(&self.folder.data())? {
            if running.command_line() == command_line {
                match self.answers(&mut running, log_from).await {
                    Ok(()) => {
                        info!(pid = running.pid(), "took over the MariaDB that an earlier node had started");
                        return Ok(running);
                    }
                    Err(ManagedError::Died { .. }) => {}
                    Err(error) => return Err(error),
                }
            } else {
                info!(pid = running.pid(), "replacing the MariaDB that an earlier node had started with other options");
                self.end(running, log_from).await;
            }
        }
        let started = Instant::now();
        let mut process = Process::spawn(&command_line, &self.folder)?;
        self.answers(&mut process, log_from).await?;
        info!(pid = process.pid(), took_ms = started.elapsed().as_millis() as u64, "MariaDB is up");
        Ok(process)
    }

    /// Waits for a login: only that tells that the server may be stopped again. One that gets SIGTERM between "port
    /// accepts" and "ready for connections" hangs for good.
    async fn answers(&self, process: &mut Process, log_from: u64) -> Result<(), ManagedError> {
        let deadline = self.options.start_timeout;
        let login = async {
            loop {
                match Conn::new(self.opts.clone()).await {
                    Ok(connection) => {
                        // The answer is known; a failing farewell changes nothing.
                        let _ = connection.disconnect().await;
                        return Ok(());
                    }
                    Err(mysql_async::Error::Server(error)) if error.code == ACCESS_DENIED => {
                        return Err(ManagedError::Login { file: self.folder.credentials(), source: error.into() });
                    }
                    Err(_) => sleep(READY_POLL).await,
                }
            }
        };
        tokio::select! {
            answer = timeout(deadline, login) => answer.unwrap_or_else(|_| Err(ManagedError::NotReady {
                after: deadline,
                log: self.folder.log_tail(log_from),
            })),
            end = process.exited() => Err(ManagedError::Died { end, log: self.folder.log_tail(log_from) }),
        }
    }

    /// Ends a server, softly if it answers.
    async fn end(&self, mut process: Process, log_from: u64) {
        if self.answers(&mut process, log_from).await.is_ok() {
            process.terminate(self.options.stop_timeout).await;
        } else {
            process.kill().await;
        }
    }
}

/// Starts the server again whenever it dies, until it is to stop.
async fn supervise(
    launcher: Launcher,
    mut process: Process,
    state: watch::Sender<ManagedState>,
    stop: CancellationToken,
) {
    let mut delay = BACK_OFF_MIN;
    loop {
        let up_since = Instant::now();
        let log_from = launcher.folder.log_length();
        let end = tokio::select! {
            end = process.exited() => end,
            () = stop.cancelled() => {
                process.terminate(launcher.options.stop_timeout).await;
                break;
            }
        };
        if up_since.elapsed() >= STEADY {
            delay = BACK_OFF_MIN;
        }
        let reason = ManagedError::Died { end, log: launcher.folder.log_tail(log_from) };
        tokio::select! {
            next = restart(&launcher, &state, reason, &mut delay) => process = next,
            () = stop.cancelled() => break,
        }
        state.send_replace(ManagedState::Ready { pid: process.pid() });
    }
    state.send_replace(ManagedState::Stopped);
}

/// Tries with growing pauses until a server is up.
async fn restart(
    launcher: &Launcher,
    state: &watch::Sender<ManagedState>,
    mut reason: ManagedError,
    delay: &mut Duration,
) -> Process {
    loop {
        warn!(error = %reason, retry_in_ms = delay.as_millis() as u64, "MariaDB is down");
        state.send_replace(ManagedState::Down { reason: Arc::new(reason), retry_in: *delay });
        sleep(*delay).await;
        *delay = (*delay * 2).min(BACK_OFF_MAX);
        match launcher.launch().await {
            Ok(process) => return process,
            Err(error) => reason = error,
        }
    }
}

/// Login by socket.
fn opts(socket: &Path, user: &str, password: &str) -> Opts {
    OptsBuilder::default()
        .socket(Some(socket.to_string_lossy()))
        .user(Some(user))
        .pass(Some(password))
        .prefer_socket(false)
        .into()
}

//! The server's process: its command line, its start, its signals, its end.

use std::{
    ffi::{OsStr, OsString},
    fmt, fs, io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::{
    net::unix::pipe::Receiver,
    process::{Child, Command},
    time::timeout,
};
use towline_middleware::Role;
use tracing::warn;

use super::{ManagedError, ManagedOptions, folder::Folder};

/// Where the program is looked for after PATH: an ordinary user's has no `sbin`.
const PROGRAM_FOLDERS: [&str; 4] = ["/usr/sbin", "/usr/local/sbin", "/usr/libexec", "/usr/local/mysql/bin"];
const PROGRAM: &str = "mariadbd";
/// Little memory and little disk: three servers of a demo fit in a small machine.
const SMALL: [&str; 4] = [
    "--innodb-buffer-pool-size=64M",
    "--innodb-log-file-size=16M",
    "--innodb-temp-data-file-path=ibtmp1:4M:autoextend",
    "--innodb-log-buffer-size=4M",
];

/// How a process ended.
#[derive(Clone, Copy, Debug)]
pub struct End(Option<ExitStatus>);

impl End {
    pub(super) fn new(status: Option<ExitStatus>) -> Self {
        Self(status)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(status) => status.fmt(f),
            // Only a parent is told.
            None => f.write_str("status unknown"),
        }
    }
}

/// The installed server.
#[derive(Debug)]
pub(super) struct Programs {
    server: PathBuf,
}

impl Programs {
    /// Looks in PATH and in the places where packages put it.
    pub(super) fn find() -> Result<Self, ManagedError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let searched: Vec<PathBuf> =
            std::env::split_paths(&path).chain(PROGRAM_FOLDERS.iter().map(PathBuf::from)).collect();
        match searched.iter().map(|folder| folder.join(PROGRAM)).find(|program| program.is_file()) {
            Some(server) => Ok(Self { server }),
            None => Err(ManagedError::NoProgram { searched }),
        }
    }

    pub(super) fn server_path(&self) -> &Path {
        &self.server
    }

    /// One of the SQL files that came with the server, under any of its names.
    pub(super) fn sql_file(&self, names: [&'static str; 2]) -> Result<PathBuf, ManagedError> {
        let program = self.server.canonicalize().unwrap_or_else(|_| self.server.clone());
        let mut bases: Vec<PathBuf> = program.ancestors().skip(2).take(1).map(Path::to_path_buf).collect();
        bases.push(PathBuf::from("/usr"));
        let searched: Vec<PathBuf> =
            bases.iter().flat_map(|base| ["share/mysql", "share/mariadb"].map(|share| base.join(share))).collect();
        let mut candidates = searched.iter().flat_map(|folder| names.map(|name| folder.join(name)));
        match candidates.find(|file| file.is_file()) {
            Some(file) => Ok(file),
            None => Err(ManagedError::NoSqlFile { name: names[0], searched }),
        }
    }

    /// The command that makes a data folder from the SQL on its standard input.
    pub(super) fn bootstrap(&self, folder: &Folder) -> Command {
        let mut command = Command::new(&self.server);
        command
            .args(["--no-defaults", "--bootstrap", "--log-warnings=0"])
            .arg(flag("--datadir=", &folder.unfinished_data()));
        command.arg(flag("--tmpdir=", &folder.temporary()));
        command.args(["--max-allowed-packet=8M", "--net-buffer-length=16K", "--skip-log-bin"]).args(SMALL);
        if let Some(user) = user() {
            command.arg(user);
        }
        command
    }

    /// The server's whole command line.
    pub(super) fn server(&self, folder: &Folder, options: &ManagedOptions) -> Result<Vec<OsString>, ManagedError> {
        let data = folder.data();
        let data = data.canonicalize().map_err(ManagedError::io("find", data))?;
        // It must come first.
        let mut line: Vec<OsString> = vec![self.server.clone().into(), "--no-defaults".into()];
        line.push(flag("--datadir=", &data));
        line.push(flag("--tmpdir=", &folder.temporary()));
        line.push(flag("--socket=", &folder.socket()));
        line.push(flag("--pid-file=", &data.join("mariadbd.pid")));
        line.extend(user().map(OsString::from));
        match options.port {
            Some(port) => line.extend([format!("--port={port}").into(), "--bind-address=127.0.0.1".into()]),
            None => line.push("--skip-networking".into()),
        }
        line.push(format!("--server-id={}", folder.server_id()).into());
        line.push(format!("--max-connections={}", options.connections_max).into());
        line.extend(REPLICATION.map(OsString::from));
        line.extend(SMALL.map(OsString::from));
        match options.role {
            Role::Master => line.extend(MASTER.map(OsString::from)),
            Role::Slave => line.extend(SLAVE.map(OsString::from)),
        }
        line.extend(options.extra_args.iter().map(OsString::from));
        Ok(line)
    }
}

/// What capture needs of a master's server, and a slave's too since it may be made a master.
const REPLICATION: [&str; 17] = [
    "--log-bin=binlog",
    "--binlog-format=ROW",
    "--binlog-row-image=FULL",
    "--binlog-row-metadata=FULL",
    "--binlog-checksum=CRC32",
    "--gtid-strict-mode=ON",
    // What a client was told is committed survives a power cut.
    "--sync-binlog=1",
    "--innodb-flush-log-at-trx-commit=1",
    // Applied row events must meet exactly the rows that they say.
    "--slave-exec-mode=STRICT",
    "--slave-run-triggers-for-rbr=NO",
    "--slave-type-conversions=",
    // Rows are logged, so a function that is not deterministic does no harm.
    "--log-bin-trust-function-creators=ON",
    "--skip-name-resolve",
    "--skip-slave-start",
    "--character-set-server=utf8mb4",
    "--collation-server=utf8mb4_general_ci",
    "--performance-schema=OFF",
];
/// A row event travels in base64, 4/3 of its size: a slave must take more than its master.
const MASTER: [&str; 1] = ["--max-allowed-packet=256M"];
const SLAVE: [&str; 3] = ["--max-allowed-packet=1G", "--read-only=ON", "--event-scheduler=OFF"];

/// The server refuses to run as root unless told that it is meant.
fn user() -> Option<&'static str> {
    rustix::process::geteuid().is_root().then_some("--user=root")
}

fn flag(name: &str, value: &Path) -> OsString {
    let mut flag = OsString::from(name);
    flag.push(value);
    flag
}

/// A running server. Dropped while it runs, it is killed.
#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
    /// Unlike a number, it never means another process. Readable once the process has ended.
    pidfd: Receiver,
    /// None if another process started it.
    child: Option<Child>,
    ended: bool,
}

impl Process {
    /// Starts the server, its output going to the log.
    pub(super) fn spawn(command_line: &[OsString], folder: &Folder) -> Result<Self, ManagedError> {
        let log = folder.log()?;
        let program = Path::new(&command_line[0]);
        let mut command = Command::new(program);
        command.args(&command_line[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // A Ctrl-C in the terminal is for the node, which stops the server when it no longer needs it.
        command.process_group(0).kill_on_drop(true);
        let child = command.spawn().map_err(ManagedError::io("run", program))?;
        let pid = child.id().unwrap_or_default();
        let pidfd = open(pid).and_then(Receiver::from_owned_fd_unchecked);
        let pidfd = pidfd.map_err(ManagedError::io("watch the process of", program))?;
        Ok(Self { pid, pidfd, child: Some(child), ended: false })
    }

    /// The server that runs on this data folder already, if one does.
    pub(super) fn find(data: &Path) -> Result<Option<Self>, ManagedError> {
        let mut running = running_on(data)?;
        let Some((pid, pidfd)) = running.next() else { return Ok(None) };
        // Only its readiness is used, which tells the end of the process; nothing is read from it.
        let pidfd = Receiver::from_owned_fd_unchecked(pidfd).map_err(ManagedError::io("watch the process on", data))?;
        Ok(Some(Self { pid, pidfd, child: None, ended: false }))
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// With what it was started.
    pub(super) fn command_line(&self) -> Vec<OsString> {
        command_line(self.pid)
    }

    /// Returns when it has ended.
    ///
    /// # Cancel safety
    /// May be called again.
    pub(super) async fn exited(&mut self) -> End {
        let status = match &mut self.child {
            Some(child) => child.wait().await.ok(),
            None => {
                // An error would mean that the runtime is going away.
                let _ = self.pidfd.readable().await;
                None
            }
        };
        self.ended = true;
        End(status)
    }

    /// Asks it to stop and kills it if that takes too long. Only for one that answers.
    pub(super) async fn terminate(&mut self, patience: Duration) {
        self.signal(Signal::TERM);
        if timeout(patience, self.exited()).await.is_err() {
            warn!(pid = self.pid, after_s = patience.as_secs(), "MariaDB does not stop: killing it");
            self.kill().await;
        }
    }

    /// Ends it at once.
    pub(super) async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.exited().await;
    }

    fn signal(&self, signal: Signal) {
        // It fails only for a process that has ended.
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.ended {
            self.signal(Signal::KILL);
        }
    }
}

/// Kills every server on this data folder.
pub(super) fn kill_all_of(data: &Path) -> Result<(), ManagedError> {
    for (_, pidfd) in running_on(data)? {
        // It fails only for a process that has ended.
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
    }
    Ok(())
}

/// The servers that run on this data folder, each pinned.
fn running_on(data: &Path) -> Result<impl Iterator<Item = (u32, OwnedFd)>, ManagedError> {
    let processes = fs::read_dir("/proc").map_err(ManagedError::io("read", "/proc"))?;
    Ok(processes.flatten().filter_map(move |entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        // Looked at again once it is pinned: the number may have been given to another process.
        let pidfd = is_of(pid, data).then(|| open(pid))?.ok()?;
        is_of(pid, data).then_some((pid, pidfd))
    }))
}

fn open(pid: u32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid.cast_signed()).ok_or_else(|| io::Error::from(rustix::io::Errno::SRCH))?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Whether a process is a server on this data folder. A bootstrap has another folder: the unfinished one.
fn is_of(pid: u32, data: &Path) -> bool {
    let datadir = flag("--datadir=", data);
    command_line(pid).contains(&datadir)
}

/// Empty for a process that has ended.
fn command_line(pid: u32) -> Vec<OsString> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let Some(bytes) = bytes.strip_suffix(b"\0") else { return Vec::new() };
    bytes.split(|byte| *byte == 0).map(|argument| OsStr::from_bytes(argument).to_owned()).collect()
}

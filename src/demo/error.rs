//! Why a demo failed.

use std::{fmt, io, path::PathBuf, process::ExitStatus, time::Duration};

/// Why a demo failed: at which step, and what tells more.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A file or process could not be had.
    #[error("could not {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A port is taken.
    #[error("port {port} on 127.0.0.1 can't be had: name another first one with {flag}, or 0 for free ones")]
    Port {
        /// The flag that chooses it.
        flag: &'static str,
        /// The port.
        port: u16,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// There are not so many ports.
    #[error("{flag} {first}: there are no {count} ports from there on")]
    NoPort {
        /// The flag.
        flag: &'static str,
        /// Its value.
        first: u16,
        /// How many are needed.
        count: usize,
    },
    /// A node ended by itself.
    #[error("{name} ended ({status}); {log}")]
    Ended {
        /// The node.
        name: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said last.
        log: Box<LogEnd>,
    },
    /// A node did not get ready.
    #[error("{name} was not ready after {} s; {log}", after.as_secs())]
    NotReady {
        /// The node.
        name: String,
        /// The time that it had.
        after: Duration,
        /// What it said last.
        log: Box<LogEnd>,
    },
    /// A node's first line was not what a node says when it is ready.
    #[error("{name} said `{line}` instead of where it serves")]
    NotANode {
        /// The node.
        name: String,
        /// What it said.
        line: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The file with the master's administrative account can't be used.
    #[error("could not log in to the master's server")]
    Login(#[source] crate::managed::ManagedError),
    /// A statement failed.
    #[error("{node}: `{statement}` failed")]
    Mysql {
        /// Through which node.
        node: String,
        /// What was asked.
        statement: String,
        /// What the answer was.
        #[source]
        source: mysql_async::Error,
    },
    /// No answer over HTTP.
    #[error("{node}: no answer to `{request}`")]
    Http {
        /// The node.
        node: String,
        /// What was asked.
        request: String,
        /// Why not.
        #[source]
        source: reqwest::Error,
    },
    /// Another answer over HTTP than was due.
    #[error("{node}: `{request}` was answered with {status} instead of {wanted}: {body}")]
    Status {
        /// The node.
        node: String,
        /// What was asked.
        request: String,
        /// The status that was due.
        wanted: u16,
        /// The status of the answer.
        status: u16,
        /// The answer.
        body: String,
    },
    /// A slave ran a client's write.
    #[error("{node} ran `{request}`, which a slave must refuse")]
    NotRefused {
        /// The slave.
        node: String,
        /// What it ran.
        request: String,
    },
    /// A slave did not become equal to its master.
    #[error(
        "{node} is not equal to the master after {} s: the master has {master}, it has {slave}; {log}",
        after.as_secs()
    )]
    Different {
        /// The slave.
        node: String,
        /// The time that it had.
        after: Duration,
        /// The master's rows or checksums.
        master: String,
        /// The slave's.
        slave: String,
        /// What the slave said last.
        log: Box<LogEnd>,
    },
}

impl DemoError {
    /// For `map_err`: names what was tried on which path.
    pub(super) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

/// The end of a node's log.
#[derive(Debug)]
pub struct LogEnd {
    /// The file.
    pub path: PathBuf,
    /// Its last lines.
    pub tail: String,
}

impl fmt::Display for LogEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the end of its log, {}:\n{}", self.path.display(), self.tail)
    }
}

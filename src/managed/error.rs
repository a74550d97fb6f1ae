//! Why there is no private MariaDB.

use std::{io, path::PathBuf, time::Duration};

use super::process::End;

/// Why a private MariaDB could not be made, started or kept.
#[derive(Debug, thiserror::Error)]
pub enum ManagedError {
    /// There is no server program.
    #[error(
        "no `mariadbd` in {}: install MariaDB's server (Debian: `apt-get install --no-install-recommends \
         mariadb-server-core`), or set `mysql.managed = false` and name a server that runs in `mysql.url`",
        list(.searched)
    )]
    NoProgram {
        /// Where it was looked for.
        searched: Vec<PathBuf>,
    },
    /// The server program is there but not the files that a new data folder is made from.
    #[error("no `{name}` in {}: MariaDB's installation is not complete, install it again", list(.searched))]
    NoSqlFile {
        /// The file's name.
        name: &'static str,
        /// Where it was looked for.
        searched: Vec<PathBuf>,
    },
    /// A file or folder could not be read or written.
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
    /// Another node has the folder.
    #[error("{} is in use by another Towline node: stop that one, or give this one a `mysql.data_dir` of its own", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The folder holds something else.
    #[error(
        "{} holds `{found}`, which is not Towline's: name an empty or new folder in `mysql.data_dir`",
        path.display()
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// A name in it.
        found: String,
    },
    /// The file with the administrative account is gone or damaged.
    #[error(
        "{} holds no {missing}: restore the file, or empty the folder to start anew",
        file.display()
    )]
    NoCredentials {
        /// The file.
        file: PathBuf,
        /// What it lacks.
        missing: &'static str,
    },
    /// No place for the server's socket.
    #[error(
        "{} is too long a path for a socket (107 bytes at most): set TMPDIR to a shorter folder",
        path.display()
    )]
    SocketPath {
        /// The path that was tried last.
        path: PathBuf,
    },
    /// The folder in which the socket was to be is somebody else's.
    #[error("{} belongs to another user or is open to others: remove it", path.display())]
    SocketFolder {
        /// The folder.
        path: PathBuf,
    },
    /// The new data folder could not be made.
    #[error("`mariadbd --bootstrap` failed ({end}); it said:\n{log}")]
    Bootstrap {
        /// How it ended.
        end: End,
        /// The end of what it said.
        log: String,
    },
    /// The server ended while it was to run.
    #[error("MariaDB ended ({end}); the end of its log:\n{log}")]
    Died {
        /// How it ended.
        end: End,
        /// The end of its log.
        log: String,
    },
    /// The server did not answer in time.
    #[error("MariaDB did not answer within {} s; the end of its log:\n{log}", after.as_secs())]
    NotReady {
        /// The time that it had.
        after: Duration,
        /// The end of its log.
        log: String,
    },
    /// The administrative account was changed.
    #[error("MariaDB refused the account in {}: put that account's password there", file.display())]
    Login {
        /// The file with the account.
        file: PathBuf,
        /// What the server answered.
        #[source]
        source: mysql_async::Error,
    },
}

impl ManagedError {
    /// For `map_err`: names what was tried on which path.
    pub(super) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

//! The folder of a private MariaDB: its lock, its files, its account.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use mysql_async::Opts;

use super::ManagedError;

/// The longest path that a Unix socket can have: `sun_path` less its final zero. Source: unix(7).
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// How much of the server's log an error shows at most.
const LOG_TAIL_BYTES_MAX: u64 = 4096;
/// The administrative account.
pub(super) const USER: &str = "towline";

const LOCK: &str = "lock";
const CREDENTIALS: &str = "client.cnf";
const SERVER_ID: &str = "server-id";
const LOG: &str = "error.log";
const SOCKET: &str = "mysqld.sock";
const DATA: &str = "mariadb";
const TEMPORARY: &str = "tmp";
/// A data folder that is not complete yet.
const DATA_NEW: &str = "mariadb.new";

/// A folder that this process has to itself.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    socket: PathBuf,
    server_id: u32,
    /// Closing it gives the folder free. Not inherited by children: the standard library opens with O_CLOEXEC.
    _lock: File,
}

impl Folder {
    /// Makes the folder if needed and locks it.
    pub(super) fn open(path: &Path) -> Result<Self, ManagedError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(ManagedError::io("make the folder", path))?;
        let path = path.canonicalize().map_err(ManagedError::io("find", path))?;
        refuse_foreign(&path)?;
        let lock = path.join(LOCK);
        let lock = private().truncate(false).open(&lock).map_err(ManagedError::io("open", lock))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ManagedError::Locked { path }),
            Err(TryLockError::Error(source)) => return Err(ManagedError::Io { action: "lock", path, source }),
        }
        let temporary = path.join(TEMPORARY);
        fs::create_dir_all(&temporary).map_err(ManagedError::io("make the folder", temporary))?;
        let server_id = server_id(&path.join(SERVER_ID))?;
        let socket = socket_path(&path)?;
        Ok(Self { path, socket, server_id, _lock: lock })
    }

    /// Whether there is a complete data folder.
    pub(super) fn is_made(&self) -> bool {
        self.data().is_dir()
    }

    /// The server's own data.
    pub(super) fn data(&self) -> PathBuf {
        Self::data_of(&self.path)
    }

    /// The server's own data in the folder at this path.
    pub(super) fn data_of(path: &Path) -> PathBuf {
        path.join(DATA)
    }

    /// The server's temporary files. Not `/tmp`: a server that starts removes every temporary table there, also those
    /// of other servers.
    pub(super) fn temporary(&self) -> PathBuf {
        self.path.join(TEMPORARY)
    }

    /// Where a data folder is made before it gets its name.
    pub(super) fn unfinished_data(&self) -> PathBuf {
        self.path.join(DATA_NEW)
    }

    /// Where the server listens.
    pub(super) fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    /// The server's number in binlog events.
    pub(super) fn server_id(&self) -> u32 {
        self.server_id
    }

    /// The option file with the administrative account.
    pub(super) fn credentials(&self) -> PathBuf {
        self.path.join(CREDENTIALS)
    }

    /// Writes the option file, readable by its owner only.
    pub(super) fn write_credentials(&self, password: &str) -> Result<(), ManagedError> {
        let file = self.credentials();
        let text = format!("[client]\nuser={USER}\npassword={password}\nsocket={}\n", self.socket.display());
        replace(&file, text.as_bytes()).map_err(ManagedError::io("write", file))
    }

    /// How to log in. Brings the socket in the option file up to date, which a moved folder changes.
    pub(super) fn login(&self) -> Result<Opts, ManagedError> {
        let credentials = Credentials::read(&self.path)?;
        if credentials.socket != self.socket {
            self.write_credentials(&credentials.password)?;
        }
        Ok(super::opts(&self.socket, &credentials.user, &credentials.password))
    }

    /// The server's log, to write to.
    pub(super) fn log(&self) -> Result<File, ManagedError> {
        let path = self.path.join(LOG);
        OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(ManagedError::io("open", path))
    }

    /// How long the server's log is, in bytes.
    pub(super) fn log_length(&self) -> u64 {
        fs::metadata(self.path.join(LOG)).map_or(0, |log| log.len())
    }

    /// The last lines of the server's log, from this byte on.
    pub(super) fn log_tail(&self, from: u64) -> String {
        log_tail(&self.path.join(LOG), from)
    }
}

/// What the option file holds.
pub(super) struct Credentials {
    pub(super) user: String,
    pub(super) password: String,
    pub(super) socket: PathBuf,
}

impl Credentials {
    /// Reads the option file of the folder at this path.
    pub(super) fn read(folder: &Path) -> Result<Self, ManagedError> {
        let file = folder.join(CREDENTIALS);
        let missing = |missing| ManagedError::NoCredentials { file: file.clone(), missing };
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing("account")),
            Err(source) => return Err(ManagedError::Io { action: "read", path: file, source }),
        };
        let value = |name: &str| {
            let (_, value) =
                text.lines().filter_map(|line| line.split_once('=')).find(|(key, _)| key.trim() == name)?;
            Some(value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        Ok(Self {
            user: value("user").unwrap_or_else(|| USER.to_owned()),
            password: value("password").ok_or_else(|| missing("password"))?,
            socket: value("socket").unwrap_or_default().into(),
        })
    }
}

/// A folder that has data of another kind must not be touched. Ours has had the lock since it was empty.
fn refuse_foreign(path: &Path) -> Result<(), ManagedError> {
    let entries = fs::read_dir(path).map_err(ManagedError::io("read the folder", path))?;
    let mut names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let found = names.find(|name| name != "lost+found");
    match found {
        Some(found) if !path.join(LOCK).exists() => Err(ManagedError::Foreign { path: path.to_owned(), found }),
        Some(_) | None => Ok(()),
    }
}

/// Reads the number, or draws one. Random, so that two servers of a cluster don't get the same.
fn server_id(file: &Path) -> Result<u32, ManagedError> {
    if let Some(id) = fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok()).filter(|id| *id != 0) {
        return Ok(id);
    }
    let id = random_u32(file)? >> 1 | 1;
    replace(file, format!("{id}\n").as_bytes()).map_err(ManagedError::io("write", file))?;
    Ok(id)
}

fn random_u32(file: &Path) -> Result<u32, ManagedError> {
    getrandom::u32().map_err(|error| ManagedError::io("draw a random number for", file)(error.into()))
}

/// In the folder, or in a short one that always is the same for this folder: a later node must find the server again.
fn socket_path(folder: &Path) -> Result<PathBuf, ManagedError> {
    let socket = folder.join(SOCKET);
    if socket.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return Ok(socket);
    }
    let metadata = fs::metadata(folder).map_err(ManagedError::io("read", folder))?;
    let user = rustix::process::geteuid().as_raw();
    let name = format!("towline-{user}-{:x}-{:x}", metadata.dev(), metadata.ino());
    let short = std::env::temp_dir().join(name);
    let socket = short.join(SOCKET);
    if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        return Err(ManagedError::SocketPath { path: socket });
    }
    match DirBuilder::new().mode(0o700).create(&short) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(ManagedError::io("make the folder", short)(error));
        }
        Ok(()) | Err(_) => {}
    }
    // Anybody may make a folder of that name in the temporary folder: it must be ours alone.
    let found = fs::symlink_metadata(&short).map_err(ManagedError::io("read", &short))?;
    if !found.is_dir() || found.uid() != user || found.mode() & 0o077 != 0 {
        return Err(ManagedError::SocketFolder { path: short });
    }
    Ok(socket)
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).write(true).mode(0o600);
    options
}

/// Puts a file in place whole: a crash leaves the old one or the new one.
fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = file.with_extension("new");
    let mut out = private().truncate(true).open(&new)?;
    out.write_all(bytes)?;
    out.sync_all()?;
    fs::rename(&new, file)
}

/// The last lines of a log, from this byte on.
pub(crate) fn log_tail(file: &Path, from: u64) -> String {
    read_tail(file, from).unwrap_or_else(|error| format!("(the log could not be read: {error})"))
}

fn read_tail(file: &Path, from: u64) -> io::Result<String> {
    let mut log = File::open(file)?;
    let length = log.metadata()?.len();
    log.seek(SeekFrom::Start(from.min(length).max(length.saturating_sub(LOG_TAIL_BYTES_MAX))))?;
    let mut tail = Vec::new();
    log.take(LOG_TAIL_BYTES_MAX).read_to_end(&mut tail)?;
    Ok(String::from_utf8_lossy(&tail).trim_end().to_owned())
}

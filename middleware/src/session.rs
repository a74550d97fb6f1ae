//! One client's session, as layers see it.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering::Relaxed},
    },
};

use crate::{Classifier, Role, SqlMode};

/// Through which front a client came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front {
    /// The MySQL protocol.
    MySql,
    /// HTTP with JSON.
    Http,
}

/// One client's session: who it is, and what is known of its state.
///
/// Shared between the front and every layer of the session's stack. The state follows what the server itself reports
/// (status flags, session tracking), never what a statement's text seems to say.
pub struct Session {
    front: Front,
    role: Role,
    peer: Option<SocketAddr>,
    classifier: Arc<dyn Classifier>,
    connection_id: AtomicU32,
    status: AtomicU16,
    ascii_unsafe_charset: AtomicBool,
    names: std::sync::Mutex<Names>,
}

#[derive(Clone, Debug, Default)]
struct Names {
    user: String,
    schema: String,
}

/// Status flags of the server that the session follows. Source: the server's `SERVER_STATUS_flags_enum`.
pub mod status {
    /// A transaction is open.
    pub const IN_TRANS: u16 = 0x0001;
    /// Every statement commits by itself.
    pub const AUTOCOMMIT: u16 = 0x0002;
    /// Another result of the same command follows.
    pub const MORE_RESULTS: u16 = 0x0008;
    /// The result waits in a cursor.
    pub const CURSOR_EXISTS: u16 = 0x0040;
    /// A backslash in a string is a plain character.
    pub const NO_BACKSLASH_ESCAPES: u16 = 0x0200;
    /// Session state information follows in the OK packet.
    pub const SESSION_STATE_CHANGED: u16 = 0x4000;
    /// MariaDB only: double quotes are identifiers.
    pub const ANSI_QUOTES: u16 = 0x8000;
}

impl Session {
    /// A session of a client whose name is not known yet.
    pub fn new(front: Front, role: Role, peer: Option<SocketAddr>, classifier: Arc<dyn Classifier>) -> Self {
        Self {
            front,
            role,
            peer,
            classifier,
            connection_id: AtomicU32::new(0),
            status: AtomicU16::new(status::AUTOCOMMIT),
            ascii_unsafe_charset: AtomicBool::new(false),
            names: std::sync::Mutex::default(),
        }
    }

    /// Through which front the client came.
    pub fn front(&self) -> Front {
        self.front
    }

    /// The role of the node that serves it.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The client's address; none over a Unix socket.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// The connection's id in this node's MySQL, which is also what the client sees. 0 before the greeting.
    pub fn connection_id(&self) -> u32 {
        self.connection_id.load(Relaxed)
    }

    /// The account name that the client logged in with.
    pub fn user(&self) -> String {
        self.lock().user.clone()
    }

    /// The default schema; empty when there is none.
    pub fn schema(&self) -> String {
        self.lock().schema.clone()
    }

    /// Whether this is the default schema, in any case: some servers fold the case of schema names.
    pub fn schema_is(&self, name: &str) -> bool {
        self.lock().schema.eq_ignore_ascii_case(name)
    }

    /// The status flags of the last OK (see [`status`]).
    pub fn status(&self) -> u16 {
        self.status.load(Relaxed)
    }

    /// Whether a transaction is open.
    pub fn in_transaction(&self) -> bool {
        self.status() & status::IN_TRANS != 0
    }

    /// How the server reads this session's SQL.
    pub fn sql_mode(&self) -> SqlMode {
        let flags = self.status();
        SqlMode {
            no_backslash_escapes: flags & status::NO_BACKSLASH_ESCAPES != 0,
            ansi_quotes: flags & status::ANSI_QUOTES != 0,
            ascii_unsafe_charset: self.ascii_unsafe_charset.load(Relaxed),
        }
    }

    /// What tells this node's statements apart.
    pub fn classifier(&self) -> &Arc<dyn Classifier> {
        &self.classifier
    }

    /// The front and the router record here what the server reported.
    pub fn set_connection_id(&self, id: u32) {
        self.connection_id.store(id, Relaxed);
    }

    /// Records the account after a login.
    pub fn set_user(&self, user: &str) {
        user.clone_into(&mut self.lock().user);
    }

    /// Records the default schema.
    pub fn set_schema(&self, schema: &str) {
        schema.clone_into(&mut self.lock().schema);
    }

    /// Records the status flags of an OK.
    pub fn set_status(&self, flags: u16) {
        self.status.store(flags, Relaxed);
    }

    /// Records that the client's character set changed.
    pub fn set_ascii_unsafe_charset(&self, yes: bool) {
        self.ascii_unsafe_charset.store(yes, Relaxed);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Names> {
        // Nothing panics while the names are held, and they are valid at every moment.
        self.names.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("front", &self.front)
            .field("role", &self.role)
            .field("peer", &self.peer)
            .field("connection_id", &self.connection_id())
            .field("names", &*self.lock())
            .finish_non_exhaustive()
    }
}

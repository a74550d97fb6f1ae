//! One client's session, as layers see it.

use std::{
    any::{Any, TypeId},
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{Classifier, Role, SqlMode, Token};

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
    capabilities: AtomicU64,
    status: AtomicU16,
    ascii_unsafe_charset: AtomicBool,
    ascii_letters_charset: AtomicBool,
    /// The reported sql_mode: [`REPORTED`] and one bit for each mode that counts.
    sql_mode: AtomicU8,
    names: Mutex<Names>,
    /// A session has few: looking through them takes less than hashing would.
    states: Mutex<Vec<(TypeId, Arc<dyn Any + Send + Sync>)>>,
    held: Mutex<Held>,
}

/// How long commands were held back for slaves, and since when one is.
#[derive(Debug, Default)]
struct Held {
    ended: Duration,
    since: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Names {
    user: Arc<str>,
    schema: Arc<str>,
}

/// Of a session's sql_mode: the server has reported it.
const REPORTED: u8 = 1;
/// NO_BACKSLASH_ESCAPES is in it.
const NO_BACKSLASH_ESCAPES: u8 = 2;
/// ANSI_QUOTES is in it.
const ANSI_QUOTES: u8 = 4;

/// In a login: rows end in an OK packet in place of an EOF packet. Source: MySQL manual, "Capabilities Flags".
const DEPRECATE_EOF: u64 = 1 << 24;
/// The same of MariaDB's own: column definitions may have further fields. Source: MariaDB Knowledge Base, "Connecting",
/// "Capabilities".
const EXTENDED_METADATA: u64 = 1 << 35;

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
            capabilities: AtomicU64::new(DEPRECATE_EOF),
            status: AtomicU16::new(status::AUTOCOMMIT),
            ascii_unsafe_charset: AtomicBool::new(false),
            ascii_letters_charset: AtomicBool::new(false),
            sql_mode: AtomicU8::new(0),
            names: Mutex::new(Names { user: "".into(), schema: "".into() }),
            states: Mutex::default(),
            held: Mutex::default(),
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

    /// The name of the account that the client logged in with, in the server's own words: unquoted, not longer than
    /// names are, in UTF-8.
    pub fn user(&self) -> Arc<str> {
        lock(&self.names).user.clone()
    }

    /// The default schema; empty when there is none.
    pub fn schema(&self) -> Arc<str> {
        lock(&self.names).schema.clone()
    }

    /// Whether this is the default schema, in any case: some servers fold the case of schema names.
    pub fn schema_is(&self, name: &str) -> bool {
        lock(&self.names).schema.eq_ignore_ascii_case(name)
    }

    /// The status flags of the last OK (see [`status`]).
    pub fn status(&self) -> u16 {
        self.status.load(Relaxed)
    }

    /// Whether a transaction is open.
    pub fn in_transaction(&self) -> bool {
        self.status() & status::IN_TRANS != 0
    }

    /// How the server reads this session's SQL. What it has reported of its sql_mode counts; the status flags only as
    /// long as it has reported nothing: MariaDB's go on telling what a compound statement has set for itself.
    pub fn sql_mode(&self) -> SqlMode {
        let (flags, reported) = (self.status(), self.sql_mode.load(Relaxed));
        let is_set = |flag, mode| if reported == 0 { flags & flag != 0 } else { reported & mode != 0 };
        SqlMode {
            no_backslash_escapes: is_set(status::NO_BACKSLASH_ESCAPES, NO_BACKSLASH_ESCAPES),
            ansi_quotes: is_set(status::ANSI_QUOTES, ANSI_QUOTES),
            ascii_unsafe_charset: self.ascii_unsafe_charset.load(Relaxed),
            ascii_letters_charset: self.ascii_letters_charset.load(Relaxed),
        }
    }

    /// SQL cut into tokens as this session's server cuts it: without comments, and with all of a string in one. Its last
    /// token is the text's own last. `None` if that can't be told with certainty.
    pub fn tokens(&self, sql: &[u8]) -> Option<Vec<Token>> {
        self.classifier.tokens(sql, self.sql_mode())
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
        let mut names = lock(&self.names);
        if *names.user != *user {
            names.user = user.into();
        }
    }

    /// Records the default schema.
    pub fn set_schema(&self, schema: &str) {
        let mut names = lock(&self.names);
        if *names.schema != *schema {
            names.schema = schema.into();
        }
    }

    /// Records the status flags of an OK.
    pub fn set_status(&self, flags: u16) {
        self.status.store(flags, Relaxed);
    }

    /// Records the sql_mode that the server has reported: whether a backslash in a string is a plain character, and
    /// whether double quotes are identifiers.
    pub fn set_sql_mode(&self, no_backslash_escapes: bool, ansi_quotes: bool) {
        let mode = |is_set, bit| if is_set { bit } else { 0 };
        let modes = mode(no_backslash_escapes, NO_BACKSLASH_ESCAPES) | mode(ansi_quotes, ANSI_QUOTES);
        self.sql_mode.store(REPORTED | modes, Relaxed);
    }

    /// Records what the client's character set makes of ASCII: whether its bytes may be parts of other characters, and
    /// whether some of its signs are letters (see [`SqlMode`]).
    pub fn set_charset(&self, ascii_unsafe: bool, ascii_letters: bool) {
        self.ascii_unsafe_charset.store(ascii_unsafe, Relaxed);
        self.ascii_letters_charset.store(ascii_letters, Relaxed);
    }

    /// What the client and the server have agreed on, as in the login packet; MariaDB's own flags in the upper half.
    pub fn capabilities(&self) -> u64 {
        self.capabilities.load(Relaxed)
    }

    /// Whether rows end in an OK packet for this client; an EOF packet otherwise, and another behind the columns.
    pub fn deprecates_eof(&self) -> bool {
        self.capabilities() & DEPRECATE_EOF != 0
    }

    /// Whether column definitions carry MariaDB's extended metadata.
    pub fn has_extended_metadata(&self) -> bool {
        self.capabilities() & EXTENDED_METADATA != 0
    }

    /// Records what the client and the server have agreed on.
    pub fn set_capabilities(&self, capabilities: u64) {
        self.capabilities.store(capabilities, Relaxed);
    }

    /// For how long the session's commands have been held back, all together, for slaves to have what they have
    /// committed, and whether one is now: the server does nothing for it in that time.
    pub fn held(&self) -> (Duration, bool) {
        let held = lock(&self.held);
        (held.ended + held.since.map_or(Duration::ZERO, |since| since.elapsed()), held.since.is_some())
    }

    /// The fan-out layer holds a command back, as long as what this returns is there.
    pub(crate) fn hold(&self) -> Hold<'_> {
        lock(&self.held).since = Some(Instant::now());
        Hold(self)
    }

    /// A layer's own state of this session, made by `Default` when it is first asked for; one per type. It lives as
    /// long as the session, also across a reload of the layers; of a session that was there before the layer, or while it
    /// was not, [`LayerSetup::on_missed`](crate::LayerSetup::on_missed) tells.
    ///
    /// An HTTP account's session serves one request after the other; between two, the node resets it by a
    /// [`ResetConnection`](crate::CommandKind::ResetConnection), which passes the layers like any command.
    pub fn state<T: Default + Send + Sync + 'static>(&self) -> Arc<T> {
        let mut states = lock(&self.states);
        let known = states.iter().find(|(own, _)| *own == TypeId::of::<T>());
        let known = known.map(|(_, state)| state.clone().downcast().expect("it is stored under its own type"));
        known.unwrap_or_else(|| {
            let state = Arc::<T>::default();
            states.push((TypeId::of::<T>(), state.clone()));
            state
        })
    }
}

/// A command of this session is held back.
pub(crate) struct Hold<'a>(&'a Session);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let mut held = lock(&self.0.held);
        if let Some(since) = held.since.take() {
            held.ended += since.elapsed();
        }
    }
}

/// The key by which a request over HTTP can be told from another, as its header `Idempotency-Key` gives it: a
/// [state](Session::state) of its session, set by the front for each request.
#[derive(Debug, Default)]
pub struct RequestKey(Mutex<Keyed>);

#[derive(Clone, Debug, Default)]
struct Keyed {
    key: Option<Arc<str>>,
    names_schemas: bool,
}

impl RequestKey {
    /// The running request's.
    pub fn get(&self) -> Option<Arc<str>> {
        lock(&self.0).key.clone()
    }

    /// Whether the running request names its schemas itself: the session's default one is then whichever an earlier
    /// request has left.
    pub fn names_schemas(&self) -> bool {
        lock(&self.0).names_schemas
    }

    /// Records the key of the request that begins, or that it has none.
    pub fn set(&self, key: Option<&str>, names_schemas: bool) {
        *lock(&self.0) = Keyed { key: key.map(Into::into), names_schemas };
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these is valid at every moment, so a panic elsewhere can't have left it half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("front", &self.front)
            .field("role", &self.role)
            .field("peer", &self.peer)
            .field("connection_id", &self.connection_id())
            .field("names", &*lock(&self.names))
            .finish_non_exhaustive()
    }
}

//! One connection to MySQL: its bytes, its greeting, and the fence that it is put behind.

use std::{
    io,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use towline_middleware::{CommandKind, Error, ServerError, Session};

use super::{
    Endpoint, Fence, Killer,
    killer::Abandoned,
    password_bridge::PasswordBridge,
    reader::{Form, ReplyReader},
    tracking::{self, Wanted, learn},
};
use crate::{
    keepalive,
    transport::{Protection, Socket, Transport},
    wire::{
        Cursor, Malformed, capability, eof, err,
        frame::{HEADER_LEN, Header, PAYLOAD_MAX, put_packet},
        greeting::Greeting,
        ok,
    },
};

/// A payload from this size on is written from where it lies, after its header.
const COPY_MAX: usize = 16 * 1024;
/// Room made before a read: what a server writes at once (`net_buffer_length`), and so a result that fits in there takes
/// one read. After a read that fills it, [`READ_MAX`].
const READ_MIN: usize = 16 * 1024 + 512;
/// 64 kB reads measured best for large results.
const READ_MAX: usize = 64 * 1024;
/// Asks for the account that the client has named, as `name@host`, and the default schema, both not converted to the
/// client's character set. No host has an `@`. The limit goes before the session's own (`sql_select_limit`).
const NAMES: &str = "SELECT CAST(USER() AS BINARY),CAST(DATABASE() AS BINARY) LIMIT 1";
/// The error to everything but a new password.
const MUST_CHANGE_PASSWORD: u16 = 1820;
/// A packet that is read whole (greeting, login, OK, ERR) may have this many bytes.
const WHOLE_MAX: usize = 1 << 20;

/// Why there is no connection to MySQL.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The system or the network says no.
    #[error("can't connect to MySQL at {endpoint}")]
    Unreachable {
        /// Where.
        endpoint: Endpoint,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// MySQL answered the connection or the login with an error.
    #[error("MySQL refuses the connection: {0}")]
    Refused(ServerError),
    /// What answers there does not speak the protocol.
    #[error("what listens at {endpoint} does not speak MySQL's protocol: {source}")]
    NotMySql {
        /// Where.
        endpoint: Endpoint,
        /// What was wrong.
        #[source]
        source: Malformed,
    },
    /// The server lacks something that a relay can't do without.
    #[error(
        "MySQL {version} at {endpoint} is too old: it lacks DEPRECATE_EOF and SESSION_TRACK; use MySQL 5.7 or MariaDB 10.2 at least"
    )]
    TooOld {
        /// Where.
        endpoint: Endpoint,
        /// What it calls itself.
        version: String,
    },
    /// The server has no TLS.
    #[error("MySQL at {endpoint} offers no TLS, and `tls.backend` asks for it")]
    NoTls {
        /// Where.
        endpoint: Endpoint,
    },
}

pub(super) fn unreachable(endpoint: &Endpoint, source: io::Error) -> ConnectError {
    ConnectError::Unreachable { endpoint: endpoint.clone(), source }
}

impl ConnectError {
    /// What a client is told.
    pub fn to_client(&self) -> ServerError {
        match self {
            Self::Refused(error) => error.clone(),
            Self::Unreachable { .. } => {
                ServerError::new(2003, b"HY000", "Towline can't connect to its MySQL server; try again later")
            }
            Self::NotMySql { .. } | Self::TooOld { .. } | Self::NoTls { .. } => {
                ServerError::new(2012, b"HY000", "Towline can't use its MySQL server; see the node's log")
            }
        }
    }
}

/// One connection to MySQL.
#[derive(Debug)]
pub struct Upstream {
    stream: Transport,
    read: BytesMut,
    write: Vec<u8>,
    room: usize,
    mariadb: bool,
    fence: Fence,
    has_begun: bool,
    /// The limit on how long the server may take nothing, while it is lifted.
    lifted_limit: Option<Duration>,
    /// Whether the connection stands between two commands.
    pub(super) clean: bool,
    /// Who ends the connection at the server when it is left in the middle of a command, and by what id.
    killer: Option<(Killer, Abandoned)>,
    /// What the client on the other side can do; decides the form of replies.
    pub(super) client_capabilities: u32,
    client_mariadb_capabilities: u32,
    /// The last commit of the session that is known, for sessions whose commits are waited for.
    last_gtid: Option<Box<str>>,
    /// Which of the node's own reports the client has asked for by itself.
    pub(super) client_wants: Wanted,
    /// Translates passwords at COM_CHANGE_USER; none for a session that has none.
    pub(super) passwords: Option<Box<PasswordBridge>>,
}

impl Upstream {
    /// Reads the greeting on a fresh stream.
    pub(super) async fn greet(
        endpoint: &Endpoint,
        stream: Transport,
        fence: Fence,
    ) -> Result<(Self, Greeting), ConnectError> {
        let not_mysql = |source| ConnectError::NotMySql { endpoint: endpoint.clone(), source };
        let mut upstream = Self {
            stream,
            read: BytesMut::new(),
            write: Vec::new(),
            room: READ_MIN,
            mariadb: false,
            fence,
            has_begun: false,
            lifted_limit: None,
            clean: true,
            killer: None,
            client_capabilities: 0,
            client_mariadb_capabilities: 0,
            last_gtid: None,
            client_wants: Wanted::default(),
            passwords: None,
        };
        let (_, payload) = upstream.read_packet().await.map_err(|error| match error {
            Error::Upstream(source) => unreachable(endpoint, source),
            _ => not_mysql(Malformed("greeting")),
        })?;
        if payload.first() == Some(&err::HEADER) {
            return Err(ConnectError::Refused(err::decode(&payload).map_err(not_mysql)?));
        }
        let greeting = Greeting::decode(&payload).map_err(not_mysql)?;
        if greeting.capabilities & capability::UPSTREAM != capability::UPSTREAM {
            return Err(ConnectError::TooOld { endpoint: endpoint.clone(), version: greeting.version });
        }
        upstream.mariadb = greeting.is_mariadb();
        Ok((upstream, greeting))
    }

    /// What keeps others from listening in on the way to the server.
    pub(super) fn protection(&self) -> Protection {
        self.stream.protection()
    }

    /// The stream, to be put under TLS.
    ///
    /// # Errors
    /// The server has sent more than a greeting, which it must not.
    pub(super) fn stream_in_clear(&mut self) -> Result<&mut Transport, Error> {
        match self.read.is_empty() {
            true => Ok(&mut self.stream),
            false => Err(Error::Protocol { peer: "MySQL", what: "a packet between greeting and TLS" }),
        }
    }

    /// Keeps what translates the passwords of this session's logins.
    pub(crate) fn set_passwords(&mut self, passwords: PasswordBridge) {
        self.passwords = Some(Box::new(passwords));
    }

    /// Records what the client can do, with MySQL and with MariaDB: replies take its form.
    pub fn set_client_capabilities(&mut self, capabilities: u32, mariadb: u32) {
        self.client_capabilities = capabilities;
        self.client_mariadb_capabilities = mariadb;
    }

    /// From now on, when this is dropped in the middle of a command, the server is told to end the connection `id`.
    pub fn kill_when_abandoned(&mut self, killer: Killer, id: u32) {
        self.killer = Some((killer, Abandoned { id, connected: Instant::now() }));
    }

    /// Whether the session has begun: it has not as long as the server takes nothing but a new password.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Puts the fence up (see [`Fence`]), and takes from the answer how the server reads the session's SQL.
    ///
    /// # Errors
    /// The session is over: without its fence it must not be used.
    pub(super) async fn put_up_fence(&mut self, session: &Session) -> Result<(), Error> {
        let clean = std::mem::replace(&mut self.clean, false);
        self.send([self.fence.statement(self.mariadb)]).await?;
        self.has_begun = self.read_fence(session).await?;
        self.clean = clean;
        Ok(())
    }

    /// Begins a session after a login, before the client's first command: puts the fence up, and in the same round trip
    /// asks for the names of account and default schema. A server takes a login's name out of quotes, cuts it and converts
    /// it from the client's character set, so that what the client has sent need not be the name.
    ///
    /// # Errors
    /// The session is over.
    pub async fn begin_session(&mut self, session: &Session) -> Result<(), Error> {
        let clean = std::mem::replace(&mut self.clean, false);
        self.send([self.fence.statement(self.mariadb), NAMES]).await?;
        let is_fenced = self.read_fence(session).await?;
        let row = self.read_row().await?;
        self.clean = clean;
        // MariaDB takes the fence with an expired password too.
        self.has_begun = is_fenced && !matches!(&row, Err(error) if error.code == MUST_CHANGE_PASSWORD);
        if self.has_begun { learn_names(row, session) } else { Ok(()) }
    }

    /// Sends statements of the node's own, all at once.
    async fn send<const N: usize>(&mut self, statements: [&str; N]) -> Result<(), Error> {
        let mut packets = Vec::new();
        for statement in statements {
            put_packet(&mut packets, 0, &[&[CommandKind::Query.to_byte()], statement.as_bytes()].concat());
        }
        self.stream.write_all(&packets).await.map_err(|error| self.broken(error))?;
        self.stream.flush().await.map_err(|error| self.broken(error))
    }

    /// Reads the answer to the fence. Whether it is up: with an expired password there is nothing to fence yet.
    async fn read_fence(&mut self, session: &Session) -> Result<bool, Error> {
        let (_, answer) = self.read_packet().await?;
        if answer.first() == Some(&ok::HEADER) {
            learn(&mut ok::decode(&answer).map_err(malformed)?, session, Wanted::default());
            return Ok(true);
        }
        match err::decode(&answer) {
            Ok(error) if error.code == MUST_CHANGE_PASSWORD => Ok(false),
            refusal => {
                let refusal = refusal.map(|error| error.to_string());
                let statement = self.fence.statement(self.mariadb);
                tracing::error!(statement, refusal = ?refusal, "MySQL refuses the statement that fences client sessions");
                Err(Error::Protocol { peer: "MySQL", what: "it refused the session's fence" })
            }
        }
    }

    /// Asks for the names of account and default schema.
    ///
    /// # Errors
    /// The session is over: what its unqualified names mean must be known.
    pub(super) async fn ask_names(&mut self, session: &Session) -> Result<(), Error> {
        let row = self.ask(NAMES).await?;
        learn_names(row, session)
    }

    /// What the server has not reported of a command that may have committed: a stored program may have switched the
    /// reports off. The fence goes up again then.
    ///
    /// # Errors
    /// The session is over: whether there is something to wait for must be known.
    pub(super) async fn ask_commit(&mut self, session: &Session) -> Result<Unreported, Error> {
        let Ok(Some(row)) = self.ask(tracking::last_commit(self.mariadb)).await? else {
            return Err(Error::Protocol { peer: "MySQL", what: "it does not tell the last commit" });
        };
        let mut cells = Cursor::new(&row);
        let gtid = tracking::gtid(cells.lenenc_bytes().unwrap_or_default());
        let log_is_off = cells.lenenc_bytes() == Some(b"0");
        let Some(gtid) = gtid.filter(|gtid| self.last_gtid.as_ref() != Some(gtid)) else {
            return Ok(Unreported { gtid: None, log_is_off });
        };
        self.note_commit(&gtid);
        self.put_up_fence(session).await?;
        Ok(Unreported { gtid: Some(gtid), log_is_off })
    }

    /// Remembers the last commit that is known.
    pub(super) fn note_commit(&mut self, gtid: &str) {
        self.last_gtid = Some(gtid.into());
    }

    /// Runs a query of the node's own; see [`Upstream::read_row`].
    async fn ask(&mut self, sql: &str) -> Result<Result<Option<Bytes>, ServerError>, Error> {
        self.send([sql]).await?;
        self.read_row().await
    }

    /// Reads how many columns there are, these, a row and the end, and returns the row if there was one. The inner error
    /// is the server's.
    async fn read_row(&mut self) -> Result<Result<Option<Bytes>, ServerError>, Error> {
        let (_, count) = self.read_packet().await?;
        if count.first() == Some(&err::HEADER) {
            return err::decode(&count).map(Err).map_err(malformed);
        }
        for _ in 0..Cursor::new(&count).lenenc().unwrap_or_default() {
            self.read_packet().await?;
        }
        let mut row = None;
        loop {
            let (_, packet) = self.read_packet().await?;
            match packet.first() {
                Some(&err::HEADER) => return err::decode(&packet).map(Err).map_err(malformed),
                Some(&eof::HEADER) => return Ok(Ok(row)),
                _ => row = Some(packet),
            }
        }
    }

    /// Waits until the server speaks or leaves between two commands, and returns its packet if there is one: an error
    /// that says why it leaves.
    ///
    /// # Cancel safety
    /// A dropped future loses nothing.
    pub(crate) async fn farewell(&mut self) -> Option<(u8, Bytes)> {
        self.read_packet().await.ok()
    }

    /// Reads one whole packet of at most 1 MB: its number and its payload.
    ///
    /// # Errors
    /// The connection broke, or the packet is longer.
    ///
    /// # Cancel safety
    /// A dropped future loses nothing.
    pub async fn read_packet(&mut self) -> Result<(u8, Bytes), Error> {
        loop {
            if let Some(header) = Header::decode(&self.read) {
                if header.len > WHOLE_MAX {
                    return Err(Error::Protocol { peer: "MySQL", what: "a packet longer than can stand here" });
                }
                if self.read.len() >= HEADER_LEN + header.len {
                    self.read.advance(HEADER_LEN);
                    return Ok((header.sequence, self.read.split_to(header.len).freeze()));
                }
            }
            self.fill().await?;
        }
    }

    /// Writes one packet with this number.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn write_packet(&mut self, sequence: u8, payload: &[u8]) -> Result<(), Error> {
        self.write.clear();
        if payload.len() < COPY_MAX {
            if sequence == 0 {
                self.limit_patience();
            }
            put_packet(&mut self.write, sequence, payload);
            self.stream.write_all(&self.write).await.map_err(|error| self.broken(error))?;
            return self.stream.flush().await.map_err(|error| self.broken(error));
        }
        self.be_patient();
        let mut next = sequence;
        let closing: &[u8] = &[];
        let frames = payload.chunks(PAYLOAD_MAX).chain(payload.len().is_multiple_of(PAYLOAD_MAX).then_some(closing));
        for chunk in frames {
            let header = Header { len: chunk.len(), sequence: next }.encode();
            let mut left = [&header[..], chunk];
            while left.iter().any(|piece| !piece.is_empty()) {
                self.stream.write_of(&mut left).await.map_err(|error| self.broken(error))?;
            }
            next = next.wrapping_add(1);
        }
        // Nothing to do in clear; TLS may hold records that the socket had no room for.
        self.stream.flush().await.map_err(|error| self.broken(error))
    }

    /// Until the next short command the server may take nothing of what is sent to it for as long as it likes: it may be
    /// waiting for a lock in the middle of a file, or for a thread of its own. What is short fits into the room that its
    /// system has.
    pub(super) fn be_patient(&mut self) {
        if self.lifted_limit.is_none()
            && let Some(Socket::Tcp(stream)) = self.stream.socket()
        {
            // Where the system does not tell, its own limit holds.
            self.lifted_limit = keepalive::lift_limit(stream).ok().flatten();
        }
    }

    fn limit_patience(&mut self) {
        if let Some(limit) = self.lifted_limit.take()
            && let Some(Socket::Tcp(stream)) = self.stream.socket()
        {
            // A connection that is gone shows as it is used.
            let _ = keepalive::restore_limit(stream, limit);
        }
    }

    /// Reads once more from the server.
    ///
    /// # Cancel safety
    /// A dropped future loses nothing.
    pub(super) async fn fill(&mut self) -> Result<(), Error> {
        if self.read.is_empty() {
            // An idle session holds no buffer; within a reply its memory is used again.
            if self.clean {
                self.read = BytesMut::new();
            }
            self.stream.readable().await.map_err(|error| self.broken(error))?;
        }
        self.read.reserve(self.room);
        let n = match self.stream.read_buf(&mut self.read).await {
            Ok(0) => return Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
            Ok(n) => n,
            Err(error) => return Err(self.broken(error)),
        };
        self.room = if n >= self.room { READ_MAX } else { READ_MIN };
        Ok(())
    }

    /// Waits until the server has left, whatever it may have sent before.
    ///
    /// # Cancel safety
    /// A dropped future loses nothing.
    pub(super) async fn left(&mut self) -> Error {
        self.stream.left().await;
        self.broken(io::ErrorKind::ConnectionAborted.into())
    }

    /// The server has left: there is nothing to end there any more.
    fn broken(&mut self, error: io::Error) -> Error {
        self.killer = None;
        Error::Upstream(error)
    }

    /// What has been read and not yet used, for the reader of a reply.
    pub(super) fn unread(&mut self) -> &mut BytesMut {
        &mut self.read
    }

    /// A reader for the reply to a command of this kind, in the form that the client reads.
    pub(super) fn reader(&self, kind: CommandKind, status: u16) -> ReplyReader {
        let form = Form {
            deprecate_eof: self.client_capabilities & capability::DEPRECATE_EOF != 0,
            cache_metadata: self.client_mariadb_capabilities & capability::mariadb::CACHE_METADATA != 0,
        };
        ReplyReader::new(kind, form, status)
    }
}

/// What the server tells of a command when it is asked.
#[derive(Debug)]
pub(super) struct Unreported {
    /// The GTID of its commit, if there was one.
    pub(super) gtid: Option<Box<str>>,
    /// The session's commits are not logged.
    pub(super) log_is_off: bool,
}

/// Takes the session's names from the answer to [`NAMES`].
fn learn_names(row: Result<Option<Bytes>, ServerError>, session: &Session) -> Result<(), Error> {
    let untold = Error::Protocol { peer: "MySQL", what: "it does not tell the names of account and schema" };
    let Ok(Some(row)) = row else { return Err(untold) };
    let mut cells = Cursor::new(&row);
    let account = cells.lenenc_bytes().and_then(|account| std::str::from_utf8(account).ok()?.rsplit_once('@'));
    let Some((user, _)) = account else { return Err(untold) };
    session.set_user(user);
    // NULL, if there is none.
    session.set_schema(&String::from_utf8_lossy(cells.lenenc_bytes().unwrap_or_default()));
    Ok(())
}

fn malformed(error: Malformed) -> Error {
    Error::Protocol { peer: "MySQL", what: error.0 }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if let Some((killer, abandoned)) = self.killer.take().filter(|_| !self.clean) {
            killer.kill(abandoned);
        }
    }
}

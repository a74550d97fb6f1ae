//! One connection to MySQL: its bytes and its greeting.

use std::{
    io,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use towline_middleware::{CommandKind, Error, ServerError};

use super::{
    Endpoint, Fence, Killer,
    killer::Abandoned,
    password_bridge::PasswordBridge,
    reader::{Form, ReplyReader},
    tracking::Wanted,
};
use crate::{
    keepalive,
    transport::{Protection, Socket, Transport},
    wire::{
        Malformed, capability, err,
        frame::{HEADER_LEN, Header, PAYLOAD_MAX, put_packet},
        greeting::Greeting,
    },
};

/// A payload from this size on is written from where it lies, after its header.
const COPY_MAX: usize = 16 * 1024;
/// Room made before a read: what a server writes at once (`net_buffer_length`), and so a result that fits in there takes
/// one read. After a read that fills it, [`READ_MAX`].
const READ_MIN: usize = 16 * 1024 + 512;
/// 64 kB reads measured best for large results.
const READ_MAX: usize = 64 * 1024;
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
    pub(super) stream: Transport,
    read: BytesMut,
    write: Vec<u8>,
    room: usize,
    pub(super) mariadb: bool,
    pub(super) fence: Fence,
    pub(super) has_begun: bool,
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
    pub(super) last_gtid: Option<Box<str>>,
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
    pub(super) fn broken(&mut self, error: io::Error) -> Error {
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

impl Drop for Upstream {
    fn drop(&mut self) {
        if let Some((killer, abandoned)) = self.killer.take().filter(|_| !self.clean) {
            killer.kill(abandoned);
        }
    }
}

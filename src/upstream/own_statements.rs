//! What the node asks of a client's connection to MySQL for itself: that it goes behind its fence, and what the server has
//! not told.

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use towline_middleware::{CommandKind, Error, ServerError, Session};

use super::{
    Upstream,
    tracking::{self, Wanted, learn},
};
use crate::wire::{Cursor, Malformed, eof, err, frame::put_packet, ok};

/// Asks for the account that the client has named, as `name@host`, and the default schema, both not converted to the
/// client's character set. No host has an `@`. The limit goes before the session's own (`sql_select_limit`).
const NAMES: &str = "SELECT CAST(USER() AS BINARY),CAST(DATABASE() AS BINARY) LIMIT 1";
/// The error to everything but a new password.
const MUST_CHANGE_PASSWORD: u16 = 1820;

impl Upstream {
    /// Whether the session has begun: it has not as long as the server takes nothing but a new password.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Puts the fence up (see [`Fence`](super::Fence)), and takes from the answer how the server reads the session's SQL.
    ///
    /// # Errors
    /// The session is over: without its fence it must not be used.
    pub(super) async fn put_up_fence(&mut self, session: &Session) -> Result<(), Error> {
        let clean = std::mem::replace(&mut self.clean, false);
        self.send([self.fence.statement(self.mariadb)]).await?;
        // It is not begun by its fence alone.
        self.has_begun &= self.read_fence(session).await?;
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

    /// Asks for the status flags, which an error does not tell. Errors and warnings stay to be shown; `ROW_COUNT()` becomes 0.
    ///
    /// # Errors
    /// The session is over: whether a transaction is open must be known.
    pub(super) async fn ask_status(&mut self, session: &Session) -> Result<(), Error> {
        self.write_packet(0, &[CommandKind::Ping.to_byte()]).await?;
        let (_, answer) = self.read_packet().await?;
        let mut completion = ok::decode(&answer).map_err(malformed)?;
        if learn(&mut completion, session, Wanted::default()).doubt {
            self.put_up_fence(session).await?;
        }
        Ok(())
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
            return Ok(Unreported { gtid: None, is_newest: false, log_is_off });
        };
        self.note_commit(&gtid);
        self.put_up_fence(session).await?;
        Ok(Unreported { gtid: Some(gtid), is_newest: !self.mariadb, log_is_off })
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
}

/// What the server tells of a command when it is asked.
#[derive(Debug)]
pub(super) struct Unreported {
    /// The GTID of its commit, if there was one.
    pub(super) gtid: Option<Box<str>>,
    /// It may be another session's.
    pub(super) is_newest: bool,
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

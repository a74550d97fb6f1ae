//! Why capture stopped.

use std::{fmt, time::Duration};

/// Where in the master's binlog something stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The binlog file.
    pub file: String,
    /// Where the event, or the last one before it that could be read, ends in it, in bytes.
    pub end: u32,
    /// The GTID of its transaction; empty outside of one.
    pub gtid: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, ending at byte {}", self.file, self.end)?;
        if !self.gtid.is_empty() {
            write!(f, ", GTID {}", self.gtid)?;
        }
        Ok(())
    }
}

/// Why capture could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The server can't be reached or refuses the account, or a statement of the start failed.
    #[error("can't start to read the master's binlog: {0}")]
    Connect(#[source] mysql_async::Error),
    /// A setting of the server makes capture impossible.
    #[error("the master's {setting} is {found}: set {mend}")]
    Unfit {
        /// Which setting.
        setting: &'static str,
        /// What it is.
        found: String,
        /// What to write into `my.cnf` or to run.
        mend: &'static str,
    },
    /// The connection broke.
    #[error("the connection that reads the master's binlog broke: {0}")]
    Connection(#[source] mysql_async::Error),
    /// Neither an event nor a heartbeat for too long.
    #[error("the master's server has sent no event and no heartbeat for {0:?}")]
    Silent(Duration),
    /// The server ended the stream; it is shutting down, or another reader took this one's server id.
    #[error("the master's server ended the binlog stream")]
    Ended,
    /// The binlog no longer reaches back to where capture should start.
    #[error("the master's binlog no longer holds what follows {after}: {detail}. The slave needs a snapshot")]
    BinlogGone {
        /// The start that was asked for: a GTID, or "the beginning".
        after: String,
        /// What the server said.
        detail: String,
    },
    /// What an XA transaction's end by name means for the slaves the binlog does not, or no longer, hold.
    #[error(
        "the XA transaction {xid} ends at {place}, and what the slaves get by that the master's binlog does not hold: \
         {detail}. The slave needs a snapshot from after it"
    )]
    PrepareGone {
        /// Where it ends.
        place: Place,
        /// Its name.
        xid: String,
        /// What was looked for in vain.
        detail: String,
    },
    /// The transaction to start after is not in the master's history.
    #[error("{after} is not in the master's history: {detail}. The slave needs a snapshot")]
    Forked {
        /// The GTID that was asked for.
        after: String,
        /// What the server said.
        detail: String,
    },
    /// The server has not the history that was captured.
    #[error("the master's server is not as it was: {detail}")]
    Renewed {
        /// How that shows.
        detail: String,
    },
    /// An event's bytes are not those that the server wrote.
    #[error("the binlog event at {0} is damaged: its CRC32 does not match")]
    Checksum(Place),
    /// An event is shorter or other than its type says.
    #[error("the binlog event at {place} can't be read: {what}")]
    Malformed {
        /// Where.
        place: Place,
        /// Which part of it.
        what: &'static str,
    },
    /// Row data was logged as a statement.
    #[error(
        "a statement that changes data was logged as text at {place}, so its rows are unknown: {sql}. \
         Set binlog_format=ROW globally and in every session, and let tables be versioned by TIMESTAMP(6), not by \
         BIGINT (MariaDB logs what is inserted into those as text); the slaves need a snapshot from after it"
    )]
    StatementLogged {
        /// Where.
        place: Place,
        /// Its beginning.
        sql: String,
    },
    /// A Query event that is on no list.
    #[error("the statement at {place} is none that replication knows: {sql}")]
    UnknownStatement {
        /// Where.
        place: Place,
        /// Its beginning.
        sql: String,
    },
    /// An event that capture must not pass over.
    #[error("the binlog holds {event} at {place}: {mend}")]
    Unsupported {
        /// Where.
        place: Place,
        /// What it is.
        event: &'static str,
        /// What can be done.
        mend: &'static str,
    },
    /// An event type that is on no list.
    #[error("the binlog holds an event of the unknown type {kind} at {place}")]
    UnknownEvent {
        /// Where.
        place: Place,
        /// Its number.
        kind: u8,
    },
    /// Rows of a system table were changed directly.
    #[error(
        "rows of the system table {table} were changed at {place}, which can't be applied elsewhere: \
         change accounts by GRANT and the like, and system tables on each server with sql_log_bin=0. \
         The slaves need a snapshot from after it"
    )]
    SystemTable {
        /// Where.
        place: Place,
        /// With its schema.
        table: String,
    },
    /// A transaction of another server or domain.
    #[error(
        "the binlog holds the history of a second server or domain at {place}, where only {expected} can be ordered: \
         let every session write under one gtid_domain_id, or take native replication off this server"
    )]
    OtherSource {
        /// Where.
        place: Place,
        /// The domain or server UUID that is captured.
        expected: String,
    },
    /// A GTID whose number does not rise.
    #[error("the GTID at {place} does not follow {last}: set gtid_strict_mode=ON; the slaves need a snapshot")]
    NotRising {
        /// Where.
        place: Place,
        /// The number of the transaction before.
        last: u64,
    },
    /// A transaction that was read once more did not come with the changes that it had.
    #[error(
        "{gtid} had {first} changes when it was read from the master's binlog, and {second} when it was read again, so it \
         is applied nowhere. Restart the master's node; if that does not help the slaves need a snapshot from after it"
    )]
    ReadOtherwise {
        /// Which.
        gtid: String,
        /// How many changes it had.
        first: usize,
        /// How many came the second time.
        second: usize,
    },
    /// An event that no server could apply.
    #[error(
        "the binlog holds an event of more than {limit} bytes behind {place}, which no server takes: \
         write such a row by smaller columns; the slaves need a snapshot from after it"
    )]
    TooLarge {
        /// Where.
        place: Place,
        /// The limit in bytes.
        limit: usize,
    },
}

impl CaptureError {
    /// The same with a place, where the stream could not know it.
    pub(super) fn at(self, at: Place) -> Self {
        match self {
            Self::Malformed { what, .. } => Self::Malformed { place: at, what },
            Self::TooLarge { limit, .. } => Self::TooLarge { place: at, limit },
            other => other,
        }
    }

    /// Whether the server has not, or no longer, the history that follows what was captured.
    pub(crate) fn is_lost_history(&self) -> bool {
        matches!(self, Self::BinlogGone { .. } | Self::Forked { .. } | Self::Renewed { .. } | Self::NotRising { .. })
    }

    /// Whether the binlog holds what can never be captured, so that only a snapshot from behind it mends that.
    pub(crate) fn is_uncapturable(&self) -> bool {
        matches!(
            self,
            Self::PrepareGone { .. }
                | Self::StatementLogged { .. }
                | Self::UnknownStatement { .. }
                | Self::Unsupported { .. }
                | Self::UnknownEvent { .. }
                | Self::SystemTable { .. }
                | Self::TooLarge { .. }
        )
    }

    /// Whether it may go away by itself: a new capture from the last transaction can then go on. Anything else needs a
    /// person or a snapshot.
    pub fn is_transient(&self) -> bool {
        match self {
            // A server that answers with an error has understood; one that does not answer may come back.
            Self::Connect(error) | Self::Connection(error) => {
                !matches!(error, mysql_async::Error::Server(_) | mysql_async::Error::Url(_))
                    || matches!(error, mysql_async::Error::Server(error) if matches!(error.code, 1040 | 1053 | 1927))
            }
            Self::Silent(_) | Self::Ended | Self::Checksum(_) => true,
            _ => false,
        }
    }
}

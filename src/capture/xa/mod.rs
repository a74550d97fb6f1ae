//! XA transactions in two phases: what was prepared, until it is committed.
//!
//! The binlog holds the rows where they were prepared, as a transaction of its own, and the commit, by name, somewhere
//! behind it. Nobody may see the rows before the commit, so they travel at its place. Until then a few are kept; of the
//! others, of those that are too long, and of those that were prepared before this reader began, only the place in the
//! binlog is known or looked for.
//!
//! A MariaDB server that dies may have lost what its binlog says of an end: the transaction is prepared again, and ends a
//! second time. After a rollback that is no matter; after a commit the slaves have what the server has lost, and must be
//! told.

mod recovery;

use std::{collections::BTreeMap, fmt};

pub(super) use self::recovery::Recovery;
use super::{Captured, Place, event::Fields};

/// How many bytes of prepared transactions are kept.
const KEPT_BYTES_MAX: usize = 4 << 20;
/// How many prepared transactions are known by their place. What a dying server has lost is never completed, so the
/// oldest are forgotten; one that is completed after all is looked for.
const KNOWN_MAX: usize = 4096;

/// The first byte of MySQL's XA_prepare event when it is the end of the transaction.
pub(super) const IN_ONE_PHASE: u8 = 1;

/// What an XA transaction is known by.
///
/// Source: <https://mariadb.com/kb/en/xa-transactions/>
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Xid {
    format: u32,
    global: Vec<u8>,
    branch: Vec<u8>,
}

impl Xid {
    /// Reads the body of an event of type [`XA_PREPARE`](super::event::kind::XA_PREPARE).
    ///
    /// Source: MySQL's `XA_prepare_event` in `libs/mysql/binlog/event/control_events.h`; MariaDB's is the same
    pub(super) fn prepared_by(body: &[u8]) -> Option<Self> {
        let mut fields = Fields(body);
        fields.u8()?; // whether it is committed at once
        let (format, global, branch) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let mut part = |length| Some(fields.bytes(usize::try_from(length).ok()?)?.to_vec());
        Some(Self { format, global: part(global)?, branch: part(branch)? })
    }

    /// Reads `X'…',X'…',n`, as both servers write it.
    fn read(text: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(text).ok()?.split(',');
        let mut part = || {
            let digits = parts.next()?.strip_prefix("X'")?.strip_suffix('\'')?.as_bytes();
            let digit = |byte: &u8| Some(char::from(*byte).to_digit(16)? as u8);
            let bytes = digits.chunks(2).map(|pair| match pair {
                [high, low] => Some(digit(high)? << 4 | digit(low)?),
                _ => None,
            });
            bytes.collect::<Option<Vec<u8>>>()
        };
        let (global, branch) = (part()?, part()?);
        // The event has the lower half of it.
        let format = parts.next()?.parse::<u64>().ok()? as u32;
        if parts.next().is_none() { Some(Self { format, global, branch }) } else { None }
    }
}

impl fmt::Display for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.global, &self.branch] {
            f.write_str("X'")?;
            part.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
            f.write_str("',")?;
        }
        write!(f, "{}", self.format)
    }
}

/// The second phase of an XA transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Completion {
    pub(super) xid: Xid,
    /// Whether it was committed, and not rolled back.
    pub(super) commits: bool,
}

impl Completion {
    /// Reads the statement of a Query event; none if it is another.
    pub(super) fn read(sql: &[u8]) -> Option<Self> {
        let (commits, xid) = match sql.strip_prefix(b"XA COMMIT ") {
            Some(xid) => (true, xid),
            None => (false, sql.strip_prefix(b"XA ROLLBACK ")?),
        };
        Some(Self { xid: Xid::read(xid)?, commits })
    }
}

/// Where a transaction was prepared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PreparedAt {
    pub(super) file: String,
    /// Where it begins in the file, in bytes.
    pub(super) begin: u32,
    pub(super) gtid: String,
    pub(super) seq: u64,
}

/// A prepared transaction.
#[derive(Debug)]
pub(super) struct Prepared {
    at: PreparedAt,
    kept: Option<Captured>,
    /// What keeping it costs.
    bytes: usize,
}

/// The prepared transactions that a reader has come by. Bounded.
#[derive(Debug)]
pub(super) struct PreparedTransactions {
    known: BTreeMap<Xid, Prepared>,
    kept_bytes: usize,
    kept_bytes_max: usize,
}

impl Default for PreparedTransactions {
    fn default() -> Self {
        Self { known: BTreeMap::new(), kept_bytes: 0, kept_bytes_max: KEPT_BYTES_MAX }
    }
}

impl PreparedTransactions {
    /// For a reader that stops at the first, which is kept however long it is.
    pub(super) fn of_one() -> Self {
        Self { kept_bytes_max: usize::MAX, ..Self::default() }
    }

    /// Adds one, of so many bytes.
    pub(super) fn add(&mut self, xid: Xid, at: PreparedAt, captured: Captured, bytes: usize) {
        self.take(&xid);
        let keeps = self.kept_bytes + bytes <= self.kept_bytes_max;
        let (kept, bytes) = if keeps { (Some(captured), bytes) } else { (None, 0) };
        self.kept_bytes += bytes;
        self.insert(xid, Prepared { at, kept, bytes });
    }

    /// Adds what stands in the binlog before the place that the reader is at.
    fn add_older(&mut self, places: impl IntoIterator<Item = (Xid, PreparedAt)>) {
        for (xid, at) in places {
            if !self.known.contains_key(&xid) {
                self.insert(xid, Prepared { at, kept: None, bytes: 0 });
            }
        }
    }

    fn insert(&mut self, xid: Xid, prepared: Prepared) {
        self.known.insert(xid, prepared);
        if self.known.len() > KNOWN_MAX
            && let Some(oldest) = self.known.iter().min_by_key(|(_, known)| known.at.seq).map(|(xid, _)| xid.clone())
        {
            self.take(&oldest);
        }
    }

    fn take(&mut self, xid: &Xid) -> Option<Prepared> {
        let prepared = self.known.remove(xid)?;
        self.kept_bytes -= prepared.bytes;
        Some(prepared)
    }

    /// Takes the one that is completed here: its rows if it is committed and they are kept, or what must be read for
    /// them. Of one that is unknown it must be read whether it was committed before.
    pub(super) fn complete(&mut self, completion: Completion, place: Place) -> Completed {
        match self.take(&completion.xid) {
            Some(_) if !completion.commits => Completed::WithoutRows,
            Some(Prepared { kept: Some(captured), .. }) => Completed::Rows(captured),
            unread => Completed::Unread(Unread { completion, place, prepared: unread.map(|known| known.at) }),
        }
    }
}

/// What a completed transaction consists of.
#[derive(Debug)]
pub(super) enum Completed {
    /// It was rolled back.
    WithoutRows,
    /// As it was prepared.
    Rows(Captured),
    /// That must be read.
    Unread(Unread),
}

/// A completed transaction of which more must be read.
#[derive(Clone, Debug)]
pub(super) struct Unread {
    completion: Completion,
    /// Where it is completed.
    place: Place,
    prepared: Option<PreparedAt>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_xid_is_the_same_from_an_event_and_from_a_statement() {
        let cases: [(&[u8], &[u8], &str); 3] = [
            (b"\0\x07\0\0\0\x01\0\0\0\x03\0\0\0ab'\"", b"XA COMMIT X'61',X'622722',7", "X'61',X'622722',7"),
            (b"\0\x01\0\0\0\x02\0\0\0\0\0\0\0\0\xff", b"XA ROLLBACK X'00ff',X'',1", "X'00ff',X'',1"),
            (b"\0\xff\xff\xff\xff\0\0\0\0\0\0\0\0", b"XA COMMIT X'',X'',18446744073709551615", "X'',X'',4294967295"),
        ];
        for (body, sql, text) in cases {
            let completion = Completion::read(sql).unwrap();
            assert_eq!(Xid::prepared_by(body), Some(completion.xid.clone()));
            assert_eq!(completion.xid.to_string(), text);
            assert_eq!(completion.commits, sql.starts_with(b"XA COMMIT"));
        }
    }

    #[test]
    fn anything_else_is_no_completion() {
        for sql in
            ["XA COMMIT", "XA COMMIT 'a'", "XA COMMIT X'6',X'',1", "XA COMMIT X'61',X'',1,", "XA END X'61',X'',1"]
        {
            assert_eq!(Completion::read(sql.as_bytes()), None, "{sql}");
        }
        assert_eq!(Xid::prepared_by(b"\0\x01\0\0\0\x02\0\0\0\0\0\0\0a"), None);
        proptest::proptest!(|(body: Vec<u8>)| {
            let _ = (Xid::prepared_by(&body), Completion::read(&body));
        });
    }
}

//! What differs between MariaDB and MySQL: where to start, and what a GTID event says.

use std::fmt;

use mysql_async::{Conn, prelude::Queryable};

use super::{
    CaptureError,
    event::{Event, Fields, kind},
};
use crate::replication::protocol::{Family, Mark};

/// The one origin whose transactions are captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// MariaDB: a GTID domain.
    Domain(u32),
    /// MySQL: a server's UUID.
    Uuid([u8; 16]),
}

impl Source {
    /// Which family of servers it is.
    pub(crate) fn family(self) -> Family {
        match self {
            Self::Domain(_) => Family::MariaDb,
            Self::Uuid(_) => Family::MySql,
        }
    }

    /// Asks the server what it writes under.
    pub(crate) async fn of(conn: &mut Conn) -> Result<Self, CaptureError> {
        let version: Option<String> = conn.query_first("SELECT VERSION()").await.map_err(CaptureError::Connect)?;
        if version.is_some_and(|version| version.contains("MariaDB")) {
            let domain: Option<u32> =
                conn.query_first("SELECT @@global.gtid_domain_id").await.map_err(CaptureError::Connect)?;
            return Ok(Self::Domain(domain.unwrap_or_default()));
        }
        let row: Option<(String, String)> =
            conn.query_first("SELECT @@global.server_uuid, @@global.gtid_mode").await.map_err(CaptureError::Connect)?;
        let (uuid, gtid_mode) = row.unwrap_or_default();
        if gtid_mode != "ON" {
            return Err(CaptureError::Unfit {
                setting: "gtid_mode",
                found: gtid_mode,
                mend: "gtid_mode=ON and enforce_gtid_consistency=ON",
            });
        }
        parse_uuid(&uuid).map(Self::Uuid).ok_or(CaptureError::Unfit {
            setting: "server_uuid",
            found: uuid,
            mend: "a UUID in the server's auto.cnf",
        })
    }

    /// The number within this source of a GTID in the server's own words; none if it is of another source or no GTID.
    pub(crate) fn seq_of(self, gtid: &str) -> Option<u64> {
        match self {
            Self::Domain(domain) => {
                let (of, rest) = gtid.split_once('-')?;
                let (server, seq) = rest.split_once('-')?;
                server.parse::<u32>().ok()?;
                if of.parse() == Ok(domain) { seq.parse().ok() } else { None }
            }
            Self::Uuid(uuid) => {
                let (of, seq) = gtid.split_once(':')?;
                if parse_uuid(of)? == uuid { seq.parse().ok() } else { None }
            }
        }
    }

    /// The number of its last transaction before a file that begins with this Gtid_list event; none if that can't be read.
    ///
    /// Source: <https://mariadb.com/kb/en/gtid_list_event/>
    pub(super) fn last_before(self, list: &Event) -> Option<u64> {
        const COUNT: u32 = (1 << 28) - 1;
        let mut fields = Fields(list.body());
        let mut last = 0;
        for _ in 0..fields.u32()? & COUNT {
            let (domain, _server, seq) = (fields.u32()?, fields.u32()?, fields.u64()?);
            if self == Self::Domain(domain) {
                last = last.max(seq);
            }
        }
        Some(last)
    }

    /// The number to start after; 0 for the beginning.
    pub(super) fn start(self, from: &Mark) -> Result<u64, CaptureError> {
        if from.gtid.is_empty() {
            return Ok(0);
        }
        self.seq_of(&from.gtid).ok_or_else(|| CaptureError::Forked {
            after: from.gtid.clone(),
            detail: format!("the server writes under {self}"),
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Domain(domain) => write!(f, "gtid_domain_id {domain}"),
            Self::Uuid(uuid) => write!(f, "server_uuid {}", Uuid(uuid)),
        }
    }
}

/// What follows a GTID event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    /// One Query event.
    Single,
    /// Events up to a commit.
    Transaction,
    /// MySQL does not tell: a `BEGIN` makes it a transaction.
    Untold,
    /// The announcement, or the withdrawal, of an `ALTER` whose commit is a group of its own.
    AlterNotice,
}

/// A GTID event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gtid {
    /// Whose transaction it is.
    pub(super) source: Source,
    /// Its number.
    pub(super) seq: u64,
    /// In the server's own words.
    pub(super) text: String,
    /// What follows.
    pub(super) group: Group,
}

impl Gtid {
    /// Reads an event of type [`kind::MARIADB_GTID`] or [`kind::GTID`].
    pub(super) fn read(event: &Event) -> Option<Self> {
        if event.kind() == kind::GTID { Self::read_mysql(event) } else { Self::read_mariadb(event) }
    }

    /// Source: <https://mariadb.com/kb/en/gtid_event/>; the extra flags as read from MariaDB 10.11's binlog.
    fn read_mariadb(event: &Event) -> Option<Self> {
        const STANDALONE: u8 = 1;
        const GROUP_COMMIT_ID: u8 = 2;
        const PREPARED_XA: u8 = 64;
        const COMPLETED_XA: u8 = 128;
        const EXTRA_ENGINES: u8 = 1;
        const EXTRA_START_ALTER: u8 = 2;
        const EXTRA_COMMIT_ALTER: u8 = 4;
        const EXTRA_ROLLBACK_ALTER: u8 = 8;
        const EXTRA_KNOWN: u8 = EXTRA_ENGINES | EXTRA_START_ALTER | EXTRA_COMMIT_ALTER | EXTRA_ROLLBACK_ALTER;

        let mut fields = Fields(event.body());
        let (seq, domain, flags) = (fields.u64()?, fields.u32()?, fields.u8()?);
        if flags & GROUP_COMMIT_ID != 0 {
            fields.u64()?;
        }
        if flags & (PREPARED_XA | COMPLETED_XA) != 0 {
            fields.u32()?; // the format of the XA transaction's name
            let (global, branch) = (fields.u8()?, fields.u8()?);
            fields.bytes(usize::from(global) + usize::from(branch))?;
        }
        let extra = fields.u8().unwrap_or(0);
        let group = match flags {
            _ if extra & (EXTRA_START_ALTER | EXTRA_ROLLBACK_ALTER) != 0 => Group::AlterNotice,
            _ if extra & !EXTRA_KNOWN & 0x0f != 0 => return None,
            _ if flags & (STANDALONE | COMPLETED_XA) != 0 => Group::Single,
            _ => Group::Transaction,
        };
        let text = format!("{domain}-{}-{seq}", event.server_id());
        Some(Self { source: Source::Domain(domain), seq, text, group })
    }

    /// Source: MySQL's `Gtid_event` in `libs/mysql/binlog/event/control_events.h`
    fn read_mysql(event: &Event) -> Option<Self> {
        let mut fields = Fields(event.body());
        fields.u8()?; // whether it may hold statements
        let uuid: [u8; 16] = fields.bytes(16)?.try_into().ok()?;
        let seq = fields.u64()?;
        Some(Self { source: Source::Uuid(uuid), seq, text: format!("{}:{seq}", Uuid(&uuid)), group: Group::Untold })
    }
}

struct Uuid<'a>(&'a [u8; 16]);

impl fmt::Display for Uuid<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02x}", if matches!(n, 4 | 6 | 8 | 10) { "-" } else { "" })?;
        }
        Ok(())
    }
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| *byte != b'-')
        .map(|byte| Some(char::from(byte).to_digit(16)? as u8))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    if digits.len() == 32 { bytes.try_into().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mariadb(body: &[u8]) -> Option<Gtid> {
        let mut header = [0; 23];
        header[5] = 9; // server id
        header[9] = 23;
        let event = Event::new(header.to_vec()).unwrap().rebuilt(kind::MARIADB_GTID, body).unwrap();
        Gtid::read(&event)
    }

    #[test]
    fn mariadb_groups_are_told_apart() {
        // Bodies as MariaDB 10.11 writes them.
        let cases: [(&[u8], Group); 7] = [
            (b"\x2a\0\0\0\0\0\0\0\0\0\0\0\x29\0\0\0\0\0\0", Group::Single),
            (b"\x2a\0\0\0\0\0\0\0\0\0\0\0\x28\x01\xff\0\0\0\0", Group::Transaction),
            (b"\x2a\0\0\0\0\0\0\0\0\0\0\0\x0e\x07\0\0\0\0\0\0\0", Group::Transaction),
            (b"\x2a\0\0\0\0\0\0\0\0\0\0\0\x29\x02\0\0\0\0\0", Group::AlterNotice),
            (b"\x2a\0\0\0\0\0\0\0\0\0\0\0\x29\x04\x07\0\0\0\0\0\0\0", Group::Single),
            (b"\x2a\0\0\0\0\0\0\0\0\0\0\0\x4c\x01\0\0\0\x01\x01xx", Group::Transaction),
            (b"\x2a\0\0\0\0\0\0\0\0\0\0\0\x8c\x01\0\0\0\x01\x01xx\0", Group::Single),
        ];
        for (body, group) in cases {
            let gtid = mariadb(body).unwrap();
            assert_eq!((gtid.text.as_str(), gtid.group), ("0-9-42", group), "{body:?}");
        }
        assert_eq!(mariadb(b"\x2a\0\0\0"), None);
    }

    #[test]
    fn gtids_of_another_source_have_no_number() {
        let domain = Source::Domain(0);
        assert_eq!(domain.seq_of("0-1-42"), Some(42));
        for gtid in ["1-1-42", "0-1", "0-1-42-1", "0-4294967296-1", "", "x"] {
            assert_eq!(domain.seq_of(gtid), None, "{gtid}");
        }
        let text = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
        let uuid = Source::Uuid(parse_uuid(text).unwrap());
        assert_eq!(uuid.to_string(), format!("server_uuid {text}"));
        assert_eq!(uuid.seq_of(&format!("{text}:23")), Some(23));
        assert_eq!(uuid.seq_of("4e11fa47-71ca-11e1-9e33-c80aa9429562:23"), None);
        assert_eq!(uuid.seq_of(&format!("{text}:tag:23")), None);
    }
}

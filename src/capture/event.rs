//! Binlog events as bytes.

use std::fmt;

/// Length of the header that each event starts with: timestamp u32, type u8, server id u32, size u32, end u32, flags u16.
///
/// Source: <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_replication_binlog_event.html>
pub(super) const HEADER: usize = 19;
/// Length of the CRC32 that each event ends with.
pub(super) const CRC: usize = 4;

/// Event types. MariaDB's own start at 160.
///
/// Source: <https://mariadb.com/kb/en/2-binlog-event-header/>
pub(super) mod kind {
    pub(crate) const QUERY: u8 = 2;
    pub(crate) const STOP: u8 = 3;
    pub(crate) const ROTATE: u8 = 4;
    pub(crate) const INTVAR: u8 = 5;
    pub(crate) const RAND: u8 = 13;
    pub(crate) const USER_VAR: u8 = 14;
    pub(crate) const FORMAT_DESCRIPTION: u8 = 15;
    pub(crate) const XID: u8 = 16;
    pub(crate) const BEGIN_LOAD_QUERY: u8 = 17;
    pub(crate) const EXECUTE_LOAD_QUERY: u8 = 18;
    pub(crate) const TABLE_MAP: u8 = 19;
    pub(crate) const WRITE_ROWS_V1: u8 = 23;
    pub(crate) const UPDATE_ROWS_V1: u8 = 24;
    pub(crate) const DELETE_ROWS_V1: u8 = 25;
    pub(crate) const INCIDENT: u8 = 26;
    pub(crate) const HEARTBEAT: u8 = 27;
    pub(crate) const IGNORABLE: u8 = 28;
    pub(crate) const ROWS_QUERY: u8 = 29;
    pub(crate) const WRITE_ROWS: u8 = 30;
    pub(crate) const UPDATE_ROWS: u8 = 31;
    pub(crate) const DELETE_ROWS: u8 = 32;
    pub(crate) const GTID: u8 = 33;
    pub(crate) const ANONYMOUS_GTID: u8 = 34;
    pub(crate) const PREVIOUS_GTIDS: u8 = 35;
    pub(crate) const XA_PREPARE: u8 = 38;
    pub(crate) const PARTIAL_UPDATE_ROWS: u8 = 39;
    pub(crate) const TRANSACTION_PAYLOAD: u8 = 40;
    pub(crate) const HEARTBEAT_V2: u8 = 41;
    pub(crate) const GTID_TAGGED: u8 = 42;
    pub(crate) const MARIADB_ANNOTATE_ROWS: u8 = 160;
    pub(crate) const MARIADB_BINLOG_CHECKPOINT: u8 = 161;
    pub(crate) const MARIADB_GTID: u8 = 162;
    pub(crate) const MARIADB_GTID_LIST: u8 = 163;
    pub(crate) const MARIADB_START_ENCRYPTION: u8 = 164;
    pub(crate) const MARIADB_QUERY_COMPRESSED: u8 = 165;
    pub(crate) const MARIADB_WRITE_ROWS_COMPRESSED_V1: u8 = 166;
    pub(crate) const MARIADB_DELETE_ROWS_COMPRESSED_V1: u8 = 168;
    pub(crate) const MARIADB_WRITE_ROWS_COMPRESSED: u8 = 169;
    pub(crate) const MARIADB_DELETE_ROWS_COMPRESSED: u8 = 171;
}

/// One event, whole: header, body, CRC32. Long enough for its header and CRC.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Event(Vec<u8>);

impl Event {
    /// Takes a whole event; none if its length is not what its header says.
    pub(super) fn new(bytes: Vec<u8>) -> Option<Self> {
        let event = (bytes.len() >= HEADER + CRC).then_some(Self(bytes))?;
        (event.u32_at(9) as usize == event.0.len()).then_some(event)
    }

    /// Makes an event of another one's header and a new type and body.
    pub(super) fn rebuilt(&self, kind: u8, body: &[u8]) -> Option<Self> {
        let size = u32::try_from(HEADER + body.len() + CRC).ok()?;
        let mut bytes = Vec::with_capacity(size as usize);
        bytes.extend_from_slice(&self.0[..HEADER]);
        bytes[4] = kind;
        bytes[9..13].copy_from_slice(&size.to_le_bytes());
        bytes.extend_from_slice(body);
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        Some(Self(bytes))
    }

    /// Makes an event of one that has no CRC32, whose header does not count one either.
    pub(super) fn without_checksum(event: &[u8]) -> Option<Self> {
        let mut bytes = Vec::with_capacity(event.len() + CRC);
        bytes.extend_from_slice(event);
        let size = u32::try_from(event.len() + CRC).ok()?;
        bytes.get_mut(9..13)?.copy_from_slice(&size.to_le_bytes());
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        Self::new(bytes)
    }

    /// All of it.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Seconds since 1970.
    pub(super) fn timestamp(&self) -> u32 {
        self.u32_at(0)
    }

    /// One of [`kind`], or something unknown.
    pub(super) fn kind(&self) -> u8 {
        self.0[4]
    }

    /// The server that the transaction was first written on.
    pub(super) fn server_id(&self) -> u32 {
        self.u32_at(5)
    }

    /// Where the event ends in its file; 0 if it is in none.
    pub(super) fn end(&self) -> u32 {
        self.u32_at(13)
    }

    /// Where the event begins in its file.
    pub(super) fn begin(&self) -> u32 {
        self.end().saturating_sub(self.u32_at(9))
    }

    /// What stands between header and CRC32.
    pub(super) fn body(&self) -> &[u8] {
        &self.0[HEADER..self.0.len() - CRC]
    }

    /// The CRC32 that it ends with.
    pub(super) fn crc(&self) -> [u8; CRC] {
        let [.., a, b, c, d] = self.0[..] else { unreachable!("an event is longer than its CRC32") };
        [a, b, c, d]
    }

    /// Whether the CRC32 is that of the bytes before it.
    pub(super) fn is_intact(&self) -> bool {
        let (content, crc) = self.0.split_at(self.0.len() - CRC);
        crc32fast::hash(content).to_le_bytes() == crc
    }

    fn u32_at(&self, at: usize) -> u32 {
        u32::from_le_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the content: statements on accounts hold passwords.
        write!(f, "Event(type {}, {} bytes)", self.kind(), self.0.len())
    }
}

/// Reads little-endian fields from the front of bytes; none when they end too early.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    /// The next `n` bytes.
    pub(super) fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    /// The next byte.
    pub(super) fn u8(&mut self) -> Option<u8> {
        self.number(1).map(|n| n as u8)
    }

    /// The next two bytes.
    pub(super) fn u16(&mut self) -> Option<u16> {
        self.number(2).map(|n| n as u16)
    }

    /// The next four bytes.
    pub(super) fn u32(&mut self) -> Option<u32> {
        self.number(4).map(|n| n as u32)
    }

    /// The next eight bytes.
    pub(super) fn u64(&mut self) -> Option<u64> {
        self.number(8)
    }

    /// The next `n` bytes as a number; `n` is at most 8.
    pub(super) fn number(&mut self, n: usize) -> Option<u64> {
        Some(self.bytes(n)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// Bytes that their length, one byte, stands before.
    pub(super) fn short_bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.bytes(length.into())
    }
}

/// A Query event's parts.
///
/// Source: <https://mariadb.com/kb/en/query_event/>
#[derive(Clone, Copy, Debug)]
pub(super) struct Query<'a> {
    /// The error that the statement ended with on the master; 0 for none.
    pub(super) error: u16,
    /// The session state that goes with it: `context` reads it.
    pub(super) status: &'a [u8],
    /// The default schema.
    pub(super) schema: &'a [u8],
    /// The statement.
    pub(super) sql: &'a [u8],
}

impl<'a> Query<'a> {
    /// Reads the body of an event of type [`kind::QUERY`].
    pub(super) fn read(body: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(body);
        fields.bytes(8)?; // thread id, seconds that it ran
        let schema = fields.u8()?;
        let error = fields.u16()?;
        let status = fields.u16()?;
        let status = fields.bytes(status.into())?;
        let schema = fields.bytes(schema.into())?;
        fields.u8()?; // a zero after the schema
        Some(Self { error, status, schema, sql: fields.0 })
    }
}

/// Which table a table id stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableMap<'a> {
    /// By which the rows events name it.
    pub(super) id: u64,
    /// The schema.
    pub(super) database: &'a str,
    /// The table.
    pub(super) table: &'a str,
}

impl<'a> TableMap<'a> {
    /// Reads the body of an event of type [`kind::TABLE_MAP`].
    ///
    /// Source: <https://mariadb.com/kb/en/table_map_event/>
    pub(super) fn read(body: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(body);
        let id = fields.number(6)?;
        fields.u16()?; // flags
        let mut name = || {
            let name = std::str::from_utf8(fields.short_bytes()?).ok()?;
            (fields.u8()? == 0).then_some(name)
        };
        Some(Self { id, database: name()?, table: name()? })
    }
}

/// Table ids of a rows event that only ends its statement.
pub(super) const NO_TABLE: [u64; 3] = [0xff_ffff, 0xffff_ffff, 0xffff_ffff_ffff];

const STATEMENT_END: u16 = 1;

/// The table id of a rows event, and whether it ends its statement.
pub(super) fn read_rows_head(body: &[u8]) -> Option<(u64, bool)> {
    let mut fields = Fields(body);
    Some((fields.number(6)?, fields.u16()? & STATEMENT_END != 0))
}

/// The rows event as the last one of its statement.
pub(super) fn ending_statement(rows: Event) -> Option<Event> {
    if read_rows_head(rows.body())?.1 {
        return Some(rows);
    }
    let mut body = rows.body().to_vec();
    body.get_mut(6).map(|flags| *flags |= STATEMENT_END as u8)?;
    rows.rebuilt(rows.kind(), &body)
}

//! The JSON that a master pushes to a slave by `POST /slave`, and the slave's answers.
//!
//! Version 1 of the format; any program that accepts the POST can be a slave:
//!
//! ```json
//! {"version": 1, "cluster": "f3a9…", "epoch": 3, "family": "mariadb", "after": {"position": "3:1041", "gtid": "0-1-1041", "checksum": 912559},
//!  "head": "3:1042",
//!  "formats": [{"id": 2774851920, "event": "<base64>"}],
//!  "transactions": [
//!   {"position": "3:1042", "gtid": "0-1-1042", "checksum": 3410065, "committed_at": 1790000000, "format": 2774851920, "changes": [
//!    {"kind": "rows", "tables": [{"action": "insert", "database": "shop", "table": "item"}],
//!     "maps": "<base64>", "events": "<base64>", "starts": true, "ends": true}]}]}
//! ```
//!
//! - Row events are MySQL's own binlog events, whole: header, body and CRC32, several of them end to end.
//! - A slave applies a batch only if `after` is exactly where it stands; otherwise it answers 409 with where it stands,
//!   and the master goes on from there.
//! - A master also asks `GET /slave/server` for [`ServerFacts`](super::server_facts::ServerFacts), and warns by them of what
//!   is about to go wrong; a slave may answer with 404.
//! - A `checksum` that both sides know must agree too: a master whose data was put back to an older copy gives the same
//!   GTIDs to other transactions.
//! - A transaction that the master does not hold in memory is *streamed*: a POST of `application/x-ndjson`, one JSON
//!   value a line ([`StreamLine`]). The first line is a batch as above whose one transaction has no changes; its changes
//!   follow, one a line, and then a line that says how many they were. The slave applies them as they come, in one
//!   transaction of its MySQL, and commits it with the position at that last line. If it does not come nothing has
//!   happened, and the transaction is sent again from its beginning.
//!
//! ```json
//! {"version": 1, …, "transactions": [{"position": "3:1042", …, "changes": []}]}
//! {"change": {"kind": "rows", "tables": […], "maps": "<base64>", "events": "<base64>", "starts": true, "ends": false}}
//! {"change": {"kind": "rows", "tables": […], "maps": "<base64>", "events": "<base64>", "starts": false, "ends": true}}
//! {"commit": 2}
//! ```

use base64::{Engine, display::Base64Display, prelude::BASE64_STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Visitor};
use towline_middleware::{Changed, Epoch, Position};

/// The version of the format that this node speaks.
pub const VERSION: u32 = 1;

/// A position with what proves that it is of the same history: two histories may number alike, and even give the same
/// GTIDs, as a server does whose data was put back to an older copy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Where.
    pub position: Position,
    /// The transaction's GTID in the master's own words (`0-1-1042`, `uuid:1042`). Empty before the first transaction.
    pub gtid: String,
    /// [`Transaction::checksum`]; none where only the GTID is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<u32>,
}

impl Mark {
    /// Whether both are the same transaction, as far as either knows.
    pub fn is_same(&self, other: &Self) -> bool {
        let alike = match (self.checksum, other.checksum) {
            (Some(own), Some(theirs)) => own == theirs,
            _ => true,
        };
        alike && self.position == other.position && self.gtid == other.gtid
    }
}

/// A family of servers. Row events and schema changes of one mean something else, or nothing, to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// MariaDB.
    MariaDb,
    /// MySQL.
    MySql,
}

impl Family {
    /// The family of a server, by what it answers to `SELECT VERSION()`.
    pub fn of_version(version: &str) -> Self {
        if version.contains("MariaDB") { Self::MariaDb } else { Self::MySql }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::MariaDb => "MariaDB",
            Self::MySql => "MySQL",
        })
    }
}

/// What one POST carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// [`VERSION`].
    pub version: u32,
    /// The cluster's id: a push meant for another cluster is refused.
    pub cluster: String,
    /// The master's epoch: a push from a lower one than the slave knows is refused.
    pub epoch: Epoch,
    /// Which servers the changes are for; a slave of the other family refuses them. Absent if the master does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
    /// The transaction after which the first one stands.
    pub after: Mark,
    /// The newest position in the master's binlog when it sent this: what the slave measures its lag against.
    #[serde(default)]
    pub head: Position,
    /// Set when the master's binlog no longer holds what follows `after`: what its server says. The slave needs a new
    /// snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_of_reach: Option<String>,
    /// Every format description that the transactions refer to.
    pub formats: Vec<Format>,
    /// In commit order. Empty asks only whether the slave stands at `after`.
    pub transactions: Vec<Transaction>,
}

/// A format description event: how to read the row events of the transactions that name its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    /// The CRC32 that `event` ends with (taken over the whole event it would be the same number for all of them).
    pub id: u32,
    /// The event, whole.
    pub event: Binary,
}

/// One transaction of the master.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// Where it stands in the master's history.
    pub position: Position,
    /// Its GTID in the master's own words.
    pub gtid: String,
    /// A CRC32 of the CRC32s of all its events, by which it is told from one of the same GTID in another history. Absent
    /// if the master does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<u32>,
    /// When it was committed there, in seconds since 1970 (UTC).
    pub committed_at: u64,
    /// The [`Format::id`] under which its events were written; 0 if it has no row events.
    pub format: u32,
    /// In the order of the binlog. Empty when nothing of it is to be applied (a change to the schema `towline`, say):
    /// the slave only moves its position.
    pub changes: Vec<Change>,
}

impl Transaction {
    /// Where a slave stands that has applied it.
    pub fn mark(&self) -> Mark {
        Mark { position: self.position, gtid: self.gtid.clone(), checksum: self.checksum }
    }
}

/// One change of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Change {
    /// Rows, as row events.
    Rows(RowsChange),
    /// A statement that changes the schema or accounts.
    Schema(SchemaChange),
}

/// A line of a streamed transaction, behind its first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamLine {
    /// Its next change.
    Change(Change),
    /// It is whole, and so many changes were in it.
    Commit(u64),
}

/// What a transaction changes, for those who keep something of its tables. `tables` is where the names are put.
pub(crate) fn changed<'a>(changes: &'a [Change], tables: &'a mut Vec<(&'a str, &'a str)>) -> Changed<'a> {
    for change in changes {
        match change {
            Change::Schema(_) => return Changed::Everything,
            Change::Rows(rows) => tables.extend(rows.tables.iter().map(|of| (&*of.database, &*of.table))),
        }
    }
    Changed::Tables(tables)
}

/// The row events of one statement, or of a piece of a long one.
///
/// - A piece is cut only between row events.
/// - `maps` stands before `events` when the piece is the first in a `BINLOG` or `starts` its statement: a rows event
///   without its map in the same `BINLOG` is lost without an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowsChange {
    /// What is done to which tables, in the order of the events; one entry for a run of events of the same kind.
    pub tables: Vec<RowsOf>,
    /// All Table_map events of the statement.
    pub maps: Binary,
    /// The row events.
    pub events: Binary,
    /// Whether it is the first piece of its statement.
    pub starts: bool,
    /// Whether it is the last piece of its statement (its last event has STMT_END).
    pub ends: bool,
}

/// Which rows a run of row events changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowsOf {
    /// What is done.
    pub action: Action,
    /// The schema.
    pub database: String,
    /// The table.
    pub table: String,
}

/// What is done to rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// New rows.
    Insert,
    /// Changed rows.
    Update,
    /// Removed rows.
    Delete,
}

/// A statement that changes the schema or accounts, with the context under which the master ran it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaChange {
    /// The statement. Bytes, since it is in the client's character set and may hold a password's hash.
    pub sql: Binary,
    /// The session state that the binlog gives.
    pub context: Context,
    /// The server's number of the error that it ended with on the master when it had done a part; 0 for none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub error: u16,
    /// Whether it names an account that each server has of its own: here that may be another one, or missing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own_account: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(number: &u16) -> bool {
    *number == 0
}

/// The session state under which a statement ran, as the binlog's Query event carries it. What is absent is left at
/// the applying session's value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Context {
    /// The default schema; empty for none.
    pub schema: String,
    /// The clock of the statement in microseconds since 1970 (UTC).
    pub timestamp_us: u64,
    /// `sql_mode` as the server's bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sql_mode: Option<u64>,
    /// `foreign_key_checks`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foreign_key_checks: Option<bool>,
    /// `unique_checks`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unique_checks: Option<bool>,
    /// `sql_auto_is_null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sql_auto_is_null: Option<bool>,
    /// `check_constraint_checks` (MariaDB).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check_constraint_checks: Option<bool>,
    /// Ids of `character_set_client`'s, `collation_connection` and `collation_server`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub charset: Option<[u16; 3]>,
    /// Id of `collation_database`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collation_database: Option<u16>,
    /// Id of `default_collation_for_utf8mb4` (MySQL).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_collation_for_utf8mb4: Option<u16>,
    /// Ids of the collations in `character_set_collations` (MariaDB since 11.2): each is its character set's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub character_set_collations: Option<Vec<u16>>,
    /// `time_zone`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// Number of `lc_time_names`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lc_time_names: Option<u16>,
    /// `auto_increment_increment` and `auto_increment_offset`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_increment: Option<[u16; 2]>,
    /// `explicit_defaults_for_timestamp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explicit_defaults_for_timestamp: Option<bool>,
    /// `sql_if_exists` (MariaDB).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sql_if_exists: Option<bool>,
}

/// The slave's answer to a batch that it has applied (200).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Where it stands now.
    pub applied: Mark,
    /// What its server calls itself, and no other: by it a server that is registered under two URLs counts once for
    /// `cluster.ack`. Absent if the slave does not say; each registration of it counts then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
}

/// The slave's answer to a batch that it has not applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotApplied {
    /// Why not.
    pub refusal: PushRefusal,
    /// For people.
    pub message: String,
    /// Where it stands; none if it could not find out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Mark>,
}

/// Why a slave has not applied a batch, and with which HTTP status it says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PushRefusal {
    /// 409: it stands elsewhere in the same history. The master goes on from there.
    Position,
    /// 409: its history is not the master's, or it holds data of its own. It needs a new snapshot.
    Forked,
    /// 403: the push is from a lower epoch.
    OldEpoch,
    /// 403: the push is for another cluster.
    OtherCluster,
    /// 403: the changes are of the other family of servers.
    OtherFamily,
    /// 400: the format's version is not spoken here.
    Version,
    /// 409: the master's binlog no longer reaches it: it needs a new snapshot.
    OutOfReach,
    /// 422: the batch was damaged on its way (CRC, base64, order). Nothing of it was applied; send it again.
    Damaged,
    /// 422: a change can't be applied. The slave stays where it is until someone mends it.
    Stopped,
    /// 503: its MySQL is away or busy. Try again later.
    Unavailable,
}

impl PushRefusal {
    /// As JSON writes it.
    pub fn word(self) -> String {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::String(word)) => word,
            _ => format!("{self:?}"),
        }
    }

    /// The HTTP status that goes with it.
    pub fn status(self) -> u16 {
        match self {
            Self::Position | Self::Forked | Self::OutOfReach => 409,
            Self::OldEpoch | Self::OtherCluster | Self::OtherFamily => 403,
            Self::Version => 400,
            Self::Damaged | Self::Stopped => 422,
            Self::Unavailable => 503,
        }
    }
}

/// Bytes that travel as base64.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Binary(pub Vec<u8>);

impl std::fmt::Debug for Binary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the content: statements on accounts hold passwords.
        write!(f, "Binary({} bytes)", self.0.len())
    }
}

impl Serialize for Binary {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Without a text of its own, which would be longer than the bytes.
        serializer.collect_str(&Base64Display::new(&self.0, &BASE64_STANDARD))
    }
}

impl<'de> Deserialize<'de> for Binary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Base64)
    }
}

/// Decodes the text where it lies: a copy of it would be as long again.
struct Base64;

impl Visitor<'_> for Base64 {
    type Value = Binary;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("base64")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Binary, E> {
        BASE64_STANDARD.decode(text).map(Binary).map_err(E::custom)
    }
}

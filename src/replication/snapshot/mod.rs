//! A new slave: the master's data as of one position, fetched over HTTP.
//!
//! On the master `source` opens several sessions of its MySQL that see the same moment (commits are held up only while
//! they are opened) and gives out, table by table, the rows that they see; `definitions` reads what is not rows,
//! (`views` those of views), `identity` tells whether a table is still the one that it was, and `literal` writes values as
//! SQL. On the slave `make` makes what is not rows (`names` tells what it needs), and `load` fetches the tables in parallel, each piece in one transaction with the record of how far it is, so that a cut
//! costs one piece and nothing comes twice. The slave has a position only when everything is there, and until then it
//! serves no client and takes no push.
//!
//! | request to the master | answer |
//! | --- | --- |
//! | `POST /admin/snapshots` `{}` or `{"id"}` | [`Plan`], of a new snapshot or of that one |
//! | `POST /admin/snapshots/rows` [`RowsQuestion`] | lines of JSON, each a [`RowsLine`] |

mod definitions;
mod identity;
mod literal;
pub(crate) mod load;
mod make;
mod names;
pub(crate) mod source;
mod views;

pub use load::SnapshotOptions;
pub use source::SnapshotError;

use mysql_async::{Conn, prelude::Queryable};
use serde::{Deserialize, Serialize};
use towline_middleware::Epoch;

use super::protocol::{Binary, Family, Mark};

/// A snapshot: where it stands and all that is not rows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Its name on the master.
    pub id: String,
    /// The cluster's id.
    pub cluster: String,
    /// The master's epoch.
    pub epoch: Epoch,
    /// The family of the master's server.
    pub family: Option<Family>,
    /// The last transaction that it shows.
    pub mark: Mark,
    /// Accounts, databases, tables, routines, views and rights, to be made before the rows come.
    pub before: Vec<Definition>,
    /// The tables with rows.
    pub tables: Vec<TablePlan>,
    /// What is made when all rows are there: triggers must not fire for them.
    pub after: Vec<Definition>,
}

/// A table whose rows are to be fetched.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TablePlan {
    /// The schema.
    pub database: String,
    /// The table.
    pub table: String,
    /// The columns that are fetched, in the order of the table.
    pub columns: Vec<Column>,
    /// The primary key's columns if all are integers: only then can the middle of the table be found again.
    pub key: Vec<String>,
    /// Whether it keeps former versions of its rows (MariaDB).
    pub versioned: bool,
    /// About how many rows it has.
    pub rows: u64,
}

/// A column of a table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type's name, in lower case.
    pub kind: String,
}

/// A statement, and the session under which it means what it meant on the master.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Definition {
    /// The default schema; empty for none.
    pub schema: String,
    /// Variables of the session with their values.
    pub settings: Vec<(String, String)>,
    /// The statement, as bytes in its own character set; it may hold a password's hash.
    pub sql: Binary,
    /// The account that it is about, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// What it makes, for people.
    #[serde(default)]
    pub object: String,
    /// Whether the master may keep it though what it names has gone: if it can't be made, it is left out.
    #[serde(default)]
    pub may_lack_objects: bool,
}

/// Asks for rows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RowsQuestion {
    /// The snapshot's name.
    pub snapshot: String,
    /// Which of [`Plan::tables`].
    pub table: usize,
    /// The key of the last row that is known; empty to begin with the first.
    pub after: Vec<i128>,
}

/// A line of the answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowsLine {
    /// An `INSERT` of the next rows.
    Rows {
        /// The statement.
        sql: Binary,
        /// How many rows are in it.
        rows: u64,
        /// The key of the last one; empty if the table can't be resumed.
        after: Vec<i128>,
    },
    /// The next ones take a while.
    Alive,
    /// The table has no more.
    End,
    /// The rows can't be read: the whole snapshot is lost.
    Lost(String),
}

/// The server's error number for a right that is missing.
const NO_RIGHT: u16 = 1227;

/// Keeps what a session does out of the server's own binlog, if its account may say so; else it is written there.
async fn leave_log(conn: &mut Conn) -> mysql_async::Result<()> {
    match conn.query_drop("SET SESSION sql_log_bin = 0").await {
        Err(mysql_async::Error::Server(error)) if error.code == NO_RIGHT => Ok(()),
        outcome => outcome,
    }
}

/// A name as SQL.
fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

//! A piece of a table as a few numbers that two servers of one family give alike if and only if they hold the same
//! rows: what `verify` compares.

use mysql_async::{Conn, Opts, OptsBuilder, prelude::Queryable};
use serde::{Deserialize, Serialize};

use super::{NO_LIMITS, protocol::Mark};

/// A table, or a range of its rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// The schema.
    pub database: String,
    /// The table.
    pub table: String,
    /// Rows whose first key column is above this number; none for all from the first on.
    pub after: Option<i64>,
    /// Rows whose first key column is at most this number; none for all up to the last.
    pub up_to: Option<i64>,
    /// Whether each row is to be told too.
    pub with_rows: bool,
}

/// What a server holds of a [`Piece`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// The table's `SHOW CREATE`, without its next number.
    pub definition: String,
    /// How many rows there are.
    pub rows: u64,
    /// Two sums over the rows' hashes that no order of the rows changes.
    pub sums: (String, String),
    /// Each row's key and hash, where the piece asks for it: the first [`ROWS_MAX`].
    pub each: Vec<(String, String)>,
}

/// What a slave is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Question {
    /// Where it must stand.
    pub at: Mark,
    /// What is asked for.
    pub piece: Piece,
}

/// The second line of a slave's answer; the first is [`OPENED`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// What it holds; none if it has no such table.
    Digest(Option<Digest>),
    /// Why it can't tell.
    Error(String),
}

/// The first line of a slave's answer: what it tells next is what it held just now, whatever it applies meanwhile.
pub const OPENED: &str = "opened\n";
/// How many rows are told one by one at most.
pub const ROWS_MAX: usize = 20_000;
/// How many rows a piece has, if the table's key begins with an integer.
const PIECE_ROWS: usize = 10_000;

/// A session that sees the server as it was when it was opened.
#[derive(Debug)]
pub struct Snapshot(Conn);

impl Snapshot {
    /// Opens one.
    ///
    /// # Errors
    /// The server can't be reached or refuses.
    pub(crate) async fn open(mysql: &Opts) -> mysql_async::Result<Self> {
        let mut conn = Conn::new(OptsBuilder::from_opts(mysql.clone()).conn_ttl(None)).await?;
        // What a row looks like as text must not depend on the server's own settings.
        conn.query_drop(NO_LIMITS).await?;
        conn.query_drop("SET SESSION time_zone = '+00:00', sql_mode = ''").await?;
        conn.query_drop("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ").await?;
        let mut snapshot = Self(conn);
        snapshot.renew().await?;
        Ok(snapshot)
    }

    /// Sees the server as it is now.
    pub(crate) async fn renew(&mut self) -> mysql_async::Result<()> {
        self.0.query_drop("COMMIT").await?;
        self.0.query_drop("START TRANSACTION WITH CONSISTENT SNAPSHOT").await
    }

    /// The connection, for questions of the caller's own.
    pub(crate) fn conn(&mut self) -> &mut Conn {
        &mut self.0
    }

    /// What the server holds of a piece; none if there is no such table.
    ///
    /// # Errors
    /// Any of the server's; `1412` means that the table was changed since the snapshot.
    pub(crate) async fn digest(&mut self, piece: &Piece) -> mysql_async::Result<Option<Digest>> {
        let name = format!("{}.{}", quoted(&piece.database), quoted(&piece.table));
        let definition: Option<(String, String)> = match self.0.query_first(format!("SHOW CREATE TABLE {name}")).await {
            Err(mysql_async::Error::Server(error)) if matches!(error.code, 1049 | 1146) => return Ok(None),
            other => other?,
        };
        let columns: Vec<(String, String)> = self
            .0
            .exec(
                "SELECT COLUMN_NAME, LOWER(DATA_TYPE) FROM information_schema.COLUMNS \
                 WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? ORDER BY ORDINAL_POSITION",
                (&piece.database, &piece.table),
            )
            .await?;
        let key = self.key(piece).await?;
        let values: Vec<String> = columns.iter().map(|(column, kind)| value(column, kind)).collect();
        let hash = format!("SHA2(CONCAT_WS(',', {}), 256)", values.join(", "));
        let range = range(piece, key.first());
        let half = |side| format!("CAST(CONV({side}({hash}, 16), 16, 10) AS UNSIGNED)");
        let query = format!(
            "SELECT COUNT(*), CAST(BIT_XOR({}) AS CHAR), CAST(IFNULL(SUM({}), 0) AS CHAR) FROM {name} {range}",
            half("LEFT"),
            half("RIGHT")
        );
        let (rows, xor, sum) = self.0.query_first(query).await?.unwrap_or_default();
        let each = if piece.with_rows { self.each(&name, &key, &hash, &range).await? } else { Vec::new() };
        let definition = without_counter(definition.map(|(_, definition)| definition).unwrap_or_default());
        Ok(Some(Digest { definition, rows, sums: (xor, sum), each }))
    }

    async fn each(
        &mut self,
        name: &str,
        key: &[(String, String)],
        hash: &str,
        range: &str,
    ) -> mysql_async::Result<Vec<(String, String)>> {
        let columns: Vec<String> = key.iter().map(|(column, _)| quoted(column)).collect();
        // Without a key a row's hash is all that tells it from others.
        let (told, order) = match columns.is_empty() {
            true => (hash.to_owned(), hash.to_owned()),
            false => (format!("CONCAT_WS(', ', {})", columns.join(", ")), columns.join(", ")),
        };
        let query =
            format!("SELECT CAST({told} AS CHAR), {hash} FROM {name} {range} ORDER BY {order} LIMIT {ROWS_MAX}");
        self.0.query(query).await
    }

    /// The last number of the piece that begins after `piece.after`; none if it goes to the table's end.
    pub(crate) async fn bound(&mut self, piece: &Piece) -> mysql_async::Result<Option<i64>> {
        let key = self.key(piece).await?;
        let Some((column, _)) = key.first().filter(|(_, kind)| is_integer(kind)) else { return Ok(None) };
        let (column, name) = (quoted(column), format!("{}.{}", quoted(&piece.database), quoted(&piece.table)));
        let range = range(piece, key.first());
        let query = format!("SELECT {column} FROM {name} {range} ORDER BY {column} LIMIT {}, 1", PIECE_ROWS - 1);
        // A number that no `i64` holds makes the rest of the table one piece.
        let bound: Option<mysql_async::Value> = self.0.query_first(query).await?;
        Ok(bound.and_then(|bound| mysql_async::from_value_opt(bound).ok()))
    }

    /// The columns of the primary key with their types.
    async fn key(&mut self, piece: &Piece) -> mysql_async::Result<Vec<(String, String)>> {
        self.0
            .exec(
                "SELECT c.COLUMN_NAME, LOWER(c.DATA_TYPE) FROM information_schema.STATISTICS s \
                 JOIN information_schema.COLUMNS c USING (TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME) \
                 WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? AND s.INDEX_NAME = 'PRIMARY' ORDER BY s.SEQ_IN_INDEX",
                (&piece.database, &piece.table),
            )
            .await
    }
}

fn range(piece: &Piece, first: Option<&(String, String)>) -> String {
    let Some((column, _)) = first else { return String::new() };
    let column = quoted(column);
    match (piece.after, piece.up_to) {
        (None, None) => String::new(),
        (Some(after), None) => format!("WHERE {column} > {after}"),
        (None, Some(up_to)) => format!("WHERE {column} <= {up_to}"),
        (Some(after), Some(up_to)) => format!("WHERE {column} > {after} AND {column} <= {up_to}"),
    }
}

fn is_integer(kind: &str) -> bool {
    matches!(kind, "tinyint" | "smallint" | "mediumint" | "int" | "bigint")
}

/// A column's value as text that differs whenever the value does, NULL among them.
fn value(column: &str, kind: &str) -> String {
    let name = quoted(column);
    let text = match kind {
        "float" | "double" => format!("{name} + 0e0"),
        "bit" => format!("{name} + 0"),
        "tinytext" | "text" | "mediumtext" | "longtext" | "tinyblob" | "blob" | "mediumblob" | "longblob" | "json" => {
            format!("SHA2({name}, 256)")
        }
        kind if is_integer(kind) => name,
        "decimal" | "year" | "date" | "time" | "datetime" | "timestamp" => name,
        _ => format!("HEX({name})"),
    };
    format!("IFNULL({text}, 'NULL')")
}

fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// What a statement reserved on the master and did not use is nowhere in the binlog.
fn without_counter(definition: String) -> String {
    const COUNTER: &str = " AUTO_INCREMENT=";
    let Some((before, after)) = definition.split_once(COUNTER) else { return definition };
    before.to_owned() + after.trim_start_matches(|c: char| c.is_ascii_digit())
}

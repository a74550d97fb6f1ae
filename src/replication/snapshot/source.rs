//! The master's side: sessions that see one moment, and the rows that they see.

use std::{
    collections::HashMap,
    fmt::Write,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use mysql_async::{BinaryProtocol, Conn, Opts, OptsBuilder, QueryResult, Row, prelude::Queryable};
use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, sleep},
};

use super::{
    Plan, RowsLine, RowsQuestion, TablePlan,
    definitions::{self, DefinitionError, Shape},
    identity::{self, Identity, InnodbTables},
    leave_log, literal, quoted,
};
use crate::replication::{
    NO_LIMITS,
    back_off::BackOff,
    hub::Shared,
    protocol::{Binary, Family},
};

/// How many tables can be read at a time; one session more than a slave uses, for one that is cut and not ended yet.
const SESSIONS: usize = 5;
/// How many snapshots there can be at a time.
const SNAPSHOTS_MAX: usize = 4;
/// A snapshot that nobody has asked for so long is let go.
const LEASE: Duration = Duration::from_secs(600);
/// How often whoever waits for rows is told that they are read: a query may take long to its first one.
const ALIVE_EVERY: Duration = Duration::from_secs(10);
/// A statement is closed when it has so many bytes.
const STATEMENT_BYTES: usize = 1 << 20;
/// How often a connection beside the sessions is tried: a server that has no room for it for a moment is no reason to lose
/// the snapshot.
const TRIES: u32 = 8;
/// How long the server may wait for the schema changes and commits that are under way, in seconds.
const LOCK_WAIT_SECONDS: u32 = 10;

/// Why the master gives out no snapshot, or no rows of it.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Its MySQL.
    #[error("the master's server can't give a snapshot: {0}")]
    MySql(#[from] mysql_async::Error),
    /// It holds what can't be read as of a moment.
    #[error("{0}")]
    Unfit(String),
    /// The master's MySQL was not reached yet.
    #[error("the master has not reached its MySQL yet")]
    NotReady,
    /// There are many already.
    #[error("{SNAPSHOTS_MAX} slaves fetch snapshots already: try again later")]
    Busy,
    /// It was let go, or the master was started anew.
    #[error("there is no snapshot of that name any more: begin a new one")]
    Unknown,
    /// There is no such table.
    #[error("the snapshot has no table number {0}")]
    Table(usize),
}

impl From<DefinitionError> for SnapshotError {
    fn from(error: DefinitionError) -> Self {
        match error {
            DefinitionError::MySql(error) => Self::MySql(error),
            unfit => Self::Unfit(unfit.to_string()),
        }
    }
}

/// The snapshots that slaves fetch now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshots(Arc<Mutex<HashMap<String, Arc<Live>>>>);

#[derive(Debug)]
struct Live {
    plan: Plan,
    /// Of the plan's tables, in their order.
    identities: Vec<Identity>,
    /// How each of them was made.
    shapes: Vec<Shape>,
    /// For questions beside the sessions.
    mysql: Opts,
    sessions: Mutex<Vec<Conn>>,
    free: Semaphore,
    used: Mutex<Instant>,
}

/// Why rows can't be read: the snapshot has lost its moment.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    MySql(#[from] mysql_async::Error),
    #[error("RENAME TABLE or EXCHANGE PARTITION has put another table in its place since the snapshot was begun")]
    Replaced,
    #[error("ALTER TABLE has changed it since the snapshot was begun")]
    Altered,
}

impl Live {
    fn touch(&self) {
        *self.used.lock() = Instant::now();
    }

    /// Reads what is asked for, whose table there is.
    async fn read(&self, question: &RowsQuestion, lines: &mpsc::Sender<RowsLine>) -> Result<(), ReadError> {
        // Never closed. Whoever asked may go while others are read: nobody waits for a scan in vain.
        let Some(Ok(_permit)) = while_wanted(lines, pin!(self.free.acquire())).await else { return Ok(()) };
        let Some(mut session) = self.sessions.lock().pop() else { return Err(lost_session().into()) };
        let id = session.id();
        // A session that breaks has lost the moment: it is not put back.
        session.query_drop("SAVEPOINT before_table").await?;
        let mut reading = Box::pin(self.read_rows(&mut session, question, lines));
        if let Some(read) = while_wanted(lines, reading.as_mut()).await {
            read?;
            drop(reading);
        } else {
            if let Err(error) = self.end_query(id).await {
                tracing::debug!(%error, "rows that nobody waits for are read to their end");
            }
            or_killed(reading.await)?;
            // The end may have come too late for the query, and then is for whatever comes next.
            or_killed(session.query_drop("DO 0").await.map_err(ReadError::from))?;
        }
        // The table is free for schema changes again.
        session.query_drop("ROLLBACK TO SAVEPOINT before_table").await?;
        self.sessions.lock().push(session);
        Ok(())
    }

    async fn end_query(&self, session: u32) -> mysql_async::Result<()> {
        self.connect_beside().await?.query_drop(format!("KILL QUERY {session}")).await
    }

    async fn connect_beside(&self) -> mysql_async::Result<Conn> {
        let mut back_off = BackOff::new();
        for _ in 1..TRIES {
            match Conn::new(self.mysql.clone()).await {
                Ok(conn) => return Ok(conn),
                Err(_) => sleep(back_off.wait()).await,
            }
        }
        Conn::new(self.mysql.clone()).await
    }

    async fn read_rows(
        &self,
        session: &mut Conn,
        question: &RowsQuestion,
        lines: &mpsc::Sender<RowsLine>,
    ) -> Result<(), ReadError> {
        let table = &self.plan.tables[question.table];
        let rows = session.exec_iter(select(table, &question.after), ()).await?;
        // The session holds the table in its place from here on.
        let mut beside = self.connect_beside().await?;
        let is_mariadb = self.plan.family == Some(Family::MariaDb);
        let now = InnodbTables::read(&mut beside, is_mariadb, &identity::prefix(table)).await?;
        if !self.identities[question.table].is_still(&now.identity(table)) {
            return Err(ReadError::Replaced);
        }
        // A change that is done in an instant leaves its id, and the session reads other columns by the old names.
        if self.shapes[question.table] != Shape::read(&mut beside, &table.database, &table.table).await?.0 {
            return Err(ReadError::Altered);
        }
        Ok(send_rows(rows, table, lines).await?)
    }
}

impl Snapshots {
    /// The plan of a snapshot that was begun; none if it is no more.
    pub(crate) fn plan(&self, id: &str) -> Option<Plan> {
        self.find(id).map(|live| live.plan.clone())
    }

    fn find(&self, id: &str) -> Option<Arc<Live>> {
        let live = self.0.lock().get(id).map(Arc::clone)?;
        live.touch();
        Some(live)
    }

    /// Begins a snapshot of the hub's server. `plan` tells whose it is.
    pub(crate) async fn begin(&self, hub: &Shared, mut plan: Plan) -> Result<Plan, SnapshotError> {
        if self.0.lock().len() >= SNAPSHOTS_MAX {
            return Err(SnapshotError::Busy);
        }
        let opts: Opts = OptsBuilder::from_opts(hub.mysql()).conn_ttl(None).stmt_cache_size(0).into();
        let mut sessions = Vec::new();
        for _ in 0..SESSIONS {
            sessions.push(session(&opts).await?);
        }
        // Ends the locks, however this ends.
        let mut guard = Conn::new(opts.clone()).await?;
        guard.query_drop(NO_LIMITS).await?;
        let lock_wait = format!("SET SESSION lock_wait_timeout = {LOCK_WAIT_SECONDS}");
        guard.query_drop(&lock_wait).await?;
        let is_mariadb = plan.family == Some(Family::MariaDb);
        for lock in locks(is_mariadb).schemas {
            guard.query_drop(*lock).await?;
        }
        let mut accounts = Conn::new(opts.clone()).await?;
        accounts.query_drop(lock_wait).await?;
        let rights = definitions::accounts(&mut accounts, is_mariadb, &mut plan.before).await?;
        let mut reader = Conn::new(opts.clone()).await?;
        let (sequences, shapes) = definitions::read(&mut reader, &mut plan).await?;
        let tables = InnodbTables::read(&mut reader, is_mariadb, "").await?;
        let identities = plan.tables.iter().map(|table| tables.identity(table)).collect();
        for lock in locks(is_mariadb).commits {
            guard.query_drop(*lock).await?;
        }
        for session in &mut sessions {
            session.query_drop("START TRANSACTION WITH CONSISTENT SNAPSHOT").await?;
        }
        plan.mark = hub.mark_of_snapshot(&mut guard).await?;
        definitions::read_sequences(&mut reader, sequences, &mut plan).await?;
        plan.before.extend(rights);
        for lock in locks(is_mariadb).end {
            guard.query_drop(*lock).await?;
        }
        plan.mark = hub.with_checksum(plan.mark).await;
        tracing::info!(snapshot = plan.id, position = %plan.mark.position, tables = plan.tables.len(), "a slave fetches a snapshot");
        let live = Live {
            plan: plan.clone(),
            identities,
            shapes,
            mysql: opts,
            free: Semaphore::new(sessions.len()),
            sessions: Mutex::new(sessions),
            used: Mutex::new(Instant::now()),
        };
        self.0.lock().insert(plan.id.clone(), Arc::new(live));
        self.let_go_in_time(plan.id.clone());
        Ok(plan)
    }

    /// Lets a snapshot go; false if there is none of that name.
    pub(crate) fn end(&self, id: &str) -> bool {
        self.0.lock().remove(id).is_some()
    }

    /// Lets it go when nobody has asked for it for a while.
    fn let_go_in_time(&self, id: String) {
        let snapshots = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            loop {
                sleep(LEASE / 10).await;
                let Some(snapshots) = snapshots.upgrade() else { return };
                let mut snapshots = snapshots.lock();
                match snapshots.get(&id) {
                    Some(live) if live.free.available_permits() == SESSIONS && live.used.lock().elapsed() > LEASE => {
                        snapshots.remove(&id);
                        tracing::warn!(snapshot = id, "a snapshot that nobody asks for any more is let go");
                        return;
                    }
                    Some(_) => {}
                    None => return,
                }
            }
        });
    }

    /// The rows of a table, as lines that come as they are taken.
    pub(crate) fn rows(&self, question: RowsQuestion) -> Result<mpsc::Receiver<RowsLine>, SnapshotError> {
        let live = self.find(&question.snapshot).ok_or(SnapshotError::Unknown)?;
        if question.table >= live.plan.tables.len() {
            return Err(SnapshotError::Table(question.table));
        }
        let (lines, taken) = mpsc::channel(1);
        let snapshots = self.clone();
        tokio::spawn(async move {
            let last = match live.read(&question, &lines).await {
                Ok(()) => RowsLine::End,
                Err(error) => {
                    snapshots.end(&question.snapshot);
                    let table = &live.plan.tables[question.table];
                    RowsLine::Lost(format!("{}.{}: {error}", table.database, table.table))
                }
            };
            live.touch();
            // Whoever asked may have gone.
            let _ = lines.send(last).await;
        });
        Ok(taken)
    }
}

/// What holds schema changes up, then commits, and lets both go on.
struct Locks {
    schemas: &'static [&'static str],
    commits: &'static [&'static str],
    end: &'static [&'static str],
}

fn locks(is_mariadb: bool) -> Locks {
    if is_mariadb {
        let schemas = &["BACKUP STAGE START", "BACKUP STAGE BLOCK_DDL"];
        Locks { schemas, commits: &["BACKUP STAGE BLOCK_COMMIT"], end: &["BACKUP STAGE END"] }
    } else {
        let end = &["UNLOCK TABLES", "UNLOCK INSTANCE"];
        Locks { schemas: &["LOCK INSTANCE FOR BACKUP"], commits: &["FLUSH TABLES WITH READ LOCK"], end }
    }
}

async fn session(opts: &Opts) -> mysql_async::Result<Conn> {
    let mut conn = Conn::new(opts.clone()).await?;
    conn.query_drop(NO_LIMITS).await?;
    conn.query_drop("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ").await?;
    // Values come as they are stored, and whatever the server's own settings are.
    conn.query_drop(
        "SET SESSION character_set_results = NULL, time_zone = '+00:00', sql_mode = '', net_write_timeout = 3600",
    )
    .await?;
    // With a binlog MariaDB lets go of a table only at the transaction's end, and schema changes would wait for it.
    leave_log(&mut conn).await?;
    Ok(conn)
}

/// Does some work as long as somebody waits for its lines, who is told from time to time that it goes on; none if nobody
/// does any more.
async fn while_wanted<T>(lines: &mpsc::Sender<RowsLine>, mut work: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    loop {
        tokio::select! {
            done = &mut work => return Some(done),
            () = lines.closed() => return None,
            // Where one waits to be taken there is no room, and no need.
            () = sleep(ALIVE_EVERY) => drop(lines.try_send(RowsLine::Alive)),
        }
    }
}

/// A query that was ended, or was done before.
fn or_killed(outcome: Result<(), ReadError>) -> Result<(), ReadError> {
    const INTERRUPTED: u16 = 1317;
    match outcome {
        Err(ReadError::MySql(mysql_async::Error::Server(error))) if error.code == INTERRUPTED => Ok(()),
        outcome => outcome,
    }
}

fn lost_session() -> mysql_async::Error {
    std::io::Error::from(std::io::ErrorKind::ConnectionAborted).into()
}

async fn send_rows(
    mut rows: QueryResult<'_, 'static, BinaryProtocol>,
    table: &TablePlan,
    lines: &mpsc::Sender<RowsLine>,
) -> mysql_async::Result<()> {
    let TablePlan { columns, key, .. } = table;
    let positions: Vec<usize> =
        key.iter().filter_map(|name| columns.iter().position(|column| column.name == *name)).collect();
    let head = insert_head(table);
    let (mut sql, mut count, mut last) = (head.clone(), 0, Vec::new());
    while let Some(row) = rows.next().await? {
        let row = Row::unwrap(row);
        sql.extend_from_slice(if count == 0 { b"(" } else { b",(" });
        for (n, (value, column)) in row.iter().zip(columns).enumerate() {
            if n > 0 {
                sql.push(b',');
            }
            literal::push(&mut sql, value, &column.kind);
        }
        sql.push(b')');
        count += 1;
        last.clear();
        last.extend(positions.iter().filter_map(|at| number(&row[*at])));
        if sql.len() >= STATEMENT_BYTES {
            let sql = Binary(std::mem::replace(&mut sql, head.clone()));
            let line = RowsLine::Rows { sql, rows: std::mem::take(&mut count), after: last.clone() };
            if lines.send(line).await.is_err() {
                // Nobody takes it any more, and the query is ended. What has come of it must be read all the same, or the
                // session could not go on.
                return rows.drop_result().await;
            }
        }
    }
    if count > 0 {
        // Whoever asked may have gone.
        let _ = lines.send(RowsLine::Rows { sql: Binary(sql), rows: count, after: last }).await;
    }
    Ok(())
}

fn number(value: &mysql_async::Value) -> Option<i128> {
    match value {
        mysql_async::Value::Int(number) => Some((*number).into()),
        mysql_async::Value::UInt(number) => Some((*number).into()),
        _ => None,
    }
}

fn names<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.map(|name| quoted(name)).collect::<Vec<_>>().join(", ")
}

fn insert_head(table: &TablePlan) -> Vec<u8> {
    let columns = names(table.columns.iter().map(|column| &column.name));
    format!("INSERT INTO {}.{} ({columns}) VALUES ", quoted(&table.database), quoted(&table.table)).into_bytes()
}

fn select(table: &TablePlan, after: &[i128]) -> String {
    let columns = names(table.columns.iter().map(|column| &column.name));
    let key = names(table.key.iter());
    let mut sql = format!("SELECT {columns} FROM {}.{}", quoted(&table.database), quoted(&table.table));
    // Writing to a text does not fail.
    if table.versioned {
        sql += " FOR SYSTEM_TIME ALL";
    }
    if !after.is_empty() && after.len() == table.key.len() {
        // MariaDB finds no range in a comparison of rows: without its first column all rows before would be read once more.
        let (first, from) = (quoted(&table.key[0]), after[0]);
        let after = after.iter().map(i128::to_string).collect::<Vec<_>>().join(", ");
        let _ = write!(sql, " WHERE {first} >= {from} AND ({key}) > ({after})");
    }
    if !key.is_empty() {
        let _ = write!(sql, " ORDER BY {key}");
    }
    sql
}

//! The applier's one session with its MySQL: how it is set up, and how rows and position become one transaction.

use std::{collections::HashSet, time::Duration};

use mysql_async::{ChangeUserOpts, Conn, Opts, OptsBuilder, prelude::Queryable};

use towline_middleware::{Epoch, Position};

use super::{
    NO_LIMITS,
    binlog_statement::{CantBuild, DamagedEvents, TableName, format_statement},
    protocol::{Family, Format, Mark, Transaction},
    streamed_rows::Rows,
    tables::slave::{self, SlaveRecord},
};
use crate::fail_point::FailPoint;

/// Why something could not be applied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    #[error(transparent)]
    MySql(#[from] mysql_async::Error),
    #[error(transparent)]
    Damaged(#[from] DamagedEvents),
    #[error(transparent)]
    Unapplicable(#[from] Unapplicable),
    /// Somebody else moved the position: this session's idea of it is old.
    #[error("the position of this server was moved by someone else")]
    Moved,
    #[error(transparent)]
    Unfit(#[from] Unfit),
}

/// Changes that a slave must not or can't make.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unapplicable {
    #[error(
        "`{table}` uses the engine {engine}, which can't roll back, so a change to it can't be applied exactly once: \
         run `ALTER TABLE {table} ENGINE=InnoDB` on the master and give this slave a new snapshot"
    )]
    NotTransactional { table: TableName, engine: String },
    #[error("rows of `{0}` belong to each server itself and are never replaced by the master's")]
    ServerTable(TableName),
    #[error("a schema change together with other changes in one transaction is only understood as CREATE … SELECT")]
    Mixed,
    #[error("{0}")]
    TooLarge(CantBuild),
    #[error(
        "an unfinished schema change at {announced} is written down in towline.schema_change, but {next} comes next: \
         finish it by hand and delete the row, or take a new snapshot"
    )]
    OtherAnnounced { announced: String, next: String },
    #[error("this server has executed {0} although its position says that it has not")]
    AlreadyExecuted(String),
}

impl From<CantBuild> for ApplyError {
    fn from(error: CantBuild) -> Self {
        match error {
            CantBuild::Damaged(damaged) => Self::Damaged(damaged),
            too_large => Self::Unapplicable(Unapplicable::TooLarge(too_large)),
        }
    }
}

/// Why a server can't be a slave as it is now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("this slave's MySQL has {name}={value}; it must be {wanted}: SET GLOBAL {name}={wanted}, and in my.cnf")]
    Setting { name: &'static str, value: String, wanted: &'static str },
    #[error("this slave's MySQL has no binlog: start it with --log-bin --binlog-format=ROW")]
    NoLog,
    #[error("another applier (connection {0}) works on this server: two nodes can't share one MySQL")]
    OtherApplier(u64),
    #[error(
        "a snapshot was begun on this server and is not whole: set `cluster.master` to the master's administration, and it goes on"
    )]
    Unfinished,
    #[error("MySQL did not answer within {0:?}")]
    Silent(Duration),
    #[error(
        "the node's account may not run the master's statement of {gtid}: {error}; `towline check` prints the GRANT, and the \
         slave goes on by itself"
    )]
    Right { gtid: String, error: mysql_async::ServerError },
}

/// What to do about a failed statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The connection or the server is gone, or the server can't work now; the same may succeed later.
    Later,
    /// A lock was in the way; the same may succeed at once.
    Busy,
    /// The change does not fit this server's data.
    Never,
}

impl ApplyError {
    pub(crate) fn verdict(&self) -> Verdict {
        match self {
            Self::MySql(mysql_async::Error::Server(error)) if error.code == 1030 && error.message.contains(" 28 ") => {
                Verdict::Later
            }
            Self::MySql(mysql_async::Error::Server(error)) => verdict_of(error.code),
            Self::MySql(_) | Self::Unfit(_) | Self::Moved | Self::Damaged(_) => Verdict::Later,
            Self::Unapplicable(_) => Verdict::Never,
        }
    }

    /// MySQL's number, if MySQL said it.
    pub(crate) fn code(&self) -> Option<u16> {
        match self {
            Self::MySql(mysql_async::Error::Server(error)) => Some(error.code),
            _ => None,
        }
    }
}

/// What to do about a statement that has failed with one of the server's errors.
pub(crate) fn verdict_of(code: u16) -> Verdict {
    match code {
        1205 | 1213 => Verdict::Busy,
        // The disk is full (1021, 1114, 1026, 3, 28), memory or connections are short, the server stops or killed us,
        // a right or a setting is missing: mended at the server, not in the data.
        3 | 28 | 1021 | 1026 | 1037 | 1038 | 1040 | 1041 | 1044 | 1045 | 1053 | 1114 | 1142 | 1203 | 1227 | 1290
        | 1317 | 1792 | 1836 | 1927 | 1969 | 3024 => Verdict::Later,
        _ => Verdict::Never,
    }
}

/// How a session with a slave's MySQL is opened.
#[derive(Clone)]
pub(crate) struct SessionOptions {
    pub(crate) mysql: Opts,
    /// Above it a wait for a lock is given up and the whole batch tried again; whole seconds, at least one.
    pub(crate) lock_wait: Duration,
    /// How long connecting and setting up may take.
    pub(crate) connect_timeout: Duration,
}

/// An open session, and what it knows of the server.
pub(crate) struct ApplySession {
    pub(crate) conn: Conn,
    pub(crate) is_mariadb: bool,
    /// The server's own id, under which everything but schema changes is logged.
    pub(crate) server_id: u32,
    /// Where the server stands.
    pub(crate) record: SlaveRecord,
    /// What the snapshot of this server could not make.
    pub(crate) left_out: Vec<String>,
    /// The longest statement that the server takes, in bytes.
    pub(crate) statement_bytes_max: usize,
    /// The last streamed transaction that a lock was in the way of.
    pub(crate) met_lock: Option<Position>,
    options: SessionOptions,
    /// The format description that the session was told last.
    format: Option<u32>,
    /// Tables that were found fit to be written; forgotten at each schema change.
    fit_tables: HashSet<TableName>,
    /// Set when a ROLLBACK or a COMMIT failed: what the session holds is unknown.
    broken: bool,
}

impl ApplySession {
    /// Connects, sets the session up and reads where the server stands.
    pub(crate) async fn open(options: &SessionOptions) -> Result<Self, ApplyError> {
        let limit = options.connect_timeout;
        tokio::time::timeout(limit, Self::connect(options)).await.map_err(|_| Unfit::Silent(limit))?
    }

    async fn connect(options: &SessionOptions) -> Result<Self, ApplyError> {
        let opts = OptsBuilder::from_opts(options.mysql.clone()).tcp_keepalive(Some(KEEPALIVE)).conn_ttl(None);
        let mut conn = Conn::new(opts).await?;
        let version: Option<String> = conn.query_first("SELECT VERSION()").await?;
        let is_mariadb = version.is_some_and(|version| version.contains("MariaDB"));
        set_up(&mut conn, is_mariadb, options).await?;
        let server_id = check_settings(&mut conn, is_mariadb).await?;
        let record = slave::open(&mut conn).await?;
        if slave::snapshot(&mut conn).await?.is_some() {
            return Err(Unfit::Unfinished.into());
        }
        let left_out = slave::left_out(&mut conn).await?;
        let packet: Option<usize> = conn.query_first("SELECT @@max_allowed_packet").await?;
        let statement_bytes_max = packet.unwrap_or(1 << 20).saturating_sub(PACKET_MARGIN);
        Ok(Self {
            conn,
            is_mariadb,
            server_id,
            record,
            left_out,
            statement_bytes_max,
            met_lock: None,
            options: options.clone(),
            format: None,
            fit_tables: HashSet::new(),
            broken: false,
        })
    }

    /// Puts the session back to how it was opened, whatever ran in it.
    pub(crate) async fn restore(&mut self) -> Result<(), ApplyError> {
        self.format = None;
        self.fit_tables.clear();
        self.broken = true;
        self.conn.reset().await?;
        set_up(&mut self.conn, self.is_mariadb, &self.options).await?;
        self.broken = false;
        Ok(())
    }

    /// Leaves the session without a default schema, where names without one fail. RESET CONNECTION keeps the one it has.
    pub(crate) async fn leave_schema(&mut self) -> Result<(), ApplyError> {
        self.format = None;
        self.fit_tables.clear();
        self.broken = true;
        self.conn.change_user(ChangeUserOpts::new().with_db_name(None)).await?;
        set_up(&mut self.conn, self.is_mariadb, &self.options).await?;
        self.broken = false;
        Ok(())
    }

    /// Whether the server's limit was raised since the session was opened, which keeps the one that it had.
    pub(crate) async fn is_outgrown(&mut self) -> mysql_async::Result<bool> {
        let packet: Option<usize> = self.conn.query_first("SELECT @@global.max_allowed_packet").await?;
        Ok(packet.is_some_and(|packet| packet.saturating_sub(PACKET_MARGIN) > self.statement_bytes_max))
    }

    /// Which server it is with.
    pub(crate) fn family(&self) -> Family {
        if self.is_mariadb { Family::MariaDb } else { Family::MySql }
    }

    /// Whether the session must be thrown away.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken || self.conn.is_disconnected()
    }

    /// Takes a cluster's id, or raises the fence to a new master's epoch.
    pub(crate) async fn join_cluster(&mut self, cluster: &str, fence: Epoch) -> Result<(), ApplyError> {
        if !slave::join_cluster(&mut self.conn, &self.record, cluster, fence).await? {
            return Err(ApplyError::Moved);
        }
        FailPoint::Joined.pass();
        cluster.clone_into(&mut self.record.cluster);
        self.record.fence = fence;
        Ok(())
    }

    /// Refuses rows of tables that can't be applied exactly once.
    pub(crate) async fn check_tables(&mut self, tables: &[TableName]) -> Result<(), ApplyError> {
        for table in tables {
            if self.fit_tables.contains(table) {
                continue;
            }
            if ["mysql", "towline"].contains(&table.database.as_str()) {
                return Err(Unapplicable::ServerTable(table.clone()).into());
            }
            let found: Option<(String, String)> = self
                .conn
                .exec_first(
                    "SELECT e.ENGINE, IFNULL(e.TRANSACTIONS, 'NO') FROM information_schema.TABLES t \
                     JOIN information_schema.ENGINES e ON e.ENGINE = t.ENGINE \
                     WHERE t.TABLE_SCHEMA = ? AND t.TABLE_NAME = ?",
                    (&table.database, &table.table),
                )
                .await?;
            // A table that is missing here fails in BINLOG, with MySQL's own words.
            if let Some((engine, transactions)) = found
                && transactions != "YES"
            {
                return Err(Unapplicable::NotTransactional { table: table.clone(), engine }.into());
            }
            self.fit_tables.insert(table.clone());
        }
        Ok(())
    }

    /// Writes rows and moves the position from where it stands to `last`, in one transaction. After an error nothing
    /// of it has happened, unless the session [is broken](Self::is_broken): then only the server knows.
    ///
    /// `finishes` is set when an announced schema change is finished by it.
    pub(crate) async fn commit_rows(
        &mut self,
        format: Option<&Format>,
        rows: &mut Rows<'_>,
        last: &Transaction,
        finishes: bool,
    ) -> Result<(), ApplyError> {
        if let Some(format) = format.filter(|_| !matches!(rows, Rows::Built([]))) {
            self.tell_format(format).await?;
        }
        let to = last.mark();
        self.broken = true;
        if let Err(error) = self.fill_transaction(rows, &to, last.committed_at, finishes).await {
            // Before anything else: after a 1205 the transaction is still open and holds a part of the rows.
            self.conn.query_drop("ROLLBACK").await?;
            self.broken = false;
            return Err(error);
        }
        FailPoint::Filled.pass();
        self.conn.query_drop("COMMIT").await?;
        FailPoint::Committed.pass();
        self.broken = false;
        self.record.mark = to;
        self.record.committed_at = last.committed_at;
        Ok(())
    }

    /// Opens the transaction and leaves it to be committed. COMMIT must not go out before every answer is read: behind
    /// a failed BINLOG it would commit a position without its rows.
    async fn fill_transaction(
        &mut self,
        rows: &mut Rows<'_>,
        to: &Mark,
        committed_at: u64,
        finishes: bool,
    ) -> Result<(), ApplyError> {
        let update = slave::position_update(&self.record.mark, to, committed_at);
        match rows {
            Rows::Built([first, rest @ ..]) => {
                // One packet of three statements: MySQL runs none behind one that fails. BINLOG is the last, since its
                // answer does not say whether more follow.
                let text = [b"BEGIN; ", update.as_bytes(), b"; ", first].concat();
                let mut answers = self.conn.query_iter(text).await?;
                answers.next().await?;
                let has_moved = answers.affected_rows() == 1;
                let rows = answers.drop_result().await;
                // Rows that are here already fail: not they are what is wrong then.
                if !has_moved {
                    return Err(ApplyError::Moved);
                }
                rows?;
                FailPoint::RowsWritten.pass();
                self.write(rest).await?;
            }
            Rows::Built([]) => {
                self.begin().await?;
                self.move_position(update).await?;
            }
            Rows::Streamed(streamed) => {
                self.begin().await?;
                while let Some(statements) = streamed.next().await? {
                    self.check_tables(streamed.tables()).await?;
                    self.write(&statements).await?;
                }
                self.move_position(update).await?;
            }
        }
        FailPoint::PositionMoved.pass();
        if finishes {
            slave::finish_announced(&mut self.conn).await?;
        }
        Ok(())
    }

    async fn begin(&mut self) -> mysql_async::Result<()> {
        self.conn.query_drop("BEGIN").await?;
        FailPoint::Begun.pass();
        Ok(())
    }

    async fn move_position(&mut self, update: String) -> Result<(), ApplyError> {
        self.conn.query_drop(update).await?;
        if self.conn.affected_rows() == 1 { Ok(()) } else { Err(ApplyError::Moved) }
    }

    /// Runs `BINLOG` statements, each when the one before it has succeeded.
    pub(crate) async fn write(&mut self, statements: &[Vec<u8>]) -> mysql_async::Result<()> {
        for statement in statements {
            self.conn.query_drop(statement.as_slice()).await?;
            FailPoint::RowsWritten.pass();
        }
        Ok(())
    }

    /// Tells the session how to read the row events that follow. Not inside a transaction.
    pub(crate) async fn tell_format(&mut self, format: &Format) -> Result<(), ApplyError> {
        if self.format == Some(format.id) {
            return Ok(());
        }
        self.format = None;
        self.conn.query_drop(format_statement(format)?).await?;
        if !self.is_mariadb {
            // The format description makes gtid_next NOT_YET_DETERMINED, and the next statement fails with 1782.
            self.conn.query_drop("SET SESSION gtid_next = 'AUTOMATIC'").await?;
        }
        self.format = Some(format.id);
        Ok(())
    }
}

/// The server's error number for a right that is missing.
const ACCESS_DENIED_RIGHT: u16 = 1227;
const KEEPALIVE: Duration = Duration::from_secs(10);
/// What a packet needs besides a `BINLOG`: its own head, and the statements that stand before it.
pub(crate) const PACKET_MARGIN: usize = 2048;
/// A session that a dead node left behind is closed by the server after this time; a living one pings more often.
const WAIT_TIMEOUT_SECONDS: u32 = 60;
/// How long the lock of an applier that is just going away is waited for.
const APPLIER_LOCK_SECONDS: u32 = 3;

async fn set_up(conn: &mut Conn, is_mariadb: bool, options: &SessionOptions) -> Result<(), ApplyError> {
    let lock_wait = options.lock_wait.as_secs().max(1);
    conn.query_drop("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await?;
    conn.query_drop("SET SESSION TRANSACTION READ WRITE").await?;
    conn.query_drop(NO_LIMITS).await?;
    conn.query_drop(format!(
        "SET SESSION autocommit = 1, lock_wait_timeout = {lock_wait}, innodb_lock_wait_timeout = {lock_wait}, \
         wait_timeout = {WAIT_TIMEOUT_SECONDS}"
    ))
    .await?;
    conn.query_drop(if is_mariadb {
        // These are not in the binlog, and what the master took with them at their default it takes with these.
        "SET SESSION system_versioning_alter_history = KEEP, innodb_strict_mode = OFF"
    } else {
        "SET SESSION binlog_rows_query_log_events = OFF, rbr_exec_mode = 'STRICT'"
    })
    .await?;
    if is_mariadb {
        forgo_annotations(conn).await?;
    }
    let lock = format!("SELECT GET_LOCK('towline.applier', {APPLIER_LOCK_SECONDS}), IS_USED_LOCK('towline.applier')");
    let (got, owner): (Option<u8>, Option<u64>) = conn.query_first(lock).await?.unwrap_or_default();
    if got == Some(1) { Ok(()) } else { Err(Unfit::OtherApplier(owner.unwrap_or(0)).into()) }
}

/// Asks the server not to annotate row events in its own log. It would write the text of the whole `BINLOG` there once
/// for each statement in it: a batch of 1 MB became more than 1 GB of log.
async fn forgo_annotations(conn: &mut Conn) -> Result<(), ApplyError> {
    match conn.query_drop("SET SESSION binlog_annotate_row_events = 0").await {
        // It takes BINLOG ADMIN; without that right the server's own setting must do.
        Err(mysql_async::Error::Server(error)) if error.code == ACCESS_DENIED_RIGHT => {
            match conn.query_first("SELECT @@session.binlog_annotate_row_events").await? {
                Some(0_u8) => Ok(()),
                _ => {
                    let (name, value) = ("binlog_annotate_row_events", "ON".to_owned());
                    Err(Unfit::Setting { name, value, wanted: "OFF" }.into())
                }
            }
        }
        outcome => Ok(outcome?),
    }
}

/// Settings that change what `BINLOG` does, or let others write; looked at again at each connect. Returns the
/// server's id.
async fn check_settings(conn: &mut Conn, is_mariadb: bool) -> Result<u32, ApplyError> {
    let (log_bin, server_id): (bool, u32) =
        conn.query_first("SELECT @@global.log_bin, @@global.server_id").await?.unwrap_or_default();
    if !log_bin {
        return Err(Unfit::NoLog.into());
    }
    let common = [("binlog_format", "ROW"), ("binlog_row_image", "FULL")];
    let own: &[_] = if is_mariadb {
        &[("slave_exec_mode", "STRICT"), ("slave_run_triggers_for_rbr", "NO"), ("slave_type_conversions", "''")]
    } else {
        &[("replica_type_conversions", "''"), ("gtid_mode", "ON")]
    };
    for (name, wanted) in common.iter().chain(own).copied() {
        let value: Option<String> = conn.query_first(format!("SELECT @@global.{name}")).await?;
        let value = value.unwrap_or_default();
        if !value.eq_ignore_ascii_case(wanted.trim_matches('\'')) {
            return Err(Unfit::Setting { name, value, wanted }.into());
        }
    }
    let scheduler: Option<String> = conn.query_first("SELECT @@global.event_scheduler").await?;
    match scheduler {
        // The master's events arrive as the rows that they wrote.
        Some(value) if value == "ON" => Err(Unfit::Setting { name: "event_scheduler", value, wanted: "OFF" }.into()),
        _ => Ok(server_id),
    }
}

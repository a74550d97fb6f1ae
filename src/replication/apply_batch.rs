//! One batch on a slave: is it the next one, and then group by group into MySQL.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
};

use mysql_async::Opts;
use tokio::sync::watch;
use towline_middleware::{ChangeFeed, Epoch, Position, Step};

use super::{
    apply_session::{ApplyError, ApplySession, Verdict},
    binlog_statement::{CantBuild, DamagedEvents, TableName, format_statement, row_statements, tables_of},
    blockers::BlockerWatch,
    progress::{Stop, Track},
    protocol::{Batch, Family, Format, Mark, PushRefusal, Transaction, VERSION},
    schema_change::{self, RowsBehind, schema_change_of},
    streamed_rows::{Rows, StreamedLines, StreamedRows},
    tables::slave,
};

/// Why a batch, or the rest of it, was not applied.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It is not for this slave, or not the next one.
    Refused(PushRefusal, Reason),
    /// A transaction of it can't be applied here.
    Stopped(Stop),
    /// MySQL is away, busy or not fit: the session is to be thrown away, and the push tried again later.
    Session(ApplyError),
}

/// What a refusal says to people.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Reason {
    #[error("this slave speaks version {VERSION} of the format, the push is of version {0}: update the older node")]
    Version(u32),
    #[error(
        "this slave belongs to the cluster {own}, the push is from {theirs}: remove it there, or empty this server"
    )]
    OtherCluster { own: String, theirs: String },
    #[error(
        "the push is of epoch {theirs}, but a master of epoch {own} has pushed here: the older master must step down"
    )]
    OldEpoch { own: Epoch, theirs: Epoch },
    #[error("this slave's server is {own}, the master's is {theirs}: a slave needs a server of its master's family")]
    OtherFamily { own: Family, theirs: Family },
    #[error("this server has no position but holds data (schema `{0}`): start with an empty server or from a snapshot")]
    ForeignData(String),
    #[error(
        "this slave needs a new snapshot ({0}): set `cluster.master` and `cluster.resnapshot = true`, or empty its server and \
         start it again"
    )]
    OutOfReach(String),
    #[error("this slave stands at {own}, not at {theirs}")]
    Position { own: Position, theirs: Position },
    #[error(
        "this slave stands at {} ({}), where the master has another transaction ({}): their histories differ. If the master's \
         is the right one, empty this server and start it again",
        own.position, own.gtid, theirs.gtid
    )]
    Forked { own: Mark, theirs: Mark },
    #[error("the positions of the batch do not rise, or {0} is not of the master's epoch")]
    Order(Position),
    #[error("the batch is damaged at {0}: {1}")]
    Damaged(Position, DamagedEvents),
    #[error("a streamed push has one transaction, this one has {0}")]
    NotOne(usize),
    #[error("a lock was in the way of a streamed transaction, which was rolled back: {0}")]
    Locked(String),
}

/// How locks that are in the way are dealt with.
#[derive(Debug)]
pub(crate) struct LockOptions<'a> {
    /// For the session that looks for blockers.
    pub(crate) mysql: &'a Opts,
    /// Tries before blockers are ended, and tries afterwards.
    pub(crate) tries: u32,
    pub(crate) blockers_ended: &'a Arc<AtomicU64>,
}

impl LockOptions<'_> {
    /// Ends the sessions that hold this one up, until dropped.
    fn watch(&self, session: &ApplySession) -> BlockerWatch {
        let ended = Arc::clone(self.blockers_ended);
        BlockerWatch::start(self.mysql.clone(), session.conn.id(), session.is_mariadb, ended)
    }
}

/// Applies a batch and returns where the slave stands then. What is applied before a failure stays: the session's
/// record says how far that is.
pub(crate) async fn apply_batch(
    session: &mut ApplySession,
    batch: &Batch,
    locks: &LockOptions<'_>,
    track: &watch::Sender<Track>,
) -> Result<Mark, Failure> {
    admit(session, batch, track).await?;
    let groups = groups(batch, session.statement_bytes_max)?;
    if let Some(first) = batch.transactions.first() {
        track.send_modify(|track| {
            track.behind_since = Some(first.committed_at);
            track.counts.batches += 1;
        });
    }
    for group in groups {
        GroupApplier { session, batch, locks, track }.apply(group).await?;
    }
    Ok(session.record.mark.clone())
}

/// Applies a transaction whose changes come as `lines`, and returns where the slave stands then. After a failure nothing
/// of it is applied. It can't be tried again here; at the next push of one that met a lock, who holds it is ended.
pub(crate) async fn apply_streamed(
    session: &mut ApplySession,
    batch: &Batch,
    lines: StreamedLines,
    locks: &LockOptions<'_>,
    track: &watch::Sender<Track>,
    changes: &ChangeFeed,
) -> Result<Mark, Failure> {
    admit(session, batch, track).await?;
    let [transaction] = batch.transactions.as_slice() else {
        return Err(Failure::Refused(PushRefusal::Damaged, Reason::NotOne(batch.transactions.len())));
    };
    let damaged = |damage| Failure::Refused(PushRefusal::Damaged, Reason::Damaged(transaction.position, damage));
    let format = format_of(batch, transaction).map_err(damaged)?;
    track.send_modify(|track| track.behind_since = Some(transaction.committed_at));
    let _watch = (session.met_lock == Some(transaction.position)).then(|| locks.watch(session));
    let mut rows = StreamedRows::new(lines, session.statement_bytes_max, format.is_some());
    match write_streamed(session, transaction, format, &mut rows).await {
        Ok(()) => {}
        Err(ApplyError::Damaged(damage)) if !session.is_broken() => return Err(damaged(damage)),
        Err(error) if !session.is_broken() && error.verdict() == Verdict::Busy => {
            track.send_modify(|track| track.counts.lock_retries += 1);
            session.met_lock = Some(transaction.position);
            return Err(Failure::Refused(PushRefusal::Unavailable, Reason::Locked(error.to_string())));
        }
        Err(error) => return Err(failed(session, transaction, rows.tables(), error)),
    }
    let mut tables = Vec::new();
    let changed = rows.changed(&mut tables);
    changes.tell(Step { position: transaction.position, changed });
    track.send_modify(|track| {
        track.counts.batches += 1;
        track.counts.transactions += 1;
    });
    Ok(session.record.mark.clone())
}

async fn write_streamed(
    session: &mut ApplySession,
    transaction: &Transaction,
    format: Option<&Format>,
    rows: &mut StreamedRows,
) -> Result<(), ApplyError> {
    let Some(change) = rows.schema_change().await? else {
        return session.commit_rows(format, &mut Rows::Streamed(rows), transaction, false).await;
    };
    let announcement = schema_change::announce(session, transaction).await?;
    let mut behind = RowsBehind { format, rows: Rows::Streamed(rows) };
    schema_change::run(session, &transaction.gtid, &change, &mut behind, announcement).await?;
    schema_change::settle(session, transaction, &mut behind).await
}

/// Decides whether the batch is this slave's next one, and notes what it says of the master.
async fn admit(session: &mut ApplySession, batch: &Batch, track: &watch::Sender<Track>) -> Result<(), Failure> {
    let admitted = judge(session, batch).await;
    track.send_modify(|track| {
        track.cluster.clone_from(&session.record.cluster);
        track.hear(batch);
    });
    admitted
}

async fn judge(session: &mut ApplySession, batch: &Batch) -> Result<(), Failure> {
    use PushRefusal as P;
    let refused = |refusal, reason| Err(Failure::Refused(refusal, reason));
    let record = &session.record;
    if batch.version != VERSION {
        return refused(P::Version, Reason::Version(batch.version));
    }
    if let Some(theirs) = batch.family.filter(|family| *family != session.family()) {
        return refused(P::OtherFamily, Reason::OtherFamily { own: session.family(), theirs });
    }
    let joins = record.cluster.is_empty() && record.mark == Mark::default();
    if record.cluster != batch.cluster && !joins {
        let [own, theirs] = [&record.cluster, &batch.cluster].map(String::clone);
        return refused(P::OtherCluster, Reason::OtherCluster { own, theirs });
    }
    if batch.epoch < record.fence {
        return refused(P::OldEpoch, Reason::OldEpoch { own: record.fence, theirs: batch.epoch });
    }
    if joins {
        let schema = slave::foreign_schema(&mut session.conn).await.map_err(|error| Failure::Session(error.into()))?;
        if let Some(schema) = schema {
            return refused(P::Forked, Reason::ForeignData(schema));
        }
    }
    if joins || batch.epoch > session.record.fence {
        session.join_cluster(&batch.cluster, batch.epoch).await.map_err(Failure::Session)?;
    }
    let own = &session.record.mark;
    if batch.after.position != own.position {
        return refused(P::Position, Reason::Position { own: own.position, theirs: batch.after.position });
    }
    if !batch.after.is_same(own) {
        return refused(P::Forked, Reason::Forked { own: own.clone(), theirs: batch.after.clone() });
    }
    // Only now: one that comes late is not about where this slave stands, and a new snapshot replaces all of its data.
    if let Some(why) = &batch.out_of_reach {
        return refused(P::OutOfReach, Reason::OutOfReach(why.clone()));
    }
    let mut last = own.position;
    for transaction in &batch.transactions {
        let at = transaction.position;
        if at <= last || at.epoch > batch.epoch || !is_gtid(&transaction.gtid) {
            return refused(P::Damaged, Reason::Order(at));
        }
        last = at;
    }
    Ok(())
}

fn is_gtid(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// A run of transactions that become one transaction of the slave.
struct Group<'a> {
    transactions: &'a [Transaction],
    format: Option<&'a Format>,
    /// Their rows, built; an error that is no damage stops the slave when its turn comes.
    statements: Result<Vec<Vec<u8>>, CantBuild>,
    is_schema_change: bool,
}

/// Cuts a batch at schema changes and where the format changes. Everything is checked for damage here, before
/// anything of it is applied.
fn groups(batch: &Batch, statement_bytes_max: usize) -> Result<Vec<Group<'_>>, Failure> {
    let is_schema_change = |t: &Transaction| !matches!(schema_change_of(t), Ok(None));
    batch
        .transactions
        .chunk_by(|a, b| a.format == b.format && !is_schema_change(a) && !is_schema_change(b))
        .map(|run| group(batch, run, is_schema_change(&run[0]), statement_bytes_max))
        .collect()
}

fn group<'a>(
    batch: &'a Batch,
    transactions: &'a [Transaction],
    is_schema_change: bool,
    statement_bytes_max: usize,
) -> Result<Group<'a>, Failure> {
    let first = &transactions[0];
    let damaged = |damage| Failure::Refused(PushRefusal::Damaged, Reason::Damaged(first.position, damage));
    let format = format_of(batch, first).map_err(damaged)?;
    let statements = row_statements(transactions, statement_bytes_max);
    match &statements {
        Err(CantBuild::Damaged(damage)) => return Err(damaged(*damage)),
        Ok(statements) if !statements.is_empty() && format.is_none() => {
            return Err(damaged(DamagedEvents::NoFormat(first.format)));
        }
        _ => {}
    }
    Ok(Group { transactions, format, statements, is_schema_change })
}

/// The format that a transaction names, if it came with the batch.
fn format_of<'a>(batch: &'a Batch, transaction: &Transaction) -> Result<Option<&'a Format>, DamagedEvents> {
    let format = batch.formats.iter().find(|format| format.id == transaction.format);
    if let Some(format) = format {
        format_statement(format)?;
    }
    Ok(format)
}

/// What an error in a transaction that was applied alone comes to.
fn failed(session: &ApplySession, transaction: &Transaction, tables: &[TableName], error: ApplyError) -> Failure {
    if session.is_broken() || error.verdict() != Verdict::Never {
        return Failure::Session(error);
    }
    Failure::Stopped(Stop {
        mark: transaction.mark(),
        tables: tables.iter().map(ToString::to_string).collect(),
        code: error.code(),
        // 1064 quotes the statement, which may hold a password.
        error: match error.code() {
            Some(1064) => "MySQL error 1064: this server does not understand the statement".to_owned(),
            _ => error.to_string(),
        },
    })
}

/// Applies groups to a session.
struct GroupApplier<'a> {
    session: &'a mut ApplySession,
    batch: &'a Batch,
    locks: &'a LockOptions<'a>,
    track: &'a watch::Sender<Track>,
}

impl GroupApplier<'_> {
    async fn apply(&mut self, group: Group<'_>) -> Result<(), Failure> {
        let Err(error) = self.try_group(&group).await else { return Ok(()) };
        if group.transactions.len() == 1 {
            return Err(self.failed(&group.transactions[0], error));
        }
        if self.session.is_broken() || error.verdict() != Verdict::Never {
            return Err(Failure::Session(error));
        }
        // MySQL's error names no position: one by one, the one that fails names itself. Those before it stay applied.
        for transaction in group.transactions.chunks(1) {
            let alone = self::group(self.batch, transaction, false, self.session.statement_bytes_max)?;
            self.try_group(&alone).await.map_err(|error| self.failed(&transaction[0], error))?;
        }
        Ok(())
    }

    fn failed(&self, transaction: &Transaction, error: ApplyError) -> Failure {
        failed(self.session, transaction, &tables_of(transaction).unwrap_or_default(), error)
    }

    /// Applies a group, again and again while only locks are in the way.
    async fn try_group(&mut self, group: &Group<'_>) -> Result<(), ApplyError> {
        let mut watch = None;
        for tried in 1.. {
            if tried > self.locks.tries && watch.is_none() {
                watch = Some(self.locks.watch(self.session));
            }
            let result =
                if group.is_schema_change { self.change_schema(group).await } else { self.write_rows(group).await };
            match result {
                Err(error)
                    if error.verdict() == Verdict::Busy
                        && tried < self.locks.tries * 2
                        && !self.session.is_broken() =>
                {
                    self.track.send_modify(|track| track.counts.lock_retries += 1);
                }
                other => return other,
            }
        }
        unreachable!("the loop returns at the last try")
    }

    async fn write_rows(&mut self, group: &Group<'_>) -> Result<(), ApplyError> {
        let statements = group.statements.as_ref().map_err(|error| ApplyError::from(*error))?;
        self.check_tables(group).await?;
        let last = group.transactions.last().expect("`chunk_by` makes no empty run");
        self.session.commit_rows(group.format, &mut Rows::Built(statements), last, false).await?;
        let applied = group.transactions.len() as u64;
        self.track.send_modify(|track| track.counts.transactions += applied);
        Ok(())
    }

    async fn change_schema(&mut self, group: &Group<'_>) -> Result<(), ApplyError> {
        let transaction = &group.transactions[0];
        let Some(change) = schema_change_of(transaction)? else { return self.write_rows(group).await };
        let statements = group.statements.as_ref().map_err(|error| ApplyError::from(*error))?;
        let announcement = schema_change::announce(self.session, transaction).await?;
        let mut rows = RowsBehind { format: group.format, rows: Rows::Built(statements) };
        schema_change::run(self.session, &transaction.gtid, change, &mut rows, announcement).await?;
        self.check_tables(group).await?;
        schema_change::settle(self.session, transaction, &mut rows).await?;
        self.track.send_modify(|track| {
            track.counts.transactions += 1;
            track.counts.schema_changes += 1;
        });
        Ok(())
    }

    async fn check_tables(&mut self, group: &Group<'_>) -> Result<(), ApplyError> {
        for transaction in group.transactions {
            self.session.check_tables(&tables_of(transaction)?).await?;
        }
        Ok(())
    }
}

impl fmt::Debug for Group<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("transactions", &self.transactions.len()).finish_non_exhaustive()
    }
}

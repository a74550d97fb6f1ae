//! The changes of a streamed transaction, from the slave's side: made into statements as they come.

use std::time::Duration;

use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use towline_middleware::{Changed, Epoch};

use super::{
    apply_session::{ApplyError, Unapplicable},
    binlog_statement::{DamagedEvents, RowStatements, TableName, add_tables_of},
    protocol::{Change, RowsChange, SchemaChange, StreamLine},
};

/// The rows of a transaction, as `BINLOG` statements.
pub(crate) enum Rows<'a> {
    /// All of them are here.
    Built(&'a [Vec<u8>]),
    /// They are still coming.
    Streamed(&'a mut StreamedRows),
}

/// How long the next change may take to come. Less than the server waits in an open session.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a streamed push may stand still when a newer push waits behind it. A master sends one push at a time, so it
/// has given this one up; but a network may also bring an old one once more.
const STANDSTILL_MAX: Duration = Duration::from_secs(1);

/// The last push of this slave's cluster that came from no older master than those before it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NewestPush {
    pub(crate) number: u64,
    pub(crate) epoch: Epoch,
}

/// The lines of a streamed push, and whether there is a newer one.
#[derive(Debug)]
pub(crate) struct StreamedLines {
    pub(crate) lines: mpsc::Receiver<StreamLine>,
    /// The push's own number.
    pub(crate) number: u64,
    /// The newest push that may end it.
    pub(crate) newest: watch::Receiver<NewestPush>,
}

impl StreamedLines {
    /// The next line; none if it will not come.
    async fn next(&mut self) -> Option<StreamLine> {
        let Self { lines, number, newest } = self;
        let given_up = async {
            if newest.wait_for(|newest| newest.number > *number).await.is_err() {
                // The node stops, and the lines end.
                std::future::pending::<()>().await;
            }
            sleep(STANDSTILL_MAX).await;
        };
        tokio::select! {
            biased;
            line = timeout(CHANGE_TIMEOUT, lines.recv()) => line.ok().flatten(),
            () = given_up => None,
        }
    }
}

/// The lines of a streamed transaction behind its first.
pub(crate) struct StreamedRows {
    lines: StreamedLines,
    /// Read ahead to know what the transaction begins with.
    first: Option<StreamLine>,
    statements: RowStatements,
    has_format: bool,
    came: u64,
    has_schema_change: bool,
    tables: Vec<TableName>,
}

impl StreamedRows {
    /// The lines that come here, as statements of at most so many bytes. Rows are refused unless there is a format to
    /// read them by.
    pub(crate) fn new(lines: StreamedLines, statement_bytes_max: usize, has_format: bool) -> Self {
        let statements = RowStatements::new(statement_bytes_max);
        Self { lines, first: None, statements, has_format, came: 0, has_schema_change: false, tables: Vec::new() }
    }

    /// The schema change that the transaction begins with, if it does. To be called first.
    pub(crate) async fn schema_change(&mut self) -> Result<Option<SchemaChange>, ApplyError> {
        match self.line().await? {
            StreamLine::Change(Change::Schema(change)) => {
                self.came += 1;
                self.has_schema_change = true;
                Ok(Some(change))
            }
            first => {
                self.first = Some(first);
                Ok(None)
            }
        }
    }

    /// The statements of the next change; none when the transaction is whole and must be committed.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Vec<u8>>>, ApplyError> {
        let line = match self.first.take() {
            Some(first) => first,
            None => self.line().await?,
        };
        match line {
            StreamLine::Change(Change::Rows(rows)) => self.take(&rows).map(Some),
            StreamLine::Change(Change::Schema(_)) => Err(Unapplicable::Mixed.into()),
            StreamLine::Commit(said) if said != self.came => Err(DamagedEvents::Count { said, came: self.came }.into()),
            StreamLine::Commit(_) => {
                self.statements.end()?;
                Ok(None)
            }
        }
    }

    fn take(&mut self, rows: &RowsChange) -> Result<Vec<Vec<u8>>, ApplyError> {
        if !self.has_format {
            return Err(DamagedEvents::NoFormat(0).into());
        }
        self.came += 1;
        add_tables_of(rows, &mut self.tables)?;
        self.statements.add(rows)?;
        Ok(self.statements.take())
    }

    async fn line(&mut self) -> Result<StreamLine, ApplyError> {
        self.lines.next().await.ok_or_else(|| DamagedEvents::BrokeOff.into())
    }

    /// The tables that have come so far.
    pub(crate) fn tables(&self) -> &[TableName] {
        &self.tables
    }

    /// What the transaction changes. `tables` is where the names are put.
    pub(crate) fn changed<'a>(&'a self, tables: &'a mut Vec<(&'a str, &'a str)>) -> Changed<'a> {
        if self.has_schema_change {
            return Changed::Everything;
        }
        tables.extend(self.tables.iter().map(|name| (&*name.database, &*name.table)));
        Changed::Tables(tables)
    }
}

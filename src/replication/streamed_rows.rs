//! The changes of a streamed transaction, from the slave's side: made into statements as they come.

use std::time::Duration;

use tokio::{sync::mpsc, time::timeout};
use towline_middleware::Changed;

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

/// The lines of a streamed transaction behind its first.
pub(crate) struct StreamedRows {
    lines: mpsc::Receiver<StreamLine>,
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
    pub(crate) fn new(lines: mpsc::Receiver<StreamLine>, statement_bytes_max: usize, has_format: bool) -> Self {
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
        match timeout(CHANGE_TIMEOUT, self.lines.recv()).await {
            Ok(Some(line)) => Ok(line),
            _ => Err(DamagedEvents::BrokeOff.into()),
        }
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

//! What a client asked for.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    Intent, Plan, Prepared, Session,
    rows::{self, Value},
};

/// The commands of the MySQL protocol that a node carries out. HTTP commands become [`Query`](CommandKind::Query),
/// [`Prepare`](CommandKind::Prepare) and [`Execute`](CommandKind::Execute).
///
/// Source: MySQL manual, "Command Phase".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CommandKind {
    /// The client leaves.
    Quit,
    /// Choose the default schema.
    InitDb,
    /// One or more SQL statements as text.
    Query,
    /// The columns of a table.
    FieldList,
    /// FLUSH by a byte of flags.
    Refresh,
    /// A line of server statistics.
    Statistics,
    /// The server's connections.
    ProcessInfo,
    /// End a connection by its id.
    ProcessKill,
    /// Have the server write about itself into its log.
    Debug,
    /// Nothing but an OK.
    Ping,
    /// Log in as somebody else on the same connection.
    ChangeUser,
    /// Prepare a statement.
    Prepare,
    /// Run a prepared statement.
    Execute,
    /// Run a prepared statement once for each of many sets of parameters (MariaDB).
    BulkExecute,
    /// A piece of a parameter's value. Has no answer.
    SendLongData,
    /// Forget a prepared statement. Has no answer.
    CloseStatement,
    /// Forget a prepared statement's long data and cursor.
    ResetStatement,
    /// Switch multi-statements on or off.
    SetOption,
    /// Rows of a prepared statement's cursor.
    Fetch,
    /// Clear the session's state.
    ResetConnection,
    /// A command byte that this node does not carry out.
    Unsupported(u8),
}

impl CommandKind {
    /// The kind that a command byte means.
    pub fn from_byte(byte: u8) -> Self {
        match byte {
            0x01 => Self::Quit,
            0x02 => Self::InitDb,
            0x03 => Self::Query,
            0x04 => Self::FieldList,
            0x07 => Self::Refresh,
            0x09 => Self::Statistics,
            0x0a => Self::ProcessInfo,
            0x0c => Self::ProcessKill,
            0x0d => Self::Debug,
            0x0e => Self::Ping,
            0x11 => Self::ChangeUser,
            0x16 => Self::Prepare,
            0x17 => Self::Execute,
            0x18 => Self::SendLongData,
            0x19 => Self::CloseStatement,
            0x1a => Self::ResetStatement,
            0x1b => Self::SetOption,
            0x1c => Self::Fetch,
            0x1f => Self::ResetConnection,
            0xfa => Self::BulkExecute,
            other => Self::Unsupported(other),
        }
    }

    /// The command byte.
    pub fn to_byte(self) -> u8 {
        match self {
            Self::Quit => 0x01,
            Self::InitDb => 0x02,
            Self::Query => 0x03,
            Self::FieldList => 0x04,
            Self::Refresh => 0x07,
            Self::Statistics => 0x09,
            Self::ProcessInfo => 0x0a,
            Self::ProcessKill => 0x0c,
            Self::Debug => 0x0d,
            Self::Ping => 0x0e,
            Self::ChangeUser => 0x11,
            Self::Prepare => 0x16,
            Self::Execute => 0x17,
            Self::SendLongData => 0x18,
            Self::CloseStatement => 0x19,
            Self::ResetStatement => 0x1a,
            Self::SetOption => 0x1b,
            Self::Fetch => 0x1c,
            Self::ResetConnection => 0x1f,
            Self::BulkExecute => 0xfa,
            Self::Unsupported(byte) => byte,
        }
    }

    /// Whether it runs SQL: a query, or an execute of either kind.
    pub fn runs_sql(self) -> bool {
        matches!(self, Self::Query | Self::Execute | Self::BulkExecute)
    }

    /// Whether the server answers it at all.
    pub fn has_reply(self) -> bool {
        !matches!(self, Self::Quit | Self::SendLongData | Self::CloseStatement)
    }

    /// The manual's name, for error messages and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Quit => "COM_QUIT",
            Self::InitDb => "COM_INIT_DB",
            Self::Query => "COM_QUERY",
            Self::FieldList => "COM_FIELD_LIST",
            Self::Refresh => "COM_REFRESH",
            Self::Statistics => "COM_STATISTICS",
            Self::ProcessInfo => "COM_PROCESS_INFO",
            Self::ProcessKill => "COM_PROCESS_KILL",
            Self::Debug => "COM_DEBUG",
            Self::Ping => "COM_PING",
            Self::ChangeUser => "COM_CHANGE_USER",
            Self::Prepare => "COM_STMT_PREPARE",
            Self::Execute => "COM_STMT_EXECUTE",
            Self::BulkExecute => "COM_STMT_BULK_EXECUTE",
            Self::SendLongData => "COM_STMT_SEND_LONG_DATA",
            Self::CloseStatement => "COM_STMT_CLOSE",
            Self::ResetStatement => "COM_STMT_RESET",
            Self::SetOption => "COM_SET_OPTION",
            Self::Fetch => "COM_STMT_FETCH",
            Self::ResetConnection => "COM_RESET_CONNECTION",
            Self::Unsupported(byte) => unsupported_name(byte),
        }
    }
}

fn unsupported_name(byte: u8) -> &'static str {
    match byte {
        0x05 => "COM_CREATE_DB",
        0x06 => "COM_DROP_DB",
        0x08 => "COM_SHUTDOWN",
        0x12 => "COM_BINLOG_DUMP",
        0x13 => "COM_TABLE_DUMP",
        0x15 => "COM_REGISTER_SLAVE",
        0x1e => "COM_BINLOG_DUMP_GTID",
        0x20 => "COM_CLONE",
        _ => "this command byte",
    }
}

/// One command of a client on its way through the stack.
#[derive(Clone, Debug)]
pub struct Command {
    session: Arc<Session>,
    kind: CommandKind,
    payload: Bytes,
    sql: Bytes,
    plan: Option<Arc<Plan>>,
    prepared: Option<Arc<Prepared>>,
    awaits_commit: bool,
}

impl Command {
    /// A command from its packet: the command byte and what follows it.
    pub fn new(session: Arc<Session>, payload: Bytes) -> Self {
        let kind = CommandKind::from_byte(payload.first().copied().unwrap_or(0));
        let sql = match kind {
            CommandKind::Query | CommandKind::Prepare => payload.slice(1..),
            _ => Bytes::new(),
        };
        Self { session, kind, payload, sql, plan: None, prepared: None, awaits_commit: false }
    }

    /// A text command with this SQL, classified: what a layer asks by itself on its client's session.
    ///
    /// # Order
    /// The reply to one command must be read to its end before the next is sent, since a session has one connection:
    /// meanwhile the next is answered with error 2014. To drop a reply before its end is to end the session.
    pub fn query(session: &Arc<Session>, sql: impl AsRef<[u8]>) -> Self {
        let mut command = Self::new(session.clone(), packet(CommandKind::Query, sql.as_ref()));
        command.classify();
        command
    }

    /// The session that asked.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// What kind of command it is.
    pub fn kind(&self) -> CommandKind {
        self.kind
    }

    /// The packet's payload: what goes to the server.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// The SQL, as the client sent it; for a prepared statement that of its preparation. Empty when there is none.
    /// The bytes are in the client's character set.
    pub fn sql(&self) -> &Bytes {
        &self.sql
    }

    /// The schema in which the server looks for the names of [`sql`](Self::sql) that have none: the session's default one,
    /// but for a prepared statement the one at its preparation. Empty when there is none.
    pub fn schema(&self) -> Arc<str> {
        self.prepared.as_ref().map_or_else(|| self.session.schema(), |prepared| prepared.schema())
    }

    /// What classification found; none outside the classify layer.
    pub fn plan(&self) -> Option<&Arc<Plan>> {
        self.plan.as_ref()
    }

    /// Whether somebody waits for slaves to have what it commits, so that the GTID must be known in any case.
    pub fn awaits_commit(&self) -> bool {
        self.awaits_commit
    }

    pub(crate) fn await_commit(&mut self) {
        self.awaits_commit = true;
    }

    /// What it means to do. [`Intent::Unknown`] until the classify layer has seen it.
    pub fn intent(&self) -> Intent {
        self.plan.as_ref().map_or(Intent::Unknown, |plan| plan.intent)
    }

    /// The statement id of the prepared-statement commands.
    pub fn statement_id(&self) -> Option<u32> {
        match self.kind {
            CommandKind::Execute
            | CommandKind::BulkExecute
            | CommandKind::SendLongData
            | CommandKind::CloseStatement
            | CommandKind::ResetStatement
            | CommandKind::Fetch => {
                let id = self.payload.get(1..5)?;
                Some(u32::from_le_bytes([id[0], id[1], id[2], id[3]]))
            }
            _ => None,
        }
    }

    /// The prepared statement that an execute runs, that a prepare is making, or whose cursor a fetch reads from.
    pub fn prepared(&self) -> Option<&Arc<Prepared>> {
        self.prepared.as_ref()
    }

    /// The values of an execute's parameters, in their order; none without parameters. `None` for another command, and
    /// when a value came by itself as long data, so that it is not in the packet.
    pub fn parameters(&self) -> Option<Vec<Value<'_>>> {
        let (types, nulls, values) = self.executed()?.layout(&self.payload)?;
        rows::parameters(&types, nulls, values)
    }

    /// The bytes that tell an execute's parameters apart: their types, and all that stands behind the statement's id in
    /// the packet. `None` for another command, and when a value came by itself as long data.
    pub fn bound_parameters(&self) -> Option<(Bytes, Bytes)> {
        let (types, ..) = self.executed()?.layout(&self.payload)?;
        Some((types, self.payload.slice(5..)))
    }

    /// The prepared statement that an execute of either kind runs.
    pub(crate) fn runs(&self) -> Option<&Arc<Prepared>> {
        self.prepared.as_ref().filter(|_| matches!(self.kind, CommandKind::Execute | CommandKind::BulkExecute))
    }

    /// Whether it asks for a cursor, from which fetches read the rows.
    pub(crate) fn opens_cursor(&self) -> bool {
        self.kind == CommandKind::Execute && self.payload.get(5).is_some_and(|flags| *flags != 0)
    }

    /// The columns of the cursor that a fetch reads from; none if nobody has seen them.
    pub(crate) fn cursor_columns(&self) -> Option<Arc<[rows::Column]>> {
        self.prepared.as_ref().filter(|_| self.kind == CommandKind::Fetch)?.cursor_columns()
    }

    fn executed(&self) -> Option<&Arc<Prepared>> {
        self.prepared.as_ref().filter(|_| self.kind == CommandKind::Execute)
    }

    /// Puts other SQL in the place of the client's and classifies it anew, so that no layer can carry a write past
    /// the guard. Only a query or a prepare has SQL to replace; other commands stay as they are and `false` is returned.
    /// An execute runs what the prepare was rewritten to.
    #[must_use = "a command without SQL is not rewritten"]
    pub fn rewrite(&mut self, sql: impl AsRef<[u8]>) -> bool {
        if !matches!(self.kind, CommandKind::Query | CommandKind::Prepare) {
            return false;
        }
        self.payload = packet(self.kind, sql.as_ref());
        self.sql = self.payload.slice(1..);
        self.classify();
        if let (Some(prepared), Some(plan)) = (&self.prepared, &self.plan) {
            prepared.rewritten(self.sql.clone(), plan.clone());
        }
        true
    }

    /// Classifies what has SQL of its own.
    pub(crate) fn classify(&mut self) {
        if matches!(self.kind, CommandKind::Query | CommandKind::Prepare) {
            self.plan = Some(self.session.classifier().classify(&self.sql, self.session.sql_mode()));
        }
    }

    /// Makes an execute whole for the server: it names the types of its parameters only once, and the one that did may
    /// have been answered by a layer.
    pub(crate) fn complete(&mut self) {
        if let Some(completed) = self.executed().and_then(|prepared| prepared.completed(&self.payload)) {
            self.payload = completed;
        }
    }

    /// The classify layer's: attaches what it found.
    pub(crate) fn classified(&mut self, plan: Arc<Plan>) {
        self.plan = Some(plan);
    }

    /// The classify layer's: what an execute runs.
    pub(crate) fn executes(&mut self, prepared: Arc<Prepared>) {
        let (sql, plan) = prepared.text();
        (self.sql, self.plan, self.prepared) = (sql, Some(plan), Some(prepared));
    }

    /// The classify layer's: what a fetch reads from. It has no SQL of its own.
    pub(crate) fn fetches(&mut self, prepared: Option<Arc<Prepared>>) {
        self.prepared = prepared;
    }

    /// The classify layer's: the statement that a prepare makes.
    pub(crate) fn prepares(&mut self) -> Option<Arc<Prepared>> {
        // It may stay for as long as the session: not with all that was read from the client together with it.
        let sql = Bytes::copy_from_slice(&self.sql);
        let prepared = Arc::new(Prepared::new(sql, self.plan.clone()?, self.session.schema()));
        self.prepared = Some(prepared.clone());
        Some(prepared)
    }
}

fn packet(kind: CommandKind, body: &[u8]) -> Bytes {
    let mut payload = BytesMut::with_capacity(1 + body.len());
    payload.put_u8(kind.to_byte());
    payload.put_slice(body);
    payload.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_one_kind_and_back() {
        for byte in 0..=u8::MAX {
            assert_eq!(CommandKind::from_byte(byte).to_byte(), byte);
        }
    }
}

//! Running commands on a lent session, and reading their results.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use towline_middleware::{CommandKind, Completion, Final, Head, Part, Position, Reply, status};

use super::{
    HttpError,
    accounts::Lent,
    execute::execute_packet,
    json::Value,
    json_command::JsonCommand,
    rows::{Column, Item, RowReader, push_json, push_unsigned},
    search::Search,
};
use crate::wire::{
    Cursor, Malformed,
    frame::{HEADER_LEN, PAYLOAD_MAX},
};

/// The rows of a lookup (columns and indexes of one table, warnings of one statement) that are read at most.
const LOOKUP_BYTES_MAX: usize = 4 << 20;

/// A command whose reply has begun.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) reply: Reply,
    /// Whether its rows are in the binary form.
    pub(super) binary: bool,
    /// The prepared statement to be closed afterwards.
    statement_id: Option<u32>,
}

/// One result of a command.
#[derive(Debug)]
pub(super) struct ResultSet {
    columns: Vec<Column>,
    /// Rows as JSON, with commas between them.
    rows: String,
    pub(super) completion: Completion,
    warnings: Vec<Warning>,
}

/// One line of SHOW WARNINGS.
#[derive(Debug, Serialize)]
pub(super) struct Warning {
    level: String,
    code: u32,
    message: String,
}

/// Sends a command and reads the head of its reply.
///
/// # Errors
/// It can't be sent, or the session is over. The server's own refusal is in the reply.
pub(super) async fn start(lent: &mut Lent, command: &JsonCommand<'_>) -> Result<Running, HttpError> {
    match command {
        JsonCommand::Statement(sql) => query(lent, sql).await,
        JsonCommand::Search(search) => {
            let sql = search_statement(lent, search).await?;
            query(lent, &sql).await
        }
        JsonCommand::Query { dbname, sql, params } => {
            if let Some(name) = dbname.as_ref().filter(|name| ***name != *lent.session().schema()) {
                lent.settle(CommandKind::InitDb, name.as_bytes()).await?;
            }
            match params.as_slice() {
                [] => query(lent, sql).await,
                params => execute(lent, sql, params).await,
            }
        }
    }
}

async fn query(lent: &mut Lent, sql: &str) -> Result<Running, HttpError> {
    let reply = call(lent, CommandKind::Query, sql.as_bytes()).await?;
    Ok(Running { reply, binary: false, statement_id: None })
}

/// Sends a command that fits a packet of one frame, the largest that MySQL takes by default.
async fn call(lent: &mut Lent, kind: CommandKind, body: &[u8]) -> Result<Reply, HttpError> {
    let limit_bytes = PAYLOAD_MAX - 1;
    if body.len() >= limit_bytes {
        return Err(HttpError::CommandTooLong { bytes: body.len(), limit_bytes });
    }
    lent.call(kind, body).await
}

async fn execute(lent: &mut Lent, sql: &str, params: &[Value<'_>]) -> Result<Running, HttpError> {
    let mut reply = call(lent, CommandKind::Prepare, sql.as_bytes()).await?;
    let Head::Prepared { statement_id, .. } = reply.head() else {
        return Ok(Running { reply, binary: true, statement_id: None });
    };
    let mut wanted = None;
    while let Some(part) = reply.next().await? {
        if let (Part::Packets(packet), None) = (part, wanted) {
            wanted = Some(parameter_count(&packet).ok_or(malformed("answer to a prepare"))?);
        }
    }
    drop(reply);
    let wanted = wanted.ok_or(malformed("answer to a prepare"))?;
    if wanted != params.len() {
        lent.settle(CommandKind::CloseStatement, &statement_id.to_le_bytes()).await?;
        return Err(HttpError::ParameterCount { given: params.len(), wanted });
    }
    let reply = call(lent, CommandKind::Execute, &execute_packet(statement_id, params)[1..]).await?;
    Ok(Running { reply, binary: true, statement_id: Some(statement_id) })
}

/// Source: MySQL manual, "COM_STMT_PREPARE Response".
fn parameter_count(packet: &Bytes) -> Option<usize> {
    let mut cursor = Cursor::new(packet);
    cursor.bytes(HEADER_LEN + 1 + 4 + 2)?;
    cursor.u16().map(usize::from)
}

fn malformed(what: &'static str) -> HttpError {
    HttpError::Row(Malformed(what).into())
}

async fn search_statement(lent: &mut Lent, search: &Search) -> Result<String, HttpError> {
    let rows = lookup(lent, &search.lookup()).await?;
    Ok(search.statement(&rows)?)
}

/// The rows of a statement of our own.
async fn lookup<T: DeserializeOwned>(lent: &mut Lent, sql: &str) -> Result<Vec<T>, HttpError> {
    let running = query(lent, sql).await?;
    let results = collect(&mut { running }, &mut Room::new(LOOKUP_BYTES_MAX)).await?;
    let rows = results.first().map_or("", |result| &result.rows);
    serde_json::from_str(&format!("[{rows}]")).map_err(|_| malformed("answer to a lookup"))
}

/// How many bytes of rows a reply may still have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    left: usize,
    limit_bytes: usize,
}

impl Room {
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self { left: limit_bytes, limit_bytes }
    }
}

/// Runs a command and reads all of its results.
///
/// # Errors
/// The server refuses the command ([`HttpError::Server`]; the session can go on), there are too many rows, or the
/// session is over.
pub(super) async fn run(
    lent: &mut Lent,
    command: &JsonCommand<'_>,
    room: &mut Room,
) -> Result<Vec<ResultSet>, HttpError> {
    let mut running = start(lent, command).await?;
    let results = collect(&mut running, room).await;
    let statement_id = running.statement_id;
    drop(running);
    let mut results = results?;
    if let Some(last) = results.last_mut() {
        last.warnings = warnings(lent, &last.completion).await?;
    }
    if let Some(id) = statement_id {
        lent.settle(CommandKind::CloseStatement, &id.to_le_bytes()).await?;
    }
    Ok(results)
}

/// The results of a list of commands.
#[derive(Debug)]
pub(super) struct ListResults {
    of_commands: Vec<Vec<ResultSet>>,
    /// The commit's position.
    pub(super) position: Option<Position>,
}

/// Runs a list of commands: several in one transaction, one by itself.
///
/// # Errors
/// One of them failed, and all are rolled back.
pub(super) async fn run_list(
    lent: &mut Lent,
    commands: &[JsonCommand<'_>],
    room: &mut Room,
) -> Result<ListResults, HttpError> {
    if let [command] = commands {
        let at = |error| HttpError::At { index: 0, source: Box::new(error) };
        let results = run(lent, command, room).await.map_err(at)?;
        return Ok(ListResults { position: newest_position(&results), of_commands: vec![results] });
    }
    lent.settle(CommandKind::Query, b"BEGIN").await?;
    let mut of_commands = Vec::with_capacity(commands.len());
    for (index, command) in commands.iter().enumerate() {
        let results = match run(lent, command, room).await {
            Ok(results) => results,
            Err(error) => {
                if error.leaves_session_usable() {
                    lent.settle(CommandKind::Query, b"ROLLBACK").await?;
                }
                return Err(HttpError::At { index, source: Box::new(error) });
            }
        };
        if results.last().is_some_and(|last| last.completion.status & status::IN_TRANS == 0) {
            return Err(HttpError::TransactionEnded { index });
        }
        of_commands.push(results);
    }
    let commit = query(lent, "COMMIT").await?;
    let mut committed = collect(&mut { commit }, room).await?;
    if let (Some(commit), Some(last)) = (committed.last_mut(), of_commands.last_mut().and_then(|last| last.last_mut()))
    {
        last.warnings.append(&mut warnings(lent, &commit.completion).await?);
    }
    Ok(ListResults { of_commands, position: newest_position(&committed) })
}

async fn collect(running: &mut Running, room: &mut Room) -> Result<Vec<ResultSet>, HttpError> {
    let too_long = HttpError::ResponseTooLong { limit_bytes: room.limit_bytes };
    let mut reader = RowReader::new(running.binary, room.limit_bytes);
    let (mut results, mut rows, mut columns) = (Vec::new(), String::new(), Vec::new());
    let mut refusal = None;
    while let Some(part) = running.reply.next().await? {
        match part {
            Part::Packets(bytes) => {
                reader.feed(&bytes);
                while let Some(item) = reader.next(&mut rows)? {
                    match item {
                        Item::Columns => columns = reader.columns().to_vec(),
                        Item::Row if rows.len() > room.left => return Err(too_long),
                        Item::Row => rows.push(','),
                    }
                }
            }
            Part::Final { end: Final::Ok(completion), .. } => {
                reader.end_result();
                // The comma after the last row.
                rows.pop();
                room.left -= rows.len();
                let (columns, rows) = (std::mem::take(&mut columns), std::mem::take(&mut rows));
                results.push(ResultSet { columns, rows, completion, warnings: Vec::new() });
            }
            Part::Final { end: Final::Err(error), .. } => refusal = Some(error),
            Part::Turn(_) => return Err(malformed("reply: it asks for a file")),
        }
    }
    match refusal {
        Some(error) => Err(error.into()),
        None => Ok(results),
    }
}

/// What the server, and the slaves by their silence, had to warn of.
///
/// # Errors
/// The session is over.
pub(super) async fn warnings(lent: &mut Lent, completion: &Completion) -> Result<Vec<Warning>, HttpError> {
    let mut warnings = Vec::new();
    let mut from_server = completion.warnings;
    if let Some(reason) = &completion.details().replication_warning {
        from_server = from_server.saturating_sub(1);
        warnings.push(Warning { level: "Warning".to_owned(), code: 3024, message: reason.to_string() });
    }
    if from_server == 0 {
        return Ok(warnings);
    }
    match lookup(lent, "SHOW WARNINGS").await {
        Ok(rows) => warnings.extend(rows.into_iter().map(|(level, code, message)| Warning { level, code, message })),
        // The command itself has succeeded; that its warnings can't be read is one more.
        Err(HttpError::Server(error)) => warnings.push(Warning {
            level: "Warning".to_owned(),
            code: error.code.into(),
            message: format!("{from_server} warnings can't be read: {}", error.text()),
        }),
        Err(error) => return Err(error),
    }
    Ok(warnings)
}

/// The newest position among these results.
pub(super) fn newest_position(results: &[ResultSet]) -> Option<Position> {
    results.iter().filter_map(|result| result.completion.details().position).max()
}

impl ResultSet {
    /// The members that tell of the end, without braces.
    fn push_summary(&self, out: &mut String, position: Option<Position>) {
        push_summary(out, &self.completion, &self.warnings, position);
    }

    fn push(&self, out: &mut String) {
        out.push_str("\"columns\":");
        push_json(out, &self.columns);
        out.push_str(",\"rows\":[");
        out.push_str(&self.rows);
        out.push_str("],");
    }
}

impl ListResults {
    /// Appends the list's results as one object.
    pub(super) fn push(&self, out: &mut String, position: Option<Position>) {
        out.push_str("{\"results\":[");
        for (index, results) in self.of_commands.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            push_results(out, results, position);
        }
        out.push_str("],\"position\":");
        push_json(out, &position);
        out.push('}');
    }
}

/// Appends `"affected_rows": …` and the other members that tell how a command ended.
pub(super) fn push_summary(
    out: &mut String,
    completion: &Completion,
    warnings: &[Warning],
    position: Option<Position>,
) {
    out.push_str("\"affected_rows\":");
    push_unsigned(out, completion.affected_rows);
    out.push_str(",\"last_insert_id\":");
    push_unsigned(out, completion.last_insert_id);
    out.push_str(",\"warnings\":");
    push_json(out, warnings);
    out.push_str(",\"position\":");
    push_json(out, &position);
}

/// Appends one command's results as one object: the first result's members, and the others in `more_results`.
pub(super) fn push_results(out: &mut String, results: &[ResultSet], position: Option<Position>) {
    out.push('{');
    if let [first, others @ ..] = results {
        first.push(out);
        first.push_summary(out, position);
        if !others.is_empty() {
            out.push_str(",\"more_results\":[");
            for (index, other) in others.iter().enumerate() {
                out.push_str(if index > 0 { ",{" } else { "{" });
                other.push(out);
                other.push_summary(out, position);
                out.push('}');
            }
            out.push(']');
        }
    }
    out.push('}');
}

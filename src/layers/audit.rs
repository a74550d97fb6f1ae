//! Who did what and what came of it, as lines of JSON in a file that is rotated.
//!
//! A line is written after the command's end. The client never waits for the disk: when too many lines wait, or the disk
//! takes none, lines are lost and counted (`towline_layer_audit_lost_total`). Literals are left out unless `literals =
//! true`; a text whose literals can't be told with certainty is then left out whole. So they are, with parameters, from
//! a text that has the word PASSWORD or IDENTIFIED, whatever `literals` says: accounts are made and changed by such.

use std::{
    borrow::Cow,
    fmt,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use quanta::Instant;
use serde::{Deserialize, Serialize};
use towline_middleware::{
    Command, CommandKind, Error, Final, Front, Intent, LayerProblem, LayerSetup, Next, Part, Position, Reply, Session,
    SqlMode, UserLayer, from_fn, rows::Value,
};

use super::{
    check_ranges,
    line_file::{LineFile, LineFileOptions},
};
use crate::classify::contains_ignoring_case;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    /// Relative to the configuration file.
    file: PathBuf,
    #[serde(default = "file_bytes_max")]
    file_bytes_max: u64,
    #[serde(default = "files_max")]
    files_max: usize,
    /// Lines that may wait to be written.
    #[serde(default = "queue_max")]
    queue_max: usize,
    /// Whether literals and parameters are written down as they are.
    #[serde(default)]
    literals: bool,
    /// Whether what only reads is left out.
    #[serde(default)]
    writes_only: bool,
}

fn file_bytes_max() -> u64 {
    100 << 20
}

fn files_max() -> usize {
    10
}

fn queue_max() -> usize {
    10_000
}

/// A longer text is cut off, and so are the parameters behind it, so that what waits is bounded.
const SQL_BYTES_MAX: usize = 16 * 1024;
/// What a parameter takes besides its bytes.
const PARAMETER_BYTES: usize = size_of::<String>();
/// What stands for the parameters that are cut off.
const MORE: &str = "…";

/// A command that has ended.
#[derive(Debug)]
struct Entry {
    at: SystemTime,
    took_us: u64,
    session: Arc<Session>,
    user: Arc<str>,
    schema: Arc<str>,
    mode: SqlMode,
    kind: CommandKind,
    intent: Intent,
    digest: u64,
    sql: Text,
    parameters: Option<Vec<String>>,
    outcome: Outcome,
}

/// A command's text.
#[derive(Debug)]
enum Text {
    /// Not longer than may be written down, with its literals: they are taken out where the line is made.
    Whole(Bytes),
    /// As it is written down.
    Shown(String),
    /// Its literals can't be told.
    Hidden,
}

#[derive(Debug)]
struct Outcome {
    ok: bool,
    error: Option<u16>,
    affected_rows: u64,
    position: Option<Position>,
}

#[derive(Serialize)]
struct Line<'a> {
    /// Seconds since 1970.
    time: f64,
    took_us: u64,
    front: &'static str,
    connection: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<SocketAddr>,
    user: &'a str,
    schema: &'a str,
    command: &'static str,
    intent: Intent,
    digest: fmt::Arguments<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sql: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<&'a [String]>,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<u16>,
    affected_rows: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<Position>,
}

struct Audit {
    file: LineFile<Entry>,
    literals: bool,
    writes_only: bool,
}

/// The layer of these options.
pub(super) fn layer(setup: &mut LayerSetup) -> Result<impl UserLayer + use<>, LayerProblem> {
    let options: Options = setup.options()?;
    check_ranges([
        ("file_bytes_max", options.file_bytes_max, 1..=u64::MAX),
        ("files_max", options.files_max as u64, 1..=1000),
        ("queue_max", options.queue_max as u64, 1..=1_000_000),
    ])?;
    let file_options = LineFileOptions {
        path: setup.folder().join(&options.file),
        bytes_max: options.file_bytes_max,
        files_max: options.files_max,
        queue_max: options.queue_max,
    };
    let first = file_options.clone();
    setup.on_start(async move {
        let open = first.open();
        open.map(drop).map_err(|source| format!("`file`: {} can't be opened: {source}", first.path.display()).into())
    });
    let lost = setup.counter("lost", "Lines lost since too many waited to be written, or the disk took none.", &[]);
    let (file, writing) = LineFile::new(file_options, lost, Entry::write)?;
    setup.on_stop(async move {
        // The layer is dropped by now, or soon; its last lines are written then.
        let _ = tokio::task::spawn_blocking(move || writing.join()).await;
    });
    let audit = Arc::new(Audit { file, literals: options.literals, writes_only: options.writes_only });
    Ok(from_fn(move |command: Command, next: Next| audit.clone().call(command, next)))
}

impl Audit {
    async fn call(self: Arc<Self>, command: Command, next: Next) -> Result<Reply, Error> {
        let begun = Instant::now();
        let mut entry = self.entry(&command);
        let mut reply = match next.run(command).await {
            Ok(reply) => reply,
            Err(error) => {
                if let Some(entry) = entry {
                    self.put(entry, begun);
                }
                return Err(error);
            }
        };
        let Some(mut waiting) = entry.take() else { return Ok(reply) };
        if reply.is_complete() {
            reply.ready_finals().for_each(|end| waiting.outcome.follow(end));
            self.put(waiting, begun);
            return Ok(reply);
        }
        let mut guard = Unwritten { audit: self, entry: Some(waiting), begun };
        Ok(reply.inspect(move |part| {
            if let (Part::Final { end, .. }, Some(entry)) = (part, &mut guard.entry) {
                entry.outcome.follow(end);
            }
        }))
    }

    fn entry(&self, command: &Command) -> Option<Entry> {
        let session = command.session();
        let is_shown = match command.kind() {
            kind if kind.runs_sql() => true,
            CommandKind::InitDb | CommandKind::ChangeUser => true,
            // What is prepared is written down when it runs.
            CommandKind::Prepare => false,
            kind => matches!(kind, CommandKind::Unsupported(_)) || command.intent().may_write(),
        };
        if !is_shown || (self.writes_only && command.intent() < Intent::Transaction) {
            return None;
        }
        let shows_literals = self.literals && !is_of_accounts(command.sql());
        Some(Entry {
            at: SystemTime::now(),
            took_us: 0,
            user: session.user(),
            schema: command.schema(),
            mode: session.sql_mode(),
            session: session.clone(),
            kind: command.kind(),
            intent: command.intent(),
            digest: command.plan().map_or(0, |plan| plan.digest),
            sql: Text::of(command, shows_literals),
            parameters: if shows_literals { parameters(command) } else { None },
            outcome: Outcome { ok: false, error: None, affected_rows: 0, position: None },
        })
    }

    fn put(&self, mut entry: Entry, begun: Instant) {
        entry.took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.file.put(entry);
    }
}

/// Writes the line of a reply that streams when that ends, also if the client leaves before.
struct Unwritten {
    audit: Arc<Audit>,
    entry: Option<Entry>,
    begun: Instant,
}

impl Drop for Unwritten {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            self.audit.put(entry, self.begun);
        }
    }
}

impl Outcome {
    fn follow(&mut self, end: &Final) {
        match end {
            Final::Ok(completion) => {
                self.ok = true;
                self.affected_rows += completion.affected_rows;
                self.position = completion.details().position.or(self.position);
            }
            Final::Err(error) => (self.ok, self.error) = (false, Some(error.code)),
        }
    }
}

/// Whether it may make or change an account, also in a text that is prepared or executed by it.
fn is_of_accounts(sql: &[u8]) -> bool {
    ["password", "identified"].iter().any(|word| contains_ignoring_case(sql, word))
}

impl Text {
    fn of(command: &Command, shows_literals: bool) -> Self {
        let (sql, session) = (command.sql(), command.session());
        if shows_literals {
            return Self::Shown(String::from_utf8_lossy(&sql[..sql.len().min(SQL_BYTES_MAX)]).into_owned());
        }
        if sql.len() <= SQL_BYTES_MAX {
            // Copied: a slice of a packet would keep the whole buffer in which it came.
            return Self::Whole(Bytes::copy_from_slice(sql));
        }
        // Here, since a text that is cut may end within a literal.
        match session.classifier().without_literals(sql, session.sql_mode()) {
            Some(mut text) => {
                text.truncate(text.floor_char_boundary(SQL_BYTES_MAX));
                Self::Shown(text)
            }
            None => Self::Hidden,
        }
    }
}

/// The values of an execute's parameters, as far as there is room for them behind the text.
fn parameters(command: &Command) -> Option<Vec<String>> {
    let mut left = SQL_BYTES_MAX.saturating_sub(command.sql().len());
    let mut shown = Vec::new();
    for value in command.parameters()? {
        let Some(room) = left.checked_sub(PARAMETER_BYTES).filter(|room| *room > 0) else {
            shown.push(MORE.to_owned());
            break;
        };
        let text = match &value {
            Value::Bytes(bytes) => String::from_utf8_lossy(&bytes[..bytes.len().min(room)]).into_owned(),
            other => other.to_text().into_owned(),
        };
        left = room.saturating_sub(text.len());
        shown.push(text);
    }
    Some(shown)
}

impl Entry {
    fn write(&self, out: &mut Vec<u8>) {
        let sql = match &self.sql {
            Text::Whole(sql) => self.session.classifier().without_literals(sql, self.mode).map(Cow::Owned),
            Text::Shown(text) => Some(Cow::Borrowed(text.as_str())),
            Text::Hidden => None,
        };
        let line = Line {
            time: self.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
            took_us: self.took_us,
            front: match self.session.front() {
                Front::MySql => "mysql",
                Front::Http => "http",
            },
            connection: self.session.connection_id(),
            peer: self.session.peer(),
            user: &self.user,
            schema: &self.schema,
            command: self.kind.name(),
            intent: self.intent,
            digest: format_args!("{:016x}", self.digest),
            sql: sql.filter(|sql| !sql.is_empty()),
            parameters: self.parameters.as_deref(),
            ok: self.outcome.ok,
            error: self.outcome.error,
            affected_rows: self.outcome.affected_rows,
            position: self.outcome.position,
        };
        serde_json::to_writer(out, &line).expect("strings and numbers are JSON, and a Vec takes everything");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use towline_middleware::{
        Completion,
        testing::{FakeRouter, command, conformance, run},
    };

    use super::*;
    use crate::layers::tests::setup;

    #[tokio::test]
    async fn it_conforms() {
        let folder = tempfile::tempdir().unwrap();
        let options = json!({"file": folder.path().join("audit.log")});
        conformance(|| layer(&mut setup("audit", options.clone())).unwrap()).await;
    }

    #[test]
    fn numbers_that_can_not_be_are_told() {
        let folder = tempfile::tempdir().unwrap();
        for (key, number) in [("queue_max", 0), ("queue_max", 1_000_000_000), ("files_max", 0), ("file_bytes_max", 0)] {
            let options = json!({"file": folder.path().join("audit.log"), key: number});
            let Err(error) = layer(&mut setup("audit", options)) else { panic!("{key} = {number} was taken") };
            assert!(error.to_string().contains(&format!("`{key}` is from 1 to ")), "{error}");
        }
    }

    #[tokio::test]
    async fn a_line_tells_who_did_what_and_no_literal_that_can_not_be_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("audit.log");
        let mut setup = setup("audit", json!({"file": file}));
        let layer = layer(&mut setup).unwrap();
        let router = FakeRouter::new([Reply::ok(Completion { affected_rows: 2, ..Completion::default() })]);
        // This classifier knows nothing of literals.
        run(layer, router, command("DELETE FROM item WHERE card = '4111'")).await.unwrap();
        let lines = crate::layers::tests::lines(&file).await;
        let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(line["user"], "app");
        assert_eq!((&line["affected_rows"], &line["ok"], &line["intent"]), (&json!(2), &json!(true), &json!("write")));
        assert_eq!(line.get("sql"), None);
    }
}

//! Copies reads to a second server, under an account of its own, and compares what both answer.
//!
//! - Off the path: a read is copied when its answer has gone to the client, through a queue of bounded length. What does
//!   not fit in is dropped and counted; a second server that is slow or away delays nobody.
//! - Only reads outside a transaction whose answer hangs on tables and session variables alone (no `NOW()`, no user
//!   variables): see [`is_steady`]. What the client has SET is set there, too; a session that has done more than that is not
//!   copied until it is reset.
//! - Without ORDER BY the order of rows is left out of account.
//!
//! A write between both reads, or a second server that lags, is seen as a difference: read the figures as rates. The copy
//! is asked in utf8mb4 unless the client has SET another character set.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use mysql_async::{Column, Conn, Opts, Params, Row, consts::ColumnType, prelude::Queryable};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::{sync::mpsc, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use towline_middleware::{
    Command, CommandKind, Error, Figure, Final, Head, Intent, LayerProblem, LayerSetup, Next, Part, Reply, UserLayer,
    from_fn,
    rows::{Collected, Value},
};

use super::cache::is_steady;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The second server, with an account that may only read.
    url: String,
    /// How many of all reads are copied: 1 is all.
    #[serde(default = "share")]
    share: f64,
    /// Reads that may wait for the second server.
    #[serde(default = "queue_max")]
    queue_max: usize,
    /// Connections to the second server.
    #[serde(default = "connections_max")]
    connections_max: usize,
    /// A longer result is not compared.
    #[serde(default = "result_bytes_max")]
    result_bytes_max: usize,
    /// How long the second server may take for one read.
    #[serde(default = "timeout_ms")]
    timeout_ms: u64,
}

fn share() -> f64 {
    1.0
}

fn queue_max() -> usize {
    1000
}

fn connections_max() -> usize {
    2
}

fn result_bytes_max() -> usize {
    256 << 10
}

fn timeout_ms() -> u64 {
    5000
}

#[derive(Debug, thiserror::Error)]
enum InvalidMirror {
    #[error("`url` is no mysql://user:password@host:port")]
    Url,
    #[error("`share` is more than 0 and at most 1")]
    Share,
    #[error("`{key}` is at least 1")]
    Zero { key: &'static str },
}

/// So many statements of SET are repeated on the second server.
const SETS_MAX: usize = 16;
/// After a connection that failed nothing is tried for so long.
const BACK_OFF: Duration = Duration::from_secs(1);
/// One difference is logged in so long; all are counted.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// What a session has SET, in order; none if it has done what can't be repeated.
struct Sets(Mutex<Option<Vec<Bytes>>>);

impl Default for Sets {
    fn default() -> Self {
        Self(Mutex::new(Some(Vec::new())))
    }
}

impl Sets {
    fn follow(&self, command: &Command) {
        let mut sets = self.0.lock();
        match command.kind() {
            CommandKind::ResetConnection | CommandKind::ChangeUser => *sets = Some(Vec::new()),
            kind if !kind.runs_sql() || command.intent() == Intent::Read || command.intent() == Intent::Transaction => {
            }
            CommandKind::Query if command.intent() == Intent::SessionState => {
                let is_use =
                    command.sql().trim_ascii_start().get(..4).is_some_and(|word| word.eq_ignore_ascii_case(b"USE "));
                match &mut *sets {
                    _ if is_use => {}
                    Some(known) if known.len() < SETS_MAX => known.push(Bytes::copy_from_slice(command.sql())),
                    _ => *sets = None,
                }
            }
            // A temporary table would hide the other server's own.
            _ if is_change_of_rows(command.sql()) => {}
            _ => *sets = None,
        }
    }
}

fn is_change_of_rows(sql: &[u8]) -> bool {
    let word = sql.trim_ascii_start().get(..6).unwrap_or_default();
    [b"INSERT", b"UPDATE", b"DELETE", b"REPLAC"].iter().any(|known| word.eq_ignore_ascii_case(*known))
}

/// A read that was answered.
struct Job {
    read: Read,
    /// The client's answer: packets and their end.
    answer: Reply,
}

struct Mirror {
    queue: mpsc::Sender<Job>,
    share: f64,
    result_bytes_max: usize,
    dropped: Figure,
}

/// What the tasks that ask the second server share.
struct Asking {
    opts: Opts,
    timeout: Duration,
    result_bytes_max: usize,
    compared: Figure,
    different: Figure,
    failed: Figure,
    logged: Mutex<Option<Instant>>,
}

/// The layer of these options.
pub(super) fn layer(setup: &mut LayerSetup) -> Result<impl UserLayer + use<>, LayerProblem> {
    let options: Options = setup.options()?;
    let opts = Opts::from_url(&options.url).map_err(|_| InvalidMirror::Url)?;
    if !(options.share > 0.0 && options.share <= 1.0) {
        return Err(InvalidMirror::Share.into());
    }
    for (key, value) in [("queue_max", options.queue_max), ("connections_max", options.connections_max)] {
        if value == 0 {
            return Err(InvalidMirror::Zero { key }.into());
        }
    }
    let (queue, jobs) = mpsc::channel(options.queue_max);
    let asking = Arc::new(Asking {
        opts,
        timeout: Duration::from_millis(options.timeout_ms),
        result_bytes_max: options.result_bytes_max,
        compared: setup.counter("compared", "Reads that both servers have answered.", &[]),
        different: setup.counter("different", "Reads that the second server answered in another way.", &[]),
        failed: setup.counter("failed", "Reads that the second server did not answer.", &[]),
        logged: Mutex::default(),
    });
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let (stopped, started) = (stop.clone(), tasks.clone());
    setup.on_start(async move {
        let jobs = Arc::new(tokio::sync::Mutex::new(jobs));
        for _ in 0..options.connections_max {
            let (asking, jobs, stopped) = (asking.clone(), jobs.clone(), stopped.clone());
            started.spawn(async move { stopped.run_until_cancelled(asking.work(&jobs)).await });
        }
        Ok(())
    });
    setup.on_stop(async move {
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    });
    let dropped = setup.counter("dropped", "Reads that were not copied since too many waited.", &[]);
    let mirror = Arc::new(Mirror { queue, share: options.share, result_bytes_max: options.result_bytes_max, dropped });
    Ok(from_fn(move |command: Command, next: Next| {
        let mirror = mirror.clone();
        async move { mirror.call(command, next).await }
    }))
}

impl Mirror {
    async fn call(self: Arc<Self>, command: Command, next: Next) -> Result<Reply, Error> {
        let session = command.session();
        let sets = session.state::<Sets>();
        let known = sets.0.lock().clone();
        let is_copied = command.intent() == Intent::Read && !session.in_transaction() && fastrand::f64() < self.share;
        let job = known.filter(|_| is_copied).and_then(|sets| Read::new(&command, sets));
        if job.is_none() {
            sets.follow(&command);
        }
        let reply = next.run(command).await?;
        let Some(waiting) = job else { return Ok(reply) };
        let mut waiting = Taken { mirror: self, waiting: Some(waiting), head: reply.head(), bytes: BytesMut::new() };
        if reply.is_complete() {
            reply.ready().for_each(|part| waiting.follow(part));
            return Ok(reply);
        }
        Ok(reply.inspect(move |part| waiting.follow(part)))
    }
}

/// A read as it is repeated.
struct Read {
    command: Command,
    schema: Arc<str>,
    sets: Vec<Bytes>,
    params: Params,
}

impl Read {
    /// None for a read that can't be repeated elsewhere.
    fn new(command: &Command, sets: Vec<Bytes>) -> Option<Self> {
        let session = command.session();
        let params = match command.kind() {
            CommandKind::Query => Params::Empty,
            CommandKind::Execute if command.payload().get(5) == Some(&0) => {
                let values: Vec<_> = command.parameters()?.iter().map(parameter).collect();
                if values.is_empty() { Params::Empty } else { Params::Positional(values) }
            }
            _ => return None,
        };
        let text = session.classifier().without_literals(command.sql(), session.sql_mode())?;
        let has_tables = command.plan().is_some_and(|plan| !plan.tables.is_empty());
        let is_repeated = has_tables && is_steady(&text);
        is_repeated.then(|| Self { command: command.clone(), schema: session.schema(), sets, params })
    }
}

fn parameter(value: &Value<'_>) -> mysql_async::Value {
    match value {
        Value::Null => mysql_async::Value::NULL,
        Value::Integer(value) => (*value).into(),
        Value::Unsigned(value) => (*value).into(),
        Value::Float(value) => (*value).into(),
        Value::Bytes(bytes) => bytes.to_vec().into(),
    }
}

/// An answer on its way to the client, of which a copy is taken.
struct Taken {
    mirror: Arc<Mirror>,
    waiting: Option<Read>,
    head: Head,
    bytes: BytesMut,
}

impl Taken {
    fn follow(&mut self, part: &Part) {
        match part {
            Part::Packets(bytes) if self.bytes.len() + bytes.len() <= self.mirror.result_bytes_max => {
                self.bytes.extend_from_slice(bytes);
            }
            Part::Final { end, .. } if !matches!(end, Final::Ok(completion) if completion.has_more()) => {
                let Some(read) = self.waiting.take() else { return };
                let packets = Part::Packets(self.bytes.split().freeze());
                let answer = Reply::new(self.head, [packets, part.clone()], None);
                if self.mirror.queue.try_send(Job { read, answer }).is_err() {
                    self.mirror.dropped.increment();
                }
            }
            _ => self.waiting = None,
        }
    }
}

impl Asking {
    /// Asks the second server, one read after the other, on one connection.
    async fn work(&self, jobs: &tokio::sync::Mutex<mpsc::Receiver<Job>>) {
        let mut conn = None;
        loop {
            let Some(job) = jobs.lock().await.recv().await else { return };
            let open = match conn.take() {
                Some(open) => Ok(open),
                None => self.in_time(Conn::new(self.opts.clone())).await,
            };
            let outcome = match open {
                Ok(mut open) => {
                    let outcome = self.in_time(ask(&mut open, &job.read)).await;
                    let is_usable = matches!(&outcome, Ok(_) | Err(Failure::Server(mysql_async::Error::Server(_))));
                    conn = is_usable.then_some(open);
                    outcome
                }
                Err(failure) => {
                    tokio::time::sleep(BACK_OFF).await;
                    // Not an answer of the read's.
                    Err(Failure::Connect(Box::new(failure)))
                }
            };
            self.compare(job, outcome).await;
        }
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, mysql_async::Error>>) -> Result<T, Failure> {
        match timeout(self.timeout, work).await {
            Ok(outcome) => outcome.map_err(Failure::Server),
            Err(_) => Err(Failure::Timeout(self.timeout)),
        }
    }

    async fn compare(&self, job: Job, outcome: Result<Vec<Row>, Failure>) {
        let command = job.read.command;
        let Ok(own) = job.answer.collect(&command, self.result_bytes_max).await else { return };
        let is_same = match (&own.end, outcome) {
            (Ok(_), Ok(rows)) => is_same(&command, own, &rows),
            (Err(own), Err(Failure::Server(mysql_async::Error::Server(other)))) => own.code == other.code,
            (Err(_), Ok(_)) | (Ok(_), Err(Failure::Server(mysql_async::Error::Server(_)))) => false,
            (_, Err(failure)) => {
                self.failed.increment();
                self.log(&command, || format!("the second server did not answer: {failure}"));
                return;
            }
        };
        self.compared.increment();
        if !is_same {
            self.different.increment();
            self.log(&command, || "the second server answers a read in another way".to_owned());
        }
    }

    fn log(&self, command: &Command, what: impl FnOnce() -> String) {
        let mut logged = self.logged.lock();
        if logged.is_some_and(|at| at.elapsed() < LOG_INTERVAL) {
            return;
        }
        *logged = Some(Instant::now());
        let session = command.session();
        let sql = session.classifier().without_literals(command.sql(), session.sql_mode()).unwrap_or_default();
        let digest = command.plan().map_or(0, |plan| plan.digest);
        tracing::warn!(digest = format_args!("{digest:016x}"), sql, "{}", what());
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Server(mysql_async::Error),
    #[error("it could not be reached: {0}")]
    Connect(#[source] Box<Failure>),
    #[error("it took longer than {0:?}")]
    Timeout(Duration),
}

/// Asks what the client has asked, in a session that is like the client's.
async fn ask(conn: &mut Conn, read: &Read) -> Result<Vec<Row>, mysql_async::Error> {
    conn.reset().await?;
    if !read.schema.is_empty() {
        conn.query_drop(format!("USE `{}`", read.schema.replace('`', "``"))).await?;
    }
    for set in &read.sets {
        conn.query_drop(&**set).await?;
    }
    let sql = &**read.command.sql();
    match read.command.kind() {
        CommandKind::Query => conn.query(sql).await,
        _ => conn.exec(sql, read.params.clone()).await,
    }
}

fn is_same(command: &Command, own: Collected, other: &[Row]) -> bool {
    let is_ordered = command.sql().to_ascii_uppercase().windows(8).any(|words| words == b"ORDER BY");
    let of_own = |row: &Vec<Value<'static>>| row.iter().map(|value| text_of(value)).collect::<Vec<_>>();
    let mut rows: Vec<_> = own.rows.iter().map(of_own).collect();
    let width = own.columns.len();
    let mut others: Vec<_> =
        other.iter().map(|row| (0..row.len()).map(|at| other_text(row, at)).collect::<Vec<_>>()).collect();
    if other.iter().any(|row| row.len() != width) {
        return false;
    }
    if !is_ordered {
        rows.sort_unstable();
        others.sort_unstable();
    }
    rows == others
}

fn text_of(value: &Value<'_>) -> Option<String> {
    (!value.is_null()).then(|| value.to_text().into_owned())
}

/// The same text of the second server's value.
fn other_text(row: &Row, at: usize) -> Option<String> {
    use mysql_async::Value as Other;
    let column = &row.columns_ref()[at];
    Some(match row.as_ref(at)? {
        Other::NULL => return None,
        Other::Bytes(bytes) => plain(column, String::from_utf8_lossy(bytes).into_owned()),
        Other::Int(value) => value.to_string(),
        Other::UInt(value) => value.to_string(),
        Other::Float(value) => f64::from(*value).to_string(),
        Other::Double(value) => value.to_string(),
        Other::Date(year, month, day, hour, minute, second, micros) => {
            let date = format!("{year:04}-{month:02}-{day:02}");
            match column.column_type() {
                ColumnType::MYSQL_TYPE_DATE | ColumnType::MYSQL_TYPE_NEWDATE => date,
                _ => format!("{date} {hour:02}:{minute:02}:{second:02}{}", fraction(*micros)),
            }
        }
        Other::Time(is_negative, days, hours, minutes, seconds, micros) => {
            let sign = if *is_negative { "-" } else { "" };
            let hours = u64::from(*days) * 24 + u64::from(*hours);
            format!("{sign}{hours:02}:{minutes:02}:{seconds:02}{}", fraction(*micros))
        }
    })
}

fn fraction(micros: u32) -> String {
    if micros == 0 { String::new() } else { format!(".{micros:06}") }
}

/// A number as this node writes it: a server may fill it up with zeros.
fn plain(column: &Column, text: String) -> String {
    use ColumnType::{
        MYSQL_TYPE_DOUBLE, MYSQL_TYPE_FLOAT, MYSQL_TYPE_INT24, MYSQL_TYPE_LONG, MYSQL_TYPE_LONGLONG, MYSQL_TYPE_SHORT,
        MYSQL_TYPE_TINY, MYSQL_TYPE_YEAR,
    };
    match column.column_type() {
        MYSQL_TYPE_FLOAT | MYSQL_TYPE_DOUBLE => text.parse::<f64>().map_or(text, |value| value.to_string()),
        MYSQL_TYPE_TINY | MYSQL_TYPE_SHORT | MYSQL_TYPE_INT24 | MYSQL_TYPE_LONG | MYSQL_TYPE_LONGLONG
        | MYSQL_TYPE_YEAR => text.parse::<i128>().map_or(text, |value| value.to_string()),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use towline_middleware::testing::{command, conformance};

    use super::*;
    use crate::layers::tests::setup;

    #[tokio::test]
    async fn it_conforms() {
        let options = json!({"url": "mysql://reader:password@127.0.0.1:1"});
        conformance(|| layer(&mut setup("mirror", options.clone())).unwrap()).await;
    }

    #[test]
    fn options_are_looked_at() {
        let url = "mysql://reader:password@127.0.0.1:1";
        for (options, wanted) in [
            (json!({"url": "nowhere"}), "`url`"),
            (json!({"url": url, "share": 1.5}), "`share`"),
            (json!({"url": url, "queue_max": 0}), "`queue_max`"),
        ] {
            let Err(error) = layer(&mut setup("mirror", options)) else { panic!("taken") };
            assert!(error.to_string().contains(wanted), "{error}");
        }
    }

    #[test]
    fn what_is_set_is_repeated_as_long_as_that_can_be() {
        let sets = Sets::default();
        let known = || sets.0.lock().as_ref().map(Vec::len);
        for sql in ["SET NAMES utf8mb4", "USE shop", "INSERT INTO a VALUES (1)", "SELECT 1"] {
            let own = Command::query(command(sql).session(), sql);
            sets.follow(&own);
        }
        assert_eq!(known(), Some(1));
        sets.follow(&Command::query(command("").session(), "CREATE TEMPORARY TABLE a (b INT)"));
        assert_eq!(known(), None);
    }
}

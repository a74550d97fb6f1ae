//! Copies reads to a second server, under an account of its own, and compares what both answer.
//!
//! - Off the path: a read is copied when its answer has gone to the client, through a queue that is bounded in length and
//!   bytes. What does not fit in is dropped and counted; a second server that is slow or away delays nobody.
//! - Only SELECTs outside a transaction whose answer hangs on tables and session variables alone (no `NOW()`, no user
//!   variables): see [`is_steady`]. What the client has SET is set there, too; a session that has done more than that is not
//!   copied until it is reset.
//! - The order of rows is left out of account.
//! - The second server ends what takes too long, and its session is read-only: a view may call a function that writes.
//!
//! A write between both reads, or a second server that lags, is seen as a difference: read the figures as rates. The copy
//! is asked in utf8mb4 unless the client has SET another character set.

mod compare;
mod second;
mod sets;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use mysql_async::{Opts, OptsBuilder, Params, Row};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use towline_middleware::{
    Command, CommandKind, Completion, Error, Figure, Final, Head, Intent, LayerProblem, LayerSetup, Next, Part, Reply,
    SqlMode, UserLayer, from_fn, rows::Value,
};

use self::{
    compare::is_same,
    second::{Bounds, Failure, Second},
    sets::{Sets, Step},
};
use super::cache::{OWN_SCHEMAS, is_steady};

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
    /// How much they may have, with their answers.
    #[serde(default = "queue_bytes_max")]
    queue_bytes_max: u32,
    /// Connections to the second server.
    #[serde(default = "connections_max")]
    connections_max: usize,
    /// Neither a longer statement nor a longer result is compared.
    #[serde(default = "result_bytes_max")]
    result_bytes_max: usize,
    /// How long the second server may take for one read.
    #[serde(default = "timeout_ms")]
    timeout_ms: u32,
}

fn share() -> f64 {
    1.0
}

fn queue_max() -> usize {
    1000
}

fn queue_bytes_max() -> u32 {
    64 << 20
}

fn connections_max() -> usize {
    2
}

fn result_bytes_max() -> usize {
    256 << 10
}

fn timeout_ms() -> u32 {
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

/// After trouble with the second server nothing is tried on that connection for so long.
const BACK_OFF: Duration = Duration::from_secs(1);
/// One difference is logged in so long; all are counted.
const LOG_INTERVAL: Duration = Duration::from_secs(1);
/// What a read in the queue has besides its text and its answer.
const READ_BYTES: usize = 1024;

/// A read that was answered.
struct Job {
    read: Read,
    /// The client's answer: packets and their end.
    answer: Reply,
    /// Its place among the bytes that may wait.
    _bytes: OwnedSemaphorePermit,
}

struct Mirror {
    queue: mpsc::Sender<Job>,
    queue_bytes: Arc<Semaphore>,
    share: f64,
    result_bytes_max: usize,
    dropped: Figure,
    skipped: Figure,
}

/// What the tasks that ask the second server share.
struct Asking {
    opts: Opts,
    bounds: Bounds,
    compared: Figure,
    different: Figure,
    failed: Figure,
    skipped: Figure,
    logged: Mutex<Option<Instant>>,
}

/// The layer of these options.
pub(super) fn layer(setup: &mut LayerSetup) -> Result<impl UserLayer + use<>, LayerProblem> {
    let options: Options = setup.options()?;
    let opts = Opts::from_url(&options.url).map_err(|_| InvalidMirror::Url)?;
    if !(options.share > 0.0 && options.share <= 1.0) {
        return Err(InvalidMirror::Share.into());
    }
    for (key, is_zero) in [
        ("queue_max", options.queue_max == 0),
        ("queue_bytes_max", options.queue_bytes_max == 0),
        ("connections_max", options.connections_max == 0),
        ("timeout_ms", options.timeout_ms == 0),
    ] {
        if is_zero {
            return Err(InvalidMirror::Zero { key }.into());
        }
    }
    let (queue, jobs) = mpsc::channel(options.queue_max);
    let skipped = setup.counter("skipped", "Reads that can't be copied.", &[]);
    let asking = Arc::new(Asking {
        // Each read brings its own.
        opts: OptsBuilder::from_opts(opts).db_name(None::<String>).into(),
        bounds: Bounds {
            timeout: Duration::from_millis(options.timeout_ms.into()),
            result_bytes_max: options.result_bytes_max,
        },
        compared: setup.counter("compared", "Reads that both servers have answered.", &[]),
        different: setup.counter("different", "Reads that the second server answered in another way.", &[]),
        failed: setup.counter("failed", "Reads that the second server did not answer.", &[]),
        skipped: skipped.clone(),
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
    let mirror = Arc::new(Mirror {
        queue,
        queue_bytes: Arc::new(Semaphore::new(options.queue_bytes_max as usize)),
        share: options.share,
        result_bytes_max: options.result_bytes_max,
        dropped: setup.counter("dropped", "Reads that were not copied since too many waited.", &[]),
        skipped,
    });
    Ok(from_fn(move |command: Command, next: Next| {
        let mirror = mirror.clone();
        async move { mirror.call(command, next).await }
    }))
}

impl Mirror {
    async fn call(self: Arc<Self>, command: Command, next: Next) -> Result<Reply, Error> {
        if command.intent() != Intent::Read || !command.kind().runs_sql() {
            let step = Step::of(&command).map(|step| (step, command.session().clone()));
            let reply = next.run(command).await?;
            if let Some((step, session)) = step {
                session.state::<Sets>().follow(step, reply.head() == Head::Ok);
            }
            return Ok(reply);
        }
        let Some(read) = self.read(&command) else { return next.run(command).await };
        let reply = next.run(command).await?;
        let mut taken = Taken { mirror: self, read: Some(read), head: reply.head(), bytes: BytesMut::new() };
        if reply.is_complete() {
            reply.ready().for_each(|part| taken.follow(part));
            return Ok(reply);
        }
        Ok(reply.inspect(move |part| taken.follow(part)))
    }

    /// None for a read that is not copied. Only what costs next to nothing is looked at here.
    fn read(&self, command: &Command) -> Option<Read> {
        if self.share < 1.0 && fastrand::f64() >= self.share {
            return None;
        }
        if self.queue.capacity() == 0 {
            self.dropped.increment();
            return None;
        }
        let read = Read::new(command, self.result_bytes_max);
        if read.is_none() {
            self.skipped.increment();
        }
        read
    }
}

/// A read as it is repeated.
#[derive(Debug)]
struct Read {
    command: Command,
    mode: SqlMode,
    schema: Arc<str>,
    sets: Arc<Vec<Bytes>>,
    params: Params,
}

impl Read {
    /// None for a read that can't be repeated elsewhere. Its text is looked at later: see [`is_repeatable`](Self::is_repeatable).
    fn new(command: &Command, bytes_max: usize) -> Option<Self> {
        let session = command.session();
        let plan = command.plan().filter(|plan| !plan.tables.is_empty() && plan.refusal.is_none())?;
        if session.in_transaction() || command.payload().len() > bytes_max {
            return None;
        }
        let schema = session.schema();
        let is_own = |name: &str| OWN_SCHEMAS.iter().any(|own| own.eq_ignore_ascii_case(name));
        if plan.tables.iter().any(|(of_table, _)| is_own(of_table.as_deref().unwrap_or(&schema))) {
            return None;
        }
        let sets = session.state::<Sets>().known()?;
        let params = match command.kind() {
            CommandKind::Query => Params::Empty,
            // The byte asks for a cursor.
            CommandKind::Execute if command.payload().get(5) == Some(&0) => {
                let values: Vec<_> = command.parameters()?.iter().map(parameter).collect();
                if values.is_empty() { Params::Empty } else { Params::Positional(values) }
            }
            _ => return None,
        };
        Some(Self { command: command.clone(), mode: session.sql_mode(), schema, sets, params })
    }

    /// Whether it is a SELECT whose answer hangs on its tables and what was SET.
    fn is_repeatable(&self) -> bool {
        self.text().is_some_and(|text| {
            let word = text.trim_start_matches(['(', ' ']).get(..6);
            word.is_some_and(|word| word.eq_ignore_ascii_case("SELECT")) && is_steady(&text)
        })
    }

    /// Its text without literals.
    fn text(&self) -> Option<String> {
        self.command.session().classifier().without_literals(self.command.sql(), self.mode)
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
    read: Option<Read>,
    head: Head,
    bytes: BytesMut,
}

impl Taken {
    fn follow(&mut self, part: &Part) {
        if self.read.is_none() {
            return;
        }
        match part {
            Part::Packets(bytes) if self.bytes.len() + bytes.len() <= self.mirror.result_bytes_max => {
                self.bytes.extend_from_slice(bytes);
            }
            Part::Final { end: Final::Ok(completion), .. } if is_of_a_read(completion) => self.send(part.clone()),
            _ => {
                self.mirror.skipped.increment();
                (self.read, self.bytes) = (None, BytesMut::new());
            }
        }
    }

    fn send(&mut self, end: Part) {
        let Some(read) = self.read.take() else { return };
        // Parameters are there as bytes and as values.
        let bytes = READ_BYTES + 2 * read.command.payload().len() + self.bytes.capacity();
        let packets = Part::Packets(self.bytes.split().freeze());
        let room = u32::try_from(bytes)
            .ok()
            .and_then(|bytes| self.mirror.queue_bytes.clone().try_acquire_many_owned(bytes).ok());
        let job = room.map(|room| Job { read, answer: Reply::new(self.head, [packets, end], None), _bytes: room });
        if job.is_none_or(|job| self.mirror.queue.try_send(job).is_err()) {
            self.mirror.dropped.increment();
        }
    }
}

/// Whether a result is all there is, and nothing was written for it.
fn is_of_a_read(completion: &Completion) -> bool {
    !completion.has_more() && completion.gtid.is_none()
}

impl Asking {
    /// Asks the second server, one read after the other, on one connection.
    async fn work(&self, jobs: &tokio::sync::Mutex<mpsc::Receiver<Job>>) {
        let mut second = None;
        loop {
            let Some(job) = jobs.lock().await.recv().await else { return };
            if !job.read.is_repeatable() {
                self.skipped.increment();
                continue;
            }
            let answer = Second::answer(&mut second, &self.opts, &job.read, self.bounds).await;
            let is_in_trouble = answer.as_ref().is_err_and(Failure::is_of_the_server);
            self.compare(job, answer).await;
            if is_in_trouble {
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }

    async fn compare(&self, job: Job, answer: Result<Vec<Row>, Failure>) {
        let read = job.read;
        let Ok(own) = job.answer.collect(&read.command, self.bounds.result_bytes_max).await else { return };
        let is_same = match answer {
            Ok(rows) => is_same(&own, &rows),
            Err(Failure::Answer(_) | Failure::Longer) => false,
            Err(failure) => {
                self.failed.increment();
                self.log(&read, || format!("the second server did not answer: {failure}"));
                return;
            }
        };
        self.compared.increment();
        if !is_same {
            self.different.increment();
            self.log(&read, || "the second server answers a read in another way".to_owned());
        }
    }

    fn log(&self, read: &Read, what: impl FnOnce() -> String) {
        let mut logged = self.logged.lock();
        if logged.is_some_and(|at| at.elapsed() < LOG_INTERVAL) {
            return;
        }
        *logged = Some(Instant::now());
        let sql = read.text().unwrap_or_default();
        let digest = read.command.plan().map_or(0, |plan| plan.digest);
        tracing::warn!(digest = format_args!("{digest:016x}"), sql, "{}", what());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use towline_middleware::testing::conformance;

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
            (json!({"url": url, "timeout_ms": 0}), "`timeout_ms`"),
        ] {
            let Err(error) = layer(&mut setup("mirror", options)) else { panic!("taken") };
            assert!(error.to_string().contains(wanted), "{error}");
        }
    }
}

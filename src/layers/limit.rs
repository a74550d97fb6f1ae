//! Limits of rate and of commands at a time, per user, schema, digest or for all; those above wait, or are refused.
//!
//! A transaction waits where it begins. What belongs to it counts, but never waits, and neither does what a session sends
//! that has locked tables: a client that waited here with its locks held would hold up the very commands that it waits for.
//! What ends a transaction does not count, nor does what takes or frees named locks (`GET_LOCK`) and reads no table: it
//! waits for others, and is no work.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use towline_middleware::{
    Command, Error, Figure, Intent, LayerProblem, LayerSetup, Next, Reply, ServerError, UserLayer, from_fn,
};

use super::{
    locks::{Locks, is_of_named_locks},
    parse_digest,
};

/// From so many keys on those that nobody uses are forgotten, each time that there are twice as many as were in use.
const KEYS_MAX: usize = 4096;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The limits; a command must pass each that is meant for it.
    limit: Vec<LimitOptions>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitOptions {
    by: By,
    /// Only for this user, schema or digest.
    only: Option<String>,
    /// Commands at a time.
    running_max: Option<u32>,
    /// Commands in a second; as many may come at once.
    per_second_max: Option<u32>,
    /// How many may wait; one more is refused.
    #[serde(default)]
    waiting_max: u32,
    /// How long one may wait.
    #[serde(default = "default_wait")]
    wait_ms: u64,
}

fn default_wait() -> u64 {
    1000
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum By {
    All,
    User,
    Schema,
    Digest,
}

#[derive(Debug, thiserror::Error)]
enum InvalidLimit {
    #[error("limit[{index}]: neither `running_max` nor `per_second_max` is there, or one is 0")]
    Nothing { index: usize },
    #[error("limit[{index}]: `only` means nothing to `by = \"all\"`: write `by = \"user\"`, \"schema\" or \"digest\"")]
    OnlyOfAll { index: usize },
    #[error("limit[{index}]: `only`: a digest is 16 hexadecimal digits, as slow_log shows them")]
    Digest { index: usize },
}

#[derive(Debug)]
struct Limit {
    options: LimitOptions,
    /// The only key that is limited, if there is but one.
    only: Option<Key>,
    wait: Duration,
    gates: Arc<Gates>,
    waited: Figure,
    refused: Figure,
}

/// The limits that are in use, with their options: a reload goes on with those whose options stay.
#[derive(Debug, Default)]
struct InUse(Mutex<Vec<(LimitOptions, Weak<Gates>)>>);

/// The gates of one limit.
#[derive(Debug, Default)]
struct Gates(Mutex<Keys>);

#[derive(Debug, Default)]
struct Keys {
    gates: HashMap<Key, Arc<Gate>, RandomState>,
    /// How many were in use when they were looked through last.
    in_use: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    All,
    Name(Arc<str>),
    Digest(u64),
}

/// A command that has passed a gate. As long as it runs its gate is not forgotten.
#[derive(Debug)]
struct Pass {
    _gate: Arc<Gate>,
    _running: Option<OwnedSemaphorePermit>,
}

/// What one key may do.
#[derive(Debug)]
struct Gate {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// Of those that wait for the bucket, who takes from it next: in the order in which they came, and before newcomers.
    turn: Semaphore,
    bucket: Mutex<Bucket>,
}

/// So many commands may start now; it fills by time.
#[derive(Debug)]
struct Bucket {
    left: f64,
    filled_at: Instant,
}

/// The layer of these options.
pub(super) fn layer(setup: &mut LayerSetup) -> Result<impl UserLayer + use<>, LayerProblem> {
    let options: Options = setup.options()?;
    let in_use = setup.kept::<InUse>();
    let mut limits: Vec<Limit> = Vec::new();
    for (index, options) in options.limit.into_iter().enumerate() {
        // Two limits with the same options are two limits.
        let taken: Vec<_> = limits.iter().map(|limit| limit.gates.clone()).collect();
        limits.push(Limit::new(index, options, setup, |options| in_use.gates(options, &taken))?);
    }
    let limits: Arc<[Limit]> = limits.into();
    Ok(from_fn(move |command: Command, next: Next| call(limits.clone(), command, next)))
}

async fn call(limits: Arc<[Limit]>, command: Command, next: Next) -> Result<Reply, Error> {
    let frees = Locks::follow(&command);
    let mut passes = Vec::new();
    if let Some(may_wait) = counts(&command) {
        for limit in &*limits {
            match limit.enter(&command, may_wait).await {
                Ok(pass) => passes.extend(pass),
                Err(error) => return Ok(Reply::err(error)),
            }
        }
    }
    let reply = next.run(command).await?;
    frees.end(&reply);
    Ok(if passes.is_empty() { reply } else { reply.keep(passes) })
}

/// Whether a command counts, and if so, whether it may be made to wait.
fn counts(command: &Command) -> Option<bool> {
    let session = command.session();
    if !command.kind().runs_sql() || is_of_named_locks(command) {
        return None;
    }
    let holds_locks = session.in_transaction() || session.state::<Locks>().are_held();
    // XA COMMIT ends what any session has begun.
    let first = command.sql().trim_ascii_start().split(u8::is_ascii_whitespace).next();
    let is_xa = first.is_some_and(|word| word.eq_ignore_ascii_case(b"XA"));
    if command.intent() == Intent::Transaction || is_xa {
        return (!holds_locks && begins_transaction(command)).then_some(true);
    }
    Some(!holds_locks)
}

fn begins_transaction(command: &Command) -> bool {
    let sql = command.sql();
    let Some(tokens) = command.session().tokens(sql) else { return false };
    let is = |at: usize, word: &str| tokens.get(at).is_some_and(|token| token.is_word(sql, word));
    is(0, "BEGIN") || is(0, "START") && is(1, "TRANSACTION") || is(0, "XA") && (is(1, "START") || is(1, "BEGIN"))
}

impl InUse {
    /// The gates of a limit with these options that is none of the taken ones, or new ones.
    fn gates(&self, options: &LimitOptions, taken: &[Arc<Gates>]) -> Arc<Gates> {
        let mut all = self.0.lock();
        all.retain(|(_, gates)| gates.strong_count() > 0);
        let same = all.iter().filter(|(own, _)| own == options).filter_map(|(_, gates)| gates.upgrade());
        let mut same = same.filter(|gates| !taken.iter().any(|taken| Arc::ptr_eq(taken, gates)));
        if let Some(gates) = same.next() {
            return gates;
        }
        drop(same);
        let gates = Arc::default();
        all.push((options.clone(), Arc::downgrade(&gates)));
        gates
    }
}

impl Gates {
    /// The gate of a key.
    fn gate(&self, key: Key, options: &LimitOptions) -> Arc<Gate> {
        let mut keys = self.0.lock();
        if let Some(gate) = keys.gates.get(&key) {
            return gate.clone();
        }
        if keys.gates.len() >= KEYS_MAX.max(2 * keys.in_use) {
            keys.gates.retain(|_, gate| Arc::strong_count(gate) > 1 || !gate.is_full());
            keys.in_use = keys.gates.len();
        }
        let gate = Arc::new(Gate {
            running: Arc::new(Semaphore::new(options.running_max.unwrap_or(0) as usize)),
            waiting: Arc::new(Semaphore::new(options.waiting_max as usize)),
            turn: Semaphore::new(1),
            bucket: Mutex::new(Bucket { left: options.per_second_max.unwrap_or(0).into(), filled_at: Instant::now() }),
        });
        keys.gates.insert(key, gate.clone());
        gate
    }
}

impl Gate {
    /// Whether its bucket is as full as that of a new gate.
    fn is_full(&self) -> bool {
        // A second fills it from nothing, another pays what was taken besides.
        self.bucket.lock().filled_at.elapsed() >= Duration::from_secs(2)
    }
}

impl Bucket {
    /// Adds what has come since it was filled.
    fn fill(&mut self, rate: f64) {
        let now = Instant::now();
        self.left = (self.left + now.duration_since(self.filled_at).as_secs_f64() * rate).min(rate);
        self.filled_at = now;
    }
}

impl Limit {
    fn new(
        index: usize,
        options: LimitOptions,
        setup: &LayerSetup,
        gates: impl FnOnce(&LimitOptions) -> Arc<Gates>,
    ) -> Result<Self, InvalidLimit> {
        let LimitOptions { by, only, running_max, per_second_max, .. } = &options;
        if (running_max, per_second_max) == (&None, &None) || *running_max == Some(0) || *per_second_max == Some(0) {
            return Err(InvalidLimit::Nothing { index });
        }
        let only = match (by, only) {
            (_, None) => None,
            (By::All, Some(_)) => return Err(InvalidLimit::OnlyOfAll { index }),
            (By::Digest, Some(only)) => Some(Key::Digest(parse_digest(only).ok_or(InvalidLimit::Digest { index })?)),
            (By::User | By::Schema, Some(only)) => Some(Key::Name(only.as_str().into())),
        };
        let place = index.to_string();
        Ok(Self {
            only,
            wait: Duration::from_millis(options.wait_ms),
            gates: gates(&options),
            waited: setup.counter("waited", "Commands that had to wait, by the limit's place.", &[("limit", &place)]),
            refused: setup.counter("refused", "Commands refused, by the limit's place.", &[("limit", &place)]),
            options,
        })
    }

    /// Waits for this limit's permission, if the command may wait; none if it is not meant for this command.
    async fn enter(&self, command: &Command, may_wait: bool) -> Result<Option<Pass>, ServerError> {
        let Some(key) = self.key(command) else { return Ok(None) };
        let gate = self.gates.gate(key, &self.options);
        if !may_wait {
            let running = self.charge(&gate);
            return Ok(Some(Pass { _gate: gate, _running: running }));
        }
        if let Some(running) = self.try_enter(&gate) {
            return Ok(Some(Pass { _gate: gate, _running: running }));
        }
        let waiting = gate.waiting.clone().try_acquire_owned();
        let waited = match waiting {
            Ok(_place) => {
                self.waited.increment();
                // Boxed, since most commands do not wait, and carry no room for it.
                Box::pin(tokio::time::timeout(self.wait, self.wait(&gate))).await.ok()
            }
            Err(_) => None,
        };
        match waited {
            Some(running) => Ok(Some(Pass { _gate: gate, _running: running })),
            None => {
                self.refused.increment();
                Err(self.refusal())
            }
        }
    }

    /// Takes what is there, and from the bucket also what is not, to the length of a second: others wait for that.
    fn charge(&self, gate: &Gate) -> Option<OwnedSemaphorePermit> {
        if let Some(rate) = self.options.per_second_max.map(f64::from) {
            let mut bucket = gate.bucket.lock();
            bucket.fill(rate);
            bucket.left = (bucket.left - 1.0).max(-rate);
        }
        gate.running.clone().try_acquire_owned().ok()
    }

    fn try_enter(&self, gate: &Gate) -> Option<Option<OwnedSemaphorePermit>> {
        let permit = match self.options.running_max {
            Some(_) => Some(gate.running.clone().try_acquire_owned().ok()?),
            None => None,
        };
        let is_next = gate.turn.available_permits() > 0;
        (is_next && self.start_in(gate).is_zero()).then_some(permit)
    }

    async fn wait(&self, gate: &Gate) -> Option<OwnedSemaphorePermit> {
        let permit = match self.options.running_max {
            // The semaphore is never closed.
            Some(_) => gate.running.clone().acquire_owned().await.ok(),
            None => None,
        };
        let _turn = gate.turn.acquire().await;
        loop {
            let wait = self.start_in(gate);
            if wait.is_zero() {
                return permit;
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Takes one from the bucket, or says when there will be one.
    fn start_in(&self, gate: &Gate) -> Duration {
        let Some(rate) = self.options.per_second_max.map(f64::from) else { return Duration::ZERO };
        let mut bucket = gate.bucket.lock();
        bucket.fill(rate);
        if bucket.left >= 1.0 {
            bucket.left -= 1.0;
            return Duration::ZERO;
        }
        // Rounded up, so that it is there when the wait is over.
        Duration::from_secs_f64((1.0 - bucket.left) / rate) + Duration::from_millis(1)
    }

    fn key(&self, command: &Command) -> Option<Key> {
        let key = match self.options.by {
            By::All => Key::All,
            By::User => Key::Name(command.session().user()),
            By::Schema => Key::Name(command.session().schema()),
            By::Digest => Key::Digest(command.plan()?.digest),
        };
        self.only.as_ref().is_none_or(|only| *only == key).then_some(key)
    }

    fn refusal(&self) -> ServerError {
        let by = match self.options.by {
            By::All => "all clients",
            By::User => "one user",
            By::Schema => "one schema",
            By::Digest => "one statement",
        };
        let limit = match (self.options.running_max, self.options.per_second_max) {
            (Some(running), Some(rate)) => format!("{running} commands at a time and {rate} in a second"),
            (Some(running), None) => format!("{running} commands at a time"),
            (None, rate) => format!("{} commands in a second", rate.unwrap_or(0)),
        };
        ServerError::new(1226, b"42000", format!("Over the limit of this node: {limit} for {by}; try again later"))
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Poll};

    use serde_json::json;
    use towline_middleware::{
        Classifier, LayerHome, LayerOptions, Plan, Role, SqlMode, status,
        testing::{command, conformance, session_with},
    };

    use super::*;
    use crate::{classify::SqlClassifier, layers::tests::setup};

    #[tokio::test]
    async fn it_conforms() {
        let limits = json!({"limit": [{"by": "user", "running_max": 1, "per_second_max": 1000}]});
        conformance(|| layer(&mut setup("limit", limits.clone())).unwrap()).await;
    }

    fn limit(options: serde_json::Value) -> Limit {
        let options = serde_json::from_value(options).unwrap();
        Limit::new(0, options, &setup("limit", json!({})), |_| Arc::default()).unwrap()
    }

    /// A command whose text has this digest.
    fn of_digest(digest: u64) -> Command {
        #[derive(Debug)]
        struct Fixed(u64);

        impl Classifier for Fixed {
            fn classify(&self, _: &[u8], _: SqlMode) -> Arc<Plan> {
                Arc::new(Plan { digest: self.0, ..Plan::bare(Intent::Read, "test") })
            }

            fn learn_write(&self, _: u64) {}
        }

        Command::query(&session_with(Role::Master, Arc::new(Fixed(digest))), "SELECT 1")
    }

    #[tokio::test]
    async fn one_more_than_may_run_is_refused_until_one_has_ended() {
        let limit = limit(json!({"by": "user", "running_max": 1, "wait_ms": 1}));
        let first = limit.enter(&command("SELECT 1"), true).await.unwrap();
        assert_eq!(limit.enter(&command("SELECT 1"), true).await.unwrap_err().code, 1226);
        drop(first);
        assert!(limit.enter(&command("SELECT 1"), true).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn what_runs_is_not_forgotten_for_others() {
        let limit = limit(json!({"by": "digest", "running_max": 1, "wait_ms": 1}));
        let running = limit.enter(&of_digest(1), true).await.unwrap();
        for digest in 2..=KEYS_MAX as u64 {
            drop(limit.enter(&of_digest(digest), true).await.unwrap());
        }
        // As if all had been used a while ago.
        let long_ago = Instant::now().checked_sub(Duration::from_secs(5)).unwrap();
        limit.gates.0.lock().gates.values().for_each(|gate| gate.bucket.lock().filled_at = long_ago);
        drop(limit.enter(&of_digest(0), true).await.unwrap());
        assert_eq!(limit.gates.0.lock().gates.len(), 2, "what nobody uses is forgotten");
        assert_eq!(limit.enter(&of_digest(1), true).await.unwrap_err().code, 1226);
        drop(running);
        assert!(limit.enter(&of_digest(1), true).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn so_many_start_in_a_second() {
        // The next could start in 1000 s, so that none comes by itself while the test runs.
        let limit = limit(json!({"by": "digest", "only": "00000000000000ff", "per_second_max": 2, "wait_ms": 0}));
        let gate = limit.gates.gate(Key::Digest(255), &limit.options);
        let hold = || gate.bucket.lock().filled_at = Instant::now() + Duration::from_secs(1000);
        for _ in 0..2 {
            hold();
            assert!(limit.enter(&of_digest(255), true).await.unwrap().is_some());
        }
        hold();
        assert_eq!(limit.enter(&of_digest(255), true).await.unwrap_err().code, 1226);
        assert!(limit.enter(&of_digest(254), true).await.unwrap().is_none(), "another digest is not limited");
        gate.bucket.lock().filled_at = Instant::now().checked_sub(Duration::from_millis(600)).unwrap();
        assert!(limit.enter(&of_digest(255), true).await.unwrap().is_some(), "half a second has passed");
    }

    #[test]
    fn what_begins_a_transaction_may_wait_and_what_is_in_one_may_not() {
        let session = session_with(Role::Master, Arc::new(SqlClassifier::new()));
        for (sql, before, within) in [
            ("SELECT 1", Some(true), Some(false)),
            ("UPDATE a SET b = 1", Some(true), Some(false)),
            ("begin /* a */ work", Some(true), None),
            ("START TRANSACTION READ ONLY", Some(true), None),
            ("XA START 'a'", Some(true), None),
            ("BEGIN; DELETE FROM a", Some(true), Some(false)),
            ("COMMIT", None, None),
            ("xa commit 'a'", None, None),
            ("XAVER", Some(true), Some(false)),
            ("SAVEPOINT a", None, None),
            ("SELECT RELEASE_LOCK('a')", None, None),
        ] {
            let command = Command::query(&session, sql);
            session.set_status(status::AUTOCOMMIT);
            assert_eq!(counts(&command), before, "{sql}");
            session.set_status(status::AUTOCOMMIT | status::IN_TRANS);
            assert_eq!(counts(&command), within, "{sql} within a transaction");
        }
    }

    #[tokio::test]
    async fn what_may_not_wait_is_paid_for_by_others() {
        let limit = limit(json!({"by": "all", "running_max": 1, "per_second_max": 2}));
        let command = command("SELECT 1");
        let mut passes = Vec::new();
        for _ in 0..9 {
            passes.extend(limit.enter(&command, false).await.unwrap());
        }
        assert_eq!(passes.len(), 9);
        assert_eq!(limit.enter(&command, true).await.unwrap_err().code, 1226, "there is no place");
        drop(passes);
        assert_eq!(limit.enter(&command, true).await.unwrap_err().code, 1226, "there is nothing left");
        let gate = limit.gates.gate(Key::All, &limit.options);
        gate.bucket.lock().filled_at -= Duration::from_secs(2);
        assert!(limit.enter(&command, true).await.unwrap().is_some(), "no more than a second is to be paid");
    }

    #[tokio::test]
    async fn nobody_overtakes_those_who_wait() {
        let limit = limit(json!({"by": "all", "per_second_max": 20, "waiting_max": 2, "wait_ms": 600_000}));
        let (one, other) = (command("SELECT 1"), command("SELECT 2"));
        let gate = limit.gates.gate(Key::All, &limit.options);
        gate.bucket.lock().left = 0.0;
        let mut first = Box::pin(limit.enter(&one, true));
        let is_pending = poll_fn(|context| Poll::Ready(first.as_mut().poll(context).is_pending())).await;
        assert!(is_pending);
        // There is one again, but it is for whoever waits.
        gate.bucket.lock().left = 1.0;
        let mut newcomer = Box::pin(limit.enter(&other, true));
        let is_pending = poll_fn(|context| Poll::Ready(newcomer.as_mut().poll(context).is_pending())).await;
        assert!(is_pending);
        assert!(first.await.is_ok());
        assert!(newcomer.await.is_ok());
    }

    #[tokio::test]
    async fn a_reload_goes_on_with_limits_that_stay() {
        let home = LayerHome::new(Role::Master);
        let build = |options: serde_json::Value| {
            let in_use = LayerSetup::new("limit", LayerOptions::new(), home.clone()).kept::<InUse>();
            let options: LimitOptions = serde_json::from_value(options).unwrap();
            let mut taken = Vec::new();
            let mut one = || {
                let new = |options: &LimitOptions| in_use.gates(options, &taken);
                let limit = Limit::new(0, options.clone(), &setup("limit", json!({})), new).unwrap();
                taken.push(limit.gates.clone());
                limit
            };
            [one(), one()]
        };
        let one_each = json!({"by": "all", "running_max": 1, "wait_ms": 0});
        let [first, second] = build(one_each.clone());
        let _running = (
            first.enter(&command("SELECT 1"), true).await.unwrap(),
            second.enter(&command("SELECT 1"), true).await.unwrap(),
        );
        for limit in build(one_each) {
            assert_eq!(limit.enter(&command("SELECT 1"), true).await.unwrap_err().code, 1226);
        }
        for limit in build(json!({"by": "all", "running_max": 2, "wait_ms": 0})) {
            assert!(limit.enter(&command("SELECT 1"), true).await.unwrap().is_some());
        }
    }

    #[test]
    fn a_limit_that_limits_nothing_or_others_is_told() {
        for (options, what) in [
            (json!({"by": "all"}), "limit[0]: neither"),
            (json!({"by": "all", "only": "report", "running_max": 1}), "limit[0]: `only` means nothing"),
            (json!({"by": "digest", "only": "report", "running_max": 1}), "limit[0]: `only`: a digest is 16"),
            (json!({"by": "digest", "only": "+0000000000000ff", "running_max": 1}), "limit[0]: `only`: a digest"),
            (json!({"by": "all", "running_max": 1u64 << 61}), "limit[0].running_max"),
            (json!({"by": "all", "running_max": 1, "waiting_max": u64::MAX}), "limit[0].waiting_max"),
        ] {
            let error = layer(&mut setup("limit", json!({"limit": [options]}))).err().map(|error| error.to_string());
            assert!(error.as_ref().is_some_and(|error| error.contains(what)), "{what}: {error:?}");
        }
    }
}

//! Limits of rate and of commands at a time, per user, schema, digest or for all; those above wait, or are refused.
//!
//! What ends or belongs to an open transaction passes: a client that waited here with its locks held would hold up the
//! very commands that it waits for.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use towline_middleware::{
    Command, Error, Figure, Intent, LayerProblem, LayerSetup, Next, Reply, ServerError, UserLayer, from_fn,
};

/// Above so many keys those that nobody uses are forgotten.
const KEYS_MAX: usize = 4096;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The limits; a command must pass each that is meant for it.
    limit: Vec<LimitOptions>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitOptions {
    by: By,
    /// Only for this user, schema or digest.
    only: Option<String>,
    /// Commands at a time.
    running_max: Option<usize>,
    /// Commands in a second; as many may come at once.
    per_second_max: Option<u32>,
    /// How many may wait; one more is refused.
    #[serde(default)]
    waiting_max: usize,
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
#[error("limit[{index}]: neither `running_max` nor `per_second_max` is there, or one is 0")]
struct NoLimit {
    index: usize,
}

#[derive(Debug)]
struct Limit {
    by: By,
    only: Option<String>,
    running_max: Option<usize>,
    per_second_max: Option<u32>,
    waiting_max: usize,
    wait: Duration,
    keys: Mutex<HashMap<Key, Arc<Gate>>>,
    waited: Figure,
    refused: Figure,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    All,
    Name(Arc<str>),
    Digest(u64),
}

/// What one key may do.
#[derive(Debug)]
struct Gate {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
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
    let made = options.limit.into_iter().enumerate().map(|(index, options)| Limit::new(index, options, setup));
    let limits: Arc<[Limit]> = made.collect::<Result<_, _>>()?;
    Ok(from_fn(move |command: Command, next: Next| {
        let limits = limits.clone();
        async move { call(&limits, command, next).await }
    }))
}

async fn call(limits: &[Limit], command: Command, next: Next) -> Result<Reply, Error> {
    let counts =
        command.kind().runs_sql() && command.intent() != Intent::Transaction && !command.session().in_transaction();
    if !counts {
        return next.run(command).await;
    }
    let mut permits = Vec::new();
    for limit in limits {
        match limit.enter(&command).await {
            Ok(permit) => permits.extend(permit),
            Err(error) => return Ok(Reply::err(error)),
        }
    }
    let reply = next.run(command).await?;
    Ok(if permits.is_empty() { reply } else { reply.keep(permits) })
}

impl Limit {
    fn new(index: usize, options: LimitOptions, setup: &LayerSetup) -> Result<Self, NoLimit> {
        let LimitOptions { by, only, running_max, per_second_max, waiting_max, wait_ms } = options;
        if (running_max, per_second_max) == (None, None) || running_max == Some(0) || per_second_max == Some(0) {
            return Err(NoLimit { index });
        }
        let place = index.to_string();
        Ok(Self {
            by,
            only,
            running_max,
            per_second_max,
            waiting_max,
            wait: Duration::from_millis(wait_ms),
            keys: Mutex::default(),
            waited: setup.counter("waited", "Commands that had to wait, by the limit's place.", &[("limit", &place)]),
            refused: setup.counter("refused", "Commands refused, by the limit's place.", &[("limit", &place)]),
        })
    }

    /// Waits for this limit's permission.
    async fn enter(&self, command: &Command) -> Result<Option<OwnedSemaphorePermit>, ServerError> {
        let Some(key) = self.key(command) else { return Ok(None) };
        let gate = self.gate(key);
        if let Some(permit) = self.try_enter(&gate) {
            return Ok(permit);
        }
        let waiting = gate.waiting.clone().try_acquire_owned();
        let waited = match waiting {
            Ok(_place) => {
                self.waited.increment();
                tokio::time::timeout(self.wait, self.wait(&gate)).await.ok()
            }
            Err(_) => None,
        };
        waited.ok_or_else(|| {
            self.refused.increment();
            self.refusal()
        })
    }

    fn try_enter(&self, gate: &Gate) -> Option<Option<OwnedSemaphorePermit>> {
        let permit = match self.running_max {
            Some(_) => Some(gate.running.clone().try_acquire_owned().ok()?),
            None => None,
        };
        self.start_in(gate).is_zero().then_some(permit)
    }

    async fn wait(&self, gate: &Gate) -> Option<OwnedSemaphorePermit> {
        let permit = match self.running_max {
            // The semaphore is never closed.
            Some(_) => gate.running.clone().acquire_owned().await.ok(),
            None => None,
        };
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
        let Some(rate) = self.per_second_max.map(f64::from) else { return Duration::ZERO };
        let mut bucket = gate.bucket.lock();
        let now = Instant::now();
        bucket.left = (bucket.left + now.duration_since(bucket.filled_at).as_secs_f64() * rate).min(rate);
        bucket.filled_at = now;
        if bucket.left >= 1.0 {
            bucket.left -= 1.0;
            return Duration::ZERO;
        }
        // Rounded up, so that it is there when the wait is over.
        Duration::from_secs_f64((1.0 - bucket.left) / rate) + Duration::from_millis(1)
    }

    fn key(&self, command: &Command) -> Option<Key> {
        let name = |name: Arc<str>| self.only.as_deref().is_none_or(|only| *only == *name).then_some(Key::Name(name));
        match self.by {
            By::All => Some(Key::All),
            By::User => name(command.session().user()),
            By::Schema => name(command.session().schema()),
            By::Digest => {
                let digest = command.plan()?.digest;
                let only = self.only.as_deref().map(|only| u64::from_str_radix(only, 16));
                only.is_none_or(|only| only == Ok(digest)).then_some(Key::Digest(digest))
            }
        }
    }

    fn gate(&self, key: Key) -> Arc<Gate> {
        let mut keys = self.keys.lock();
        if keys.len() >= KEYS_MAX {
            keys.retain(|_, gate| Arc::strong_count(gate) > 1 || gate.bucket.lock().filled_at.elapsed().as_secs() < 1);
        }
        let fresh = || Gate {
            running: Arc::new(Semaphore::new(self.running_max.unwrap_or(0))),
            waiting: Arc::new(Semaphore::new(self.waiting_max)),
            bucket: Mutex::new(Bucket { left: self.per_second_max.unwrap_or(0).into(), filled_at: Instant::now() }),
        };
        keys.entry(key).or_insert_with(|| Arc::new(fresh())).clone()
    }

    fn refusal(&self) -> ServerError {
        let by = match self.by {
            By::All => "all clients",
            By::User => "one user",
            By::Schema => "one schema",
            By::Digest => "one statement",
        };
        let limit = match (self.running_max, self.per_second_max) {
            (Some(running), Some(rate)) => format!("{running} commands at a time and {rate} in a second"),
            (Some(running), None) => format!("{running} commands at a time"),
            (None, rate) => format!("{} commands in a second", rate.unwrap_or(0)),
        };
        ServerError::new(1226, b"42000", format!("Over the limit of this node: {limit} for {by}; try again later"))
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
        let limits = json!({"limit": [{"by": "user", "running_max": 1, "per_second_max": 1000}]});
        conformance(|| layer(&mut setup("limit", limits.clone())).unwrap()).await;
    }

    #[tokio::test]
    async fn one_more_than_may_run_is_refused_until_one_has_ended() {
        let options = serde_json::from_value(json!({"by": "user", "running_max": 1, "wait_ms": 1})).unwrap();
        let limit = Limit::new(0, options, &setup("limit", json!({}))).unwrap();
        let first = limit.enter(&command("SELECT 1")).await.unwrap();
        assert_eq!(limit.enter(&command("SELECT 1")).await.unwrap_err().code, 1226);
        drop(first);
        assert!(limit.enter(&command("SELECT 1")).await.unwrap().is_some());
    }

    #[test]
    fn a_limit_that_limits_nothing_is_told() {
        let Err(error) = layer(&mut setup("limit", json!({"limit": [{"by": "all"}]}))) else { panic!("it was taken") };
        assert!(error.to_string().contains("limit[0]"), "{error}");
    }
}

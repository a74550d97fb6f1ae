//! Middleware that counts and times every command.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
// The time-stamp counter, where the CPU says that it is invariant: less than half the price of asking the system.
use quanta::Instant;
use tower::{Layer, Service};

use crate::{Command, Error, Reply};

/// The upper bounds of the latency buckets, in microseconds; the last bucket has none.
pub const BUCKETS_US: [u64; 14] =
    [50, 100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 51_200, 102_400, 1_000_000, 10_000_000];

/// What a node has done for its clients since it started. Relaxed counters: a few nanoseconds a command.
#[derive(Debug, Default)]
pub struct CommandStats {
    refused: AtomicU64,
    broken: AtomicU64,
    total_us: AtomicU64,
    buckets: [AtomicU64; BUCKETS_US.len() + 1],
}

/// A copy of [`CommandStats`] at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandCounts {
    /// Commands that got the head of their reply.
    pub commands: u64,
    /// Those of them that were answered with an error.
    pub refused: u64,
    /// Commands whose session ended instead.
    pub broken: u64,
    /// The time from command to head of reply, added up, in microseconds.
    pub total_us: u64,
    /// Commands per bucket of [`BUCKETS_US`], not added up; one more than there are bounds.
    pub buckets: Vec<u64>,
}

impl CommandStats {
    /// The figures now.
    pub fn counts(&self) -> CommandCounts {
        let buckets: Vec<_> = self.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect();
        CommandCounts {
            commands: buckets.iter().sum(),
            refused: self.refused.load(Relaxed),
            broken: self.broken.load(Relaxed),
            total_us: self.total_us.load(Relaxed),
            buckets,
        }
    }

    fn record(&self, took: Duration, outcome: &Result<Reply, Error>) {
        match outcome {
            Ok(reply) => {
                let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                self.total_us.fetch_add(us, Relaxed);
                self.buckets[BUCKETS_US.partition_point(|bound| *bound < us)].fetch_add(1, Relaxed);
                if reply.server_error().is_some() {
                    self.refused.fetch_add(1, Relaxed);
                }
            }
            Err(_) => {
                self.broken.fetch_add(1, Relaxed);
            }
        }
    }
}

/// Applies [`Trace`]. Clones share one set of figures.
#[derive(Clone, Debug)]
pub struct TraceLayer(Arc<Figures>);

/// All sessions share this; only commands that run have pointers to what is in it, so that those tell how many run.
#[derive(Debug, Default)]
struct Figures(Arc<CommandStats>);

impl Default for TraceLayer {
    fn default() -> Self {
        // Its first reading calibrates the counter, which takes up to 0.2 s: not at a client's cost.
        Instant::now();
        Self(Arc::default())
    }
}

impl TraceLayer {
    /// The figures of all sessions.
    pub fn stats(&self) -> &CommandStats {
        &self.0.0
    }

    /// Commands between their arrival and the head of their reply.
    pub fn running(&self) -> usize {
        Arc::strong_count(&self.0.0) - 1
    }
}

impl<S> Layer<S> for TraceLayer {
    type Service = Trace<S>;

    fn layer(&self, inner: S) -> Trace<S> {
        Trace { figures: self.0.clone(), inner }
    }
}

/// Counts and times every command.
#[derive(Debug)]
pub struct Trace<S> {
    figures: Arc<Figures>,
    inner: S,
}

impl<S> Service<Command> for Trace<S>
where
    S: Service<Command, Response = Reply, Error = Error>,
{
    type Response = Reply;
    type Error = Error;
    type Future = TraceFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, command: Command) -> Self::Future {
        tracing::trace!(kind = command.kind().name(), connection = command.session().connection_id(), "command");
        TraceFuture { started: Instant::now(), stats: self.figures.0.clone(), inner: self.inner.call(command) }
    }
}

pin_project! {
    /// The future of [`Trace`].
    #[derive(Debug)]
    pub struct TraceFuture<F> {
        started: Instant,
        stats: Arc<CommandStats>,
        #[pin]
        inner: F,
    }
}

impl<F: Future<Output = Result<Reply, Error>>> Future for TraceFuture<F> {
    type Output = Result<Reply, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let outcome = this.inner.poll(cx);
        if let Poll::Ready(outcome) = &outcome {
            this.stats.record(this.started.elapsed(), outcome);
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ServerError, testing};

    #[tokio::test]
    async fn counts_refusals_among_the_commands() {
        let layer = TraceLayer::default();
        let session = testing::session(crate::Role::Master);
        let mut service = layer.layer(testing::FakeRouter::new([
            Reply::ok(crate::Completion::default()),
            Reply::err(ServerError::refused("no")),
        ]));
        for _ in 0..2 {
            service.call(Command::query(&session, b"SELECT 1")).await.expect("the session goes on");
        }
        let counts = layer.stats().counts();
        assert_eq!((counts.commands, counts.refused, counts.broken), (2, 1, 0));
        assert_eq!(counts.buckets.iter().sum::<u64>(), 2);
    }

    #[tokio::test]
    async fn a_command_runs_until_its_reply_begins_or_nobody_waits_for_it() {
        let layer = TraceLayer::default();
        let session = testing::session(crate::Role::Master);
        let mut service = layer.layer(testing::FakeRouter::new([Reply::ok(crate::Completion::default())]));
        let begun = service.call(Command::query(&session, b"SELECT 1"));
        let given_up = service.call(Command::query(&session, b"SELECT 2"));
        assert_eq!(layer.running(), 2);
        drop(given_up);
        assert_eq!(layer.running(), 1);
        begun.await.expect("the session goes on");
        assert_eq!(layer.running(), 0);
    }
}

//! Ending at the server what no client waits for any more.
//!
//! A server that works on a query does not look whether its client is still there. When a client leaves in the middle
//! of one, the query would go on, with its locks, for as long as it takes; KILL ends it. A client's password is not
//! known here, so the node's own account sends the KILL, by a connection of its own.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use mysql_async::{Conn, Opts, prelude::Queryable};
use tokio::sync::mpsc;

/// Bounds connecting, and each statement.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait before the next attempt at a server that takes no connection; doubled from one to the next.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// "You are not owner of thread": the account lacks the right.
const NOT_OWNER: u16 = 1095;
/// "Unknown thread id": it has ended by itself.
const UNKNOWN_THREAD: u16 = 1094;

/// Ends connections of the server's by their ids. Clones share one task, which ends with the last of them.
#[derive(Clone, Debug)]
pub struct Killer(mpsc::UnboundedSender<Abandoned>);

/// A connection that its client has left in the middle of a command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Abandoned {
    /// Its id. A server counts anew from its start, so that after another one it is somebody else's.
    pub(super) id: u32,
    /// When it was there already.
    pub(super) connected: Instant,
}

impl Abandoned {
    /// Whether it is gone with the run of the server that it belonged to, when this one has lasted for so many seconds.
    fn is_of_an_earlier_run(&self, uptime_s: u64) -> bool {
        // What the server tells is rounded down.
        self.connected.elapsed() > Duration::from_secs(uptime_s + 1)
    }
}

impl Killer {
    /// Starts the task. `opts` is how the node itself logs in.
    pub fn start(opts: Opts) -> Self {
        // Each session sends its id once at most, so that what waits here is bounded by the sessions.
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(run(opts, receiver));
        Self(sender)
    }

    /// Asks for the end of this connection; returns at once.
    pub(super) fn kill(&self, abandoned: Abandoned) {
        // The task lives as long as there are senders, but for a runtime that is shut down.
        let _ = self.0.send(abandoned);
    }
}

async fn run(opts: Opts, mut queue: mpsc::UnboundedReceiver<Abandoned>) {
    let mut waiting = VecDeque::new();
    let mut pause = PAUSE_MIN;
    while let Some(first) = queue.recv().await {
        waiting.push_back(first);
        while !waiting.is_empty() {
            while let Ok(next) = queue.try_recv() {
                waiting.push_back(next);
            }
            match end_all(&opts, &mut waiting).await {
                Ok(()) => pause = PAUSE_MIN,
                // With the node goes what could wait longer.
                Err(_) if queue.is_closed() => return,
                Err(error) => {
                    tell_of_failure(&error, waiting.len(), pause);
                    // A server that is full of them would otherwise stay so.
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }
}

fn tell_of_failure(error: &mysql_async::Error, waiting: usize, pause: Duration) {
    let error = error as &dyn std::error::Error;
    tracing::warn!(error, waiting, ?pause, "abandoned queries can't be ended yet; trying again");
}

/// Ends what waits, in turn. What is left of it is to be tried again.
async fn end_all(opts: &Opts, waiting: &mut VecDeque<Abandoned>) -> mysql_async::Result<()> {
    let mut conn = in_time(Conn::new(opts.clone())).await?;
    let uptime = in_time(conn.query_first("SHOW GLOBAL STATUS LIKE 'Uptime'")).await?;
    let uptime_s = uptime.map_or(0, |(_, seconds): (String, u64)| seconds);
    while let Some(abandoned) = waiting.front() {
        if !abandoned.is_of_an_earlier_run(uptime_s) {
            kill(&mut conn, abandoned.id).await?;
        }
        waiting.pop_front();
    }
    // A farewell that the server does not get costs it nothing.
    let _ = in_time(conn.disconnect()).await;
    Ok(())
}

async fn kill(conn: &mut Conn, id: u32) -> mysql_async::Result<()> {
    match in_time(conn.query_drop(format!("KILL {id}"))).await {
        Ok(()) => tracing::debug!(id, "ended a query that its client had abandoned"),
        Err(mysql_async::Error::Server(error)) if error.code == UNKNOWN_THREAD => {}
        Err(mysql_async::Error::Server(error)) if error.code == NOT_OWNER => tracing::warn!(
            id,
            "a query whose client has left goes on: the node's account may not end it; `towline check` names the GRANT"
        ),
        Err(mysql_async::Error::Server(error)) => {
            tracing::warn!(error = &error as &dyn std::error::Error, id, "an abandoned query could not be ended");
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

async fn in_time<T>(asking: impl Future<Output = mysql_async::Result<T>>) -> mysql_async::Result<T> {
    let too_late = |_| std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer of MySQL in time");
    tokio::time::timeout(TIMEOUT, asking).await.map_err(too_late)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_an_earlier_run_is_somebody_elses() {
        let connected = Instant::now().checked_sub(Duration::from_millis(10_500)).expect("an instant");
        let abandoned = Abandoned { id: 5, connected };
        for (uptime_s, earlier) in [(0, true), (9, true), (10, false), (11, false), (1000, false)] {
            assert_eq!(abandoned.is_of_an_earlier_run(uptime_s), earlier, "{uptime_s} s");
        }
    }
}

//! Ending at the server what no client waits for any more.
//!
//! A server that works on a query does not look whether its client is still there. When a client leaves in the middle
//! of one, the query would go on, with its locks, for as long as it takes; KILL ends it. A client's password is not
//! known here, so the node's own account sends the KILL, by a connection of its own.

use std::time::Duration;

use mysql_async::{Conn, Opts, prelude::Queryable};
use tokio::sync::mpsc;

/// Bounds connecting, and each KILL.
const TIMEOUT: Duration = Duration::from_secs(5);
/// "You are not owner of thread": the account lacks the right.
const NOT_OWNER: u16 = 1095;
/// "Unknown thread id": it has ended by itself.
const UNKNOWN_THREAD: u16 = 1094;

/// Ends connections of the server's by their ids. Clones share one task, which ends with the last of them.
#[derive(Clone, Debug)]
pub struct Killer(mpsc::UnboundedSender<u32>);

impl Killer {
    /// Starts the task. `opts` is how the node itself logs in.
    pub fn start(opts: Opts) -> Self {
        // Each session sends its id once at most, so that what waits here is bounded by the sessions.
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(run(opts, receiver));
        Self(sender)
    }

    /// Asks for the end of this connection; returns at once.
    pub(super) fn kill(&self, connection_id: u32) {
        // The task lives as long as there are senders, but for a runtime that is shut down.
        let _ = self.0.send(connection_id);
    }
}

async fn run(opts: Opts, mut ids: mpsc::UnboundedReceiver<u32>) {
    while let Some(first) = ids.recv().await {
        match tokio::time::timeout(TIMEOUT, Conn::new(opts.clone())).await {
            Ok(Ok(mut conn)) => {
                let mut next = Some(first);
                while let Some(id) = next {
                    kill(&mut conn, id).await;
                    next = ids.try_recv().ok();
                }
                // A farewell that the server does not get costs it nothing.
                let _ = tokio::time::timeout(TIMEOUT, conn.disconnect()).await;
            }
            Ok(Err(error)) => {
                let cause = &error as &dyn std::error::Error;
                tracing::warn!(error = cause, id = first, "no connection to MySQL to end an abandoned query by");
            }
            Err(_) => {
                tracing::warn!(id = first, "MySQL took too long to take a connection to end an abandoned query by")
            }
        }
    }
}

async fn kill(conn: &mut Conn, id: u32) {
    match tokio::time::timeout(TIMEOUT, conn.query_drop(format!("KILL {id}"))).await {
        Ok(Ok(())) => tracing::debug!(id, "ended a query that its client had abandoned"),
        Ok(Err(mysql_async::Error::Server(error))) if error.code == UNKNOWN_THREAD => {}
        Ok(Err(mysql_async::Error::Server(error))) if error.code == NOT_OWNER => tracing::warn!(
            id,
            "a query whose client has left goes on: the node's account may not end it; `towline check` names the GRANT"
        ),
        Ok(Err(error)) => {
            tracing::warn!(error = &error as &dyn std::error::Error, id, "an abandoned query could not be ended");
        }
        Err(_) => tracing::warn!(id, "MySQL did not answer the KILL of an abandoned query in time"),
    }
}

//! The accept loop: a permit for each session, a limit on all of them, and the drain at the end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use towline_middleware::ServerError;

use super::{MySqlFront, client::Client, connection::serve_client};
use crate::{
    frontend::accept::{accept, accept_unix},
    keepalive::Keepalive,
    transport::Transport,
};

/// How long a client that is turned away may take to read why.
const TURN_AWAY_TIMEOUT: Duration = Duration::from_secs(1);

/// How many sessions are open. Clones share the count.
#[derive(Clone, Debug, Default)]
pub struct SessionCount(Arc<AtomicUsize>);

impl SessionCount {
    /// Sessions now, logins included.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn enter(&self) -> Present {
        self.0.fetch_add(1, Ordering::Relaxed);
        Present(self.clone())
    }
}

/// Counts a session until it is dropped.
#[derive(Debug)]
struct Present(SessionCount);

impl Drop for Present {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where clients come from.
#[derive(Debug)]
pub struct Listeners {
    /// Over the network.
    pub tcp: TcpListener,
    /// On this machine.
    pub unix: Option<UnixListener>,
}

impl From<TcpListener> for Listeners {
    fn from(tcp: TcpListener) -> Self {
        Self { tcp, unix: None }
    }
}

impl Listeners {
    /// The next client of either.
    async fn accept(&self, keepalive: Keepalive, write_timeout: Duration) -> Transport {
        let over_unix = async {
            match &self.unix {
                Some(listener) => accept_unix(listener).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            stream = accept(&self.tcp) => {
                if let Err(error) = keepalive.set(&stream, write_timeout) {
                    tracing::debug!(error = &error as &dyn std::error::Error, "a client has left at once");
                }
                stream.into()
            }
            stream = over_unix => stream.into(),
        }
    }
}

/// Accepts clients until `stop`, then lets running commands finish for as long as the limits say, and returns.
pub async fn serve(listeners: Listeners, front: Arc<MySqlFront>, sessions: SessionCount, stop: CancellationToken) {
    let permits = Arc::new(Semaphore::new(front.limits.connections_max));
    let tracker = TaskTracker::new();
    // Dropped at the end of the grace, which ends the sessions that are still open.
    let cut = CancellationToken::new();
    loop {
        let stream = tokio::select! {
            stream = listeners.accept(front.limits.keepalive, front.limits.write_timeout) => stream,
            () = stop.cancelled() => break,
        };
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            tracker.spawn(turn_away(stream, front.limits.connections_max));
            continue;
        };
        let session = cut.clone().run_until_cancelled_owned(serve_client(stream, front.clone(), stop.clone()));
        tracker.spawn(hold(permit, sessions.enter(), session));
    }
    drop(listeners);
    tracker.close();
    if tokio::time::timeout(front.limits.shutdown_grace, tracker.wait()).await.is_err() {
        tracing::warn!(sessions = sessions.get(), "sessions still busy at the end of the grace are cut");
        cut.cancel();
        tracker.wait().await;
    }
}

async fn hold(_permit: OwnedSemaphorePermit, _present: Present, session: impl Future<Output = Option<()>>) {
    session.await;
}

/// Tells one client too many, in the server's own words.
async fn turn_away(stream: Transport, connections_max: usize) {
    let mut client = Client::new(stream, TURN_AWAY_TIMEOUT);
    let text = format!("Too many connections: this Towline node takes {connections_max} (limits.connections_max)");
    client.put_early_error(&ServerError::new(1040, b"08004", text));
    // Who does not read it in time is turned away all the same.
    let _ = tokio::time::timeout(TURN_AWAY_TIMEOUT, client.flush()).await;
}

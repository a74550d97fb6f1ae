//! The innermost service of a session: the only place that picks a backend.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::sync::Mutex;
use tower::Service;
use towline_middleware::{BoxFuture, Command, CommandKind, Error, Reply, Role, ServerError};

use crate::upstream::{Lease, Upstream};

/// Sends a session's commands to its own connection to this node's MySQL.
///
/// One session has one connection, opened with the client's own identity, so that everything which hangs on it
/// (transactions, temporary tables, user variables, locks) is as it would be without Towline.
#[derive(Clone, Debug)]
pub struct Router {
    upstream: Arc<Mutex<Upstream>>,
}

impl Router {
    /// A router over a connection that is logged in and behind its fence.
    pub fn new(upstream: Upstream) -> Self {
        Self { upstream: Arc::new(Mutex::new(upstream)) }
    }

    /// Waits until MySQL ends the session between two commands, and returns its last packet if there is one.
    ///
    /// # Cancel safety
    /// A dropped future loses nothing.
    pub(crate) async fn farewell(&self) -> Option<(u8, Bytes)> {
        self.upstream.lock().await.farewell().await
    }
}

impl Service<Command> for Router {
    type Response = Reply;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Reply, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // A session sends one command at a time.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, command: Command) -> Self::Future {
        let upstream = self.upstream.clone();
        Box::pin(async move {
            // The guard refuses both before; this holds even if the layers are misordered.
            if let CommandKind::Unsupported(_) = command.kind() {
                return Ok(Reply::err(ServerError::unknown_command(command.kind().name())));
            }
            if command.session().role() == Role::Slave && command.intent().may_write() {
                return Ok(Reply::err(ServerError::refused(
                    "This Towline node is a read-only slave and refuses writes",
                )));
            }
            match Lease::take(upstream)? {
                Some(lease) => lease.exchange(command).await,
                None => Ok(Reply::err(out_of_sync())),
            }
        })
    }
}

/// A layer has sent a command before it had read the reply to the one before.
fn out_of_sync() -> ServerError {
    ServerError::new(
        2014,
        b"HY000",
        "Commands out of sync: a middleware layer sent a command while the reply to another was not read to its end",
    )
}

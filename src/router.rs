//! The innermost service of a session: the only place that picks a backend.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio_util::sync::ReusableBoxFuture;
use tower::Service;
use towline_middleware::{Command, CommandKind, Error, Reply, Role, ServerError};

use crate::upstream::{Lease, Upstream};

/// Sends a session's commands to its own connection to this node's MySQL.
///
/// One session has one connection, opened with the client's own identity, so that everything which hangs on it
/// (transactions, temporary tables, user variables, locks) is as it would be without Towline.
#[derive(Clone, Debug)]
pub struct Router {
    upstream: Arc<Mutex<Upstream>>,
    spare: Spare,
}

/// The box of the session's last command, for the next: a command allocates none of its own.
type Spare = Arc<parking_lot::Mutex<Option<ReusableBoxFuture<'static, Result<Reply, Error>>>>>;

impl Router {
    /// A router over a connection that is logged in and behind its fence.
    pub fn new(upstream: Upstream) -> Self {
        Self { upstream: Arc::new(Mutex::new(upstream)), spare: Spare::default() }
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
    type Future = RouterFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // A session sends one command at a time.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, command: Command) -> RouterFuture {
        let routing = route(self.upstream.clone(), command);
        let spare = self.spare.lock().take();
        let running = match spare {
            Some(mut boxed) => {
                boxed.set(routing);
                boxed
            }
            None => ReusableBoxFuture::new(routing),
        };
        RouterFuture { running: Some(running), spare: self.spare.clone() }
    }
}

async fn route(upstream: Arc<Mutex<Upstream>>, command: Command) -> Result<Reply, Error> {
    // The guard refuses both before; this holds even if the layers are misordered.
    if let CommandKind::Unsupported(_) = command.kind() {
        return Ok(Reply::err(ServerError::unknown_command(command.kind().name())));
    }
    if command.session().role() == Role::Slave && command.intent().may_write() {
        return Ok(Reply::err(ServerError::refused("This Towline node is a read-only slave and refuses writes")));
    }
    match Lease::take(upstream)? {
        Some(lease) => lease.exchange(command).await,
        None => Ok(Reply::err(out_of_sync())),
    }
}

/// The future of [`Router`].
#[derive(Debug)]
pub struct RouterFuture {
    running: Option<ReusableBoxFuture<'static, Result<Reply, Error>>>,
    spare: Spare,
}

impl Future for RouterFuture {
    type Output = Result<Reply, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let running = self.running.as_mut().expect("a ready future is not polled again");
        let reply = ready!(running.poll(cx));
        // Dropped before it is ready, it would drop the box with it.
        *self.spare.lock() = self.running.take();
        Poll::Ready(reply)
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

//! Middleware that refuses commands while the node is stopping or has no whole data.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::{Command, Error, Front, Reply, ServerError};

#[derive(Debug, Default)]
struct Gate {
    stopping: AtomicBool,
    held: AtomicBool,
}

/// Applies [`Admission`]. Clones share one gate.
#[derive(Clone, Debug, Default)]
pub struct AdmissionLayer(Arc<Gate>);

impl AdmissionLayer {
    /// From now on every new command of a MySQL client is refused with error 1053.
    pub fn close(&self) {
        self.0.stopping.store(true, Ordering::Release);
    }

    /// Refuses every command of any client with error 1053 while `held`: the data is not whole.
    pub fn hold(&self, held: bool) {
        self.0.held.store(held, Ordering::Release);
    }
}

impl<S> Layer<S> for AdmissionLayer {
    type Service = Admission<S>;

    fn layer(&self, inner: S) -> Admission<S> {
        Admission { gate: self.0.clone(), inner }
    }
}

/// Refuses commands while the node is stopping.
#[derive(Debug)]
pub struct Admission<S> {
    gate: Arc<Gate>,
    inner: S,
}

impl<S> Service<Command> for Admission<S>
where
    S: Service<Command, Response = Reply, Error = Error>,
{
    type Response = Reply;
    type Error = Error;
    type Future = AdmissionFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, command: Command) -> Self::Future {
        // A command without a reply can't be refused, and a client that leaves is welcome to. A request of HTTP is one
        // unit of work though it may be several commands long: its front admits it as a whole.
        let refusable = command.kind().has_reply() && command.session().front() == Front::MySql;
        if self.gate.held.load(Ordering::Acquire) && command.kind().has_reply() {
            return AdmissionFuture::Refused { error: Some(ServerError::loading()) };
        }
        if self.gate.stopping.load(Ordering::Acquire) && refusable {
            return AdmissionFuture::Refused { error: Some(ServerError::stopping()) };
        }
        AdmissionFuture::Running { inner: self.inner.call(command) }
    }
}

pin_project! {
    /// The future of [`Admission`].
    #[project = Projected]
    #[allow(missing_docs, private_interfaces)] // a variant's fields can't carry docs through the macro
    #[derive(Debug)]
    pub enum AdmissionFuture<F> {
        /// It can't be served now.
        Refused { error: Option<ServerError> },
        /// The inner service runs.
        Running {
            #[pin]
            inner: F,
        },
    }
}

impl<F: Future<Output = Result<Reply, Error>>> Future for AdmissionFuture<F> {
    type Output = Result<Reply, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            Projected::Refused { error } => {
                Poll::Ready(Ok(Reply::err(error.take().unwrap_or_else(ServerError::stopping))))
            }
            Projected::Running { inner } => inner.poll(cx),
        }
    }
}

//! The place of the user's layers, between classify and guard.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tower::{Layer, Service, util::BoxService};

use crate::{BoxSessionService, Command, Error, Reply, Router, UserLayer, stack::NamedLayers};

/// The user's layers in the order of the configuration, outermost first.
#[derive(Clone)]
pub struct UserLayers(NamedLayers);

impl UserLayers {
    /// Layers with their names.
    pub fn new(layers: impl IntoIterator<Item = (String, Arc<dyn UserLayer>)>) -> Self {
        Self(layers.into_iter().collect())
    }

    /// Their names, outermost first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }
}

impl<S: Router> Layer<S> for UserLayers {
    type Service = User<S>;

    fn layer(&self, inner: S) -> User<S> {
        if self.0.is_empty() {
            return User::Absent(inner);
        }
        let innermost: BoxSessionService = BoxService::new(inner);
        User::Boxed(self.0.iter().rev().fold(innermost, |inner, (_, layer)| layer.wrap(inner)))
    }
}

/// The user's layers around `S`, or `S` itself when there are none, so that nobody pays for a box that is not used.
pub enum User<S> {
    /// No layers.
    Absent(S),
    /// One or more.
    Boxed(BoxSessionService),
}

impl<S> std::fmt::Debug for User<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Absent(_) => "User::Absent",
            Self::Boxed(_) => "User::Boxed",
        })
    }
}

impl<S: Router> Service<Command> for User<S> {
    type Response = Reply;
    type Error = Error;
    type Future = UserFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match self {
            Self::Absent(inner) => inner.poll_ready(cx),
            Self::Boxed(inner) => inner.poll_ready(cx),
        }
    }

    fn call(&mut self, command: Command) -> Self::Future {
        match self {
            Self::Absent(inner) => UserFuture::Absent { inner: inner.call(command) },
            Self::Boxed(inner) => UserFuture::Boxed { inner: inner.call(command) },
        }
    }
}

pin_project! {
    /// The future of [`User`].
    #[project = Projected]
    #[allow(missing_docs, private_interfaces)] // a variant's fields can't carry docs through the macro
    pub enum UserFuture<F> {
        /// No layers.
        Absent {
            #[pin]
            inner: F,
        },
        /// One or more.
        Boxed {
            #[pin]
            inner: <BoxSessionService as Service<Command>>::Future,
        },
    }
}

impl<F> std::fmt::Debug for UserFuture<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UserFuture")
    }
}

impl<F: Future<Output = Result<Reply, Error>>> Future for UserFuture<F> {
    type Output = Result<Reply, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            Projected::Absent { inner } => inner.poll(cx),
            Projected::Boxed { inner } => inner.poll(cx),
        }
    }
}

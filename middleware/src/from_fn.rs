//! A layer from one asynchronous function.

use std::{
    fmt,
    future::Future,
    sync::Arc,
    task::{Context, Poll},
};

use tower::{Layer, Service, ServiceExt};

use crate::{BoxFuture, BoxSessionService, Command, Error, Reply};

/// The rest of the stack, to be called at most once.
pub struct Next(Arc<tokio::sync::Mutex<BoxSessionService>>);

impl Next {
    /// Hands the command on.
    ///
    /// # Errors
    /// The session is over.
    pub async fn run(self, command: Command) -> Result<Reply, Error> {
        let mut inner = self.0.lock_owned().await;
        let reply = inner.ready().await?.call(command);
        drop(inner);
        reply.await
    }
}

impl fmt::Debug for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next").finish_non_exhaustive()
    }
}

/// Makes a layer of `async fn(Command, Next) -> Result<Reply, Error>`.
///
/// ```
/// use towline_middleware::{from_fn, Command, Error, Next, Reply, ServerError};
///
/// async fn no_truncate(command: Command, next: Next) -> Result<Reply, Error> {
///     if command.sql().to_ascii_lowercase().starts_with(b"truncate") {
///         return Ok(Reply::err(ServerError::refused("TRUNCATE is not allowed here")));
///     }
///     next.run(command).await
/// }
///
/// let layer = from_fn(no_truncate);
/// ```
pub fn from_fn<F, Fut>(function: F) -> FnLayer<F>
where
    F: Fn(Command, Next) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<Reply, Error>> + Send + 'static,
{
    FnLayer(function)
}

/// The layer that [`from_fn()`] makes.
#[derive(Clone)]
pub struct FnLayer<F>(F);

impl<F> fmt::Debug for FnLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FnLayer")
    }
}

impl<F: Clone> Layer<BoxSessionService> for FnLayer<F> {
    type Service = FnService<F>;

    fn layer(&self, inner: BoxSessionService) -> FnService<F> {
        FnService { function: self.0.clone(), inner: Arc::new(tokio::sync::Mutex::new(inner)) }
    }
}

/// The service that [`FnLayer`] makes.
pub struct FnService<F> {
    function: F,
    inner: Arc<tokio::sync::Mutex<BoxSessionService>>,
}

impl<F> fmt::Debug for FnService<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FnService")
    }
}

impl<F, Fut> Service<Command> for FnService<F>
where
    F: Fn(Command, Next) -> Fut,
    Fut: Future<Output = Result<Reply, Error>> + Send + 'static,
{
    type Response = Reply;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Reply, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // The inner service is made ready by `Next`, since the function may answer without it.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, command: Command) -> Self::Future {
        Box::pin((self.function)(command, Next(self.inner.clone())))
    }
}

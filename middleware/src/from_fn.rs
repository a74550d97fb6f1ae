//! A layer from one asynchronous function.

use std::{
    fmt,
    future::{Future, poll_fn},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use tower::{Layer, Service};

use crate::{BoxSessionService, Command, Error, Reply};

/// The rest of the stack: what is inside a layer, down to the router.
///
/// It may be called as often as the layer likes, for one command after the other: to ask something else first, or to try
/// again.
#[derive(Clone)]
pub struct Next(Arc<Mutex<BoxSessionService>>);

impl Next {
    pub(crate) fn new(inner: BoxSessionService) -> Self {
        Self(Arc::new(Mutex::new(inner)))
    }

    /// Hands a command on and returns the beginning of its reply.
    ///
    /// A session has one connection to MySQL, so a reply must be read to its end before the next command is sent;
    /// otherwise that one is answered with error 2014.
    ///
    /// # Errors
    /// The session is over.
    ///
    /// # Cancel safety
    /// Not safe once it was polled: the command may be on its way, and nobody could tell its reply from the next one.
    /// Dropping the future, or a reply before its end, ends the session with the next command. A layer that gives up
    /// on a command asks the server to end it (as `timeout` does) and reads on.
    pub fn run(&self, command: Command) -> impl Future<Output = Result<Reply, Error>> + Send {
        // By hand: an `async fn` would keep the command twice, and each layer's future has this one in it.
        let (mut command, mut calling) = (Some(command), None);
        poll_fn(move |cx| {
            let calling = match &mut calling {
                Some(calling) => calling,
                none => {
                    // A layer that has panicked has lost its own session only; the service inside it is as it was.
                    let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                    ready!(inner.poll_ready(cx))?;
                    none.insert(inner.call(command.take().expect("a ready future is not polled again")))
                }
            };
            calling.as_mut().poll(cx)
        })
    }
}

impl fmt::Debug for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next").finish_non_exhaustive()
    }
}

/// Makes a layer of `async fn(Command, Next) -> Result<Reply, Error>`.
///
/// State of all sessions is what the function's closure holds; state of one session is
/// [`Session::state`](crate::Session::state).
///
/// ```
/// use towline_middleware::{from_fn, Command, Error, Next, Reply, ServerError};
///
/// async fn readers_only_read(command: Command, next: Next) -> Result<Reply, Error> {
///     if command.intent().may_write() && command.session().user().ends_with("_reader") {
///         return Ok(Reply::err(ServerError::refused("accounts that end in _reader may only read")));
///     }
///     next.run(command).await
/// }
///
/// let layer = from_fn(readers_only_read);
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
        FnService { function: self.0.clone(), next: Next::new(inner) }
    }
}

/// The service that [`FnLayer`] makes.
pub struct FnService<F> {
    function: F,
    next: Next,
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
    type Future = Fut;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // The inner service is made ready by `Next`, since the function may answer without it.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, command: Command) -> Fut {
        (self.function)(command, self.next.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Completion, Role, ServerError, testing};

    #[tokio::test]
    async fn a_layer_may_ask_something_else_and_try_again() {
        let again = from_fn(async |command: Command, next: Next| {
            let reply = next.run(command.clone()).await?;
            match reply.server_error() {
                Some(error) if error.code == 1213 => next.run(command).await,
                _ => Ok(reply),
            }
        });
        let deadlock = ServerError::new(1213, b"40001", "Deadlock found");
        let router = testing::FakeRouter::new([Reply::err(deadlock), Reply::ok(Completion::default())]);
        let mut service = again.layer(BoxSessionService::new(router.clone()));
        let command = Command::query(&testing::session(Role::Master), "SELECT 1");
        let reply = service.call(command).await.expect("a reply");
        assert!(reply.server_error().is_none());
        assert_eq!(router.calls(), 2);
    }
}

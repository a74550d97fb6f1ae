//! The place of the user's layers, between classify and guard.
//!
//! The layers of one configuration are a generation. A reload puts another in its place; each session goes over to it
//! with its next command outside a transaction.

mod generation;

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tower::{Layer, Service, util::BoxService};

pub(crate) use self::generation::PlacedLayer;
use self::generation::Use;
pub use self::generation::{Generation, UserLayers};
use crate::{
    BoxSessionService, Command, CommandKind, Error, Intent, Plan, Prepared, Reply, Router, Session, rows::CursorColumns,
};

impl<S: Router> Layer<S> for UserLayers {
    type Service = User<S>;

    fn layer(&self, inner: S) -> User<S> {
        let in_use = self.current();
        let inner = Inner::Bare(inner).under(&in_use);
        User { layers: self.clone(), in_use, inner: Some(inner), session: None }
    }
}

/// The user's layers around `S`. As long as a session has had none, `S` itself is called, so that nobody pays for a box
/// or a lock that is not used.
pub struct User<S> {
    layers: UserLayers,
    /// The generation that serves this session.
    in_use: Use,
    /// Always there but while it goes over.
    inner: Option<Inner<S>>,
    /// Known from its first command on.
    session: Option<Arc<Session>>,
}

/// What is inside of the user's layers.
enum Inner<S> {
    /// There has been no layer yet.
    Bare(S),
    /// Each generation is built around it anew.
    Layered { sealed: Sealed<S>, boxed: BoxSessionService },
}

impl<S: Router> Inner<S> {
    /// Has the layers of this generation around it.
    fn under(self, generation: &Use) -> Self {
        let layers = generation.layers();
        let sealed = match self {
            Self::Bare(_) if layers.is_empty() => return self,
            Self::Bare(inner) => Sealed { inner: Arc::new(Mutex::new(inner)) },
            Self::Layered { sealed, .. } => sealed,
        };
        let innermost: BoxSessionService = BoxService::new(sealed.clone());
        Self::Layered { sealed, boxed: layers.iter().rev().fold(innermost, |inner, layer| layer.wrap(inner)) }
    }
}

impl<S: Router> User<S> {
    /// Goes over to the newest generation.
    fn go_over(&mut self) {
        let old = std::mem::replace(&mut self.in_use, self.layers.current());
        self.inner = self.inner.take().map(|inner| inner.under(&self.in_use));
        if let Some(session) = &self.session {
            self.in_use.tell_of_missed(&old, session);
        }
    }

    fn inner(&mut self) -> &mut Inner<S> {
        self.inner.as_mut().expect("only a panic of a layer's, which ends the session, takes it away")
    }

    fn is_in_transaction(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.in_transaction())
    }
}

impl<S> fmt::Debug for User<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("generation", &self.in_use).finish_non_exhaustive()
    }
}

/// What user layers hand their commands to: nothing goes on that was not classified, or that the server could not read
/// since a layer has answered an earlier command.
struct Sealed<S> {
    inner: Arc<Mutex<S>>,
}

impl<S> Clone for Sealed<S> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

fn lock<S>(inner: &Mutex<S>) -> std::sync::MutexGuard<'_, S> {
    // A panic inside of it is the session's end; the lock itself protects nothing more.
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: Router> Service<Command> for Sealed<S> {
    type Response = Reply;
    type Error = Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        lock(&self.inner).poll_ready(cx)
    }

    fn call(&mut self, mut command: Command) -> S::Future {
        if command.plan().is_none() {
            command.classify();
        }
        command.complete();
        lock(&self.inner).call(command)
    }
}

impl<S: Router> Service<Command> for User<S> {
    type Response = Reply;
    type Error = Error;
    type Future = UserFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // Here, and not in `call`, since a generation must be made ready before it is called.
        if !self.in_use.is_newest_of(&self.layers) && !self.is_in_transaction() {
            self.go_over();
        }
        match self.inner() {
            Inner::Bare(inner) => inner.poll_ready(cx),
            Inner::Layered { boxed, .. } => boxed.poll_ready(cx),
        }
    }

    fn call(&mut self, command: Command) -> Self::Future {
        if self.session.is_none() {
            self.session = Some(command.session().clone());
        }
        match self.inner() {
            Inner::Layered { sealed, boxed } => {
                let cursor = CursorColumns::of(&command);
                let long_data = command.runs().filter(|prepared| prepared.has_long_data()).cloned();
                if cursor.is_none() && long_data.is_none() {
                    return UserFuture::Boxed { inner: boxed.call(command) };
                }
                let long_data = long_data.map(|prepared| (prepared, reset(&command), sealed.inner.clone()));
                let answer = boxed.call(command);
                let answered = async move {
                    let reply = answer.await?;
                    if let Some((prepared, reset, inner)) = long_data
                        && !prepared.is_sent()
                    {
                        forget_long_data(&inner, &prepared, reset).await?;
                    }
                    Ok(match cursor {
                        Some(cursor) => cursor.watch(reply),
                        None => reply,
                    })
                };
                UserFuture::Boxed { inner: Box::pin(answered) }
            }
            Inner::Bare(inner) => UserFuture::Absent { inner: inner.call(command) },
        }
    }
}

/// What makes the server forget the long data of an execute.
fn reset(execute: &Command) -> Command {
    let mut payload = execute.payload().slice(..5.min(execute.payload().len())).to_vec();
    payload[0] = CommandKind::ResetStatement.to_byte();
    let mut reset = Command::new(execute.session().clone(), payload.into());
    // A slave's guard refuses what has no plan.
    reset.classified(Arc::new(Plan::bare(Intent::SessionState, "command byte")));
    reset
}

/// A server forgets a parameter's long data when it has executed the statement. Where a layer has answered in its place,
/// it would still have it at the next execute.
async fn forget_long_data<S: Router>(inner: &Mutex<S>, prepared: &Prepared, reset: Command) -> Result<(), Error> {
    poll_fn(|cx| lock(inner).poll_ready(cx)).await?;
    let resetting = lock(inner).call(reset);
    let mut reply = resetting.await?;
    while reply.next().await?.is_some() {}
    prepared.set_long_data(false);
    Ok(())
}

pin_project! {
    /// The future of [`User`].
    #[project = Projected]
    #[allow(missing_docs, private_interfaces)] // a variant's fields can't carry docs through the macro
    pub enum UserFuture<F> {
        /// No layers so far.
        Absent {
            #[pin]
            inner: F,
        },
        /// Layers, now or before.
        Boxed {
            #[pin]
            inner: <BoxSessionService as Service<Command>>::Future,
        },
    }
}

impl<F> fmt::Debug for UserFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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

#[cfg(test)]
mod tests {
    use tower::ServiceExt;

    use super::*;
    use crate::{Completion, LayerHome, LayerSetup, Next, Registry, Role, from_fn, testing};

    type Log = Arc<Mutex<Vec<&'static str>>>;

    fn noted(log: &Log) -> Vec<&'static str> {
        std::mem::take(&mut log.lock().expect("no panic"))
    }

    /// Layers that pass everything on and note what is done with them: "a" and "b", and one that does not start.
    fn registry(log: &Log) -> Registry {
        let mut registry = Registry::default();
        for name in ["a", "b", "fails"] {
            let log = log.clone();
            registry.register(name, move |setup: &mut LayerSetup| {
                let note = |what: &'static str| {
                    let log = log.clone();
                    move || log.lock().expect("no panic").push(what)
                };
                let (missed, stopped) = (note(name), note(name));
                setup.on_missed(move |_| missed());
                setup.on_start(async move { if name == "fails" { Err("on purpose".into()) } else { Ok(()) } });
                setup.on_stop(async move { stopped() });
                Ok(from_fn(async |command: Command, next: Next| next.run(command).await))
            });
        }
        registry
    }

    fn generation(registry: &Registry, names: &[&str]) -> Generation {
        let setup = |name: &&str| LayerSetup::new(name, Default::default(), LayerHome::new(Role::Master));
        registry.build(names.iter().map(setup).collect()).expect("known layers")
    }

    #[tokio::test]
    async fn a_layer_hears_of_sessions_whose_commands_it_has_missed() {
        let log = Log::default();
        let registry = registry(&log);
        let layers = UserLayers::default();
        let session = testing::session(Role::Master);
        let router = testing::FakeRouter::new((0..7).map(|_| Reply::ok(Completion::default())));
        let mut service = layers.layer(router);
        layers.put(generation(&registry, &["a"]));
        for (names, missed) in [
            // Nothing has been missed before the first command.
            (None, &[][..]),
            (Some(&["a", "b"][..]), &["b"]),
            (Some(&["b", "a"]), &[]),
            (Some(&["b"]), &[]),
            (None, &[]),
            (Some(&["a", "b"]), &["a"]),
            (Some(&[]), &[]),
        ] {
            if let Some(names) = names {
                layers.put(generation(&registry, names));
            }
            let command = Command::query(&session, "SELECT 1");
            service.ready().await.expect("a session").call(command).await.expect("a reply");
            assert_eq!(noted(&log), missed, "{names:?}");
        }
    }

    #[tokio::test]
    async fn what_has_started_is_stopped_where_another_layer_does_not_start() {
        let log = Log::default();
        let registry = registry(&log);
        let layers = UserLayers::default();
        layers.replace(generation(&registry, &["b"])).await.expect("it starts");
        let refusal = layers.replace(generation(&registry, &["a", "fails"])).await.expect_err("it fails");
        assert!(refusal.to_string().contains("`fails`"), "{refusal}");
        assert_eq!((noted(&log), layers.names()), (vec!["fails", "a"], vec!["b".to_owned()]));
    }

    /// Otherwise a session that is about to go over could find the layers gone, and run a command without any.
    #[tokio::test]
    async fn a_generation_is_not_stopped_once_somebody_has_it() {
        let log = Log::default();
        let layers = UserLayers::default();
        layers.put(generation(&registry(&log), &["a"]));
        let in_use = layers.current();
        let mut retiring = std::pin::pin!({
            let old = layers.put(Generation::of([]));
            async move { old.retire().await }
        });
        assert!(poll_fn(|cx| Poll::Ready(retiring.as_mut().poll(cx).is_pending())).await);
        assert!(in_use.has("a") && noted(&log).is_empty());
        drop(in_use);
        retiring.await;
        assert_eq!(noted(&log), ["a"]);
    }
}

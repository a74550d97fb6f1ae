//! The place of the user's layers, between classify and guard.
//!
//! The layers of one configuration are a generation. A reload puts another in its place; each session goes over to it
//! with its next command outside a transaction.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Release},
        },
    },
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use serde_json::Value;
use tokio::sync::watch;
use tower::{Layer, Service, util::BoxService};

use crate::{
    BoxSessionService, Command, CommandKind, Error, Intent, LayerError, Plan, Prepared, Reply, Router, Session,
    UserLayer, setup::Hooks,
};

/// A layer at its place.
pub(crate) struct PlacedLayer {
    pub(crate) name: String,
    pub(crate) layer: Arc<dyn UserLayer>,
    pub(crate) hooks: Hooks,
}

/// The layers of one configuration, outermost first, with what they want done at their start and stop.
pub struct Generation {
    layers: Vec<PlacedLayer>,
}

impl Generation {
    pub(crate) fn new(layers: Vec<PlacedLayer>) -> Self {
        Self { layers }
    }

    /// Layers with their names, without hooks.
    pub fn of(layers: impl IntoIterator<Item = (String, Arc<dyn UserLayer>)>) -> Self {
        let placed = |(name, layer)| PlacedLayer { name, layer, hooks: Hooks::default() };
        Self::new(layers.into_iter().map(placed).collect())
    }

    async fn start(&mut self) -> Result<(), LayerError> {
        for layer in &mut self.layers {
            for start in layer.hooks.starts.drain(..) {
                start.await.map_err(|source| LayerError::Start { name: layer.name.clone(), source })?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.layers.iter().map(|layer| &layer.name)).finish()
    }
}

/// The user's layers of a node. Clones share them.
#[derive(Clone, Default)]
pub struct UserLayers(Arc<Shared>);

struct Shared {
    /// Counts the reloads: a session sees by it whether it is up to date.
    number: AtomicU64,
    current: Mutex<Arc<Serving>>,
}

impl Default for Shared {
    fn default() -> Self {
        Self { number: AtomicU64::new(0), current: Mutex::new(Arc::new(Serving::new(Generation::of([])))) }
    }
}

/// A generation that serves.
struct Serving {
    generation: Mutex<Generation>,
    /// Every session that uses it holds a receiver.
    users: watch::Sender<()>,
}

impl Serving {
    fn new(generation: Generation) -> Self {
        Self { generation: Mutex::new(generation), users: watch::Sender::new(()) }
    }

    fn with<T>(&self, ask: impl FnOnce(&mut Generation) -> T) -> T {
        // Nobody changes anything but the hooks, which are taken out in one step.
        ask(&mut self.generation.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until no session uses it, and calls what it wants called at its stop.
    async fn retire(&self) {
        self.users.closed().await;
        let layers = self.with(|own| std::mem::take(&mut own.layers));
        for PlacedLayer { layer, hooks, .. } in layers.into_iter().rev() {
            // What waits for the layer's own end can only see it now.
            drop((layer, hooks.status));
            for stop in hooks.stops {
                stop.await;
            }
        }
    }
}

impl UserLayers {
    /// Layers with their names.
    pub fn new(layers: impl IntoIterator<Item = (String, Arc<dyn UserLayer>)>) -> Self {
        let own = Self::default();
        own.put(Generation::of(layers));
        own
    }

    /// Starts the layers of a generation and puts it in the place of the one that serves. What is in a transaction
    /// stays with the old one until its end. The old one's layers are stopped when no session uses them any more.
    ///
    /// # Errors
    /// A layer does not start; nothing is changed then.
    pub async fn replace(&self, mut generation: Generation) -> Result<(), LayerError> {
        generation.start().await?;
        let old = self.put(generation);
        tokio::spawn(async move { old.retire().await });
        Ok(())
    }

    /// Stops the layers, once all sessions have ended.
    pub async fn stop(&self) {
        self.put(Generation::of([])).retire().await;
    }

    /// Their names, outermost first.
    pub fn names(&self) -> Vec<String> {
        self.current().1.with(|own| own.layers.iter().map(|layer| layer.name.clone()).collect())
    }

    /// What they tell of themselves, by name.
    pub fn status(&self) -> serde_json::Map<String, Value> {
        let told = |layer: &PlacedLayer| Some((layer.name.clone(), layer.hooks.status.as_ref()?()));
        self.current().1.with(|own| own.layers.iter().filter_map(told).collect())
    }

    fn put(&self, generation: Generation) -> Arc<Serving> {
        let mut current = self.0.current.lock().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *current, Arc::new(Serving::new(generation)));
        self.0.number.fetch_add(1, Release);
        old
    }

    fn current(&self) -> (u64, Arc<Serving>) {
        let current = self.0.current.lock().unwrap_or_else(PoisonError::into_inner);
        (self.0.number.load(Acquire), current.clone())
    }
}

impl fmt::Debug for UserLayers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

impl<S: Router> Layer<S> for UserLayers {
    type Service = User<S>;

    fn layer(&self, inner: S) -> User<S> {
        let mut user = User {
            layers: self.clone(),
            number: 0,
            _use: watch::Sender::new(()).subscribe(),
            inner: Arc::new(Mutex::new(inner)),
            boxed: None,
            session: None,
        };
        user.go_over();
        user
    }
}

/// The user's layers around `S`; without any, `S` itself is called, so that nobody pays for a box that is not used.
pub struct User<S> {
    layers: UserLayers,
    /// The number of the generation that serves this session.
    number: u64,
    _use: watch::Receiver<()>,
    /// Each generation is built around it anew.
    inner: Arc<Mutex<S>>,
    boxed: Option<BoxSessionService>,
    session: Option<Arc<Session>>,
}

impl<S: Router> User<S> {
    /// Goes over to the newest generation.
    fn go_over(&mut self) {
        let (number, serving) = self.layers.current();
        self.number = number;
        self._use = serving.users.subscribe();
        let layers: Vec<_> = serving.with(|own| own.layers.iter().map(|layer| layer.layer.clone()).collect());
        if layers.is_empty() {
            self.boxed = None;
            return;
        }
        let innermost: BoxSessionService = BoxService::new(Sealed { inner: self.inner.clone() });
        self.boxed = Some(layers.iter().rev().fold(innermost, |inner, layer| layer.wrap(inner)));
    }

    fn is_in_transaction(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.in_transaction())
    }
}

impl<S> fmt::Debug for User<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("generation", &self.number).finish_non_exhaustive()
    }
}

/// What user layers hand their commands to: nothing goes on that was not classified, or that the server could not read
/// since a layer has answered an earlier command.
struct Sealed<S> {
    inner: Arc<Mutex<S>>,
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
        if self.layers.0.number.load(Acquire) != self.number && !self.is_in_transaction() {
            self.go_over();
        }
        match &mut self.boxed {
            Some(boxed) => boxed.poll_ready(cx),
            None => lock(&self.inner).poll_ready(cx),
        }
    }

    fn call(&mut self, command: Command) -> Self::Future {
        if self.session.is_none() {
            self.session = Some(command.session().clone());
        }
        match &mut self.boxed {
            Some(boxed) => {
                let Some(prepared) = command.runs().filter(|prepared| prepared.has_long_data()).cloned() else {
                    return UserFuture::Boxed { inner: boxed.call(command) };
                };
                let reset = reset(&command);
                let answer = boxed.call(command);
                let inner = self.inner.clone();
                let answered = async move {
                    let reply = answer.await?;
                    if !prepared.is_sent() {
                        forget_long_data(&inner, &prepared, reset).await?;
                    }
                    Ok(reply)
                };
                UserFuture::Boxed { inner: Box::pin(answered) }
            }
            None => UserFuture::Absent { inner: lock(&self.inner).call(command) },
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

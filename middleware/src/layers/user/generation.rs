//! The generations of a node's layers: which one serves, and who still uses an older one.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Release},
        },
    },
};

use serde_json::Value;
use tokio::sync::watch;

use crate::{LayerError, Session, UserLayer, setup::Hooks};

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

/// Drops layers, and calls what they want called at their stop, the innermost first.
async fn stop(layers: Vec<PlacedLayer>) {
    for PlacedLayer { layer, hooks, .. } in layers.into_iter().rev() {
        // What waits for the layer's own end can only see it now.
        drop((layer, hooks.status, hooks.missed));
        for stop in hooks.stops {
            stop.await;
        }
    }
}

/// A generation that serves.
pub(super) struct Serving {
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
    pub(super) async fn retire(&self) {
        self.users.closed().await;
        stop(self.with(|own| std::mem::take(&mut own.layers))).await;
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
    /// A layer does not start; all are stopped then, and the old ones serve on.
    ///
    /// # Cancel safety
    /// Not safe: what has started would not be stopped.
    pub async fn replace(&self, mut generation: Generation) -> Result<(), LayerError> {
        if let Err(error) = generation.start().await {
            stop(generation.layers).await;
            return Err(error);
        }
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
        self.current().serving.with(|own| own.layers.iter().map(|layer| layer.name.clone()).collect())
    }

    /// What they tell of themselves, by name.
    pub fn status(&self) -> serde_json::Map<String, Value> {
        let told = |layer: &PlacedLayer| Some((layer.name.clone(), layer.hooks.status.as_ref()?()));
        self.current().serving.with(|own| own.layers.iter().filter_map(told).collect())
    }

    pub(super) fn put(&self, generation: Generation) -> Arc<Serving> {
        let mut current = self.0.current.lock().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *current, Arc::new(Serving::new(generation)));
        self.0.number.fetch_add(1, Release);
        old
    }

    /// Begins to use the generation that serves. Under the lock: what another has taken the place of may be stopped
    /// before its next user comes.
    pub(super) fn current(&self) -> Use {
        let serving = self.0.current.lock().unwrap_or_else(PoisonError::into_inner);
        let number = self.0.number.load(Acquire);
        Use { number, _user: serving.users.subscribe(), serving: serving.clone() }
    }
}

/// A generation in use: as long as this is there, its layers are.
pub(super) struct Use {
    number: u64,
    serving: Arc<Serving>,
    _user: watch::Receiver<()>,
}

impl Use {
    /// Its layers, outermost first.
    pub(super) fn layers(&self) -> Vec<Arc<dyn UserLayer>> {
        self.serving.with(|own| own.layers.iter().map(|layer| layer.layer.clone()).collect())
    }

    /// Whether no other has taken its place.
    pub(super) fn is_newest_of(&self, layers: &UserLayers) -> bool {
        layers.0.number.load(Acquire) == self.number
    }

    /// Tells each layer that `old` has not had what it has missed of the session.
    pub(super) fn tell_of_missed(&self, old: &Self, session: &Session) {
        self.serving.with(|own| {
            for layer in own.layers.iter().filter(|layer| !old.has(&layer.name)) {
                layer.hooks.missed.iter().for_each(|missed| missed(session));
            }
        });
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.serving.with(|own| own.layers.iter().any(|layer| layer.name == name))
    }
}

impl fmt::Debug for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Use").field(&self.number).finish()
    }
}

impl fmt::Debug for UserLayers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

//! The order in which layers run: one definition for both fronts and both roles.

use std::{fmt, future::Future, sync::Arc};

use tower::{Layer, Service, util::BoxService};

use crate::{
    Command, Error, Reply,
    layers::{
        admission::{Admission, AdmissionLayer},
        classify::{Classify, ClassifyLayer},
        fan_out::{FanOut, FanOutLayer},
        guard::{Guard, GuardLayer},
        trace::{Trace, TraceLayer},
        user::{User, UserLayers},
    },
};

/// A session's service behind a box: what a user layer wraps and returns.
pub type BoxSessionService = BoxService<Command, Reply, Error>;

/// The innermost service of a session: the only place that picks a backend.
pub trait Router:
    Service<Command, Response = Reply, Error = Error, Future: Future + Send + 'static> + Send + 'static
{
}

impl<S> Router for S where
    S: Service<Command, Response = Reply, Error = Error, Future: Future + Send + 'static> + Send + 'static
{
}

/// A layer of the user's, as the stack holds it. Any tower layer over [`BoxSessionService`] is one.
pub trait UserLayer: Send + Sync {
    /// Wraps one session's inner service.
    fn wrap(&self, inner: BoxSessionService) -> BoxSessionService;
}

impl<L> UserLayer for L
where
    L: Layer<BoxSessionService> + Send + Sync,
    L::Service: Router,
{
    fn wrap(&self, inner: BoxSessionService) -> BoxSessionService {
        BoxService::new(self.layer(inner))
    }
}

/// One session's services, outermost first.
pub type SessionStack<R> = Trace<Admission<Classify<User<Guard<FanOut<R>>>>>>;

/// The layers of a node, built once and applied once per session.
#[derive(Clone, Debug)]
pub struct Stack {
    /// Outermost, so that it times and counts all that happens inside, refusals included.
    pub trace: TraceLayer,
    /// Before any work is done for the command: a stopping node refuses here.
    pub admission: AdmissionLayer,
    /// Before the user's layers, so that they know the intent.
    pub classify: ClassifyLayer,
    /// The user's, in the order of the configuration.
    pub user: UserLayers,
    /// Inside the user's layers, so that nothing they rewrite or send escapes it.
    pub guard: GuardLayer,
    /// Just outside the router: it sees exactly what the server committed.
    pub fan_out: FanOutLayer,
}

impl Stack {
    /// Puts the layers around one session's router.
    pub fn session<R: Router>(&self, router: R) -> SessionStack<R> {
        let router = self.fan_out.layer(router);
        let router = self.guard.layer(router);
        let router = self.user.layer(router);
        let router = self.classify.layer(router);
        let router = self.admission.layer(router);
        self.trace.layer(router)
    }
}

impl fmt::Debug for UserLayers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

/// Layers by name, as [`UserLayers`] holds them.
pub(crate) type NamedLayers = Arc<[(String, Arc<dyn UserLayer>)]>;

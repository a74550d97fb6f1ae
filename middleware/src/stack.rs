//! The order in which layers run: one definition for both fronts and both roles.

use std::{future::Future, sync::Arc};

use tower::{Layer, Service, util::BoxService};

use crate::{
    Command, Error, Reply, Session,
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
    pub fn session<R: Router>(&self, session: &Arc<Session>, router: R) -> SessionStack<R> {
        let router = self.fan_out.layer(router);
        let router = self.guard.layer(router);
        let router = self.user.layer(router);
        let router = self.classify.session(session, router);
        let router = self.admission.layer(router);
        self.trace.layer(router)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tower::ServiceExt;

    use super::*;
    use bytes::Bytes;

    use crate::{CommandKind, Completion, Head, Next, Role, ServerError, from_fn, testing};

    type Log = Arc<Mutex<Vec<&'static str>>>;

    fn noting(log: &Log, name: &'static str) -> Arc<dyn UserLayer> {
        let log = log.clone();
        Arc::new(from_fn(move |command: Command, next: Next| {
            let log = log.clone();
            async move {
                log.lock().expect("no test panics with it").push(name);
                next.run(command).await
            }
        }))
    }

    fn stack(role: Role, user: Vec<(String, Arc<dyn UserLayer>)>) -> Stack {
        Stack {
            trace: TraceLayer::default(),
            admission: AdmissionLayer::default(),
            classify: ClassifyLayer::default(),
            user: UserLayers::new(user),
            guard: GuardLayer::new(role),
            fan_out: FanOutLayer::slave(),
        }
    }

    #[tokio::test]
    async fn user_layers_run_in_the_order_of_the_configuration() {
        let log = Log::default();
        let user = vec![("a".to_owned(), noting(&log, "a")), ("b".to_owned(), noting(&log, "b"))];
        let router = testing::FakeRouter::new([Reply::ok(Completion::default())]);
        let session = testing::session(Role::Master);
        let service = stack(Role::Master, user).session(&session, router.clone());
        service.oneshot(Command::query(&session, b"SELECT 1")).await.expect("a reply");
        assert_eq!((log.lock().expect("no panic").as_slice(), router.calls()), (&["a", "b"][..], 1));
    }

    #[tokio::test]
    async fn what_a_user_layer_rewrites_does_not_escape_the_guard() {
        let rewrite: Arc<dyn UserLayer> = Arc::new(from_fn(async |mut command: Command, next: Next| {
            assert!(command.rewrite(b"DELETE FROM item"));
            next.run(command).await
        }));
        let router = testing::FakeRouter::new([]);
        let session = testing::session(Role::Slave);
        let service = stack(Role::Slave, vec![("rewrite".to_owned(), rewrite)]).session(&session, router.clone());
        let command = Command::query(&session, b"SELECT 1");
        let reply = service.oneshot(command).await.expect("a refusal is a reply");
        assert_eq!((reply.server_error().map(|error| error.code), router.calls()), (Some(1290), 0));
    }

    #[tokio::test]
    async fn a_refused_execute_leaves_no_long_data_at_the_server() {
        let refuse: Arc<dyn UserLayer> = Arc::new(from_fn(async |command: Command, next: Next| {
            let has_cursor = command.kind() == CommandKind::Execute && command.payload().get(5) == Some(&1);
            if has_cursor || command.kind() == CommandKind::BulkExecute {
                return Ok(Reply::err(ServerError::refused("not in this form")));
            }
            next.run(command).await
        }));
        let prepared = Reply::new(Head::Prepared { statement_id: 1, parameters: 1 }, [], None);
        let ok = || Reply::ok(Completion::default());
        let router =
            testing::FakeRouter::new([prepared, Reply::none(), ok(), Reply::none(), ok(), Reply::none(), ok()]);
        let session = testing::session(Role::Master);
        let mut service = stack(Role::Master, vec![("refuse".to_owned(), refuse)]).session(&session, router.clone());
        for (packet, calls) in [
            (&b"\x16INSERT INTO a VALUES (?)"[..], 1),
            (b"\x18\x01\0\0\0\0\0long", 2),
            // Refused; the statement is reset in its place.
            (b"\x17\x01\0\0\0\x01\x01\0\0\0\0\0", 3),
            (b"\x18\x01\0\0\0\0\0long", 4),
            (b"\xfa\x01\0\0\0\x80\0\xfd\0\0\x01x", 5),
            (b"\x18\x01\0\0\0\0\0long", 6),
            (b"\x17\x01\0\0\0\0\x01\0\0\0\0\0", 7),
        ] {
            let command = Command::new(session.clone(), Bytes::from_static(packet));
            service.ready().await.expect("a session").call(command).await.expect("a reply");
            assert_eq!(router.calls(), calls, "{packet:?}");
        }
    }

    #[tokio::test]
    async fn a_closed_gate_refuses_before_anything_else_runs() {
        let log = Log::default();
        let stack = stack(Role::Master, vec![("a".to_owned(), noting(&log, "a"))]);
        stack.admission.close();
        let session = testing::session(Role::Master);
        let service = stack.session(&session, testing::FakeRouter::new([]));
        let command = Command::query(&session, b"SELECT 1");
        let reply = service.oneshot(command).await.expect("a refusal is a reply");
        assert_eq!(reply.server_error(), Some(&ServerError::stopping()));
        assert!(log.lock().expect("no panic").is_empty());
        assert_eq!(stack.trace.stats().counts().refused, 1, "trace is outside admission");
    }
}

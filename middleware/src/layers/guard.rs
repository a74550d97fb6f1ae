//! Middleware that refuses what this node must not run: on a slave every write, on every node what would hide writes
//! from replication.

use std::{
    future::{self, Future, Ready},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::{
    BoxFuture, Command, CommandKind, Error, Final, Front, Intent, Part, Parts, Plan, RefusedOn, Reply, Role,
    ServerError, Session,
};

/// The server's error number for a write in a read-only transaction.
const READ_ONLY_TRANSACTION: u16 = 1792;
/// The server's error number for what an option of its, as read_only, forbids.
const OPTION_PREVENTS: u16 = 1290;

/// The schema in which a node keeps its own state. Changes to it never travel.
const OWN_SCHEMA: &str = "towline";

/// Applies [`Guard`].
///
/// # Order
/// Inside the user's layers, so that nothing which they rewrite or send by themselves escapes it.
#[derive(Clone, Copy, Debug)]
pub struct GuardLayer {
    role: Role,
}

impl GuardLayer {
    /// The guard of a node with this role.
    pub fn new(role: Role) -> Self {
        Self { role }
    }
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard { role: self.role, inner }
    }
}

/// Refuses what this node must not run. The inner service is not called then.
#[derive(Debug)]
pub struct Guard<S> {
    role: Role,
    inner: S,
}

/// Why a node of this role refuses what has this plan, if it does. A command that no classify layer has seen has no
/// plan, and is refused on a slave like any doubt.
pub(super) fn refusal(role: Role, session: &Session, plan: Option<&Plan>) -> Option<ServerError> {
    let slave = role == Role::Slave;
    let by_name = plan.and_then(|plan| plan.refusal.as_ref());
    if let Some(refusal) = by_name.filter(|refusal| slave || refusal.on == RefusedOn::EveryNode) {
        return Some(ServerError::refused(format!("Towline refuses this: {}", refusal.reason)));
    }
    let may_write = plan.is_none_or(|plan| plan.intent.may_write());
    if slave && may_write {
        let rule = plan.map_or("not classified", |plan| plan.rule.as_ref());
        return Some(ServerError::refused(format!(
            "This Towline node is a read-only slave and refuses writes ({rule}); send them to the master"
        )));
    }
    // The text of such a write need not name the schema, so its plan can't know.
    if may_write && session.schema_is(OWN_SCHEMA) {
        return Some(ServerError::refused(format!(
            "Towline refuses writes while `{OWN_SCHEMA}` is the default schema: it holds Towline's own state and \
             never replicates; USE another schema first"
        )));
    }
    None
}

/// What the guard of a slave and an HTTP front that sends writes on to the master tell each other; a state of the session
/// ([`Session::state`]). The guard refuses such a write like any other.
#[derive(Debug, Default)]
pub struct Forwarding {
    on: AtomicBool,
    refused: AtomicBool,
}

impl Forwarding {
    /// From now on the front wants to know.
    pub fn switch_on(&self) {
        self.on.store(true, Relaxed);
    }

    /// Whether a write has been refused since the last call that the master would take.
    pub fn take_refused(&self) -> bool {
        self.refused.swap(false, Relaxed)
    }
}

/// The session's [`Forwarding`], if a command with this plan is refused only because this node is a slave and the front
/// wants to know of it.
pub(super) fn forwarding(role: Role, session: &Session, plan: Option<&Plan>) -> Option<Arc<Forwarding>> {
    let for_master = role == Role::Slave
        && session.front() == Front::Http
        && plan.is_some_and(Plan::is_for_master)
        && !session.in_transaction()
        && !session.schema_is(OWN_SCHEMA);
    for_master.then(|| session.state::<Forwarding>()).filter(|forwarding| forwarding.on.load(Relaxed))
}

impl<S> Guard<S> {
    fn refusal(&self, command: &Command) -> Option<ServerError> {
        if let CommandKind::Unsupported(_) = command.kind() {
            return Some(ServerError::unknown_command(command.kind().name()));
        }
        refusal(self.role, command.session(), command.plan().map(|plan| &**plan))
    }

    fn doubt(&self, command: &Command) -> Option<Doubt> {
        let plan = command.plan().filter(|plan| plan.intent < Intent::Transaction && plan.key != 0)?;
        (self.role == Role::Slave).then(|| Doubt { session: command.session().clone(), key: plan.key })
    }
}

/// Whom to tell if the server refuses a command as a write, and the key of what was taken for less.
#[derive(Debug)]
struct Doubt {
    session: Arc<Session>,
    key: u64,
}

impl Doubt {
    /// An end of the command's reply. No other result follows an error.
    fn hear(&self, end: &Final) {
        if is_refused_as_write(end) {
            self.session.classifier().learn_write(self.key);
        }
    }
}

/// A streaming reply whose end the server's word may be in.
struct Doubted {
    doubt: Doubt,
    parts: Box<dyn Parts>,
}

impl Parts for Doubted {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Part>, Error>> {
        Box::pin(async {
            let part = self.parts.next().await?;
            if let Some(Part::Final { end, .. }) = &part {
                self.doubt.hear(end);
            }
            Ok(part)
        })
    }

    fn answer(&mut self, payload: Bytes) -> BoxFuture<'_, Result<(), Error>> {
        self.parts.answer(payload)
    }

    fn left(&mut self) -> BoxFuture<'_, Error> {
        self.parts.left()
    }
}

/// Whether the server has refused this as a write.
fn is_refused_as_write(end: &Final) -> bool {
    match end {
        Final::Err(error) => match error.code {
            READ_ONLY_TRANSACTION => true,
            // Other options forbid other things.
            OPTION_PREVENTS => error.text().contains("read-only") || error.text().contains("read_only"),
            _ => false,
        },
        Final::Ok(_) => false,
    }
}

impl<S> Service<Command> for Guard<S>
where
    S: Service<Command, Response = Reply, Error = Error>,
{
    type Response = Reply;
    type Error = Error;
    type Future = GuardFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, command: Command) -> Self::Future {
        match self.refusal(&command) {
            // A command without a reply has nobody to read a refusal; it is dropped.
            Some(_) if !command.kind().has_reply() => GuardFuture::Refused { reply: future::ready(Ok(Reply::none())) },
            Some(error) => {
                if let Some(forwarding) = forwarding(self.role, command.session(), command.plan().map(|plan| &**plan)) {
                    forwarding.refused.store(true, Relaxed);
                }
                GuardFuture::Refused { reply: future::ready(Ok(Reply::err(error))) }
            }
            None => {
                if let Some(prepared) = command.runs() {
                    prepared.sends();
                }
                GuardFuture::Passed { doubt: self.doubt(&command), inner: self.inner.call(command) }
            }
        }
    }
}

pin_project! {
    /// The future of [`Guard`].
    #[project = Projected]
    #[allow(missing_docs, private_interfaces)] // a variant's fields can't carry docs through the macro
    #[derive(Debug)]
    pub enum GuardFuture<F> {
        /// Not to be run.
        Refused {
            reply: Ready<Result<Reply, Error>>,
        },
        /// The inner service runs.
        Passed {
            doubt: Option<Doubt>,
            #[pin]
            inner: F,
        },
    }
}

impl<F: Future<Output = Result<Reply, Error>>> Future for GuardFuture<F> {
    type Output = Result<Reply, Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            Projected::Refused { reply } => Pin::new(reply).poll(cx),
            Projected::Passed { doubt, inner } => {
                let mut outcome = inner.poll(cx);
                let Poll::Ready(Ok(reply)) = &mut outcome else { return outcome };
                let Some(doubt) = doubt.take() else { return outcome };
                if reply.is_complete() {
                    reply.ready_finals().for_each(|end| doubt.hear(end));
                } else {
                    reply.put_into(|parts| Box::new(Doubted { doubt, parts }));
                }
                outcome
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Classifier, Completion, Front, Intent, Plan, Refusal, SqlMode, testing};

    async fn outcome(role: Role, plan: Plan) -> Reply {
        let mut command = Command::query(&testing::session(role), b"whatever");
        command.classified(Arc::new(plan));
        let router = testing::FakeRouter::new([Reply::ok(Completion::default())]);
        let reply = GuardLayer::new(role).layer(router.clone()).call(command).await.expect("a refusal is a reply");
        assert_eq!(router.calls() == 0, reply.server_error().is_some(), "a refused command reached the router");
        reply
    }

    #[tokio::test]
    async fn a_slave_refuses_writes_and_doubt() {
        for (intent, refused) in [
            (Intent::Read, false),
            (Intent::SessionState, false),
            (Intent::Transaction, false),
            (Intent::Write, true),
            (Intent::Unknown, true),
        ] {
            let reply = outcome(Role::Slave, Plan::bare(intent, "test")).await;
            assert_eq!(reply.server_error().map(|e| e.code), refused.then_some(1290), "{intent}");
            let reply = outcome(Role::Master, Plan::bare(intent, "test")).await;
            assert!(reply.server_error().is_none(), "the master refused {intent}");
        }
    }

    #[tokio::test]
    async fn the_nodes_own_schema_is_not_written_by_leaving_out_its_name() {
        for (schema, refused) in [("towline", true), ("Towline", true), ("shop", false), ("", false)] {
            let session = testing::session(Role::Master);
            session.set_schema(schema);
            let mut command = Command::query(&session, b"DELETE FROM position");
            command.classified(Arc::new(Plan::bare(Intent::Write, "test")));
            let router = testing::FakeRouter::new([Reply::ok(Completion::default())]);
            let reply = GuardLayer::new(Role::Master).layer(router).call(command).await.expect("a reply");
            assert_eq!(reply.server_error().is_some(), refused, "{schema}");
        }
    }

    #[tokio::test]
    async fn only_a_plain_write_that_a_slave_refuses_an_http_client_is_for_the_master() {
        let by_name =
            |plan: Plan| Plan { refusal: Some(Refusal { on: RefusedOn::Slave, reason: "test".into() }), ..plan };
        let write = || Plan::bare(Intent::Write, "test");
        for (role, front, plan, schema, status, told) in [
            (Role::Slave, Front::Http, write(), "", 0, true),
            (Role::Slave, Front::Http, write(), "shop", 0, true),
            (Role::Slave, Front::MySql, write(), "", 0, false),
            (Role::Master, Front::Http, write(), "", 0, false),
            (Role::Slave, Front::Http, write(), "towline", 0, false),
            (Role::Slave, Front::Http, write(), "", crate::status::IN_TRANS, false),
            (Role::Slave, Front::Http, by_name(write()), "", 0, false),
            (Role::Slave, Front::Http, Plan::bare(Intent::Unknown, "test"), "", 0, false),
            (Role::Slave, Front::Http, Plan::bare(Intent::Read, "test"), "", 0, false),
        ] {
            let session = Arc::new(Session::new(front, role, None, Arc::new(testing::ByFirstWord)));
            session.state::<Forwarding>().switch_on();
            session.set_schema(schema);
            session.set_status(status);
            let mut command = Command::query(&session, b"whatever");
            command.classified(Arc::new(plan.clone()));
            let router = testing::FakeRouter::new([Reply::ok(Completion::default())]);
            let reply = GuardLayer::new(role).layer(router).call(command).await.expect("a reply");
            assert_eq!(session.state::<Forwarding>().take_refused(), told, "{role} {front:?} {plan:?} {schema}");
            assert!(!told || reply.server_error().is_some(), "told of what was not refused");
            assert!(!session.state::<Forwarding>().take_refused(), "told twice");
        }
    }

    #[tokio::test]
    async fn refusals_by_name_hold_where_they_say() {
        let plan =
            |on| Plan { refusal: Some(Refusal { on, reason: "test".into() }), ..Plan::bare(Intent::Read, "test") };
        assert!(outcome(Role::Slave, plan(RefusedOn::Slave)).await.server_error().is_some());
        assert!(outcome(Role::Master, plan(RefusedOn::Slave)).await.server_error().is_none());
        assert!(outcome(Role::Master, plan(RefusedOn::EveryNode)).await.server_error().is_some());
    }

    #[derive(Debug, Default)]
    struct Learning(std::sync::Mutex<Vec<u64>>);

    impl Classifier for Learning {
        fn classify(&self, _: &[u8], _: SqlMode) -> Arc<Plan> {
            Arc::new(Plan::bare(Intent::Unknown, "test"))
        }

        fn learn_write(&self, key: u64) {
            self.0.lock().expect("no test panics with it").push(key);
        }
    }

    /// What follows rows that were read already.
    struct Late(Option<Part>);

    impl Parts for Late {
        fn next(&mut self) -> BoxFuture<'_, Result<Option<Part>, Error>> {
            Box::pin(future::ready(Ok(self.0.take())))
        }

        fn answer(&mut self, _: Bytes) -> BoxFuture<'_, Result<(), Error>> {
            Box::pin(future::ready(Ok(())))
        }
    }

    #[tokio::test]
    async fn a_refusal_behind_rows_is_heard_too() {
        let classifier = Arc::new(Learning::default());
        let session = Arc::new(Session::new(Front::MySql, Role::Slave, None, classifier.clone()));
        let mut command = Command::query(&session, b"SELECT * FROM long; SELECT * FROM view_that_writes");
        command.classified(Arc::new(Plan { key: 7, ..Plan::bare(Intent::Read, "test") }));
        let rows = Part::Packets(Bytes::from_static(b"rows"));
        let late = Part::first(Final::Err(ServerError::new(READ_ONLY_TRANSACTION, b"25006", "read only")));
        let router = testing::FakeRouter::new([Reply::new(
            crate::Head::Rows,
            [rows.clone()],
            Some(Box::new(Late(Some(late.clone())))),
        )]);
        let mut reply = GuardLayer::new(Role::Slave).layer(router).call(command).await.expect("a reply");
        assert_eq!(reply.next().await.expect("a part"), Some(rows));
        assert!(classifier.0.lock().expect("no panic").is_empty(), "learned before it was heard");
        assert_eq!(reply.next().await.expect("a part"), Some(late));
        assert_eq!(reply.next().await.expect("an end"), None);
        assert_eq!(*classifier.0.lock().expect("no panic"), [7]);
    }

    #[tokio::test]
    async fn a_slave_learns_from_what_its_server_refuses_as_a_write() {
        let prevents = |option: &str| ServerError::new(1290, b"HY000", format!("running with the --{option} option"));
        for (role, intent, answer, learned) in [
            (Role::Slave, Intent::Read, ServerError::new(1792, b"25006", "read only transaction"), true),
            (Role::Slave, Intent::SessionState, prevents("read-only"), true),
            (Role::Slave, Intent::Read, prevents("secure-file-priv"), false),
            (Role::Slave, Intent::Read, ServerError::new(1146, b"42S02", "no such table"), false),
            (Role::Slave, Intent::Transaction, ServerError::new(1792, b"25006", "read only transaction"), false),
            (Role::Master, Intent::Read, ServerError::new(1792, b"25006", "read only transaction"), false),
        ] {
            let classifier = Arc::new(Learning::default());
            let session = Arc::new(Session::new(Front::MySql, role, None, classifier.clone()));
            let mut command = Command::query(&session, b"SELECT * FROM view_that_writes");
            command.classified(Arc::new(Plan { key: 7, ..Plan::bare(intent, "test") }));
            let router = testing::FakeRouter::new([Reply::err(answer.clone())]);
            GuardLayer::new(role).layer(router).call(command).await.expect("an error is a reply");
            assert_eq!(
                *classifier.0.lock().expect("no panic"),
                vec![7; usize::from(learned)],
                "{role} {intent} {answer}"
            );
        }
    }
}

//! Middleware that refuses what this node must not run: on a slave every write, on every node what would hide writes
//! from replication.

use std::{
    future::{Future, Ready, ready},
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::{Command, CommandKind, Error, RefusedOn, Reply, Role, ServerError};

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

impl<S> Guard<S> {
    fn refusal(&self, command: &Command) -> Option<ServerError> {
        if let CommandKind::Unsupported(_) = command.kind() {
            return Some(ServerError::unknown_command(command.kind().name()));
        }
        let slave = self.role == Role::Slave;
        // A command that no classify layer has seen has no plan, and is refused on a slave like any doubt.
        let plan = command.plan();
        let by_name = plan.and_then(|plan| plan.refusal.as_ref());
        if let Some(refusal) = by_name.filter(|refusal| slave || refusal.on == RefusedOn::EveryNode) {
            return Some(ServerError::refused(format!("Towline refuses this: {}", refusal.reason)));
        }
        if slave && command.intent().may_write() {
            let rule = plan.map_or("not classified", |plan| plan.rule.as_ref());
            return Some(ServerError::refused(format!(
                "This Towline node is a read-only slave and refuses writes ({rule}); send them to the master"
            )));
        }
        // The text of such a write need not name the schema, so its plan can't know.
        if command.intent().may_write() && command.session().schema_is(OWN_SCHEMA) {
            return Some(ServerError::refused(format!(
                "Towline refuses writes while `{OWN_SCHEMA}` is the default schema: it holds Towline's own state and \
                 never replicates; USE another schema first"
            )));
        }
        None
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

    fn call(&mut self, command: Command) -> Self::Future {
        match self.refusal(&command) {
            // A command without a reply has nobody to read a refusal; it is dropped.
            Some(_) if !command.kind().has_reply() => GuardFuture::Refused { reply: ready(Ok(Reply::none())) },
            Some(error) => GuardFuture::Refused { reply: ready(Ok(Reply::err(error))) },
            None => GuardFuture::Passed { inner: self.inner.call(command) },
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
            #[pin]
            inner: F,
        },
    }
}

impl<F: Future<Output = Result<Reply, Error>>> Future for GuardFuture<F> {
    type Output = Result<Reply, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            Projected::Refused { reply } => Pin::new(reply).poll(cx),
            Projected::Passed { inner } => inner.poll(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Completion, Intent, Plan, Refusal, testing};

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
    async fn refusals_by_name_hold_where_they_say() {
        let plan =
            |on| Plan { refusal: Some(Refusal { on, reason: "test".into() }), ..Plan::bare(Intent::Read, "test") };
        assert!(outcome(Role::Slave, plan(RefusedOn::Slave)).await.server_error().is_some());
        assert!(outcome(Role::Master, plan(RefusedOn::Slave)).await.server_error().is_none());
        assert!(outcome(Role::Master, plan(RefusedOn::EveryNode)).await.server_error().is_some());
    }
}

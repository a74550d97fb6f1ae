//! Middleware that turns a commit into a position and holds the client's OK until enough slaves have it.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::{
    Acknowledgement, BoxFuture, Command, Completion, Details, Error, Final, Part, Parts, Plan, Position, Replication,
    Reply, ServerError, Session,
};

/// Applies [`FanOut`]; on a node without slaves of its own it passes everything through.
///
/// # Order
/// Just outside the router: it must see every commit, also those that a layer makes by itself.
#[derive(Clone, Debug)]
pub struct FanOutLayer(Option<Arc<dyn Replication>>);

impl FanOutLayer {
    /// The fan-out of a master.
    pub fn master(replication: Arc<dyn Replication>) -> Self {
        Self(Some(replication))
    }

    /// A slave pushes nothing on.
    pub fn slave() -> Self {
        Self(None)
    }
}

impl<S> Layer<S> for FanOutLayer {
    type Service = FanOut<S>;

    fn layer(&self, inner: S) -> FanOut<S> {
        FanOut { replication: self.0.clone(), inner }
    }
}

/// Puts positions on commits, and waits for slaves as `ack` says.
#[derive(Debug)]
pub struct FanOut<S> {
    replication: Option<Arc<dyn Replication>>,
    inner: S,
}

impl<S> Service<Command> for FanOut<S>
where
    S: Service<Command, Response = Reply, Error = Error>,
{
    type Response = Reply;
    type Error = Error;
    type Future = FanOutFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut command: Command) -> Self::Future {
        if self.replication.as_ref().is_some_and(|replication| replication.waits()) {
            command.await_commit();
        }
        let watch = self.replication.clone().map(|replication| {
            let known = replication.known();
            let (session, plan) = (command.session().clone(), command.plan().cloned());
            Watch { replication, session, plan, known }
        });
        FanOutFuture::Running { watch, inner: self.inner.call(command) }
    }
}

/// What one command's finals are measured against.
#[derive(Clone, Debug)]
struct Watch {
    replication: Arc<dyn Replication>,
    session: Arc<Session>,
    plan: Option<Arc<Plan>>,
    /// What was known of the master's history when the command began.
    known: Position,
}

impl Watch {
    /// Puts the position on a commit and returns it when the client must wait for it.
    fn mark(&self, completion: &mut Completion) {
        let Some(details) = &mut completion.details else { return };
        let Some(gtid) = &details.gtid else { return };
        details.position = self.replication.position_of(gtid);
        if let Some(plan) = self.plan.as_ref().filter(|plan| plan.intent < crate::Intent::Transaction) {
            self.replication.misclassified(plan.key);
        }
    }

    /// Holds one final back until its commit is acknowledged. A missing acknowledgement becomes a warning, or an error in
    /// the place of the reply's last final, be that an error itself: the one thing that must not go unsaid. Until then it
    /// is in `missing`, for behind an error no other result may follow.
    async fn hold(&self, end: &mut Final, missing: &mut Option<ServerError>) {
        let has_more = matches!(end, Final::Ok(completion) if completion.has_more());
        if let Final::Ok(completion) = end
            && let Some(error) = self.acknowledge(completion).await
        {
            missing.get_or_insert(error);
        }
        if !has_more && let Some(error) = missing.take() {
            *end = Final::Err(error);
        }
    }

    /// Waits until this OK's commit is acknowledged, and returns what the client is told in its place.
    async fn acknowledge(&self, completion: &mut Completion) -> Option<ServerError> {
        self.mark(completion);
        if !self.replication.waits() {
            return None;
        }
        let Details { gtid, gtid_is_newest, unlogged, position, .. } = completion.details();
        let Some(gtid) = gtid else {
            if *unlogged {
                self.replication.unlogged_write();
                warn(completion, "The server did not log this write: no slave will have it".to_owned());
            }
            return None;
        };
        if *gtid_is_newest && *position == Some(self.known) {
            // Nobody has committed anything since the command began.
            return None;
        }
        let hold = self.session.hold();
        let acknowledgement = match position {
            Some(position) => self.replication.acknowledged(*position, self.known).await,
            None => self.replication.acknowledged_gtid(gtid, self.known).await,
        };
        drop(hold);
        match acknowledgement {
            Acknowledgement::Given => {}
            Acknowledgement::Missing { reason, is_error: true } => {
                return Some(ServerError::new(3024, b"HY000", reason));
            }
            Acknowledgement::Missing { reason, is_error: false } => warn(completion, reason),
        }
        None
    }
}

/// Adds a warning to an OK. Its text is in the packet's text for people, unless the server has used that.
fn warn(completion: &mut Completion, reason: String) {
    completion.warnings = completion.warnings.saturating_add(1);
    let details = completion.details_mut();
    details.replication_warning = Some(reason.as_str().into());
    if details.info.is_empty() {
        details.info = Bytes::from(reason);
    }
}

pin_project! {
    /// The future of [`FanOut`].
    #[project = Projected]
    #[allow(missing_docs, private_interfaces)] // a variant's fields can't carry docs through the macro
    pub enum FanOutFuture<F> {
        /// The inner service runs.
        Running {
            watch: Option<Watch>,
            #[pin]
            inner: F,
        },
        /// The reply is held back.
        Holding {
            held: BoxFuture<'static, Reply>,
        },
    }
}

impl<F> std::fmt::Debug for FanOutFuture<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FanOutFuture")
    }
}

impl<F: Future<Output = Result<Reply, Error>>> Future for FanOutFuture<F> {
    type Output = Result<Reply, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match self.as_mut().project() {
                Projected::Running { watch, inner } => {
                    let mut outcome = inner.poll(cx);
                    let Poll::Ready(Ok(reply)) = &mut outcome else { return outcome };
                    let Some(watch) = watch.take() else { return outcome };
                    if !reply.is_complete() {
                        reply.put_into(|parts| Box::new(Held { watch, parts, missing: None }));
                        return outcome;
                    }
                    if !watch.replication.waits() {
                        reply.ready_finals().for_each(|end| {
                            if let Final::Ok(completion) = end {
                                watch.mark(completion);
                            }
                        });
                        return outcome;
                    }
                    let mut reply = std::mem::replace(reply, Reply::none());
                    let held = Box::pin(async move {
                        let mut missing = None;
                        for end in reply.ready_finals() {
                            watch.hold(end, &mut missing).await;
                        }
                        reply
                    });
                    self.set(FanOutFuture::Holding { held });
                }
                Projected::Holding { held } => return held.as_mut().poll(cx).map(Ok),
            }
        }
    }
}

/// A streaming reply whose finals are held back.
struct Held {
    watch: Watch,
    parts: Box<dyn Parts>,
    /// The error that an earlier result's commit has earned.
    missing: Option<ServerError>,
}

impl Parts for Held {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Part>, Error>> {
        Box::pin(async {
            let mut part = self.parts.next().await?;
            if let Some(Part::Final { end, .. }) = &mut part {
                self.watch.hold(end, &mut self.missing).await;
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::{Intent, Role, testing};

    /// Knows every GTID that ends in a number, and gives what the test wants for an acknowledgement.
    #[derive(Debug)]
    struct Slaves {
        answer: Option<Acknowledgement>,
        misclassified: AtomicUsize,
        unlogged: AtomicUsize,
    }

    impl Replication for Slaves {
        fn position_of(&self, gtid: &str) -> Option<Position> {
            Some(Position::new(1, gtid.rsplit('-').next()?.parse().ok()?))
        }

        fn known(&self) -> Position {
            Position::default()
        }

        fn waits(&self) -> bool {
            self.answer.is_some()
        }

        fn acknowledged(&self, _: Position, _: Position) -> BoxFuture<'_, Acknowledgement> {
            Box::pin(async { self.answer.clone().expect("only asked when it waits") })
        }

        fn misclassified(&self, _: u64) {
            self.misclassified.fetch_add(1, Ordering::Relaxed);
        }

        fn unlogged_write(&self) {
            self.unlogged.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn committed() -> Completion {
        committed_as("0-1-7")
    }

    fn committed_as(gtid: &str) -> Completion {
        let mut completion = Completion::default();
        completion.details_mut().gtid = Some(gtid.into());
        completion
    }

    async fn held(answer: Option<Acknowledgement>, intent: Intent, reply: Reply) -> (Reply, Arc<Slaves>) {
        let slaves = Arc::new(Slaves { answer, misclassified: AtomicUsize::new(0), unlogged: AtomicUsize::new(0) });
        let router = testing::FakeRouter::new([reply]);
        let mut command = Command::query(&testing::session(Role::Master), b"whatever");
        command.classified(Arc::new(Plan::bare(intent, "test")));
        let reply = FanOutLayer::master(slaves.clone()).layer(router).call(command).await.expect("a reply");
        (reply, slaves)
    }

    async fn outcome(answer: Option<Acknowledgement>, intent: Intent, completion: Completion) -> (Final, Arc<Slaves>) {
        let (mut reply, slaves) = held(answer, intent, Reply::ok(completion)).await;
        let end = reply.ready_finals().next().expect("a final").clone();
        (end, slaves)
    }

    #[tokio::test]
    async fn a_commit_gets_its_position_whether_or_not_anyone_waits() {
        for answer in [None, Some(Acknowledgement::Given)] {
            let (end, _) = outcome(answer, Intent::Write, committed()).await;
            assert!(matches!(end, Final::Ok(completion) if completion.details().position == Some(Position::new(1, 7))));
        }
    }

    #[tokio::test]
    async fn a_missing_acknowledgement_is_an_error_or_a_warning_and_never_silence() {
        let missing = |is_error| Some(Acknowledgement::Missing { reason: "0 of 1".to_owned(), is_error });
        let (end, _) = outcome(missing(true), Intent::Write, committed()).await;
        assert!(matches!(end, Final::Err(error) if error.text() == "0 of 1"));
        let (end, _) = outcome(missing(false), Intent::Write, committed()).await;
        assert!(
            matches!(end, Final::Ok(completion) if completion.warnings == 1 && completion.details().info == "0 of 1")
        );
    }

    #[tokio::test]
    async fn a_missing_acknowledgement_of_several_results_ends_the_reply() {
        let several = |end: Final| {
            let more = Completion { status: crate::status::MORE_RESULTS, ..committed() };
            let ends = [Final::Ok(more), end];
            ends.into_iter().zip(1..).map(|(end, sequence)| Part::Final { end, sequence }).collect::<Vec<_>>()
        };
        for end in [Final::Ok(Completion::default()), Final::Err(ServerError::new(1146, b"42S02", "no such table"))] {
            for streamed in [false, true] {
                let parts = several(end.clone());
                let reply = match streamed {
                    true => Reply::new(crate::Head::Ok, [], Some(Box::new(Streamed(parts.into())))),
                    false => Reply::new(crate::Head::Ok, parts, None),
                };
                let missing = Acknowledgement::Missing { reason: "0 of 1".to_owned(), is_error: true };
                let mut reply = held(Some(missing), Intent::Write, reply).await.0;
                let mut ends = Vec::new();
                while let Some(part) = reply.next().await.expect("a part") {
                    let Part::Final { end, sequence } = part else { panic!("{part:?}") };
                    ends.push((matches!(end, Final::Ok(_)), sequence));
                    if let Final::Err(error) = end {
                        assert_eq!(error.text(), "0 of 1");
                    }
                }
                assert_eq!(ends, [(true, 1), (false, 2)], "streamed: {streamed}");
            }
        }
    }

    /// Parts that come one by one.
    struct Streamed(std::collections::VecDeque<Part>);

    impl Parts for Streamed {
        fn next(&mut self) -> BoxFuture<'_, Result<Option<Part>, Error>> {
            Box::pin(async { Ok(self.0.pop_front()) })
        }

        fn answer(&mut self, _: Bytes) -> BoxFuture<'_, Result<(), Error>> {
            unreachable!("nothing asks")
        }
    }

    #[tokio::test]
    async fn a_commit_without_a_position_is_not_acknowledged() {
        let (end, _) = outcome(Some(Acknowledgement::Given), Intent::Write, committed_as("0-1-later")).await;
        assert!(matches!(end, Final::Err(error) if error.text().contains("0-1-later")));
    }

    #[tokio::test]
    async fn a_read_that_commits_and_a_write_that_does_not_are_counted() {
        let (_, slaves) = outcome(None, Intent::Read, committed()).await;
        assert_eq!(slaves.misclassified.load(Ordering::Relaxed), 1);
        let unchanged = Completion { affected_rows: 1, ..Completion::default() };
        let mut unlogged = unchanged.clone();
        unlogged.details_mut().unlogged = true;
        for (completion, unlogged) in [(unlogged, 1), (unchanged, 0)] {
            let (end, slaves) = outcome(Some(Acknowledgement::Given), Intent::Write, completion).await;
            assert_eq!(slaves.unlogged.load(Ordering::Relaxed), unlogged);
            assert!(matches!(end, Final::Ok(completion) if usize::from(completion.warnings) == unlogged));
        }
    }
}

//! What a layer's tests need: sessions without sockets, a classifier that goes by the first word, a router that answers
//! from a list, and [`conformance`], which is what every layer must keep.
//!
//! A layer that looks at tokens or tables is tested with a node's own classifier: [`session_with`].

use std::{
    collections::VecDeque,
    future::{Ready, ready},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use tower::{Service, ServiceExt};

use crate::{
    BoxFuture, Classifier, Command, CommandKind, Completion, Error, Final, Front, Head, Intent, Part, Parts, Plan,
    Reply, Role, ServerError, Session, SqlMode, Stack, UserLayer,
    layers::{fan_out::FanOutLayer, guard::GuardLayer, user::UserLayers},
};

/// Goes by the first word; what it does not know is unknown. It tells neither tokens nor tables; a node's own classifier
/// does, and looks far closer.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByFirstWord;

impl Classifier for ByFirstWord {
    fn classify(&self, sql: &[u8], _: SqlMode) -> Arc<Plan> {
        let text = String::from_utf8_lossy(sql);
        let word = text.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
        let intent = match word.as_str() {
            "SELECT" | "SHOW" => Intent::Read,
            "SET" | "USE" => Intent::SessionState,
            "BEGIN" | "START" | "COMMIT" | "ROLLBACK" => Intent::Transaction,
            "INSERT" | "UPDATE" | "DELETE" | "REPLACE" | "CREATE" | "DROP" | "ALTER" | "TRUNCATE" => Intent::Write,
            _ => Intent::Unknown,
        };
        Arc::new(Plan::bare(intent, "first word"))
    }

    fn learn_write(&self, _: u64) {}
}

/// Has the same plan for every text, as a node's own classifier has one at hand for what it has met before: what a command
/// costs without classification.
#[derive(Clone, Debug)]
pub struct Known(pub Arc<Plan>);

impl Classifier for Known {
    fn classify(&self, _: &[u8], _: SqlMode) -> Arc<Plan> {
        Arc::clone(&self.0)
    }

    fn learn_write(&self, _: u64) {}
}

/// A session without a client, of the user `app` with the default schema `shop`.
pub fn session(role: Role) -> Arc<Session> {
    session_with(role, Arc::new(ByFirstWord))
}

/// The same with a classifier: a node's own is `towline::classify::SqlClassifier`.
pub fn session_with(role: Role, classifier: Arc<dyn Classifier>) -> Arc<Session> {
    let session = Session::new(Front::MySql, role, None, classifier);
    session.set_user("app");
    session.set_schema("shop");
    Arc::new(session)
}

/// A text command on a fresh session of a master.
pub fn command(sql: &str) -> Command {
    Command::query(&session(Role::Master), sql)
}

/// A router that answers from a list and remembers what it was asked. Clones share both.
///
/// As a node's own it has one connection: while a reply of it is being read, another command is answered with error
/// 2014, and once a reply was dropped before its end, the next command ends the session.
#[derive(Clone, Debug, Default)]
pub struct FakeRouter {
    replies: Arc<Mutex<VecDeque<Reply>>>,
    commands: Arc<Mutex<Vec<Command>>>,
    lease: Arc<Mutex<Lease>>,
}

/// Who has the router's connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Lease {
    /// Nobody.
    #[default]
    Free,
    /// A reply that is being read.
    Taken,
    /// A reply was dropped before its end: nobody could tell the rest of it from the next.
    Broken,
}

/// A reply that streams, with the connection.
struct Leased {
    parts: Box<dyn Parts>,
    lease: Arc<Mutex<Lease>>,
    is_at_end: bool,
}

impl Parts for Leased {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Part>, Error>> {
        Box::pin(async {
            let part = self.parts.next().await?;
            self.is_at_end = part.is_none();
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

impl Drop for Leased {
    fn drop(&mut self) {
        *lock(&self.lease) = if self.is_at_end { Lease::Free } else { Lease::Broken };
    }
}

impl FakeRouter {
    /// A router that gives these replies, in order.
    pub fn new(replies: impl IntoIterator<Item = Reply>) -> Self {
        let replies = Arc::new(Mutex::new(replies.into_iter().collect()));
        Self { replies, ..Self::default() }
    }

    /// How many commands reached it.
    pub fn calls(&self) -> usize {
        lock(&self.commands).len()
    }

    /// The SQL that reached it, in order.
    pub fn sql(&self) -> Vec<String> {
        lock(&self.commands).iter().map(|command| String::from_utf8_lossy(command.sql()).into_owned()).collect()
    }
}

impl Service<Command> for FakeRouter {
    type Response = Reply;
    type Error = Error;
    type Future = Ready<Result<Reply, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, command: Command) -> Self::Future {
        let mut lease = lock(&self.lease);
        match *lease {
            Lease::Free => {}
            Lease::Taken => return ready(Ok(Reply::err(ServerError::new(2014, b"HY000", "Commands out of sync")))),
            Lease::Broken => {
                return ready(Err(Error::Protocol { peer: "test", what: "a reply was not read to its end" }));
            }
        }
        lock(&self.commands).push(command);
        let Some(reply) = lock(&self.replies).pop_front() else {
            return ready(Err(Error::Protocol { peer: "test", what: "more commands than replies" }));
        };
        if reply.is_complete() {
            return ready(Ok(reply));
        }
        *lease = Lease::Taken;
        let lease = self.lease.clone();
        ready(Ok(reply.wrap(|parts| Box::new(Leased { parts, lease, is_at_end: false }))))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a node with this one layer answers: the layer stands where a node puts it, between classify and guard.
///
/// # Errors
/// The session is over.
pub async fn run(layer: impl UserLayer + 'static, router: FakeRouter, command: Command) -> Result<Reply, Error> {
    let session = command.session().clone();
    stack(session.role(), Arc::new(layer)).session(&session, router).oneshot(command).await
}

/// What a node with this one layer answers to a client that prepares SQL without parameters and executes it, which is two
/// commands for the layer. If the first is refused, that is the answer.
///
/// # Errors
/// The session is over.
pub async fn run_prepared(
    layer: impl UserLayer + 'static,
    router: FakeRouter,
    session: &Arc<Session>,
    sql: &str,
) -> Result<Reply, Error> {
    const ID: [u8; 4] = 1_u32.to_le_bytes();
    let prepared = Head::Prepared { statement_id: u32::from_le_bytes(ID), parameters: 0 };
    lock(&router.replies).push_front(Reply::new(prepared, [], None));
    let mut service = stack(session.role(), Arc::new(layer)).session(session, router);
    let prepare = [&[CommandKind::Prepare.to_byte()], sql.as_bytes()].concat();
    let reply = service.ready().await?.call(Command::new(session.clone(), prepare.into())).await?;
    if reply.server_error().is_some() {
        return Ok(reply);
    }
    // No cursor, and one iteration.
    let execute = [&[CommandKind::Execute.to_byte()][..], &ID, &[0], &1_u32.to_le_bytes()].concat();
    service.ready().await?.call(Command::new(session.clone(), execute.into())).await
}

fn stack(role: Role, layer: Arc<dyn UserLayer>) -> Stack {
    Stack {
        trace: Default::default(),
        admission: Default::default(),
        classify: Default::default(),
        user: UserLayers::new([("tested".to_owned(), layer)]),
        guard: GuardLayer::new(role),
        fan_out: FanOutLayer::slave(),
    }
}

/// A reply that streams: what is read of it is counted in `read`.
fn streaming(rows: usize, read: &Arc<AtomicUsize>) -> Reply {
    // One column without a name, and rows of one byte.
    let head = Part::Packets(Bytes::from_static(
        b"\x01\0\0\x01\x01\x17\0\0\x02\x03def\0\0\0\0\0\x0c\x2d\0\x04\0\0\0\xfd\0\0\0\0\0",
    ));
    Reply::new(Head::Rows, [head], Some(Box::new(Rows { left: rows, sequence: 3, read: read.clone() })))
}

struct Rows {
    left: usize,
    sequence: u8,
    read: Arc<AtomicUsize>,
}

impl Parts for Rows {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Part>, Error>> {
        self.read.fetch_add(1, Ordering::AcqRel);
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        let part = match self.left {
            0 => None,
            1 => {
                let end = Final::Ok(Completion { ends_rows: true, ..Completion::default() });
                Some(Part::Final { end, sequence })
            }
            _ => Some(Part::Packets(Bytes::copy_from_slice(&[2, 0, 0, sequence, 1, b'x']))),
        };
        self.left = self.left.saturating_sub(1);
        Box::pin(ready(Ok(part)))
    }

    fn answer(&mut self, _: Bytes) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(ready(Ok(())))
    }
}

/// Runs a layer through what every layer must keep; `make` makes a fresh one.
///
/// - A command is answered once: with the reply of what is inside, or with one of the layer's own.
/// - An error of the server's stays an error, and an end of the session stays one.
/// - Rows stay a stream: they are not read before the client takes them.
/// - A command that has no reply gets none.
/// - What nobody could classify is a write: on a slave it does not get round the guard.
///
/// # Panics
/// When the layer does not keep one of them; the message says which.
pub async fn conformance<L: UserLayer + 'static>(make: impl Fn() -> L) {
    let refusal = ServerError::new(1146, b"42S02", "Table 'shop.nothing' doesn't exist");
    let router = FakeRouter::new([Reply::err(refusal)]);
    let reply =
        run(make(), router, command("SELECT * FROM nothing")).await.expect("a refusal must not end the session");
    assert!(reply.server_error().is_some(), "the server's error did not stay an error");

    let router = FakeRouter::default();
    let ended = run(make(), router.clone(), command("SELECT 1")).await;
    // A layer may have refused it before.
    assert!(ended.is_err() || router.calls() == 0, "the session's end was hidden");

    let read = Arc::new(AtomicUsize::new(0));
    let router = FakeRouter::new([streaming(1000, &read)]);
    let mut reply = run(make(), router, command("SELECT name FROM item")).await.expect("a reply");
    assert!(read.load(Ordering::Acquire) < 10, "rows were read before the client took them");
    let mut ends = 0;
    while let Some(part) = reply.next().await.expect("the session goes on") {
        ends += usize::from(matches!(part, Part::Final { .. }));
    }
    assert_eq!(ends, 1, "a reply has one end");

    let close = Command::new(session(Role::Master), Bytes::from_static(b"\x19\x01\0\0\0"));
    assert_eq!(close.kind(), CommandKind::CloseStatement);
    let router = FakeRouter::new([Reply::none()]);
    let reply = run(make(), router.clone(), close).await.expect("no reply is no error");
    assert_eq!((reply.head(), router.calls()), (Head::None, 1), "a command without a reply was not passed on");

    let router = FakeRouter::new([Reply::ok(Completion::default())]);
    let unknown = Command::query(&session(Role::Slave), "FROBNICATE item");
    let reply = run(make(), router.clone(), unknown).await.expect("a refusal is a reply");
    assert!(reply.server_error().is_some() && router.calls() == 0, "what nobody could classify got past the guard");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Next, from_fn};

    #[tokio::test]
    async fn a_layer_that_passes_everything_on_conforms() {
        conformance(|| from_fn(async |command: Command, next: Next| next.run(command).await)).await;
    }

    #[tokio::test]
    #[should_panic(expected = "the session's end was hidden")]
    async fn a_layer_that_makes_an_error_of_the_sessions_end_does_not() {
        conformance(|| {
            from_fn(async |command: Command, next: Next| {
                let ended = |error: Error| Ok(Reply::err(ServerError::refused(error.to_string())));
                next.run(command).await.or_else(ended)
            })
        })
        .await;
    }

    #[tokio::test]
    async fn the_router_has_one_connection() {
        let read = Arc::default();
        let mut router = FakeRouter::new([streaming(3, &read), streaming(3, &read)]);
        let mut ask = || router.call(command("SELECT 1"));
        let mut first = ask().await.expect("a reply");
        let code = |reply: Reply| reply.server_error().map(|error| error.code);
        assert_eq!(code(ask().await.expect("a refusal")), Some(2014));
        while first.next().await.expect("rows").is_some() {}
        drop(first);
        drop(ask().await.expect("a reply"));
        ask().await.expect_err("the second was not read to its end");
    }

    #[tokio::test]
    #[should_panic(expected = "rows were read before")]
    async fn a_layer_that_collects_rows_does_not() {
        conformance(|| {
            from_fn(async |command: Command, next: Next| {
                let mut reply = next.run(command).await?;
                let mut all = Vec::new();
                let head = reply.head();
                while let Some(part) = reply.next().await? {
                    all.push(part);
                }
                Ok(Reply::new(head, all, None))
            })
        })
        .await;
    }
}

//! A command costs the core layers no allocation, and each user layer the box of its future.

use std::{
    future::{Future, Ready, ready},
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use allocation_counter::measure;
use tower::Service;
use towline_middleware::{
    Acknowledgement, BoxFuture, Command, Completion, Error, Front, Intent, Next, Plan, Position, Replication, Reply,
    Role, Session, Stack, UserLayer, from_fn,
    layers::{fan_out::FanOutLayer, guard::GuardLayer, user::UserLayers},
    testing::Known,
};

/// Answers at once.
struct AtOnce;

impl Service<Command> for AtOnce {
    type Response = Reply;
    type Error = Error;
    type Future = Ready<Result<Reply, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Command) -> Self::Future {
        ready(Ok(Reply::ok(Completion::default())))
    }
}

/// A master's replication that nobody waits for.
#[derive(Debug)]
struct NobodyWaits;

impl Replication for NobodyWaits {
    fn position_of(&self, _: &str) -> Option<Position> {
        None
    }

    fn known(&self) -> Position {
        Position::default()
    }

    fn waits(&self) -> bool {
        false
    }

    fn acknowledged(&self, _: Position, _: Position) -> BoxFuture<'_, Acknowledgement> {
        Box::pin(ready(Acknowledgement::Given))
    }

    fn misclassified(&self, _: u64) {}

    fn unlogged_write(&self) {}
}

/// How many allocations a ping and a query make in a master's stack with so many user layers.
fn allocations(user: usize) -> u64 {
    let layer =
        || Arc::new(from_fn(async |command: Command, next: Next| next.run(command).await)) as Arc<dyn UserLayer>;
    let stack = Stack {
        trace: Default::default(),
        admission: Default::default(),
        classify: Default::default(),
        user: UserLayers::new((0..user).map(|number| (number.to_string(), layer()))),
        guard: GuardLayer::new(Role::Master),
        fan_out: FanOutLayer::master(Arc::new(NobodyWaits)),
    };
    let classifier = Arc::new(Known(Arc::new(Plan::bare(Intent::Write, "test"))));
    let session = Arc::new(Session::new(Front::MySql, Role::Master, None, classifier));
    let mut service = stack.session(&session, AtOnce);
    let mut both = || {
        for packet in [&b"\x0e"[..], b"\x03UPDATE item SET n = 1"] {
            let mut cx = Context::from_waker(Waker::noop());
            assert!(service.poll_ready(&mut cx).is_ready());
            let command = Command::new(session.clone(), packet.into());
            assert!(pin!(service.call(command)).poll(&mut cx).is_ready());
        }
    };
    both();
    measure(|| (0..100).for_each(|_| both())).count_total / 100
}

#[test]
fn the_core_allocates_nothing_per_command() {
    assert_eq!(allocations(0), 0);
}

#[test]
fn a_user_layer_allocates_its_future() {
    let one = allocations(1);
    let more = allocations(5) - one;
    assert!(more <= 8, "{more} allocations of two commands for four layers more");
}

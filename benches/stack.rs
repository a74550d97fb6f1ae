//! What do the layers cost a command, without classification and without a database?
//!
//! `core` is trace ▸ admission ▸ classify ▸ guard ▸ fan-out around a router that answers at once, with a classifier that
//! knows its answer. `user/n` adds so many layers of one asynchronous function each: the difference is their price.

#![allow(missing_docs, reason = "the macros make functions without them")]

use std::{
    hint::black_box,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use criterion::{Criterion, criterion_group, criterion_main};
use tower::Service;
use towline_middleware::{
    Command, Completion, Error, Front, Intent, Next, Plan, Reply, Role, Session, Stack, UserLayer, from_fn,
    layers::{fan_out::FanOutLayer, guard::GuardLayer, user::UserLayers},
    testing::Known,
};

/// Answers at once.
struct AtOnce;

impl Service<Command> for AtOnce {
    type Response = Reply;
    type Error = Error;
    type Future = std::future::Ready<Result<Reply, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Command) -> Self::Future {
        std::future::ready(Ok(Reply::ok(Completion::default())))
    }
}

fn stack(user: usize) -> Stack {
    let layer =
        || Arc::new(from_fn(async |command: Command, next: Next| next.run(command).await)) as Arc<dyn UserLayer>;
    Stack {
        trace: Default::default(),
        admission: Default::default(),
        classify: Default::default(),
        user: UserLayers::new((0..user).map(|number| (number.to_string(), layer()))),
        guard: GuardLayer::new(Role::Master),
        fan_out: FanOutLayer::slave(),
    }
}

fn commands(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("stack");
    let classifier = Arc::new(Known(Arc::new(Plan::bare(Intent::Read, "bench"))));
    let session = Arc::new(Session::new(Front::MySql, Role::Master, None, classifier));
    let mut router = AtOnce;
    let command = Command::new(session.clone(), b"\x03SELECT 1"[..].into());
    group.bench_function("router", |bencher| bencher.iter(|| router.call(black_box(command.clone()))));
    for user in [0, 1, 2, 4, 8] {
        let mut service = stack(user).session(&session, AtOnce);
        let command = Command::new(session.clone(), b"\x03SELECT 1"[..].into());
        let name = if user == 0 { "core".to_owned() } else { format!("user/{user}") };
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut cx = Context::from_waker(Waker::noop());
                assert!(service.poll_ready(&mut cx).is_ready());
                let mut reply = std::pin::pin!(service.call(black_box(command.clone())));
                reply.as_mut().poll(&mut cx)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, commands);
criterion_main!(benches);

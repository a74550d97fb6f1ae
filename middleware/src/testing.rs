//! What a layer's tests need: a router that answers from a list, and sessions without sockets.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use tower::Service;

use crate::{Classifier, Command, Error, Front, Intent, Plan, Reply, Role, Session, SqlMode};

/// Takes every text for a write: the answer to all doubt, and enough for a layer that does not look at intents.
#[derive(Debug)]
pub struct EverythingWrites;

impl Classifier for EverythingWrites {
    fn classify(&self, _: &[u8], _: SqlMode) -> Arc<Plan> {
        Arc::new(Plan::bare(Intent::Unknown, "not classified"))
    }

    fn learn_write(&self, _: u64) {}
}

/// A session without a client.
pub fn session(role: Role) -> Arc<Session> {
    Arc::new(Session::new(Front::MySql, role, None, Arc::new(EverythingWrites)))
}

/// A router that answers from a list and counts its calls. Clones share both.
#[derive(Clone, Debug)]
pub struct FakeRouter {
    replies: Arc<Mutex<VecDeque<Reply>>>,
    calls: Arc<AtomicUsize>,
}

impl FakeRouter {
    /// A router that gives these replies, in order.
    pub fn new(replies: impl IntoIterator<Item = Reply>) -> Self {
        Self { replies: Arc::new(Mutex::new(replies.into_iter().collect())), calls: Arc::default() }
    }

    /// How many commands reached it.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Acquire)
    }
}

impl Service<Command> for FakeRouter {
    type Response = Reply;
    type Error = Error;
    type Future = std::future::Ready<Result<Reply, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Command) -> Self::Future {
        self.calls.fetch_add(1, Ordering::AcqRel);
        let reply = self.replies.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        std::future::ready(reply.ok_or(Error::Protocol { peer: "test", what: "more commands than replies" }))
    }
}

//! How far enough slaves are: what clients' OKs wait for.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashSet},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::watch;
use towline_middleware::Position;

use crate::config::Ack;

/// The positions that slaves have confirmed, and the newest one that enough of them have.
#[derive(Debug)]
pub(crate) struct Acks {
    ack: Ack,
    confirmed: Mutex<BTreeMap<AckId, Confirmed>>,
    next_id: AtomicU64,
    /// Set for good once what was confirmed says nothing of the master's history any more.
    is_void: AtomicBool,
    /// The newest position that as many slaves as wanted have applied; `0:0` when there are not so many.
    reached: watch::Sender<Position>,
}

/// A registered slave, and what it has said.
#[derive(Debug)]
struct Confirmed {
    id: String,
    /// Up to where it has applied everything.
    position: Position,
    /// What its server calls itself, if it says so.
    server: Option<String>,
}

impl Confirmed {
    fn forget(&mut self) {
        (self.position, self.server) = Default::default();
    }
}

/// One registration of a slave: a late word of one that was removed or has moved counts for nobody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AckId(u64);

impl Acks {
    pub(crate) fn new(ack: Ack) -> Self {
        Self {
            ack,
            confirmed: Mutex::default(),
            next_id: AtomicU64::new(0),
            is_void: AtomicBool::new(false),
            reached: watch::Sender::new(Position::default()),
        }
    }

    /// Whether anybody waits at all.
    pub(crate) fn wanted(&self) -> bool {
        self.ack != Ack::None
    }

    /// One more slave is registered, of which nothing is known.
    pub(crate) fn add(&self, id: &str) -> AckId {
        let ack_id = AckId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let mut confirmed = self.confirmed.lock();
        confirmed.insert(ack_id, Confirmed { id: id.to_owned(), position: Position::default(), server: None });
        self.update(&confirmed);
        ack_id
    }

    /// A slave has applied everything up to `position`, and calls its server so; `0:0` when nothing is known of it any
    /// more.
    pub(crate) fn confirm(&self, slave: AckId, position: Position, server: Option<String>) {
        let mut confirmed = self.confirmed.lock();
        if !self.is_void.load(Ordering::Relaxed)
            && let Some(known) = confirmed.get_mut(&slave)
            && (known.position != position || known.server != server)
        {
            known.position = position;
            if known.server != server
                && let Some(old) = std::mem::replace(&mut known.server, server)
            {
                // If it has a new name, what it said by another URL under the old one must not count besides.
                let same = |other: &&mut Confirmed| other.server.as_ref() == Some(&old);
                confirmed.values_mut().filter(same).for_each(Confirmed::forget);
            }
            self.update(&confirmed);
        }
    }

    /// The ids of slaves that are one server, a list for each such server.
    pub(crate) fn alike(&self) -> Vec<Vec<String>> {
        let mut servers = BTreeMap::<String, Vec<String>>::new();
        for Confirmed { id, server, .. } in self.confirmed.lock().values() {
            if let Some(server) = server {
                servers.entry(server.clone()).or_default().push(id.clone());
            }
        }
        servers.into_values().filter(|ids| ids.len() > 1).collect()
    }

    /// Forgets what was confirmed, and takes no more of it.
    pub(crate) fn void(&self) {
        let mut confirmed = self.confirmed.lock();
        self.is_void.store(true, Ordering::Relaxed);
        confirmed.values_mut().for_each(Confirmed::forget);
        self.update(&confirmed);
    }

    /// A slave is no longer registered.
    pub(crate) fn remove(&self, slave: AckId) {
        let mut confirmed = self.confirmed.lock();
        confirmed.remove(&slave);
        self.update(&confirmed);
    }

    /// Waits until enough slaves have applied `position`.
    ///
    /// # Errors
    /// When they have not in time: how many have, how many were wanted, and how many there are.
    pub(crate) async fn wait(&self, position: Position, timeout: Duration) -> Result<(), Missing> {
        let mut reached = self.reached.subscribe();
        match tokio::time::timeout(timeout, reached.wait_for(|reached| *reached >= position)).await {
            Ok(Ok(_)) => Ok(()),
            // The sender lives in `self`, so only the time can be over.
            _ => Err(self.missing(position)),
        }
    }

    fn missing(&self, position: Position) -> Missing {
        let confirmed = self.confirmed.lock();
        let have = of_each_server(&confirmed).iter().filter(|at| **at >= position).count();
        Missing { have, wanted: wanted(self.ack, confirmed.len()), registered: confirmed.len() }
    }

    fn update(&self, confirmed: &BTreeMap<AckId, Confirmed>) {
        let positions = of_each_server(confirmed);
        let reached = match wanted(self.ack, confirmed.len()) {
            0 => Position::default(),
            wanted => positions.get(wanted - 1).copied().unwrap_or_default(),
        };
        self.reached.send_if_modified(|known| std::mem::replace(known, reached) != reached);
    }
}

/// Up to where each server has applied everything, the newest first. One that is registered under several URLs counts
/// once. It is wanted as often as it is registered: two may call themselves alike nevertheless.
fn of_each_server(confirmed: &BTreeMap<AckId, Confirmed>) -> Vec<Position> {
    let mut all: Vec<&Confirmed> = confirmed.values().collect();
    all.sort_unstable_by_key(|said| Reverse(said.position));
    let mut servers = HashSet::new();
    all.retain(|said| said.server.as_ref().is_none_or(|server| servers.insert(server)));
    all.into_iter().map(|said| said.position).collect()
}

/// Too few slaves have applied a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) have: usize,
    pub(crate) wanted: usize,
    pub(crate) registered: usize,
}

/// How many of the registered slaves must have applied a write. Never fewer than one: a cluster whose slaves have not
/// come yet acknowledges nothing.
fn wanted(ack: Ack, registered: usize) -> usize {
    match ack {
        Ack::None => 0,
        Ack::One => 1,
        // More than half of the nodes; the master, which is one of them, has it.
        Ack::Majority => registered.div_ceil(2).max(1),
        Ack::All => registered.max(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seq: u64) -> Position {
        Position::new(1, seq)
    }

    #[test]
    fn majority_counts_the_master_among_the_nodes() {
        let wanted_of = |ack| [0, 1, 2, 3, 4, 5].map(|registered| wanted(ack, registered));
        assert_eq!(wanted_of(Ack::None), [0; 6]);
        assert_eq!(wanted_of(Ack::One), [1; 6]);
        assert_eq!(wanted_of(Ack::Majority), [1, 1, 1, 2, 2, 3]);
        assert_eq!(wanted_of(Ack::All), [1, 1, 2, 3, 4, 5]);
    }

    #[tokio::test]
    async fn a_wait_ends_when_enough_have_it_and_not_before() {
        let acks = Acks::new(Ack::All);
        let (short, long) = (Duration::from_millis(20), Duration::from_secs(30));
        assert_eq!(acks.wait(at(1), short).await, Err(Missing { have: 0, wanted: 1, registered: 0 }));
        let a = acks.add("a");
        acks.confirm(a, at(5), None);
        assert_eq!(acks.wait(at(5), long).await, Ok(()));
        let b = acks.add("b");
        acks.confirm(b, at(4), None);
        assert_eq!(acks.wait(at(5), short).await, Err(Missing { have: 1, wanted: 2, registered: 2 }));
        let (waited, ()) = tokio::join!(acks.wait(at(5), long), async { acks.confirm(b, at(6), None) });
        assert_eq!(waited, Ok(()));
        acks.confirm(a, Position::default(), None);
        assert!(acks.wait(at(5), short).await.is_err(), "a slave that lost its data has not applied it");
        acks.remove(a);
        assert_eq!(acks.wait(at(6), long).await, Ok(()));
        acks.void();
        acks.confirm(b, at(6), None);
        assert!(acks.wait(at(6), short).await.is_err(), "of a history that is lost nothing counts");
    }

    #[tokio::test]
    async fn a_server_under_two_urls_counts_once() {
        let (short, long) = (Duration::from_millis(20), Duration::from_secs(30));
        let server = |name: &str| Some(name.to_owned());
        let acks = Acks::new(Ack::Majority);
        let [a, again, b] = ["a", "again", "b"].map(|id| acks.add(id));
        acks.confirm(a, at(7), server("a"));
        acks.confirm(again, at(6), server("a"));
        assert_eq!(acks.wait(at(5), short).await, Err(Missing { have: 1, wanted: 2, registered: 3 }));
        assert_eq!(acks.alike(), [["a", "again"]]);
        // One that does not say may be any.
        acks.confirm(b, at(6), None);
        assert_eq!(acks.wait(at(6), long).await, Ok(()));
        acks.confirm(b, at(6), server("a"));
        assert_eq!(acks.wait(at(6), short).await, Err(Missing { have: 1, wanted: 2, registered: 3 }));
        assert_eq!(acks.alike(), [["a", "again", "b"]]);
    }

    #[tokio::test]
    async fn a_server_with_a_new_name_counts_no_more_under_the_old_one() {
        let (short, long) = (Duration::from_millis(20), Duration::from_secs(30));
        let server = |name: &str| Some(name.to_owned());
        let acks = Acks::new(Ack::All);
        let [a, again] = ["a", "again"].map(|id| acks.add(id));
        acks.confirm(a, at(6), server("old"));
        acks.confirm(again, at(5), server("old"));
        acks.confirm(again, at(6), server("new"));
        assert_eq!(acks.wait(at(6), short).await, Err(Missing { have: 1, wanted: 2, registered: 2 }));
        acks.confirm(a, at(6), server("new"));
        assert_eq!(acks.wait(at(6), short).await, Err(Missing { have: 1, wanted: 2, registered: 2 }));
        // Another server stands behind this URL now.
        acks.confirm(a, at(6), server("other"));
        acks.confirm(again, at(6), server("new"));
        assert_eq!(acks.wait(at(6), long).await, Ok(()));
    }

    #[tokio::test]
    async fn a_slave_that_was_removed_counts_no_more() {
        let acks = Acks::new(Ack::All);
        let b = acks.add("b");
        acks.remove(b);
        acks.confirm(b, at(9), None);
        assert!(acks.wait(at(9), Duration::from_millis(20)).await.is_err());
    }
}

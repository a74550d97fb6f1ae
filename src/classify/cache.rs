//! Plans by key, bounded, shared by all sessions.

use std::{collections::HashMap, hash::BuildHasherDefault, sync::Arc};

use parking_lot::Mutex;
use towline_middleware::Plan;

use super::{keyword::Leading, scan::Scan};
use crate::classify::flags::Flags;

/// Few sessions meet in one shard.
const SHARDS: usize = 16;
/// Plans in one generation of one shard.
const GENERATION: usize = 512;

/// Plans by key.
///
/// - A plan is given out only for a scan that is equal in all but the key's preimage: a collision of keys can't
///   give a text the plan of one that was scanned otherwise.
/// - Each shard has two generations. What is asked for moves to the young one; when that is full, it becomes the old one
///   and the old one is dropped. So it holds at most `2 × SHARDS × GENERATION` plans, and a hit allocates nothing.
#[derive(Debug)]
pub(super) struct Cache {
    shards: Box<[Mutex<Shard>]>,
}

#[derive(Debug)]
struct Shard {
    young: Generation,
    old: Generation,
}

type Generation = HashMap<u64, Entry, BuildHasherDefault<Keyed>>;

#[derive(Debug)]
struct Entry {
    plan: Arc<Plan>,
    leading: Leading,
    length: u32,
    flags: Flags,
}

impl Entry {
    fn is_of(&self, scan: &Scan) -> bool {
        self.leading == scan.leading && self.length == scan.length && self.flags == scan.flags
    }
}

impl Cache {
    /// An empty cache.
    pub(super) fn new() -> Self {
        let generation = || Generation::with_capacity_and_hasher(GENERATION, BuildHasherDefault::default());
        let shards = (0..SHARDS).map(|_| Mutex::new(Shard { young: generation(), old: generation() })).collect();
        Self { shards }
    }

    /// The plan of a text that was scanned like this.
    #[inline]
    pub(super) fn get(&self, scan: &Scan) -> Option<Arc<Plan>> {
        let mut shard = self.shard(scan.key).lock();
        if let Some(entry) = shard.young.get(&scan.key) {
            return entry.is_of(scan).then(|| entry.plan.clone());
        }
        let entry = shard.old.remove(&scan.key)?;
        let plan = entry.is_of(scan).then(|| entry.plan.clone());
        shard.insert(scan.key, entry);
        plan
    }

    /// Keeps the plan of a text that was scanned like this.
    pub(super) fn insert(&self, scan: &Scan, plan: Arc<Plan>) {
        let entry = Entry { plan, leading: scan.leading, length: scan.length, flags: scan.flags };
        self.shard(scan.key).lock().insert(scan.key, entry);
    }

    /// Forgets the plan of this key, and returns it.
    pub(super) fn remove(&self, key: u64) -> Option<Arc<Plan>> {
        let mut shard = self.shard(key).lock();
        let (young, old) = (shard.young.remove(&key), shard.old.remove(&key));
        young.or(old).map(|entry| entry.plan)
    }

    fn shard(&self, key: u64) -> &Mutex<Shard> {
        // The map uses the low bits.
        &self.shards[(key >> 32) as usize % SHARDS]
    }
}

impl Shard {
    fn insert(&mut self, key: u64, entry: Entry) {
        if self.young.len() >= GENERATION {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        self.young.insert(key, entry);
    }
}

/// A key is a hash already.
#[derive(Debug, Default)]
struct Keyed(u64);

impl std::hash::Hasher for Keyed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

#[cfg(test)]
mod tests {
    use towline_middleware::{Intent, SqlMode};

    use super::*;
    use crate::classify::{functions::Family, scan::Scanner};

    fn scans(count: usize) -> Vec<Scan> {
        let scanner = Scanner::new(Family::Any);
        (0..count).map(|i| scanner.scan(format!("SELECT c{i} FROM t").as_bytes(), SqlMode::default())).collect()
    }

    fn plan() -> Arc<Plan> {
        Arc::new(Plan::bare(Intent::Read, "test"))
    }

    #[test]
    fn what_is_asked_for_stays_and_the_rest_is_bounded() {
        let cache = Cache::new();
        let scans = scans(4 * SHARDS * GENERATION);
        cache.insert(&scans[0], plan());
        for scan in &scans[1..] {
            cache.insert(scan, plan());
            assert!(cache.get(&scans[0]).is_some(), "a plan in use was dropped");
        }
        let held = |shard: &Mutex<Shard>| {
            let shard = shard.lock();
            shard.young.len() + shard.old.len()
        };
        let held: usize = cache.shards.iter().map(held).sum();
        assert!(held <= 2 * SHARDS * GENERATION, "{held} plans held");
        cache.remove(scans[0].key);
        assert!(cache.get(&scans[0]).is_none());
    }

    #[test]
    fn a_collision_gets_no_plan() {
        let cache = Cache::new();
        let scan = scans(1)[0];
        cache.insert(&scan, plan());
        assert!(cache.get(&scan).is_some());
        assert!(cache.get(&Scan { length: scan.length + 1, ..scan }).is_none());
        assert!(cache.get(&Scan { leading: Leading::default(), ..scan }).is_none());
        assert!(cache.get(&Scan { flags: Flags::UNKNOWN_FUNCTION, ..scan }).is_none());
    }
}

//! Plans by digest, bounded, shared by all sessions.

use std::{collections::HashMap, hash::BuildHasherDefault, sync::Arc};

use parking_lot::Mutex;
use towline_middleware::Plan;

use super::{keyword::Leading, scan::Scan};
use crate::classify::flags::Flags;

/// Few sessions meet in one shard.
const SHARDS: usize = 16;
/// Plans in one generation of one shard.
const GENERATION: usize = 512;

/// Plans by digest.
///
/// - A plan is given out only for a scan that is equal in all but the digest's preimage: a collision of digests can't
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

type Generation = HashMap<u64, Entry, BuildHasherDefault<Digest>>;

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
        let mut shard = self.shard(scan.digest).lock();
        if let Some(entry) = shard.young.get(&scan.digest) {
            return entry.is_of(scan).then(|| entry.plan.clone());
        }
        let entry = shard.old.remove(&scan.digest)?;
        let plan = entry.is_of(scan).then(|| entry.plan.clone());
        shard.insert(scan.digest, entry);
        plan
    }

    /// Keeps the plan of a text that was scanned like this.
    pub(super) fn insert(&self, scan: &Scan, plan: Arc<Plan>) {
        let entry = Entry { plan, leading: scan.leading, length: scan.length, flags: scan.flags };
        self.shard(scan.digest).lock().insert(scan.digest, entry);
    }

    /// Forgets the plan of this digest.
    pub(super) fn remove(&self, digest: u64) {
        let mut shard = self.shard(digest).lock();
        shard.young.remove(&digest);
        shard.old.remove(&digest);
    }

    fn shard(&self, digest: u64) -> &Mutex<Shard> {
        // The map uses the low bits.
        &self.shards[(digest >> 32) as usize % SHARDS]
    }
}

impl Shard {
    fn insert(&mut self, digest: u64, entry: Entry) {
        if self.young.len() >= GENERATION {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        self.young.insert(digest, entry);
    }
}

/// A digest is a keyed hash already.
#[derive(Debug, Default)]
struct Digest(u64);

impl std::hash::Hasher for Digest {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, digest: u64) {
        self.0 = digest;
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
        cache.remove(scans[0].digest);
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

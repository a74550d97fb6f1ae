//! What clients were told, what readers on slaves saw, and whether that can be.

use std::collections::{BTreeMap, HashMap};

/// An item that a client put into a list.
#[derive(Clone, Debug)]
pub(super) struct Appended {
    pub(super) k: u64,
    pub(super) n: u64,
    pub(super) item: u64,
}

/// What one transaction of a reader saw on a slave.
#[derive(Debug)]
pub(super) struct Sight {
    pub(super) slave: usize,
    /// The slave's position, as the same snapshot has it.
    pub(super) seq: u64,
    /// How long each list was, and the XOR over its items of what [`fingerprint`] makes of them.
    pub(super) lists: Vec<(u64, u64, u32)>,
}

/// What has happened.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Acknowledged items, by list and place; with the number of their transaction where that became known.
    acknowledged: BTreeMap<(u64, u64), (u64, Option<u64>)>,
    /// Not looked at yet.
    sights: Vec<Sight>,
    /// The last position that was seen on each slave.
    last_seen: HashMap<usize, u64>,
    violations: Vec<String>,
    looked_at: usize,
}

/// What identifies an item and its place; the readers' SQL says the same.
pub(super) fn fingerprint(n: u64, item: u64) -> u32 {
    crc32fast::hash(format!("{n}-{item}").as_bytes())
}

impl History {
    pub(super) fn acknowledged(&mut self, Appended { k, n, item }: &Appended) {
        if let Some((other, _)) = self.acknowledged.insert((*k, *n), (*item, None)) {
            self.violated(format!("{item} and {other} were both acknowledged at {n} in list {k}"));
        }
    }

    /// The transaction of an acknowledged item has this number.
    pub(super) fn numbered(&mut self, Appended { k, n, .. }: &Appended, number: u64) {
        if let Some((_, seq)) = self.acknowledged.get_mut(&(*k, *n)) {
            *seq = Some(number);
        }
    }

    pub(super) fn saw(&mut self, sight: Sight) {
        let before = self.last_seen.insert(sight.slave, sight.seq).unwrap_or(0);
        if sight.seq < before {
            self.violated(format!("slave {} went back from {before} to {}", sight.slave, sight.seq));
        }
        self.sights.push(sight);
    }

    pub(super) fn violated(&mut self, what: String) {
        self.violations.push(what);
    }

    /// What was found wrong so far.
    pub(super) fn violations(&self) -> &[String] {
        &self.violations
    }

    /// How many writes were acknowledged, and how many sights were looked at.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.acknowledged.len(), self.looked_at + self.sights.len())
    }

    /// Compares everything with the lists that the master holds now: items by place, from 1 on without a gap.
    pub(super) fn judge(&mut self, lists: &BTreeMap<u64, Vec<u64>>) {
        let mut violations = Vec::new();
        for ((k, n), (item, _)) in &self.acknowledged {
            let held = lists.get(k).and_then(|items| items.get(usize::try_from(*n).ok()?.checked_sub(1)?));
            if held != Some(item) {
                violations.push(format!("{item} was acknowledged at {n} in list {k}, where the master has {held:?}"));
            }
        }
        let prefixes: BTreeMap<u64, Vec<u32>> =
            lists.iter().map(|(k, items)| (*k, fingerprints_of_prefixes(items))).collect();
        for sight in &self.sights {
            for k in lists.keys() {
                // A list of which nothing has come is not there.
                let (length, seen) = sight
                    .lists
                    .iter()
                    .find(|(list, ..)| list == k)
                    .map_or((0, 0), |(_, length, seen)| (*length, *seen));
                let expected = usize::try_from(length).ok().and_then(|length| prefixes[k].get(length));
                if expected != Some(&seen) {
                    violations.push(format!("list {k} was no prefix of the master's: {sight:?}"));
                }
                violations.extend(self.misplaced(*k, length, sight));
            }
        }
        self.looked_at += self.sights.len();
        self.sights.clear();
        self.violations.extend(violations);
    }

    /// A slave at a position shows exactly the items that the master had there.
    fn misplaced(&self, k: u64, length: u64, sight: &Sight) -> Option<String> {
        let known = |((_, n), (_, seq)): (&(u64, u64), &(u64, Option<u64>))| Some((*n, (*seq)?));
        let last_in = self.acknowledged.range((k, 0)..=(k, length)).rev().find_map(known);
        let first_out = self.acknowledged.range((k, length + 1)..(k + 1, 0)).find_map(known);
        let early = last_in.filter(|(_, seq)| *seq > sight.seq);
        let late = first_out.filter(|(_, seq)| *seq <= sight.seq);
        let (n, seq) = early.or(late)?;
        Some(format!("list {k} was {length} long, but its item {n} is of transaction {seq}: {sight:?}"))
    }
}

/// At each length from 0 on, the XOR of the fingerprints of so many items.
fn fingerprints_of_prefixes(items: &[u64]) -> Vec<u32> {
    let mut prefixes = vec![0];
    for (n, item) in (1..).zip(items) {
        prefixes.push(prefixes.last().expect("it begins with one") ^ fingerprint(n, *item));
    }
    prefixes
}

/// A judge that sees nothing finds nothing: each kind of fault, by hand.
#[test]
fn the_judge_finds_what_is_wrong() {
    let master = BTreeMap::from([(1, vec![10, 20, 30])]);
    let prefix = |length| *fingerprints_of_prefixes(&master[&1]).get(length).unwrap();
    let judged = |told: &[(u64, u64, u64)], seq, list: (u64, u64, u32)| {
        let mut history = History::default();
        for (n, item, seq) in told {
            let appended = Appended { k: 1, n: *n, item: *item };
            history.acknowledged(&appended);
            history.numbered(&appended, *seq);
        }
        history.saw(Sight { slave: 0, seq, lists: vec![list] });
        history.judge(&master);
        history.violations().to_vec()
    };
    assert_eq!(judged(&[(1, 10, 5), (3, 30, 9)], 7, (1, 2, prefix(2))), [""; 0]);
    assert_eq!(judged(&[(2, 99, 5)], 7, (1, 2, prefix(2))).len(), 1, "an acknowledged write is lost");
    assert_eq!(judged(&[], 7, (1, 2, prefix(3))).len(), 1, "other items than the master's");
    assert_eq!(judged(&[], 7, (1, 4, prefix(3))).len(), 1, "longer than the master's");
    assert_eq!(judged(&[(2, 20, 8)], 7, (1, 2, prefix(2))).len(), 1, "a later transaction is seen");
    assert_eq!(judged(&[(3, 30, 7)], 7, (1, 2, prefix(2))).len(), 1, "an earlier transaction is not seen");
    let mut history = History::default();
    for seq in [5, 4] {
        history.saw(Sight { slave: 0, seq, lists: Vec::new() });
    }
    assert_eq!(history.violations().len(), 1, "a slave went back");
}

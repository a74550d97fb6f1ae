//! The newest transactions, encoded, in memory: what senders that keep up read from.

use std::{collections::VecDeque, sync::Arc};

use super::{encoded::Encoded, protocol::Mark};

/// A bounded run of the master's history without a gap.
///
/// - It begins right after `before`; the first transaction that is pushed must be the one that follows it.
/// - Of a transaction above the limit only this one is kept, so the newest can always be sent.
#[derive(Debug)]
pub(crate) struct Ring {
    before: Mark,
    entries: VecDeque<Arc<Encoded>>,
    bytes: usize,
    bytes_max: usize,
}

/// What follows a mark.
#[derive(Debug)]
pub(crate) enum Following {
    /// The next transactions; none when the mark is the newest.
    Here(Vec<Arc<Encoded>>),
    /// The mark is older than the ring.
    Older,
    /// The mark is newer than anything captured.
    Newer,
    /// The mark's position is within the ring, but with another GTID or none.
    Forked,
}

impl Ring {
    /// An empty ring that begins after a mark.
    pub(crate) fn new(before: Mark, bytes_max: usize) -> Self {
        Self { before, entries: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Adds the next transaction and drops the oldest ones above the limit.
    pub(crate) fn push(&mut self, entry: Arc<Encoded>) {
        self.bytes += entry.memory();
        self.entries.push_back(entry);
        while self.bytes > self.bytes_max && self.entries.len() > 1 {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.memory();
            self.before = oldest.mark.clone();
        }
    }

    /// The newest transaction, or where the ring begins.
    pub(crate) fn newest(&self) -> &Mark {
        self.entries.back().map_or(&self.before, |entry| &entry.mark)
    }

    /// Takes over what was found out of where an empty one begins.
    pub(crate) fn learn(&mut self, before: &Mark) {
        if self.entries.is_empty() {
            self.before.clone_from(before);
        }
    }

    /// What it knows of a mark in its history.
    pub(crate) fn known(&self, mark: &Mark) -> Option<&Mark> {
        let next = self.place(mark).ok()?;
        Some(next.checked_sub(1).map_or(&self.before, |at| &self.entries[at].mark))
    }

    /// Whether `mark` is surely in its history, and not only by its GTID.
    pub(crate) fn vouches_for(&self, mark: &Mark) -> bool {
        self.known(mark).is_some_and(|own| own == mark && (own.checksum.is_some() || own.gtid.is_empty()))
    }

    /// Where it begins.
    pub(crate) fn before(&self) -> &Mark {
        &self.before
    }

    /// How many transactions and bytes it holds.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.entries.len(), self.bytes)
    }

    /// What follows `mark`: at least one transaction if there is one, and then as many as the limits allow.
    pub(crate) fn following(&self, mark: &Mark, limits: BatchLimits) -> Following {
        let start = match self.place(mark) {
            Ok(start) => start,
            Err(elsewhere) => return elsewhere,
        };
        let mut batch = limits.start();
        Following::Here(self.entries.range(start..).take_while(|entry| batch.admits(entry)).map(Arc::clone).collect())
    }

    /// Whether it holds all that follows `mark`.
    pub(crate) fn reaches(&self, mark: &Mark) -> bool {
        self.place(mark).is_ok()
    }

    /// The transaction right after `mark`, if the ring holds both.
    pub(crate) fn next_after(&self, mark: &Mark) -> Option<&Encoded> {
        self.place(mark).ok().and_then(|start| self.entries.get(start)).map(AsRef::as_ref)
    }

    /// The index of the entry after `mark`.
    fn place(&self, mark: &Mark) -> Result<usize, Following> {
        if mark.is_same(&self.before) {
            return Ok(0);
        }
        if mark.position < self.before.position {
            return Err(Following::Older);
        }
        if mark.position > self.newest().position {
            return Err(Following::Newer);
        }
        match self.entries.binary_search_by_key(&mark.position, |entry| entry.mark.position) {
            Ok(at) if self.entries[at].mark.is_same(mark) => Ok(at + 1),
            _ => Err(Following::Forked),
        }
    }
}

/// How much one push carries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchLimits {
    /// Bytes of JSON; a single transaction may be longer.
    pub(crate) bytes_max: usize,
    /// Transactions.
    pub(crate) transactions_max: usize,
}

impl BatchLimits {
    /// Counts a new batch.
    pub(crate) fn start(self) -> BatchCount {
        BatchCount { limits: self, bytes: 0, transactions: 0, alone: false }
    }
}

/// What a batch holds so far.
#[derive(Debug)]
pub(crate) struct BatchCount {
    limits: BatchLimits,
    bytes: usize,
    transactions: usize,
    /// Whether it holds a streamed transaction, which travels alone.
    alone: bool,
}

impl BatchCount {
    /// Counts an entry in if there is room for it.
    pub(crate) fn admits(&mut self, entry: &Encoded) -> bool {
        let bytes = self.bytes + entry.json.len();
        let alone = self.alone || entry.streamed.is_some();
        let full = alone || bytes > self.limits.bytes_max || self.transactions >= self.limits.transactions_max;
        if full && self.transactions > 0 {
            return false;
        }
        self.alone = alone;
        self.bytes = bytes;
        self.transactions += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use towline_middleware::Position;

    use super::*;
    use crate::{capture::Captured, replication::protocol::Transaction};

    fn mark(seq: u64) -> Mark {
        let gtid = if seq == 0 { String::new() } else { format!("0-1-{seq}") };
        Mark { position: Position::new(1, seq), gtid, checksum: (seq > 0).then_some(9) }
    }

    fn entry(seq: u64) -> Arc<Encoded> {
        let Mark { position, gtid, checksum } = mark(seq);
        let transaction = Transaction { position, gtid, checksum, committed_at: seq, format: 0, changes: Vec::new() };
        Arc::new(Encoded::new(Captured { transaction, format: None, streamed: None }))
    }

    fn seqs(following: Following) -> Vec<u64> {
        match following {
            Following::Here(entries) => entries.iter().map(|entry| entry.mark.position.seq.0).collect(),
            other => panic!("{other:?}"),
        }
    }

    const LIMITS: BatchLimits = BatchLimits { bytes_max: usize::MAX, transactions_max: usize::MAX };

    #[test]
    fn a_mark_is_found_with_its_gtid_or_named_for_what_it_is() {
        let mut ring = Ring::new(mark(0), usize::MAX);
        assert_eq!(seqs(ring.following(&mark(0), LIMITS)), [0; 0]);
        for seq in [2, 3, 7] {
            ring.push(entry(seq));
        }
        assert_eq!(seqs(ring.following(&mark(0), LIMITS)), [2, 3, 7]);
        assert_eq!(seqs(ring.following(&mark(3), LIMITS)), [7]);
        assert_eq!(seqs(ring.following(&mark(7), LIMITS)), [0; 0]);
        assert!(matches!(ring.following(&mark(8), LIMITS), Following::Newer));
        assert!(matches!(ring.following(&mark(5), LIMITS), Following::Forked), "no transaction has this number");
        let other = Mark { gtid: "0-9-3".into(), ..mark(3) };
        assert!(matches!(ring.following(&other, LIMITS), Following::Forked));
        let unknown = Mark { checksum: None, ..mark(3) };
        assert_eq!(seqs(ring.following(&unknown, LIMITS)), [7]);
        for seq in [3, 7] {
            let renewed = Mark { checksum: Some(8), ..mark(seq) };
            assert!(matches!(ring.following(&renewed, LIMITS), Following::Forked), "{seq}: another history");
        }
        assert_eq!(ring.next_after(&mark(2)).unwrap().committed_at, 3);
    }

    proptest! {
        /// Whatever its limits, a ring holds the newest without a gap, and batches from it give the history back.
        #[test]
        fn bounded_and_gapless(count in 1..60_u64, ring_max in 0..6000_usize, batch_max in 0..1000_usize, each in 1..5_usize) {
            let mut ring = Ring::new(mark(0), ring_max);
            for seq in 1..=count {
                ring.push(entry(seq));
            }
            let (held, bytes) = ring.size();
            prop_assert!(bytes <= ring_max || held == 1);
            prop_assert_eq!(ring.newest(), &mark(count));
            prop_assert_eq!(ring.before(), &mark(count - held as u64));
            if ring.before() != &mark(0) {
                prop_assert!(matches!(ring.following(&mark(0), LIMITS), Following::Older));
            }
            let limits = BatchLimits { bytes_max: batch_max, transactions_max: each };
            let mut at = ring.before().clone();
            loop {
                let batch = seqs(ring.following(&at, limits));
                let Some(last) = batch.last() else { break };
                prop_assert!(batch.len() <= each);
                prop_assert_eq!(batch[0], at.position.seq.0 + 1);
                at = mark(*last);
            }
            prop_assert_eq!(at, mark(count));
        }
    }
}

//! Transactions as JSON, encoded once and shared by all slaves, and the body of a push made of them.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use towline_middleware::{Epoch, Position};

use super::protocol::{Family, Format, Mark};
use crate::capture::{Captured, Streamed};

/// One transaction of the master, ready to be sent.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) mark: Mark,
    /// Seconds since 1970 (UTC).
    pub(crate) committed_at: u64,
    pub(crate) format: Option<Arc<Format>>,
    /// The transaction as [`Transaction`] is written; a streamed one has no changes there.
    pub(crate) json: Bytes,
    /// Set if it must be streamed.
    pub(crate) streamed: Option<Streamed>,
}

impl Encoded {
    pub(crate) fn new(captured: Captured) -> Self {
        let Captured { transaction, format, streamed } = captured;
        let json = serde_json::to_vec(&transaction).expect("a transaction has no map with keys that are no text");
        let committed_at = transaction.committed_at;
        Self { mark: transaction.mark(), committed_at, format, json: json.into(), streamed }
    }

    /// About how many bytes it takes in memory.
    pub(crate) fn memory(&self) -> usize {
        let streamed = self.streamed.as_ref().map_or(0, Streamed::memory);
        size_of::<Self>() + self.mark.gtid.len() + self.json.len() + streamed
    }
}

/// What stands before the transactions in a push.
#[derive(Debug, Serialize)]
pub(crate) struct BatchHead<'a> {
    pub(crate) version: u32,
    pub(crate) cluster: &'a str,
    pub(crate) epoch: Epoch,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) family: Option<Family>,
    pub(crate) after: &'a Mark,
    pub(crate) head: Position,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) out_of_reach: Option<&'a str>,
    pub(crate) formats: Vec<&'a Format>,
}

/// The body of a push, as pieces to be sent one after the other. Short transactions are put together, long ones are
/// shared with the ring.
///
/// The formats in the head are filled in.
pub(crate) fn body<'a>(mut head: BatchHead<'a>, transactions: &'a [Arc<Encoded>]) -> Vec<Bytes> {
    let mut formats: Vec<&Format> = transactions.iter().filter_map(|entry| entry.format.as_deref()).collect();
    formats.dedup_by_key(|format| format.id);
    head.formats = formats;
    let mut head = serde_json::to_vec(&head).expect("a head has no map with keys that are no text");
    head.pop();
    let mut pieces = Vec::new();
    let mut piece = BytesMut::from(head.as_slice());
    piece.extend_from_slice(b",\"transactions\":[");
    for (n, transaction) in transactions.iter().enumerate() {
        if n > 0 {
            piece.extend_from_slice(b",");
        }
        if transaction.json.len() < PIECE_BYTES {
            piece.extend_from_slice(&transaction.json);
        } else {
            pieces.push(piece.split().freeze());
            pieces.push(transaction.json.clone());
        }
        if piece.len() >= PIECE_BYTES {
            pieces.push(piece.split().freeze());
        }
    }
    piece.extend_from_slice(b"]}");
    pieces.push(piece.freeze());
    pieces
}

/// From how many bytes on a piece is worth a write of its own.
const PIECE_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replication::protocol::{Action, Batch, Binary, Change, RowsChange, RowsOf, Transaction, VERSION};

    #[test]
    fn a_body_reads_back_as_the_batch_that_it_is() {
        let format = Arc::new(Format { id: 7, event: Binary(vec![1; 40]) });
        let transactions: Vec<Transaction> = [10, PIECE_BYTES, 20, 3 * PIECE_BYTES]
            .into_iter()
            .zip(1..)
            .map(|(len, seq)| Transaction {
                position: Position::new(2, seq),
                gtid: format!("0-1-{seq}"),
                checksum: Some(9),
                committed_at: 1_790_000_000,
                format: 7,
                changes: vec![Change::Rows(RowsChange {
                    tables: vec![RowsOf { action: Action::Insert, database: "a\"b".into(), table: "é".into() }],
                    maps: Binary(vec![19; 5]),
                    events: Binary(vec![23; len]),
                    starts: true,
                    ends: true,
                })],
            })
            .collect();
        let after = Mark { position: Position::new(2, 0), ..Mark::default() };
        let entries: Vec<_> = transactions
            .iter()
            .map(|t| {
                let (transaction, format) = (t.clone(), Some(Arc::clone(&format)));
                Arc::new(Encoded::new(Captured { transaction, format, streamed: None }))
            })
            .collect();
        for count in [0, 1, 4] {
            let head = BatchHead {
                version: VERSION,
                cluster: "c",
                epoch: Epoch(2),
                family: Some(Family::MariaDb),
                after: &after,
                head: Position::new(2, 4),
                out_of_reach: None,
                formats: Vec::new(),
            };
            let pieces = body(head, &entries[..count]);
            let batch: Batch = serde_json::from_slice(&pieces.concat()).unwrap();
            assert_eq!(batch.transactions, transactions[..count]);
            assert_eq!(batch.formats.len(), count.min(1));
            assert_eq!(
                (batch.version, batch.epoch, batch.family, &batch.after),
                (VERSION, Epoch(2), Some(Family::MariaDb), &after)
            );
        }
    }
}

//! Transactions for a slave that is behind what memory holds: read from the binlog over a connection of their own.

use std::sync::Arc;

use tokio::{sync::mpsc, task::JoinHandle};

use super::{encoded::Encoded, ring::BatchLimits};
use crate::capture::{Capture, CaptureError, CaptureOptions};

/// Reads batches ahead of the slave; at most three are in memory.
#[derive(Debug)]
pub(crate) struct CatchUp {
    batches: mpsc::Receiver<Result<Vec<Arc<Encoded>>, CaptureError>>,
    reader: JoinHandle<()>,
}

impl CatchUp {
    /// Starts to read after `options.from`.
    pub(crate) fn start(options: CaptureOptions, limits: BatchLimits) -> Self {
        let (sender, batches) = mpsc::channel(1);
        let reader = tokio::spawn(async move {
            if let Err(error) = read(options, limits, &sender).await {
                // A closed channel means that nobody needs it any more.
                let _ = sender.send(Err(error)).await;
            }
        });
        Self { batches, reader }
    }

    /// The next batch, not empty; an error ends it.
    ///
    /// # Cancel safety
    /// Safe: nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Result<Vec<Arc<Encoded>>, CaptureError> {
        self.batches.recv().await.unwrap_or(Err(CaptureError::Ended))
    }
}

impl Drop for CatchUp {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Collects whatever comes while the last batch is under way.
async fn read(
    options: CaptureOptions,
    limits: BatchLimits,
    batches: &mpsc::Sender<Result<Vec<Arc<Encoded>>, CaptureError>>,
) -> Result<(), CaptureError> {
    let mut capture = Capture::open(&options).await?;
    let mut batch = Vec::new();
    let mut count = limits.start();
    let mut left_over: Option<Arc<Encoded>> = None;
    loop {
        if let Some(entry) = left_over.take() {
            count = limits.start();
            // The first one of a batch always fits.
            count.admits(&entry);
            batch.push(entry);
        }
        let full = tokio::select! {
            biased;
            captured = capture.next() => {
                let entry = Arc::new(Encoded::new(captured?));
                if count.admits(&entry) {
                    batch.push(entry);
                } else {
                    left_over = Some(entry);
                }
                left_over.is_some()
            }
            room = batches.reserve(), if !batch.is_empty() => {
                let Ok(room) = room else { return Ok(()) };
                room.send(Ok(std::mem::take(&mut batch)));
                count = limits.start();
                false
            }
        };
        if full && batches.send(Ok(std::mem::take(&mut batch))).await.is_err() {
            return Ok(());
        }
    }
}

//! A streamed transaction, from the master's side: read once more from the binlog and sent change by change.

use std::{pin::pin, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    time::{error::Elapsed, timeout},
};

use super::{
    protocol::{Applied, Change, NotApplied, StreamLine},
    push::{PushError, PushTarget},
};
use crate::capture::{CaptureError, Rereading};

/// Why a streamed transaction got no answer. Unless its last line was sent nothing of it was applied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    #[error(transparent)]
    Push(#[from] PushError),
    #[error(transparent)]
    Capture(#[from] CaptureError),
    #[error("it took too long over a change of a streamed transaction")]
    Stalled(#[from] Elapsed),
}

/// Sends the first line and then every change, and reads the answer. The slave may take as long as `change_timeout` for
/// each change, and for the commit.
///
/// # Cancel safety
/// As [`PushTarget::post`].
pub(crate) async fn push_streamed(
    target: &PushTarget,
    first_line: Vec<Bytes>,
    mut changes: Rereading,
    change_timeout: Duration,
) -> Result<Result<Applied, NotApplied>, StreamError> {
    // Before the slave opens its transaction: it need not wait until the place in the binlog is found.
    let mut first = changes.next().await?;
    let (lines, body) = mpsc::channel(1);
    let mut answer = pin!(target.post_lines(body));
    let sending = async {
        for piece in first_line.into_iter().chain([Bytes::from_static(b"\n")]) {
            room(&lines, change_timeout).await?.send(piece);
        }
        let mut sent = 0;
        loop {
            // The next change is read when the one before it is on its way: a single one may be very long.
            let room = room(&lines, change_timeout).await?;
            let next = match first.take() {
                None => changes.next().await?,
                first => first,
            };
            let Some(change) = next else {
                room.send(line(&StreamLine::Commit(sent)));
                return Ok::<_, StreamError>(());
            };
            room.send(line(&StreamLine::Change(change)));
            sent += 1;
        }
    };
    tokio::select! {
        // A refusal comes early.
        answer = &mut answer => return Ok(answer?),
        sent = sending => sent?,
    }
    drop(lines);
    Ok(timeout(change_timeout, answer).await??)
}

/// Waits until the line before was taken.
async fn room(lines: &mpsc::Sender<Bytes>, limit: Duration) -> Result<mpsc::Permit<'_, Bytes>, StreamError> {
    match timeout(limit, lines.reserve()).await? {
        Ok(room) => Ok(room),
        // The request is over, and its answer says why.
        Err(_) => std::future::pending().await,
    }
}

fn line(line: &StreamLine) -> Bytes {
    // A vector that grows holds a long line twice.
    let mut json = match line {
        StreamLine::Change(Change::Rows(rows)) => {
            Vec::with_capacity((rows.maps.0.len() + rows.events.0.len()) / 2 * 3 + 4096)
        }
        _ => Vec::new(),
    };
    serde_json::to_writer(&mut json, line).expect("a line has no map with keys that are no text");
    json.push(b'\n');
    json.into()
}

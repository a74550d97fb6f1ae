//! A reply streamed as NDJSON: a line with the columns, a line per row, and a line that tells how it ended.
//!
//! Rows are read from MySQL as the client takes them: what is held is one chunk on its way and the packet at hand.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::Body,
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use tokio::sync::mpsc;
use towline_middleware::{Completion, Final, Part, Position};

use super::{
    HttpError,
    accounts::Lent,
    rows::{Item, RowReader, push_json},
    run::{self, Running, Warning},
};
use crate::replication::json_lines::NDJSON;

/// Lines are sent when they are so many bytes, or when MySQL has nothing more at hand.
const CHUNK_BYTES: usize = 64 * 1024;

/// What bounds a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamLimits {
    /// The longest row.
    pub(super) row_bytes_max: usize,
    /// How long MySQL may take to the next piece, and the client to take one.
    pub(super) stall: Duration,
}

/// Answers with the reply as a stream. `read_position` is what a reply without a commit tells.
pub(super) fn respond(lent: Lent, running: Running, limits: StreamLimits, read_position: Option<Position>) -> Response {
    let (chunks, taken) = mpsc::channel(1);
    let pump = Pump { lent, chunks, limits, read_position, lines: String::new() };
    tokio::spawn(pump.run(running));
    answer(taken, Ok::<_, Infallible>)
}

/// Answers with a line of JSON for each thing that is told.
pub(super) fn json_lines<T: Serialize + Send + 'static>(told: mpsc::Receiver<T>) -> Response {
    answer(told, |line| serde_json::to_string(&line).map(|line| Bytes::from(line + "\n")))
}

fn answer<T, E>(taken: mpsc::Receiver<T>, chunk: impl Fn(T) -> Result<Bytes, E> + Send + Sync + 'static) -> Response
where
    T: Send + 'static,
    E: Into<axum::BoxError> + 'static,
{
    let body = stream::unfold((taken, chunk), |(mut taken, chunk)| async {
        let next = chunk(taken.recv().await?);
        Some((next, (taken, chunk)))
    });
    ([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(body)).into_response()
}

/// Why a stream ends before its end.
enum Cut {
    /// The client left, or does not take what it is sent.
    Gone,
    /// The command failed; the client is told in the last line.
    Failed(HttpError),
}

impl<E: Into<HttpError>> From<E> for Cut {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

struct Pump {
    lent: Lent,
    chunks: mpsc::Sender<Bytes>,
    limits: StreamLimits,
    read_position: Option<Position>,
    lines: String,
}

impl Pump {
    /// Streams to the end, and gives the session back if it can be used again.
    async fn run(mut self, running: Running) {
        let usable = match self.results(running).await {
            Ok(()) => true,
            // The session is dropped, and what it runs is ended.
            Err(Cut::Gone) => return,
            Err(Cut::Failed(error)) => {
                push_json(&mut self.lines, &error.to_json());
                self.lines.push('\n');
                error.leaves_session_usable()
            }
        };
        // Who left before the last line does not hold up the next one to use the session.
        let _ = self.send().await;
        if usable {
            self.lent.give_back();
        }
    }

    async fn results(&mut self, mut running: Running) -> Result<(), Cut> {
        let mut reader = RowReader::new(running.binary, self.limits.row_bytes_max);
        let mut last = None;
        while let Some(part) = self.next_part(&mut running).await? {
            match part {
                Part::Packets(bytes) => {
                    reader.feed(&bytes);
                    self.rows(&mut reader).await?;
                }
                Part::Final { end: Final::Ok(completion), .. } if completion.has_more() => {
                    reader.end_result();
                    self.push_end(&completion, &[]);
                }
                Part::Final { end, .. } => last = Some(end),
                Part::Turn(_) => return Err(HttpError::Internal.into()),
            }
        }
        drop(running);
        // Only now, with the reply read to its end, can the session be asked for warnings.
        match last.ok_or(HttpError::Internal)? {
            Final::Ok(completion) => {
                let warnings = run::warnings(&mut self.lent, &completion).await?;
                self.push_end(&completion, &warnings);
                Ok(())
            }
            Final::Err(error) => Err(error.into()),
        }
    }

    /// The next part; before it is waited for, the lines so far go out.
    async fn next_part(&mut self, running: &mut Running) -> Result<Option<Part>, Cut> {
        if let Some(part) = running.reply.next_ready() {
            return Ok(Some(part));
        }
        if !running.reply.is_complete() && !self.lines.is_empty() {
            self.send().await?;
        }
        match tokio::time::timeout(self.limits.stall, running.reply.next()).await {
            Ok(part) => Ok(part?),
            Err(_) => Err(HttpError::TimedOut { timeout_ms: self.limits.stall.as_millis() }.into()),
        }
    }

    async fn rows(&mut self, reader: &mut RowReader) -> Result<(), Cut> {
        while let Some(item) = reader.next(&mut self.lines)? {
            if item == Item::Columns {
                self.lines.push_str("{\"columns\":");
                push_json(&mut self.lines, reader.columns());
                self.lines.push('}');
            }
            self.lines.push('\n');
            if self.lines.len() >= CHUNK_BYTES {
                self.send().await?;
            }
        }
        Ok(())
    }

    fn push_end(&mut self, completion: &Completion, warnings: &[Warning]) {
        self.lines.push('{');
        run::push_summary(&mut self.lines, completion, warnings, completion.details().position.or(self.read_position));
        self.lines.push_str("}\n");
    }

    /// Hands the lines so far to the client's connection.
    async fn send(&mut self) -> Result<(), Cut> {
        let chunk = Bytes::from(std::mem::take(&mut self.lines));
        self.chunks.send_timeout(chunk, self.limits.stall).await.map_err(|_| Cut::Gone)
    }
}

//! `POST /slave`: the master's pushes, and the reads of clients.

use std::pin::pin;

use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, de::IgnoredAny};
use tokio::sync::mpsc;

use super::{
    HttpError, HttpFront, NodeReplication,
    json::InvalidJson,
    request::{Authorization, BodyLimit, discard, is_json_lines},
};
use crate::replication::{
    apply::Applier,
    digest::{Answer, OPENED, Question},
    json_lines::Lines,
    protocol::{Applied, Batch, NotApplied, StreamLine},
};

/// Enough of a body to tell a push from a command.
#[derive(Deserialize)]
struct Glimpse {
    transactions: Option<IgnoredAny>,
}

impl HttpFront {
    /// Carries out what is posted to a slave. A push says so by its authorization; where none is asked for (on
    /// loopback), by its `transactions`.
    ///
    /// # Errors
    /// See [`HttpError`].
    pub(super) async fn post_to_slave(&self, applier: &Applier, request: Request) -> Result<Response, HttpError> {
        let bearer = matches!(Authorization::of(request.headers()), Authorization::Bearer(_));
        let open =
            self.options().secret.is_none() && matches!(Authorization::of(request.headers()), Authorization::None);
        if request.method() != Method::POST || !bearer && !open {
            return self.command(request).await;
        }
        let (parts, body) = request.into_parts();
        self.check_secret(&parts.headers)?;
        if is_json_lines(&parts.headers) {
            return push_streamed(applier, body).await;
        }
        let limit = BodyLimit { key: "the longest push", bytes_max: self.options().push_bytes_max };
        let body = self.json_body(&parts.headers, body, limit).await?;
        let is_push = bearer || serde_json::from_slice::<Glimpse>(&body).is_ok_and(|body| body.transactions.is_some());
        if is_push {
            return push(applier, &body).await;
        }
        let limit = self.options().body_bytes_max;
        if body.len() > limit {
            return Err(HttpError::BodyTooLong { key: "http.body_bytes_max", limit_bytes: limit });
        }
        self.run_body(&parts.method, &parts.headers, None, body).await
    }
}

/// A question is two short texts and some numbers.
const QUESTION_BYTES_MAX: usize = 16 * 1024;

/// `POST /slave/digest`: what this slave holds of a piece of a table where it stands now. The first line of the answer
/// says that it was looked at, so that the master may push on; the second is the [`Answer`].
pub(super) async fn digest(State(front): State<HttpFront>, request: Request) -> Result<Response, HttpError> {
    let (parts, body) = request.into_parts();
    front.check_secret(&parts.headers)?;
    let NodeReplication::Slave(applier) = &front.0.state.replication else {
        return Err(front.unknown_path(&parts.uri));
    };
    let limit = BodyLimit { key: "the longest question", bytes_max: QUESTION_BYTES_MAX };
    let body = front.json_body(&parts.headers, body, limit).await?;
    let question: Question =
        serde_json::from_slice(&body).map_err(|error| HttpError::Push(InvalidJson::Syntax(error)))?;
    let mut snapshot = match applier.snapshot_at(&question.at).await {
        Ok(snapshot) => snapshot,
        Err(why) => return Ok((StatusCode::CONFLICT, why).into_response()),
    };
    let answer = async move {
        let answer = match snapshot.digest(&question.piece).await {
            Ok(digest) => Answer::Digest(digest),
            Err(error) => Answer::Error(error.to_string()),
        };
        serde_json::to_vec(&answer)
    };
    let opened = stream::iter([Ok(OPENED.as_bytes().to_vec())]);
    Ok(Body::from_stream(opened.chain(stream::once(answer))).into_response())
}

async fn push(applier: &Applier, body: &[u8]) -> Result<Response, HttpError> {
    let batch: Batch = serde_json::from_slice(body).map_err(|error| HttpError::Push(InvalidJson::Syntax(error)))?;
    Ok(told(applier.push(batch).await))
}

/// A streamed transaction, applied line by line as it comes.
async fn push_streamed(applier: &Applier, body: Body) -> Result<Response, HttpError> {
    let mut lines = Lines::new(body);
    let invalid = |error| HttpError::Push(InvalidJson::Syntax(error));
    let first = lines.next().await.map_err(HttpError::BodyBroken)?.unwrap_or_default();
    let batch: Batch = serde_json::from_slice(&first).map_err(invalid)?;
    let (sender, receiver) = mpsc::channel(1);
    let mut answer = pin!(applier.push_streamed(batch, receiver));
    let answer = tokio::select! {
        answer = &mut answer => answer,
        () = hand_on(&mut lines, sender) => answer.await,
    };
    // Whoever is still sending would not see the answer.
    discard(lines.into_body()).await;
    Ok(told(answer))
}

/// Hands the lines on one by one. It ends with them; the applier knows by the last one whether it has all.
async fn hand_on(lines: &mut Lines, sender: mpsc::Sender<StreamLine>) {
    // A line is read when the one before it was taken: a single one may be very long.
    while let Ok(room) = sender.reserve().await {
        let line = match lines.next().await {
            Ok(Some(line)) => serde_json::from_slice(&line).map_err(|error| error.to_string()),
            Ok(None) => return,
            Err(error) => Err(error.to_string()),
        };
        match line {
            Ok(line) => room.send(line),
            Err(error) => return tracing::warn!(error, "a streamed transaction breaks off"),
        }
    }
}

fn told(answer: Result<Applied, NotApplied>) -> Response {
    match answer {
        Ok(applied) => Json(applied).into_response(),
        Err(refusal) => {
            let status = StatusCode::from_u16(refusal.refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, Json(refusal)).into_response()
        }
    }
}

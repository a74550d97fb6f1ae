//! `POST /slave`: the master's pushes, and the reads of clients.

use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, de::IgnoredAny};

use super::{
    HttpError, HttpFront, NodeReplication,
    json::InvalidJson,
    request::{Authorization, BodyLimit},
};
use crate::replication::{
    apply::Applier,
    digest::{Answer, OPENED, Question},
    protocol::Batch,
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
        self.run_body(&parts.headers, None, &body).await
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
    Ok(match applier.push(batch).await {
        Ok(applied) => Json(applied).into_response(),
        Err(refusal) => {
            let status = StatusCode::from_u16(refusal.refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, Json(refusal)).into_response()
        }
    })
}

//! `POST /slave`: the master's pushes, and the reads of clients.

use axum::{
    Json,
    extract::Request,
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, de::IgnoredAny};

use super::{
    HttpError, HttpFront,
    json::InvalidJson,
    request::{Authorization, BodyLimit},
};
use crate::replication::{apply::Applier, protocol::Batch};

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

//! `/admin/snapshots`: a master's data for a new slave.

use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, Uri, header},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;

use super::{HttpError, HttpFront, json::InvalidJson, request::BodyLimit, stream::NDJSON};

/// A question holds a name and some numbers.
const BODY_BYTES_MAX: usize = 16 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Begin {
    id: Option<String>,
}

/// `POST /admin/snapshots`: begins a snapshot, or tells the plan of the one with this `id`.
pub(super) async fn begin(State(front): State<HttpFront>, request: Request) -> Result<Response, HttpError> {
    let (uri, Begin { id }) = front.question(request).await?;
    let plan = front.hub(&uri)?.snapshot(id.as_deref()).await?;
    Ok(Json(plan).into_response())
}

/// `POST /admin/snapshots/rows`: rows of a table, as lines of JSON.
pub(super) async fn rows(State(front): State<HttpFront>, request: Request) -> Result<Response, HttpError> {
    let (uri, question) = front.question(request).await?;
    let lines = front.hub(&uri)?.snapshot_rows(question)?;
    let lines = stream::unfold(lines, |mut lines| async {
        let line = serde_json::to_string(&lines.recv().await?).map(|line| line + "\n");
        Some((line, lines))
    });
    Ok(([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(lines)).into_response())
}

/// `DELETE /admin/snapshots?id=…`: lets a snapshot go.
pub(super) async fn end(State(front): State<HttpFront>, uri: Uri, headers: HeaderMap) -> Result<Response, HttpError> {
    front.check_secret(&headers)?;
    let id = super::admin::slave_id(&uri)?;
    front.hub(&uri)?.end_snapshot(&id)?;
    Ok(Json(json!({ "ended": id })).into_response())
}

impl HttpFront {
    async fn question<T: DeserializeOwned>(&self, request: Request) -> Result<(Uri, T), HttpError> {
        let (parts, body) = request.into_parts();
        self.check_secret(&parts.headers)?;
        let limit = BodyLimit { key: "the longest question", bytes_max: BODY_BYTES_MAX };
        let body = self.json_body(&parts.headers, body, limit).await?;
        let question = serde_json::from_slice(&body).map_err(|error| HttpError::Admin(InvalidJson::Syntax(error)))?;
        Ok((parts.uri, question))
    }
}

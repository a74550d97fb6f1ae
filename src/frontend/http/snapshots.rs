//! `/admin/snapshots`: a master's data for a new slave.

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderMap, Uri},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;

use super::{HttpError, HttpFront, json::InvalidJson, stream::json_lines};

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
    Ok(json_lines(lines))
}

/// `DELETE /admin/snapshots?id=…`: lets a snapshot go.
pub(super) async fn end(State(front): State<HttpFront>, uri: Uri, headers: HeaderMap) -> Result<Response, HttpError> {
    front.check_secret(&headers)?;
    let id = super::admin::wanted_id(&uri)?;
    front.hub(&uri)?.end_snapshot(&id)?;
    Ok(Json(json!({ "ended": id })).into_response())
}

impl HttpFront {
    async fn question<T: DeserializeOwned>(&self, request: Request) -> Result<(Uri, T), HttpError> {
        let (uri, body) = self.admin_body(request).await?;
        let question = serde_json::from_slice(&body).map_err(|error| HttpError::Admin(InvalidJson::Syntax(error)))?;
        Ok((uri, question))
    }
}

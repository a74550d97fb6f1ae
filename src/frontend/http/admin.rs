//! `/admin/…`: the master's list of slaves, the applier of a slave that has stopped, and the configuration.

use axum::{
    Json,
    extract::{Query, Request, State},
    http::{HeaderMap, Uri},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde_json::{json, value::RawValue};
use tokio::sync::mpsc;

use super::{
    HttpError, HttpFront, NodeReplication,
    json::{self, Fields, InvalidJson},
    request::BodyLimit,
    stream::json_lines,
};
use crate::replication::{hub::Hub, protocol::Family, verify::Verified};

/// What the body of an administrator's request holds are names and numbers.
const BODY_BYTES_MAX: usize = 16 * 1024;

impl HttpFront {
    pub(super) fn hub(&self, uri: &Uri) -> Result<&Hub, HttpError> {
        match &self.0.state.replication {
            NodeReplication::Master(hub) => Ok(hub),
            NodeReplication::Slave(_) => Err(self.unknown_path(uri)),
        }
    }

    /// The path and the body of a request that has the cluster's secret.
    pub(super) async fn admin_body(&self, request: Request) -> Result<(Uri, Bytes), HttpError> {
        let (parts, body) = request.into_parts();
        self.check_secret(&parts.headers)?;
        let limit = BodyLimit { key: "the longest body here", bytes_max: BODY_BYTES_MAX };
        Ok((parts.uri, self.json_body(&parts.headers, body, limit).await?))
    }
}

/// `GET /admin/slaves`: the registered slaves.
pub(super) async fn list_slaves(
    State(front): State<HttpFront>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, HttpError> {
    front.check_secret(&headers)?;
    Ok(Json(json!({ "slaves": front.hub(&uri)?.slaves() })).into_response())
}

/// `POST /admin/slaves` with `{"id", "url"}` and perhaps `"family"` (`mariadb` or `mysql`): registers a slave, or tells its new URL.
pub(super) async fn register_slave(State(front): State<HttpFront>, request: Request) -> Result<Response, HttpError> {
    let (uri, body) = front.admin_body(request).await?;
    let hub = front.hub(&uri)?;
    let (id, url, family) = registration(&body).map_err(HttpError::Admin)?;
    hub.register(&id, &url, family).await?;
    tracing::info!(id, url, "a slave is registered");
    Ok(Json(json!({ "id": id, "url": url })).into_response())
}

fn registration(body: &[u8]) -> Result<(String, String, Option<Family>), InvalidJson> {
    let raw: &RawValue = serde_json::from_slice(body).map_err(InvalidJson::Syntax)?;
    let mut fields = Fields::new("a registration", json::object("the body", raw)?);
    let id = json::text("id", fields.need("id")?)?.into_owned();
    let url = json::text("url", fields.need("url")?)?.into_owned();
    let family = fields.take("family").map(|family| serde_json::from_str(family.get()));
    fields.finish(&["id", "url", "family"])?;
    Ok((id, url, family.transpose().map_err(InvalidJson::Syntax)?))
}

/// `DELETE /admin/slaves?id=…`: forgets a slave.
pub(super) async fn remove_slave(
    State(front): State<HttpFront>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, HttpError> {
    front.check_secret(&headers)?;
    let hub = front.hub(&uri)?;
    let id = wanted_id(&uri)?;
    let is_known = hub.remove(&id).await?;
    done_to_slave("removed", id, is_known)
}

/// The `id` of a request that concerns one slave or snapshot.
pub(super) fn wanted_id(uri: &Uri) -> Result<String, HttpError> {
    let Query(parameters) = Query::<Vec<(String, String)>>::try_from_uri(uri).map_err(HttpError::Parameters)?;
    let id = parameters.into_iter().find(|(name, _)| name == "id").map(|(_, id)| id);
    let missing = || InvalidJson::MissingField { place: uri.path().to_owned(), field: "id" };
    id.ok_or_else(missing).map_err(HttpError::Admin)
}

/// `POST /admin/slaves/pause?id=…`: pushes nothing to a slave until it is resumed, over restarts too.
pub(super) async fn pause_slave(
    State(front): State<HttpFront>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, HttpError> {
    front.check_secret(&headers)?;
    let id = wanted_id(&uri)?;
    let is_known = front.hub(&uri)?.pause(&id, "by POST /admin/slaves/pause").await?;
    done_to_slave("paused", id, is_known)
}

/// `POST /admin/slaves/resume?id=…`: pushes to a slave again.
pub(super) async fn resume_slave(
    State(front): State<HttpFront>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, HttpError> {
    front.check_secret(&headers)?;
    let id = wanted_id(&uri)?;
    let is_known = front.hub(&uri)?.resume(&id).await?;
    done_to_slave("resumed", id, is_known)
}

fn done_to_slave(what: &'static str, id: String, is_known: bool) -> Result<Response, HttpError> {
    if !is_known {
        return Err(HttpError::UnknownSlave { id });
    }
    tracing::info!(id, "a slave is {what}");
    Ok(Json(json!({ what: id })).into_response())
}

/// `POST /admin/verify`: compares the slaves with the master. Answers with a line of JSON per table as it goes, and one
/// for all of them.
pub(super) async fn verify(
    State(front): State<HttpFront>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, HttpError> {
    front.check_secret(&headers)?;
    let hub = front.hub(&uri)?.clone();
    let (told, tables) = mpsc::channel(16);
    tokio::spawn(async move {
        let last = match hub.verify(Some(told.clone())).await {
            Ok(summary) => Verified::Done(summary),
            Err(error) => Verified::Failed { error: error.to_string() },
        };
        // Whoever asked may have gone.
        let _ = told.send(last).await;
    });
    Ok(json_lines(tables))
}

/// `POST /admin/resume`: a slave that a change has stopped tries it again.
pub(super) async fn resume(
    State(front): State<HttpFront>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, HttpError> {
    front.check_secret(&headers)?;
    let NodeReplication::Slave(applier) = &front.0.state.replication else { return Err(front.unknown_path(&uri)) };
    applier.resume().await;
    Ok(Json(json!({ "applier": applier.progress() })).into_response())
}

/// `POST /admin/reload`: reads the configuration again, as SIGHUP does.
pub(super) async fn reload(State(front): State<HttpFront>, headers: HeaderMap) -> Result<Response, HttpError> {
    front.check_secret(&headers)?;
    let layers = front.0.state.reload.run().await?;
    Ok(Json(json!({ "layers": layers })).into_response())
}

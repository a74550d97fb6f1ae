//! `/healthz`, `/readyz`, `/status`, `/metrics`, and what other nodes ask: whether a node lives, can serve, and how it
//! fares.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use mysql_async::{Conn, Opts, prelude::Queryable};
use serde_json::json;
use tokio::sync::Mutex;
use towline_middleware::{Position, layers::trace::CommandCounts};

use super::{HttpError, HttpFront, NodeReplication};
use crate::{
    metrics::{self, Page},
    replication::{hub::HubState, progress::ApplyState, server_facts::ServerFacts},
};

/// How long an answer of MySQL's counts: however often a node is asked, MySQL is asked no oftener.
const PROBE_AGE_MAX: Duration = Duration::from_secs(1);
/// How long MySQL may take to answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Finds out whether MySQL answers, and what its longest packet is.
#[derive(Debug)]
pub(super) struct Probe {
    mysql: Opts,
    last: Mutex<Option<(Instant, Result<u64, String>)>>,
}

impl Probe {
    pub(super) fn new(mysql: Opts) -> Self {
        Self { mysql, last: Mutex::new(None) }
    }

    /// Its `max_allowed_packet` now or a moment ago; an error says why it does not answer.
    async fn ask(&self) -> Result<u64, String> {
        // Held while asking, so that many who ask at a time share one answer.
        let mut last = self.last.lock().await;
        if let Some((at, answer)) = &*last
            && at.elapsed() < PROBE_AGE_MAX
        {
            return answer.clone();
        }
        let answer = match tokio::time::timeout(PROBE_TIMEOUT, self.max_allowed_packet()).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {PROBE_TIMEOUT:?}")),
        };
        *last = Some((Instant::now(), answer.clone()));
        answer
    }

    async fn max_allowed_packet(&self) -> mysql_async::Result<u64> {
        let mut conn = Conn::new(self.mysql.clone()).await?;
        let bytes: Option<u64> = conn.query_first("SELECT @@global.max_allowed_packet").await?;
        conn.disconnect().await?;
        Ok(bytes.unwrap_or_default())
    }
}

/// `GET /healthz`: the process lives.
pub(super) async fn health() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: the node can serve; 503 with the reason when it can't.
pub(super) async fn ready(State(front): State<HttpFront>) -> Response {
    match front.not_ready().await {
        None => (StatusCode::OK, "ready\n").into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], reason + "\n").into_response(),
    }
}

/// `GET /status`.
pub(super) async fn status(State(front): State<HttpFront>) -> Response {
    let state = &front.0.state;
    let mysql = front.0.probe.ask().await;
    let stack = &state.sessions.stack;
    let CommandCounts { commands, refused, broken, total_us, .. } = stack.trace.stats().counts();
    let (mysql_front, sessions) = &state.mysql_front;
    let mut status = json!({
        "role": front.role(),
        "version": env!("CARGO_PKG_VERSION"),
        "position": front.position(),
        "mysql": {
            "port": mysql_front.port(),
            "up": mysql.is_ok(),
            "max_allowed_packet": mysql.as_ref().ok(),
            "error": mysql.as_ref().err(),
        },
        "sessions": {"mysql": sessions.get(), "http": front.0.accounts.open_sessions()},
        "commands": {
            "done": commands,
            "refused": refused,
            "broken": broken,
            "running": stack.trace.running(),
            "mean_us": total_us.checked_div(commands),
        },
        "misclassified": state.sessions.classifier.misclassified(),
        "layers": stack.user.names(),
        "layer_status": stack.user.status(),
    });
    match &state.replication {
        NodeReplication::Master(hub) => {
            status["replication"] = json!(hub.status());
            status["slaves"] = json!(hub.slaves());
            status["verified"] = json!(hub.verified());
        }
        NodeReplication::Slave(applier) => status["applier"] = json!(applier.progress()),
    }
    Json(status).into_response()
}

/// `GET /slave/server`, and `GET /admin/server` on a master: what the other nodes must know of this one's server.
pub(super) async fn server(State(front): State<HttpFront>, headers: HeaderMap) -> Result<Response, HttpError> {
    front.check_secret(&headers)?;
    let max_allowed_packet = match front.0.probe.ask().await {
        Ok(bytes) => bytes,
        Err(error) => {
            return Ok((StatusCode::SERVICE_UNAVAILABLE, format!("MySQL does not answer: {error}")).into_response());
        }
    };
    let (cluster, mark) = match &front.0.state.replication {
        NodeReplication::Master(hub) => (hub.status().cluster, hub.captured().borrow().clone()),
        NodeReplication::Slave(applier) => {
            let progress = applier.progress();
            (progress.cluster, progress.mark)
        }
    };
    // As long as it does not know its cluster it does not know where it stands.
    let mark = (!cluster.is_empty()).then_some(mark);
    Ok(Json(ServerFacts { cluster, mark, max_allowed_packet }).into_response())
}

/// `GET /metrics`, in Prometheus' text form.
pub(super) async fn metrics(State(front): State<HttpFront>) -> Response {
    let state = &front.0.state;
    let stack = &state.sessions.stack;
    let mut page = Page::default();
    page.commands(&stack.trace.stats().counts(), stack.trace.running());
    page.put(&metrics::MYSQL_UP, &[], u64::from(front.0.probe.ask().await.is_ok()));
    page.put(&metrics::SESSIONS, &[("front", "mysql")], state.mysql_front.1.get() as u64);
    page.put(&metrics::SESSIONS, &[("front", "http")], front.0.accounts.open_sessions() as u64);
    page.put(&metrics::WRONG_SECRETS, &[], front.0.wrong_secrets.load(Ordering::Relaxed));
    page.put(&metrics::MISCLASSIFIED, &[], state.sessions.classifier.misclassified());
    let Position { epoch, seq } = front.position();
    page.put(&metrics::EPOCH, &[], epoch.0);
    page.put(&metrics::SEQUENCE, &[], seq.0);
    match &state.replication {
        NodeReplication::Master(hub) => {
            page.hub(&hub.status());
            page.slaves(&hub.slaves());
            if let Some(summary) = hub.verified() {
                page.verified(&summary);
            }
        }
        NodeReplication::Slave(applier) => page.applier(&applier.progress()),
    }
    page.layers(&state.reload.home().metrics.samples());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], page.finish()).into_response()
}

impl HttpFront {
    /// The newest transaction here: captured on a master, applied on a slave.
    fn position(&self) -> Position {
        match &self.0.state.replication {
            NodeReplication::Master(hub) => hub.captured().borrow().position,
            NodeReplication::Slave(applier) => applier.position().borrow().position,
        }
    }

    /// Why the node can't serve, if it can't. A slave that is behind serves; one that has stopped would show ever older
    /// data.
    async fn not_ready(&self) -> Option<String> {
        if let Err(error) = self.0.probe.ask().await {
            return Some(format!("MySQL does not answer: {error}"));
        }
        match &self.0.state.replication {
            NodeReplication::Master(hub) => match hub.status().state {
                HubState::Running => None,
                HubState::Starting => Some("capture is starting".to_owned()),
                HubState::Away { error } | HubState::Stopped { error } => Some(format!("capture has stopped: {error}")),
            },
            NodeReplication::Slave(applier) => match applier.progress().state {
                ApplyState::Running => None,
                ApplyState::OutOfReach { error } => Some(error),
                ApplyState::Loading(snapshot) => Some(format!("a snapshot is fetched: {} %", snapshot.percent)),
                ApplyState::Unavailable { error } => Some(format!("the applier can't work: {error}")),
                ApplyState::Stopped(stop) => Some(format!("the applier has stopped: {}", stop.error)),
            },
        }
    }
}

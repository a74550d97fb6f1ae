//! The listener: connections with their limits, the routes, and the drain at the end.

use std::{any::Any, pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{Method, Uri},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_http::{catch_panic::CatchPanicLayer, trace::TraceLayer};
use towline_middleware::Role;

use super::{HttpError, HttpFront, NodeReplication, admin, slave::digest, snapshots, status};
use crate::frontend::accept::accept;

/// How often unused sessions with MySQL are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// How long a client that is turned away may take to read why.
const TURN_AWAY_TIMEOUT: Duration = Duration::from_secs(1);
/// A request's head may be so long.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// What a client gets that is one too many.
const TURNED_AWAY: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n\
    Connection: close\r\n\r\n{\"error\":{\"code\":1040,\"sqlstate\":\"08004\",\"message\":\"Too many connections\"}}";

/// What a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routes {
    /// Everything.
    All,
    /// Commands and pushes, and whether the node lives and can serve.
    Clients,
    /// Status, metrics and administration.
    Administration,
}

/// Accepts connections until `stop`, then lets running requests finish for as long as the options say, and returns.
/// The sessions with MySQL are closed when it does.
pub async fn serve(listener: TcpListener, front: HttpFront, routes: Routes, stop: CancellationToken) {
    let router = router(front.clone(), routes);
    let connections_max = front.options().connections_max;
    let permits = Arc::new(Semaphore::new(connections_max));
    let tracker = TaskTracker::new();
    // Cancelled at the end of the grace, which ends the requests that still run.
    let cut = CancellationToken::new();
    let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
    loop {
        let stream = tokio::select! {
            stream = accept(&listener) => stream,
            _ = sweep.tick() => {
                front.0.accounts.sweep();
                continue;
            }
            () = stop.cancelled() => break,
        };
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            tracker.spawn(turn_away(stream));
            continue;
        };
        let connection = serve_connection(stream, router.clone(), front.options().head_timeout, stop.clone(), permit);
        tracker.spawn(cut.clone().run_until_cancelled_owned(connection));
    }
    drop(listener);
    tracker.close();
    if tokio::time::timeout(front.options().shutdown_grace, tracker.wait()).await.is_err() {
        tracing::warn!(connections = tracker.len(), "HTTP requests still busy at the end of the grace are cut");
        cut.cancel();
        tracker.wait().await;
    }
    front.0.accounts.close().await;
}

async fn serve_connection(
    stream: TcpStream,
    router: Router,
    head_timeout: Duration,
    stop: CancellationToken,
    _permit: OwnedSemaphorePermit,
) {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(head_timeout).max_buf_size(HEAD_BYTES_MAX);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            // The request that runs is finished; after it the connection is closed.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = &error as &dyn std::error::Error, "an HTTP connection ended");
    }
}

/// Tells one client too many.
async fn turn_away(mut stream: TcpStream) {
    // Who does not read it in time is turned away all the same.
    let _ = tokio::time::timeout(TURN_AWAY_TIMEOUT, stream.write_all(TURNED_AWAY.as_bytes())).await;
}

fn router(front: HttpFront, routes: Routes) -> Router {
    let mut router = Router::new().route("/healthz", get(status::health)).route("/readyz", get(status::ready));
    if routes != Routes::Administration {
        router = match front.role() {
            Role::Master => router.route("/master", any(master)),
            Role::Slave => router
                .route("/slave", any(slave))
                .route("/slave/digest", axum::routing::post(digest))
                .route("/slave/server", get(status::server)),
        };
    }
    if routes != Routes::Clients {
        router = router
            .route("/status", get(status::status))
            .route("/metrics", get(status::metrics))
            .route("/admin/server", get(status::server))
            .route("/admin/slaves", get(admin::list_slaves).post(admin::register_slave).delete(admin::remove_slave))
            .route("/admin/slaves/pause", axum::routing::post(admin::pause_slave))
            .route("/admin/slaves/resume", axum::routing::post(admin::resume_slave))
            .route("/admin/snapshots", axum::routing::post(snapshots::begin).delete(snapshots::end))
            .route("/admin/snapshots/rows", axum::routing::post(snapshots::rows))
            .route("/admin/verify", axum::routing::post(admin::verify))
            .route("/admin/resume", axum::routing::post(admin::resume))
            .route("/admin/reload", axum::routing::post(admin::reload));
    }
    router
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .with_state(front)
        // A panic is one request's, not the node's.
        .layer(CatchPanicLayer::custom(panicked))
        .layer(TraceLayer::new_for_http())
}

async fn master(State(front): State<HttpFront>, request: Request) -> Result<Response, HttpError> {
    known_method(&request)?;
    front.command(request).await
}

async fn slave(State(front): State<HttpFront>, request: Request) -> Result<Response, HttpError> {
    known_method(&request)?;
    match &front.0.state.replication {
        NodeReplication::Slave(applier) => front.post_to_slave(applier, request).await,
        NodeReplication::Master(_) => Err(front.unknown_path(request.uri())),
    }
}

fn known_method(request: &Request) -> Result<(), HttpError> {
    match *request.method() {
        Method::GET | Method::HEAD | Method::POST | Method::PUT | Method::DELETE => Ok(()),
        _ => Err(method_error(request.method(), request.uri())),
    }
}

async fn unknown_path(State(front): State<HttpFront>, uri: Uri) -> HttpError {
    front.unknown_path(&uri)
}

async fn wrong_method(method: Method, uri: Uri) -> HttpError {
    method_error(&method, &uri)
}

fn method_error(method: &Method, uri: &Uri) -> HttpError {
    HttpError::Method { path: uri.path().to_owned(), method: method.clone() }
}

fn panicked(_: Box<dyn Any + Send + 'static>) -> Response<Body> {
    HttpError::Internal.into_response()
}

impl HttpFront {
    /// There is nothing at this path.
    pub(super) fn unknown_path(&self, uri: &Uri) -> HttpError {
        HttpError::UnknownPath { path: uri.path().to_owned(), role: self.role() }
    }
}

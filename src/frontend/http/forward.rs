//! `http.writes = "forward"`: a write that a slave refuses its client is sent to the master in its place, and the master's
//! answer is the client's.
//!
//! - Only what the guard has refused as one plain write comes here ([`Forwarding`](towline_middleware::layers::guard)).
//! - It is sent once. Whether a write that broke off was carried out, nobody but the master knows.
//! - It runs as the account that the request would have run as on the slave.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderMap, Method, header},
    response::Response,
};
use bytes::Bytes;

use super::{
    HttpError,
    commands::{IDEMPOTENCY_KEY, JSON},
};
use crate::{config::HttpUrl, replication::json_lines::NDJSON, upstream::Credentials};

/// What a forwarded request carries, so that no slave forwards it again.
pub(super) const FORWARDED: &str = "towline-forwarded";

/// How long connecting to the master may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What of the master's answer goes to the client, besides its status and its body.
const ANSWER_HEADERS: [header::HeaderName; 3] = [header::CONTENT_TYPE, header::RETRY_AFTER, header::WWW_AUTHENTICATE];

/// Sends writes to one master.
#[derive(Debug)]
pub(super) struct Forwarder {
    client: reqwest::Client,
    master: HttpUrl,
    timeout: Duration,
}

impl Forwarder {
    /// One for the master at this URL, which may take so long to begin its answer, and to go on with it.
    ///
    /// # Errors
    /// The system refuses what a client needs.
    pub(super) fn new(master: HttpUrl, timeout: Duration) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            // A connection that was idle may be closed at the moment that a write goes out on it, which would then be one
            // of which nobody knows whether it was carried out.
            .pool_max_idle_per_host(0)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(timeout)
            .build()?;
        Ok(Self { client, master, timeout })
    }

    /// Sends the request of a client's on and returns the master's answer; a longer one streams.
    ///
    /// # Errors
    /// The master does not answer, or what answers is none.
    pub(super) async fn send(
        &self,
        method: &Method,
        headers: &HeaderMap,
        body: Bytes,
        credentials: &Credentials,
    ) -> Result<Response, HttpError> {
        let mut request = self
            .client
            .request(method.clone(), format!("{}/master", self.master.as_str()))
            .basic_auth(&credentials.user, Some(&credentials.password))
            .header(header::CONTENT_TYPE, JSON)
            .header(FORWARDED, "1")
            .body(body);
        for key in headers.get_all(IDEMPOTENCY_KEY) {
            request = request.header(IDEMPOTENCY_KEY, key);
        }
        for accept in headers.get_all(header::ACCEPT) {
            request = request.header(header::ACCEPT, accept);
        }
        let master = || self.master.as_str().to_owned();
        let answer = request.send().await.map_err(|source| {
            if source.is_connect() {
                HttpError::MasterAway { master: master(), source }
            } else if source.is_timeout() {
                HttpError::MasterSilent { master: master(), timeout_ms: self.timeout.as_millis(), source }
            } else {
                HttpError::MasterBroke { master: master(), source }
            }
        })?;
        let content_type = answer.headers().get(header::CONTENT_TYPE).map(|value| value.as_bytes());
        if !content_type.is_some_and(|value| [JSON, NDJSON].iter().any(|known| known.as_bytes() == value)) {
            return Err(HttpError::NoMaster { master: master(), status: answer.status() });
        }
        let mut response = Response::builder().status(answer.status());
        for name in ANSWER_HEADERS {
            if let Some(value) = answer.headers().get(&name) {
                response = response.header(name, value);
            }
        }
        let body = Body::from_stream(answer.bytes_stream());
        Ok(response.body(body).expect("the status and the headers were those of an answer"))
    }
}

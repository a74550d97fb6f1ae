//! What is read of a request before its command: who asks, and the body, each with its limits.

use std::{net::IpAddr, sync::atomic::Ordering, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, header},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use subtle::ConstantTimeEq;

use super::{HttpError, HttpFront};
use crate::{replication::json_lines::NDJSON, upstream::Credentials};

/// How long the rest of a body that is too long is read and thrown away: a client that gets its answer while it still
/// sends may lose the answer.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

/// What stands in `Authorization`, by its scheme.
pub(super) enum Authorization<'a> {
    None,
    Basic(&'a str),
    Bearer(&'a str),
    Other,
}

impl<'a> Authorization<'a> {
    pub(super) fn of(headers: &'a HeaderMap) -> Self {
        let Some(value) = headers.get(header::AUTHORIZATION) else { return Self::None };
        let Some((scheme, rest)) = value.to_str().ok().and_then(|text| text.split_once(' ')) else {
            return Self::Other;
        };
        match scheme {
            _ if scheme.eq_ignore_ascii_case("basic") => Self::Basic(rest.trim()),
            _ if scheme.eq_ignore_ascii_case("bearer") => Self::Bearer(rest.trim()),
            _ => Self::Other,
        }
    }
}

impl HttpFront {
    /// The account that a request's command runs as.
    ///
    /// # Errors
    /// There are no credentials and no account for those without, or they are not understood.
    pub(super) fn credentials(&self, headers: &HeaderMap) -> Result<Credentials, HttpError> {
        match (Authorization::of(headers), &self.options().anonymous_as) {
            (Authorization::Basic(text), _) => basic(text).ok_or(HttpError::BadCredentials),
            (Authorization::None, Some(account)) => {
                check_host(headers)?;
                Ok(account.clone())
            }
            (Authorization::None, None) => Err(HttpError::NoCredentials),
            (Authorization::Bearer(_) | Authorization::Other, _) => Err(HttpError::BadCredentials),
        }
    }

    /// Lets those pass that know the cluster's secret, and counts the others.
    ///
    /// # Errors
    /// It is missing or wrong.
    pub(super) fn check_secret(&self, headers: &HeaderMap) -> Result<(), HttpError> {
        let Some(secret) = &self.options().secret else { return Ok(()) };
        match Authorization::of(headers) {
            Authorization::Bearer(given) if given.as_bytes().ct_eq(secret.reveal().as_bytes()).into() => Ok(()),
            _ => {
                self.0.wrong_secrets.fetch_add(1, Ordering::Relaxed);
                Err(HttpError::WrongSecret)
            }
        }
    }

    /// Reads a body that must say of itself that it is JSON: a web page of somebody else's can't make a browser send
    /// that without asking first.
    ///
    /// # Errors
    /// It is not said to be JSON, too long, too slow, or broken.
    pub(super) async fn json_body(
        &self,
        headers: &HeaderMap,
        body: Body,
        limit: BodyLimit,
    ) -> Result<Bytes, HttpError> {
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        if !media_type.eq_ignore_ascii_case("application/json") {
            return Err(HttpError::ContentType);
        }
        let timeout = self.options().request_timeout;
        let timed_out = |_| HttpError::BodyTimedOut { timeout_ms: timeout.as_millis() };
        tokio::time::timeout(timeout, collect(headers, body, limit)).await.map_err(timed_out)?
    }
}

/// Whether a body says of itself that it is lines of JSON.
pub(super) fn is_json_lines(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    content_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(NDJSON)
}

/// How long a body may be, and the key that says so.
#[derive(Clone, Copy, Debug)]
pub(super) struct BodyLimit {
    pub(super) key: &'static str,
    pub(super) bytes_max: usize,
}

async fn collect(headers: &HeaderMap, mut body: Body, limit: BodyLimit) -> Result<Bytes, HttpError> {
    let too_long = HttpError::BodyTooLong { key: limit.key, limit_bytes: limit.bytes_max };
    if body.size_hint().lower() > limit.bytes_max as u64 {
        // Who waits for leave to send the body is not given it.
        if !headers.contains_key(header::EXPECT) {
            discard(body).await;
        }
        return Err(too_long);
    }
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(HttpError::BodyBroken)?.into_data() else { continue };
        if whole.len() + data.len() > limit.bytes_max {
            discard(body).await;
            return Err(too_long);
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

/// Reads what is left of a body, for a moment.
pub(super) async fn discard(mut body: Body) {
    let discarding = async { while let Some(Ok(_)) = body.frame().await {} };
    // What is left after that is cut off with the connection.
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, discarding).await;
}

fn basic(text: &str) -> Option<Credentials> {
    let decoded = String::from_utf8(BASE64_STANDARD.decode(text).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some(Credentials { user: user.to_owned(), password: password.to_owned() })
}

/// A page of a foreign site can make its own name mean this machine and have the browser ask here, without
/// credentials. It can't change that the browser then says that name.
fn check_host(headers: &HeaderMap) -> Result<(), HttpError> {
    let Some(host) = headers.get(header::HOST) else { return Ok(()) };
    let host = String::from_utf8_lossy(host.as_bytes());
    let name = match host.strip_prefix('[') {
        Some(address) => address.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    if name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    Err(HttpError::ForeignHost { host: host.chars().take(100).collect() })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn basic_credentials() {
        let encode = |text: &str| BASE64_STANDARD.encode(text);
        let credentials = basic(&encode("demo:de:mo")).expect("a name and a password");
        assert_eq!((credentials.user.as_str(), credentials.password.as_str()), ("demo", "de:mo"));
        assert!(basic(&encode("no colon")).is_none());
        assert!(basic("!!!").is_none());
        assert!(!format!("{credentials:?}").contains("de:mo"), "the password is printed");
    }

    #[test]
    fn only_this_machine_is_a_host_for_strangers() {
        let check = |host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_str(host).expect("a test host"));
            check_host(&headers).is_ok()
        };
        for host in ["127.0.0.1:5000", "localhost", "LOCALHOST:5000", "[::1]:5000", "[::1]", "10.0.0.5"] {
            assert!(check(host), "{host}");
        }
        for host in ["evil.example", "evil.example:5000", "localhost.evil.example", "", "127.0.0.1.evil.example"] {
            assert!(!check(host), "{host}");
        }
        assert!(check_host(&HeaderMap::new()).is_ok());
    }

    #[test]
    fn schemes_are_told_apart() {
        let of = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(text));
            match Authorization::of(&headers) {
                Authorization::Basic(text) => format!("basic {text}"),
                Authorization::Bearer(text) => format!("bearer {text}"),
                Authorization::Other => "other".to_owned(),
                Authorization::None => "none".to_owned(),
            }
        };
        assert_eq!(of("BASIC abc"), "basic abc");
        assert_eq!(of("Bearer  s "), "bearer s");
        assert_eq!(of("Digest x"), "other");
        assert_eq!(of("Basic"), "other");
    }
}

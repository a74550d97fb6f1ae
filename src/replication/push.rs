//! One `POST /slave`, from the master's side.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{
    Body, Client, RequestBuilder, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use tokio::sync::mpsc;

use super::{
    digest::Question,
    json_lines::NDJSON,
    protocol::{Applied, NotApplied},
    server_facts::ServerFacts,
};

/// Why a push got no answer that means anything. Whether it was applied is not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PushError {
    /// The slave's node can't be reached, or did not answer in time.
    #[error("no answer: {}", with_causes(.0))]
    Http(#[source] reqwest::Error),
    /// The answer is none of the protocol's: another program is there, or the secret is wrong.
    #[error("it answered {status}: {text}")]
    Answer { status: StatusCode, text: String },
}

impl PushError {
    /// An answer that is none of the protocol's.
    pub(crate) fn foreign(status: StatusCode, text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text).chars().take(ANSWER_TEXT_MAX).collect();
        Self::Answer { status, text }
    }
}

/// A slave's `POST /slave`.
#[derive(Clone, Debug)]
pub(crate) struct PushTarget {
    client: Client,
    url: String,
    authorization: Option<HeaderValue>,
}

impl PushTarget {
    /// The slave whose HTTP is at `url`, which has no slash at its end.
    pub(crate) fn new(client: Client, url: &str, authorization: Option<HeaderValue>) -> Self {
        Self { client, url: format!("{url}/slave"), authorization }
    }

    /// Asks for a digest; the answer's body comes in two lines, the second perhaps much later.
    pub(crate) async fn digest(&self, question: &Question) -> Result<reqwest::Response, PushError> {
        let request = self.request(&format!("{}/digest", self.url)).timeout(DIGEST_TIMEOUT);
        request.json(question).send().await.map_err(PushError::Http)
    }

    /// Sends a body and reads the answer.
    ///
    /// # Cancel safety
    /// After a drop the slave may or may not apply it: ask where it stands.
    pub(crate) async fn post(&self, pieces: Vec<Bytes>) -> Result<Result<Applied, NotApplied>, PushError> {
        let pieces = pieces.into_iter().map(Ok::<_, std::convert::Infallible>);
        let body = Body::wrap_stream(futures_util::stream::iter(pieces));
        answered(self.request(&self.url).header(CONTENT_TYPE, "application/json").body(body)).await
    }

    /// Sends a streamed transaction, whose lines are given one by one, and reads the answer.
    ///
    /// # Cancel safety
    /// As [`post`](Self::post).
    pub(crate) async fn post_lines(
        &self,
        lines: mpsc::Receiver<Bytes>,
    ) -> Result<Result<Applied, NotApplied>, PushError> {
        let lines = futures_util::stream::unfold(lines, |mut lines| async {
            let line = lines.recv().await?;
            Some((Ok::<_, std::convert::Infallible>(line), lines))
        });
        answered(
            self.request(&self.url).header(CONTENT_TYPE, NDJSON).timeout(LONGEST_STREAM).body(Body::wrap_stream(lines)),
        )
        .await
    }

    /// Asks what the slave's server is like.
    pub(crate) async fn server(&self) -> Result<ServerFacts, PushError> {
        let request = self.client.get(format!("{}/server", self.url)).timeout(FACTS_TIMEOUT);
        ServerFacts::ask(self.authorized(request)).await
    }

    fn request(&self, url: &str) -> RequestBuilder {
        self.authorized(self.client.post(url))
    }

    fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.authorization {
            Some(authorization) => request.header(AUTHORIZATION, authorization),
            None => request,
        }
    }
}

async fn answered(request: RequestBuilder) -> Result<Result<Applied, NotApplied>, PushError> {
    let (status, text) = answer(request).await?;
    let answer = if status.is_success() {
        serde_json::from_slice(&text).map(Ok)
    } else {
        serde_json::from_slice(&text).map(Err)
    };
    answer.map_err(|_| PushError::foreign(status, &text))
}

/// Sends a request and reads the beginning of its answer, which is longer than any of the protocol's.
pub(crate) async fn answer(request: RequestBuilder) -> Result<(StatusCode, Vec<u8>), PushError> {
    let mut response = request.send().await.map_err(PushError::Http)?;
    let status = response.status();
    let mut text = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(PushError::Http)? {
        text.extend_from_slice(&piece);
        if text.len() > ANSWER_BYTES_MAX {
            break;
        }
    }
    Ok((status, text))
}

/// One that moves is not cut; whether it moves is watched change by change.
const LONGEST_STREAM: Duration = Duration::from_secs(24 * 3600);
/// A table without a number for a key is hashed in one piece.
const DIGEST_TIMEOUT: Duration = Duration::from_secs(3600);
/// What a node tells of its server it knows, or asks for in a moment.
const FACTS_TIMEOUT: Duration = Duration::from_secs(5);
/// No answer of the protocol is so long.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How many characters of a foreign answer are shown.
const ANSWER_TEXT_MAX: usize = 200;

/// reqwest names the cause only in its sources.
fn with_causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

//! A slave's word to its master: "I am here".

use std::time::Duration;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::protocol::Family;

/// How long one try may take.
const TRY_TIMEOUT: Duration = Duration::from_secs(5);
const BACK_OFF_MIN: Duration = Duration::from_millis(200);
const BACK_OFF_MAX: Duration = Duration::from_secs(10);

/// What a 404 from `cluster.master` means.
pub(super) const NOT_ADMINISTRATION: &str = "it answers 404: `cluster.master` is not where the master's administration is; \
    write the master's `admin.listen` there, and set that on the master: without it it is 127.0.0.1:5900 unless the master's \
    `http.listen` is on loopback";

/// What a slave tells its master, and where.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The URL of the master's administration, without a slash at its end.
    pub master: String,
    /// The cluster's secret.
    pub secret: Option<String>,
    /// The name of this slave.
    pub id: String,
    /// The URL of this slave's HTTP, as the master reaches it.
    pub url: String,
    /// The family of this slave's server; none if it is not known.
    pub family: Option<Family>,
}

#[derive(Serialize)]
struct Body<'a> {
    id: &'a str,
    url: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    family: Option<Family>,
}

/// Why a try failed.
#[derive(Debug, thiserror::Error)]
enum TryError {
    /// The master does not answer; it may start later.
    #[error("it does not answer")]
    Away(#[from] reqwest::Error),
    /// What answers is no administration.
    #[error("{NOT_ADMINISTRATION}")]
    NotAdministration,
    /// The master answers, and says no.
    #[error("it answers {status}: {body}")]
    Refused { status: reqwest::StatusCode, body: String },
}

impl Registration {
    /// Registers, and tries again until the master has taken it or `stop`. The master keeps what it was told, so once
    /// is enough; a master that refuses is asked again too, since a mend may be on its side.
    pub async fn run(self, stop: CancellationToken) {
        let client = match reqwest::Client::builder().no_proxy().build() {
            Ok(client) => client,
            Err(error) => {
                return tracing::error!(error = &error as &dyn std::error::Error, "can't register with the master");
            }
        };
        let mut delay = BACK_OFF_MIN;
        let mut told = None;
        loop {
            match self.once(&client).await {
                Ok(()) => return tracing::info!(master = self.master, id = self.id, "registered with the master"),
                Err(error) => {
                    // The same trouble is told once, not at every try.
                    let text = error.to_string();
                    if told.as_ref() != Some(&text) {
                        let cause = &error as &dyn std::error::Error;
                        tracing::warn!(error = cause, master = self.master, "can't register with the master yet");
                        told = Some(text);
                    }
                }
            }
            let jittered = delay.mul_f64(0.75 + fastrand::f64() / 2.0);
            tokio::select! {
                () = tokio::time::sleep(jittered) => delay = (delay * 2).min(BACK_OFF_MAX),
                () = stop.cancelled() => return,
            }
        }
    }

    async fn once(&self, client: &reqwest::Client) -> Result<(), TryError> {
        let mut request = client.post(format!("{}/admin/slaves", self.master)).timeout(TRY_TIMEOUT);
        if let Some(secret) = &self.secret {
            request = request.bearer_auth(secret);
        }
        let answer = request.json(&Body { id: &self.id, url: &self.url, family: self.family }).send().await?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            reqwest::StatusCode::NOT_FOUND => Err(TryError::NotAdministration),
            status => {
                let body = answer.text().await.unwrap_or_default();
                Err(TryError::Refused { status, body: body.chars().take(300).collect() })
            }
        }
    }
}

//! What goes wrong with a request, and the HTTP status that says so.
//!
//! Every error is `{"error": {"code", "sqlstate", "message"}}` with MySQL's number where MySQL has one that means the
//! same, and 1105 (`unknown error`) where it has none. `index` names the command of a list.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;
use towline_middleware::{Error, ServerError};

use super::{json::InvalidJson, json_command::InvalidCommand, rows::RowError};
use crate::{
    node::ReloadError,
    replication::{hub::HubError, snapshot::SnapshotError},
    upstream::{ConnectError, LoginError},
};

/// Why a request is not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// The command can't be done as it stands.
    #[error(transparent)]
    Invalid(#[from] InvalidCommand),
    /// The server, or a layer, refuses the command.
    #[error("{0}")]
    Server(ServerError),
    /// One command of a list failed, and with it the whole list.
    #[error("the command at index {index}: {source}")]
    At {
        /// Its place in the list.
        index: usize,
        /// Why.
        source: Box<HttpError>,
    },
    /// A statement of a list ended the list's transaction by itself.
    #[error(
        "the command at index {index} ended the transaction of its list: the commands up to it are committed, those after it were not run"
    )]
    TransactionEnded {
        /// Its place in the list.
        index: usize,
    },
    /// Parameters and question marks differ in number.
    #[error("`params` has {given} values, but `sql` has {wanted} question marks")]
    ParameterCount {
        /// Values.
        given: usize,
        /// Question marks.
        wanted: usize,
    },
    /// A write that a slave refuses and its master would take.
    #[error(transparent)]
    WriteForMaster(ServerError),
    /// The master can't be reached.
    #[error("the write was not carried out: the master at {master} (http.master) can't be reached; try again later")]
    MasterAway {
        /// Its URL.
        master: String,
        /// What went wrong.
        source: reqwest::Error,
    },
    /// The master broke off.
    #[error(
        "the master at {master} (http.master) broke off before it answered; whether the write was carried out is not known"
    )]
    MasterBroke {
        /// Its URL.
        master: String,
        /// What went wrong.
        source: reqwest::Error,
    },
    /// The master does not answer.
    #[error(
        "the master at {master} (http.master) did not answer within {timeout_ms} ms; whether the write was carried out is not known"
    )]
    MasterSilent {
        /// Its URL.
        master: String,
        /// How long it was waited for.
        timeout_ms: u128,
        /// What went wrong.
        source: reqwest::Error,
    },
    /// Somebody else answers in the master's place.
    #[error("what answers at {master} (http.master) is no master: it says {status}, and not as a Towline node does")]
    NoMaster {
        /// The URL.
        master: String,
        /// Its answer.
        status: StatusCode,
    },
    /// A write was forwarded to a slave.
    #[error("this node is a slave and takes no forwarded writes; http.master of who sent it must name the master")]
    ForwardedToSlave,
    /// There are no credentials, and no account for those who have none.
    #[error(
        "log in with the name and password of a MySQL account (HTTP Basic); http.anonymous_as can name one for requests without"
    )]
    NoCredentials,
    /// What stands in `Authorization` is not understood.
    #[error("the Authorization header must be `Basic` with base64 of name:password, in UTF-8")]
    BadCredentials,
    /// A request that a web page of somebody else's may have sent.
    #[error("requests without credentials must name this node by its address or as localhost, not as {host:?}")]
    ForeignHost {
        /// What it names.
        host: String,
    },
    /// The cluster's secret is missing or wrong.
    #[error("this needs `Authorization: Bearer` with the cluster's secret (cluster.secret)")]
    WrongSecret,
    /// MySQL refuses the login, or the account can't be used.
    #[error("{0}")]
    Login(#[from] LoginError),
    /// There is no connection to MySQL.
    #[error("{}", .0.to_client())]
    Connect(#[from] ConnectError),
    /// All of the account's sessions are in use.
    #[error("all {sessions_max} sessions of this account are busy; try again later")]
    AccountBusy {
        /// How many one account may have.
        sessions_max: usize,
    },
    /// The session ended in the middle of the command.
    #[error("{}; if the command was a write, whether it was carried out is not known", session_text(.0))]
    Session(#[from] Error),
    /// The command took too long.
    #[error(
        "the command took longer than http.request_timeout_ms ({timeout_ms} ms) and was ended; if it was a write, whether it was carried out is not known"
    )]
    TimedOut {
        /// The limit.
        timeout_ms: u128,
    },
    /// The client does not send its body.
    #[error("the body did not arrive within {timeout_ms} ms")]
    BodyTimedOut {
        /// The limit.
        timeout_ms: u128,
    },
    /// The body is too long.
    #[error("the body is longer than {key} ({limit_bytes} bytes)")]
    BodyTooLong {
        /// Which limit it met.
        key: &'static str,
        /// The limit.
        limit_bytes: usize,
    },
    /// The body broke off.
    #[error("the body broke off")]
    BodyBroken(#[source] axum::Error),
    /// The command's SQL is longer than a packet.
    #[error("the command's SQL has {bytes} bytes; {limit_bytes} is the most")]
    CommandTooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// The result is too long to be held in memory.
    #[error(
        "the result is longer than http.response_bytes_max ({limit_bytes} bytes); stream it with `Accept: application/x-ndjson`, or ask for less with `limit`"
    )]
    ResponseTooLong {
        /// The limit.
        limit_bytes: usize,
    },
    /// A row that no reader takes.
    #[error(transparent)]
    Row(RowError),
    /// A list can't be streamed.
    #[error("a list of commands is answered as a whole; send `Accept: application/json`, or stream one command")]
    ListStreamed,
    /// A list has no single result that a key could stand for.
    #[error("`Idempotency-Key` is for one command; send no list with it")]
    ListWithKey,
    /// A key that can't be one.
    #[error("send one `Idempotency-Key` of printable ASCII")]
    InvalidKey,
    /// Nobody here keeps keys.
    #[error("this node keeps no idempotency keys: configure layer `idempotency`, or send no `Idempotency-Key`")]
    NoKeys,
    /// The body is not said to be JSON.
    #[error("send the body as `Content-Type: application/json`")]
    ContentType,
    /// A parameter of the address is not understood.
    #[error("the parameters of the address are not understood: {0}")]
    Parameters(#[source] axum::extract::rejection::QueryRejection),
    /// A GET that is no read.
    #[error("GET reads: `select` or `search`; send other actions by POST")]
    GetWrites,
    /// The path is not served.
    #[error(
        "there is nothing at {path} here; this node is a {role}: /{role} is at `http.listen`, /status, /metrics and /admin \
         at `admin.listen`, which is 127.0.0.1:5900 unless it is set or `http.listen` is on loopback"
    )]
    UnknownPath {
        /// The path.
        path: String,
        /// What this node is.
        role: towline_middleware::Role,
    },
    /// The path does not take this method.
    #[error("{path} does not take {method}")]
    Method {
        /// The path.
        path: String,
        /// The method.
        method: axum::http::Method,
    },
    /// A push that is none.
    #[error("a push must be a batch of the protocol's version 1: {0}")]
    Push(#[source] InvalidJson),
    /// A request to `/admin` that is not understood.
    #[error(transparent)]
    Admin(InvalidJson),
    /// The configuration was not reloaded.
    #[error("nothing has changed: {0}")]
    Reload(#[from] ReloadError),
    /// The list of slaves could not be read or changed.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// No slave is registered under that name.
    #[error("no slave is registered as `{id}`")]
    UnknownSlave {
        /// The name.
        id: String,
    },
    /// A snapshot, or rows of it, can't be had.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Something broke that should not have.
    #[error("an internal error; see the node's log")]
    Internal,
}

fn session_text(error: &Error) -> String {
    error.to_client().map_or_else(|| error.to_string(), |error| error.text().into_owned())
}

impl From<ServerError> for HttpError {
    fn from(error: ServerError) -> Self {
        Self::Server(error)
    }
}

impl From<RowError> for HttpError {
    fn from(error: RowError) -> Self {
        match error {
            RowError::TooLong { limit_bytes } => Self::ResponseTooLong { limit_bytes },
            malformed @ RowError::Malformed(_) => Self::Row(malformed),
        }
    }
}

impl HttpError {
    /// The status that says it.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Invalid(_)
            | Self::BadCredentials
            | Self::ParameterCount { .. }
            | Self::Parameters(_)
            | Self::ListStreamed
            | Self::ListWithKey
            | Self::InvalidKey
            | Self::NoKeys
            | Self::GetWrites
            | Self::Push(_)
            | Self::Admin(_)
            | Self::Reload(_)
            | Self::Hub(HubError::Url(_) | HubError::Id | HubError::Family { .. })
            | Self::BodyBroken(_) => StatusCode::BAD_REQUEST,
            Self::Server(error) | Self::WriteForMaster(error) => status_of(error.code),
            Self::At { source, .. } => source.status(),
            Self::TransactionEnded { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::NoCredentials | Self::WrongSecret => StatusCode::UNAUTHORIZED,
            Self::Login(LoginError::Refused(error)) => match status_of(error.code) {
                StatusCode::SERVICE_UNAVAILABLE => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::UNAUTHORIZED,
            },
            Self::Login(LoginError::Method { .. } | LoginError::Unsendable) => StatusCode::UNAUTHORIZED,
            Self::ForeignHost { .. } => StatusCode::FORBIDDEN,
            Self::ForwardedToSlave => StatusCode::MISDIRECTED_REQUEST,
            Self::MasterBroke { .. } | Self::NoMaster { .. } => StatusCode::BAD_GATEWAY,
            Self::UnknownPath { .. }
            | Self::UnknownSlave { .. }
            | Self::Snapshot(SnapshotError::Unknown | SnapshotError::Table(_)) => StatusCode::NOT_FOUND,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTimedOut { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::BodyTooLong { .. }
            | Self::CommandTooLong { .. }
            | Self::ResponseTooLong { .. }
            | Self::Session(Error::PacketTooLarge { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Connect(ConnectError::Refused(error)) if status_of(error.code) == StatusCode::UNAUTHORIZED => {
                StatusCode::UNAUTHORIZED
            }
            Self::Login(LoginError::Broken(_))
            | Self::Connect(_)
            | Self::Hub(_)
            | Self::MasterAway { .. }
            | Self::Snapshot(_)
            | Self::AccountBusy { .. }
            | Self::Session(Error::Upstream(_) | Error::Protocol { .. } | Error::Client(_) | Error::OutdatedSession)
            | Self::Row(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::TimedOut { .. } | Self::MasterSilent { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::Session(Error::Layer { .. }) | Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Whether the session that it happened on stands between two commands, so that it can go on.
    pub(super) fn leaves_session_usable(&self) -> bool {
        match self {
            Self::Server(_) | Self::ParameterCount { .. } | Self::CommandTooLong { .. } => true,
            Self::At { source, .. } => source.leaves_session_usable(),
            _ => false,
        }
    }

    /// Number, SQLSTATE and text as the client gets them.
    pub(super) fn to_server_error(&self) -> ServerError {
        let own = |code, sqlstate| ServerError::new(code, sqlstate, self.to_string());
        match self {
            Self::Server(error) | Self::WriteForMaster(error) | Self::Login(LoginError::Refused(error)) => {
                error.clone()
            }
            Self::At { source, .. } => {
                let inner = source.to_server_error();
                ServerError { message: self.to_string().into(), ..inner }
            }
            Self::Connect(error) => error.to_client(),
            Self::Session(error) => {
                let (code, sqlstate) =
                    error.to_client().map_or((1105, *b"HY000"), |error| (error.code, error.sqlstate));
                own(code, &sqlstate)
            }
            Self::Login(LoginError::Broken(error)) => error.to_client().unwrap_or_else(|| own(2013, b"HY000")),
            Self::NoCredentials
            | Self::BadCredentials
            | Self::WrongSecret
            | Self::Login(_)
            | Self::ForeignHost { .. } => own(1045, b"28000"),
            Self::AccountBusy { .. } => own(1203, b"42000"),
            Self::TimedOut { .. } | Self::MasterSilent { .. } => own(3024, b"HY000"),
            Self::MasterAway { .. } => own(2003, b"HY000"),
            Self::MasterBroke { .. } | Self::NoMaster { .. } => own(2013, b"HY000"),
            Self::ForwardedToSlave => ServerError::refused(self.to_string()),
            Self::BodyTooLong { .. } | Self::CommandTooLong { .. } => own(1153, b"08S01"),
            Self::ParameterCount { .. } | Self::Invalid(_) | Self::Push(_) | Self::Admin(_) | Self::Reload(_) => {
                own(1210, b"HY000")
            }
            _ => own(1105, b"HY000"),
        }
    }

    /// The error as the client gets it in JSON.
    pub(super) fn to_json(&self) -> serde_json::Value {
        let error = self.to_server_error();
        let mut json = json!({"code": error.code, "sqlstate": error.state(), "message": error.text()});
        if let Self::At { index, .. } | Self::TransactionEnded { index } = self {
            json["index"] = json!(index);
        }
        if let Self::Invalid(InvalidCommand::At { index, .. }) = self {
            json["index"] = json!(index);
        }
        json!({ "error": json })
    }
}

/// The status for a number of MySQL's.
///
/// Source: MySQL manual, "Server Error Message Reference"; MariaDB Knowledge Base, "MariaDB Error Codes".
fn status_of(code: u16) -> StatusCode {
    match code {
        // No such login: an account, a password, an account that is locked or whose password is over.
        1698 | 1820 | 1862 | 3118 | 4151 => StatusCode::UNAUTHORIZED,
        // Read-only: the guard, the session, the server. Then what an account may not do.
        1290 | 1792 | 1836 | 1044 | 1045 | 1142 | 1143 | 1227 | 1370 => StatusCode::FORBIDDEN,
        // No such database or table.
        1008 | 1049 | 1051 | 1109 | 1146 => StatusCode::NOT_FOUND,
        // What is there already, and transactions that met; the latter may simply be tried again.
        1007 | 1022 | 1050 | 1062 | 1169 | 1205 | 1213 | 1586 => StatusCode::CONFLICT,
        // A packet that the server does not take.
        1153 => StatusCode::PAYLOAD_TOO_LARGE,
        // No more connections, resources or server.
        1040 | 1053 | 1129 | 1203 | 1226 | 2002 | 2003 | 2006 | 2012 | 2013 => StatusCode::SERVICE_UNAVAILABLE,
        // The command, or the slaves' acknowledgement, took too long.
        1969 | 3024 => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let status = self.status();
        if status.is_server_error() {
            tracing::warn!(%status, error = &self as &dyn std::error::Error, "a request failed");
        }
        let mut response = (status, axum::Json(self.to_json())).into_response();
        let headers = response.headers_mut();
        match status {
            StatusCode::UNAUTHORIZED => {
                let challenge = match self {
                    Self::WrongSecret => "Bearer realm=\"towline\"",
                    _ => "Basic realm=\"towline\", charset=\"UTF-8\"",
                };
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        // The rest of a body that nobody reads would be taken for the next request.
        if matches!(self, Self::BodyTooLong { .. } | Self::BodyTimedOut { .. }) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_of_the_interface() {
        for (code, status) in [
            (1064, 422),
            (1054, 422),
            (1290, 403),
            (1142, 403),
            (1792, 403),
            (1049, 404),
            (1146, 404),
            (1062, 409),
            (1213, 409),
            (1205, 409),
            (1053, 503),
            (1040, 503),
            (3024, 504),
        ] {
            assert_eq!(HttpError::from(ServerError::new(code, b"HY000", "x")).status().as_u16(), status, "{code}");
        }
        let refused = |code| HttpError::Login(LoginError::Refused(ServerError::new(code, b"28000", "x")));
        assert_eq!(refused(1045).status(), StatusCode::UNAUTHORIZED);
        assert_eq!(refused(1040).status(), StatusCode::SERVICE_UNAVAILABLE);
        let broken = HttpError::Session(Error::Upstream(std::io::ErrorKind::UnexpectedEof.into()));
        assert_eq!(broken.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(broken.into_response().headers()[header::RETRY_AFTER], "1");
        assert!(HttpError::NoCredentials.into_response().headers().contains_key(header::WWW_AUTHENTICATE));
    }

    #[test]
    fn a_list_names_the_place_of_its_error() {
        let source = Box::new(HttpError::from(ServerError::new(1062, b"23000", "Duplicate entry")));
        let error = HttpError::At { index: 2, source };
        assert_eq!(error.status(), StatusCode::CONFLICT);
        assert_eq!(
            error.to_json(),
            json!({"error": {"code": 1062, "sqlstate": "23000",
                "message": "the command at index 2: error 1062 (23000): Duplicate entry", "index": 2}})
        );
    }
}

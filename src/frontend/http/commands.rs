//! `/master` and `/slave` as a client sees them: JSON commands in, results out.

use axum::{
    body::{Body, Bytes},
    extract::{Query, Request},
    http::{HeaderMap, Method, Uri, header, request::Parts},
    response::{IntoResponse, Response},
};
use towline_middleware::{RequestKey, Role};

use super::{
    HttpError, HttpFront,
    accounts::{Lent, Schema},
    forward::FORWARDED,
    json_command::{self, Action, JsonCommand},
    parameters::body_of_parameters,
    request::BodyLimit,
    run::{self, Room},
    stream::{self, StreamLimits},
};
use crate::{replication::json_lines::NDJSON, upstream::Credentials};

/// The media type of answers that are not streamed.
pub(super) const JSON: &str = "application/json";

/// The header by which a client tells a retried write from another one.
pub(super) const IDEMPOTENCY_KEY: &str = "idempotency-key";

impl HttpFront {
    /// Carries a client's request out.
    ///
    /// # Errors
    /// See [`HttpError`].
    pub(super) async fn command(&self, request: Request) -> Result<Response, HttpError> {
        let (Parts { method, uri, headers, .. }, body) = request.into_parts();
        let (default, body) = match method {
            Method::GET | Method::HEAD => of_parameters(&uri)?,
            ref method => (default_action(method), self.client_body(&headers, body).await?),
        };
        self.run_body(&method, &headers, default, body).await
    }

    /// The body of a client's request.
    ///
    /// # Errors
    /// It is not JSON by its own word, too long, too slow, or broken.
    pub(super) async fn client_body(&self, headers: &HeaderMap, body: Body) -> Result<Bytes, HttpError> {
        let limit = BodyLimit { key: "http.body_bytes_max", bytes_max: self.options().body_bytes_max };
        self.json_body(headers, body, limit).await
    }

    /// Runs the command or the list of commands in `body`. A slave may send it to the master instead.
    ///
    /// # Errors
    /// See [`HttpError`].
    pub(super) async fn run_body(
        &self,
        method: &Method,
        headers: &HeaderMap,
        default: Option<Action>,
        body: Bytes,
    ) -> Result<Response, HttpError> {
        if self.role() == Role::Slave && headers.contains_key(FORWARDED) {
            return Err(HttpError::ForwardedToSlave);
        }
        // Who asks comes first: nobody learns what a command would have been told without an account.
        let credentials = self.credentials(headers)?;
        let timeout = self.options().request_timeout;
        let timed_out = |_| HttpError::TimedOut { timeout_ms: timeout.as_millis() };
        let running = self.run_request(headers, default, &body, &credentials);
        match (tokio::time::timeout(timeout, running).await.map_err(timed_out)?, &self.0.forwarder) {
            (Err(HttpError::WriteForMaster(_)), Some(forwarder)) if !matches!(*method, Method::GET | Method::HEAD) => {
                forwarder.send(method, headers, body, &credentials).await
            }
            (outcome, _) => outcome,
        }
    }

    async fn run_request(
        &self,
        headers: &HeaderMap,
        default: Option<Action>,
        body: &[u8],
        credentials: &Credentials,
    ) -> Result<Response, HttpError> {
        let streams = wants_stream(headers);
        let key = self.idempotency_key(headers)?;
        match &json_command::Request::parse(body, default)? {
            json_command::Request::One(command) => {
                let schema = schema_of(command);
                let names_schemas = matches!(schema, Schema::Any);
                let lent = self.0.accounts.lend(credentials, schema).await?;
                lent.session().state::<RequestKey>().set(key, names_schemas);
                match streams {
                    true => self.stream(lent, command).await,
                    false => self.answer(lent, command).await,
                }
            }
            json_command::Request::Transaction(_) if streams => Err(HttpError::ListStreamed),
            json_command::Request::Transaction(_) if key.is_some() => Err(HttpError::ListWithKey),
            json_command::Request::Transaction(commands) => {
                let lent = self.0.accounts.lend(credentials, schema_of_list(commands)).await?;
                lent.session().state::<RequestKey>().set(None, false);
                self.answer_list(lent, commands).await
            }
        }
    }

    /// The request's `Idempotency-Key`. A client that sends one relies on it.
    fn idempotency_key<'a>(&self, headers: &'a HeaderMap) -> Result<Option<&'a str>, HttpError> {
        let mut keys = headers.get_all(IDEMPOTENCY_KEY).into_iter();
        let Some(key) = keys.next() else { return Ok(None) };
        let (Ok(key), None) = (key.to_str(), keys.next()) else { return Err(HttpError::InvalidKey) };
        if self.role() == Role::Master && !self.0.accounts.has_layer("idempotency") {
            return Err(HttpError::NoKeys);
        }
        Ok(Some(key))
    }

    async fn answer(&self, mut lent: Lent, command: &JsonCommand<'_>) -> Result<Response, HttpError> {
        let read_position = self.read_position();
        let outcome = run::run(&mut lent, command, &mut self.room()).await;
        let results = settle(lent, outcome)?;
        let position = run::newest_position(&results).or(read_position);
        let mut body = String::new();
        run::push_results(&mut body, &results, position);
        Ok(json(body))
    }

    async fn answer_list(&self, mut lent: Lent, commands: &[JsonCommand<'_>]) -> Result<Response, HttpError> {
        let read_position = self.read_position();
        let outcome = run::run_list(&mut lent, commands, &mut self.room()).await;
        let list = settle(lent, outcome)?;
        let position = list.position.or(read_position);
        let mut body = String::new();
        list.push(&mut body, position);
        Ok(json(body))
    }

    async fn stream(&self, mut lent: Lent, command: &JsonCommand<'_>) -> Result<Response, HttpError> {
        let read_position = self.read_position();
        let outcome = run::start(&mut lent, command).await;
        let running = match outcome {
            Ok(running) => running,
            Err(error) => return settle(lent, Err(error)),
        };
        if let Some(error) = running.reply.server_error().cloned() {
            drop(running);
            return settle(lent, Err(error.into()));
        }
        let limits =
            StreamLimits { row_bytes_max: self.options().response_bytes_max, stall: self.options().request_timeout };
        Ok(stream::respond(lent, running, limits, read_position))
    }

    fn room(&self) -> Room {
        Room::new(self.options().response_bytes_max)
    }
}

/// Gives the session back if it can be used again; otherwise it is ended.
fn settle<T>(lent: Lent, outcome: Result<T, HttpError>) -> Result<T, HttpError> {
    let is_for_master = lent.take_refused_write();
    if outcome.as_ref().err().is_none_or(HttpError::leaves_session_usable) {
        lent.give_back();
    }
    outcome.map_err(|error| match error {
        HttpError::Server(refusal) if is_for_master => HttpError::WriteForMaster(refusal),
        error => error,
    })
}

fn json(body: String) -> Response {
    ([(header::CONTENT_TYPE, JSON)], body).into_response()
}

fn wants_stream(headers: &HeaderMap) -> bool {
    let accepts = headers.get_all(header::ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    accepts.flat_map(|text| text.split(',')).any(|range| {
        let media_type = range.split(';').next().unwrap_or_default().trim();
        media_type.eq_ignore_ascii_case(NDJSON)
    })
}

fn default_action(method: &Method) -> Option<Action> {
    match *method {
        Method::PUT => Some(Action::Update),
        Method::DELETE => Some(Action::Delete),
        _ => None,
    }
}

/// A GET's command: a select, or a search when there is a term.
fn of_parameters(uri: &Uri) -> Result<(Option<Action>, Bytes), HttpError> {
    let Query(parameters) = Query::<Vec<(String, String)>>::try_from_uri(uri).map_err(HttpError::Parameters)?;
    let named = |wanted: &str| parameters.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    if !matches!(named("action"), None | Some("select" | "search")) {
        return Err(HttpError::GetWrites);
    }
    let default = if named("term").is_some() { Action::Search } else { Action::Select };
    Ok((Some(default), body_of_parameters(&parameters)?.into()))
}

fn schema_of<'a>(command: &'a JsonCommand<'_>) -> Schema<'a> {
    match command {
        JsonCommand::Statement(_) | JsonCommand::Search(_) => Schema::Any,
        JsonCommand::Query { dbname: Some(name), .. } => Schema::Named(name),
        JsonCommand::Query { dbname: None, .. } => Schema::None,
    }
}

/// A list begins without a default schema if a command needs one and names none.
fn schema_of_list<'a>(commands: &'a [JsonCommand<'_>]) -> Schema<'a> {
    let without = commands.iter().any(|command| matches!(schema_of(command), Schema::None));
    if without { Schema::None } else { Schema::Any }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_stream_is_asked_for_by_name() {
        let wants = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(text));
            wants_stream(&headers)
        };
        assert!(wants("application/x-ndjson"));
        assert!(wants("text/html, Application/X-NDJSON;q=0.9"));
        assert!(!wants("*/*"));
        assert!(!wants("application/json"));
    }

    #[test]
    fn a_get_only_reads() {
        let of = |text: &'static str| of_parameters(&Uri::from_static(text)).map(|(action, _)| action);
        assert!(matches!(of("/master?dbname=a&table=b"), Ok(Some(Action::Select))));
        assert!(matches!(of("/master?dbname=a&table=b&term=x"), Ok(Some(Action::Search))));
        assert!(matches!(of("/master?action=delete"), Err(HttpError::GetWrites)));
        assert!(matches!(of("/master?action=query&sql=SELECT+1"), Err(HttpError::GetWrites)));
    }
}

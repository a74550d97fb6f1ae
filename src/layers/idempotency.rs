//! A retried write gives its first result: a key, by the header `Idempotency-Key` over HTTP or by a comment
//! `/* idempotency-key: … */` in the text, names one write of one account.
//!
//! - The write runs in a transaction of its own, in which its key and result are kept, in the schema `towline_app`: both
//!   are committed or neither. A second try gets the first result; while the first runs, it waits for that.
//! - The same key with another statement, default schema or parameters is refused.
//! - Only one INSERT, REPLACE, UPDATE or DELETE that would commit by itself: within a transaction, and with anything else
//!   that writes, the key is refused, since nobody could keep what it promises. Reads pass.
//! - Clients need no rights on the table: two procedures of the node's account reach it, and only the rows of the account
//!   that logged in. The node grants EXECUTE on them to an account that comes with its first key.
//!
//! A repeated answer has no position. `ROW_COUNT()` and SHOW WARNINGS tell nothing after a write with a key, and
//! `LAST_INSERT_ID()` nothing after a repeated one; the reply itself does. The transaction ends a LOCK TABLES. Tables
//! without transactions are not covered.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use memchr::memmem;
use mysql_async::{Conn, prelude::Queryable};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use towline_middleware::{
    Command, CommandKind, Completion, Error, Figure, Final, Head, LayerProblem, LayerSetup, Next, Part, Reply,
    RequestKey, Role, ServerError, TokenKind, UserLayer, from_fn,
    rows::{Collected, Value},
    status,
};

use super::OwnServer;

/// What stands in front of a key in a comment.
const MARK: &[u8] = b"idempotency-key:";
const KEY_BYTES_MAX: usize = 255;
/// How often a key is claimed again after a deadlock: nothing was done yet then.
const CLAIMS_MAX: u32 = 5;
/// A claim's answer is one row.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// So many expired keys are removed in one transaction.
const SWEEP_ROWS_MAX: u32 = 1000;
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// "EXECUTE command denied", and "access denied to the schema".
const NO_EXECUTE: [u16; 2] = [1370, 1044];
const DEADLOCK: u16 = 1213;

const MAKE: [&str; 4] = [
    "CREATE DATABASE IF NOT EXISTS towline_app",
    "CREATE TABLE IF NOT EXISTS towline_app.idempotency ( \
       account VARCHAR(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL, \
       request_key VARBINARY(255) NOT NULL, fingerprint VARBINARY(32) NOT NULL, \
       at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, affected_rows BIGINT UNSIGNED NOT NULL DEFAULT 0, \
       last_insert_id BIGINT UNSIGNED NOT NULL DEFAULT 0, info VARBINARY(1024) NOT NULL DEFAULT '', \
       PRIMARY KEY (account, request_key), KEY (at)) ENGINE = InnoDB",
    // No locking read and no change of a row that is there: two that have waited for the same key would deadlock.
    "CREATE PROCEDURE towline_app.claim (asked VARBINARY(255), print VARBINARY(32), ttl_s BIGINT UNSIGNED) \
     MODIFIES SQL DATA SQL SECURITY DEFINER BEGIN \
       DECLARE own VARCHAR(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin \
         DEFAULT LEFT(USER(), CHAR_LENGTH(USER()) - CHAR_LENGTH(SUBSTRING_INDEX(USER(), '@', -1)) - 1); \
       DECLARE is_new BOOL; \
       INSERT IGNORE INTO towline_app.idempotency (account, request_key, fingerprint) VALUES (own, asked, print); \
       SET is_new = ROW_COUNT() > 0; \
       IF NOT is_new AND EXISTS (SELECT 1 FROM towline_app.idempotency WHERE account = own AND request_key = asked \
           AND at < NOW() - INTERVAL ttl_s SECOND) THEN \
         UPDATE towline_app.idempotency SET fingerprint = print, at = NOW() WHERE account = own AND request_key = asked; \
         SET is_new = TRUE; \
       END IF; \
       SELECT is_new, fingerprint = print, affected_rows, last_insert_id, info FROM towline_app.idempotency \
         WHERE account = own AND request_key = asked; \
     END",
    "CREATE PROCEDURE towline_app.keep (asked VARBINARY(255), affected BIGINT UNSIGNED, id BIGINT UNSIGNED, \
       told VARBINARY(1024)) MODIFIES SQL DATA SQL SECURITY DEFINER \
     UPDATE towline_app.idempotency SET affected_rows = affected, last_insert_id = id, info = told WHERE request_key = asked \
       AND account = LEFT(USER(), CHAR_LENGTH(USER()) - CHAR_LENGTH(SUBSTRING_INDEX(USER(), '@', -1)) - 1)",
];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    /// How long a key is remembered.
    #[serde(default = "ttl_s")]
    ttl_s: u32,
}

fn ttl_s() -> u32 {
    86_400
}

#[derive(Debug)]
struct Idempotency {
    ttl_s: u32,
    server: OwnServer,
    repeated: Figure,
    refused: Figure,
}

/// Why a write with a key is not run.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("an idempotency key is 1 to {KEY_BYTES_MAX} printable ASCII characters without spaces, and only one")]
    Key,
    #[error(
        "an idempotency key is for a statement that commits by itself: send it outside a transaction, with autocommit on"
    )]
    InTransaction,
    #[error(
        "an idempotency key is for one INSERT, REPLACE, UPDATE or DELETE: what else writes can't be undone when it is tried twice"
    )]
    Statement,
    #[error("an idempotency key is for values in one packet: send no long data by itself, and no bulk execution")]
    Parameters,
    #[error("this idempotency key was used for another statement: take a new one")]
    Other,
    #[error("a write with an idempotency key gives no rows: leave RETURNING out. Nothing was changed")]
    Rows,
    #[error(
        "the idempotency key can't be kept: {reason}. Have an administrator run: GRANT EXECUTE ON PROCEDURE towline_app.claim \
         TO {account}; GRANT EXECUTE ON PROCEDURE towline_app.keep TO {account}"
    )]
    Grant { reason: String, account: String },
}

impl Refusal {
    fn error(&self) -> ServerError {
        ServerError::new(1235, b"42000", self.to_string())
    }
}

/// What came of a key.
enum Claim {
    New,
    Repeated(Completion),
    Refused(ServerError),
}

/// The layer of these options.
pub(super) fn layer(setup: &mut LayerSetup, server: OwnServer) -> Result<impl UserLayer + use<>, LayerProblem> {
    let Options { ttl_s } = setup.options()?;
    let own = Arc::new(Idempotency {
        ttl_s,
        server: server.clone(),
        repeated: setup.counter("repeated", "Writes answered with the result of an earlier try.", &[]),
        refused: setup.counter("refused", "Writes whose idempotency key could not be kept.", &[]),
    });
    // A slave has the schema from its master, and runs no writes.
    if setup.role() == Role::Master {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        setup.on_start(async move {
            if let Some(opts) = server.get() {
                let mut conn = Conn::new(opts).await?;
                make(&mut conn).await.map_err(|source| format!("the schema towline_app can't be made: {source}"))?;
                conn.disconnect().await?;
            }
            tokio::spawn(async move { stopped.run_until_cancelled(sweep(server, ttl_s)).await });
            Ok(())
        });
        setup.on_stop(async move { stop.cancel() });
    }
    Ok(from_fn(move |command: Command, next: Next| {
        let own = own.clone();
        async move { own.call(command, next).await }
    }))
}

/// Makes what is missing; what is there is not made again, since each statement would travel to the slaves.
async fn make(conn: &mut Conn) -> Result<(), mysql_async::Error> {
    let sql =
        "SELECT COUNT(*) FROM information_schema.routines WHERE routine_schema = 'towline_app' AND routine_name = ";
    for (index, statement) in MAKE.iter().enumerate() {
        let name = ["keep", "keep", "claim", "keep"][index];
        if conn.query_first::<u64, _>(format!("{sql}'{name}'")).await? == Some(0) {
            conn.query_drop(*statement).await?;
        }
    }
    Ok(())
}

/// Removes expired keys, now and then, in small transactions.
async fn sweep(server: OwnServer, ttl_s: u32) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        let Some(opts) = server.get() else { continue };
        let swept = async {
            let mut conn = Conn::new(opts).await?;
            loop {
                let sql = "DELETE FROM towline_app.idempotency WHERE at < NOW() - INTERVAL";
                conn.query_drop(format!("{sql} {ttl_s} SECOND ORDER BY at LIMIT {SWEEP_ROWS_MAX}")).await?;
                if conn.affected_rows() < SWEEP_ROWS_MAX.into() {
                    return conn.disconnect().await;
                }
            }
        };
        if let Err(error) = swept.await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "expired idempotency keys could not be removed; trying again");
        }
    }
}

impl Idempotency {
    async fn call(&self, command: Command, next: Next) -> Result<Reply, Error> {
        let is_write = command.kind().runs_sql() && command.intent().may_write();
        if !is_write || command.session().role() == Role::Slave {
            return next.run(command).await;
        }
        match key(&command) {
            Ok(None) => next.run(command).await,
            Ok(Some(key)) => match self.run(&key, command, &next).await? {
                Ok(completion) => Ok(Reply::ok(completion)),
                Err(error) => {
                    self.refused.increment();
                    Ok(Reply::err(error))
                }
            },
            Err(refusal) => {
                self.refused.increment();
                Ok(Reply::err(refusal.error()))
            }
        }
    }

    /// Runs the write and keeps its result in one transaction, or finds its first result.
    async fn run(&self, key: &str, command: Command, next: &Next) -> Result<Result<Completion, ServerError>, Error> {
        let print = match fingerprint(&command) {
            Ok(print) => print,
            Err(refusal) => return Ok(Err(refusal.error())),
        };
        match self.claim(key, &print, &command, next).await? {
            Claim::New => {}
            Claim::Repeated(completion) => {
                self.repeated.increment();
                let end = ask(&command, next, "ROLLBACK AND NO CHAIN NO RELEASE").await?.end;
                return Ok(end.map(|end| Completion { status: end.status, ..completion }));
            }
            Claim::Refused(error) => return self.give_up(&command, next, error).await,
        }
        let done = match written(next.run(command.clone()).await?).await? {
            Ok(done) => done,
            Err(error) => return self.give_up(&command, next, error).await,
        };
        let info = hex(&done.info[..done.info.len().min(1024)]);
        let keep = format!(
            "CALL towline_app.keep({}, {}, {}, {info})",
            hex(key.as_bytes()),
            done.affected_rows,
            done.last_insert_id
        );
        if let Err(error) = ask(&command, next, &keep).await?.end {
            return self.give_up(&command, next, error).await;
        }
        let commit = ask(&command, next, "COMMIT AND NO CHAIN NO RELEASE").await?.end;
        let Completion { affected_rows, last_insert_id, info, warnings, .. } = done;
        Ok(commit.map(|commit| Completion { affected_rows, last_insert_id, info, warnings, ..commit }))
    }

    /// Begins the transaction, in which the key is new, or has been used.
    async fn claim(&self, key: &str, print: &[u8], command: &Command, next: &Next) -> Result<Claim, Error> {
        let claim = format!("CALL towline_app.claim({}, {}, {})", hex(key.as_bytes()), hex(print), self.ttl_s);
        let (mut tries, mut may_grant) = (0, true);
        loop {
            if let Err(error) = ask(command, next, "START TRANSACTION").await?.end {
                return Ok(Claim::Refused(error));
            }
            let Collected { rows, end, .. } = ask(command, next, &claim).await?;
            tries += 1;
            match end {
                Ok(_) => return Ok(claimed(rows.first().map_or(&[], Vec::as_slice))),
                Err(error) if error.code == DEADLOCK && tries < CLAIMS_MAX => {}
                Err(error) if NO_EXECUTE.contains(&error.code) && may_grant => {
                    may_grant = false;
                    if let Err(refusal) = self.grant(command, next).await? {
                        return Ok(Claim::Refused(refusal.error()));
                    }
                }
                Err(error) => return Ok(Claim::Refused(error)),
            }
        }
    }

    /// Lets the session's account execute the procedures.
    async fn grant(&self, command: &Command, next: &Next) -> Result<Result<(), Refusal>, Error> {
        let own = ask(command, next, "SELECT CURRENT_USER()").await?;
        let own = own.rows.first().and_then(|row| row.first()).map(|value| value.to_text().into_owned());
        let account = own.as_deref().and_then(|own| own.rsplit_once('@'));
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let account = account.map(|(user, host)| format!("{}@{}", quoted(user), quoted(host))).unwrap_or_default();
        let granted = async {
            let opts = self.server.get().ok_or(mysql_async::DriverError::ConnectionClosed)?;
            let mut conn = Conn::new(opts).await?;
            // A backslash in a name is only a backslash then. Whoever may claim may keep as well: `claim` comes last.
            conn.query_drop("SET sql_mode = CONCAT(@@sql_mode, ',NO_BACKSLASH_ESCAPES')").await?;
            for procedure in ["keep", "claim"] {
                conn.query_drop(format!("GRANT EXECUTE ON PROCEDURE towline_app.{procedure} TO {account}")).await?;
            }
            conn.disconnect().await
        };
        let granted: Result<(), mysql_async::Error> = granted.await;
        Ok(granted.map_err(|error| Refusal::Grant { reason: error.to_string(), account }))
    }

    async fn give_up<T>(
        &self,
        command: &Command,
        next: &Next,
        error: ServerError,
    ) -> Result<Result<T, ServerError>, Error> {
        // Whatever has failed, the client is told that; if this fails too, the session can't go on.
        match ask(command, next, "ROLLBACK AND NO CHAIN NO RELEASE").await?.end {
            Ok(_) => Ok(Err(error)),
            Err(source) => Err(Error::Layer { layer: "idempotency", source: source.into() }),
        }
    }
}

/// Asks something on the client's session.
async fn ask(command: &Command, next: &Next, sql: &str) -> Result<Collected, Error> {
    let own = Command::query(command.session(), sql);
    next.run(own.clone()).await?.collect(&own, ANSWER_BYTES_MAX).await
}

fn claimed(row: &[Value<'_>]) -> Claim {
    let [is_new, is_same, affected_rows, last_insert_id, info] = row else {
        return Claim::Refused(ServerError::new(1105, b"HY000", "towline_app.claim gave no row: make it anew"));
    };
    let number = |value: &Value<'_>| value.to_text().parse::<u64>().unwrap_or(0);
    match (number(is_new), number(is_same)) {
        (1, _) => Claim::New,
        (_, 0) => Claim::Refused(Refusal::Other.error()),
        _ => Claim::Repeated(Completion {
            affected_rows: number(affected_rows),
            last_insert_id: number(last_insert_id),
            info: Bytes::from(info.to_text().into_owned()),
            ..Completion::default()
        }),
    }
}

/// How the write ended. Rows that it gives are read to their end.
async fn written(mut reply: Reply) -> Result<Result<Completion, ServerError>, Error> {
    let is_ok = reply.head() == Head::Ok;
    let mut outcome = Ok(Completion::default());
    while let Some(part) = reply.next().await? {
        if let Part::Final { end, .. } = part {
            outcome = match end {
                Final::Ok(completion) => Ok(completion),
                Final::Err(error) => Err(error),
            };
        }
    }
    Ok(outcome.and_then(|completion| if is_ok { Ok(completion) } else { Err(Refusal::Rows.error()) }))
}

/// The key of this write, if it has one and may have one.
fn key(command: &Command) -> Result<Option<String>, Refusal> {
    let session = command.session();
    let of_request = session.state::<RequestKey>().get();
    if of_request.is_none() && !has_mark(command.sql()) {
        return Ok(None);
    }
    let tokens = session.classifier().tokens(command.sql(), session.sql_mode()).ok_or(Refusal::Statement)?;
    let mut keys: Vec<String> = of_request.map(|key| key.to_string()).into_iter().collect();
    let ends = tokens.iter().map(|token| token.end());
    let starts = tokens.iter().map(|token| token.start()).chain([command.sql().len()]);
    for (from, to) in [0].into_iter().chain(ends).zip(starts) {
        // Between two tokens there is nothing but space and comments.
        keys.extend(in_comments(&command.sql()[from..to]));
    }
    let Some(key) = keys.pop() else { return Ok(None) };
    let is_key = (1..=KEY_BYTES_MAX).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_key || !keys.is_empty() {
        return Err(Refusal::Key);
    }
    let first = tokens.first().map_or(&[][..], |token| token.bytes(command.sql()));
    let is_change =
        ["INSERT", "REPLACE", "UPDATE", "DELETE"].iter().any(|word| first.eq_ignore_ascii_case(word.as_bytes()));
    let last = tokens.iter().rposition(|token| token.kind != TokenKind::Semicolon).unwrap_or(0);
    let is_one = tokens[..last].iter().all(|token| token.kind != TokenKind::Semicolon);
    if !is_change || !is_one {
        return Err(Refusal::Statement);
    }
    let autocommits = session.status() & status::AUTOCOMMIT != 0;
    if session.in_transaction() || !autocommits {
        return Err(Refusal::InTransaction);
    }
    Ok(Some(key))
}

/// Whether a key may be in a text: few have the sign that a mark ends with.
fn has_mark(sql: &[u8]) -> bool {
    let is_mark = |at: usize| at + 1 >= MARK.len() && sql[at + 1 - MARK.len()..=at].eq_ignore_ascii_case(MARK);
    memchr::memchr_iter(b':', sql).any(is_mark)
}

/// The keys in the comments of a gap.
fn in_comments(gap: &[u8]) -> Vec<String> {
    let lower = gap.to_ascii_lowercase();
    let behind = memmem::find_iter(&lower, MARK).map(|at| &gap[at + MARK.len()..]);
    let key = |rest: &[u8]| {
        let end = [&b"*/"[..], b"\n"].iter().filter_map(|end| memmem::find(rest, end)).min().unwrap_or(rest.len());
        String::from_utf8_lossy(rest[..end].trim_ascii()).into_owned()
    };
    behind.map(key).collect()
}

/// What tells a write from another of the same key.
fn fingerprint(command: &Command) -> Result<Vec<u8>, Refusal> {
    let mut hash = Sha256::new();
    let mut put = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    put(command.session().schema().as_bytes());
    put(command.sql());
    if command.kind() != CommandKind::Query {
        // As values: an execute names its types only once.
        let values = command.parameters().ok_or(Refusal::Parameters)?;
        put(format!("{values:?}").as_bytes());
    }
    Ok(hash.finalize().to_vec())
}

fn hex(bytes: &[u8]) -> String {
    Value::from(bytes).to_sql()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use towline_middleware::testing::{command, conformance};

    use super::*;
    use crate::layers::tests::setup;

    #[tokio::test]
    async fn it_conforms() {
        conformance(|| layer(&mut setup("idempotency", json!({})), OwnServer::default()).unwrap()).await;
    }

    #[test]
    fn keys_are_found_in_comments() {
        assert_eq!(in_comments(b" /* Idempotency-Key: a-1 */ "), ["a-1"]);
        assert_eq!(in_comments(b"-- idempotency-key:x\n# idempotency-key: y"), ["x", "y"]);
        assert!(in_comments(b" /* key: a */ ").is_empty());
        assert!(has_mark(b"DELETE FROM a /* IDEMPOTENCY-key: b */") && has_mark(MARK));
        assert!(!has_mark(b"dempotency-key: a, 'idempotency-key'"));
    }

    #[test]
    fn other_statements_have_other_fingerprints() {
        let of = |sql: &str| fingerprint(&command(sql)).unwrap();
        assert_eq!(of("DELETE FROM a"), of("DELETE FROM a"));
        assert_ne!(of("DELETE FROM a"), of("DELETE FROM b"));
        let other = command("DELETE FROM a");
        other.session().set_schema("elsewhere");
        assert_ne!(fingerprint(&other).unwrap(), of("DELETE FROM a"));
    }
}

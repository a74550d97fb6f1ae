//! The key of a write: where it stands, what may have one, and what tells a write from another of the same key.

use memchr::memmem;
use sha2::{Digest, Sha256};
use towline_middleware::{Command, CommandKind, RequestKey, ServerError, Token, TokenKind, status};

use crate::layers::locks::Locks;

/// What stands in front of a key in a comment.
const MARK: &[u8] = b"idempotency-key:";
const KEY_BYTES_MAX: usize = 255;

/// Why a write with a key is not run.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("an idempotency key is 1 to {KEY_BYTES_MAX} printable ASCII characters without spaces, and only one")]
    Key,
    #[error(
        "an idempotency key is for a statement that commits by itself: send it outside a transaction, with autocommit on"
    )]
    InTransaction,
    #[error(
        "an idempotency key takes a transaction, which would end LOCK TABLES without a word: send UNLOCK TABLES before"
    )]
    Locked,
    #[error(
        "an idempotency key is for one INSERT, REPLACE, UPDATE or DELETE: what else writes can't be undone when it is tried twice"
    )]
    Statement,
    #[error("an idempotency key in a text that PREPARE or EXECUTE runs is not seen: send the statement by itself")]
    Executed,
    #[error(
        "FOUND_ROWS() and ROW_COUNT() in a write with an idempotency key would tell of what the node has asked for the key: \
         ask for them before, and send the numbers"
    )]
    Counts,
    #[error("an idempotency key is for values in one packet: send no long data by itself, and no bulk execution")]
    Parameters,
    #[error("this idempotency key was used for another statement: take a new one")]
    Other,
    #[error("a write with an idempotency key gives no rows: leave RETURNING out. Nothing was changed")]
    Rows,
    #[error("an idempotency key belongs to an account: log in under a name, not as the anonymous account")]
    Anonymous,
    #[error(
        "an idempotency key is looked up by a procedure that gives a row, which this client has not said it takes: have it log \
         in with CLIENT_MULTI_RESULTS"
    )]
    OneResult,
    #[error(
        "the idempotency key can't be kept: {reason}. Have an administrator run: GRANT EXECUTE ON PROCEDURE \
         towline_app.claim_2 TO {account}; GRANT EXECUTE ON PROCEDURE towline_app.keep_2 TO {account}"
    )]
    Grant { reason: String, account: String },
}

impl Refusal {
    pub(super) fn error(&self) -> ServerError {
        ServerError::new(1235, b"42000", self.to_string())
    }
}

/// The key of this write, if it has one and may have one.
pub(super) fn key(command: &Command) -> Result<Option<String>, Refusal> {
    let (session, sql) = (command.session(), command.sql());
    let of_request = session.state::<RequestKey>().get();
    if of_request.is_none() && !has_mark(sql) {
        return Ok(None);
    }
    let tokens = session.tokens(sql).ok_or(Refusal::Statement)?;
    let mut keys: Vec<String> = of_request.map(|key| key.to_string()).into_iter().collect();
    let ends = tokens.iter().map(|token| token.end());
    let starts = tokens.iter().map(|token| token.start()).chain([sql.len()]);
    for (from, to) in [0].into_iter().chain(ends).zip(starts) {
        // Between two tokens there is nothing but space and comments.
        keys.extend(in_comments(&sql[from..to]));
    }
    if is_in_executed_text(&tokens, sql) {
        return Err(Refusal::Executed);
    }
    let Some(key) = keys.pop() else { return Ok(None) };
    let is_key = (1..=KEY_BYTES_MAX).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_key || !keys.is_empty() {
        return Err(Refusal::Key);
    }
    if !is_one_change(&tokens, sql) {
        return Err(Refusal::Statement);
    }
    if tells_of_the_statement_before(&tokens, sql) {
        return Err(Refusal::Counts);
    }
    let autocommits = session.status() & status::AUTOCOMMIT != 0;
    if session.in_transaction() || !autocommits {
        return Err(Refusal::InTransaction);
    }
    if session.state::<Locks>().may_be_held() {
        return Err(Refusal::Locked);
    }
    Ok(Some(key))
}

fn is_word(token: &Token, sql: &[u8], words: &[&str]) -> bool {
    words.iter().any(|word| token.bytes(sql).eq_ignore_ascii_case(word.as_bytes()))
}

fn is_in_executed_text(tokens: &[Token], sql: &[u8]) -> bool {
    tokens.iter().any(|token| token.kind == TokenKind::Text && has_mark(token.bytes(sql)))
        && tokens.iter().any(|token| is_word(token, sql, &["PREPARE", "EXECUTE"]))
}

fn is_one_change(tokens: &[Token], sql: &[u8]) -> bool {
    let last = tokens.iter().rposition(|token| token.kind != TokenKind::Semicolon).unwrap_or(0);
    tokens.first().is_some_and(|first| is_word(first, sql, &["INSERT", "REPLACE", "UPDATE", "DELETE"]))
        && tokens[..last].iter().all(|token| token.kind != TokenKind::Semicolon)
}

fn tells_of_the_statement_before(tokens: &[Token], sql: &[u8]) -> bool {
    let is_name = |token: &Token| {
        let name = token.name(sql);
        name.is_some_and(|name| name.eq_ignore_ascii_case(b"FOUND_ROWS") || name.eq_ignore_ascii_case(b"ROW_COUNT"))
    };
    tokens.windows(2).any(|pair| pair[1].kind == TokenKind::Open && is_name(&pair[0]))
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

/// What tells a write from another of the same key: the default schema, the text and the parameters.
pub(super) fn fingerprint(command: &Command) -> Result<Vec<u8>, Refusal> {
    let mut hash = Sha256::new();
    let mut put = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    let session = command.session();
    let names_schemas = session.state::<RequestKey>().names_schemas();
    let schema = command.schema();
    put(if names_schemas { b"" } else { schema.as_bytes() });
    put(command.sql());
    if command.kind() != CommandKind::Query {
        // As values: an execute names its types only once.
        let values = command.parameters().ok_or(Refusal::Parameters)?;
        put(format!("{values:?}").as_bytes());
    }
    Ok(hash.finalize().to_vec())
}

#[cfg(test)]
mod tests {
    use towline_middleware::testing::command;

    use super::*;

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
        let request = |schema: &str| {
            let command = command("DELETE FROM b.a");
            command.session().set_schema(schema);
            command.session().state::<RequestKey>().set(Some("a"), true);
            fingerprint(&command).unwrap()
        };
        assert_eq!(request("elsewhere"), request("here"), "a request that names its schemas");
    }
}

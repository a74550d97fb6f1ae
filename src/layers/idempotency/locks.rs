//! LOCK TABLES, which the transaction of a key would end without a word. Not seen where a procedure runs it as a text, or
//! where the text is in a variable.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use towline_middleware::{Command, CommandKind, Intent, Token, TokenKind};

/// Whether a session may have locked tables. What is not certain counts as locked.
#[derive(Debug, Default)]
pub(super) struct Locks(AtomicBool);

impl Locks {
    pub(super) fn are_held(&self) -> bool {
        self.0.load(Relaxed)
    }

    /// Takes note that its session may have done anything.
    pub(super) fn miss(&self) {
        self.0.store(true, Relaxed);
    }

    /// Takes note that its session has none.
    pub(super) fn free(&self) {
        self.0.store(false, Relaxed);
    }

    /// Takes note of a command on its session. Whether it frees the tables, once its first result is an OK.
    pub(super) fn follow(command: &Command) -> bool {
        let locks = command.session().state::<Self>();
        let left = match command.kind() {
            // One that fails ends the session.
            CommandKind::ResetConnection | CommandKind::ChangeUser => {
                locks.free();
                None
            }
            kind if !kind.runs_sql() => None,
            _ => left_by(command),
        };
        if left == Some(true) {
            locks.miss();
        }
        left == Some(false)
    }
}

/// Whether tables are locked after this text; none if it has no say in that. Of several statements any may be the last
/// that runs, so that one of them that locks is enough, and only the first can free.
fn left_by(command: &Command) -> Option<bool> {
    let (sql, session) = (command.sql(), command.session());
    let is_examined = match command.intent() {
        Intent::Read => false,
        Intent::Transaction => true,
        _ => has_lock(sql),
    };
    if !is_examined {
        return None;
    }
    let Some(tokens) = session.tokens(sql) else {
        return has_lock(sql).then_some(true);
    };
    let mut statements = tokens.split(|token| token.kind == TokenKind::Semicolon).filter(|tokens| !tokens.is_empty());
    let is = |token: &Token, word: &str| token.bytes(sql).eq_ignore_ascii_case(word.as_bytes());
    let may_lock = |tokens: &[Token]| {
        let text = &sql[tokens[0].start()..tokens[tokens.len() - 1].end()];
        let is_for_another = is(&tokens[0], "SET") && tokens.get(1).is_some_and(|token| is(token, "STATEMENT"));
        let runs_text = tokens.iter().any(|token| is(token, "PREPARE") || is(token, "EXECUTE"));
        let may_be = is(&tokens[0], "LOCK") || is(&tokens[0], "FLUSH") || is_for_another || runs_text;
        may_be && has_lock(text)
    };
    if statements.clone().any(may_lock) {
        return Some(true);
    }
    let frees = match statements.next()? {
        [only] => is(only, "BEGIN"),
        [first, second] => {
            let pairs = [("UNLOCK", "TABLES"), ("UNLOCK", "TABLE"), ("START", "TRANSACTION"), ("BEGIN", "WORK")];
            pairs.iter().any(|pair| is(first, pair.0) && is(second, pair.1))
        }
        _ => false,
    };
    frees.then_some(false)
}

/// Whether the word is anywhere in a text: few have its last letter.
fn has_lock(sql: &[u8]) -> bool {
    memchr::memchr2_iter(b'k', b'K', sql).any(|at| at >= 3 && sql[at - 3..=at].eq_ignore_ascii_case(b"LOCK"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use towline_middleware::{Front, Role, Session};

    use super::*;
    use crate::classify::SqlClassifier;

    #[test]
    fn locks_are_followed() {
        let session = Arc::new(Session::new(Front::MySql, Role::Master, None, Arc::new(SqlClassifier::new())));
        for (sql, are_held) in [
            ("SELECT 1", false),
            ("lock /* a */ tables a WRITE", true),
            ("INSERT INTO a VALUES (1)", true),
            ("COMMIT", true),
            ("UNLOCK TABLES", false),
            ("SET @a = 1; LOCK TABLES a READ", true),
            ("BEGIN", false),
            ("FLUSH TABLES a WITH READ LOCK", true),
            ("START SLAVE", true),
            ("UNLOCK INSTANCE", true),
            ("LOCK TABLES a WRITE; SELECT nonsense; UNLOCK TABLES", true),
            ("SELECT nonsense; UNLOCK TABLES", true),
            ("UNLOCK TABLES; SELECT nonsense", false),
            ("SET STATEMENT max_statement_time = 5 FOR LOCK TABLES a READ", true),
            ("BEGIN WORK", false),
            ("BEGIN NOT ATOMIC IF 1 THEN EXECUTE IMMEDIATE 'LOCK TABLES a READ'; END IF; END", true),
            ("BEGIN", false),
            ("LOCK TABLES a READ", true),
            ("START TRANSACTION", false),
            ("UPDATE a SET b = 'LOCK TABLES'", false),
            ("EXECUTE IMMEDIATE 'LOCK TABLES a READ'", true),
        ] {
            if Locks::follow(&Command::query(&session, sql)) {
                session.state::<Locks>().free();
            }
            assert_eq!(session.state::<Locks>().are_held(), are_held, "{sql}");
        }
    }
}

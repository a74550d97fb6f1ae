//! LOCK TABLES, which the transaction of a key would end without a word.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use towline_middleware::{Command, CommandKind, Intent, TokenKind};

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

    /// Takes note of a command on its session.
    pub(super) fn follow(command: &Command) {
        let are_held = match command.kind() {
            CommandKind::ResetConnection | CommandKind::ChangeUser => Some(false),
            kind if !kind.runs_sql() => None,
            _ => left_by(command),
        };
        if let Some(are_held) = are_held {
            command.session().state::<Self>().0.store(are_held, Relaxed);
        }
    }
}

/// Whether tables are locked after this text; none if it has no say in that.
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
    let statements = tokens.split(|token| token.kind == TokenKind::Semicolon).filter(|tokens| !tokens.is_empty());
    statements
        .filter_map(|tokens| {
            let text = &sql[tokens[0].start()..tokens[tokens.len() - 1].end()];
            let is = |at: usize, word: &str| {
                tokens.get(at).is_some_and(|token| token.bytes(sql).eq_ignore_ascii_case(word.as_bytes()))
            };
            if is(0, "UNLOCK") || is(0, "START") || (is(0, "BEGIN") && !is(1, "NOT")) {
                return Some(false);
            }
            let may_lock = ["LOCK", "FLUSH", "PREPARE", "EXECUTE"].iter().any(|word| is(0, word));
            (may_lock && has_lock(text)).then_some(true)
        })
        .last()
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
            ("START TRANSACTION", false),
            ("UPDATE a SET b = 'LOCK TABLES'", false),
            ("EXECUTE IMMEDIATE 'LOCK TABLES a READ'", true),
        ] {
            Locks::follow(&Command::query(&session, sql));
            assert_eq!(session.state::<Locks>().are_held(), are_held, "{sql}");
        }
    }
}

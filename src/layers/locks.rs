//! Locks that a session holds outside of transactions. LOCK TABLES is not seen where a procedure runs it as a text, or where
//! the text is in a variable.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use towline_middleware::{Command, CommandKind, Head, Intent, Reply, Token, TokenKind};

/// Whether a session has locked tables: a state of it, which any layer may follow.
#[derive(Debug, Default)]
pub(super) struct Locks {
    /// It was seen to lock some. What is not certain counts as locked.
    held: AtomicBool,
    /// It may have done anything unseen.
    missed: AtomicBool,
}

/// The locks that a command frees if its first result is an OK.
#[must_use]
pub(super) struct Frees(Option<Arc<Locks>>);

impl Frees {
    /// Takes note of how the command has ended.
    pub(super) fn end(self, reply: &Reply) {
        if let Some(locks) = self.0.filter(|_| reply.head() == Head::Ok) {
            locks.free();
        }
    }
}

impl Locks {
    pub(super) fn are_held(&self) -> bool {
        self.held.load(Relaxed)
    }

    pub(super) fn may_be_held(&self) -> bool {
        self.are_held() || self.missed.load(Relaxed)
    }

    /// Takes note that its session may have done anything.
    pub(super) fn miss(&self) {
        self.missed.store(true, Relaxed);
    }

    fn free(&self) {
        self.held.store(false, Relaxed);
        self.missed.store(false, Relaxed);
    }

    /// Takes note of a command on its session, before it runs.
    pub(super) fn follow(command: &Command) -> Frees {
        let left = match command.kind() {
            CommandKind::ResetConnection | CommandKind::ChangeUser => {
                // One that fails ends the session.
                command.session().state::<Self>().free();
                None
            }
            kind if !kind.runs_sql() => None,
            _ => left_by(command),
        };
        let Some(locks) = left else { return Frees(None) };
        let own = command.session().state::<Self>();
        if locks {
            own.held.store(true, Relaxed);
            return Frees(None);
        }
        Frees(Some(own))
    }
}

/// Whether tables are locked after this text; none if it has no say in that. Of several statements any may be the last
/// that runs, so that one of them that locks is enough, and only the first can free.
fn left_by(command: &Command) -> Option<bool> {
    let (sql, session) = (command.sql(), command.session());
    let is_examined = match command.intent() {
        Intent::Read => false,
        // Without the word it can only free.
        Intent::Transaction => has_lock(sql) || session.state::<Locks>().may_be_held(),
        _ => has_lock(sql),
    };
    if !is_examined {
        return None;
    }
    let Some(tokens) = session.tokens(sql) else {
        return has_lock(sql).then_some(true);
    };
    let mut statements = tokens.split(|token| token.kind == TokenKind::Semicolon).filter(|tokens| !tokens.is_empty());
    let is = |token: &Token, word: &str| token.is_word(sql, word);
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

/// Whether a command takes, frees or asks for named locks, and reads no table.
pub(super) fn is_of_named_locks(command: &Command) -> bool {
    let sql = command.sql();
    if command.intent() != Intent::SessionState || !has_lock(sql) {
        return false;
    }
    let Some(tokens) = command.session().tokens(sql) else { return false };
    let names_lock = |pair: &[Token]| {
        pair[1].kind == TokenKind::Open
            && ["GET_LOCK", "RELEASE_LOCK", "RELEASE_ALL_LOCKS"].iter().any(|name| pair[0].is_word(sql, name))
    };
    tokens.windows(2).any(names_lock) && !tokens.iter().any(|token| token.is_word(sql, "FROM"))
}

/// Whether the word is anywhere in a text: few have its last letter.
fn has_lock(sql: &[u8]) -> bool {
    memchr::memchr2_iter(b'k', b'K', sql).any(|at| at >= 3 && sql[at - 3..=at].eq_ignore_ascii_case(b"LOCK"))
}

#[cfg(test)]
mod tests {
    use towline_middleware::{Completion, Front, Role, Session};

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
            Locks::follow(&Command::query(&session, sql)).end(&Reply::ok(Completion::default()));
            assert_eq!(session.state::<Locks>().are_held(), are_held, "{sql}");
        }
    }
}

//! What a session has SET, so that the second server reads and answers as the first.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use towline_middleware::{Command, CommandKind, Intent, TokenKind};

/// So many statements of SET are repeated on the second server, of so many bytes together.
const SETS_MAX: usize = 16;
const SETS_BYTES_MAX: usize = 4096;

/// The SETs of a session, in their order; none if it has done what can't be repeated, until it is reset.
#[derive(Debug)]
pub(super) struct Sets(Mutex<Option<Arc<Vec<Bytes>>>>);

impl Default for Sets {
    fn default() -> Self {
        Self(Mutex::new(Some(Arc::default())))
    }
}

/// What a command means for the session.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It begins anew.
    Reset,
    /// A SET that can be repeated.
    Set(Bytes),
    /// Whatever may be different now.
    Unknown,
}

impl Sets {
    pub(super) fn known(&self) -> Option<Arc<Vec<Bytes>>> {
        self.0.lock().clone()
    }

    /// Takes note that its session may have SET anything.
    pub(super) fn miss(&self) {
        *self.0.lock() = None;
    }

    /// Takes note of a step when it is answered.
    pub(super) fn follow(&self, step: Step, is_ok: bool) {
        let mut sets = self.0.lock();
        match (step, &mut *sets) {
            (Step::Reset, _) => *sets = Some(Arc::default()),
            (Step::Unknown, _) => *sets = None,
            (Step::Set(text), Some(known)) if is_ok => {
                let known = Arc::make_mut(known);
                // What is set by another variable may be another value by now.
                if !known.iter().chain([&text]).any(|set| set.contains(&b'@')) {
                    known.retain(|set| *set != text);
                }
                known.push(text);
                if known.len() > SETS_MAX || known.iter().map(Bytes::len).sum::<usize>() > SETS_BYTES_MAX {
                    *sets = None;
                }
            }
            // Servers do not take back what stands before the error.
            (Step::Set(text), _) if !is_ok && text.contains(&b',') => *sets = None,
            (Step::Set(_), _) => {}
        }
    }
}

impl Step {
    /// None for what leaves nothing in the session that a read of tables hangs on.
    pub(super) fn of(command: &Command) -> Option<Self> {
        let (sql, session) = (command.sql(), command.session());
        match command.kind() {
            CommandKind::ResetConnection | CommandKind::ChangeUser => return Some(Self::Reset),
            kind if !kind.runs_sql() => return None,
            // Most writes; the rest is looked at more closely.
            _ if is_change_of_rows(sql.trim_ascii_start()) && memchr::memchr(b';', sql).is_none() => return None,
            _ => {}
        }
        let Some(tokens) = session.tokens(sql) else { return Some(Self::Unknown) };
        let last = tokens.iter().rposition(|token| token.kind != TokenKind::Semicolon).unwrap_or(0);
        let is_one = tokens[..last].iter().all(|token| token.kind != TokenKind::Semicolon);
        let first = tokens.first().filter(|_| is_one).map_or(&[][..], |token| token.bytes(sql));
        let is_own = command.intent() < Intent::Write && command.plan().is_some_and(|plan| plan.refusal.is_none());
        if first.eq_ignore_ascii_case(b"SET") && is_own {
            // A function or a query in it would run there with each read, however long it takes.
            let calls = tokens.iter().any(|token| token.kind == TokenKind::Open);
            let is_plain = command.kind() == CommandKind::Query && sql.len() <= SETS_BYTES_MAX && !calls;
            return Some(if is_plain { Self::Set(Bytes::copy_from_slice(sql)) } else { Self::Unknown });
        }
        // The session itself knows its schema, and a transaction's reads are not copied.
        let leaves_nothing = first.eq_ignore_ascii_case(b"USE")
            || is_change_of_rows(first)
            || (is_one && command.intent() == Intent::Transaction);
        (!leaves_nothing).then_some(Self::Unknown)
    }
}

/// All else may make a temporary table, which would hide the other server's own.
fn is_change_of_rows(sql: &[u8]) -> bool {
    let word = sql.get(..6).unwrap_or_default();
    [b"INSERT", b"UPDATE", b"DELETE", b"REPLAC"].iter().any(|known| word.eq_ignore_ascii_case(*known))
}

#[cfg(test)]
mod tests {
    use towline_middleware::{Front, Role, Session};

    use super::*;
    use crate::classify::SqlClassifier;

    fn session() -> Arc<Session> {
        Arc::new(Session::new(Front::MySql, Role::Master, None, Arc::new(SqlClassifier::new())))
    }

    fn step(sql: &str) -> Option<Step> {
        Step::of(&Command::query(&session(), sql))
    }

    #[test]
    fn only_what_can_be_repeated_is() {
        for sql in ["SET NAMES utf8mb4", "/* a */ set sql_mode = 'ANSI_QUOTES';", "SET @a = 1"] {
            assert_eq!(step(sql), Some(Step::Set(Bytes::from_static(sql.as_bytes()))), "{sql}");
        }
        for sql in ["USE\tshop", "USE`shop`", "/* a */ UPDATE a SET b = ';'", "BEGIN", "INSERT INTO a VALUES (1)"] {
            assert_eq!(step(sql), None, "{sql}");
        }
        for sql in [
            "SELECT GET_LOCK('a', 1)",
            "SELECT b INTO @a FROM c",
            "HANDLER a OPEN",
            "PREPARE a FROM 'SELECT 1'",
            "SET @a = 1; SET @b = 2",
            "COMMIT; SET NAMES latin1",
            "SET @a = GET_LOCK('a', 1)",
            "SET @a = SLEEP (300)",
            "SET @a = (SELECT b FROM view_that_writes)",
            "SET SESSION TRANSACTION READ WRITE",
            "SET STATEMENT max_statement_time = 1 FOR DELETE FROM a",
            "CREATE TEMPORARY TABLE a (b INT)",
        ] {
            assert_eq!(step(sql), Some(Step::Unknown), "{sql}");
        }
    }

    #[test]
    fn sets_are_bounded_and_known_only_when_they_were_done() {
        let sets = Sets::default();
        let set = |text: &str, is_ok| sets.follow(Step::Set(Bytes::copy_from_slice(text.as_bytes())), is_ok);
        for (text, is_ok) in [("SET a = 1", true), ("SET b = 1", true), ("SET c = 1", false), ("SET a = 1", true)] {
            set(text, is_ok);
        }
        assert_eq!(*sets.known().unwrap(), ["SET b = 1", "SET a = 1"]);
        set("SET c = 1, d = 1", false);
        assert!(sets.known().is_none(), "a part of it may be set");
        sets.follow(Step::Reset, true);
        set(&format!("SET a = '{}'", "a".repeat(SETS_BYTES_MAX)), true);
        assert!(sets.known().is_none());
        set("SET a = 1", true);
        assert!(sets.known().is_none(), "what went before is not known");
        sets.follow(Step::Reset, true);
        assert!(sets.known().unwrap().is_empty());
    }
}

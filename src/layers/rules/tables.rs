//! Whether a text may reach a table of which classification does not tell.

use towline_middleware::{Session, Token, TokenKind as Kind};

use super::rule::Table;
use crate::classify::contains_ignoring_case;

/// Behind these words stands a table.
const BEFORE_TABLE: &[&str] = &[
    "DESC",
    "DESCRIBE",
    "EXPLAIN",
    "FROM",
    "HANDLER",
    "INTO",
    "JOIN",
    "STRAIGHT_JOIN",
    "TABLE",
    "TABLES",
    "TRUNCATE",
    "UPDATE",
    "USING",
];

/// Statements that have other names than those of tables, unless a query is in them.
const WITHOUT_TABLES: &[&str] =
    &["SET", "USE", "BEGIN", "START", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE", "SHOW", "KILL"];

/// How deep texts are looked for in texts.
const NESTING_MAX: u32 = 3;

/// Words that a text has if it has SQL in a string.
pub(super) const SQL_IN_SQL: [&str; 2] = ["IMMEDIATE", "PREPARE"];

/// Whether a text may reach this table: by its name where a table may stand, or by SQL within it that can't be seen.
/// `schema` is where names without one are looked for; `is_known` says that classification has found tables in it.
pub(super) fn may_reach(session: &Session, schema: &str, sql: &[u8], table: &Table, is_known: bool) -> bool {
    within(session, schema, sql, table, is_known, 0)
}

fn within(session: &Session, schema: &str, sql: &[u8], table: &Table, is_known: bool, nesting: u32) -> bool {
    let Some(tokens) = session.tokens(sql) else {
        let words = SQL_IN_SQL.into_iter().chain([&*table.name]);
        return words.into_iter().any(|word| contains_ignoring_case(sql, word));
    };
    tokens.split(|token| token.kind == Kind::Semicolon).any(|tokens| {
        let statement = Statement { session, schema, sql, tokens };
        statement.names(table, is_known) || statement.hides(table, nesting)
    })
}

/// One statement. A place is the number of a token.
struct Statement<'a> {
    session: &'a Session,
    schema: &'a str,
    sql: &'a [u8],
    tokens: &'a [Token],
}

impl Statement<'_> {
    fn is_any(&self, at: Option<usize>, words: &[&str]) -> bool {
        let token = at.and_then(|at| self.tokens.get(at));
        token.is_some_and(|token| words.iter().any(|word| token.is_word(self.sql, word)))
    }

    fn is_name(&self, at: usize, name: &str) -> bool {
        self.tokens[at].name(self.sql).is_some_and(|found| found.eq_ignore_ascii_case(name.as_bytes()))
    }

    fn names(&self, table: &Table, is_known: bool) -> bool {
        let mut places = (0..self.tokens.len()).filter(|at| self.is_name(*at, &table.name)).peekable();
        if places.peek().is_none() {
            return false;
        }
        let has = |words: &[&str]| (0..self.tokens.len()).any(|at| self.is_any(Some(at), words));
        let may_have_any = match () {
            () if self.is_any(Some(0), WITHOUT_TABLES) => has(&["SELECT", "TABLE"]),
            () if self.is_any(Some(0), &["SELECT"]) => has(&["FROM", "TABLE"]),
            () => true,
        };
        places.any(|at| self.is_table(at, table, may_have_any && !is_known))
    }

    /// Whether the name that stands here may be the table's: with its schema before it, behind a word that stands before
    /// tables, or, if they may stand `anywhere`, without one.
    fn is_table(&self, at: usize, table: &Table, anywhere: bool) -> bool {
        let before = at.checked_sub(1);
        match before.map(|before| self.tokens[before].kind) {
            Some(Kind::At) => false,
            Some(Kind::Dot) => {
                let schema = at.checked_sub(2);
                match (&table.schema, schema) {
                    (Some(own), Some(schema)) => self.is_name(schema, own),
                    _ => anywhere || self.is_behind_table_word(schema),
                }
            }
            _ => {
                let is_in_schema = table.schema.as_ref().is_none_or(|own| own.eq_ignore_ascii_case(self.schema));
                is_in_schema && (anywhere || self.is_behind_table_word(Some(at)))
            }
        }
    }

    fn is_behind_table_word(&self, at: Option<usize>) -> bool {
        let before = |back: usize| at.and_then(|at| at.checked_sub(back));
        // Behind ON DUPLICATE KEY UPDATE stands a column.
        self.is_any(before(1), BEFORE_TABLE) && !self.is_any(before(2), &["KEY"])
    }

    /// Whether `EXECUTE IMMEDIATE …` or `PREPARE name FROM …` may run a text that reaches the table.
    fn hides(&self, table: &Table, nesting: u32) -> bool {
        let begins_text = |at: usize| {
            let is_immediate = self.is_any(Some(at), &["EXECUTE"]) && self.is_any(Some(at + 1), &["IMMEDIATE"]);
            let is_prepare = self.is_any(Some(at), &["PREPARE"]) && self.is_any(Some(at + 2), &["FROM"]);
            is_immediate.then_some(at + 2).or_else(|| is_prepare.then_some(at + 3))
        };
        (0..self.tokens.len()).filter_map(begins_text).any(|at| {
            let text = self.tokens.get(at).and_then(|token| token.text(self.sql));
            let is_whole = self.tokens.get(at + 1).is_none() || self.is_any(Some(at + 1), &["USING"]);
            match text {
                Some(text) if is_whole && nesting < NESTING_MAX => {
                    within(self.session, self.schema, &text, table, false, nesting + 1)
                }
                _ => true,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use towline_middleware::{Role, testing::session_with};

    use super::*;
    use crate::classify::SqlClassifier;

    fn reaches(sql: &str, table: &str, is_known: bool) -> bool {
        let session = session_with(Role::Master, Arc::new(SqlClassifier::for_server("10.11.6-MariaDB")));
        session.set_schema("shop");
        let table = Table::new(table, None).unwrap();
        may_reach(&session, "shop", sql.as_bytes(), &table, is_known)
    }

    #[test]
    fn a_table_is_found_where_one_may_stand() {
        for sql in [
            "DESCRIBE secret",
            "TABLE secret",
            "SHOW COLUMNS FROM secret",
            "HANDLER `secret` OPEN",
            "CHECK TABLE item, Secret",
            "LOCK TABLES item READ, shop.secret READ",
            "SET @a = (SELECT 1 FROM item, secret)",
            "EXECUTE IMMEDIATE 'SELECT * FROM shop.secret'",
            "PREPARE p FROM 'EXECUTE IMMEDIATE ''SELECT * FROM secret'''",
            "EXECUTE IMMEDIATE CONCAT('SELECT * FROM sec', 'ret')",
            "EXECUTE IMMEDIATE 'SELECT ' 'x'",
            "PREPARE p FROM @a",
            "SELECT 1 /*! FROM secret */",
        ] {
            assert!(reaches(sql, "shop.secret", false), "{sql}");
        }
        for sql in ["SELECT 1 FROM item UNION TABLE secret", "SELECT 1 FROM item; DELETE FROM shop.secret"] {
            assert!(reaches(sql, "secret", true) && reaches(sql, "shop.secret", true), "{sql}");
        }
    }

    #[test]
    fn other_names_are_not_taken_for_it() {
        for (sql, table) in [
            ("SET SESSION sql_mode = ''", "shop.session"),
            ("SELECT @@session.sql_mode", "shop.session"),
            ("SET NAMES utf8mb4", "shop.names"),
            ("SHOW SESSION VARIABLES LIKE 'name'", "shop.variables"),
            ("START TRANSACTION READ ONLY", "transaction"),
            ("SELECT 1 AS name, 'secret'", "shop.name"),
            ("DESCRIBE other.secret", "shop.secret"),
            ("DESCRIBE secrets", "shop.secret"),
            ("EXECUTE IMMEDIATE 'SET NAMES utf8'", "shop.names"),
        ] {
            assert!(!reaches(sql, table, false), "{sql}");
        }
        for sql in
            ["SELECT name FROM item WHERE item.name = 1", "INSERT INTO i SET a = 1 ON DUPLICATE KEY UPDATE name = 1"]
        {
            assert!(!reaches(sql, "shop.name", true) && !reaches(sql, "name", true), "{sql}");
        }
    }
}

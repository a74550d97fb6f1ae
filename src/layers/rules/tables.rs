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
    "REFERENCES",
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
/// `schema` is where names without one are looked for, up to a USE in the text; `is_known` says that classification has
/// found tables in it, which for several statements could be those of one.
pub(super) fn may_reach(session: &Session, schema: &str, sql: &[u8], table: &Table, is_known: bool) -> bool {
    within(session, Some(schema), sql, table, is_known, 0)
}

fn within(session: &Session, schema: Option<&str>, sql: &[u8], table: &Table, is_known: bool, nesting: u32) -> bool {
    let Some(tokens) = session.tokens(sql) else {
        let words = SQL_IN_SQL.into_iter().chain([&*table.name]);
        return words.into_iter().any(|word| contains_ignoring_case(sql, word));
    };
    let mut statements = tokens.split(|token| token.kind == Kind::Semicolon).filter(|tokens| !tokens.is_empty());
    let is_known = is_known && statements.clone().nth(1).is_none();
    let mut uses = false;
    statements.any(|tokens| {
        let statement = Statement { session, schema: schema.filter(|_| !uses), sql, tokens };
        uses |= statement.is_any(Some(0), &["USE"]);
        statement.names(table, is_known) || statement.hides(table, nesting)
    })
}

/// One statement. A place is the number of a token.
struct Statement<'a> {
    session: &'a Session,
    /// The default schema; none if it may be any.
    schema: Option<&'a str>,
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
                    _ if self.is_bare(at - 1) && self.has_default_schema(table) => true,
                    (Some(own), Some(schema)) => self.is_name(schema, own),
                    _ => anywhere || self.is_behind_table_word(schema),
                }
            }
            _ => self.has_default_schema(table) && (anywhere || self.is_behind_table_word(Some(at))),
        }
    }

    fn has_default_schema(&self, table: &Table) -> bool {
        let (own, default) = (table.schema.as_deref(), self.schema);
        own.zip(default).is_none_or(|(own, default)| own.eq_ignore_ascii_case(default))
    }

    /// Whether no name need be before this dot: to MariaDB `FROM .t` is the default schema's. Only right before it a
    /// keyword is a name.
    fn is_bare(&self, dot: usize) -> bool {
        let before = dot.checked_sub(1).map_or(Kind::End, |before| self.tokens[before].kind);
        match before {
            Kind::Name | Kind::Quoted => false,
            Kind::Word => self.tokens[dot].gap,
            _ => true,
        }
    }

    fn is_behind_table_word(&self, at: Option<usize>) -> bool {
        let before = |back: usize| at.and_then(|at| at.checked_sub(back));
        // Behind ON DUPLICATE KEY UPDATE stands a column.
        let is_behind = self.is_any(before(1), BEFORE_TABLE) && !self.is_any(before(2), &["KEY"]);
        // Anywhere else LIKE compares.
        is_behind || self.is_any(Some(0), &["CREATE"]) && self.is_any(before(1), &["LIKE"])
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
            "SELECT * FROM .secret",
            "SELECT * FROM item x, . `secret`",
            "UPDATE LOW_PRIORITY/**/.secret SET a = 1",
            "USE other; SELECT * FROM secret",
            "CREATE TABLE n LIKE secret",
        ] {
            assert!(reaches(sql, "shop.secret", false), "{sql}");
        }
        for sql in [
            "SELECT 1 FROM item UNION TABLE secret",
            "SELECT 1 FROM item; DELETE FROM shop.secret",
            "SELECT 1 FROM item; RENAME TABLE a TO b, secret TO c",
            "CREATE TABLE n (a INT REFERENCES secret(id))",
            "CREATE TABLE n (LIKE secret)",
            "SELECT 1 FROM item, .secret",
        ] {
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
            ("SELECT * FROM other . secret", "other2.secret"),
            ("USE other; SELECT * FROM item", "shop.secret"),
            ("EXECUTE IMMEDIATE 'SET NAMES utf8'", "shop.names"),
        ] {
            assert!(!reaches(sql, table, false), "{sql}");
        }
        for sql in [
            "SELECT name FROM item WHERE item.name LIKE name;",
            "INSERT INTO i SET a = 1 ON DUPLICATE KEY UPDATE name = 1",
        ] {
            assert!(!reaches(sql, "shop.name", true) && !reaches(sql, "name", true), "{sql}");
        }
    }
}

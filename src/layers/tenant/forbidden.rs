//! What a tenant may not ask for, wherever it stands: files, sequences, other accounts, and what counts the rows that a
//! statement has looked at.

use towline_middleware::TokenKind as Kind;

use super::{Refusal, tables::Rewrite};
use crate::classify::{contains_ignoring_case, is_name};

/// What SHOW may show: none of it is made of rows, nor counts them.
const SHOWN: &[&str] = &[
    "CHARACTER",
    "CHARSET",
    "COLLATION",
    "COLUMNS",
    "DATABASES",
    "ENGINES",
    "EVENTS",
    "FIELDS",
    "INDEX",
    "INDEXES",
    "KEYS",
    "PLUGINS",
    "PRIVILEGES",
    "SCHEMAS",
    "TABLES",
    "TRIGGERS",
    "VARIABLES",
];

/// What SHOW CREATE may show.
const SHOWN_CREATE: &[&str] =
    &["DATABASE", "EVENT", "FUNCTION", "PACKAGE", "PROCEDURE", "SCHEMA", "TABLE", "TRIGGER", "VIEW"];

/// Variables that make a statement fail by how many rows it would look at, or that hide a key of a table.
const TELLING: &[&str] = &["max_join_size", "sql_big_selects", "show_gipk_in_create_table_and_information_schema"];

/// Variables that count the warnings of the statement before, among them those of rows that were left out.
const COUNTING: &[&str] = &["warning_count", "error_count"];

/// What SET may not be followed by.
const SET_FOR_OTHERS: &[&str] = &["AUTHORIZATION", "GLOBAL", "PASSWORD", "PERSIST", "PERSIST_ONLY", "RESOURCE"];

impl Rewrite<'_> {
    /// Refuses what is forbidden in any statement.
    pub(super) fn refuse_forbidden(&self) -> Result<(), Refusal> {
        let text = self.text;
        let is_insert = text.is_any(0, &["INSERT", "REPLACE"]);
        let behind_into =
            if is_insert { text.skip(1, &["LOW_PRIORITY", "HIGH_PRIORITY", "DELAYED", "IGNORE", "INTO"]) } else { 0 };
        for at in 0..text.end() {
            let is_call = |names: &[&str]| text.kind(at + 1) == Kind::Open && self.is_named(at, names);
            if is_call(&["LOAD_FILE"]) {
                return Err(Refusal::form("LOAD_FILE", "have the client read the file"));
            }
            if text.is(at, "INTO") && at >= behind_into && text.kind(at + 1) != Kind::At {
                return Err(Refusal::form("INTO of anything but user variables", "take the rows as a result"));
            }
            let is_value = text.is_any(at, &["NEXT", "PREVIOUS"]) && text.is(at + 1, "VALUE") && text.is(at + 2, "FOR");
            let is_member = text.kind(at) == Kind::Dot && self.is_named(at + 1, &["NEXTVAL", "CURRVAL"]);
            if is_value || is_member || is_call(&["NEXTVAL", "LASTVAL", "SETVAL"]) {
                return Err(Refusal::form("a sequence", "it may be anybody's: use AUTO_INCREMENT"));
            }
            // Under sql_mode=ORACLE `:a` is a parameter, too: those of a `?` would be counted wrong.
            if text.is_sign(at, &[":"]) {
                return Err(Refusal::form("`:`, which may begin a parameter", "write parameters as `?`"));
            }
            if text.is(at, "ROWS") && text.is(at + 1, "EXAMINED") {
                return Err(Refusal::form("ROWS EXAMINED", "it counts others' rows: use LIMIT"));
            }
            if self.is_variable(at) && self.is_named(at, COUNTING) {
                return Err(Refusal::form("a count of warnings", "it tells of others' rows: leave it out"));
            }
            let gap = &text.sql()[if at > 0 { text.end_of(at - 1) } else { 0 }..text.start_of(at)];
            if contains_ignoring_case(gap, "set_var") {
                return Err(Refusal::form("a SET_VAR hint", "use SET"));
            }
        }
        Ok(())
    }

    /// Whether what stands here is one of these names, quoted or not, as any server reads it.
    fn is_named(&self, at: usize, names: &[&str]) -> bool {
        self.text.name(at).is_some_and(|name| names.iter().any(|own| is_name(&name, own.as_bytes())))
    }

    /// Whether `@@`, and perhaps a scope, stands before this.
    fn is_variable(&self, at: usize) -> bool {
        let kind = |back: usize| at.checked_sub(back).map(|at| self.text.kind(at));
        let first = if kind(1) == Some(Kind::Dot) { 3 } else { 1 };
        kind(first) == Some(Kind::At) && kind(first + 1) == Some(Kind::At)
    }

    /// Refuses a SET of what is not the session's own, or of what would tell of others' rows.
    pub(super) fn sets_own_session(&self) -> Result<(), Refusal> {
        let (text, end) = (self.text, self.text.end());
        let (mut at, mut begins) = (1, true);
        while at < end {
            if begins && text.kind(at) == Kind::At && text.kind(at + 1) == Kind::At {
                at += 2;
            }
            if begins && self.is_named(at, &["SESSION", "LOCAL"]) {
                at += if text.kind(at + 1) == Kind::Dot { 2 } else { 1 };
            }
            let is_role = text.is(at, "DEFAULT") && text.is(at + 1, "ROLE");
            let is_user_variable = text.kind(at) == Kind::At;
            let is_others = self.is_named(at, SET_FOR_OTHERS) || is_role || text.kind(at + 1) == Kind::Dot;
            if begins && !is_user_variable && (is_others || self.is_named(at, TELLING)) {
                let mend = "set variables of the session only, and none that limits or hides rows";
                return Err(Refusal::form("this SET", mend));
            }
            begins = text.kind(at) == Kind::Comma;
            at = if text.kind(at) == Kind::Open { text.close(at) + 1 } else { at + 1 };
        }
        Ok(())
    }

    /// Whether a SHOW is one that is made of no rows.
    pub(super) fn shows_no_rows(&self) -> bool {
        let text = self.text;
        let at = text.skip(1, &["EXTENDED", "FULL"]);
        if at > 1 {
            return text.is_any(at, &["TABLES", "COLUMNS", "FIELDS", "INDEX", "INDEXES", "KEYS"]);
        }
        match () {
            () if text.is(1, "CREATE") => text.is_any(2, SHOWN_CREATE),
            () if text.is_any(1, &["GLOBAL", "SESSION", "LOCAL"]) => text.is(2, "VARIABLES"),
            () if text.is_any(1, &["TABLE", "FUNCTION", "PROCEDURE"]) => text.is(2, "STATUS"),
            () if text.is(1, "STORAGE") => text.is(2, "ENGINES"),
            // Those of others may come with what proves their passwords.
            () if text.is(1, "GRANTS") => text.end() == 2 || text.is(2, "FOR") && text.is(3, "CURRENT_USER"),
            () => text.is_any(1, SHOWN),
        }
    }

    /// Whether DESCRIBE or EXPLAIN names a table, perhaps with a schema before it and a column behind it.
    pub(super) fn describes_table(&self) -> bool {
        let text = self.text;
        let is_part = |at: usize| matches!(text.kind(at), Kind::Word | Kind::Name | Kind::Quoted);
        let others = ["TABLE", "FOR", "ANALYZE", "DELETE", "INSERT", "REPLACE", "UPDATE"];
        let behind = if text.kind(2) == Kind::Dot { 4 } else { 2 };
        let is_whole = text.end() == behind || text.end() == behind + 1 && is_part(behind);
        is_whole && is_part(1) && is_part(behind - 1) && !text.is_any(1, &others)
    }
}

//! What kind of statement it is.

/// What a statement does, as far as a second run is concerned: its first words, in upper case.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kind(Vec<String>);

impl Kind {
    const WORDS_MAX: usize = 12;

    pub(super) fn of(sql: &[u8]) -> Self {
        Self(words(sql).take(Self::WORDS_MAX).collect())
    }

    pub(super) fn verb(&self) -> &str {
        self.0.first().map_or("", String::as_str)
    }

    /// What is created or dropped: the first such word, so that a name further on does not count.
    pub(super) fn object(&self) -> &str {
        const OBJECTS: [&str; 14] = [
            "DATABASE",
            "SCHEMA",
            "TABLE",
            "TABLES",
            "VIEW",
            "SEQUENCE",
            "INDEX",
            "USER",
            "ROLE",
            "TRIGGER",
            "PROCEDURE",
            "FUNCTION",
            "PACKAGE",
            "EVENT",
        ];
        self.0.iter().skip(1).map(String::as_str).find(|word| OBJECTS.contains(word)).unwrap_or("")
    }

    pub(super) fn is_about_database(&self) -> bool {
        matches!(self.object(), "DATABASE" | "SCHEMA")
    }

    /// Whether MariaDB keeps what it changes in Aria tables (`mysql.global_priv`, `mysql.proc` …). It writes a statement to
    /// its binlog before it writes these out, so the log may know of a statement that a crash of the server has undone.
    pub(super) fn is_in_aria(&self) -> bool {
        let of_account = matches!(self.verb(), "GRANT" | "REVOKE" | "SET");
        of_account || matches!(self.object(), "USER" | "ROLE" | "PROCEDURE" | "FUNCTION" | "PACKAGE" | "EVENT")
    }

    /// Whether a second run may undo the first, as where two accounts swap their names.
    pub(super) fn is_undone_by_itself(&self) -> bool {
        self.verb() == "RENAME" && self.0.iter().filter(|word| *word == "TO").count() > 1
    }

    /// Whether an error means that an announced statement, run again, had been done (see the module's table).
    pub(super) fn already_so(&self, code: Option<u16>) -> bool {
        let codes: &[u16] = match (self.verb(), self.object()) {
            ("CREATE" | "DROP", "DATABASE" | "SCHEMA") => &[1007, 1008],
            ("DROP", "TABLE" | "TABLES" | "VIEW" | "SEQUENCE") => &[1051, 1092, 4091, 4092],
            ("CREATE" | "DROP" | "RENAME", "USER" | "ROLE") => &[1396],
            ("CREATE" | "DROP", "PROCEDURE" | "FUNCTION" | "PACKAGE") => &[1125, 1304, 1305],
            ("CREATE" | "ALTER" | "DROP", "EVENT") => &[1537, 1539],
            ("REVOKE", _) => &[1141, 1147, 1269, 1403, 1962],
            _ => &[],
        };
        code.is_some_and(|code| codes.contains(&code))
    }
}

/// The words of a statement outside of comments and quotes, so that a definer's name is none; those of an executable
/// comment (`/*!50017 … */`) count.
fn words(sql: &[u8]) -> impl Iterator<Item = String> {
    let mut rest = sql;
    std::iter::from_fn(move || {
        loop {
            let line_end = |text: &[u8]| text.iter().position(|b| *b == b'\n').map_or(text.len(), |at| at + 1);
            rest = match rest {
                [] => return None,
                [b'/', b'*', b'!', tail @ ..] | [b'/', b'*', b'M', b'!', tail @ ..] => tail,
                [b'/', b'*', tail @ ..] => {
                    let end = tail.windows(2).position(|two| two == b"*/").map_or(tail.len(), |at| at + 2);
                    &tail[end..]
                }
                [b'#', tail @ ..] | [b'-', b'-', tail @ ..] => &tail[line_end(tail)..],
                [quote @ (b'`' | b'\'' | b'"'), tail @ ..] => {
                    let end = tail.iter().position(|b| b == quote).map_or(tail.len(), |at| at + 1);
                    &tail[end..]
                }
                [first, ..] if first.is_ascii_alphabetic() => {
                    let end = rest.iter().position(|b| !b.is_ascii_alphanumeric() && *b != b'_').unwrap_or(rest.len());
                    let (word, tail) = rest.split_at(end);
                    rest = tail;
                    return Some(String::from_utf8_lossy(word).to_ascii_uppercase());
                }
                [_, tail @ ..] => tail,
            };
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_is_forgiven_only_by_its_kinds_own_errors() {
        let cases: [(&str, u16, bool); 18] = [
            ("CREATE TABLE t (i INT)", 1050, false),
            ("create /* of */ table user (i int)", 1396, false),
            ("CREATE DATABASE d", 1007, true),
            ("CREATE /*!50017 DEFINER=`a`@`%` */ FUNCTION f() RETURNS INT RETURN 1", 1304, true),
            ("DROP TABLE a, b", 1051, true),
            ("DROP TABLE a, b", 1050, false),
            ("-- note\nDROP DATABASE d", 1008, true),
            ("CREATE UNIQUE INDEX i ON t (a)", 1061, false),
            ("CREATE USER a IDENTIFIED BY 'x'", 1396, true),
            ("ALTER TABLE t ADD COLUMN c INT", 1060, false),
            ("RENAME TABLE a TO t, b TO a, t TO b", 1050, false),
            ("RENAME USER a TO b", 1396, true),
            ("ALTER EVENT e RENAME TO f", 1537, true),
            ("REVOKE SELECT ON `user`.* FROM a", 1141, true),
            ("CREATE DEFINER=`user`@`%` TRIGGER g BEFORE INSERT ON t FOR EACH ROW SET NEW.i = 1", 1396, false),
            ("CREATE DEFINER=`event` FUNCTION f() RETURNS INT RETURN 1", 1304, true),
            ("TRUNCATE TABLE t", 1146, false),
            ("", 1050, false),
        ];
        for (sql, code, forgiven) in cases {
            assert_eq!(Kind::of(sql.as_bytes()).already_so(Some(code)), forgiven, "{sql}");
        }
        assert!(!Kind::of(b"DROP DATABASE d").already_so(None));
    }
}

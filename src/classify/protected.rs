//! What no client may touch, on any node or on a slave, since replication rests on it.

/// Why a slave refuses to open a transaction for writing.
pub(super) const READ_WRITE: &str = "client sessions on a slave are read-only, and READ WRITE would switch that off";

/// Why a slave refuses SERIALIZABLE.
pub(super) const SERIALIZABLE: &str =
    "under SERIALIZABLE every read takes locks that hold up the applier; use a lower isolation level";

/// Variables that decide whether and how the server logs a client's writes: set by a client, they would hide writes
/// from replication or make them unreadable. Those whose names begin with `gtid_` belong to them.
const LOGGING: &[&str] =
    &["sql_log_bin", "binlog_format", "binlog_row_image", "binlog_alter_two_phase", "server_id", "pseudo_thread_id"];

/// Of those, and of [`TRACKING`], names that no table has for a column without meaning the variable: for texts that can't be
/// looked through.
const TELLING: &[&str] = &[
    "sql_log_bin",
    "binlog_format",
    "binlog_row_image",
    "binlog_alter_two_phase",
    "pseudo_thread_id",
    "gtid_domain_id",
    "gtid_seq_no",
    "gtid_next",
    "session_track_schema",
    "session_track_gtids",
    "session_track_system_variables",
];

/// What the names of variables begin with that decide what the server reports of a session. Where nobody sees them set,
/// Towline would take its character set or its default schema for another.
pub(crate) const TRACKING: &[u8] = b"session_track";

/// Why a text in a string is refused that sets one of those.
pub(super) const TRACKING_IN_TEXT: &str =
    "Towline has to see what the server reports of a session: send SET session_track_… by itself, not in a string";

/// Why a text in a string is refused that chooses a default schema.
pub(super) const USE_IN_TEXT: &str =
    "Towline has to see which default schema a session has: send USE by itself, not in a string";

/// What a SET of one variable means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variable {
    /// Refused on every node.
    Logging,
    /// Switches the read-only fence of a slave's sessions.
    ReadOnly,
    /// May hold SERIALIZABLE.
    Isolation,
    /// Ends a transaction when it is switched on.
    Autocommit,
    /// Changes how the server cuts the statements that follow.
    Lexing,
    /// Only the session's own business.
    Other,
    /// A name that may mean any of these: MySQL leaves accents and spaces at its end out of account.
    Doubtful,
}

impl Variable {
    /// What the variable of this name is.
    pub(super) fn of(name: &[u8]) -> Self {
        let name = name.to_ascii_lowercase();
        let is_logging = LOGGING.iter().any(|logging| logging.as_bytes() == name) || name.starts_with(b"gtid_");
        let is_plain = name.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$'));
        match name.as_slice() {
            _ if !is_plain => Self::Doubtful,
            _ if is_logging => Self::Logging,
            b"transaction_read_only" | b"tx_read_only" => Self::ReadOnly,
            b"transaction_isolation" | b"tx_isolation" => Self::Isolation,
            b"autocommit" => Self::Autocommit,
            b"sql_mode" => Self::Lexing,
            _ if name.starts_with(b"character_set_") => Self::Lexing,
            _ => Self::Other,
        }
    }
}

/// Whether this is the schema that Towline keeps its own records in.
pub(super) fn is_own_schema(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"towline")
}

/// Why a SET of this variable is refused.
pub(super) fn logging_reason(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    format!("SET {name} could hide writes from replication; leave it as the server has it")
}

/// Why a stored program that names this is refused, if it is.
pub(super) fn hides_writes_in_program(name: &[u8]) -> Option<String> {
    TELLING
        .iter()
        .find(|telling| is_name(name, telling.as_bytes()))
        .map(|telling| format!("a stored program that sets {telling} could hide writes from replication"))
}

/// Why a stored program that may run this text, or one with this in it, is refused, if it is.
pub(super) fn hides_writes_in_text(text: &[u8]) -> Option<String> {
    let telling = TELLING.iter().find(|telling| contains_name(text, telling.as_bytes()))?;
    Some(format!("a stored program that runs a text with {telling} in it could hide writes from replication"))
}

/// Why a text that can't be cut into tokens with certainty is refused, if it is: it names what only Towline may touch.
pub(super) fn hides_writes_in_doubt(sql: &[u8]) -> Option<String> {
    let contains = |name: &str| contains_name(sql, name.as_bytes());
    let named = TELLING.iter().copied().find(|name| contains(name));
    let named = named.or_else(|| contains_ignoring_case(sql, "towline").then_some("towline"));
    let sets_server_id = || contains_ignoring_case(sql, "set") && contains("server_id");
    let named = named.or_else(|| sets_server_id().then_some("server_id"))?;
    Some(format!(
        "it names {named}, which only Towline may write to, and has parts that servers read differently \
         (an executable comment, an open quote); write it without them"
    ))
}

/// Whether this whole name may be that one as the server reads names: in any case, on MySQL (utf8mb3_general_ci) with or
/// without accents, and with spaces at its end.
pub(crate) fn is_name(found: &[u8], name: &[u8]) -> bool {
    begins_with(found.trim_ascii_end(), name, true)
}

/// Whether a text may have this name in it as the server reads names (see [`is_name`]). Only a name with an underscore is
/// ever found: it is what is looked for.
pub(crate) fn contains_name(text: &[u8], name: &[u8]) -> bool {
    // No letter is an underscore without its accent, so there is one: in a long text only they are looked at.
    let Some(anchor) = name.iter().position(|byte| *byte == b'_') else { return false };
    memchr::memchr_iter(b'_', text).any(|at| {
        let first = at.saturating_sub(LETTER_BYTES_MAX * anchor);
        (first..at).any(|start| begins_with(&text[start..], name, false))
    })
}

/// Whether a text has this ASCII word in it, in any case.
pub(crate) fn contains_ignoring_case(text: &[u8], word: &str) -> bool {
    text.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word.as_bytes()))
}

/// How many bytes a letter has at most, in any character set of both servers.
const LETTER_BYTES_MAX: usize = 4;

/// Whether this name may be at the front of a text, and if `is_whole` nothing behind it. Letters that are not ASCII
/// stand for as many letters of the name.
fn begins_with(text: &[u8], name: &[u8], is_whole: bool) -> bool {
    let (mut text, mut name) = (text, name);
    while let Some((wanted, others)) = name.split_first() {
        let letters_max = name.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
        let foreign = &text[..foreign_run(text, LETTER_BYTES_MAX * letters_max + 1)];
        if !foreign.is_empty() {
            let (least, most) = letters(foreign);
            let mut letters = least..=most.min(letters_max);
            return letters.any(|letters| begins_with(&text[foreign.len()..], &name[letters..], is_whole));
        }
        match text.split_first() {
            Some((found, behind)) if found.eq_ignore_ascii_case(wanted) => (text, name) = (behind, others),
            _ => return false,
        }
    }
    !is_whole || text.is_empty()
}

/// How many bytes at the front are letters that are not ASCII, if it is not more than `most`. In gb18030 digits are parts
/// of such.
fn foreign_run(text: &[u8], most: usize) -> usize {
    match text.first() {
        Some(first) if !first.is_ascii() => {
            text.iter().take(most).take_while(|byte| !byte.is_ascii() || byte.is_ascii_digit()).count()
        }
        _ => 0,
    }
}

/// Of how many letters with accents these bytes may be: at least, and at most. What is UTF-8 is taken for it, so that
/// names in other scripts are not taken for these.
fn letters(foreign: &[u8]) -> (usize, usize) {
    match std::str::from_utf8(foreign) {
        Ok(text) if text.chars().all(is_accented) => (text.chars().count(), text.chars().count()),
        Ok(_) => (1, 0),
        Err(_) => (foreign.len().div_ceil(LETTER_BYTES_MAX), foreign.len()),
    }
}

/// Whether MySQL may take this for a letter of ASCII: Latin letters, and the signs for kelvin and angstrom.
fn is_accented(letter: char) -> bool {
    matches!(letter, '\u{c0}'..='\u{24f}' | '\u{1e00}'..='\u{1eff}' | '\u{212a}' | '\u{212b}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_in_any_writing_that_the_server_takes() {
        for text in [
            "sql_log_bin",
            "SET @@SQL_log_BIN=0",
            "sql_log_b\u{ed}n",
            "\u{15b}ql_\u{142}\u{f6}g_b\u{131}n",
            "\u{e9}sql_log_bin",
        ] {
            assert!(contains_name(text.as_bytes(), b"sql_log_bin"), "{text}");
        }
        // latin1, two letters in a row of it, and one of gb18030.
        for text in [&b"sql_l\xf6g_bin"[..], b"sql_l\xf6\xf0_bin", b"sql_log_bi\x81\x30\x8b\x38 = 0"] {
            assert!(contains_name(text, b"sql_log_bin"), "{text:?}");
        }
        for (found, name) in [("Tenant\u{ed}d", "tenantid"), ("\u{212a}unde ", "kunde"), ("\u{212a}UND\u{e9}", "kunde")]
        {
            assert!(is_name(found.as_bytes(), name.as_bytes()), "{found}");
        }
        assert!(hides_writes_in_program(b"sql_log_bin ").is_some());
        assert!(hides_writes_in_program("sql_log_b\u{ed}n".as_bytes()).is_some());
    }

    #[test]
    fn other_names_are_not_taken_for_it() {
        for text in ["", "sql_log_bi", "sqlog_bin", "sql\u{142}log_bin", "\u{ed}", "_", "sql__bin"] {
            assert!(!contains_name(text.as_bytes(), b"sql_log_bin"), "{text}");
        }
        let other_scripts = [
            "\u{5ba2}\u{6237}_\u{540d}\u{79f0}",
            "\u{5e74}_\u{6708}_\u{65e5}",
            "\u{438}\u{43c}\u{44f}_\u{43a}\u{43b}\u{438}\u{435}\u{43d}\u{442}\u{430}",
        ];
        for text in other_scripts.map(|name| name.repeat(1000)) {
            assert_eq!(hides_writes_in_text(text.as_bytes()), None);
            assert_eq!(hides_writes_in_doubt(text.as_bytes()), None);
            assert!(!contains_name(text.as_bytes(), b"session_track"));
        }
        assert!(!is_name("tenant\u{ed}ds".as_bytes(), b"tenantid") && !is_name(b"tenanti", b"tenantid"));
        assert!(hides_writes_in_program(b"sql_log_bin_of_mine").is_none());
    }

    #[test]
    fn a_long_text_takes_no_longer_than_its_length() {
        // By the square of its length it would take hours.
        let text = "\u{5e74}\u{6708}".repeat(4 << 20);
        assert!(!contains_name(text.as_bytes(), b"sql_log_bin"));
    }
}

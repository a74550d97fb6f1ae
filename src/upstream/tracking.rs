//! What the node asks every client's connection to MySQL to report or to refuse, and what it learns from the reports.

use bytes::Bytes;
use towline_middleware::{Command, Completion, Intent, Role, Session, status};

use crate::{
    classify::{TRACKING, contains_ignoring_case, contains_name},
    wire::session_state::{self, Change},
};

/// Character sets in whose characters a byte may look like ASCII, so that a quote or a backslash can't be found byte by
/// byte. Source: MySQL manual, "Character Sets That MySQL Supports"; their second bytes reach down to 0x40 or 0x30.
const ASCII_UNSAFE: [&[u8]; 5] = [b"big5", b"sjis", b"gbk", b"cp932", b"gb18030"];

/// The collation ids of those character sets. MariaDB's NOPAD twins are 1024 higher.
const ASCII_UNSAFE_COLLATIONS: [u16; 11] = [1, 84, 13, 88, 28, 87, 95, 96, 248, 249, 250];

/// The character set in which `[`, `]`, `^`, `{`, `}` and `~` are letters, also to the server's lexer: `~abs(1)` calls a
/// function of that name. Tried for every character set of both servers; no other has such.
const ASCII_LETTERS: &[u8] = b"swe7";

/// Its collation ids.
const ASCII_LETTERS_COLLATIONS: [u16; 2] = [10, 82];

/// Notes the character set that a login's collation brings.
pub(crate) fn learn_collation(session: &Session, id: u16) {
    let id = id & !1024;
    session.set_charset(ASCII_UNSAFE_COLLATIONS.contains(&id), ASCII_LETTERS_COLLATIONS.contains(&id));
}

/// The part of MySQL's statement that both roles have.
macro_rules! report_to_mysql_fence {
    () => {
        "session_track_schema=1,session_track_system_variables=\
         IF(@@session_track_system_variables='*','*',CONCAT_WS(',',NULLIF(@@session_track_system_variables,''),\
         IF(FIND_IN_SET('character_set_client',REPLACE(@@session_track_system_variables,' ','')),NULL,\
         'character_set_client'),\
         IF(FIND_IN_SET('sql_mode',REPLACE(@@session_track_system_variables,' ','')),NULL,'sql_mode'))),\
         sql_mode=@@sql_mode,character_set_client=@@character_set_client"
    };
}

/// What a connection is set to before a client's first byte, and again after whatever resets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// A master's: every OK that ends a commit reports its GTID.
    ReportCommits,
    /// A slave's: the server itself refuses writes with error 1792, also those inside functions.
    ReadOnly,
}

impl Fence {
    /// The fence of a node with this role.
    pub fn of(role: Role) -> Self {
        match role {
            Role::Master => Self::ReportCommits,
            Role::Slave => Self::ReadOnly,
        }
    }

    /// The one statement that puts it up. It also has the server report what classification and layers hang on: the
    /// default schema, and variables, these from the start: one that is set is reported, be it to the value that it has.
    /// A client may have taken these off the list; `*` is every variable and takes no other beside it, and MySQL takes no
    /// name twice.
    pub(crate) fn statement(self, mariadb: bool) -> &'static str {
        match (self, mariadb) {
            (Self::ReportCommits, true) => {
                "SET SESSION session_track_schema=1,\
                 session_track_system_variables=IF(@@session_track_system_variables='*','*',\
                 CONCAT_WS(',',NULLIF(@@session_track_system_variables,''),'character_set_client,sql_mode,last_gtid')),\
                 sql_mode=@@sql_mode,character_set_client=@@character_set_client"
            }
            (Self::ReadOnly, true) => {
                "SET SESSION tx_read_only=1,session_track_schema=1,\
                 session_track_system_variables=IF(@@session_track_system_variables='*','*',\
                 CONCAT_WS(',',NULLIF(@@session_track_system_variables,''),'character_set_client,sql_mode')),\
                 sql_mode=@@sql_mode,character_set_client=@@character_set_client"
            }
            (Self::ReportCommits, false) => {
                concat!("SET SESSION session_track_gtids=OWN_GTID,", report_to_mysql_fence!())
            }
            (Self::ReadOnly, false) => concat!("SET SESSION transaction_read_only=1,", report_to_mysql_fence!()),
        }
    }
}

/// Whether a statement may change what the server reports, so that the fence must be put up again after it.
pub(crate) fn touches_tracking(sql: &[u8]) -> bool {
    contains_name(sql, TRACKING)
}

/// Whether a command may set variables that outlive it. What a stored program sets of those that tell how SQL is read is
/// taken back at its end.
pub(crate) fn may_set(command: &Command) -> bool {
    let sql = command.sql();
    match command.intent() {
        Intent::Read => false,
        Intent::Unknown => true,
        Intent::Write if memchr::memchr(b';', sql).is_none() => false,
        Intent::SessionState | Intent::Transaction | Intent::Write => contains_ignoring_case(sql, "SET"),
    }
}

/// Asks for the last commit of a session whose reports may be switched off, and whether its commits are logged. MySQL tells
/// the first nowhere else, so there it is the server's last, if they are.
pub(crate) fn last_commit(mariadb: bool) -> &'static str {
    match mariadb {
        true => "SELECT @@SESSION.last_gtid,@@SESSION.sql_log_bin LIMIT 1",
        false => {
            "SELECT IF(@@SESSION.session_track_gtids='OFF' AND INSTR(@@GLOBAL.gtid_executed,@@server_uuid),\
             CONCAT(@@server_uuid,':',SUBSTRING_INDEX(SUBSTRING_INDEX(SUBSTRING_INDEX(SUBSTRING_INDEX(\
             @@GLOBAL.gtid_executed,CONCAT(@@server_uuid,':'),-1),',',1),':',-1),'-',-1)),''),@@SESSION.sql_log_bin LIMIT 1"
        }
    }
}

/// Whether this is a statement that commits nothing if it leaves a transaction open.
pub(crate) fn changes_rows(sql: &[u8]) -> bool {
    let word = sql.trim_ascii_start().split(|byte| !byte.is_ascii_alphabetic()).next().unwrap_or_default();
    [&b"INSERT"[..], b"UPDATE", b"DELETE", b"REPLACE"].iter().any(|verb| word.eq_ignore_ascii_case(verb))
}

/// What the node has the server report for itself, and a client may ask for besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The GTIDs of commits.
    gtids: bool,
    /// The sql_mode.
    sql_mode: bool,
    /// Every variable, and so MariaDB's `last_gtid` too.
    every_variable: bool,
}

impl Wanted {
    /// What a statement that touches tracking asks for.
    pub(crate) fn by(sql: &[u8]) -> Self {
        Self {
            gtids: contains_ignoring_case(sql, "last_gtid") || contains_ignoring_case(sql, "session_track_gtids"),
            sql_mode: contains_ignoring_case(sql, "sql_mode"),
            every_variable: sql.contains(&b'*'),
        }
    }
}

/// The status flags that tell something of the sql_mode.
const OF_SQL_MODE: u16 = status::NO_BACKSLASH_ESCAPES | status::ANSI_QUOTES;

/// What else an OK has told.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Learned {
    /// It has reported the default schema.
    pub(crate) schema: bool,
    /// Its flags tell of another sql_mode than before, and no report does. Only the fence gets the truth: a mode that was
    /// the statement's own leaves its flag, and a client may have had a mode set and its reports switched off unseen.
    pub(crate) doubt: bool,
}

/// Reads the session state of an OK: the GTID goes into the completion, schema, character set and sql_mode into the
/// session. What the client has not wanted is taken out of the state that it gets.
pub(crate) fn learn(completion: &mut Completion, session: &Session, wanted: Wanted) -> Learned {
    let doubt = (session.status() ^ completion.status) & OF_SQL_MODE != 0;
    let mut learned = Learned { schema: false, doubt };
    session.set_status(completion.status);
    let Some(details) = completion.details.as_mut().filter(|details| !details.state.is_empty()) else {
        return learned;
    };
    let state = std::mem::take(&mut details.state);
    let mut kept = Vec::with_capacity(state.len());
    for (change, entry) in session_state::changes(&state) {
        let keep = match change {
            Change::Variable { name: b"last_gtid", value } => {
                details.gtid = gtid(value);
                wanted.gtids || wanted.every_variable
            }
            Change::Gtids(value) => {
                details.gtid = gtid(value);
                wanted.gtids
            }
            Change::Variable { name: b"character_set_client", value } => {
                session.set_charset(ASCII_UNSAFE.contains(&value), value == ASCII_LETTERS);
                true
            }
            Change::Variable { name: b"sql_mode", value } => {
                let has = |name: &[u8]| value.split(|byte| *byte == b',').any(|mode| mode == name);
                session.set_sql_mode(has(b"NO_BACKSLASH_ESCAPES"), has(b"ANSI_QUOTES"));
                learned.doubt = false;
                wanted.sql_mode || wanted.every_variable
            }
            Change::Schema(name) => {
                session.set_schema(&String::from_utf8_lossy(name));
                learned.schema = true;
                true
            }
            Change::Variable { .. } | Change::Other(_) => true,
        };
        if keep {
            kept.extend_from_slice(entry);
        }
    }
    details.state = Bytes::from(kept);
    learned
}

pub(super) fn gtid(value: &[u8]) -> Option<Box<str>> {
    std::str::from_utf8(value).ok().filter(|text| !text.is_empty()).map(Into::into)
}

#[cfg(test)]
mod tests {
    use towline_middleware::testing;

    use super::*;
    use crate::wire::session_state::put_variable;

    fn with_state(state: Vec<u8>) -> Completion {
        let mut completion = Completion::default();
        completion.details_mut().state = state.into();
        completion
    }

    fn reported() -> Completion {
        let mut state = Vec::new();
        put_variable(&mut state, b"character_set_client", b"gbk");
        put_variable(&mut state, b"last_gtid", b"0-1-5");
        state.extend_from_slice(b"\x01\x05\x04shop");
        with_state(state)
    }

    #[test]
    fn the_gtid_is_the_nodes_and_the_rest_the_clients() {
        let session = testing::session(Role::Master);
        let mut completion = reported();
        learn(&mut completion, &session, Wanted::default());
        assert_eq!(completion.details().gtid.as_deref(), Some("0-1-5"));
        assert!(session.sql_mode().ascii_unsafe_charset && !session.sql_mode().ascii_letters_charset);
        learn_collation(&session, 82);
        assert!(!session.sql_mode().ascii_unsafe_charset && session.sql_mode().ascii_letters_charset);
        assert_eq!(&*session.schema(), "shop");
        let mut kept = Vec::new();
        put_variable(&mut kept, b"character_set_client", b"gbk");
        kept.extend_from_slice(b"\x01\x05\x04shop");
        assert_eq!(completion.details().state, kept);

        let mut completion = reported();
        learn(&mut completion, &session, Wanted::by(b"SET session_track_gtids"));
        assert_eq!(completion.details().state, reported().details().state, "a client that asked for GTIDs gets them");
    }

    #[test]
    fn the_sql_mode_is_followed_and_kept_from_a_client_that_has_not_asked() {
        let session = testing::session(Role::Master);
        session.set_status(OF_SQL_MODE);
        assert!(
            session.sql_mode().ansi_quotes && session.sql_mode().no_backslash_escapes,
            "the flags are all there is"
        );
        for (mode, quotes, wanted) in [
            ("ANSI_QUOTES,ANSI", true, Wanted::default()),
            ("", false, Wanted::by(b"*")),
            ("NO_BACKSLASH_ESCAPES", false, Wanted::by(b"*")),
        ] {
            let mut state = Vec::new();
            put_variable(&mut state, b"sql_mode", mode.as_bytes());
            // The flags tell of what a statement had set for itself.
            let flags = if mode.is_empty() { OF_SQL_MODE } else { 0 };
            let mut completion = Completion { status: flags, ..with_state(state.clone()) };
            assert!(!learn(&mut completion, &session, wanted).doubt, "{mode}");
            assert_eq!(session.sql_mode().ansi_quotes, quotes);
            assert_eq!(session.sql_mode().no_backslash_escapes, mode == "NO_BACKSLASH_ESCAPES");
            assert_eq!(completion.details().state, if wanted.every_variable { state } else { Vec::new() });
        }
    }

    #[test]
    fn only_plain_changes_of_rows_are_known_to_commit_nothing() {
        assert!(changes_rows(b" insert\tINTO t VALUES (1)") && changes_rows(b"REPLACE t VALUES (1)"));
        assert!(!changes_rows(b"CALL p()") && !changes_rows(b"INSERTS") && !changes_rows(b"/* */ DELETE FROM t"));
    }

    #[test]
    fn flags_that_change_without_a_report_are_doubted_once() {
        let session = testing::session(Role::Master);
        session.set_sql_mode(false, false);
        for (status, doubt) in [(0, false), (status::IN_TRANS, false), (OF_SQL_MODE, true), (OF_SQL_MODE, false)] {
            let mut completion = Completion { status, ..Completion::default() };
            assert_eq!(learn(&mut completion, &session, Wanted::default()).doubt, doubt, "{status:x}");
            assert!(!session.sql_mode().no_backslash_escapes);
        }
    }

    #[test]
    fn tracking_is_found_in_any_case() {
        assert!(touches_tracking(b"set @@SESSION_Track_system_variables=''"));
        assert!(!touches_tracking(b"SELECT 1"));
    }
}

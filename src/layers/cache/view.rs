//! What a session has set that its results hang on.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use towline_middleware::{Command, CommandKind, Error, Intent, Next, Prepared, Session};

use crate::classify::{contains_ignoring_case, contains_name};

/// What results hang on, on MariaDB: the account, of which there may be several of one name and many hosts, and the
/// variables. The second column: whether its reads give what no other's would, such as what is not committed yet.
const OF_MARIADB: &str = "SELECT CONCAT_WS('|', CURRENT_USER(), @@sql_mode, @@time_zone, @@character_set_client, \
    @@character_set_connection, COALESCE(@@character_set_results, ''), @@collation_connection, @@lc_time_names, \
    @@div_precision_increment, @@group_concat_max_len, @@sql_select_limit, @@default_week_format, \
    @@max_sort_length, @@collation_database, COALESCE(CURRENT_ROLE(), ''), @@tx_isolation, @@old_mode, \
    @@system_versioning_asof), @@tx_isolation = 'READ-UNCOMMITTED' OR @@sql_auto_is_null";
/// The same on MySQL.
const OF_MYSQL: &str = "SELECT CONCAT_WS('|', CURRENT_USER(), @@sql_mode, @@time_zone, @@character_set_client, \
    @@character_set_connection, COALESCE(@@character_set_results, ''), @@collation_connection, @@lc_time_names, \
    @@div_precision_increment, @@group_concat_max_len, @@sql_select_limit, @@default_week_format, \
    @@max_sort_length, @@collation_database, COALESCE(CURRENT_ROLE(), ''), @@transaction_isolation), \
    @@transaction_isolation = 'READ-UNCOMMITTED' OR @@sql_auto_is_null";
/// The values of all variables together are far shorter.
const BYTES_MAX: usize = 64 * 1024;
/// Statements that leave nothing behind in their session, but for what triggers do.
const HARMLESS_WRITES: [&[u8]; 8] =
    [b"INSERT", b"UPDATE", b"DELETE", b"REPLACE", b"CREATE", b"ALTER", b"DROP", b"TRUNCATE"];
/// Statements of transactions that leave nothing behind in their session.
const OF_TRANSACTIONS: [&[u8]; 7] = [b"BEGIN", b"START", b"COMMIT", b"ROLLBACK", b"SAVEPOINT", b"RELEASE", b"UNLOCK"];
/// What asks about the statement before it.
const ABOUT_THE_LAST: [&[u8]; 4] = [b"found_rows", b"row_count", b"warning_count", b"error_count"];
/// The same, as words of the grammar.
const WORDS_ABOUT_THE_LAST: [&str; 3] = ["WARNINGS", "ERRORS", "DIAGNOSTICS"];

/// What is known of a session.
#[derive(Debug, Default)]
pub(super) struct View(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// It has done what may leave something that nobody can ask for.
    is_closed: bool,
    /// What the server said of its variables; none when they may have changed.
    variables: Option<Arc<[u8]>>,
    /// What they were before something ran that may have changed them unseen.
    doubted: Option<Arc<[u8]>>,
    /// What was answered from memory just before: the server does not know of it.
    answered: Option<Command>,
    /// The statements that were prepared since variables were set, by their addresses, which are theirs as long as they
    /// are here: the server has read their texts by the variables that it still has.
    prepared: HashMap<usize, Weak<Prepared>>,
}

impl View {
    /// Whether this command of its may be answered from memory.
    pub(super) fn is_open_to(&self, command: &Command) -> bool {
        let known = self.0.lock();
        let is_as_prepared = |prepared: &Arc<Prepared>| known.prepared.contains_key(&Arc::as_ptr(prepared).addr());
        !known.is_closed && command.prepared().is_none_or(is_as_prepared)
    }

    /// Takes note that it may have done anything.
    pub(super) fn miss(&self) {
        *self.0.lock() = Known { is_closed: true, ..Known::default() };
    }

    /// Takes note of a command that is answered from memory.
    pub(super) fn answer(&self, command: Command) {
        self.0.lock().answered = Some(command);
    }

    /// What was answered from memory just before a command that the server runs, if that command asks about it.
    pub(super) fn asked_about(&self, command: &Command) -> Option<Command> {
        let answered = self.0.lock().answered.take()?;
        let sql = command.sql();
        let asks = ABOUT_THE_LAST.iter().any(|name| contains_name(sql, name))
            || WORDS_ABOUT_THE_LAST.iter().any(|word| contains_ignoring_case(sql, word));
        asks.then_some(answered)
    }

    /// Takes note of a command that is neither answered from memory nor kept. It is asked whether a read is known to be of
    /// base tables alone.
    pub(super) fn follow(&self, command: &Command, is_of_base_tables: impl FnOnce() -> bool) {
        match command.kind() {
            CommandKind::ResetConnection | CommandKind::ChangeUser => *self.0.lock() = Known::default(),
            CommandKind::Prepare => self.0.lock().prepare(command),
            kind if kind.runs_sql() => {
                let effect = effect(command, is_of_base_tables);
                self.0.lock().undergo(effect);
            }
            _ => {}
        }
    }

    /// The session's variables; the server is asked when they may have changed. `None` if they can't be known.
    pub(super) async fn variables(&self, session: &Arc<Session>, next: &Next) -> Result<Option<Arc<[u8]>>, Error> {
        if let Some(known) = self.0.lock().variables.clone() {
            return Ok(Some(known));
        }
        for sql in [OF_MARIADB, OF_MYSQL] {
            let ask = Command::query(session, sql);
            let answer = next.run(ask.clone()).await?.collect(&ask, BYTES_MAX).await?;
            if answer.end.is_ok()
                && let Some([value, is_unfit]) = answer.rows.first().map(Vec::as_slice)
            {
                let variables: Arc<[u8]> = value.to_text().as_bytes().into();
                let mut known = self.0.lock();
                if known.doubted.take().is_some_and(|before| before != variables) {
                    known.prepared.clear();
                }
                known.is_closed |= is_unfit.to_text() != "0";
                known.variables = Some(variables.clone());
                return Ok((!known.is_closed).then_some(variables));
            }
        }
        self.0.lock().is_closed = true;
        Ok(None)
    }
}

impl Known {
    fn undergo(&mut self, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Doubt => self.doubted = self.doubted.take().or(self.variables.take()),
            Effect::Schema if self.doubted.is_none() => self.variables = None,
            Effect::Schema | Effect::Variables => {
                (self.variables, self.doubted) = (None, None);
                self.prepared.clear();
            }
            Effect::Unknown => self.is_closed = true,
        }
    }

    fn prepare(&mut self, command: &Command) {
        let Some(prepared) = command.prepared() else { return };
        if self.prepared.len() == self.prepared.capacity() {
            self.prepared.retain(|_, prepared| prepared.strong_count() > 0);
        }
        self.prepared.insert(Arc::as_ptr(prepared).addr(), Arc::downgrade(prepared));
    }
}

enum Effect {
    None,
    /// A trigger of its tables, or a function in a view, may have changed variables.
    Doubt,
    /// It has chosen another default schema, and its collation with it.
    Schema,
    /// It may have changed variables.
    Variables,
    /// It may have left anything.
    Unknown,
}

fn effect(command: &Command, is_of_base_tables: impl FnOnce() -> bool) -> Effect {
    let sql = command.sql();
    let text = behind_comments(sql);
    let starts = |word: &[u8]| text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    let has = |word: &[u8]| sql.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word));
    match command.intent() {
        Intent::Read if !has(b"FROM") && !has(b"TABLE") => Effect::None,
        Intent::Read if is_of_base_tables() => Effect::None,
        Intent::Read => Effect::Doubt,
        _ if has(b";") && may_be_several(command) => Effect::Unknown,
        // What is meant for the next transaction can't be asked for without using it up.
        Intent::Transaction | Intent::SessionState if has(b"TRANSACTION") && starts(b"SET") || has(b"ISOLATION") => {
            Effect::Unknown
        }
        Intent::Transaction | Intent::SessionState if starts(b"SET") => Effect::Variables,
        Intent::Transaction if OF_TRANSACTIONS.iter().any(|word| starts(word)) => Effect::None,
        Intent::SessionState if starts(b"USE") => Effect::Schema,
        Intent::Write if HARMLESS_WRITES.iter().any(|word| starts(word)) && !has(b"TEMPORARY") => Effect::Doubt,
        _ => Effect::Unknown,
    }
}

/// What follows the comments at a text's beginning. One that servers may run is none.
fn behind_comments(text: &[u8]) -> &[u8] {
    let text = text.trim_ascii_start();
    match text {
        [b'/', b'*', b'!' | b'M', ..] => text,
        [b'/', b'*', comment @ ..] => match memchr::memmem::find(comment, b"*/") {
            Some(end) => behind_comments(&comment[end + 2..]),
            None => text,
        },
        _ => text,
    }
}

/// Whether there is a semicolon outside of literals.
fn may_be_several(command: &Command) -> bool {
    let session = command.session();
    let text = session.classifier().without_literals(command.sql(), session.sql_mode());
    text.is_none_or(|text| text.trim_end_matches([';', ' ']).contains(';'))
}

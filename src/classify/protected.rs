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

/// Of those, names that no table has for a column without meaning the variable: for texts that can't be looked through.
const TELLING: &[&str] = &[
    "sql_log_bin",
    "binlog_format",
    "binlog_row_image",
    "binlog_alter_two_phase",
    "pseudo_thread_id",
    "gtid_domain_id",
    "gtid_seq_no",
    "gtid_next",
];

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
}

impl Variable {
    /// What the variable of this name is.
    pub(super) fn of(name: &[u8]) -> Self {
        let name = name.to_ascii_lowercase();
        let is_logging = LOGGING.iter().any(|logging| logging.as_bytes() == name) || name.starts_with(b"gtid_");
        match name.as_slice() {
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
        .find(|telling| name.eq_ignore_ascii_case(telling.as_bytes()))
        .map(|telling| format!("a stored program that sets {telling} could hide writes from replication"))
}

/// Why a stored program that may run this text, or one with this in it, is refused, if it is.
pub(super) fn hides_writes_in_text(text: &[u8]) -> Option<String> {
    let text = text.to_ascii_lowercase();
    let telling = TELLING.iter().find(|telling| memchr::memmem::find(&text, telling.as_bytes()).is_some())?;
    Some(format!("a stored program that runs a text with {telling} in it could hide writes from replication"))
}

/// Why a text that can't be cut into tokens with certainty is refused, if it is: it names what only Towline may touch.
pub(super) fn hides_writes_in_doubt(sql: &[u8]) -> Option<String> {
    let sql = sql.to_ascii_lowercase();
    let contains = |name: &str| memchr::memmem::find(&sql, name.as_bytes()).is_some();
    let named = TELLING.iter().copied().chain(["towline"]).find(|name| contains(name));
    let named = named.or_else(|| (contains("server_id") && contains("set")).then_some("server_id"))?;
    Some(format!(
        "it names {named}, which only Towline may write to, and has parts that servers read differently \
         (an executable comment, an open quote); write it without them"
    ))
}

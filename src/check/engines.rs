//! Whether the master's tables are of an engine whose changes can be applied exactly once.

use super::{CheckError, Line, server::Server};

/// So many tables are named; a mend is the same for each.
const NAMED_MAX: usize = 5;

/// Checks every table.
pub(super) async fn check(server: &mut Server) -> Result<Line, CheckError> {
    const NAME: &str = "every table is InnoDB's";
    const OTHERS: &str = "SELECT CONCAT('`', TABLE_SCHEMA, '`.`', TABLE_NAME, '` (', ENGINE, ')') \
        FROM information_schema.TABLES WHERE TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED') AND ENGINE <> 'InnoDB' \
        AND TABLE_SCHEMA NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys', 'towline') ORDER BY 1";
    let others: Vec<String> = server.query("its tables' engines", OTHERS).await?;
    if others.is_empty() {
        return Ok(Line::ok(NAME));
    }
    let named = others.iter().take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = match others.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Ok(Line::warning(
        NAME,
        format!("{named}{more}: no new slave gets a snapshot, and a slave stops at a change without a transaction"),
        "run `ALTER TABLE … ENGINE=InnoDB` for each, or move it to another server",
    ))
}

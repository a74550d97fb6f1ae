//! The session under which a statement means what it meant on the master.

use crate::replication::protocol::Context;

pub(super) fn collations_statement(ids: &[u16]) -> String {
    if ids.is_empty() {
        return "SET SESSION character_set_collations = ''".to_owned();
    }
    let ids = ids.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    format!(
        "SET SESSION character_set_collations = (SELECT GROUP_CONCAT(CHARACTER_SET_NAME, '=', FULL_COLLATION_NAME) \
         FROM information_schema.COLLATION_CHARACTER_SET_APPLICABILITY WHERE ID IN ({ids}))"
    )
}

/// One `SET` of everything that the context holds.
pub(super) fn context_statement(context: &Context, is_mariadb: bool) -> String {
    // As a number the variable takes a character set's default collation only, and the binlog may name another.
    let collations = if is_mariadb { "COLLATION_CHARACTER_SET_APPLICABILITY" } else { "COLLATIONS" };
    let client_charset = |id| {
        format!(
            "character_set_client = (SELECT CHARACTER_SET_NAME FROM information_schema.{collations} WHERE ID = {id})"
        )
    };
    let number = |name: &str, value: Option<u64>| value.map(|value| format!("{name} = {value}"));
    let flag = |name: &str, value: Option<bool>| number(name, value.map(u64::from));
    let [client, connection, server] = context.charset.map_or([None; 3], |ids| ids.map(|id| Some(u64::from(id))));
    let [increment, offset] = context.auto_increment.map_or([None; 2], |both| both.map(|n| Some(u64::from(n))));
    let timestamp_us = context.timestamp_us;
    [
        Some(format!("timestamp = {}.{:06}", timestamp_us / 1_000_000, timestamp_us % 1_000_000)),
        number("sql_mode", context.sql_mode),
        flag("foreign_key_checks", context.foreign_key_checks),
        flag("unique_checks", context.unique_checks),
        flag("sql_auto_is_null", context.sql_auto_is_null),
        flag("check_constraint_checks", context.check_constraint_checks),
        client.map(client_charset),
        number("collation_connection", connection),
        number("collation_server", server),
        number("collation_database", context.collation_database.map(u64::from)),
        number("default_collation_for_utf8mb4", context.default_collation_for_utf8mb4.map(u64::from)),
        context.time_zone.as_ref().map(|zone| format!("time_zone = {}", quoted_text(zone))),
        number("lc_time_names", context.lc_time_names.map(u64::from)),
        number("auto_increment_increment", increment),
        number("auto_increment_offset", offset),
        flag("explicit_defaults_for_timestamp", context.explicit_defaults_for_timestamp),
        flag("sql_if_exists", context.sql_if_exists),
    ]
    .into_iter()
    .flatten()
    .fold(String::from("SET SESSION "), |mut statement, setting| {
        if !statement.ends_with(' ') {
            statement.push_str(", ");
        }
        statement + &setting
    })
}

pub(super) fn quoted_name(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// In hexadecimal: no character can end it early, whatever `sql_mode` and character set are.
pub(super) fn quoted_text(text: &str) -> String {
    text.bytes().fold(String::from("X'"), |hex, byte| hex + &format!("{byte:02x}")) + "'"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_becomes_one_set_that_no_name_can_break_out_of() {
        let context = Context {
            timestamp_us: 1_790_000_000_000_042,
            sql_mode: Some(0),
            charset: Some([33, 45, 8]),
            time_zone: Some("x', sql_log_bin = '0".into()),
            ..Context::default()
        };
        assert_eq!(
            context_statement(&context, true),
            "SET SESSION timestamp = 1790000000.000042, sql_mode = 0, character_set_client = \
             (SELECT CHARACTER_SET_NAME FROM information_schema.COLLATION_CHARACTER_SET_APPLICABILITY WHERE ID = 33), \
             collation_connection = 45, collation_server = 8, \
             time_zone = X'78272c2073716c5f6c6f675f62696e203d202730'"
        );
        assert_eq!(quoted_name("a`b"), "`a``b`");
    }
}

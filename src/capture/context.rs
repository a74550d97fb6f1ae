//! The session state that a Query event carries, as a [`Context`].

use super::event::{Fields, Query};
use crate::replication::protocol::{Context, Family};

// Bits of Q_FLAGS2. The two servers agree on those that both have.
// Source: MariaDB 10.11 and MySQL 9.7, each bit read from a binlog written under the setting.
const AUTO_IS_NULL: u32 = 1 << 14;
const NO_CHECK_CONSTRAINT_CHECKS: u32 = 1 << 15;
const EXPLICIT_DEFAULTS_FOR_TIMESTAMP: u32 = 1 << 24;
const NO_FOREIGN_KEY_CHECKS: u32 = 1 << 26;
const RELAXED_UNIQUE_CHECKS: u32 = 1 << 27;
const IF_EXISTS: u32 = 1 << 28;

/// The account under which a statement ran, where the binlog names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Invoker<'a> {
    /// Its user.
    pub(super) user: &'a str,
    /// Its host; empty for a role.
    pub(super) host: &'a str,
}

/// Reads the session state of a Query event written at `timestamp` (seconds since 1970). None if a field is damaged or
/// unknown: its length is then unknown too, and what follows can't be read.
///
/// Of what the binlog gives, these are left out: the catalog (always `std`), numbers that only order or size things, the
/// names of changed databases, and MySQL's `sql_require_primary_key` and `default_table_encryption` (they change
/// whether a statement is allowed and how a table lies on disk, never its content).
///
/// Source: <https://mariadb.com/kb/en/query_event/>, MySQL's `Query_event` in `libs/mysql/binlog/event/statement_events.h`
pub(super) fn read<'a>(query: &Query<'a>, timestamp: u32, family: Family) -> Option<(Context, Option<Invoker<'a>>)> {
    let mut context = Context { schema: text(query.schema)?.to_owned(), ..Context::default() };
    let mut invoker = None;
    let mut microseconds = 0;
    let mut fields = Fields(query.status);
    while let Some(code) = fields.u8() {
        match code {
            0 => flags(&mut context, fields.u32()?, family),
            1 => context.sql_mode = Some(fields.u64()?),
            2 => {
                fields.short_bytes()?;
                fields.u8()?; // a zero after the catalog
            }
            3 => context.auto_increment = Some([fields.u16()?, fields.u16()?]),
            4 => context.charset = Some([fields.u16()?, fields.u16()?, fields.u16()?]),
            5 => context.time_zone = Some(text(fields.short_bytes()?)?.to_owned()),
            6 => skip(fields.short_bytes())?,
            7 => context.lc_time_names = Some(fields.u16()?),
            8 => context.collation_database = Some(fields.u16()?),
            9 | 17 => skip(fields.bytes(8))?,
            10 => skip(fields.bytes(4))?,
            11 => invoker = Some(Invoker { user: text(fields.short_bytes()?)?, host: text(fields.short_bytes()?)? }),
            12 => updated_databases(&mut fields)?,
            13 | 128 => microseconds = fields.number(3)?,
            16 => context.explicit_defaults_for_timestamp = Some(fields.u8()? != 0),
            18 => context.default_collation_for_utf8mb4 = Some(fields.u16()?),
            19 | 20 => skip(fields.bytes(1))?,
            129 => skip(fields.bytes(8))?,
            130 => alter_phase(&mut fields)?,
            131 => context.character_set_collations = Some(collations(&mut fields)?),
            _ => return None,
        }
    }
    context.timestamp_us = u64::from(timestamp) * 1_000_000 + microseconds;
    Some((context, invoker))
}

fn flags(context: &mut Context, bits: u32, family: Family) {
    context.sql_auto_is_null = Some(bits & AUTO_IS_NULL != 0);
    context.foreign_key_checks = Some(bits & NO_FOREIGN_KEY_CHECKS == 0);
    context.unique_checks = Some(bits & RELAXED_UNIQUE_CHECKS == 0);
    if family == Family::MariaDb {
        context.check_constraint_checks = Some(bits & NO_CHECK_CONSTRAINT_CHECKS == 0);
        context.explicit_defaults_for_timestamp = Some(bits & EXPLICIT_DEFAULTS_FOR_TIMESTAMP != 0);
        context.sql_if_exists = Some(bits & IF_EXISTS != 0);
    }
}

fn updated_databases(fields: &mut Fields<'_>) -> Option<()> {
    const TOO_MANY: u8 = 254; // and no names follow
    let count = fields.u8()?;
    for _ in 0..if count == TOO_MANY { 0 } else { count } {
        while fields.u8()? != 0 {}
    }
    Some(())
}

/// The collations that MariaDB takes for character sets that are named without one: their number, then for each the ids
/// of the character set's own default and of the collation.
///
/// Source: MariaDB, `sql/charset_collations.h`, `Charset_collation_map_st::to_binary`
fn collations(fields: &mut Fields<'_>) -> Option<Vec<u16>> {
    let count = fields.u8()?;
    let mut collations = Vec::new();
    for _ in 0..count {
        fields.u16()?;
        collations.push(fields.u16()?);
    }
    Some(collations)
}

/// MariaDB's `ALTER` in two phases: what the GTID event has said already.
fn alter_phase(fields: &mut Fields<'_>) -> Option<()> {
    const COMMIT_OR_ROLLBACK: u8 = 4 | 8;
    if fields.u8()? & COMMIT_OR_ROLLBACK != 0 {
        fields.u64()?; // the number of its announcement
    }
    Some(())
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn skip(bytes: Option<&[u8]>) -> Option<()> {
    bytes.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query<'a>(status: &'a [u8], schema: &'a [u8]) -> Query<'a> {
        Query { error: 0, status, schema, sql: b"CREATE TABLE t (a int)" }
    }

    #[test]
    fn mariadb_status_is_read() {
        // MariaDB 10.11: foreign_key_checks=0, a time zone, microseconds, an invoker.
        let status = b"\x00\x00\x00\x00\x05\x01\x00\x00\x20\x54\x00\x00\x00\x00\x06\x03std\x04\x21\x00\x21\x00\x08\x00\
                       \x05\x06+03:00\x0b\x04root\x09localhost\x80\xb0\xc8\x0c\x81\x36\x00\x00\x00\x00\x00\x00\x00";
        let (context, invoker) = read(&query(status, b"shop"), 1_700_000_000, Family::MariaDb).unwrap();
        let expected = Context {
            schema: "shop".into(),
            timestamp_us: 1_700_000_000_837_808,
            sql_mode: Some(0x5420_0000),
            foreign_key_checks: Some(false),
            unique_checks: Some(true),
            sql_auto_is_null: Some(false),
            check_constraint_checks: Some(true),
            charset: Some([33, 33, 8]),
            time_zone: Some("+03:00".into()),
            explicit_defaults_for_timestamp: Some(true),
            sql_if_exists: Some(false),
            ..Context::default()
        };
        assert_eq!(context, expected);
        assert_eq!(invoker, Some(Invoker { user: "root", host: "localhost" }));
    }

    #[test]
    fn default_collations_are_read_wherever_they_stand() {
        // As MariaDB 11.5 writes them: before the session's character sets. utf8mb3 and utf8mb4, each as uca1400_ai_ci.
        let status = b"\x00\x00\x00\x00\x00\x83\x02\x21\x00\x00\x08\x2d\x00\x00\x09\x04\x2d\x00\x00\x09\x08\x00";
        let (context, _) = read(&query(status, b""), 0, Family::MariaDb).unwrap();
        assert_eq!(context.character_set_collations, Some(vec![2048, 2304]));
        assert_eq!(context.charset, Some([45, 2304, 8]));
        for cut in 6..15 {
            assert!(read(&query(&status[..cut], b""), 0, Family::MariaDb).is_none(), "cut at {cut}");
        }
    }

    #[test]
    fn every_cut_is_either_a_whole_number_of_fields_or_refused() {
        let status = b"\x00\x00\x00\x00\x05\x01\x00\x00\x20\x54\x00\x00\x00\x00\x06\x03std\x0c\x02a\x00bc\x00";
        let whole = [0, 5, 14, 19, status.len()];
        for cut in 0..=status.len() {
            let read = read(&query(&status[..cut], b""), 0, Family::MySql);
            assert_eq!(read.is_some(), whole.contains(&cut), "cut at {cut}");
        }
    }

    #[test]
    fn an_unknown_field_is_refused() {
        assert!(read(&query(&[200, 0], b""), 0, Family::MariaDb).is_none());
    }
}

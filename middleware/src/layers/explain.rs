//! `EXPLAIN TOWLINE <statement>`: the answer is a SELECT of what classification and guard make of the statement, which
//! MySQL itself turns into rows in the form that the client reads.

use std::fmt::Write;

use super::guard;
use crate::{Explanation, Role, Session};

/// The statement that a text asks about, if it asks. Only the plain form counts, without comments in front.
#[inline]
pub(super) fn asked_about(sql: &[u8]) -> Option<&[u8]> {
    let sql = sql.trim_ascii_start();
    // Nearly every text ends here.
    if !matches!(sql.first(), Some(b'e' | b'E')) {
        return None;
    }
    let rest = keyword(sql, b"EXPLAIN")?;
    keyword(rest, b"TOWLINE")
}

/// What follows this keyword and space.
fn keyword<'a>(sql: &'a [u8], keyword: &[u8]) -> Option<&'a [u8]> {
    let (word, rest) = sql.split_at_checked(keyword.len())?;
    let is = word.eq_ignore_ascii_case(keyword) && rest.first().is_some_and(u8::is_ascii_whitespace);
    is.then(|| rest.trim_ascii_start())
}

/// The SELECT that tells this.
pub(super) fn answer(session: &Session, explanation: Explanation) -> String {
    let Explanation { plan, functions, cached } = explanation;
    let refusal = guard::refusal(session.role(), session, Some(&plan)).map(|error| error.text().into_owned());
    let tables = plan.tables.iter().map(|(schema, table)| match schema {
        Some(schema) => format!("{schema}.{table}"),
        None => table.clone(),
    });
    let forwarded = guard::forwarding(session.role(), session, Some(&plan)).is_some();
    let runs_on = match (&refusal, session.role()) {
        (Some(_), _) if forwarded => "master",
        (Some(_), _) => "nowhere",
        (None, Role::Master) => "master",
        (None, Role::Slave) => "this slave",
    };
    let columns = [
        ("digest", format!("{:016x}", plan.digest)),
        ("class", plan.intent.to_string()),
        ("rule", plan.rule.to_string()),
        ("layer", if refusal.is_some() { "guard" } else { "classify" }.to_owned()),
        ("runs_on", runs_on.to_owned()),
        ("refusal", refusal.unwrap_or_default()),
        ("functions", functions.join(", ")),
        ("tables", tables.collect::<Vec<_>>().join(", ")),
        ("cached", if cached { "yes" } else { "no" }.to_owned()),
    ];
    let mut sql = String::from("SELECT ");
    for (number, (name, value)) in columns.into_iter().enumerate() {
        sql.push_str(if number == 0 { "" } else { ", " });
        // Written so that no mode and no character set of the session can read it otherwise.
        sql.push_str("CONVERT(x'");
        for byte in value.bytes() {
            write!(sql, "{byte:02x}").expect("a String takes everything");
        }
        write!(sql, "' USING utf8mb4) AS `{name}`").expect("a String takes everything");
    }
    sql
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn only_the_plain_form_asks() {
        assert_eq!(asked_about(b"explain\ttowline  SELECT 1"), Some(&b"SELECT 1"[..]));
        assert_eq!(asked_about(b" EXPLAIN TOWLINE DELETE FROM t"), Some(&b"DELETE FROM t"[..]));
        for sql in ["EXPLAIN SELECT 1", "EXPLAIN TOWLINE", "EXPLAIN towline.position", "EXPLAINTOWLINE 1", "e", ""] {
            assert_eq!(asked_about(sql.as_bytes()), None, "{sql}");
        }
    }

    #[test]
    fn the_answer_is_a_select_of_hexadecimal_strings() {
        let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
        for (role, runs_on, layer) in [(Role::Master, "master", "classify"), (Role::Slave, "nowhere", "guard")] {
            let session = testing::session(role);
            let explanation = session.classifier().explain(b"FROBNICATE 1", session.sql_mode());
            let sql = answer(&session, explanation);
            assert!(sql.starts_with("SELECT CONVERT(x'"), "{sql}");
            for (name, value) in [("class", "unknown"), ("runs_on", runs_on), ("layer", layer), ("cached", "no")] {
                assert!(
                    sql.contains(&format!("CONVERT(x'{}' USING utf8mb4) AS `{name}`", hex(value))),
                    "{name}: {sql}"
                );
            }
        }
    }
}

//! Whether a read gives the same answer as long as its tables stay the same.

use crate::classify::TEMPLATE_BYTES_MAX;

/// Words that make the answer hang on something else, or ask for no memory.
const UNSTEADY: [&str; 28] = [
    "CURRVAL",
    "CURRENT_DATE",
    "CURRENT_ROLE",
    "CURRENT_TIME",
    "CURRENT_TIMESTAMP",
    "CURRENT_USER",
    "DATETIME",
    "FOR",
    "HANDLER",
    "INTO",
    "LOCALTIME",
    "LOCALTIMESTAMP",
    "LOCK",
    "PROCEDURE",
    "SHARE",
    "SQL_CALC_FOUND_ROWS",
    "SQL_NO_CACHE",
    "SYSDATE",
    "SYSTEM_TIME",
    "TABLE",
    "TABLESAMPLE",
    "TIME",
    "TIMESTAMP",
    "UTC_DATE",
    "UTC_TIME",
    "UTC_TIMESTAMP",
    "WITH",
    "EXAMINED",
];

/// Functions whose answer hangs on their arguments and the session's variables alone, and words of the grammar that may
/// stand in front of a parenthesis. A function that is missing here is only not kept.
const STEADY: [&str; 132] = [
    "ABS",
    "ADDDATE",
    "ALL",
    "AND",
    "ANY",
    "AS",
    "ASCII",
    "AVG",
    "BETWEEN",
    "BIN",
    "BIT_AND",
    "BIT_COUNT",
    "BIT_OR",
    "BIT_XOR",
    "BY",
    "CASE",
    "CAST",
    "CEIL",
    "CEILING",
    "CHAR",
    "CHARACTER_LENGTH",
    "CHAR_LENGTH",
    "COALESCE",
    "CONCAT",
    "CONCAT_WS",
    "CONVERT",
    "COUNT",
    "CRC32",
    "DATE",
    "DATEDIFF",
    "DATE_ADD",
    "DATE_FORMAT",
    "DATE_SUB",
    "DAY",
    "DAYOFMONTH",
    "DAYOFWEEK",
    "DAYOFYEAR",
    "DECIMAL",
    "DENSE_RANK",
    "DISTINCT",
    "DIV",
    "ELSE",
    "EXISTS",
    "EXP",
    "EXTRACT",
    "FIELD",
    "FIND_IN_SET",
    "FIRST_VALUE",
    "FLOOR",
    "FORCE",
    "FORMAT",
    "FROM",
    "FROM_DAYS",
    "GREATEST",
    "GROUP_CONCAT",
    "HAVING",
    "HEX",
    "HOUR",
    "IF",
    "IFNULL",
    "IGNORE",
    "IN",
    "INDEX",
    "INET_ATON",
    "INET_NTOA",
    "INSTR",
    "INTERVAL",
    "ISNULL",
    "JOIN",
    "JSON_CONTAINS",
    "JSON_EXTRACT",
    "JSON_LENGTH",
    "JSON_UNQUOTE",
    "JSON_VALUE",
    "KEY",
    "LAG",
    "LAST_DAY",
    "LAST_VALUE",
    "LCASE",
    "LEAD",
    "LEAST",
    "LEFT",
    "LENGTH",
    "LIKE",
    "LN",
    "LOCATE",
    "LOG",
    "LOG10",
    "LOG2",
    "LOWER",
    "LPAD",
    "LTRIM",
    "MAX",
    "MD5",
    "MIN",
    "MINUTE",
    "MOD",
    "MONTH",
    "NOT",
    "NULLIF",
    "OCTET_LENGTH",
    "ON",
    "OR",
    "OVER",
    "POW",
    "POWER",
    "QUARTER",
    "RANK",
    "REPEAT",
    "REPLACE",
    "REVERSE",
    "RIGHT",
    "ROUND",
    "ROW_NUMBER",
    "RPAD",
    "RTRIM",
    "SECOND",
    "SELECT",
    "SHA1",
    "SHA2",
    "SIGN",
    "SQRT",
    "SUBSTR",
    "SUBSTRING",
    "SUBSTRING_INDEX",
    "SUM",
    "THEN",
    "TRIM",
    "UNION",
    "UPPER",
    "USE",
    "USING",
];

/// Whether the answer to this text, whose literals were taken out, hangs on its tables and the session's variables alone.
pub(in crate::layers) fn is_steady(text: &str) -> bool {
    let bytes = text.as_bytes();
    // What is longer was cut off.
    if bytes.len() >= TEMPLATE_BYTES_MAX || bytes.iter().any(|byte| matches!(byte, b'@' | b';')) {
        return false;
    }
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'`' {
            // A name, to its closing quote; a doubled quote starts the next piece of it.
            at += 1 + bytes[at + 1..].iter().position(|byte| *byte == b'`').unwrap_or(bytes.len() - at - 1) + 1;
            if is_call(bytes, at) {
                return false;
            }
            continue;
        }
        let len = bytes[at..].iter().take_while(|byte| is_word(**byte)).count();
        if len == 0 {
            at += 1;
            continue;
        }
        let word = text[at..at + len].to_ascii_uppercase();
        at += len;
        if UNSTEADY.contains(&word.as_str()) || (is_call(bytes, at) && !is_steady_call(&word)) {
            return false;
        }
    }
    true
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || !byte.is_ascii()
}

fn is_call(bytes: &[u8], at: usize) -> bool {
    bytes.get(at..).is_some_and(|rest| rest.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'('))
}

fn is_steady_call(word: &str) -> bool {
    STEADY.contains(&word) || matches!(word, "UCASE" | "UNHEX" | "WEEK" | "WEEKDAY" | "WHEN" | "WHERE" | "XOR" | "YEAR")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_hangs_on_tables_alone_is_steady() {
        for text in [
            "SELECT c FROM sbtest1 WHERE id=1",
            "SELECT COUNT(*), max(a) FROM t WHERE b IN (1) AND (c = 'a' OR d LIKE 'a')",
            "SELECT `now` FROM t ORDER BY a LIMIT 1",
            "SELECT DISTINCT c FROM t WHERE id BETWEEN 1 AND 1 ORDER BY c",
        ] {
            assert!(is_steady(text), "{text}");
        }
        for text in [
            "SELECT NOW() FROM t",
            "SELECT a FROM t WHERE b < CURRENT_DATE",
            "SELECT RAND() FROM t",
            "SELECT @a FROM t",
            "SELECT a FROM t WHERE u = USER ()",
            "SELECT CONNECTION_ID() FROM t",
            "SELECT UNIX_TIMESTAMP() FROM t",
            "SELECT SQL_NO_CACHE a FROM t",
            "SELECT a FROM t FOR SYSTEM_TIME AS OF 'a'",
            "SELECT shop.f(a) FROM t",
            "SELECT s.currval FROM t",
            "SELECT DATE(CAST(a AS TIME)) FROM t",
            "SELECT `f`(a) FROM t",
            "WITH t AS (SELECT 1) SELECT * FROM t",
            "SELECT 1; SELECT a FROM t",
        ] {
            assert!(!is_steady(text), "{text}");
        }
        let long = format!("SELECT a FROM t WHERE b{}", " OR b".repeat(TEMPLATE_BYTES_MAX / 4));
        assert!(!is_steady(&long) && is_steady(&long[..100]));
    }
}

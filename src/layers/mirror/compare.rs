//! Whether two servers have answered the same, whose values come in different forms.

use mysql_async::{Column, Row, consts::ColumnType};
use towline_middleware::rows::{Collected, Value};

/// Whether both have the same rows. Their order is left out of account: ORDER BY need not tell all rows apart.
pub(super) fn is_same(own: &Collected, other: &[Row]) -> bool {
    let of_own = |row: &Vec<Value<'static>>| row.iter().map(|value| text_of(value)).collect::<Vec<_>>();
    let mut rows: Vec<_> = own.rows.iter().map(of_own).collect();
    let width = own.columns.len();
    let mut others: Vec<_> =
        other.iter().map(|row| (0..row.len()).map(|at| other_text(row, at)).collect::<Vec<_>>()).collect();
    if other.iter().any(|row| row.len() != width) {
        return false;
    }
    rows.sort_unstable();
    others.sort_unstable();
    rows == others
}

fn text_of(value: &Value<'_>) -> Option<String> {
    (!value.is_null()).then(|| value.to_text().into_owned())
}

/// The same text of the second server's value.
fn other_text(row: &Row, at: usize) -> Option<String> {
    use mysql_async::Value as Other;
    let column = &row.columns_ref()[at];
    Some(match row.as_ref(at)? {
        Other::NULL => return None,
        Other::Bytes(bytes) => plain(column, String::from_utf8_lossy(bytes).into_owned()),
        Other::Int(value) => value.to_string(),
        Other::UInt(value) => value.to_string(),
        Other::Float(value) => f64::from(*value).to_string(),
        Other::Double(value) => value.to_string(),
        Other::Date(year, month, day, hour, minute, second, micros) => {
            let date = format!("{year:04}-{month:02}-{day:02}");
            match column.column_type() {
                ColumnType::MYSQL_TYPE_DATE | ColumnType::MYSQL_TYPE_NEWDATE => date,
                _ => format!("{date} {hour:02}:{minute:02}:{second:02}{}", fraction(*micros)),
            }
        }
        Other::Time(is_negative, days, hours, minutes, seconds, micros) => {
            let sign = if *is_negative { "-" } else { "" };
            let hours = u64::from(*days) * 24 + u64::from(*hours);
            format!("{sign}{hours:02}:{minutes:02}:{seconds:02}{}", fraction(*micros))
        }
    })
}

fn fraction(micros: u32) -> String {
    if micros == 0 { String::new() } else { format!(".{micros:06}") }
}

/// A number as this node writes it: a server may fill it up with zeros.
fn plain(column: &Column, text: String) -> String {
    use ColumnType::{
        MYSQL_TYPE_DOUBLE, MYSQL_TYPE_FLOAT, MYSQL_TYPE_INT24, MYSQL_TYPE_LONG, MYSQL_TYPE_LONGLONG, MYSQL_TYPE_SHORT,
        MYSQL_TYPE_TINY, MYSQL_TYPE_YEAR,
    };
    match column.column_type() {
        MYSQL_TYPE_FLOAT | MYSQL_TYPE_DOUBLE => text.parse::<f64>().map_or(text, |value| value.to_string()),
        MYSQL_TYPE_TINY | MYSQL_TYPE_SHORT | MYSQL_TYPE_INT24 | MYSQL_TYPE_LONG | MYSQL_TYPE_LONGLONG
        | MYSQL_TYPE_YEAR => text.parse::<i128>().map_or(text, |value| value.to_string()),
        _ => text,
    }
}

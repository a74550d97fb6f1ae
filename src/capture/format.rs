//! What stands at the head of a binlog file: its name and its format.

use super::{
    CaptureError, Place,
    event::{CRC, Event, Fields, HEADER, kind},
};
use crate::replication::protocol::{Binary, Format};

/// The file that a Rotate event goes to.
///
/// Source: <https://mariadb.com/kb/en/rotate_event/>
pub(super) fn rotated_to(event: &Event) -> String {
    // The one at the start of a stream may come without a CRC32; then the name goes to the event's end.
    let body = if event.is_intact() { event.body() } else { &event.bytes()[HEADER..] };
    String::from_utf8_lossy(body.get(8..).unwrap_or_default()).into_owned()
}

/// The name of the file that the server writes after this one; none if this is no binlog file's name.
pub(super) fn following(file: &str) -> Option<String> {
    let (base, number) = file.rsplit_once('.')?;
    let next: u64 = number.parse::<u64>().ok()? + 1;
    Some(format!("{base}.{next:0width$}", width = number.len()))
}

/// The name of the file that the server wrote before this one; none if this is its first.
pub(super) fn before(file: &str) -> Option<String> {
    let (base, number) = file.rsplit_once('.')?;
    let before = number.parse::<u64>().ok()?.checked_sub(1).filter(|number| *number > 0)?;
    Some(format!("{base}.{before:0width$}", width = number.len()))
}

/// The format that a Format_description event gives, made the same for every file that has this format: without when
/// and where it was written.
///
/// Source: <https://mariadb.com/kb/en/format_description_event/>
pub(super) fn described(event: &Event, place: impl Fn() -> Place) -> Result<Format, CaptureError> {
    const VERSION: u16 = 4;
    const CRC32: u8 = 1;
    const CREATED: std::ops::Range<usize> = 52..56;
    let malformed = |what| CaptureError::Malformed { place: place(), what };

    let body = event.body();
    let mut fields = Fields(body);
    let version = fields.u16().ok_or(malformed("its format's version"))?;
    fields.bytes(50 + 4).ok_or(malformed("its server version"))?;
    let header = fields.u8().ok_or(malformed("its header's length"))?;
    let (lengths, checksum) =
        fields.0.split_at_checked(fields.0.len().wrapping_sub(1)).ok_or(malformed("its lengths"))?;
    if checksum != [CRC32] {
        return Err(CaptureError::Unfit {
            setting: "binlog_checksum",
            found: "NONE in this file".into(),
            mend: "binlog_checksum=CRC32",
        });
    }
    if !event.is_intact() {
        return Err(CaptureError::Checksum(place()));
    }
    let is = |kind: u8, expected: u8| lengths.get(usize::from(kind) - 1) == Some(&expected);
    let known = version == VERSION
        && usize::from(header) == HEADER
        && is(kind::QUERY, 13)
        && is(kind::TABLE_MAP, 8)
        // MySQL 9 no longer writes these, and says 0.
        && (is(kind::WRITE_ROWS_V1, 8) || is(kind::WRITE_ROWS_V1, 0))
        && is(kind::WRITE_ROWS, 10);
    if !known {
        return Err(malformed("its format, which is none of MariaDB's or MySQL's since 5.6"));
    }

    let mut bytes = event.bytes()[..event.bytes().len() - CRC].to_vec();
    bytes[..4].fill(0); // timestamp
    bytes[13..HEADER].fill(0); // end, flags
    bytes[HEADER + CREATED.start..HEADER + CREATED.end].fill(0);
    let id = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&id.to_le_bytes());
    Ok(Format { id, event: Binary(bytes) })
}

//! MariaDB's compressed events (`log_bin_compress`), as the plain events that they were made of: `BINLOG` takes no
//! compressed ones.
//!
//! Source: <https://mariadb.com/kb/en/compressing-events-to-reduce-size-of-the-binary-log/> and events as MariaDB 10.11
//! writes them.

use std::io::Read;

use flate2::read::ZlibDecoder;

use super::event::{Event, Fields, kind};

/// The plain event; the event itself if it is not compressed. None if it is damaged or above `limit` bytes.
pub(super) fn unpacked(event: Event, limit: usize) -> Option<Event> {
    let body = event.body();
    let (kind, head) = match event.kind() {
        kind::MARIADB_QUERY_COMPRESSED => (kind::QUERY, query_head(body)?),
        packed @ kind::MARIADB_WRITE_ROWS_COMPRESSED_V1..=kind::MARIADB_DELETE_ROWS_COMPRESSED_V1 => {
            let plain = packed - kind::MARIADB_WRITE_ROWS_COMPRESSED_V1 + kind::WRITE_ROWS_V1;
            (plain, rows_head(body, plain == kind::UPDATE_ROWS_V1, false)?)
        }
        packed @ kind::MARIADB_WRITE_ROWS_COMPRESSED..=kind::MARIADB_DELETE_ROWS_COMPRESSED => {
            let plain = packed - kind::MARIADB_WRITE_ROWS_COMPRESSED + kind::WRITE_ROWS;
            (plain, rows_head(body, plain == kind::UPDATE_ROWS, true)?)
        }
        _ => return Some(event),
    };
    let (head, packed) = body.split_at_checked(head)?;
    let mut plain = head.to_vec();
    decompress(packed, limit, &mut plain)?;
    event.rebuilt(kind, &plain)
}

/// How long the part of a Query event is that stays plain: all but the statement.
fn query_head(body: &[u8]) -> Option<usize> {
    let mut fields = Fields(body);
    fields.bytes(8)?;
    let schema = fields.u8()?;
    fields.u16()?;
    let status = fields.u16()?;
    Some(13 + usize::from(status) + usize::from(schema) + 1)
}

/// How long the part of a rows event is that stays plain: all but the rows.
fn rows_head(body: &[u8], is_update: bool, has_extra: bool) -> Option<usize> {
    let mut fields = Fields(body);
    fields.bytes(8)?; // table id, flags
    if has_extra {
        let length = fields.u16()?; // counts itself
        fields.bytes(usize::from(length).checked_sub(2)?)?;
    }
    let columns = match fields.u8()? {
        short @ 0..=250 => usize::from(short),
        252 => usize::from(fields.u16()?),
        _ => return None, // a table has 4096 columns at most
    };
    fields.bytes(columns.div_ceil(8) * if is_update { 2 } else { 1 })?;
    Some(body.len() - fields.0.len())
}

/// One byte: 0x80, the algorithm (0 is zlib), how many bytes the length has; the length, big-endian; the packed bytes.
fn decompress(packed: &[u8], limit: usize, plain: &mut Vec<u8>) -> Option<()> {
    let mut fields = Fields(packed);
    let head = fields.u8()?;
    let length_bytes = usize::from(head & 0x07);
    if head & 0xf0 != 0x80 || length_bytes > 4 {
        return None;
    }
    let length = fields.bytes(length_bytes)?.iter().fold(0_usize, |length, byte| length << 8 | usize::from(*byte));
    if length > limit {
        return None;
    }
    plain.reserve(length);
    // One byte more than promised, so that a stream which goes on is seen.
    let read = ZlibDecoder::new(fields.0).take(length as u64 + 1).read_to_end(plain).ok()?;
    (read == length).then_some(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::ZlibEncoder};

    use super::*;
    use crate::capture::event::{CRC, HEADER};

    fn packed(kind: u8, head: &[u8], length: u16, content: &[u8]) -> Event {
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
        zlib.write_all(content).unwrap();
        let body = [head, &[0x82], &length.to_be_bytes(), &zlib.finish().unwrap()].concat();
        let mut blank = vec![0; HEADER + CRC];
        blank[9] = (HEADER + CRC) as u8;
        Event::new(blank).unwrap().rebuilt(kind, &body).unwrap()
    }

    #[test]
    fn each_compressed_type_becomes_its_plain_one() {
        let query: &[u8] = b"\0\0\0\0\0\0\0\0\x01\0\0\x02\0ssd\0";
        let one: &[u8] = b"\x07\0\0\0\0\0\x01\0\x01\xff";
        let both: &[u8] = b"\x07\0\0\0\0\0\x01\0\x01\xff\xff";
        let with_extra: &[u8] = b"\x07\0\0\0\0\0\x01\0\x03\0x\x01\xff";
        let with_extra_both: &[u8] = b"\x07\0\0\0\0\0\x01\0\x03\0x\x01\xff\xff";
        let cases = [
            (165, 2, query),
            (166, 23, one),
            (167, 24, both),
            (168, 25, one),
            (169, 30, with_extra),
            (170, 31, with_extra_both),
            (171, 32, with_extra),
        ];
        for (kind, plain, head) in cases {
            let event = unpacked(packed(kind, head, 5, b"aaaaa"), 100).unwrap_or_else(|| panic!("{kind}"));
            assert_eq!(event.kind(), plain);
            assert_eq!(event.body(), [head, b"aaaaa"].concat(), "{kind}");
            assert!(event.is_intact());
        }
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let head = b"\x07\0\0\0\0\0\x01\0\x01\xff";
        assert!(unpacked(packed(166, head, 5, b"aaaa"), 100).is_none(), "too short");
        assert!(unpacked(packed(166, head, 5, &[b'a'; 5000]), 100).is_none(), "goes on");
        assert!(unpacked(packed(166, head, 5000, &[b'a'; 5000]), 100).is_none(), "above the limit");
        assert!(unpacked(packed(166, &head[..6], 5, b"aaaaa"), 100).is_none(), "no head");
    }
}

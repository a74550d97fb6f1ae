//! The OK packet, which also ends rows under DEPRECATE_EOF.
//!
//! Source: MySQL manual, "OK_Packet".

use bytes::Bytes;
use towline_middleware::{Completion, Details, status};

use super::{
    Cursor, Malformed, capability,
    cursor::{put_lenenc, put_lenenc_bytes},
    eof,
};

/// Its first byte where no rows went before.
pub const HEADER: u8 = 0x00;

/// Reads an OK of a connection with SESSION_TRACK. `state` holds the session state as the server sent it.
///
/// # Errors
/// It is too short.
pub fn decode(payload: &Bytes) -> Result<Completion, Malformed> {
    read(payload).ok_or(Malformed("OK packet"))
}

fn read(payload: &Bytes) -> Option<Completion> {
    let mut cursor = Cursor::new(payload);
    let header = cursor.u8()?;
    let affected_rows = cursor.lenenc()?;
    let last_insert_id = cursor.lenenc()?;
    let flags = cursor.u16()?;
    let warnings = cursor.u16()?;
    let info = if cursor.left() > 0 { cursor.lenenc_bytes()? } else { &[] };
    let state = if flags & status::SESSION_STATE_CHANGED != 0 { cursor.lenenc_bytes()? } else { &[] };
    let mut completion = Completion {
        ends_rows: header == eof::HEADER,
        affected_rows,
        last_insert_id,
        status: flags,
        warnings,
        details: None,
    };
    if !info.is_empty() || !state.is_empty() {
        let [info, state] = [info, state].map(|field| payload.slice_ref(field));
        completion.details = Some(Box::new(Details { info, state, ..Details::default() }));
    }
    Some(completion)
}

/// Appends the payload in the form that a client with these capabilities reads.
pub fn encode(out: &mut Vec<u8>, completion: &Completion, capabilities: u32) {
    let Details { info, state, .. } = completion.details();
    let tracks = capabilities & capability::SESSION_TRACK != 0;
    // Without anything to tell, the flag would promise a field that is not there.
    let flags = match tracks && !state.is_empty() {
        true => completion.status | status::SESSION_STATE_CHANGED,
        false => completion.status & !status::SESSION_STATE_CHANGED,
    };
    if completion.ends_rows && capabilities & capability::DEPRECATE_EOF == 0 {
        return eof::encode(out, completion.warnings, flags);
    }
    out.push(if completion.ends_rows { eof::HEADER } else { HEADER });
    put_lenenc(out, completion.affected_rows);
    put_lenenc(out, completion.last_insert_id);
    out.extend_from_slice(&flags.to_le_bytes());
    out.extend_from_slice(&completion.warnings.to_le_bytes());
    // The manual has the text without a length for a client that does not track; the servers send one to all.
    let has_state = flags & status::SESSION_STATE_CHANGED != 0;
    if has_state || !info.is_empty() {
        put_lenenc_bytes(out, info);
    }
    if has_state {
        put_lenenc_bytes(out, state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completion() -> Completion {
        Completion {
            affected_rows: 300,
            last_insert_id: 7,
            status: status::AUTOCOMMIT | status::SESSION_STATE_CHANGED,
            warnings: 2,
            details: Some(Box::new(Details {
                info: Bytes::from_static(b"Rows matched: 1"),
                state: Bytes::from_static(b"\x01\x05\x04shop"),
                ..Details::default()
            })),
            ..Completion::default()
        }
    }

    #[test]
    fn round_trips_with_session_tracking() {
        let mut out = Vec::new();
        encode(&mut out, &completion(), capability::SESSION_TRACK);
        let payload = Bytes::from(out);
        assert_eq!(decode(&payload), Ok(completion()));
        for len in 0..payload.len() {
            // Cut after a whole field it is an OK with less to say; what matters is that no cut reads beyond its end.
            let _ = decode(&payload.slice(..len));
        }
    }

    #[test]
    fn a_client_without_tracking_gets_no_state_and_no_promise_of_it() {
        let mut out = Vec::new();
        encode(&mut out, &completion(), 0);
        assert_eq!(out, b"\x00\xfc\x2c\x01\x07\x02\x00\x02\x00\x0fRows matched: 1");
    }

    #[test]
    fn the_end_of_rows_is_an_eof_for_a_client_that_knows_no_other() {
        let end = Completion { ends_rows: true, warnings: 1, status: status::AUTOCOMMIT, ..Completion::default() };
        let mut out = Vec::new();
        encode(&mut out, &end, 0);
        assert_eq!(out, [0xfe, 1, 0, 2, 0]);
        out.clear();
        encode(&mut out, &end, capability::DEPRECATE_EOF);
        assert_eq!(out, [0xfe, 0, 0, 2, 0, 1, 0]);
    }
}

//! The ERR packet.
//!
//! Source: MySQL manual, "ERR_Packet".

use bytes::Bytes;
use towline_middleware::ServerError;

use super::{Cursor, Malformed};

/// Its first byte.
pub const HEADER: u8 = 0xff;

/// Reads the payload. Before the login an error has no SQLSTATE; `HY000` stands for it.
///
/// # Errors
/// It is too short.
pub fn decode(payload: &Bytes) -> Result<ServerError, Malformed> {
    let mut cursor = Cursor::new(payload);
    let read = |cursor: &mut Cursor<'_>| {
        cursor.u8().filter(|byte| *byte == HEADER)?;
        cursor.u16()
    };
    let code = read(&mut cursor).ok_or(Malformed("ERR packet"))?;
    let rest = cursor.rest();
    let (sqlstate, text) = match rest.split_first_chunk::<6>() {
        Some(([b'#', state @ ..], text)) => (*state, text),
        _ => (*b"HY000", rest),
    };
    Ok(ServerError { code, sqlstate, message: payload.slice_ref(text) })
}

/// Appends the payload. The text is cut at 512 bytes less than a frame, far beyond what any server sends.
pub fn encode(out: &mut Vec<u8>, error: &ServerError) {
    out.push(HEADER);
    out.extend_from_slice(&error.code.to_le_bytes());
    out.push(b'#');
    out.extend_from_slice(&error.sqlstate);
    let cut = error.message.len().min(super::frame::PAYLOAD_MAX - 512);
    out.extend_from_slice(&error.message[..cut]);
}

/// Appends the payload as it is before the login, when a client reads no SQLSTATE yet.
pub fn encode_early(out: &mut Vec<u8>, error: &ServerError) {
    out.push(HEADER);
    out.extend_from_slice(&error.code.to_le_bytes());
    out.extend_from_slice(&error.message[..error.message.len().min(512)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_reads_errors_without_a_state() {
        let error = ServerError::refused("no writes here");
        let mut payload = Vec::new();
        encode(&mut payload, &error);
        assert_eq!(decode(&Bytes::from(payload)), Ok(error));
        let early = decode(&Bytes::from_static(b"\xff\x10\x04Too many connections")).expect("a whole packet");
        assert_eq!((early.code, early.text().as_ref()), (1040, "Too many connections"));
        assert!(decode(&Bytes::from_static(b"\xff\x10")).is_err());
    }
}

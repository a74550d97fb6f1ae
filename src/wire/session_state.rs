//! Session state information: what an OK packet tells about changes of the session.
//!
//! Source: MySQL manual, "OK_Packet", "Session State Information"; MariaDB Knowledge Base, "OK_Packet".

use super::{Cursor, cursor::put_lenenc_bytes};

/// One change of the session's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// A system variable and its new value. Both are in the server's words.
    Variable {
        /// Its name.
        name: &'a [u8],
        /// Its value.
        value: &'a [u8],
    },
    /// The default schema.
    Schema(&'a [u8]),
    /// The GTIDs of what was committed (MySQL).
    Gtids(&'a [u8]),
    /// Something else, by its type byte.
    Other(u8),
}

/// The changes in a state, each with its whole encoding. Ends early at what is malformed.
pub fn changes(state: &[u8]) -> impl Iterator<Item = (Change<'_>, &[u8])> {
    let mut cursor = Cursor::new(state);
    std::iter::from_fn(move || {
        let before = state.get(state.len() - cursor.left()..)?;
        let kind = cursor.u8()?;
        let body = cursor.lenenc_bytes()?;
        let entry = before.get(..before.len() - cursor.left())?;
        Some((change(kind, body)?, entry))
    })
}

fn change(kind: u8, body: &[u8]) -> Option<Change<'_>> {
    let mut cursor = Cursor::new(body);
    Some(match kind {
        0x00 => Change::Variable { name: cursor.lenenc_bytes()?, value: cursor.lenenc_bytes()? },
        0x01 => Change::Schema(cursor.lenenc_bytes()?),
        0x03 => {
            cursor.u8()?;
            Change::Gtids(cursor.lenenc_bytes()?)
        }
        other => Change::Other(other),
    })
}

/// Appends a system variable's change.
pub fn put_variable(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    let mut body = Vec::with_capacity(name.len() + value.len() + 2);
    put_lenenc_bytes(&mut body, name);
    put_lenenc_bytes(&mut body, value);
    out.push(0x00);
    put_lenenc_bytes(out, &body);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_each_change_and_stops_at_damage() {
        let mut state = Vec::new();
        put_variable(&mut state, b"autocommit", b"ON");
        put_variable(&mut state, b"last_gtid", b"0-1-5");
        state.extend_from_slice(b"\x01\x05\x04shop\x03\x05\x00\x03u:1\x05\x01Y");
        let read: Vec<_> = changes(&state).map(|(change, _)| change).collect();
        assert_eq!(
            read,
            [
                Change::Variable { name: b"autocommit", value: b"ON" },
                Change::Variable { name: b"last_gtid", value: b"0-1-5" },
                Change::Schema(b"shop"),
                Change::Gtids(b"u:1"),
                Change::Other(5),
            ]
        );
        let whole: Vec<u8> = changes(&state).flat_map(|(_, entry)| entry.to_vec()).collect();
        assert_eq!(whole, state, "the entries together are the state");
        for len in 0..state.len() {
            assert!(changes(&state[..len]).count() < 5);
        }
    }
}

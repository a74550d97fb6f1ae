//! The client's answer to the greeting: who it is and what it can do.
//!
//! Source: MySQL manual, "Protocol::HandshakeResponse41".

use super::{Cursor, Malformed, capability};

/// Length of the part that a login and the request for TLS before it have in common.
pub const HEAD_LEN: usize = 4 + 4 + 1 + 23;

/// What the node reads of a client's login. The proof of the password stays in the packet and goes to MySQL unread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// What the client can do.
    pub capabilities: u32,
    /// What it can do with a MariaDB (see [`capability::mariadb`]); 0 of a client of MySQL's.
    pub mariadb_capabilities: u32,
    /// The id of its collation, which names its character set.
    pub collation: u8,
    /// The account.
    pub user: String,
    /// The default schema; empty for none.
    pub schema: String,
}

impl Login {
    /// Reads the packet.
    ///
    /// # Errors
    /// It is too short, or of a protocol before 4.1.
    pub fn decode(payload: &[u8]) -> Result<Self, Malformed> {
        Self::read(payload).ok_or(Malformed("login"))
    }

    fn read(payload: &[u8]) -> Option<Self> {
        let mut cursor = Cursor::new(payload);
        let capabilities = cursor.u32()?;
        if capabilities & capability::PROTOCOL_41 == 0 {
            return None;
        }
        cursor.u32()?;
        let collation = cursor.u8()?;
        cursor.bytes(19)?;
        let own = cursor.u32()?;
        let user = cursor.nul_terminated()?;
        if capabilities & capability::PLUGIN_AUTH_LENENC != 0 {
            cursor.lenenc_bytes()?;
        } else if capabilities & capability::SECURE_CONNECTION != 0 {
            let len = cursor.u8()?;
            cursor.bytes(len.into())?;
        } else {
            cursor.nul_terminated()?;
        }
        // Some clients set the flag and name no schema at the very end of the packet.
        let schema = match capabilities & capability::CONNECT_WITH_DB {
            0 => &[],
            _ => cursor.nul_terminated().unwrap_or_else(|| cursor.rest()),
        };
        Some(Self {
            capabilities,
            mariadb_capabilities: if capabilities & capability::LONG_PASSWORD == 0 { own } else { 0 },
            collation,
            user: String::from_utf8_lossy(user).into_owned(),
            schema: String::from_utf8_lossy(schema).into_owned(),
        })
    }

    /// Whether the packet asks for TLS before the login itself.
    pub fn asks_for_tls(payload: &[u8]) -> bool {
        Cursor::new(payload).u32().is_some_and(|flags| flags & capability::SSL != 0)
    }
}

/// The client's login as it goes to MySQL: the same but for its capabilities and those of MariaDB's own.
pub fn for_upstream(payload: &[u8], capabilities: u32, mariadb: u32) -> Vec<u8> {
    let mut payload = payload.to_vec();
    payload[..4].copy_from_slice(&capabilities.to_le_bytes());
    if capabilities & capability::LONG_PASSWORD == 0 {
        // The last four of the 23 reserved bytes after flags, packet size and collation.
        payload[4 + 4 + 1 + 19..4 + 4 + 1 + 23].copy_from_slice(&mariadb.to_le_bytes());
    }
    payload
}

/// Marks a login as one that follows a TLS handshake; its first [`HEAD_LEN`] bytes are the request for it. Servers keep
/// the capabilities of that request.
pub fn ask_for_tls(payload: &mut [u8]) {
    const BYTE: usize = capability::SSL.trailing_zeros() as usize / 8;
    if let Some(byte) = payload.get_mut(BYTE) {
        *byte |= capability::SSL.to_le_bytes()[BYTE];
    }
}

/// A login of this account without a password.
pub fn without_password(capabilities: u32, user: &[u8]) -> Vec<u8> {
    /// The id of `utf8mb4_general_ci`, which every server since 5.5.3 has.
    const COLLATION: u8 = 45;
    let mut packet = capabilities.to_le_bytes().to_vec();
    packet.extend_from_slice(&[0, 0, 0, 1, COLLATION]);
    packet.resize(HEAD_LEN, 0);
    packet.extend_from_slice(user);
    // The end of the name, and a proof of no length; then a method, which gets no further without a password.
    packet.extend_from_slice(b"\0\0mysql_native_password\0");
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(flags: u32, tail: &[u8]) -> Vec<u8> {
        let mut payload = flags.to_le_bytes().to_vec();
        payload.extend_from_slice(&[0, 0, 0, 1, 45]);
        payload.extend_from_slice(&[0; 23]);
        payload.extend_from_slice(tail);
        payload
    }

    #[test]
    fn reads_user_and_schema_under_each_form_of_the_proof() {
        let base = capability::PROTOCOL_41 | capability::CONNECT_WITH_DB;
        for (flags, tail) in [
            (capability::PLUGIN_AUTH_LENENC, &b"app\0\x03abcshop\0plugin\0"[..]),
            (capability::SECURE_CONNECTION, b"app\0\x03abcshop\0"),
            (0, b"app\0abc\0shop\0"),
            (0, b"app\0abc\0shop"),
        ] {
            let login = Login::decode(&packet(base | flags, tail)).expect("a whole login");
            assert_eq!((login.user.as_str(), login.schema.as_str(), login.collation), ("app", "shop", 45));
        }
    }

    #[test]
    fn cut_and_old_logins_are_refused() {
        let whole = packet(capability::PROTOCOL_41 | capability::PLUGIN_AUTH_LENENC, b"app\0\x03abc");
        for len in 0..whole.len() {
            assert!(Login::decode(&whole[..len]).is_err(), "{len}");
        }
        assert!(Login::decode(&packet(0, b"app\0abc\0")).is_err());
    }
}

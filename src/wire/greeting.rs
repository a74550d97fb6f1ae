//! The server's first packet: its version, its capabilities and the salt of the login.
//!
//! Source: MySQL manual, "Protocol::HandshakeV10"; MariaDB Knowledge Base, "Initial Handshake Packet".

use super::{Cursor, Malformed, capability};

/// The server's first packet, kept whole and read where needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    payload: Vec<u8>,
    /// Where the fields with fixed places start: just after the version's zero byte.
    fixed: usize,
    /// The server's version, as in `5.5.5-10.11.19-MariaDB`.
    pub version: String,
    /// The connection's id, by which KILL finds it.
    pub connection_id: u32,
    /// What the server can do.
    pub capabilities: u32,
    /// What it can do as a MariaDB (see [`capability::mariadb`]); 0 of MySQL.
    pub mariadb_capabilities: u32,
    /// The login method that it proposes.
    pub auth_plugin: String,
    /// The salt of the login, without its closing zero byte.
    pub salt: Vec<u8>,
}

/// Places after the version's zero byte.
const CAPABILITIES_LOW: usize = 4 + 8 + 1;
const CAPABILITIES_HIGH: usize = CAPABILITIES_LOW + 2 + 1 + 2;
/// MariaDB's own capabilities are the last four of ten reserved bytes.
const MARIADB_CAPABILITIES: usize = CAPABILITIES_HIGH + 2 + 1 + 6;

impl Greeting {
    /// Reads the packet.
    ///
    /// # Errors
    /// It is no greeting of protocol version 10.
    pub fn decode(payload: &[u8]) -> Result<Self, Malformed> {
        Self::read(payload).ok_or(Malformed("greeting"))
    }

    fn read(payload: &[u8]) -> Option<Self> {
        let mut cursor = Cursor::new(payload);
        if cursor.u8()? != 10 {
            return None;
        }
        let version = cursor.nul_terminated()?;
        let fixed = payload.len() - cursor.left();
        let connection_id = cursor.u32()?;
        let mut salt = cursor.bytes(8)?.to_vec();
        cursor.bytes(1)?;
        let low = cursor.u16()?;
        cursor.bytes(1 + 2)?;
        let high = cursor.u16()?;
        let salt_len = usize::from(cursor.u8()?);
        cursor.bytes(6)?;
        let own = cursor.u32()?;
        let second = cursor.bytes(salt_len.saturating_sub(8).max(13).min(cursor.left()))?;
        salt.extend_from_slice(second.strip_suffix(&[0]).unwrap_or(second));
        let plugin = cursor.nul_terminated().unwrap_or_default();
        Some(Self {
            payload: payload.to_vec(),
            fixed,
            version: String::from_utf8_lossy(version).into_owned(),
            connection_id,
            capabilities: u32::from(low) | u32::from(high) << 16,
            mariadb_capabilities: if u32::from(low) & capability::LONG_PASSWORD == 0 { own } else { 0 },
            auth_plugin: String::from_utf8_lossy(plugin).into_owned(),
            salt,
        })
    }

    /// Whether the server is a MariaDB.
    pub fn is_mariadb(&self) -> bool {
        self.capabilities & capability::LONG_PASSWORD == 0 || self.version.contains("MariaDB")
    }

    /// Takes capabilities away, as if the server did not have them: common ones, and MariaDB's own.
    pub fn mask(&mut self, capabilities: u32, mariadb: u32) {
        self.capabilities &= !capabilities;
        self.mariadb_capabilities &= !mariadb;
    }

    /// What a client is offered: the server's capabilities without [`capability::MASKED`].
    pub fn offered(&self) -> u32 {
        self.capabilities & !capability::MASKED
    }

    /// What a client is offered of MariaDB's own capabilities.
    pub fn offered_mariadb(&self) -> u32 {
        self.mariadb_capabilities & capability::mariadb::PASSED
    }

    /// The greeting for a client: the server's own, with the capabilities that are [`offered`](Self::offered), and with
    /// TLS if the node has it, whatever the server has.
    pub fn for_client(&self, tls: bool) -> Vec<u8> {
        let mut payload = self.payload.clone();
        let flags = (self.offered() | if tls { capability::SSL } else { 0 }).to_le_bytes();
        let mut put = |at: usize, bytes: &[u8]| {
            let at = self.fixed + at;
            payload[at..at + bytes.len()].copy_from_slice(bytes);
        };
        put(CAPABILITIES_LOW, &flags[..2]);
        put(CAPABILITIES_HIGH, &flags[2..]);
        if self.capabilities & capability::LONG_PASSWORD == 0 {
            put(MARIADB_CAPABILITIES, &self.offered_mariadb().to_le_bytes());
        }
        payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A greeting of MariaDB 10.11 with every capability set, and all of its own, known or not.
    fn mariadb() -> Vec<u8> {
        let mut payload = b"\x0a5.5.5-10.11.6-MariaDB\0".to_vec();
        payload.extend_from_slice(&[7, 0, 0, 0]);
        payload.extend_from_slice(b"12345678\0");
        payload.extend_from_slice(&[0xfe, 0xff, 45, 2, 0, 0xff, 0x81, 21]);
        payload.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0]);
        payload.extend_from_slice(b"901234567890\0mysql_native_password\0");
        payload
    }

    #[test]
    fn reads_salt_plugin_and_id() {
        let greeting = Greeting::decode(&mariadb()).expect("a whole greeting");
        assert_eq!(greeting.connection_id, 7);
        assert_eq!(greeting.salt, b"12345678901234567890");
        assert_eq!(greeting.auth_plugin, "mysql_native_password");
        assert!(greeting.is_mariadb());
    }

    #[test]
    fn the_client_sees_the_same_but_for_what_is_masked() {
        let greeting = Greeting::decode(&mariadb()).expect("a whole greeting");
        let masked = Greeting::decode(&greeting.for_client(false)).expect("still a greeting");
        assert_eq!(masked.capabilities, greeting.capabilities & !capability::MASKED);
        assert_eq!((masked.salt, masked.version), (greeting.salt.clone(), greeting.version.clone()));
        assert_eq!((greeting.mariadb_capabilities, masked.mariadb_capabilities), (0xffff, 0x1d));
    }

    #[test]
    fn every_cut_is_an_error_or_a_shorter_plugin() {
        let payload = mariadb();
        for len in 0..payload.len() - 35 {
            assert!(Greeting::decode(&payload[..len]).is_err(), "{len} bytes were read as a greeting");
        }
    }
}

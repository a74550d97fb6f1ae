//! COM_CHANGE_USER: another login on the same connection.
//!
//! Source: MySQL manual, "COM_CHANGE_USER".

use super::{Cursor, capability};

/// The account and schema that a COM_CHANGE_USER names, and the collation's id if it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeUser {
    /// The account.
    pub user: String,
    /// The default schema; empty for none.
    pub schema: String,
    /// The id of the client's collation.
    pub collation: Option<u16>,
}

impl ChangeUser {
    /// Reads the packet, command byte included; none if it is malformed, which MySQL itself will answer.
    pub fn decode(payload: &[u8], capabilities: u32) -> Option<Self> {
        let mut cursor = Cursor::new(payload);
        cursor.u8()?;
        let user = cursor.nul_terminated()?;
        if capabilities & capability::SECURE_CONNECTION != 0 {
            let len = cursor.u8()?;
            cursor.bytes(len.into())?;
        } else {
            cursor.nul_terminated()?;
        }
        let schema = cursor.nul_terminated()?;
        Some(Self {
            user: String::from_utf8_lossy(user).into_owned(),
            schema: String::from_utf8_lossy(schema).into_owned(),
            collation: cursor.u16(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_user_schema_and_collation() {
        let packet = b"\x11app\0\x02xyshop\0\x2d\0plugin\0";
        let read = ChangeUser::decode(packet, capability::SECURE_CONNECTION).expect("a whole packet");
        assert_eq!((read.user.as_str(), read.schema.as_str(), read.collation), ("app", "shop", Some(45)));
        assert_eq!(ChangeUser::decode(&packet[..6], capability::SECURE_CONNECTION), None);
    }
}

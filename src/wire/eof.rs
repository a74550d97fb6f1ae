//! The EOF packet, which ends column definitions and rows for a client without DEPRECATE_EOF.
//!
//! Source: MySQL manual, "EOF_Packet".

/// Its first byte.
pub const HEADER: u8 = 0xfe;

/// Appends the payload.
pub fn encode(out: &mut Vec<u8>, warnings: u16, status: u16) {
    out.push(HEADER);
    out.extend_from_slice(&warnings.to_le_bytes());
    out.extend_from_slice(&status.to_le_bytes());
}

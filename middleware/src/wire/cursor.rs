//! Reading the elements of a packet, each with its length checked first.

/// A packet that is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {0}")]
pub struct Malformed(pub &'static str);

/// Reads a packet's payload from front to back. Every read returns `None` when too few bytes are left.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    /// At the first byte.
    pub fn new(payload: &'a [u8]) -> Self {
        Self(payload)
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.0.len()
    }

    /// The next `n` bytes.
    pub fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(bytes)
    }

    fn little_endian(&mut self, n: usize) -> Option<u64> {
        Some(self.bytes(n)?.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    /// A byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.bytes(1).map(|bytes| bytes[0])
    }

    /// Two bytes, little-endian.
    pub fn u16(&mut self) -> Option<u16> {
        self.little_endian(2).map(|value| value as u16)
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self) -> Option<u32> {
        self.little_endian(4).map(|value| value as u32)
    }

    /// A length-encoded integer. Source: MySQL manual, "Protocol::LengthEncodedInteger".
    pub fn lenenc(&mut self) -> Option<u64> {
        match self.u8()? {
            value @ ..=0xfa => Some(value.into()),
            0xfc => self.little_endian(2),
            0xfd => self.little_endian(3),
            0xfe => self.little_endian(8),
            // 0xfb is NULL in a row and 0xff starts an ERR packet: neither is a number.
            _ => None,
        }
    }

    /// Bytes with a length-encoded length in front.
    pub fn lenenc_bytes(&mut self) -> Option<&'a [u8]> {
        let n = self.lenenc()?;
        self.bytes(usize::try_from(n).ok()?)
    }

    /// Bytes up to a zero byte, which is skipped.
    pub fn nul_terminated(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let bytes = self.bytes(end)?;
        self.bytes(1)?;
        Some(bytes)
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

/// Appends a length-encoded integer.
pub fn put_lenenc(out: &mut Vec<u8>, value: u64) {
    let bytes = value.to_le_bytes();
    match value {
        ..=0xfa => out.push(bytes[0]),
        0xfb..=0xffff => {
            out.push(0xfc);
            out.extend_from_slice(&bytes[..2]);
        }
        0x1_0000..=0xff_ffff => {
            out.push(0xfd);
            out.extend_from_slice(&bytes[..3]);
        }
        _ => {
            out.push(0xfe);
            out.extend_from_slice(&bytes);
        }
    }
}

/// Appends bytes with their length in front.
pub fn put_lenenc_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_lenenc(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_encoded_integers_round_trip_at_their_edges() {
        for value in [0, 0xfa, 0xfb, 0xffff, 0x1_0000, 0xff_ffff, 0x100_0000, u64::MAX] {
            let mut bytes = Vec::new();
            put_lenenc(&mut bytes, value);
            let mut cursor = Cursor::new(&bytes);
            assert_eq!((cursor.lenenc(), cursor.left()), (Some(value), 0));
            assert_eq!(Cursor::new(&bytes[..bytes.len() - 1]).lenenc(), None, "a cut integer was read");
        }
        assert_eq!(Cursor::new(&[0xfb]).lenenc(), None);
        assert_eq!(Cursor::new(&[0xff]).lenenc(), None);
    }

    #[test]
    fn a_length_beyond_the_packet_is_refused() {
        assert_eq!(Cursor::new(&[0xfe, 255, 255, 255, 255, 255, 255, 255, 255, 1]).lenenc_bytes(), None);
        assert_eq!(Cursor::new(b"no zero").nul_terminated(), None);
    }
}

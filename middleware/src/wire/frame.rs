//! Frames: the three bytes of length and one of sequence in front of every packet.
//!
//! A payload of 16 MB − 1 or more goes on in further frames; the first frame that is shorter, be it empty, is the last.
//! Source: MySQL manual, "MySQL Packets".

use bytes::{Buf, Bytes, BytesMut};

/// Bytes in front of each frame's payload.
pub const HEADER_LEN: usize = 4;
/// The longest payload of one frame.
pub const PAYLOAD_MAX: usize = 0xff_ffff;

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Length of this frame's payload.
    pub len: usize,
    /// Its number; counts from 0 with each command.
    pub sequence: u8,
}

impl Header {
    /// The header at the front of `bytes`; none if they are too few.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, sequence] = *bytes.first_chunk()?;
        Some(Self { len: u32::from_le_bytes([a, b, c, 0]) as usize, sequence })
    }

    /// Whether the packet goes on in another frame.
    pub fn continues(self) -> bool {
        self.len == PAYLOAD_MAX
    }

    /// The header's bytes.
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let [a, b, c, ..] = self.len.to_le_bytes();
        [a, b, c, self.sequence]
    }
}

/// A packet is longer than its reader takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

/// Makes whole packets of bytes that come in any pieces.
#[derive(Debug)]
pub struct Packets {
    unread: BytesMut,
    /// The frames so far of a packet of several.
    long: Vec<u8>,
    bytes_max: usize,
}

impl Packets {
    /// A reader of packets of up to `bytes_max` bytes each.
    pub fn new(bytes_max: usize) -> Self {
        Self { unread: BytesMut::new(), long: Vec::new(), bytes_max }
    }

    /// Takes more bytes; they may end in the middle of a packet.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
    }

    /// The payload of the next whole packet; `None` when it takes more bytes.
    ///
    /// # Errors
    /// The packet is longer than this reader takes.
    pub fn next_payload(&mut self) -> Result<Option<Bytes>, TooLong> {
        while let Some(header) = Header::decode(&self.unread) {
            if self.long.len() + header.len > self.bytes_max {
                return Err(TooLong);
            }
            if self.unread.len() < HEADER_LEN + header.len {
                return Ok(None);
            }
            self.unread.advance(HEADER_LEN);
            let payload = self.unread.split_to(header.len).freeze();
            if !header.continues() && self.long.is_empty() {
                return Ok(Some(payload));
            }
            self.long.extend_from_slice(&payload);
            if !header.continues() {
                return Ok(Some(std::mem::take(&mut self.long).into()));
            }
        }
        Ok(None)
    }
}

/// Appends a packet with this payload in as many frames as it needs, and returns the number after its last frame's.
pub fn put_packet(out: &mut Vec<u8>, sequence: u8, payload: &[u8]) -> u8 {
    let mut next = sequence;
    // An empty payload, and one that fills its frames exactly, end in an empty frame.
    let needs_empty_frame = payload.len().is_multiple_of(PAYLOAD_MAX);
    for chunk in payload.chunks(PAYLOAD_MAX) {
        out.extend_from_slice(&Header { len: chunk.len(), sequence: next }.encode());
        out.extend_from_slice(chunk);
        next = next.wrapping_add(1);
    }
    if needs_empty_frame {
        out.extend_from_slice(&Header { len: 0, sequence: next }.encode());
        next = next.wrapping_add(1);
    }
    next
}

/// Appends one packet whose payload `encode` writes. The payload must be shorter than [`PAYLOAD_MAX`].
pub fn put_short_packet(out: &mut Vec<u8>, sequence: u8, encode: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_LEN]);
    encode(out);
    let len = out.len() - start - HEADER_LEN;
    debug_assert!(len < PAYLOAD_MAX, "a packet of our own is never that long");
    out[start..start + HEADER_LEN].copy_from_slice(&Header { len, sequence }.encode());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_round_trip() {
        let header = Header { len: 0x01_0203, sequence: 9 };
        assert_eq!(header.encode(), [3, 2, 1, 9]);
        assert_eq!(Header::decode(&[3, 2, 1, 9]), Some(header));
        assert_eq!(Header::decode(&[3, 2, 1]), None);
    }

    #[test]
    fn a_payload_that_fills_its_frames_ends_in_an_empty_one() {
        for (len, frames) in [(0, 1), (1, 1), (PAYLOAD_MAX - 1, 1), (PAYLOAD_MAX, 2), (PAYLOAD_MAX + 1, 2)] {
            let mut out = Vec::new();
            let next = put_packet(&mut out, 255, &vec![7; len]);
            assert_eq!(next, 255u8.wrapping_add(frames as u8), "{len}");
            assert_eq!(out.len(), len + frames * HEADER_LEN, "{len}");
        }
    }
}

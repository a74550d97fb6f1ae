//! Compressed packets: pieces of the byte stream, each under zlib or, when short, as it is.
//!
//! They have numbers of their own, which count from 0 with each command as those of packets do. A packet may lie in
//! several pieces, and a piece may hold several packets. Source: MySQL manual, "Compression".

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{Malformed, frame::PAYLOAD_MAX};

/// Bytes in front of each piece.
pub const HEADER_LEN: usize = 7;
/// No zlib stream becomes longer than this many times its length, so that a longer one need not be made room for.
const RATIO_MAX: usize = 1032;
/// A shorter piece is sent as it is, as the servers do.
const COMPRESS_MIN: usize = 50;

/// A piece's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Length of the piece as it is sent, without this header.
    pub len: usize,
    /// Its number.
    pub sequence: u8,
    /// Its length when uncompressed; 0 when it is sent as it is.
    pub uncompressed_len: usize,
}

impl Header {
    /// The header at the front of `bytes`; none if they are too few.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, sequence, d, e, f] = *bytes.first_chunk()?;
        Some(Self {
            len: u32::from_le_bytes([a, b, c, 0]) as usize,
            sequence,
            uncompressed_len: u32::from_le_bytes([d, e, f, 0]) as usize,
        })
    }

    /// The header's bytes.
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let [a, b, c, ..] = self.len.to_le_bytes();
        let [d, e, f, ..] = self.uncompressed_len.to_le_bytes();
        [a, b, c, self.sequence, d, e, f]
    }
}

/// Appends the bytes in as many pieces as they need, and returns the number after the last one's.
pub fn encode(out: &mut Vec<u8>, sequence: u8, bytes: &[u8]) -> u8 {
    let mut next = sequence;
    for piece in bytes.chunks(PAYLOAD_MAX) {
        let start = out.len();
        out.resize(start + HEADER_LEN, 0);
        let uncompressed_len = if deflate(out, piece) { piece.len() } else { 0 };
        if uncompressed_len == 0 {
            out.truncate(start + HEADER_LEN);
            out.extend_from_slice(piece);
        }
        let header = Header { len: out.len() - start - HEADER_LEN, sequence: next, uncompressed_len };
        out[start..start + HEADER_LEN].copy_from_slice(&header.encode());
        next = next.wrapping_add(1);
    }
    next
}

/// Appends the piece under zlib, unless it would not become shorter.
fn deflate(out: &mut Vec<u8>, piece: &[u8]) -> bool {
    if piece.len() < COMPRESS_MIN {
        return false;
    }
    let limit = piece.len() - 1;
    let start = out.len();
    out.resize(start + limit, 0);
    // The fastest level: a node compresses for a slow network, and not to save each byte.
    let mut state = Compress::new(Compression::fast(), true);
    let done = matches!(state.compress(piece, &mut out[start..], FlushCompress::Finish), Ok(Status::StreamEnd));
    out.truncate(start + state.total_out() as usize);
    done
}

/// Appends what a piece holds.
///
/// # Errors
/// It is no zlib stream, or one of another length than its header says.
pub fn decode(out: &mut Vec<u8>, header: Header, piece: &[u8]) -> Result<(), Malformed> {
    if header.uncompressed_len == 0 {
        out.extend_from_slice(piece);
        return Ok(());
    }
    if header.uncompressed_len / RATIO_MAX > piece.len() {
        return Err(Malformed("compressed packet"));
    }
    let start = out.len();
    out.resize(start + header.uncompressed_len, 0);
    let mut state = Decompress::new(true);
    let ended = matches!(state.decompress(piece, &mut out[start..], FlushDecompress::Finish), Ok(Status::StreamEnd));
    match ended && state.total_out() as usize == header.uncompressed_len {
        true => Ok(()),
        false => Err(Malformed("compressed packet")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mut bytes: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Malformed> {
        let (mut out, mut numbers) = (Vec::new(), Vec::new());
        while let Some(header) = Header::decode(bytes) {
            let piece = bytes.get(HEADER_LEN..HEADER_LEN + header.len).ok_or(Malformed("cut"))?;
            decode(&mut out, header, piece)?;
            numbers.push(header.sequence);
            bytes = &bytes[HEADER_LEN + header.len..];
        }
        Ok((out, numbers))
    }

    #[test]
    fn every_length_round_trips_and_long_ones_in_several_pieces() {
        let noise: Vec<u8> = (0..200u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for (bytes, pieces) in [
            (&b""[..], 0),
            (b"short", 1),
            (&noise, 1),
            (&[7; 49], 1),
            (&[7; 50], 1),
            (&vec![7; PAYLOAD_MAX], 1),
            (&vec![7; PAYLOAD_MAX + 1], 2),
        ] {
            let mut out = Vec::new();
            assert_eq!(encode(&mut out, 255, bytes), 255u8.wrapping_add(pieces));
            let (read, numbers) = read(&out).expect("its own encoding");
            assert!(read == bytes, "{} bytes", bytes.len());
            assert_eq!(numbers, [255, 0][..usize::from(pieces)]);
        }
    }

    #[test]
    fn a_length_that_is_not_true_is_refused() {
        let mut out = Vec::new();
        encode(&mut out, 0, &[7; 100]);
        let header = Header::decode(&out).expect("a whole header");
        for uncompressed_len in [1, 99, 101, PAYLOAD_MAX] {
            let header = Header { uncompressed_len, ..header };
            assert!(decode(&mut Vec::new(), header, &out[HEADER_LEN..]).is_err(), "{uncompressed_len}");
        }
        for len in HEADER_LEN..out.len() {
            assert!(decode(&mut Vec::new(), header, &out[HEADER_LEN..len]).is_err(), "cut to {len}");
        }
        assert!(decode(&mut Vec::new(), header, b"no zlib at all").is_err());
    }
}

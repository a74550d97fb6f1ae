//! Compressed packets: pieces of the byte stream, each under zlib or, when short, as it is.
//!
//! They have numbers of their own, which count from 0 with each command as those of packets do. A packet may lie in
//! several pieces, and a piece may hold several packets. Source: MySQL manual, "Compression".
//!
//! Not every client can read a packet that is cut anywhere: mysql-connector-python takes one from at most two pieces, and
//! its header from one (`NetworkBrokerCompressed._recv_compressed_pkt`). A server cuts by its buffer, which holds a
//! packet's beginning, and sends the rest as one piece. So [`Packer`] cuts between packets, and within a packet only
//! where it is too long for one piece.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{
    Malformed,
    frame::{self, PAYLOAD_MAX},
};

/// Bytes in front of each piece.
pub const HEADER_LEN: usize = 7;
/// No zlib stream becomes longer than this many times its length, so that a longer one need not be made room for.
const RATIO_MAX: usize = 1032;
/// A shorter piece is sent as it is, as the servers do.
const COMPRESS_MIN: usize = 50;
/// Bytes that wait for the end of their packet, at most; those of a longer one are compressed as they come.
const WAITING_MAX: usize = 64 * 1024;
/// The longest piece of a packet that is compressed as it comes. Its length under zlib must fit its header even where
/// zlib makes it longer, by at most a thousandth.
const LONG_PIECE_MAX: usize = PAYLOAD_MAX / 16 * 15;
/// Room made for zlib at a time.
const ROOM: usize = 16 * 1024;

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

/// Makes pieces of packets that come in any parts.
///
/// - A piece begins with a packet's header, but for the rest of one that is longer than 15 MB.
/// - What is held back is the packet under way: up to 64 kB as they are, and of a longer one what zlib makes of it. That
///   is 16 MB at most, and nothing between packets.
#[derive(Debug, Default)]
pub struct Packer {
    /// The number of the next piece.
    next: u8,
    /// The header of the packet under way, as far as it has come, and then how much of the packet is still to come.
    header: Vec<u8>,
    missing: usize,
    /// Whole packets and the beginning of another.
    waiting: Vec<u8>,
    /// How much of it are whole packets.
    whole: usize,
    /// The piece of a long packet.
    long: Option<Box<LongPiece>>,
}

impl Packer {
    /// The next piece answers a command whose last one had the number before.
    pub fn restart(&mut self, next: u8) {
        self.next = next;
    }

    /// Takes more bytes of packets, and appends the pieces that have become long enough.
    pub fn put(&mut self, out: &mut Vec<u8>, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (part, ends) = self.rest_of_packet(bytes);
            bytes = &bytes[part.len()..];
            if self.long.is_some() {
                self.put_long(out, part, ends);
                continue;
            }
            self.waiting.extend_from_slice(part);
            if ends {
                self.whole = self.waiting.len();
            }
            if self.waiting.len() >= WAITING_MAX {
                self.put_whole(out);
            }
            if self.waiting.len() >= WAITING_MAX {
                let begun = std::mem::take(&mut self.waiting);
                self.put_long(out, &begun, false);
            }
        }
    }

    /// Appends what there is of whole packets.
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        self.put_whole(out);
        if self.waiting.is_empty() {
            // An idle session holds no buffer.
            self.waiting = Vec::new();
        }
    }

    /// The front of `bytes` up to the end of the packet under way, and whether it ends there.
    fn rest_of_packet<'a>(&mut self, bytes: &'a [u8]) -> (&'a [u8], bool) {
        let mut at = 0;
        if self.missing == 0 {
            at = (frame::HEADER_LEN - self.header.len()).min(bytes.len());
            self.header.extend_from_slice(&bytes[..at]);
            let Some(header) = frame::Header::decode(&self.header) else { return (bytes, false) };
            self.header.clear();
            self.missing = header.len;
        }
        let here = self.missing.min(bytes.len() - at);
        self.missing -= here;
        (&bytes[..at + here], self.missing == 0)
    }

    fn put_whole(&mut self, out: &mut Vec<u8>) {
        if self.whole > 0 {
            self.next = encode(out, self.next, &self.waiting[..self.whole]);
            self.waiting.drain(..self.whole);
            self.whole = 0;
        }
    }

    fn put_long(&mut self, out: &mut Vec<u8>, mut part: &[u8], ends: bool) {
        while !part.is_empty() {
            let long = self.long.get_or_insert_default();
            let n = part.len().min(LONG_PIECE_MAX - long.len);
            long.push(&part[..n]);
            part = &part[n..];
            if long.len == LONG_PIECE_MAX || ends && part.is_empty() {
                let (piece, uncompressed_len) = (long.end(), long.len);
                put_piece(out, self.next, uncompressed_len, &piece);
                self.next = self.next.wrapping_add(1);
                self.long = None;
            }
        }
        if !ends && self.long.is_none() {
            // The rest of the packet is another piece's, which begins with it.
            self.long = Some(Box::default());
        }
    }
}

fn put_piece(out: &mut Vec<u8>, sequence: u8, uncompressed_len: usize, piece: &[u8]) {
    out.extend_from_slice(&Header { len: piece.len(), sequence, uncompressed_len }.encode());
    out.extend_from_slice(piece);
}

/// A piece that is compressed as it comes.
#[derive(Debug)]
struct LongPiece {
    state: Compress,
    packed: Vec<u8>,
    /// How many bytes it has taken.
    len: usize,
}

impl Default for LongPiece {
    fn default() -> Self {
        Self { state: Compress::new(Compression::fast(), true), packed: Vec::new(), len: 0 }
    }
}

impl LongPiece {
    fn push(&mut self, bytes: &[u8]) {
        self.len += bytes.len();
        while self.state.total_in() < self.len as u64 {
            let taken = bytes.len() - (self.len as u64 - self.state.total_in()) as usize;
            self.run(&bytes[taken..], FlushCompress::None);
        }
    }

    /// The whole of it under zlib.
    fn end(&mut self) -> Vec<u8> {
        while self.run(&[], FlushCompress::Finish) != Status::StreamEnd {}
        std::mem::take(&mut self.packed)
    }

    fn run(&mut self, bytes: &[u8], flush: FlushCompress) -> Status {
        self.packed.reserve(ROOM);
        self.state.compress_vec(bytes, &mut self.packed, flush).expect("zlib takes any bytes where it has room")
    }
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

    /// A frame of noise, which zlib can't make shorter, or of one byte again and again.
    fn packet(len: usize, noise: bool) -> Vec<u8> {
        let mut bytes = frame::Header { len, sequence: 3 }.encode().to_vec();
        let mut seed = len as u32;
        bytes.resize_with(frame::HEADER_LEN + len, || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if noise { (seed >> 24) as u8 } else { 7 }
        });
        bytes
    }

    /// The pieces that a packer makes of packets which come in parts of this length, flushed after each part or at the
    /// end: their uncompressed contents.
    fn pieces(packets: &[Vec<u8>], part: usize, eager: bool) -> Vec<Vec<u8>> {
        let (mut packer, mut out) = (Packer::default(), Vec::new());
        packer.restart(254);
        for bytes in packets.concat().chunks(part) {
            packer.put(&mut out, bytes);
            if eager {
                packer.flush(&mut out);
            }
        }
        packer.flush(&mut out);
        assert_eq!((packer.waiting.capacity(), packer.long.is_none()), (0, true), "nothing is held back");
        let (mut rest, mut pieces) = (&out[..], Vec::new());
        while let Some(header) = Header::decode(rest) {
            assert_eq!(header.sequence, 254u8.wrapping_add(pieces.len() as u8));
            let mut piece = Vec::new();
            decode(&mut piece, header, &rest[HEADER_LEN..HEADER_LEN + header.len]).expect("a true length");
            pieces.push(piece);
            rest = &rest[HEADER_LEN + header.len..];
        }
        assert!(rest.is_empty());
        assert!(pieces.concat() == packets.concat(), "every byte, in order");
        pieces
    }

    #[test]
    fn a_packet_lies_in_one_piece_however_its_bytes_come() {
        for noise in [false, true] {
            let lengths = [0, 1, 300, 70_000, 5, WAITING_MAX - 4, WAITING_MAX - 5, WAITING_MAX, 1_000_000, 0];
            let packets = lengths.map(|len| packet(len, noise));
            for (part, eager) in [(1_399, true), (1_399, false), (64 * 1024, true), (10_000_000, false)] {
                for piece in pieces(&packets, part, eager) {
                    let mut rest = &piece[..];
                    while let Some(header) = frame::Header::decode(rest) {
                        rest = rest.get(frame::HEADER_LEN + header.len..).expect("whole packets");
                    }
                    assert!(rest.is_empty());
                }
            }
        }
        assert_eq!(pieces(&[packet(1, false), packet(2, false)], 1, false).len(), 1, "short ones share a piece");
    }

    #[test]
    fn the_longest_packet_lies_in_two_pieces_and_the_next_begins_another() {
        for noise in [false, true] {
            let packets = [packet(10, noise), packet(PAYLOAD_MAX, noise), packet(100_000, noise), packet(0, noise)];
            let lengths: Vec<_> = pieces(&packets, 64 * 1024, true).iter().map(Vec::len).collect();
            let second = PAYLOAD_MAX + frame::HEADER_LEN - LONG_PIECE_MAX;
            assert_eq!(lengths, [14, LONG_PIECE_MAX, second, 100_004, 4]);
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

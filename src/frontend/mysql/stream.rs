//! A client's bytes: the transport, and above it, where client and node have agreed on it, compression.

use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    task::Poll,
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    transport::Transport,
    wire::compressed::{self, HEADER_LEN, Header, Packer},
};

/// Room made before a read; doubled while reads fill it, up to [`ROOM_MAX`]. Most packets of clients are small.
const ROOM_MIN: usize = 4 * 1024;
/// For long packets and files.
const ROOM_MAX: usize = 64 * 1024;

/// A client's byte stream.
#[derive(Debug)]
pub(super) struct ClientStream {
    transport: Transport,
    compression: Option<Box<Compression>>,
    room: usize,
    write_timeout: Duration,
}

/// What compression keeps between two reads, and between two writes.
#[derive(Debug, Default)]
struct Compression {
    /// Read and not yet decompressed.
    raw: BytesMut,
    /// Taken and not yet compressed.
    packer: Packer,
}

impl ClientStream {
    /// A stream in clear. Writes fail when the client has taken nothing for so long.
    pub(super) fn new(transport: Transport, write_timeout: Duration) -> Self {
        Self { transport, compression: None, room: ROOM_MIN, write_timeout }
    }

    /// From now on both directions are compressed.
    pub(super) fn compress(&mut self) {
        self.compression = Some(Box::default());
    }

    /// Whether both directions are compressed.
    pub(super) fn is_compressed(&self) -> bool {
        self.compression.is_some()
    }

    /// The transport underneath.
    pub(super) fn transport(&self) -> &Transport {
        &self.transport
    }

    /// The transport underneath, to put it under TLS.
    pub(super) fn transport_mut(&mut self) -> &mut Transport {
        &mut self.transport
    }

    /// Waits until there is something to read, be it the end.
    ///
    /// # Cancel safety
    /// A dropped future loses nothing.
    pub(super) async fn readable(&self) -> io::Result<()> {
        match &self.compression {
            Some(compression) if !compression.raw.is_empty() => Ok(()),
            _ => self.transport.readable().await,
        }
    }

    /// Reads once, behind what `out` holds, and returns how many bytes came: 0 at the end.
    ///
    /// # Cancel safety
    /// A dropped future loses nothing.
    pub(super) async fn read(&mut self, out: &mut BytesMut) -> io::Result<usize> {
        let Some(compression) = &mut self.compression else {
            return read_once(&mut self.transport, &mut self.room, out).await;
        };
        // One piece at a time: the reply to a command goes on counting where that command's own pieces ended, though
        // the next command may be here already.
        loop {
            if let Some(header) = Header::decode(&compression.raw)
                && compression.raw.len() >= HEADER_LEN + header.len
            {
                compression.raw.advance(HEADER_LEN);
                let piece = compression.raw.split_to(header.len);
                let mut bytes = Vec::new();
                compressed::decode(&mut bytes, header, &piece)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                if compression.raw.is_empty() {
                    // An idle session holds no buffer, least of all that of its longest packet.
                    compression.raw = BytesMut::new();
                }
                compression.packer.restart(header.sequence.wrapping_add(1));
                out.extend_from_slice(&bytes);
                // A piece may be empty.
                if !bytes.is_empty() {
                    return Ok(bytes.len());
                }
            } else if read_once(&mut self.transport, &mut self.room, &mut compression.raw).await? == 0 {
                return match compression.raw.is_empty() {
                    true => Ok(0),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        }
    }

    /// Writes all of these two pieces, one after the other, under compression at the latest when they are
    /// [flushed](Self::flush).
    ///
    /// # Errors
    /// The connection broke, or the client has taken nothing for as long as it may.
    pub(super) async fn write_all(&mut self, pieces: [&[u8]; 2]) -> io::Result<()> {
        let Some(compression) = &mut self.compression else { return self.write_raw(pieces).await };
        let mut packed = Vec::new();
        pieces.iter().for_each(|piece| compression.packer.put(&mut packed, piece));
        self.write_raw([&packed, &[]]).await
    }

    /// Writes what waits for compression, up to the end of its last whole packet, and has TLS write the records that the
    /// socket had no room for. Nothing to do in clear.
    ///
    /// # Errors
    /// As of [`write_all`](Self::write_all).
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        if let Some(compression) = &mut self.compression {
            let mut packed = Vec::new();
            compression.packer.flush(&mut packed);
            self.write_raw([&packed, &[]]).await?;
        }
        in_time(self.write_timeout, self.transport.flush()).await
    }

    async fn write_raw(&mut self, mut left: [&[u8]; 2]) -> io::Result<()> {
        while left.iter().any(|piece| !piece.is_empty()) {
            in_time(self.write_timeout, self.transport.write_of(&mut left)).await?;
        }
        Ok(())
    }
}

async fn read_once(transport: &mut Transport, room: &mut usize, out: &mut BytesMut) -> io::Result<usize> {
    out.reserve(*room);
    let n = transport.read_buf(out).await?;
    *room = if n >= *room { (*room * 2).min(ROOM_MAX) } else { ROOM_MIN };
    Ok(n)
}

/// Bounds a write. Only one that can't be done at once costs a timer.
async fn in_time<T>(timeout: Duration, write: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let mut write = pin!(write);
    match poll_fn(|cx| Poll::Ready(write.as_mut().poll(cx))).await {
        Poll::Ready(done) => done,
        Poll::Pending => tokio::time::timeout(timeout, write)
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the client reads nothing of its reply"))?,
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn nothing_is_kept_of_a_compressed_packet() {
        let (mut client, node) = UnixStream::pair().expect("a pair of sockets");
        let mut stream = ClientStream::new(node.into(), Duration::from_secs(10));
        stream.compress();
        // Bytes that zlib makes nothing shorter of.
        let packet: Vec<u8> =
            (0..200_000u64).flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
        let mut pieces = Vec::new();
        compressed::encode(&mut pieces, 0, &packet);
        let writing = tokio::spawn(async move { client.write_all(&pieces).await.map(|()| client) });
        let mut out = BytesMut::new();
        while out.len() < packet.len() {
            stream.read(&mut out).await.expect("a piece");
        }
        assert_eq!(out, packet);
        assert_eq!(stream.compression.as_ref().map(|compression| compression.raw.capacity()), Some(0));
        writing.await.expect("no panic").expect("all is written");
    }
}

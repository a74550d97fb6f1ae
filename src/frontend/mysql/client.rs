//! A client's connection: its packets in, replies out.

use std::{io, net::SocketAddr, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use towline_middleware::{Error, Final, Part, ServerError};

use super::stream::ClientStream;
use crate::{
    tls::{Acceptor, HandshakeError},
    transport::{Protection, Transport},
    wire::{
        capability, err,
        frame::{HEADER_LEN, Header, put_packet, put_short_packet},
        ok,
        proxy_header::{self, ProxyHeader},
    },
};

/// A piece from this size on is written from where it lies, together with what waits before it.
const COPY_MAX: usize = 16 * 1024;
/// The longest packet of a login: 64 kB of attributes and as much of a ticket or a password.
const LOGIN_PACKET_BYTES_MAX: usize = 128 * 1024;

/// A client's connection.
#[derive(Debug)]
pub(super) struct Client {
    stream: ClientStream,
    read: BytesMut,
    write: Vec<u8>,
    capabilities: u32,
    /// None before the login is done.
    packet_bytes_max: Option<usize>,
    /// A packet of several frames, as far as it has come, and how many of them.
    long: BytesMut,
    frames: u8,
    /// The number of the next packet of the login, in either direction.
    next: u8,
}

impl Client {
    /// `write_timeout` bounds how long the client may take nothing of what is written to it.
    pub(super) fn new(transport: Transport, write_timeout: Duration) -> Self {
        let stream = ClientStream::new(transport, write_timeout);
        Self {
            stream,
            read: BytesMut::new(),
            write: Vec::new(),
            capabilities: 0,
            packet_bytes_max: None,
            long: BytesMut::new(),
            frames: 0,
            next: 0,
        }
    }

    /// The address of the other end of its connection; none over a Unix socket.
    pub(super) fn peer_addr(&self) -> Option<SocketAddr> {
        self.stream.transport().peer_addr()
    }

    /// What keeps others from listening in on the way to the client.
    pub(super) fn protection(&self) -> Protection {
        self.stream.transport().protection()
    }

    /// Puts the stream under TLS, as the client has just asked.
    ///
    /// # Errors
    /// It did not come to that; the stream is closed.
    pub(super) async fn start_tls(&mut self, acceptor: &Acceptor) -> Result<(), HandshakeError> {
        // What the client has sent ahead belongs to the handshake, whatever it looks like.
        let early = std::mem::take(&mut self.read);
        acceptor.accept(self.stream.transport_mut(), &early).await
    }

    /// Reads the header by which a trusted proxy says whose connection this is.
    ///
    /// # Errors
    /// The connection broke, or no such header came.
    pub(super) async fn read_proxy_header(&mut self) -> Result<ProxyHeader, Error> {
        let refused = |_| Error::Protocol { peer: "client", what: "no PROXY header from a trusted proxy" };
        loop {
            if let Some(header) = proxy_header::decode(&self.read).map_err(refused)? {
                self.read.advance(header.len);
                return Ok(header);
            }
            if self.stream.read(&mut self.read).await.map_err(Error::Client)? == 0 {
                return Err(Error::Client(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Reads the next packet of the login; see [`Client::read_packet`].
    pub(super) async fn read_next_packet(&mut self) -> Result<Option<Bytes>, Error> {
        let packet = self.read_packet(self.next).await?;
        self.next = self.next.wrapping_add(1);
        Ok(packet)
    }

    /// Puts the next packet of the login behind what waits to be written.
    pub(super) fn put_next_packet(&mut self, payload: &[u8]) {
        self.next = put_packet(&mut self.write, self.next, payload);
    }

    /// Puts an error as the next packet of the login.
    pub(super) fn put_next_error(&mut self, error: &ServerError) {
        self.put_error(self.next, error);
    }

    /// The number of the next packet of the login.
    pub(super) fn next_number(&self) -> u8 {
        self.next
    }

    /// Records what the client can do: finals take its form.
    pub(super) fn set_capabilities(&mut self, capabilities: u32) {
        self.capabilities = capabilities;
    }

    /// The login is done: from now on packets may be so long, and both directions are compressed, if that was agreed on.
    pub(super) fn begin_commands(&mut self, packet_bytes_max: usize) {
        self.packet_bytes_max = Some(packet_bytes_max);
        if self.capabilities & capability::COMPRESS != 0 {
            self.stream.compress();
        }
    }

    /// Reads one packet, in as many frames as it has, whose first frame bears the number `expected`. `None` when the
    /// client has left between packets.
    ///
    /// # Errors
    /// The connection broke, the packet is too large or its numbers are wrong; [`Error::to_client`] tells the client.
    ///
    /// # Cancel safety
    /// A dropped future loses nothing.
    pub(super) async fn read_packet(&mut self, expected: u8) -> Result<Option<Bytes>, Error> {
        loop {
            let number = expected.wrapping_add(self.frames);
            let Some((payload, continues)) = self.read_frame(number).await? else { return Ok(None) };
            if self.frames == 0 && !continues {
                return Ok(Some(payload));
            }
            self.long.extend_from_slice(&payload);
            self.frames = self.frames.wrapping_add(1);
            if !continues {
                self.frames = 0;
                return Ok(Some(std::mem::take(&mut self.long).freeze()));
            }
        }
    }

    async fn read_frame(&mut self, expected: u8) -> Result<Option<(Bytes, bool)>, Error> {
        loop {
            if let Some(header) = Header::decode(&self.read) {
                // Under compression the pieces are what counts: within them clients number as they like.
                if header.sequence != expected && !self.stream.is_compressed() {
                    return Err(Error::Protocol { peer: "client", what: "packets out of order" });
                }
                match self.packet_bytes_max {
                    Some(limit_bytes) if self.long.len() + header.len > limit_bytes => {
                        return Err(Error::PacketTooLarge { limit_bytes });
                    }
                    // Nobody knows yet who this is: it must not fill the node's memory.
                    None if header.len > LOGIN_PACKET_BYTES_MAX => {
                        return Err(Error::Protocol { peer: "client", what: "a packet that is too long for a login" });
                    }
                    _ => {}
                }
                if self.read.len() >= HEADER_LEN + header.len {
                    self.read.advance(HEADER_LEN);
                    return Ok(Some((self.read.split_to(header.len).freeze(), header.continues())));
                }
            }
            if self.read.is_empty() {
                // An idle session holds no buffer.
                self.read = BytesMut::new();
                self.stream.readable().await.map_err(Error::Client)?;
            }
            if self.stream.read(&mut self.read).await.map_err(Error::Client)? == 0 {
                return match self.read.is_empty() && self.long.is_empty() {
                    true => Ok(None),
                    false => Err(Error::Client(io::ErrorKind::UnexpectedEof.into())),
                };
            }
        }
    }

    /// Waits until the client has left, in the middle of whatever.
    ///
    /// # Cancel safety
    /// A dropped future loses nothing.
    pub(super) async fn left(&self) -> Error {
        self.stream.transport().left().await;
        Error::Client(io::ErrorKind::ConnectionAborted.into())
    }

    /// Puts a part of a reply behind what waits to be written.
    ///
    /// # Errors
    /// The connection broke, if a large part had to be written at once.
    pub(super) async fn put(&mut self, part: Part) -> Result<(), Error> {
        match part {
            Part::Packets(bytes) | Part::Turn(bytes) if bytes.len() < COPY_MAX => self.write.extend_from_slice(&bytes),
            Part::Packets(bytes) | Part::Turn(bytes) => {
                self.stream.write_all([&self.write, &bytes]).await.map_err(Error::Client)?;
                self.written();
            }
            Part::Final { end: Final::Ok(completion), sequence } => {
                put_short_packet(&mut self.write, sequence, |out| ok::encode(out, &completion, self.capabilities));
            }
            Part::Final { end: Final::Err(error), sequence } => self.put_error(sequence, &error),
        }
        Ok(())
    }

    /// Puts an error behind what waits to be written.
    pub(super) fn put_error(&mut self, sequence: u8, error: &ServerError) {
        put_short_packet(&mut self.write, sequence, |out| err::encode(out, error));
    }

    /// Puts the error of a connection that has not come to its login, in the form that clients read there.
    pub(super) fn put_early_error(&mut self, error: &ServerError) {
        put_short_packet(&mut self.write, 0, |out| err::encode_early(out, error));
    }

    /// Puts a packet behind what waits to be written.
    pub(super) fn put_packet(&mut self, sequence: u8, payload: &[u8]) {
        put_packet(&mut self.write, sequence, payload);
    }

    /// Writes what waits.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) async fn flush(&mut self) -> Result<(), Error> {
        if !self.write.is_empty() {
            self.stream.write_all([&self.write, &[]]).await.map_err(Error::Client)?;
            self.written();
        }
        // Nothing to do in clear; TLS may hold records that the socket had no room for.
        self.stream.flush().await.map_err(Error::Client)
    }

    fn written(&mut self) {
        self.write.clear();
        // A burst of errors or small rows must not stay in memory for the session's life.
        self.write.shrink_to(COPY_MAX);
    }
}

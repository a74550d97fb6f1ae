//! The byte stream of a connection to a client or to MySQL: TCP or a Unix socket, in clear or under TLS.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, Interest, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::TlsStream;

use crate::wire::proxy_header::Ends;

/// A byte stream in clear.
#[derive(Debug)]
pub enum Socket {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

/// A byte stream, in clear or under TLS.
#[derive(Debug)]
pub enum Transport {
    /// In clear.
    Plain(Socket),
    /// Under TLS.
    Tls(Box<TlsStream<Socket>>),
    /// What a TLS handshake that failed or was given up leaves behind.
    Closed,
}

/// What keeps others from listening in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Nothing.
    Clear,
    /// The stream does not leave this machine.
    Socket,
    /// TLS.
    Tls,
}

impl Transport {
    /// The address of the other end; none over a Unix socket.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.ends().map(|ends| ends.source)
    }

    /// The addresses of both ends; none over a Unix socket.
    pub fn ends(&self) -> Option<Ends> {
        match self.socket()? {
            Socket::Tcp(stream) => {
                Some(Ends { source: stream.peer_addr().ok()?, destination: stream.local_addr().ok()? })
            }
            Socket::Unix(_) => None,
        }
    }

    /// What keeps others from listening in.
    pub fn protection(&self) -> Protection {
        match self {
            Self::Tls(_) => Protection::Tls,
            Self::Plain(Socket::Unix(_)) => Protection::Socket,
            Self::Plain(Socket::Tcp(_)) | Self::Closed => Protection::Clear,
        }
    }

    /// The socket underneath; none when closed.
    pub fn socket(&self) -> Option<&Socket> {
        match self {
            Self::Plain(socket) => Some(socket),
            Self::Tls(stream) => Some(stream.get_ref().0),
            Self::Closed => None,
        }
    }

    /// Waits until there is something to read, be it the end. Under TLS it returns at once, since what can be read need
    /// not be in the socket any more.
    ///
    /// # Cancel safety
    /// A dropped future loses nothing.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Plain(Socket::Tcp(stream)) => stream.readable().await,
            Self::Plain(Socket::Unix(stream)) => stream.readable().await,
            Self::Tls(_) | Self::Closed => Ok(()),
        }
    }

    /// Waits until the peer has left, whatever it may have sent before.
    ///
    /// # Cancel safety
    /// A dropped future loses nothing.
    pub(crate) async fn left(&self) {
        // A peer that has left is ready for "priority" data, and one that has only sent something is not. The reactor's
        // error would be the runtime's end.
        let _ = match self.socket() {
            Some(Socket::Tcp(stream)) => stream.ready(Interest::PRIORITY).await,
            Some(Socket::Unix(stream)) => stream.ready(Interest::PRIORITY).await,
            None => return,
        };
    }

    /// Writes once from these two pieces, which stand for one after the other, and takes what was written off them. In
    /// clear both go out together as far as there is room.
    ///
    /// # Errors
    /// The connection broke.
    ///
    /// # Cancel safety
    /// A dropped future has written nothing.
    pub(crate) async fn write_of(&mut self, pieces: &mut [&[u8]; 2]) -> io::Result<()> {
        let [first, second] = pieces;
        let n = if first.is_empty() {
            self.write(second).await?
        } else if second.is_empty() || !self.is_write_vectored() {
            self.write(first).await?
        } else {
            self.write_vectored(&[IoSlice::new(first), IoSlice::new(second)]).await?
        };
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let of_first = n.min(first.len());
        *first = &first[of_first..];
        *second = &second[n - of_first..];
        Ok(())
    }

    /// Takes the socket out of a stream in clear, to put it back under TLS; none if it is not in clear.
    pub(crate) fn take_plain(&mut self) -> Option<Socket> {
        match std::mem::replace(self, Self::Closed) {
            Self::Plain(socket) => Some(socket),
            other => {
                *self = other;
                None
            }
        }
    }
}

/// Calls a method of the variant's stream.
macro_rules! each {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Socket::Tcp($stream) => $call,
            Socket::Unix($stream) => $call,
        }
    };
}

/// The same for a transport; `Closed` answers with an error.
macro_rules! each_transport {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Transport::Plain($stream) => $call,
            Transport::Tls($stream) => $call,
            Transport::Closed => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each_transport!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each_transport!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each_transport!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each_transport!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each_transport!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

impl From<TcpStream> for Transport {
    fn from(stream: TcpStream) -> Self {
        Self::Plain(Socket::Tcp(stream))
    }
}

impl From<UnixStream> for Transport {
    fn from(stream: UnixStream) -> Self {
        Self::Plain(Socket::Unix(stream))
    }
}

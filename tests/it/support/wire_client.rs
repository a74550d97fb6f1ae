//! A client that shows the bytes: what a driver would hide is what these tests compare.

use std::{collections::VecDeque, io, net::SocketAddr, path::PathBuf, time::Duration};

use mysql_common::scramble::scramble_native;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use towline::{
    transport::Transport,
    wire::{
        capability, compressed,
        frame::{HEADER_LEN, Header, put_packet},
        greeting::Greeting,
    },
};

/// No reply of these tests takes longer.
const DEADLINE: Duration = Duration::from_secs(20);

/// What any driver of today can do.
pub(crate) const MODERN: u32 = OLD | capability::SESSION_TRACK | capability::DEPRECATE_EOF;
/// What a driver without session tracking and DEPRECATE_EOF can do.
pub(crate) const OLD: u32 = capability::PROTOCOL_41
    | capability::SECURE_CONNECTION
    | capability::PLUGIN_AUTH
    | capability::MULTI_STATEMENTS
    | capability::MULTI_RESULTS
    | capability::PS_MULTI_RESULTS
    | capability::CONNECT_WITH_DB;

/// Where to connect.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Front(SocketAddr),
    Server(PathBuf),
}

/// One packet with its number.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) sequence: u8,
    pub(crate) payload: Vec<u8>,
}

impl std::fmt::Debug for Packet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = &self.payload[..self.payload.len().min(200)];
        write!(f, "{}:{}b{:?}", self.sequence, self.payload.len(), String::from_utf8_lossy(shown))
    }
}

impl Packet {
    /// The number of an ERR packet.
    pub(crate) fn error_code(&self) -> Option<u16> {
        match self.payload[..] {
            [0xff, low, high, ..] => Some(u16::from_le_bytes([low, high])),
            _ => None,
        }
    }
}

#[derive(Debug)]
pub(crate) struct WireClient {
    stream: Transport,
    /// The id in the greeting; 0 before the login.
    pub(crate) connection_id: u32,
    /// What has come of a compressed stream; none in clear.
    pieces: Option<Pieces>,
}

/// A compressed stream's bytes that have not been read, and the number that its next piece must have.
#[derive(Debug, Default)]
struct Pieces {
    bytes: VecDeque<u8>,
    next: u8,
}

impl WireClient {
    /// A byte stream without a login.
    pub(crate) async fn open(target: &Target) -> Self {
        let stream = match target {
            Target::Front(addr) => TcpStream::connect(addr).await.expect("the front takes connections").into(),
            Target::Server(socket) => UnixStream::connect(socket).await.expect("the server answers").into(),
        };
        Self { stream, connection_id: 0, pieces: None }
    }

    /// Logs in and returns the answer: an OK or an ERR. The upper half of the capabilities is MariaDB's own.
    pub(crate) async fn login(
        target: &Target,
        capabilities: impl Into<u64>,
        account: (&str, &str),
        db: &str,
    ) -> (Self, Packet) {
        Self::open(target).await.log_in(capabilities.into(), account, db).await
    }

    /// The same on a stream that is open.
    pub(crate) async fn log_in(
        mut self,
        capabilities: impl Into<u64>,
        account: (&str, &str),
        db: &str,
    ) -> (Self, Packet) {
        let capabilities = capabilities.into();
        let greeting = Greeting::decode(&self.read().await.expect("a greeting").payload).expect("a greeting");
        self.connection_id = greeting.connection_id;
        let proof = scramble_native(&greeting.salt, account.1.as_bytes()).map(Vec::from).unwrap_or_default();
        self.send_login(b"mysql_native_password", capabilities, account.0, &proof, db).await;
        let mut answer = self.read().await.expect("an answer to the login");
        if answer.payload[0] == 0xfe && account.1.is_empty() {
            // Whatever method the server proposes: no password is proved by nothing.
            self.send(answer.sequence + 1, b"").await;
            answer = self.read().await.expect("an answer to the login");
        }
        self.pieces = (capabilities & u64::from(capability::COMPRESS) != 0).then(Pieces::default);
        (self, answer)
    }

    /// Sends a login by a method that the server will not be content with.
    pub(crate) async fn send_login_by(&mut self, method: &[u8], capabilities: u32, user: &str) {
        self.send_login(method, capabilities.into(), user, b"no proof", "").await;
    }

    async fn send_login(&mut self, method: &[u8], capabilities: u64, user: &str, proof: &[u8], db: &str) {
        let capabilities = capabilities.to_le_bytes();
        let mut login = capabilities[..4].to_vec();
        login.extend_from_slice(&[0, 0, 0, 1, 45]);
        login.extend_from_slice(&[0; 19]);
        login.extend_from_slice(&capabilities[4..]);
        login.extend_from_slice(user.as_bytes());
        login.extend_from_slice(&[0, proof.len() as u8]);
        login.extend_from_slice(proof);
        login.extend_from_slice(db.as_bytes());
        login.push(0);
        login.extend_from_slice(method);
        login.push(0);
        self.send(1, &login).await;
    }

    /// Logs in where that must succeed.
    pub(crate) async fn connect(
        target: &Target,
        capabilities: impl Into<u64>,
        account: (&str, &str),
        db: &str,
    ) -> Self {
        let (client, answer) = Self::login(target, capabilities, account, db).await;
        assert_eq!(answer.payload[0], 0, "the login failed: {answer:?}");
        client
    }

    /// Its own port; none over a Unix socket.
    pub(crate) fn port(&self) -> Option<u16> {
        self.stream.ends().map(|ends| ends.destination.port())
    }

    /// Sends raw bytes.
    pub(crate) async fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the peer reads");
    }

    /// Sends a packet.
    pub(crate) async fn send(&mut self, sequence: u8, payload: &[u8]) {
        let mut bytes = Vec::new();
        put_packet(&mut bytes, sequence, payload);
        if self.pieces.is_some() {
            let plain = std::mem::take(&mut bytes);
            compressed::encode(&mut bytes, 0, &plain);
        }
        self.send_raw(&bytes).await;
    }

    /// Reads a packet, which may have several frames.
    pub(crate) async fn read(&mut self) -> io::Result<Packet> {
        let reading = async {
            let mut whole = Packet { sequence: 0, payload: Vec::new() };
            loop {
                let mut header = [0; HEADER_LEN];
                self.read_exact(&mut header).await?;
                let header = Header::decode(&header).expect("four bytes");
                let start = whole.payload.len();
                whole.payload.resize(start + header.len, 0);
                self.read_exact(&mut whole.payload[start..]).await?;
                whole.sequence = header.sequence;
                if !header.continues() {
                    return Ok(whole);
                }
            }
        };
        timeout(DEADLINE, reading).await.expect("a packet in time")
    }

    async fn read_exact(&mut self, out: &mut [u8]) -> io::Result<()> {
        let Some(pieces) = &mut self.pieces else { return self.stream.read_exact(out).await.map(drop) };
        while pieces.bytes.len() < out.len() {
            let mut header = [0; compressed::HEADER_LEN];
            self.stream.read_exact(&mut header).await?;
            let header = compressed::Header::decode(&header).expect("seven bytes");
            // With the reply to the next command it begins anew.
            assert!(header.sequence == pieces.next || header.sequence == 1, "{header:?} in place of {}", pieces.next);
            pieces.next = header.sequence.wrapping_add(1);
            let (mut piece, mut plain) = (vec![0; header.len], Vec::new());
            self.stream.read_exact(&mut piece).await?;
            compressed::decode(&mut plain, header, &piece).expect("a whole piece");
            pieces.bytes.extend(plain);
        }
        out.iter_mut().for_each(|byte| *byte = pieces.bytes.pop_front().expect("as many as are asked for"));
        Ok(())
    }

    /// Sends a command and returns its whole reply. A ping sent along marks its end: the first packet but one that is
    /// numbered 1, so a reply must be shorter than 250 packets.
    pub(crate) async fn command(&mut self, payload: &[u8]) -> Vec<Packet> {
        self.send(0, payload).await;
        self.read_reply().await
    }

    /// The whole reply to the command that was sent last.
    pub(crate) async fn read_reply(&mut self) -> Vec<Packet> {
        let mut packets = vec![self.read().await.expect("a reply")];
        packets.extend(self.read_rest().await);
        packets
    }

    /// What is left of a reply whose first packet has been read.
    pub(crate) async fn read_rest(&mut self) -> Vec<Packet> {
        self.send(0, &[0x0e]).await;
        let mut packets = Vec::new();
        loop {
            let packet = self.read().await.expect("the rest of a reply");
            if packet.sequence == 1 {
                assert_eq!(packet.payload[0], 0, "the ping that marks the end failed: {packet:?}");
                return packets;
            }
            packets.push(packet);
        }
    }

    /// A text command.
    pub(crate) async fn query(&mut self, sql: &str) -> Vec<Packet> {
        self.command(&[b"\x03", sql.as_bytes()].concat()).await
    }

    /// A text command that must not fail.
    pub(crate) async fn run(&mut self, sql: &str) {
        let reply = self.query(sql).await;
        assert!(reply.iter().all(|packet| packet.error_code().is_none()), "{sql}: {reply:?}");
    }
}

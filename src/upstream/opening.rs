//! A connection to MySQL from its greeting to the end of its login.

use std::time::Duration;

use bytes::Bytes;
use towline_middleware::{CommandKind, Error};

use super::{ConnectError, Endpoint, Fence, Upstream, connection::unreachable};
use crate::{
    tls::{Connector, HandshakeError},
    transport::Protection,
    wire::{
        Cursor, Malformed, capability, err,
        greeting::Greeting,
        login::{self, HEAD_LEN},
        ok,
        proxy_header::{self, Ends},
    },
};

/// How long a login that nobody waits for may take to come to its end.
const GIVE_UP_TIMEOUT: Duration = Duration::from_secs(2);
/// More exchanges than any login method has.
const TURNS_MAX: usize = 16;
/// Who a login is that its client has not finished. It shows in the server's log.
const NOBODY: &[u8] = b"unfinished login";
/// A password that nobody has, for a method that asks for one.
const WRONG_PASSWORD: &[u8] = b"unfinished\0";

/// A connection whose login is under way. Numbers the packets to and from the server by itself.
///
/// Servers count logins that break off, and refuse a host that has too many of them (`max_connect_errors`). All clients
/// come from the node's host, so whoever does not finish a login calls [`Opening::give_up`].
#[derive(Debug)]
pub struct Opening {
    upstream: Upstream,
    endpoint: Endpoint,
    /// The server's first packet.
    pub greeting: Greeting,
    /// The number of the next packet to the server.
    next: u8,
    /// The method that the server has switched to; empty before.
    method: Vec<u8>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The server waits for the login packet.
    Greeted,
    /// The server is to say something.
    Servers,
    /// The server waits for the first answer by the method that it has switched to.
    OursAtSwitch,
    /// The server waits for an answer to a step of the method.
    OursAtStep,
    /// The server has said OK or ERR, or the connection broke.
    Ended,
}

impl Opening {
    /// Connects and reads the greeting; `client` is told to a server that is to know it.
    ///
    /// # Errors
    /// See [`ConnectError`]; `timeout` bounds the whole.
    pub async fn connect(
        endpoint: &Endpoint,
        fence: Fence,
        client: Option<Ends>,
        timeout: Duration,
    ) -> Result<Self, ConnectError> {
        let connecting = async {
            let mut stream = endpoint.open().await.map_err(|source| unreachable(endpoint, source))?;
            if endpoint.tells_client() {
                let mut header = Vec::new();
                proxy_header::encode(&mut header, client);
                let sent = tokio::io::AsyncWriteExt::write_all(&mut stream, &header).await;
                sent.map_err(|source| unreachable(endpoint, source))?;
            }
            Upstream::greet(endpoint, stream, fence).await
        };
        let timed_out =
            |_| unreachable(endpoint, std::io::Error::new(std::io::ErrorKind::TimedOut, "no greeting in time"));
        let (upstream, greeting) = tokio::time::timeout(timeout, connecting).await.map_err(timed_out)??;
        let opening =
            Self { upstream, endpoint: endpoint.clone(), greeting, next: 1, method: Vec::new(), stage: Stage::Greeted };
        let needs_tls = endpoint.tls().is_some_and(Connector::is_needed);
        if needs_tls && opening.greeting.capabilities & capability::SSL == 0 {
            opening.give_up().await;
            return Err(ConnectError::NoTls { endpoint: endpoint.clone() });
        }
        Ok(opening)
    }

    /// Records what the client can do: replies take its form.
    pub fn set_client_capabilities(&mut self, capabilities: u32, mariadb: u32) {
        self.upstream.set_client_capabilities(capabilities, mariadb);
    }

    /// Sends the login packet, after a TLS handshake where the endpoint asks for one.
    ///
    /// # Errors
    /// The connection broke, or the server is not the one that it should be.
    pub async fn send_login(&mut self, mut packet: Vec<u8>) -> Result<(), Error> {
        self.stage = Stage::Ended;
        let offers_tls = self.greeting.capabilities & capability::SSL != 0;
        if let (Some(tls), Some(host), true) = (self.endpoint.tls(), self.endpoint.host(), offers_tls) {
            login::ask_for_tls(&mut packet);
            let head = packet.get(..HEAD_LEN).ok_or(malformed(Malformed("login")))?;
            self.upstream.write_packet(self.next, head).await?;
            self.next = self.next.wrapping_add(1);
            tls.connect(self.upstream.stream_in_clear()?, host).await.map_err(|error| match error {
                HandshakeError::Failed(source) => {
                    tracing::error!(error = &source as &dyn std::error::Error, host, "no TLS with MySQL");
                    Error::Upstream(source)
                }
                HandshakeError::NotInClear => malformed(Malformed("greeting")),
            })?;
        }
        self.upstream.write_packet(self.next, &packet).await?;
        self.stage = Stage::Servers;
        Ok(())
    }

    /// Reads the server's next packet.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn read(&mut self) -> Result<Bytes, Error> {
        let read = self.upstream.read_packet().await;
        let (sequence, payload) = read.inspect_err(|_| self.stage = Stage::Ended)?;
        self.next = sequence.wrapping_add(1);
        self.stage = stage_after(&payload);
        if let (Stage::OursAtSwitch, [_, name @ ..]) = (self.stage, &payload[..]) {
            self.method = Cursor::new(name).nul_terminated().unwrap_or_default().to_vec();
        }
        Ok(payload)
    }

    /// Answers a packet for which [`Opening::is_our_turn`] holds.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn answer(&mut self, payload: &[u8]) -> Result<(), Error> {
        self.stage = Stage::Ended;
        self.upstream.write_packet(self.next, payload).await?;
        self.stage = Stage::Servers;
        Ok(())
    }

    /// Whether the server waits for an answer to the packet that was read last.
    pub fn is_our_turn(&self) -> bool {
        matches!(self.stage, Stage::OursAtSwitch | Stage::OursAtStep)
    }

    /// What keeps others from listening in on the way to the server, once the login packet has been sent.
    pub fn protection(&self) -> Protection {
        self.upstream.protection()
    }

    /// The connection, once the server has said OK.
    pub fn into_upstream(self) -> Upstream {
        self.upstream
    }

    /// Brings a login that nobody wants any more to an end that the server takes for a wrong password.
    pub async fn give_up(mut self) {
        // Whether it worked shows nowhere but in the server's counters.
        let _ = tokio::time::timeout(GIVE_UP_TIMEOUT, self.come_to_an_end()).await;
    }

    async fn come_to_an_end(&mut self) -> Result<(), Error> {
        for _ in 0..TURNS_MAX {
            match self.stage {
                Stage::Greeted => {
                    let offered = self.greeting.capabilities;
                    let wanted = capability::LONG_PASSWORD | capability::PROTOCOL_41 | capability::SECURE_CONNECTION;
                    let packet = login::without_password(offered & (wanted | capability::PLUGIN_AUTH), NOBODY);
                    self.send_login(packet).await?;
                }
                Stage::Servers => {
                    if self.read().await?.first() == Some(&ok::HEADER) {
                        // An account of that name exists, and needs no password.
                        return self.upstream.write_packet(0, &[CommandKind::Quit.to_byte()]).await;
                    }
                }
                Stage::OursAtSwitch | Stage::OursAtStep => {
                    let answer = wrong_answer(&self.method, self.stage == Stage::OursAtSwitch);
                    self.answer(&answer).await?;
                }
                Stage::Ended => return Ok(()),
            }
        }
        Ok(())
    }
}

/// Whose turn it is after this packet of the server's. Every step wants an answer, but for "fast authentication
/// succeeded", which an OK follows.
fn stage_after(payload: &[u8]) -> Stage {
    const SWITCH: u8 = 0xfe;
    match payload {
        [ok::HEADER | err::HEADER, ..] => Stage::Ended,
        [0x01, 0x03] => Stage::Servers,
        [SWITCH, ..] => Stage::OursAtSwitch,
        _ => Stage::OursAtStep,
    }
}

/// An answer that is wrong, and not of a length that the server takes for a broken handshake.
fn wrong_answer(method: &[u8], at_switch: bool) -> Vec<u8> {
    match (method, at_switch) {
        (b"client_ed25519", _) => vec![0; 64],
        (b"parsec", false) => vec![0; 96],
        // No password: most methods end at that.
        (_, true) => Vec::new(),
        (_, false) => WRONG_PASSWORD.to_vec(),
    }
}

fn malformed(error: Malformed) -> Error {
    Error::Protocol { peer: "MySQL", what: error.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_packet_says_whose_turn_it_is() {
        for (payload, stage) in [
            (&b"\x00\x00\x00\x02\x00\x00\x00"[..], Stage::Ended),
            (b"\xff\x15\x04#28000Access denied", Stage::Ended),
            (b"\x01\x03", Stage::Servers),
            (b"\x01\x04", Stage::OursAtStep),
            (b"\x01-----BEGIN PUBLIC KEY-----", Stage::OursAtStep),
            (b"\xfemysql_native_password\0salt", Stage::OursAtSwitch),
            (b"\xfe", Stage::OursAtSwitch),
            (b"", Stage::OursAtStep),
        ] {
            assert_eq!(stage_after(payload), stage, "{payload:?}");
        }
    }
}

//! Logins by `caching_sha2_password` and `sha256_password` where one of the two streams can be listened in on and the
//! other can't.
//!
//! The server wants the password itself, by the first method only while it has not got the password's hash in its cache:
//! in clear over a secure stream, under RSA over one in clear. Each end goes by its own stream. Where both streams are alike every packet is
//! passed on; where not, the node translates, and forgets what it has translated.
//!
//! Source: MySQL manual, "Caching_sha2 information" and "Authentication Method sha256_password".

use bytes::Bytes;

use super::rsa_key::{self, LoginKey};
use crate::{transport::Protection, wire::Cursor};

const CACHING_SHA2: &[u8] = b"caching_sha2_password";
const SHA256: &[u8] = b"sha256_password";
/// The first byte of "log in by another method".
const SWITCH: u8 = 0xfe;
/// The first byte of a step within a method.
const MORE_DATA: u8 = 0x01;
/// `caching_sha2_password`: the server needs the password itself.
const PASSWORD_WANTED: [u8; 2] = [MORE_DATA, 0x04];
/// A password of no length, by either method.
const NO_PASSWORD: [u8; 1] = [0];
/// A password that nobody has, for one that can't be read: the server's own refusal follows.
const UNREADABLE: &[u8] = b"unreadable\xff\0";
/// Salts have this many bytes; what follows is a zero byte.
const SALT_LEN: usize = 20;

/// What becomes of a client's answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// This goes to the server.
    Forward(Bytes),
    /// This goes back to the client, which answers again.
    Reply(Bytes),
    /// This asks the server for its key, and what [`PasswordBridge::encrypt`] makes of that goes to it.
    Encrypt(&'static [u8]),
}

/// What is known of the login's method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    /// Also as long as the server has named none: no other method has its steps.
    CachingSha2,
    Sha256,
    Other,
}

impl Method {
    /// Whether both ends of such a stream let the password pass in clear.
    fn trusts(self, protection: Protection) -> bool {
        match protection {
            Protection::Clear => false,
            Protection::Socket => self != Self::Sha256,
            Protection::Tls => true,
        }
    }

    /// Asks the server for its public key.
    fn key_request(self) -> &'static [u8] {
        match self {
            Self::Sha256 => &[0x01],
            Self::CachingSha2 | Self::Other => &[0x02],
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No password is asked for.
    Passing,
    /// The server has asked for the password.
    PasswordWanted,
    /// The client has got the node's key.
    KeyShown,
}

/// Follows the logins of one session, the first and those of COM_CHANGE_USER.
#[derive(Debug)]
pub(crate) struct PasswordBridge {
    client: Protection,
    server: Protection,
    key: LoginKey,
    salt: Vec<u8>,
    method: Method,
    state: State,
    password: Vec<u8>,
}

impl PasswordBridge {
    /// A bridge for a session whose greeting had this salt.
    pub(crate) fn new(client: Protection, server: Protection, key: LoginKey, salt: &[u8]) -> Self {
        Self {
            client,
            server,
            key,
            salt: salt.to_vec(),
            method: Method::CachingSha2,
            state: State::Passing,
            password: Vec::new(),
        }
    }

    /// Looks at a packet on its way to the client.
    pub(crate) fn of_server(&mut self, payload: &[u8]) {
        self.state = State::Passing;
        if payload.first() == Some(&SWITCH) {
            let mut cursor = Cursor::new(&payload[1..]);
            (self.method, self.state) = match cursor.nul_terminated() {
                Some(CACHING_SHA2) => (Method::CachingSha2, State::Passing),
                Some(SHA256) => (Method::Sha256, State::PasswordWanted),
                _ => (Method::Other, State::Passing),
            };
            let salt = cursor.rest();
            self.salt = salt[..salt.len().min(SALT_LEN)].to_vec();
        } else if payload == PASSWORD_WANTED && self.method == Method::CachingSha2 {
            self.state = State::PasswordWanted;
        }
    }

    /// Takes a client's answer.
    pub(crate) async fn of_client(&mut self, answer: Bytes) -> Turn {
        let key_request = self.method.key_request();
        match (self.state, self.method.trusts(self.client), self.method.trusts(self.server)) {
            (State::PasswordWanted, ..) if *answer == NO_PASSWORD => Turn::Forward(answer),
            (State::PasswordWanted, _, true) if answer == key_request => self.show_key().await,
            // A client that has no need of a key sends the password; one that has it may ask nonetheless.
            (State::PasswordWanted, true, false) if answer != key_request => {
                self.password = answer.to_vec();
                Turn::Encrypt(key_request)
            }
            (State::PasswordWanted, false, true) | (State::KeyShown, ..) => {
                self.state = State::Passing;
                let password = self.key.decrypt(&answer, &self.salt).await;
                Turn::Forward(password.map_or(Bytes::from_static(UNREADABLE), Bytes::from))
            }
            (State::PasswordWanted | State::Passing, ..) => Turn::Forward(answer),
        }
    }

    async fn show_key(&mut self) -> Turn {
        self.state = State::KeyShown;
        let pem = self.key.public_pem().await.unwrap_or_default();
        Turn::Reply([&[MORE_DATA], pem.as_bytes()].concat().into())
    }

    /// The client's password under the key in the server's answer to [`Turn::Encrypt`].
    pub(crate) fn encrypt(&mut self, answer: &[u8]) -> Bytes {
        self.state = State::Passing;
        let password = std::mem::take(&mut self.password);
        let pem = answer.strip_prefix(&[MORE_DATA]).unwrap_or(answer);
        rsa_key::encrypt(password, &self.salt, pem).map_or(Bytes::from_static(UNREADABLE), Bytes::from)
    }
}

#[cfg(test)]
mod tests {
    use super::{Protection::*, *};

    const SALT: &[u8] = b"12345678901234567890";

    fn bridge(client: Protection, server: Protection, key: &LoginKey) -> PasswordBridge {
        let mut bridge = PasswordBridge::new(client, server, key.clone(), b"the greeting's");
        bridge.of_server(&[b"\xfecaching_sha2_password\0", SALT, b"\0"].concat());
        bridge
    }

    async fn passes(bridge: &mut PasswordBridge, answer: &'static [u8]) {
        assert_eq!(bridge.of_client(answer.into()).await, Turn::Forward(answer.into()));
    }

    #[tokio::test]
    async fn where_both_streams_are_alike_all_is_passed_on() {
        let key = LoginKey::default();
        let mut secure = bridge(Socket, Tls, &key);
        passes(&mut secure, b"scramble").await;
        secure.of_server(&PASSWORD_WANTED);
        passes(&mut secure, b"secret\0").await;
        let mut clear = bridge(Clear, Clear, &key);
        clear.of_server(&PASSWORD_WANTED);
        passes(&mut clear, b"\x02").await;
        clear.of_server(b"\x01-----BEGIN PUBLIC KEY-----");
        passes(&mut clear, b"encrypted").await;
    }

    #[tokio::test]
    async fn a_password_in_clear_is_encrypted_for_a_server_that_wants_it_so() {
        let (key, servers) = (LoginKey::default(), LoginKey::default());
        let mut bridge = bridge(Tls, Clear, &key);
        bridge.of_server(&PASSWORD_WANTED);
        assert_eq!(bridge.of_client(Bytes::from_static(b"secret\0")).await, Turn::Encrypt(b"\x02"));
        let pem = servers.public_pem().await.expect("a key");
        let sent = bridge.encrypt(&[b"\x01", pem.as_bytes()].concat());
        assert_eq!(servers.decrypt(&sent, SALT).await.as_deref(), Some(&b"secret\0"[..]));
        assert!(bridge.password.is_empty(), "the password was kept");
    }

    #[tokio::test]
    async fn a_client_in_clear_gets_the_nodes_key_and_the_server_the_password() {
        let key = LoginKey::default();
        let mut bridge = bridge(Clear, Socket, &key);
        bridge.of_server(&PASSWORD_WANTED);
        let Turn::Reply(shown) = bridge.of_client(Bytes::from_static(b"\x02")).await else { panic!("no key") };
        let sent = rsa_key::encrypt(b"secret\0".to_vec(), SALT, &shown[1..]).expect("a usable key");
        assert_eq!(bridge.of_client(sent.into()).await, Turn::Forward(Bytes::from_static(b"secret\0")));
        // Encrypted with a key that the client had from elsewhere: the server is to refuse it in its own words.
        bridge.of_server(&PASSWORD_WANTED);
        assert_eq!(bridge.of_client(Bytes::from_static(&[7; 256])).await, Turn::Forward(UNREADABLE.into()));
    }

    #[tokio::test]
    async fn by_sha256_the_password_is_wanted_at_once_and_only_tls_is_trusted() {
        let key = LoginKey::default();
        let switch = [b"\xfesha256_password\0", SALT, b"\0"].concat();
        let mut bridge = PasswordBridge::new(Tls, Socket, key.clone(), b"");
        bridge.of_server(&switch);
        assert_eq!(bridge.of_client(Bytes::from_static(b"secret\0")).await, Turn::Encrypt(b"\x01"));
        bridge.of_server(&switch);
        passes(&mut bridge, &NO_PASSWORD).await;
        let mut bridge = PasswordBridge::new(Socket, Tls, key, b"");
        bridge.of_server(&switch);
        assert!(matches!(bridge.of_client(Bytes::from_static(b"\x01")).await, Turn::Reply(_)));
    }

    #[tokio::test]
    async fn other_methods_are_none_of_its_business() {
        let mut bridge = bridge(Tls, Clear, &LoginKey::default());
        bridge.of_server(b"\xfemysql_clear_password\0");
        passes(&mut bridge, b"secret\0").await;
        bridge.of_server(&PASSWORD_WANTED);
        passes(&mut bridge, b"secret\0").await;
    }
}

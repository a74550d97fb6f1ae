//! Logins by `caching_sha2_password` where one of the two streams can be listened in on and the other can't.
//!
//! When the server has not got the password's hash in its cache it wants the password itself: in clear over a secure
//! stream, under RSA over one in clear. Each end goes by its own stream. Where both streams are alike every packet is
//! passed on; where not, the node translates, and forgets what it has translated.
//!
//! Source: MySQL manual, "Caching_sha2 information".

use bytes::Bytes;

use super::rsa_key::{self, LoginKey};
use crate::wire::Cursor;

const METHOD: &[u8] = b"caching_sha2_password";
/// The first byte of "log in by another method".
const SWITCH: u8 = 0xfe;
/// The first byte of a step within a method.
const MORE_DATA: u8 = 0x01;
/// The server needs the password itself.
const PASSWORD_WANTED: [u8; 2] = [MORE_DATA, 0x04];
/// Asks the server for its public key.
const KEY_WANTED: [u8; 1] = [0x02];
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
    /// The server is asked for its key by [`Turn::key_request`], and gets what
    /// [`PasswordBridge::encrypt`] makes of it.
    Encrypt,
}

impl Turn {
    /// Asks the server for its public key.
    pub(crate) fn key_request() -> &'static [u8] {
        &KEY_WANTED
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
    client_is_secure: bool,
    server_is_secure: bool,
    key: LoginKey,
    salt: Vec<u8>,
    /// Whether the method is another one, as far as the server has named it.
    by_other_method: bool,
    state: State,
    password: Vec<u8>,
}

impl PasswordBridge {
    /// A bridge for a session whose greeting had this salt.
    pub(crate) fn new(client_is_secure: bool, server_is_secure: bool, key: LoginKey, salt: &[u8]) -> Self {
        Self {
            client_is_secure,
            server_is_secure,
            key,
            salt: salt.to_vec(),
            by_other_method: false,
            state: State::Passing,
            password: Vec::new(),
        }
    }

    /// Looks at a packet on its way to the client.
    pub(crate) fn of_server(&mut self, payload: &[u8]) {
        self.state = State::Passing;
        if payload.first() == Some(&SWITCH) {
            let mut cursor = Cursor::new(&payload[1..]);
            self.by_other_method = cursor.nul_terminated() != Some(METHOD);
            let salt = cursor.rest();
            self.salt = salt[..salt.len().min(SALT_LEN)].to_vec();
        } else if payload == PASSWORD_WANTED && !self.by_other_method {
            self.state = State::PasswordWanted;
        }
    }

    /// Takes a client's answer.
    pub(crate) async fn of_client(&mut self, answer: Bytes) -> Turn {
        match (self.state, self.client_is_secure, self.server_is_secure) {
            (State::PasswordWanted, _, true) if *answer == KEY_WANTED => self.show_key().await,
            // A client that has no need of a key sends the password; one that has it may ask nonetheless.
            (State::PasswordWanted, true, false) if *answer != KEY_WANTED => {
                self.password = answer.to_vec();
                Turn::Encrypt
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

    /// The client's password under the key in the server's answer to [`Turn::key_request`].
    pub(crate) fn encrypt(&mut self, answer: &[u8]) -> Bytes {
        self.state = State::Passing;
        let password = std::mem::take(&mut self.password);
        let pem = answer.strip_prefix(&[MORE_DATA]).unwrap_or(answer);
        rsa_key::encrypt(password, &self.salt, pem).map_or(Bytes::from_static(UNREADABLE), Bytes::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: &[u8] = b"12345678901234567890";

    fn bridge(client_is_secure: bool, server_is_secure: bool, key: &LoginKey) -> PasswordBridge {
        let mut bridge = PasswordBridge::new(client_is_secure, server_is_secure, key.clone(), b"the greeting's");
        bridge.of_server(&[b"\xfecaching_sha2_password\0", SALT, b"\0"].concat());
        bridge
    }

    async fn passes(bridge: &mut PasswordBridge, answer: &'static [u8]) {
        assert_eq!(bridge.of_client(answer.into()).await, Turn::Forward(answer.into()));
    }

    #[tokio::test]
    async fn where_both_streams_are_alike_all_is_passed_on() {
        let key = LoginKey::default();
        let mut secure = bridge(true, true, &key);
        passes(&mut secure, b"scramble").await;
        secure.of_server(&PASSWORD_WANTED);
        passes(&mut secure, b"secret\0").await;
        let mut clear = bridge(false, false, &key);
        clear.of_server(&PASSWORD_WANTED);
        passes(&mut clear, &KEY_WANTED).await;
        clear.of_server(b"\x01-----BEGIN PUBLIC KEY-----");
        passes(&mut clear, b"encrypted").await;
    }

    #[tokio::test]
    async fn a_password_in_clear_is_encrypted_for_a_server_that_wants_it_so() {
        let (key, servers) = (LoginKey::default(), LoginKey::default());
        let mut bridge = bridge(true, false, &key);
        bridge.of_server(&PASSWORD_WANTED);
        assert_eq!(bridge.of_client(Bytes::from_static(b"secret\0")).await, Turn::Encrypt);
        let pem = servers.public_pem().await.expect("a key");
        let sent = bridge.encrypt(&[b"\x01", pem.as_bytes()].concat());
        assert_eq!(servers.decrypt(&sent, SALT).await.as_deref(), Some(&b"secret\0"[..]));
        assert!(bridge.password.is_empty(), "the password was kept");
    }

    #[tokio::test]
    async fn a_client_in_clear_gets_the_nodes_key_and_the_server_the_password() {
        let key = LoginKey::default();
        let mut bridge = bridge(false, true, &key);
        bridge.of_server(&PASSWORD_WANTED);
        let Turn::Reply(shown) = bridge.of_client(Bytes::from_static(&KEY_WANTED)).await else { panic!("no key") };
        let sent = rsa_key::encrypt(b"secret\0".to_vec(), SALT, &shown[1..]).expect("a usable key");
        assert_eq!(bridge.of_client(sent.into()).await, Turn::Forward(Bytes::from_static(b"secret\0")));
        // Encrypted with a key that the client had from elsewhere: the server is to refuse it in its own words.
        bridge.of_server(&PASSWORD_WANTED);
        assert_eq!(bridge.of_client(Bytes::from_static(&[7; 256])).await, Turn::Forward(UNREADABLE.into()));
    }

    #[tokio::test]
    async fn other_methods_are_none_of_its_business() {
        let mut bridge = bridge(true, false, &LoginKey::default());
        bridge.of_server(b"\xfemysql_clear_password\0");
        passes(&mut bridge, b"secret\0").await;
        bridge.of_server(&PASSWORD_WANTED);
        passes(&mut bridge, b"secret\0").await;
    }
}

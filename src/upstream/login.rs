//! Logging in to MySQL with an account's name and password: what a MySQL client does by itself, done for a client that
//! speaks HTTP.
//!
//! Source: MySQL manual, "Connection Phase" and "Caching_sha2 information"; MariaDB Knowledge Base, "Connection".

use std::fmt;

use bytes::Bytes;
use mysql_common::packets::AuthPlugin;
use towline_middleware::{Error, ServerError, Session};

use super::{Opening, Upstream, Wanted, learn, rsa_key};
use crate::{
    transport::Protection,
    wire::{
        Cursor, Malformed,
        capability::{self, LONG_PASSWORD, MULTI_RESULTS, PLUGIN_AUTH, PS_MULTI_RESULTS, SECURE_CONNECTION},
        err, ok,
    },
};

/// The id of `utf8mb4_general_ci`, which every server since 5.5.3 has.
const COLLATION: u8 = 45;
/// What the session can do. No MULTI_STATEMENTS, so that the server itself takes one statement per command only.
const CAPABILITIES: u32 =
    capability::UPSTREAM | LONG_PASSWORD | SECURE_CONNECTION | PLUGIN_AUTH | MULTI_RESULTS | PS_MULTI_RESULTS;
/// The largest packet that the session takes.
const PACKET_BYTES_MAX: u32 = 1 << 30;
/// More exchanges than any login method has; a server that goes on is broken.
const TURNS_MAX: usize = 16;

/// The first byte of "log in by another method".
const SWITCH: u8 = 0xfe;
/// The first byte of a step within a method.
const MORE_DATA: u8 = 0x01;
/// caching_sha2_password: the server needs the password itself.
const FULL_AUTHENTICATION: u8 = 0x04;
/// caching_sha2_password: asks for the server's public key.
const REQUEST_PUBLIC_KEY: u8 = 0x02;

/// An account of MySQL's with its password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The account's name.
    pub user: String,
    /// Its password; empty for none.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the password.
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Why a login failed.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// MySQL said no: mostly a wrong name or password.
    #[error("MySQL refuses the login: {0}")]
    Refused(ServerError),
    /// The account wants a method that this node does not speak.
    #[error("the account logs in by `{plugin}`, which HTTP clients can't use")]
    Method {
        /// The method's name.
        plugin: String,
    },
    /// The name or the password can't be sent.
    #[error("the name or password is too long, or holds a zero byte")]
    Unsendable,
    /// The connection broke, or the server broke the protocol.
    #[error("the login to MySQL broke off")]
    Broken(#[from] Error),
}

/// Logs in and begins the session; afterwards it may run commands.
///
/// # Errors
/// See [`LoginError`].
pub async fn log_in(
    mut opening: Opening,
    credentials: &Credentials,
    session: &Session,
) -> Result<Upstream, LoginError> {
    match exchange(&mut opening, credentials, session).await {
        Ok(()) => {
            let mut upstream = opening.into_upstream();
            upstream.begin_session(session).await?;
            Ok(upstream)
        }
        Err(error) => {
            opening.give_up().await;
            Err(error)
        }
    }
}

async fn exchange(opening: &mut Opening, credentials: &Credentials, session: &Session) -> Result<(), LoginError> {
    let greeting = &opening.greeting;
    let connection_id = greeting.connection_id;
    let capabilities = CAPABILITIES & (greeting.capabilities | LONG_PASSWORD);
    let mut method = Method { plugin: plugin(&greeting.auth_plugin), salt: greeting.salt.clone() };
    let proof = method.proof(&credentials.password).unwrap_or_default();
    opening.set_client_capabilities(capabilities, 0);
    session.set_capabilities(capabilities.into());
    opening.send_login(login_packet(capabilities, credentials, &method, &proof)?).await?;
    for _ in 0..TURNS_MAX {
        let payload = opening.read().await?;
        let answer = match payload.first() {
            Some(&ok::HEADER) => {
                let mut completion = ok::decode(&payload).map_err(malformed)?;
                learn(&mut completion, session, Wanted::default());
                session.set_connection_id(connection_id);
                // Until the server has told it.
                session.set_user(&credentials.user);
                return Ok(());
            }
            Some(&err::HEADER) => return Err(LoginError::Refused(err::decode(&payload).map_err(malformed)?)),
            Some(&SWITCH) => {
                method = Method::of_switch(&payload).ok_or(malformed(Malformed("login switch")))?;
                Some(method.proof(&credentials.password).ok_or_else(|| method.unknown())?)
            }
            Some(&MORE_DATA) => {
                method.step(&payload[1..], &credentials.password, opening.protection() != Protection::Clear)?
            }
            _ => return Err(malformed(Malformed("login packet")).into()),
        };
        if let Some(answer) = answer {
            opening.answer(&answer).await?;
        }
    }
    Err(Error::Protocol { peer: "MySQL", what: "a login without end" }.into())
}

fn malformed(error: Malformed) -> Error {
    Error::Protocol { peer: "MySQL", what: error.0 }
}

fn plugin(name: &str) -> AuthPlugin<'static> {
    AuthPlugin::from_bytes(name.as_bytes()).into_owned()
}

fn login_packet(
    capabilities: u32,
    credentials: &Credentials,
    method: &Method,
    proof: &[u8],
) -> Result<Vec<u8>, LoginError> {
    // `proof` is a hash or a signature of at most 64 bytes.
    let proof_len = u8::try_from(proof.len()).map_err(|_| LoginError::Unsendable)?;
    if credentials.user.contains('\0') || credentials.password.contains('\0') {
        return Err(LoginError::Unsendable);
    }
    let mut packet = Vec::with_capacity(128);
    packet.extend_from_slice(&capabilities.to_le_bytes());
    packet.extend_from_slice(&PACKET_BYTES_MAX.to_le_bytes());
    packet.push(COLLATION);
    packet.extend_from_slice(&[0; 23]);
    packet.extend_from_slice(credentials.user.as_bytes());
    packet.push(0);
    packet.push(proof_len);
    packet.extend_from_slice(proof);
    packet.extend_from_slice(method.plugin.as_bytes());
    packet.push(0);
    Ok(packet)
}

/// A login method and its salt.
struct Method {
    plugin: AuthPlugin<'static>,
    salt: Vec<u8>,
}

impl Method {
    fn of_switch(payload: &Bytes) -> Option<Self> {
        let mut cursor = Cursor::new(payload);
        cursor.u8()?;
        let name = cursor.nul_terminated()?;
        let plugin = AuthPlugin::from_bytes(name).into_owned();
        // A zero byte may follow, but a random salt may end in one, too: only the length tells.
        let salt_len = if plugin == AuthPlugin::Ed25519 { 32 } else { 20 };
        let salt = cursor.rest();
        Some(Self { plugin, salt: salt[..salt.len().min(salt_len)].to_vec() })
    }

    /// The first answer; `None` if the method is not spoken here. Never the password itself, however the server asks:
    /// who asks for it by `mysql_clear_password` may be anybody.
    fn proof(&self, password: &str) -> Option<Vec<u8>> {
        match self.plugin {
            AuthPlugin::MysqlNativePassword | AuthPlugin::CachingSha2Password | AuthPlugin::Ed25519 => {
                let data = self.plugin.gen_data(Some(password), &self.salt);
                Some(match (&self.plugin, data) {
                    (_, Some(data)) => data.to_vec(),
                    (AuthPlugin::CachingSha2Password, None) => vec![0],
                    (AuthPlugin::Ed25519, None) => {
                        mysql_common::scramble::create_response_for_ed25519(b"", &self.salt).to_vec()
                    }
                    (_, None) => Vec::new(),
                })
            }
            _ => None,
        }
    }

    fn unknown(&self) -> LoginError {
        LoginError::Method { plugin: String::from_utf8_lossy(self.plugin.as_bytes()).into_owned() }
    }

    /// The answer to a further step; `None` when an OK follows by itself.
    fn step(&self, data: &[u8], password: &str, secure: bool) -> Result<Option<Vec<u8>>, LoginError> {
        if self.plugin != AuthPlugin::CachingSha2Password {
            return Err(self.unknown());
        }
        let mut clear = password.as_bytes().to_vec();
        clear.push(0);
        match data {
            [0x03] => Ok(None),
            [FULL_AUTHENTICATION] if secure => Ok(Some(clear)),
            [FULL_AUTHENTICATION] => Ok(Some(vec![REQUEST_PUBLIC_KEY])),
            key if key.starts_with(b"-----BEGIN PUBLIC KEY-----") && !self.salt.is_empty() => {
                rsa_key::encrypt(clear, &self.salt, key).map(Some).ok_or(LoginError::Unsendable)
            }
            _ => Err(malformed(Malformed("step of a login")).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_names_its_method_and_salt() {
        let mut payload = b"\xfemysql_native_password\0".to_vec();
        payload.extend_from_slice(b"12345678901234567890\0");
        let method = Method::of_switch(&payload.into()).expect("a switch");
        assert_eq!((&method.plugin, method.salt.len()), (&AuthPlugin::MysqlNativePassword, 20));
        assert_eq!(method.proof("secret").map(|proof| proof.len()), Some(20));
        assert_eq!(method.proof(""), Some(Vec::new()));
        assert!(Method::of_switch(&Bytes::from_static(b"\xfeno end")).is_none());
    }

    #[test]
    fn the_password_itself_never_goes_to_who_asks_in_clear() {
        for plugin in ["mysql_clear_password", "mysql_old_password", "dialog", "auth_gssapi_client", ""] {
            let method = Method { plugin: super::plugin(plugin), salt: vec![1; 20] };
            assert_eq!(method.proof("secret"), None, "{plugin}");
            assert!(method.step(&[FULL_AUTHENTICATION], "secret", true).is_err(), "{plugin}");
        }
        let method = Method { plugin: AuthPlugin::CachingSha2Password, salt: vec![1; 20] };
        assert_eq!(method.step(&[FULL_AUTHENTICATION], "secret", false).unwrap(), Some(vec![REQUEST_PUBLIC_KEY]));
        assert_eq!(method.step(&[FULL_AUTHENTICATION], "secret", true).unwrap(), Some(b"secret\0".to_vec()));
        assert!(method.step(b"not a key", "secret", false).is_err());
    }

    #[test]
    fn a_zero_byte_is_not_sent() {
        let method = Method { plugin: AuthPlugin::MysqlNativePassword, salt: vec![1; 20] };
        for (user, password) in [("a\0b", "x"), ("a", "x\0y")] {
            let credentials = Credentials { user: user.into(), password: password.into() };
            assert!(matches!(login_packet(0, &credentials, &method, &[]), Err(LoginError::Unsendable)));
        }
    }
}

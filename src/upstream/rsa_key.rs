//! Passwords under RSA, as `caching_sha2_password` sends them over a stream that others may read.
//!
//! Source: MySQL manual, "Caching SHA-2 Pluggable Authentication"; MySQL's `sql-common/client_authentication.cc`:
//! the password and a zero byte, each byte XORed with the login's salt, under OAEP with SHA-1.

use std::sync::Arc;

use rsa::{
    Oaep, RsaPrivateKey, RsaPublicKey,
    pkcs8::{DecodePublicKey, EncodePublicKey, LineEnding},
    rand_core::OsRng,
};
use sha1::Sha1;
use tokio::sync::OnceCell;

/// As long as the keys that servers make for themselves.
const KEY_BITS: usize = 2048;

/// The node's own key, made when the first client asks for it and kept in memory only. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct LoginKey(Arc<OnceCell<Option<KeyPair>>>);

#[derive(Debug)]
struct KeyPair {
    private: RsaPrivateKey,
    public_pem: String,
}

impl LoginKey {
    /// The public key in PEM form; none if the system gives no random numbers.
    pub(super) async fn public_pem(&self) -> Option<&str> {
        self.get().await.map(|key| key.public_pem.as_str())
    }

    /// The password that a client has encrypted, with its zero byte; none if it has used another key or salt.
    pub(super) async fn decrypt(&self, encrypted: &[u8], salt: &[u8]) -> Option<Vec<u8>> {
        let key = self.get().await?;
        // Blinded, so that the time that it takes says nothing of the key.
        let mut password = key.private.decrypt_blinded(&mut OsRng, Oaep::new::<Sha1>(), encrypted).ok()?;
        mix(&mut password, salt);
        (password.last() == Some(&0)).then_some(password)
    }

    async fn get(&self) -> Option<&KeyPair> {
        let make = || tokio::task::spawn_blocking(make_key);
        self.0.get_or_init(async || make().await.ok().flatten()).await.as_ref()
    }
}

fn make_key() -> Option<KeyPair> {
    let private = RsaPrivateKey::new(&mut OsRng, KEY_BITS);
    let pair = private.and_then(|private| {
        let public_pem = private.to_public_key().to_public_key_pem(LineEnding::LF).map_err(rsa::pkcs8::Error::from)?;
        Ok(KeyPair { private, public_pem })
    });
    pair.inspect_err(|error| tracing::error!(error = error as &dyn std::error::Error, "no RSA key for logins")).ok()
}

/// A password with its zero byte under the server's public key; none if that is no key, or too short for the password.
pub(super) fn encrypt(mut password: Vec<u8>, salt: &[u8], public_pem: &[u8]) -> Option<Vec<u8>> {
    let key = RsaPublicKey::from_public_key_pem(std::str::from_utf8(public_pem).ok()?).ok()?;
    mix(&mut password, salt);
    key.encrypt(&mut OsRng, Oaep::new::<Sha1>(), &password).ok()
}

fn mix(password: &mut [u8], salt: &[u8]) {
    for (byte, salt) in password.iter_mut().zip(salt.iter().cycle()) {
        *byte ^= salt;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_comes_back_and_no_other_salt_or_key_gives_it() {
        let (key, other) = (LoginKey::default(), LoginKey::default());
        let pem = key.public_pem().await.expect("a key").to_owned();
        assert!(pem.starts_with("-----BEGIN PUBLIC KEY-----\n"), "{pem}");
        let encrypted = encrypt(b"secret\0".to_vec(), b"12345678901234567890", pem.as_bytes()).expect("a usable key");
        assert_eq!(key.decrypt(&encrypted, b"12345678901234567890").await.as_deref(), Some(&b"secret\0"[..]));
        assert_eq!(key.decrypt(&encrypted, b"abcdefghijklmnopqrst").await, None);
        assert_eq!(other.decrypt(&encrypted, b"12345678901234567890").await, None);
        assert_eq!(key.decrypt(b"\x02", b"").await, None);
        assert_eq!(encrypt(b"secret\0".to_vec(), b"salt", b"no key"), None);
        assert_eq!(encrypt(vec![b'x'; 300], b"salt", pem.as_bytes()), None, "longer than the key takes");
    }
}

//! Values that check themselves as they are read.

use std::{fmt, path::PathBuf, time::Duration};

use figment::value::magic::RelativePathBuf;
use mysql_async::{Opts, OptsBuilder};
use serde::{Deserialize, Deserializer, de};

/// A text that never shows in logs.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Secret {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text.is_empty() { Err("an empty text is no secret") } else { Ok(Self(text)) }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The URL of a MySQL server, `mysql://user:password@host:port`, with `?socket=/path` for one on this machine.
#[derive(Clone, PartialEq, Eq)]
pub struct MysqlUrl(Opts);

impl MysqlUrl {
    /// How to log in.
    pub fn opts(&self) -> Opts {
        self.0.clone()
    }
}

impl fmt::Debug for MysqlUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the password.
        match self.0.socket() {
            Some(socket) => write!(f, "MysqlUrl({socket})"),
            None => write!(f, "MysqlUrl({}:{})", self.0.ip_or_hostname(), self.0.tcp_port()),
        }
    }
}

impl<'de> Deserialize<'de> for MysqlUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // The text may hold a password, so the error does not repeat it.
        let opts = Opts::from_url(&text).map_err(|error| {
            de::Error::custom(format!("not a URL like mysql://user:password@127.0.0.1:3306 ({error})"))
        })?;
        if opts.user().is_none() {
            return Err(de::Error::custom("the URL names no user, as in mysql://user:password@127.0.0.1:3306"));
        }
        // Where the URL says, and nowhere else: the driver would look for the server's socket by itself.
        let prefer_socket = opts.socket().is_some();
        Ok(Self(OptsBuilder::from_opts(opts).prefer_socket(prefer_socket).into()))
    }
}

/// The URL of another node's HTTP, `http://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUrl(String);

impl HttpUrl {
    /// The URL without a slash at its end.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for HttpUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let uri = text.parse::<http::Uri>().ok().filter(|uri| {
            uri.scheme_str() == Some("http")
                && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
                && uri.path_and_query().is_none_or(|path| path.as_str() == "/")
        });
        match uri {
            Some(_) => Ok(Self(text.trim_end_matches('/').to_owned())),
            None => Err(de::Error::custom(format!("`{text}` is not a URL like http://10.0.0.2:5001"))),
        }
    }
}

/// A number of milliseconds, at least one.
pub(super) fn milliseconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let milliseconds = std::num::NonZeroU64::deserialize(deserializer)?;
    Ok(Duration::from_millis(milliseconds.get()))
}

/// A number of seconds.
pub(super) fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_secs)
}

/// A path that is relative to the file in which it stands.
pub(super) fn relative_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    Ok(RelativePathBuf::deserialize(deserializer)?.relative())
}

/// The same for a key that may be absent.
pub(super) fn optional_relative_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    relative_path(deserializer).map(Some)
}

//! The role of a node.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What a node is in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Takes every command and pushes every change to the slaves.
    Master,
    /// Applies the master's changes and answers reads; never runs a client's write.
    Slave,
}

impl Role {
    /// The word used in configuration, JSON and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::Slave => "slave",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A role that is neither `master` nor `slave`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown role `{0}`: a node is `master` or `slave`")]
pub struct UnknownRole(String);

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(word: &str) -> Result<Self, UnknownRole> {
        match word {
            "master" => Ok(Self::Master),
            "slave" => Ok(Self::Slave),
            other => Err(UnknownRole(other.to_owned())),
        }
    }
}

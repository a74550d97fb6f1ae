//! The layer's options.

use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Options {
    /// The second server, with an account that may only read.
    pub(super) url: String,
    /// How many of all reads are copied: 1 is all.
    #[serde(default = "share")]
    pub(super) share: f64,
    /// Reads that may wait for the second server.
    #[serde(default = "queue_max")]
    pub(super) queue_max: usize,
    /// How much they may have, with their answers.
    #[serde(default = "queue_bytes_max")]
    pub(super) queue_bytes_max: u32,
    /// Connections to the second server.
    #[serde(default = "connections_max")]
    pub(super) connections_max: usize,
    /// Neither a longer statement nor a longer result is compared.
    #[serde(default = "result_bytes_max")]
    pub(super) result_bytes_max: usize,
    /// How long the second server may take for one read.
    #[serde(default = "timeout_ms")]
    pub(super) timeout_ms: u32,
}

impl Options {
    /// Refuses what no mirror can have.
    pub(super) fn validate(&self) -> Result<(), InvalidMirror> {
        if !(self.share > 0.0 && self.share <= 1.0) {
            return Err(InvalidMirror::Share);
        }
        for (key, is_zero) in [
            ("queue_max", self.queue_max == 0),
            ("queue_bytes_max", self.queue_bytes_max == 0),
            ("connections_max", self.connections_max == 0),
            ("timeout_ms", self.timeout_ms == 0),
        ] {
            if is_zero {
                return Err(InvalidMirror::Zero { key });
            }
        }
        Ok(())
    }
}

fn share() -> f64 {
    1.0
}

fn queue_max() -> usize {
    1000
}

fn queue_bytes_max() -> u32 {
    64 << 20
}

fn connections_max() -> usize {
    2
}

fn result_bytes_max() -> usize {
    256 << 10
}

fn timeout_ms() -> u32 {
    5000
}

#[derive(Debug, thiserror::Error)]
pub(super) enum InvalidMirror {
    #[error("`url` is no mysql://user:password@host:port")]
    Url,
    #[error("`share` is more than 0 and at most 1")]
    Share,
    #[error("`{key}` is at least 1")]
    Zero { key: &'static str },
}

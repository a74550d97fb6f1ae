//! The layer's options.

use serde::Deserialize;

use crate::layers::{OutOfRange, check_ranges};

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
        check_ranges([
            ("queue_max", self.queue_max as u64, 1..=1_000_000),
            ("queue_bytes_max", self.queue_bytes_max.into(), 1..=u32::MAX.into()),
            ("connections_max", self.connections_max as u64, 1..=1000),
            ("timeout_ms", self.timeout_ms.into(), 1..=u32::MAX.into()),
        ])?;
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
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
}

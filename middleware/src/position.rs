//! Where in the master's history a change stands.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The reign of one master. It rises by one with each change of master and fences the old one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// The sequence number of a transaction's GTID in the master's binlog.
///
/// It rises within an epoch; gaps are legal, so `n + 1` need not exist. 0 means "before the first transaction".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sequence(pub u64);

/// A point in the master's history, written `epoch:seq` (`3:1042`). Clients hold it as a freshness token.
///
/// # Order
/// First by epoch, then by sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The reign in which the transaction was committed.
    pub epoch: Epoch,
    /// Its number within the binlog of that reign's master.
    pub seq: Sequence,
}

impl Position {
    /// A position from its two numbers.
    pub fn new(epoch: u64, seq: u64) -> Self {
        Self { epoch: Epoch(epoch), seq: Sequence(seq) }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.seq)
    }
}

/// A text that is no position.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no position: write `epoch:seq`, as in `3:1042`")]
pub struct InvalidPosition(String);

impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        // `u64::from_str` takes a leading `+`, which would give one position two spellings.
        let number = |part: &str| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok())?;
        text.split_once(':')
            .and_then(|(epoch, seq)| Some(Self::new(number(epoch)?, number(seq)?)))
            .ok_or_else(|| InvalidPosition(text.to_owned()))
    }
}

impl Serialize for Position {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_ordered_by_epoch_first() {
        assert!(Position::new(2, 1) > Position::new(1, 900));
        assert!(Position::new(2, 10) > Position::new(2, 9));
    }

    #[test]
    fn text_round_trips_and_other_text_is_refused() {
        let position = Position::new(3, 1042);
        assert_eq!(position.to_string().parse(), Ok(position));
        for text in ["", "3", "3:", ":1", "3:-1", "+3:1", "3:1:2", "3: 1", "99999999999999999999:1"] {
            assert!(text.parse::<Position>().is_err(), "{text:?} was taken for a position");
        }
    }
}

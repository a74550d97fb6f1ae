//! What a node tells of the server behind it to those who know the cluster's secret.

use reqwest::RequestBuilder;
use serde::{Deserialize, Serialize};

use super::{
    protocol::Mark,
    push::{PushError, answer},
};

/// The answer to `GET /slave/server`, and to `GET /admin/server` on a master.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerFacts {
    /// The cluster's id; empty while it is not known.
    pub cluster: String,
    /// The last transaction that is captured, or applied; none while it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<Mark>,
    /// The server's own limit of a packet, in bytes.
    pub max_allowed_packet: u64,
}

impl ServerFacts {
    /// Asks a node.
    pub(crate) async fn ask(request: RequestBuilder) -> Result<Self, PushError> {
        let (status, text) = answer(request).await?;
        serde_json::from_slice(&text).map_err(|_| PushError::foreign(status, &text))
    }
}

/// A slave's `max_allowed_packet` that some row of its master's does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketShortage {
    slave: u64,
    master: u64,
    needed: u64,
}

/// The most that a server can be set to.
const PACKET_BYTES_MAX: u64 = 1 << 30;
/// What a row event needs besides its values: its head, its tables' maps and the statements in the same packet.
const AROUND_VALUES: u64 = 1 << 20;

impl PacketShortage {
    /// Compares the `max_allowed_packet` of a slave's server with that of its master's, both in bytes.
    ///
    /// A batch is cut into `BINLOG` statements between row events, so what must fit is a single row event. The longest is
    /// an UPDATE of one row: it holds the old and the new values, and base64 makes four bytes of three.
    pub fn between(slave: u64, master: u64) -> Option<Self> {
        let values = master.saturating_mul(2);
        let needed = (values.div_ceil(3).saturating_mul(4)).saturating_add(AROUND_VALUES).min(PACKET_BYTES_MAX);
        (slave < needed).then_some(Self { slave, master, needed })
    }

    /// What there is.
    pub fn found(&self) -> String {
        let Self { slave, master, needed } = self;
        format!(
            "the slave's max_allowed_packet is {slave}, the master's {master}: an UPDATE of a row as long as that is one row event of \
             {needed} bytes, with old and new values and in base64, which can't be split, and a slave stops at one that does \
             not fit"
        )
    }

    /// What mends it.
    pub fn mend(&self) -> &'static str {
        "run `SET GLOBAL max_allowed_packet = 1073741824` on the slave's server and write `max_allowed_packet=1G` into \
         [mysqld] of its my.cnf"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slave_needs_room_for_both_images_of_a_row_in_base64() {
        let default = 16 << 20;
        let shortage = PacketShortage::between(default, default).expect("too small");
        assert_eq!(shortage.needed, 45_787_820);
        assert!(shortage.found().contains("45787820") && shortage.mend().contains("max_allowed_packet=1G"));
        assert!(PacketShortage::between(shortage.needed - 1, default).is_some());
        assert_eq!(PacketShortage::between(shortage.needed, default), None);
        // More can't be set.
        assert_eq!(PacketShortage::between(PACKET_BYTES_MAX, PACKET_BYTES_MAX), None);
        assert!(PacketShortage::between(PACKET_BYTES_MAX - 1, u64::MAX).is_some());
    }
}

//! Whose history a master's server has, and whether it still is the one that was captured.

use mysql_async::{Conn, prelude::Queryable};
use towline_middleware::{Epoch, Position, Sequence};

use super::{
    protocol::{Family, Mark},
    tables::master::{self, ClusterRecord},
};
use crate::capture::{CaptureError, Source};

/// Who a master is, as its server said when the node had reached it.
#[derive(Debug)]
pub(super) struct History {
    pub(super) record: ClusterRecord,
    pub(super) source: Source,
}

impl History {
    pub(super) fn family(&self) -> Family {
        self.source.family()
    }

    pub(super) fn position_of(&self, gtid: &str) -> Option<Position> {
        Some(Position { epoch: self.record.epoch, seq: Sequence(self.source.seq_of(gtid)?) })
    }

    /// The last transaction in the server's binlog; the default mark if there is none yet.
    pub(super) async fn newest(&self, conn: &mut Conn) -> mysql_async::Result<Mark> {
        newest(conn, self.source, self.record.epoch).await
    }

    /// The last transaction of this master in a list of GTIDs.
    pub(super) fn mark_in(&self, gtids: &str) -> Option<Mark> {
        mark_in(gtids, self.source, self.record.epoch)
    }

    /// Looks whether the server is still that of this cluster and has at least what was captured of it. Tells the last
    /// transaction in its binlog.
    pub(super) async fn check(&self, conn: &mut Conn, captured: &Mark) -> Result<Mark, CaptureError> {
        let renewed = |detail: String| Err(CaptureError::Renewed { detail });
        let own = &self.record.id;
        match master::record(conn).await.map_err(CaptureError::Connect)? {
            None => {
                return renewed(format!("it has no table towline.cluster, where the cluster {own} is written down"));
            }
            Some(record) if record.id != *own => {
                return renewed(format!("its towline.cluster names the cluster {}, not {own}", record.id));
            }
            Some(_) => {}
        }
        let newest = self.newest(conn).await.map_err(CaptureError::Connect)?;
        if newest.position < captured.position {
            let [newest, captured] = [newest.position, captured.position];
            return renewed(format!("its binlog ends at {newest}, and {captured} was captured of it"));
        }
        Ok(newest)
    }
}

/// The last transaction in the server's binlog; the default mark if there is none yet.
pub(super) async fn newest(conn: &mut Conn, source: Source, epoch: Epoch) -> mysql_async::Result<Mark> {
    let logged: Option<String> = match source {
        Source::Domain(_) => conn.query_first("SELECT @@global.gtid_binlog_pos").await?,
        Source::Uuid(_) => conn.query_first("SELECT @@global.gtid_executed").await?,
    };
    Ok(mark_in(&logged.unwrap_or_default(), source, epoch).unwrap_or_default())
}

/// The last transaction of a source in a list of GTIDs.
fn mark_in(gtids: &str, source: Source, epoch: Epoch) -> Option<Mark> {
    let mut last = gtids.split(',').filter_map(|member| {
        // On MySQL a member is `uuid:1-5:7-9`; its last number is the newest.
        let gtid = match (source, member.trim().split_once(':')) {
            (Source::Uuid(_), Some((uuid, intervals))) => {
                let last = intervals.rsplit([':', '-']).next()?;
                format!("{uuid}:{last}")
            }
            _ => member.trim().to_owned(),
        };
        let seq = source.seq_of(&gtid)?;
        Some(Mark { position: Position { epoch, seq: Sequence(seq) }, gtid, checksum: None })
    });
    last.next_back()
}

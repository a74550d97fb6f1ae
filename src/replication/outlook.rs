//! What is about to go wrong with a slave, told before it does: rows that its server will not take, binlog that the
//! master's server will purge before the slave has had it, and acknowledgements that can't come from a server that is
//! registered twice.

use std::sync::Arc;

use futures_util::future::join_all;
use mysql_async::Conn;
use tokio::time::timeout;

use super::{
    hub::Shared,
    protocol::Mark,
    retained::{Reach, Retained, ServerSettings},
    sender::Slave,
    server_facts::{PacketShortage, ServerFacts},
};
use crate::capture::CaptureError;

/// What was found about a slave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outlook {
    /// Its server's limit of a packet when it last said so, in bytes.
    pub(crate) max_allowed_packet: Option<u64>,
    /// Seconds until the master's server is due to purge the binlog that it needs next. None where nothing is to be
    /// purged, or memory holds what it needs.
    pub(crate) binlog_left_seconds: Option<u64>,
    /// What it is and how it is mended. The same trouble has the same text each time.
    pub(crate) warnings: Vec<String>,
}

/// Looks at all slaves again and again, and at once when one is registered.
pub(super) async fn watch(shared: &Shared) {
    shared.ready().await;
    let mut retained = Retained::default();
    loop {
        if let Err(error) = look(shared, &mut retained).await {
            // If the server is away capture says so, and what was found before stays.
            unseen(&error);
        }
        // Either is a reason to look again.
        let _ = timeout(shared.outlook_interval(), shared.registered.notified()).await;
    }
}

async fn look(shared: &Shared, retained: &mut Retained) -> Result<(), CaptureError> {
    let slaves = shared.all_slaves();
    if slaves.is_empty() {
        return Ok(());
    }
    let mut conn = Conn::new(shared.mysql()).await.map_err(CaptureError::Connect)?;
    let settings = ServerSettings::read(&mut conn).await.map_err(CaptureError::Connection)?;
    retained.list(&mut conn).await.map_err(CaptureError::Connection)?;
    let facts = join_all(slaves.iter().map(|slave| ask(shared, slave))).await;
    let alike = shared.acks.alike();
    for (slave, facts) in slaves.iter().zip(facts) {
        let told = facts.as_ref().map(|facts| facts.max_allowed_packet);
        let mut outlook =
            Outlook { max_allowed_packet: told.or(slave.outlook().max_allowed_packet), ..Outlook::default() };
        if let Some(shortage) =
            outlook.max_allowed_packet.and_then(|own| PacketShortage::between(own, settings.max_allowed_packet))
        {
            outlook.warnings.push(format!("{}; {}", shortage.found(), shortage.mend()));
        }
        let stands = facts.and_then(|facts| place(shared, facts)).or_else(|| slave.mark());
        // What memory holds the slave gets from there.
        if let Some(mark) = stands.filter(|mark| !shared.ring.lock().reaches(mark)) {
            match retained.reach(&mut conn, shared, settings, &mark).await {
                Ok(reach) => {
                    outlook.binlog_left_seconds = left(&reach);
                    outlook.warnings.extend(warning(&reach));
                }
                // A file may have been purged just now.
                Err(error) => unseen(&error),
            }
        }
        outlook.warnings.extend(alike.iter().find(|ids| ids.contains(&slave.id)).map(|ids| twice(ids)));
        slave.set_outlook(outlook);
    }
    // It ends either way.
    let _ = conn.disconnect().await;
    Ok(())
}

fn unseen(error: &CaptureError) {
    tracing::debug!(error = error as &dyn std::error::Error, "can't look what lies before the slaves");
}

fn twice(ids: &[String]) -> String {
    format!(
        "{} are one server, which counts once for `cluster.ack`: write `cluster.slaves` as the slaves register themselves, and \
         remove the other with `DELETE /admin/slaves?id=…`",
        ids.join(" and ")
    )
}

/// A slave that does not answer, or can't tell, is told of by its sender.
async fn ask(shared: &Shared, slave: &Arc<Slave>) -> Option<ServerFacts> {
    shared.target(slave).server().await.ok()
}

/// Where a slave says that it stands, if that is in this master's history.
fn place(shared: &Shared, facts: ServerFacts) -> Option<Mark> {
    facts.mark.filter(|_| facts.cluster == shared.cluster().0)
}

fn left(reach: &Reach) -> Option<u64> {
    match reach {
        Reach::Kept { left_seconds, .. } => *left_seconds,
        Reach::Gone | Reach::Newest => None,
    }
}

fn warning(reach: &Reach) -> Option<String> {
    const MEND: &str = "let the slave catch up, or raise binlog_expire_logs_seconds on the master's server and in its \
                        my.cnf: a slave that falls off the end of the binlog needs a new snapshot";
    match reach {
        Reach::Newest => None,
        Reach::Gone => Some(
            "the master's server has purged the binlog that it needs next, so it needs a new snapshot: set \
             `cluster.resnapshot = true` on the slave, or empty its server, and start it again"
                .to_owned(),
        ),
        Reach::Kept { file, left_seconds: Some(0), expiry_seconds, .. } => Some(format!(
            "the master's server purges the binlog file {file}, which it needs next, when it begins its next file: the \
             {expiry_seconds} s for which it keeps one are over; {MEND}"
        )),
        Reach::Kept { file, left_seconds: Some(left), expiry_seconds, .. } if *left < expiry_seconds / 2 => {
            Some(format!(
                "the master's server may soon purge the binlog file {file}, which it needs next: more than half of the \
             {expiry_seconds} s for which it keeps one are over; {MEND}"
            ))
        }
        Reach::Kept { file, is_next_to_go: true, .. } => Some(format!(
            "the binlog file {file}, which it needs next, is the oldest that the master's server has, and the ones before \
             it were purged: purge no more of them until the slave has caught up, or it needs a new snapshot"
        )),
        Reach::Kept { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(left_seconds: Option<u64>, is_next_to_go: bool) -> Reach {
        Reach::Kept { file: "log.000007".to_owned(), left_seconds, expiry_seconds: 1000, is_next_to_go }
    }

    #[test]
    fn a_file_is_warned_of_when_half_of_its_time_is_over() {
        let says = |reach| warning(&reach).unwrap_or_default();
        assert_eq!(says(Reach::Newest), "");
        assert_eq!(says(kept(Some(500), false)), "");
        assert!(says(kept(Some(499), true)).contains("may soon purge the binlog file log.000007"));
        assert!(says(kept(Some(0), true)).contains("when it begins its next file"));
        assert_eq!(says(kept(Some(499), true)), says(kept(Some(498), true)), "the same trouble has one text");
        assert_eq!(says(kept(None, false)), "");
        assert!(says(kept(None, true)).contains("purge no more"));
        assert!(says(kept(Some(900), true)).contains("purge no more"));
        assert!(says(Reach::Gone).contains("needs a new snapshot"));
    }
}

//! Which part of its binlog the master's server still has, and how long it keeps it.

use std::collections::HashMap;

use mysql_async::{Conn, Row, prelude::Queryable};

use super::{hub::Shared, protocol::Mark};
use crate::capture::{CaptureError, begun_at};

/// What the server says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ServerSettings {
    /// `max_allowed_packet`, in bytes.
    pub(super) max_allowed_packet: u64,
    /// For how many seconds it keeps a binlog file after its end; none if it purges nothing by itself.
    expiry_seconds: Option<u64>,
    /// Its clock, in seconds since 1970 (UTC).
    now: u64,
}

impl ServerSettings {
    pub(super) async fn read(conn: &mut Conn) -> mysql_async::Result<Self> {
        let now: Option<u64> = conn.query_first("SELECT UNIX_TIMESTAMP()").await?;
        let variables: HashMap<String, String> = conn
            .query::<(String, String), _>(
                "SHOW GLOBAL VARIABLES WHERE Variable_name IN \
                 ('max_allowed_packet', 'binlog_expire_logs_seconds', 'binlog_expire_logs_auto_purge')",
            )
            .await?
            .into_iter()
            .collect();
        let number = |name: &str| variables.get(name).and_then(|value| value.parse().ok()).unwrap_or(0);
        let purges = variables.get("binlog_expire_logs_auto_purge").is_none_or(|value| value == "ON");
        Ok(Self {
            max_allowed_packet: number("max_allowed_packet"),
            expiry_seconds: Some(number("binlog_expire_logs_seconds")).filter(|seconds| purges && *seconds > 0),
            now: now.unwrap_or_default(),
        })
    }
}

/// What the server still has of the binlog that a slave needs next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Nothing: that was purged.
    Gone,
    /// All of it, in the file that is being written.
    Newest,
    /// All of it, from an older file on.
    Kept {
        /// The file.
        file: String,
        /// Seconds until it is due to be purged, 0 if it is due now; none if the server purges nothing by itself.
        left_seconds: Option<u64>,
        /// For how many seconds the server keeps a file.
        expiry_seconds: u64,
        /// Whether it is the oldest one, and others before it were purged.
        is_next_to_go: bool,
    },
}

/// Knows the binlog files of the server. What it has found out about one of them does not change, so it is kept.
#[derive(Debug, Default)]
pub(super) struct Retained {
    /// In the order in which they were written.
    files: Vec<String>,
    known: HashMap<String, Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// The last transaction before it.
    begins_after: Option<Mark>,
    /// When it was begun, in seconds since 1970 (UTC).
    begun_at: Option<u64>,
}

impl Retained {
    /// Asks which files there are.
    pub(super) async fn list(&mut self, conn: &mut Conn) -> mysql_async::Result<()> {
        let rows: Vec<Row> = conn.query("SHOW BINARY LOGS").await?;
        self.files = rows.iter().filter_map(|row| row.get_opt::<String, _>(0)?.ok()).collect();
        let files = &self.files;
        self.known.retain(|name, _| files.contains(name));
        Ok(())
    }

    /// Finds what follows a mark.
    pub(super) async fn reach(
        &mut self,
        conn: &mut Conn,
        shared: &Shared,
        settings: ServerSettings,
        mark: &Mark,
    ) -> Result<Reach, CaptureError> {
        // The last file that begins at the mark or before it.
        let (mut from, mut to) = (0, self.files.len());
        while from < to {
            let middle = from + (to - from) / 2;
            match self.begins_after(conn, shared, middle).await?.position <= mark.position {
                true => from = middle + 1,
                false => to = middle,
            }
        }
        let Some(at) = from.checked_sub(1) else { return Ok(Reach::Gone) };
        if from == self.files.len() {
            return Ok(Reach::Newest);
        }
        let left_seconds = match settings.expiry_seconds {
            // A file ends when the next one begins; the server goes by the time of its last write.
            Some(expiry) => Some((self.begun_at(shared, from).await? + expiry).saturating_sub(settings.now)),
            None => None,
        };
        let is_next_to_go = at == 0 && self.begins_after(conn, shared, 0).await? != Mark::default();
        let expiry_seconds = settings.expiry_seconds.unwrap_or_default();
        Ok(Reach::Kept { file: self.files[at].clone(), left_seconds, expiry_seconds, is_next_to_go })
    }

    /// What stands before a file, by the list of GTIDs at its head.
    async fn begins_after(&mut self, conn: &mut Conn, shared: &Shared, index: usize) -> Result<Mark, CaptureError> {
        let name = &self.files[index];
        let known = self.known.entry(name.clone()).or_default();
        if let Some(mark) = &known.begins_after {
            return Ok(mark.clone());
        }
        let sql = format!("SHOW BINLOG EVENTS IN '{}' LIMIT {HEAD_EVENTS}", name.replace('\'', "''"));
        let events: Vec<Row> = conn.query(sql).await.map_err(CaptureError::Connection)?;
        let list = events.iter().find_map(|event| {
            let kind: String = event.get_opt("Event_type")?.ok()?;
            let is_list = ["Gtid_list", "Previous_gtids"].contains(&kind.as_str());
            if is_list { event.get_opt::<String, _>("Info")?.ok() } else { None }
        });
        let gtids = list.unwrap_or_default();
        let mark = shared.mark_in(gtids.trim_matches(['[', ']'])).unwrap_or_default();
        known.begins_after = Some(mark.clone());
        Ok(mark)
    }

    async fn begun_at(&mut self, shared: &Shared, index: usize) -> Result<u64, CaptureError> {
        let name = &self.files[index];
        let known = self.known.entry(name.clone()).or_default();
        match known.begun_at {
            Some(at) => Ok(at),
            None => Ok(*known.begun_at.insert(begun_at(shared.mysql(), name).await?)),
        }
    }
}

/// Among so many events at a file's head is its list of GTIDs.
const HEAD_EVENTS: u32 = 4;

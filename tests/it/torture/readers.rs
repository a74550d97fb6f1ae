//! Clients that read on a slave all the time.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use mysql_async::{Conn, Error, Opts, prelude::Queryable};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    history::{History, Sight},
    load::{ACCOUNTS, BALANCE},
};

/// Clients that read.
pub(super) struct Readers(Vec<JoinHandle<()>>);

/// How long a reader waits for an answer before it connects anew.
const PATIENCE: Duration = Duration::from_secs(10);

impl Readers {
    /// A reader on each slave, through its node.
    pub(super) fn start(slaves: Vec<Opts>, history: &Arc<Mutex<History>>) -> Self {
        let readers = slaves.into_iter().enumerate().map(|(slave, opts)| {
            let history = Arc::clone(history);
            tokio::spawn(async move {
                loop {
                    // A slave that is down is read again when it is back.
                    let _ = timeout(PATIENCE, read(slave, opts.clone(), &history)).await;
                    sleep(Duration::from_millis(50)).await;
                }
            })
        });
        Self(readers.collect())
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// Reads until the connection breaks.
async fn read(slave: usize, opts: Opts, history: &Mutex<History>) -> Result<(), Error> {
    let mut conn = Conn::new(opts).await?;
    loop {
        match timeout(PATIENCE, look(slave, &mut conn, history)).await {
            Ok(Ok(())) => {}
            // The applier needed the table, or its definition has just changed.
            Ok(Err(Error::Server(_))) => conn.query_drop("ROLLBACK").await?,
            _ => return Ok(()),
        }
        sleep(Duration::from_millis(60)).await;
    }
}

/// One transaction, all of which sees the same moment of the slave.
async fn look(slave: usize, conn: &mut Conn, history: &Mutex<History>) -> Result<(), Error> {
    conn.query_drop("START TRANSACTION WITH CONSISTENT SNAPSHOT").await?;
    let seq: Option<u64> = conn.query_first("SELECT seq FROM towline.position").await?;
    let money: Option<(u64, Option<i64>)> = conn.query_first("SELECT COUNT(*), SUM(balance) FROM bank.account").await?;
    let lists: Vec<(u64, u64, u64, u32)> = conn
        .query("SELECT k, COUNT(*), MAX(n), BIT_XOR(CRC32(CONCAT_WS('-', n, item))) FROM bank.list GROUP BY k")
        .await?;
    conn.query_drop("COMMIT").await?;
    let mut history = history.lock().unwrap();
    let whole = ACCOUNTS as i64 * BALANCE;
    if money != Some((ACCOUNTS, Some(whole))) {
        history.violated(format!("slave {slave} at {seq:?} has accounts of {money:?} in place of {whole}"));
    }
    if let Some((k, count, last, _)) = lists.iter().find(|(_, count, last, _)| count != last) {
        history.violated(format!("slave {slave} at {seq:?} has {count} items up to {last} in list {k}"));
    }
    let lists = lists.into_iter().map(|(k, count, _, seen)| (k, count, seen)).collect();
    history.saw(Sight { slave, seq: seq.unwrap_or(0), lists });
    Ok(())
}

//! What the layer stack asks of replication about a commit.

use std::sync::atomic::Ordering;

use towline_middleware::{Acknowledgement, BoxFuture, Position, Replication};

use super::{Hub, HubOptions};
use crate::{config::AckOnTimeout, replication::acks::Missing};

impl Replication for Hub {
    fn position_of(&self, gtid: &str) -> Option<Position> {
        self.shared.history.get()?.position_of(gtid)
    }

    fn known(&self) -> Position {
        self.shared.captured.borrow().position
    }

    fn waits(&self) -> bool {
        self.shared.acks.wanted()
    }

    fn acknowledged(&self, position: Position, known: Position) -> BoxFuture<'_, Acknowledgement> {
        let HubOptions { ack_timeout, ack_on_timeout, .. } = self.shared.options;
        Box::pin(async move {
            let why = if position <= known {
                self.shared.doubted.notify_one();
                format!("{known} was captured before it began: the server has lost its history")
            } else {
                let mut lost = self.shared.lost.subscribe();
                let lost = lost.wait_for(Option::is_some);
                tokio::select! {
                    // The sender lives in `self`.
                    lost = lost => lost.ok().and_then(|lost| lost.clone()).unwrap_or_default(),
                    waited = self.shared.acks.wait(position, ack_timeout) => match waited {
                        Ok(()) => return Acknowledgement::Given,
                        Err(Missing { have, wanted, registered }) => {
                            let alike = self.shared.acks.alike();
                            let alike = alike.iter().map(|ids| format!("; {} are one server: remove one", ids.join(" and ")));
                            format!(
                                "within {ack_timeout:?} only {have} of {wanted} wanted slaves have applied it \
                                 ({registered} registered{})",
                                alike.collect::<String>()
                            )
                        }
                    },
                }
            };
            Acknowledgement::Missing {
                reason: format!("Committed on the master at {position}, but {why}"),
                is_error: ack_on_timeout == AckOnTimeout::Error,
            }
        })
    }

    fn acknowledged_gtid<'a>(&'a self, gtid: &'a str, known: Position) -> BoxFuture<'a, Acknowledgement> {
        let HubOptions { ack_timeout, ack_on_timeout, .. } = self.shared.options;
        Box::pin(async move {
            // Clients may commit before a new process has asked the master who it is.
            let told = tokio::time::timeout(ack_timeout, self.shared.ready()).await;
            match told.ok().and_then(|()| self.position_of(gtid)) {
                Some(position) => self.acknowledged(position, known).await,
                None => Acknowledgement::Missing {
                    reason: format!(
                        "Committed on the master as {gtid}, but within {ack_timeout:?} replication knew no position of it"
                    ),
                    is_error: ack_on_timeout == AckOnTimeout::Error,
                },
            }
        })
    }

    fn misclassified(&self, key: u64) {
        self.shared.options.classifier.learn_write(key);
    }

    fn unlogged_write(&self) {
        self.shared.unlogged_writes.fetch_add(1, Ordering::Relaxed);
    }
}

//! The columns of a cursor: they come with the execute that opens it, and its rows later, with each fetch.

use std::sync::Arc;

use super::ResultReader;
use crate::{Command, Completion, Final, Part, Prepared, Reply, status};

/// A longer packet than any column's definition.
const PACKET_BYTES_MAX: usize = 1 << 20;

/// Keeps the columns of the cursor that an execute opens, for the fetches that follow.
pub(crate) struct CursorColumns {
    prepared: Arc<Prepared>,
    /// None when what comes can't be read.
    reader: Option<ResultReader>,
}

impl CursorColumns {
    /// None for a command that asks for no cursor.
    pub(crate) fn of(command: &Command) -> Option<Self> {
        let prepared = command.prepared().filter(|_| command.opens_cursor())?.clone();
        prepared.set_cursor_columns(None);
        Some(Self { prepared, reader: Some(ResultReader::new(command, PACKET_BYTES_MAX)) })
    }

    /// Looks at the reply as it streams by.
    pub(crate) fn watch(mut self, reply: Reply) -> Reply {
        if reply.is_complete() {
            reply.ready().for_each(|part| self.follow(part));
            return reply;
        }
        reply.inspect(move |part| self.follow(part))
    }

    fn follow(&mut self, part: &Part) {
        let Some(reader) = &mut self.reader else { return };
        match part {
            // A server may give the rows at once, and open no cursor.
            Part::Packets(_) if reader.is_at_rows() => {}
            Part::Packets(bytes) => {
                reader.feed(bytes);
                while !reader.is_at_rows() {
                    match reader.next_packet() {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => return self.reader = None,
                    }
                }
            }
            Part::Final { end: Final::Ok(Completion { status, .. }), .. } if status & status::CURSOR_EXISTS != 0 => {
                self.prepared.set_cursor_columns(Some(reader.columns().into()));
            }
            Part::Final { .. } | Part::Turn(_) => {}
        }
    }
}

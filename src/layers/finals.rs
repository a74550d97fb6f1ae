//! Changing what a reply ends with.

use bytes::Bytes;
use towline_middleware::{BoxFuture, Error, Final, Part, Parts, Reply};

/// The reply with each end of a result, error or not, as `edit` leaves it.
pub(super) fn map_finals(mut reply: Reply, edit: fn(&mut Final)) -> Reply {
    if reply.is_complete() {
        reply.ready_finals().for_each(edit);
        return reply;
    }
    reply.wrap(|parts| Box::new(Edited { parts, edit }))
}

struct Edited {
    parts: Box<dyn Parts>,
    edit: fn(&mut Final),
}

impl Parts for Edited {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Part>, Error>> {
        Box::pin(async {
            let mut part = self.parts.next().await?;
            if let Some(Part::Final { end, .. }) = &mut part {
                (self.edit)(end);
            }
            Ok(part)
        })
    }

    fn answer(&mut self, payload: Bytes) -> BoxFuture<'_, Result<(), Error>> {
        self.parts.answer(payload)
    }

    fn left(&mut self) -> BoxFuture<'_, Error> {
        self.parts.left()
    }
}

//! A body that is lines of JSON, read line by line.

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

/// What such a body says that it is.
pub(crate) const NDJSON: &str = "application/x-ndjson";

/// The longest line: a row event of 1 GB, the longest that there is, in base64.
const LINE_BYTES_MAX: usize = 1536 << 20;

const LONG_LINE: usize = 4 << 20;

/// The lines of a body.
#[derive(Debug)]
pub(crate) struct Lines {
    body: Body,
    /// What has come and was not given out; no line feed stands before `searched`.
    come: BytesMut,
    searched: usize,
}

impl Lines {
    pub(crate) fn new(body: Body) -> Self {
        Self { body, come: BytesMut::new(), searched: 0 }
    }

    /// The next line, without its line feed; none at the end. What stands behind the last line feed is no line.
    ///
    /// # Errors
    /// The body broke off or a line is too long.
    ///
    /// # Cancel safety
    /// Safe: what has come stays in `self`.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, axum::Error> {
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.come[self.searched..]) {
                let mut line = self.come.split_to(self.searched + at + 1);
                line.truncate(line.len() - 1);
                self.searched = 0;
                if line.len() > LONG_LINE {
                    // The rest is short, but would keep all of the memory that the line came in.
                    self.come = BytesMut::from(&self.come[..]);
                }
                return Ok(Some(line.freeze()));
            }
            self.searched = self.come.len();
            if self.searched > LINE_BYTES_MAX {
                return Err(axum::Error::new(LineTooLong));
            }
            let Some(frame) = self.body.frame().await.transpose()? else { return Ok(None) };
            if let Ok(data) = frame.into_data() {
                self.come.extend_from_slice(&data);
            }
        }
    }

    /// What was not read yet.
    pub(crate) fn into_body(self) -> Body {
        self.body
    }
}

#[derive(Debug, thiserror::Error)]
#[error("a line has more than {LINE_BYTES_MAX} bytes")]
struct LineTooLong;

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    #[tokio::test]
    async fn lines_come_whole_however_they_are_cut() {
        let text = b"one\n\nthree, longer\nno line";
        for length in 1..=text.len() {
            let pieces: Vec<_> = text.chunks(length).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect();
            let mut lines = Lines::new(Body::from_stream(stream::iter(pieces)));
            for expected in ["one", "", "three, longer"] {
                assert_eq!(lines.next().await.unwrap().unwrap(), expected, "in pieces of {length}");
            }
            assert_eq!(lines.next().await.unwrap(), None);
        }
    }
}

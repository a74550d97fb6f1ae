//! Finds in the binlog what was prepared, and reads it.

use std::collections::BTreeMap;

use super::{
    super::{
        CaptureError, CaptureOptions, Captured, Place,
        assemble::Assembler,
        event::{Event, Query, kind},
        flavor::{Gtid, Source},
        format,
        stream::{EVENT_BYTES_MAX, EventStream, FILE_START},
        unpack,
    },
    Completion, IN_ONE_PHASE, Prepared, PreparedAt, PreparedTransactions, Unread, Xid,
};

/// Finds and reads a prepared transaction over connections of its own.
#[derive(Debug)]
pub(in crate::capture) struct Recovery {
    options: CaptureOptions,
    source: Source,
    unread: Unread,
    stream: Option<EventStream>,
    assembler: Option<Assembler>,
    search: Search,
}

impl Recovery {
    pub(in crate::capture) fn new(options: &CaptureOptions, source: Source, unread: Unread) -> Self {
        let search = Search { file: unread.place.file.clone(), ..Search::default() };
        Self { options: options.clone(), source, unread, stream: None, assembler: None, search }
    }

    /// The transaction as it was prepared; none if it is rolled back. What the search has come by besides is added to
    /// `known`.
    ///
    /// # Errors
    /// [`CaptureError::PrepareGone`] if the binlog does not hold it or it was committed before, and as
    /// [`Capture::next`](crate::capture::Capture::next).
    ///
    /// # Cancel safety
    /// Safe: the next call goes on.
    pub(in crate::capture) async fn run(
        &mut self,
        known: &mut PreparedTransactions,
    ) -> Result<Option<Captured>, CaptureError> {
        let Completion { xid, commits } = self.unread.completion.clone();
        let at = match &self.unread.prepared {
            Some(at) => at.clone(),
            None => {
                let found = self.find().await;
                known.add_older(std::mem::take(&mut self.search).open());
                known.take(&xid);
                self.stream = None;
                let at = match found {
                    // Nobody has anything of it, and nobody gets anything.
                    Ok(_) | Err(CaptureError::BinlogGone { .. }) if !commits => return Ok(None),
                    found => found.map_err(|error| self.named(error))?,
                };
                self.unread.prepared = Some(at.clone());
                at
            }
        };
        self.read(&at).await.map(Some).map_err(|error| self.named(error))
    }

    /// Reads it at its place.
    async fn read(&mut self, at: &PreparedAt) -> Result<Captured, CaptureError> {
        let stream = opened(&mut self.stream, &self.options, &at.file, at.begin.into()).await?;
        let assembler =
            self.assembler.get_or_insert_with(|| Assembler::new(&self.options, self.source).starting_at(at));
        loop {
            let event = stream.next().await.map_err(|error| error.at(assembler.last_place()))?;
            assembler.push(event)?;
            if let Some(end) = assembler.pop() {
                let gtid = end.transaction.gtid;
                return match assembler.prepared.take(&self.unread.completion.xid) {
                    Some(Prepared { kept: Some(captured), .. }) if gtid == at.gtid => Ok(captured),
                    _ => Err(CaptureError::Forked {
                        after: at.gtid.clone(),
                        detail: format!("{gtid} follows in its place"),
                    }),
                };
            }
        }
    }

    /// Looks for its place: in the file that it is completed in, and in those before.
    async fn find(&mut self) -> Result<PreparedAt, CaptureError> {
        loop {
            let file = self.search.file.clone();
            let stream = opened(&mut self.stream, &self.options, &file, FILE_START).await?;
            loop {
                let event = stream.next().await.map_err(|error| error.at(self.unread.place.clone()))?;
                if !self.search.take(event, &self.unread.place)? {
                    break;
                }
            }
            self.search.end_file();
            match self.search.all.get(&self.unread.completion.xid) {
                Some(Some(at)) => return Ok(at.clone()),
                Some(None) => {
                    return Err(self.gone("it was committed before, and the server has lost that when it died"));
                }
                None => {}
            }
            self.search.file = format::before(&file).ok_or_else(|| CaptureError::BinlogGone {
                after: String::new(),
                detail: "no older file is left".to_owned(),
            })?;
            self.stream = None;
        }
    }

    fn named(&self, error: CaptureError) -> CaptureError {
        match error {
            CaptureError::BinlogGone { detail, .. } => self.gone(&detail),
            other => other,
        }
    }

    fn gone(&self, detail: &str) -> CaptureError {
        let Unread { completion, place, .. } = &self.unread;
        let (xid, detail) = (completion.xid.to_string(), detail.to_owned());
        CaptureError::PrepareGone { place: place.clone(), xid, detail }
    }
}

/// The stream; if there is none yet, a new one from this place on.
async fn opened<'a>(
    stream: &'a mut Option<EventStream>,
    options: &CaptureOptions,
    file: &str,
    position: u64,
) -> Result<&'a mut EventStream, CaptureError> {
    if stream.is_none() {
        *stream = Some(EventStream::open_at(options, file, position).await?.0);
    }
    Ok(stream.as_mut().expect("it was just opened"))
}

/// What was prepared and committed in some files, read one by one from the newest to the oldest.
#[derive(Debug, Default)]
struct Search {
    /// The file that is read.
    file: String,
    /// The transaction that the last event stood in, and where that begins.
    group: Option<(Gtid, u32)>,
    /// What the file holds so far: where each is prepared, or none where it was committed after that.
    found: BTreeMap<Xid, Option<PreparedAt>>,
    /// What the newer files hold.
    all: BTreeMap<Xid, Option<PreparedAt>>,
}

impl Search {
    /// Takes an event; false if the file, or the part of it that stands before this place, ends here.
    fn take(&mut self, event: Event, until: &Place) -> Result<bool, CaptureError> {
        match event.kind() {
            kind::ROTATE => return Ok(format::rotated_to(&event) == self.file),
            kind::MARIADB_GTID | kind::GTID | kind::XA_PREPARE | kind::QUERY | kind::MARIADB_QUERY_COMPRESSED => {}
            _ => return Ok(true),
        }
        let gtid = self.group.as_ref().map_or_else(String::new, |(gtid, _)| gtid.text.clone());
        let place = Place { file: self.file.clone(), end: event.end(), gtid };
        if !event.is_intact() {
            return Err(CaptureError::Checksum(place));
        }
        let malformed = |what| CaptureError::Malformed { place: place.clone(), what };
        let event = unpack::unpacked(event, EVENT_BYTES_MAX).ok_or_else(|| malformed("its compressed part"))?;
        match event.kind() {
            kind::XA_PREPARE => {
                let xid = Xid::prepared_by(event.body()).ok_or_else(|| malformed("its XA transaction"))?;
                let (gtid, begin) =
                    self.group.take().ok_or_else(|| malformed("its transaction, which has not begun"))?;
                let at = PreparedAt { file: self.file.clone(), begin, gtid: gtid.text, seq: gtid.seq };
                self.found.insert(xid, (event.body().first() != Some(&IN_ONE_PHASE)).then_some(at));
            }
            kind::QUERY => {
                let query = Query::read(event.body()).ok_or_else(|| malformed("its statement"))?;
                // After a rollback it may be prepared again, or its name has another transaction.
                if let Some(Completion { xid, commits: true }) = Completion::read(query.sql) {
                    self.found.insert(xid, None);
                }
            }
            _ => {
                let gtid = Gtid::read(&event).ok_or_else(|| malformed("its GTID"))?;
                if gtid.text == until.gtid {
                    return Ok(false);
                }
                self.group = Some((gtid, event.begin()));
            }
        }
        Ok(true)
    }

    /// The file was read to its end.
    fn end_file(&mut self) {
        for (xid, at) in std::mem::take(&mut self.found) {
            self.all.entry(xid).or_insert(at);
        }
        self.group = None;
    }

    /// What was not committed.
    fn open(self) -> impl Iterator<Item = (Xid, PreparedAt)> {
        self.all.into_iter().filter_map(|(xid, at)| Some((xid, at?)))
    }
}

//! The state machine of a reply: which packet comes next, and where the reply ends. No I/O.
//!
//! Rows are passed on as bytes; only the header of a frame and the first byte of a packet are looked at.

use bytes::{Buf, Bytes, BytesMut};
use towline_middleware::{CommandKind, Final, Head, Part, ServerError, status};

use crate::wire::{
    Cursor, Malformed, eof, err,
    frame::{HEADER_LEN, Header, PAYLOAD_MAX, put_short_packet},
    ok,
};

/// The first byte of "send me this file".
const INFILE: u8 = 0xfb;
/// The answer to a prepare that worked. MySQL 9 answers some that it refuses by a plain OK, which is shorter.
const PREPARE_OK_LEN: usize = 12;
/// Flags about one query: no good index, no index, last row sent, slow.
const OF_ONE_QUERY: u16 = 0x0010 | 0x0020 | 0x0080 | 0x0800;

/// What the reader has to say about the bytes that it was shown.
#[derive(Debug)]
pub(crate) enum Step {
    /// A piece of the reply.
    Part(Part),
    /// It needs more bytes.
    NeedMore,
    /// The reply is over.
    Done,
}

/// Where in a reply the next packet stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At the first packet of a result.
    First,
    /// So many column definitions are to come.
    Columns(u64),
    /// Between column definitions and rows, where a client without DEPRECATE_EOF wants an EOF.
    AfterColumns,
    /// At a row, or the packet that ends them.
    Rows,
    /// The server waits for a file of the client's.
    Infile,
    /// So many definitions of parameters and of columns are to come.
    Prepared(u16, u16),
    /// After one of those groups, where a client without DEPRECATE_EOF wants an EOF.
    AfterPrepared(u16),
    /// After the last packet.
    Done,
}

/// What client and server have agreed on about the form of replies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    /// Whether rows end in an OK for this client; otherwise EOF packets are put in as it expects them.
    pub(crate) deprecate_eof: bool,
    /// Whether a result may leave out column definitions that the client has already.
    pub(crate) cache_metadata: bool,
}

/// Reads the reply to one command.
#[derive(Debug)]
pub(crate) struct ReplyReader {
    kind: CommandKind,
    state: State,
    head: Option<Head>,
    form: Form,
    /// How many packets were put in: later ones are numbered higher by so much.
    shift: u8,
    /// Bytes of the current frame that are still to be passed on.
    passing: usize,
    /// The next frame goes on with the packet of the one before.
    continues: bool,
    /// The number of the last packet from the server.
    sequence: u8,
    /// The status for EOF packets put in.
    status: u16,
}

impl ReplyReader {
    /// A reader for the reply to a command of this kind.
    pub(crate) fn new(kind: CommandKind, form: Form, status: u16) -> Self {
        let rows_at_once = matches!(kind, CommandKind::Fetch | CommandKind::FieldList);
        Self {
            kind,
            state: if rows_at_once { State::Rows } else { State::First },
            head: rows_at_once.then_some(Head::Rows),
            form,
            shift: 0,
            passing: 0,
            continues: false,
            sequence: 0,
            status: lasting(status),
        }
    }

    /// What the first packet said; none before it.
    pub(crate) fn head(&self) -> Option<Head> {
        self.head
    }

    /// The number that the next packet to the server must have, when it is the client's turn.
    pub(crate) fn next_sequence(&self) -> u8 {
        self.sequence.wrapping_add(1)
    }

    /// Records what the client has answered, which goes to the server as this payload. An empty one ends a file.
    pub(crate) fn answered(&mut self, payload: &[u8]) {
        let frames = payload.len() / PAYLOAD_MAX + 1;
        self.sequence = self.sequence.wrapping_add(frames as u8);
        if self.state == State::Infile && payload.is_empty() {
            self.state = State::First;
        }
    }

    /// The number that an error of the node's own would have for the client; none where none can stand, which is within
    /// a packet.
    pub(crate) fn sequence_of_error(&self) -> Option<u8> {
        let between_packets = self.passing == 0 && !self.continues;
        between_packets.then(|| self.sequence.wrapping_add(self.shift).wrapping_add(1))
    }

    /// A packet of the node's own, put in after an answer of the client's that the server does not get: the client
    /// answers again.
    pub(crate) fn put_in_turn(&mut self, payload: &[u8]) -> Part {
        self.shift = self.shift.wrapping_add(2);
        let mut packet = Vec::with_capacity(HEADER_LEN + payload.len());
        put_short_packet(&mut packet, self.sequence.wrapping_add(self.shift), |out| out.extend_from_slice(payload));
        Part::Turn(packet.into())
    }

    /// The node has answered once and read once more without the client.
    pub(crate) fn leave_out_turn(&mut self) {
        self.shift = self.shift.wrapping_sub(2);
    }

    /// Takes the next piece off the front of `buf`.
    ///
    /// # Errors
    /// The server sent what can't stand here.
    pub(crate) fn step(&mut self, buf: &mut BytesMut) -> Result<Step, Malformed> {
        let mut at = 0;
        while self.pass(buf, &mut at) {
            match self.state {
                State::AfterPrepared(_) if at == 0 => return Ok(self.after_prepared()),
                // The next packet of the file, until an empty one.
                State::Infile => return Ok(Step::Part(Part::Turn(Bytes::new()))),
                _ => {}
            }
            let Some(header) = Header::decode(&buf[at..]) else { break };
            match self.state {
                State::Done => break,
                State::Columns(_) | State::Prepared(..) => {}
                State::Rows if self.continues || !ends_rows(header, &buf[at..])? => {}
                // What is before a packet that must be understood goes out first.
                _ if at > 0 => break,
                State::AfterColumns => match self.after_columns(header, buf) {
                    Some(step) => return Ok(step),
                    None => break,
                },
                State::AfterPrepared(_) | State::Infile => break,
                State::First | State::Rows if !whole_packet(header, buf) => break,
                State::First => return self.first(header, take_packet(buf)),
                State::Rows => return self.end_of_rows(header, &take_packet(buf)),
            }
            // A row whose first byte is not here yet can't be told from the end of rows.
            if self.state == State::Rows && !self.continues && header.len > 0 && buf.len() <= at + HEADER_LEN {
                break;
            }
            self.start_passing(header, &mut buf[at..]);
        }
        Ok(match at {
            0 if self.state == State::Done && self.passing == 0 => Step::Done,
            0 => Step::NeedMore,
            _ => Step::Part(Part::Packets(buf.split_to(at).freeze())),
        })
    }

    /// Passes on what is here of the current frame. Whether the next frame's turn has come.
    fn pass(&mut self, buf: &BytesMut, at: &mut usize) -> bool {
        let here = self.passing.min(buf.len() - *at);
        *at += here;
        self.passing -= here;
        self.passing == 0
    }

    /// Numbers the frame at the front for the client, and begins to pass it on.
    fn start_passing(&mut self, header: Header, frame: &mut [u8]) {
        self.sequence = header.sequence;
        frame[HEADER_LEN - 1] = header.sequence.wrapping_add(self.shift);
        self.passing = HEADER_LEN + header.len;
        self.continues = header.continues();
        if self.continues {
            return;
        }
        self.state = match self.state {
            State::Columns(1) if self.form.deprecate_eof => State::Rows,
            State::Columns(1) => State::AfterColumns,
            State::Columns(left) => State::Columns(left.saturating_sub(1)),
            State::Prepared(1, columns) => self.prepared(columns),
            State::Prepared(0, 1) => self.prepared(0),
            State::Prepared(0, columns) => State::Prepared(0, columns - 1),
            State::Prepared(parameters, columns) => State::Prepared(parameters - 1, columns),
            other => other,
        };
    }

    /// After a group of a prepared statement's definitions, with `columns` of the other group to come.
    fn prepared(&self, columns: u16) -> State {
        match (self.form.deprecate_eof, columns) {
            (false, _) => State::AfterPrepared(columns),
            (true, 0) => State::Done,
            (true, _) => State::Prepared(0, columns),
        }
    }

    fn first(&mut self, header: Header, packet: Bytes) -> Result<Step, Malformed> {
        self.sequence = header.sequence;
        let payload = packet.slice(HEADER_LEN..);
        let first = *payload.first().ok_or(Malformed("empty reply"))?;
        match (self.kind, first) {
            (CommandKind::Statistics, _) => {
                self.head = Some(Head::Other);
                self.state = State::Done;
                Ok(Step::Part(Part::Packets(packet)))
            }
            (_, err::HEADER) if is_progress(&payload) => {
                self.head.get_or_insert(Head::Other);
                Ok(Step::Part(Part::Packets(self.renumbered(packet))))
            }
            (_, err::HEADER) => self.error(header, &payload),
            (CommandKind::ChangeUser, ok::HEADER) => self.completion(header, &payload, Head::Ok),
            (CommandKind::ChangeUser, _) => {
                self.head.get_or_insert(Head::Turn);
                // "Fast authentication succeeded" is followed by an OK without another word of the client's.
                let goes_on = payload.as_ref() == [0x01, 0x03];
                let packet = self.renumbered(packet);
                Ok(Step::Part(if goes_on { Part::Packets(packet) } else { Part::Turn(packet) }))
            }
            (CommandKind::Prepare, ok::HEADER) if payload.len() >= PREPARE_OK_LEN => self.prepare_ok(packet),
            (CommandKind::Query | CommandKind::Execute, INFILE) => {
                self.head.get_or_insert(Head::Turn);
                self.state = State::Infile;
                Ok(Step::Part(Part::Turn(self.renumbered(packet))))
            }
            (
                CommandKind::Query | CommandKind::Execute | CommandKind::BulkExecute | CommandKind::ProcessInfo,
                1..=0xfa | 0xfc..=0xfe,
            ) => self.column_count(packet, &payload),
            (_, ok::HEADER | eof::HEADER) => self.completion(header, &payload, Head::Ok),
            _ => Err(Malformed("first packet of a reply")),
        }
    }

    fn column_count(&mut self, packet: Bytes, payload: &[u8]) -> Result<Step, Malformed> {
        let mut cursor = Cursor::new(payload);
        let count = cursor.lenenc().filter(|count| *count > 0).ok_or(Malformed("column count"))?;
        let left_out = self.form.cache_metadata && cursor.u8() == Some(0);
        self.head.get_or_insert(Head::Rows);
        self.state = match left_out {
            true if self.form.deprecate_eof => State::Rows,
            true => State::AfterColumns,
            false => State::Columns(count),
        };
        Ok(Step::Part(Part::Packets(self.renumbered(packet))))
    }

    fn prepare_ok(&mut self, packet: Bytes) -> Result<Step, Malformed> {
        let mut cursor = Cursor::new(&packet[HEADER_LEN + 1..]);
        let fields = cursor.u32().zip(cursor.u16()).zip(cursor.u16());
        let ((statement_id, columns), parameters) = fields.ok_or(Malformed("answer to a prepare"))?;
        self.head = Some(Head::Prepared { statement_id, parameters });
        self.state = match (parameters, columns) {
            (0, 0) => State::Done,
            _ => State::Prepared(parameters, columns),
        };
        Ok(Step::Part(Part::Packets(packet)))
    }

    fn completion(&mut self, header: Header, payload: &Bytes, head: Head) -> Result<Step, Malformed> {
        self.head.get_or_insert(head);
        let mut completion = match payload.len() {
            // An EOF packet, which a few commands end in whatever was agreed on.
            5 if payload[0] == eof::HEADER => towline_middleware::Completion {
                ends_rows: true,
                warnings: u16::from_le_bytes([payload[1], payload[2]]),
                status: u16::from_le_bytes([payload[3], payload[4]]),
                ..Default::default()
            },
            _ => ok::decode(payload)?,
        };
        // Only rows have an end of rows; COM_SET_OPTION's answer looks like one too, and is passed on as such.
        completion.ends_rows |= self.state == State::Rows;
        self.status = lasting(completion.status);
        self.state = if completion.has_more() { State::First } else { State::Done };
        Ok(self.end(header, Final::Ok(completion)))
    }

    fn error(&mut self, header: Header, payload: &Bytes) -> Result<Step, Malformed> {
        self.head.get_or_insert(Head::Err);
        self.state = State::Done;
        let error: ServerError = err::decode(payload)?;
        Ok(self.end(header, Final::Err(error)))
    }

    fn end(&self, header: Header, end: Final) -> Step {
        Step::Part(Part::Final { end, sequence: header.sequence.wrapping_add(self.shift) })
    }

    fn end_of_rows(&mut self, header: Header, packet: &Bytes) -> Result<Step, Malformed> {
        self.sequence = header.sequence;
        let payload = packet.slice(HEADER_LEN..);
        match payload[0] {
            err::HEADER if is_progress(&payload) => Ok(Step::Part(Part::Packets(self.renumbered(packet.clone())))),
            err::HEADER => self.error(header, &payload),
            _ => self.completion(header, &payload, Head::Rows),
        }
    }

    /// Puts in the EOF between column definitions and rows. When a cursor was opened there are no rows, and the EOF
    /// that says so is the only one. `None` when it takes more bytes to tell.
    fn after_columns(&mut self, header: Header, buf: &BytesMut) -> Option<Step> {
        let may_end = *buf.get(HEADER_LEN)? == eof::HEADER && !header.continues();
        if may_end && !whole_packet(header, buf) {
            return None;
        }
        self.state = State::Rows;
        let cursor_opened = may_end
            && ok::decode(&Bytes::copy_from_slice(&buf[HEADER_LEN..HEADER_LEN + header.len]))
                .is_ok_and(|completion| completion.status & status::CURSOR_EXISTS != 0);
        Some(if cursor_opened { Step::Part(Part::Packets(Bytes::new())) } else { self.put_eof() })
    }

    fn after_prepared(&mut self) -> Step {
        self.state = match self.state {
            State::AfterPrepared(columns @ 1..) => State::Prepared(0, columns),
            _ => State::Done,
        };
        self.put_eof()
    }

    fn put_eof(&mut self) -> Step {
        self.shift = self.shift.wrapping_add(1);
        let mut packet = Vec::with_capacity(HEADER_LEN + 5);
        let sequence = self.sequence.wrapping_add(self.shift);
        put_short_packet(&mut packet, sequence, |out| eof::encode(out, 0, self.status));
        Step::Part(Part::Packets(packet.into()))
    }

    /// The packet as the client counts.
    fn renumbered(&self, packet: Bytes) -> Bytes {
        if self.shift == 0 {
            return packet;
        }
        let mut packet = BytesMut::from(packet);
        packet[HEADER_LEN - 1] = packet[HEADER_LEN - 1].wrapping_add(self.shift);
        packet.freeze()
    }
}

/// Whether the packet at the front ends rows: an ERR, or an OK that starts with 0xfe. A row may start with 0xfe too,
/// but then its first value has 16 MB or more and fills the frame.
fn ends_rows(header: Header, bytes: &[u8]) -> Result<bool, Malformed> {
    match bytes.get(HEADER_LEN) {
        _ if header.len == 0 => Err(Malformed("empty row")),
        Some(&err::HEADER) => Ok(true),
        Some(&eof::HEADER) => Ok(!header.continues()),
        _ => Ok(false),
    }
}

/// Whether an ERR packet is MariaDB's report on the progress of a command, whose reply still follows.
///
/// Source: MariaDB Knowledge Base, "ERR_Packet", error code 0xffff.
fn is_progress(payload: &[u8]) -> bool {
    payload.starts_with(&[err::HEADER, 0xff, 0xff])
}

/// The flags that say something about the session and not about one result.
fn lasting(flags: u16) -> u16 {
    flags & !(status::MORE_RESULTS | status::CURSOR_EXISTS | status::SESSION_STATE_CHANGED | OF_ONE_QUERY)
}

fn whole_packet(header: Header, buf: &BytesMut) -> bool {
    buf.len() >= HEADER_LEN + header.len
}

fn take_packet(buf: &mut BytesMut) -> Bytes {
    let len = Header::decode(buf).map_or(0, |header| HEADER_LEN + header.len).min(buf.remaining());
    buf.split_to(len).freeze()
}

#[cfg(test)]
mod tests {
    use towline_middleware::Completion;

    use super::*;
    use crate::wire::{capability, frame::put_packet};

    /// A result of two columns, ended under DEPRECATE_EOF, as the server sends it.
    fn result(first: u8, rows: &[&[u8]], flags: u16) -> Vec<u8> {
        let mut out = Vec::new();
        let mut next = put_packet(&mut out, first, &[2]);
        next = put_packet(&mut out, next, b"\x03def column a");
        next = put_packet(&mut out, next, b"\x03def column b");
        for row in rows {
            next = put_packet(&mut out, next, row);
        }
        let end = Completion { ends_rows: true, status: flags, ..Completion::default() };
        put_short_packet(&mut out, next, |out| ok::encode(out, &end, capability::UPSTREAM));
        out
    }

    /// Feeds the bytes `chunk` at a time and returns what the client gets: bytes of packets, and finals by number.
    fn read(kind: CommandKind, deprecate_eof: bool, bytes: &[u8], chunk: usize) -> (Vec<u8>, Vec<(Final, u8)>) {
        let mut reader = ReplyReader::new(kind, Form { deprecate_eof, cache_metadata: false }, 2);
        let (mut buf, mut packets, mut finals) = (BytesMut::new(), Vec::new(), Vec::new());
        let mut chunks = bytes.chunks(chunk);
        loop {
            match reader.step(&mut buf).expect("a well-formed reply") {
                Step::Part(Part::Packets(bytes)) => packets.extend_from_slice(&bytes),
                Step::Part(Part::Final { end, sequence }) => finals.push((end, sequence)),
                Step::Part(Part::Turn(_)) => panic!("nobody asked the client"),
                Step::NeedMore => buf.extend_from_slice(chunks.next().expect("the reply ends")),
                Step::Done => {
                    assert!(buf.is_empty() && chunks.next().is_none(), "the reader stopped before the end");
                    return (packets, finals);
                }
            }
        }
    }

    fn sequences(mut packets: &[u8]) -> Vec<u8> {
        let mut numbers = Vec::new();
        while let Some(header) = Header::decode(packets) {
            numbers.push(header.sequence);
            packets = &packets[HEADER_LEN + header.len..];
        }
        numbers
    }

    #[test]
    fn any_cut_of_the_stream_gives_the_same_reply() {
        let mut bytes = result(1, &[b"\x01x\x01y", b"\xfb\x01z"], status::MORE_RESULTS);
        let next = 7;
        bytes.extend(result(next, &[], 2));
        for deprecate_eof in [true, false] {
            let whole = read(CommandKind::Query, deprecate_eof, &bytes, bytes.len());
            for chunk in 1..bytes.len() {
                assert_eq!(read(CommandKind::Query, deprecate_eof, &bytes, chunk), whole, "in pieces of {chunk}");
            }
        }
    }

    #[test]
    fn a_client_without_deprecate_eof_gets_eofs_and_unbroken_numbers() {
        let bytes = result(1, &[b"\x01x\x01y"], 2);
        let (packets, finals) = read(CommandKind::Query, false, &bytes, bytes.len());
        assert_eq!(sequences(&packets), [1, 2, 3, 4, 5]);
        assert!(packets.windows(9).any(|w| w == [5, 0, 0, 4, 0xfe, 0, 0, 2, 0]), "no EOF after the columns");
        assert_eq!(finals[0].1, 6);
        let (packets, finals) = read(CommandKind::Query, true, &bytes, bytes.len());
        assert_eq!((sequences(&packets), finals[0].1), (vec![1, 2, 3, 4], 5));
    }

    #[test]
    fn an_opened_cursor_has_one_eof_only() {
        let bytes = result(1, &[], status::CURSOR_EXISTS);
        let (packets, finals) = read(CommandKind::Execute, false, &bytes, bytes.len());
        assert_eq!((sequences(&packets), finals[0].1), (vec![1, 2, 3], 4));
    }

    #[test]
    fn a_prepared_statement_ends_without_a_final() {
        let mut bytes = Vec::new();
        put_packet(&mut bytes, 1, &[0, 9, 0, 0, 0, 1, 0, 2, 0, 0, 0, 0]);
        for number in 2..5 {
            put_packet(&mut bytes, number, b"\x03def");
        }
        let (packets, finals) = read(CommandKind::Prepare, true, &bytes, 3);
        assert_eq!((sequences(&packets), finals.len()), (vec![1, 2, 3, 4], 0));
        let (packets, _) = read(CommandKind::Prepare, false, &bytes, 3);
        assert_eq!(sequences(&packets), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_prepare_may_be_answered_by_a_plain_ok() {
        let mut bytes = Vec::new();
        put_packet(&mut bytes, 1, &[0, 0, 0, 2, 0, 0, 0]);
        let (packets, finals) = read(CommandKind::Prepare, true, &bytes, 3);
        assert_eq!((packets.len(), finals.len()), (0, 1));
    }

    #[test]
    fn a_row_that_looks_like_the_end_is_told_by_its_length() {
        let mut row = vec![0xfe];
        row.resize(crate::wire::frame::PAYLOAD_MAX + 10, 7);
        let bytes = result(1, &[&row, b"\x01x\x01y"], 2);
        let (packets, finals) = read(CommandKind::Query, true, &bytes, 70_000);
        assert_eq!(finals.len(), 1);
        assert!(packets.len() > row.len());
    }

    #[test]
    fn an_error_in_the_middle_of_rows_ends_the_reply() {
        let mut bytes = Vec::new();
        put_packet(&mut bytes, 1, &[1]);
        put_packet(&mut bytes, 2, b"\x03def");
        put_packet(&mut bytes, 3, b"\x01x");
        put_short_packet(&mut bytes, 4, |out| err::encode(out, &ServerError::new(1317, b"70100", "interrupted")));
        let (_, finals) = read(CommandKind::Query, true, &bytes, 5);
        assert!(matches!(&finals[..], [(Final::Err(error), 4)] if error.code == 1317));
    }

    #[test]
    fn reports_on_progress_pass_before_the_reply_and_within_it() {
        let report = b"\xff\xff\xff\x01\x01\x02\x10\x27\x00\x05stage";
        let mut bytes = Vec::new();
        put_packet(&mut bytes, 1, report);
        put_packet(&mut bytes, 2, report);
        let whole = [bytes, result(3, &[b"\x01x\x01y"], 2)].concat();
        for chunk in 1..whole.len() {
            let (packets, finals) = read(CommandKind::Query, true, &whole, chunk);
            assert_eq!((sequences(&packets), finals[0].1), (vec![1, 2, 3, 4, 5, 6], 7), "in pieces of {chunk}");
        }
    }

    #[test]
    fn what_no_server_sends_is_an_error() {
        for payload in [&b""[..], b"\x00"] {
            let mut buf = BytesMut::new();
            let mut out = Vec::new();
            put_packet(&mut out, 1, payload);
            buf.extend_from_slice(&out);
            assert!(
                ReplyReader::new(CommandKind::Query, Form { deprecate_eof: true, cache_metadata: false }, 0)
                    .step(&mut buf)
                    .is_err(),
                "{payload:?}"
            );
        }
    }
}

//! The shape of a text: its tokens without comments, with one spelling of space, and with runs of literals and of equal
//! rows written once. What hangs on a text's shape is found once for all texts that share it.

use super::lexer::{Kind, Token};

/// How much is held back so that repeated rows can be taken off again; longer rows are written each.
const BUFFER_BYTES: usize = 256;
/// A row of literals has at most this many bytes in the shape.
const ROW_BYTES: usize = 5;
/// Parentheses deeper than this are not looked at for repeated rows.
const DEPTH_MAX: usize = 8;

/// Takes the shape, piece by piece.
pub(super) trait Sink {
    /// Whether words are turned to upper case and every literal into `?`.
    const FOLD: bool;

    /// Takes the next piece.
    fn write(&mut self, bytes: &[u8]);
}

/// Makes the shape of the tokens that it is given.
#[derive(Debug)]
pub(super) struct Shape<S> {
    sink: S,
    buffer: [u8; BUFFER_BYTES],
    length: usize,
    tail: Tail,
    pending: Pending,
    /// The last closed group that is wholly in the buffer.
    group: Option<(usize, usize)>,
    open: [Opened; DEPTH_MAX],
    depth: usize,
}

/// What was written last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tail {
    Nothing,
    Word,
    Literal,
    Close,
    Comma,
    At,
    Dot,
    Operator,
    Open,
    Other,
}

/// What may be swallowed by the literal that follows.
#[derive(Clone, Copy, Debug, Default)]
struct Pending {
    /// A comma behind a literal.
    comma: bool,
    /// A sign where no operand stands before it; 0 for none.
    sign: u8,
}

/// An open parenthesis: where it stands, and the equal-ranking group that a comma parts it from.
#[derive(Clone, Copy, Debug)]
struct Opened {
    start: u16,
    before: u16,
}

impl Opened {
    /// In the place of a group that is not in the buffer.
    const NOWHERE: u16 = u16::MAX;
    const NONE: Self = Self { start: Self::NOWHERE, before: Self::NOWHERE };
}

/// What follows a comma may be stepped over, as long as it is more of the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeats {
    /// Literals.
    Literals,
    /// Rows of literals.
    Rows,
    /// Nothing that is known.
    Nothing,
}

impl<S: Sink> Shape<S> {
    /// An empty shape.
    #[inline]
    pub(super) fn new(sink: S) -> Self {
        Self {
            sink,
            buffer: [0; BUFFER_BYTES],
            length: 0,
            tail: Tail::Nothing,
            pending: Pending::default(),
            group: None,
            open: [Opened::NONE; DEPTH_MAX],
            depth: 0,
        }
    }

    /// The next token, which is none of the kinds that have a method of their own.
    #[inline(always)]
    pub(super) fn push(&mut self, token: Token, sql: &[u8]) {
        match token.kind {
            Kind::Word | Kind::Comma | Kind::End => debug_assert!(false, "{token:?} has a method of its own"),
            Kind::Name if self.is_constant(token.bytes(sql)) => self.literal(b"1"),
            Kind::Name => self.word(token, sql, false),
            Kind::Quoted => self.quoted(token, sql),
            Kind::Text => self.literal(b"'a'"),
            Kind::Number => self.literal(b"1"),
            Kind::Parameter => self.literal(b"?"),
            Kind::Operator => self.operator(token.bytes(sql)),
            Kind::At => self.at(),
            Kind::Dot => self.sign(b'.', Tail::Dot),
            Kind::Semicolon => self.sign(b';', Tail::Other),
            Kind::Open => self.open(),
            Kind::Close => self.close(),
        }
    }

    /// A word: a keyword or a name.
    #[inline(always)]
    pub(super) fn push_word(&mut self, token: Token, sql: &[u8]) {
        if self.is_constant(token.bytes(sql)) {
            return self.literal(b"1");
        }
        self.word(token, sql, token.gap || self.tail != Tail::At);
    }

    /// A comma. Tells what may be left out behind it without a change to the shape.
    #[inline(always)]
    pub(super) fn push_comma(&mut self) -> Repeats {
        if self.tail == Tail::Literal && !self.pending.comma {
            self.pending.comma = true;
            return Repeats::Literals;
        }
        let is_row = self.tail == Tail::Close
            && self.group.is_some_and(|(start, end)| {
                end == self.length && matches!(&self.buffer[start..end], b"(?)" | b"(1)" | b"('a')")
            });
        self.sign(b',', Tail::Comma);
        // The rows behind are only left out where, written, they would be taken off again.
        if is_row && self.length + 1 + ROW_BYTES <= BUFFER_BYTES { Repeats::Rows } else { Repeats::Nothing }
    }

    /// Hands the rest to the sink and returns it.
    pub(super) fn finish(mut self) -> S {
        self.settle();
        self.sink.write(&self.buffer[..self.length]);
        self.sink
    }

    /// In a list, NULL and its like are as good as a literal: rows differ in where they have them.
    #[inline]
    fn is_constant(&self, word: &[u8]) -> bool {
        let in_list = self.pending.comma || matches!(self.tail, Tail::Comma | Tail::Open);
        in_list
            && match word.len() {
                4 => word.eq_ignore_ascii_case(b"NULL") || word.eq_ignore_ascii_case(b"TRUE"),
                5 => word.eq_ignore_ascii_case(b"FALSE"),
                _ => false,
            }
    }

    #[inline(always)]
    fn word(&mut self, token: Token, sql: &[u8], spaced: bool) {
        self.settle();
        if spaced && matches!(self.tail, Tail::Word | Tail::Literal | Tail::At) {
            self.byte(b' ');
        }
        self.tail = Tail::Word;
        if !self.short(token, sql, S::FOLD) {
            self.long_word(token.bytes(sql));
        }
    }

    /// Writes a token of at most eight bytes; false if it is longer or near to an end. Most words are short, and to copy
    /// eight bytes at once is cheaper than to copy as many as there are.
    #[inline(always)]
    fn short(&mut self, token: Token, sql: &[u8], fold: bool) -> bool {
        let eight = sql.get(token.start()..token.start() + 8).and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
        let Some(eight) = eight.filter(|_| token.len() <= 8 && self.length + 8 <= BUFFER_BYTES) else {
            return false;
        };
        let eight = if fold { upper_case(u64::from_le_bytes(eight)).to_le_bytes() } else { eight };
        self.buffer[self.length..self.length + 8].copy_from_slice(&eight);
        self.length += token.len();
        true
    }

    fn long_word(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(BUFFER_BYTES) {
            self.reserve(piece.len());
            let to = &mut self.buffer[self.length..self.length + piece.len()];
            to.copy_from_slice(piece);
            if S::FOLD {
                to.make_ascii_uppercase();
            }
            self.length += piece.len();
        }
    }

    /// A quoted name is always written in backticks.
    #[inline]
    fn quoted(&mut self, token: Token, sql: &[u8]) {
        let bytes = token.bytes(sql);
        self.settle();
        if matches!(self.tail, Tail::Word | Tail::Literal) || (token.gap && self.tail == Tail::At) {
            self.byte(b' ');
        }
        if bytes[0] == b'`' {
            if !self.short(token, sql, false) {
                self.write(bytes);
            }
        } else {
            self.in_backticks(bytes);
        }
        self.tail = Tail::Word;
    }

    fn in_backticks(&mut self, bytes: &[u8]) {
        let inner = bytes.strip_suffix(&[bytes[0]]).filter(|inner| !inner.is_empty()).unwrap_or(bytes);
        self.byte(b'`');
        let mut rest = inner[1..].iter();
        while let Some(&byte) = rest.next() {
            match byte {
                b'`' => self.write(b"``"),
                b'"' => {
                    rest.next();
                    self.write(b"\"");
                }
                other => self.byte(other),
            }
        }
        self.byte(b'`');
    }

    #[inline]
    fn literal(&mut self, plain: &[u8]) {
        if self.pending.comma {
            // The list goes on: the literal before stands for this one too.
            self.pending = Pending::default();
            self.tail = Tail::Literal;
            return;
        }
        self.pending = Pending::default();
        if matches!(self.tail, Tail::Word | Tail::Literal) {
            self.byte(b' ');
        }
        if S::FOLD {
            self.byte(b'?');
        } else {
            self.write(plain);
        }
        self.tail = Tail::Literal;
    }

    #[inline]
    fn operator(&mut self, bytes: &[u8]) {
        if let [sign @ (b'-' | b'+')] = *bytes
            && self.pending.sign == 0
            && (self.pending.comma || matches!(self.tail, Tail::Comma | Tail::Operator | Tail::Open | Tail::Other))
        {
            self.pending.sign = sign;
            return;
        }
        self.settle();
        if self.tail == Tail::Operator {
            self.byte(b' ');
        }
        match *bytes {
            [sign] => self.byte(sign),
            _ => self.write(bytes),
        }
        self.tail = Tail::Operator;
    }

    fn at(&mut self) {
        self.settle();
        if matches!(self.tail, Tail::Word | Tail::Literal) {
            self.byte(b' ');
        }
        self.byte(b'@');
        self.tail = Tail::At;
    }

    #[inline]
    fn sign(&mut self, byte: u8, tail: Tail) {
        self.settle();
        self.byte(byte);
        self.tail = tail;
    }

    #[inline]
    fn open(&mut self) {
        self.settle();
        self.reserve(1);
        let start = self.length;
        if let Some(opened) = self.open.get_mut(self.depth) {
            let follows_comma = self.tail == Tail::Comma;
            let before = self.group.filter(|&(_, end)| follows_comma && end + 1 == start);
            let before = before.map_or(Opened::NOWHERE, |(start, _)| start as u16);
            *opened = Opened { start: start as u16, before };
        }
        self.depth += 1;
        self.byte(b'(');
        self.tail = Tail::Open;
    }

    #[inline]
    fn close(&mut self) {
        self.sign(b')', Tail::Close);
        self.depth = self.depth.saturating_sub(1);
        let Opened { start, before } = self.open.get(self.depth).copied().unwrap_or(Opened::NONE);
        if start == Opened::NOWHERE {
            self.group = None;
            return;
        }
        let (start, before_start) = (start as usize, before as usize);
        // The comma before `start` goes too.
        if before != Opened::NOWHERE && self.buffer[before_start..start - 1] == self.buffer[start..self.length] {
            self.length = start - 1;
            self.group = Some((before_start, self.length));
        } else {
            self.group = Some((start, self.length));
        }
    }

    /// Writes what nothing swallowed.
    #[inline(always)]
    fn settle(&mut self) {
        if self.pending.comma || self.pending.sign != 0 {
            self.write_pending();
        }
    }

    fn write_pending(&mut self) {
        let Pending { comma, sign } = std::mem::take(&mut self.pending);
        if comma {
            self.byte(b',');
            self.tail = Tail::Comma;
        }
        if sign != 0 {
            if self.tail == Tail::Operator {
                self.byte(b' ');
            }
            self.byte(sign);
            self.tail = Tail::Operator;
        }
    }

    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(BUFFER_BYTES) {
            self.reserve(piece.len());
            self.buffer[self.length..self.length + piece.len()].copy_from_slice(piece);
            self.length += piece.len();
        }
    }

    #[inline]
    fn byte(&mut self, byte: u8) {
        self.reserve(1);
        self.buffer[self.length] = byte;
        self.length += 1;
    }

    /// Makes room. What leaves the buffer can't be taken back any more.
    #[inline]
    fn reserve(&mut self, bytes: usize) {
        if self.length + bytes > BUFFER_BYTES {
            self.flush();
        }
    }

    #[cold]
    fn flush(&mut self) {
        self.sink.write(&self.buffer[..self.length]);
        self.length = 0;
        self.group = None;
        self.open = [Opened::NONE; DEPTH_MAX];
    }
}

/// Eight bytes with ASCII's lower-case letters turned to upper case; other bytes stay.
#[inline(always)]
fn upper_case(bytes: u64) -> u64 {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    let low = bytes & (0x7f * ONES);
    // The high bit of each byte: whether its low bits are at least `a`, and whether they are above `z`.
    let from_a = low + (0x80 - b'a' as u64) * ONES;
    let above_z = low + (0x7f - b'z' as u64) * ONES;
    let is_lower = (from_a & !above_z & !bytes) & (0x80 * ONES);
    bytes - (is_lower >> 2)
}

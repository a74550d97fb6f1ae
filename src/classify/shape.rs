//! The shape of a text: its tokens without comments, with one spelling of space, and with runs of literals and of equal
//! rows written once. What hangs on a text's shape is found once for all texts that share it.

use super::lexer::{Kind, Token};

/// How much is held back so that repeated rows can be taken off again; longer rows are written each.
const BUFFER_BYTES: usize = 256;
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
    /// A sign where no operand stands before it.
    sign: Option<u8>,
}

/// An open parenthesis: where it stands, and the equal-ranking group that a comma parts it from.
#[derive(Clone, Copy, Debug, Default)]
struct Opened {
    start: Option<usize>,
    before: Option<usize>,
}

impl<S: Sink> Shape<S> {
    /// An empty shape.
    pub(super) fn new(sink: S) -> Self {
        Self {
            sink,
            buffer: [0; BUFFER_BYTES],
            length: 0,
            tail: Tail::Nothing,
            pending: Pending::default(),
            group: None,
            open: [Opened::default(); DEPTH_MAX],
            depth: 0,
        }
    }

    /// The next token.
    #[inline]
    pub(super) fn push(&mut self, token: Token, sql: &[u8]) {
        let bytes = token.bytes(sql);
        match token.kind {
            Kind::Word | Kind::Name if self.is_constant(bytes) => self.literal(b"1"),
            Kind::Word => self.word(bytes, token.gap || self.tail != Tail::At),
            Kind::Name => self.word(bytes, false),
            Kind::Quoted => self.quoted(bytes, token.gap),
            Kind::Text => self.literal(b"'a'"),
            Kind::Number => self.literal(b"1"),
            Kind::Parameter => self.literal(b"?"),
            Kind::Operator => self.operator(bytes),
            Kind::At => self.at(),
            Kind::Dot => self.sign(b'.', Tail::Dot),
            Kind::Semicolon => self.sign(b';', Tail::Other),
            Kind::Comma => self.comma(),
            Kind::Open => self.open(),
            Kind::Close => self.close(),
            Kind::End => {}
        }
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

    #[inline]
    fn word(&mut self, bytes: &[u8], spaced: bool) {
        self.settle();
        if spaced && matches!(self.tail, Tail::Word | Tail::Literal | Tail::At) {
            self.byte(b' ');
        }
        for piece in bytes.chunks(BUFFER_BYTES) {
            self.reserve(piece.len());
            let to = &mut self.buffer[self.length..self.length + piece.len()];
            to.copy_from_slice(piece);
            if S::FOLD {
                to.make_ascii_uppercase();
            }
            self.length += piece.len();
        }
        self.tail = Tail::Word;
    }

    /// A quoted name is always written in backticks.
    fn quoted(&mut self, bytes: &[u8], gap: bool) {
        self.settle();
        if matches!(self.tail, Tail::Word | Tail::Literal) || (gap && self.tail == Tail::At) {
            self.byte(b' ');
        }
        let quote = bytes[0];
        let inner = bytes.strip_suffix(&[quote]).filter(|inner| !inner.is_empty()).unwrap_or(bytes);
        self.byte(b'`');
        if quote == b'`' {
            self.write(&inner[1..]);
        } else {
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
        }
        self.byte(b'`');
        self.tail = Tail::Word;
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
            && self.pending.sign.is_none()
            && (self.pending.comma || matches!(self.tail, Tail::Comma | Tail::Operator | Tail::Open | Tail::Other))
        {
            self.pending.sign = Some(sign);
            return;
        }
        self.settle();
        if self.tail == Tail::Operator {
            self.byte(b' ');
        }
        self.write(bytes);
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
    fn comma(&mut self) {
        if self.tail == Tail::Literal && !self.pending.comma {
            self.pending.comma = true;
            return;
        }
        self.sign(b',', Tail::Comma);
    }

    #[inline]
    fn open(&mut self) {
        self.settle();
        self.reserve(1);
        let start = self.length;
        if let Some(opened) = self.open.get_mut(self.depth) {
            let follows_comma = self.tail == Tail::Comma;
            let before = self.group.filter(|&(_, end)| follows_comma && end + 1 == start).map(|(start, _)| start);
            *opened = Opened { start: Some(start), before };
        }
        self.depth += 1;
        self.byte(b'(');
        self.tail = Tail::Open;
    }

    #[inline]
    fn close(&mut self) {
        self.sign(b')', Tail::Close);
        self.depth = self.depth.saturating_sub(1);
        let Some(&Opened { start: Some(start), before }) = self.open.get(self.depth) else {
            self.group = None;
            return;
        };
        match before {
            // The comma before `start` goes too.
            Some(before) if self.buffer[before..start - 1] == self.buffer[start..self.length] => {
                self.length = start - 1;
                self.group = Some((before, self.length));
            }
            _ => self.group = Some((start, self.length)),
        }
    }

    /// Writes what nothing swallowed.
    #[inline]
    fn settle(&mut self) {
        if !self.pending.comma && self.pending.sign.is_none() {
            return;
        }
        let Pending { comma, sign } = std::mem::take(&mut self.pending);
        if comma {
            self.byte(b',');
            self.tail = Tail::Comma;
        }
        if let Some(sign) = sign {
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
        self.open = [Opened::default(); DEPTH_MAX];
    }
}

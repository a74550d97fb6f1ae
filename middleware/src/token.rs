//! The pieces that a server's lexer cuts SQL into.

use std::borrow::Cow;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// An unquoted word: a keyword or a name.
    Word,
    /// An unquoted word that can only be a name, since it stands right after `.` or `@`.
    Name,
    /// A quoted name, quotes included.
    Quoted,
    /// A string, quotes included, and a letter before them that says how it is written (`x'00'`).
    Text,
    /// A number.
    Number,
    /// `?`
    Parameter,
    /// `(`
    Open,
    /// `)`
    Close,
    /// `,`
    Comma,
    /// `;`
    Semicolon,
    /// `.`
    Dot,
    /// `@`
    At,
    /// Any other sign, or several that belong together.
    Operator,
    /// There is nothing more.
    End,
}

/// A piece of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: TokenKind,
    /// Whether space or a comment stands before it.
    pub gap: bool,
    start: u32,
    end: u32,
}

impl Token {
    /// What stands before the first token.
    pub const NONE: Self = Self { kind: TokenKind::End, gap: false, start: 0, end: 0 };

    /// A token from its first byte to behind its last.
    #[inline]
    pub fn new(kind: TokenKind, gap: bool, start: u32, end: u32) -> Self {
        Self { kind, gap, start, end }
    }

    /// Its bytes in the text that was cut.
    #[inline]
    pub fn bytes<'a>(&self, sql: &'a [u8]) -> &'a [u8] {
        &sql[self.start()..self.end()]
    }

    /// Where its first byte is.
    #[inline]
    pub fn start(&self) -> usize {
        self.start as usize
    }

    /// Where the byte behind its last is.
    #[inline]
    pub fn end(&self) -> usize {
        self.end as usize
    }

    /// Its length in bytes.
    #[inline]
    #[allow(
        clippy::len_without_is_empty,
        reason = "no token is empty but the one that says that there is nothing more"
    )]
    pub fn len(&self) -> usize {
        self.end() - self.start()
    }

    /// The name that it may be, without its quotes.
    pub fn name<'a>(&self, sql: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        let bytes = self.bytes(sql);
        match self.kind {
            TokenKind::Word | TokenKind::Name => Some(Cow::Borrowed(bytes)),
            TokenKind::Quoted => {
                let quote = bytes[0];
                let inner = bytes[1..].strip_suffix(&[quote]).unwrap_or(&bytes[1..]);
                if !inner.contains(&quote) {
                    return Some(Cow::Borrowed(inner));
                }
                // Inside, a quote is always doubled.
                let mut name = Vec::with_capacity(inner.len());
                let mut rest = inner.iter();
                while let Some(&byte) = rest.next() {
                    name.push(byte);
                    if byte == quote {
                        rest.next();
                    }
                }
                Some(Cow::Owned(name))
            }
            _ => None,
        }
    }
}

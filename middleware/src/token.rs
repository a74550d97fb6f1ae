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

    /// Whether it is this word, unquoted, in whatever case.
    pub fn is_word(&self, sql: &[u8], word: &str) -> bool {
        self.kind == TokenKind::Word && self.bytes(sql).eq_ignore_ascii_case(word.as_bytes())
    }

    /// The name that it may be, without its quotes.
    pub fn name<'a>(&self, sql: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        match self.kind {
            TokenKind::Word | TokenKind::Name => Some(Cow::Borrowed(self.bytes(sql))),
            TokenKind::Quoted => Some(unquoted(self.bytes(sql))),
            _ => None,
        }
    }

    /// What a string holds. `None` if it is none, or is written with backslashes or by its bytes (`x'41'`).
    pub fn text<'a>(&self, sql: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        let bytes = self.bytes(sql);
        let is_plain = self.kind == TokenKind::Text && matches!(bytes[0], b'\'' | b'"') && !bytes.contains(&b'\\');
        is_plain.then(|| unquoted(bytes))
    }
}

/// What stands between quotes, in which a quote is always doubled.
fn unquoted(bytes: &[u8]) -> Cow<'_, [u8]> {
    let quote = bytes[0];
    let inner = bytes[1..].strip_suffix(&[quote]).unwrap_or(&bytes[1..]);
    if !inner.contains(&quote) {
        return Cow::Borrowed(inner);
    }
    let mut held = Vec::with_capacity(inner.len());
    let mut rest = inner.iter();
    while let Some(&byte) = rest.next() {
        held.push(byte);
        if byte == quote {
            rest.next();
        }
    }
    Cow::Owned(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(kind: TokenKind, sql: &[u8]) -> Token {
        Token::new(kind, false, 0, sql.len() as u32)
    }

    #[test]
    fn what_quotes_hold() {
        let text = |sql: &'static [u8]| whole(TokenKind::Text, sql).text(sql);
        assert_eq!(text(b"'it''s'").as_deref(), Some(&b"it's"[..]));
        assert_eq!(text(b"\"a 'b'\"").as_deref(), Some(&b"a 'b'"[..]));
        assert_eq!(text(b"''").as_deref(), Some(&b""[..]));
        assert_eq!(text(b"'DEL\\ETE'"), None);
        assert_eq!(text(b"x'41'"), None);
        assert_eq!(whole(TokenKind::Word, b"a").text(b"a"), None);
        assert_eq!(whole(TokenKind::Quoted, b"`a``b`").name(b"`a``b`").as_deref(), Some(&b"a`b"[..]));
        assert_eq!(whole(TokenKind::Text, b"'a'").name(b"'a'"), None);
    }

    #[test]
    fn a_word_in_whatever_case() {
        assert!(whole(TokenKind::Word, b"dElEtE").is_word(b"dElEtE", "DELETE"));
        assert!(!whole(TokenKind::Quoted, b"`delete`").is_word(b"`delete`", "DELETE"));
    }
}

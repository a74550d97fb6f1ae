//! Cuts SQL into tokens where the server's lexer does. Where two servers, or two settings of one, would cut
//! differently, it says so instead of guessing.
//!
//! Source: MySQL manual, "Comments", "String Literals", "Schema Object Names"; MariaDB Knowledge Base, "Comment Syntax";
//! the finer rules (`1e5FOR`, `1.FOR`, `0x1FOR`, `t.for`, `--` and its space) were tried on both servers.

use memchr::{memchr, memchr2, memchr3, memmem};
use towline_middleware::SqlMode;

use super::flags::Flags;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
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
pub(super) struct Token {
    /// What it is.
    pub(super) kind: Kind,
    /// Its first byte.
    pub(super) start: usize,
    /// The byte after its last.
    pub(super) end: usize,
    /// Whether space or a comment stands before it.
    pub(super) gap: bool,
}

impl Token {
    /// Its bytes.
    pub(super) fn bytes<'a>(&self, sql: &'a [u8]) -> &'a [u8] {
        &sql[self.start..self.end]
    }
}

/// Cuts one text.
#[derive(Debug)]
pub(super) struct Lexer<'a> {
    sql: &'a [u8],
    at: usize,
    mode: SqlMode,
    quotes_known: bool,
    previous: Kind,
    executable_depth: u32,
    flags: Flags,
}

impl<'a> Lexer<'a> {
    /// A lexer at the beginning of a text. `quotes_known` says whether `mode.ansi_quotes` can be trusted when it is
    /// false: MySQL does not report that mode.
    pub(super) fn new(sql: &'a [u8], mode: SqlMode, quotes_known: bool) -> Self {
        let mut flags = Flags::default();
        if mode.ascii_unsafe_charset && !sql.is_ascii() {
            flags |= Flags::AMBIGUOUS;
        }
        Self { sql, at: 0, mode, quotes_known, previous: Kind::End, executable_depth: 0, flags }
    }

    /// What was noticed so far.
    pub(super) fn flags(&self) -> Flags {
        self.flags
    }

    /// The next token; [`Kind::End`] again and again after the last.
    #[inline]
    pub(super) fn next(&mut self) -> Token {
        let gap = self.skip_gap();
        let start = self.at;
        let kind = match self.peek(0) {
            None => {
                if self.executable_depth > 0 {
                    self.flags |= Flags::UNTERMINATED;
                }
                Kind::End
            }
            Some(byte) => self.token(byte, gap),
        };
        self.previous = kind;
        Token { kind, start, end: self.at, gap }
    }

    #[inline]
    fn token(&mut self, byte: u8, gap: bool) -> Kind {
        let is_name = !gap && matches!(self.previous, Kind::Dot | Kind::At);
        match byte {
            b'x' | b'X' | b'b' | b'B' | b'n' | b'N' if !is_name && self.peek(1) == Some(b'\'') => {
                self.at += 1;
                self.text(b'\'')
            }
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'$' | 0x80.. => self.word(is_name),
            b'0'..=b'9' if is_name => self.word(true),
            b'0'..=b'9' => self.number_or_word(),
            b'\'' => self.text(byte),
            b'"' if !self.mode.ansi_quotes => self.text(byte),
            b'"' | b'`' => self.quoted(byte),
            b'.' => self.dot(gap),
            b'(' => self.sign(Kind::Open),
            b')' => self.sign(Kind::Close),
            b',' => self.sign(Kind::Comma),
            b';' => self.sign(Kind::Semicolon),
            b'@' => self.sign(Kind::At),
            b'?' => self.sign(Kind::Parameter),
            // NULL in another spelling; what follows is another token.
            b'\\' if self.peek(1) == Some(b'N') => {
                self.at += 2;
                Kind::Number
            }
            _ => self.operator(byte),
        }
    }

    #[inline]
    fn sign(&mut self, kind: Kind) -> Kind {
        self.at += 1;
        kind
    }

    fn operator(&mut self, byte: u8) -> Kind {
        if byte == 0 {
            // Some versions end the text here, others do not.
            self.flags |= Flags::AMBIGUOUS;
        }
        let rest = &self.sql[self.at..];
        let length = match rest {
            [b'<', b'=', b'>', ..] | [b'-', b'>', b'>', ..] => 3,
            [b'<', b'=' | b'>' | b'<', ..]
            | [b'>', b'=' | b'>', ..]
            | [b'!' | b':', b'=', ..]
            | [b'|', b'|', ..]
            | [b'&', b'&', ..]
            | [b'-', b'>', ..] => 2,
            _ => 1,
        };
        self.at += length;
        Kind::Operator
    }

    #[inline]
    fn word(&mut self, is_name: bool) -> Kind {
        let start = self.at;
        let mut all = 0;
        while let Some(&byte) = self.sql.get(self.at) {
            if !is_word_byte(byte) {
                break;
            }
            all |= byte;
            self.at += 1;
        }
        let word = &self.sql[start..self.at];
        // Outside UTF-8 a byte may be a space (0xA0 in latin1). MySQL 9 has $$…$$ and $tag$…$tag$ around texts.
        if (all >= 0x80 && std::str::from_utf8(word).is_err()) || (word[0] == b'$' && word[1..].contains(&b'$')) {
            self.flags |= Flags::AMBIGUOUS;
        }
        if is_name { Kind::Name } else { Kind::Word }
    }

    /// A name may begin with a digit: `1a` is one, `1e5` is none, and `1e5FOR` is a number and a keyword.
    fn number_or_word(&mut self) -> Kind {
        let radix: Option<fn(&u8) -> bool> = match (self.sql[self.at], self.peek(1)) {
            (b'0', Some(b'x')) => Some(u8::is_ascii_hexdigit),
            (b'0', Some(b'b')) => Some(|byte| matches!(byte, b'0' | b'1')),
            _ => None,
        };
        if let Some(is_digit) = radix {
            let digits = self.sql[self.at + 2..].iter().take_while(|byte| is_digit(byte)).count();
            if digits > 0 && !self.peek(2 + digits).is_some_and(is_word_byte) {
                self.at += 2 + digits;
                return Kind::Number;
            }
            return self.word(false);
        }
        let digits = self.digits(0);
        match self.peek(digits) {
            Some(b'.') => {
                self.at += digits;
                self.fraction()
            }
            Some(b'e' | b'E') if self.exponent(digits) > 0 => {
                self.at += digits + self.exponent(digits);
                Kind::Number
            }
            Some(byte) if is_word_byte(byte) => self.word(false),
            _ => {
                self.at += digits;
                Kind::Number
            }
        }
    }

    /// From the decimal point on.
    fn fraction(&mut self) -> Kind {
        self.at += 1 + self.digits(1);
        self.at += self.exponent(0);
        Kind::Number
    }

    fn digits(&self, from: usize) -> usize {
        self.sql[self.at + from..].iter().take_while(|byte| byte.is_ascii_digit()).count()
    }

    /// The length of an exponent that begins `from` bytes ahead; 0 if none does.
    fn exponent(&self, from: usize) -> usize {
        if !matches!(self.peek(from), Some(b'e' | b'E')) {
            return 0;
        }
        let sign = usize::from(matches!(self.peek(from + 1), Some(b'+' | b'-')));
        match self.digits((from + 1 + sign).min(self.sql.len() - self.at)) {
            0 => 0,
            digits => 1 + sign + digits,
        }
    }

    /// A dot right behind an unquoted name goes on with the name, whatever follows; else digits make it a number.
    fn dot(&mut self, gap: bool) -> Kind {
        let continues = !gap && matches!(self.previous, Kind::Word | Kind::Name);
        if !continues && self.peek(1).is_some_and(|byte| byte.is_ascii_digit()) {
            return self.fraction();
        }
        self.sign(Kind::Dot)
    }

    #[inline]
    fn text(&mut self, quote: u8) -> Kind {
        let escapes = !self.mode.no_backslash_escapes;
        self.at += 1;
        loop {
            let rest = &self.sql[self.at..];
            let found = if escapes { memchr2(quote, b'\\', rest) } else { memchr(quote, rest) };
            let Some(found) = found else {
                self.at = self.sql.len();
                self.flags |= Flags::UNTERMINATED;
                return Kind::Text;
            };
            self.at += found + 1;
            if rest[found] == b'\\' {
                if quote == b'"' && self.peek(0) == Some(b'"') && !self.quotes_known {
                    self.flags |= Flags::AMBIGUOUS;
                }
                self.at = (self.at + 1).min(self.sql.len());
            } else if self.peek(0) == Some(quote) {
                self.at += 1;
            } else {
                return Kind::Text;
            }
        }
    }

    fn quoted(&mut self, quote: u8) -> Kind {
        let start = self.at;
        self.at += 1;
        loop {
            let Some(found) = memchr(quote, &self.sql[self.at..]) else {
                self.at = self.sql.len();
                self.flags |= Flags::UNTERMINATED;
                break;
            };
            self.at += found + 1;
            if self.peek(0) != Some(quote) {
                break;
            }
            self.at += 1;
        }
        let name = &self.sql[start..self.at];
        // The server steps over what it takes for a character of several bytes, whole or not.
        if name.contains(&0) || (!name.is_ascii() && std::str::from_utf8(name).is_err()) {
            self.flags |= Flags::AMBIGUOUS;
        }
        Kind::Quoted
    }

    /// Steps over space and comments; tells whether there were any.
    #[inline]
    fn skip_gap(&mut self) -> bool {
        let start = self.at;
        while let Some(byte) = self.peek(0) {
            match byte {
                b' ' | 0x09..=0x0d => self.at += 1,
                b'#' => self.skip_line(),
                b'-' if self.peek(1) == Some(b'-') && self.dashes_comment() => self.skip_line(),
                b'/' if self.peek(1) == Some(b'*') => self.skip_block(),
                b'*' if self.executable_depth > 0 && self.peek(1) == Some(b'/') => {
                    self.executable_depth -= 1;
                    self.at += 2;
                }
                _ => break,
            }
        }
        self.at > start
    }

    /// Two dashes begin a comment only before space, a control character or the end.
    fn dashes_comment(&mut self) -> bool {
        match self.peek(2) {
            None => true,
            Some(byte) if byte >= 0x80 => {
                self.flags |= Flags::AMBIGUOUS;
                false
            }
            Some(byte) => byte == b' ' || byte.is_ascii_control(),
        }
    }

    fn skip_line(&mut self) {
        let rest = &self.sql[self.at..];
        let length = memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
        if memchr(0, &rest[..length]).is_some() {
            self.flags |= Flags::AMBIGUOUS;
        }
        self.at += length;
    }

    fn skip_block(&mut self) {
        let executable = match (self.peek(2), self.peek(3)) {
            (Some(b'!'), _) => 3,
            (Some(b'M' | b'm'), Some(b'!')) => 4,
            _ => 0,
        };
        if executable > 0 {
            // Its content is cut as code. Whoever sees the flag knows that the server may take it for a comment.
            self.flags |= Flags::EXECUTABLE_COMMENT;
            self.executable_depth += 1;
            self.at += executable;
            self.at += self.digits(0).min(6);
            return;
        }
        let body = &self.sql[self.at + 2..];
        let Some(length) = memmem::find(body, b"*/") else {
            self.at = self.sql.len();
            self.flags |= Flags::UNTERMINATED;
            return;
        };
        // An optimizer hint has strings and names of its own, in which MySQL does not look for the comment's end.
        if body.first() == Some(&b'+') && memchr3(b'\'', b'"', b'`', &body[..length]).is_some() {
            self.flags |= Flags::AMBIGUOUS;
        }
        self.at += 2 + length + 2;
    }

    #[inline]
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.sql.get(self.at + ahead).copied()
    }
}

#[inline]
fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 0x80..)
}

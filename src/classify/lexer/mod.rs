//! Cuts SQL into tokens where the server's lexer does. Where two servers, or two settings of one, would cut
//! differently, it says so instead of guessing.
//!
//! Source: MySQL manual, "Comments", "String Literals", "Schema Object Names"; MariaDB Knowledge Base, "Comment Syntax";
//! the finer rules (`1e5FOR`, `1.FOR`, `0x1FOR`, `t.for`, `--` and its space) were tried on both servers.

mod class;
mod eight;
mod gap;
mod run;

use memchr::{memchr, memchr2};
use towline_middleware::SqlMode;
pub(super) use towline_middleware::{Token, TokenKind as Kind};

use self::{
    class::{CLASSES, Class, is_word_byte},
    eight::{plain_name_length, plain_word_length},
};
use super::flags::Flags;

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
    longest_run: Run,
    known_run: Run,
    executable: Option<Executable>,
}

/// The first executable comment of a text: from the first byte of `/*!` to behind its version, if it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Executable {
    /// The first byte.
    pub(super) start: usize,
    /// The first byte of what is executed.
    pub(super) content: usize,
}

/// A stretch of a text, from the first byte to behind the last, that adds nothing to its shape. Empty if there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Run {
    start: usize,
    end: usize,
}

impl<'a> Lexer<'a> {
    /// A lexer at the beginning of a text. `quotes_known` says whether `mode.ansi_quotes` can be trusted when it is
    /// false: MySQL does not report that mode. `known_run` is what a lexer before has told of the same text.
    pub(super) fn new(sql: &'a [u8], mode: SqlMode, quotes_known: bool, known_run: Run) -> Self {
        let mut flags = Flags::default();
        if mode.ascii_unsafe_charset && !sql.is_ascii() {
            flags |= Flags::AMBIGUOUS;
        }
        if mode.ascii_letters_charset && sql.iter().any(|byte| matches!(byte, b'[' | b']' | b'^' | b'{' | b'}' | b'~'))
        {
            flags |= Flags::AMBIGUOUS;
        }
        // No packet is so long, and a token's place has 32 bits.
        let too_long = u32::try_from(sql.len()).is_err();
        if too_long {
            flags |= Flags::AMBIGUOUS;
        }
        Self {
            sql: if too_long { &[] } else { sql },
            at: 0,
            mode,
            quotes_known,
            previous: Kind::End,
            executable_depth: 0,
            flags,
            longest_run: Run::default(),
            known_run,
            executable: None,
        }
    }

    /// What was noticed so far.
    pub(super) fn flags(&self) -> Flags {
        self.flags
    }

    /// The first executable comment.
    pub(super) fn executable(&self) -> Option<Executable> {
        self.executable
    }

    /// The longest stretch that [`skip_literals`](Self::skip_literals) or [`skip_rows`](Self::skip_rows) stepped over.
    pub(super) fn longest_run(&self) -> Run {
        self.longest_run
    }

    /// The next token; [`Kind::End`] again and again after the last.
    #[inline(always)]
    pub(super) fn next(&mut self) -> Token {
        let from = self.at;
        let mut byte = self.peek(0);
        if byte == Some(b' ') {
            // Mostly there is just one.
            self.at += 1;
            byte = self.peek(0);
        }
        if byte.is_some_and(|byte| CLASSES[byte as usize] == Class::Gap) {
            self.skip_gap();
            byte = self.peek(0);
        }
        let (start, gap) = (self.at, self.at > from);
        let kind = match byte {
            None => {
                if self.executable_depth > 0 {
                    self.flags |= Flags::UNTERMINATED;
                }
                Kind::End
            }
            Some(byte) => self.token(byte, gap),
        };
        self.previous = kind;
        // The text is no longer than 32 bits can tell.
        Token::new(kind, gap, start as u32, self.at as u32)
    }

    #[inline(always)]
    fn token(&mut self, byte: u8, gap: bool) -> Kind {
        let is_name = !gap && matches!(self.previous, Kind::Dot | Kind::At);
        match CLASSES[byte as usize] {
            Class::Prefix if !is_name && self.peek(1) == Some(b'\'') => {
                self.at += 1;
                self.text(b'\'')
            }
            Class::Letter | Class::Prefix => self.word(is_name),
            Class::Digit if is_name => self.word(true),
            Class::Digit => self.number_or_word(),
            Class::Single => self.text(byte),
            Class::Double if !self.mode.ansi_quotes => self.text(byte),
            Class::Double | Class::Backtick => self.quoted(byte),
            Class::Dot => self.dot(gap),
            Class::Open => self.sign(Kind::Open),
            Class::Close => self.sign(Kind::Close),
            Class::Comma => self.sign(Kind::Comma),
            Class::Semicolon => self.sign(Kind::Semicolon),
            Class::At => self.sign(Kind::At),
            Class::Question => self.sign(Kind::Parameter),
            // NULL in another spelling; what follows is another token.
            Class::Backslash if self.peek(1) == Some(b'N') => {
                self.at += 2;
                Kind::Number
            }
            Class::Gap | Class::Backslash | Class::Operator => self.operator(byte),
        }
    }

    #[inline(always)]
    fn sign(&mut self, kind: Kind) -> Kind {
        self.at += 1;
        kind
    }

    fn operator(&mut self, byte: u8) -> Kind {
        if matches!(byte, 0 | b'[') {
            // Some versions end the text at a zero, others do not. A `[` begins a quoted name under MariaDB's
            // sql_mode=MSSQL, and is an error everywhere else.
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

    #[inline(always)]
    fn word(&mut self, is_name: bool) -> Kind {
        let start = self.at;
        self.at += plain_word_length(&self.sql[start..]);
        if self.peek(0).is_some_and(is_word_byte) {
            self.unusual_word(start);
        }
        if is_name { Kind::Name } else { Kind::Word }
    }

    /// A word that has other bytes than letters, digits and `_` in it, or stands at the end of the text.
    fn unusual_word(&mut self, start: usize) {
        let rest = &self.sql[start..];
        let word = &rest[..rest.iter().take_while(|byte| is_word_byte(**byte)).count()];
        self.at = start + word.len();
        let may_part = word.iter().any(|byte| matches!(byte, 0xa0 | 0xff));
        let quotes = word[0] == b'$' && memchr(b'$', &word[1..]).is_some();
        if may_part || quotes {
            // 0xA0 or 0xFF is a space in some character sets, and part of a letter in others (tried for all of
            // MariaDB's). MySQL 9 has $$…$$ and $tag$…$tag$ around texts.
            self.flags |= Flags::AMBIGUOUS;
        }
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

    #[inline(always)]
    fn quoted(&mut self, quote: u8) -> Kind {
        match plain_name_length(&self.sql[self.at + 1..], quote) {
            Some(length) => self.at += 1 + length + 1,
            None => self.unusual_name(quote),
        }
        Kind::Quoted
    }

    /// A quoted name that has bytes beyond ASCII, zeros or quotes in it, or stands near the end of the text.
    fn unusual_name(&mut self, quote: u8) {
        let start = self.at;
        self.at += 1;
        loop {
            let Some(length) = memchr(quote, &self.sql[self.at..]) else {
                self.at = self.sql.len();
                self.flags |= Flags::UNTERMINATED;
                break;
            };
            self.at += length + 1;
            if self.peek(0) != Some(quote) {
                break;
            }
            self.at += 1;
        }
        let name = &self.sql[start..self.at];
        // MySQL steps over what it takes for a character of several bytes, whole or not; MariaDB only if it is whole.
        let may_hide_quote = !self.quotes_known && std::str::from_utf8(name).is_err();
        if may_hide_quote || memchr(0, name).is_some() {
            self.flags |= Flags::AMBIGUOUS;
        }
    }

    #[inline(always)]
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.sql.get(self.at + ahead).copied()
    }
}

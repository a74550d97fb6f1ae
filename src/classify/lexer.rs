//! Cuts SQL into tokens where the server's lexer does. Where two servers, or two settings of one, would cut
//! differently, it says so instead of guessing.
//!
//! Source: MySQL manual, "Comments", "String Literals", "Schema Object Names"; MariaDB Knowledge Base, "Comment Syntax";
//! the finer rules (`1e5FOR`, `1.FOR`, `0x1FOR`, `t.for`, `--` and its space) were tried on both servers.

use memchr::{memchr, memchr2, memchr3, memmem};
use towline_middleware::SqlMode;
pub(super) use towline_middleware::{Token, TokenKind as Kind};

use super::flags::Flags;

/// What a byte may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// Space, or a sign that may begin a comment.
    Gap,
    /// A word.
    Letter,
    /// A word or a string: `x'00'`.
    Prefix,
    Digit,
    Single,
    Double,
    Backtick,
    Dot,
    Open,
    Close,
    Comma,
    Semicolon,
    At,
    Question,
    Backslash,
    Operator,
}

/// The class of each byte.
static CLASSES: [Class; 256] = {
    let mut classes = [Class::Operator; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b' ' | 0x09..=0x0d | b'#' | b'-' | b'/' | b'*' => Class::Gap,
            b'x' | b'X' | b'b' | b'B' | b'n' | b'N' => Class::Prefix,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'$' | 0x80.. => Class::Letter,
            b'0'..=b'9' => Class::Digit,
            b'\'' => Class::Single,
            b'"' => Class::Double,
            b'`' => Class::Backtick,
            b'.' => Class::Dot,
            b'(' => Class::Open,
            b')' => Class::Close,
            b',' => Class::Comma,
            b';' => Class::Semicolon,
            b'@' => Class::At,
            b'?' => Class::Question,
            b'\\' => Class::Backslash,
            _ => Class::Operator,
        };
        byte += 1;
    }
    classes
};

/// Which bytes a word may have behind its first.
static WORD_BYTES: [bool; 256] = {
    let mut word_bytes = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        word_bytes[byte] = matches!(CLASSES[byte], Class::Letter | Class::Prefix | Class::Digit);
        byte += 1;
    }
    word_bytes
};

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

    /// Behind a comma between literals: steps over each literal that another comma follows. Tells whether there was one.
    #[inline]
    pub(super) fn skip_literals(&mut self) -> bool {
        self.skip_run(|lexer| lexer.skip_literal() == Some(b','))
    }

    /// Behind a comma between rows of literals: steps over each row that another comma follows. Tells whether there was
    /// one.
    #[inline]
    pub(super) fn skip_rows(&mut self) -> bool {
        self.skip_run(|lexer| {
            lexer.skip_space();
            if lexer.peek(0) != Some(b'(') {
                return false;
            }
            lexer.at += 1;
            loop {
                match lexer.skip_literal() {
                    Some(b',') => {}
                    Some(_) => break,
                    None => return false,
                }
            }
            lexer.skip_space();
            let goes_on = lexer.peek(0) == Some(b',');
            lexer.at += usize::from(goes_on);
            goes_on
        })
    }

    #[inline]
    fn skip_run(&mut self, mut unit: impl FnMut(&mut Self) -> bool) -> bool {
        let start = self.at;
        if start == self.known_run.start && start < self.known_run.end {
            self.at = self.known_run.end;
            return true;
        }
        let mut end = start;
        while unit(self) {
            end = self.at;
        }
        self.at = end;
        if end - start > self.longest_run.end - self.longest_run.start {
            self.longest_run = Run { start, end };
        }
        end > start
    }

    /// Steps over a literal of a plain form and the `,` or `)` behind it, which it returns; none if something else is
    /// there, which is then for [`next`](Self::next).
    #[inline]
    fn skip_literal(&mut self) -> Option<u8> {
        self.skip_space();
        let mut byte = self.peek(0)?;
        if matches!(byte, b'-' | b'+') {
            self.at += 1;
            byte = self.peek(0).filter(u8::is_ascii_digit)?;
        }
        match byte {
            b'0'..=b'9' => self.skip_number(),
            b'\'' => {
                self.text(byte);
            }
            b'?' => self.at += 1,
            b'N' | b'n' if self.sql[self.at..].get(..4).is_some_and(|word| word.eq_ignore_ascii_case(b"NULL")) => {
                self.at += 4;
            }
            _ => return None,
        }
        self.skip_space();
        let sign = self.peek(0).filter(|byte| matches!(byte, b',' | b')'))?;
        self.at += 1;
        Some(sign)
    }

    /// Steps over `12`, `12.5` or `0x1f`.
    #[inline]
    fn skip_number(&mut self) {
        if self.peek(0) == Some(b'0') && self.peek(1) == Some(b'x') {
            let digits = self.sql[self.at + 2..].iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
            // `0x` alone is a name.
            self.at += if digits == 0 { 0 } else { 2 + digits };
            return;
        }
        self.at += self.digits(0);
        if self.peek(0) == Some(b'.') {
            self.at += 1 + self.digits(1);
        }
    }

    #[inline(always)]
    fn skip_space(&mut self) {
        while matches!(self.peek(0), Some(b' ' | 0x09..=0x0d)) {
            self.at += 1;
        }
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

    /// Steps over space and comments.
    #[inline]
    fn skip_gap(&mut self) {
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
            let start = self.at;
            self.at += executable;
            self.at += self.digits(0).min(6);
            self.executable.get_or_insert(Executable { start, content: self.at });
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

    #[inline(always)]
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.sql.get(self.at + ahead).copied()
    }
}

#[inline(always)]
fn is_word_byte(byte: u8) -> bool {
    WORD_BYTES[byte as usize]
}

const ONES: u64 = u64::from_le_bytes([1; 8]);
/// The highest bit of each of eight bytes.
const HIGH: u64 = 0x80 * ONES;

/// How many letters of ASCII, digits and `_` a text begins with, eight at a time: what is within eight bytes of its end
/// is not counted.
#[inline(always)]
fn plain_word_length(text: &[u8]) -> usize {
    let mut length = 0;
    while let Some(eight) = eight_at(text, length) {
        // The highest bit of each byte is free to take the carry of its other seven.
        let low = eight & !HIGH;
        let between = |bytes: u64, first: u8, last: u8| {
            (bytes + (0x80 - u64::from(first)) * ONES) & !(bytes + (0x7f - u64::from(last)) * ONES)
        };
        let caseless = low | (0x20 * ONES);
        let is_part = between(caseless, b'a', b'z') | between(low, b'0', b'9') | between(low, b'_', b'_');
        let others = !(is_part & !eight) & HIGH;
        if others != 0 {
            return length + others.trailing_zeros() as usize / 8;
        }
        length += 8;
    }
    length
}

/// How many bytes stand before the quote that ends a name, eight at a time; none if one of them is no ASCII, zero or
/// another quote, or within eight bytes of the text's end.
#[inline(always)]
fn plain_name_length(text: &[u8], quote: u8) -> Option<usize> {
    let mut length = 0;
    loop {
        let eight = eight_at(text, length)?;
        // Bit patterns that have the highest bit of the first zero byte, and of none before it.
        let zeros = |bytes: u64| bytes.wrapping_sub(ONES) & !bytes & HIGH;
        let quotes = zeros(eight ^ (u64::from(quote) * ONES));
        let odd = zeros(eight) | (eight & HIGH);
        if quotes == 0 {
            length += 8;
            if odd != 0 {
                return None;
            }
            continue;
        }
        let before = quotes.trailing_zeros() as usize / 8;
        let is_odd = odd.trailing_zeros() < quotes.trailing_zeros();
        length += before;
        return (!is_odd && text.get(length + 1) != Some(&quote)).then_some(length);
    }
}

#[inline(always)]
fn eight_at(text: &[u8], at: usize) -> Option<u64> {
    let eight = text.get(at..at + 8)?;
    Some(u64::from_le_bytes(eight.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_at_every_place_ends_a_word_or_a_name_or_does_not() {
        const BEHIND: &[u8] = b"; and eight bytes more";
        for place in 0..20 {
            for byte in 0..=255_u8 {
                let text = |end: &[u8]| [&vec![b'a'; place], &[byte][..], end, BEHIND].concat();
                let is_plain = byte.is_ascii_alphanumeric() || byte == b'_';
                assert_eq!(
                    plain_word_length(&text(b"b")),
                    if is_plain { place + 2 } else { place },
                    "{byte} at {place}"
                );
                // A quote of the name's own would be doubled.
                let is_odd = byte == 0 || byte >= 0x80 || byte == b'`';
                let found = plain_name_length(&text(b"`"), b'`');
                assert_eq!(found, (!is_odd).then_some(place + 1), "{byte} at {place}");
            }
        }
    }

    #[test]
    fn words_and_names_end_with_the_text() {
        for place in 0..20 {
            let all = vec![b'a'; place];
            assert_eq!(plain_word_length(&all), place / 8 * 8);
            assert_eq!(plain_name_length(&all, b'`'), None);
        }
    }
}

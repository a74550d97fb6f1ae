//! A logged statement's first tokens: just enough SQL to tell what it is and which schema it concerns.

use std::{borrow::Cow, ops::Range};

// Bits of sql_mode that change how text is read; the same in MariaDB and MySQL.
const ANSI_QUOTES: u64 = 1 << 2;
const NO_BACKSLASH_ESCAPES: u64 = 1 << 20;

/// What a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A keyword, an unquoted name or a number.
    Word(&'a [u8]),
    /// A quoted name, without its quotes.
    Name(Cow<'a, [u8]>),
    /// A string literal.
    Text,
    /// Any other byte.
    Symbol(u8),
}

impl Token<'_> {
    /// Whether it is this keyword (given in capitals).
    pub(super) fn is(&self, keyword: &str) -> bool {
        matches!(self, Self::Word(word) if word.eq_ignore_ascii_case(keyword.as_bytes()))
    }

    /// Whether it is one of these keywords.
    pub(super) fn is_any(&self, keywords: &[&str]) -> bool {
        keywords.iter().any(|keyword| self.is(keyword))
    }
}

/// The tokens of a statement. Comments are passed over, but what stands in executable ones counts.
#[derive(Clone, Debug)]
pub(super) struct Tokens<'a> {
    sql: &'a [u8],
    at: usize,
    sql_mode: u64,
}

impl<'a> Tokens<'a> {
    /// Reads `sql` under `sql_mode`.
    pub(super) fn new(sql: &'a [u8], sql_mode: u64) -> Self {
        Self { sql, at: 0, sql_mode }
    }

    /// The next token and the bytes that it stands on.
    pub(super) fn next_at(&mut self) -> Option<(Range<usize>, Token<'a>)> {
        self.skip_blanks();
        let start = self.at;
        let token = match *self.sql.get(start)? {
            b'`' => Token::Name(self.quoted(b'`', false)),
            b'"' if self.sql_mode & ANSI_QUOTES != 0 => Token::Name(self.quoted(b'"', false)),
            quote @ (b'\'' | b'"') => {
                self.quoted(quote, self.sql_mode & NO_BACKSLASH_ESCAPES == 0);
                Token::Text
            }
            byte if is_word(byte) => {
                self.at += self.rest().iter().take_while(|byte| is_word(**byte)).count();
                Token::Word(&self.sql[start..self.at])
            }
            byte => {
                self.at += 1;
                Token::Symbol(byte)
            }
        };
        Some((start..self.at, token))
    }

    /// The next token, which stays the next.
    pub(super) fn peek(&self) -> Option<Token<'a>> {
        self.clone().next()
    }

    /// Takes the next token if it is this keyword.
    pub(super) fn accept(&mut self, keyword: &str) -> bool {
        let mut after = self.clone();
        let taken = after.next().is_some_and(|token| token.is(keyword));
        if taken {
            *self = after;
        }
        taken
    }

    fn rest(&self) -> &'a [u8] {
        &self.sql[self.at..]
    }

    fn quoted(&mut self, quote: u8, backslash: bool) -> Cow<'a, [u8]> {
        let start = self.at + 1;
        let mut doubled = false;
        self.at = start;
        while let Some(byte) = self.sql.get(self.at) {
            if *byte == b'\\' && backslash {
                self.at += 1;
            } else if *byte == quote {
                if self.sql.get(self.at + 1) != Some(&quote) {
                    break;
                }
                doubled = true;
                self.at += 1;
            }
            self.at += 1;
        }
        let content = &self.sql[start..self.at.min(self.sql.len())];
        self.at = (self.at + 1).min(self.sql.len());
        if !doubled {
            return Cow::Borrowed(content);
        }
        let mut last_was_quote = false;
        let once = content.iter().copied().filter(|byte| {
            last_was_quote = *byte == quote && !last_was_quote;
            *byte != quote || last_was_quote
        });
        Cow::Owned(once.collect())
    }

    fn skip_blanks(&mut self) {
        loop {
            let rest = self.rest();
            self.at += match rest {
                [byte, ..] if byte.is_ascii_whitespace() || *byte == 0x0b => 1,
                [b'#', ..] => line(rest),
                [b'-', b'-'] => 2,
                [b'-', b'-', after, ..] if after.is_ascii_whitespace() || after.is_ascii_control() => line(rest),
                // What an executable comment holds is run, so only its marks are passed over.
                [b'/', b'*', b'!', ..] => 3 + digits(&rest[3..]),
                [b'/', b'*', b'M', b'!', ..] => 4 + digits(&rest[4..]),
                [b'*', b'/', ..] => 2,
                [b'/', b'*', ..] => rest[2..].windows(2).position(|end| end == b"*/").map_or(rest.len(), |n| n + 4),
                _ => return,
            }
        }
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        self.next_at().map(|(_, token)| token)
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

fn line(rest: &[u8]) -> usize {
    rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |n| n + 1)
}

fn digits(rest: &[u8]) -> usize {
    rest.iter().take_while(|byte| byte.is_ascii_digit()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(sql: &str) -> Vec<String> {
        let text = |token| match token {
            Token::Word(word) => String::from_utf8_lossy(word).into_owned(),
            Token::Name(name) => format!("<{}>", String::from_utf8_lossy(&name)),
            Token::Text => "TEXT".into(),
            Token::Symbol(byte) => char::from(byte).into(),
        };
        Tokens::new(sql.as_bytes(), 0).map(text).collect()
    }

    #[test]
    fn comments_are_passed_over_and_executable_ones_are_read() {
        assert_eq!(
            words("/* a */ -- b\n# c\nDROP /*!40005 TEMPORARY */ TABLE--\n t"),
            ["DROP", "TEMPORARY", "TABLE", "t"]
        );
        assert_eq!(words("/*M!100000 DROP*/ x"), ["DROP", "x"]);
        assert_eq!(words("a --1 /* open"), ["a", "-", "-", "1"]);
    }

    #[test]
    fn quotes_hide_what_they_hold() {
        assert_eq!(words("`a``b`.`c` 'it''s \\' x' \"d\" e"), ["<a`b>", ".", "<c>", "TEXT", "TEXT", "e"]);
        assert_eq!(words("`open"), ["<open>"]);
        assert_eq!(words("'open\\"), ["TEXT"]);
    }

    #[test]
    fn sql_mode_decides_about_quotes() {
        let tokens = |sql_mode| Tokens::new(br#"'\' "a""#, sql_mode).collect::<Vec<_>>();
        assert_eq!(tokens(0), [Token::Text]);
        assert_eq!(tokens(ANSI_QUOTES | NO_BACKSLASH_ESCAPES), [Token::Text, Token::Name(Cow::Borrowed(b"a"))]);
    }

    #[test]
    fn any_bytes_come_to_an_end() {
        proptest::proptest!(|(sql: Vec<u8>, sql_mode in 0_u64..1 << 21)| {
            assert!(Tokens::new(&sql, sql_mode).count() <= sql.len());
        });
    }
}

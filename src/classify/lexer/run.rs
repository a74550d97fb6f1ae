//! Stretches of literals, which add nothing to a text's shape.

use super::{Lexer, Run};

impl Lexer<'_> {
    /// Behind a comma between literals: steps over each literal that another comma follows. Tells whether there was one.
    #[inline]
    pub(in crate::classify) fn skip_literals(&mut self) -> bool {
        self.skip_run(|lexer| lexer.skip_literal() == Some(b','))
    }

    /// Behind a comma between rows of literals: steps over each row that another comma follows. Tells whether there was
    /// one.
    #[inline]
    pub(in crate::classify) fn skip_rows(&mut self) -> bool {
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
}

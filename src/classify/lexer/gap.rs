//! Space and comments between tokens.

use memchr::{memchr, memchr3, memmem};

use super::{Executable, Lexer};
use crate::classify::flags::Flags;

impl Lexer<'_> {
    /// Steps over space and comments.
    #[inline]
    pub(super) fn skip_gap(&mut self) {
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
}

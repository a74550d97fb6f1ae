//! One pass over a text's bytes, without allocating: its key, its leading keyword and what is to be noticed in it.

use std::hash::{BuildHasher, Hasher};

use foldhash::{SharedSeed, quality};
use sha2::{Digest, Sha256};
use towline_middleware::SqlMode;

use super::{
    flags::Flags,
    functions::{Callable, Family, Functions},
    keyword::Leading,
    lexer::{Kind, Lexer, Run, Token},
    noticed::{Mark, Noticed},
    shape::{Repeats, Shape, Sink},
};

/// What one pass found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scan {
    /// The shape's hash, keyed per process. Never 0.
    pub(super) key: u64,
    /// How long the shape is.
    pub(super) length: u32,
    /// The first word.
    pub(super) leading: Leading,
    /// What was noticed.
    pub(super) flags: Flags,
    /// The first name before a parenthesis that is not known.
    pub(super) function: Option<Token>,
    /// The longest stretch of literals that adds nothing to the shape.
    pub(super) run: Run,
}

/// A text's shape as SQL, with plain literals in the place of the client's.
#[derive(Debug, Default)]
pub(super) struct Template {
    /// At most the length that was asked for.
    pub(super) text: Vec<u8>,
    /// Whether there would be more.
    pub(super) cut: bool,
    limit: usize,
}

/// Scans texts for one server.
#[derive(Debug)]
pub(super) struct Scanner {
    functions: Functions,
    quotes_known: bool,
    keys: quality::SeedableRandomState,
}

/// A new secret for the keys of one process, so that nobody outside can aim for two texts of one key.
fn random_keys() -> quality::SeedableRandomState {
    let random = || getrandom::u64().unwrap_or_else(|_| fastrand::u64(..));
    // Made once per process.
    quality::SeedableRandomState::with_seed(random(), Box::leak(Box::new(SharedSeed::from_u64(random()))))
}

impl Scanner {
    /// A scanner for what a server of this family will read.
    pub(super) fn new(family: Family) -> Self {
        Self { functions: Functions::new(family), quotes_known: family == Family::MariaDb, keys: random_keys() }
    }

    /// Whether the server is known to be MariaDB.
    pub(super) fn is_for_maria_db(&self) -> bool {
        self.quotes_known
    }

    /// Scans a text.
    pub(super) fn scan(&self, sql: &[u8], mode: SqlMode) -> Scan {
        let sink = HashSink { hasher: self.keys.build_hasher(), length: 0 };
        let (noticed, lexer, HashSink { mut hasher, length }) = self.walk(sql, mode, sink, Run::default());
        // What is noticed but not part of the shape (the space before a parenthesis, a comment's kind) parts keys.
        hasher.write_u16(noticed.flags.bits());
        Scan {
            key: hasher.finish().max(1),
            length,
            leading: noticed.leading,
            flags: noticed.flags,
            function: noticed.function,
            run: lexer.longest_run(),
        }
    }

    /// The shape's hash for people, the same in every process, of a text that was scanned like this. Never 0.
    pub(super) fn digest(&self, sql: &[u8], mode: SqlMode, scan: &Scan) -> u64 {
        let DigestSink(hasher) = self.walk(sql, mode, DigestSink(Sha256::new()), scan.run).2;
        let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(hasher.finalize());
        u64::from_be_bytes([a, b, c, d, e, f, g, h]).max(1)
    }

    /// The shape as SQL, up to so many bytes, of a text that was scanned like this.
    pub(super) fn template(&self, sql: &[u8], mode: SqlMode, scan: &Scan, limit: usize) -> Template {
        self.walk(sql, mode, Template { limit, ..Template::default() }, scan.run).2
    }

    /// The same of a text that was not scanned, in one pass, and what was noticed; none if its tokens are in doubt.
    pub(super) fn certain_template(&self, sql: &[u8], mode: SqlMode, limit: usize) -> Option<(Template, Flags)> {
        let template = Template { limit, ..Template::default() };
        let (noticed, _, template) = self.walk(sql, mode, template, Run::default());
        (!noticed.flags.has(Flags::DOUBT)).then_some((template, noticed.flags))
    }

    /// The two texts that servers may take this one for: with what is in its first executable comment, and without it.
    /// None if they might not agree where the comment begins and ends.
    pub(super) fn readings(&self, sql: &[u8], mode: SqlMode) -> Option<[Vec<u8>; 2]> {
        let mut lexer = Lexer::new(sql, mode, self.quotes_known, Run::default());
        let executable = loop {
            if let Some(executable) = lexer.executable() {
                break executable;
            }
            if lexer.next().kind == Kind::End {
                return None;
            }
        };
        let (before, from) = (&sql[..executable.start], &sql[executable.content..]);
        let length = memchr::memmem::find(from, b"*/")?;
        let (content, after) = (&from[..length], &from[length + 2..]);
        // How many digits are the version's is not the same for all servers.
        let is_parted = content.first().is_some_and(u8::is_ascii_whitespace);
        // A server that skips the content looks for nothing but the comment's end, or for another comment in it.
        let is_plain =
            memchr::memmem::find(content, b"/*").is_none() && !self.scan(content, mode).flags.has(Flags::DOUBT);
        (is_parted && is_plain).then(|| [[before, b" ", content, b" ", after].concat(), [before, b" ", after].concat()])
    }

    /// The tokens of a text; none if there are more than `limit`.
    pub(super) fn tokens(&self, sql: &[u8], mode: SqlMode, limit: usize) -> Option<Vec<Token>> {
        let mut lexer = Lexer::new(sql, mode, self.quotes_known, Run::default());
        let mut tokens = Vec::new();
        loop {
            match lexer.next() {
                Token { kind: Kind::End, .. } => return Some(tokens),
                token if tokens.len() < limit => tokens.push(token),
                _ => return None,
            }
        }
    }

    /// The functions that a text calls, each once, among its first tokens.
    pub(super) fn called(&self, sql: &[u8], mode: SqlMode, limit: usize) -> Vec<String> {
        let mut lexer = Lexer::new(sql, mode, self.quotes_known, Run::default());
        let mut called = Vec::new();
        let mut last = Token::NONE;
        for _ in 0..limit {
            let token = lexer.next();
            let name = last.bytes(sql);
            let is_name = match last.kind {
                Kind::Word => self.functions.get(name) != Some(Callable::Word),
                Kind::Name | Kind::Quoted => true,
                _ => false,
            };
            let name = String::from_utf8_lossy(name).trim_matches('`').to_owned();
            if token.kind == Kind::Open && is_name && !called.contains(&name) {
                called.push(name);
            }
            if token.kind == Kind::End {
                break;
            }
            last = token;
        }
        called
    }

    #[inline]
    fn walk<'a, S: Sink>(&self, sql: &'a [u8], mode: SqlMode, sink: S, run: Run) -> (Noticed, Lexer<'a>, S) {
        let mut lexer = Lexer::new(sql, mode, self.quotes_known, run);
        let mut shape = Shape::new(sink);
        let ansi_possible = !self.quotes_known && !mode.ansi_quotes;
        let mut noticed = Noticed::new(ansi_possible);
        loop {
            let token = lexer.next();
            if noticed.watching {
                noticed.watch(token.kind);
            }
            let mut mark = Mark::None;
            match token.kind {
                Kind::Word => {
                    mark = noticed.word(token, sql);
                    shape.push_word(token, sql);
                }
                Kind::Comma => {
                    let stepped_over = match shape.push_comma() {
                        Repeats::Literals => lexer.skip_literals(),
                        Repeats::Rows => lexer.skip_rows(),
                        Repeats::Nothing => false,
                    };
                    if stepped_over {
                        noticed.stepped_over();
                    }
                }
                Kind::End => {
                    noticed.flags |= lexer.flags();
                    if let Some(name) = noticed.json_table {
                        noticed.unknown_function(name);
                    }
                    return (noticed, lexer, shape.finish());
                }
                _ => {
                    noticed.other(token, sql, &self.functions);
                    shape.push(token, sql);
                }
            }
            noticed.pass(token, mark);
        }
    }
}

struct DigestSink(Sha256);

impl Sink for DigestSink {
    const FOLD: bool = true;

    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

struct HashSink {
    hasher: quality::FoldHasher<'static>,
    length: u32,
}

impl Sink for HashSink {
    const FOLD: bool = true;

    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        self.hasher.write(bytes);
        self.length = self.length.wrapping_add(bytes.len() as u32);
    }
}

impl Sink for Template {
    const FOLD: bool = false;

    fn write(&mut self, bytes: &[u8]) {
        let room = self.limit - self.text.len();
        self.cut |= bytes.len() > room;
        self.text.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

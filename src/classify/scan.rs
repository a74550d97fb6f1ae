//! One pass over a text's bytes, without allocating: its digest, its leading keyword and what is to be noticed in it.

use std::hash::{BuildHasher, Hasher, RandomState};

use towline_middleware::SqlMode;

use super::{
    flags::Flags,
    functions::{Callable, Family, Functions},
    lexer::{Kind, Lexer, Token},
    shape::{Shape, Sink},
};

/// What one pass found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scan {
    /// The shape's hash, keyed per process. Never 0.
    pub(super) digest: u64,
    /// How long the shape is.
    pub(super) length: u32,
    /// The first word.
    pub(super) leading: Leading,
    /// What was noticed.
    pub(super) flags: Flags,
    /// Where the first unknown function's name stands.
    pub(super) function: Option<(usize, usize)>,
}

/// The word that a text begins with, in upper case; cut to what the longest keyword needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Leading([u8; 12]);

impl Leading {
    fn of(word: &[u8]) -> Self {
        let mut folded = [0; 12];
        let length = word.len().min(folded.len());
        folded[..length].copy_from_slice(&word[..length]);
        folded.make_ascii_uppercase();
        Self(folded)
    }

    /// Whether it is this keyword.
    pub(super) fn is(self, keyword: &str) -> bool {
        self == Self::of(keyword.as_bytes())
    }
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
    keys: RandomState,
}

impl Scanner {
    /// A scanner for what a server of this family will read.
    pub(super) fn new(family: Family) -> Self {
        Self { functions: Functions::new(family), quotes_known: family == Family::MariaDb, keys: RandomState::new() }
    }

    /// Scans a text.
    pub(super) fn scan(&self, sql: &[u8], mode: SqlMode) -> Scan {
        let sink = HashSink { hasher: self.keys.build_hasher(), length: 0 };
        let (noticed, HashSink { mut hasher, length }) = self.walk(sql, mode, sink);
        // What is noticed but not part of the shape (the space before a parenthesis, a comment's kind) parts digests.
        hasher.write_u16(noticed.flags.bits());
        Scan {
            digest: hasher.finish().max(1),
            length,
            leading: noticed.leading.unwrap_or_default(),
            flags: noticed.flags,
            function: noticed.function,
        }
    }

    /// A text's shape as SQL, up to so many bytes.
    pub(super) fn template(&self, sql: &[u8], mode: SqlMode, limit: usize) -> Template {
        self.walk(sql, mode, Template { limit, ..Template::default() }).1
    }

    /// The tokens of a text; none if there are more than `limit`.
    pub(super) fn tokens(&self, sql: &[u8], mode: SqlMode, limit: usize) -> Option<Vec<Token>> {
        let mut lexer = Lexer::new(sql, mode, self.quotes_known);
        let mut tokens = Vec::new();
        loop {
            match lexer.next() {
                Token { kind: Kind::End, .. } => return Some(tokens),
                token if tokens.len() < limit => tokens.push(token),
                _ => return None,
            }
        }
    }

    #[inline]
    fn walk<S: Sink>(&self, sql: &[u8], mode: SqlMode, sink: S) -> (Noticed, S) {
        let mut lexer = Lexer::new(sql, mode, self.quotes_known);
        let mut shape = Shape::new(sink);
        let ansi_possible = !self.quotes_known && !mode.ansi_quotes;
        let mut noticed = Noticed { ansi_possible, ..Noticed::default() };
        loop {
            let token = lexer.next();
            noticed.token(token, sql, &self.functions);
            if token.kind == Kind::End {
                noticed.flags |= lexer.flags();
                return (noticed, shape.finish());
            }
            shape.push(token, sql);
        }
    }
}

struct HashSink {
    hasher: std::hash::DefaultHasher,
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

/// A word that means something to what stands beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mark {
    #[default]
    None,
    /// AS, WITH, RECURSIVE and PROCEDURE: the name that follows is not called as a function.
    Naming,
    For,
    Next,
    /// VALUE behind NEXT.
    NextValue,
    Into,
    /// INSERT or REPLACE, which are functions too.
    VerbOrFunction,
}

/// What was noticed so far, and as much of the last tokens as the next one needs.
#[derive(Debug, Default)]
struct Noticed {
    flags: Flags,
    /// Whether double quotes may be names although nobody says so.
    ansi_possible: bool,
    leading: Option<Leading>,
    function: Option<(usize, usize)>,
    /// The last token, and the kind of the one before it.
    last: Option<Token>,
    before: Option<Kind>,
    mark: Mark,
    mark_before: Mark,
    /// Whether the next token decides about one of the last.
    watching: bool,
    /// Whether a statement has ended and the next not begun.
    between: bool,
    /// Whether the running statement has had its first word.
    begun: bool,
    /// Whether `LAST_INSERT_ID(` has just passed.
    asks_last_id: bool,
}

impl Noticed {
    #[inline]
    fn token(&mut self, token: Token, sql: &[u8], functions: &Functions) {
        if self.watching {
            self.watch(token.kind);
        }
        let mut mark = Mark::None;
        match token.kind {
            Kind::Word => mark = self.word(token.bytes(sql)),
            Kind::Name | Kind::Quoted => self.name(token, sql),
            Kind::Open => self.open(token, sql, functions),
            Kind::Dot => self.beside_name(self.last, sql),
            Kind::Text if self.last.is_some_and(|last| last.kind == Kind::Dot) => self.beside_name(Some(token), sql),
            Kind::Operator if token.bytes(sql) == b":=" => self.flags |= Flags::ASSIGNS,
            Kind::Semicolon => {
                self.between = true;
                self.begun = false;
                self.watching = true;
            }
            _ => {}
        }
        self.watching |= matches!(mark, Mark::Into | Mark::VerbOrFunction);
        self.mark_before = std::mem::replace(&mut self.mark, mark);
        self.before = self.last.replace(token).map(|last| last.kind);
    }

    /// What a token says about those before it.
    fn watch(&mut self, kind: Kind) {
        if std::mem::take(&mut self.asks_last_id) && kind != Kind::Close {
            self.flags |= Flags::SESSION_FUNCTION;
        }
        match self.mark {
            Mark::Into => self.flags |= if kind == Kind::At { Flags::INTO_VARIABLE } else { Flags::INTO_FILE },
            Mark::VerbOrFunction if kind != Kind::Open => self.flags |= Flags::WRITE_VERB,
            _ => {}
        }
        if self.between && kind != Kind::Semicolon && kind != Kind::End {
            self.between = false;
            self.flags |= Flags::SECOND_STATEMENT;
        }
        self.watching = self.between;
    }

    #[inline]
    fn word(&mut self, word: &[u8]) -> Mark {
        if !self.begun {
            return self.first(word);
        }
        let is = |keyword: &[u8]| word.eq_ignore_ascii_case(keyword);
        match word.len() {
            2 if is(b"AS") => Mark::Naming,
            3 if is(b"FOR") => {
                if self.mark == Mark::NextValue {
                    self.flags |= Flags::SEQUENCE;
                }
                Mark::For
            }
            4 => match word[0] | 0x20 {
                b'w' if is(b"WITH") => Mark::Naming,
                b'n' if is(b"NEXT") => Mark::Next,
                b'i' if is(b"INTO") => Mark::Into,
                b'l' if is(b"LOCK") => self.noticed(Flags::LOCKING_READ),
                b'l' if is(b"LOAD") => self.noticed(Flags::WRITE_VERB),
                b'c' if is(b"CALL") => self.noticed(Flags::WRITE_VERB),
                _ => Mark::None,
            },
            5 if is(b"VALUE") && self.mark == Mark::Next => Mark::NextValue,
            5 if is(b"SHARE") && self.mark == Mark::For => self.noticed(Flags::LOCKING_READ),
            6 => match word[0] | 0x20 {
                b'u' if is(b"UPDATE") && self.mark == Mark::For => self.noticed(Flags::LOCKING_READ),
                b'u' if is(b"UPDATE") => self.noticed(Flags::WRITE_VERB),
                b'd' if is(b"DELETE") => self.noticed(Flags::WRITE_VERB),
                b'i' if is(b"INSERT") => Mark::VerbOrFunction,
                _ => Mark::None,
            },
            7 if is(b"REPLACE") => Mark::VerbOrFunction,
            7 if is(b"PREPARE") || is(b"EXECUTE") => self.noticed(Flags::LITERAL_DECIDES),
            9 if is(b"RECURSIVE") || is(b"PROCEDURE") => Mark::Naming,
            _ => Mark::None,
        }
    }

    #[inline]
    fn noticed(&mut self, flags: Flags) -> Mark {
        self.flags |= flags;
        Mark::None
    }

    /// The first word of a statement.
    fn first(&mut self, word: &[u8]) -> Mark {
        self.begun = true;
        let leading = Leading::of(word);
        self.leading.get_or_insert(leading);
        if leading.is("PREPARE") || leading.is("EXECUTE") {
            self.flags |= Flags::LITERAL_DECIDES;
        }
        if leading.is("WITH") { Mark::Naming } else { Mark::None }
    }

    /// `s.nextval` draws from a sequence (MariaDB under `sql_mode=ORACLE`).
    fn name(&mut self, token: Token, sql: &[u8]) {
        let name = token.bytes(sql);
        let name = if token.kind == Kind::Quoted { &name[1..name.len().max(2) - 1] } else { name };
        if name.len() == 7
            && name.eq_ignore_ascii_case(b"NEXTVAL")
            && self.last.is_some_and(|last| last.kind == Kind::Dot)
        {
            self.flags |= Flags::SEQUENCE;
        }
    }

    /// In double quotes and beside a dot or a parenthesis stands a name, if the server takes double quotes for names.
    fn beside_name(&mut self, token: Option<Token>, sql: &[u8]) {
        let in_double_quotes = token.is_some_and(|token| token.kind == Kind::Text && sql[token.start] == b'"');
        if self.ansi_possible && in_double_quotes {
            self.flags |= Flags::AMBIGUOUS;
        }
    }

    /// A parenthesis: perhaps of a call.
    #[inline]
    fn open(&mut self, open: Token, sql: &[u8], functions: &Functions) {
        let Some(name) = self.last else { return };
        let called = match name.kind {
            // Behind `AS`, `WITH` or `)` stands an alias, whose columns follow.
            _ if self.mark_before == Mark::Naming || self.before == Some(Kind::Close) => return,
            Kind::Word if self.before == Some(Kind::Dot) => None,
            Kind::Word => functions.get(name.bytes(sql)),
            // A quoted or qualified name is never a word of the grammar.
            Kind::Name | Kind::Quoted => None,
            _ => return self.beside_name(Some(name), sql),
        };
        match called {
            Some(Callable::Harmless) => {}
            Some(Callable::HarmlessIfTight) if !open.gap => {}
            Some(Callable::Lock) => self.flags |= Flags::LOCK_FUNCTION,
            Some(Callable::LastInsertId) => {
                self.asks_last_id = true;
                self.watching = true;
            }
            Some(Callable::HarmlessIfTight) | None => {
                self.flags |= Flags::UNKNOWN_FUNCTION;
                self.function.get_or_insert((name.start, name.end));
            }
        }
    }
}

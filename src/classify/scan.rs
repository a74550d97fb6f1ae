//! One pass over a text's bytes, without allocating: its digest, its leading keyword and what is to be noticed in it.

use std::hash::{BuildHasher, Hasher};

use foldhash::{SharedSeed, quality};
use towline_middleware::SqlMode;

use super::{
    flags::Flags,
    functions::{Callable, Family, Functions},
    lexer::{Kind, Lexer, Run, Token},
    shape::{Repeats, Shape, Sink},
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
    /// The first name before a parenthesis that is not known.
    pub(super) function: Option<Token>,
    /// The longest stretch of literals that adds nothing to the shape.
    pub(super) run: Run,
}

/// The word that a text begins with: its first eight bytes, without regard to case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Leading(u64);

/// A word's first eight bytes as a number in which upper and lower case are the same. Words of letters that are no
/// longer than that are equal exactly if their keys are.
#[inline(always)]
fn key_of(token: Token, sql: &[u8]) -> u64 {
    let length = token.len().min(8);
    match sql.get(token.start()..token.start() + 8).and_then(|bytes| <[u8; 8]>::try_from(bytes).ok()) {
        Some(eight) => u64::from_le_bytes(eight) & (u64::MAX >> (64 - 8 * length)) & CASELESS,
        None => key(&token.bytes(sql)[..length]),
    }
}

/// The bits that letters of either case share.
const CASELESS: u64 = u64::from_le_bytes([0xdf; 8]);

const fn key(word: &[u8]) -> u64 {
    let mut key = 0;
    let mut at = 0;
    while at < word.len() {
        key |= (word[at] as u64) << (8 * at);
        at += 1;
    }
    key & CASELESS
}

/// The keywords that mean something to the scan.
mod keywords {
    use super::key;

    pub(super) const AS: u64 = key(b"AS");
    pub(super) const FOR: u64 = key(b"FOR");
    pub(super) const WITH: u64 = key(b"WITH");
    pub(super) const NEXT: u64 = key(b"NEXT");
    pub(super) const INTO: u64 = key(b"INTO");
    pub(super) const LOCK: u64 = key(b"LOCK");
    pub(super) const LOAD: u64 = key(b"LOAD");
    pub(super) const CALL: u64 = key(b"CALL");
    pub(super) const MATCH: u64 = key(b"MATCH");
    pub(super) const VALUE: u64 = key(b"VALUE");
    pub(super) const SELECT: u64 = key(b"SELECT");
    pub(super) const SHARE: u64 = key(b"SHARE");
    pub(super) const UPDATE: u64 = key(b"UPDATE");
    pub(super) const DELETE: u64 = key(b"DELETE");
    pub(super) const INSERT: u64 = key(b"INSERT");
    pub(super) const AGAINST: u64 = key(b"AGAINST");
    pub(super) const REPLACE: u64 = key(b"REPLACE");
    pub(super) const PREPARE: u64 = key(b"PREPARE");
    pub(super) const EXECUTE: u64 = key(b"EXECUTE");
    /// The beginnings of RECURSIVE and PROCEDURE.
    pub(super) const RECURSIV: u64 = key(b"RECURSIV");
    pub(super) const PROCEDUR: u64 = key(b"PROCEDUR");
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

/// A new key for the digests of one process, so that nobody outside can aim for two texts of one digest.
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

    /// Scans a text.
    pub(super) fn scan(&self, sql: &[u8], mode: SqlMode) -> Scan {
        let sink = HashSink { hasher: self.keys.build_hasher(), length: 0 };
        let (noticed, lexer, HashSink { mut hasher, length }) = self.walk(sql, mode, sink, Run::default());
        // What is noticed but not part of the shape (the space before a parenthesis, a comment's kind) parts digests.
        hasher.write_u16(noticed.flags.bits());
        Scan {
            digest: hasher.finish().max(1),
            length,
            leading: noticed.leading,
            flags: noticed.flags,
            function: noticed.function,
            run: lexer.longest_run(),
        }
    }

    /// The shape as SQL, up to so many bytes, of a text that was scanned like this.
    pub(super) fn template(&self, sql: &[u8], mode: SqlMode, scan: &Scan, limit: usize) -> Template {
        self.walk(sql, mode, Template { limit, ..Template::default() }, scan.run).2
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
        let mut noticed = Noticed { ansi_possible, ..Noticed::default() };
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
    /// AGAINST behind MATCH, which is no function's name then.
    Against,
    Select,
}

/// What was noticed so far, and as much of the last tokens as the next one needs.
#[derive(Debug)]
struct Noticed {
    flags: Flags,
    /// Whether double quotes may be names although nobody says so.
    ansi_possible: bool,
    leading: Leading,
    function: Option<Token>,
    /// The last token, and the kind of the one before it.
    last: Token,
    before: Kind,
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
    /// A name and its parenthesis have just passed that need arguments.
    needs_arguments: Option<Token>,
    /// A call whose arguments are counted.
    counted: Option<Counted>,
    /// Whether a MATCH has not found its AGAINST yet.
    matching: bool,
    /// A `JSON_TABLE(` whose COLUMNS have not come yet.
    json_table: Option<Token>,
    with: With,
}

/// A call that must have two arguments.
#[derive(Clone, Copy, Debug)]
struct Counted {
    name: Token,
    /// How many parentheses are open inside of its own.
    depth: u32,
    commas: u32,
}

/// Where a list of WITH stands: a name in it is never called, whatever follows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct With {
    at: WithAt,
    /// How many parentheses are open that were not before WITH.
    depth: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum WithAt {
    /// In no list.
    #[default]
    Nowhere,
    /// Behind WITH, RECURSIVE or a comma.
    Start,
    /// Behind a name, or its columns.
    Name,
    /// Behind AS.
    As,
    /// Behind the query.
    Query,
}

impl With {
    /// Behind WITH.
    fn start() -> Self {
        Self { at: WithAt::Start, depth: 0 }
    }

    /// Whether a parenthesis that follows now has a name's columns in it.
    fn columns_follow(self) -> bool {
        self.at == WithAt::Name && self.depth == 0
    }

    /// The next token.
    fn token(&mut self, kind: Kind, mark: Mark) {
        use WithAt::{As, Name, Nowhere, Query, Start};
        match kind {
            Kind::Open if self.depth > 0 || matches!(self.at, Name | As) => self.depth += 1,
            Kind::Close if self.depth == 0 => self.at = Nowhere,
            Kind::Close => {
                self.depth -= 1;
                if self.depth == 0 && self.at == As {
                    self.at = Query;
                }
            }
            _ if self.depth > 0 => {}
            Kind::Word if self.at == Start && mark == Mark::Naming => {}
            Kind::Word | Kind::Quoted if self.at == Start => self.at = Name,
            Kind::Word if self.at == Name && mark == Mark::Naming => self.at = As,
            Kind::Comma if self.at == Query => self.at = Start,
            _ => self.at = Nowhere,
        }
    }
}

impl Default for Noticed {
    fn default() -> Self {
        Self {
            flags: Flags::default(),
            ansi_possible: false,
            leading: Leading::default(),
            function: None,
            last: Token::NONE,
            before: Kind::End,
            mark: Mark::None,
            mark_before: Mark::None,
            watching: false,
            between: false,
            begun: false,
            asks_last_id: false,
            needs_arguments: None,
            counted: None,
            matching: false,
            json_table: None,
            with: With::default(),
        }
    }
}

impl Noticed {
    /// A token that is neither a word nor a comma.
    #[inline(always)]
    fn other(&mut self, token: Token, sql: &[u8], functions: &Functions) {
        match token.kind {
            Kind::Name | Kind::Quoted => self.name(token, sql),
            Kind::Open => self.open(token, sql, functions),
            Kind::Dot => self.beside_name(self.last, sql),
            Kind::Text if self.last.kind == Kind::Dot => self.beside_name(token, sql),
            Kind::Operator if token.bytes(sql) == b":=" => self.flags |= Flags::ASSIGNS,
            Kind::Semicolon => {
                self.between = true;
                self.begun = false;
                self.watching = true;
            }
            _ => {}
        }
    }

    /// The token becomes the last one.
    #[inline(always)]
    fn pass(&mut self, token: Token, mark: Mark) {
        self.watching |= matches!(mark, Mark::Into | Mark::VerbOrFunction);
        if self.with.at != WithAt::Nowhere {
            self.with.token(token.kind, mark);
        }
        self.mark_before = std::mem::replace(&mut self.mark, mark);
        self.before = std::mem::replace(&mut self.last, token).kind;
    }

    /// What a token says about those before it.
    fn watch(&mut self, kind: Kind) {
        if std::mem::take(&mut self.asks_last_id) && kind != Kind::Close {
            self.flags |= Flags::SESSION_FUNCTION;
        }
        if let Some(name) = self.needs_arguments.take()
            && kind == Kind::Close
        {
            self.unknown_function(name);
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
        self.count(kind);
        self.watching = self.between || self.counted.is_some();
    }

    /// A token inside of a call whose arguments are counted.
    fn count(&mut self, kind: Kind) {
        let Some(counted) = &mut self.counted else { return };
        match kind {
            Kind::Open => counted.depth += 1,
            Kind::Close if counted.depth > 0 => counted.depth -= 1,
            Kind::Comma if counted.depth == 0 => counted.commas += 1,
            Kind::Close | Kind::End | Kind::Semicolon => {
                let Counted { name, commas, .. } = *counted;
                self.counted = None;
                if commas != 1 || kind != Kind::Close {
                    self.unknown_function(name);
                }
            }
            _ => {}
        }
    }

    /// Literals behind a comma were stepped over, commas and all.
    fn stepped_over(&mut self) {
        if let Some(counted) = self.counted.as_mut().filter(|counted| counted.depth == 0) {
            counted.commas += 1;
        }
    }

    #[inline(always)]
    fn word(&mut self, token: Token, sql: &[u8]) -> Mark {
        let key = key_of(token, sql);
        if !self.begun {
            return self.first(key);
        }
        match key {
            keywords::AS => Mark::Naming,
            keywords::SELECT => Mark::Select,
            keywords::WITH => self.with(),
            keywords::FOR => {
                if self.mark == Mark::NextValue {
                    self.flags |= Flags::SEQUENCE;
                }
                Mark::For
            }
            keywords::NEXT => Mark::Next,
            keywords::INTO => Mark::Into,
            keywords::LOCK => self.noticed(Flags::LOCKING_READ),
            keywords::LOAD | keywords::CALL | keywords::DELETE => self.noticed(Flags::WRITE_VERB),
            keywords::MATCH => {
                self.matching = true;
                Mark::None
            }
            keywords::AGAINST if std::mem::take(&mut self.matching) => Mark::Against,
            keywords::VALUE if self.mark == Mark::Next => Mark::NextValue,
            keywords::SHARE if self.mark == Mark::For => self.noticed(Flags::LOCKING_READ),
            keywords::UPDATE if self.mark == Mark::For => self.noticed(Flags::LOCKING_READ),
            keywords::UPDATE => self.noticed(Flags::WRITE_VERB),
            keywords::INSERT | keywords::REPLACE => Mark::VerbOrFunction,
            keywords::PREPARE | keywords::EXECUTE => self.noticed(Flags::LITERAL_DECIDES),
            keywords::RECURSIV | keywords::PROCEDUR if is_naming(token.bytes(sql)) => Mark::Naming,
            _ => Mark::None,
        }
    }

    #[inline]
    fn noticed(&mut self, flags: Flags) -> Mark {
        self.flags |= flags;
        Mark::None
    }

    /// The first word of a statement.
    fn first(&mut self, key: u64) -> Mark {
        self.begun = true;
        if self.leading == Leading::default() {
            self.leading = Leading(key);
        }
        match key {
            keywords::PREPARE | keywords::EXECUTE => self.noticed(Flags::LITERAL_DECIDES),
            keywords::WITH => self.with(),
            keywords::SELECT => Mark::Select,
            _ => Mark::None,
        }
    }

    #[inline]
    fn with(&mut self) -> Mark {
        self.with = With::start();
        Mark::Naming
    }

    /// `s.nextval` draws from a sequence (MariaDB under `sql_mode=ORACLE`).
    #[inline(always)]
    fn name(&mut self, token: Token, sql: &[u8]) {
        if self.last.kind == Kind::Dot && matches!(token.len(), 7 | 9) && is_nextval(token, sql) {
            self.flags |= Flags::SEQUENCE;
        }
    }

    /// In double quotes and beside a dot or a parenthesis stands a name, if the server takes double quotes for names.
    fn beside_name(&mut self, token: Token, sql: &[u8]) {
        let in_double_quotes = token.kind == Kind::Text && sql[token.start()] == b'"';
        if self.ansi_possible && in_double_quotes {
            self.flags |= Flags::AMBIGUOUS;
        }
    }

    /// A parenthesis: perhaps of a call.
    #[inline]
    fn open(&mut self, open: Token, sql: &[u8], functions: &Functions) {
        let name = self.last;
        let called = match name.kind {
            // Behind `AS`, `WITH` or `)` stands an alias, whose columns follow.
            _ if self.mark_before == Mark::Naming || self.before == Kind::Close => return,
            _ if self.mark == Mark::Against || self.with.columns_follow() => return,
            Kind::Word if self.before == Kind::Dot => None,
            Kind::Word => functions.get(name.bytes(sql)),
            // A quoted or qualified name is never a word of the grammar.
            Kind::Name | Kind::Quoted => None,
            _ => return self.beside_name(name, sql),
        };
        match called {
            Some(Callable::Word | Callable::Harmless) => {}
            Some(Callable::HarmlessIfTight) if !open.gap => {}
            Some(Callable::Lock) => self.flags |= Flags::LOCK_FUNCTION,
            Some(Callable::LastInsertId) => {
                self.asks_last_id = true;
                self.watching = true;
            }
            Some(Callable::HarmlessWithArguments) => {
                self.needs_arguments = Some(name);
                self.watching = true;
            }
            Some(Callable::HarmlessWithTwo) => {
                let counted = Counted { name, depth: 0, commas: 0 };
                if let Some(around) = self.counted.replace(counted) {
                    // Only one is counted at a time.
                    self.unknown_function(around.name);
                }
                self.watching = true;
            }
            Some(Callable::WordBehindSelect) if self.mark_before == Mark::Select => {}
            Some(Callable::JsonTable) => {
                if let Some(before) = self.json_table.replace(name) {
                    self.unknown_function(before);
                }
            }
            // A name that stands right behind a string is no function's.
            Some(Callable::JsonColumns) if self.before == Kind::Text => self.json_table = None,
            Some(Callable::WordBehindLiteral) if matches!(self.before, Kind::Text | Kind::Number | Kind::Parameter) => {
            }
            Some(
                Callable::HarmlessIfTight
                | Callable::JsonColumns
                | Callable::WordBehindLiteral
                | Callable::WordBehindSelect,
            )
            | None => self.unknown_function(name),
        }
    }

    fn unknown_function(&mut self, name: Token) {
        self.flags |= Flags::UNKNOWN_FUNCTION;
        self.function.get_or_insert(name);
    }
}

fn is_naming(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"RECURSIVE") || word.eq_ignore_ascii_case(b"PROCEDURE")
}

/// `nextval`, quoted or not.
fn is_nextval(token: Token, sql: &[u8]) -> bool {
    let name = token.bytes(sql);
    let name = if token.kind == Kind::Quoted { &name[1..name.len() - 1] } else { name };
    name.eq_ignore_ascii_case(b"NEXTVAL")
}

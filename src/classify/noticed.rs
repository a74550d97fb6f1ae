//! What the scan notices of the tokens that pass.

use super::{
    flags::Flags,
    functions::{Callable, Functions},
    keyword::{self, Leading, key_of},
    lexer::{Kind, Token},
    with_list::With,
};

/// A word that means something to what stands beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mark {
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
pub(super) struct Noticed {
    pub(super) flags: Flags,
    ansi_possible: bool,
    pub(super) leading: Leading,
    pub(super) function: Option<Token>,
    /// The last token, and the kind of the one before it.
    last: Token,
    before: Kind,
    mark: Mark,
    mark_before: Mark,
    /// Whether the next token decides about one of the last.
    pub(super) watching: bool,
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
    pub(super) json_table: Option<Token>,
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

impl Noticed {
    /// Nothing yet. `ansi_possible` is whether double quotes may be names although nobody says so.
    #[inline(always)]
    pub(super) fn new(ansi_possible: bool) -> Self {
        Self {
            flags: Flags::default(),
            ansi_possible,
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

    /// A token that is neither a word nor a comma.
    #[inline(always)]
    pub(super) fn other(&mut self, token: Token, sql: &[u8], functions: &Functions) {
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
    pub(super) fn pass(&mut self, token: Token, mark: Mark) {
        self.watching |= matches!(mark, Mark::Into | Mark::VerbOrFunction);
        if self.with.is_running() {
            self.with.token(token.kind, mark == Mark::Naming);
        }
        self.mark_before = std::mem::replace(&mut self.mark, mark);
        self.before = std::mem::replace(&mut self.last, token).kind;
    }

    /// What a token says about those before it.
    pub(super) fn watch(&mut self, kind: Kind) {
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
    pub(super) fn stepped_over(&mut self) {
        if let Some(counted) = self.counted.as_mut().filter(|counted| counted.depth == 0) {
            counted.commas += 1;
        }
    }

    #[inline(always)]
    pub(super) fn word(&mut self, token: Token, sql: &[u8]) -> Mark {
        let key = key_of(token, sql);
        if !self.begun {
            return self.first(key);
        }
        match key {
            keyword::AS => Mark::Naming,
            keyword::SELECT => Mark::Select,
            keyword::WITH => self.with(),
            keyword::FOR => {
                if self.mark == Mark::NextValue {
                    self.flags |= Flags::SEQUENCE;
                }
                Mark::For
            }
            keyword::NEXT => Mark::Next,
            keyword::INTO => Mark::Into,
            keyword::LOCK => self.noticed(Flags::LOCKING_READ),
            keyword::LOAD | keyword::CALL | keyword::DELETE => self.noticed(Flags::WRITE_VERB),
            keyword::MATCH => {
                self.matching = true;
                Mark::None
            }
            keyword::AGAINST if std::mem::take(&mut self.matching) => Mark::Against,
            keyword::VALUE if self.mark == Mark::Next => Mark::NextValue,
            keyword::SHARE if self.mark == Mark::For => self.noticed(Flags::LOCKING_READ),
            keyword::UPDATE if self.mark == Mark::For => self.noticed(Flags::LOCKING_READ),
            keyword::UPDATE => self.noticed(Flags::WRITE_VERB),
            keyword::INSERT | keyword::REPLACE => Mark::VerbOrFunction,
            keyword::PREPARE | keyword::EXECUTE => self.noticed(Flags::LITERAL_DECIDES),
            keyword::RECURSIV | keyword::PROCEDUR if is_naming(token.bytes(sql)) => Mark::Naming,
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
            keyword::PREPARE | keyword::EXECUTE => self.noticed(Flags::LITERAL_DECIDES),
            keyword::WITH => self.with(),
            keyword::SELECT => Mark::Select,
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

    pub(super) fn unknown_function(&mut self, name: Token) {
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

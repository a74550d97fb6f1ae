//! What a command means to do.

use std::{borrow::Cow, fmt, sync::Arc};

use serde::Serialize;

use crate::Token;

/// What a command means to do, weakest first: of several statements in one command the strongest wins.
///
/// Whoever guards a promise takes [`Unknown`](Intent::Unknown) as a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Intent {
    /// Changes nothing that outlives the command.
    Read,
    /// Changes only the client's own session: a `SET`, a `USE`, a user variable.
    SessionState,
    /// Opens, ends or marks a transaction. Its end may be a commit of earlier writes.
    Transaction,
    /// Changes data, schema, accounts or the server.
    Write,
    /// Nobody could tell. Treated as a write.
    Unknown,
}

impl Intent {
    /// Whether it must go to the master: a write, or something that may be one.
    pub fn may_write(self) -> bool {
        self >= Self::Write
    }

    /// The word used in JSON and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::SessionState => "session_state",
            Self::Transaction => "transaction",
            Self::Write => "write",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Intent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// On which roles the guard refuses a statement whatever its intent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusedOn {
    /// A slave: it would hold up the applier or switch a fence off.
    Slave,
    /// Every node: it would hide writes from replication.
    EveryNode,
}

/// Why the guard refuses a statement that its intent alone would let pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Where it holds.
    pub on: RefusedOn,
    /// What is refused and why, as the client sees it.
    pub reason: Cow<'static, str>,
}

/// What classification found out about one SQL text. Made once per shape and shared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// What it means to do.
    pub intent: Intent,
    /// What decided the intent: a word for people, as in `keyword SELECT` or `function nextval`.
    pub rule: Cow<'static, str>,
    /// Set when the guard refuses it by name.
    pub refusal: Option<Refusal>,
    /// The text's shape: equal for texts that differ only in literals, comments, case and space, on every node and after
    /// every start. For people and configurations; 0 when there is none. Whoever wants to can make two texts of one
    /// digest, by some 2³² tries, but not a text of a digest that is given.
    pub digest: u64,
    /// The same keyed per process, so that nobody outside can aim for two texts of one key: what memory goes by.
    /// 0 when there is none.
    #[serde(skip)]
    pub key: u64,
    /// The tables that it names, as `(schema, table)`, in lower case, since texts that differ in case share a plan.
    /// Empty means "not known".
    pub tables: Vec<(Option<String>, String)>,
    /// What it does with a statement that SQL itself names.
    pub named: Option<Named>,
    /// Whether it may choose another default schema, by USE.
    pub chooses_schema: bool,
}

/// What a text does with a statement that SQL itself names. Names are in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Named {
    /// `PREPARE name FROM 'text'`: the intent is that of the text.
    Prepares(String),
    /// `EXECUTE name`: only the session knows what that is.
    Executes(String),
}

impl Plan {
    /// Whether it is one write that a slave refuses only because it is a slave: the master would take it.
    pub fn is_for_master(&self) -> bool {
        self.intent == Intent::Write && self.refusal.is_none() && self.named.is_none()
    }

    /// A plan with nothing known but the intent.
    pub fn bare(intent: Intent, rule: &'static str) -> Self {
        let rule = Cow::Borrowed(rule);
        Self { intent, rule, refusal: None, digest: 0, key: 0, tables: Vec::new(), named: None, chooses_schema: false }
    }
}

/// How the server will read a text: what the lexer's rules hang on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SqlMode {
    /// A backslash in a string is a plain character.
    pub no_backslash_escapes: bool,
    /// Double quotes are identifiers.
    pub ansi_quotes: bool,
    /// The client's character set has bytes that look like ASCII inside a character (gbk, big5, sjis …),
    /// so that quotes and backslashes can't be found byte by byte.
    pub ascii_unsafe_charset: bool,
    /// The client's character set has letters in the place of some of ASCII's signs (swe7), so that names have them.
    pub ascii_letters_charset: bool,
}

/// Tells what SQL means to do. Implemented by the node; layers reach it through [`Command::rewrite`](crate::Command::rewrite).
pub trait Classifier: Send + Sync + fmt::Debug {
    /// The plan of one command's SQL. Never fails: what is not understood is [`Intent::Unknown`].
    fn classify(&self, sql: &[u8], mode: SqlMode) -> Arc<Plan>;

    /// The text with every literal replaced, so that it can be written down. `None` if literals can't be told with
    /// certainty.
    fn without_literals(&self, _sql: &[u8], _mode: SqlMode) -> Option<String> {
        None
    }

    /// The text cut into tokens as the server cuts it. `None` if that can't be told with certainty.
    fn tokens(&self, _sql: &[u8], _mode: SqlMode) -> Option<Vec<Token>> {
        None
    }

    /// Whether each function that this piece of a text calls is known to be the server's own. Behind a table's name
    /// the columns of an INSERT look like a call: leave them out.
    fn calls_no_stored_function(&self, _sql: &[u8], _mode: SqlMode) -> bool {
        false
    }

    /// The server has shown a text of this shape (the plan's [key](Plan::key)) to be a write although it was taken for
    /// less.
    fn learn_write(&self, key: u64);

    /// How often that has happened.
    fn misclassified(&self) -> u64 {
        0
    }

    /// What is known of a text, and why.
    fn explain(&self, sql: &[u8], mode: SqlMode) -> Explanation {
        Explanation { plan: self.classify(sql, mode), functions: Vec::new(), cached: false }
    }
}

/// What is known of a text, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What was decided.
    pub plan: Arc<Plan>,
    /// The functions that it calls, as they are written there.
    pub functions: Vec<String>,
    /// Whether the plan was there already.
    pub cached: bool,
}

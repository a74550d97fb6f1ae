//! One statement as tokens.

use std::borrow::Cow;

use towline_middleware::{Token, TokenKind as Kind};

use super::Refusal;

/// Parentheses deeper than this are refused: what looks through them calls itself for each, on one stack.
const DEPTH_MAX: usize = 100;

/// One statement, with its parentheses matched. A place is the number of a token; the place behind the last has none.
pub(super) struct Text<'a> {
    sql: &'a [u8],
    tokens: &'a [Token],
    /// For each `(` the place of its `)`.
    closes: Vec<usize>,
}

impl<'a> Text<'a> {
    /// The only statement of a text.
    pub(super) fn new(sql: &'a [u8], tokens: &'a [Token]) -> Result<Self, Refusal> {
        let last = tokens.iter().rposition(|token| token.kind != Kind::Semicolon).map_or(0, |last| last + 1);
        let tokens = &tokens[..last];
        let (mut closes, mut open) = (vec![0; tokens.len()], Vec::new());
        for (at, token) in tokens.iter().enumerate() {
            match token.kind {
                Kind::Semicolon => {
                    return Err(Refusal::form("several statements in one text", "send them one by one"));
                }
                Kind::Open if open.len() == DEPTH_MAX => return Err(TOO_DEEP),
                Kind::Open => open.push(at),
                Kind::Close => closes[open.pop().ok_or(UNBALANCED)?] = at,
                _ => {}
            }
        }
        if open.is_empty() { Ok(Self { sql, tokens, closes }) } else { Err(UNBALANCED) }
    }

    pub(super) fn sql(&self) -> &'a [u8] {
        self.sql
    }

    /// The place behind the last token.
    pub(super) fn end(&self) -> usize {
        self.tokens.len()
    }

    pub(super) fn kind(&self, at: usize) -> Kind {
        self.tokens.get(at).map_or(Kind::End, |token| token.kind)
    }

    /// Whether an unquoted word stands here, in any case.
    pub(super) fn is(&self, at: usize, word: &str) -> bool {
        self.kind(at) == Kind::Word && self.bytes(at).eq_ignore_ascii_case(word.as_bytes())
    }

    pub(super) fn is_any(&self, at: usize, words: &[&str]) -> bool {
        words.iter().any(|word| self.is(at, word))
    }

    /// The place behind these words, if they stand here one after the other in any order and number.
    pub(super) fn skip(&self, mut at: usize, words: &[&str]) -> usize {
        while self.is_any(at, words) {
            at += 1;
        }
        at
    }

    pub(super) fn bytes(&self, at: usize) -> &'a [u8] {
        self.tokens.get(at).map_or(&[], |token| token.bytes(self.sql))
    }

    /// As the client is told of it.
    pub(super) fn shown(&self, at: usize) -> String {
        if self.kind(at) == Kind::End { "the end".to_owned() } else { String::from_utf8_lossy(self.bytes(at)).into() }
    }

    /// The name that stands here, quoted or not.
    pub(super) fn name(&self, at: usize) -> Option<Cow<'a, [u8]>> {
        self.tokens.get(at)?.name(self.sql)
    }

    /// The `)` of this `(`.
    pub(super) fn close(&self, at: usize) -> usize {
        self.closes[at]
    }

    /// The byte at which a token begins.
    pub(super) fn start_of(&self, at: usize) -> usize {
        self.tokens.get(at).map_or(self.sql.len(), Token::start)
    }

    /// The byte behind a token.
    pub(super) fn end_of(&self, at: usize) -> usize {
        self.tokens[at].end()
    }

    /// Whether a token is this sign.
    pub(super) fn is_sign(&self, at: usize, signs: &[&str]) -> bool {
        self.kind(at) == Kind::Operator && signs.iter().any(|sign| self.bytes(at) == sign.as_bytes())
    }

    /// How many parameters stand before this place.
    pub(super) fn parameters_before(&self, at: usize) -> usize {
        self.tokens[..at].iter().filter(|token| token.kind == Kind::Parameter).count()
    }

    /// Whether all that is looked at before rows are chosen only compares: nothing in it can fail, warn or take its time
    /// by the value of a row that is then left out.
    pub(super) fn only_compares(&self) -> bool {
        let selects = (0..self.end()).filter(|at| self.is(*at, "SELECT")).count();
        let by_place = self.is(0, "SELECT") && selects == 1 || self.is_any(0, &["UPDATE", "DELETE"]) && selects == 0;
        let (mut counts, mut depth, mut chosen_at) = (!by_place, 0, 0);
        // What an INSERT brings is no choice of rows, until it asks for some.
        let is_insert = self.is_any(0, &["INSERT", "REPLACE"]);
        let begin = if is_insert { (0..self.end()).find(|at| self.is(*at, "SELECT")) } else { Some(0) };
        for at in begin.unwrap_or(self.end())..self.end() {
            match self.kind(at) {
                Kind::Open => depth += 1,
                Kind::Close => depth -= 1,
                _ if !by_place => {}
                Kind::Word if self.is_any(at, &["UPDATE", "FROM", "WHERE", "HAVING"]) => {
                    (counts, chosen_at) = (true, depth);
                }
                // FORCE INDEX FOR ORDER BY stands before conditions.
                Kind::Word if at > 0 && self.is(at - 1, "FOR") => {}
                Kind::Word if depth == chosen_at && self.is_any(at, &["SET", "GROUP", "ORDER", "LIMIT"]) => {
                    counts = false;
                }
                _ => {}
            }
            if counts && !self.is_harmless(at) {
                return false;
            }
        }
        true
    }

    fn is_harmless(&self, at: usize) -> bool {
        let before = at.checked_sub(1);
        let is_before = |kinds: &[Kind]| before.is_some_and(|before| kinds.contains(&self.kind(before)));
        let is_word_before = |words: &[&str]| before.is_some_and(|before| self.is_any(before, words));
        match self.kind(at) {
            Kind::Operator if self.is_sign(at, &["=", "<", ">", "<=", ">=", "<>", "!=", "<=>"]) => true,
            Kind::Operator if self.is_sign(at, &["*"]) => {
                is_before(&[Kind::Dot, Kind::Comma, Kind::Open]) || is_word_before(&["SELECT", "DISTINCT", "ALL"])
            }
            Kind::Operator if self.is_sign(at, &["-"]) => {
                self.kind(at + 1) == Kind::Number && is_before(&[Kind::Operator, Kind::Open, Kind::Comma])
            }
            Kind::Operator => false,
            // A query in the place of one value fails when it has two.
            Kind::Open if self.is(at + 1, "SELECT") => before.is_none() || is_word_before(BEFORE_ROWS),
            Kind::Word if self.kind(at + 1) == Kind::Open => self.is_any(at, BEFORE_OPEN),
            Kind::Word => !self.is_any(at, COMPUTING),
            _ => true,
        }
    }
}

const TOO_DEEP: Refusal =
    Refusal::form("parentheses more than 100 deep", "leave out those that change nothing, or part the statement");
const UNBALANCED: Refusal = Refusal::form("parentheses that do not match", "write the statement whole");

/// What a query of many rows may stand behind.
const BEFORE_ROWS: &[&str] = &["FROM", "JOIN", "IN", "EXISTS", "ANY", "SOME", "AS", "UNION", "ALL", "DISTINCT"];

/// Words, and functions that never fail nor warn.
const BEFORE_OPEN: &[&str] = &[
    "ALL",
    "AND",
    "ANY",
    "AS",
    "AVG",
    "BETWEEN",
    "BY",
    "CASE",
    "COALESCE",
    "COUNT",
    "CURDATE",
    "CURRENT_DATE",
    "CURRENT_TIMESTAMP",
    "DATABASE",
    "DENSE_RANK",
    "DISTINCT",
    "ELSE",
    "EXCEPT",
    "EXISTS",
    "FROM",
    "IF",
    "IFNULL",
    "IN",
    "INDEX",
    "INTERSECT",
    "JOIN",
    "KEY",
    "LCASE",
    "LIKE",
    "LIMIT",
    "LOWER",
    "MAX",
    "MIN",
    "NOT",
    "NOW",
    "NULLIF",
    "ON",
    "OR",
    "OVER",
    "RANK",
    "ROW_NUMBER",
    "SELECT",
    "SET",
    "SOME",
    "SUM",
    "THEN",
    "UCASE",
    "UNION",
    "UPPER",
    "USER",
    "USING",
    "UTC_TIMESTAMP",
    "VALUE",
    "VALUES",
    "WHEN",
    "WHERE",
];

/// Words that compute.
const COMPUTING: &[&str] = &["BINARY", "DIV", "INTERVAL", "MATCH", "MOD", "REGEXP", "RLIKE", "SOUNDS", "XOR"];

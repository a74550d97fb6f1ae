//! Walks over the tokens of one statement.

use std::borrow::Cow;

use super::lexer::{Kind, Token};

/// Stands before one token of a statement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    sql: &'a [u8],
    tokens: &'a [Token],
}

impl<'a> Cursor<'a> {
    /// Before the first token.
    pub(super) fn new(sql: &'a [u8], tokens: &'a [Token]) -> Self {
        Self { sql, tokens }
    }

    /// The statements of a text, parted at `;`. Empty ones are left out.
    pub(super) fn statements(self) -> impl Iterator<Item = Self> {
        let parts = self.tokens.split(|token| token.kind == Kind::Semicolon);
        parts.filter(|tokens| !tokens.is_empty()).map(move |tokens| Self { tokens, ..self })
    }

    /// The kind of the next token.
    pub(super) fn kind(&self) -> Kind {
        self.kind_at(0)
    }

    /// The kind of a token further on.
    pub(super) fn kind_at(&self, ahead: usize) -> Kind {
        self.tokens.get(ahead).map_or(Kind::End, |token| token.kind)
    }

    /// Whether nothing is left.
    pub(super) fn at_end(&self) -> bool {
        self.tokens.is_empty()
    }

    /// How many tokens are left.
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The next token and its bytes.
    pub(super) fn take(&mut self) -> Option<(Token, &'a [u8])> {
        let (token, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some((*token, token.bytes(self.sql)))
    }

    /// Whether the next token is this keyword.
    pub(super) fn is(&self, keyword: &str) -> bool {
        self.is_at(0, keyword)
    }

    /// Whether a token further on is this keyword.
    pub(super) fn is_at(&self, ahead: usize, keyword: &str) -> bool {
        let token = self.tokens.get(ahead).filter(|token| token.kind == Kind::Word);
        token.is_some_and(|token| token.bytes(self.sql).eq_ignore_ascii_case(keyword.as_bytes()))
    }

    /// Steps over this keyword, if it is next.
    pub(super) fn eat(&mut self, keyword: &str) -> bool {
        let is = self.is(keyword);
        if is {
            self.tokens = &self.tokens[1..];
        }
        is
    }

    /// Steps over one of these keywords, if one is next.
    pub(super) fn eat_any(&mut self, keywords: &[&str]) -> bool {
        keywords.iter().any(|keyword| self.eat(keyword))
    }

    /// Steps over a token of this kind, if it is next.
    pub(super) fn eat_kind(&mut self, kind: Kind) -> bool {
        let is = self.kind() == kind;
        if is {
            self.tokens = &self.tokens[1..];
        }
        is
    }

    /// Steps over `=` or `:=`.
    pub(super) fn eat_assignment(&mut self) -> bool {
        let is = self.is_assignment_at(0);
        if is {
            self.tokens = &self.tokens[1..];
        }
        is
    }

    /// Whether a token further on is `=` or `:=`.
    pub(super) fn is_assignment_at(&self, ahead: usize) -> bool {
        let token = self.tokens.get(ahead).filter(|token| token.kind == Kind::Operator);
        token.is_some_and(|token| matches!(token.bytes(self.sql), b"=" | b":="))
    }

    /// Steps over a name, quoted or not, and returns it without its quotes.
    pub(super) fn eat_name(&mut self) -> Option<Cow<'a, [u8]>> {
        let token = *self.tokens.first()?;
        let name = token.name(self.sql)?;
        self.tokens = &self.tokens[1..];
        Some(name)
    }

    /// Steps over an expression: up to a comma outside parentheses, this keyword outside parentheses, or the end.
    pub(super) fn skip_expression(&mut self, until: Option<&str>) {
        let mut depth = 0_usize;
        while !self.at_end() {
            match self.kind() {
                Kind::Open => depth += 1,
                Kind::Close => depth = depth.saturating_sub(1),
                Kind::Comma if depth == 0 => return,
                Kind::Word if depth == 0 && until.is_some_and(|keyword| self.is(keyword)) => return,
                _ => {}
            }
            self.tokens = &self.tokens[1..];
        }
    }

    /// The tokens that are left, each with its name if it is one.
    pub(super) fn names(self) -> impl Iterator<Item = (Kind, Option<Cow<'a, [u8]>>)> {
        self.tokens.iter().map(move |token| (token.kind, token.name(self.sql)))
    }
}

//! Reads a definition by its grammar, and writes anew what was understood.

use super::types::{Arguments, Family, TYPES};
use crate::frontend::http::{
    definition_tokens::{Reason, Token},
    json,
    sql_text::{InvalidIdentifier, push_identifier, push_text},
};

pub(super) enum InvalidOr {
    Reason(Reason),
    Identifier(InvalidIdentifier),
}

impl From<Reason> for InvalidOr {
    fn from(reason: Reason) -> Self {
        Self::Reason(reason)
    }
}

impl From<InvalidIdentifier> for InvalidOr {
    fn from(error: InvalidIdentifier) -> Self {
        Self::Identifier(error)
    }
}

/// Where the grammar of the server takes a string but no introducer. A backslash means different things under different
/// `sql_mode`s, and so is not taken.
pub(super) fn push_plain_string(sql: &mut String, text: &str) -> Result<(), Reason> {
    if let Some(bad) = text.chars().find(|c| *c == '\\' || c.is_control()) {
        return Err(Reason::Character(bad));
    }
    sql.push('\'');
    sql.push_str(&text.replace('\'', "''"));
    sql.push('\'');
    Ok(())
}

pub(super) struct Parser {
    pub(super) tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
}

impl Parser {
    fn next(&mut self, expected: &'static str) -> Result<Token, Reason> {
        self.tokens.next().ok_or(Reason::End(expected))
    }

    /// Whether the next word is this one; if so it is gone.
    fn eat(&mut self, word: &str) -> bool {
        self.tokens.next_if(|token| matches!(token, Token::Word(upper, _) if upper == word)).is_some()
    }

    fn eat_mark(&mut self, mark: char) -> bool {
        self.tokens.next_if_eq(&Token::Mark(mark)).is_some()
    }

    fn expect(&mut self, word: &'static str) -> Result<(), Reason> {
        match self.eat(word) {
            true => Ok(()),
            false => Err(self.unexpected(word)),
        }
    }

    fn unexpected(&mut self, expected: &'static str) -> Reason {
        match self.tokens.peek() {
            Some(token) => Reason::Unexpected { found: token.text(), expected },
            None => Reason::End(expected),
        }
    }

    pub(super) fn end(&mut self) -> Result<(), InvalidOr> {
        match self.tokens.peek() {
            None => Ok(()),
            Some(_) => Err(self.unexpected("the end").into()),
        }
    }

    pub(super) fn push_name(&mut self, sql: &mut String, expected: &'static str) -> Result<(), InvalidOr> {
        match self.next(expected)? {
            Token::Word(_, name) | Token::Name(name) => Ok(push_identifier(sql, "attrs", &name)?),
            other => Err(Reason::Unexpected { found: other.text(), expected }.into()),
        }
    }

    /// Appends a type and returns its name.
    pub(super) fn push_type(&mut self, sql: &mut String) -> Result<&'static str, InvalidOr> {
        let word = match self.next("a type")? {
            Token::Word(word, _) => word,
            other => return Err(Reason::Unexpected { found: other.text(), expected: "a type" }.into()),
        };
        let Some((name, arguments, family)) = TYPES.iter().find(|(name, ..)| *name == word) else {
            let names: Vec<&str> = TYPES.iter().map(|(name, ..)| *name).collect();
            return Err(Reason::UnknownType { nearest: json::nearest(&word, &names), word }.into());
        };
        sql.push_str(name);
        self.push_arguments(sql, name, *arguments)?;
        loop {
            match family {
                Family::Number if self.eat("UNSIGNED") => sql.push_str(" UNSIGNED"),
                Family::Number if self.eat("SIGNED") => sql.push_str(" SIGNED"),
                Family::Number if self.eat("ZEROFILL") => sql.push_str(" ZEROFILL"),
                Family::Number if *name == "DOUBLE" && self.eat("PRECISION") => {}
                Family::Text if self.eat("CHARSET") => self.push_charset(sql, " CHARACTER SET ")?,
                Family::Text if self.eat("CHARACTER") => {
                    self.expect("SET")?;
                    self.push_charset(sql, " CHARACTER SET ")?;
                }
                Family::Text if self.eat("COLLATE") => self.push_charset(sql, " COLLATE ")?,
                _ => return Ok(name),
            }
        }
    }

    fn push_arguments(&mut self, sql: &mut String, name: &'static str, wanted: Arguments) -> Result<(), InvalidOr> {
        let mut count = 0;
        if self.eat_mark('(') {
            loop {
                sql.push(if count == 0 { '(' } else { ',' });
                match (wanted, self.next("an argument")?) {
                    (Arguments::Numbers(..), Token::Number(digits)) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                        sql.push_str(&digits);
                    }
                    (Arguments::Strings, Token::Text(text)) => push_plain_string(sql, &text)?,
                    _ => return Err(Reason::Arguments(name).into()),
                }
                count += 1;
                if !self.eat_mark(',') {
                    break;
                }
            }
            if !self.eat_mark(')') {
                return Err(self.unexpected("a closing parenthesis").into());
            }
            sql.push(')');
        }
        let fits = match wanted {
            Arguments::Numbers(least, most) => (least..=most).contains(&count),
            Arguments::Strings => count > 0,
        };
        if fits { Ok(()) } else { Err(Reason::Arguments(name).into()) }
    }

    fn push_charset(&mut self, sql: &mut String, introduction: &str) -> Result<(), InvalidOr> {
        match self.next("the name of a character set or collation")? {
            Token::Word(_, word) if word.is_ascii() => {
                sql.push_str(introduction);
                sql.push_str(&word);
                Ok(())
            }
            other => {
                let expected = "the name of a character set or collation";
                Err(Reason::Unexpected { found: other.text(), expected }.into())
            }
        }
    }

    pub(super) fn push_attributes(&mut self, sql: &mut String) -> Result<(), InvalidOr> {
        while self.tokens.peek().is_some() {
            if self.eat("NOT") {
                self.expect("NULL")?;
                sql.push_str(" NOT NULL");
            } else if self.eat("NULL") {
                sql.push_str(" NULL");
            } else if self.eat("DEFAULT") {
                sql.push_str(" DEFAULT ");
                self.push_default(sql)?;
            } else if self.eat("ON") {
                self.expect("UPDATE")?;
                self.expect("CURRENT_TIMESTAMP")?;
                sql.push_str(" ON UPDATE CURRENT_TIMESTAMP");
                self.push_precision(sql)?;
            } else if self.eat("AUTO_INCREMENT") {
                sql.push_str(" AUTO_INCREMENT");
            } else if self.eat("PRIMARY") {
                self.expect("KEY")?;
                sql.push_str(" PRIMARY KEY");
            } else if self.eat("UNIQUE") {
                let _ = self.eat("KEY");
                sql.push_str(" UNIQUE");
            } else if self.eat("COMMENT") {
                sql.push_str(" COMMENT ");
                match self.next("a string")? {
                    Token::Text(text) => push_plain_string(sql, &text)?,
                    other => return Err(Reason::Unexpected { found: other.text(), expected: "a string" }.into()),
                }
            } else {
                return Err(self.unexpected("an attribute of a column").into());
            }
        }
        Ok(())
    }

    fn push_default(&mut self, sql: &mut String) -> Result<(), InvalidOr> {
        let expected = "a literal or CURRENT_TIMESTAMP";
        match self.next(expected)? {
            Token::Number(digits) => sql.push_str(&digits),
            Token::Text(text) => push_text(sql, &text),
            Token::Word(word, _) if word == "CURRENT_TIMESTAMP" => {
                sql.push_str("CURRENT_TIMESTAMP");
                self.push_precision(sql)?;
            }
            Token::Word(word, _) if matches!(word.as_str(), "NULL" | "TRUE" | "FALSE") => sql.push_str(&word),
            other => return Err(Reason::Unexpected { found: other.text(), expected }.into()),
        }
        Ok(())
    }

    /// The optional `(n)` of CURRENT_TIMESTAMP.
    fn push_precision(&mut self, sql: &mut String) -> Result<(), InvalidOr> {
        match self.tokens.peek() {
            Some(Token::Mark('(')) => self.push_arguments(sql, "CURRENT_TIMESTAMP", Arguments::Numbers(1, 1)),
            _ => Ok(()),
        }
    }

    /// Which key a definition is of, if it is one's; its word is gone then.
    pub(super) fn key_kind(&mut self) -> Option<&'static str> {
        // A column may be called `key`, but then its name needs backticks, as in MySQL.
        [
            ("PRIMARY", "PRIMARY KEY"),
            ("UNIQUE", "UNIQUE"),
            ("INDEX", "INDEX"),
            ("KEY", "INDEX"),
            ("FULLTEXT", "FULLTEXT"),
        ]
        .into_iter()
        .find(|(word, _)| self.eat(word))
        .map(|(_, kind)| kind)
    }

    pub(super) fn push_key(&mut self, sql: &mut String, kind: &'static str) -> Result<(), InvalidOr> {
        sql.push_str(kind);
        match kind {
            "PRIMARY KEY" => self.expect("KEY")?,
            "INDEX" => {}
            _ => {
                let _ = self.eat("KEY") || self.eat("INDEX");
            }
        }
        sql.push(' ');
        if kind != "PRIMARY KEY" && !matches!(self.tokens.peek(), Some(Token::Mark('('))) {
            self.push_name(sql, "the columns in parentheses")?;
            sql.push(' ');
        }
        if !self.eat_mark('(') {
            return Err(self.unexpected("the columns in parentheses").into());
        }
        let mut separator = '(';
        loop {
            sql.push(separator);
            self.push_name(sql, "a column")?;
            separator = ',';
            if !self.eat_mark(',') {
                break;
            }
        }
        if !self.eat_mark(')') {
            return Err(self.unexpected("a closing parenthesis").into());
        }
        sql.push(')');
        Ok(())
    }
}

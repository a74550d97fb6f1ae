//! The pieces of a column definition: words, names, strings, numbers and marks.

use super::json;

/// Why a text is no definition.
#[derive(Debug, thiserror::Error)]
pub(super) enum Reason {
    #[error("{0:?} is no character of one (strings stand in single quotes without backslashes)")]
    Character(char),
    #[error("a quote is not closed")]
    Unterminated,
    #[error("it ends where {0} is expected")]
    End(&'static str),
    #[error("`{found}` stands where {expected} is expected")]
    Unexpected { found: String, expected: &'static str },
    #[error("`{word}` is no type{}", json::suggestion(nearest.as_deref()))]
    UnknownType { word: String, nearest: Option<String> },
    #[error("the type {0} does not take such arguments")]
    Arguments(&'static str),
}

/// A piece of a definition.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// Letters, digits and underscores. Upper case, beside as written.
    Word(String, String),
    /// What stood between backticks.
    Name(String),
    /// What stood between single quotes.
    Text(String),
    /// Digits, with a sign and a point perhaps.
    Number(String),
    /// A parenthesis or a comma.
    Mark(char),
}

impl Token {
    /// As it was written, for error messages.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Word(_, text) | Self::Name(text) | Self::Text(text) | Self::Number(text) => text.clone(),
            Self::Mark(mark) => mark.to_string(),
        }
    }
}

/// Takes a definition apart.
///
/// # Errors
/// A character that no definition has, or a quote without its end.
pub(super) fn tokens(definition: &str) -> Result<Vec<Token>, Reason> {
    let mut tokens = Vec::new();
    let mut chars = definition.chars().peekable();
    while let Some(c) = chars.next() {
        let token = match c {
            c if c.is_ascii_whitespace() => continue,
            '(' | ')' | ',' => Token::Mark(c),
            '\'' => Token::Text(quoted(&mut chars, '\'')?),
            '`' => Token::Name(quoted(&mut chars, '`')?),
            c if c.is_alphanumeric() || matches!(c, '_' | '-' | '.') => {
                let mut word = String::from(c);
                while let Some(c) = chars.next_if(|c| c.is_alphanumeric() || matches!(c, '_' | '.')) {
                    word.push(c);
                }
                match c.is_ascii_digit() || matches!(c, '-' | '.') {
                    true if is_number(&word) => Token::Number(word),
                    true => return Err(Reason::Unexpected { found: word, expected: "a number" }),
                    false if word.contains('.') => return Err(Reason::Character('.')),
                    false => Token::Word(word.to_ascii_uppercase(), word),
                }
            }
            other => return Err(Reason::Character(other)),
        };
        tokens.push(token);
    }
    Ok(tokens)
}

fn quoted(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, quote: char) -> Result<String, Reason> {
    let mut text = String::new();
    while let Some(c) = chars.next() {
        if c != quote {
            text.push(c);
        } else if chars.next_if_eq(&quote).is_some() {
            text.push(quote);
        } else {
            return Ok(text);
        }
    }
    Err(Reason::Unterminated)
}

/// `-?digits[.digits]`.
fn is_number(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let text = text.strip_prefix('-').unwrap_or(text);
    text.split_once('.').map_or_else(|| digits(text), |(whole, fraction)| digits(whole) && digits(fraction))
}

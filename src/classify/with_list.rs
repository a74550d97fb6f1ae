//! The list of WITH.

use super::lexer::Kind;

/// Where a list of WITH stands: a name in it is never called, whatever follows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct With {
    at: At,
    /// How many parentheses are open that were not before WITH.
    depth: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
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
    pub(super) fn start() -> Self {
        Self { at: At::Start, depth: 0 }
    }

    /// Whether the text is in a list now.
    #[inline(always)]
    pub(super) fn is_running(self) -> bool {
        self.at != At::Nowhere
    }

    /// Whether a parenthesis that follows now has a name's columns in it.
    pub(super) fn columns_follow(self) -> bool {
        self.at == At::Name && self.depth == 0
    }

    /// The next token, and whether it is one of the words behind which a name stands.
    pub(super) fn token(&mut self, kind: Kind, is_naming: bool) {
        use At::{As, Name, Nowhere, Query, Start};
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
            Kind::Word if self.at == Start && is_naming => {}
            Kind::Word | Kind::Quoted if self.at == Start => self.at = Name,
            Kind::Word if self.at == Name && is_naming => self.at = As,
            Kind::Comma if self.at == Query => self.at = Start,
            _ => self.at = Nowhere,
        }
    }
}

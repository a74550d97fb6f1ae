//! What the rules say about one statement, and how the verdicts on several become one.

use std::borrow::Cow;

use towline_middleware::{Intent, Named, Refusal, RefusedOn};

/// What the rules say about one statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// What it means to do.
    pub(super) intent: Intent,
    /// What decided that.
    pub(super) rule: Cow<'static, str>,
    /// Set when it is refused by name.
    pub(super) refusal: Option<Refusal>,
    /// Whether it changes how the server cuts the statements behind it.
    pub(super) changes_lexing: bool,
    /// Of several: whether the server may cut one otherwise for what an earlier one does.
    pub(super) cut_in_doubt: bool,
    /// What it does with a statement that SQL itself names.
    pub(super) named: Option<Named>,
    /// What becomes of the default schema.
    pub(super) schema: DefaultSchema,
}

/// What becomes of the default schema; of several statements the last of these counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum DefaultSchema {
    /// It stays.
    Stays,
    /// Another is chosen, by USE.
    Chosen,
    /// Towline's own is chosen.
    Own,
}

impl Verdict {
    /// An intent and what decided it.
    pub(super) fn new(intent: Intent, rule: impl Into<Cow<'static, str>>) -> Self {
        Self {
            intent,
            rule: rule.into(),
            refusal: None,
            changes_lexing: false,
            cut_in_doubt: false,
            named: None,
            schema: DefaultSchema::Stays,
        }
    }

    /// Takes a stronger intent.
    pub(super) fn at_least(mut self, intent: Intent, rule: impl Into<Cow<'static, str>>) -> Self {
        if intent > self.intent {
            self.intent = intent;
            self.rule = rule.into();
        }
        self
    }

    /// Refused on slaves, unless it is refused everywhere.
    pub(super) fn refused_on_slave(self, reason: impl Into<Cow<'static, str>>) -> Self {
        self.refused(RefusedOn::Slave, reason.into())
    }

    /// Refused on every node.
    pub(super) fn refused_everywhere(self, reason: impl Into<Cow<'static, str>>) -> Self {
        self.refused(RefusedOn::EveryNode, reason.into())
    }

    fn refused(mut self, on: RefusedOn, reason: Cow<'static, str>) -> Self {
        let stands = self.refusal.as_ref().is_some_and(|refusal| refusal.on == on || on == RefusedOn::Slave);
        if !stands {
            self.refusal = Some(Refusal { on, reason });
        }
        self
    }

    /// This statement and another in one text: the stronger intent, the wider refusal.
    pub(super) fn and(self, other: Self) -> Self {
        let changes_lexing = self.changes_lexing || other.changes_lexing;
        let cut_in_doubt = self.cut_in_doubt || other.cut_in_doubt;
        let schema = self.schema.max(other.schema);
        let mut both = self.at_least(other.intent, other.rule);
        (both.changes_lexing, both.cut_in_doubt, both.schema) = (changes_lexing, cut_in_doubt, schema);
        // Which of several statements a name is from is not followed.
        both.named = None;
        match other.refusal {
            Some(refusal) => both.refused(refusal.on, refusal.reason),
            None => both,
        }
    }
}

//! One rule: its options, and what it looks for.

use std::sync::Arc;

use regex::bytes::Regex;
use serde::Deserialize;
use tokio::sync::Semaphore;
use towline_middleware::{Command, CommandKind, Figure, Intent, LayerProblem, LayerSetup, ServerError};

use super::tables;
use crate::layers::{is_plain, parse_digest};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Options {
    /// The rules, in the order in which they are looked at.
    pub(super) rule: Vec<RuleOptions>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RuleOptions {
    user: Option<String>,
    schema: Option<String>,
    digest: Option<String>,
    table: Option<String>,
    intent: Option<IntentOption>,
    regex: Option<String>,
    action: ActionOption,
    /// For `deny`: what the client is told.
    message: Option<String>,
    /// For `rewrite`: what stands in the place of each match of `regex`, as it is.
    with: Option<String>,
    /// For `limit`: how many at a time; one more is refused.
    running_max: Option<u32>,
    /// For `label`: the name under which it is counted.
    label: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum IntentOption {
    Read,
    SessionState,
    Transaction,
    /// Or unknown.
    Write,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ActionOption {
    Allow,
    Deny,
    Rewrite,
    Limit,
    Label,
}

#[derive(Debug, thiserror::Error)]
enum InvalidRule {
    #[error("rule[{index}]: `{action:?}` needs `{key}`")]
    Missing { index: usize, action: ActionOption, key: &'static str },
    #[error("rule[{index}]: `{key}` means nothing to `{action:?}`")]
    Extra { index: usize, action: ActionOption, key: &'static str },
    #[error("rule[{index}]: `digest` is 16 hexadecimal digits, as slow_log shows them")]
    Digest { index: usize },
    #[error("rule[{index}]: `table`: write `table` or `schema.table`, of letters, digits, `_`, `$` and `-`")]
    Table { index: usize },
    #[error("rule[{index}]: `regex`: {source}")]
    Regex { index: usize, source: regex::Error },
}

#[derive(Debug)]
pub(super) struct Rule {
    user: Option<Box<str>>,
    schema: Option<Box<str>>,
    digest: Option<u64>,
    table: Option<Table>,
    intent: Option<IntentOption>,
    /// The place of its regex in the set.
    regex: Option<usize>,
    pub(super) action: Action,
    pub(super) matched: Figure,
}

/// A table that a rule is about; in lower case.
#[derive(Debug)]
pub(super) struct Table {
    /// Any, when absent.
    pub(super) schema: Option<String>,
    pub(super) name: String,
    /// The place of its name among those of denied tables, if the rule denies.
    denied: Option<usize>,
}

#[derive(Debug)]
pub(super) enum Action {
    Allow,
    Deny(ServerError),
    Rewrite(Regex, Vec<u8>),
    Limit(Arc<Semaphore>, ServerError),
    Label,
}

impl Rule {
    /// The rule of these options. Its regex goes to the others, and so does its table's name if it denies.
    pub(super) fn new(
        index: usize,
        options: RuleOptions,
        regexes: &mut Vec<String>,
        names: &mut Vec<String>,
        setup: &LayerSetup,
    ) -> Result<Self, LayerProblem> {
        let action = action(index, &options)?;
        let digest = |text: String| parse_digest(&text).ok_or(InvalidRule::Digest { index });
        let names = matches!(action, Action::Deny(_)).then_some(names);
        let table = options.table.map(|name| Table::new(&name, names).ok_or(InvalidRule::Table { index }));
        let table = table.transpose()?;
        let name = options.label.clone().unwrap_or_else(|| index.to_string());
        Ok(Self {
            user: options.user.map(Into::into),
            schema: options.schema.map(Into::into),
            digest: options.digest.map(digest).transpose()?,
            table,
            intent: options.intent,
            regex: options.regex.map(|regex| pushed(regexes, regex)),
            action,
            matched: setup.counter(
                "matched",
                "Commands that a rule has matched, by its label or place.",
                &[("rule", &name)],
            ),
        })
    }

    /// Whether it may match a text like the command's; `may_be_denied` tells whether the text may reach the denied table
    /// of this place.
    pub(super) fn is_suspect(&self, command: &Command, may_be_denied: impl Fn(usize) -> bool) -> bool {
        (self.table.is_some() || command.kind() != CommandKind::FieldList)
            && self.digest.is_none_or(|own| command.plan().is_some_and(|plan| plan.digest == own))
            && (self.table.as_ref())
                .is_none_or(|table| table.is_named(command) || table.denied.is_some_and(may_be_denied))
    }

    /// Whether it matches a command of which it [is a suspect](Self::is_suspect); `has_match` tells whether the text
    /// matches the regex of this place.
    pub(super) fn matches(&self, command: &Command, has_match: impl FnOnce(usize) -> bool) -> bool {
        self.user.as_deref().is_none_or(|own| own == &*command.session().user())
            && self.schema.as_deref().is_none_or(|own| own == &*command.schema())
            && self.intent.is_none_or(|own| own.includes(command.intent()))
            && self.regex.is_none_or(has_match)
            && self.table.as_ref().is_none_or(|table| table.is_meant(command))
    }
}

impl Table {
    /// None if it is no name. That of one that is denied goes to `names`.
    pub(super) fn new(name: &str, names: Option<&mut Vec<String>>) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let (schema, name) = name.split_once('.').map_or((None, &*name), |(schema, name)| (Some(schema), name));
        if !is_plain(name, "_$-") || schema.is_some_and(|schema| !is_plain(schema, "_$-")) {
            return None;
        }
        let denied = names.map(|names| pushed(names, format!("(?i-u){}", regex::escape(name))));
        Some(Self { schema: schema.map(str::to_owned), name: name.to_owned(), denied })
    }

    /// Whether classification has found its name, in any schema, or COM_FIELD_LIST asks for its columns.
    fn is_named(&self, command: &Command) -> bool {
        self.has_listed_fields(command)
            || command.plan().is_some_and(|plan| plan.tables.iter().any(|(_, found)| *found == self.name))
    }

    /// Whether COM_FIELD_LIST asks for its columns, perhaps in another schema.
    fn has_listed_fields(&self, command: &Command) -> bool {
        // Source: COM_FIELD_LIST is 0x04, the table's name, 0, and a pattern.
        let mut parts = command.payload().get(1..).unwrap_or_default().split(|byte| *byte == 0);
        command.kind() == CommandKind::FieldList
            && parts.next().is_some_and(|name| name.eq_ignore_ascii_case(self.name.as_bytes()))
    }

    /// Whether the command is about it, or, if it is denied, may be.
    fn is_meant(&self, command: &Command) -> bool {
        let schema = command.schema();
        if self.has_listed_fields(command) {
            return self.schema.as_ref().is_none_or(|own| own.eq_ignore_ascii_case(&schema));
        }
        let tables = command.plan().map_or(&[][..], |plan| &plan.tables);
        let is_known = tables.iter().any(|(found_schema, found)| {
            let found_schema = found_schema.as_deref().unwrap_or(&schema);
            *found == self.name && self.schema.as_ref().is_none_or(|own| own.eq_ignore_ascii_case(found_schema))
        });
        let may_reach = || tables::may_reach(command.session(), &schema, command.sql(), self, !tables.is_empty());
        is_known || self.denied.is_some() && may_reach()
    }
}

impl IntentOption {
    fn includes(self, intent: Intent) -> bool {
        match self {
            Self::Read => intent == Intent::Read,
            Self::SessionState => intent == Intent::SessionState,
            Self::Transaction => intent == Intent::Transaction,
            Self::Write => intent.may_write(),
        }
    }
}

fn action(index: usize, options: &RuleOptions) -> Result<Action, LayerProblem> {
    let action = options.action;
    let missing = |key| InvalidRule::Missing { index, action, key };
    let keys = [
        ("message", options.message.is_some(), matches!(action, ActionOption::Deny | ActionOption::Limit)),
        ("with", options.with.is_some(), action == ActionOption::Rewrite),
        ("running_max", options.running_max.is_some(), action == ActionOption::Limit),
    ];
    if let Some((key, ..)) = keys.into_iter().find(|(_, is_there, may_be)| *is_there && !may_be) {
        return Err(InvalidRule::Extra { index, action, key }.into());
    }
    let told = |default: &str| options.message.clone().unwrap_or_else(|| default.to_owned());
    Ok(match action {
        ActionOption::Allow => Action::Allow,
        ActionOption::Deny => {
            Action::Deny(ServerError::new(1227, b"42000", told("Access denied: a rule of this node refuses this")))
        }
        ActionOption::Rewrite => {
            let pattern = options.regex.as_ref().ok_or(missing("regex"))?;
            let regex = Regex::new(pattern).map_err(|source| InvalidRule::Regex { index, source })?;
            Action::Rewrite(regex, options.with.clone().ok_or(missing("with"))?.into_bytes())
        }
        ActionOption::Limit => {
            let running_max = options.running_max.ok_or(missing("running_max"))? as usize;
            let running = Arc::new(Semaphore::new(running_max));
            let text = told("Too many of these run at a time: a rule of this node limits them");
            Action::Limit(running, ServerError::new(1226, b"42000", text))
        }
        ActionOption::Label => {
            options.label.as_ref().ok_or(missing("label"))?;
            Action::Label
        }
    })
}

/// The place of what is pushed.
fn pushed(patterns: &mut Vec<String>, pattern: String) -> usize {
    patterns.push(pattern);
    patterns.len() - 1
}

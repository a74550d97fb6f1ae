//! Rules by user, schema, digest, table, intent or text: deny, allow, rewrite, limit or label.
//!
//! Rules are looked at in their order. The first `allow` or `deny` that matches decides; the others do their part and the
//! next rule is looked at. A table is found by classification; where that does not know a statement's tables, a rule
//! that denies matches when the text has the table's name anywhere.

use std::sync::Arc;

use regex::bytes::{NoExpand, Regex, RegexSet};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use towline_middleware::{
    Command, CommandKind, Error, Figure, Intent, LayerProblem, LayerSetup, Next, Reply, ServerError, UserLayer, from_fn,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The rules, in the order in which they are looked at.
    rule: Vec<RuleOptions>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleOptions {
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
    running_max: Option<usize>,
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
    #[error("rule[{index}]: `regex`: {source}")]
    Regex { index: usize, source: regex::Error },
}

#[derive(Debug)]
struct Rule {
    user: Option<Box<str>>,
    schema: Option<Box<str>>,
    digest: Option<u64>,
    /// In lower case; the schema is the session's when absent.
    table: Option<(Option<String>, String)>,
    intent: Option<IntentOption>,
    /// The place of its regex in the set.
    regex: Option<usize>,
    action: Action,
    matched: Figure,
}

#[derive(Debug)]
enum Action {
    Allow,
    Deny(ServerError),
    Rewrite(Regex, Vec<u8>),
    Limit(Arc<Semaphore>, ServerError),
    Label,
}

#[derive(Debug)]
struct Rules {
    rules: Vec<Rule>,
    regexes: RegexSet,
}

/// What the rules make of a command.
enum Verdict {
    Pass(Vec<OwnedSemaphorePermit>),
    Refuse(ServerError),
}

/// The layer of these options.
pub(super) fn layer(setup: &mut LayerSetup) -> Result<impl UserLayer + use<>, LayerProblem> {
    let rules = Arc::new(Rules::new(setup)?);
    Ok(from_fn(move |command: Command, next: Next| {
        let rules = rules.clone();
        async move { rules.call(command, next).await }
    }))
}

impl Rules {
    fn new(setup: &LayerSetup) -> Result<Self, LayerProblem> {
        let options: Options = setup.options()?;
        let mut patterns = Vec::new();
        let mut rules = Vec::new();
        for (index, options) in options.rule.into_iter().enumerate() {
            let regex = options.regex.clone().map(|pattern| {
                patterns.push(pattern);
                patterns.len() - 1
            });
            rules.push(Rule::new(index, regex, options, setup)?);
        }
        Ok(Self { rules, regexes: RegexSet::new(patterns)? })
    }

    async fn call(&self, mut command: Command, next: Next) -> Result<Reply, Error> {
        if !command.kind().runs_sql() && command.kind() != CommandKind::Prepare {
            return next.run(command).await;
        }
        match self.judge(&mut command) {
            Verdict::Refuse(error) => Ok(Reply::err(error)),
            Verdict::Pass(permits) if permits.is_empty() => next.run(command).await,
            Verdict::Pass(permits) => Ok(next.run(command).await?.keep(permits)),
        }
    }

    fn judge(&self, command: &mut Command) -> Verdict {
        let (user, schema) = (command.session().user(), command.session().schema());
        let mut texts = self.regexes.matches(command.sql());
        let mut permits = Vec::new();
        for rule in &self.rules {
            if rule.regex.is_some_and(|index| !texts.matched(index)) || !rule.matches(command, &user, &schema) {
                continue;
            }
            rule.matched.increment();
            match &rule.action {
                Action::Allow => break,
                Action::Deny(error) => return Verdict::Refuse(error.clone()),
                Action::Rewrite(regex, with) => {
                    let sql = regex.replace_all(command.sql(), NoExpand(with)).into_owned();
                    // An execute runs what its prepare was rewritten to.
                    if command.rewrite(sql) {
                        texts = self.regexes.matches(command.sql());
                    }
                }
                // Preparing takes no time that would need a limit.
                Action::Limit(..) if command.kind() == CommandKind::Prepare => {}
                Action::Limit(running, error) => match running.clone().try_acquire_owned() {
                    Ok(permit) => permits.push(permit),
                    Err(_) => return Verdict::Refuse(error.clone()),
                },
                Action::Label => {}
            }
        }
        Verdict::Pass(permits)
    }
}

impl Rule {
    fn new(index: usize, regex: Option<usize>, options: RuleOptions, setup: &LayerSetup) -> Result<Self, LayerProblem> {
        let action = action(index, &options)?;
        let digest = |text: String| u64::from_str_radix(&text, 16).map_err(|_| InvalidRule::Digest { index });
        let name = options.label.clone().unwrap_or_else(|| index.to_string());
        Ok(Self {
            user: options.user.map(Into::into),
            schema: options.schema.map(Into::into),
            digest: options.digest.map(digest).transpose()?,
            table: options.table.map(|name| name.to_lowercase()).map(|name| match name.split_once('.') {
                Some((schema, table)) => (Some(schema.to_owned()), table.to_owned()),
                None => (None, name),
            }),
            intent: options.intent,
            regex,
            action,
            matched: setup.counter(
                "matched",
                "Commands that a rule has matched, by its label or place.",
                &[("rule", &name)],
            ),
        })
    }

    /// All but the regex.
    fn matches(&self, command: &Command, user: &str, schema: &str) -> bool {
        let plan = command.plan();
        self.user.as_deref().is_none_or(|own| own == user)
            && self.schema.as_deref().is_none_or(|own| own == schema)
            && self.digest.is_none_or(|own| plan.is_some_and(|plan| plan.digest == own))
            && self.intent.is_none_or(|own| own.includes(command.intent()))
            && self.table.as_ref().is_none_or(|own| self.matches_table(own, command, schema))
    }

    fn matches_table(&self, (own_schema, own): &(Option<String>, String), command: &Command, schema: &str) -> bool {
        let tables = command.plan().map_or(&[][..], |plan| &plan.tables);
        if tables.is_empty() {
            let denies = matches!(self.action, Action::Deny(_));
            return denies && contains_ignoring_case(command.sql(), own.as_bytes());
        }
        tables.iter().any(|(found_schema, found)| {
            let found_schema = found_schema.as_deref().unwrap_or(schema);
            found == own && own_schema.as_ref().is_none_or(|own| own.eq_ignore_ascii_case(found_schema))
        })
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
            let running = Arc::new(Semaphore::new(options.running_max.ok_or(missing("running_max"))?));
            let text = told("Too many of these run at a time: a rule of this node limits them");
            Action::Limit(running, ServerError::new(1226, b"42000", text))
        }
        ActionOption::Label => {
            options.label.as_ref().ok_or(missing("label"))?;
            Action::Label
        }
    })
}

pub(super) fn contains_ignoring_case(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use towline_middleware::{
        Completion,
        testing::{FakeRouter, command, conformance, run},
    };

    use super::*;
    use crate::layers::tests::setup;

    #[tokio::test]
    async fn it_conforms() {
        let rules = json!({"rule": [{"regex": "xyzzy", "action": "deny"}]});
        conformance(|| layer(&mut setup("rules", rules.clone())).unwrap()).await;
    }

    #[tokio::test]
    async fn the_first_that_allows_or_denies_decides() {
        let rules = json!({"rule": [
            {"regex": "(?i)select 1", "action": "rewrite", "with": "SELECT 2"},
            {"user": "app", "regex": "SELECT 2", "action": "allow"},
            {"user": "other", "action": "allow"},
            {"intent": "write", "action": "deny", "message": "no writes"},
            {"table": "shop.secret", "action": "deny"},
        ]});
        for (sql, refused, sent) in [
            ("select 1", None, "SELECT 2"),
            ("DELETE FROM item", Some("no writes"), ""),
            ("SELECT * FROM Shop.Secret", Some("Access denied: a rule of this node refuses this"), ""),
            ("SELECT 3", None, "SELECT 3"),
        ] {
            let router = FakeRouter::new([Reply::ok(Completion::default())]);
            let layer = layer(&mut setup("rules", rules.clone())).unwrap();
            let reply = run(layer, router.clone(), command(sql)).await.unwrap();
            assert_eq!(reply.server_error().map(|error| error.text().into_owned()).as_deref(), refused, "{sql}");
            assert_eq!(router.sql().concat(), sent, "{sql}");
        }
    }

    #[test]
    fn rules_that_can_not_work_are_told() {
        for (rule, what) in [
            (json!({"action": "rewrite", "with": "x"}), "needs `regex`"),
            (json!({"action": "allow", "with": "x"}), "`with` means nothing"),
            (json!({"action": "deny", "digest": "xyz"}), "16 hexadecimal digits"),
            (json!({"action": "dney"}), "did you mean `deny`?"),
            (json!({"action": "deny", "regex": "("}), "unclosed group"),
        ] {
            let Err(error) = layer(&mut setup("rules", json!({"rule": [rule]}))) else { panic!("{rule} was taken") };
            assert!(error.to_string().contains(what), "{rule}: {error}");
        }
    }
}

//! Rules by user, schema, digest, table, intent or text: deny, allow, rewrite, limit or label.
//!
//! Rules are looked at in their order. The first `allow` or `deny` that matches decides; the others do their part and the
//! next rule is looked at. A table is found by classification. A rule that denies matches, too, where the text has the
//! table's name in a place where a table may stand, or runs SQL that can't be seen (`EXECUTE IMMEDIATE CONCAT(…)`).
//!
//! # Not looked at
//! What views, stored programs and triggers read: name the views, too, and take the right to run the programs away.

mod tables;

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use regex::bytes::{NoExpand, Regex, RegexSet};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use towline_middleware::{
    Command, CommandKind, Error, Figure, Intent, LayerProblem, LayerSetup, Next, Prepared, Reply, ServerError,
    UserLayer, from_fn,
};

use super::{is_plain, parse_digest};

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
struct Rule {
    user: Option<Box<str>>,
    schema: Option<Box<str>>,
    digest: Option<u64>,
    table: Option<Table>,
    intent: Option<IntentOption>,
    /// The place of its regex in the set.
    regex: Option<usize>,
    action: Action,
    matched: Figure,
}

/// A table that a rule is about; in lower case.
#[derive(Debug)]
struct Table {
    /// Any, when absent.
    schema: Option<String>,
    name: String,
    /// The place of its name among the regexes, if the rule denies.
    regex: Option<usize>,
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
    /// The rules' own, the names of denied tables, and what tells of SQL in SQL.
    regexes: RegexSet,
    /// The place of the last of them, if tables are denied.
    sql_in_sql: Option<usize>,
    /// Which layer of this kind it is: a reload brings other rules.
    number: u64,
}

/// A session's prepared statements that were rewritten here, and by which layer of this kind.
#[derive(Default)]
struct Rewritten(Mutex<HashMap<usize, (Weak<Prepared>, u64)>>);

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
            rules.push(Rule::new(index, options, &mut patterns, setup)?);
        }
        let denies_tables = rules.iter().any(|rule: &Rule| rule.table.as_ref().is_some_and(|own| own.regex.is_some()));
        let sql_in_sql =
            denies_tables.then(|| pushed(&mut patterns, format!("(?i-u){}", tables::SQL_IN_SQL.join("|"))));
        Ok(Self { rules, regexes: RegexSet::new(patterns)?, sql_in_sql, number: fastrand::u64(..) })
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
        let (user, schema) = (command.session().user(), command.schema());
        let mut texts = self.regexes.matches(command.sql());
        let mut permits = Vec::new();
        for rule in &self.rules {
            let is_there = |index: usize| texts.matched(index);
            if !rule.regex.is_none_or(is_there) || !rule.matches(command, &user, &schema) {
                continue;
            }
            if let Some(table) = &rule.table {
                // Most texts have neither, and are not cut into tokens.
                let has_hint = table.regex.is_some_and(|name| is_there(name) || self.sql_in_sql.is_some_and(is_there));
                let is_meant = table.is_known(command, &schema) || has_hint && table.may_be_reached(command);
                if !is_meant {
                    continue;
                }
            }
            rule.matched.increment();
            match &rule.action {
                Action::Allow => break,
                Action::Deny(error) => return Verdict::Refuse(error.clone()),
                Action::Rewrite(regex, with) => {
                    let sql = regex.replace_all(command.sql(), NoExpand(with)).into_owned();
                    if sql != *command.sql() && !self.rewrite(command, sql) {
                        return Verdict::Refuse(stale());
                    }
                    texts = self.regexes.matches(command.sql());
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

    /// Puts this text in the place of the command's. An execute runs what its prepare was rewritten to: false if that was
    /// not done by these rules.
    fn rewrite(&self, command: &mut Command, sql: Vec<u8>) -> bool {
        let is_rewritten = command.rewrite(sql);
        let Some(prepared) = command.prepared() else { return is_rewritten };
        let (own, place) = (command.session().state::<Rewritten>(), Arc::as_ptr(prepared).addr());
        let mut own = own.0.lock();
        if is_rewritten {
            own.retain(|_, (prepared, _)| prepared.strong_count() > 0);
            own.insert(place, (Arc::downgrade(prepared), self.number));
        }
        own.get(&place).is_some_and(|(_, number)| *number == self.number)
    }
}

fn stale() -> ServerError {
    ServerError::new(1615, b"HY000", "Prepared statement needs to be re-prepared: a rule of this node rewrites it")
}

impl Rule {
    fn new(
        index: usize,
        options: RuleOptions,
        patterns: &mut Vec<String>,
        setup: &LayerSetup,
    ) -> Result<Self, LayerProblem> {
        let action = action(index, &options)?;
        let digest = |text: String| parse_digest(&text).ok_or(InvalidRule::Digest { index });
        let denied = matches!(action, Action::Deny(_)).then_some(&mut *patterns);
        let table = options.table.map(|name| Table::new(&name, denied).ok_or(InvalidRule::Table { index }));
        let table = table.transpose()?;
        let name = options.label.clone().unwrap_or_else(|| index.to_string());
        Ok(Self {
            user: options.user.map(Into::into),
            schema: options.schema.map(Into::into),
            digest: options.digest.map(digest).transpose()?,
            table,
            intent: options.intent,
            regex: options.regex.map(|regex| pushed(patterns, regex)),
            action,
            matched: setup.counter(
                "matched",
                "Commands that a rule has matched, by its label or place.",
                &[("rule", &name)],
            ),
        })
    }

    /// All but the regex and the table.
    fn matches(&self, command: &Command, user: &str, schema: &str) -> bool {
        let plan = command.plan();
        self.user.as_deref().is_none_or(|own| own == user)
            && self.schema.as_deref().is_none_or(|own| own == schema)
            && self.digest.is_none_or(|own| plan.is_some_and(|plan| plan.digest == own))
            && self.intent.is_none_or(|own| own.includes(command.intent()))
    }
}

impl Table {
    /// None if it is no name. Those that are denied are looked for in the text, too.
    fn new(name: &str, denied: Option<&mut Vec<String>>) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let (schema, name) = name.split_once('.').map_or((None, &*name), |(schema, name)| (Some(schema), name));
        if !is_plain(name, "_$-") || schema.is_some_and(|schema| !is_plain(schema, "_$-")) {
            return None;
        }
        let regex = denied.map(|patterns| pushed(patterns, format!("(?i-u){}", regex::escape(name))));
        Some(Self { schema: schema.map(str::to_owned), name: name.to_owned(), regex })
    }

    /// Whether classification has found it.
    fn is_known(&self, command: &Command, schema: &str) -> bool {
        let tables = command.plan().map_or(&[][..], |plan| &plan.tables);
        tables.iter().any(|(found_schema, found)| {
            let found_schema = found_schema.as_deref().unwrap_or(schema);
            *found == self.name && self.schema.as_ref().is_none_or(|own| own.eq_ignore_ascii_case(found_schema))
        })
    }

    fn may_be_reached(&self, command: &Command) -> bool {
        let is_known = command.plan().is_some_and(|plan| !plan.tables.is_empty());
        tables::may_reach(command.session(), &command.schema(), command.sql(), self, is_known)
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

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tower::{Service, ServiceExt};
    use towline_middleware::{
        Completion, Head, Role, Stack,
        layers::{fan_out::FanOutLayer, guard::GuardLayer, user::UserLayers},
        testing::{FakeRouter, command, conformance, run, session_with},
    };

    use super::*;
    use crate::{classify::SqlClassifier, layers::tests::setup};

    /// The server looks for its tables in the schema in which it was prepared.
    #[tokio::test]
    async fn an_execute_has_the_tables_of_its_preparation() {
        let rules = json!({"rule": [{"table": "shop.item", "action": "label", "label": "seen"}]});
        let mut setup = setup("rules", rules);
        let seen = setup.counter("matched", "", &[("rule", "seen")]);
        let stack = Stack {
            trace: Default::default(),
            admission: Default::default(),
            classify: Default::default(),
            user: UserLayers::new([("rules".to_owned(), Arc::new(layer(&mut setup).unwrap()) as Arc<dyn UserLayer>)]),
            guard: GuardLayer::new(Role::Master),
            fan_out: FanOutLayer::slave(),
        };
        let prepared = Reply::new(Head::Prepared { statement_id: 1, parameters: 0 }, [], None);
        let router = FakeRouter::new([prepared, Reply::ok(Completion::default())]);
        let session = session_with(Role::Master, Arc::new(SqlClassifier::for_server("10.11.6-MariaDB")));
        let mut service = stack.session(&session, router);
        for (schema, packet) in [("shop", &b"\x16SELECT n FROM item"[..]), ("other", b"\x17\x01\0\0\0\0\x01\0\0\0")] {
            session.set_schema(schema);
            let command = Command::new(session.clone(), packet.into());
            service.ready().await.unwrap().call(command).await.unwrap();
        }
        assert_eq!(seen.get(), 2);
    }

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
            (json!({"action": "deny", "table": ""}), "rule[0]: `table`: write `table` or `schema.table`"),
            (json!({"action": "deny", "table": "shop."}), "rule[0]: `table`"),
            (json!({"action": "deny", "table": "shop.a.b"}), "rule[0]: `table`"),
            (json!({"action": "limit", "running_max": 1u64 << 61}), "rule[0].running_max"),
        ] {
            let Err(error) = layer(&mut setup("rules", json!({"rule": [rule]}))) else { panic!("{rule} was taken") };
            assert!(error.to_string().contains(what), "{rule}: {error}");
        }
    }
}

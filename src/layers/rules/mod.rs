//! Rules by user, schema, digest, table, intent or text: deny, allow, rewrite, limit or label.
//!
//! Rules are looked at in their order. The first `allow` or `deny` that matches decides; the others do their part and the
//! next rule is looked at. A table is found by classification. A rule that denies matches, too, where the text has the
//! table's name in a place where a table may stand, or runs SQL that can't be seen (`EXECUTE IMMEDIATE CONCAT(…)`). Rules
//! with a table are asked about COM_FIELD_LIST, too, which has no text.
//!
//! # Not looked at
//! What views, stored programs and triggers read: name the views, too, and take the right to run the programs away.

mod rule;
mod tables;

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use foldhash::fast::RandomState;
use parking_lot::{Mutex, RwLock};
use regex::bytes::{NoExpand, Regex, RegexSet, SetMatches};
use tokio::sync::OwnedSemaphorePermit;
use towline_middleware::{
    Command, CommandKind, Error, LayerProblem, LayerSetup, Next, Prepared, Reply, ServerError, UserLayer, from_fn,
};

use self::rule::{Action, Options, Rule};

#[derive(Debug)]
struct Rules {
    rules: Vec<Rule>,
    /// The rules' own.
    regexes: RegexSet,
    /// The names of denied tables.
    names: RegexSet,
    sql_in_sql: Regex,
    /// The places of the rules that a text of this plan's key may match: most texts are asked for none.
    suspects: RwLock<HashMap<u64, Arc<[usize]>, RandomState>>,
    /// Which layer of this kind it is: a reload brings other rules.
    number: u64,
}

/// So many plans' suspects are kept.
const KEPT_MAX: usize = 8192;

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
    Ok(from_fn(move |command: Command, next: Next| rules.clone().call(command, next)))
}

impl Rules {
    fn new(setup: &LayerSetup) -> Result<Self, LayerProblem> {
        let options: Options = setup.options()?;
        let (mut regexes, mut names, mut rules) = (Vec::new(), Vec::new(), Vec::new());
        for (index, options) in options.rule.into_iter().enumerate() {
            rules.push(Rule::new(index, options, &mut regexes, &mut names, setup)?);
        }
        Ok(Self {
            rules,
            regexes: RegexSet::new(regexes)?,
            names: RegexSet::new(names)?,
            sql_in_sql: Regex::new(&format!("(?i-u){}", tables::SQL_IN_SQL.join("|")))?,
            suspects: RwLock::default(),
            number: fastrand::u64(..),
        })
    }

    async fn call(self: Arc<Self>, mut command: Command, next: Next) -> Result<Reply, Error> {
        if !command.kind().runs_sql() && !matches!(command.kind(), CommandKind::Prepare | CommandKind::FieldList) {
            return next.run(command).await;
        }
        match self.judge(&mut command) {
            Verdict::Refuse(error) => Ok(Reply::err(error)),
            Verdict::Pass(permits) if permits.is_empty() => next.run(command).await,
            Verdict::Pass(permits) => Ok(next.run(command).await?.keep(permits)),
        }
    }

    fn judge(&self, command: &mut Command) -> Verdict {
        let mut permits = Vec::new();
        let mut from = 0;
        'text: loop {
            let mut regexes: Option<SetMatches> = None;
            for place in self.suspects(command).iter().copied().filter(|place| *place >= from) {
                let rule = &self.rules[place];
                let has_match =
                    |regex| regexes.get_or_insert_with(|| self.regexes.matches(command.sql())).matched(regex);
                if !rule.matches(command, has_match) {
                    continue;
                }
                rule.matched.increment();
                match &rule.action {
                    Action::Allow => return Verdict::Pass(permits),
                    Action::Deny(error) => return Verdict::Refuse(error.clone()),
                    Action::Rewrite(..) if command.kind() == CommandKind::FieldList => {}
                    Action::Rewrite(regex, with) => {
                        let sql = regex.replace_all(command.sql(), NoExpand(with)).into_owned();
                        if sql != *command.sql() && !self.rewrite(command, sql) {
                            return Verdict::Refuse(stale());
                        }
                        from = place + 1;
                        continue 'text;
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
            return Verdict::Pass(permits);
        }
    }

    /// The places of the rules that may match a text like the command's, in their order.
    fn suspects(&self, command: &Command) -> Arc<[usize]> {
        let key = command.plan().map_or(0, |plan| plan.key);
        if let Some(kept) = self.suspects.read().get(&key) {
            return kept.clone();
        }
        let sql = command.sql();
        let (names, has_sql) = (self.names.matches(sql), self.sql_in_sql.is_match(sql));
        let may_be_denied = |name| has_sql || names.matched(name);
        let places = (0..self.rules.len()).filter(|place| self.rules[*place].is_suspect(command, may_be_denied));
        let found: Arc<[usize]> = places.collect();
        // All texts of a key have the same tokens but for literals, in which no name counts unless they are SQL, of which
        // the tokens around them tell. Where tokens are uncertain each text is looked at.
        if key != 0 && command.session().tokens(sql).is_some() {
            let mut kept = self.suspects.write();
            if kept.len() >= KEPT_MAX {
                kept.clear();
            }
            kept.insert(key, found.clone());
        }
        found
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
#[cfg(test)]
mod tests {
    use serde_json::json;
    use tower::{Service, ServiceExt};
    use towline_middleware::{
        BoxSessionService, Completion, Head, Role, Stack,
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

    /// What was found of a text's like does not pass for what its literals, or its uncertain tokens, hide.
    #[tokio::test]
    async fn texts_of_one_shape_are_each_refused_for_what_they_reach() {
        let rules = json!({"rule": [
            {"table": "shop.secret", "action": "deny"},
            {"regex": "drop me", "action": "rewrite", "with": "kept"},
            {"regex": "kept", "user": "app", "action": "deny"},
        ]});
        let layer = Arc::new(layer(&mut setup("rules", rules)).unwrap()) as Arc<dyn UserLayer>;
        for server in ["10.11.6-MariaDB", "9.7.0"] {
            let session = session_with(Role::Master, Arc::new(SqlClassifier::for_server(server)));
            session.set_user("app");
            session.set_schema("shop");
            for (sql, is_refused) in [
                ("SELECT 1 FROM item WHERE a = 'x'", false),
                ("SELECT 1 FROM item WHERE a = 'secret'", false),
                ("SELECT 1 FROM item WHERE a = 'drop me'", true),
                ("EXECUTE IMMEDIATE 'SELECT 1'", false),
                ("EXECUTE IMMEDIATE 'SELECT * FROM secret'", true),
                ("SELECT 1 /*! FROM item */", false),
                ("SELECT 1 /*! FROM secret */", true),
                ("SELECT 1 FROM item, Secret", true),
                ("select 1 from item , `secret` -- of them", true),
                ("DESCRIBE item", false),
                ("DESCRIBE secret", true),
            ] {
                let router = FakeRouter::new([Reply::ok(Completion::default())]);
                let mut service = layer.wrap(BoxSessionService::new(router));
                let reply = service.ready().await.unwrap().call(Command::query(&session, sql)).await.unwrap();
                assert_eq!(reply.server_error().is_some(), is_refused, "{sql} on {server}");
            }
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

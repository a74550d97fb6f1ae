//! A JSON command, checked and made into SQL.
//!
//! Every action but `query` becomes one SQL text whose names stand in backticks and whose values are literals of
//! [`sql_text`](super::sql_text): a name or a value can't inject. `search` needs a look at the table's indexes before its
//! text is known, see [`Search`].

mod statement;

use serde_json::value::RawValue;

use super::{
    column_definition::InvalidDefinition,
    json::{self, Fields, InvalidJson, Value},
    search::Search,
    sql_text::InvalidIdentifier,
};

/// What a command asks for that can't be done as it stands: the client's to mend (400).
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidCommand {
    #[error(transparent)]
    Json(#[from] InvalidJson),
    #[error(transparent)]
    Identifier(#[from] InvalidIdentifier),
    #[error(transparent)]
    Definition(#[from] InvalidDefinition),
    #[error("`{action}` is no action{}", json::suggestion(nearest.as_deref()))]
    UnknownAction { action: String, nearest: Option<String> },
    #[error("the body must be one command (an object) or a list of commands, not {found}")]
    NoCommand { found: &'static str },
    #[error("`{column}` has no operator `{operator}`{}", json::suggestion(nearest.as_deref()))]
    UnknownOperator { column: String, operator: String, nearest: Option<String> },
    #[error("`{operator}` compares `{column}` with null, which is never true; use `null`")]
    NullOperand { column: String, operator: String },
    #[error(
        "`{column}` is compared with a list or an object; compare it with a string, a number, a boolean or {{\"base64\": …}}"
    )]
    NestedOperand { column: String },
    #[error(
        "`{field}` is a list; to find one of several values write {{\"in\": […]}}, and for a column `or` write {{\"or\": {{\"eq\": …}}}}"
    )]
    ListOutsideIn { field: String },
    #[error("`{field}` is empty; it would match every row")]
    EmptyCondition { field: String },
    #[error("`{field}` is empty")]
    EmptyList { field: &'static str },
    #[error("`or` nests deeper than {depth_max} levels")]
    TooDeep { depth_max: usize },
    #[error(
        "{action} without a `query` would touch every row; add a `query`, or \"all\": true if that is what you want"
    )]
    WithoutQuery { action: &'static str },
    #[error("`{word} …` can't stand in a list: it may commit the commands before it; send it by itself")]
    NotInList { word: String },
    #[error("the command at index {index}: {source}")]
    At { index: usize, source: Box<InvalidCommand> },
}

/// What the body of a request asks for.
#[derive(Debug, PartialEq)]
pub(crate) enum Request<'a> {
    /// One command, which commits by itself.
    One(JsonCommand<'a>),
    /// Several commands in one transaction.
    Transaction(Vec<JsonCommand<'a>>),
}

/// One command, ready to be run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum JsonCommand<'a> {
    /// One SQL text.
    Statement(String),
    /// A search, whose text hangs on the table's indexes.
    Search(Search),
    /// The client's own SQL.
    Query {
        /// The default schema to run it in.
        dbname: Option<String>,
        /// One statement.
        sql: String,
        /// The values of its `?`; run as plain text when there are none.
        params: Vec<Value<'a>>,
    },
}

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    CreateDatabase,
    DropDatabase,
    CreateTable,
    DropTable,
    Insert,
    Update,
    Delete,
    Select,
    Search,
    Query,
}

// `name` and `fields` find an action's row by its number.
const _: () = {
    let mut index = 0;
    while index < ACTIONS.len() {
        assert!(ACTIONS[index].0 as usize == index);
        index += 1;
    }
};

/// Each action with its word and the members that its command has, beside `action`.
const ACTIONS: [(Action, &str, &[&str]); 10] = [
    (Action::CreateDatabase, "create_database", &["action", "dbname", "if_not_exists"]),
    (Action::DropDatabase, "drop_database", &["action", "dbname", "if_exists"]),
    (Action::CreateTable, "create_table", &["action", "dbname", "table", "attrs", "if_not_exists"]),
    (Action::DropTable, "drop_table", &["action", "dbname", "table", "if_exists"]),
    (Action::Insert, "insert", &["action", "dbname", "table", "data"]),
    (Action::Update, "update", &["action", "dbname", "table", "data", "query", "all"]),
    (Action::Delete, "delete", &["action", "dbname", "table", "query", "all"]),
    (Action::Select, "select", &["action", "dbname", "table", "attrs", "query", "order", "limit", "offset"]),
    (
        Action::Search,
        "search",
        &["action", "dbname", "table", "term", "columns", "attrs", "query", "order", "limit", "offset"],
    ),
    (Action::Query, "query", &["action", "dbname", "sql", "params"]),
];

/// The first words of statements that neither commit by themselves nor change what later commands of a list mean.
const WORDS_IN_LIST: [&str; 12] =
    ["SELECT", "WITH", "VALUES", "INSERT", "REPLACE", "UPDATE", "DELETE", "SHOW", "EXPLAIN", "DESCRIBE", "DESC", "DO"];

impl Action {
    /// The action that a word means.
    ///
    /// # Errors
    /// None; the message names the nearest.
    pub(crate) fn parse(word: &str) -> Result<Self, InvalidCommand> {
        ACTIONS.iter().find(|(_, name, _)| *name == word).map(|(action, ..)| *action).ok_or_else(|| {
            let names = ACTIONS.map(|(_, name, _)| name);
            InvalidCommand::UnknownAction { action: word.to_owned(), nearest: json::nearest(word, &names) }
        })
    }

    fn name(self) -> &'static str {
        ACTIONS[self as usize].1
    }

    fn fields(self) -> &'static [&'static str] {
        ACTIONS[self as usize].2
    }
}

impl<'a> Request<'a> {
    /// Reads a body. `default` is the action of a command that names none.
    ///
    /// # Errors
    /// It is no command; the message names what is wrong and where.
    pub(crate) fn parse(body: &'a [u8], default: Option<Action>) -> Result<Self, InvalidCommand> {
        let raw: &RawValue = serde_json::from_slice(body).map_err(InvalidJson::Syntax)?;
        match raw.get().as_bytes().first() {
            Some(b'{') => Ok(Self::One(JsonCommand::parse(json::object("command", raw)?, default)?)),
            Some(b'[') => {
                let commands = json::list("commands", raw)?;
                if commands.is_empty() {
                    return Err(InvalidCommand::EmptyList { field: "commands" });
                }
                // One command alone is no transaction: it may as well commit by itself.
                let several = commands.len() > 1;
                let at = |index| move |source| InvalidCommand::At { index, source: Box::new(source) };
                commands
                    .into_iter()
                    .enumerate()
                    .map(|(index, raw)| {
                        let members = json::object("command", raw).map_err(|error| at(index)(error.into()))?;
                        let command = JsonCommand::parse(members, default).map_err(at(index))?;
                        if several {
                            command.check_in_list().map_err(at(index))?;
                        }
                        Ok(command)
                    })
                    .collect::<Result<_, _>>()
                    .map(Self::Transaction)
            }
            _ => Err(InvalidCommand::NoCommand { found: json::kind(raw) }),
        }
    }
}

impl<'a> JsonCommand<'a> {
    /// Makes a command of an object's members. `default` is the action when they name none.
    ///
    /// # Errors
    /// It can't be done as it stands.
    pub(crate) fn parse(members: Vec<(String, &'a RawValue)>, default: Option<Action>) -> Result<Self, InvalidCommand> {
        let mut fields = Fields::new("the command", members);
        let action = match (fields.take("action"), default) {
            (None, Some(default)) => default,
            (Some(raw), _) => Action::parse(&json::text("action", raw)?)?,
            (None, None) => return Err(fields.missing("action").into()),
        };
        let mut fields = fields.at(action.name());
        let command = match action {
            Action::CreateDatabase => {
                Self::Statement(statement::database(&mut fields, "CREATE DATABASE", "if_not_exists")?)
            }
            Action::DropDatabase => Self::Statement(statement::database(&mut fields, "DROP DATABASE", "if_exists")?),
            Action::CreateTable => Self::Statement(statement::create_table(&mut fields)?),
            Action::DropTable => Self::Statement(statement::table_statement(&mut fields, "DROP TABLE", "if_exists")?),
            Action::Insert => Self::Statement(statement::insert(&mut fields)?),
            Action::Update => Self::Statement(statement::update(&mut fields)?),
            Action::Delete => Self::Statement(statement::delete(&mut fields)?),
            Action::Select => Self::Statement(statement::select(&mut fields)?),
            Action::Search => Self::Search(statement::search(&mut fields)?),
            Action::Query => statement::query(&mut fields)?,
        };
        fields.finish(action.fields())?;
        Ok(command)
    }

    /// A list is one transaction, so nothing in it may commit by itself.
    fn check_in_list(&self) -> Result<(), InvalidCommand> {
        let sql = match self {
            Self::Statement(sql) | Self::Query { sql, .. } => sql.trim_start(),
            Self::Search(_) => return Ok(()),
        };
        let word_end = sql.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(sql.len());
        let word = &sql[..word_end];
        if WORDS_IN_LIST.iter().any(|allowed| allowed.eq_ignore_ascii_case(word)) {
            return Ok(());
        }
        let word = if word.is_empty() { sql.chars().take(20).collect() } else { word.to_ascii_uppercase() };
        Err(InvalidCommand::NotInList { word })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sql(command: &str) -> Result<String, String> {
        match Request::parse(command.as_bytes(), None) {
            Ok(Request::One(JsonCommand::Statement(sql))) => Ok(sql),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn every_action_is_one_text() {
        for (command, text) in [
            (r#"{"action": "create_database", "dbname": "shop"}"#, "CREATE DATABASE `shop`"),
            (
                r#"{"action": "create_database", "dbname": "shop", "if_not_exists": true}"#,
                "CREATE DATABASE IF NOT EXISTS `shop`",
            ),
            (r#"{"action": "drop_database", "dbname": "shop", "if_exists": true}"#, "DROP DATABASE IF EXISTS `shop`"),
            (
                r#"{"action": "create_table", "dbname": "shop", "table": "item", "attrs": ["id int primary key"]}"#,
                "CREATE TABLE `shop`.`item` (`id` INT PRIMARY KEY)",
            ),
            (r#"{"action": "drop_table", "dbname": "shop", "table": "item"}"#, "DROP TABLE `shop`.`item`"),
            (
                r#"{"action": "insert", "dbname": "shop", "table": "item", "data": {"id": 1, "tags": ["a"], "x": null}}"#,
                "INSERT INTO `shop`.`item` (`id`, `tags`, `x`) VALUES (1, _utf8mb4'[\"a\"]', NULL)",
            ),
            (
                r#"{"action": "insert", "dbname": "shop", "table": "item", "data": [{"a": 1}, {"b": true, "a": 2}, {}]}"#,
                "INSERT INTO `shop`.`item` (`a`, `b`) VALUES (1, DEFAULT), (2, TRUE), (DEFAULT, DEFAULT)",
            ),
            (
                r#"{"action": "insert", "dbname": "shop", "table": "item", "data": {}}"#,
                "INSERT INTO `shop`.`item` () VALUES ()",
            ),
            (
                r#"{"action": "update", "dbname": "shop", "table": "item", "data": {"a": 1.10, "b": "x"}, "query": {"id": 5}}"#,
                "UPDATE `shop`.`item` SET `a` = 1.10, `b` = _utf8mb4'x' WHERE `id` = 5",
            ),
            (
                r#"{"action": "update", "dbname": "shop", "table": "item", "data": {"a": 1}, "all": true}"#,
                "UPDATE `shop`.`item` SET `a` = 1",
            ),
            (
                r#"{"action": "delete", "dbname": "shop", "table": "item", "query": {"id": {"in": [1, 2]}}}"#,
                "DELETE FROM `shop`.`item` WHERE `id` IN (1, 2)",
            ),
            (r#"{"action": "select", "dbname": "shop", "table": "item"}"#, "SELECT * FROM `shop`.`item`"),
            (
                r#"{"action": "select", "dbname": "shop", "table": "item", "attrs": ["id", "a`b"], "query": {"id": {"gt": 5}},
                    "order": ["a", "-b"], "limit": 10, "offset": 20}"#,
                "SELECT `id`, `a``b` FROM `shop`.`item` WHERE `id` > 5 ORDER BY `a`, `b` DESC LIMIT 10 OFFSET 20",
            ),
            (
                r#"{"action": "select", "dbname": "shop", "table": "item", "offset": 20}"#,
                "SELECT * FROM `shop`.`item` LIMIT 18446744073709551615 OFFSET 20",
            ),
        ] {
            assert_eq!(sql(command).as_deref(), Ok(text), "{command}");
        }
    }

    #[test]
    fn mistakes_name_their_place() {
        for (command, part) in [
            (r#"{"action": "insert""#, "not valid JSON"),
            (r#""insert""#, "must be one command"),
            (r#"{}"#, "needs the field `action`"),
            (r#"{"action": "selct"}"#, "did you mean `select`?"),
            (r#"{"action": "insert", "dbname": "a", "table": "b", "dta": {}}"#, "needs the field `data`"),
            (r#"{"action": "insert", "dbname": "a", "table": "b", "data": {}, "dta": {}}"#, "did you mean `data`?"),
            (r#"{"action": "insert", "dbname": "a", "table": "b", "data": []}"#, "`data` is empty"),
            (r#"{"action": "insert", "dbname": "a", "table": "b", "data": [5]}"#, "must be an object, not a number"),
            (r#"{"action": "select", "table": "b"}"#, "select needs the field `dbname`"),
            (r#"{"action": "select", "dbname": "a", "table": "b", "limit": -1}"#, "`limit` must be"),
            (r#"{"action": "select", "dbname": "a", "table": "b", "order": ["-"]}"#, "`order` is empty"),
            (r#"{"action": "select", "dbname": "a", "table": "b", "attrs": []}"#, "`attrs` is empty"),
            (r#"{"action": "select", "dbname": "a", "table": "b", "all": true}"#, "select has no field `all`"),
            (r#"{"action": "update", "dbname": "a", "table": "b", "data": {"x": 1}}"#, "every row"),
            (r#"{"action": "update", "dbname": "a", "table": "b", "data": {}, "all": true}"#, "`data` is empty"),
            (r#"{"action": "delete", "dbname": "a", "table": "b", "query": {}}"#, "every row"),
            (r#"{"action": "delete", "dbname": "a", "table": "b", "all": false}"#, "every row"),
            (r#"{"action": "delete", "dbname": "a", "table": "b", "all": 1}"#, "must be true or false"),
            (r#"{"action": "search", "dbname": "a", "table": "b", "term": " "}"#, "`term` is empty"),
            (r#"{"action": "query", "sql": " "}"#, "`sql` is empty"),
            (r#"{"transactions": [], "action": "select"}"#, "select needs"),
            (r#"[]"#, "`commands` is empty"),
            (r#"[{"action": "delete", "dbname": "a", "table": "b"}]"#, "index 0: delete without"),
        ] {
            let error = match Request::parse(command.as_bytes(), None) {
                Err(error) => error.to_string(),
                Ok(request) => panic!("{command} was taken for {request:?}"),
            };
            assert!(error.contains(part), "{command}: {error}");
        }
    }

    #[test]
    fn a_list_takes_nothing_that_commits_by_itself() {
        let query =
            |sql: &str| format!(r#"[{{"action": "query", "sql": "SELECT 1"}}, {{"action": "query", "sql": {sql:?}}}]"#);
        for good in ["select 2", "  WITH x AS (SELECT 1) SELECT * FROM x", "insert into t values (1)"] {
            assert!(Request::parse(query(good).as_bytes(), None).is_ok(), "{good}");
        }
        for bad in
            ["CREATE TABLE t (a int)", "COMMIT", "set autocommit=1", "/*! COMMIT */", "(SELECT 1)", "CALL p()", ""]
        {
            assert!(Request::parse(query(bad).as_bytes(), None).is_err(), "{bad}");
        }
        let schema = r#"{"action": "create_database", "dbname": "x"}"#;
        assert!(Request::parse(format!("[{schema}]").as_bytes(), None).is_ok());
        let error = Request::parse(format!("[{schema}, {schema}]").as_bytes(), None).unwrap_err();
        assert!(error.to_string().contains("index 0: `CREATE …` can't stand in a list"), "{error}");
    }
}

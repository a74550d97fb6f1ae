//! Whose rows are whose, as the configuration says.

use std::collections::HashMap;

use serde::Deserialize;
use towline_middleware::{LayerProblem, LayerSetup};

use crate::{classify::is_name, layers::is_plain};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The column that says whose a row is.
    #[serde(default = "column")]
    column: String,
    /// The tables that have it, as `schema.table`.
    #[serde(default)]
    tables: Vec<String>,
    /// The tables and views without it that all tenants may use.
    #[serde(default)]
    shared: Vec<String>,
    /// Accounts that see everything.
    #[serde(default)]
    except: Vec<String>,
    tenant: Vec<TenantOptions>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TenantOptions {
    user: String,
    value: Option<ValueOption>,
    schema: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum ValueOption {
    Integer(i64),
    Text(String),
}

fn column() -> String {
    "tenant_id".to_owned()
}

#[derive(Debug, thiserror::Error)]
enum InvalidTenant {
    #[error("`{key}`: write `schema.table`, of letters, digits, `_` and `$`, in place of `{name}`")]
    Table { key: &'static str, name: String },
    #[error("`column`: `{name}` has more than letters, digits, `_` and `$`")]
    Column { name: String },
    #[error("tenant[{index}]: `user` {user} is there twice, or under `except` as well")]
    Twice { index: usize, user: String },
    #[error("tenant[{index}]: give it either `value` or `schema`")]
    NeitherOrBoth { index: usize },
    #[error("tenant[{index}]: `{text}` has more than letters, digits, `_`, `-`, `.` and `:`, or nothing")]
    Value { index: usize, text: String },
    #[error(
        "tenant[{index}]: `{text}` and `{other}` are the same to a column of numbers, or to one that leaves case out of \
         account"
    )]
    SameValue { index: usize, text: String, other: String },
}

/// What an account's rows are.
#[derive(Debug)]
pub(super) enum Owner {
    /// Those with this value in the tenant's column.
    Value {
        value: String,
        /// The same in SQL: plain under every character set and sql_mode.
        literal: String,
    },
    /// Those in this schema.
    Schema(String),
}

/// The accounts, and the tables that they share.
#[derive(Debug)]
pub(super) struct Tenants {
    pub(super) column: String,
    divided: Vec<(String, String)>,
    shared: Vec<(String, String)>,
    except: Vec<String>,
    owners: HashMap<String, Owner>,
}

/// Tables of information_schema that tell of what there is, and not of what is in it.
const METADATA: &[&str] = &[
    "applicable_roles",
    "character_sets",
    "check_constraints",
    "collation_character_set_applicability",
    "collations",
    "column_privileges",
    "columns",
    "enabled_roles",
    "engines",
    "events",
    "global_variables",
    "key_column_usage",
    "keywords",
    "parameters",
    "partitions",
    "plugins",
    "referential_constraints",
    "routines",
    "schema_privileges",
    "schemata",
    "session_variables",
    "statistics",
    "table_constraints",
    "table_privileges",
    "tables",
    "triggers",
    "user_privileges",
    "views",
];

impl Owner {
    /// What stands in the tenant's column; none where rows are parted by schemas.
    pub(super) fn value(&self) -> Option<&str> {
        match self {
            Self::Value { value, .. } => Some(value),
            Self::Schema(_) => None,
        }
    }

    /// The same as a literal of SQL.
    pub(super) fn literal(&self) -> &str {
        match self {
            Self::Value { literal, .. } => literal,
            Self::Schema(_) => "NULL",
        }
    }

    /// Whether this may be the default schema.
    pub(super) fn may_use(&self, name: &str) -> bool {
        match self {
            Self::Value { .. } => true,
            Self::Schema(own) => name == own || name.eq_ignore_ascii_case("information_schema"),
        }
    }
}

impl Tenants {
    pub(super) fn new(setup: &LayerSetup) -> Result<Self, LayerProblem> {
        let options: Options = setup.options()?;
        if !is_plain(&options.column, "$_") {
            return Err(InvalidTenant::Column { name: options.column }.into());
        }
        let mut owners: HashMap<String, Owner> = HashMap::new();
        for (index, TenantOptions { user, value, schema }) in options.tenant.into_iter().enumerate() {
            let owner = owner(index, value, schema)?;
            let text = owner.value().unwrap_or_default();
            let is_same = |other: &&Owner| {
                let other = other.value().unwrap_or_default();
                other != text && (other.eq_ignore_ascii_case(text) || is_same_number(other, text))
            };
            if let Some(other) = owners.values().find(is_same) {
                let (text, other) = (text.to_owned(), other.value().unwrap_or_default().to_owned());
                return Err(InvalidTenant::SameValue { index, text, other }.into());
            }
            if options.except.contains(&user) || owners.contains_key(&user) {
                return Err(InvalidTenant::Twice { index, user }.into());
            }
            owners.insert(user, owner);
        }
        Ok(Self {
            column: options.column,
            divided: names("tables", options.tables)?,
            shared: names("shared", options.shared)?,
            except: options.except,
            owners,
        })
    }

    /// Whether an account sees everything.
    pub(super) fn excepts(&self, user: &str) -> bool {
        self.except.iter().any(|own| own == user)
    }

    /// What an account's rows are.
    pub(super) fn owner(&self, user: &str) -> Option<&Owner> {
        self.owners.get(user)
    }

    /// Whether a table has rows of several tenants. In any case: some servers fold the case of names.
    pub(super) fn is_divided(&self, schema: &str, table: &str) -> bool {
        let is = |(own_schema, own): &(String, String)| {
            own_schema.eq_ignore_ascii_case(schema) && own.eq_ignore_ascii_case(table)
        };
        self.divided.iter().any(is)
    }

    /// Whether everybody may use a table. As it is written: on other servers another case is another table.
    pub(super) fn is_shared(&self, schema: &str, table: &str) -> bool {
        if schema.eq_ignore_ascii_case("information_schema") {
            return METADATA.contains(&&*table.to_ascii_lowercase());
        }
        self.shared.iter().any(|(own_schema, own)| own_schema == schema && own == table)
    }

    /// Whether this may name the tenant's column.
    pub(super) fn is_column(&self, name: &[u8]) -> bool {
        is_name(name, self.column.as_bytes())
    }
}

fn owner(index: usize, value: Option<ValueOption>, schema: Option<String>) -> Result<Owner, InvalidTenant> {
    let text = match (value, schema) {
        (Some(ValueOption::Integer(value)), None) => value.to_string(),
        (Some(ValueOption::Text(text)), None) => text,
        (None, Some(schema)) if is_plain(&schema, "$_") => return Ok(Owner::Schema(schema)),
        (None, Some(text)) => return Err(InvalidTenant::Value { index, text }),
        _ => return Err(InvalidTenant::NeitherOrBoth { index }),
    };
    if !is_plain(&text, "_-.:") {
        return Err(InvalidTenant::Value { index, text });
    }
    // Always in quotes: compared with a number, a text of letters would be 0, and `7a` would be 7.
    Ok(Owner::Value { literal: format!("'{text}'"), value: text })
}

/// Whether two texts are one number, as `7` and `07` are.
fn is_same_number(one: &str, other: &str) -> bool {
    let whole = |text: &str| text.parse::<i128>().ok();
    let number = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite());
    match (whole(one), whole(other)) {
        (Some(one), Some(other)) => one == other,
        _ => number(one).is_some_and(|one| number(other) == Some(one)),
    }
}

fn names(key: &'static str, names: Vec<String>) -> Result<Vec<(String, String)>, InvalidTenant> {
    let parted = |name: String| match name.split_once('.') {
        Some((schema, table)) if is_plain(schema, "$_") && is_plain(table, "$_") => {
            Ok((schema.to_owned(), table.to_owned()))
        }
        _ => Err(InvalidTenant::Table { key, name }),
    };
    names.into_iter().map(parted).collect()
}

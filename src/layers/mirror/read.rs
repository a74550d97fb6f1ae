//! A read as it is repeated.

use std::sync::Arc;

use bytes::Bytes;
use mysql_async::Params;
use towline_middleware::{Command, CommandKind, SqlMode, rows::Value};

use super::sets::Sets;
use crate::layers::cache::{OWN_SCHEMAS, is_steady};

/// A read, and the session in which it means the same.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) command: Command,
    mode: SqlMode,
    pub(super) schema: Arc<str>,
    pub(super) sets: Arc<Vec<Bytes>>,
    pub(super) params: Params,
}

impl Read {
    /// None for a read that can't be repeated elsewhere. Its text is looked at later: see [`is_repeatable`](Self::is_repeatable).
    pub(super) fn new(command: &Command, bytes_max: usize) -> Option<Self> {
        let session = command.session();
        let plan = command.plan().filter(|plan| !plan.tables.is_empty() && plan.refusal.is_none())?;
        if session.in_transaction() || command.payload().len() > bytes_max {
            return None;
        }
        let schema = command.schema();
        let is_own = |name: &str| OWN_SCHEMAS.iter().any(|own| own.eq_ignore_ascii_case(name));
        if plan.tables.iter().any(|(of_table, _)| is_own(of_table.as_deref().unwrap_or(&schema))) {
            return None;
        }
        let sets = session.state::<Sets>().known()?;
        let params = match command.kind() {
            CommandKind::Query => Params::Empty,
            // The byte asks for a cursor.
            CommandKind::Execute if command.payload().get(5) == Some(&0) => {
                let values: Vec<_> = command.parameters()?.iter().map(parameter).collect();
                if values.is_empty() { Params::Empty } else { Params::Positional(values) }
            }
            _ => return None,
        };
        Some(Self { command: command.clone(), mode: session.sql_mode(), schema, sets, params })
    }

    /// Whether it is a SELECT whose answer hangs on its tables and what was SET.
    pub(super) fn is_repeatable(&self) -> bool {
        self.text().is_some_and(|text| {
            let word = text.trim_start_matches(['(', ' ']).get(..6);
            word.is_some_and(|word| word.eq_ignore_ascii_case("SELECT")) && is_steady(&text)
        })
    }

    /// Its text without literals.
    pub(super) fn text(&self) -> Option<String> {
        self.command.session().classifier().without_literals(self.command.sql(), self.mode)
    }
}

fn parameter(value: &Value<'_>) -> mysql_async::Value {
    match value {
        Value::Null => mysql_async::Value::NULL,
        Value::Integer(value) => (*value).into(),
        Value::Unsigned(value) => (*value).into(),
        Value::Float(value) => (*value).into(),
        Value::Bytes(bytes) => bytes.to_vec().into(),
    }
}

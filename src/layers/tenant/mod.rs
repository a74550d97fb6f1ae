//! Keeps tenants apart: each account reaches the rows of its own tenant only, by a column that its statements are
//! rewritten for, or by a schema.
//!
//! - Every table that a statement names must be known: one with the tenant's column (`tables`), one for everybody
//!   (`shared`), or one of information_schema. Statements, and forms of them, that are not known for certain are refused,
//!   as are stored functions and procedures, which read with rights of their own.
//! - Reads get `WHERE t.tenant_id = '…'`. In outer joins the table is replaced by a query of the tenant's rows; so it is
//!   where a statement computes in its conditions, with a limit that keeps servers from computing on other rows: an
//!   error, a warning or the time that it takes would tell of them.
//! - UPDATE and DELETE get the same condition; what computes is asked of the tenant's own rows only.
//! - INSERT and REPLACE get the column; where the client gives it, it must be the tenant's own value. Of a bulk execute's
//!   parameters none is looked at: one for the column is refused. REPLACE and ON DUPLICATE KEY UPDATE need a table whose unique keys all have it.
//! - SHOW WARNINGS, EXPLAIN of a query and optimizer traces are refused: they quote values of rows that were looked at. So
//!   are SHOW STATUS, counts of warnings, ROWS EXAMINED and limits of a join, which count such rows, files, sequences, other
//!   sessions' statements, and SET of what is not the session's own.
//!
//! # Not hidden
//! - That a unique value is taken by somebody, and that somebody's transaction holds a row.
//! - How many rows and different values a table has: SHOW TABLE STATUS, SHOW INDEX, SHOW CREATE TABLE and their like in
//!   information_schema.
//! - How long a statement takes.
//! - That there is a row whose value can't be compared as a plain condition asks (`name = 0`): under a strict sql_mode a
//!   change fails by it, without the value; clients without CLIENT_DEPRECATE_EOF may see the count of such warnings.
//!
//! # Not looked at
//! What the database does by itself: triggers, foreign keys that cascade, views under `shared`, and on MySQL a generated
//! invisible primary key, if the server leaves it out of information_schema.

mod config;
mod filter;
mod forbidden;
mod insert;
mod statements;
mod tables;
mod text;

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use parking_lot::Mutex;
use towline_middleware::{
    Command, CommandKind, Error, Figure, Final, LayerProblem, LayerSetup, Next, Prepared, Reply, ServerError, Session,
    UserLayer, from_fn, rows::Value,
};

use self::{
    config::{Owner, Tenants},
    tables::Rewrite,
    text::Text,
};
use super::finals::map_finals;

/// Why a tenant's statement is not run.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("{what} can't be kept to one tenant's rows: {mend}")]
    Form { what: Cow<'static, str>, mend: &'static str },
    #[error(
        "{begins} is not among the statements of a tenant's account; run it with an account under `except` of layer tenant"
    )]
    Statement { begins: String },
    #[error("table `{schema}.{table}` is neither under `tables` nor under `shared` of layer tenant")]
    Table { schema: String, table: String },
    #[error("schema `{schema}` is not this tenant's")]
    Schema { schema: String },
    #[error(
        "column `{column}` is the node's to set: leave it out, or give it this tenant's own value as a plain literal or parameter"
    )]
    Column { column: String },
    #[error(
        "REPLACE and ON DUPLICATE KEY UPDATE on `{schema}.{table}` could change another tenant's row, since its unique key \
         {key} does not have `{column}`: put the column in the key, or use INSERT and UPDATE"
    )]
    Key { schema: String, table: String, key: String, column: String },
    #[error("account `{user}` has no tenant: list it under `tenant` or `except` of layer tenant")]
    NoTenant { user: String },
    #[error("Prepared statement needs to be re-prepared: the tenants' configuration has changed since")]
    Stale,
}

impl Refusal {
    const fn form(what: &'static str, mend: &'static str) -> Self {
        Self::Form { what: Cow::Borrowed(what), mend }
    }

    fn unknown(text: &Text<'_>, at: usize, place: &str) -> Self {
        let what = format!("`{}` in {place}", text.shown(at));
        Self::Form { what: what.into(), mend: "it is not known here; write it in a plainer way" }
    }

    fn reply(&self) -> Reply {
        let (code, sqlstate) = if matches!(self, Self::Stale) { (1615, b"HY000") } else { (1227, b"42000") };
        Reply::err(ServerError::new(code, sqlstate, self.to_string()))
    }
}

/// A session's prepared statements that were rewritten here.
#[derive(Default)]
struct Rewritten(Mutex<HashMap<usize, (Weak<Prepared>, Needs)>>);

/// What each run of a statement needs.
#[derive(Clone)]
struct Needs {
    /// Which layer of this kind has rewritten it: a reload may have brought other tenants.
    layer: u64,
    /// Parameters that must be the tenant's own value.
    own_parameters: Vec<usize>,
    /// The table whose unique keys must all have the tenant's column.
    keyed: Option<(String, String)>,
    /// Whether rows are kept out of it.
    filters: bool,
}

struct Tenant {
    tenants: Tenants,
    number: u64,
    refused: Figure,
}

/// The layer of these options.
pub(super) fn layer(setup: &mut LayerSetup) -> Result<impl UserLayer + use<>, LayerProblem> {
    let tenants = Tenants::new(setup)?;
    let refused = setup.counter("refused", "Commands that could not be kept to one tenant's rows.", &[]);
    let tenant = Arc::new(Tenant { tenants, number: fastrand::u64(..), refused });
    Ok(from_fn(move |command: Command, next: Next| tenant.clone().call(command, next)))
}

impl Tenant {
    async fn call(self: Arc<Self>, mut command: Command, next: Next) -> Result<Reply, Error> {
        let user = command.session().user();
        if self.tenants.excepts(&user) {
            return next.run(command).await;
        }
        let judged = match self.tenants.owner(&user) {
            Some(owner) => self.judge(&mut command, owner),
            None if command.kind().runs_sql()
                || matches!(command.kind(), CommandKind::Prepare | CommandKind::ProcessInfo) =>
            {
                Err(Refusal::NoTenant { user: user.to_string() })
            }
            None => Ok(None),
        };
        let needs = match judged {
            Ok(needs) => needs,
            Err(refusal) => return Ok(self.refuse(&refusal)),
        };
        let Some(needs) = needs else {
            let is_of_cursor = command.kind() == CommandKind::Fetch;
            let reply = next.run(command).await?;
            return Ok(if is_of_cursor { without_others(reply) } else { reply });
        };
        if let Some((schema, table)) = &needs.keyed
            && let Some(key) = self.key_without_column(command.session(), schema, table, &next).await?
        {
            let (schema, table, column) = (schema.clone(), table.clone(), self.tenants.column.clone());
            return Ok(self.refuse(&Refusal::Key { schema, table, key, column }));
        }
        let reply = next.run(command).await?;
        Ok(if needs.filters { without_others(reply) } else { reply })
    }

    fn refuse(&self, refusal: &Refusal) -> Reply {
        self.refused.increment();
        refusal.reply()
    }

    /// Rewrites what has SQL, and tells what it needs when it runs.
    fn judge(&self, command: &mut Command, owner: &Owner) -> Result<Option<Needs>, Refusal> {
        let session = command.session().clone();
        match command.kind() {
            CommandKind::Query | CommandKind::Prepare => {
                let (sql, needs) = self.rewrite(command.sql(), owner, &session)?;
                if sql != *command.sql() && !command.rewrite(sql) {
                    return Err(Refusal::form("this command", "send it as a query"));
                }
                let prepared = command.prepared().filter(|_| command.kind() == CommandKind::Prepare);
                if let Some(prepared) = prepared {
                    let own = session.state::<Rewritten>();
                    let mut own = own.0.lock();
                    own.retain(|_, (prepared, _)| prepared.strong_count() > 0);
                    own.insert(Arc::as_ptr(prepared).addr(), (Arc::downgrade(prepared), needs));
                    return Ok(None);
                }
                Ok(Some(needs))
            }
            CommandKind::Execute | CommandKind::BulkExecute => {
                // Without its statement the server refuses it.
                let Some(prepared) = command.prepared() else { return Ok(None) };
                let own = session.state::<Rewritten>();
                let needs = own.0.lock().get(&Arc::as_ptr(prepared).addr()).map(|(_, needs)| needs.clone());
                let needs = needs.filter(|needs| needs.layer == self.number).ok_or(Refusal::Stale)?;
                self.check_parameters(command, &needs, owner)?;
                Ok(Some(needs))
            }
            CommandKind::InitDb if !owner.may_use(&String::from_utf8_lossy(&command.payload()[1..])) => {
                let schema = String::from_utf8_lossy(&command.payload()[1..]).into_owned();
                Err(Refusal::Schema { schema })
            }
            CommandKind::ProcessInfo => Err(Refusal::Statement { begins: command.kind().name().to_owned() }),
            _ => Ok(None),
        }
    }

    fn rewrite(&self, sql: &Bytes, owner: &Owner, session: &Session) -> Result<(Vec<u8>, Needs), Refusal> {
        let tokens = session.tokens(sql);
        let tokens = tokens.ok_or(Refusal::form(
            "a text that servers read differently (an executable comment, an open quote)",
            "write it without them",
        ))?;
        let text = Text::new(sql, &tokens)?;
        let mut rewrite = Rewrite::new(&text, &self.tenants, owner, session);
        rewrite.statement()?;
        let needs = Needs {
            layer: self.number,
            own_parameters: std::mem::take(&mut rewrite.own_parameters),
            keyed: rewrite.keyed.take(),
            filters: rewrite.filters,
        };
        Ok((rewrite.finish(), needs))
    }

    fn check_parameters(&self, command: &Command, needs: &Needs, owner: &Owner) -> Result<(), Refusal> {
        if needs.own_parameters.is_empty() {
            return Ok(());
        }
        let own = owner.value().unwrap_or_default();
        let parameters = command.parameters().unwrap_or_default();
        let is_own = |at: &usize| parameters.get(*at).is_some_and(|value| !value.is_null() && value.to_text() == own);
        if needs.own_parameters.iter().all(is_own) {
            return Ok(());
        }
        Err(Refusal::Column { column: self.tenants.column.clone() })
    }

    /// A unique key of the table that does not have the tenant's column, asked of the server on the client's session.
    async fn key_without_column(
        &self,
        session: &Arc<Session>,
        schema: &str,
        table: &str,
        next: &Next,
    ) -> Result<Option<String>, Error> {
        // All three are of letters, digits, `_` and `$`. The client may have set sql_select_limit. An expression in a key
        // has no column_name.
        let column = &self.tenants.column;
        let sql = format!(
            "SELECT (SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = '{schema}' \
             AND table_name = '{table}' AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') LIMIT 1), \
             COUNT(*), COALESCE(MIN(k.name), '') FROM (SELECT index_name AS name FROM information_schema.statistics \
             WHERE table_schema = '{schema}' AND table_name = '{table}' AND non_unique = 0 GROUP BY index_name \
             HAVING COALESCE(SUM(LOWER(column_name) = LOWER('{column}') AND sub_part IS NULL), 0) = 0 \
             LIMIT 18446744073709551615) k LIMIT 1",
        );
        let command = Command::query(session, sql);
        let answer = next.run(command.clone()).await?.collect(&command, KEYS_BYTES_MAX).await?;
        if let Err(error) = answer.end {
            return Ok(Some(format!("(it can't be asked for: {})", error.text())));
        }
        let text = |value: &Value<'_>| value.to_text().into_owned();
        Ok(match &answer.rows[..] {
            [row] => match &row.iter().map(text).collect::<Vec<_>>()[..] {
                [tables, keys, _] if tables == "1" && keys == "0" => None,
                [tables, _, key] if tables == "1" => Some(format!("`{key}`")),
                _ => Some("(the server shows no table of this name)".to_owned()),
            },
            _ => Some("(the server does not tell)".to_owned()),
        })
    }
}

/// The names of a table's keys are shorter.
const KEYS_BYTES_MAX: usize = 64 * 1024;

/// "Truncated incorrect value: '…'" and its like: under a strict sql_mode a change fails at the value of a row that its
/// condition has looked at, and quotes it.
const QUOTING: [u16; 3] = [1292, 1366, 1411];

/// The reply without what would tell of rows that were left out.
fn without_others(reply: Reply) -> Reply {
    map_finals(reply, hide_others)
}

fn hide_others(end: &mut Final) {
    match end {
        Final::Err(error) if QUOTING.contains(&error.code) => {
            error.message =
                Bytes::from_static(b"Incorrect value: a value can't be compared or converted as it is asked");
        }
        Final::Err(_) => {}
        // The server counts the warnings of every row that it has looked at.
        Final::Ok(completion) => completion.warnings = completion.details().replication_warning.is_some().into(),
    }
}

#[cfg(test)]
mod tests;

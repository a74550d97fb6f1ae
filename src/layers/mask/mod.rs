//! Columns whose values some users don't get to see.
//!
//! A masked column that is selected as it is comes with another value. Whatever else a text does with it (a condition, an
//! expression, an order, a copy into another table) could give its values away, so it is refused with error 1143 before it
//! runs; so is `*` where the result's columns can't be traced to their tables. To these users PREPARE and EXECUTE by name,
//! CALL, compound statements (`BEGIN … END`), HANDLER and SHOW WARNINGS are refused altogether, and what names a masked
//! column's table gets "Duplicate entry" without the values.
//!
//! # Not looked at
//! A view is a table of its own here: name its columns, too. What a stored function gives back it gives to whoever may run
//! it, and a trigger writes what it writes. Who may read the schema `mysql`, or other sessions' statements, sees what
//! stands there.

mod text;

use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use towline_middleware::{
    Command, CommandKind, Error, Figure, Final, Intent, LayerProblem, LayerSetup, Next, Reply, ServerError, UserLayer,
    from_fn,
    rows::{Column, Row, RowMap, Value},
};

use self::text::{Selected, Why};
use super::{finals::map_finals, is_plain};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    column: Vec<ColumnOptions>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ColumnOptions {
    /// `schema.table.column`.
    column: String,
    /// From whom it is hidden; from everybody when absent.
    users: Option<Vec<String>>,
    /// From whom it is not.
    #[serde(default)]
    except: Vec<String>,
    /// What stands in its place; NULL when absent, and where the column's type can't hold it.
    with: Option<String>,
}

#[derive(Debug, thiserror::Error)]
#[error("column[{index}]: `column`: write `schema.table.column`, of letters, digits, `_`, `$` and `-`")]
struct NoColumn {
    index: usize,
}

/// A masked column; its names in lower case.
#[derive(Debug)]
struct Masked {
    schema: String,
    table: String,
    column: String,
    users: Option<Vec<String>>,
    except: Vec<String>,
    with: Option<String>,
    masked: Figure,
    refused: Figure,
}

/// What a text does with one masked column, for as long as its rows come.
#[derive(Clone, Debug)]
struct Concern {
    of: Arc<Masked>,
    selected: Selected,
}

/// The layer of these options.
pub(super) fn layer(setup: &mut LayerSetup) -> Result<impl UserLayer + use<>, LayerProblem> {
    let options: Options = setup.options()?;
    let made = options.column.into_iter().enumerate().map(|(index, options)| Masked::new(index, options, setup));
    let masked: Arc<[Arc<Masked>]> = made.map(|own| own.map(Arc::new)).collect::<Result<_, _>>()?;
    Ok(from_fn(move |command: Command, next: Next| call(masked.clone(), command, next)))
}

async fn call(masked: Arc<[Arc<Masked>]>, command: Command, next: Next) -> Result<Reply, Error> {
    if !command.kind().runs_sql() && command.kind() != CommandKind::Prepare {
        return next.run(command).await;
    }
    let user = command.session().user();
    let hidden: Vec<&Arc<Masked>> = masked.iter().filter(|own| own.is_hidden_from(&user)).collect();
    if hidden.is_empty() {
        return next.run(command).await;
    }
    let concerns = match concerns(&hidden, &command) {
        Ok(None) => return next.run(command).await,
        Ok(Some(concerns)) => concerns,
        Err((of, why)) => return Ok(Reply::err(of.refusal(&user, why))),
    };
    if concerns.is_empty() {
        return Ok(map_finals(next.run(command).await?, hide_values));
    }
    let reply = next.run(command.clone()).await?;
    Ok(reply.map_result(&command, Masking { concerns, user }))
}

/// The masked columns that a command's rows may have, or the one for which it is refused, and why; none if it names no
/// table of theirs.
fn concerns<'a>(hidden: &[&'a Arc<Masked>], command: &Command) -> Result<Option<Vec<Concern>>, (&'a Masked, Why)> {
    let sql = command.sql();
    let tokens = command.session().tokens(sql);
    // The rows of a cursor come later, without their columns.
    let opens_cursor = command.kind() == CommandKind::Execute && command.payload().get(5) != Some(&0);
    let mut concerns = None;
    for &of in hidden {
        let selected = match &tokens {
            Some(tokens) => text::selected(sql, tokens, &of.table, &of.column),
            None => text::doubt(sql, &of.table).map(|()| None),
        };
        let Some(selected) = selected.map_err(|why| (&**of, why))? else { continue };
        let concerns = concerns.get_or_insert_with(Vec::new);
        match selected {
            selected if selected == Selected::default() => {}
            _ if opens_cursor => return Err((of, "its rows can't be masked behind a cursor: read them without one")),
            _ if command.intent() != Intent::Read => return Err((of, "can only be selected by what is a read")),
            selected => concerns.push(Concern { of: of.clone(), selected }),
        }
    }
    Ok(concerns)
}

/// "Duplicate entry '…' for key" and its like: they quote the values of a row that is there, or that a change makes.
const QUOTING: [u16; 3] = [1062, 1586, 1761];

fn hide_values(end: &mut Final) {
    if let Final::Err(error) = end
        && QUOTING.contains(&error.code)
    {
        error.message = Bytes::from_static(b"Duplicate entry: a unique key has it already; its values may be masked");
    }
}

/// Masks one command's rows.
struct Masking {
    concerns: Vec<Concern>,
    user: Arc<str>,
}

impl RowMap for Masking {
    fn columns(&mut self, columns: &[Column]) -> Result<(), ServerError> {
        let refused = self.concerns.iter().find(|concern| !concern.is_decidable(columns));
        let why = "can only be selected from its table as it is";
        refused.map_or(Ok(()), |concern| Err(concern.of.refusal(&self.user, why)))
    }

    fn row(&mut self, row: &mut Row<'_>) -> Result<(), ServerError> {
        self.concerns.iter().for_each(|concern| concern.mask(row));
        Ok(())
    }
}

impl Masked {
    fn new(index: usize, options: ColumnOptions, setup: &LayerSetup) -> Result<Self, NoColumn> {
        let name = options.column.to_lowercase();
        let parts: Vec<&str> = name.split('.').collect();
        let [schema, table, column] = parts[..] else { return Err(NoColumn { index }) };
        if !parts.iter().all(|part| is_plain(part, "_$-")) {
            return Err(NoColumn { index });
        }
        Ok(Self {
            schema: schema.to_owned(),
            table: table.to_owned(),
            column: column.to_owned(),
            users: options.users,
            except: options.except,
            with: options.with,
            masked: setup.counter("masked", "Values that were masked, by column.", &[("column", &name)]),
            refused: setup.counter("refused", "Commands that could give values away, by column.", &[("column", &name)]),
        })
    }

    fn is_hidden_from(&self, user: &str) -> bool {
        let is_hidden = self.users.as_ref().is_none_or(|users| users.iter().any(|own| own == user));
        is_hidden && !self.except.iter().any(|own| own == user)
    }

    fn is(&self, column: &Column) -> bool {
        column.original_name.eq_ignore_ascii_case(&self.column)
            && column.table.eq_ignore_ascii_case(&self.table)
            && column.schema.eq_ignore_ascii_case(&self.schema)
    }

    fn refusal(&self, user: &str, why: Why) -> ServerError {
        self.refused.increment();
        let Self { schema, table, column, .. } = self;
        let denied = "SELECT command denied to user";
        let text =
            format!("{denied} '{user}' for column '{column}' in table '{schema}.{table}': it is masked, and {why}");
        ServerError::new(1143, b"42000", text)
    }
}

impl Concern {
    /// Whether each time that the text names the column is a column of the result, and no star hides where a value comes
    /// from.
    fn is_decidable(&self, columns: &[Column]) -> bool {
        let is_traced = |column: &Column| {
            let names = [&column.original_name, &column.table, &column.schema];
            // Under character_set_results = utf16 and its like they could not be told.
            names.iter().all(|name| !name.is_empty() && !name.contains('\0'))
        };
        let own = columns.iter().filter(|column| self.of.is(column)).count();
        self.selected.times <= own && (!self.selected.by_star || columns.iter().all(is_traced))
    }

    fn mask(&self, row: &mut Row<'_>) {
        let columns = row.columns();
        for (index, column) in columns.iter().enumerate() {
            if self.of.is(column) && !row.get(index).is_null() {
                let with = self.of.with.clone().map_or(Value::Null, Value::from);
                if row.set(index, with).is_err() {
                    row.set(index, Value::Null).expect("NULL goes anywhere");
                }
                self.of.masked.increment();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use towline_middleware::testing::conformance;

    use super::*;
    use crate::layers::tests::setup;

    #[tokio::test]
    async fn it_conforms() {
        let options = json!({"column": [{"column": "shop.customer.email"}]});
        conformance(|| layer(&mut setup("mask", options.clone())).unwrap()).await;
    }

    #[test]
    fn a_column_has_three_names_of_plain_letters() {
        for name in ["email", "shop.customer.", "shop.customer.\u{e9}mail"] {
            let Err(error) = layer(&mut setup("mask", json!({"column": [{"column": name}]}))) else { panic!("{name}") };
            assert!(error.to_string().contains("schema.table.column"), "{name}: {error}");
        }
    }
}

//! Columns whose values some users don't get to see.
//!
//! A masked column that is selected as it is comes with another value. Whatever else a text does with it (a condition, an
//! expression, an order, a copy into another table) could give its values away, so it is refused with error 1143; so is
//! `*` where the result's columns can't be traced to their tables. A view is a table of its own here: name its columns, too.

use std::sync::Arc;

use serde::Deserialize;
use towline_middleware::{
    Command, CommandKind, Error, Figure, Intent, LayerProblem, LayerSetup, Next, Reply, ServerError, UserLayer,
    from_fn,
    rows::{Column, Row, RowMap, Value},
};

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
#[error("column[{index}]: write `schema.table.column`")]
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

/// What a text says of one masked column, for as long as its rows come.
#[derive(Clone, Debug)]
struct Concern {
    of: Arc<Masked>,
    /// How often the text names the column.
    mentions: usize,
    /// Whether it has columns that it does not name.
    has_star: bool,
    /// Whether it compares columns that it does not name.
    is_natural: bool,
    /// The text behind which rows are put in order or together, in lower case.
    order: Option<String>,
}

/// The layer of these options.
pub(super) fn layer(setup: &mut LayerSetup) -> Result<impl UserLayer + use<>, LayerProblem> {
    let options: Options = setup.options()?;
    let made = options.column.into_iter().enumerate().map(|(index, options)| Masked::new(index, options, setup));
    let masked: Arc<[Arc<Masked>]> = made.map(|own| own.map(Arc::new)).collect::<Result<_, _>>()?;
    Ok(from_fn(move |command: Command, next: Next| {
        let masked = masked.clone();
        async move { call(&masked, command, next).await }
    }))
}

async fn call(masked: &[Arc<Masked>], command: Command, next: Next) -> Result<Reply, Error> {
    if !command.kind().runs_sql() && command.kind() != CommandKind::Prepare {
        return next.run(command).await;
    }
    let concerns: Vec<Concern> = masked.iter().filter_map(|own| own.concern(&command)).collect();
    if concerns.is_empty() {
        return next.run(command).await;
    }
    // The rows of a cursor come later, without their columns.
    let opens_cursor = command.kind() == CommandKind::Execute && command.payload().get(5) != Some(&0);
    let refused =
        concerns.iter().find(|concern| opens_cursor || (command.intent() != Intent::Read && concern.gives_away()));
    if let Some(concern) = refused {
        return Ok(Reply::err(concern.of.refusal(&command)));
    }
    let reply = next.run(command.clone()).await?;
    Ok(reply.map_result(&command.clone(), Masking { concerns, command }))
}

/// Masks one command's rows.
struct Masking {
    concerns: Vec<Concern>,
    command: Command,
}

impl RowMap for Masking {
    fn columns(&mut self, columns: &[Column]) -> Result<(), ServerError> {
        let refused = self.concerns.iter().find(|concern| !concern.is_decidable(columns));
        refused.map_or(Ok(()), |concern| Err(concern.of.refusal(&self.command)))
    }

    fn row(&mut self, row: &mut Row<'_>) -> Result<(), ServerError> {
        self.concerns.iter().for_each(|concern| concern.mask(row));
        Ok(())
    }
}

impl Masked {
    fn new(index: usize, options: ColumnOptions, setup: &LayerSetup) -> Result<Self, NoColumn> {
        let name = options.column.to_lowercase();
        let mut parts = name.split('.').filter(|part| !part.is_empty()).map(str::to_owned);
        let (Some(schema), Some(table), Some(column), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(NoColumn { index });
        };
        Ok(Self {
            schema,
            table,
            column,
            users: options.users,
            except: options.except,
            with: options.with,
            masked: setup.counter("masked", "Values that were masked, by column.", &[("column", &name)]),
            refused: setup.counter("refused", "Commands that could give values away, by column.", &[("column", &name)]),
        })
    }

    /// What this text has to do with the column; none if nothing, or if this user may see it.
    fn concern(self: &Arc<Self>, command: &Command) -> Option<Concern> {
        let session = command.session();
        let user = session.user();
        let is_hidden = self.users.as_ref().is_none_or(|users| users.iter().any(|own| **own == *user));
        if !is_hidden || self.except.iter().any(|own| **own == *user) {
            return None;
        }
        let text = session.classifier().without_literals(command.sql(), session.sql_mode());
        let text = text.unwrap_or_else(|| String::from_utf8_lossy(command.sql()).into_owned()).to_lowercase();
        // By its name in the text, whatever classification knows of its tables.
        if count_words(&text, &self.table) == 0 {
            return None;
        }
        let stars = text.matches('*').count() - count_without_space(&text, "(*)");
        let has_star = stars > 0 || count_words(&text, "table") > 0 || count_words(&text, "handler") > 0;
        Some(Concern {
            of: self.clone(),
            mentions: count_words(&text, &self.column),
            has_star,
            is_natural: count_words(&text, "natural") > 0,
            order: order_of(&text).map(str::to_owned),
        })
    }

    fn is(&self, column: &Column) -> bool {
        column.original_name.eq_ignore_ascii_case(&self.column)
            && column.table.eq_ignore_ascii_case(&self.table)
            && column.schema.eq_ignore_ascii_case(&self.schema)
    }

    fn refusal(&self, command: &Command) -> ServerError {
        self.refused.increment();
        let (user, Self { schema, table, column, .. }) = (command.session().user(), self);
        ServerError::new(
            1143,
            b"42000",
            format!(
                "SELECT command denied to user '{user}' for column '{column}' in table '{schema}.{table}': it is masked, and \
                 can only be selected as it is"
            ),
        )
    }
}

impl Concern {
    /// Whether a statement that is no read may carry values elsewhere.
    fn gives_away(&self) -> bool {
        self.mentions > 0 || self.has_star
    }

    /// Whether each time that the text names the column is a column of the result, no star hides where a value comes
    /// from, and the rows' order tells nothing.
    fn is_decidable(&self, columns: &[Column]) -> bool {
        let own: Vec<_> = columns.iter().filter(|column| self.of.is(column)).collect();
        let is_traced = columns
            .iter()
            .all(|column| !column.original_name.is_empty() && !column.table.is_empty() && !column.schema.is_empty());
        let is_named_once = self.mentions <= own.len() && !(self.has_star && self.mentions > 0);
        is_named_once && (is_traced || !self.has_star) && !self.is_natural && !self.is_ordered_by(&own)
    }

    /// Whether the order of the rows, or which are put together, may hang on a masked column of the result: by its place
    /// or by an alias.
    fn is_ordered_by(&self, own: &[&Column]) -> bool {
        let Some(order) = self.order.as_ref().filter(|_| !own.is_empty()) else { return false };
        let has_place = order.split(|c: char| !c.is_alphanumeric()).any(|word| word.parse::<u32>().is_ok());
        let has_alias = || own.iter().any(|column| count_words(order, &column.name.to_lowercase()) > 0);
        has_place || order.contains("distinct") || has_alias()
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

/// What stands in a text, in lower case, from where rows are put in order or together; without a plain LIMIT at its end.
fn order_of(text: &str) -> Option<&str> {
    let at = ["order by", "group by", "distinct"].iter().filter_map(|by| text.find(by)).min()?;
    let order = &text[at..];
    let is_plain = |tail: &str| tail.replace("offset", "").chars().all(|c| c.is_numeric() || " ,?;".contains(c));
    Some(order.rsplit_once("limit").filter(|(_, tail)| is_plain(tail)).map_or(order, |(order, _)| order))
}

/// How often a word stands in a text, not as a piece of another.
fn count_words(text: &str, word: &str) -> usize {
    let is_word = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    let bytes = text.as_bytes();
    let stands_alone =
        |at: &usize| !is_word(at.checked_sub(1).and_then(|at| bytes.get(at))) && !is_word(bytes.get(at + word.len()));
    text.match_indices(word).map(|(at, _)| at).filter(stands_alone).count()
}

/// How often `piece` stands in a text, with any space in it.
fn count_without_space(text: &str, piece: &str) -> usize {
    let dense: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    dense.matches(piece).count()
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
    fn words_stand_alone() {
        assert_eq!(count_words("select email, email2, `email` from t where e.email=1", "email"), 3);
        assert_eq!(count_without_space("select count( * ), count(*), * from t", "(*)"), 2);
    }

    #[test]
    fn an_order_ends_before_a_plain_limit() {
        assert_eq!(order_of("select a from t order by b limit 1, 1"), Some("order by b "));
        assert_eq!(order_of("select a from t order by `limit`, 2"), Some("order by `limit`, 2"));
        assert_eq!(order_of("select a from t limit 1"), None);
    }

    #[test]
    fn a_column_has_three_names() {
        let Err(error) = layer(&mut setup("mask", json!({"column": [{"column": "email"}]}))) else { panic!("taken") };
        assert!(error.to_string().contains("schema.table.column"), "{error}");
    }
}

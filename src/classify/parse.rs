//! The second opinion: the only file that knows sqlparser. It may make a read into a write, never the other way, and it
//! finds the tables.

use std::{collections::HashSet, ops::ControlFlow};

use sqlparser::{
    ast::{ObjectName, Query, Statement, Visit, Visitor},
    dialect::MySqlDialect,
    parser::Parser,
};

/// Templates longer than this are not parsed: it takes about 0.1 ms a kilobyte.
pub(super) const TEMPLATE_BYTES_MAX: usize = 8 * 1024;
/// A statement on more tables than this counts as one whose tables are not known.
const TABLES_MAX: usize = 64;

/// What the parser makes of a text.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Opinion {
    /// Whether a statement of it, also one inside another, writes.
    pub(super) writes: bool,
    /// The tables, as `(schema, table)`, in lower case. Empty means "not known".
    pub(super) tables: Vec<(Option<String>, String)>,
}

/// Parses a template; none if it is too long or the parser does not know the form.
pub(super) fn opinion(template: &[u8]) -> Option<Opinion> {
    if template.len() > TEMPLATE_BYTES_MAX {
        return None;
    }
    let statements = Parser::parse_sql(&MySqlDialect {}, std::str::from_utf8(template).ok()?).ok()?;
    let mut seen = Seen::default();
    let _: ControlFlow<()> = statements.visit(&mut seen);
    Some(seen.into_opinion())
}

#[derive(Default)]
struct Seen {
    writes: bool,
    tables: Vec<(Option<String>, String)>,
    /// Names that WITH gives to queries, which are no tables.
    with_names: HashSet<String>,
}

impl Seen {
    fn into_opinion(mut self) -> Opinion {
        self.tables.retain(|(schema, table)| schema.is_some() || !self.with_names.contains(table));
        if self.tables.len() > TABLES_MAX {
            self.tables.clear();
        }
        Opinion { writes: self.writes, tables: self.tables }
    }
}

impl Visitor for Seen {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let names = query.with.iter().flat_map(|with| &with.cte_tables);
        self.with_names.extend(names.map(|named| named.alias.name.value.to_lowercase()));
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        let mut parts = relation.0.iter().filter_map(|part| part.as_ident()).map(|ident| ident.value.to_lowercase());
        let table = match (parts.next(), parts.next(), parts.next()) {
            (Some(table), None, None) => (None, table),
            (Some(schema), Some(table), None) => (Some(schema), table),
            _ => return ControlFlow::Continue(()),
        };
        if !self.tables.contains(&table) {
            self.tables.push(table);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_statement(&mut self, statement: &Statement) -> ControlFlow<()> {
        self.writes |= writes(statement);
        ControlFlow::Continue(())
    }
}

/// Everything but what is known to read, to change the session alone, or to be decided by the text inside of it.
fn writes(statement: &Statement) -> bool {
    !matches!(
        statement,
        Statement::Query(_)
            | Statement::Explain { .. }
            | Statement::ExplainTable { .. }
            | Statement::ShowFunctions { .. }
            | Statement::ShowVariable { .. }
            | Statement::ShowStatus { .. }
            | Statement::ShowVariables { .. }
            | Statement::ShowCreate { .. }
            | Statement::ShowColumns { .. }
            | Statement::ShowCatalogs { .. }
            | Statement::ShowDatabases { .. }
            | Statement::ShowProcessList { .. }
            | Statement::ShowSchemas { .. }
            | Statement::ShowCharset(_)
            | Statement::ShowObjects(_)
            | Statement::ShowTables { .. }
            | Statement::ShowViews { .. }
            | Statement::ShowCollation { .. }
            | Statement::Set(_)
            | Statement::Use(_)
            | Statement::StartTransaction { .. }
            | Statement::Commit { .. }
            | Statement::Rollback { .. }
            | Statement::Savepoint { .. }
            | Statement::ReleaseSavepoint { .. }
            | Statement::LockTables { .. }
            | Statement::UnlockTables
            | Statement::Prepare { .. }
            | Statement::Execute { .. }
            | Statement::Deallocate { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(sql: &str) -> Vec<String> {
        let opinion = opinion(sql.as_bytes()).unwrap_or_default();
        let name = |(schema, table): (Option<String>, String)| schema.map_or(table.clone(), |s| format!("{s}.{table}"));
        opinion.tables.into_iter().map(name).collect()
    }

    #[test]
    fn tables_are_named_once_and_in_lower_case() {
        assert_eq!(tables("SELECT * FROM Shop.Item i JOIN `Order` o USING (id), shop.item"), ["shop.item", "order"]);
        assert_eq!(tables("INSERT INTO a.t (x) VALUES (1)"), ["a.t"]);
        assert_eq!(tables("REPLACE INTO t VALUES (1)"), ["t"]);
        assert_eq!(tables("UPDATE a.t JOIN b USING (id) SET x = 1"), ["a.t", "b"]);
        assert_eq!(tables("DELETE FROM t WHERE id IN (SELECT id FROM u)"), ["t", "u"]);
        assert_eq!(tables("CREATE TABLE n (id INT)"), ["n"]);
        assert_eq!(tables("WITH x AS (SELECT * FROM t) SELECT * FROM x"), ["t"]);
        assert_eq!(tables("SELECT 1"), [""; 0]);
    }

    #[test]
    fn writes_are_seen_wherever_they_hide() {
        for sql in ["SELECT 1; DELETE FROM t", "WITH x AS (SELECT 1) DELETE FROM t", "EXPLAIN UPDATE t SET a = 1"] {
            assert!(opinion(sql.as_bytes()).is_some_and(|opinion| opinion.writes), "{sql}");
        }
        for sql in ["SELECT 1", "SHOW TABLES", "BEGIN", "SET a = 1"] {
            assert!(opinion(sql.as_bytes()).is_some_and(|opinion| !opinion.writes), "{sql}");
        }
    }

    #[test]
    fn what_is_too_long_or_unknown_has_no_opinion() {
        assert_eq!(opinion(format!("SELECT {} 1", "1, ".repeat(TEMPLATE_BYTES_MAX)).as_bytes()), None);
        assert_eq!(opinion(b"XA START 'a'"), None);
        assert_eq!(opinion(b"\xff"), None);
    }
}

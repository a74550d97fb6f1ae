//! The second opinion: the only file that knows sqlparser. It may make a read into a write, never the other way, and it
//! finds the tables.

use std::{ops::ControlFlow, ptr};

use sqlparser::{
    ast::{ObjectName, Query, SetExpr, Statement, Visit, Visitor},
    dialect::MySqlDialect,
    parser::Parser,
};

/// Templates longer than this are not parsed: it takes about 0.1 ms a kilobyte.
pub(super) const TEMPLATE_BYTES_MAX: usize = 8 * 1024;
/// The parser goes one level deeper with each JOIN that has no ON, some 8 kB each time: with the longest template of them
/// it needs this much of the stack, of which a thread has 2 MB.
const STACK_BYTES: usize = 64 << 20;
/// Templates up to this length can't need more than a thread has.
const SHALLOW_BYTES: usize = 256;
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

/// Parses a template; none if it is too long or the parser does not know the form. On a server that tells names of WITH
/// apart by case they count as tables, too: texts that differ in case have one plan.
pub(super) fn opinion(template: &[u8], with_ignores_case: bool) -> Option<Opinion> {
    match template.len() {
        length if length <= SHALLOW_BYTES => parsed(template, with_ignores_case),
        length if length <= TEMPLATE_BYTES_MAX => stacker::grow(STACK_BYTES, || parsed(template, with_ignores_case)),
        _ => None,
    }
}

fn parsed(template: &[u8], with_ignores_case: bool) -> Option<Opinion> {
    let statements = Parser::parse_sql(&MySqlDialect {}, std::str::from_utf8(template).ok()?).ok()?;
    let mut seen = Seen { with_ignores_case, ..Seen::default() };
    let _: ControlFlow<()> = statements.visit(&mut seen);
    Some(seen.into_opinion())
}

#[derive(Default)]
struct Seen {
    with_ignores_case: bool,
    writes: bool,
    tables: Vec<(Option<String>, String)>,
    /// The queries around the place where the visit is, innermost last.
    around: Vec<Around>,
}

/// A query, and what its WITH names. A name is no table from where the server knows it: the text of the first may name a
/// table that is called as itself, which is read then.
struct Around {
    query: *const Query,
    /// Each name with its query.
    named: Vec<(String, *const Query)>,
    /// How many of them are known by now.
    known: usize,
    is_recursive: bool,
}

impl Seen {
    fn into_opinion(mut self) -> Opinion {
        if self.tables.len() > TABLES_MAX {
            self.tables.clear();
        }
        Opinion { writes: self.writes, tables: self.tables }
    }

    fn see(&mut self, schema: Option<String>, table: String) {
        let is_named = |around: &Around| around.named[..around.known].iter().any(|(name, _)| *name == table);
        if self.with_ignores_case && schema.is_none() && self.around.iter().any(is_named) {
            return;
        }
        let table = (schema, table);
        if !self.tables.contains(&table) {
            self.tables.push(table);
        }
    }

    /// The tables of `TABLE t`, which the visit leaves out.
    fn see_whole_tables(&mut self, body: &SetExpr) {
        let mut bodies = vec![body];
        while let Some(body) = bodies.pop() {
            match body {
                SetExpr::SetOperation { left, right, .. } => bodies.extend([&**left, &**right]),
                SetExpr::Table(table) => {
                    let lower = |name: &Option<String>| name.as_ref().map(|name| name.to_lowercase());
                    if let Some(name) = lower(&table.table_name) {
                        self.see(lower(&table.schema_name), name);
                    }
                }
                _ => {}
            }
        }
    }
}

impl Visitor for Seen {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        if let Some(outer) = self.around.last_mut()
            && let Some(number) = outer.named.iter().position(|(_, own)| ptr::eq(*own, query))
        {
            outer.known = number + usize::from(outer.is_recursive);
        }
        // What is changed is a table, whatever WITH calls so.
        let reads = matches!(*query.body, SetExpr::Select(_) | SetExpr::Query(_) | SetExpr::SetOperation { .. });
        let with = query.with.as_ref().filter(|_| reads);
        let named = with.iter().flat_map(|with| &with.cte_tables);
        let named = named.map(|named| (named.alias.name.value.to_lowercase(), &raw const *named.query)).collect();
        let is_recursive = with.is_some_and(|with| with.recursive);
        self.around.push(Around { query, named, known: 0, is_recursive });
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.see_whole_tables(&query.body);
        self.around.pop_if(|around| ptr::eq(around.query, query));
        if let Some(outer) = self.around.last_mut()
            && let Some(number) = outer.named.iter().position(|(_, own)| ptr::eq(*own, query))
        {
            outer.known = number + 1;
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        let mut parts = relation.0.iter().filter_map(|part| part.as_ident()).map(|ident| ident.value.to_lowercase());
        match (parts.next(), parts.next(), parts.next()) {
            (Some(table), None, None) => self.see(None, table),
            (Some(schema), Some(table), None) => self.see(Some(schema), table),
            _ => {}
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
        let opinion = opinion(sql.as_bytes(), true).unwrap_or_default();
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
    fn a_name_of_with_is_a_table_where_it_is_not_known_yet() {
        assert_eq!(tables("WITH a AS (SELECT * FROM a) SELECT a.* FROM a, item"), ["a", "item"]);
        assert_eq!(tables("WITH a AS (SELECT * FROM b), b AS (SELECT * FROM a) SELECT * FROM b"), ["b"]);
        assert_eq!(tables("WITH RECURSIVE a AS (SELECT 1 UNION SELECT n FROM a JOIN t) SELECT * FROM a"), ["t"]);
        assert_eq!(tables("SELECT * FROM (WITH a AS (SELECT 1) SELECT * FROM a) x, a"), ["a"]);
        assert_eq!(
            tables("SELECT 1 FROM t WHERE x IN (SELECT 1 FROM a) UNION (WITH a AS (SELECT 1) SELECT * FROM a)"),
            ["t", "a"]
        );
        assert_eq!(tables("WITH a AS (WITH b AS (SELECT 1) SELECT * FROM b) SELECT * FROM a, b"), ["b"]);
        assert_eq!(tables("WITH a AS (SELECT 1) DELETE FROM a"), ["a"]);
        assert_eq!(tables("WITH a AS (SELECT 1) SELECT (SELECT 1 FROM a), (SELECT 1 FROM x.a)"), ["x.a"]);
    }

    #[test]
    fn a_name_of_with_may_be_a_table_where_case_tells_them_apart() {
        let sql = b"WITH Secret AS (SELECT 1) SELECT secret.* FROM item, secret";
        let named = |table: &str| (None, table.to_owned());
        assert_eq!(opinion(sql, true).unwrap().tables, [named("item")]);
        assert_eq!(opinion(sql, false).unwrap().tables, [named("item"), named("secret")]);
    }

    #[test]
    fn a_table_without_a_select_is_seen() {
        assert_eq!(tables("SELECT * FROM item UNION TABLE secret"), ["item", "secret"]);
        assert_eq!(
            tables("SELECT * FROM item WHERE id IN (SELECT 1 UNION TABLE Shop.Secret)"),
            ["item", "shop.secret"]
        );
    }

    #[test]
    fn writes_are_seen_wherever_they_hide() {
        for sql in ["SELECT 1; DELETE FROM t", "WITH x AS (SELECT 1) DELETE FROM t", "EXPLAIN UPDATE t SET a = 1"] {
            assert!(opinion(sql.as_bytes(), true).is_some_and(|opinion| opinion.writes), "{sql}");
        }
        for sql in ["SELECT 1", "SHOW TABLES", "BEGIN", "SET a = 1"] {
            assert!(opinion(sql.as_bytes(), true).is_some_and(|opinion| !opinion.writes), "{sql}");
        }
    }

    #[test]
    fn what_is_too_long_or_unknown_has_no_opinion() {
        assert_eq!(opinion(format!("SELECT {} 1", "1, ".repeat(TEMPLATE_BYTES_MAX)).as_bytes(), true), None);
        assert_eq!(opinion(b"XA START 'a'", true), None);
        assert_eq!(opinion(b"\xff", true), None);
    }
}

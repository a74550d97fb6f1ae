//! Keeps the rows of other tenants out of the tables of a statement.

use super::{
    Refusal,
    tables::{Condition, From, Rewrite, TableRef},
};

impl Rewrite<'_> {
    /// Keeps other tenants' rows out of a query's tables.
    pub(super) fn filter_query(&mut self, from: &From, condition: Condition) -> Result<(), Refusal> {
        if self.plain && !from.has_outer_join {
            self.filter_condition(from, condition);
            return Ok(());
        }
        for table in &from.tables {
            self.derive(table)?;
        }
        Ok(())
    }

    /// The same for the tables of an UPDATE or DELETE, which must stay tables.
    pub(super) fn filter_change(&mut self, from: &From, condition: Condition) -> Result<(), Refusal> {
        match (&from.tables[..], from.members) {
            ([], _) => {}
            ([_], 1) if !self.plain => self.guard_condition(from, condition),
            _ if self.plain && !from.has_outer_join => self.filter_condition(from, condition),
            _ => {
                return Err(Refusal::form(
                    "a change of joined tables with an outer join, or with more than comparisons in its conditions",
                    "write it for one table, with IN (SELECT …) or EXISTS (SELECT …)",
                ));
            }
        }
        Ok(())
    }

    /// `WHERE t.tenant_id = '…' AND (…)`: inner joins mean the same wherever a condition stands.
    fn filter_condition(&mut self, from: &From, condition: Condition) {
        let filters: Vec<_> = from.tables.iter().map(|table| self.equals(from, table, "=")).collect();
        if !filters.is_empty() {
            self.put_condition(filters.join(" AND "), "(", ")", condition);
        }
    }

    /// What computes is only asked of the tenant's own rows, in whatever order a server takes conditions. The two bounds
    /// are for indexes; unlike an equality no server carries them into what they stand beside.
    fn guard_condition(&mut self, from: &From, condition: Condition) {
        let table = &from.tables[0];
        let bounds = format!("{} AND {}", self.equals(from, table, ">="), self.equals(from, table, "<="));
        let open = format!("IF({}, (", self.equals(from, table, "="));
        self.put_condition(bounds, &open, "), FALSE)", condition);
    }

    fn put_condition(&mut self, filter: String, open: &str, close: &str, condition: Condition) {
        self.filters = true;
        let Condition { first, end } = condition;
        if first < end {
            self.insert(self.text.start_of(first), format!("{filter} AND {open}"));
            self.insert(self.text.end_of(end - 1), close);
        } else {
            self.insert(self.text.end_of(end - 1), format!(" WHERE {filter}"));
        }
    }

    fn equals(&self, from: &From, table: &TableRef, sign: &str) -> String {
        let text = self.text;
        let name = match table.alias {
            Some(alias) => text.bytes(alias),
            None => &text.sql()[text.start_of(table.first)..text.end_of(table.last)],
        };
        // `item` beside `other.item` is told apart by its schema.
        let is_like = |other: &&TableRef| other.alias.is_none() && other.table.eq_ignore_ascii_case(&table.table);
        let is_whole = table.alias.is_some() || table.first < table.last;
        let is_alone = from.tables.iter().filter(is_like).count() == 1;
        let schema = if is_whole || is_alone { String::new() } else { format!("`{}`.", table.schema) };
        let (column, value) = (&self.tenants.column, self.owner.literal());
        format!("{schema}{}.`{column}` {sign} {value}", String::from_utf8_lossy(name))
    }

    /// Puts the tenant's rows in the place of a table. Where conditions compute, a limit keeps servers from taking them
    /// before the choice.
    fn derive(&mut self, table: &TableRef) -> Result<(), Refusal> {
        let text = self.text;
        if table.has_more || self.locks() {
            return Err(Refusal::form(
                "a locking read, PARTITION or an index hint beside an outer join, a sub-query or a condition that computes",
                "leave it out, or write inner joins and plain comparisons",
            ));
        }
        let (start, end) = (text.start_of(table.first), text.end_of(table.last));
        let name = String::from_utf8_lossy(&text.sql()[start..end]).into_owned();
        let (column, value) = (&self.tenants.column, self.owner.literal());
        let limit = if self.plain { "" } else { " LIMIT 18446744073709551615" };
        let alias = if table.alias.is_some() { String::new() } else { format!(" AS {}", text.shown(table.last)) };
        self.replace(start, end, format!("(SELECT * FROM {name} WHERE `{column}` = {value}{limit}){alias}"));
        self.filters = true;
        self.derived.push((table.schema.clone(), table.table.clone()));
        Ok(())
    }

    fn locks(&self) -> bool {
        let text = self.text;
        (0..text.end()).any(|at| {
            text.is(at, "FOR") && text.is_any(at + 1, &["UPDATE", "SHARE"])
                || text.is(at, "LOCK") && text.is(at + 1, "IN")
        })
    }
}

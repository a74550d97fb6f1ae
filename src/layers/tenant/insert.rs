//! INSERT and REPLACE: every row that they bring is the tenant's.

use towline_middleware::TokenKind as Kind;

use super::{Refusal, tables::Rewrite};

/// What may stand between SELECT and its columns.
const OPTIONS: [&str; 10] = [
    "ALL",
    "DISTINCT",
    "DISTINCTROW",
    "HIGH_PRIORITY",
    "STRAIGHT_JOIN",
    "SQL_SMALL_RESULT",
    "SQL_BIG_RESULT",
    "SQL_BUFFER_RESULT",
    "SQL_CALC_FOUND_ROWS",
    "SQL_NO_CACHE",
];

impl Rewrite<'_> {
    /// The whole statement.
    pub(super) fn insert_rows(&mut self) -> Result<(), Refusal> {
        let (text, end) = (self.text, self.text.end());
        let first = text.skip(1, &["LOW_PRIORITY", "HIGH_PRIORITY", "DELAYED", "IGNORE", "INTO"]);
        let is_qualified = text.kind(first + 1) == Kind::Dot;
        let last = if is_qualified { first + 2 } else { first };
        let name = text.name(last).ok_or_else(|| Refusal::unknown(text, last, "INSERT"))?;
        let schema = if is_qualified { text.name(first) } else { None };
        let divided = self.own_rows_of(first, schema.as_deref(), &name)?;
        let mut at = last + 1;
        if text.is(at, "PARTITION") && text.kind(at + 1) == Kind::Open {
            at = self.names(at + 1)?;
        }
        let columns = (text.kind(at) == Kind::Open && !text.is(at + 1, "SELECT")).then_some(at);
        if let Some(open) = columns {
            at = self.names(open)?;
        }
        self.calls_own_functions(at)?;
        let Some(table) = divided else { return self.scope(at, end) };
        if text.is(0, "REPLACE") {
            self.keyed = Some(table.clone());
        }
        at = match columns {
            None if text.is(at, "SET") => self.set(at + 1, end)?,
            Some(open) => self.rows(open, at, end)?,
            None => {
                return Err(Refusal::form(
                    "an INSERT that does not name its columns",
                    "name them: the node has to know which is the tenant's",
                ));
            }
        };
        self.tail(at, table)
    }

    /// Behind SET: assignments, to which the tenant's is added unless it is there.
    fn set(&mut self, at: usize, end: usize) -> Result<usize, Refusal> {
        let text = self.text;
        let behind = self.assignments(at, end)?;
        if !self.sets_column(at, behind) {
            let set = format!("`{}` = {}, ", self.tenants.column, self.owner.literal());
            self.insert(text.start_of(at), set);
        }
        Ok(behind)
    }

    /// Whether one of these assignments is that of the tenant's column. What comes back stands behind RETURNING.
    fn sets_column(&self, mut at: usize, end: usize) -> bool {
        let (text, mut begins) = (self.text, true);
        while at < end && !text.is(at, "RETURNING") {
            let mut last = at;
            while text.kind(last + 1) == Kind::Dot {
                last += 2;
            }
            if begins && text.name(last).is_some_and(|name| self.tenants.is_column(&name)) {
                return true;
            }
            begins = text.kind(at) == Kind::Comma;
            at = if text.kind(at) == Kind::Open { text.close(at) + 1 } else { at + 1 };
        }
        false
    }

    /// From the columns on, to behind the rows, or to the query, which `tail` looks through.
    fn rows(&mut self, open: usize, mut at: usize, end: usize) -> Result<usize, Refusal> {
        let text = self.text;
        let column = self.tenant_column(open)?;
        let (is_empty, literal) = (text.close(open) == open + 1, self.owner.literal().to_owned());
        let comma = if is_empty { "" } else { ", " };
        if column.is_none() {
            self.insert(text.end_of(open), format!("`{}`{comma}", self.tenants.column));
        }
        if text.is_any(at, &["VALUES", "VALUE"]) {
            at += 1;
            loop {
                if text.kind(at) != Kind::Open {
                    return Err(Refusal::unknown(text, at, "VALUES"));
                }
                match column {
                    Some(column) => self.value_of(at, column)?,
                    None => self.insert(text.end_of(at), format!("{literal}{comma}")),
                }
                at = self.step(at)?;
                if text.kind(at) != Kind::Comma {
                    return Ok(at);
                }
                at += 1;
            }
        }
        let list = text.skip(at + 1, &OPTIONS);
        let is_union = (at..end).any(|at| self.begins_other_query(at));
        if !text.is(at, "SELECT") || column.is_some() || text.is_sign(list, &["*"]) || is_union {
            return Err(Refusal::form(
                "an INSERT of rows that are neither VALUES nor one SELECT of named columns",
                "leave the tenant's column out, name the columns of the SELECT, and use no UNION",
            ));
        }
        if self.orders_by_number(at, end) {
            return Err(Refusal::form("an INSERT of rows in order by the number of a column", "name the column"));
        }
        self.insert(text.start_of(list), format!("{literal}, "));
        Ok(at)
    }

    /// Whether GROUP BY or ORDER BY names a column by its number, which another column in front of it would shift.
    fn orders_by_number(&self, mut at: usize, end: usize) -> bool {
        let (text, mut is_by, mut begins) = (self.text, false, false);
        while at < end {
            let is_open = text.kind(at) == Kind::Open;
            if begins && text.kind(at) == Kind::Number {
                return true;
            }
            let is_limit = text.is_any(at, &["HAVING", "WINDOW", "LIMIT", "OFFSET"]);
            is_by = (is_by || text.is(at, "BY")) && !is_limit;
            at = if is_open && !begins { text.close(at) } else { at };
            begins = is_by && (text.is(at, "BY") || text.kind(at) == Kind::Comma || begins && is_open);
            at += 1;
        }
        false
    }

    /// Which of the columns is the tenant's, counted from 0.
    fn tenant_column(&self, open: usize) -> Result<Option<usize>, Refusal> {
        let (text, mut found, mut index) = (self.text, None, 0);
        for at in open + 1..text.close(open) {
            match text.kind(at) {
                Kind::Comma => index += 1,
                Kind::Dot => {}
                Kind::Word | Kind::Name | Kind::Quoted => {
                    let is_last = text.kind(at + 1) != Kind::Dot;
                    if is_last && text.name(at).is_some_and(|name| self.tenants.is_column(&name)) {
                        if found.is_some() {
                            return Err(self.refused_column());
                        }
                        found = Some(index);
                    }
                }
                _ => return Err(Refusal::unknown(text, at, "a list of columns")),
            }
        }
        Ok(found)
    }

    /// The tenant's value in a row must be its own.
    fn value_of(&mut self, open: usize, column: usize) -> Result<(), Refusal> {
        let (text, close) = (self.text, self.text.close(open));
        let (mut at, mut index) = (open + 1, 0);
        while at < close && index < column {
            index += usize::from(text.kind(at) == Kind::Comma);
            at = if text.kind(at) == Kind::Open { text.close(at) + 1 } else { at + 1 };
        }
        let is_alone = at + 1 == close || text.kind(at + 1) == Kind::Comma;
        self.own_value(at, is_alone)
    }

    /// Behind the rows: ON DUPLICATE KEY UPDATE, or what comes back.
    fn tail(&mut self, at: usize, table: (String, String)) -> Result<(), Refusal> {
        let (text, end) = (self.text, self.text.end());
        let Some(duplicates) = (at..end).find(|at| self.begins_duplicates(*at)) else { return self.scope(at, end) };
        self.scope(at, duplicates)?;
        self.keyed = Some(table);
        let behind = self.assignments(duplicates + 4, end)?;
        if !text.is(duplicates + 3, "UPDATE") || behind < end {
            return Err(Refusal::unknown(text, behind, "ON DUPLICATE KEY UPDATE"));
        }
        Ok(())
    }
}

//! The statements that a tenant's account may run.

use towline_middleware::TokenKind as Kind;

use super::{
    Refusal,
    tables::{Condition, From, Rewrite},
};

impl Rewrite<'_> {
    /// Rewrites the whole statement.
    pub(super) fn statement(&mut self) -> Result<(), Refusal> {
        let (text, end) = (self.text, self.text.end());
        self.refuse_forbidden()?;
        let at = if text.is(0, "WITH") { self.with()? } else { 0 };
        let is_with = at > 0;
        if text.is(at, "SELECT") || text.kind(at) == Kind::Open {
            self.calls_own_functions(0)?;
            return self.scope(at, end);
        }
        if text.is(at, "UPDATE") {
            self.calls_own_functions(0)?;
            return self.update(at + 1);
        }
        if text.is(at, "DELETE") {
            self.calls_own_functions(0)?;
            return self.delete(at + 1);
        }
        if is_with {
            return Err(self.refused_statement(at));
        }
        if text.is_any(0, &["INSERT", "REPLACE"]) {
            return self.insert_rows();
        }
        self.without_rows()
    }

    /// Statements that reach no table but by a query inside of them.
    fn without_rows(&mut self) -> Result<(), Refusal> {
        let (text, end) = (self.text, self.text.end());
        let has_query = (0..end).any(|at| text.is(at, "SELECT"));
        let is_allowed = match () {
            () if end == 0 => true,
            () if text.is(0, "SET") => !text.is(1, "STATEMENT") || text.is_sign(2, &["=", ":="]),
            () if text.is(0, "DO") => true,
            () if text.is(0, "BEGIN") => end == 1 || text.is(1, "WORK") && end == 2,
            () if text.is(0, "START") => text.is(1, "TRANSACTION") && !has_query,
            () if text.is_any(0, &["COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE"]) => !has_query,
            () if text.is(0, "USE") => end == 2,
            () if text.is(0, "SHOW") => self.shows_no_rows() && !has_query,
            () if text.is_any(0, &["DESCRIBE", "DESC", "EXPLAIN"]) => self.describes_table() && !has_query,
            () => false,
        };
        if !is_allowed {
            return Err(self.refused_statement(0));
        }
        if text.is(0, "USE") {
            let name = text.name(1);
            return self.schema_may_be(&name.unwrap_or_default());
        }
        self.calls_own_functions(0)?;
        if text.is(0, "SET") {
            self.sets_own_session()?;
        }
        // SHOW TABLE STATUS and its like name no rows, but a condition behind them may ask for some.
        let first = if text.is(0, "SHOW") { (0..end).find(|at| text.kind(*at) == Kind::Open) } else { Some(0) };
        self.scope(first.unwrap_or(end), end)
    }

    /// Whether the tenant may make this the default schema.
    pub(super) fn schema_may_be(&self, name: &[u8]) -> Result<(), Refusal> {
        let name = String::from_utf8_lossy(name);
        if self.owner.may_use(&name) {
            return Ok(());
        }
        Err(Refusal::Schema { schema: name.into_owned() })
    }

    fn refused_statement(&self, at: usize) -> Refusal {
        let text = self.text;
        let behind = if text.kind(at + 1) == Kind::Word { format!(" {}", text.shown(at + 1)) } else { String::new() };
        Refusal::Statement { begins: format!("{}{behind}", text.shown(at)).to_uppercase() }
    }

    /// From this place on, no function is called that could read anything by itself.
    pub(super) fn calls_own_functions(&self, at: usize) -> Result<(), Refusal> {
        let rest = &self.text.sql()[self.text.start_of(at)..];
        if self.session.classifier().calls_no_stored_function(rest, self.session.sql_mode()) {
            return Ok(());
        }
        Err(Refusal::form(
            "a function that is not the server's own",
            "a stored function may read anybody's rows: have its query in the statement, or use an account without a tenant",
        ))
    }

    /// `WITH name (columns) AS (query), …`; returns the place behind. A name is known from where the server knows it.
    fn with(&mut self) -> Result<usize, Refusal> {
        let text = self.text;
        let is_recursive = text.is(1, "RECURSIVE");
        let mut at = 1 + usize::from(is_recursive);
        loop {
            let name = text.name(at).ok_or_else(|| Refusal::unknown(text, at, "WITH"))?;
            at += 1;
            if text.kind(at) == Kind::Open {
                at = self.names(at)?;
            }
            if !text.is(at, "AS") || text.kind(at + 1) != Kind::Open {
                return Err(Refusal::unknown(text, at, "WITH"));
            }
            if is_recursive {
                self.with_names.push(name.clone());
            }
            let close = text.close(at + 1);
            self.scope(at + 2, close)?;
            self.with_names.push(name);
            at = close + 1;
            if text.kind(at) != Kind::Comma {
                return Ok(at);
            }
            at += 1;
        }
    }

    /// A stretch within one pair of parentheses, or without any: an expression, or queries.
    pub(super) fn scope(&mut self, mut at: usize, end: usize) -> Result<(), Refusal> {
        while at < end {
            at = if self.text.is(at, "SELECT") { self.query(at + 1, end)? } else { self.step(at)? };
        }
        Ok(())
    }

    /// Steps over one token, or over a pair of parentheses with what is in them. FROM without a SELECT is part of a
    /// function: `TRIM(x FROM y)`.
    pub(super) fn step(&mut self, at: usize) -> Result<usize, Refusal> {
        let text = self.text;
        if text.kind(at) == Kind::Open {
            let close = text.close(at);
            self.scope(at + 1, close)?;
            return Ok(close + 1);
        }
        let is_with = text.is(at, "WITH") && !text.is_any(at + 1, &["ROLLUP", "QUERY", "CONSISTENT"]);
        if is_with || text.is_any(at, &["TABLE", "HANDLER", "CALL", "PROCEDURE", "LATERAL"]) {
            return Err(Refusal::unknown(text, at, "a query"));
        }
        Ok(at + 1)
    }

    /// The place behind a pair of parentheses in which there are only names with commas between them.
    pub(super) fn names(&self, open: usize) -> Result<usize, Refusal> {
        let (text, close) = (self.text, self.text.close(open));
        for at in open + 1..close {
            let is_name = matches!(text.kind(at), Kind::Word | Kind::Name | Kind::Quoted);
            let is_first = matches!(text.kind(at - 1), Kind::Open | Kind::Comma | Kind::Dot);
            if is_name != is_first || !(is_name || matches!(text.kind(at), Kind::Comma | Kind::Dot)) {
                return Err(Refusal::unknown(text, at, "a list of names"));
            }
        }
        Ok(close + 1)
    }

    /// Behind SELECT, up to the next query of a UNION or the end.
    fn query(&mut self, mut at: usize, end: usize) -> Result<usize, Refusal> {
        let text = self.text;
        while at < end && !text.is(at, "FROM") && (text.is(at, "INTO") || !self.ends_tables(at)) {
            at = self.step(at)?;
        }
        let mut from = From::default();
        let changes = std::mem::replace(&mut self.changes, false);
        if at < end && text.is(at, "FROM") {
            from = self.tables(at + 1, end)?;
            at = from.end;
            let goes_on = text.is(at, "ON") && !self.begins_duplicates(at);
            if at < end && (goes_on || text.is(at, "USING") || text.kind(at) == Kind::Comma) {
                return Err(Refusal::unknown(text, at, "a list of tables"));
            }
        }
        let condition = self.condition(at, end)?;
        self.filter_query(&from, condition)?;
        self.changes = changes;
        at = condition.end;
        while at < end && !self.begins_other_query(at) {
            if text.is_any(at, &["FROM", "WHERE", "SELECT", "JOIN"]) {
                return Err(Refusal::unknown(text, at, "a query"));
            }
            at = self.step(at)?;
        }
        Ok(at)
    }

    /// What is behind WHERE, if that stands here.
    fn condition(&mut self, at: usize, end: usize) -> Result<Condition, Refusal> {
        let text = self.text;
        if at >= end || !text.is(at, "WHERE") {
            return Ok(Condition { first: at, end: at });
        }
        let first = at + 1;
        let mut at = first;
        while at < end && !self.ends_tables(at) && !text.is(at, "RETURNING") {
            if text.is(at, "FROM") {
                return Err(Refusal::unknown(text, at, "a condition"));
            }
            at = self.step(at)?;
        }
        if at == first {
            return Err(Refusal::unknown(text, at, "a condition"));
        }
        Ok(Condition { first, end: at })
    }

    /// Behind UPDATE.
    fn update(&mut self, at: usize) -> Result<(), Refusal> {
        let (text, end) = (self.text, self.text.end());
        let from = self.changed_tables(text.skip(at, &["LOW_PRIORITY", "IGNORE"]), end)?;
        if !text.is(from.end, "SET") {
            return Err(Refusal::unknown(text, from.end, "UPDATE"));
        }
        let at = self.assignments(from.end + 1, end)?;
        self.change(&from, at)
    }

    /// The tables of an UPDATE or DELETE. What WITH has named is none of them: no server changes it, and where one takes
    /// the name for a table's after all, its rows are anybody's.
    fn changed_tables(&mut self, at: usize, end: usize) -> Result<From, Refusal> {
        self.changes = true;
        let from = self.tables(at, end);
        self.changes = false;
        from
    }

    /// `a = 1, b = …`; returns the place behind. The tenant's column may only become what it is. RETURNING ends nothing:
    /// to MySQL it is a name.
    pub(super) fn assignments(&mut self, mut at: usize, end: usize) -> Result<usize, Refusal> {
        let text = self.text;
        while at < end && !self.ends_tables(at) {
            if self.owner.value().is_some()
                && text.is_sign(at + 1, &["=", ":="])
                && let Some(name) = text.name(at)
                && self.tenants.is_column(&name)
                && text.kind(at.wrapping_sub(1)) != Kind::At
            {
                self.own_value(at + 2, self.ends_value(at + 3, end))?;
            }
            at = self.step(at)?;
        }
        Ok(at)
    }

    fn ends_value(&self, at: usize, end: usize) -> bool {
        at >= end || self.text.kind(at) == Kind::Comma || self.ends_tables(at) || self.text.is(at, "RETURNING")
    }

    /// A value for the tenant's column: it must be the tenant's own, and nothing else.
    pub(super) fn own_value(&mut self, at: usize, is_alone: bool) -> Result<(), Refusal> {
        let text = self.text;
        let bytes = text.bytes(at);
        let own = self.owner.value().unwrap_or_default().as_bytes();
        let is_own = match text.kind(at) {
            Kind::Text => bytes.len() == own.len() + 2 && bytes[1..=own.len()] == *own,
            Kind::Number => bytes == own,
            Kind::Parameter => {
                self.own_parameters.push(text.parameters_before(at));
                true
            }
            _ => false,
        };
        if is_own && is_alone { Ok(()) } else { Err(self.refused_column()) }
    }

    pub(super) fn refused_column(&self) -> Refusal {
        Refusal::Column { column: self.tenants.column.clone() }
    }

    /// Behind DELETE. `DELETE a, b FROM tables …`, `DELETE FROM a, b USING tables …` or `DELETE FROM table …`.
    fn delete(&mut self, at: usize) -> Result<(), Refusal> {
        let (text, end) = (self.text, self.text.end());
        let mut at = text.skip(at, &["LOW_PRIORITY", "QUICK", "IGNORE"]);
        if text.is(at, "FROM") {
            let ends = |at: &usize| text.is_any(*at, &["USING", "WHERE", "ORDER", "LIMIT", "RETURNING"]);
            let Some(using) = (at..end).find(ends).filter(|at| text.is(*at, "USING")) else {
                let from = self.changed_tables(at + 1, end)?;
                if from.members != 1 {
                    return Err(Refusal::unknown(text, from.end, "DELETE"));
                }
                return self.change(&from, from.end);
            };
            self.targets(at + 1, using)?;
            at = using;
        } else {
            let from = (at..end).find(|at| text.is(*at, "FROM"));
            let from = from.ok_or_else(|| Refusal::unknown(text, at, "DELETE"))?;
            self.targets(at, from)?;
            at = from;
        }
        let from = self.changed_tables(at + 1, end)?;
        self.change(&from, from.end)
    }

    /// Names of tables or aliases that follow in the list of tables.
    fn targets(&self, first: usize, end: usize) -> Result<(), Refusal> {
        let text = self.text;
        let is_target = |at: usize| match text.kind(at) {
            Kind::Word | Kind::Name | Kind::Quoted | Kind::Dot | Kind::Comma => true,
            _ => text.is_sign(at, &["*"]),
        };
        match (first..end).find(|at| !is_target(*at)) {
            Some(at) => Err(Refusal::unknown(text, at, "DELETE")),
            None => Ok(()),
        }
    }

    /// The rest of an UPDATE or DELETE.
    fn change(&mut self, from: &From, at: usize) -> Result<(), Refusal> {
        let (text, end) = (self.text, self.text.end());
        let condition = self.condition(at, end)?;
        self.filter_change(from, condition)?;
        let mut at = condition.end;
        if at < end && !text.is_any(at, &["ORDER", "LIMIT", "RETURNING"]) {
            return Err(Refusal::unknown(text, at, "a change of rows"));
        }
        while at < end {
            if text.is_any(at, &["FROM", "WHERE", "SELECT", "JOIN"]) {
                return Err(Refusal::unknown(text, at, "a change of rows"));
            }
            at = self.step(at)?;
        }
        Ok(())
    }
}

//! Lists of tables.

use std::borrow::Cow;

use towline_middleware::{Session, TokenKind as Kind};

use super::{
    Refusal,
    config::{Owner, Tenants},
    text::Text,
};

/// Makes a statement one that reaches the rows of one tenant only. Whatever is not known for certain is refused.
pub(super) struct Rewrite<'a> {
    pub(super) text: &'a Text<'a>,
    pub(super) tenants: &'a Tenants,
    pub(super) owner: &'a Owner,
    pub(super) session: &'a Session,
    /// Whether the statement only compares: see [`Text::only_compares`].
    pub(super) plain: bool,
    pub(super) edits: Vec<Edit>,
    /// The names that WITH has given so far.
    pub(super) with_names: Vec<Cow<'a, [u8]>>,
    /// Tables that were replaced by what is chosen of them.
    pub(super) derived: Vec<(String, String)>,
    /// Whether the tables that are read now are those of an UPDATE or DELETE, of which it may change rows.
    pub(super) changes: bool,
    /// Whether rows are kept out.
    pub(super) filters: bool,
    /// The parameters, counted from 0, that must be the tenant's own value.
    pub(super) own_parameters: Vec<usize>,
    /// The table, and its schema, whose unique keys must all have the tenant's column.
    pub(super) keyed: Option<(String, String)>,
}

/// A piece of the text, by its bytes, and what stands in its place.
pub(super) struct Edit {
    start: usize,
    end: usize,
    text: String,
}

/// A list of tables.
#[derive(Default)]
pub(super) struct From {
    /// Those with rows of several tenants.
    pub(super) tables: Vec<TableRef>,
    /// How many members it has.
    pub(super) members: usize,
    pub(super) has_outer_join: bool,
    /// The place behind it.
    pub(super) end: usize,
}

/// A condition behind WHERE, from its first place to the one behind it; where none is, both are where it would be.
#[derive(Clone, Copy)]
pub(super) struct Condition {
    pub(super) first: usize,
    pub(super) end: usize,
}

pub(super) struct TableRef {
    pub(super) first: usize,
    /// The last token of its name.
    pub(super) last: usize,
    pub(super) alias: Option<usize>,
    /// Partitions or index hints are named.
    pub(super) has_more: bool,
    pub(super) schema: String,
    pub(super) table: String,
}

/// A name that is put into the text again: in other character sets the bytes of an edit could be other names.
fn utf8(name: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(name).map_err(|_| {
        Refusal::form("a name of a table, or in the place of one, that is no UTF-8", "write it in letters of ASCII")
    })
}

/// Words that begin a join, besides LEFT and RIGHT, which are functions too.
const JOINS: [&str; 5] = ["JOIN", "INNER", "CROSS", "NATURAL", "STRAIGHT_JOIN"];

impl<'a> Rewrite<'a> {
    pub(super) fn new(text: &'a Text<'a>, tenants: &'a Tenants, owner: &'a Owner, session: &'a Session) -> Self {
        Self {
            text,
            tenants,
            owner,
            session,
            plain: text.only_compares(),
            edits: Vec::new(),
            with_names: Vec::new(),
            derived: Vec::new(),
            changes: false,
            filters: false,
            own_parameters: Vec::new(),
            keyed: None,
        }
    }

    pub(super) fn replace(&mut self, start: usize, end: usize, text: impl Into<String>) {
        self.edits.push(Edit { start, end, text: text.into() });
    }

    pub(super) fn insert(&mut self, at: usize, text: impl Into<String>) {
        self.replace(at, at, text);
    }

    /// The text with its edits.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.qualify_less();
        self.edits.sort_by_key(|edit| edit.start);
        let (sql, mut out, mut at) = (self.text.sql(), Vec::new(), 0);
        for edit in &self.edits {
            out.extend_from_slice(&sql[at..edit.start]);
            out.extend_from_slice(edit.text.as_bytes());
            at = edit.end;
        }
        out.extend_from_slice(&sql[at..]);
        out
    }

    /// What was chosen of a table has its name but no schema: `shop.item.id` becomes `item.id`.
    fn qualify_less(&mut self) {
        let text = self.text;
        for at in 0..text.end() {
            let dots = [at + 1, at + 3].iter().all(|dot| text.kind(*dot) == Kind::Dot);
            if !dots || at > 0 && text.kind(at - 1) == Kind::Dot {
                continue;
            }
            let (Some(schema), Some(table)) = (text.name(at), text.name(at + 2)) else { continue };
            let is_derived = |(own_schema, own_table): &(String, String)| {
                schema.eq_ignore_ascii_case(own_schema.as_bytes()) && table.eq_ignore_ascii_case(own_table.as_bytes())
            };
            if self.derived.iter().any(is_derived) {
                self.replace(text.start_of(at), text.start_of(at + 2), "");
            }
        }
    }

    /// Reads a list of tables up to the clause behind it.
    pub(super) fn tables(&mut self, at: usize, end: usize) -> Result<From, Refusal> {
        let mut from = From::default();
        from.end = self.members(at, end, &mut from)?;
        Ok(from)
    }

    fn members(&mut self, mut at: usize, end: usize, from: &mut From) -> Result<usize, Refusal> {
        let text = self.text;
        loop {
            at = self.member(at, end, from)?;
            loop {
                if at >= end || self.ends_tables(at) {
                    return Ok(at);
                }
                if text.kind(at) == Kind::Comma {
                    at += 1;
                    break;
                }
                if self.begins_join(at) {
                    let words = ["JOIN", "INNER", "CROSS", "NATURAL", "STRAIGHT_JOIN", "LEFT", "RIGHT", "OUTER"];
                    let behind = text.skip(at, &words);
                    from.has_outer_join |= (at..behind).any(|at| text.is_any(at, &["LEFT", "RIGHT", "OUTER"]));
                    at = behind;
                    break;
                }
                if text.is(at, "ON") {
                    at += 1;
                    while at < end && !self.ends_condition(at) {
                        at = self.step(at)?;
                    }
                } else if text.is(at, "USING") && text.kind(at + 1) == Kind::Open {
                    at = self.names(at + 1)?;
                } else {
                    return Err(Refusal::unknown(text, at, "a list of tables"));
                }
            }
        }
    }

    fn member(&mut self, at: usize, end: usize, from: &mut From) -> Result<usize, Refusal> {
        let text = self.text;
        from.members += 1;
        if text.kind(at) == Kind::Open {
            let close = text.close(at);
            if text.is(at + 1, "SELECT") {
                self.scope(at + 1, close)?;
                let (behind, _) = self.alias(close + 1)?;
                // The names of its columns.
                return if text.kind(behind) == Kind::Open { self.names(behind) } else { Ok(behind) };
            }
            if text.kind(at + 1) == Kind::Open {
                return Err(Refusal::unknown(text, at + 1, "a list of tables"));
            }
            if self.members(at + 1, close, from)? != close {
                return Err(Refusal::unknown(text, at, "a list of tables"));
            }
            return Ok(close + 1);
        }
        self.table(at, end, from)
    }

    fn table(&mut self, first: usize, end: usize, from: &mut From) -> Result<usize, Refusal> {
        let text = self.text;
        let is_qualified = text.kind(first + 1) == Kind::Dot;
        let last = if is_qualified { first + 2 } else { first };
        let mut at = last + 1;
        let odd = matches!(text.kind(at), Kind::Dot | Kind::Open) || last >= end || self.ends_tables(first);
        let (Some(name), false) = (text.name(last), odd) else {
            return Err(Refusal::unknown(text, first, "a list of tables"));
        };
        let schema = if is_qualified { text.name(first) } else { None };
        let mut has_more = false;
        if text.is(at, "PARTITION") && text.kind(at + 1) == Kind::Open {
            (at, has_more) = (self.names(at + 1)?, true);
        }
        let (behind, alias) = self.alias(at)?;
        if let Some(alias) = alias {
            utf8(text.bytes(alias))?;
        }
        at = behind;
        while text.is_any(at, &["USE", "IGNORE", "FORCE"]) && text.is_any(at + 1, &["INDEX", "KEY"]) {
            at = text.skip(at + 2, &["FOR", "JOIN", "ORDER", "GROUP", "BY"]);
            if text.kind(at) != Kind::Open {
                return Err(Refusal::unknown(text, at, "an index hint"));
            }
            (at, has_more) = (self.names(at)?, true);
        }
        if let Some((schema, table)) = self.own_rows_of(first, schema.as_deref(), &name)? {
            from.tables.push(TableRef { first, last, alias, has_more, schema, table });
        }
        Ok(at)
    }

    /// The table that this name means, if it has rows of several tenants.
    pub(super) fn own_rows_of(
        &mut self,
        at: usize,
        schema: Option<&[u8]>,
        name: &[u8],
    ) -> Result<Option<(String, String)>, Refusal> {
        let is_with_name = self.with_names.iter().any(|own| **own == *name);
        if schema.is_none() && is_with_name && self.changes {
            return Err(Refusal::form("a change of what WITH has named", "give it a name that no table has"));
        }
        if schema.is_none() && (is_with_name || self.text.is(at, "DUAL")) {
            return Ok(None);
        }
        if let Owner::Schema(own) = self.owner
            && schema.is_none_or(|schema| schema == own.as_bytes())
        {
            if schema.is_none() && *self.session.schema() != **own {
                self.insert(self.text.start_of(at), format!("`{own}`."));
            }
            return Ok(None);
        }
        let asked = schema.map(utf8).transpose()?.map_or_else(|| self.session.schema().to_string(), str::to_owned);
        let table = utf8(name)?.to_owned();
        match self.owner {
            Owner::Value { .. } if self.tenants.is_divided(&asked, &table) => Ok(Some((asked, table))),
            _ if self.tenants.is_shared(&asked, &table) => Ok(None),
            _ => Err(Refusal::Table { schema: asked, table }),
        }
    }

    /// The place behind an alias, if there is one, and where that is.
    fn alias(&self, at: usize) -> Result<(usize, Option<usize>), Refusal> {
        let text = self.text;
        if text.is(at, "AS") {
            return match text.kind(at + 1) {
                Kind::Word | Kind::Quoted => Ok((at + 2, Some(at + 1))),
                _ => Err(Refusal::unknown(text, at + 1, "an alias")),
            };
        }
        let others = ["ON", "USING", "USE", "IGNORE", "FORCE", "LEFT", "RIGHT", "FOR", "LOCK", "SELECT"];
        let is_alias = match text.kind(at) {
            Kind::Quoted => true,
            Kind::Word => !text.is_any(at, &others) && !self.begins_join(at) && !self.ends_tables(at),
            _ => false,
        };
        Ok(if is_alias { (at + 1, Some(at)) } else { (at, None) })
    }

    fn begins_join(&self, at: usize) -> bool {
        let is_side = self.text.is_any(at, &["LEFT", "RIGHT"]) && self.text.is_any(at + 1, &["JOIN", "OUTER"]);
        self.text.is_any(at, &JOINS) || is_side
    }

    fn ends_condition(&self, at: usize) -> bool {
        let is_next = self.text.kind(at) == Kind::Comma || self.text.is_any(at, &["ON", "USING"]);
        is_next || self.begins_join(at) || self.ends_tables(at)
    }

    /// Whether a clause behind the list of tables begins here. A word that some server takes for a name counts only with
    /// what must follow it.
    pub(super) fn ends_tables(&self, at: usize) -> bool {
        let text = self.text;
        let words = ["WHERE", "GROUP", "HAVING", "ORDER", "LIMIT", "INTO", "SET", "PROCEDURE"];
        let is_followed = |word: &str, next: &[&str]| text.is(at, word) && text.is_any(at + 1, next);
        text.is_any(at, &words)
            || self.begins_other_query(at)
            || is_followed("FOR", &["UPDATE", "SHARE"])
            || is_followed("LOCK", &["IN"])
            || self.begins_duplicates(at)
            || is_followed("FETCH", &["FIRST", "NEXT"])
            || (text.is(at, "OFFSET") && matches!(text.kind(at + 1), Kind::Number | Kind::Parameter))
            || (text.is(at, "WINDOW") && text.is(at + 2, "AS") && text.kind(at + 3) == Kind::Open)
    }

    /// Whether ON DUPLICATE KEY stands here. A column may be called `duplicate`, but no name is KEY.
    pub(super) fn begins_duplicates(&self, at: usize) -> bool {
        let text = self.text;
        text.is(at, "ON") && text.is(at + 1, "DUPLICATE") && text.is(at + 2, "KEY")
    }

    /// Whether UNION or its like stands here. A table or a column may be called `intersect`.
    pub(super) fn begins_other_query(&self, at: usize) -> bool {
        let text = self.text;
        let next = text.skip(at + 1, &["ALL", "DISTINCT"]);
        let is_within = text.is(next + 1, "SELECT") || text.kind(next + 1) == Kind::Open;
        let is_query = text.is(next, "SELECT") || text.kind(next) == Kind::Open && is_within;
        text.is_any(at, &["UNION", "EXCEPT", "INTERSECT"]) && is_query
    }
}

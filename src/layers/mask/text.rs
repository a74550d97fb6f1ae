//! What a text does with a masked column, told by its tokens before it runs.

use std::{borrow::Cow, ops::Range};

use towline_middleware::{Token, TokenKind as Kind};

use crate::classify::{contains_ignoring_case, is_name};

/// Why a text is refused to somebody from whom a column is hidden.
pub(super) type Why = &'static str;

const AS_IT_IS: Why = "can only be selected as it is";
const ALIAS: Why = "nothing else may go by the alias under which it is selected";
const TOO_OFTEN: Why = "can only be selected a few times at once";
const ONE_BY_ONE: Why = "can only be selected by one statement alone";
const STATEMENT: Why = "its table is only for SELECT, INSERT, UPDATE, DELETE, SHOW and LOCK here";
const BY_NAME: Why = "a text that SQL itself prepares or runs can't be looked through: send it by itself";
const PROGRAM: Why = "what a procedure reads can't be seen: have its statements in the client";
const HANDLER: Why = "HANDLER could read it under another name: use SELECT";
const WARNINGS: Why = "warnings and errors quote values";
const STATISTICS: Why = "a column's statistics have values of it";
const DOUBTFUL: Why = "this text can't be looked through (an executable comment, an open quote): write it without them";

/// How often one statement may select a column, and how many stars it may have: each is looked for in all of it.
const TIMES_MAX: usize = 64;

/// Words that begin what runs something else than what stands there, or tells of it, and why that is refused.
const UNSEEN: &[(&str, Why)] =
    &[("PREPARE", BY_NAME), ("EXECUTE", BY_NAME), ("CALL", PROGRAM), ("HANDLER", HANDLER), ("DIAGNOSTICS", WARNINGS)];

/// Tables of the servers that have values of other tables' columns.
const TELLING: &[&str] = &["column_stats", "column_statistics"];

/// Words that begin a compound statement, in which sql_mode=ORACLE calls procedures by their names alone; BEGIN does
/// with anything but WORK behind it.
const COMPOUND: &[&str] = &["CASE", "DECLARE", "FOR", "IF", "LOOP", "REPEAT", "WHILE"];

/// In these the words of [`UNSEEN`] are names.
const PLAIN: &[&str] = &["SELECT", "WITH", "INSERT", "REPLACE", "UPDATE", "DELETE"];

/// What else may name a masked table. None of it gives rows to the client or takes them elsewhere.
const WITHOUT_ROWS: &[&str] = &["SHOW", "DESC", "DESCRIBE", "EXPLAIN", "LOCK"];

/// What may stand between SELECT and its list.
const SELECT_OPTIONS: &[&str] = &[
    "ALL",
    "HIGH_PRIORITY",
    "STRAIGHT_JOIN",
    "SQL_SMALL_RESULT",
    "SQL_BIG_RESULT",
    "SQL_BUFFER_RESULT",
    "SQL_CACHE",
    "SQL_NO_CACHE",
    "SQL_CALC_FOUND_ROWS",
];

/// What puts rows together by their values, or takes them elsewhere.
const BEYOND_ROWS: &[&str] = &["DISTINCT", "DISTINCTROW", "INTO", "PROCEDURE", "UNION", "INTERSECT", "EXCEPT", "MINUS"];

/// How a text selects a masked column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Selected {
    /// So many columns of the result are it by its name.
    pub(super) times: usize,
    /// Whether the result has columns that the text does not name.
    pub(super) by_star: bool,
}

/// Whether a text that can't be cut could show a table, and why it is refused then. A name of ASCII stands in any text
/// as its own bytes.
pub(super) fn doubt(sql: &[u8], table: &str) -> Result<(), Why> {
    // A compound statement, in which a procedure may be called by its name, has an END.
    let others = ["warnings", "errors", "end"].iter().chain(TELLING).copied();
    let mut words = UNSEEN.iter().map(|(word, _)| *word).chain(others).chain([table]);
    if words.any(|word| contains_ignoring_case(sql, word)) { Err(DOUBTFUL) } else { Ok(()) }
}

/// How a text selects this column of this table; none if it does not name the table.
///
/// # Errors
/// It does something else with it, or could.
pub(super) fn selected(sql: &[u8], tokens: &[Token], table: &str, column: &str) -> Result<Option<Selected>, Why> {
    let statements = tokens.split(|token| token.kind == Kind::Semicolon).map(|tokens| Statement { sql, tokens });
    let statements: Vec<Statement<'_>> = statements.filter(|statement| !statement.tokens.is_empty()).collect();
    let mut selected = None;
    for statement in &statements {
        statement.runs_what_it_says()?;
        if statement.names(table) {
            let own = statement.selected(column)?;
            if statements.len() > 1 && own != Selected::default() {
                return Err(ONE_BY_ONE);
            }
            selected = Some(own);
        }
    }
    Ok(selected)
}

/// One statement. A place is the number of a token.
struct Statement<'a> {
    sql: &'a [u8],
    tokens: &'a [Token],
}

impl<'a> Statement<'a> {
    fn kind(&self, at: usize) -> Kind {
        self.tokens.get(at).map_or(Kind::End, |token| token.kind)
    }

    fn is_any(&self, at: usize, words: &[&str]) -> bool {
        self.tokens.get(at).is_some_and(|token| words.iter().any(|word| token.is_word(self.sql, word)))
    }

    fn is_sign(&self, at: usize, sign: &[u8]) -> bool {
        self.kind(at) == Kind::Operator && self.tokens[at].bytes(self.sql) == sign
    }

    fn has_any(&self, words: &[&str]) -> bool {
        (0..self.tokens.len()).any(|at| self.is_any(at, words))
    }

    fn name(&self, at: usize) -> Option<Cow<'a, [u8]>> {
        self.tokens.get(at)?.name(self.sql)
    }

    /// The places of a name, whatever it means there.
    fn places<'b>(&'b self, name: &'b str) -> impl Iterator<Item = usize> + 'b {
        (0..self.tokens.len()).filter(|at| self.name(*at).is_some_and(|found| is_name(&found, name.as_bytes())))
    }

    fn names(&self, table: &str) -> bool {
        self.places(table).next().is_some()
    }

    /// Refuses what runs a text or a program from elsewhere, or quotes what an earlier one has looked at.
    fn runs_what_it_says(&self) -> Result<(), Why> {
        if self.is_any(0, &["SHOW"]) && self.has_any(&["WARNINGS", "ERRORS"]) {
            return Err(WARNINGS);
        }
        if TELLING.iter().any(|table| self.names(table)) {
            return Err(STATISTICS);
        }
        if self.is_any(0, PLAIN) || self.kind(0) == Kind::Open {
            return Ok(());
        }
        let is_labeled = self.is_sign(1, b":");
        let is_block =
            self.is_any(0, &["BEGIN"]) && (1..self.tokens.len()).any(|at| at > 1 || !self.is_any(at, &["WORK"]));
        if is_labeled || is_block || self.is_any(0, COMPOUND) {
            return Err(PROGRAM);
        }
        UNSEEN.iter().find(|(word, _)| self.has_any(&[*word])).map_or(Ok(()), |(_, why)| Err(why))
    }

    /// How this statement, which names the column's table, selects it.
    fn selected(&self, column: &str) -> Result<Selected, Why> {
        let is_query = self.is_any(0, &["SELECT", "WITH"]) || self.kind(0) == Kind::Open;
        if !is_query && !self.is_any(0, PLAIN) && !self.is_any(0, WITHOUT_ROWS) {
            return Err(STATEMENT);
        }
        // `TABLE t` is a query of all columns, but for SHOW CREATE TABLE t and LOCK TABLE t.
        let is_named = |at: &usize| self.is_any(0, &["SHOW", "LOCK"]) && *at <= 2;
        let has_table_query = (0..self.tokens.len()).any(|at| self.is_any(at, &["TABLE"]) && !is_named(&at));
        if has_table_query || self.has_any(&["NATURAL"]) {
            return Err(AS_IT_IS);
        }
        let list = if is_query { self.items() } else { Vec::new() };
        let places: Vec<usize> = self.places(column).take(TIMES_MAX + 1).collect();
        let stars: Vec<usize> = (0..self.tokens.len()).filter(|at| self.is_star(*at)).take(TIMES_MAX + 1).collect();
        if places.len().max(stars.len()) > TIMES_MAX {
            return Err(TOO_OFTEN);
        }
        let item_of = |at: usize| list.iter().find(|item| item.contains(&at)).cloned().ok_or(AS_IT_IS);
        for at in &places {
            self.alias_is_its_own(self.bare(item_of(*at)?).filter(|bare| bare.column == *at).ok_or(AS_IT_IS)?)?;
        }
        for at in &stars {
            if !self.is_all_of_a_table(item_of(*at)?, *at) {
                return Err(AS_IT_IS);
            }
        }
        let selected = Selected { times: places.len(), by_star: !stars.is_empty() };
        if selected != Selected::default() && (self.has_any(BEYOND_ROWS) || self.is_ordered_by_place()) {
            return Err(AS_IT_IS);
        }
        Ok(selected)
    }

    /// The items of the list of the SELECT that gives the statement's rows; none if that stands in parentheses.
    fn items(&self) -> Vec<Range<usize>> {
        let mut items = Vec::new();
        let (mut depth, mut start) = (0, None);
        for at in 0..=self.tokens.len() {
            let ends = match self.kind(at) {
                Kind::Open => {
                    depth += 1;
                    false
                }
                Kind::Close => {
                    depth -= 1;
                    false
                }
                Kind::Comma | Kind::End => depth == 0,
                _ => depth == 0 && self.is_any(at, &["FROM", "INTO"]),
            };
            match start {
                Some(first) if ends => {
                    items.push(first..at);
                    if self.kind(at) != Kind::Comma {
                        return items;
                    }
                    start = Some(at + 1);
                }
                None if depth == 0 && self.is_any(at, &["SELECT"]) => {
                    let options = (at + 1..).take_while(|at| self.is_any(*at, SELECT_OPTIONS)).count();
                    start = Some(at + 1 + options);
                }
                _ => {}
            }
        }
        items
    }

    /// The item that is a column as it is, perhaps with names before it and an alias behind it.
    fn bare(&self, item: Range<usize>) -> Option<Item> {
        let column = self.end_of_names(item.start)?;
        let alias = column + 1 + usize::from(self.is_any(column + 1, &["AS"]));
        match item.end.checked_sub(alias)? {
            0 if alias == column + 1 => Some(Item { column, alias: None }),
            1 => Some(Item { column, alias: Some(alias) }),
            _ => None,
        }
    }

    /// The last of the names that stand here with dots between them.
    fn end_of_names(&self, at: usize) -> Option<usize> {
        self.name(at)?;
        let is_followed = |at: &usize| self.kind(*at + 1) == Kind::Dot && self.name(*at + 2).is_some();
        (at..).step_by(2).find(|at| !is_followed(at))
    }

    /// Whether an item is this `*`, perhaps with names before it.
    fn is_all_of_a_table(&self, item: Range<usize>, star: usize) -> bool {
        let is_last = star + 1 == item.end;
        is_last && (star == item.start || self.end_of_names(item.start).is_some_and(|name| name + 2 == star))
    }

    /// Whether this stands for columns: neither times, nor what COUNT counts. Behind such a star a list goes on or ends.
    fn is_star(&self, at: usize) -> bool {
        let ends = matches!(self.kind(at + 1), Kind::End | Kind::Comma | Kind::Close);
        let counts = at > 0 && self.kind(at - 1) == Kind::Open && self.kind(at + 1) == Kind::Close;
        self.is_sign(at, b"*") && !counts && (ends || self.is_any(at + 1, &["FROM", "INTO"]))
    }

    /// By its alias a column could be compared in HAVING, put in order, or asked for by an inner query.
    fn alias_is_its_own(&self, item: Item) -> Result<(), Why> {
        let Some(at) = item.alias else { return Ok(()) };
        let token = &self.tokens[at];
        let alias = token.name(self.sql).or_else(|| token.text(self.sql)).filter(|alias| alias.is_ascii());
        let alias = alias.ok_or(ALIAS)?;
        let is_alias = |other: usize| self.name(other).is_some_and(|name| is_name(&name, alias.trim_ascii_end()));
        if (0..self.tokens.len()).any(|other| other != at && is_alias(other)) { Err(ALIAS) } else { Ok(()) }
    }

    /// Whether rows may be put in order or together by a column's place, which may also be a parameter, of which `:` begins
    /// one under sql_mode=ORACLE, or TRUE: MariaDB takes it for 1.
    fn is_ordered_by_place(&self) -> bool {
        // Of each pair of parentheses around this token, whether BY stands before it there or further out.
        let (mut outer, mut behind_by) = (Vec::new(), false);
        for at in 0..self.tokens.len() {
            match self.kind(at) {
                Kind::Open => outer.push(behind_by),
                Kind::Close => behind_by = outer.pop().unwrap_or_default(),
                Kind::Number | Kind::Parameter if behind_by => return true,
                _ if behind_by && (self.is_any(at, &["TRUE"]) || self.is_sign(at, b":")) => return true,
                _ if self.is_any(at, &["BY"]) => behind_by = true,
                _ if self.is_any(at, &["LIMIT", "HAVING", "LOCK"]) => behind_by = false,
                // PREVIOUS VALUE FOR names a sequence.
                _ if self.is_any(at, &["FOR"]) && self.is_any(at + 1, &["UPDATE", "SHARE"]) => behind_by = false,
                _ => {}
            }
        }
        false
    }
}

/// A column of a list as it is.
#[derive(Debug)]
struct Item {
    column: usize,
    alias: Option<usize>,
}

#[cfg(test)]
mod tests {
    use towline_middleware::{Classifier, SqlMode};

    use super::*;
    use crate::classify::SqlClassifier;

    /// How often it selects `shop.customer.email` by name, and whether by a star.
    fn judged(sql: &str) -> Result<(usize, bool), Why> {
        let classifier = SqlClassifier::for_server("10.11.6-MariaDB");
        let tokens = classifier.tokens(sql.as_bytes(), SqlMode::default());
        let Some(tokens) = tokens else { return doubt(sql.as_bytes(), "customer").map(|()| (0, false)) };
        let selected = selected(sql.as_bytes(), &tokens, "customer", "email")?.unwrap_or_default();
        Ok((selected.times, selected.by_star))
    }

    #[test]
    fn a_column_is_selected_as_it_is() {
        for (sql, wanted) in [
            ("SELECT email FROM customer", (1, false)),
            (
                "SELECT SQL_NO_CACHE c.email AS e, shop.c.`EMAIL` x, id FROM shop.customer c ORDER BY id LIMIT 1, 2",
                (2, false),
            ),
            ("SELECT email 'e' FROM customer GROUP BY id HAVING COUNT(*) > 1", (1, false)),
            ("SELECT * FROM customer", (0, true)),
            ("SELECT c.*, n * 2 * (3) FROM customer c JOIN item USING (id)", (0, true)),
            ("SELECT COUNT( * ), n * n FROM customer WHERE id IN (SELECT id FROM customer)", (0, false)),
            ("WITH x AS (SELECT id FROM customer) SELECT email FROM x JOIN customer USING (id)", (1, false)),
            ("UPDATE customer SET n = n * 2 WHERE id = 1", (0, false)),
            ("INSERT INTO customer VALUES (1, 'a')", (0, false)),
            ("SHOW CREATE TABLE customer", (0, false)),
            ("DESCRIBE customer", (0, false)),
            ("SELECT email, execute FROM item", (0, false)),
            ("SET @a = 1; SELECT id FROM customer", (0, false)),
            ("SELECT email FROM customer ORDER BY id FOR UPDATE SKIP LOCKED", (1, false)),
            ("BEGIN WORK; SELECT id FROM customer", (0, false)),
            ("BEGIN", (0, false)),
        ] {
            assert_eq!(judged(sql), Ok(wanted), "{sql}");
        }
    }

    #[test]
    fn all_else_is_refused() {
        for (sql, why) in [
            ("SELECT id, email AS e FROM customer HAVING e LIKE 'a%'", ALIAS),
            ("SELECT email e FROM customer ORDER BY `E`", ALIAS),
            ("SELECT email AS 'e' FROM customer GROUP BY e", ALIAS),
            ("SELECT email AS e, (SELECT e LIKE 'a%') FROM customer", ALIAS),
            ("SELECT email AS '\u{e9}' FROM customer HAVING e LIKE 'a%'", ALIAS),
            ("SELECT CAST(email AS SIGNED) FROM customer", AS_IT_IS),
            ("SELECT -email FROM customer", AS_IT_IS),
            ("SELECT email FROM customer HAVING email > 'a'", AS_IT_IS),
            ("SELECT id AS email FROM customer", AS_IT_IS),
            ("SELECT id FROM customer WHERE \u{e9}mail > 'a'", AS_IT_IS),
            ("SELECT id, email FROM customer ORDER BY (2)", AS_IT_IS),
            ("SELECT id, email FROM customer ORDER BY ?", AS_IT_IS),
            ("SELECT id, email FROM customer ORDER BY id, +2 LIMIT 1", AS_IT_IS),
            ("SELECT email, id FROM customer ORDER BY TRUE", AS_IT_IS),
            ("SELECT email, COUNT(*) FROM customer GROUP BY (true)", AS_IT_IS),
            ("SELECT email, id FROM customer ORDER BY : a", AS_IT_IS),
            ("SELECT email, id FROM customer ORDER BY PREVIOUS VALUE FOR s, 2", AS_IT_IS),
            ("SELECT DISTINCT email FROM customer", AS_IT_IS),
            ("SELECT email FROM customer INTO @x", AS_IT_IS),
            ("SELECT email INTO @x FROM customer", AS_IT_IS),
            ("SELECT * FROM customer PROCEDURE ANALYSE()", AS_IT_IS),
            ("SELECT 1 UNION SELECT email FROM customer", AS_IT_IS),
            ("(SELECT email FROM customer)", AS_IT_IS),
            ("WITH x (a, b) AS (SELECT * FROM customer) SELECT a FROM x WHERE b LIKE 'a%'", AS_IT_IS),
            ("SELECT a FROM (SELECT * FROM customer) x (a, b)", AS_IT_IS),
            ("SELECT id FROM item NATURAL JOIN customer", AS_IT_IS),
            ("SELECT id FROM item UNION TABLE customer", AS_IT_IS),
            ("INSERT INTO copy TABLE customer", AS_IT_IS),
            ("INSERT INTO copy SELECT * FROM customer", AS_IT_IS),
            ("DELETE FROM customer RETURNING *", AS_IT_IS),
            ("EXPLAIN SELECT id FROM customer WHERE email = 'a'", AS_IT_IS),
            ("SELECT email FROM customer; SELECT 1", ONE_BY_ONE),
            ("RENAME TABLE customer TO c", STATEMENT),
            ("SET STATEMENT max_statement_time = 1 FOR SELECT email FROM customer", STATEMENT),
            ("BEGIN NOT ATOMIC SELECT email FROM customer; END", PROGRAM),
            ("BEGIN shop.p(); END", DOUBTFUL),
            ("DECLARE a INT; BEGIN shop.p; END", DOUBTFUL),
            ("IF 1 THEN shop.p(); END IF", PROGRAM),
            ("FOR i IN 1..1 LOOP p(); END LOOP", PROGRAM),
            ("l: LOOP p(); END LOOP", DOUBTFUL),
            ("EXECUTE IMMEDIATE 'SELECT email FROM customer'", BY_NAME),
            ("PREPARE p FROM 'SELECT 1'", BY_NAME),
            ("SET STATEMENT max_statement_time = 1 FOR EXECUTE p", BY_NAME),
            ("SELECT 1; EXECUTE p", BY_NAME),
            ("CALL p()", PROGRAM),
            ("HANDLER h READ FIRST", HANDLER),
            ("SHOW WARNINGS LIMIT 1", WARNINGS),
            ("SHOW COUNT(*) ERRORS", WARNINGS),
            ("GET DIAGNOSTICS CONDITION 1 @x = MESSAGE_TEXT", WARNINGS),
            ("SELECT min_value FROM mysql.column_stats", STATISTICS),
        ] {
            assert_eq!(judged(sql), Err(why), "{sql}");
        }
        let aliases: String = (0..10_000).map(|number| format!("id AS a{number}, ")).collect();
        assert_eq!(judged(&format!("SELECT {aliases}email FROM customer")), Ok((1, false)));
        assert_eq!(judged(&format!("SELECT {aliases}UPPER(email) FROM customer")), Err(AS_IT_IS));
        assert_eq!(judged(&format!("SELECT {} FROM customer", vec!["email"; 100_000].join(","))), Err(TOO_OFTEN));
        assert_eq!(judged(&format!("SELECT {}email FROM customer", "a.".repeat(1_000_000))), Ok((1, false)));
    }

    #[test]
    fn what_can_not_be_cut_may_not_name_it() {
        assert_eq!(doubt(b"SELECT /*! 1 */ FROM Customer", "customer"), Err(DOUBTFUL));
        assert_eq!(doubt(b"/*! EXECUTE */ p", "customer"), Err(DOUBTFUL));
        assert_eq!(doubt(b"/*!40101 SET NAMES utf8 */", "customer"), Ok(()));
    }
}

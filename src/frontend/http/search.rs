//! `search`: a term in the columns of a table, by full-text index where one covers them, else by LIKE.

use towline_middleware::ServerError;

use super::sql_text::{InvalidIdentifier, push_containing_pattern, push_identifier, push_text};

/// A search whose condition hangs on what indexes the table has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Search {
    /// The schema of the table.
    pub(super) dbname: String,
    /// The table.
    pub(super) table: String,
    /// What to look for.
    pub(super) term: String,
    /// Where; every text column when absent.
    pub(super) columns: Option<Vec<String>>,
    /// `SELECT … FROM …`.
    pub(super) select: String,
    /// What else has to hold; empty for nothing.
    pub(super) condition: String,
    /// ORDER BY and LIMIT; empty for none.
    pub(super) tail: String,
}

/// A full-text index: its columns.
type FullText = Vec<String>;

impl Search {
    /// The statement that tells, per row: a column's name, its type, and the name of a full-text index that it is in
    /// (one row per index).
    pub(super) fn lookup(&self) -> String {
        let mut sql = String::from(
            "SELECT c.COLUMN_NAME, c.DATA_TYPE, s.INDEX_NAME FROM information_schema.COLUMNS c \
             LEFT JOIN information_schema.STATISTICS s ON s.TABLE_SCHEMA = c.TABLE_SCHEMA \
             AND s.TABLE_NAME = c.TABLE_NAME AND s.COLUMN_NAME = c.COLUMN_NAME AND s.INDEX_TYPE = 'FULLTEXT' \
             WHERE c.TABLE_SCHEMA = ",
        );
        push_text(&mut sql, &self.dbname);
        sql.push_str(" AND c.TABLE_NAME = ");
        push_text(&mut sql, &self.table);
        sql.push_str(" ORDER BY s.INDEX_NAME, s.SEQ_IN_INDEX, c.ORDINAL_POSITION");
        sql
    }

    /// The search itself, from the rows of [`lookup`](Self::lookup).
    ///
    /// # Errors
    /// The table does not exist or the account may not see it (1146), or it has no text column to search (1191).
    pub(super) fn statement(&self, rows: &[[Option<String>; 3]]) -> Result<String, ServerError> {
        if rows.is_empty() {
            let message = format!("Table '{}.{}' doesn't exist", self.dbname, self.table);
            return Err(ServerError::new(1146, b"42S02", message));
        }
        let columns = self.columns.clone().unwrap_or_else(|| text_columns(rows));
        if columns.is_empty() {
            let message = format!("Table '{}.{}' has no text column to search", self.dbname, self.table);
            return Err(ServerError::new(1191, b"HY000", message));
        }
        let mut sql = self.select.clone();
        sql.push_str(" WHERE (");
        let pushed = match covering_indexes(rows, &columns) {
            Some(indexes) => self.push_matches(&mut sql, &indexes),
            None => self.push_likes(&mut sql, &columns),
        };
        // The client's names were checked when the command was read, and the others are the server's.
        pushed.map_err(|error| ServerError::new(1166, b"42000", error.to_string()))?;
        sql.push(')');
        if !self.condition.is_empty() {
            sql.push_str(" AND ");
            sql.push_str(&self.condition);
        }
        sql.push_str(&self.tail);
        Ok(sql)
    }

    fn push_matches(&self, sql: &mut String, indexes: &[FullText]) -> Result<(), InvalidIdentifier> {
        for (index, columns) in indexes.iter().enumerate() {
            sql.push_str(if index > 0 { " OR MATCH (" } else { "MATCH (" });
            for (index, column) in columns.iter().enumerate() {
                if index > 0 {
                    sql.push_str(", ");
                }
                push_identifier(sql, "columns", column)?;
            }
            sql.push_str(") AGAINST (");
            push_text(sql, &self.term);
            sql.push(')');
        }
        Ok(())
    }

    fn push_likes(&self, sql: &mut String, columns: &[String]) -> Result<(), InvalidIdentifier> {
        for (index, column) in columns.iter().enumerate() {
            if index > 0 {
                sql.push_str(" OR ");
            }
            push_identifier(sql, "columns", column)?;
            sql.push_str(" LIKE ");
            push_containing_pattern(sql, &self.term);
        }
        Ok(())
    }
}

fn text_columns(rows: &[[Option<String>; 3]]) -> Vec<String> {
    const TEXT: [&str; 7] = ["char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum"];
    let mut columns: Vec<String> = Vec::new();
    for [name, data_type, _] in rows {
        if let (Some(name), Some(data_type)) = (name, data_type)
            && TEXT.contains(&data_type.to_ascii_lowercase().as_str())
            && !columns.contains(name)
        {
            columns.push(name.clone());
        }
    }
    columns
}

/// Full-text indexes that together have exactly the wanted columns: MATCH takes all columns of an index or none.
fn covering_indexes(rows: &[[Option<String>; 3]], wanted: &[String]) -> Option<Vec<FullText>> {
    let mut indexes: Vec<(&str, FullText)> = Vec::new();
    for [column, _, index] in rows {
        let (Some(column), Some(index)) = (column, index) else { continue };
        match indexes.iter_mut().find(|(name, _)| name == index) {
            Some((_, columns)) => columns.push(column.clone()),
            None => indexes.push((index, vec![column.clone()])),
        }
    }
    // Column names are case-insensitive in MySQL.
    let same = |a: &str, b: &str| a.to_lowercase() == b.to_lowercase();
    indexes.retain(|(_, columns)| columns.iter().all(|column| wanted.iter().any(|name| same(name, column))));
    let covered = |name: &String| indexes.iter().any(|(_, columns)| columns.iter().any(|column| same(name, column)));
    wanted.iter().all(covered).then(|| indexes.into_iter().map(|(_, columns)| columns).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(columns: Option<&[&str]>) -> Search {
        Search {
            dbname: "shop".into(),
            table: "item".into(),
            term: "5%'".into(),
            columns: columns.map(|names| names.iter().map(|name| (*name).to_owned()).collect()),
            select: "SELECT * FROM `shop`.`item`".into(),
            condition: "`id` > 3".into(),
            tail: " LIMIT 5".into(),
        }
    }

    fn row(name: &str, data_type: &str, index: Option<&str>) -> [Option<String>; 3] {
        [Some(name.into()), Some(data_type.into()), index.map(Into::into)]
    }

    #[test]
    fn an_index_that_covers_is_used_and_else_like() {
        let rows = [
            row("id", "int", None),
            row("name", "varchar", Some("a")),
            row("name", "varchar", Some("both")),
            row("text", "text", Some("both")),
        ];
        for (columns, condition) in [
            (None, "MATCH (`name`) AGAINST (_utf8mb4'5%''') OR MATCH (`name`, `text`) AGAINST (_utf8mb4'5%''')"),
            (Some(&["NAME"][..]), "MATCH (`name`) AGAINST (_utf8mb4'5%''')"),
            (Some(&["text"][..]), "`text` LIKE _utf8mb4'%5!%''%' ESCAPE '!'"),
            (
                Some(&["name", "id"][..]),
                "`name` LIKE _utf8mb4'%5!%''%' ESCAPE '!' OR `id` LIKE _utf8mb4'%5!%''%' ESCAPE '!'",
            ),
        ] {
            let sql = search(columns).statement(&rows).unwrap();
            assert_eq!(sql, format!("SELECT * FROM `shop`.`item` WHERE ({condition}) AND `id` > 3 LIMIT 5"));
        }
    }

    #[test]
    fn a_missing_table_and_a_table_without_text_are_errors() {
        assert_eq!(search(None).statement(&[]).unwrap_err().code, 1146);
        assert_eq!(search(None).statement(&[row("id", "int", None)]).unwrap_err().code, 1191);
    }
}

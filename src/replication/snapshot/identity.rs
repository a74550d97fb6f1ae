//! Which tables lie behind the names. `RENAME TABLE` and `EXCHANGE PARTITION` put others there, whose rows a session that
//! sees an older moment reads without an error: only InnoDB's own ids tell. Other engines' tables have none.

use std::collections::BTreeMap;

use mysql_async::{Conn, prelude::Queryable};

use super::TablePlan;

/// All tables and partitions that InnoDB has, with their ids, by their names in lower case.
#[derive(Debug, Default)]
pub(super) struct InnodbTables(BTreeMap<String, Vec<(String, u64)>>);

/// What lies behind a table's name: InnoDB's tables with their ids, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity(Vec<(String, u64)>);

impl InnodbTables {
    pub(super) async fn read(conn: &mut Conn, is_mariadb: bool) -> mysql_async::Result<Self> {
        let list = if is_mariadb { "INNODB_SYS_TABLES" } else { "INNODB_TABLES" };
        let sql = format!("SELECT CONVERT(NAME USING utf8mb4), TABLE_ID FROM information_schema.{list}");
        let mut tables = Self::default();
        conn.query::<(String, u64), _>(sql).await?.into_iter().for_each(|(name, id)| tables.add(name, id));
        Ok(tables)
    }

    fn add(&mut self, name: String, id: u64) {
        self.0.entry(name.to_lowercase()).or_default().push((name, id));
    }

    /// What lies behind the name of a table.
    pub(super) fn identity(&self, TablePlan { database, table, .. }: &TablePlan) -> Identity {
        let (mut name, mut is_whole) = file_name(database);
        if is_whole {
            name.push('/');
            let (table, whole) = file_name(table);
            name.push_str(&table);
            is_whole = whole;
        }
        let named = self.0.range(name.clone()..).take_while(|(known, _)| known.starts_with(&name));
        let own = named.filter(|(known, _)| !is_whole || is_end(&known[name.len()..]));
        let mut own: Vec<_> = own.flat_map(|(_, tables)| tables).cloned().collect();
        own.sort_unstable();
        Identity(own)
    }
}

/// Whether a name ends here, or goes on with that of a partition.
fn is_end(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with("#p#")
}

/// A name as that of a file, up to its first letter that is not ASCII, and whether that is all of it: those are written by
/// tables of the server's own, so all names that begin alike are taken for one.
///
/// Source: <https://dev.mysql.com/doc/refman/8.4/en/identifier-mapping.html>
fn file_name(name: &str) -> (String, bool) {
    let mut file_name = String::new();
    for letter in name.chars() {
        match letter {
            'A'..='Z' | 'a'..='z' | '0'..='9' | '_' => file_name.push(letter.to_ascii_lowercase()),
            '\0'..='\x7f' => file_name.push_str(&format!("@{:04x}", u32::from(letter))),
            _ => return (file_name + "@", false),
        }
    }
    (file_name, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_told_from_others_whose_names_begin_alike() {
        let mut tables = InnodbTables::default();
        let names = ["d/t", "d/t#P#a", "d/t#p#b#sp#c", "d/t1", "d/t@0020x", "d/t@1y", "d/t@1z", "e/t", "d@002d1/T"];
        names.iter().zip(1..).for_each(|(name, id)| tables.add((*name).to_owned(), id));
        let found = |database: &str, table: &str| {
            let plan = TablePlan {
                database: database.to_owned(),
                table: table.to_owned(),
                columns: Vec::new(),
                key: Vec::new(),
                versioned: false,
                rows: 0,
            };
            tables.identity(&plan).0.into_iter().map(|(_, id)| id).collect::<Vec<u64>>()
        };
        assert_eq!(found("d", "t"), [1, 2, 3]);
        assert_eq!(found("D", "T1"), [4]);
        assert_eq!(found("d", "t x"), [5]);
        assert_eq!(found("d-1", "t"), [9]);
        assert_eq!(found("d", "tä"), [5, 6, 7], "more than it, but it for certain");
        assert_eq!(found("d", "none"), [0; 0]);
    }
}

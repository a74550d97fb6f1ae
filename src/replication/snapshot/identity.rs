//! Which tables lie behind the names. `RENAME TABLE` and `EXCHANGE PARTITION` put others there, whose rows a session that
//! sees an older moment reads without an error: only InnoDB's own ids tell. Other engines' tables have none.

use std::collections::{BTreeMap, BTreeSet};

use mysql_async::{Conn, prelude::Queryable};

use super::TablePlan;

/// Tables and partitions that InnoDB has, with their ids, by their names in lower case.
#[derive(Debug, Default)]
pub(super) struct InnodbTables(BTreeMap<String, Vec<(String, u64)>>);

/// What lies behind a table's name: InnoDB's tables with their ids, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity(Vec<(String, u64)>);

impl InnodbTables {
    /// Those whose names begin so in lower case.
    pub(super) async fn read(conn: &mut Conn, is_mariadb: bool, prefix: &str) -> mysql_async::Result<Self> {
        let list = if is_mariadb { "INNODB_SYS_TABLES" } else { "INNODB_TABLES" };
        // All that LIKE takes for more than itself is `_`; what it finds too much is left out below.
        let sql = format!(
            "SELECT CONVERT(NAME USING utf8mb4), TABLE_ID FROM information_schema.{list} \
             WHERE LOWER(CONVERT(NAME USING utf8mb4)) LIKE '{prefix}%'"
        );
        let mut tables = Self::default();
        conn.query::<(String, u64), _>(sql).await?.into_iter().for_each(|(name, id)| tables.add(name, id));
        Ok(tables)
    }

    fn add(&mut self, name: String, id: u64) {
        self.0.entry(name.to_lowercase()).or_default().push((name, id));
    }

    /// What lies behind the name of a table, and that of others whose names can't be told from it.
    pub(super) fn identity(&self, plan: &TablePlan) -> Identity {
        let prefix = prefix(plan);
        let named = self.0.range(prefix.clone()..).take_while(|(known, _)| known.starts_with(&prefix));
        let own = named.filter(|(known, _)| after_name(known, plan).is_some_and(is_end));
        let mut own: Vec<_> = own.flat_map(|(_, tables)| tables).cloned().collect();
        own.sort_unstable();
        Identity(own)
    }
}

impl Identity {
    /// Whether that is all that lies behind these names now. A name that is new is another table's.
    pub(super) fn is_still(&self, now: &Self) -> bool {
        let names: BTreeSet<_> = self.0.iter().map(|(name, _)| without_partition(name)).collect();
        now.0.iter().filter(|(name, _)| names.contains(without_partition(name))).eq(&self.0)
    }
}

/// What a partition's name has behind that of its table, in lower case.
const PARTITION: &str = "#p#";

/// Whether a name ends here, or goes on with that of a partition.
fn is_end(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with(PARTITION)
}

fn without_partition(name: &str) -> &str {
    &name[..name.to_ascii_lowercase().find(PARTITION).unwrap_or(name.len())]
}

/// The name of a table's file, in lower case, letter by letter: the code, or the letter itself where it is not ASCII.
///
/// Source: <https://dev.mysql.com/doc/refman/8.4/en/identifier-mapping.html>
fn codes(TablePlan { database, table, .. }: &TablePlan) -> impl Iterator<Item = Result<String, char>> {
    let code = |letter: char| match letter {
        'A'..='Z' | 'a'..='z' | '0'..='9' | '_' => Ok(letter.to_ascii_lowercase().to_string()),
        '\0'..='\x7f' => Ok(format!("@{:04x}", u32::from(letter))),
        _ => Err(letter),
    };
    database.chars().map(code).chain([Ok("/".to_owned())]).chain(table.chars().map(code))
}

/// What the name of a table's file begins with, up to its first letter that is not ASCII.
pub(super) fn prefix(plan: &TablePlan) -> String {
    codes(plan).map_while(Result::ok).collect()
}

/// What a file's name has behind that of a table; none if it begins otherwise. A letter that is not ASCII is written as its
/// number, or as two signs by tables of the server's own: all of those are taken for one.
fn after_name<'a>(mut file: &'a str, plan: &TablePlan) -> Option<&'a str> {
    for code in codes(plan) {
        file = match code {
            Ok(code) => file.strip_prefix(&*code)?,
            Err(letter) => file.strip_prefix(&*format!("@{:04x}", u32::from(letter))).or_else(|| after_signs(file))?,
        };
    }
    Some(file)
}

/// Two signs of which one is no digit of a number.
fn after_signs(file: &str) -> Option<&str> {
    let (signs, rest) = file.strip_prefix('@')?.split_at_checked(2)?;
    if signs.bytes().all(|sign| sign.is_ascii_hexdigit()) { None } else { Some(rest) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables<'a>(names: impl IntoIterator<Item = (&'a str, u64)>) -> InnodbTables {
        let mut tables = InnodbTables::default();
        names.into_iter().for_each(|(name, id)| tables.add(name.to_owned(), id));
        tables
    }

    fn plan(database: &str, table: &str) -> TablePlan {
        let (database, table) = (database.to_owned(), table.to_owned());
        TablePlan { database, table, columns: Vec::new(), key: Vec::new(), versioned: false, rows: 0 }
    }

    #[test]
    fn a_table_is_told_from_others_whose_names_begin_alike() {
        let names = [
            "d/t",
            "d/t#P#a",
            "d/t#p#b#sp#c",
            "d/t1",
            "d/t@0020x",
            "d/t@1y",
            "d/t@1z",
            "e/t",
            "d@002d1/T",
            "d/t@4e2d",
            "d/t@1yx",
            "@1y/t",
        ];
        let tables = tables(names.into_iter().zip(1..));
        let found = |database: &str, table: &str| {
            tables.identity(&plan(database, table)).0.into_iter().map(|(_, id)| id).collect::<Vec<u64>>()
        };
        assert_eq!(found("d", "t"), [1, 2, 3]);
        assert_eq!(found("D", "T1"), [4]);
        assert_eq!(found("d", "t x"), [5]);
        assert_eq!(found("d-1", "t"), [9]);
        assert_eq!(found("d", "tä"), [6, 7], "more than it, but it for certain");
        assert_eq!(found("d", "t中"), [6, 7, 10]);
        assert_eq!(found("ä", "t"), [12]);
        assert_eq!(found("d", "none"), [0; 0]);
    }

    #[test]
    fn only_what_stands_at_names_that_were_there_matters() {
        let was = [("d/t@1y#p#a", 1), ("d/t@1z", 2)];
        let is_still = |now: &[(&str, u64)]| {
            let [was, now] = [&was[..], now].map(|names| tables(names.iter().copied()).identity(&plan("d", "tä")));
            was.is_still(&now)
        };
        assert!(is_still(&was));
        assert!(is_still(&[was[0], was[1], ("d/t@2g", 3), ("d/t@2g#p#a", 4)]), "another table");
        assert!(!is_still(&[was[0], ("d/t@1z", 3)]), "another one in its place");
        assert!(!is_still(&[was[0]]), "it has gone");
        assert!(!is_still(&[was[0], was[1], ("d/t@1y#P#b", 3)]), "a table was made a partition of it");
    }
}

//! What a view or a right names, read from the statement as the server itself writes it.

/// What a statement names. Each name is as it stands there, in back-quotes, and in the statement's character set.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Names<'a> {
    /// The view that it makes.
    pub(super) own: Option<Place<'a>>,
    /// What may be a table; columns of what has another name there are among them.
    pub(super) tables: Vec<Place<'a>>,
    /// Other views, whose columns the server writes without the schema.
    pub(super) views: Vec<Place<'a>>,
    pub(super) sequences: Vec<Place<'a>>,
    /// Each with how many arguments it gets.
    pub(super) functions: Vec<(Place<'a>, usize)>,
    pub(super) columns: Vec<&'a [u8]>,
    pub(super) keys: Vec<&'a [u8]>,
    /// The tables that foreign keys refer to.
    pub(super) parents: Vec<&'a [u8]>,
    /// Whether it reads former versions of rows.
    pub(super) versions: bool,
}

/// A name with its schema's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place<'a> {
    pub(super) schema: &'a [u8],
    /// Both, with the dot.
    pub(super) whole: &'a [u8],
}

const VERSIONS: &[u8] = b" FOR SYSTEM_TIME ";

impl<'a> Place<'a> {
    /// The name without its schema's.
    fn object(&self) -> &'a [u8] {
        &self.whole[self.schema.len() + 1..]
    }

    /// The same without quotes.
    pub(super) fn name(&self) -> String {
        let quoted = self.object();
        let name = quoted.strip_prefix(b"`").and_then(|name| name.strip_suffix(b"`")).unwrap_or(quoted);
        String::from_utf8_lossy(name).replace("``", "`")
    }
}

impl<'a> Names<'a> {
    /// Reads them. What is read wrongly costs a table that nobody needs, for a moment.
    pub(super) fn of(sql: &'a [u8]) -> Self {
        let (mut names, mut aliases, mut at) = (Self::default(), Vec::new(), 0);
        while at < sql.len() {
            match sql[at] {
                b'`' => {
                    let parts = parts(sql, at);
                    let end = parts.last().map_or(at + 1, |part| part.1);
                    names.note(sql, &parts, &mut aliases);
                    at = end;
                }
                b'\'' => at = quoted_end(sql, at),
                _ => at += 1,
            }
        }
        names.tables.retain(|place| !aliases.contains(&place.schema));
        let is_view = |place: &Place<'a>, all: &[Place<'a>]| {
            place.schema != place.object() && all.iter().any(|column| column.schema == place.object())
        };
        names.views = names.tables.iter().filter(|place| is_view(place, &names.tables)).copied().collect();
        let of_view = |place: &Place<'a>| names.views.iter().any(|view| view.object() == place.schema);
        names.tables.retain(|place| !names.views.contains(place) && !of_view(place));
        names.versions = sql.windows(VERSIONS.len()).any(|part| part == VERSIONS);
        names
    }

    /// Whether it is of this table or view.
    pub(super) fn is_of(&self, place: &Place<'_>) -> bool {
        self.tables.contains(place) || self.views.contains(place)
    }

    fn note(&mut self, sql: &'a [u8], parts: &[(usize, usize)], aliases: &mut Vec<&'a [u8]>) {
        let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return };
        let (before, behind) = (&sql[..first.0], &sql[last.1..]);
        let ends = |ends: &[&[u8]]| ends.iter().any(|end| before.ends_with(end));
        let (name, place) =
            (&sql[last.0..last.1], Place { schema: &sql[first.0..first.1], whole: &sql[first.0..last.1] });
        match parts.len() {
            _ if ends(&[b" REFERENCES "]) => self.parents.push(place.whole),
            1 if ends(&[b"INDEX (", b"KEY ("]) || (ends(&[b"`,", b"`, "]) && self.is_key(before)) => {
                self.keys.push(name)
            }
            1 if ends(&[b"` ", b") "]) => aliases.push(name),
            // The columns of a right come before its table.
            1 if sql.starts_with(b"GRANT ") && self.tables.is_empty() => add(&mut self.columns, name),
            1 => {}
            2 if ends(&[b" VIEW "]) && self.own.is_none() => self.own = Some(place),
            2 if ends(&[b"nextval(", b"lastval(", b"setval("]) => add(&mut self.sequences, place),
            2 if behind.starts_with(b"(") => add(&mut self.functions, (place, arguments(behind))),
            2 => {
                add(&mut self.tables, place);
                add(&mut self.columns, name);
            }
            _ => add(&mut self.columns, name),
        }
    }

    /// Whether what stands before a comma is a key.
    fn is_key(&self, before: &[u8]) -> bool {
        let before = before.trim_ascii_end().strip_suffix(b",").unwrap_or(before);
        self.keys.last().is_some_and(|key| before.ends_with(key))
    }
}

fn add<T: PartialEq>(all: &mut Vec<T>, one: T) {
    if !all.contains(&one) {
        all.push(one);
    }
}

/// Where the parts of a name that begins there begin and end.
fn parts(sql: &[u8], mut at: usize) -> Vec<(usize, usize)> {
    let mut parts = Vec::new();
    loop {
        let end = quoted_end(sql, at);
        parts.push((at, end));
        if !sql[end..].starts_with(b".`") {
            return parts;
        }
        at = end + 1;
    }
}

/// The place behind a name or string in quotes that begins there.
fn quoted_end(sql: &[u8], begin: usize) -> usize {
    let (quote, mut at) = (sql[begin], begin + 1);
    while at < sql.len() {
        match sql[at] {
            b'\\' if quote == b'\'' => at += 2,
            byte if byte == quote && sql.get(at + 1) == Some(&quote) => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    sql.len()
}

/// How many arguments stand in the parentheses that begin a text.
fn arguments(text: &[u8]) -> usize {
    let (mut depth, mut commas, mut at) = (0, 0, 0);
    while at < text.len() {
        match text[at] {
            b'`' | b'\'' => {
                at = quoted_end(text, at);
                continue;
            }
            b'(' => depth += 1,
            b')' if depth == 1 => break,
            b')' => depth -= 1,
            b',' if depth == 1 => commas += 1,
            _ => {}
        }
        at += 1;
    }
    if text.starts_with(b"()") { 0 } else { commas + 1 }
}

#[cfg(test)]
mod tests {
    use super::{Names, Place};

    #[test]
    fn what_its_columns_are_named_by_alone_is_a_view() {
        let sql =
            b"CREATE VIEW `shop`.`v` AS select `w`.`a` AS `a`,`shop`.`t`.`b` AS `b` from (`shop`.`w` join `shop`.`t`)";
        let names = Names::of(sql);
        let text = |place: &Place<'_>| String::from_utf8_lossy(place.whole).into_owned();
        assert_eq!(names.views.iter().map(text).collect::<Vec<_>>(), ["`shop`.`w`"]);
        assert_eq!(names.tables.iter().map(text).collect::<Vec<_>>(), ["`shop`.`t`"]);
    }

    /// The names that a statement has, each list as words.
    fn told(sql: &str) -> [String; 6] {
        let names = Names::of(sql.as_bytes());
        let text = |all: Vec<&[u8]>| all.into_iter().map(String::from_utf8_lossy).collect::<Vec<_>>().join(" ");
        let functions: Vec<String> = names
            .functions
            .iter()
            .map(|(place, arguments)| format!("{}/{arguments}", String::from_utf8_lossy(place.whole)))
            .collect();
        [
            text(names.own.iter().map(|place| place.whole).collect()),
            text(names.tables.iter().map(|place| place.whole).collect()),
            text(names.sequences.iter().map(|place| place.whole).collect()),
            functions.join(" "),
            text(names.columns),
            text(names.keys),
        ]
    }

    #[test]
    fn a_view_names_tables_columns_keys_sequences_and_functions() {
        let sql = "CREATE ALGORITHM=UNDEFINED DEFINER=`root`@`%` SQL SECURITY DEFINER VIEW `shop`.`v` AS select \
                   `x`.`a``b` AS `it's`,`shop`.`u`.`c` AS `c`,`shop`.`f`(1,(select max(`x`.`d`),2),'a,`n`.`o`') AS `f`,\
                   `shop`.`g`() AS `g`,nextval(`shop`.`s`) AS `s` from (`shop`.`gone` `x` join `shop`.`u` \
                   FORCE INDEX (`k`, `l`)) where `x`.`a``b` > 'it\\'s `p`.`q`' and 'x' <> '''`r`.`s`'";
        let expected = [
            "`shop`.`v`",
            "`shop`.`gone` `shop`.`u`",
            "`shop`.`s`",
            "`shop`.`f`/3 `shop`.`g`/0",
            "`a``b` `c` `d` `gone` `u`",
            "`k` `l`",
        ];
        assert_eq!(told(sql), expected);
    }

    #[test]
    fn a_right_names_its_table_and_columns() {
        let sql = "GRANT SELECT (`a`, `b c`), INSERT (`b c`) ON `shop`.`gone` TO `old`@`%` WITH GRANT OPTION";
        assert_eq!(told(sql), ["", "`shop`.`gone`", "", "", "`a` `b c` `gone`", ""]);
        assert_eq!(told("GRANT SELECT ON `a"), ["", "", "", "", "`a", ""]);
        assert_eq!(told("select `a`.`b"), ["", "`a`.`b", "", "", "`b", ""]);
        assert_eq!(told("x '"), [""; 6].map(str::to_owned));
    }
}

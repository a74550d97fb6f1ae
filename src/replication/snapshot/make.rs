//! Makes what a snapshot's definitions say, also what names things that the master no longer has.
//!
//! A master keeps a view whose table has gone, and a right on it; no server makes them. As long as no row has come, a
//! stand-in takes the place of whatever is missing, and goes when the definition is made. Whoever is killed meanwhile
//! removes all and begins again, since a snapshot is known as made only when everything is.

use mysql_async::{Conn, ServerError, prelude::Queryable};

use super::{
    Definition, definitions,
    load::LoadError,
    names::{Names, Place},
    quoted, views,
};
use crate::fail_point::FailPoint;

/// There already: schema, table or view, routine, trigger, event.
const THERE_ALREADY: [u16; 6] = [1007, 1050, 1304, 1359, 1537, 1538];
/// Not there, or not as it was: foreign key's parent, database, column, table, right on a table, key, collations that mix,
/// routine, its arguments, table that was a view, what a view is of, view of itself, partition, types that mix, sequence,
/// versions of rows.
const LACKS_OBJECTS: [u16; 20] = [
    1005, 1049, 1054, 1146, 1147, 1176, 1267, 1270, 1271, 1305, 1318, 1347, 1356, 1462, 1735, 1747, 4078, 4079, 4089,
    4124,
];
/// Not a table's: MariaDB's, MySQL's.
const IS_NO_TABLE: [u16; 2] = [1347, 1031];
const UNKNOWN_SCHEMA: u16 = 1049;
/// What a stand-in's columns are: none fits every expression.
const KINDS: [&str; 4] = ["VARCHAR(1) CHARACTER SET ascii", "VARCHAR(1) CHARACTER SET utf8mb4", "INT", "GEOMETRY"];
/// Schemas in which nothing stands in for anything.
const UNTOUCHED: [&[u8]; 5] = [b"`mysql`", b"`information_schema`", b"`performance_schema`", b"`sys`", b"`towline`"];

/// Makes what the definitions say. Returns what must be left out, since the master has no longer what it names.
pub(super) async fn make(conn: &mut Conn, definitions: &[Definition]) -> Result<Vec<String>, LoadError> {
    let wanted = wanted(conn, definitions).await?;
    let failed = rounds(conn, wanted).await?;
    judged(failed)
}

/// The same where no table has rows yet: what names things that have gone is made as the master has it. Tables may be made
/// anew.
pub(super) async fn make_on_empty(
    conn: &mut Conn,
    definitions: &[Definition],
    is_mariadb: bool,
) -> Result<Vec<String>, LoadError> {
    let wanted = wanted(conn, definitions).await?;
    let failed = rounds(conn, wanted.clone()).await?;
    if failed.is_empty() || failed.iter().any(|(_, error)| !LACKS_OBJECTS.contains(&error.code)) {
        return judged(failed);
    }
    // An account's would remove it first.
    let others: Vec<&Definition> = wanted.into_iter().filter(|definition| definition.account.is_none()).collect();
    let mut left = Vec::new();
    for (definition, error) in users_first(failed) {
        // What it needs may have come before it.
        if try_one(conn, definition).await?.is_some()
            && !make_by_stand_ins(conn, definition, &others, is_mariadb).await?
        {
            left.push((definition, error));
        }
    }
    left.retain(|(definition, _)| definition.account.is_some());
    left.extend(rounds(conn, others).await?);
    judged(left)
}

/// All but the account that makes them.
async fn wanted<'a>(conn: &mut Conn, definitions: &'a [Definition]) -> mysql_async::Result<Vec<&'a Definition>> {
    let own: Option<String> = conn.query_first("SELECT CURRENT_USER()").await?;
    Ok(definitions.iter().filter(|definition| definition.account.is_none() || definition.account != own).collect())
}

type Failed<'a> = (&'a Definition, ServerError);

/// What may be left out, in words.
fn judged(failed: Vec<Failed>) -> Result<Vec<String>, LoadError> {
    let mut left_out = Vec::new();
    for (definition, error) in failed {
        if !definition.may_lack_objects || !LACKS_OBJECTS.contains(&error.code) {
            return Err(LoadError::Definition { object: definition.object.clone(), error: error.into() });
        }
        left_out.push(format!("{}: {error}", definition.object));
    }
    for what in &left_out {
        tracing::warn!(what, "the master's definition names what it no longer has, and is left out of the snapshot");
    }
    Ok(left_out)
}

/// One definition may need another that comes later: those that fail are tried again as long as any succeed.
async fn rounds<'a>(conn: &mut Conn, definitions: Vec<&'a Definition>) -> mysql_async::Result<Vec<Failed<'a>>> {
    let mut left = definitions;
    loop {
        let before = left.len();
        let mut failed = Vec::new();
        for definition in left {
            if let Some(error) = try_one(conn, definition).await? {
                failed.push((definition, error));
            }
        }
        if failed.is_empty() || failed.len() == before {
            return Ok(failed);
        }
        left = failed.into_iter().map(|(definition, _)| definition).collect();
    }
}

/// Makes one; returns what the server says if it does not.
async fn try_one(conn: &mut Conn, definition: &Definition) -> mysql_async::Result<Option<ServerError>> {
    match make_one(conn, definition).await {
        Ok(()) => Ok(None),
        Err(mysql_async::Error::Server(error)) if THERE_ALREADY.contains(&error.code) => Ok(None),
        // What a view names is looked at before the view.
        Err(mysql_async::Error::Server(error)) => Ok((!is_view_there(conn, definition).await?).then_some(error)),
        Err(error) => Err(error),
    }
}

async fn is_view_there(conn: &mut Conn, definition: &Definition) -> mysql_async::Result<bool> {
    let Some(own) = Names::of(&definition.sql.0).own else { return Ok(false) };
    conn.query_drop("SET NAMES utf8mb4").await?;
    let sql = "SELECT 1 FROM information_schema.VIEWS WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?";
    let found: Option<u8> = conn.exec_first(sql, (&definition.schema, own.name())).await?;
    Ok(found.is_some())
}

async fn make_one(conn: &mut Conn, definition: &Definition) -> mysql_async::Result<()> {
    set_session(conn, definition).await?;
    conn.query_drop(definition.sql.0.as_slice()).await
}

async fn set_session(conn: &mut Conn, definition: &Definition) -> mysql_async::Result<()> {
    conn.query_drop("SET NAMES utf8mb4").await?;
    conn.query_drop("SET SESSION sql_mode = '', time_zone = '+00:00', timestamp = DEFAULT").await?;
    if !definition.schema.is_empty() {
        conn.query_drop(format!("USE {}", quoted(&definition.schema))).await?;
    }
    for (name, value) in &definition.settings {
        // A time is a number.
        let value = if name == "timestamp" { value.clone() } else { format!("'{}'", value.replace('\'', "''")) };
        conn.query_drop(format!("SET SESSION {} = {value}", quoted(name))).await?;
    }
    Ok(())
}

/// Puts what is named by others behind those: while they are made a stand-in is in its place.
fn users_first(mut failed: Vec<Failed>) -> Vec<Failed> {
    let mut ordered = Vec::new();
    while !failed.is_empty() {
        let is_free = |(definition, _): &Failed| {
            let own = Names::of(&definition.sql.0).own;
            own.is_none_or(|own| !failed.iter().any(|(other, _)| Names::of(&other.sql.0).is_of(&own)))
        };
        // In a circle it does not matter.
        let free = failed.iter().position(is_free).unwrap_or(0);
        ordered.push(failed.remove(free));
    }
    ordered
}

/// Makes a definition with stand-ins for what it names. False if that can't be done. All else is as before when it returns.
async fn make_by_stand_ins(
    conn: &mut Conn,
    definition: &Definition,
    others: &[&Definition],
    is_mariadb: bool,
) -> Result<bool, LoadError> {
    let names = Names::of(&definition.sql.0);
    for kind in KINDS {
        set_session(conn, definition).await?;
        let mut undo = StandIns::default();
        undo.put(conn, &names, kind).await?;
        let error = try_one(conn, definition).await?;
        FailPoint::StoodIn.pass();
        set_session(conn, definition).await?;
        for sql in undo.drops.iter().rev() {
            conn.query_drop(sql.as_slice()).await?;
        }
        if undo.replaced {
            // Those that stay out are looked at by the caller.
            rounds(conn, others.iter().filter(|other| !std::ptr::eq(**other, definition)).copied().collect()).await?;
        }
        if error.is_none() && is_as_on_master(conn, definition, &names, is_mariadb).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a view came out as it is on the master: columns of other types may make another one of it, which is removed.
async fn is_as_on_master(
    conn: &mut Conn,
    definition: &Definition,
    names: &Names<'_>,
    is_mariadb: bool,
) -> Result<bool, LoadError> {
    let Some(own) = names.own else { return Ok(true) };
    conn.query_drop("SET NAMES utf8mb4").await?;
    // A view of the default schema is shown without it.
    conn.query_drop("USE towline").await?;
    definitions::set_up(conn).await?;
    conn.query_drop("SET SESSION character_set_results = NULL").await?;
    let made = views::read(conn, is_mariadb, &definition.schema, &own.name()).await;
    if made.is_ok_and(|made| made.sql == definition.sql && made.settings == definition.settings) {
        return Ok(true);
    }
    set_session(conn, definition).await?;
    conn.query_drop(statement(&[b"DROP VIEW ", own.whole])).await?;
    Ok(false)
}

fn statement(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// What stands in for a definition's names.
#[derive(Default)]
struct StandIns {
    /// What removes it, the last one first.
    drops: Vec<Vec<u8>>,
    /// Whether something that the master has is removed too, and must be made again.
    replaced: bool,
}

impl StandIns {
    async fn put(&mut self, conn: &mut Conn, names: &Names<'_>, kind: &str) -> mysql_async::Result<()> {
        for parent in &names.parents {
            // A foreign key that doesn't fit its parent any more is made only before it.
            self.replaced |= refused(conn.query_drop(statement(&[b"DROP TABLE ", parent])).await)?.is_none();
        }
        let is_free = |place: &Place| !UNTOUCHED.contains(&&*place.schema.to_ascii_lowercase());
        // A table whose default names one takes no row without it.
        for place in names.sequences.iter().filter(|place| is_free(place) && names.own.is_some()) {
            self.create(conn, place, &[b"CREATE SEQUENCE ", place.whole], b"DROP SEQUENCE ").await?;
        }
        for (place, arguments) in names.functions.iter().filter(|(place, _)| is_free(place)) {
            let arguments = (0..*arguments).map(|n| format!("a{n} INT")).collect::<Vec<_>>().join(", ");
            let rest = format!("({arguments}) RETURNS INT DETERMINISTIC NO SQL RETURN 1");
            self.create(conn, place, &[b"CREATE FUNCTION ", place.whole, rest.as_bytes()], b"DROP FUNCTION ").await?;
        }
        let there = |error: &ServerError| THERE_ALREADY.contains(&error.code);
        let parts = table_parts(names, kind);
        let all = parts.join(b", ".as_slice());
        for place in names.tables.iter().filter(|place| is_free(place) && names.own != Some(**place)) {
            let create: &[&[u8]] = &[b"CREATE TABLE ", place.whole, b" (", &all, b") ENGINE=InnoDB"];
            if self.create(conn, place, create, b"DROP TABLE ").await?.is_some_and(|error| there(&error)) {
                self.widen(conn, place, &parts, create).await?;
            }
            if names.versions {
                refused(conn.query_drop(statement(&[b"ALTER TABLE ", place.whole, b" ADD SYSTEM VERSIONING"])).await)?;
            }
        }
        for place in names.views.iter().filter(|place| is_free(place)) {
            const UNDER: &[u8] = b".`towline stand-in`";
            let under = Place { schema: place.schema, whole: &statement(&[place.schema, UNDER]) };
            let create: &[&[u8]] = &[b"CREATE TABLE ", under.whole, b" (", &all, b") ENGINE=InnoDB"];
            self.create(conn, &under, create, b"DROP TABLE ").await?;
            let create: &[&[u8]] = &[b"CREATE VIEW ", place.whole, b" AS SELECT * FROM ", under.whole];
            if self.create(conn, place, create, b"DROP VIEW ").await?.is_some_and(|error| there(&error)) {
                self.replaced |= refused(conn.query_drop(statement(&[b"DROP VIEW ", place.whole])).await)?.is_none();
                self.create(conn, place, create, b"DROP VIEW ").await?;
            }
        }
        Ok(())
    }

    /// Creates one, in a schema that is created if it is not there. Returns what the server says if it does not.
    async fn create(
        &mut self,
        conn: &mut Conn,
        place: &Place<'_>,
        create: &[&[u8]],
        drop: &[u8],
    ) -> mysql_async::Result<Option<ServerError>> {
        let mut error = refused(conn.query_drop(statement(create)).await)?;
        if error.as_ref().is_some_and(|error| error.code == UNKNOWN_SCHEMA)
            && refused(conn.query_drop(statement(&[b"CREATE DATABASE ", place.schema])).await)?.is_none()
        {
            self.drops.push(statement(&[b"DROP DATABASE ", place.schema]));
            error = refused(conn.query_drop(statement(create)).await)?;
        }
        if error.is_none() {
            self.drops.push(statement(&[drop, place.whole]));
        }
        Ok(error)
    }

    /// Gives a table what it lacks; a view gives way to a table. Neither stays.
    async fn widen(
        &mut self,
        conn: &mut Conn,
        place: &Place<'_>,
        parts: &[Vec<u8>],
        create: &[&[u8]],
    ) -> mysql_async::Result<()> {
        for part in parts {
            let error = refused(conn.query_drop(statement(&[b"ALTER TABLE ", place.whole, b" ADD ", part])).await)?;
            if error.is_some_and(|error| IS_NO_TABLE.contains(&error.code)) {
                if refused(conn.query_drop(statement(&[b"DROP VIEW ", place.whole])).await)?.is_none() {
                    self.replaced = true;
                    self.create(conn, place, create, b"DROP TABLE ").await?;
                }
                return Ok(());
            }
        }
        self.replaced = true;
        self.drops.push(statement(&[b"DROP TABLE ", place.whole]));
        Ok(())
    }
}

/// The columns and keys of a stand-in; one at least.
fn table_parts(names: &Names<'_>, kind: &str) -> Vec<Vec<u8>> {
    const FIRST: &[u8] = b"`towline`";
    let mut parts = vec![statement(&[FIRST, b" INT"])];
    let mut known = vec![FIRST.to_vec()];
    for column in &names.columns {
        let lower = column.to_ascii_lowercase();
        if !known.contains(&lower) {
            parts.push(statement(&[column, b" ", kind.as_bytes()]));
            known.push(lower);
        }
    }
    for key in &names.keys {
        let kind: &[&[u8]] = if *key == b"`PRIMARY`" { &[b"PRIMARY KEY ("] } else { &[b"KEY ", key, b" ("] };
        parts.push(statement(&[&statement(kind), FIRST, b")"]));
    }
    parts
}

/// What a server says that does not do something.
fn refused(outcome: mysql_async::Result<()>) -> mysql_async::Result<Option<ServerError>> {
    match outcome {
        Ok(()) => Ok(None),
        Err(mysql_async::Error::Server(error)) => Ok(Some(error)),
        Err(error) => Err(error),
    }
}

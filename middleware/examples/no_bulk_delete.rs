//! Refuses `DELETE` without `WHERE` on the tables that its options name, or on all, and counts who tried. The README's
//! layer, with options, figures and the cases that it must see through.

use std::sync::Arc;

use serde::Deserialize;
use towline::classify::SqlClassifier;
use towline_middleware::{
    Command, LayerHome, LayerOptions, LayerProblem, LayerSetup, Next, Reply, Role, ServerError, Session, Token,
    TokenKind, UserLayer, from_fn, testing,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    /// Names without schemas; empty for all tables.
    #[serde(default)]
    tables: Vec<String>,
}

fn no_bulk_delete(setup: &mut LayerSetup) -> Result<impl UserLayer + use<>, LayerProblem> {
    let options: Arc<Options> = Arc::new(setup.options()?);
    let refused = setup.counters("refused", "Deletes without WHERE that were refused, by user.", "user");
    Ok(from_fn(move |command: Command, next: Next| {
        let (options, refused) = (options.clone(), refused.clone());
        async move {
            let session = command.session();
            if command.intent().may_write()
                && concerns(&options.tables, &command)
                && is_bulk_delete(session, command.sql())
            {
                refused.of(&session.user()).increment();
                return Ok(Reply::err(ServerError::new(1175, b"HY000", "DELETE without WHERE is not allowed here")));
            }
            next.run(command).await
        }
    }))
}

/// Whether it may name one of the tables: none known is not none named.
fn concerns(tables: &[String], command: &Command) -> bool {
    let named = command.plan().map_or(&[][..], |plan| &plan.tables);
    tables.is_empty() || named.is_empty() || named.iter().any(|(_, table)| tables.contains(table))
}

/// Whether it has a DELETE without WHERE, or can't be seen to have none.
fn is_bulk_delete(session: &Session, sql: &[u8]) -> bool {
    // As the server cuts it: comments are gone, and all of a string is one token.
    let Some(tokens) = session.tokens(sql) else {
        return sql.to_ascii_uppercase().windows(6).any(|word| word == b"DELETE");
    };
    tokens.split(|token| token.kind == TokenKind::Semicolon).any(|statement| {
        let begins = |word: &str| statement.first().is_some_and(|token| token.is_word(sql, word));
        match statement {
            // SQL in SQL; what is no plain string can't be seen.
            [_, _, _, text] if begins("PREPARE") => runs_bulk_delete(session, text, sql),
            [_, immediate, text] if immediate.is_word(sql, "IMMEDIATE") => runs_bulk_delete(session, text, sql),
            [_, immediate, ..] if begins("PREPARE") || immediate.is_word(sql, "IMMEDIATE") => true,
            // They name the word, and delete nothing.
            _ if ["ALTER", "CREATE", "GRANT", "REVOKE"].into_iter().any(begins) => false,
            _ => lacks_where(statement, sql),
        }
    })
}

fn runs_bulk_delete(session: &Session, text: &Token, sql: &[u8]) -> bool {
    text.text(sql).is_none_or(|text| is_bulk_delete(session, &text))
}

/// Whether there is a DELETE with no WHERE behind it that is its own, and not a subquery's.
fn lacks_where(statement: &[Token], sql: &[u8]) -> bool {
    let Some(delete) = statement.iter().position(|token| token.is_word(sql, "DELETE")) else { return false };
    let mut depth = 0;
    !statement[delete..].iter().any(|token| {
        depth += i32::from(token.kind == TokenKind::Open) - i32::from(token.kind == TokenKind::Close);
        depth == 0 && token.is_word(sql, "WHERE")
    })
}

fn layer(options: &str, home: &LayerHome) -> Result<impl UserLayer + use<>, LayerProblem> {
    let options: LayerOptions = serde_json::from_str(options)?;
    no_bulk_delete(&mut LayerSetup::new("no_bulk_delete", options, home.clone()))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), LayerProblem> {
    let home = LayerHome::new(Role::Master);
    testing::conformance(|| layer("{}", &home).expect("good options")).await;
    // With the classifier of a node; the one of `testing::command` tells no tokens.
    let session = testing::session_with(Role::Master, Arc::new(SqlClassifier::for_server("10.11.6-MariaDB")));
    let allowed = || testing::FakeRouter::new([Reply::ok(Default::default())]);

    let refused = [
        "DELETE FROM item",
        "/* WHERE */ dElEtE/**/from item -- WHERE",
        "SELECT 1; DELETE FROM item",
        "DELETE item FROM item JOIN other",
        "DELETE FROM item ORDER BY (SELECT 1 FROM other WHERE 1)",
        "/*!50000 DELETE FROM item */",
        "ANALYZE DELETE FROM item",
        "BEGIN NOT ATOMIC DELETE FROM item; END",
        "PREPARE p FROM 'DELETE FROM item'",
        "PREPARE p FROM @text",
        "EXECUTE IMMEDIATE 'DELETE FROM item'",
        "EXECUTE IMMEDIATE CONCAT('DEL', 'ETE FROM item')",
    ];
    for sql in refused {
        let router = testing::FakeRouter::default();
        let reply = testing::run(layer("{}", &home)?, router.clone(), Command::query(&session, sql)).await?;
        assert_eq!(reply.server_error().map(|error| error.code), Some(1175), "{sql}");
        assert_eq!(router.calls(), 0, "{sql}");
        let reply = testing::run_prepared(layer("{}", &home)?, testing::FakeRouter::default(), &session, sql).await?;
        assert_eq!(reply.server_error().map(|error| error.code), Some(1175), "{sql}");
    }
    for sql in [
        "DELETE FROM item WHERE(id=1)",
        "PREPARE p FROM 'DELETE FROM item WHERE id = ?'",
        "INSERT INTO item VALUES (1, 'DELETE')",
        "ALTER TABLE item ADD FOREIGN KEY (a) REFERENCES other (a) ON DELETE CASCADE",
    ] {
        let reply = testing::run(layer("{}", &home)?, allowed(), Command::query(&session, sql)).await?;
        assert_eq!(reply.server_error(), None, "{sql}");
        let reply = testing::run_prepared(layer("{}", &home)?, allowed(), &session, sql).await?;
        assert_eq!(reply.server_error(), None, "{sql}");
    }
    let elsewhere = layer(r#"{"tables": ["other"]}"#, &home)?;
    let reply = testing::run(elsewhere, allowed(), Command::query(&session, "DELETE FROM item")).await?;
    assert_eq!(reply.server_error(), None);

    let counted = home.metrics.samples();
    assert_eq!(counted[0].labels, [("user", "app".to_owned())]);
    assert_eq!(counted[0].value, 2 * refused.len() as u64);
    println!("no_bulk_delete conforms, and refuses what it should");
    Ok(())
}

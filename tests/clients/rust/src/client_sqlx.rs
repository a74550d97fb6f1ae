//! sqlx: text by `raw_sql`, and prepared in the binary protocol.

use futures_util::TryStreamExt;
use serde_json::{Value, json};
use sqlx::{
    Column, ConnectOptions, Connection, Either, Error, Executor, Row, TypeInfo, ValueRef,
    mysql::{MySqlConnectOptions, MySqlConnection, MySqlDatabaseError, MySqlQueryResult, MySqlRow, MySqlSslMode},
};

use crate::{Client, Failure, Outcome, Parameter, not_offered, parameter, shown, shown_rows};

pub(crate) struct Session {
    connection: MySqlConnection,
    id: Option<String>,
}

fn failed(error: Error) -> Failure {
    match error.as_database_error().and_then(|error| error.try_downcast_ref::<MySqlDatabaseError>()) {
        Some(error) => Failure::Error(json!([error.number(), error.code(), error.message()])),
        None => Failure::Error(json!([error.to_string()])),
    }
}

fn cell(row: &MySqlRow, place: usize) -> Value {
    let value = row.try_get_raw(place).expect("a column");
    let kind = value.type_info().name().to_owned();
    if value.is_null() {
        return format!("{kind} NULL").into();
    }
    let bytes: Result<Vec<u8>, _> = row.try_get_unchecked(place);
    let text = bytes.map_or_else(|error| error.to_string(), |bytes| format!("{bytes:?}"));
    shown(format!("{kind} {text}"))
}

#[derive(Default)]
struct Sets(Vec<Value>, Vec<MySqlRow>);

impl Sets {
    fn take(&mut self, part: Either<MySqlQueryResult, MySqlRow>) {
        match part {
            Either::Right(row) => self.1.push(row),
            Either::Left(result) => {
                let rows = std::mem::take(&mut self.1);
                let columns: Vec<_> = rows.first().map_or_else(Vec::new, |row| {
                    row.columns().iter().map(|column| format!("{} {}", column.name(), column.type_info())).collect()
                });
                let rows = rows.iter().map(|row| (0..row.len()).map(|place| cell(row, place)).collect()).collect();
                self.0.push(json!({
                    "columns": columns, "rows": shown_rows(rows), "affected": result.rows_affected(), "insert_id": result.last_insert_id(),
                }));
            }
        }
    }
}

impl Client for Session {
    async fn connect(login: &Value) -> Result<Self, Failure> {
        let offered = |option: &str, value: bool| login.get(option).is_none() || login[option] == json!(value);
        if !(offered("found_rows", true)
            && offered("multi", true)
            && offered("compress", false)
            && offered("local_infile", false))
            || login.get("attributes").is_some()
        {
            return Err(not_offered("option"));
        }
        let mut options = MySqlConnectOptions::new()
            .host(login["host"].as_str().expect("a host"))
            .port(login["port"].as_u64().expect("a port") as u16)
            .username(login["user"].as_str().expect("a name"))
            .password(login["password"].as_str().expect("a password"))
            .charset(login["charset"].as_str().unwrap_or("utf8mb4"))
            .ssl_mode(MySqlSslMode::Disabled)
            .disable_statement_logging();
        if let Some(schema) = login["schema"].as_str() {
            options = options.database(schema);
        }
        if login["tls"] == json!(true) {
            options = options.ssl_mode(MySqlSslMode::VerifyIdentity).ssl_ca(login["ca"].as_str().expect("a path"));
        }
        let mut connection = MySqlConnection::connect_with(&options).await.map_err(failed)?;
        let id =
            sqlx::query_scalar::<_, u64>("SELECT CAST(CONNECTION_ID() AS UNSIGNED)").fetch_one(&mut connection).await;
        Ok(Self { connection, id: id.ok().map(|id| id.to_string()) })
    }

    async fn query(&mut self, sql: &str) -> Outcome {
        let mut sets = Sets::default();
        let mut stream = self.connection.fetch_many(sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())));
        while let Some(part) = stream.try_next().await.map_err(failed)? {
            sets.take(part);
        }
        Ok(json!(sets.0))
    }

    async fn prepare(&mut self, sql: &str, executions: &[Value]) -> Outcome {
        let mut seen = Vec::new();
        for execution in executions {
            let mut query = sqlx::query(sqlx::AssertSqlSafe(sql.to_owned()));
            for value in execution.as_array().expect("values") {
                query = match parameter(value) {
                    Parameter::Null => query.bind(None::<i64>),
                    Parameter::Int(number) => query.bind(number),
                    Parameter::Float(number) => query.bind(number),
                    Parameter::Text(text) => query.bind(text),
                    Parameter::Bytes(bytes) => query.bind(bytes),
                };
            }
            let mut sets = Sets::default();
            let mut stream = self.connection.fetch_many(query);
            while let Some(part) = stream.try_next().await.map_err(failed)? {
                sets.take(part);
            }
            seen.push(json!(sets.0));
        }
        Ok(json!(seen))
    }

    async fn other(&mut self, kind: &str, _: &Value) -> Outcome {
        match kind {
            "ping" => self.connection.ping().await.map(|()| Value::Null).map_err(failed),
            "begin" => self.query("BEGIN").await,
            "commit" => self.query("COMMIT").await,
            "rollback" => self.query("ROLLBACK").await,
            other => Err(not_offered(other)),
        }
    }

    async fn connection_id(&mut self) -> String {
        self.id.clone().expect("an id")
    }

    async fn close(self) {
        let _ = self.connection.close().await;
    }
}

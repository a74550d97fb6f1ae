//! mysql_async: text, and prepared in the binary protocol.

use std::path::PathBuf;

use mysql_async::{Column, Conn, Error, Opts, OptsBuilder, QueryResult, Row, SslOpts, Value as Sql, prelude::*};
use serde_json::{Value, json};

use crate::{Client, Failure, Outcome, Parameter, not_offered, parameter, shown, shown_rows};

pub(crate) struct Session(Conn);

fn failed(error: Error) -> Failure {
    match error {
        Error::Server(error) => Failure::Error(json!([error.code, error.state, error.message])),
        other => Failure::Error(json!([other.to_string()])),
    }
}

fn column(column: &Column) -> Value {
    json!([
        column.name_str(),
        column.org_name_str(),
        column.table_str(),
        column.org_table_str(),
        column.schema_str(),
        column.character_set(),
        column.column_length(),
        format!("{:?}", column.column_type()),
        column.flags().bits(),
        column.decimals(),
    ])
}

async fn outcome<P: Protocol>(mut result: QueryResult<'_, '_, P>) -> Outcome {
    let mut sets = Vec::new();
    loop {
        let columns: Option<Vec<Value>> = result.columns().map(|columns| columns.iter().map(column).collect());
        let rows: Vec<Row> = result.collect().await.map_err(failed)?;
        let rows = rows
            .into_iter()
            .map(|row| row.unwrap().into_iter().map(|value| shown(format!("{value:?}"))).collect())
            .collect();
        sets.push(json!({
            "columns": columns, "rows": shown_rows(rows), "affected": result.affected_rows(), "insert_id": result.last_insert_id(),
            "warnings": result.warnings(), "info": result.info(),
        }));
        if result.is_empty() {
            break;
        }
    }
    Ok(json!(sets))
}

impl From<Parameter> for Sql {
    fn from(parameter: Parameter) -> Self {
        match parameter {
            Parameter::Null => Sql::NULL,
            Parameter::Int(number) => Sql::Int(number),
            Parameter::Float(number) => Sql::Double(number),
            Parameter::Text(text) => Sql::Bytes(text.into_bytes()),
            Parameter::Bytes(bytes) => Sql::Bytes(bytes),
        }
    }
}

fn values(execution: &Value) -> Vec<Sql> {
    execution.as_array().expect("values").iter().map(|value| parameter(value).into()).collect()
}

impl Client for Session {
    async fn connect(login: &Value) -> Result<Self, Failure> {
        if login.get("charset").is_some() || login["multi"] == json!(false) || login.get("attributes").is_some() {
            return Err(not_offered("option"));
        }
        let mut opts = OptsBuilder::default()
            .ip_or_hostname(login["host"].as_str().expect("a host"))
            .tcp_port(login["port"].as_u64().expect("a port") as u16)
            .user(login["user"].as_str())
            .pass(login["password"].as_str())
            .db_name(login["schema"].as_str())
            .client_found_rows(login["found_rows"] == json!(true))
            .prefer_socket(false);
        if login["compress"] == json!(true) {
            opts = opts.compression(Some(mysql_async::Compression::fast()));
        }
        if login["tls"] == json!(true) {
            let ca = PathBuf::from(login["ca"].as_str().expect("a path"));
            opts = opts.ssl_opts(Some(SslOpts::default().with_root_certs(vec![ca.into()])));
        }
        if login["local_infile"] == json!(true) {
            opts = opts.local_infile_handler(Some(mysql_async::WhiteListFsHandler::new([login["file"]
                .as_str()
                .expect("a path")])));
        }
        Conn::new(Opts::from(opts)).await.map(Self).map_err(failed)
    }

    async fn query(&mut self, sql: &str) -> Outcome {
        outcome(self.0.query_iter(sql).await.map_err(failed)?).await
    }

    async fn prepare(&mut self, sql: &str, executions: &[Value]) -> Outcome {
        let statement = self.0.prep(sql).await.map_err(failed)?;
        let mut seen = Vec::new();
        for execution in executions {
            seen.push(outcome(self.0.exec_iter(&statement, values(execution)).await.map_err(failed)?).await?);
        }
        self.0.close(statement).await.map_err(failed)?;
        Ok(json!(seen))
    }

    async fn other(&mut self, kind: &str, value: &Value) -> Outcome {
        match kind {
            "greeting" => Ok(json!([format!("{:?}", self.0.server_version())])),
            "many" => {
                let executions = value["params"].as_array().expect("parameters");
                self.0
                    .exec_batch(value["many"].as_str().expect("SQL"), executions.iter().map(values))
                    .await
                    .map_err(failed)?;
                Ok(json!([self.0.affected_rows(), self.0.last_insert_id()]))
            }
            "ping" => self.0.ping().await.map(|()| Value::Null).map_err(failed),
            "reset" => self.0.reset().await.map(Value::from).map_err(failed),
            "change_user" => {
                let opts = mysql_async::ChangeUserOpts::default()
                    .with_user(value["user"].as_str().map(str::to_owned))
                    .with_pass(value["password"].as_str().map(str::to_owned))
                    .with_db_name(value["schema"].as_str().map(str::to_owned));
                self.0.change_user(opts).await.map(|()| Value::Null).map_err(failed)
            }
            "begin" => self.query("BEGIN").await,
            "commit" => self.query("COMMIT").await,
            "rollback" => self.query("ROLLBACK").await,
            other => Err(not_offered(other)),
        }
    }

    async fn connection_id(&mut self) -> String {
        self.0.id().to_string()
    }

    async fn close(self) {
        let _ = self.0.disconnect().await;
    }
}

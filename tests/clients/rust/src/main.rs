//! Runs the cases through one Rust driver and prints what it showed, one case a line. As python/session.py.

use std::{collections::HashMap, env, fs};

use serde_json::{Value, json};

mod client_mysql_async;
mod client_sqlx;

/// What a step came to: something seen, an error as the driver tells it, or nothing that the driver offers.
enum Failure {
    NotOffered(String),
    Error(Value),
}

type Outcome = Result<Value, Failure>;

fn not_offered(kind: &str) -> Failure {
    Failure::NotOffered(kind.to_owned())
}

/// One session of a driver.
trait Client: Sized {
    async fn connect(login: &Value) -> Result<Self, Failure>;
    async fn query(&mut self, sql: &str) -> Outcome;
    async fn prepare(&mut self, sql: &str, executions: &[Value]) -> Outcome;
    async fn other(&mut self, kind: &str, value: &Value) -> Outcome;
    async fn connection_id(&mut self) -> String;
    async fn close(self);
}

/// A parameter of a case.
enum Parameter {
    Null,
    Int(i64),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
}

fn parameter(value: &Value) -> Parameter {
    match value {
        Value::Null => Parameter::Null,
        Value::Number(number) => {
            number.as_i64().map_or_else(|| Parameter::Float(number.as_f64().expect("a double")), Parameter::Int)
        }
        Value::String(text) => Parameter::Text(text.clone()),
        Value::Object(object) => {
            let (kind, value) = object.iter().next().expect("a kind");
            let times = |value: &Value| value[1].as_u64().expect("a count") as usize;
            match kind.as_str() {
                "bytes" => Parameter::Bytes(unhex(value.as_str().expect("hex"))),
                "repeat" => Parameter::Text(value[0].as_str().expect("text").repeat(times(value))),
                "repeat_bytes" => Parameter::Bytes(unhex(value[0].as_str().expect("hex")).repeat(times(value))),
                _ => Parameter::Text(value.as_str().expect("text").to_owned()),
            }
        }
        other => panic!("not a parameter: {other}"),
    }
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
}

/// A value, short.
fn shown(text: String) -> Value {
    if text.len() <= 200 {
        return text.into();
    }
    // FNV-1a: the values are equal or they are not, nobody forges them.
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{}… {} {hash:016x}", text.chars().take(40).collect::<String>(), text.len()).into()
}

fn shown_rows(rows: Vec<Vec<Value>>) -> Value {
    if rows.len() <= 20 {
        return json!(rows);
    }
    json!({"rows": rows.len(), "first": rows[0], "all": shown(json!(rows).to_string())})
}

struct Sessions<'plan, C> {
    plan: &'plan Value,
    options: &'plan Value,
    opened: HashMap<String, C>,
}

impl<C: Client> Sessions<'_, C> {
    async fn get(&mut self, name: &str) -> Result<&mut C, Failure> {
        if !self.opened.contains_key(name) {
            let mut login = self.plan.as_object().expect("a plan").clone();
            login.remove("cases");
            login.extend(self.options[name].as_object().cloned().unwrap_or_default());
            self.opened.insert(name.to_owned(), C::connect(&Value::Object(login)).await?);
        }
        Ok(self.opened.get_mut(name).expect("just opened"))
    }

    async fn filled(&mut self, sql: &str) -> Result<String, Failure> {
        let mut filled = sql.to_owned();
        while let Some(at) = filled.find("{x:") {
            let end = at + filled[at..].find('}').expect("a closed brace");
            let run = "x".repeat(filled[at + 3..end].parse().expect("a count"));
            filled.replace_range(at..=end, &run);
        }
        for (mark, name) in [("{id}", "a"), ("{id:b}", "b")] {
            if filled.contains(mark) {
                let id = self.get(name).await?.connection_id().await;
                filled = filled.replace(mark, &id);
            }
        }
        Ok(filled)
    }

    async fn step(&mut self, step: &Value) -> Outcome {
        let name = step["on"].as_str().unwrap_or("a").to_owned();
        let sql = step.as_str().or_else(|| step["sql"].as_str());
        if let Some(sql) = sql {
            let sql = self.filled(sql).await?;
            return self.get(&name).await?.query(&sql).await;
        }
        let (kind, value) = step.as_object().expect("a step").iter().next().expect("a kind");
        if kind == "close" {
            if let Some(session) = self.opened.remove(&name) {
                session.close().await;
            }
            return Ok(Value::Null);
        }
        let session = self.get(&name).await?;
        match kind.as_str() {
            "prepare" => {
                session.prepare(value.as_str().expect("SQL"), step["params"].as_array().expect("parameters")).await
            }
            "many" => session.other(kind, step).await,
            _ => session.other(kind, value).await,
        }
    }
}

async fn run<C: Client>(plan: &Value) {
    let mut cleaner = Sessions::<C> { plan, options: &Value::Null, opened: HashMap::new() };
    for case in plan["cases"].as_array().expect("cases") {
        for statement in plan["clean"].as_array().expect("statements") {
            let Ok(session) = cleaner.get("a").await else { panic!("no login") };
            let _ = session.query(statement.as_str().expect("SQL")).await;
        }
        let mut sessions = Sessions::<C> { plan, options: &case["connect"], opened: HashMap::new() };
        let mut steps = Vec::new();
        let mut missing = None;
        for step in case["steps"].as_array().expect("steps") {
            match sessions.step(step).await {
                Ok(seen) => steps.push(json!({"seen": seen})),
                Err(Failure::Error(error)) => steps.push(json!({"error": error})),
                Err(Failure::NotOffered(kind)) => {
                    missing = Some(kind);
                    break;
                }
            }
        }
        for (_, session) in sessions.opened.drain() {
            session.close().await;
        }
        let line = match missing {
            Some(kind) => json!({"not_offered": kind}),
            None => json!({"steps": steps}),
        };
        println!("{{\"case\": {}, {}", case["name"], &line.to_string()[1..]);
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = env::args().collect();
    let plan: Value = serde_json::from_str(&fs::read_to_string(&arguments[2]).expect("a plan")).expect("JSON");
    match arguments[1].as_str() {
        "mysql_async" => run::<client_mysql_async::Session>(&plan).await,
        "sqlx" => run::<client_sqlx::Session>(&plan).await,
        other => panic!("no client {other}"),
    }
}

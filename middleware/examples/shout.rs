//! Turns the text of the columns that its options name into capitals, and counts how often.

use serde::Deserialize;
use towline_middleware::{
    Command, LayerHome, LayerOptions, LayerProblem, LayerSetup, Next, Role, ServerError, UserLayer, from_fn,
    rows::Value, testing,
};

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    columns: Vec<String>,
}

fn shout(setup: &mut LayerSetup) -> Result<impl UserLayer + use<>, LayerProblem> {
    let options: Options = setup.options()?;
    let shouted = setup.counter("shouted", "Values turned into capitals.", &[]);
    Ok(from_fn(move |command: Command, next: Next| {
        let (columns, shouted) = (options.columns.clone(), shouted.clone());
        async move {
            let reply = next.run(command.clone()).await?;
            Ok(reply.map_rows(&command, move |row| {
                for index in 0..row.columns().len() {
                    let Value::Bytes(text) = row.get(index) else { continue };
                    if columns.contains(&row.columns()[index].name) {
                        let loud = String::from_utf8_lossy(&text).to_uppercase();
                        row.set(index, loud).map_err(|error| ServerError::new(1105, b"HY000", error.to_string()))?;
                        shouted.increment();
                    }
                }
                Ok(())
            }))
        }
    }))
}

fn layer(options: &str) -> Result<impl UserLayer + use<>, LayerProblem> {
    let options: LayerOptions = serde_json::from_str(options)?;
    shout(&mut LayerSetup::new("shout", options, LayerHome::new(Role::Master)))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), LayerProblem> {
    testing::conformance(|| layer(r#"{"columns": ["name"]}"#).expect("good options")).await;
    let wrong = layer(r#"{"column": ["name"]}"#).err().expect("a wrong key").to_string();
    assert!(wrong.contains("did you mean `columns`?"), "{wrong}");
    println!("shout conforms");
    Ok(())
}

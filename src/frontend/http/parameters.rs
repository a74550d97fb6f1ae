//! The parameters of a GET, made into the body that a POST would have.

use serde_json::value::RawValue;

use super::{json::InvalidJson, json_command::InvalidCommand};

/// The body of the command that a GET's parameters ask for: JSON with the same names.
///
/// `attrs`, `order` and `columns` are JSON lists or words between commas, `query` is JSON, the others are plain text.
///
/// # Errors
/// A parameter is not valid JSON where it has to be.
pub(crate) fn body_of_parameters(parameters: &[(String, String)]) -> Result<String, InvalidCommand> {
    let mut body = String::from("{");
    for (index, (name, value)) in parameters.iter().enumerate() {
        if index > 0 {
            body.push(',');
        }
        body.push_str(&serde_json::Value::from(name.as_str()).to_string());
        body.push(':');
        // Read once here, so that no text can end the object and go on with members of its own.
        let is_list = matches!(name.as_str(), "attrs" | "order" | "columns");
        if name == "query" || is_list && value.starts_with('[') {
            let raw: &RawValue = serde_json::from_str(value).map_err(InvalidJson::Syntax)?;
            body.push_str(raw.get());
        } else if is_list {
            body.push_str(&serde_json::Value::from_iter(value.split(',').map(str::trim)).to_string());
        } else if matches!(name.as_str(), "limit" | "offset") && value.parse::<u64>().is_ok() {
            body.push_str(value.trim_start_matches('+'));
        } else {
            body.push_str(&serde_json::Value::from(value.as_str()).to_string());
        }
    }
    body.push('}');
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::http::json_command::{Action, JsonCommand, Request};

    #[test]
    fn parameters_are_a_command() {
        let body = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            body_of_parameters(&pairs)
        };
        let text = body(&[
            ("dbname", "shop"),
            ("table", "it\"em"),
            ("attrs", "id, name"),
            ("query", r#"{"id": {"gt": 1}}"#),
            ("order", r#"["-id"]"#),
            ("limit", "5"),
        ]);
        let text = text.unwrap();
        let Ok(Request::One(JsonCommand::Statement(sql))) = Request::parse(text.as_bytes(), Some(Action::Select))
        else {
            panic!("{text}");
        };
        assert_eq!(sql, "SELECT `id`, `name` FROM `shop`.`it\"em` WHERE `id` > 1 ORDER BY `id` DESC LIMIT 5");
        assert!(body(&[("query", r#"{}, "action": "delete""#)]).is_err(), "a parameter added a member");
        let twice = body(&[("limit", "5"), ("limit", "6")]).unwrap();
        assert!(Request::parse(twice.as_bytes(), Some(Action::Select)).is_err());
    }
}

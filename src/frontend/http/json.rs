//! JSON as clients write it: objects with a closed list of members, and scalars whose digits survive.
//!
//! Numbers are kept as they are written, so that no decimal passes through a float; an object that names a member twice
//! is refused, since nobody can tell which one was meant.

use std::{borrow::Cow, fmt};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// What a client wrote that is not understood. All of it is the client's to mend (400).
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidJson {
    /// Not JSON at all, or cut off.
    #[error("the body is not valid JSON")]
    Syntax(#[source] serde_json::Error),
    /// A member that the place does not have.
    #[error("{place} has no field `{field}`{}", suggestion(nearest.as_deref()))]
    UnknownField {
        /// Where, as in `insert`.
        place: String,
        /// The member.
        field: String,
        /// The known one that looks most alike.
        nearest: Option<String>,
    },
    /// A member that has to be there.
    #[error("{place} needs the field `{field}`")]
    MissingField {
        /// Where.
        place: String,
        /// The member.
        field: &'static str,
    },
    /// A value of another kind than wanted.
    #[error("`{field}` must be {expected}, not {found}")]
    WrongKind {
        /// The member.
        field: String,
        /// What is wanted.
        expected: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// A `{"base64": …}` whose text is not base64.
    #[error("`{field}` has a `base64` that is not valid base64")]
    Base64 {
        /// The member.
        field: String,
        /// What is wrong with it.
        #[source]
        source: base64::DecodeError,
    },
}

/// The end of a message about an unknown word.
pub(crate) fn suggestion(nearest: Option<&str>) -> String {
    nearest.map(|word| format!("; did you mean `{word}`?")).unwrap_or_default()
}

/// The known word that looks most like `word`, if one does.
pub(crate) fn nearest(word: &str, known: &[&str]) -> Option<String> {
    known
        .iter()
        .map(|candidate| (strsim::normalized_damerau_levenshtein(word, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.5)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| (*candidate).to_owned())
}

/// One JSON value. Lists and objects are kept as text and read when somebody asks.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number as it was written. JSON's numbers are SQL's, too.
    Number(&'a str),
    /// A string.
    Text(Cow<'a, str>),
    /// `{"base64": …}`: bytes.
    Binary(Vec<u8>),
    /// A list or another object, as it was written.
    Nested(&'a str),
}

impl<'a> Value<'a> {
    /// Reads one value; `field` names it in errors.
    ///
    /// # Errors
    /// A `{"base64": …}` that is none.
    pub(crate) fn read(field: &str, raw: &'a RawValue) -> Result<Self, InvalidJson> {
        let text = raw.get();
        Ok(match text.as_bytes().first() {
            Some(b'n') => Self::Null,
            Some(b't') => Self::Bool(true),
            Some(b'f') => Self::Bool(false),
            Some(b'"') => Self::Text(string(raw)?),
            Some(b'{') => match Self::binary(field, raw)? {
                Some(bytes) => Self::Binary(bytes),
                None => Self::Nested(text),
            },
            Some(b'[') => Self::Nested(text),
            _ => Self::Number(text),
        })
    }

    /// An object whose only member is a string `base64` stands for bytes; any other object is a JSON document.
    fn binary(field: &str, raw: &'a RawValue) -> Result<Option<Vec<u8>>, InvalidJson> {
        let members = members(raw)?;
        match members.as_slice() {
            [(name, value)] if name == "base64" && value.get().starts_with('"') => BASE64_STANDARD
                .decode(string(value)?.as_bytes())
                .map(Some)
                .map_err(|source| InvalidJson::Base64 { field: field.to_owned(), source }),
            _ => Ok(None),
        }
    }
}

/// What a value is called in error messages.
pub(crate) fn kind(raw: &RawValue) -> &'static str {
    match raw.get().as_bytes().first() {
        Some(b'n') => "null",
        Some(b't' | b'f') => "a boolean",
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "a list",
        _ => "a number",
    }
}

fn wrong_kind(field: &str, expected: &'static str, raw: &RawValue) -> InvalidJson {
    InvalidJson::WrongKind { field: field.to_owned(), expected, found: kind(raw) }
}

fn string(raw: &RawValue) -> Result<Cow<'_, str>, InvalidJson> {
    #[derive(Deserialize)]
    struct Borrowing<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_str::<Borrowing<'_>>(raw.get()).map(|text| text.0).map_err(InvalidJson::Syntax)
}

/// Reads a string.
///
/// # Errors
/// The value is of another kind.
pub(crate) fn text<'a>(field: &str, raw: &'a RawValue) -> Result<Cow<'a, str>, InvalidJson> {
    match raw.get().starts_with('"') {
        true => string(raw),
        false => Err(wrong_kind(field, "a string", raw)),
    }
}

/// Reads a boolean.
///
/// # Errors
/// The value is of another kind.
pub(crate) fn boolean(field: &str, raw: &RawValue) -> Result<bool, InvalidJson> {
    serde_json::from_str(raw.get()).map_err(|_| wrong_kind(field, "true or false", raw))
}

/// Reads a whole number that is not negative.
///
/// # Errors
/// The value is of another kind, negative, broken or above 2^64.
pub(crate) fn count(field: &str, raw: &RawValue) -> Result<u64, InvalidJson> {
    serde_json::from_str(raw.get()).map_err(|_| wrong_kind(field, "a whole number that is not negative", raw))
}

/// Reads a list.
///
/// # Errors
/// The value is of another kind.
pub(crate) fn list<'a>(field: &str, raw: &'a RawValue) -> Result<Vec<&'a RawValue>, InvalidJson> {
    match raw.get().starts_with('[') {
        true => serde_json::from_str(raw.get()).map_err(InvalidJson::Syntax),
        false => Err(wrong_kind(field, "a list", raw)),
    }
}

/// Reads an object's members in the order in which they are written.
///
/// # Errors
/// The value is of another kind, or a name is there twice.
pub(crate) fn object<'a>(field: &str, raw: &'a RawValue) -> Result<Vec<(String, &'a RawValue)>, InvalidJson> {
    match raw.get().starts_with('{') {
        true => members(raw),
        false => Err(wrong_kind(field, "an object", raw)),
    }
}

fn members(raw: &RawValue) -> Result<Vec<(String, &RawValue)>, InvalidJson> {
    serde_json::from_str::<Members<'_>>(raw.get()).map(|members| members.0).map_err(InvalidJson::Syntax)
}

struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members = Vec::new();
        let mut names = std::collections::HashSet::new();
        while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
            if !names.insert(name.clone()) {
                return Err(serde::de::Error::custom(format_args!("the field `{name}` is there twice")));
            }
            members.push((name, value));
        }
        Ok(Members(members))
    }
}

/// The members of one object, taken out one by one; what is left over is unknown.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    place: String,
    members: Vec<(String, &'a RawValue)>,
}

impl<'a> Fields<'a> {
    /// The members of an object that is called `place` in errors.
    pub(crate) fn new(place: impl Into<String>, members: Vec<(String, &'a RawValue)>) -> Self {
        Self { place: place.into(), members }
    }

    /// Takes a member out; `null` counts as absent.
    pub(crate) fn take(&mut self, field: &str) -> Option<&'a RawValue> {
        let index = self.members.iter().position(|(name, _)| name == field)?;
        Some(self.members.swap_remove(index).1).filter(|raw| raw.get() != "null")
    }

    /// Takes out a member that has to be there.
    ///
    /// # Errors
    /// It is not.
    pub(crate) fn need(&mut self, field: &'static str) -> Result<&'a RawValue, InvalidJson> {
        self.take(field).ok_or_else(|| self.missing(field))
    }

    /// The error for a member that has to be there.
    pub(crate) fn missing(&self, field: &'static str) -> InvalidJson {
        InvalidJson::MissingField { place: self.place.clone(), field }
    }

    /// The same members under another name for error messages.
    pub(crate) fn at(self, place: &str) -> Self {
        Self { place: place.to_owned(), members: self.members }
    }

    /// Refuses what was not taken out; `known` are all the members that the place has.
    ///
    /// # Errors
    /// A member is left over.
    pub(crate) fn finish(self, known: &[&str]) -> Result<(), InvalidJson> {
        match self.members.into_iter().next() {
            None => Ok(()),
            Some((field, _)) => {
                let nearest = nearest(&field, known);
                Err(InvalidJson::UnknownField { place: self.place, field, nearest })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> &RawValue {
        serde_json::from_str(text).expect("test JSON")
    }

    #[test]
    fn values_keep_their_digits() {
        for text in ["12345678901234567890123.456789", "-0.10", "1e400", "0"] {
            assert_eq!(Value::read("x", raw(text)).unwrap(), Value::Number(text));
        }
        assert_eq!(Value::read("x", raw(r#""a\u0000\n""#)).unwrap(), Value::Text("a\0\n".into()));
        assert_eq!(Value::read("x", raw(r#"{"base64": "AP8="}"#)).unwrap(), Value::Binary(vec![0, 255]));
        assert_eq!(Value::read("x", raw(r#"{"base64": 5}"#)).unwrap(), Value::Nested(r#"{"base64": 5}"#));
        assert_eq!(Value::read("x", raw("[1, 2]")).unwrap(), Value::Nested("[1, 2]"));
        assert!(matches!(Value::read("x", raw(r#"{"base64": "!"}"#)), Err(InvalidJson::Base64 { .. })));
    }

    #[test]
    fn a_member_twice_is_refused_by_name() {
        let error = object("query", raw(r#"{"id": 1, "id": 2}"#)).unwrap_err();
        let InvalidJson::Syntax(source) = error else { panic!("{error:?}") };
        assert!(source.to_string().contains("`id` is there twice"), "{source}");
    }

    #[test]
    fn an_unknown_field_names_the_nearest() {
        let mut fields = Fields::new("select", object("x", raw(r#"{"atrs": 1, "limit": null}"#)).unwrap());
        assert!(fields.take("limit").is_none(), "null is absent");
        let error = fields.finish(&["attrs", "limit"]).unwrap_err();
        assert_eq!(error.to_string(), "select has no field `atrs`; did you mean `attrs`?");
    }
}

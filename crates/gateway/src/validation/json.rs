//! Reads members of a JSON object, each of a wanted type. `null` is the same as absent; unknown members are ignored,
//! as AWS does.

use crate::errors::{Exception, Refusal};
use serde_json::{Map, Value};

/// The members of one JSON object.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a>(&'a Map<String, Value>);

/// Reads a request's body. An empty one is an empty object.
pub fn parse(body: &[u8]) -> Result<Value, Refusal> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Object(Map::new()));
    }
    serde_json::from_slice(body).map_err(|error| {
        Refusal::new(Exception::InvalidRequestContent, format!("Could not parse request body into json: {error}"))
    })
}

impl<'a> Fields<'a> {
    /// The members of a value that must be an object.
    pub fn of(value: &'a Value) -> Result<Fields<'a>, Refusal> {
        match value {
            Value::Object(map) => Ok(Fields(map)),
            other => Err(unexpected(other, "a structure")),
        }
    }

    /// All members in the order in which they were sent.
    pub fn iter(&self) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        self.0.iter()
    }

    /// Any value.
    pub fn value(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// A text.
    pub fn text(&self, name: &str) -> Result<Option<&'a str>, Refusal> {
        self.value(name).map(text).transpose()
    }

    /// A whole number.
    pub fn integer(&self, name: &str) -> Result<Option<i64>, Refusal> {
        self.value(name).map(|value| value.as_i64().ok_or_else(|| unexpected(value, "an Integer"))).transpose()
    }

    /// Any number.
    pub fn number(&self, name: &str) -> Result<Option<f64>, Refusal> {
        self.value(name).map(|value| value.as_f64().ok_or_else(|| unexpected(value, "a Double"))).transpose()
    }

    /// `true` or `false`.
    pub fn boolean(&self, name: &str) -> Result<Option<bool>, Refusal> {
        self.value(name).map(|value| value.as_bool().ok_or_else(|| unexpected(value, "a Boolean"))).transpose()
    }

    /// An object.
    pub fn object(&self, name: &str) -> Result<Option<Fields<'a>>, Refusal> {
        self.value(name).map(Fields::of).transpose()
    }

    /// A list of any values.
    pub fn list(&self, name: &str) -> Result<Option<&'a [Value]>, Refusal> {
        let read = |value: &'a Value| value.as_array().map(Vec::as_slice).ok_or_else(|| unexpected(value, "a List"));
        self.value(name).map(read).transpose()
    }

    /// A list of texts.
    pub fn texts(&self, name: &str) -> Result<Option<Vec<&'a str>>, Refusal> {
        let Some(list) = self.list(name)? else { return Ok(None) };
        list.iter().map(text).collect::<Result<Vec<&str>, Refusal>>().map(Some)
    }

    /// An object whose values are texts, in the order in which they were sent.
    pub fn text_map(&self, name: &str) -> Result<Option<Vec<(&'a str, &'a str)>>, Refusal> {
        let Some(fields) = self.object(name)? else { return Ok(None) };
        let pairs = fields.iter().map(|(key, value)| Ok((key.as_str(), text(value)?)));
        pairs.collect::<Result<Vec<_>, Refusal>>().map(Some)
    }
}

fn text(value: &Value) -> Result<&str, Refusal> {
    value.as_str().ok_or_else(|| unexpected(value, "a String"))
}

/// The texts are those of AWS's JSON protocol, as clients have reported them.
fn unexpected(value: &Value, wanted: &str) -> Refusal {
    let text = match value {
        Value::Null => format!("NULL_VALUE can not be converted to {wanted}"),
        Value::Bool(true) => format!("TRUE_VALUE can not be converted to {wanted}"),
        Value::Bool(false) => format!("FALSE_VALUE can not be converted to {wanted}"),
        Value::Number(number) if number.is_f64() => format!("DECIMAL_VALUE can not be converted to {wanted}"),
        Value::Number(_) => format!("NUMBER_VALUE can not be converted to {wanted}"),
        Value::String(_) => format!("STRING_VALUE can not be converted to {wanted}"),
        Value::Array(_) => "Start of list found where not expected".to_owned(),
        Value::Object(_) => "Start of structure or map found where not expected.".to_owned(),
    };
    Refusal::new(Exception::Serialization, text)
}

//! JSON as signed and as read: one spelling per value, no duplicate keys.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use sigstore_tuf::canonical_json::to_canonical_bytes;

use crate::BundleError;

/// Parses `bytes`, which must be what [`spelled`] makes of their own value.
///
/// One spelling per value, so no two parsers can disagree and no byte outside the signatures' cover can change unseen.
pub(crate) fn parse_canonical(file: &str, bytes: &[u8], max: usize) -> Result<Value, BundleError> {
    let value = parse_strict(file, bytes, max)?;
    if spelled(file, &value)? == bytes { Ok(value) } else { Err(malformed(file, "it is not in canonical form")) }
}

/// Parses `bytes` and refuses duplicate keys, of which different parsers take different ones.
pub(crate) fn parse_strict(file: &str, bytes: &[u8], max: usize) -> Result<Value, BundleError> {
    if bytes.len() > max {
        return Err(BundleError::EntryTooLarge { entry: file.to_owned(), size: bytes.len() as u64, max: max as u64 });
    }
    match serde_json::from_slice::<Strict>(bytes) {
        Ok(Strict(value)) => Ok(value),
        Err(error) => Err(malformed(file, format!("it is not valid JSON: {error}"))),
    }
}

/// The canonical bytes of `value`.
pub(crate) fn canonical(file: &str, value: &Value) -> Result<Vec<u8>, BundleError> {
    to_canonical_bytes(value).map_err(|error| malformed(file, error.to_string()))
}

/// The one spelling of `value` in a file: its canonical bytes (OLPC canonical JSON, TUF 1.0.34 section 4.2), with control characters
/// escaped. The canonical form has them raw, for instance in a PEM key, and is then no JSON (RFC 8259 section 7).
pub(crate) fn spelled(file: &str, value: &Value) -> Result<Vec<u8>, BundleError> {
    let mut out = Vec::new();
    for byte in canonical(file, value)? {
        match byte {
            b'\n' => out.extend(b"\\n"),
            0..0x20 => out.extend(format!("\\u{byte:04x}").bytes()),
            other => out.push(other),
        }
    }
    Ok(out)
}

pub(crate) fn malformed(file: &str, why: impl Into<String>) -> BundleError {
    BundleError::MalformedJson { file: file.to_owned(), why: why.into() }
}

/// A JSON value whose objects have no key twice.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number is out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Strict(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some((key, Strict(value))) = map.next_entry::<String, Strict>()? {
            if members.contains_key(&key) {
                return Err(de::Error::custom(format!("the key {key:?} occurs twice")));
            }
            members.insert(key, value);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn duplicate_keys_are_refused_at_any_depth() {
        for text in [r#"{"a":1,"a":2}"#, r#"{"x":[{"b":{},"b":1}]}"#, r#"{"a":1,"\u0061":2}"#] {
            assert!(matches!(parse_strict("f", text.as_bytes(), 99), Err(BundleError::MalformedJson { .. })), "{text}");
        }
        assert_eq!(parse_strict("f", br#"{"a":[1,-2,0.5,null,true,"x"]}"#, 99).unwrap()["a"][2], 0.5);
    }

    #[test]
    fn other_spellings_of_the_same_value_are_refused() {
        for text in [r#"{"a": 1}"#, r#"{"b":1,"a":2}"#, r#"{"\u0061":1}"#, "{}\n", r#"{"a":1.0}"#, r#"{"a":-0}"#] {
            assert!(parse_canonical("f", text.as_bytes(), 99).is_err(), "{text}");
        }
        assert!(parse_canonical("f", br#"{"a":1}"#, 99).is_ok());
        assert!(matches!(parse_canonical("f", br#"{"a":1}"#, 6), Err(BundleError::EntryTooLarge { .. })));
    }
}

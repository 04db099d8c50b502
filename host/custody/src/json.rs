//! Signed JSON: one spelling per value (RFC 8785), so that two readers cannot see two things in the same bytes.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::CustodyError;

/// Larger than any file of this crate.
pub(crate) const MAX_FILE: usize = 1 << 20;

/// Integers beyond this are not the same number in every reader of JSON (RFC 8785 section 3.2.2.3).
pub(crate) const MAX_INTEGER: u64 = (1 << 53) - 1;

/// The canonical bytes: members in alphabetical order, no spaces. Member names here are ASCII and numbers are integers, which
/// leaves nothing else of RFC 8785 to do.
pub(crate) fn canonical(value: &impl Serialize) -> Result<Vec<u8>, CustodyError> {
    let value = serde_json::to_value(value).map_err(|_| CustodyError::Encoding)?;
    let mut out = Vec::new();
    write(&value, &mut out)?;
    Ok(out)
}

/// Reads a file that people may lay out as they like. The types refuse unknown members, and members that occur twice.
pub(crate) fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, CustodyError> {
    if bytes.len() > MAX_FILE {
        return Err(CustodyError::malformed(what, "it is larger than any such file"));
    }
    serde_json::from_slice(bytes).map_err(|error| CustodyError::malformed(what, error.to_string()))
}

/// Reads bytes that were signed: they have to be the canonical form of what they say.
pub(crate) fn decode_canonical<T: Serialize + DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
) -> Result<T, CustodyError> {
    let value: T = decode(what, bytes)?;
    if canonical(&value)? == bytes {
        Ok(value)
    } else {
        Err(CustodyError::malformed(what, "it is not in canonical form (RFC 8785)"))
    }
}

fn write(value: &Value, out: &mut Vec<u8>) -> Result<(), CustodyError> {
    match value {
        Value::Array(items) => {
            out.push(b'[');
            for (position, item) in items.iter().enumerate() {
                if position > 0 {
                    out.push(b',');
                }
                write(item, out)?;
            }
            out.push(b']');
        }
        Value::Number(number) if number.as_u64().is_none_or(|n| n > MAX_INTEGER) => return Err(CustodyError::Encoding),
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| name.as_bytes());
            out.push(b'{');
            for (position, (name, member)) in members.into_iter().enumerate() {
                if position > 0 {
                    out.push(b',');
                }
                serde_json::to_writer(&mut *out, name).map_err(|_| CustodyError::Encoding)?;
                out.push(b':');
                write(member, out)?;
            }
            out.push(b'}');
        }
        scalar => serde_json::to_writer(out, scalar).map_err(|_| CustodyError::Encoding)?,
    }
    Ok(())
}

/// Bytes as lower-case hexadecimal text of a fixed length.
pub(crate) mod hex_array {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(crate) fn serialize<S: Serializer, const N: usize>(bytes: &[u8; N], out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&hex::encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(input: D) -> Result<[u8; N], D::Error> {
        let text = String::deserialize(input)?;
        let mut bytes = [0; N];
        hex::decode_to_slice(&text, &mut bytes)
            .ok()
            .filter(|()| !text.bytes().any(|byte| byte.is_ascii_uppercase()))
            .ok_or_else(|| de::Error::custom(format!("expected {} lower-case hexadecimal digits", 2 * N)))?;
        Ok(bytes)
    }
}

/// Bytes as base64 (RFC 4648 section 4), with padding.
pub(crate) mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&STANDARD.encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(input)?;
        STANDARD.decode(text).map_err(|_| de::Error::custom("expected base64"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// The sample of RFC 8785 section 3.2.2, without its floats.
    #[test]
    fn canonical_form_is_that_of_rfc_8785() {
        let value: Value = serde_json::from_str(
            r#"{"string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false],"a":{"c":1,"b":0}}"#,
        )
        .unwrap();
        let wanted =
            "{\"a\":{\"b\":0,\"c\":1},\"literals\":[null,true,false],\"string\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}";
        assert_eq!(String::from_utf8(canonical(&value).unwrap()).unwrap(), wanted);
    }

    #[test]
    fn numbers_that_readers_disagree_on_are_refused() {
        for text in ["1.5", "-1", "9007199254740992"] {
            let value: Value = serde_json::from_str(text).unwrap();
            assert!(canonical(&value).is_err(), "{text}");
        }
    }
}

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::MAXIMUM_LENGTH;
use crate::HsmError;

/// What a field's tweak is made of. Part of the schema: changing it changes every value.
///
/// A tweak is not secret. Under one key, equal values with equal tweaks have equal ciphertexts, and with different tweaks
/// unrelated ones, so the policy decides who can see equality.
///
/// The bytes are `1`, the policy's own byte, then collection, field and the rest where there is one, each after its length as
/// two bytes, big-endian. So no two places share a tweak, whatever characters their names hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TweakPolicy {
    /// Bytes that the caller gives with each value, besides collection and field.
    Explicit,
    /// Collection and field: equal values of the field look equal, so filters and joins work on ciphertext.
    Field,
    /// Collection, field and the record's identifier: equal values look unrelated.
    Record,
}

impl TweakPolicy {
    /// The tweak of a value. `rest` is the record's identifier, or the explicit bytes.
    ///
    /// # Errors
    /// [`HsmError::Tweak`] for a missing or an unexpected `rest`, or a tweak of more than 4,096 bytes.
    pub fn tweak(self, collection: &str, field: &str, rest: Option<&[u8]>) -> Result<Vec<u8>, HsmError> {
        let reason = match (self, rest) {
            (Self::Field, Some(_)) => Some("policy `field` takes nothing besides collection and field"),
            (Self::Record, None | Some([])) => Some("policy `record` needs the record's identifier"),
            (Self::Explicit, None) => Some("policy `explicit` needs the bytes"),
            _ => None,
        };
        if let Some(reason) = reason {
            return Err(HsmError::Tweak { reason });
        }
        let code = match self {
            Self::Explicit => 3,
            Self::Field => 1,
            Self::Record => 2,
        };
        let mut tweak = vec![1, code];
        for part in [Some(collection.as_bytes()), Some(field.as_bytes()), rest].into_iter().flatten() {
            let length = u16::try_from(part.len()).map_err(|_| TOO_LONG)?;
            tweak.extend(length.to_be_bytes());
            tweak.extend(part);
        }
        if tweak.len() > MAXIMUM_LENGTH { Err(TOO_LONG) } else { Ok(tweak) }
    }
}

const TOO_LONG: HsmError = HsmError::Tweak { reason: "it has more than 4,096 bytes" };

impl fmt::Display for TweakPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Explicit => "explicit",
            Self::Field => "field",
            Self::Record => "record",
        })
    }
}

impl FromStr for TweakPolicy {
    type Err = HsmError;
    fn from_str(text: &str) -> Result<Self, HsmError> {
        [Self::Explicit, Self::Field, Self::Record]
            .into_iter()
            .find(|policy| policy.to_string() == text)
            .ok_or(HsmError::Tweak { reason: "a policy is `field`, `record` or `explicit`" })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Joined names would make `a` + `b/c` and `a/b` + `c` one place.
    #[test]
    fn no_two_places_share_a_tweak() {
        let names = ["", "a", "/", "a/b", "b", "a\0", "\0", "\0\u{1}", "b/c", "c"];
        let mut seen = BTreeSet::new();
        for collection in names {
            for field in names {
                assert!(seen.insert(TweakPolicy::Field.tweak(collection, field, None).unwrap()));
                for rest in names {
                    assert!(
                        seen.insert(TweakPolicy::Explicit.tweak(collection, field, Some(rest.as_bytes())).unwrap())
                    );
                    if !rest.is_empty() {
                        let tweak = TweakPolicy::Record.tweak(collection, field, Some(rest.as_bytes()));
                        assert!(seen.insert(tweak.unwrap()));
                    }
                }
            }
        }
    }

    /// The bytes are stored data's other half: they may never change.
    #[test]
    fn the_bytes_are_as_documented() {
        assert_eq!(TweakPolicy::Field.tweak("cards", "no", None).unwrap(), b"\x01\x01\x00\x05cards\x00\x02no");
        assert_eq!(TweakPolicy::Record.tweak("c", "f", Some(b"7")).unwrap(), b"\x01\x02\x00\x01c\x00\x01f\x00\x017");
        assert_eq!(TweakPolicy::Explicit.tweak("c", "f", Some(b"")).unwrap(), b"\x01\x03\x00\x01c\x00\x01f\x00\x00");
    }

    #[test]
    fn a_record_without_its_identifier_is_refused() {
        for (policy, rest) in [
            (TweakPolicy::Record, None),
            (TweakPolicy::Record, Some(b"".as_slice())),
            (TweakPolicy::Explicit, None),
            (TweakPolicy::Field, Some(b"x".as_slice())),
        ] {
            assert!(matches!(policy.tweak("c", "f", rest), Err(HsmError::Tweak { .. })), "{policy}");
        }
        assert!(TweakPolicy::Explicit.tweak("c", "f", Some(&[0; 4_096])).is_err());
        assert!(TweakPolicy::Explicit.tweak("c", "f", Some(&[0; 70_000])).is_err());
        assert!("records".parse::<TweakPolicy>().is_err());
        assert_eq!("record".parse::<TweakPolicy>().unwrap(), TweakPolicy::Record);
    }
}

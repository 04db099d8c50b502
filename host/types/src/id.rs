use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        ///
        /// A lower-case letter, then up to 62 lower-case letters, digits or `-`: safe in a file name, a tile path and a log.
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                parse_name(stringify!($type), text).map(Self)
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// Names an encrypted vector collection.
    CollectionName
}
name! {
    /// Names a compartment: an access rule with one key-encryption key of its own.
    CompartmentName
}
name! {
    /// Names a plugin: the `name` of its manifest.
    PluginName
}
name! {
    /// Names a user of the site.
    UserName
}

impl From<&CompartmentName> for CollectionName {
    /// Each compartment owns the collection of its own name.
    fn from(compartment: &CompartmentName) -> Self {
        Self(compartment.0.clone())
    }
}

/// Text that is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {kind}: use a lower-case letter, then up to 62 lower-case letters, digits or `-`")]
pub struct NameError {
    kind: &'static str,
    text: String,
}

fn parse_name(kind: &'static str, text: &str) -> Result<String, NameError> {
    let mut bytes = text.bytes();
    let first_ok = bytes.next().is_some_and(|b| b.is_ascii_lowercase());
    let rest_ok = bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if first_ok && rest_ok && text.len() <= 63 {
        Ok(text.to_owned())
    } else {
        Err(NameError { kind, text: text.chars().take(80).collect() })
    }
}

/// Names one decision; 128 random bits, printed as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DecisionId([u8; 16]);

impl DecisionId {
    /// An identifier from 16 random bytes.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<DecisionId> for String {
    fn from(id: DecisionId) -> String {
        id.to_string()
    }
}

impl FromStr for DecisionId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let mut out = [0; 16];
        hex::decode_to_slice(text, &mut out)
            .map_err(|_| NameError { kind: "DecisionId", text: text.chars().take(80).collect() })?;
        Ok(Self(out))
    }
}

impl TryFrom<String> for DecisionId {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

/// The site-wide activation counter. It only rises: a rollback is a new, higher generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The next generation, or `None` when the counter is exhausted.
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_refused() {
        for text in ["", "A", "1a", "a/b", "../a", "a b", "a\0", "é", &"a".repeat(64)] {
            assert!(text.parse::<PluginName>().is_err(), "{text:?}");
        }
        assert!("a".repeat(63).parse::<PluginName>().is_ok());
    }
}

//! Words that people read before they sign: what is shown is what is signed.

use std::fmt;
use std::str::FromStr;

use casemate_types::UserName;
use serde::{Deserialize, Serialize};

use crate::CustodyError;

/// Seconds since the Unix epoch, by the site's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixTime(pub u64);

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0)
    }
}

macro_rules! identifier {
    ($(#[$doc:meta])* $type:ident, $what:literal, $allowed:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = CustodyError;
            fn from_str(text: &str) -> Result<Self, CustodyError> {
                if (1..=64).contains(&text.len()) && text.bytes().all($allowed) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(CustodyError::Text { what: $what })
                }
            }
        }

        impl TryFrom<String> for $type {
            type Error = CustodyError;
            fn try_from(text: String) -> Result<Self, CustodyError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(identifier: $type) -> Self {
                identifier.0
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

identifier! {
    /// Names one human being, for instance by personnel number: 1 to 64 lower-case letters, digits or `.-_@`. One spelling per
    /// person, because two spellings would be two people.
    PersonId, "a person's identifier (lower-case letters, digits or `.-_@`, at most 64)",
    |byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_@".contains(&byte)
}
impl PersonId {
    /// Whether this is the person, or the name under which this person is a custodian.
    pub(crate) fn is(&self, name: &UserName, person: &Self) -> bool {
        self == person || self.0.eq_ignore_ascii_case(name.as_str())
    }
}
identifier! {
    /// A token's serial number as the token tells it: 1 to 64 printable ASCII characters without spaces.
    TokenSerial, "a token's serial number (printable ASCII without spaces, at most 64)",
    |byte: u8| byte.is_ascii_graphic()
}

impl TokenSerial {
    /// Whether both name one device: makers print serial numbers in either case.
    pub fn same_device(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

/// Refuses what would look other on a screen than it is: line breaks, control characters, invisible ones, and those that change
/// the direction of writing (Unicode TR 36 section 2.10).
pub(crate) fn check_words(what: &'static str, text: &str, max: usize) -> Result<(), CustodyError> {
    let deceiving = |c: char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
            || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
    };
    if text.trim().is_empty() || text.len() > max || text.chars().any(deceiving) {
        return Err(CustodyError::Text { what });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_has_one_spelling() {
        assert!("p-1001".parse::<PersonId>().is_ok());
        for text in ["", "P-1001", "p 1001", " p-1001", "p-1001\n", "pé", &"a".repeat(65)] {
            assert!(text.parse::<PersonId>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn words_that_look_other_than_they_are_are_refused() {
        assert!(check_words("a reason", "Schlüssel verloren, Ticket 4711", 500).is_ok());
        for text in ["", "  ", "two\nlines", "esc \u{1b}[2J", "rtl \u{202e}txt", "zero\u{200b}width", "tag \u{e0041}"] {
            assert!(check_words("a reason", text, 500).is_err(), "{text:?}");
        }
        assert!(check_words("a reason", &"x".repeat(501), 500).is_err());
    }
}

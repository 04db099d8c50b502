use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::HsmError;

/// The characters of an FF1 field, in the order of their numerals. Part of the schema: changing it changes every value.
///
/// Configuration names an alphabet by one string:
///
/// | text | characters | radix |
/// |---|---|---|
/// | `digits` | `0` to `9` | 10 |
/// | `base36` | `0` to `9`, `a` to `z` | 36 |
/// | `base62` | `0` to `9`, `A` to `Z`, `a` to `z` | 62 |
/// | `printable` | the printable ASCII characters, from space to `~` | 95 |
/// | `cyrillic` | `А` to `я`, then `Ё` and `ё` | 66 |
/// | `cjk` | U+4E00 to U+9FFF, the block CJK Unified Ideographs | 20,992 |
/// | `chars:TEXT` | the distinct characters of TEXT | as many |
/// | `unicode:RANGES` | code points in hexadecimal, one or a range, separated by commas: `0410-044F,0401,0451` | as many |
///
/// Ciphertext is any string over the alphabet: whatever stores it must not normalise, trim or change the case of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alphabet {
    name: String,
    characters: Vec<char>,
    numerals: HashMap<char, u16>,
}

impl Alphabet {
    /// `0` to `9`.
    pub fn digits() -> Self {
        Self::of("digits", '0'..='9')
    }

    /// `0` to `9`, then `a` to `z`.
    pub fn base36() -> Self {
        Self::of("base36", ('0'..='9').chain('a'..='z'))
    }

    /// `0` to `9`, then `A` to `Z`, then `a` to `z`.
    pub fn base62() -> Self {
        Self::of("base62", ('0'..='9').chain('A'..='Z').chain('a'..='z'))
    }

    /// The distinct characters of `text`, in their order.
    ///
    /// # Errors
    /// [`HsmError::Alphabet`] for fewer than 2 or more than 65,536 characters, or one that comes twice.
    pub fn custom(text: &str) -> Result<Self, HsmError> {
        Self::checked(format!("chars:{text}"), text.chars())
    }

    /// The text that configuration has for this alphabet.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The shortest text that may be encrypted, in characters: below it the domain has fewer than 1,000,000 values.
    pub fn minimum_length(&self) -> usize {
        super::minimum_length(self.radix())
    }

    /// The radix: how many characters there are.
    pub fn radix(&self) -> u32 {
        self.characters.len() as u32
    }

    /// The numerals of a text.
    ///
    /// # Errors
    /// [`HsmError::ForeignCharacter`] with the position of the first character outside the alphabet, not the character.
    pub fn numerals(&self, text: &str) -> Result<Vec<u16>, HsmError> {
        text.chars()
            .enumerate()
            .map(|(position, character)| {
                self.numerals.get(&character).copied().ok_or(HsmError::ForeignCharacter { position })
            })
            .collect()
    }

    /// The text of numerals.
    ///
    /// # Errors
    /// [`HsmError::NumeralOutOfRange`].
    pub fn text(&self, numerals: &[u16]) -> Result<String, HsmError> {
        numerals
            .iter()
            .enumerate()
            .map(|(position, numeral)| {
                let found = self.characters.get(usize::from(*numeral)).copied();
                found.ok_or(HsmError::NumeralOutOfRange { position, radix: self.radix(), value: 0 })
            })
            .collect()
    }

    fn checked(name: String, characters: impl Iterator<Item = char> + Clone) -> Result<Self, HsmError> {
        let count = characters.clone().take(MAXIMUM_RADIX + 1).count();
        if !(2..=MAXIMUM_RADIX).contains(&count) {
            return Err(HsmError::Alphabet { reason: "it has fewer than 2 or more than 65,536 characters" });
        }
        let alphabet = Self::of(name, characters);
        if alphabet.numerals.len() == count {
            Ok(alphabet)
        } else {
            Err(HsmError::Alphabet { reason: "a character comes twice" })
        }
    }

    fn of(name: impl Into<String>, characters: impl Iterator<Item = char>) -> Self {
        let characters: Vec<char> = characters.collect();
        let numerals = (0..=u16::MAX).zip(&characters).map(|(numeral, character)| (*character, numeral)).collect();
        Self { name: name.into(), characters, numerals }
    }
}

const MAXIMUM_RADIX: usize = 65_536;

impl FromStr for Alphabet {
    type Err = HsmError;

    /// Reads the names listed at [`Alphabet`].
    fn from_str(text: &str) -> Result<Self, HsmError> {
        match text {
            "digits" => Ok(Self::digits()),
            "base36" => Ok(Self::base36()),
            "base62" => Ok(Self::base62()),
            "printable" => Ok(Self::of(text, ' '..='~')),
            "cyrillic" => Ok(Self::of(text, ('А'..='я').chain(['Ё', 'ё']))),
            "cjk" => Ok(Self::of(text, '\u{4e00}'..='\u{9fff}')),
            _ => {
                if let Some(characters) = text.strip_prefix("chars:") {
                    return Self::custom(characters);
                }
                let ranges = text.strip_prefix("unicode:").ok_or(UNKNOWN)?;
                let ranges = ranges.split(',').map(range).collect::<Result<Vec<_>, _>>()?;
                Self::checked(text.to_owned(), ranges.into_iter().flatten())
            }
        }
    }
}

const UNKNOWN: HsmError = HsmError::Alphabet {
    reason: "use digits, base36, base62, printable, cyrillic, cjk, chars:TEXT or unicode:XXXX-YYYY,ZZZZ",
};

/// `0410-044F` or `0401`.
fn range(text: &str) -> Result<RangeInclusive<char>, HsmError> {
    let code_point = |text: &str| {
        let plain = (4..=6).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = plain.then(|| u32::from_str_radix(text, 16).ok()).flatten();
        number
            .and_then(char::from_u32)
            .ok_or(HsmError::Alphabet { reason: "a code point is 4 to 6 hexadecimal digits and no surrogate" })
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (code_point(first)?, code_point(last)?);
    if first <= last { Ok(first..=last) } else { Err(HsmError::Alphabet { reason: "a range ends before it begins" }) }
}

impl Serialize for Alphabet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.name)
    }
}

impl<'de> Deserialize<'de> for Alphabet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn text_survives() {
        for (alphabet, radix, text) in [
            (Alphabet::digits(), 10, "0123456789"),
            (Alphabet::base36(), 36, "az09"),
            (Alphabet::base62(), 62, "azAZ09"),
            (Alphabet::custom("äöü€😀").unwrap(), 5, "😀€äöü"),
        ] {
            assert_eq!(alphabet.radix(), radix);
            assert_eq!(alphabet.text(&alphabet.numerals(text).unwrap()).unwrap(), text);
        }
        assert_eq!(Alphabet::base36().numerals("z").unwrap(), [35]);
    }

    #[test]
    fn a_foreign_character_is_named_by_position_only() {
        let error = Alphabet::digits().numerals("12é4x").unwrap_err();
        assert!(matches!(error, HsmError::ForeignCharacter { position: 2 }));
        assert!(!error.to_string().contains('é'), "{error}");
    }

    #[test]
    fn hostile_alphabets_are_refused() {
        for text in ["", "a", "aba"] {
            assert!(matches!(Alphabet::custom(text), Err(HsmError::Alphabet { .. })), "{text:?}");
        }
        let all: String = ('\0'..=char::MAX).take(65_537).collect();
        assert!(Alphabet::custom(&all).is_err());
        assert_eq!(Alphabet::custom(all.strip_prefix('\0').unwrap()).unwrap().radix(), 65_536);
    }

    #[test]
    fn names_of_configuration_are_stable() {
        for (name, radix, minimum, first, last) in [
            ("digits", 10, 6, '0', '9'),
            ("base36", 36, 4, '0', 'z'),
            ("base62", 62, 4, '0', 'z'),
            ("printable", 95, 4, ' ', '~'),
            ("cyrillic", 66, 4, 'А', 'ё'),
            ("cjk", 20_992, 2, '一', '\u{9fff}'),
            ("chars:01", 2, 20, '0', '1'),
            ("chars:,-:", 3, 13, ',', ':'),
            ("unicode:0410-044F,0401,0451", 66, 4, 'А', 'ё'),
            ("unicode:1F600-1F64F", 80, 4, '😀', '🙏'),
            ("unicode:0000-D7FF,E000-FFFF", 63_488, 2, '\0', '\u{ffff}'),
        ] {
            let alphabet: Alphabet = name.parse().unwrap();
            assert_eq!((alphabet.radix(), alphabet.minimum_length()), (radix, minimum), "{name}");
            assert_eq!(alphabet.numerals(&first.to_string()).unwrap(), [0], "{name}");
            assert_eq!(alphabet.numerals(&last.to_string()).unwrap(), [(radix - 1) as u16], "{name}");
            // Files keep the name, not the characters.
            let text = serde_json::to_string(&alphabet).unwrap();
            assert_eq!(serde_json::from_str::<Alphabet>(&text).unwrap(), alphabet);
            assert_eq!(text, serde_json::to_string(name).unwrap());
        }
    }

    #[test]
    fn hostile_names_are_refused() {
        for name in [
            "",
            "digit",
            "Digits",
            "base64",
            "chars:",
            "chars:a",
            "chars:aa",
            "unicode:",
            "unicode:0041",
            "unicode:41-5A",
            "unicode:0041-",
            "unicode:-0041",
            "unicode:0041-0040",
            "unicode:0041-005A,0050",
            "unicode:D7FF-D800",
            "unicode:DC00-DFFF",
            "unicode:110000-110001",
            "unicode:+041-0050",
            "unicode:0000-10FFFF",
            "unicode:0041-0042-0043",
            "unicode:0041,,0042",
            "unicode:0041, 0042",
        ] {
            assert!(matches!(name.parse::<Alphabet>(), Err(HsmError::Alphabet { .. })), "{name:?}");
        }
    }

    #[test]
    fn a_numeral_outside_the_alphabet_is_refused() {
        assert!(matches!(Alphabet::digits().text(&[1, 10]), Err(HsmError::NumeralOutOfRange { position: 1, .. })));
    }
}

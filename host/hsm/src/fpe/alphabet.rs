use std::collections::HashMap;

use crate::HsmError;

/// The characters of an FF1 field, in the order of their numerals. Part of the schema: changing it changes every value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alphabet {
    characters: Vec<char>,
    numerals: HashMap<char, u16>,
}

impl Alphabet {
    /// `0` to `9`.
    pub fn digits() -> Self {
        Self::of("0123456789".chars())
    }

    /// `0` to `9`, then `a` to `z`.
    pub fn base36() -> Self {
        Self::of(('0'..='9').chain('a'..='z'))
    }

    /// `0` to `9`, then `A` to `Z`, then `a` to `z`.
    pub fn base62() -> Self {
        Self::of(('0'..='9').chain('A'..='Z').chain('a'..='z'))
    }

    /// The distinct characters of `text`, in their order.
    ///
    /// # Errors
    /// [`HsmError::Alphabet`] for fewer than 2 or more than 65,536 characters, or one that comes twice.
    pub fn custom(text: &str) -> Result<Self, HsmError> {
        let count = text.chars().count();
        if !(2..=65_536).contains(&count) {
            return Err(HsmError::Alphabet { reason: "it has fewer than 2 or more than 65,536 characters" });
        }
        let alphabet = Self::of(text.chars());
        if alphabet.numerals.len() == count {
            Ok(alphabet)
        } else {
            Err(HsmError::Alphabet { reason: "a character comes twice" })
        }
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

    fn of(characters: impl Iterator<Item = char>) -> Self {
        let characters: Vec<char> = characters.collect();
        let numerals = (0..=u16::MAX).zip(&characters).map(|(numeral, character)| (*character, numeral)).collect();
        Self { characters, numerals }
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
    fn a_numeral_outside_the_alphabet_is_refused() {
        assert!(matches!(Alphabet::digits().text(&[1, 10]), Err(HsmError::NumeralOutOfRange { position: 1, .. })));
    }
}

/// A text as its lower-case words, each between single blanks, so that terms are found as whole words.
pub(crate) struct Words(String);

impl Words {
    /// One pass; the result is about as long as the text.
    pub(crate) fn of(text: &str) -> Self {
        let mut words = String::with_capacity(text.len() + 2);
        words.push(' ');
        for c in text.chars() {
            if is_invisible(c) {
                continue;
            }
            if c.is_alphanumeric() {
                words.extend(c.to_lowercase());
            } else if !words.ends_with(' ') {
                words.push(' ');
            }
        }
        if !words.ends_with(' ') {
            words.push(' ');
        }
        Self(words)
    }

    /// Whether the term, of one or several words, is among them. `None` for a term without a word.
    pub(crate) fn contain(&self, term: &str) -> Option<bool> {
        let term = Self::of(term);
        (term.0 != " ").then(|| self.0.contains(&term.0))
    }
}

/// Characters that do not show, and would otherwise hide a word: soft hyphen, zero-width blanks and joiners, direction
/// marks, byte order mark.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_whole_words_of_any_case() {
        let words = Words::of("Which Cipher, please? ÜBER-Büro 7");
        for term in ["cipher", "CIPHER", " which   cipher ", "über büro", "7", "please"] {
            assert_eq!(words.contain(term), Some(true), "{term}");
        }
        for term in ["ciph", "ciphers", "cipher which", "buro", "ber"] {
            assert_eq!(words.contain(term), Some(false), "{term}");
        }
    }

    #[test]
    fn invisible_characters_do_not_hide_a_word() {
        assert_eq!(Words::of("ci\u{200b}ph\u{ad}er").contain("cipher"), Some(true));
    }

    #[test]
    fn a_term_without_a_word_is_no_term() {
        assert!(Words::of("anything").contain(" ,;").is_none());
        assert_eq!(Words::of("").contain("x"), Some(false));
    }
}

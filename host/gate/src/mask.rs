//! Masks spans of text so that equal values stay equal: FF1 with the key in the HSM where the value is long enough, a keyed token
//! otherwise.

use std::collections::BTreeMap;
use std::sync::Arc;

use casemate_engine::{Alphabet as WitAlphabet, FpeItem};
use casemate_hsm::{Alphabet, Ff1Value, HsmError, KeyRef};
use casemate_types::{PluginName, Span};

use crate::GateError;
use crate::vault::{Vault, VaultFf1, VaultKey};

/// The name under which plugins open the masking key.
pub(crate) const MASK: &str = "mask";

/// The keys that mask.
pub struct Masker {
    version: u32,
    in_force: Set,
    /// From before a rotation: they only decrypt.
    older: BTreeMap<u32, Set>,
    keyring: Arc<Vault>,
    tokens: VaultKey,
}

/// One version of the masking key.
struct Set {
    digits: VaultFf1,
    base36: VaultFf1,
    base62: VaultFf1,
}

impl Set {
    fn open(keyring: &Arc<Vault>, key: &KeyRef) -> Result<Self, HsmError> {
        let ff1 = |radix| keyring.ff1(keyring.find(key)?, radix);
        Ok(Self { digits: ff1(10)?, base36: ff1(36)?, base62: ff1(62)? })
    }
}

/// Why a value is masked one way and not the other.
enum Method {
    /// Its letters and digits are replaced in place; everything else stays.
    Fpe { base62: bool },
    /// The whole value is replaced by a token.
    Token,
}

impl Masker {
    /// Opens the masking key, the version in force first, and the token key.
    pub fn open(keyring: &Arc<Vault>, mask: &[(u32, KeyRef)], tokens: &KeyRef) -> Result<Self, GateError> {
        let missing = || GateError::StateIncomplete { what: "site key mask".to_owned() };
        let ((version, key), older) = mask.split_first().ok_or_else(missing)?;
        let older = older.iter().map(|(version, key)| Ok((*version, Set::open(keyring, key)?)));
        Ok(Self {
            version: *version,
            in_force: Set::open(keyring, key)?,
            older: older.collect::<Result<_, HsmError>>()?,
            tokens: keyring.find(tokens)?,
            keyring: Arc::clone(keyring),
        })
    }

    /// The key that masks now, to be told beside what it masked.
    pub fn name(&self) -> String {
        format!("{MASK}@{}", self.version)
    }

    /// The version that `mask` or `mask@N` names, if there is one.
    pub fn version_of(&self, name: &str) -> Option<u32> {
        match name.strip_prefix(MASK)?.strip_prefix('@') {
            None => (name == MASK).then_some(self.version),
            Some(number) => number
                .parse()
                .ok()
                .filter(|version| format!("{MASK}@{version}") == name)
                .filter(|version| *version == self.version || self.older.contains_key(version)),
        }
    }

    /// Replaces every span. Two batches of HSM calls whatever the number of spans. On any error nothing is returned: a text is
    /// masked whole or not at all.
    pub fn mask(&self, text: &str, spans: &[Span]) -> Result<String, GateError> {
        let spans = normalise(spans);
        let mut digits = Vec::new();
        let mut base62 = Vec::new();
        let mut plan = Vec::new();
        for span in &spans {
            let value = slice(text, span)?;
            let method = method(value);
            if let Method::Fpe { base62: wide } = method {
                let symbols: String = value.chars().filter(char::is_ascii_alphanumeric).collect();
                let alphabet = if wide { Alphabet::base62() } else { Alphabet::digits() };
                let item = Ff1Value { numerals: alphabet.numerals(&symbols)?, tweak: span.kind.as_bytes().to_vec() };
                if wide { base62.push(item) } else { digits.push(item) }
            }
            plan.push((span, value, method));
        }
        if !digits.is_empty() {
            self.in_force.digits.encrypt(&mut digits)?;
        }
        if !base62.is_empty() {
            self.in_force.base62.encrypt(&mut base62)?;
        }

        let (mut digits, mut base62) = (digits.into_iter(), base62.into_iter());
        let mut out = String::with_capacity(text.len());
        let mut copied = 0;
        for (span, value, method) in plan {
            out.push_str(text.get(copied..span.start as usize).unwrap_or_default());
            copied = span.end as usize;
            match method {
                Method::Token => out.push_str(&self.token(&span.kind, value)?),
                Method::Fpe { base62: wide } => {
                    let alphabet = if wide { Alphabet::base62() } else { Alphabet::digits() };
                    let item = if wide { base62.next() } else { digits.next() };
                    let item = item.ok_or_else(|| GateError::Fhe("a masked value is missing".to_owned()))?;
                    out.push_str(&refill(value, &alphabet.text(&item.numerals)?));
                }
            }
        }
        out.push_str(text.get(copied..).unwrap_or_default());
        Ok(out)
    }

    /// Encrypts or decrypts items of the `fpe` capability under one version, all or nothing.
    ///
    /// # Errors
    /// [`GateError::OlderVersion`] for an older version that is to encrypt, [`GateError::StateIncomplete`] for one that is gone.
    pub fn transform(
        &self,
        plugin: &PluginName,
        version: u32,
        items: &[FpeItem],
        encrypt: bool,
    ) -> Result<Vec<String>, GateError> {
        let set = match self.older.get(&version) {
            _ if version == self.version => &self.in_force,
            Some(_) if encrypt => return Err(GateError::OlderVersion { key: MASK, version, in_force: self.version }),
            Some(set) => set,
            None => return Err(GateError::StateIncomplete { what: format!("{MASK}@{version}") }),
        };
        items
            .chunk_by(|a, b| a.alphabet == b.alphabet)
            .map(|run| transform_run(set, plugin, run, encrypt))
            .collect::<Result<Vec<_>, _>>()
            .map(|runs| runs.concat())
    }

    /// A keyed token: 48 bits of HMAC-SHA-256 over kind and value.
    fn token(&self, kind: &str, value: &str) -> Result<String, GateError> {
        let mac = self.keyring.mac(&self.tokens, &[b"mask\0", kind.as_bytes(), b"\0", value.as_bytes()].concat())?;
        Ok(format!("[{kind}:{}]", hex::encode(mac.get(..6).unwrap_or_default())))
    }
}

/// One batch of HSM calls for items of one alphabet.
fn transform_run(set: &Set, plugin: &PluginName, run: &[FpeItem], encrypt: bool) -> Result<Vec<String>, GateError> {
    let (alphabet, ff1) = match run.first().map(|item| item.alphabet) {
        None => return Ok(Vec::new()),
        Some(WitAlphabet::Digits) => (Alphabet::digits(), &set.digits),
        Some(WitAlphabet::Base36) => (Alphabet::base36(), &set.base36),
        Some(WitAlphabet::Base62) => (Alphabet::base62(), &set.base62),
    };
    let mut batch = run
        .iter()
        .map(|item| {
            // A tweak space for each plugin: none can unmask answers, or decrypt what another encrypted.
            let tweak = [b"plugin\0".as_slice(), plugin.as_str().as_bytes(), b"\0", &item.tweak].concat();
            Ok(Ff1Value { numerals: alphabet.numerals(&item.text)?, tweak })
        })
        .collect::<Result<Vec<_>, HsmError>>()?;
    if encrypt {
        ff1.encrypt(&mut batch)?
    } else {
        ff1.decrypt(&mut batch)?
    };
    Ok(batch.iter().map(|item| alphabet.text(&item.numerals)).collect::<Result<_, _>>()?)
}

fn slice<'a>(text: &'a str, span: &Span) -> Result<&'a str, GateError> {
    text.get(span.start as usize..span.end as usize)
        .ok_or_else(|| GateError::Fhe("a span lies outside the text".to_owned()))
}

/// Sorts and merges overlapping spans; the earlier kind names the union.
fn normalise(spans: &[Span]) -> Vec<Span> {
    let mut sorted = spans.to_vec();
    sorted.sort();
    let mut merged: Vec<Span> = Vec::with_capacity(sorted.len());
    for span in sorted {
        match merged.last_mut() {
            Some(last) if span.start < last.end => last.end = last.end.max(span.end),
            _ => merged.push(span),
        }
    }
    merged
}

fn method(value: &str) -> Method {
    let symbols = value.chars().filter(char::is_ascii_alphanumeric).count();
    let all_digits = value.chars().filter(char::is_ascii_alphanumeric).all(|c| c.is_ascii_digit());
    let minimum = casemate_hsm::minimum_length(if all_digits { 10 } else { 62 });
    if !value.is_ascii() || symbols < minimum { Method::Token } else { Method::Fpe { base62: !all_digits } }
}

/// Puts new symbols where the letters and digits of `value` were.
fn refill(value: &str, symbols: &str) -> String {
    let mut symbols = symbols.chars();
    value.chars().map(|c| if c.is_ascii_alphanumeric() { symbols.next().unwrap_or(c) } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: u32, end: u32, kind: &str) -> Span {
        Span { start, end, kind: kind.to_owned() }
    }

    #[test]
    fn overlapping_spans_become_one() {
        let merged = normalise(&[span(5, 9, "b"), span(0, 6, "a"), span(9, 10, "c")]);
        assert_eq!(merged, [span(0, 9, "a"), span(9, 10, "c")]);
    }

    #[test]
    fn short_and_non_ascii_values_take_a_token() {
        assert!(matches!(method("12345"), Method::Token));
        assert!(matches!(method("123-456"), Method::Fpe { base62: false }));
        assert!(matches!(method("a@b.c"), Method::Token));
        assert!(matches!(method("jo@x.org"), Method::Fpe { base62: true }));
        assert!(matches!(method("jürgen@x.org"), Method::Token));
    }

    #[test]
    fn separators_stay_where_they_were() {
        assert_eq!(refill("4111-1111 1", "987654321"), "9876-5432 1");
    }
}

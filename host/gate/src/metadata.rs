//! Metadata fields: encrypted so that an equality filter works on the ciphertext, and the store sees nothing else.
//!
//! Deterministic on purpose: equal values of one field in one compartment look equal to the store. See `THREAT_MODEL.md`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use casemate_hsm::{Alphabet, Ff1Value, HsmError, KeyRef, TweakPolicy};
use casemate_types::CompartmentName;

use crate::GateError;
use crate::collection::store;
use crate::config::{FieldKind, SiteConfig};
use crate::vault::{Vault, VaultFf1, VaultKey};

/// The printable ASCII characters: what an FPE field without an alphabet may hold.
const PRINTABLE: &str =
    " !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~";

/// Longest value that goes through FF1, in characters; longer ones become tokens.
const MAX_FPE: usize = 64;

/// The keys that encrypt fields.
pub struct FieldCipher {
    /// One key, and the radices of the site's alphabets.
    ff1: BTreeMap<u32, VaultFf1>,
    printable: Alphabet,
    keyring: Arc<Vault>,
    tokens: VaultKey,
}

/// One field of one document.
pub struct FieldValue<'a> {
    /// The field.
    pub name: &'a str,
    /// Its value in clear.
    pub value: &'a str,
}

impl FieldCipher {
    /// Opens the metadata key and the token key, for the alphabets that the site's fields name.
    pub fn open(
        keyring: &Arc<Vault>,
        config: &SiteConfig,
        metadata: &KeyRef,
        tokens: &KeyRef,
    ) -> Result<Self, HsmError> {
        let printable = Alphabet::custom(PRINTABLE)?;
        let mut ff1 = BTreeMap::new();
        let named = config.fields.values().filter_map(|kind| match kind {
            FieldKind::FpeOver(alphabet) => Some(&**alphabet),
            FieldKind::Fpe | FieldKind::Token => None,
        });
        for alphabet in named.chain([&printable]) {
            if let Entry::Vacant(place) = ff1.entry(alphabet.radix()) {
                place.insert(keyring.ff1(keyring.find(metadata)?, alphabet.radix())?);
            }
        }
        Ok(Self { ff1, printable, tokens: keyring.find(tokens)?, keyring: Arc::clone(keyring) })
    }

    /// Encrypts fields, each to `f:` and FF1 ciphertext or `t:` and a token, in order. One batch of HSM calls for all FF1 values of
    /// a radix.
    pub fn encrypt(
        &self,
        config: &SiteConfig,
        compartment: &CompartmentName,
        fields: &[FieldValue<'_>],
    ) -> Result<Vec<(String, String)>, GateError> {
        let mut batches: BTreeMap<u32, (Vec<usize>, Vec<Ff1Value>)> = BTreeMap::new();
        let mut out = Vec::with_capacity(fields.len());
        for (place, field) in fields.iter().enumerate() {
            let alphabet = self.alphabet(config, field);
            let value = match alphabet.filter(|alphabet| fits(alphabet, field.value)) {
                Some(alphabet) => {
                    let tweak = match config.fields.get(field.name) {
                        Some(FieldKind::FpeOver(_)) => {
                            TweakPolicy::Field.tweak(compartment.as_str(), field.name, None)?
                        }
                        _ => format!("{compartment}/{}", field.name).into_bytes(),
                    };
                    let (places, batch) = batches.entry(alphabet.radix()).or_default();
                    places.push(place);
                    batch.push(Ff1Value { numerals: alphabet.numerals(field.value)?, tweak });
                    String::new()
                }
                None => self.token(compartment, field)?,
            };
            out.push((field.name.to_owned(), value));
        }
        for (radix, (places, mut batch)) in batches {
            self.ff1.get(&radix).ok_or_else(|| store("a field's alphabet was not opened"))?.encrypt(&mut batch)?;
            for (place, value) in places.into_iter().zip(batch) {
                let alphabet = fields.get(place).and_then(|field| self.alphabet(config, field));
                let text = alphabet.ok_or_else(|| store("a field value is missing"))?.text(&value.numerals)?;
                if let Some((_, out)) = out.get_mut(place) {
                    *out = format!("f:{text}");
                }
            }
        }
        Ok(out)
    }

    /// The alphabet of a field that goes through FF1.
    fn alphabet<'a>(&'a self, config: &'a SiteConfig, field: &FieldValue<'_>) -> Option<&'a Alphabet> {
        match config.fields.get(field.name)? {
            FieldKind::Fpe => Some(&self.printable),
            FieldKind::FpeOver(alphabet) => Some(alphabet),
            FieldKind::Token => None,
        }
    }

    /// 128 bits of HMAC-SHA-256 over compartment, field and value.
    fn token(&self, compartment: &CompartmentName, field: &FieldValue<'_>) -> Result<String, GateError> {
        let message =
            [b"field\0", compartment.as_str().as_bytes(), b"\0", field.name.as_bytes(), b"\0", field.value.as_bytes()]
                .concat();
        let mac = self.keyring.mac(&self.tokens, &message)?;
        Ok(format!("t:{}", hex::encode(mac.get(..16).unwrap_or_default())))
    }
}

/// Whether FF1 may take the value; otherwise it becomes a token.
fn fits(alphabet: &Alphabet, value: &str) -> bool {
    (alphabet.minimum_length()..=MAX_FPE).contains(&value.chars().count()) && alphabet.numerals(value).is_ok()
}

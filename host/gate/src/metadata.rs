//! Metadata fields: encrypted so that an equality filter works on the ciphertext, and the store sees nothing else.
//!
//! Deterministic on purpose: equal values of one field in one compartment look equal to the store. See `THREAT_MODEL.md`.

use std::sync::Arc;

use casemate_hsm::{Alphabet, Ff1, Ff1Value, HsmError, Key, KeyRef, Keyring};
use casemate_types::CompartmentName;

use crate::GateError;
use crate::config::{FieldKind, SiteConfig};

/// The printable ASCII characters: what an FPE field may hold.
const PRINTABLE: &str =
    " !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~";

/// Longest value that goes through FF1; longer ones become tokens.
const MAX_FPE: usize = 64;

/// The keys that encrypt fields.
pub struct FieldCipher {
    ff1: Ff1,
    alphabet: Alphabet,
    keyring: Arc<Keyring>,
    tokens: Key,
}

/// One field of one document.
pub struct FieldValue<'a> {
    /// The field.
    pub name: &'a str,
    /// Its value in clear.
    pub value: &'a str,
}

impl FieldCipher {
    /// Opens the metadata key and the token key.
    pub fn open(keyring: &Arc<Keyring>, metadata: &KeyRef, tokens: &KeyRef) -> Result<Self, HsmError> {
        let alphabet = Alphabet::custom(PRINTABLE)?;
        Ok(Self {
            ff1: Ff1::new(Arc::clone(keyring), keyring.find(metadata)?, alphabet.radix())?,
            alphabet,
            tokens: keyring.find(tokens)?,
            keyring: Arc::clone(keyring),
        })
    }

    /// Encrypts fields, each to `f:` and FF1 ciphertext or `t:` and a token, in order. One batch of HSM calls for all FF1 values.
    pub fn encrypt(
        &self,
        config: &SiteConfig,
        compartment: &CompartmentName,
        fields: &[FieldValue<'_>],
    ) -> Result<Vec<(String, String)>, GateError> {
        let mut batch = Vec::new();
        let mut out = Vec::with_capacity(fields.len());
        for field in fields {
            let kind = config.fields.get(field.name).copied().unwrap_or(FieldKind::Token);
            if kind == FieldKind::Fpe && self.fits(field.value) {
                batch.push(Ff1Value {
                    numerals: self.alphabet.numerals(field.value)?,
                    tweak: format!("{compartment}/{}", field.name).into_bytes(),
                });
                out.push((field.name.to_owned(), None));
            } else {
                out.push((field.name.to_owned(), Some(self.token(compartment, field)?)));
            }
        }
        if !batch.is_empty() {
            self.ff1.encrypt(&mut batch)?;
        }
        let mut batch = batch.into_iter();
        out.into_iter()
            .map(|(name, token)| match token {
                Some(token) => Ok((name, token)),
                None => {
                    let item = batch.next().ok_or_else(|| GateError::Store("a field value is missing".to_owned()))?;
                    Ok((name, format!("f:{}", self.alphabet.text(&item.numerals)?)))
                }
            })
            .collect()
    }

    fn fits(&self, value: &str) -> bool {
        let length = value.len();
        value.bytes().all(|b| (b' '..=b'~').contains(&b))
            && (casemate_hsm::minimum_length(self.alphabet.radix())..=MAX_FPE).contains(&length)
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

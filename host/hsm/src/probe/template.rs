//! What scratch keys are asked to be, and how a key is recognised whose bytes came out.

use aws_lc_rs::cipher::{AES_256, EncryptingKey, UnboundCipherKey};
use aws_lc_rs::hmac;
use cryptoki_sys::*;
use zeroize::Zeroizing;

use crate::driver::{Attr, Mech, Value, attribute_name, mechanism_name};

/// Marks every object of the probe, so that one left behind by a crash is found and destroyed by the next.
pub(super) const LABEL: &[u8] = b"casemate probe scratch";

/// A block nobody else encrypts: tells two keys apart.
pub(super) const BLOCK: [u8; 16] = *b"casemate probe 1";

/// The attributes of a scratch key: a session object, sensitive, not extractable, every usage flag explicit and off.
#[derive(Clone)]
pub(super) struct Template {
    kind: CK_KEY_TYPE,
    attributes: Vec<Attr>,
}

impl Template {
    /// An AES-256 key.
    pub(super) fn aes() -> Self {
        Self::new(CKK_AES)
    }

    /// A 32-byte generic secret.
    pub(super) fn secret() -> Self {
        Self::new(CKK_GENERIC_SECRET)
    }

    /// As [`Template::aes`], with nothing said about protection and use.
    pub(super) fn silent() -> Self {
        let mut template = Self::aes();
        let said = [CKA_CLASS, CKA_KEY_TYPE, CKA_LABEL, CKA_TOKEN];
        template.attributes.retain(|Attr(kind, _)| said.contains(kind));
        template
    }

    fn new(kind: CK_KEY_TYPE) -> Self {
        let mut attributes = vec![
            Attr(CKA_CLASS, Value::Number(CKO_SECRET_KEY)),
            Attr(CKA_KEY_TYPE, Value::Number(kind)),
            Attr(CKA_LABEL, Value::Bytes(LABEL.to_vec())),
            Attr(CKA_TOKEN, Value::Flag(false)),
            Attr(CKA_PRIVATE, Value::Flag(true)),
            Attr(CKA_SENSITIVE, Value::Flag(true)),
            Attr(CKA_EXTRACTABLE, Value::Flag(false)),
        ];
        let uses = [CKA_ENCRYPT, CKA_DECRYPT, CKA_SIGN, CKA_VERIFY, CKA_WRAP, CKA_UNWRAP, CKA_DERIVE];
        attributes.extend(uses.map(|kind| Attr(kind, Value::Flag(false))));
        Self { kind, attributes }
    }

    pub(super) fn on(self, kinds: &[CK_ATTRIBUTE_TYPE]) -> Self {
        kinds.iter().fold(self, |template, kind| template.with(*kind, Value::Flag(true)))
    }

    pub(super) fn off(self, kinds: &[CK_ATTRIBUTE_TYPE]) -> Self {
        kinds.iter().fold(self, |template, kind| template.with(*kind, Value::Flag(false)))
    }

    /// Not sensitive and extractable: everybody may read the value.
    pub(super) fn clear(self) -> Self {
        self.off(&[CKA_SENSITIVE]).on(&[CKA_EXTRACTABLE])
    }

    pub(super) fn with(mut self, kind: CK_ATTRIBUTE_TYPE, value: Value) -> Self {
        self.attributes.retain(|Attr(other, _)| *other != kind);
        self.attributes.push(Attr(kind, value));
        self
    }

    /// For derivation, which needs to be told the length.
    pub(super) fn of_length(self, bytes: usize) -> Self {
        self.with(CKA_VALUE_LEN, Value::Number(bytes as CK_ULONG))
    }

    pub(super) fn generation(&self) -> Mech {
        Mech::Plain(if self.kind == CKK_AES { CKM_AES_KEY_GEN } else { CKM_GENERIC_SECRET_KEY_GEN })
    }

    pub(super) fn for_generation(&self) -> Vec<Attr> {
        self.clone().of_length(32).attributes()
    }

    pub(super) fn attributes(&self) -> Vec<Attr> {
        let mut attributes = self.attributes.clone();
        // SoftHSM refuses every attribute of an unwrapped key that comes after CKA_MODIFIABLE (its issue 707).
        attributes.sort_by_key(|Attr(kind, _)| *kind == CKA_MODIFIABLE);
        attributes
    }

    pub(super) fn text(&self) -> String {
        text(&self.attributes)
    }
}

/// What matters of a template: protection, and the uses that are on.
pub(super) fn text(attributes: &[Attr]) -> String {
    let always = [CKA_SENSITIVE, CKA_EXTRACTABLE, CKA_MODIFIABLE, CKA_COPYABLE];
    let words: Vec<String> = attributes
        .iter()
        .filter_map(|Attr(kind, value)| {
            let name = attribute_name(*kind);
            match value {
                Value::Flag(true) if *kind == CKA_PRIVATE => None,
                Value::Flag(true) => Some(name),
                Value::Flag(false) => always.contains(kind).then(|| format!("{name}=false")),
                Value::Numbers(numbers) => {
                    let list: Vec<String> = numbers.iter().map(|number| mechanism_name(*number)).collect();
                    Some(format!("{name}={}", list.join("+")))
                }
                Value::Template(inner) => Some(format!("{name}={}", text(inner))),
                Value::Bytes(_) | Value::Number(_) => None,
            }
        })
        .collect();
    format!("{{{}}}", words.join(" "))
}

/// AES-256-ECB of [`BLOCK`] on this side, to recognise a key whose bytes came out.
pub(super) fn encrypt_here(key: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut block = Zeroizing::new(BLOCK.to_vec());
    let key = UnboundCipherKey::new(&AES_256, key).ok()?;
    EncryptingKey::ecb(key).ok()?.encrypt(&mut block).ok()?;
    Some(block)
}

/// HMAC-SHA-256 on this side.
pub(super) fn mac_here(key: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_names_uses_and_never_bytes() {
        let template = Template::aes().on(&[CKA_WRAP]).with(CKA_VALUE, Value::Bytes(b"0123456789abcdef".to_vec()));
        assert_eq!(template.text(), "{SENSITIVE EXTRACTABLE=false WRAP}");
        let silent = Template::silent();
        assert_eq!(silent.text(), "{}");
    }

    /// FIPS 197, appendix C.3: this side's AES is the one of the standard, so a match is a match.
    #[test]
    fn this_side_encrypts_as_the_standard_says() {
        let key: Vec<u8> = (0..32).collect();
        let one = encrypt_here(&key);
        assert!(one.as_ref().is_some_and(|block| block.len() == 16 && **block != BLOCK));
        assert_ne!(one, encrypt_here(&[0; 32]));
        assert_eq!(encrypt_here(&[0; 5]), None);
    }
}

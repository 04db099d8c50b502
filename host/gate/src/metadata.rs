//! Metadata fields: encrypted so that an equality filter works on the ciphertext, and the store sees nothing else.
//!
//! Deterministic on purpose: equal values of one field in one compartment look equal to the store. See `THREAT_MODEL.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use casemate_hsm::{Alphabet, Ff1Value, HsmError, KeyRef, TweakPolicy};
use casemate_types::CompartmentName;

use crate::GateError;
use crate::collection::store;
use crate::config::SiteConfig;
use crate::schema::{FieldKind, FieldRule};
use crate::vault::{Vault, VaultFf1, VaultKey};

/// The printable ASCII characters: what an FPE field without an alphabet may hold.
const PRINTABLE: &str =
    " !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~";

/// Between a field's name and the version of the key that its value is encrypted under, from version 2 on: the version stands beside
/// the value, never in it. A unit separator, which no field of a document is named with.
const VERSION_MARK: char = '\u{1f}';

/// The keys that encrypt fields.
pub struct FieldCipher {
    in_force: Version,
    /// From before a rotation. They decrypt, and find what is not re-encrypted yet; nothing is written under them.
    older: Vec<Version>,
    printable: Alphabet,
    digits: Alphabet,
    keyring: Arc<Vault>,
    tokens: VaultKey,
}

/// One version of the metadata key, for the radices of the site's alphabets.
struct Version {
    number: u32,
    ff1: BTreeMap<u32, VaultFf1>,
}

/// One field of one document.
pub struct FieldValue<'a> {
    /// The field.
    pub name: &'a str,
    /// Its value in clear.
    pub value: &'a str,
}

/// Fields as the store sees them: name, with the key's version, and value.
pub type Tokens = Vec<(String, String)>;

impl FieldCipher {
    /// Opens the metadata key, the version in force first, and the token key, for the alphabets that the site's fields name.
    pub fn open(
        keyring: &Arc<Vault>,
        config: &SiteConfig,
        metadata: &[(u32, KeyRef)],
        tokens: &KeyRef,
    ) -> Result<Self, GateError> {
        let (printable, digits) = (Alphabet::custom(PRINTABLE)?, Alphabet::digits());
        let named = config.field_rules().filter_map(|rule| rule.alphabet(&printable, &digits));
        let radices: BTreeSet<u32> = named.map(Alphabet::radix).chain([printable.radix()]).collect();
        let version = |(number, key): &(u32, KeyRef)| {
            let ff1 = radices.iter().map(|radix| Ok((*radix, keyring.ff1(keyring.find(key)?, *radix)?)));
            Ok(Version { number: *number, ff1: ff1.collect::<Result<_, HsmError>>()? })
        };
        let missing = || GateError::StateIncomplete { what: "site key metadata".to_owned() };
        let (in_force, older) = metadata.split_first().ok_or_else(missing)?;
        Ok(Self {
            in_force: version(in_force)?,
            older: older.iter().map(version).collect::<Result<_, HsmError>>()?,
            printable,
            digits,
            tokens: keyring.find(tokens)?,
            keyring: Arc::clone(keyring),
        })
    }

    /// Encrypts fields under the version in force, each to `f:` and FF1 ciphertext or `t:` and a token, in order; sealed fields are left
    /// out. One batch of HSM calls for all FF1 values of a radix.
    pub fn encrypt(
        &self,
        config: &SiteConfig,
        compartment: &CompartmentName,
        fields: &[FieldValue<'_>],
    ) -> Result<Tokens, GateError> {
        self.encrypt_under(&self.in_force, config, compartment, fields)
    }

    /// What the store may hold for these fields, in order: one list for each version under which something may still be encrypted.
    pub fn filters(
        &self,
        config: &SiteConfig,
        compartment: &CompartmentName,
        fields: &[FieldValue<'_>],
    ) -> Result<Vec<Tokens>, GateError> {
        let versions = std::iter::once(&self.in_force).chain(&self.older);
        let mut filters = Vec::new();
        for version in versions {
            let filter = self.encrypt_under(version, config, compartment, fields)?;
            // Keyed tokens have no versions.
            if !filters.contains(&filter) {
                filters.push(filter);
            }
        }
        Ok(filters)
    }

    fn encrypt_under(
        &self,
        version: &Version,
        config: &SiteConfig,
        compartment: &CompartmentName,
        fields: &[FieldValue<'_>],
    ) -> Result<Tokens, GateError> {
        let mut batches: Batches<'_> = BTreeMap::new();
        let mut out = Vec::with_capacity(fields.len());
        for field in fields {
            let rule = config.field(compartment, field.name);
            if rule.is_some_and(|rule| *rule.kind() == FieldKind::Sealed) {
                continue;
            }
            match rule.and_then(|rule| Some((rule, self.format_preserved(rule, field.value)?))) {
                Some((rule, (alphabet, text))) => {
                    let tweak = tweak(rule, compartment, field.name)?;
                    let (places, batch) = batches.entry(alphabet.radix()).or_default();
                    places.push((out.len(), alphabet));
                    batch.push(Ff1Value { numerals: alphabet.numerals(&text)?, tweak });
                    out.push((marked(field.name, version.number), String::new()));
                }
                None => out.push((field.name.to_owned(), self.token(compartment, field)?)),
            }
        }
        for (radix, (places, mut batch)) in batches {
            version.ff1(radix)?.encrypt(&mut batch)?;
            for ((place, alphabet), value) in places.into_iter().zip(batch) {
                let text = alphabet.text(&value.numerals)?;
                if let Some((_, out)) = out.get_mut(place) {
                    *out = format!("f:{text}");
                }
            }
        }
        Ok(out)
    }

    /// The number of fields of a record that are encrypted under an older version.
    pub fn outdated(&self, tokens: &[(String, String)]) -> usize {
        tokens.iter().filter(|token| self.older_version(token).is_some()).count()
    }

    /// Brings records under the version in force: decrypts what is under an older one and encrypts it anew. Two batches of HSM calls for
    /// each version and radix. Records whose every field is up to date stay as they are.
    ///
    /// # Errors
    /// A value that does not decrypt under the site's present alphabet of its field, by the field's name; then no record is changed.
    pub fn bring_up(
        &self,
        config: &SiteConfig,
        compartment: &CompartmentName,
        records: &mut [Tokens],
    ) -> Result<(), GateError> {
        // By version and radix: record and field of each value, and the values.
        type Outdated = (Vec<(usize, usize)>, Vec<Ff1Value>);
        let mut batches: BTreeMap<(u32, u32), Outdated> = BTreeMap::new();
        for (record, tokens) in records.iter().enumerate() {
            for (place, token) in tokens.iter().enumerate() {
                let Some(version) = self.older_version(token) else { continue };
                let (name, value) = (unmarked(&token.0), token.1.strip_prefix("f:").unwrap_or_default());
                let rule = config.field(compartment, name);
                let (rule, alphabet) = rule.and_then(|rule| Some((rule, self.alphabet(rule)?))).ok_or_else(|| {
                    store(format!(
                        "field `{name}` of `{compartment}` was encrypted with FF1, and site.toml says otherwise now; \
                             write the collection anew with `casemate reindex`"
                    ))
                })?;
                let value = Ff1Value { numerals: alphabet.numerals(value)?, tweak: tweak(rule, compartment, name)? };
                let (places, batch) = batches.entry((version.number, alphabet.radix())).or_default();
                places.push((record, place));
                batch.push(value);
            }
        }
        let mut fresh = Vec::new();
        for ((number, radix), (places, mut batch)) in batches {
            let older = self.older.iter().find(|older| older.number == number);
            older.ok_or_else(|| store("a version of the metadata key is missing"))?.ff1(radix)?.decrypt(&mut batch)?;
            self.in_force.ff1(radix)?.encrypt(&mut batch)?;
            fresh.extend(places.into_iter().zip(batch));
        }
        for ((record, place), value) in fresh {
            let Some(token) = records.get_mut(record).and_then(|tokens| tokens.get_mut(place)) else { continue };
            let name = unmarked(&token.0).to_owned();
            let alphabet = config.field(compartment, &name).and_then(|rule| self.alphabet(rule));
            let alphabet = alphabet.ok_or_else(|| store("a field value is missing"))?;
            *token = (marked(&name, self.in_force.number), format!("f:{}", alphabet.text(&value.numerals)?));
        }
        Ok(())
    }

    /// The older version that a field is encrypted under.
    fn older_version(&self, (name, value): &(String, String)) -> Option<&Version> {
        if !value.starts_with("f:") {
            return None;
        }
        let number = name.rsplit_once(VERSION_MARK).map_or(Some(1), |(_, number)| number.parse().ok())?;
        self.older.iter().find(|older| older.number == number)
    }

    /// The alphabet of a field that goes through FF1.
    fn alphabet<'a>(&'a self, rule: &'a FieldRule) -> Option<&'a Alphabet> {
        rule.alphabet(&self.printable, &self.digits)
    }

    /// The alphabet and the text of a value that goes through FF1.
    fn format_preserved<'a>(&'a self, rule: &'a FieldRule, value: &str) -> Option<(&'a Alphabet, String)> {
        rule.format_preserved(&self.printable, &self.digits, value)
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

impl Version {
    fn ff1(&self, radix: u32) -> Result<&VaultFf1, GateError> {
        self.ff1.get(&radix).ok_or_else(|| store("a field's alphabet was not opened"))
    }
}

/// By radix: where values go and in which alphabet, and the values.
type Batches<'a> = BTreeMap<u32, (Vec<(usize, &'a Alphabet)>, Vec<Ff1Value>)>;

/// Version 1 has no mark, as before keys had versions.
fn marked(name: &str, version: u32) -> String {
    if version == 1 { name.to_owned() } else { format!("{name}{VERSION_MARK}{version}") }
}

fn unmarked(name: &str) -> &str {
    name.rsplit_once(VERSION_MARK).map_or(name, |(name, _)| name)
}

fn tweak(rule: &FieldRule, compartment: &CompartmentName, field: &str) -> Result<Vec<u8>, GateError> {
    Ok(match rule.has_policy_tweak() {
        true => TweakPolicy::Field.tweak(compartment.as_str(), field, None)?,
        false => format!("{compartment}/{field}").into_bytes(),
    })
}

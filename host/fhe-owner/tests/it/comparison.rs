use casemate_fhe::FheError;
use casemate_fhe::comparison::{ComparisonKey, EncryptedLevel, EncryptedOutcome};
use casemate_fhe_owner::LevelKey;
use casemate_types::Level;

const LEVELS: [Level; 4] = [Level::Public, Level::Internal, Level::Confidential, Level::Secret];

/// Every clearance against every label, through bytes as two processes would exchange them; then what nobody should send.
#[test]
fn clearance_is_compared_with_label_under_encryption() {
    let (owner, comparer) = LevelKey::generate();
    let comparer = ComparisonKey::from_bytes(&comparer.to_bytes().unwrap()).unwrap();
    for clearance in LEVELS {
        for label in LEVELS {
            let [one, other] = [clearance, label].map(|level| owner.encrypt(level).unwrap().to_bytes().unwrap());
            let read = |bytes: &[u8]| EncryptedLevel::from_bytes(bytes, &comparer).unwrap();
            let outcome = comparer.at_least(&read(&one), &read(&other)).to_bytes().unwrap();
            let outcome = EncryptedOutcome::from_bytes(&outcome, &comparer).unwrap();
            assert_eq!(owner.decrypt(&outcome), clearance >= label, "{clearance} and {label}");
        }
    }

    let bytes = owner.encrypt(Level::Secret).unwrap().to_bytes().unwrap();
    assert_ne!(bytes, owner.encrypt(Level::Secret).unwrap().to_bytes().unwrap(), "a level looks the same twice");
    let refused = |bytes: &[u8]| EncryptedLevel::from_bytes(bytes, &comparer).map(drop).unwrap_err();
    assert!(matches!(refused(&[]), FheError::Range { .. }));
    assert!(matches!(refused(&bytes[..bytes.len() - 1]), FheError::Range { .. }));
    assert!(matches!(refused(&[&bytes[..], &[0]].concat()), FheError::Length { .. }));
    assert!(ComparisonKey::from_bytes(&bytes).is_err(), "a level is no key");
    // An outcome is no level.
    let level = EncryptedLevel::from_bytes(&bytes, &comparer).unwrap();
    let outcome = comparer.at_least(&level, &level).to_bytes().unwrap();
    assert!(matches!(refused(&outcome), FheError::Range { .. }));
}

use casemate_fhe::{EncryptedGroup, EncryptedQuery, EncryptedScores, FheError, Params, PreparedQuery, PreparedTile};
use casemate_fhe_owner::OwnerError;

use crate::{encrypt, key, serve, unit_vectors};

fn small() -> Params {
    Params::new(16, 8).unwrap()
}

#[test]
fn two_encryptions_of_the_same_vectors_share_nothing() {
    let key = key(1, small());
    let documents = unit_vectors(256, 16, 1);
    let (a, b) = (encrypt(&key, &documents).remove(0), encrypt(&key, &documents).remove(0));
    let (mask_a, mask_b) = (a.mask().unwrap(), b.mask().unwrap());
    assert!(mask_a.iter().zip(&mask_b).all(|(a, b)| a != b));
    let bodies = |group: &EncryptedGroup| group.bodies().flatten().copied().collect::<Vec<u32>>();
    let same = bodies(&a).iter().zip(bodies(&b)).filter(|(a, b)| **a == *b).count();
    assert!(same <= 1, "{same} of 4096 bodies are equal");
    let (query_a, query_b) = (key.query(&documents[0]).unwrap().0, key.query(&documents[0]).unwrap().0);
    assert_ne!(query_a.id(), query_b.id());
    assert!(query_a.mask(0).unwrap().iter().zip(query_b.mask(0).unwrap()).all(|(a, b)| *a != b));
    assert!(query_a.bodies().flatten().zip(query_b.bodies().flatten()).all(|(a, b)| a != b));
}

#[test]
fn reply_to_another_query_is_refused() {
    let key = key(1, small());
    let documents = unit_vectors(256, 16, 1);
    let groups = encrypt(&key, &documents);
    let (first, first_secret) = key.query(&documents[0]).unwrap();
    let (_, second_secret) = key.query(&documents[0]).unwrap();
    let scores = serve(&groups, &first);
    assert_eq!(second_secret.decrypt(&scores, &[256]), Err(OwnerError::ForeignReply));
    first_secret.decrypt(&scores, &[256]).unwrap();
}

#[test]
fn relabelled_reply_is_refused_because_it_decrypts_to_noise() {
    let key = key(1, small());
    let documents = unit_vectors(256, 16, 1);
    let groups = encrypt(&key, &documents);
    let (first, _) = key.query(&documents[0]).unwrap();
    let (second, second_secret) = key.query(&documents[0]).unwrap();
    let mut bytes = serve(&groups, &first).to_bytes();
    let at = bytes.windows(16).position(|window| window == first.id()).unwrap();
    bytes[at..at + 16].copy_from_slice(second.id());
    let relabelled = EncryptedScores::from_bytes(&bytes).unwrap();
    assert_eq!(second_secret.decrypt(&relabelled, &[256]), Err(OwnerError::ReplyAltered { group: 0 }));
}

#[test]
fn score_in_an_empty_slot_is_refused() {
    let key = key(1, small());
    let documents = unit_vectors(20, 16, 1);
    let groups = encrypt(&key, &documents);
    let (query, secret) = key.query(&documents[7]).unwrap();
    assert_eq!(secret.decrypt(&serve(&groups, &query), &[5]), Err(OwnerError::ReplyAltered { group: 0 }));
}

#[test]
fn missing_and_additional_replies_are_refused() {
    let key = key(1, small());
    let documents = unit_vectors(300, 16, 1);
    let groups = encrypt(&key, &documents);
    for counts in [&[256][..], &[256, 44, 0]] {
        let (query, secret) = key.query(&documents[0]).unwrap();
        let refused = Err(OwnerError::Counts { replies: 2, counts: counts.len() });
        assert_eq!(secret.decrypt(&serve(&groups, &query), counts), refused);
    }
    let (query, secret) = key.query(&documents[0]).unwrap();
    let refused = Err(OwnerError::TooMany { limit: 256, actual: 257 });
    assert_eq!(secret.decrypt(&serve(&groups, &query), &[257, 44]), refused);
}

#[test]
fn group_opens_only_under_its_own_key_and_unaltered() {
    let params = small().with_body_bits(32).unwrap();
    let documents = unit_vectors(9, 16, 1);
    let group = encrypt(&key(1, params), &documents).remove(0);
    let opened = key(1, params).decrypt_group(&group, 9).unwrap();
    for (opened, original) in opened.iter().zip(&documents) {
        for (opened, original) in opened.iter().zip(original) {
            assert!((opened - original).abs() < 2e-6);
        }
    }
    assert_eq!(key(2, params).decrypt_group(&group, 9).unwrap_err(), OwnerError::GroupUnreadable);
    // More documents claimed than there are: the tenth is a zero vector.
    assert_eq!(key(1, params).decrypt_group(&group, 10).unwrap_err(), OwnerError::GroupUnreadable);
    let mut bytes = group.to_bytes();
    *bytes.last_mut().unwrap() ^= 0x40;
    let altered = EncryptedGroup::from_bytes(&bytes).unwrap();
    assert_eq!(key(1, params).decrypt_group(&altered, 9).unwrap_err(), OwnerError::GroupUnreadable);
}

#[test]
fn query_under_another_key_finds_nothing() {
    let params = small();
    let documents = unit_vectors(256, 16, 1);
    let groups = encrypt(&key(1, params), &documents);
    let (query, secret) = key(2, params).query(&documents[0]).unwrap();
    assert_eq!(secret.decrypt(&serve(&groups, &query), &[256]), Err(OwnerError::ReplyAltered { group: 0 }));
}

#[test]
fn hostile_vectors_are_named() {
    let key = key(1, small());
    let unit = unit_vectors(1, 16, 1).remove(0);
    let with = |index: usize, value: f32| {
        let mut vector = unit.clone();
        vector[index] = value;
        vector
    };
    for (vector, refused) in [
        (vec![0.0; 15], OwnerError::Dimension { expected: 16, actual: 15 }),
        (Vec::new(), OwnerError::Dimension { expected: 16, actual: 0 }),
        (with(3, f32::NAN), OwnerError::NotFinite),
        (with(15, f32::NEG_INFINITY), OwnerError::NotFinite),
        (vec![0.0; 16], OwnerError::NotNormalised),
        (with(0, 2.0), OwnerError::NotNormalised),
        (vec![f32::MAX; 16], OwnerError::NotNormalised),
    ] {
        assert_eq!(key.query(&vector).map(drop).unwrap_err(), refused);
        assert_eq!(key.encrypt_group(&[&unit, &vector]).unwrap_err(), refused);
    }
    let full = vec![unit.as_slice(); 257];
    assert_eq!(key.encrypt_group(&full).unwrap_err(), OwnerError::TooMany { limit: 256, actual: 257 });
}

#[test]
fn other_parameters_are_refused_everywhere() {
    let (params, foreign) = (small(), Params::new(16, 4).unwrap());
    let documents = unit_vectors(4, 16, 1);
    let group = encrypt(&key(1, params), &documents).remove(0);
    let (query, secret) = key(1, foreign).query(&documents[0]).unwrap();
    let prepared = PreparedTile::prepare(std::slice::from_ref(&group)).unwrap();
    assert_eq!(
        casemate_fhe::score(&prepared, &PreparedQuery::new(&query).unwrap()).unwrap_err(),
        FheError::ParamsMismatch { expected: foreign, actual: params }
    );
    let mismatch = OwnerError::ParamsMismatch { expected: foreign, actual: params };
    assert_eq!(key(1, foreign).decrypt_group(&group, 4).unwrap_err(), mismatch);
    let (own_query, _) = key(1, params).query(&documents[0]).unwrap();
    let own_scores = serve(&[group], &own_query);
    assert_eq!(secret.decrypt(&own_scores, &[4]), Err(mismatch));
}

#[test]
fn malformed_bytes_are_named() {
    let key = key(1, small());
    let documents = unit_vectors(3, 16, 1);
    let group = encrypt(&key, &documents).remove(0);
    let (query, _) = key.query(&documents[0]).unwrap();
    let scores = serve(std::slice::from_ref(&group), &query);
    type Read = fn(&[u8]) -> Option<FheError>;
    let readers: [(Vec<u8>, Read); 3] = [
        (group.to_bytes(), |bytes| EncryptedGroup::from_bytes(bytes).err()),
        (query.to_bytes(), |bytes| EncryptedQuery::from_bytes(bytes).err()),
        (scores.to_bytes(), |bytes| EncryptedScores::from_bytes(bytes).err()),
    ];
    for (index, (bytes, read)) in readers.iter().enumerate() {
        assert_eq!(read(bytes), None);
        for cut in (0..80).chain([bytes.len() / 2, bytes.len() - 1]) {
            let error = read(&bytes[..cut]);
            assert!(matches!(error, Some(FheError::Length { actual, .. }) if actual == cut), "{cut}: {error:?}");
        }
        let damaged = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = bytes.clone();
            change(&mut bytes);
            read(&bytes)
        };
        assert!(matches!(damaged(&|bytes| bytes.push(0)), Some(FheError::Length { .. })));
        assert!(matches!(damaged(&|bytes| bytes[0] = b'X'), Some(FheError::BadMagic { .. })));
        assert!(matches!(damaged(&|bytes| bytes[5] = 1), Some(FheError::Version { version: 1, .. })));
        assert!(matches!(damaged(&|bytes| bytes[6] = 5), Some(FheError::Block { block: 5 })));
        assert!(matches!(damaged(&|bytes| bytes[6] = 16), Some(FheError::ForeignScheme { .. })));
        assert!(matches!(damaged(&|bytes| bytes[11] = 0xff), Some(FheError::Dimension { .. })));
        assert!(matches!(damaged(&|bytes| bytes[12] = 19), Some(FheError::ReplyBits { bits: 19 })));
        assert!(matches!(damaged(&|bytes| bytes[12] = 18), Some(FheError::ForeignScheme { .. })));
        assert!(matches!(damaged(&|bytes| bytes[13] = 25), Some(FheError::BodyBits { bits: 25 })));
        assert!(matches!(damaged(&|bytes| bytes[14] = 7), Some(FheError::Measure { tag: 7 })));
        assert!(matches!(damaged(&|bytes| bytes[14] = 1), Some(FheError::NormBound)));
        assert!(matches!(damaged(&|bytes| bytes[15] = 1), Some(FheError::ForeignScheme { .. })));
        assert!(matches!(damaged(&|bytes| bytes[30] ^= 1), Some(FheError::ForeignScheme { .. })));
        // One kind is not taken for another.
        for (other, (bytes, _)) in readers.iter().enumerate() {
            if other != index {
                assert!(matches!(read(bytes), Some(FheError::BadMagic { .. })));
            }
        }
    }
    let mut many = scores.to_bytes();
    many[68..72].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(EncryptedScores::from_bytes(&many), Err(FheError::Length { .. } | FheError::Range { .. })));
}

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::cell::Cell;

use aes::cipher::{Block, BlockCipherEncrypt, KeyInit};
use aes::{Aes128, Aes192, Aes256};
use fpe::ff1::{FF1, FlexibleNumeralString};
use proptest::prelude::*;

use super::*;
use crate::fpe::{calls_per_batch, shape};

/// AES in software: the oracle's cipher.
struct Software<C>(C);

impl<C: BlockCipherEncrypt + KeyInit> Software<C> {
    fn new(key: &[u8]) -> Self {
        Self(C::new_from_slice(key).unwrap())
    }
}

impl<C: BlockCipherEncrypt> EcbBlocks for Software<C> {
    fn encrypt_blocks(&self, blocks: &mut [[u8; 16]]) -> Result<(), HsmError> {
        for block in blocks {
            let mut cell = Block::<C>::try_from(&block[..]).unwrap();
            self.0.encrypt_block(&mut cell);
            block.copy_from_slice(&cell);
        }
        Ok(())
    }
}

/// Fails at one call, counted from zero.
struct Failing<'a, E> {
    inner: &'a E,
    at: u32,
    seen: Cell<u32>,
}

impl<E: EcbBlocks> EcbBlocks for Failing<'_, E> {
    fn encrypt_blocks(&self, blocks: &mut [[u8; 16]]) -> Result<(), HsmError> {
        let call = self.seen.replace(self.seen.get() + 1);
        // A real token may have written half of its answer.
        self.inner.encrypt_blocks(blocks)?;
        if call == self.at { Err(HsmError::StrangeAnswer { action: "fail on purpose" }) } else { Ok(()) }
    }
}

const KEY: [u8; 32] = *b"\x2b\x7e\x15\x16\x28\xae\xd2\xa6\xab\xf7\x15\x88\x09\xcf\x4f\x3c\
\xef\x43\x59\xd8\xd5\x80\xaa\x4f\x7f\x03\x6d\x6f\x04\xfc\x6a\x94";

fn aes256() -> Software<Aes256> {
    Software::new(&KEY)
}

fn value(numerals: &[u16], tweak: &[u8]) -> Ff1Value {
    Ff1Value { numerals: numerals.to_vec(), tweak: tweak.to_vec() }
}

/// NIST's FF1 samples 1 to 9 (FF1samples.pdf of the SP 800-38G examples).
#[test]
fn nist_samples() {
    let digits: Vec<u16> = (0..10).collect();
    let letters: Vec<u16> = (0..19).collect();
    let (ten, eleven) = (b"9876543210".as_slice(), b"7777pqrs777".as_slice());
    type Sample<'a> = (usize, u32, &'a [u8], &'a [u16], &'a [u16]);
    let samples: [Sample<'_>; 9] = [
        (16, 10, b"", &digits, &[2, 4, 3, 3, 4, 7, 7, 4, 8, 4]),
        (16, 10, ten, &digits, &[6, 1, 2, 4, 2, 0, 0, 7, 7, 3]),
        (16, 36, eleven, &letters, &[10, 9, 29, 31, 4, 0, 22, 21, 21, 9, 20, 13, 30, 5, 0, 9, 14, 30, 22]),
        (24, 10, b"", &digits, &[2, 8, 3, 0, 6, 6, 8, 1, 3, 2]),
        (24, 10, ten, &digits, &[2, 4, 9, 6, 6, 5, 5, 5, 4, 9]),
        (24, 36, eleven, &letters, &[33, 11, 19, 3, 20, 31, 3, 5, 19, 27, 10, 32, 33, 31, 3, 2, 34, 28, 27]),
        (32, 10, b"", &digits, &[6, 6, 5, 7, 6, 6, 7, 0, 0, 9]),
        (32, 10, ten, &digits, &[1, 0, 0, 1, 6, 2, 3, 4, 6, 3]),
        (32, 36, eleven, &letters, &[33, 28, 8, 10, 0, 10, 35, 17, 2, 10, 31, 34, 10, 21, 34, 35, 30, 32, 13]),
    ];
    for (index, (key_length, radix, tweak, plain, cipher)) in samples.into_iter().enumerate() {
        let key = &KEY[..key_length];
        let ecb: Box<dyn EcbBlocks> = match key_length {
            16 => Box::new(Software::<Aes128>::new(key)),
            24 => Box::new(Software::<Aes192>::new(key)),
            _ => Box::new(Software::<Aes256>::new(key)),
        };
        let mut batch = [value(plain, tweak)];
        encrypt_batch(&*ecb, radix, &mut batch).unwrap();
        assert_eq!(batch[0].numerals, cipher, "sample {}", index + 1);
        decrypt_batch(&*ecb, radix, &mut batch).unwrap();
        assert_eq!(batch[0].numerals, plain, "sample {}", index + 1);
    }
}

/// Numerals and tweak of one value, which a failing case may show.
type Numerals = (Vec<u16>, Vec<u8>);

/// Values of one radix but different lengths and tweaks, as the `fpe` crate accepts them.
fn mixed_batch() -> impl Strategy<Value = (u32, Vec<Numerals>)> {
    let radix = prop_oneof![
        Just(2u32),
        Just(10),
        Just(16),
        Just(26),
        Just(36),
        Just(62),
        Just(255),
        Just(256),
        Just(65_535),
        Just(65_536),
        2u32..=65_536,
    ];
    radix.prop_flat_map(|radix| {
        let minimum = minimum_length(radix);
        let numeral = (0..radix).prop_map(|numeral| numeral as u16);
        let numerals = prop::collection::vec(numeral, minimum..minimum + 90);
        let tweak = prop::collection::vec(any::<u8>(), 0..70);
        (Just(radix), prop::collection::vec((numerals, tweak), 1..8))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// The published crate computes value by value; a batch must give the same.
    #[test]
    fn a_mixed_batch_equals_the_fpe_crate((radix, plain) in mixed_batch()) {
        let plain: Vec<Ff1Value> = plain.iter().map(|(numerals, tweak)| value(numerals, tweak)).collect();
        let oracle = FF1::<Aes256>::new(&KEY, radix).unwrap();
        let mut batch = plain.clone();
        let report = encrypt_batch(&aes256(), radix, &mut batch).unwrap();
        for (ours, plain) in batch.iter().zip(&plain) {
            let theirs = oracle.encrypt(&plain.tweak, &FlexibleNumeralString::from(plain.numerals.clone())).unwrap();
            prop_assert_eq!(&ours.numerals, &Vec::from(theirs));
        }
        let dearest = |part: fn(&Shape) -> usize| {
            plain.iter().map(|v| part(&Shape::new(radix, v.numerals.len(), v.tweak.len()))).max().unwrap_or_default()
        };
        let extra = dearest(|shape| shape.extra_blocks.min(1));
        let calls = dearest(|shape| shape.prefix_blocks) + 10 * (dearest(|shape| shape.round_blocks) + extra);
        prop_assert_eq!(report, BatchReport { hsm_calls: calls as u32, values: plain.len(), backend: Backend::HostFeistel });

        decrypt_batch(&aes256(), radix, &mut batch).unwrap();
        prop_assert!(batch == plain);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Up to the longest tweak and far beyond a machine word, words and long values in one batch.
    #[test]
    fn long_values_and_tweaks_equal_the_fpe_crate(
        radix in prop_oneof![Just(2u32), Just(10), Just(36), Just(256), Just(65_536), 2u32..=65_536],
        shapes in prop::collection::vec((0usize..700, 0usize..=4_096), 1..5),
        seed in any::<u64>(),
    ) {
        let mut state = seed;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32
        };
        let shortest = minimum_length(radix);
        let plain: Vec<Ff1Value> = shapes
            .into_iter()
            .map(|(longer, tweak)| Ff1Value {
                numerals: (0..shortest + longer).map(|_| (noise() % radix) as u16).collect(),
                tweak: (0..tweak).map(|_| noise() as u8).collect(),
            })
            .collect();
        let oracle = FF1::<Aes256>::new(&KEY, radix).unwrap();
        let mut batch = plain.clone();
        encrypt_batch(&aes256(), radix, &mut batch).unwrap();
        for (ours, plain) in batch.iter().zip(&plain) {
            let theirs = oracle.encrypt(&plain.tweak, &FlexibleNumeralString::from(plain.numerals.clone())).unwrap();
            prop_assert!(ours.numerals == Vec::from(theirs), "{plain:?} in radix {radix}");
        }
        decrypt_batch(&aes256(), radix, &mut batch).unwrap();
        prop_assert!(batch == plain);
    }
}

/// Word arithmetic up to a half of 12 bytes, big numbers beyond: both sides of the border, at every length.
#[test]
fn every_length_around_the_word_border_equals_the_fpe_crate() {
    for (radix, lengths) in [(10, 50..64), (36, 30..42), (62, 28..38), (256, 20..30), (65_536, 8..18), (2, 180..200)] {
        let oracle = FF1::<Aes256>::new(&KEY, radix).unwrap();
        for length in lengths {
            // The largest numerals: carries and reductions at their extreme.
            let plain = vec![(radix - 1) as u16; length];
            let mut batch = [value(&plain, b"border")];
            encrypt_batch(&aes256(), radix, &mut batch).unwrap();
            let theirs = oracle.encrypt(b"border", &FlexibleNumeralString::from(plain.clone())).unwrap();
            assert_eq!(batch[0].numerals, Vec::from(theirs), "radix {radix}, length {length}");
            decrypt_batch(&aes256(), radix, &mut batch).unwrap();
            assert_eq!(batch[0].numerals, plain, "radix {radix}, length {length}");
        }
    }
}

#[test]
fn a_fault_at_any_call_leaves_the_batch_untouched() {
    let plain = vec![
        value(&[1; 16], b"12345678"),
        value(&[2; 80], b""),
        value(&[3; 6], &[7; 40]),
        value(&[4; 57], b"12345678"),
    ];
    let software = aes256();
    for direction in [encrypt_batch, decrypt_batch] {
        let mut whole = plain.clone();
        let calls = direction(&Failing { inner: &software, at: u32::MAX, seen: Cell::new(0) }, 10, &mut whole);
        let calls = calls.unwrap().hsm_calls;
        assert!(whole != plain && calls > 11);
        for at in 0..calls {
            let failing = Failing { inner: &software, at, seen: Cell::new(0) };
            let mut batch = plain.clone();
            let result = direction(&failing, 10, &mut batch);
            assert!(matches!(result, Err(HsmError::StrangeAnswer { .. })), "call {at}");
            assert_eq!(failing.seen.get(), at + 1, "nothing is asked after a fault");
            assert!(batch == plain, "call {at}");
        }
    }
}

#[test]
fn calls_do_not_grow_with_the_batch() {
    for count in [1, 10, 1_000, 1_024] {
        let mut batch = vec![value(&[5; 16], b"12345678"); count];
        let report = encrypt_batch(&aes256(), 10, &mut batch).unwrap();
        assert_eq!(
            report,
            BatchReport { hsm_calls: calls_per_batch(10, 16, 8), values: count, backend: Backend::HostFeistel }
        );
        assert_eq!(report.hsm_calls, 11);
    }
    // One block more than a call takes; the prefix, which all share, is one block.
    let mut batch = vec![value(&[5; 16], b"12345678"); 1_025];
    assert_eq!(encrypt_batch(&aes256(), 10, &mut batch).unwrap().hsm_calls, 1 + 20);
    let mut batch: Vec<_> = (0..1_025u32).map(|record| value(&[5; 16], &record.to_be_bytes())).collect();
    assert_eq!(encrypt_batch(&aes256(), 10, &mut batch).unwrap().hsm_calls, 22);
    assert_eq!(
        encrypt_batch(&aes256(), 10, &mut []).unwrap(),
        BatchReport { hsm_calls: 0, values: 0, backend: Backend::HostFeistel }
    );
}

#[test]
fn hostile_values_never_reach_the_cipher() {
    struct Untouchable;
    impl EcbBlocks for Untouchable {
        fn encrypt_blocks(&self, _: &mut [[u8; 16]]) -> Result<(), HsmError> {
            unreachable!("a value that must be refused reached the cipher")
        }
    }
    let good = value(&[0; 16], b"");
    let refuse = |radix, bad: Ff1Value| encrypt_batch(&Untouchable, radix, &mut [good.clone(), bad]).unwrap_err();
    assert!(matches!(refuse(10, value(&[0; 5], b"")), HsmError::DomainTooSmall { length: 5, minimum: 6, radix: 10 }));
    assert!(matches!(refuse(10, value(&[], b"")), HsmError::DomainTooSmall { .. }));
    let mut numerals = [0; 16];
    numerals[3] = 10;
    assert!(matches!(refuse(10, value(&numerals, b"")), HsmError::NumeralOutOfRange { position: 3, value: 1, .. }));
    assert!(matches!(refuse(10, value(&vec![0; 4_097], b"")), HsmError::TooLong { value: 1, .. }));
    assert!(matches!(refuse(10, value(&[0; 16], &[0; 4_097])), HsmError::TooLong { value: 1, .. }));
    for radix in [0, 1, 65_537, u32::MAX] {
        assert!(matches!(refuse(radix, good.clone()), HsmError::UnsupportedRadix { .. }), "{radix}");
    }
}

/// The round function of the longest value still fits its sizes.
#[test]
fn the_longest_value_survives() {
    let plain = value(&vec![65_535; shape::MAXIMUM_LENGTH], &vec![1; shape::MAXIMUM_LENGTH]);
    let mut batch = [plain.clone()];
    encrypt_batch(&aes256(), 65_536, &mut batch).unwrap();
    assert!(batch[0] != plain);
    decrypt_batch(&aes256(), 65_536, &mut batch).unwrap();
    assert!(batch[0] == plain);
}

//! FF1 with the key in the token.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use aes::cipher::consts::{U1, U8, U16};
use aes::cipher::inout::InOut;
use aes::cipher::{
    Block, BlockCipherEncBackend, BlockCipherEncClosure, BlockCipherEncrypt, BlockSizeUser, Key, KeyInit, KeySizeUser,
    ParBlocksSizeUser,
};
use casemate_hsm::fpe::{calls_per_batch, danger};
use casemate_hsm::{
    Alphabet, Backend, BatchReport, Ff1, Ff1Value, FpeQueue, HsmError, KeyClass, QueueLimits, minimum_length,
};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use fpe::ff1::{FF1, FlexibleNumeralString};

use crate::fixture::{Fixture, LABEL};

crate::list![
    ff1_in_the_token_equals_the_fpe_crate,
    a_thousand_values_cost_eleven_calls,
    a_large_batch_is_cut_into_chunks,
    a_small_domain_never_reaches_the_token,
    a_key_destroyed_underneath_leaves_the_batch_untouched,
    two_keys_give_two_ciphertexts,
    batches_run_side_by_side,
    text_goes_through_an_alphabet,
    a_queue_answers_like_the_key_itself,
    ff3_in_the_token_is_a_permutation,
];

fn ff1(fixture: &Fixture, radix: u32) -> Ff1 {
    Ff1::new(Arc::clone(&fixture.ring), fixture.key(KeyClass::FpeFf1), radix).unwrap()
}

fn card(seed: usize) -> Ff1Value {
    let numerals = (0..16).map(|place| ((seed * 7 + place * 3) % 10) as u16).collect();
    Ff1Value { numerals, tweak: b"card no.".to_vec() }
}

thread_local! {
    static ORACLE: RefCell<Option<(Session, ObjectHandle)>> = const { RefCell::new(None) };
}

/// The `fpe` crate's cipher, each block of which the token encrypts on its own: the oracle needs the same key, and the key
/// does not leave the token.
#[derive(Clone)]
struct TokenAes;

impl KeySizeUser for TokenAes {
    type KeySize = U8;
}
impl BlockSizeUser for TokenAes {
    type BlockSize = U16;
}
impl ParBlocksSizeUser for TokenAes {
    type ParBlocksSize = U1;
}
impl KeyInit for TokenAes {
    fn new(_: &Key<Self>) -> Self {
        Self
    }
}
impl BlockCipherEncBackend for TokenAes {
    fn encrypt_block(&self, mut block: InOut<'_, '_, Block<Self>>) {
        ORACLE.with_borrow(|oracle| {
            let (session, key) = oracle.as_ref().unwrap();
            let encrypted = session.encrypt(&Mechanism::AesEcb, *key, block.get_in()).unwrap();
            block.get_out().copy_from_slice(&encrypted);
        });
    }
}
impl BlockCipherEncrypt for TokenAes {
    fn encrypt_with_backend(&self, f: impl BlockCipherEncClosure<BlockSize = U16>) {
        f.call(self);
    }
}

fn ff1_in_the_token_equals_the_fpe_crate(fixture: &Fixture) {
    for radix in [2, 10, 36, 62, 255, 65_536] {
        let ff1 = ff1(fixture, radix);
        ORACLE.set(Some((fixture.session(LABEL), fixture.objects(ff1.key().id())[0])));
        let oracle = FF1::<TokenAes>::new(&[0; 8], radix).unwrap();
        // Both arithmetics, tweaks around a block, extra blocks of S: all shapes in one batch.
        let shortest = minimum_length(radix);
        let plain: Vec<Ff1Value> = [0, 1, 7, 25, 60, 300]
            .into_iter()
            .zip([0u32, 1, 8, 15, 33, 1_000])
            .map(|(longer, tweak)| Ff1Value {
                numerals: (0..shortest + longer).map(|place| ((place as u32 * 7 + 1) % radix) as u16).collect(),
                tweak: (0..tweak).map(|byte| byte as u8).collect(),
            })
            .collect();
        let mut batch = plain.clone();
        ff1.encrypt(&mut batch).unwrap();
        for (ours, plain) in batch.iter().zip(&plain) {
            let theirs = oracle.encrypt(&plain.tweak, &FlexibleNumeralString::from(plain.numerals.clone())).unwrap();
            assert_eq!(ours.numerals, Vec::from(theirs), "radix {radix}, {plain:?}");
        }
        ff1.decrypt(&mut batch).unwrap();
        assert!(batch == plain, "radix {radix}");
        ORACLE.set(None);
    }
}

fn a_thousand_values_cost_eleven_calls(fixture: &Fixture) {
    let ff1 = ff1(fixture, 10);
    let plain: Vec<Ff1Value> = (0..1_000).map(card).collect();
    let mut batch = plain.clone();
    let report = ff1.encrypt(&mut batch).unwrap();
    assert_eq!(report, BatchReport { hsm_calls: 11, values: 1_000, backend: Backend::HostFeistel });
    assert_eq!(report.hsm_calls, calls_per_batch(10, 16, 8));
    assert!(batch.iter().zip(&plain).all(|(now, before)| now != before));
    assert_eq!(ff1.decrypt(&mut batch).unwrap().hsm_calls, 11);
    assert!(batch == plain);
}

fn a_large_batch_is_cut_into_chunks(fixture: &Fixture) {
    let ff1 = ff1(fixture, 10);
    let plain: Vec<Ff1Value> = (0..3_000).map(card).collect();
    let mut batch = plain.clone();
    // One call for the prefix, which all share, and three a round.
    assert_eq!(ff1.encrypt(&mut batch).unwrap().hsm_calls, 31);
    // Chunking changes nothing in the result.
    let mut one = [card(2_999)];
    ff1.encrypt(&mut one).unwrap();
    assert!(one[0] == batch[2_999]);
    ff1.decrypt(&mut batch).unwrap();
    assert!(batch == plain);
}

fn a_small_domain_never_reaches_the_token(fixture: &Fixture) {
    let ff1 = ff1(fixture, 10);
    let mut batch = vec![card(1), Ff1Value { numerals: vec![1, 2, 3, 4, 5], tweak: Vec::new() }];
    let before = batch.clone();
    let error = ff1.encrypt(&mut batch).unwrap_err();
    assert!(matches!(error, HsmError::DomainTooSmall { length: 5, minimum: 6, radix: 10 }));
    assert!(batch == before);
}

fn a_key_destroyed_underneath_leaves_the_batch_untouched(fixture: &Fixture) {
    let ff1 = ff1(fixture, 10);
    let mut batch = vec![card(1), card(2)];
    let before = batch.clone();
    for object in fixture.objects(ff1.key().id()) {
        fixture.session(LABEL).destroy_object(object).unwrap();
    }
    let error = ff1.encrypt(&mut batch).unwrap_err();
    assert!(matches!(error, HsmError::Refused { .. } | HsmError::Device { .. }), "{error}");
    assert!(batch == before);
    // No session is left with a dead operation in it, whichever of the pool comes next.
    let ff1 = self::ff1(fixture, 10);
    for _ in 0..10 {
        ff1.encrypt(&mut batch).unwrap();
        fixture.ring.random(1).unwrap();
    }
    // A good key can be destroyed after use, and its operation does not live on.
    let reference = ff1.key().reference().clone();
    fixture.ring.destroy(ff1.into_key()).unwrap();
    assert!(matches!(fixture.ring.find(&reference), Err(HsmError::KeyMissing { .. })));
}

fn two_keys_give_two_ciphertexts(fixture: &Fixture) {
    let (mut a, mut b) = ([card(1)], [card(1)]);
    ff1(fixture, 10).encrypt(&mut a).unwrap();
    ff1(fixture, 10).encrypt(&mut b).unwrap();
    assert!(a != b);
    // The tweak binds to a place.
    let mut other = [Ff1Value { tweak: b"other".to_vec(), ..card(1) }];
    ff1(fixture, 10).encrypt(&mut other).unwrap();
    assert!(other[0].numerals != a[0].numerals);
}

fn batches_run_side_by_side(fixture: &Fixture) {
    let ff1 = ff1(fixture, 10);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let ff1 = &ff1;
            scope.spawn(move || {
                let plain: Vec<Ff1Value> = (0..200).map(|seed| card(seed + thread)).collect();
                for _ in 0..5 {
                    let mut batch = plain.clone();
                    ff1.encrypt(&mut batch).unwrap();
                    ff1.decrypt(&mut batch).unwrap();
                    assert!(batch == plain);
                }
            });
        }
    });
}

fn text_goes_through_an_alphabet(fixture: &Fixture) {
    let alphabet = Alphabet::custom("абвгдежзийклмнопрстуфхцчшщъыьэюя").unwrap();
    let ff1 = ff1(fixture, alphabet.radix());
    let mut batch = [Ff1Value { numerals: alphabet.numerals("кремль").unwrap(), tweak: b"city".to_vec() }];
    ff1.encrypt(&mut batch).unwrap();
    let hidden = alphabet.text(&batch[0].numerals).unwrap();
    assert_eq!(hidden.chars().count(), 6);
    assert_ne!(hidden, "кремль");
    ff1.decrypt(&mut batch).unwrap();
    assert_eq!(alphabet.text(&batch[0].numerals).unwrap(), "кремль");
}

/// Async code hands a queue to its runtime's blocking threads.
fn is_shared<T: Send + Sync + 'static>(queue: T) -> Arc<T> {
    Arc::new(queue)
}

fn a_queue_answers_like_the_key_itself(fixture: &Fixture) {
    let reference = fixture.ring.generate(KeyClass::FpeFf1, "test").unwrap();
    let direct = Ff1::new(Arc::clone(&fixture.ring), fixture.ring.find(&reference).unwrap(), 10).unwrap();
    let queued = Ff1::new(Arc::clone(&fixture.ring), fixture.ring.find(&reference).unwrap(), 10).unwrap();
    let queue = is_shared(FpeQueue::start(queued, QueueLimits::default()).unwrap());
    let deadline = Duration::from_secs(600);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (queue, direct) = (Arc::clone(&queue), &direct);
            scope.spawn(move || {
                for seed in 0..50 {
                    let mut values = [card(thread * 50 + seed)];
                    let mut expected = values.clone();
                    direct.encrypt(&mut expected).unwrap();
                    let report = queue.encrypt(&mut values, deadline).unwrap();
                    assert!(values == expected);
                    // Shared or not, a batch of these costs what the formula says.
                    assert!(report.values <= 8 && report.hsm_calls == calls_per_batch(10, 16, 8), "{report:?}");
                    queue.decrypt(&mut values, deadline).unwrap();
                    assert!(values == [card(thread * 50 + seed)]);
                }
            });
        }
    });
    assert_eq!(queue.waiting(), 0);
}

fn ff3_in_the_token_is_a_permutation(fixture: &Fixture) {
    for radix in [2, 10, 26, 255, 65_536] {
        let key = fixture.key(KeyClass::FpeFf3);
        let shortest = minimum_length(radix);
        let plain: Vec<Ff1Value> = (0..200usize)
            .map(|seed| Ff1Value {
                numerals: (0..shortest + seed % 7).map(|place| ((place * 31 + seed) as u32 % radix) as u16).collect(),
                tweak: (seed as u64).to_be_bytes()[1..].to_vec(),
            })
            .collect();
        let mut batch = plain.clone();
        assert_eq!(
            danger::ff3_encrypt(&fixture.ring, &key, radix, &mut batch).unwrap(),
            BatchReport { hsm_calls: 8, values: 200, backend: Backend::HostFeistel }
        );
        assert!(batch.iter().flat_map(|value| &value.numerals).all(|numeral| u32::from(*numeral) < radix));
        assert!(batch != plain);
        danger::ff3_decrypt(&fixture.ring, &key, radix, &mut batch).unwrap();
        assert!(batch == plain, "radix {radix}");
    }
    let mut batch = [Ff1Value { tweak: vec![1; 7], ..card(1) }];
    let refused = danger::ff3_encrypt(&fixture.ring, &fixture.key(KeyClass::FpeFf1), 10, &mut batch);
    assert!(matches!(refused, Err(HsmError::WrongClass { .. })));
}

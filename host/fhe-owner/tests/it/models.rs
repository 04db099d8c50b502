//! Linear models on encrypted vectors, against the same models in clear.

use casemate_fhe::{FheError, NormBound, Params, PlainModel, PreparedQuery, TierModel, score};
use casemate_fhe_owner::{ModelKey, OwnerError};
use zeroize::Zeroizing;

const DIMENSION: usize = 384;
const CLASSES: usize = 5;

/// Numbers between -1 and 1 that look like any others.
fn number(n: usize) -> f32 {
    let mixed = (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as f32 / 2f32.powi(23) - 1.0
}

fn model() -> PlainModel {
    let rows: Vec<Vec<f32>> =
        (0..CLASSES).map(|class| (0..=DIMENSION).map(|i| number(class * 1000 + i)).collect()).collect();
    let norm = |row: &Vec<f32>| row.iter().map(|x| x * x).sum::<f32>().sqrt();
    let bound = rows.iter().map(norm).fold(0.0, f32::max) * 1.01;
    PlainModel::new(Params::of_model(DIMENSION, NormBound::new(bound).unwrap()).unwrap(), &rows).unwrap()
}

/// A vector of length one.
fn input(seed: usize) -> Vec<f32> {
    let mut vector: Vec<f32> = (0..DIMENSION).map(|i| number(seed * 7919 + i)).collect();
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter_mut().for_each(|x| *x /= norm);
    vector
}

fn exact(model: &PlainModel, input: &[f32]) -> Vec<f64> {
    let input: Vec<f32> = input.iter().copied().chain([1.0]).collect();
    let product = |row: &[f32]| row.iter().zip(&input).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    model.rows().map(product).collect()
}

fn kept(model: &PlainModel, byte: u8, number: u64) -> ModelKey {
    ModelKey::kept(&Zeroizing::new([byte; 32]), "engineering", number, *model.params(), CLASSES).unwrap()
}

/// Weights in clear and encrypted give the logits of the model in clear, as exactly as the noise budget says: neither worse, nor
/// so much better that the budget would say nothing.
#[test]
fn encrypted_logits_are_those_of_the_model_in_clear() {
    let model = model();
    let params = *model.params();
    let kept = kept(&model, 5, 1);
    let hidden = kept.encrypt(&model).unwrap();
    let passing = ModelKey::passing(params, CLASSES).unwrap();
    for (name, weights, key) in [("clear", TierModel::plain(model.clone()), &passing), ("encrypted", hidden, &kept)] {
        let weights = TierModel::from_bytes(weights.bytes().to_vec()).unwrap();
        assert_eq!(weights.is_plain(), name == "clear");
        let tile = weights.prepare().unwrap();
        let (mut squares, mut count) = (0.0, 0);
        let mut budget = 0.0;
        for seed in 0..40 {
            let input = input(seed);
            let (query, secret) = key.query(&input).unwrap();
            budget = f64::from(secret.tolerance()) / 10.0;
            let reply = score(std::slice::from_ref(&tile), &PreparedQuery::new(&query).unwrap()).unwrap();
            let logits = secret.decrypt(&reply).unwrap();
            assert_eq!(logits.len(), CLASSES);
            for (logit, exact) in logits.iter().zip(exact(&model, &input)) {
                let error = f64::from(*logit) - exact;
                assert!(error.abs() < 10.0 * budget, "{name}: {logit} for {exact}");
                squares += error * error;
                count += 1;
            }
        }
        let rms = (squares / f64::from(count)).sqrt();
        assert!(rms < 1.15 * budget && rms > 0.2 * budget, "{name}: {rms} with a budget of {budget}");
    }
}

#[test]
fn a_tier_that_alters_logits_beyond_the_classes_or_answers_for_another_model_is_refused() {
    let model = model();
    let params = *model.params();
    let tile = TierModel::plain(model).prepare().unwrap();
    // Fewer classes than the tier's model has: what lies behind them is not zero.
    let fewer = ModelKey::passing(params, CLASSES - 1).unwrap();
    let (query, secret) = fewer.query(&input(1)).unwrap();
    let reply = score(std::slice::from_ref(&tile), &PreparedQuery::new(&query).unwrap()).unwrap();
    assert!(matches!(secret.decrypt(&reply), Err(OwnerError::ReplyAltered { group: 0 })));
    // A reply to another question.
    let (_, other) = fewer.query(&input(1)).unwrap();
    assert!(matches!(other.decrypt(&reply), Err(OwnerError::ForeignReply)));
    // A model of another bound is another one.
    let wider = Params::of_model(DIMENSION, NormBound::new(1000.0).unwrap()).unwrap();
    let foreign = ModelKey::passing(wider, CLASSES).unwrap();
    let (foreign, _) = foreign.query(&input(1)).unwrap();
    let refused = score(&[tile], &PreparedQuery::new(&foreign).unwrap()).unwrap_err();
    assert!(matches!(refused, FheError::ParamsMismatch { .. }));
}

/// Other weights of the same shape, those of an older model among them: the canaries do not have their scores.
#[test]
fn a_tier_that_computes_with_other_encrypted_weights_is_named() {
    let model = model();
    let key = kept(&model, 8, 2);
    let asked = |weights: &TierModel| {
        let (query, secret) = key.query(&input(3)).unwrap();
        let reply = score(&[weights.prepare().unwrap()], &PreparedQuery::new(&query).unwrap()).unwrap();
        secret.decrypt(&reply).map(drop)
    };
    assert!(asked(&key.encrypt(&model).unwrap()).is_ok());
    let older = kept(&model, 8, 1).encrypt(&model).unwrap();
    assert_eq!(asked(&older), Err(OwnerError::CanaryMissed { group: 0 }));
    // The tier's own weights, in clear: it may compute with them, and is seen.
    assert_eq!(asked(&TierModel::plain(model)), Err(OwnerError::CanaryMissed { group: 0 }));
}

/// What goes to the tier of an encrypted model is nothing like its weights, and nobody else's key opens what comes back.
#[test]
fn an_encrypted_model_opens_under_its_own_key_alone() {
    let model = model();
    let key = kept(&model, 6, 1);
    let hidden = key.encrypt(&model).unwrap();
    let weight = model.rows().next().unwrap()[0].to_le_bytes();
    assert!(TierModel::plain(model.clone()).bytes().windows(4).any(|bytes| bytes == weight));
    let again = key.encrypt(&model).unwrap();
    let same = hidden.bytes().iter().zip(again.bytes()).skip(84).filter(|(a, b)| a == b).count();
    assert!(same * 128 < hidden.bytes().len(), "{same} of {} bytes are the same twice", hidden.bytes().len());
    let stranger = kept(&model, 7, 1);
    let (query, secret) = stranger.query(&input(2)).unwrap();
    let reply = score(&[hidden.prepare().unwrap()], &PreparedQuery::new(&query).unwrap()).unwrap();
    assert!(matches!(secret.decrypt(&reply), Err(OwnerError::ReplyAltered { .. })));
    // Without room for canaries nothing is encrypted, nor under a key that nobody keeps.
    let passing = ModelKey::passing(*model.params(), CLASSES).unwrap();
    assert!(matches!(passing.encrypt(&model).map(drop), Err(OwnerError::NoCanaries { .. })));
    let full = ModelKey::kept(&Zeroizing::new([6; 32]), "engineering", 1, *model.params(), 253).unwrap();
    assert!(matches!(full.encrypt(&model).map(drop), Err(OwnerError::NoCanaries { .. })));
}

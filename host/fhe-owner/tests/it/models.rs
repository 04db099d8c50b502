//! Linear models on encrypted vectors, against the same models in clear.

use casemate_fhe::{FheError, NormBound, Params, PlainModel, PreparedQuery, TierModel, score};
use casemate_fhe_owner::{OwnerError, OwnerKey};
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

/// A vector of length one, and the one that the bias meets.
fn input(seed: usize) -> Vec<f32> {
    let mut vector: Vec<f32> = (0..DIMENSION).map(|i| number(seed * 7919 + i)).collect();
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter_mut().for_each(|x| *x /= norm);
    vector.push(1.0);
    vector
}

fn exact(model: &PlainModel, input: &[f32]) -> Vec<f64> {
    let product = |row: &[f32]| row.iter().zip(input).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    model.rows().map(product).collect()
}

/// Weights in clear and encrypted give the logits of the model in clear, as exactly as the noise budget says: neither worse, nor
/// so much better that the budget would say nothing.
#[test]
fn encrypted_logits_are_those_of_the_model_in_clear() {
    let model = model();
    let params = *model.params();
    let kept = OwnerKey::for_models(&Zeroizing::new([5; 32]), params).unwrap();
    let rows: Vec<&[f32]> = model.rows().collect();
    let hidden = TierModel::encrypted(kept.encrypt_group(&rows).unwrap());
    let passing = OwnerKey::ephemeral(params).unwrap();
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
            let reply = score(&[tile.clone()], &PreparedQuery::new(&query).unwrap()).unwrap();
            let logits = secret.decrypt(&reply, &[CLASSES]).unwrap();
            assert_eq!((logits.len(), logits[0].len()), (1, CLASSES));
            for (logit, exact) in logits[0].iter().zip(exact(&model, &input)) {
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
    let key = OwnerKey::ephemeral(*model.params()).unwrap();
    let tile = TierModel::plain(model.clone()).prepare().unwrap();
    let (query, secret) = key.query(&input(1)).unwrap();
    let reply = score(&[tile.clone()], &PreparedQuery::new(&query).unwrap()).unwrap();
    // Fewer classes than the model has: what lies behind them is not zero.
    assert!(matches!(secret.decrypt(&reply, &[CLASSES - 1]), Err(OwnerError::ReplyAltered { group: 0 })));
    // A reply to another question.
    let (_, other) = key.query(&input(1)).unwrap();
    assert!(matches!(other.decrypt(&reply, &[CLASSES]), Err(OwnerError::ForeignReply)));
    // A model of another bound is another one.
    let wider = Params::of_model(DIMENSION, NormBound::new(1000.0).unwrap()).unwrap();
    let foreign = OwnerKey::ephemeral(wider).unwrap().query(&input(1)).unwrap().0;
    let refused = score(&[tile], &PreparedQuery::new(&foreign).unwrap()).unwrap_err();
    assert!(matches!(refused, FheError::ParamsMismatch { .. }));
}

/// What goes to the tier of an encrypted model is nothing like its weights, and nobody else's key opens what comes back.
#[test]
fn an_encrypted_model_opens_under_its_own_key_alone() {
    let model = model();
    let rows: Vec<&[f32]> = model.rows().collect();
    let key = OwnerKey::for_models(&Zeroizing::new([6; 32]), *model.params()).unwrap();
    let hidden = TierModel::encrypted(key.encrypt_group(&rows).unwrap());
    let weight = rows[0][0].to_le_bytes();
    assert!(TierModel::plain(model.clone()).bytes().windows(4).any(|bytes| bytes == weight));
    let again = TierModel::encrypted(key.encrypt_group(&rows).unwrap());
    let same = hidden.bytes().iter().zip(again.bytes()).skip(84).filter(|(a, b)| a == b).count();
    assert!(same * 128 < hidden.bytes().len(), "{same} of {} bytes are the same twice", hidden.bytes().len());
    let stranger = OwnerKey::for_models(&Zeroizing::new([7; 32]), *model.params()).unwrap();
    let (query, secret) = stranger.query(&input(2)).unwrap();
    let reply = score(&[hidden.prepare().unwrap()], &PreparedQuery::new(&query).unwrap()).unwrap();
    assert!(matches!(secret.decrypt(&reply, &[CLASSES]), Err(OwnerError::ReplyAltered { .. })));
}

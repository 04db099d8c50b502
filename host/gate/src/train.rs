//! Logistic regression on labelled texts: softmax, weight decay, and Nesterov's method on the whole set, the same in every run.

use std::collections::BTreeMap;

use crate::GateError;
use crate::model::refused;

/// What pulls weights to zero, for each text's share of the loss.
const DECAY: f64 = 1e-4;
/// The loss of softmax over vectors of squared length 2 (one, and the bias) curves by one at most (Böhning 1992), so this is safe.
const STEP: f64 = 1.0;
const STEPS: usize = 600;

/// The names of the classes in order, and of each text which it is.
pub(crate) fn classes(labels: &[&str]) -> Result<(Vec<String>, Vec<usize>), GateError> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for label in labels {
        *counts.entry(label).or_default() += 1;
    }
    if let Some((label, _)) = counts.iter().find(|(_, count)| **count < 2) {
        return Err(refused(format!("class `{label}` has one text; at least two are needed")));
    }
    let names: Vec<String> = counts.keys().map(|name| (*name).to_owned()).collect();
    let place = |label: &&str| names.iter().position(|name| name == label).unwrap_or_default();
    Ok((names.clone(), labels.iter().map(place).collect()))
}

/// A row for each class, the bias last.
pub(crate) fn logistic(vectors: &[&[f32]], labels: &[usize], classes: usize) -> Vec<Vec<f32>> {
    let width = vectors.first().map_or(0, |vector| vector.len()) + 1;
    let mut weights = vec![vec![0.0_f64; width]; classes];
    let mut before = weights.clone();
    let mut gradient = weights.clone();
    for step in 0..STEPS {
        let ahead = step as f64 / (step as f64 + 3.0);
        let point: Vec<Vec<f64>> = weights
            .iter()
            .zip(&before)
            .map(|(now, before)| now.iter().zip(before).map(|(now, before)| now + ahead * (now - before)).collect())
            .collect();
        for (row, at) in gradient.iter_mut().zip(&point) {
            row.iter_mut().zip(at).for_each(|(out, at)| *out = DECAY * at);
        }
        for (vector, label) in vectors.iter().zip(labels) {
            let logits: Vec<f64> = point.iter().map(|row| logit(row, vector)).collect();
            for (class, (row, share)) in gradient.iter_mut().zip(softmax(&logits)).enumerate() {
                let off = (share - f64::from(u8::from(class == *label))) / vectors.len() as f64;
                row.iter_mut().zip(vector.iter()).for_each(|(out, x)| *out += off * f64::from(*x));
                if let Some(bias) = row.last_mut() {
                    *bias += off;
                }
            }
        }
        before.clone_from(&weights);
        for ((row, at), gradient) in weights.iter_mut().zip(&point).zip(&gradient) {
            row.iter_mut().zip(at).zip(gradient).for_each(|((out, at), gradient)| *out = at - STEP * gradient);
        }
    }
    weights.iter().map(|row| row.iter().map(|x| *x as f32).collect()).collect()
}

fn logit(row: &[f64], vector: &[f32]) -> f64 {
    let bias = row.last().copied().unwrap_or_default();
    bias + row.iter().zip(vector).map(|(w, x)| w * f64::from(*x)).sum::<f64>()
}

/// Shares that add up to one.
pub(crate) fn softmax(logits: &[f64]) -> Vec<f64> {
    let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = logits.iter().map(|logit| (logit - most).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

/// The place of the greatest number.
pub(crate) fn greatest(numbers: &[f64]) -> usize {
    numbers.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(place, _)| place)
}

/// Of each fifth of the texts, how many a model that was trained on the others gets right, as a share of all.
pub(crate) fn held_out(vectors: &[&[f32]], labels: &[usize], classes: usize) -> f64 {
    let mut right = 0;
    for fold in 0..FOLDS {
        let kept = |place: &usize| place % FOLDS != fold;
        let places: Vec<usize> = (0..vectors.len()).filter(kept).collect();
        let of_places: Vec<&[f32]> = places.iter().map(|place| vectors[*place]).collect();
        let their_labels: Vec<usize> = places.iter().map(|place| labels[*place]).collect();
        let rows = logistic(&of_places, &their_labels, classes);
        for place in (0..vectors.len()).filter(|place| !kept(place)) {
            let logit_of =
                |row: &Vec<f32>| logit(&row.iter().map(|x| f64::from(*x)).collect::<Vec<_>>(), vectors[place]);
            right += usize::from(greatest(&rows.iter().map(logit_of).collect::<Vec<_>>()) == labels[place]);
        }
    }
    right as f64 / vectors.len().max(1) as f64
}

const FOLDS: usize = 5;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Three classes around three axes, with a component that says nothing.
    fn texts() -> (Vec<Vec<f32>>, Vec<usize>) {
        let one = |n: usize| {
            let mut vector = [0.3, 0.3, 0.3, ((n * 37) % 11) as f32 / 11.0 - 0.5];
            vector[n % 3] = 0.8;
            let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
            (vector.iter().map(|x| x / norm).collect(), n % 3)
        };
        (0..60).map(one).unzip()
    }

    #[test]
    fn classes_that_can_be_told_apart_are() {
        let (vectors, labels) = texts();
        let vectors: Vec<&[f32]> = vectors.iter().map(Vec::as_slice).collect();
        let rows = logistic(&vectors, &labels, 3);
        assert_eq!((rows.len(), rows[0].len()), (3, 5));
        assert_eq!(held_out(&vectors, &labels, 3), 1.0);
        // Labels that say nothing are learnt by nobody.
        let noise: Vec<usize> = (0..60).map(|n| (n * n + n / 7) % 3).collect();
        assert!(held_out(&vectors, &noise, 3) < 0.7);
    }

    #[test]
    fn the_gradient_is_zero_where_training_ends() {
        let (vectors, labels) = texts();
        let vectors: Vec<&[f32]> = vectors.iter().map(Vec::as_slice).collect();
        let rows = logistic(&vectors, &labels, 3);
        let rows: Vec<Vec<f64>> = rows.iter().map(|row| row.iter().map(|x| f64::from(*x)).collect()).collect();
        for (class, row) in rows.iter().enumerate() {
            let mut bias = DECAY * row[4];
            for (vector, label) in vectors.iter().zip(&labels) {
                let logits: Vec<f64> = rows.iter().map(|row| logit(row, vector)).collect();
                bias += (softmax(&logits)[class] - f64::from(u8::from(class == *label))) / 60.0;
            }
            assert!(bias.abs() < 1e-3, "{bias}");
        }
    }

    #[test]
    fn softmax_survives_large_logits() {
        let shares = softmax(&[1000.0, 999.0, -1000.0]);
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-12 && (shares[0] - 0.731_058_578).abs() < 1e-6);
        assert!(classes(&["a", "b", "b"]).unwrap_err().to_string().contains("one text"));
    }
}

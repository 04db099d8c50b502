//! Dot product and Euclidean distance end to end, through the wire formats.

use casemate_fhe::{Measure, NormBound, Params};
use casemate_fhe_owner::OwnerError;

use crate::{counts, encrypt, key, serve, unit_vectors};

/// Vectors of lengths from nothing to the bound.
fn vectors(count: usize, dimension: usize, bound: f32, seed: u64) -> Vec<Vec<f32>> {
    let length = |n: usize| bound * (n % 10) as f32 / 9.0;
    unit_vectors(count, dimension, seed)
        .iter()
        .enumerate()
        .map(|(n, vector)| vector.iter().map(|x| x * length(n) * 0.999_999).collect())
        .collect()
}

#[test]
fn dot_products_and_distances_equal_the_exact_ones() {
    let bound = NormBound::new(30.0).unwrap();
    for (dimension, block, body_bits, measure) in [
        (384, 8, 24, Measure::Dot(bound)),
        (384, 8, 24, Measure::Euclidean(bound)),
        (128, 16, 32, Measure::Euclidean(bound)),
        (3, 4, 32, Measure::Dot(bound)),
        (3, 4, 24, Measure::Euclidean(NormBound::new(0.01).unwrap())),
    ] {
        let params = Params::new(dimension, block).unwrap().with_body_bits(body_bits).unwrap().with_measure(measure);
        let longest = match measure {
            Measure::Dot(bound) | Measure::Euclidean(bound) => bound.value() as f32,
            _ => 1.0,
        };
        let key = key(4, params);
        let documents = vectors(params.documents_per_group() + 9, dimension, longest, 3);
        let groups = encrypt(&key, &documents);
        // A query may be shorter and longer than any document.
        for query_vector in vectors(10, dimension, 3.0 * longest, 5).into_iter().skip(1) {
            let (query, secret) = key.query(&query_vector).unwrap();
            let tolerance = f64::from(secret.tolerance());
            let scores = secret.decrypt(&serve(&groups, &query), &counts(&key, &documents)).unwrap().concat();
            for (score, document) in scores.iter().zip(&documents) {
                let exact = measure.score(&query_vector, document);
                assert!((f64::from(*score) - exact).abs() < tolerance, "{params}: {score} and {exact}");
            }
        }
        let opened = key.decrypt_group(&groups[1], 9).unwrap();
        for (opened, document) in opened.iter().zip(&documents[params.documents_per_group()..]) {
            assert!(opened.iter().zip(document).all(|(a, b)| (a - b).abs() < 3e-3 * longest), "{params}");
        }
    }
}

/// The nearest of many by distance is not the nearest by direction: the measure is not just a name.
#[test]
fn measures_rank_differently() {
    let bound = NormBound::new(4.0).unwrap();
    let documents = vec![vec![4.0, 0.0], vec![0.9, 0.5], vec![-1.0, 0.0]];
    let question = [1.0, 0.0];
    for (measure, best) in [(Measure::Dot(bound), 0), (Measure::Euclidean(bound), 1)] {
        let key = key(4, Params::new(2, 4).unwrap().with_measure(measure));
        let groups = encrypt(&key, &documents);
        let (query, secret) = key.query(&question).unwrap();
        let scores = secret.decrypt(&serve(&groups, &query), &[3]).unwrap().concat();
        assert!(
            scores.iter().enumerate().all(|(n, score)| n == best || *score < scores[best]),
            "{measure}: {scores:?}"
        );
    }
}

#[test]
fn largest_dimension_has_room_for_the_euclidean_component() {
    let params = Params::new(4096, 32).unwrap().with_measure(Measure::Euclidean(NormBound::new(1.0).unwrap()));
    assert_eq!((params.width(), params.blocks()), (4097, 129));
    let key = key(4, params);
    let documents = unit_vectors(5, 4096, 1);
    let (query, secret) = key.query(&documents[2]).unwrap();
    let tolerance = secret.tolerance();
    let scores = secret.decrypt(&serve(&encrypt(&key, &documents), &query), &[5]).unwrap().concat();
    assert!(scores[2].abs() < tolerance && scores[0] < -1.5, "{scores:?}");
}

#[test]
fn document_beyond_the_declared_bound_is_refused_by_name() {
    let bound = NormBound::new(2.0).unwrap();
    for measure in [Measure::Dot(bound), Measure::Euclidean(bound)] {
        let key = key(4, Params::new(4, 4).unwrap().with_measure(measure));
        let (good, long) = ([2.0, 0.0, 0.0, 0.0], [2.0, 0.1, 0.0, 0.0]);
        assert!(key.encrypt_group(&[&good]).is_ok());
        assert_eq!(key.encrypt_group(&[&good, &long]).unwrap_err(), OwnerError::NormBound);
    }
    let key = key(4, Params::new(4, 4).unwrap().with_measure(Measure::Dot(bound)));
    assert_eq!(key.query(&[0.0; 4]).map(drop).unwrap_err(), OwnerError::ZeroQuery);
}

#[test]
fn collection_of_another_measure_or_bound_is_refused() {
    let params = |measure| Params::new(4, 4).unwrap().with_measure(measure);
    let one = params(Measure::Dot(NormBound::new(1.0).unwrap()));
    let two = params(Measure::Dot(NormBound::new(2.0).unwrap()));
    let group = key(4, one).encrypt_group(&[&[1.0, 0.0, 0.0, 0.0]]).unwrap();
    let mismatch = OwnerError::ParamsMismatch { expected: two, actual: one };
    assert_eq!(key(4, two).decrypt_group(&group, 1).unwrap_err(), mismatch);
}

use std::collections::BTreeSet;

use casemate_fhe::{Params, PreparedQuery, PreparedTile, plaintext, score, score_one_thread};

use crate::{counts, encrypt, key, serve, unit_vectors};

fn top_ten(scores: &[f32]) -> BTreeSet<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    order.into_iter().take(10).collect()
}

/// Scores equal plaintext cosines, with several groups of which the last is partial, and their error is what the noise budget
/// says: so the budget in the documentation is the one of the code.
#[test]
fn encrypted_scores_equal_plaintext_cosines() {
    let (mut all_hits, mut all_wanted) = (0, 0);
    for (dimension, block, reply_bits, body_bits) in [
        (384, 8, 20, 24),
        (384, 8, 20, 32),
        (384, 4, 18, 24),
        (384, 16, 20, 24),
        (384, 32, 16, 32),
        (100, 4, 20, 32),
        (100, 16, 18, 24),
        (385, 8, 16, 24),
        (385, 32, 20, 32),
    ] {
        let params = Params::new(dimension, block).unwrap();
        let params = params.with_reply_bits(reply_bits).unwrap().with_body_bits(body_bits).unwrap();
        let key = key(1, params);
        let total = 2 * params.documents_per_group() + params.documents_per_group() / 3;
        let documents = unit_vectors(total, dimension, 7);
        let matrix = documents.concat();
        let groups = encrypt(&key, &documents);
        assert_eq!(groups.len(), 3);
        let (mut hits, mut wanted, mut errors) = (0, 0, Vec::new());
        for query_vector in unit_vectors(30, dimension, 99) {
            let exact = plaintext::scan(&matrix, dimension, &query_vector);
            let (query, secret) = key.query(&query_vector).unwrap();
            let scores = secret.decrypt(&serve(&groups, &query), &counts(&key, &documents)).unwrap().concat();
            assert_eq!(scores.len(), exact.len());
            errors.extend(scores.iter().zip(&exact).map(|(score, exact)| f64::from(score - exact).abs()));
            hits += top_ten(&scores).intersection(&top_ten(&exact)).count();
            wanted += 10;
        }
        let rms = (errors.iter().map(|error| error * error).sum::<f64>() / errors.len() as f64).sqrt();
        let worst = errors.iter().copied().fold(0.0, f64::max);
        let budget = params.noise_budget();
        println!(
            "{params}: RMS {rms:.2e} (budget {:.2e}), worst {worst:.2e}, top ten {hits} of {wanted}",
            budget.total()
        );
        assert!((0.75..1.15).contains(&(rms / budget.total())), "{params}: RMS {rms}, budget {}", budget.total());
        assert!(worst < budget.tolerance(), "{params}: worst error {worst}");
        all_hits += hits;
        all_wanted += wanted;
    }
    println!("recall of the top ten: {all_hits} of {all_wanted}");
    assert!(all_hits * 100 >= all_wanted * 99, "recall is {all_hits} of {all_wanted}");
}

/// Close neighbours keep their order: a document scores 1 against itself, and the next ones fall by steps of 0.002.
#[test]
fn near_duplicates_keep_their_order() {
    let params = Params::default();
    let key = key(2, params);
    let [base, other] = <[_; 2]>::try_from(unit_vectors(2, 384, 5)).unwrap();
    let along: f32 = base.iter().zip(&other).map(|(a, b)| a * b).sum();
    let mut orthogonal: Vec<f32> = base.iter().zip(&other).map(|(a, b)| b - along * a).collect();
    let norm = orthogonal.iter().map(|x| x * x).sum::<f32>().sqrt();
    orthogonal.iter_mut().for_each(|x| *x /= norm);
    let documents: Vec<Vec<f32>> = (0..200)
        .map(|step| {
            let cosine = 1.0 - 0.002 * step as f32;
            let sine = (1.0 - cosine * cosine).max(0.0).sqrt();
            base.iter().zip(&orthogonal).map(|(a, b)| cosine * a + sine * b).collect()
        })
        .collect();
    let groups = encrypt(&key, &documents);
    let (query, secret) = key.query(&base).unwrap();
    let scores = secret.decrypt(&serve(&groups, &query), &[200]).unwrap().concat();
    assert!((scores[0] - 1.0).abs() < 1e-3);
    assert!(scores.is_sorted_by(|a, b| a > b));
}

#[test]
fn largest_dimension_stays_within_the_noise_budget() {
    let params = Params::new(4096, 32).unwrap();
    let key = key(3, params);
    let documents = unit_vectors(40, 4096, 8);
    let groups = encrypt(&key, &documents);
    let (query, secret) = key.query(&documents[17]).unwrap();
    let scores = secret.decrypt(&serve(&groups, &query), &[40]).unwrap().concat();
    let exact = plaintext::scan(&documents.concat(), 4096, &documents[17]);
    for (score, exact) in scores.iter().zip(exact) {
        assert!((score - exact).abs() < 2e-3, "{score} and {exact}");
    }
}

#[test]
fn one_thread_and_all_threads_agree() {
    let params = Params::new(64, 8).unwrap();
    let key = key(4, params);
    let documents = unit_vectors(20 * 256, 64, 3);
    let tiles = PreparedTile::prepare(&encrypt(&key, &documents)).unwrap();
    let (query, _) = key.query(&documents[0]).unwrap();
    let query = PreparedQuery::new(&query).unwrap();
    assert_eq!(score(&tiles, &query).unwrap(), score_one_thread(&tiles, &query).unwrap());
}

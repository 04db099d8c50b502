//! What retrieval strategies share: searching every collection, merging, fusing and spreading rankings.

use crate::{CapabilityError, Field, Reference, vectors};

/// Searches every collection that the session may search, or those of `chosen` among them, and returns each one's ranking.
///
/// A collection whose key was withdrawn meanwhile is left out, and so is one that cannot be asked this (`invalid`, most likely a
/// filter on a field it does not have): nothing in it can match. When all are left out for that, it is an error.
///
/// # Errors
/// For the operator. An altered or missing store must not look like a smaller one, so any other failure is one.
pub fn everywhere(
    chosen: Option<&[String]>,
    mut search: impl FnMut(&str) -> Result<Vec<Reference>, CapabilityError>,
) -> Result<Vec<Vec<Reference>>, String> {
    let mut names = vectors::collections();
    names.retain(|name| chosen.is_none_or(|chosen| chosen.contains(name)));
    let (mut found, mut unfit) = (Vec::new(), None);
    for name in &names {
        match search(name) {
            Ok(references) => found.push(references),
            Err(CapabilityError::Denied(_) | CapabilityError::NotFound(_)) => {}
            Err(error @ CapabilityError::Invalid(_)) => unfit = Some((name, error)),
            Err(error) => return Err(error.explain(&["searching `", name, "`"].concat())),
        }
    }
    match unfit {
        Some((name, error)) if found.is_empty() => Err(error.explain(&["searching `", name, "`"].concat())),
        _ => Ok(found),
    }
}

/// One ranking by closeness, of at most `k`. Equal closeness keeps the order of rankings and of ranks; the first of two equal
/// references stays.
pub fn merge(rankings: Vec<Vec<Reference>>, k: u32) -> Vec<Reference> {
    let mut found: Vec<Reference> = rankings.into_iter().flatten().collect();
    found.sort_by_key(|reference| core::cmp::Reverse(reference.closeness));
    let mut best: Vec<Reference> = Vec::with_capacity(found.len().min(k as usize));
    for reference in found {
        if best.len() == k as usize {
            break;
        }
        if !best.iter().any(|each| same(each, &reference)) {
            best.push(reference);
        }
    }
    best
}

/// Reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009, constant 60): one ranking, of at most `k`, by the sum of
/// `1 / (60 + rank)` over `rankings`. Equal sums keep the order of the first ranking that has them.
pub fn fuse(rankings: &[Vec<Reference>], k: u32) -> Vec<Reference> {
    let mut fused: Vec<(u64, Reference)> = Vec::new();
    for ranking in rankings {
        for (rank, reference) in (1_u64..).zip(ranking) {
            let share = (1 << 32) / (60 + rank);
            match fused.iter_mut().find(|(_, each)| same(each, reference)) {
                Some((sum, _)) => *sum += share,
                None => fused.push((share, reference.clone())),
            }
        }
    }
    fused.sort_by_key(|(sum, _)| core::cmp::Reverse(*sum));
    fused.into_iter().take(k as usize).map(|(_, reference)| reference).collect()
}

/// Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): picks `k` of `found` one after the other, each time the one with
/// the most of `relevance` percent closeness to the question less the rest of closeness to what is picked already. `closeness`
/// holds that of each two, row by row, as `similarity.closeness` gives it.
pub fn diversify(found: &[Reference], closeness: &[u16], relevance: u32, k: u32) -> Vec<Reference> {
    let relevance = i64::from(relevance.min(100));
    let between = |a: usize, b: usize| i64::from(closeness.get(a * found.len() + b).copied().unwrap_or(0));
    let (mut left, mut picked): (Vec<usize>, Vec<usize>) = ((0..found.len()).collect(), Vec::new());
    while picked.len() < k as usize && !left.is_empty() {
        let value = |place: &usize| {
            let close = found.get(*place).map_or(0, |reference| i64::from(reference.closeness));
            let nearest = picked.iter().map(|other| between(*place, *other)).max().unwrap_or(0);
            (relevance * close - (100 - relevance) * nearest, core::cmp::Reverse(*place))
        };
        let Some(best) = left.iter().copied().max_by_key(value) else { break };
        left.retain(|place| *place != best);
        picked.push(best);
    }
    picked.into_iter().filter_map(|place| found.get(place).cloned()).collect()
}

/// Reads a condition as people write it in settings: `FIELD=VALUE`, `FIELD in A,B`, `FIELD>=VALUE` or `FIELD<=VALUE`.
///
/// # Errors
/// What is wanted.
pub fn condition(text: &str) -> Result<Field, String> {
    for (operator, suffix) in [(" in ", " in"), (">=", ">="), ("<=", "<="), ("=", "")] {
        let Some((name, value)) = text.split_once(operator) else { continue };
        if name.contains('=') {
            continue;
        }
        let (name, value) = if suffix.is_empty() { (name, value) } else { (name.trim(), value.trim()) };
        if !name.is_empty() && !name.trim_end().ends_with(['<', '>', '!']) {
            return Ok(Field { name: [name, suffix].concat(), value: value.to_owned() });
        }
    }
    Err(["`", text, "` is no condition: FIELD=VALUE, FIELD in A,B, FIELD>=VALUE or FIELD<=VALUE"].concat())
}

fn same(a: &Reference, b: &Reference) -> bool {
    a.document == b.document && a.collection == b.collection
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn ranking(names: &[(&str, u16)]) -> Vec<Reference> {
        let reference = |(document, closeness): &(&str, u16)| Reference {
            collection: "alpha".to_owned(),
            document: (*document).to_owned(),
            closeness: *closeness,
        };
        names.iter().map(reference).collect()
    }

    fn names(ranking: &[Reference]) -> Vec<&str> {
        ranking.iter().map(|reference| reference.document.as_str()).collect()
    }

    #[test]
    fn fusion_puts_first_what_two_rankings_know() {
        let (one, two) = (ranking(&[("a", 9), ("b", 8), ("c", 7)]), ranking(&[("d", 9), ("c", 3), ("e", 1)]));
        // c: 1/63 + 1/62; a and d: 1/61; b: 1/62; e: 1/63.
        assert_eq!(names(&fuse(&[one.clone(), two.clone()], 5)), ["c", "a", "d", "b", "e"]);
        assert_eq!(names(&fuse(&[one, two], 2)), ["c", "a"]);
        assert!(fuse(&[], 5).is_empty());
    }

    #[test]
    fn twins_give_way_to_what_is_new() {
        let found = ranking(&[("a", 900), ("twin", 890), ("new", 700)]);
        let closeness = [1023, 1020, 100, 1020, 1023, 110, 100, 110, 1023];
        assert_eq!(names(&diversify(&found, &closeness, 70, 2)), ["a", "new"]);
        assert_eq!(names(&diversify(&found, &closeness, 100, 3)), ["a", "twin", "new"]);
        assert_eq!(names(&diversify(&found, &closeness, 0, 9)), ["a", "new", "twin"]);
        assert_eq!(names(&diversify(&found, &[], 70, 1)), ["a"]);
    }

    #[test]
    fn conditions_are_read_as_the_host_reads_them() {
        let read = |text: &str| condition(text).map(|field| (field.name, field.value));
        let pair = |name: &str, value: &str| Ok((name.to_owned(), value.to_owned()));
        assert_eq!(read("licence=MIT"), pair("licence", "MIT"));
        assert_eq!(read("licence in MIT,BSD"), pair("licence in", "MIT,BSD"));
        assert_eq!(read("year >= 2020"), pair("year>=", "2020"));
        assert_eq!(read("title=up in arms >= 3"), pair("title", "up in arms >= 3"));
        for text in ["", "year", "year>2020", "=a"] {
            assert!(condition(text).is_err(), "{text}");
        }
    }
}

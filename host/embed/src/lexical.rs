use std::collections::{BTreeMap, HashSet};
use std::fmt;

use casemate_types::Digest;

use crate::{DIMENSION, EmbedError, Embedder, unit};

/// Counters of document frequency; a feature's counter is its hash's top 16 bits.
const BUCKETS: usize = 1 << 16;
/// Components that one feature adds to or subtracts from. More is closer to orthogonal, and slower.
const SIGNS: u64 = 16;
/// Begins the written form and names its version. A change of any constant or hash here needs a new one.
const MAGIC: &[u8; 8] = b"CMLEX-1\n";
const HEADER: usize = MAGIC.len() + 4;
const BODY: usize = HEADER + 4 * BUCKETS;
const DIGEST: usize = 32;

/// An embedder without a model: texts are near when they share words, word pairs or parts of words.
///
/// 1. Features of the lower-cased text: words (runs of letters and digits), pairs of neighbouring words, and the 3-,
///    4- and 5-grams of characters of each word between `<` and `>`. Hash: FNV-1a, 64 bits, then the finaliser of
///    SplitMix64.
/// 2. Weight: `(1 + ln tf) * (1 + ln((1 + N) / (1 + df)))`, times 1 for a word, 0.7 for a pair, 0.4 for an n-gram;
///    `df` is counted in 2^16 buckets over the `N` texts of [`fit`](Self::fit).
/// 3. Projection: each feature adds its weight, with a sign, to 16 of the 384 components; component and sign come
///    from the hash (Achlioptas 2003, sparse form). The sum is scaled to length 1.
///
/// A text without a letter or digit is the first unit vector. Words of another script without spaces count as one.
#[derive(Clone, PartialEq, Eq)]
pub struct Lexical {
    texts: u32,
    document_frequency: Vec<u32>,
}

impl Lexical {
    /// Counts in how many of `texts` each feature occurs. Without texts every feature weighs the same.
    pub fn fit<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut lexical = Self { texts: 0, document_frequency: vec![0; BUCKETS] };
        for text in texts {
            lexical.texts = lexical.texts.saturating_add(1);
            let mut seen = HashSet::new();
            each_feature(text, |hash, _| {
                seen.insert(bucket(hash));
            });
            for bucket in seen {
                if let Some(count) = lexical.document_frequency.get_mut(bucket) {
                    *count = count.saturating_add(1);
                }
            }
        }
        lexical
    }

    /// The written form: magic, number of texts and 2^16 counters as little-endian `u32`, SHA-256 of all that.
    ///
    /// It tells which words occur in the corpus, so it needs the protection of the corpus.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BODY + DIGEST);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.texts.to_le_bytes());
        for count in &self.document_frequency {
            bytes.extend_from_slice(&count.to_le_bytes());
        }
        let digest = Digest::of(&bytes);
        bytes.extend_from_slice(digest.as_bytes());
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    ///
    /// [`EmbedError::Lexical`] for any other byte string.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, EmbedError> {
        let refuse = |reason| Err(EmbedError::Lexical { reason });
        let Some((magic, _)) = bytes.split_first_chunk() else {
            return refuse("they end before their header");
        };
        if magic != MAGIC {
            return refuse("they do not begin with `CMLEX-1`");
        }
        let Some((body, digest)) = bytes.split_at_checked(BODY) else {
            return refuse("they are truncated");
        };
        if digest.len() != DIGEST {
            return refuse("they do not end with a digest");
        }
        if Digest::of(body).as_bytes() != digest {
            return refuse("their digest does not match");
        }
        let (numbers, _) = body.get(MAGIC.len()..).unwrap_or_default().as_chunks();
        let mut numbers = numbers.iter().map(|number| u32::from_le_bytes(*number));
        let texts = numbers.next().unwrap_or_default();
        let document_frequency: Vec<u32> = numbers.collect();
        if document_frequency.iter().any(|&count| count > texts) {
            return refuse("a feature occurs in more texts than there are");
        }
        Ok(Self { texts, document_frequency })
    }

    fn vector(&self, text: &str) -> Vec<f32> {
        // Ordered, so that the floating-point sums are the same in every process.
        let mut features: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
        each_feature(text, |hash, weight| features.entry(hash).or_insert((weight, 0.0)).1 += 1.0);

        let mut sums = [0.0; DIMENSION];
        for (hash, (weight, count)) in features {
            let frequency = self.document_frequency.get(bucket(hash)).copied().unwrap_or_default();
            let rarity = 1.0 + ((1.0 + f64::from(self.texts)) / (1.0 + f64::from(frequency))).ln();
            let value = weight * (1.0 + f64::ln(count)) * rarity;
            for i in 1..=SIGNS {
                let random = mix(hash.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
                let sign = if random & 1 == 0 { 1.0 } else { -1.0 };
                if let Some(sum) = sums.get_mut((random >> 1) as usize % DIMENSION) {
                    *sum += sign * value;
                }
            }
        }
        unit(&sums).unwrap_or_else(|| {
            let mut first = vec![0.0; DIMENSION];
            first[0] = 1.0;
            first
        })
    }
}

impl Embedder for Lexical {
    fn name(&self) -> &str {
        "lexical-1"
    }

    fn digest(&self) -> Digest {
        Digest::of(&self.to_bytes())
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        Ok(texts.iter().map(|text| self.vector(text)).collect())
    }
}

impl fmt::Debug for Lexical {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lexical").field("texts", &self.texts).finish_non_exhaustive()
    }
}

/// Calls `feature` with the hash and weight of each feature of `text`, as often as it occurs.
fn each_feature(text: &str, mut feature: impl FnMut(u64, f64)) {
    let text = text.to_lowercase();
    let mut previous = None;
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        feature(hash("w", &[word]), 1.0);
        if let Some(previous) = previous.replace(word) {
            feature(hash("p", &[previous, " ", word]), 0.7);
        }
        let framed = format!("<{word}>");
        let bounds: Vec<usize> = framed.char_indices().map(|(at, _)| at).chain([framed.len()]).collect();
        for width in 3..=5 {
            for window in bounds.windows(width + 1) {
                if let Some(gram) = framed.get(window[0]..window[width]) {
                    feature(hash("c", &[gram]), 0.4);
                }
            }
        }
    }
}

fn bucket(hash: u64) -> usize {
    (hash >> 48) as usize
}

/// FNV-1a of 64 bits (draft-eastlake-fnv) over the kind and the parts, then mixed so that every bit can be used.
fn hash(kind: &str, parts: &[&str]) -> u64 {
    let bytes = kind.bytes().chain(parts.iter().flat_map(|part| part.bytes()));
    mix(bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)))
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const CORPUS: [&str; 6] = [
        "The pump in hall three is broken and leaks oil.",
        "Replace the broken pump before the next shift.",
        "The canteen serves soup on Tuesdays.",
        "Invoices are paid within thirty days.",
        "The valve of the oil tank was replaced.",
        "Visitors sign in at the gate.",
    ];

    fn fitted() -> Lexical {
        Lexical::fit(CORPUS)
    }

    fn cosine(lexical: &Lexical, a: &str, b: &str) -> f32 {
        let vectors = lexical.embed(&[a, b]).unwrap();
        vectors[0].iter().zip(&vectors[1]).map(|(x, y)| x * y).sum()
    }

    #[test]
    fn related_texts_are_nearer_than_unrelated_ones() {
        let lexical = fitted();
        for (query, near, far) in [
            ("who repairs broken pumps?", CORPUS[1], CORPUS[2]),
            ("when are invoices paid", CORPUS[3], CORPUS[5]),
            ("replacing valves", CORPUS[4], CORPUS[0]),
        ] {
            assert!(cosine(&lexical, query, near) > cosine(&lexical, query, far) + 0.1, "{query}");
        }
        assert!(cosine(&lexical, "alpha beta", "gamma delta").abs() < 0.2);
    }

    #[test]
    fn word_order_and_case_are_seen_as_documented() {
        let lexical = fitted();
        assert!(cosine(&lexical, "Broken PUMP", "broken, pump!") > 0.999_999);
        assert!(cosine(&lexical, "broken pump", "pump broken") < 0.999);
    }

    #[test]
    fn a_rare_word_weighs_more_than_a_common_one() {
        let fitted = Lexical::fit(std::iter::repeat_n("the", 100).chain(["zebra"]));
        assert!(cosine(&fitted, "the zebra", "zebra") > cosine(&fitted, "the zebra", "the"));
    }

    #[test]
    fn every_vector_has_length_one_and_is_finite() {
        let lexical = fitted();
        let long = "word ".repeat(10_000);
        let odd = [
            "",
            " \n\t",
            "!?",
            "a",
            "\u{0}",
            "é",
            "İstanbul",
            "日本語のテキスト",
            "🚂🚃",
            "x".repeat(5_000).leak(),
            &long,
        ];
        for vector in lexical.embed(&odd).unwrap().iter().chain(&Lexical::fit([]).embed(&odd).unwrap()) {
            let length: f64 = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            assert!((length - 1.0).abs() < 1e-6 && vector.len() == DIMENSION);
        }
    }

    #[test]
    fn a_text_without_words_is_the_first_unit_vector() {
        let vectors = fitted().embed(&["", "--- !"]).unwrap();
        assert_eq!(vectors[0], vectors[1]);
        assert_eq!(vectors[0].iter().position(|&x| x == 1.0), Some(0));
    }

    #[test]
    fn the_written_form_gives_the_same_vectors() {
        let lexical = fitted();
        let again = Lexical::from_bytes(&lexical.to_bytes()).unwrap();
        assert_eq!(lexical.embed(&CORPUS).unwrap(), again.embed(&CORPUS).unwrap());
        assert_ne!(lexical.embed(&CORPUS).unwrap(), Lexical::fit(["the pump"]).embed(&CORPUS).unwrap());
    }

    #[test]
    fn hashes_are_the_published_ones() {
        // draft-eastlake-fnv: FNV-1a of "a" and of "foobar"; the kind is the first byte here.
        assert_eq!(hash("a", &[]), mix(0xaf63_dc4c_8601_ec8c));
        assert_eq!(hash("f", &["oobar"]), mix(0x8594_4171_f739_67e8));
        // SplitMix64 with seed 0 begins with this number.
        assert_eq!(mix(0x9e37_79b9_7f4a_7c15), 0xe220_a839_7b1d_cdaf);
    }

    fn reason(bytes: &[u8]) -> String {
        Lexical::from_bytes(bytes).unwrap_err().to_string()
    }

    #[test]
    fn malformed_bytes_are_refused_by_name() {
        let good = fitted().to_bytes();
        assert!(reason(&[]).contains("before their header"));
        assert!(reason(&good[..7]).contains("before their header"));
        assert!(reason(&good[..good.len() / 2]).contains("truncated"));
        assert!(reason(&good[..good.len() - 1]).contains("end with a digest"));
        assert!(reason(&[good.clone(), vec![0]].concat()).contains("end with a digest"));
        for at in [8, HEADER, BODY - 1, BODY] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(reason(&bad).contains("digest does not match"), "{at}");
        }
        let mut other = good.clone();
        other[6] = b'2';
        assert!(reason(&other).contains("do not begin"));
    }

    #[test]
    fn impossible_counts_are_refused() {
        let impossible = Lexical { texts: 1, document_frequency: vec![2; BUCKETS] };
        assert!(reason(&impossible.to_bytes()).contains("more texts than there are"));
    }
}

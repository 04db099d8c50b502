//! Shamir's sharing (CACM 1979) over GF(2^8), byte by byte, by `vsss-rs`: its field arithmetic has no tables and no branches on
//! secrets, and its coefficients are uniform over the whole field.
//!
//! A share is its x-coordinate, 1 to N, then one byte per byte of the secret.

use vsss_rs::Gf256;
use zeroize::{Zeroize, Zeroizing};

use crate::CustodyError;
use crate::entropy::{Drawn, Entropy};

/// Splits `secret` so that any `threshold` of `count` shares give it back and fewer say nothing about it.
pub(crate) fn split(
    secret: &[u8],
    threshold: usize,
    count: usize,
    entropy: &mut dyn Entropy,
) -> Result<Vec<Zeroizing<Vec<u8>>>, CustodyError> {
    if threshold < 2 || count < threshold || count > 255 || secret.is_empty() {
        return Err(CustodyError::Sharing { action: "split a secret" });
    }
    // One 32-bit draw for each coefficient of each byte's polynomial.
    let mut drawn = Drawn::new(entropy, secret.len() * (threshold - 1) * 4)?;
    let shares = Gf256::split_bytes(threshold, count, secret, &mut drawn);
    let shares: Vec<_> = shares
        .map_err(|_| CustodyError::Sharing { action: "split a secret" })?
        .into_iter()
        .map(Zeroizing::new)
        .collect();
    let in_order = shares.iter().enumerate().all(|(i, share)| share.first().map(|x| usize::from(*x)) == Some(i + 1));
    if drawn.dry || !in_order {
        return Err(CustodyError::Sharing { action: "split a secret" });
    }
    Ok(shares)
}

/// The secret of these shares. Any shares give something: the caller knows a digest to compare with.
pub(crate) fn combine(shares: &[&[u8]]) -> Result<Zeroizing<Vec<u8>>, CustodyError> {
    let mut owned: Vec<Vec<u8>> = shares.iter().map(|share| share.to_vec()).collect();
    let secret = Gf256::combine_bytes(&owned).map(Zeroizing::new);
    owned.iter_mut().for_each(Zeroize::zeroize);
    secret.map_err(|_| CustodyError::Sharing { action: "put shares together" })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::SystemEntropy;
    use crate::entropy::array;

    struct Fixed(u8);
    impl Entropy for Fixed {
        fn fill(&mut self, out: &mut [u8]) -> Result<(), CustodyError> {
            for byte in out {
                *byte = self.0;
                self.0 = self.0.wrapping_mul(5).wrapping_add(3);
            }
            Ok(())
        }
    }

    /// Multiplication in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1, by the textbook.
    fn times(a: u8, b: u8) -> u8 {
        (0..8)
            .filter(|bit| b >> bit & 1 == 1)
            .fold(0, |sum, bit| sum ^ (0..bit).fold(a, |x, _| (x << 1) ^ if x & 0x80 == 0 { 0 } else { 0x1b }))
    }

    /// FIPS 197 section 4.2 gives 57 * 83 = c1 in this field.
    #[test]
    fn shares_lie_on_the_line_of_the_textbook() {
        assert_eq!(times(0x57, 0x83), 0xc1);
        let secret = b"casemate";
        let shares = split(secret, 2, 5, &mut Fixed(7)).unwrap();
        let mut source = Fixed(7);
        for (position, byte) in secret.iter().enumerate() {
            let draw: [u8; 4] = array(&mut source).unwrap();
            for share in &shares {
                assert_eq!(share[1 + position], byte ^ times(draw[0], share[0]));
            }
        }
    }

    /// Three of five shares that pyshamir 1.1.0 made, a port of HashiCorp Vault's; it writes the x-coordinate last.
    #[test]
    fn shares_of_another_implementation_go_together() {
        let shares = [
            "f74ca4c3cafee625ee7dfbc045230f11411d9aa0c2180852e7e8fa878ed09a72c9",
            "060bdf1f9553331d484ae7b98c6cf5261a0856556ecdd35a48522d3c439e2179bb",
            "1f9648b77fe61dc9d54d1a29f2f9a6dacdc47bd92e9e8b04e66b4e59b6780af8e0",
        ];
        let mut shares = shares.map(|share| hex::decode(share).unwrap());
        shares.iter_mut().for_each(|share| share.rotate_right(1));
        let secret = combine(&[&shares[2], &shares[0], &shares[1]]).unwrap();
        assert_eq!(&secret[..], b"0123456789abcdef0123456789abcdef");
    }

    /// One share of two fits every secret equally: for each guess there is exactly one line through it.
    #[test]
    fn one_share_says_nothing() {
        let mut seen = std::collections::BTreeSet::new();
        for coefficient in 0..=255u8 {
            struct One(u8);
            impl Entropy for One {
                fn fill(&mut self, out: &mut [u8]) -> Result<(), CustodyError> {
                    out.fill(self.0);
                    Ok(())
                }
            }
            seen.insert(split(&[0x5a], 2, 2, &mut One(coefficient)).unwrap()[0][1]);
        }
        assert_eq!(seen.len(), 256);
    }

    #[test]
    fn useless_parameters_are_refused() {
        for (threshold, count) in [(0, 2), (1, 2), (3, 2), (2, 256)] {
            assert!(split(b"x", threshold, count, &mut SystemEntropy).is_err(), "{threshold} of {count}");
        }
        assert!(split(b"", 2, 2, &mut SystemEntropy).is_err());
        assert!(combine(&[&[1, 7]]).is_err());
        assert!(combine(&[&[1, 7], &[1, 7]]).is_err());
        assert!(combine(&[&[1, 7], &[0, 7]]).is_err());
        assert!(combine(&[&[1, 7], &[2, 7, 7]]).is_err());
    }

    proptest! {
        #[test]
        fn any_threshold_of_the_shares_is_enough(
            secret in proptest::collection::vec(any::<u8>(), 1..200),
            threshold in 2usize..6, more in 0usize..5, start in 0usize..10,
        ) {
            let count = threshold + more;
            let shares = split(&secret, threshold, count, &mut SystemEntropy).unwrap();
            let chosen: Vec<&[u8]> = (0..threshold).map(|i| &shares[(start + i) % count][..]).collect();
            prop_assert_eq!(&combine(&chosen).unwrap()[..], &secret[..]);
        }
    }
}

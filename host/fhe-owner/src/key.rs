use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use casemate_fhe::fft::{self, ExactFactor, Fft, Lane};
use casemate_fhe::stream::{self, Domain};
use casemate_fhe::{EncryptedGroup, EncryptedQuery, FheError, Params, RING_DEGREE};
use rayon::prelude::*;
use zeroize::Zeroizing;

use crate::query::{QuerySecret, RowMessage};
use crate::{OwnerError, noise, vector};

/// A collection's secret: m independent binary polynomials, all derived from a 32-byte seed.
///
/// Kept as spectra (16 KiB each), wiped on drop. No `Debug`, no `Clone`.
pub struct OwnerKey {
    params: Params,
    secrets: Vec<SecretSpectrum>,
}

impl OwnerKey {
    /// Derives the secrets of a collection: HKDF-SHA256 (RFC 5869) over the seed, bound to the parameters, keys an
    /// AES-256-CTR stream that gives 256 bytes per block. The seed is all there is to keep.
    ///
    /// # Errors
    /// [`OwnerError::Fhe`] when the cryptographic library fails.
    pub fn from_seed(seed: &Zeroizing<[u8; 32]>, params: Params) -> Result<Self, OwnerError> {
        Self::from_bits(&secret_bits(seed, &params, b"casemate fhe owner key 1")?, params)
    }

    /// As [`from_seed`](Self::from_seed), for models: independent of the secrets of any collection under the same seed.
    ///
    /// # Errors
    /// As [`from_seed`](Self::from_seed).
    pub fn for_models(seed: &Zeroizing<[u8; 32]>, params: Params) -> Result<Self, OwnerError> {
        Self::from_bits(&secret_bits(seed, &params, b"casemate fhe model key 1")?, params)
    }

    /// A key that nobody keeps: for queries to a model in clear, which no secret but the query's own protects.
    ///
    /// # Errors
    /// No entropy.
    pub fn ephemeral(params: Params) -> Result<Self, OwnerError> {
        Self::for_models(&noise::secret()?, params)
    }

    fn from_bits(bits: &[u8], params: Params) -> Result<Self, OwnerError> {
        let mut fft = Fft::new();
        let secrets = bits.chunks_exact(RING_DEGREE / 8).map(|bits| SecretSpectrum::new(&mut fft, bits)).collect();
        Ok(Self { params, secrets })
    }

    /// The parameters the key was derived for.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Encrypts up to P vectors as one group; missing slots hold zero vectors.
    ///
    /// Mask and noise are fresh at every call, so no pair of mask and secret ever meets two messages.
    ///
    /// # Errors
    /// Too many vectors, wrong dimension, not finite, not normalised or beyond the norm bound, or no entropy.
    pub fn encrypt_group(&self, vectors: &[&[f32]]) -> Result<EncryptedGroup, OwnerError> {
        let limit = self.params.documents_per_group();
        if vectors.len() > limit {
            return Err(OwnerError::TooMany { limit, actual: vectors.len() });
        }
        let vectors: Vec<_> =
            vectors.iter().map(|vector| vector::document(&self.params, vector)).collect::<Result<_, _>>()?;
        let (block, delta, dropped) = (self.params.block(), self.params.delta(), 64 - self.params.body_bits());
        let seed = noise::public()?;
        let mask = stream::mask(&seed, Domain::GroupMask, 0)?;
        let factor = ExactFactor::new(&mut Fft::new(), &mask);
        let bodies: Vec<Vec<u32>> = self
            .secrets
            .par_iter()
            .enumerate()
            .map_init(Fft::new, |fft, (j, secret)| {
                let mut body = Zeroizing::new(vec![0; RING_DEGREE]);
                factor.multiply(fft, &secret.0, &mut body);
                let noise = noise::polynomial()?;
                for (body, noise) in body.iter_mut().zip(noise.iter()) {
                    *body = body.wrapping_add(*noise);
                }
                for (body, vector) in body.chunks_exact_mut(block).zip(&vectors) {
                    for (body, x) in body.iter_mut().zip(vector.iter().skip(j * block)) {
                        *body = body.wrapping_add((*x * delta) as i64 as u64);
                    }
                }
                // Dropping low bits of a finished ciphertext is public post-processing.
                let kept = |body: &u64| body.wrapping_add(1 << (dropped - 1)) >> dropped << (dropped - 32);
                Ok(body.iter().map(|body| kept(body) as u32).collect())
            })
            .collect::<Result<_, OwnerError>>()?;
        Ok(EncryptedGroup::from_parts(self.params, seed, bodies.concat())?)
    }

    /// The first `count` vectors of a group, as exact as its bodies at rest (to 1e-6 with 32 bits, to 3e-4 with 24, times the
    /// norm bound): for a check of what is stored, and for moving a collection to other parameters.
    ///
    /// # Errors
    /// [`OwnerError::GroupUnreadable`] when the group was altered or belongs to another key.
    pub fn decrypt_group(&self, group: &EncryptedGroup, count: usize) -> Result<Zeroizing<Vec<Vec<f32>>>, OwnerError> {
        self.same_params(group.params())?;
        let limit = self.params.documents_per_group();
        if count > limit {
            return Err(OwnerError::TooMany { limit, actual: count });
        }
        let (width, block, delta) = (self.params.width(), self.params.block(), self.params.delta());
        let mut fft = Fft::new();
        let factor = ExactFactor::new(&mut fft, &group.mask()?);
        let mut slots = Zeroizing::new(vec![vec![0_f64; self.params.blocks() * block]; limit]);
        let mut product = Zeroizing::new(vec![0; RING_DEGREE]);
        for (j, (secret, body)) in self.secrets.iter().zip(group.bodies()).enumerate() {
            factor.multiply(&mut fft, &secret.0, &mut product);
            for (k, (body, product)) in body.iter().zip(product.iter()).enumerate() {
                let phase = (u64::from(*body) << 32).wrapping_sub(*product) as i64 as f64;
                slots[k / block][j * block + k % block] = phase / delta;
            }
        }
        // Under a wrong key components are off by thousands, padding included. Slots behind `count` hold a document or nothing.
        let mut vectors = Zeroizing::new(Vec::with_capacity(count));
        for (slot, components) in slots.iter().enumerate() {
            let (components, padding) = components.split_at(width);
            let vector = vector::decode(&self.params, components).filter(|_| vector::empty(&self.params, padding));
            match vector {
                Some(vector) if slot < count => vectors.push(vector),
                Some(_) => {}
                None if slot >= count && vector::empty(&self.params, components) => {}
                None => return Err(OwnerError::GroupUnreadable),
            }
        }
        Ok(vectors)
    }

    /// Encrypts a query vector under an output secret drawn for it alone.
    ///
    /// # Errors
    /// Wrong dimension, not finite, not normalised, zero, or no entropy.
    pub fn query(&self, vector: &[f32]) -> Result<(EncryptedQuery, QuerySecret), OwnerError> {
        let (components, meaning) = vector::query(&self.params, vector)?;
        let block = self.params.block();
        let scale = self.params.query_scale();
        let rounded: Zeroizing<Vec<f64>> = Zeroizing::new(components.iter().map(|x| (x * scale).round()).collect());

        // K = sum of q_j s_j, exact: at most 4097 components of 2^12 each.
        let mut fft = Fft::new();
        let (mut sum, mut spectrum) = (Zeroizing::new(fft::lanes(1)), Zeroizing::new(fft::lanes(1)));
        let mut reversed = Zeroizing::new(vec![0.0; RING_DEGREE]);
        for (secret, q) in self.secrets.iter().zip(rounded.chunks(block)) {
            // Reversed, so that the product with document p puts the dot product at coefficient p b + b - 1.
            reversed.fill(0.0);
            for (i, q) in q.iter().enumerate() {
                reversed[block - 1 - i] = *q;
            }
            fft.forward(&reversed, |q| q, &mut spectrum, 1);
            fft::multiply_add(&mut sum, &spectrum, &secret.0);
        }
        let mut mixed = Zeroizing::new(vec![0_i64; RING_DEGREE]);
        fft.inverse(&sum, &mut mixed, |out, value| *out = fft::round_small(value));

        let rows = rounded
            .chunks(block)
            .map(|q| RowMessage::Block { q, block })
            .chain([RowMessage::Mask { mixed: &mixed, digits: 1 }, RowMessage::Mask { mixed: &mixed, digits: 2 }])
            .collect::<Vec<_>>();
        crate::query::encrypt(&self.params, &rows, meaning)
    }

    fn same_params(&self, actual: &Params) -> Result<(), OwnerError> {
        if *actual == self.params {
            Ok(())
        } else {
            Err(OwnerError::ParamsMismatch { expected: self.params, actual: *actual })
        }
    }
}

/// A binary secret in the Fourier domain, wiped on drop.
pub(crate) struct SecretSpectrum(pub(crate) Zeroizing<Vec<Lane>>);

impl SecretSpectrum {
    /// From N bits, least significant first.
    pub(crate) fn new(fft: &mut Fft, bits: &[u8]) -> Self {
        let mut spectrum = Zeroizing::new(fft::lanes(1));
        let coefficients: Zeroizing<Vec<u8>> = Zeroizing::new((0..RING_DEGREE).map(|k| bit(bits, k)).collect());
        fft.forward(&coefficients, f64::from, &mut spectrum, 1);
        Self(spectrum)
    }
}

pub(crate) fn bit(bits: &[u8], k: usize) -> u8 {
    bits.get(k / 8).map_or(0, |byte| byte >> (k % 8) & 1)
}

fn secret_bits(seed: &Zeroizing<[u8; 32]>, params: &Params, purpose: &[u8]) -> Result<Zeroizing<Vec<u8>>, OwnerError> {
    let prk = Salt::new(HKDF_SHA256, purpose).extract(seed.as_slice());
    let mut key = Zeroizing::new([0; 32]);
    prk.expand(&[params.digest().as_bytes().as_slice()], HKDF_SHA256)
        .and_then(|okm| okm.fill(key.as_mut()))
        .map_err(|_| FheError::Cipher)?;
    let mut bits = Zeroizing::new(vec![0; params.blocks() * RING_DEGREE / 8]);
    stream::fill(&key, Domain::Secrets, 0, &mut bits)?;
    Ok(bits)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use tfhe::core_crypto::prelude::*;

    use super::*;

    const PURPOSE: &[u8] = b"casemate fhe owner key 1";

    /// tfhe itself as the judge: block j of a group is an ordinary GLWE ciphertext under secret j.
    #[test]
    fn tfhe_decrypts_each_block_of_a_group() {
        let params = Params::new(20, 8).unwrap().with_body_bits(32).unwrap();
        let seed = Zeroizing::new([9; 32]);
        let key = OwnerKey::from_seed(&seed, params).unwrap();
        let vector: Vec<f32> = (0..20).map(|i| ((i * i + 3) % 11) as f32 - 5.0).collect();
        let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        let vector: Vec<f32> = vector.iter().map(|x| x / norm).collect();
        let zero_slot = vec![0.0; 20];
        let group = key.encrypt_group(&[&vector, &vector]).unwrap();
        let bits = secret_bits(&seed, &params, PURPOSE).unwrap();
        for (j, body) in group.bodies().enumerate() {
            let secret: Vec<u64> = (0..RING_DEGREE).map(|k| u64::from(bit(&bits[j * 256..], k))).collect();
            assert!(secret.iter().filter(|s| **s == 1).count().abs_diff(RING_DEGREE / 2) < 200);
            let secret = GlweSecretKey::from_container(secret, PolynomialSize(RING_DEGREE));
            let mut ciphertext = group.mask().unwrap();
            ciphertext.extend(body.iter().map(|body| u64::from(*body) << 32));
            let ciphertext = GlweCiphertext::from_container(
                ciphertext,
                PolynomialSize(RING_DEGREE),
                CiphertextModulus::new_native(),
            );
            let mut plain = PlaintextList::new(0, PlaintextCount(RING_DEGREE));
            decrypt_glwe_ciphertext(&secret, &ciphertext, &mut plain);
            for (k, phase) in plain.as_ref().iter().enumerate() {
                let document = if k / 8 < 2 { &vector } else { &zero_slot };
                let expected = f64::from(document.get(j * 8 + k % 8).copied().unwrap_or(0.0)) * params.delta();
                // Noise below 2^17, rounding to 32 bits below 2^31.
                let error = (*phase as i64 as f64 - expected).abs();
                assert!(error < 2f64.powi(31) + 2f64.powi(18), "block {j}, coefficient {k}");
            }
        }
    }

    #[test]
    fn secrets_depend_on_seed_parameters_and_block() {
        let params = Params::new(16, 8).unwrap();
        let one = secret_bits(&Zeroizing::new([1; 32]), &params, PURPOSE).unwrap();
        assert_ne!(one, secret_bits(&Zeroizing::new([2; 32]), &params, PURPOSE).unwrap());
        assert_ne!(
            one[..256],
            secret_bits(&Zeroizing::new([1; 32]), &Params::new(17, 8).unwrap(), PURPOSE).unwrap()[..256]
        );
        assert_ne!(one[..256], one[256..]);
        assert_ne!(one, secret_bits(&Zeroizing::new([1; 32]), &params, b"casemate fhe model key 1").unwrap());
    }
}

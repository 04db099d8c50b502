//! Randomness as a parameter: from a token's generator where there is one, and fixed in tests.

use std::convert::Infallible;
use std::sync::Arc;

use casemate_hsm::Keyring;
use rand_core::{TryCryptoRng, TryRng};
use zeroize::Zeroizing;

use crate::CustodyError;

/// A source of random bytes.
pub trait Entropy {
    /// Fills `out`.
    ///
    /// # Errors
    /// [`CustodyError::Random`] or [`CustodyError::Token`] when the source fails; `out` must not be used then.
    fn fill(&mut self, out: &mut [u8]) -> Result<(), CustodyError>;
}

/// The machine's generator (aws-lc-rs).
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), CustodyError> {
        aws_lc_rs::rand::fill(out).map_err(|_| CustodyError::Random)
    }
}

/// A token's generator. The token of the session is preferred to the machine: it may be certified, the machine is not.
pub struct TokenEntropy(pub Arc<Keyring>);

impl Entropy for TokenEntropy {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), CustodyError> {
        out.copy_from_slice(&self.0.random(out.len())?);
        Ok(())
    }
}

/// `N` random bytes.
pub(crate) fn array<const N: usize>(entropy: &mut dyn Entropy) -> Result<[u8; N], CustodyError> {
    let mut out = [0; N];
    entropy.fill(&mut out)?;
    Ok(out)
}

/// Bytes drawn beforehand, for a library whose generators cannot fail.
///
/// When it runs dry it says so afterwards, and the caller throws the result away.
pub(crate) struct Drawn {
    bytes: Zeroizing<Vec<u8>>,
    next: usize,
    pub(crate) dry: bool,
}

impl Drawn {
    pub(crate) fn new(source: &mut dyn Entropy, length: usize) -> Result<Self, CustodyError> {
        let mut bytes = Zeroizing::new(vec![0; length]);
        source.fill(&mut bytes)?;
        Ok(Self { bytes, next: 0, dry: false })
    }

    fn take(&mut self, out: &mut [u8]) {
        match self.bytes.get(self.next..self.next + out.len()) {
            Some(bytes) => {
                out.copy_from_slice(bytes);
                self.next += out.len();
            }
            None => self.dry = true,
        }
    }
}

impl TryRng for &mut Drawn {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut out = [0; 4];
        self.take(&mut out);
        Ok(u32::from_le_bytes(out))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut out = [0; 8];
        self.take(&mut out);
        Ok(u64::from_le_bytes(out))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        self.take(out);
        Ok(())
    }
}

impl TryCryptoRng for &mut Drawn {}

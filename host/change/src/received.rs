use std::fs::File;
use std::io::Read;
use std::path::Path;

use casemate_bundle::{BundleError, Inspection, TrustRoot, Verified, inspect, ustar, verify_any};
use casemate_types::Digest;
use jiff::Timestamp;

use crate::ChangeError;

/// Bytes from outside. Nothing about them is known but their size and digest.
pub struct ReceivedBundle {
    bytes: Vec<u8>,
    digest: Digest,
}

impl ReceivedBundle {
    /// Reads a file from media; at most 64 MiB.
    pub fn read(path: &Path) -> Result<Self, ChangeError> {
        let io = |source| ChangeError::Io { action: "read the bundle", path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        match read_capped(file).map_err(io)? {
            Some(bytes) => Ok(Self { digest: Digest::of(&bytes), bytes }),
            None => Err(ChangeError::TooLarge { path: path.to_owned() }),
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The digest of the file.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What it says about itself, for people. Implies no trust.
    pub fn inspect(&self, trust: &TrustRoot) -> Result<Inspection, BundleError> {
        inspect(&self.bytes, trust)
    }

    /// The next state. Every refusal names its defect.
    pub fn verify(&self, trust: &TrustRoot, now: Timestamp) -> Result<Verified, BundleError> {
        verify_any(&self.bytes, trust, now)
    }
}

/// The whole file, or `None` when it is larger than a bundle can be.
pub(crate) fn read_capped(file: File) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    file.take(ustar::MAX_TOTAL as u64 + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= ustar::MAX_TOTAL).then_some(bytes))
}

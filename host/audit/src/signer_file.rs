//! A signing key in a file, for a witness without a token. Whoever reads the file can sign.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use aws_lc_rs::encoding::{AsBigEndian, Curve25519SeedBin};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use zeroize::Zeroizing;

use crate::{AuditError, CheckpointSigner, SignError};

/// An Ed25519 key (RFC 8032): its 32-byte seed in hexadecimal, readable by the file's owner only.
pub struct FileSigner(Ed25519KeyPair);

impl FileSigner {
    /// Makes a key and writes it to a new file.
    pub fn create(path: &Path) -> Result<Self, AuditError> {
        let signer = |_| AuditError::Signer(std::sync::Arc::from(SignError::from("no key can be made")));
        let pair = Ed25519KeyPair::generate().map_err(signer)?;
        let seed: Curve25519SeedBin<'static> = pair.seed().and_then(|seed| seed.as_be_bytes()).map_err(signer)?;
        let text = Zeroizing::new(format!("{}\n", hex::encode(seed.as_ref())));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(AuditError::io("create", path))?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(AuditError::io("write", path))?;
        Ok(Self(pair))
    }

    /// Reads what [`FileSigner::create`] wrote.
    pub fn open(path: &Path) -> Result<Self, AuditError> {
        let text = Zeroizing::new(fs::read_to_string(path).map_err(AuditError::io("read", path))?);
        let mut seed = Zeroizing::new([0; 32]);
        let bad =
            || AuditError::Signer(std::sync::Arc::from(SignError::from("the key file is not 64 hexadecimal digits")));
        hex::decode_to_slice(text.trim(), &mut seed[..]).map_err(|_| bad())?;
        Ed25519KeyPair::from_seed_unchecked(&seed[..]).map(Self).map_err(|_| bad())
    }
}

impl CheckpointSigner for FileSigner {
    fn public_key(&self) -> [u8; 32] {
        let mut public = [0; 32];
        public.copy_from_slice(self.0.public_key().as_ref());
        public
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        Ok(self.0.sign(message).as_ref().try_into()?)
    }
}

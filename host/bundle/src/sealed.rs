//! A secret key under a passphrase: EncryptedPrivateKeyInfo of PKCS#8 (RFC 5958 section 3) with PBES2 (RFC 8018): scrypt (RFC 7914,
//! N = 2^17, r = 8, p = 1: 128 MiB and about half a second) and AES-256-GCM, so that a damaged file is noticed.

use aws_lc_rs::rand;
use pkcs8::pkcs5::pbes2::Parameters;
use pkcs8::{EncryptedPrivateKeyInfoRef, PrivateKeyInfoRef};
use zeroize::Zeroizing;

use crate::BundleError;

const MIN_CHARACTERS: usize = 12;

/// Encrypts PKCS#8 in clear.
pub(crate) fn seal(pkcs8: &[u8], passphrase: &str) -> Result<Vec<u8>, BundleError> {
    if passphrase.chars().count() < MIN_CHARACTERS {
        return Err(BundleError::WeakPassphrase { min: MIN_CHARACTERS });
    }
    let failed = BundleError::Crypto { action: "encrypt a signing key" };
    let (mut salt, mut nonce) = ([0; 16], [0; 12]);
    if rand::fill(&mut salt).and_then(|()| rand::fill(&mut nonce)).is_err() {
        return Err(failed);
    }
    let scrypt = pkcs8::pkcs5::scrypt::Params::new(17, 8, 1);
    let sealed = scrypt
        .ok()
        .and_then(|scrypt| Parameters::scrypt_aes256gcm(scrypt, &salt, nonce).ok())
        .and_then(|scheme| PrivateKeyInfoRef::try_from(pkcs8).ok()?.encrypt_with_params(scheme, passphrase).ok());
    sealed.map(|sealed| sealed.as_bytes().to_vec()).ok_or(failed)
}

/// Decrypts.
///
/// Errors: [`BundleError::WrongPassphrase`], also for a damaged file: the two cannot be told apart.
pub(crate) fn open(sealed: &[u8], passphrase: &str) -> Result<Zeroizing<Vec<u8>>, BundleError> {
    let bad = BundleError::BadKeyFile { why: "`encrypted-pkcs8` is not PKCS#8" };
    let info = EncryptedPrivateKeyInfoRef::try_from(sealed).map_err(|_| bad)?;
    let opened = info.decrypt(passphrase).map_err(|_| BundleError::WrongPassphrase)?;
    Ok(Zeroizing::new(opened.as_bytes().to_vec()))
}

//! A new key for the audit log, in the token.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use casemate_audit::{AuditError, Record, RecordClock, VerifyError};
use casemate_hsm::{KeyClass, KeyRef};

use crate::GateError;
use crate::config::SiteConfig;
use crate::journal::HsmSigner;
use crate::site::{lock, log_options};
use crate::state::{SiteKey, SiteState, write_private};
use crate::vault::{Vault, VaultKey};

/// The key that is to be next, while a rotation is under way.
const NEXT: &str = "log.next-key";

/// Makes a new signing key in the token and hands the log of the site in `dir` over to it. Returns the new verifier key.
///
/// The old key signs the hand-over and nothing after it. A rotation that was cut off is finished by calling this again: the key made for
/// it is kept in `log.next-key` until `state.json` names it. Give the new line of `log.vkey` to auditors and to the witness; who has the
/// old one verifies the log all the same.
pub fn rotate_log_key(dir: &Path) -> Result<String, GateError> {
    let _lock = lock(dir)?;
    let config = SiteConfig::read(dir)?;
    let mut state = SiteState::read(dir)?;
    let keyring = Vault::open(dir, &config, &state, false)?;
    let next = next_key(dir, &keyring)?;
    let new = Arc::new(signer(&keyring, keyring.find(&next)?)?);
    let old = Arc::new(signer(&keyring, keyring.find(state.key(SiteKey::Audit)?)?)?);

    let options = log_options(dir, &config)?;
    let clock = RecordClock::after(0);
    let (site, rehearsal) = (config.name.clone(), state.rehearsal);
    let record = |event| {
        let v = casemate_audit::record::VERSION;
        Record { v, time_ms: clock.now_ms(), site, rehearsal, event }.to_bytes()
    };
    let verifier_key = match casemate_audit::rotate(&dir.join("log"), options.clone(), old, new.as_ref(), record) {
        Ok(verifier_key) => verifier_key,
        // Handed over already, before the rotation was cut off: opening with the new key proves that it is to this one.
        Err(AuditError::Damaged(VerifyError::RetiredKey { .. })) => {
            casemate_audit::Log::open(&dir.join("log"), options, Box::new(new))?.verifier_key()
        }
        Err(error) => return Err(error.into()),
    };
    state.keys.insert(SiteKey::Audit, next);
    state.write(dir)?;
    write_private(&dir.join("log.vkey"), format!("{verifier_key}\n").as_bytes())?;
    let path = dir.join(NEXT);
    fs::remove_file(&path).map_err(|source| GateError::Io { action: "remove", path, source })?;
    Ok(verifier_key)
}

fn next_key(dir: &Path, keyring: &Vault) -> Result<KeyRef, GateError> {
    let path = dir.join(NEXT);
    let problem = |error: serde_json::Error| GateError::Config { path: path.clone(), problem: error.to_string() };
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(problem),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key = keyring.generate(KeyClass::AuditSigning, "site/audit")?;
            write_private(&path, &serde_json::to_vec(&key).map_err(problem)?)?;
            Ok(key)
        }
        Err(source) => Err(GateError::Io { action: "read", path, source }),
    }
}

fn signer(keyring: &Arc<Vault>, key: VaultKey) -> Result<HsmSigner, GateError> {
    let public = keyring.public_key(&key)?;
    Ok(HsmSigner { keyring: Arc::clone(keyring), key, public })
}

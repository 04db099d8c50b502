//! A new key for the audit log, in the token.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use casemate_audit::{AuditError, Record, VerifyError};
use casemate_custody::Operation;
use casemate_hsm::{KeyClass, KeyRef};

use crate::config::SiteConfig;
use crate::consent::{Consent, Desk, Officer, Wanted};
use crate::journal::{HsmSigner, officer_operation};
use crate::site::{Gate, lock, log_options};
use crate::state::{SiteKey, SiteState, write_private};
use crate::vault::{Vault, VaultKey};
use crate::{GateError, fips, probing};

/// The key that is to be next, while a rotation is under way.
const NEXT: &str = "log.next-key";

/// Makes a new signing key in the token and hands the log of the site in `dir` over to it, on behalf of `by`. Returns the new verifier key.
///
/// The old key signs the hand-over and nothing after it; the site's next opening destroys it. A rotation that was cut off is finished by
/// calling this again: the key made for it is kept in `log.next-key` until all is done. Give the new line of `log.vkey` to auditors, and
/// that and the log's file `pinned` to the witness; who has the old line verifies the log all the same.
///
/// # Errors
/// As at any opening of the site: a token that was not probed, or that the profile does not admit, is not used.
pub fn rotate_log_key(dir: &Path, officer: &Officer<'_>) -> Result<String, GateError> {
    let lock = lock(dir)?;
    let config = SiteConfig::read(dir)?;
    let state = SiteState::read(dir)?;
    // As at an opening; the tokens of a pair are checked at their logins.
    if state.manifest_signer.is_none() {
        probing::check(dir, &config, &state)?;
        fips::require(dir, &config, &state)?;
    }
    let keyring = Vault::open(dir, &config, &state, true)?;
    let old = state.key(SiteKey::Audit)?.clone();
    let consent = match Desk::open(dir, &config, &state, keyring.serials(), officer.approval.clone())? {
        // In force already, and approved before that.
        _ if in_force(dir, &old)? => Consent::Alone,
        None => Consent::Alone,
        Some(mut desk) => {
            let (key, class) = (Some(old.id), Some(old.class));
            desk.ask(Operation::Rotate, &Wanted { key, class, ..Wanted::default() })?
        }
    };
    let by = &consent.by(officer.name);
    let next = next_key(dir, &keyring, &state)?;
    let new = Arc::new(signer(&keyring, keyring.find(&next)?)?);
    if next.id == old.id {
        // In force already: the rotation was cut off behind the last write of `state.json`.
        return finish(dir, &log_options(dir, &config)?.verifier_key(&new.public)?);
    }
    let signer = Arc::new(signer(&keyring, keyring.find(&old)?)?);

    let options = log_options(dir, &config)?;
    let announced = consent.event().into_iter().chain([
        officer_operation(&next, "generate", None, None, by, "ok"),
        officer_operation(&old, "rotate", None, None, by, "begun"),
    ]);
    let announced = announced.collect();
    let (site, rehearsal) = (config.name.clone(), state.rehearsal);
    let record = |event, time_ms| {
        let v = casemate_audit::record::VERSION;
        Record { v, time_ms, site: site.clone(), rehearsal, event }.to_bytes()
    };
    let log = dir.join("log");
    let verifier_key = match casemate_audit::rotate(&log, options.clone(), signer, new.as_ref(), announced, record) {
        Ok(verifier_key) => verifier_key,
        // Handed over already, before the rotation was cut off: opening with the new key proves that it is to this one.
        Err(AuditError::Damaged(VerifyError::RetiredKey { .. })) => {
            casemate_audit::Log::open(&log, options, Box::new(Arc::clone(&new)))?.verifier_key()
        }
        Err(error) => return Err(error.into()),
    };
    // The site opens the token for itself.
    drop(new);
    drop(keyring);
    // One write: the new key is in force, and the old one is to be destroyed. The site stays locked until all is done.
    let gate = Gate::with_log_key(dir, lock, config, &state, next)?;
    gate.change_state(|state| {
        state.doomed.push(old);
        Ok(())
    })?;
    finish(dir, &verifier_key)
}

/// What is left when `state.json` names the new key.
fn finish(dir: &Path, verifier_key: &str) -> Result<String, GateError> {
    write_private(&dir.join("log.vkey"), format!("{verifier_key}\n").as_bytes())?;
    let path = dir.join(NEXT);
    fs::remove_file(&path).map_err(|source| GateError::Io { action: "remove", path, source })?;
    Ok(verifier_key.to_owned())
}

/// Whether the key that a rotation made is the one in force, so that only the end of it is left.
fn in_force(dir: &Path, held: &KeyRef) -> Result<bool, GateError> {
    Ok(dir.join(NEXT).exists() && read_next(dir)?.is_some_and(|next| next.id == held.id && !next.is_announced()))
}

fn next_key(dir: &Path, keyring: &Vault, state: &SiteState) -> Result<KeyRef, GateError> {
    let next = read_next(dir)?;
    // Nothing vouches for the file: whoever can write the folder would have a key in force destroyed.
    let planted = |next: &KeyRef| {
        let held = state.held().chain(&state.doomed).any(|held| held.id == next.id);
        next.class != KeyClass::AuditSigning || (next.is_announced() && held)
    };
    if next.as_ref().is_some_and(planted) {
        let problem = "it announces a key that the site holds already: it was planted; remove it".to_owned();
        return Err(GateError::Config { path: dir.join(NEXT), problem });
    }
    let announced = match next {
        // Cut off while it was made.
        Some(announced) if announced.is_announced() => {
            keyring.clear(&announced)?;
            announced
        }
        Some(key) => return Ok(key),
        None => {
            let announced = keyring.announce(KeyClass::AuditSigning, "site/audit")?;
            write_next(dir, &announced)?;
            announced
        }
    };
    let key = keyring.make(&announced, 1)?;
    write_next(dir, &key)?;
    Ok(key)
}

fn write_next(dir: &Path, key: &KeyRef) -> Result<(), GateError> {
    let path = dir.join(NEXT);
    let bytes = serde_json::to_vec(key)
        .map_err(|error| GateError::Config { path: path.clone(), problem: error.to_string() })?;
    write_private(&path, &bytes)
}

fn read_next(dir: &Path) -> Result<Option<KeyRef>, GateError> {
    let path = dir.join(NEXT);
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| GateError::Config { path, problem: error.to_string() }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(GateError::Io { action: "read", path, source }),
    }
}

fn signer(keyring: &Arc<Vault>, key: VaultKey) -> Result<HsmSigner, GateError> {
    let public = keyring.public_key(&key)?;
    Ok(HsmSigner { keyring: Arc::clone(keyring), key, public })
}

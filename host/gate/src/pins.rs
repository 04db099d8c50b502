//! Where the PINs of a site's tokens come from: files of a rehearsal, the token's own pad, or custodians' shares.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use casemate_audit::Event;
use casemate_custody::{QuorumBackend, SplitPin};
use casemate_hsm::{HsmError, Pin, Role, TokenInfo};
use zeroize::Zeroizing;

use crate::GateError;
use crate::config::SiteConfig;
use crate::state::SiteState;

/// What custodians opened this process for. A login to a token is the process's as well.
static OPENED: Mutex<Vec<(Role, SplitPin)>> = Mutex::new(Vec::new());

/// Tokens that were logged in to at a pad of their own.
static PADS: Mutex<Vec<(Role, String)>> = Mutex::new(Vec::new());

/// Takes the PIN of a site's token that custodians opened. It stays in memory until the process ends.
pub fn provide_pin(role: Role, pin: SplitPin) {
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    opened.retain(|(held, _)| *held != role);
    opened.push((role, pin));
}

/// The user's PIN of a site's token.
///
/// # Errors
/// [`GateError::Consent`] for a token whose PINs are split while no custodians opened it, or another one, and for one that has a PIN file
/// besides; [`GateError::Io`] for a file that cannot be read.
pub fn user_pin(dir: &Path, config: &SiteConfig, role: Role, token: &TokenInfo) -> Result<Pin, GateError> {
    let path = dir.join(file(role));
    if config.hsm.custody(role).is_none() {
        let text = fs::read_to_string(&path).map(Zeroizing::new);
        let text = text.map_err(|source| GateError::Io { action: "read the PIN", path, source })?;
        return Ok(Pin::new(text.trim().to_owned())?);
    }
    refuse_planted(dir, config)?;
    let opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    match opened.iter().find(|(held, _)| *held == role) {
        Some((_, pin)) if token.serial.parse().is_ok_and(|serial| pin.serial().same_device(&serial)) => Ok(pin.pin()?),
        Some((_, pin)) => Err(GateError::Consent(format!(
            "the shares are of token {}, and the {role} token is {}",
            pin.serial(),
            token.serial.trim()
        ))),
        None => Err(unopened(role)),
    }
}

/// The PIN with which a token of the site is logged in to; none for one that asks at a pad of its own.
///
/// # Errors
/// As [`user_pin`] and [`check_quorum`].
pub(crate) fn pin_for(
    dir: &Path,
    config: &SiteConfig,
    role: Role,
    token: &TokenInfo,
) -> Result<Option<Pin>, GateError> {
    check_quorum(dir, config, role, token)?;
    if token.protected_authentication_path { Ok(None) } else { user_pin(dir, config, role, token).map(Some) }
}

/// Whether a token is what `vendor-quorum` says of it.
///
/// # Errors
/// [`HsmError::PadMissing`] for one that takes its PIN from this machine; as [`refuse_planted`].
pub(crate) fn check_quorum(dir: &Path, config: &SiteConfig, role: Role, token: &TokenInfo) -> Result<(), GateError> {
    if !token.protected_authentication_path {
        return match config.hsm.vendor_quorum(role) {
            true => Err(HsmError::PadMissing { label: token.label.clone() }.into()),
            false => Ok(()),
        };
    }
    refuse_planted(dir, config)?;
    let mut pads = PADS.lock().unwrap_or_else(PoisonError::into_inner);
    pads.retain(|(held, _)| *held != role);
    pads.push((role, token.serial.trim().to_owned()));
    Ok(())
}

/// Refuses a site whose tokens' PINs are split and that no custodians opened, before a token is asked.
pub(crate) fn require(dir: &Path, config: &SiteConfig) -> Result<(), GateError> {
    refuse_planted(dir, config)?;
    split(config).try_for_each(|role| check(config, role))
}

/// The tokens whose PINs are split.
fn split(config: &SiteConfig) -> impl Iterator<Item = Role> {
    [Role::Primary, Role::Backup].into_iter().filter(|role| config.hsm.custody(*role).is_some())
}

/// Refuses a site that has a PIN in a file of a token whose PINs are split: somebody knows it, or wants it to be taken for one.
///
/// # Errors
/// [`GateError::Consent`] with the file.
pub fn refuse_planted(dir: &Path, config: &SiteConfig) -> Result<(), GateError> {
    let nobodys = [Role::Primary, Role::Backup].into_iter().filter(|role| {
        config.hsm.custody(*role).is_some() || (config.hsm.place(*role).is_some() && config.hsm.vendor_quorum(*role))
    });
    let planted = nobodys.map(|role| (role, dir.join(file(role)))).find(|(_, path)| path.exists());
    planted.map_or(Ok(()), |(role, path)| {
        let how = if config.hsm.custody(role).is_some() { "are split" } else { "are typed into its own pad" };
        Err(GateError::Consent(format!(
            "the PINs of the {role} token {how}, and {} holds one: remove it, and find out who wrote it",
            path.display()
        )))
    })
}

fn check(config: &SiteConfig, role: Role) -> Result<(), GateError> {
    let opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    if config.hsm.custody(role).is_none() || opened.iter().any(|(held, _)| *held == role) {
        return Ok(());
    }
    Err(unopened(role))
}

fn unopened(role: Role) -> GateError {
    GateError::Consent(format!(
        "nobody knows the PIN of the {role} token; its custodians open it: \
         `casemate custodian open --custodian NAME=TOKEN --custodian NAME=TOKEN -- COMMAND`"
    ))
}

/// Who opened the tokens, for the log; nothing where this machine has the PINs.
pub(crate) fn opened_by(config: &SiteConfig) -> Option<String> {
    let opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    let line = |(role, pin): &(Role, SplitPin)| {
        let names: Vec<&str> = pin.custodians().iter().map(|name| name.as_str()).collect();
        format!(
            "{role} token {} with shares of {}, PINs of generation {}{}",
            pin.serial(),
            names.join(" and "),
            pin.generation().0,
            if pin.is_renewed() { " put in force" } else { " left in force: the token was away" }
        )
    };
    let mut lines: Vec<String> = opened.iter().map(line).collect();
    for (role, serial) in PADS.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let who = match config.hsm.vendor_quorum(*role) {
            true => "vendor-quorum",
            false => "pad: nobody states that it asks for a quorum",
        };
        lines.push(format!("{role} token {serial} at its own pad, without a PIN from this machine ({who})"));
    }
    (!lines.is_empty()).then(|| lines.join("; "))
}

/// The record of an opening.
pub(crate) fn record(opened: &str) -> Event {
    Event::Site { action: "custody".to_owned(), detail: format!("opened: {opened}") }
}

/// Where a rehearsal site has the PIN.
pub(crate) fn file(role: Role) -> &'static str {
    match role {
        Role::Primary => "pins/user",
        Role::Backup => "pins/backup-user",
    }
}

/// Whether no one person opens a token of the site: the PINs of each are split, or it asks for its maker's quorum.
pub(crate) fn nobody_knows(config: &SiteConfig) -> bool {
    tier_of(config) != QuorumBackend::ApprovalsOnly
}

/// By what means two people are needed at a site that is made.
pub(crate) fn tier_of(config: &SiteConfig) -> QuorumBackend {
    let of = |role: Role| match (config.hsm.vendor_quorum(role), config.hsm.custody(role)) {
        // Tried at each login: a token without a pad is refused.
        (true, _) => QuorumBackend::Vendor,
        (false, Some(_)) => QuorumBackend::SplitPackageAndPin,
        (false, None) => QuorumBackend::ApprovalsOnly,
    };
    let tokens = [Role::Primary, Role::Backup].into_iter().filter(|role| config.hsm.place(*role).is_some());
    tokens.map(of).min().unwrap_or(QuorumBackend::ApprovalsOnly)
}

/// By what means two people are needed at a site: a site that was made as a rehearsal stays one, whatever its file says later.
pub(crate) fn tier(config: &SiteConfig, state: &SiteState) -> QuorumBackend {
    if state.rehearsal { QuorumBackend::ApprovalsOnly } else { tier_of(config) }
}

//! Whether the site's token is a validated module, by the list of certificates that two of the site's approvers signed.

use std::fs;
use std::path::{Path, PathBuf};

use casemate_audit::record::Event;
use casemate_bundle::TrustRoot;
use casemate_fips::{
    ApprovedMode, Approver, Claim, FipsError, MODE_FORMAT, Mode, ModeStatement, Question, TokenFacts, Verdict,
    VerifiedMode, VerifiedSnapshot,
};
use casemate_hsm::{HsmError, Module, Role};
use casemate_types::{Digest, Profile};
use jiff::civil::Date;

use crate::GateError;
use crate::config::SiteConfig;
use crate::site::Gate;
use crate::state::{SiteState, write_private};

/// What to judge by instead of what the site says.
#[derive(Debug, Clone, Default)]
pub struct FipsOverrides {
    /// Another profile.
    pub profile: Option<Profile>,
    /// Another list; its signatures lie beside it.
    pub snapshot: Option<PathBuf>,
    /// A certificate.
    pub certificate: Option<u32>,
}

/// The list a site judges by.
pub fn snapshot_path(site: &Path) -> PathBuf {
    site.join("fips/cmvp.json")
}

/// The signatures of a list.
pub fn signatures_path(snapshot: &Path) -> PathBuf {
    let mut name = snapshot.as_os_str().to_owned();
    name.push(".dsse");
    PathBuf::from(name)
}

/// Judges the site's token and says what it says about itself. Opens nothing and logs in nowhere.
pub fn fips_status(site: &Path, overrides: &FipsOverrides) -> Result<(TokenFacts, Verdict), GateError> {
    judge(site, &SiteConfig::read(site)?, &SiteState::read(site)?, Role::Primary, overrides)
}

/// Refuses a site whose profile asks for a validated module that is not shown to be there.
pub(crate) fn require(site: &Path, config: &SiteConfig, state: &SiteState) -> Result<(), GateError> {
    require_of(site, config, state, Role::Primary)?;
    // A backup takes over with the same keys, so it has to be what the primary is.
    match config.hsm.place(Role::Backup) {
        Some(_) => require_of(site, config, state, Role::Backup),
        None => Ok(()),
    }
}

/// As [`require`], of one token of a pair.
pub(crate) fn require_of(site: &Path, config: &SiteConfig, state: &SiteState, role: Role) -> Result<(), GateError> {
    if !matches!(config.profile, Profile::Enterprise | Profile::Government) {
        return Ok(());
    }
    let (_, verdict) = judge(site, config, state, role, &FipsOverrides::default())?;
    match verdict.failed().next() {
        None if verdict.admits() => Ok(()),
        failed => Err(GateError::NotValidated {
            profile: config.profile,
            check: failed.map_or("verdict", |check| check.name),
            evidence: failed.map(|check| check.evidence.clone()).unwrap_or_default(),
        }),
    }
}

/// Verifies a list, takes it into the site and raises the floor, so that no older one is taken again. Recorded.
pub fn install_snapshot(site: &Path, file: &Path, by: &str) -> Result<VerifiedSnapshot, GateError> {
    let read =
        |path: &Path| fs::read(path).map_err(|source| GateError::Io { action: "read", path: path.to_owned(), source });
    let (snapshot, signatures) = (read(file)?, read(&signatures_path(file))?);
    let verified = VerifiedSnapshot::verify(&snapshot, &signatures, &approvers(site)?)?;
    let date = verified.snapshot().date;
    // A site whose list is too old does not open, so it must be opened for this without being judged. Nobody gets a session here.
    let gate = Gate::open_unjudged(site)?;
    gate.change_state(|state| {
        if let Some(floor) = state.cmvp_floor.filter(|floor| date < *floor) {
            return Err(GateError::SnapshotRolledBack { date, floor });
        }
        let signers: Vec<&str> = verified.signers().iter().map(String::as_str).collect();
        let sample = if verified.snapshot().sample { "sample, " } else { "" };
        let detail = format!("{sample}{date}, {}, signed by {}, by {by}", Digest::of(&snapshot), signers.join(" and "));
        gate.journal
            .record_blocking(Event::Site { action: "certificate-list-begun".to_owned(), detail: detail.clone() })?;
        let target = snapshot_path(site);
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).map_err(|source| GateError::Io {
                action: "create",
                path: folder.to_owned(),
                source,
            })?;
        }
        // Between the two writes signatures and list do not fit together: then nothing is believed, and the command is repeated.
        write_private(&signatures_path(&target), &signatures)?;
        write_private(&target, &snapshot)?;
        // A sample is no evidence, so it must not shut out the real lists of earlier days.
        if !verified.snapshot().sample {
            state.cmvp_floor = Some(date);
        }
        gate.journal.record_blocking(Event::Site { action: "certificate-list".to_owned(), detail })?;
        Ok(())
    })?;
    Ok(verified)
}

fn judge(
    site: &Path,
    config: &SiteConfig,
    state: &SiteState,
    role: Role,
    overrides: &FipsOverrides,
) -> Result<(TokenFacts, Verdict), GateError> {
    let token = facts(site, config, role)?;
    // The certificate of site.toml is the primary's.
    let named = if role == Role::Primary { config.fips.certificate } else { None };
    let path = overrides.snapshot.clone().unwrap_or_else(|| snapshot_path(site));
    let snapshot = load(site, &path);
    let mode = load_mode(site, &config.name, &token.serial);
    let verdict = casemate_fips::evaluate(&Question {
        profile: overrides.profile.unwrap_or(config.profile),
        today: today(),
        max_age_days: config.fips.max_snapshot_age_days,
        floor: state.cmvp_floor,
        certificate: overrides.certificate.or(named),
        token: &token,
        mode: mode.as_ref(),
        snapshot: snapshot.as_ref(),
    });
    Ok((token, verdict))
}

/// Where the statement about a token's mode lies.
fn mode_path(site: &Path, serial: &str) -> PathBuf {
    let serial: String = serial.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    site.join(format!("fips/mode-{serial}.json"))
}

fn load_mode(site: &Path, name: &str, serial: &str) -> Result<VerifiedMode, FipsError> {
    let path = mode_path(site, serial);
    let statement = fs::read(&path).map_err(|_| FipsError::NoMode)?;
    let signatures = fs::read(signatures_path(&path)).map_err(|_| FipsError::NotEnoughSignatures { found: 0 })?;
    let approvers = approvers(site).map_err(|error| FipsError::Root { why: error.to_string() })?;
    VerifiedMode::verify(&statement, &signatures, &approvers, name)
}

/// A statement about the mode of one of the site's tokens, for approvers to sign after they looked at the device. It is about the token that
/// is there now.
///
/// # Errors
/// As the module answers.
pub fn draft_mode(
    site: &Path,
    backup: bool,
    certificate: u32,
    seen: &str,
    days: u16,
) -> Result<ModeStatement, GateError> {
    let config = SiteConfig::read(site)?;
    let token = facts(site, &config, if backup { Role::Backup } else { Role::Primary })?;
    let checked = today();
    let expires = checked
        .checked_add(jiff::Span::new().days(i64::from(days)))
        .map_err(|error| GateError::Config { path: site.to_owned(), problem: error.to_string() })?;
    Ok(ModeStatement {
        format: MODE_FORMAT,
        site: config.name,
        certificate,
        serial: token.serial,
        manufacturer: token.manufacturer,
        model: token.model,
        hardware: token.hardware,
        firmware: token.firmware,
        mode: Mode::Approved,
        seen: seen.to_owned(),
        checked,
        expires,
    })
}

/// Verifies a statement about the mode of a token of the site and takes it in. Recorded.
///
/// # Errors
/// As [`VerifiedMode::verify`]; [`FipsError::NoMode`] for a token that is none of the site's.
pub fn install_mode(site: &Path, file: &Path, by: &str) -> Result<VerifiedMode, GateError> {
    let read =
        |path: &Path| fs::read(path).map_err(|source| GateError::Io { action: "read", path: path.to_owned(), source });
    let (statement, signatures) = (read(file)?, read(&signatures_path(file))?);
    let config = SiteConfig::read(site)?;
    let verified = VerifiedMode::verify(&statement, &signatures, &approvers(site)?, &config.name)?;
    let serial = &verified.statement().serial;
    let roles = [Role::Primary, Role::Backup].into_iter().filter(|role| config.hsm.place(*role).is_some());
    let held = roles.map(|role| facts(site, &config, role)).collect::<Result<Vec<_>, _>>()?;
    if !held.iter().any(|token| token.serial == *serial) {
        return Err(FipsError::NoMode.into());
    }
    // As with a list: nobody gets a session here.
    let gate = Gate::open_unjudged(site)?;
    let signers: Vec<&str> = verified.signers().iter().map(String::as_str).collect();
    let detail = format!(
        "token {serial} in its approved mode under certificate {}, until {}: {}, signed by {}, by {by}",
        verified.statement().certificate,
        verified.statement().expires,
        Digest::of(&statement),
        signers.join(" and ")
    );
    gate.journal.record_blocking(Event::Site { action: "fips-mode-begun".to_owned(), detail: detail.clone() })?;
    let target = mode_path(site, serial);
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder).map_err(|source| GateError::Io {
            action: "create",
            path: folder.to_owned(),
            source,
        })?;
    }
    write_private(&signatures_path(&target), &signatures)?;
    write_private(&target, &statement)?;
    gate.journal.record_blocking(Event::Site { action: "fips-mode".to_owned(), detail })?;
    gate.journal.checkpoint()?;
    Ok(verified)
}

fn load(site: &Path, path: &Path) -> Result<VerifiedSnapshot, FipsError> {
    let snapshot = fs::read(path).map_err(|_| FipsError::NoSnapshot)?;
    let signatures = fs::read(signatures_path(path)).map_err(|_| FipsError::NotEnoughSignatures { found: 0 })?;
    let approvers = approvers(site).map_err(|error| FipsError::Root { why: error.to_string() })?;
    VerifiedSnapshot::verify(&snapshot, &signatures, &approvers)
}

/// The approvers of the site's pinned root, while it is valid.
fn approvers(site: &Path) -> Result<Vec<Approver>, GateError> {
    let path = site.join("trust/root.json");
    let bytes = fs::read(&path).map_err(|source| GateError::Io { action: "read", path, source })?;
    let root = TrustRoot::parse(&bytes)?;
    if root.expires() < jiff::Timestamp::now() {
        return Err(FipsError::Root { why: format!("it expired on {}", root.expires()) }.into());
    }
    let approvers = root.approver_keys().map(|(key_id, approver)| Approver {
        name: approver.name.clone(),
        key_id: key_id.to_owned(),
        key: approver.key.clone(),
    });
    Ok(approvers.collect())
}

fn facts(site: &Path, config: &SiteConfig, role: Role) -> Result<TokenFacts, GateError> {
    let (module, label) = config.hsm.place(role).ok_or(HsmError::PairIncomplete { role })?;
    let facts = Module::load(&site.join(module))?.facts(label)?;
    Ok(TokenFacts {
        manufacturer: facts.manufacturer,
        model: facts.model,
        serial: facts.serial,
        hardware: facts.hardware,
        firmware: facts.firmware,
        library: facts.library,
        file: facts.file,
        hardware_slot: facts.hardware_slot,
        approved_mode: match facts.approved {
            None => ApprovedMode::CannotSay,
            Some(false) => ApprovedMode::No,
            Some(true) => ApprovedMode::Yes,
        },
        claims: facts
            .claims
            .into_iter()
            .map(|claim| Claim { certificate: claim.certificate, level: claim.level })
            .collect(),
    })
}

fn today() -> Date {
    jiff::tz::Offset::UTC.to_datetime(jiff::Timestamp::now()).date()
}

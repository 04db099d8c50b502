//! What a site knows about its token from the probe: kept in `state.json` and `probe.json`, recorded in the log, and compared
//! with the token at each opening.

use std::path::Path;

use casemate_audit::Event;
use casemate_hsm::probe::{Fingerprint, Judgement, Outcome, Report};
use casemate_hsm::{HsmError, Module, Role, TokenInfo};
use casemate_types::Profile;

use crate::GateError;
use crate::config::SiteConfig;
use crate::init::module_path;
use crate::state::{SiteState, write_private};

/// Of a site whose keys are in one token (a pair's are checked at each of their logins): refuses a token that was not probed under
/// the site's profile, that was refused, or that is not the probed one. Asks the module for names and versions only, before the
/// login.
pub(crate) fn check(dir: &Path, config: &SiteConfig, state: &SiteState) -> Result<(), GateError> {
    let module = Module::load(&module_path(dir, config))?;
    let label = &config.hsm.token_label;
    // One token was probed; another serial is then another token, and is named so.
    let token = module.token(label)?;
    let print = state.probed.get(&token.serial).or_else(|| state.probed.get(&state.token_serial));
    matches(print, &module, label, config.profile)?;
    // A site that claims nothing may rehearse with any backup.
    match config.hsm.place(Role::Backup) {
        Some((backup, label)) if matches!(config.profile, Profile::Enterprise | Profile::Government) => {
            let module = Module::load(&dir.join(backup))?;
            Ok(check_serial(&module, label, config.profile, state).map(drop)?)
        }
        _ => Ok(()),
    }
}

/// As [`check`], of the token under this label, which has to be one that was probed by its own serial number.
pub(crate) fn check_serial(
    module: &Module,
    label: &str,
    profile: Profile,
    state: &SiteState,
) -> Result<TokenInfo, HsmError> {
    let token = module.token(label)?;
    matches(state.probed.get(&token.serial), module, label, profile)?;
    Ok(token)
}

fn matches(print: Option<&Fingerprint>, module: &Module, label: &str, profile: Profile) -> Result<(), HsmError> {
    print.ok_or(HsmError::TokenUnprobed { profile })?.check(module, label, profile)
}

/// The fingerprints of the site's tokens that the report is about: it names one of them, or a scratch token of their make.
pub(crate) fn of_site(
    dir: &Path,
    config: &SiteConfig,
    report: &Report,
    judgement: &Judgement,
) -> Result<Vec<Fingerprint>, GateError> {
    let print = Fingerprint::of(report, judgement);
    let (mut prints, mut refused) = (Vec::new(), None);
    for (module, label) in [Role::Primary, Role::Backup].into_iter().filter_map(|role| config.hsm.place(role)) {
        let found = Module::load(&dir.join(module)).and_then(|module| {
            let token = module.token(label)?;
            print.check_make(&module.library()?, &token)?;
            Ok(Fingerprint { serial: token.serial, ..print.clone() })
        });
        match found {
            Ok(found) if report.scratch || found.serial == print.serial => prints.push(found),
            Ok(_) => {}
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    match (prints.is_empty(), refused) {
        (false, _) => Ok(prints),
        (true, Some(error)) => Err(error.into()),
        (true, None) => Err(HsmError::TokenUnprobed { profile: config.profile }.into()),
    }
}

/// The record of a probe. The evidence is in `probe.json`.
pub(crate) fn event(report: &Report, judgement: &Judgement) -> Event {
    let list = |outcome| match judgement.with(outcome) {
        lines if lines.is_empty() => "none".to_owned(),
        lines => lines.join(" "),
    };
    Event::Site {
        action: if judgement.fit { "token-probed" } else { "token-refused" }.to_owned(),
        detail: format!(
            "profile {}; token {} {}, serial {}, firmware {}, library {}; {}; verdict {}; failed: {}; compensated: {}; \
             warnings: {}",
            judgement.profile,
            report.token.manufacturer,
            report.token.model,
            report.token.serial,
            report.token.firmware,
            report.library,
            if report.scratch { "scratch token" } else { "token in use" },
            report.digest(),
            list(Outcome::Failed),
            list(Outcome::Compensated),
            list(Outcome::Warning),
        ),
    }
}

/// The whole report of the last probe with its evidence.
pub(crate) const REPORT: &str = "probe.json";

/// The report of the backup token at the pair's making.
pub(crate) const BACKUP_REPORT: &str = "probe-backup.json";

/// Writes the whole report with its evidence beside the state.
pub(crate) fn keep(dir: &Path, name: &str, report: &Report, judgement: &Judgement) -> Result<(), GateError> {
    let path = dir.join(name);
    let both = serde_json::json!({ "report": report, "judgement": judgement });
    let bytes = serde_json::to_vec_pretty(&both)
        .map_err(|error| GateError::Config { path: path.clone(), problem: error.to_string() })?;
    write_private(&path, &bytes)
}

//! What a site knows about its token from the probe: kept in `state.json` and `probe.json`, recorded in the log, and compared
//! with the token at each opening.

use std::path::{Path, PathBuf};

use casemate_audit::Event;
use casemate_hsm::probe::{Fingerprint, Judgement, Outcome, Report};
use casemate_hsm::{HsmError, Module};
use casemate_types::Profile;

use crate::GateError;
use crate::config::SiteConfig;
use crate::init::module_path;
use crate::state::{SiteState, write_private};

/// Where one token of a site is.
pub(crate) struct Place {
    pub(crate) module: PathBuf,
    pub(crate) label: String,
}

impl Place {
    pub(crate) fn primary(dir: &Path, config: &SiteConfig) -> Self {
        Self { module: module_path(dir, config), label: config.hsm.token_label.clone() }
    }

    pub(crate) fn backup(dir: &Path, config: &SiteConfig) -> Option<Self> {
        let backup = config.hsm.backup.as_ref()?;
        Some(Self { module: dir.join(&backup.module), label: backup.token_label.clone() })
    }
}

/// Refuses a token that was not probed under the site's profile, that was refused, or that is not the probed one. Asks the
/// module for names and versions only, before the login.
pub(crate) fn check(dir: &Path, config: &SiteConfig, state: &SiteState) -> Result<(), GateError> {
    let module = Module::load(&module_path(dir, config))?;
    let label = &config.hsm.token_label;
    // One token was probed as long as there is no second HSM; another serial is then another token, and is named so.
    let token = module.token(label)?;
    let print = state.probed.get(&token.serial).or_else(|| state.probed.get(&state.token_serial));
    let print = print.ok_or(HsmError::TokenUnprobed { profile: config.profile })?;
    print.check(&module, label, config.profile)?;
    // A site that claims nothing may rehearse with any backup.
    match Place::backup(dir, config) {
        Some(backup) if matches!(config.profile, Profile::Enterprise | Profile::Government) => {
            let module = Module::load(&backup.module)?;
            let print = state.probed.get(&module.token(&backup.label)?.serial);
            let print = print.ok_or(HsmError::TokenUnprobed { profile: config.profile })?;
            Ok(print.check(&module, &backup.label, config.profile)?)
        }
        _ => Ok(()),
    }
}

/// The fingerprint of one of the site's tokens, if the report is about a token of its make.
pub(crate) fn of_site(place: &Place, report: &Report, judgement: &Judgement) -> Result<Fingerprint, GateError> {
    let module = Module::load(&place.module)?;
    let token = module.token(&place.label)?;
    let print = Fingerprint::of(report, judgement);
    print.check_make(&module.library()?, &token)?;
    Ok(Fingerprint { serial: token.serial, ..print })
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

/// Writes the whole report with its evidence beside the state.
pub(crate) fn keep(dir: &Path, report: &Report, judgement: &Judgement) -> Result<(), GateError> {
    let path = dir.join("probe.json");
    let both = serde_json::json!({ "report": report, "judgement": judgement });
    let bytes = serde_json::to_vec_pretty(&both)
        .map_err(|error| GateError::Config { path: path.clone(), problem: error.to_string() })?;
    write_private(&path, &bytes)
}

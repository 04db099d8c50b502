//! What a site knows about its token from the probe: kept in `state.json` and `probe.json`, recorded in the log, and compared
//! with the token at each opening.

use std::path::Path;

use casemate_audit::Event;
use casemate_hsm::probe::{Fingerprint, Judgement, Outcome, Report};
use casemate_hsm::{HsmError, Module};

use crate::GateError;
use crate::config::SiteConfig;
use crate::init::module_path;
use crate::state::{SiteState, write_private};

/// Refuses a token that was not probed under the site's profile, that was refused, or that is not the probed one. Asks the
/// module for names and versions only, before the login.
pub(crate) fn check(dir: &Path, config: &SiteConfig, state: &SiteState) -> Result<(), GateError> {
    let module = Module::load(&module_path(dir, config))?;
    let label = &config.hsm.token_label;
    // One token was probed as long as there is no second HSM; another serial is then another token, and is named so.
    let token = module.token(label)?;
    let print = state.probed.get(&token.serial).or_else(|| state.probed.get(&state.token_serial));
    let print = print.ok_or(HsmError::TokenUnprobed { profile: config.profile })?;
    Ok(print.check(&module, label, config.profile)?)
}

/// The fingerprint of the site's token, if the report is about a token of its make.
pub(crate) fn of_site(
    dir: &Path,
    config: &SiteConfig,
    report: &Report,
    judgement: &Judgement,
) -> Result<Fingerprint, GateError> {
    let module = Module::load(&module_path(dir, config))?;
    let token = module.token(&config.hsm.token_label)?;
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

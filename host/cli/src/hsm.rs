//! `casemate hsm ...`: what an operator does with the HSM itself.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use casemate_gate::{Gate, GateError, SiteConfig};
use casemate_hsm::probe::{self, Access, Judgement, Outcome, Report, ScratchToken};
use casemate_hsm::{HsmError, Module, PairState, Pin, Role};
use zeroize::Zeroizing;

use crate::args::{HsmCommand, ProbeOptions};
use crate::failure::{Failure, code};
use crate::{drill, environment, init, output};

mod token;

pub fn run(site: &Path, command: HsmCommand, json: bool) -> Result<ExitCode, Failure> {
    match command {
        HsmCommand::Drill(options) => drill::run(site, &options, json),
        HsmCommand::InitToken(options) => token::initialise(&options, json),
        HsmCommand::Probe(options) => probe(site, &options, json),
        HsmCommand::Status => status(site, json),
    }
}

fn status(site: &Path, json: bool) -> Result<ExitCode, Failure> {
    environment::require_site(site)?;
    environment::prepare(site)?;
    environment::lock_down()?;
    let (state, faults) = match casemate_gate::pair_status(site) {
        Ok(Some(status)) => (status.state, [status.primary_fault, status.backup_fault]),
        Err(GateError::Hsm(HsmError::PairDown)) => (PairState::BothDown, [None, None]),
        Ok(None) => {
            return Err(Failure::new("this site's keys are in one token")
                .hint("a pair is made by `casemate init --backup MODULE`; see docs/keys.md, \"A pair of HSMs\""));
        }
        Err(error) => return Err(error.into()),
    };
    let [primary, backup] = &faults;
    if json {
        output::json(&serde_json::json!({ "state": state, "primary-fault": primary, "backup-fault": backup }))?;
    } else {
        output::line(match state {
            PairState::Healthy => "healthy: both tokens serve, and hold every key",
            PairState::PrimaryDown => "primary down: the backup serves",
            PairState::BackupDown => "backup down: the primary serves, and nothing would take over",
            PairState::BothDown => "both down: nothing is served",
        })?;
        for (role, fault) in [("primary", primary), ("backup", backup)] {
            if let Some(fault) = fault {
                output::line(&format!("  {role}: {fault}"))?;
            }
        }
    }
    Ok(if state == PairState::Healthy { ExitCode::SUCCESS } else { ExitCode::from(code::VERIFICATION) })
}

/// Module and label of the token that a probe is about.
fn place<'a>(config: &'a SiteConfig, options: &ProbeOptions) -> Result<(&'a Path, &'a str), Failure> {
    let role = if options.backup { Role::Backup } else { Role::Primary };
    config
        .hsm
        .place(role)
        .ok_or_else(|| Failure::new("this site has no backup token: its site.toml has no [hsm.backup]"))
}

fn probe(site: &Path, options: &ProbeOptions, json: bool) -> Result<ExitCode, Failure> {
    let progress = |step: &str| {
        if !json {
            eprintln!("  probing: {step}");
        }
    };
    let (report, judgement) = match &options.module {
        Some(module) => {
            let report = probe_module(module, options, &progress)?;
            let judgement = report.judge(options.profile.unwrap_or_default());
            (report, judgement)
        }
        None => {
            environment::require_site(site)?;
            let config = SiteConfig::read(site)?;
            let report = if options.scratch {
                let report = probe_in_child(site, &config, options)?;
                environment::set(site, &config)?;
                environment::lock_down()?;
                report
            } else {
                probe_site_token(site, &config, options, &progress)?
            };
            let recorded = Gate::record_probe(site, &report)?;
            let judgement = options.profile.map_or(recorded, |profile| report.judge(profile));
            (report, judgement)
        }
    };
    print(&report, &judgement, json)?;
    Ok(if judgement.fit { ExitCode::SUCCESS } else { ExitCode::from(code::VERIFICATION) })
}

/// The site's token, which is in use: nothing touches its PINs.
fn probe_site_token(
    site: &Path,
    config: &SiteConfig,
    options: &ProbeOptions,
    progress: &dyn Fn(&str),
) -> Result<Report, Failure> {
    environment::set(site, config)?;
    environment::lock_down()?;
    let (module, label) = place(config, options)?;
    let module = Module::load(&site.join(module))?;
    let (token, role) = (module.token(label)?, if options.backup { Role::Backup } else { Role::Primary });
    let pin = match (&options.pin_file, token.protected_authentication_path) {
        (None, true) => None,
        (None, false) => Some(casemate_gate::user_pin(site, config, role, &token)?),
        (Some(file), _) => Some(read_pin(file)?),
    };
    Ok(probe::run(&module, label, &Access::Live { pin: pin.as_ref() }, progress)?)
}

/// A scratch token of the site's module. A module reads its configuration once per process, so another process probes.
fn probe_in_child(site: &Path, config: &SiteConfig, options: &ProbeOptions) -> Result<Report, Failure> {
    let module = site.join(place(config, options)?.0);
    let variables = if storage_of(&module).is_none() { environment::variables(site, config)? } else { Vec::new() };
    scratch_report(&module, variables)
}

/// Refuses a module whose tokens cannot be initialised as the standard says, by what a scratch token of it does: NSS has no officer's PIN and
/// takes its storage from a string that no site has.
pub fn refuse_unfit(site: &Path, config: &SiteConfig) -> Result<(), Failure> {
    for (module, _) in [Role::Primary, Role::Backup].into_iter().filter_map(|role| config.hsm.place(role)) {
        if matches!(storage_of(module), Some(Storage::Nss)) {
            scratch_report(&site.join(module), Vec::new())?.judge(config.profile).require()?;
            return Err(Failure::new(format!("{} cannot be a site's token: NSS initialises none", module.display())));
        }
    }
    Ok(())
}

fn scratch_report(module: &Path, variables: Vec<(String, String)>) -> Result<Report, Failure> {
    let failed = |error: &dyn std::error::Error| Failure::caused_by("cannot probe a scratch token", error);
    let program = std::env::current_exe().map_err(|error| failed(&error))?;
    let mut child = Command::new(program);
    child.args(["--json", "hsm", "probe", "--scratch", "--module"]).arg(module).stdin(Stdio::null());
    for (name, value) in variables {
        child.arg("--module-env").arg(format!("{name}={value}"));
    }
    let ended = child.stderr(Stdio::inherit()).output().map_err(|error| failed(&error))?;
    let line = String::from_utf8_lossy(&ended.stdout);
    let answer: serde_json::Value = serde_json::from_str(line.trim()).map_err(|error| failed(&error))?;
    match answer.get("error").and_then(|error| error.as_str()) {
        Some(error) => Err(Failure::new(format!("cannot probe a scratch token: {error}"))),
        None => {
            serde_json::from_value(answer.get("report").cloned().unwrap_or_default()).map_err(|error| failed(&error))
        }
    }
}

/// Any module that is named on the command line.
fn probe_module(path: &Path, options: &ProbeOptions, progress: &dyn Fn(&str)) -> Result<Report, Failure> {
    let mut variables = options.module_env.iter().map(|text| environment::pair(text)).collect::<Result<Vec<_>, _>>()?;
    let mut parameters = options.module_parameters.clone();
    // Software tokens get storage of their own, unless the operator configures the module.
    let configured = !variables.is_empty() || parameters.is_some() || options.token_label.is_some();
    let own = if options.scratch && !configured { storage_of(path) } else { None };
    let _storage = match own {
        Some(storage) => {
            let folder = Temporary::make()?;
            storage.configure(&folder.0, &mut variables, &mut parameters)?;
            Some(folder)
        }
        None => None,
    };
    environment::set_variables(variables);
    environment::lock_down()?;
    let module = Module::load_with(path, parameters.as_deref())?;
    match (&options.token_label, &options.pin_file) {
        (Some(label), Some(pin_file)) => {
            let pin = read_pin(pin_file)?;
            if !options.scratch {
                return Ok(probe::run(&module, label, &Access::Live { pin: Some(&pin) }, progress)?);
            }
            let so_pin = options.so_pin_file.as_deref().map(read_pin).transpose()?;
            let so_pin = so_pin.as_ref().ok_or_else(|| {
                Failure::new("a scratch token needs --so-pin-file as well: the PIN is locked and has to be reset")
                    .with_code(2)
            })?;
            Ok(probe::run(&module, label, &Access::Scratch { pin: &pin, so_pin: Some(so_pin) }, progress)?)
        }
        (Some(label), None) if !options.scratch && module.token(label)?.protected_authentication_path => {
            Ok(probe::run(&module, label, &Access::Live { pin: None }, progress)?)
        }
        _ if options.scratch => Ok(ScratchToken::make(&module)?.probe(&module, progress)?),
        _ => {
            Err(Failure::new("name the token with --token-label and --pin-file, or let --scratch make one")
                .with_code(2))
        }
    }
}

/// Software tokens whose storage is a matter of configuration.
#[derive(Clone, Copy)]
enum Storage {
    Kryoptic,
    Nss,
    SoftHsm,
}

fn storage_of(module: &Path) -> Option<Storage> {
    match module.file_name()?.to_str()? {
        init::EMBEDDED => Some(Storage::Kryoptic),
        "libsofthsm2.so" => Some(Storage::SoftHsm),
        "libsoftokn3.so" => Some(Storage::Nss),
        _ => None,
    }
}

impl Storage {
    fn configure(
        self,
        folder: &Path,
        variables: &mut Vec<(String, String)>,
        parameters: &mut Option<String>,
    ) -> Result<(), Failure> {
        let place = folder.display();
        let (variable, text) = match self {
            Self::Kryoptic => {
                let storage = toml::Value::String(format!("{place}/token.sqlite"));
                ("KRYOPTIC_CONF", format!("[[slots]]\nslot = 0\ndbtype = \"sqlite\"\ndbargs = {storage}\n"))
            }
            Self::SoftHsm => (
                "SOFTHSM2_CONF",
                format!("directories.tokendir = {place}\nobjectstore.backend = file\nlog.level = ERROR\n"),
            ),
            Self::Nss => {
                *parameters = Some(format!("configDir='sql:{place}' flags=noModDB"));
                return Ok(());
            }
        };
        let file = folder.join("token.conf");
        fs::write(&file, text).map_err(|error| Failure::caused_by("cannot configure a scratch token", &error))?;
        variables.push((variable.to_owned(), file.display().to_string()));
        Ok(())
    }
}

/// A folder that only its owner can read and that goes away with its value.
struct Temporary(PathBuf);

impl Temporary {
    fn make() -> Result<Self, Failure> {
        // Half of a random PIN names a folder that nobody can have prepared.
        let name = Pin::random()?.expose_secret().get(..32).unwrap_or_default().to_owned();
        let folder = std::env::temp_dir().join(format!("casemate-probe-{name}"));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .map_err(|error| Failure::caused_by(format!("cannot create {}", folder.display()), &error))?;
        Ok(Self(folder))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn read_pin(path: &Path) -> Result<Pin, Failure> {
    let text = fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|error| Failure::caused_by(format!("cannot read the PIN file {}", path.display()), &error))?;
    Pin::new(text).map_err(|error: HsmError| Failure::from(error).about(path))
}

fn print(report: &Report, judgement: &Judgement, json: bool) -> Result<(), Failure> {
    if json {
        return output::json(
            &serde_json::json!({ "report": report, "judgement": judgement, "verdict": report.digest() }),
        );
    }
    let token = &report.token;
    output::line(&format!(
        "Token `{}`: {} {}, serial {}, firmware {}\nModule: {}\n",
        token.label, token.manufacturer, token.model, token.serial, token.firmware, report.library
    ))?;
    for line in &report.lines {
        let judged = judgement.lines.iter().find(|judged| judged.id == line.id);
        let (outcome, answer) = judged.map_or((Outcome::Failed, ""), |judged| (judged.outcome, judged.answer));
        output::line(&format!(
            "{outcome:<11}  {:<9}  {:<25}  {}\n    {}",
            line.finding, line.id, line.title, line.detail
        ))?;
        if !answer.is_empty() {
            let kind = if outcome == Outcome::Compensated { "compensated" } else { "so" };
            output::line(&format!("    {kind}: {answer}"))?;
        }
        for call in &line.evidence {
            output::line(&format!("      {call}"))?;
        }
    }
    let verdict = if judgement.fit {
        format!("FIT for profile {}", judgement.profile)
    } else {
        format!(
            "REFUSED for profile {}: {}. This token must not hold keys",
            judgement.profile,
            judgement.with(Outcome::Failed).join(", ")
        )
    };
    let scratch = if report.scratch { "" } else { " (a token in use: lines that change logins were not tried)" };
    output::line(&format!("\n{verdict}.{scratch}\nverdict {}", report.digest()))
}

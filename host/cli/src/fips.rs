use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use casemate_fips::{FF1_BOUNDARY, PAYLOAD_TYPE, Snapshot};
use casemate_gate::FipsOverrides;
use casemate_types::Profile;
use clap::{Args, Subcommand};

use crate::bundle::args::KeyOptions;
use crate::bundle::key_file;
use crate::failure::{Failure, code};
use crate::{environment, output};

/// Whether the site's token is a validated module (FIPS 140-3), by an offline list of certificates
/// that two of the site's approvers signed. The list's format is in docs/fips-snapshot.md.
#[derive(Subcommand)]
pub enum FipsCommand {
    /// Judge the token and show every check with its evidence. Exit code 4 when the profile asks for more.
    Status(StatusOptions),
    /// Add an approver's signature to a list of certificates; it goes to FILE.dsse.
    ///
    /// Read the list first, against the source it names: `casemate fips inspect FILE`.
    Sign {
        /// The list.
        file: PathBuf,
        #[command(flatten)]
        key: KeyOptions,
    },
    /// Show what a list says. Trusts nothing and needs no site.
    Inspect {
        /// The list.
        file: PathBuf,
    },
    /// Take a list that two approvers signed into the site. An older one is not taken again.
    Install {
        /// The list; its signatures lie in FILE.dsse.
        file: PathBuf,
    },
}

#[derive(Args)]
pub struct StatusOptions {
    /// Judge for this profile instead of the one in site.toml: government, enterprise, rehearsal or development.
    #[arg(long)]
    profile: Option<Profile>,
    /// Judge by this list instead of the installed one; its signatures lie in FILE.dsse.
    #[arg(long, value_name = "FILE")]
    snapshot: Option<PathBuf>,
    /// The number of the module's certificate; found by the token's names otherwise.
    #[arg(long, value_name = "N")]
    certificate: Option<u32>,
}

pub fn run(site: &Path, command: FipsCommand, json: bool) -> Result<ExitCode, Failure> {
    match command {
        FipsCommand::Status(options) => status(site, options, json),
        FipsCommand::Sign { file, key } => sign(&file, &key, json),
        FipsCommand::Inspect { file } => inspect(&file, json),
        FipsCommand::Install { file } => {
            environment::prepare(site)?;
            environment::lock_down()?;
            let verified = casemate_gate::install_snapshot(site, &file, &environment::officer())?;
            let (date, sample) = (verified.snapshot().date, verified.snapshot().sample);
            if json {
                output::json(&serde_json::json!({ "date": date, "sample": sample, "signers": verified.signers() }))?;
            } else {
                let signers: Vec<&str> = verified.signers().iter().map(String::as_str).collect();
                output::line(&format!("The list of {date} is in force, signed by {}.", signers.join(" and ")))?;
                if sample {
                    output::line("It is a SAMPLE: no profile but rehearsal takes it.")?;
                }
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn status(site: &Path, options: StatusOptions, json: bool) -> Result<ExitCode, Failure> {
    environment::prepare(site)?;
    environment::lock_down()?;
    let StatusOptions { profile, snapshot, certificate } = options;
    let (token, verdict) = casemate_gate::fips_status(site, &FipsOverrides { profile, snapshot, certificate })?;
    if json {
        output::json(&serde_json::json!({
            "validated": verdict.validated(),
            "admitted": verdict.admits(),
            "verdict": verdict,
            "token": token,
            "ff1": FF1_BOUNDARY,
        }))?;
    } else {
        output::line(&format!(
            "token {} {} (serial {}, hardware {}, firmware {})\nlibrary {} ({})\nprofile {}\n",
            output::plain(&token.manufacturer),
            output::plain(&token.model),
            output::plain(&token.serial),
            token.hardware,
            token.firmware,
            output::plain(&token.library),
            output::plain(&token.file),
            verdict.profile
        ))?;
        for check in &verdict.checks {
            let mark = if check.passed { "ok  " } else { "FAIL" };
            output::line(&format!("  {mark}  {:<32} {}", check.name, output::plain(&check.evidence)))?;
        }
        output::line(&format!("  note  {:<32} {FF1_BOUNDARY}", "format-preserving encryption"))?;
        output::line(match (verdict.validated(), verdict.profile) {
            (true, _) => "\nVALIDATED: the module, its versions and its certificate fit the profile.",
            (false, Profile::Enterprise | Profile::Government) => {
                "\nNOT VALIDATED: a site of this profile does not open with this token."
            }
            (false, _) => "\nNOT VALIDATED, and not asked for: this profile claims nothing.",
        })?;
    }
    Ok(if verdict.admits() { ExitCode::SUCCESS } else { ExitCode::from(code::VERIFICATION) })
}

fn sign(file: &Path, key: &KeyOptions, json: bool) -> Result<ExitCode, Failure> {
    let bytes = read(file)?;
    let snapshot = Snapshot::parse(&bytes).map_err(|error| Failure::from(error).about(file))?;
    let (key, _) = key_file(key)?;
    let key_id = key.public().key_id()?;
    let signature = key.sign_dsse(&casemate_fips::message(&bytes))?;
    let target = casemate_gate::signatures_path(file);
    let existing = match fs::read(&target) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(Failure::caused_by(format!("cannot read {}", target.display()), &error)),
    };
    let signed = casemate_fips::add_signature(existing.as_deref(), &key_id, &signature)?;
    fs::write(&target, signed)
        .map_err(|error| Failure::caused_by(format!("cannot write {}", target.display()), &error))?;
    let name = &key.public().name;
    if json {
        return output::json(&serde_json::json!({
            "signed": target, "approver": name, "type": PAYLOAD_TYPE, "date": snapshot.date,
        }))
        .map(|()| ExitCode::SUCCESS);
    }
    output::line(&format!("{name} signed the list of {} in {}", snapshot.date, target.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn inspect(file: &Path, json: bool) -> Result<ExitCode, Failure> {
    let bytes = read(file)?;
    let snapshot = Snapshot::parse(&bytes).map_err(|error| Failure::from(error).about(file))?;
    if json {
        output::json(&snapshot)?;
        return Ok(ExitCode::SUCCESS);
    }
    let sample = if snapshot.sample { "SAMPLE, " } else { "" };
    let (date, source) = (snapshot.date, output::plain(&snapshot.source));
    output::line(&format!("{sample}list of {date} from {source}\n{}", casemate_types::Digest::of(&bytes)))?;
    for certificate in &snapshot.certificates {
        let text = serde_json::to_value(certificate)
            .map_err(|error| Failure::caused_by("cannot encode a certificate", &error))?;
        let word = |field: &str| text.get(field).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
        output::line(&format!(
            "\n  {} {} ({})\n    {}, level {}, {}, {}; validated {}, sunset {}\n    token `{}`, models {:?}",
            certificate.number,
            output::plain(&certificate.module_name),
            output::plain(&certificate.vendor),
            word("standard"),
            certificate.level,
            word("kind"),
            word("status"),
            certificate.validated,
            certificate.sunset,
            output::plain(&certificate.token.manufacturer),
            certificate.token.models,
        ))?;
        for tested in &certificate.configurations {
            output::line(&format!(
                "    hardware {} with firmware {}",
                output::plain(&tested.hardware),
                output::plain(&tested.firmware)
            ))?;
        }
        let approved: Vec<&str> = certificate.approved.iter().map(String::as_str).collect();
        output::line(&format!("    approved {}", output::plain(&approved.join(", "))))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(file).map_err(|error| Failure::caused_by(format!("cannot read {}", file.display()), &error))
}

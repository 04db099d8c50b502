use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use casemate_fips::{FF1_BOUNDARY, MODE_TYPE, ModeStatement, PAYLOAD_TYPE, Snapshot};
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
    /// Write a statement that a token of the site runs in its approved mode, for two approvers to sign and install.
    ///
    /// Look at the device first, with its maker's tool. A certificate is about a module in this mode, so the profiles enterprise and
    /// government ask for the statement, whatever the token says.
    Mode {
        /// The certificate's number.
        #[arg(long)]
        certificate: u32,
        /// How the mode was seen, in one line.
        #[arg(long)]
        seen: String,
        /// The backup token instead of the primary.
        #[arg(long)]
        backup: bool,
        /// For how many days the statement is good.
        #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u16).range(1..=366))]
        days: u16,
        /// The statement to write.
        #[arg(long)]
        out: PathBuf,
    },
    /// Add an approver's signature to a list of certificates, or to a statement about a token's mode; it goes to FILE.dsse.
    ///
    /// Read it first, against the source or device it names: `casemate fips inspect FILE`.
    Sign {
        /// The list or statement.
        file: PathBuf,
        #[command(flatten)]
        key: KeyOptions,
    },
    /// Show what a list or a statement says. Trusts nothing and needs no site.
    Inspect {
        /// The list or statement.
        file: PathBuf,
    },
    /// Take a list or a statement that two approvers signed into the site. An older list is not taken again.
    Install {
        /// The list or statement; its signatures lie in FILE.dsse.
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
        FipsCommand::Mode { certificate, seen, backup, days, out } => {
            environment::prepare(site)?;
            environment::lock_down()?;
            let statement = casemate_gate::draft_mode(site, backup, certificate, &seen, days)?;
            let text = serde_json::to_vec_pretty(&statement)
                .map_err(|error| Failure::caused_by("cannot encode the statement", &error))?;
            // What would be refused is not written.
            ModeStatement::parse(&text)?;
            casemate_custody::files::write_new(&out, &text)?;
            if json {
                output::json(&serde_json::json!({ "statement": statement, "file": out }))?;
            } else {
                output::line(&format!(
                    "{} says that token {} runs in its approved mode. Two approvers sign it: casemate fips sign {} --key FILE",
                    out.display(),
                    output::plain(&statement.serial),
                    out.display()
                ))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        FipsCommand::Sign { file, key } => sign(&file, &key, json),
        FipsCommand::Inspect { file } => inspect(&file, json),
        FipsCommand::Install { file } => {
            environment::prepare(site)?;
            environment::lock_down()?;
            if let Document::Mode(_) = Document::read(&file)?.1 {
                let verified = casemate_gate::install_mode(site, &file, &environment::officer())?;
                let signers: Vec<&str> = verified.signers().iter().map(String::as_str).collect();
                if json {
                    output::json(&serde_json::json!({ "statement": verified.statement(), "signers": signers }))?;
                } else {
                    let statement = verified.statement();
                    output::line(&format!(
                        "The statement about token {} is in force until {}, signed by {}.",
                        output::plain(&statement.serial),
                        statement.expires,
                        signers.join(" and ")
                    ))?;
                }
                return Ok(ExitCode::SUCCESS);
            }
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
    let (bytes, document) = Document::read(file)?;
    let (payload_type, date) = match &document {
        Document::List(list) => (PAYLOAD_TYPE, list.date),
        Document::Mode(statement) => (MODE_TYPE, statement.checked),
    };
    let (key, _) = key_file(key)?;
    let key_id = key.public().key_id()?;
    let signature = key.sign_dsse(&casemate_fips::message(payload_type, &bytes))?;
    let target = casemate_gate::signatures_path(file);
    let existing = match fs::read(&target) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(Failure::caused_by(format!("cannot read {}", target.display()), &error)),
    };
    let signed = casemate_fips::add_signature(payload_type, existing.as_deref(), &key_id, &signature)?;
    fs::write(&target, signed)
        .map_err(|error| Failure::caused_by(format!("cannot write {}", target.display()), &error))?;
    let name = &key.public().name;
    if json {
        return output::json(&serde_json::json!({
            "signed": target, "approver": name, "type": payload_type, "date": date,
        }))
        .map(|()| ExitCode::SUCCESS);
    }
    output::line(&format!("{name} signed what is dated {date}, in {}", target.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn inspect(file: &Path, json: bool) -> Result<ExitCode, Failure> {
    let (bytes, document) = Document::read(file)?;
    let snapshot = match document {
        Document::List(list) => list,
        Document::Mode(statement) if json => return output::json(&statement).map(|()| ExitCode::SUCCESS),
        Document::Mode(statement) => {
            output::line(&format!(
                "token {} ({} {}, hardware {}, firmware {}) of site {} ran in its approved mode on {}\n\
                   certificate {}, good until {}\n  seen: {}\n{}",
                output::plain(&statement.serial),
                output::plain(&statement.manufacturer),
                output::plain(&statement.model),
                output::plain(&statement.hardware),
                output::plain(&statement.firmware),
                output::plain(&statement.site),
                statement.checked,
                statement.certificate,
                statement.expires,
                output::plain(&statement.seen),
                casemate_types::Digest::of(&bytes)
            ))?;
            return Ok(ExitCode::SUCCESS);
        }
    };
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

/// What approvers sign.
enum Document {
    List(Snapshot),
    Mode(ModeStatement),
}

impl Document {
    /// The file's bytes, and what they say. A file that is neither is refused as the one it looks like.
    fn read(file: &Path) -> Result<(Vec<u8>, Self), Failure> {
        let bytes = read(file)?;
        let about = |error| Failure::from(error).about(file);
        let looks: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let document = match looks.get("mode") {
            Some(_) => Self::Mode(ModeStatement::parse(&bytes).map_err(about)?),
            None => Self::List(Snapshot::parse(&bytes).map_err(about)?),
        };
        Ok((bytes, document))
    }
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(file).map_err(|error| Failure::caused_by(format!("cannot read {}", file.display()), &error))
}

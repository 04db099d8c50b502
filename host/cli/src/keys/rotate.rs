//! `casemate keys rotate` and `casemate keys destroy`: versions of the site's own keys, under custodians' approvals.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use casemate_custody::{Ahead, NOTICE_SECONDS, Stage, UnixTime};
use casemate_gate::{Destroyed, Gate, KeyStatus, SiteKey};
use clap::{Args, Subcommand, ValueEnum};

use crate::custodian::{self, SiteLog};
use crate::failure::{Failure, code};
use crate::keys::Consent;
use crate::{environment, output};

/// A rotation takes two approvals: one gives notice, and one, written with the notice in the log,
/// puts the next version in force at least 48 hours later. `status` says what is due and how to ask
/// for it. While it goes on, the site is not served: stop `casemate serve` for the moment of a step.
#[derive(Subcommand)]
pub enum RotateCommand {
    /// Show the versions of each key, what is due next, and the request for it.
    ///
    /// While a notice runs, call it once a day: the log then bears the time out.
    Status,
    /// Propose the next version of a key. Nothing is made yet.
    Propose {
        /// The key.
        key: RotatedKey,
    },
    /// Give notice: two custodians approved it; the next version is made and proven in every token.
    Notice(Step),
    /// Put the next version in force, 48 hours after the notice.
    Activate(Step),
    /// Make a new version and put it in force at once. The statement's reason begins with a code.
    ///
    /// Codes: custodian-left, device-lost, key-compromised, key-suspected, legal-order; then a colon and words.
    Emergency(Step),
    /// Take a proposal or a notice back.
    Withdraw {
        /// The key.
        key: RotatedKey,
    },
    /// Bring everything under the version in force, and count what is left. Can be cut off and called again.
    Reencrypt {
        /// The key.
        key: RotatedKey,
    },
}

/// The keys that have versions.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum RotatedKey {
    /// Seals the site's data key.
    AtRest,
    /// Masks identifiers in answers, and encrypts for plugins (FF1).
    Mask,
    /// Encrypts metadata fields (FF1).
    Metadata,
}

impl From<RotatedKey> for SiteKey {
    fn from(key: RotatedKey) -> Self {
        match key {
            RotatedKey::AtRest => Self::AtRest,
            RotatedKey::Mask => Self::Mask,
            RotatedKey::Metadata => Self::Metadata,
        }
    }
}

#[derive(Args)]
pub struct Step {
    /// The key.
    key: RotatedKey,
    #[command(flatten)]
    approval: Approval,
}

/// What custodians signed.
#[derive(Args)]
pub struct Approval {
    /// The statement, signed by enough custodians. It is good for once.
    #[arg(long, value_name = "FILE")]
    statement: PathBuf,
}

/// `KEY@VERSION`.
#[derive(Debug, Clone)]
pub struct VersionName {
    key: RotatedKey,
    version: u32,
}

impl std::str::FromStr for VersionName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no version of a key; write for instance metadata@1");
        let (key, version) = text.split_once('@').ok_or_else(wrong)?;
        let key = RotatedKey::from_str(key, false).map_err(|_| wrong())?;
        Ok(Self { key, version: version.parse().map_err(|_| wrong())? })
    }
}

pub fn run(site: &Path, command: RotateCommand, json: bool) -> Result<ExitCode, Failure> {
    let by = environment::officer();
    let gate = Gate::open_without_plugins(site)?;
    let said = match command {
        RotateCommand::Status => return status(site, &gate, json),
        RotateCommand::Propose { key } => {
            let version = gate.propose_rotation(&by, key.into())?;
            format!("Version {version} of `{}` is proposed. Next: casemate keys rotate status", SiteKey::from(key))
        }
        RotateCommand::Withdraw { key } => {
            gate.withdraw_rotation(&by, key.into())?;
            format!("The next version of `{}` is withdrawn; nothing is left of it.", SiteKey::from(key))
        }
        RotateCommand::Notice(Step { key, approval }) => {
            let (approved, _) = gate.approve(custodian::read_envelope(&approval.statement)?)?;
            let notice = gate.give_notice(&by, key.into(), &approved)?;
            format!(
                "Notice is given for key {} (check {}), made and proven in every token. It can come into force from {}.\n\
                 Until then, once a day: casemate keys rotate status",
                notice.next.id,
                notice.next.check,
                date(notice.until())
            )
        }
        RotateCommand::Activate(Step { key, approval }) => {
            let (approved, log) = gate.approve(custodian::read_envelope(&approval.statement)?)?;
            let version = gate.activate_rotation(&by, key.into(), &approved, &log)?;
            in_force(key, version)
        }
        RotateCommand::Emergency(Step { key, approval }) => {
            let (approved, _) = gate.approve(custodian::read_envelope(&approval.statement)?)?;
            let version = gate.rotate_at_once(&by, key.into(), &approved)?;
            in_force(key, version)
        }
        RotateCommand::Reencrypt { key } => {
            let bar = crate::ingest::progress_bar(0, json);
            let done = gate.re_encrypt(&by, key.into(), |seen, total| {
                bar.set_length(total);
                bar.set_position(seen);
            })?;
            bar.finish_and_clear();
            if json {
                output::json(&done)?;
                return Ok(ExitCode::SUCCESS);
            }
            format!(
                "{} passages brought under the version in force; nothing is left under an older one.",
                done.passages
            )
        }
    };
    say(&said, json)
}

pub fn destroy(site: &Path, name: &str, consent: &Consent, json: bool) -> Result<ExitCode, Failure> {
    let VersionName { key, version } = name.parse().map_err(|why: String| Failure::new(why).with_code(2))?;
    let (key, by) = (SiteKey::from(key), environment::officer());
    let gate = Gate::open_without_plugins(site)?;
    // What was begun was approved then.
    if gate.unfinished_version(key, version) {
        return certified(name, &gate.finish_version(&by, key, version)?, json);
    }
    let Some(statement) = &consent.approval else {
        return Err(Failure::new(format!("the destruction of {name} is approved by two custodians"))
            .hint("casemate keys rotate status shows the request; give the signed statement with --statement")
            .with_code(code::VERIFICATION));
    };
    let (approved, _) = gate.approve(custodian::read_envelope(statement)?)?;
    certified(name, &gate.destroy_version(&by, key, version, &approved)?, json)
}

fn certified(name: &str, done: &Destroyed, json: bool) -> Result<ExitCode, Failure> {
    if json {
        output::json(&serde_json::json!({ "certificate": done.certificate, "file": done.path }))?;
        return Ok(ExitCode::SUCCESS);
    }
    output::line(&format!(
        "{name} is destroyed in every token. The proofs are in the log: casemate audit show --key {}\n\
         The certificate is {1}. Each custodian signs it: casemate custodian certify {1} --as NAME --token LABEL",
        done.certificate.key.id,
        done.path.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn in_force(key: RotatedKey, version: u32) -> String {
    let key = SiteKey::from(key);
    format!("{key}@{version} is in force. Next: casemate keys rotate reencrypt {key}")
}

fn say(words: &str, json: bool) -> Result<ExitCode, Failure> {
    if json {
        output::json(&serde_json::json!({ "done": words }))?;
    } else {
        output::line(words)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn status(site: &Path, gate: &Gate, json: bool) -> Result<ExitCode, Failure> {
    gate.journal().checkpoint()?;
    let status = gate.rotation_status(&SiteLog::open(site)?)?;
    if json {
        output::json(&status)?;
        return Ok(ExitCode::SUCCESS);
    }
    for key in &status {
        output::line(&format!("{}@{} in force, check {}", key.key, key.version, key.reference.check))?;
        for older in &key.older {
            let stage = match older.stage {
                Stage::DecryptOnly => format!("only decrypts -> casemate keys rotate reencrypt {}", key.key),
                Stage::ReEncrypted => "nothing is encrypted under it any more".to_owned(),
                Stage::DestroyScheduled => "is being destroyed: the site's next opening finishes it".to_owned(),
                Stage::Destroyed => "destroyed".to_owned(),
            };
            output::line(&format!("  {}@{}: {stage}", key.key, older.version))?;
            if older.unfinished {
                output::line(&format!(
                    "    its certificate is missing -> casemate keys destroy {}@{}",
                    key.key, older.version
                ))?;
            }
            if older.stage == Stage::ReEncrypted {
                output::line(&request(key, "destroy", &older.reference, older.version, "", "retired"))?;
                output::line(&format!("    casemate keys destroy {}@{} --statement FILE", key.key, older.version))?;
            }
        }
        due(key)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What comes next for a key, with the request as it has to be written.
fn due(key: &KeyStatus) -> Result<(), Failure> {
    let next = key.version + 1;
    match &key.ahead {
        None => Ok(()),
        Some(Ahead::Proposed { at }) => {
            output::line(&format!("  version {next} is proposed since {}; custodians give notice:", date(*at)))?;
            output::line(&request(key, "rotate", &key.reference, next, "", "yearly"))?;
            output::line(&format!("    casemate keys rotate notice {} --statement FILE", key.key))
        }
        Some(Ahead::Noticed(notice)) => {
            let counted = key.counted.unwrap_or_default();
            output::line(&format!(
                "  version {next} (check {}) waits until {}; the log bears out {} of {} hours; custodians activate:",
                notice.next.check,
                date(notice.until()),
                counted / 3600,
                NOTICE_SECONDS / 3600
            ))?;
            let more = format!(" --subject {} --not-before {}", notice.statement, date(notice.until()));
            output::line(&request(key, "rotate", &notice.next, next, &more, "yearly"))?;
            output::line(&format!("    casemate keys rotate activate {} --statement FILE", key.key))
        }
    }
}

/// The command that makes the statement which custodians then sign.
fn request(
    key: &KeyStatus,
    operation: &str,
    about: &casemate_hsm::KeyRef,
    version: u32,
    more: &str,
    reason: &str,
) -> String {
    let tokens: Vec<String> = key.tokens.iter().map(|serial| format!(" --on {serial}")).collect();
    format!(
        "    casemate custodian request --operation {operation} --key {} --class {} --version {version}{}{more} --reason {reason} \
         --requester WHO --out FILE",
        about.id,
        about.class,
        tokens.concat()
    )
}

pub(super) fn date(time: UnixTime) -> String {
    let second = i64::try_from(time.0).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(second).map_or_else(|_| time.to_string(), |time| time.to_string())
}

//! The custody token: the process that talks to the custodians, and the short-lived one that has the PINs.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use casemate_audit::Event;
use casemate_custody::session::{Custody, Step};
use casemate_custody::{
    CustodyError, CustodyFolder, Envelope, HsmToken, NonceFile, OpenShare, QuorumBackend, SealedShare, ShareSet,
    Statement, SystemEntropy, files, process,
};
use casemate_gate::{Gate, SiteConfig};
use casemate_hsm::Module;
use zeroize::Zeroizing;

use super::args::{CustodyOptions, CustodyTokenCommand, Outcome, SharesCommand};
use super::{SiteLog, by_name, load, nonces, now, read_pin, read_roster, verifier};
use crate::failure::{Failure, code};
use crate::{environment, init, output};

pub fn run(site: &Path, command: CustodyTokenCommand, json: bool) -> Result<ExitCode, Failure> {
    match command {
        CustodyTokenCommand::Init { custody } => {
            // A ledger that is lost later is not begun again by the way.
            if !nonces(site).exists() && !folder(site, &custody).join("journal.json").exists() {
                let folder = site.join("custody");
                std::fs::create_dir_all(&folder)
                    .map_err(|error| Failure::caused_by(format!("cannot create {}", folder.display()), &error))?;
                drop(NonceFile::create(&nonces(site))?);
            }
            let said = recorded(site, None, &custody, || {
                process::call(
                    child(site, &custody, "session", |command| {
                        command.arg("--first");
                    })?,
                    &[],
                )
            })?;
            report(&said, json)
        }
        CustodyTokenCommand::Renew { statement, custodians, pin_files, custodian_module, custody } => {
            environment::set_pairs(&custody.module.module_env)?;
            environment::lock_down()?;
            let shares = open_shares(site, &custody, &by_name(&custodians)?, &by_name(&pin_files)?, custodian_module)?;
            let said = recorded(site, Some(&statement), &custody, || {
                let session = child(site, &custody, "session", |command| {
                    command.arg("--statement").arg(&statement);
                })?;
                process::call(session, &shares)
            })?;
            report(&said, json)
        }
    }
}

/// Acts between two records: nothing is done that the audit log does not announce.
fn recorded(
    site: &Path,
    statement: Option<&Path>,
    custody: &CustodyOptions,
    act: impl FnOnce() -> Result<Vec<u8>, CustodyError>,
) -> Result<Vec<u8>, Failure> {
    // In processes of their own: the site's token may be behind the same module, which reads its environment once.
    let note = |outcome: Outcome| {
        let command = child(site, custody, "record", |command| {
            command.arg("--outcome").arg(outcome.to_string());
            if let Some(statement) = statement {
                command.arg("--statement").arg(statement);
            }
        })?;
        process::call(command, &[]).map(drop)
    };
    note(Outcome::Begun)?;
    let said = act();
    note(if said.is_ok() { Outcome::Done } else { Outcome::Failed })?;
    Ok(said?)
}

/// The process that writes one record.
pub fn record(
    site: &Path,
    statement: Option<&Path>,
    outcome: Outcome,
    custody: &CustodyOptions,
) -> Result<ExitCode, Failure> {
    let roster = read_roster(site, custody.roster.as_deref())?;
    let what = match statement {
        None => format!("initialise custody token `{}`", custody.label),
        Some(path) => {
            let envelope = Envelope::parse(&files::read(path)?)?;
            let wanted: Statement = envelope.document()?;
            // Claims, as far as the session has not verified them.
            let signed: Vec<String> = envelope
                .signatures()
                .iter()
                .map(|signature| {
                    let known = roster.custodians().iter().find(|known| known.signing.key_id() == signature.keyid);
                    known.map_or_else(|| signature.keyid.to_string(), |known| known.name.to_string())
                })
                .collect();
            let tokens: Vec<&str> = wanted.tokens.iter().map(|serial| serial.as_str()).collect();
            format!(
                "{} on {} by {}, requested by {}, statement {}, roster epoch {}, tier {}",
                wanted.operation,
                tokens.join(" "),
                signed.join(" "),
                wanted.requester,
                envelope.digest(),
                roster.epoch(),
                QuorumBackend::SplitPackageAndPin
            )
        }
    };
    environment::prepare(site)?;
    environment::lock_down()?;
    environment::block_on(async {
        let gate = Gate::open_without_plugins(site)?;
        gate.journal()
            .record(Event::Site { action: "custody".to_owned(), detail: format!("{outcome}: {what}") })
            .await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// What the journal asks for, opened by each custodian's token, as lines for the pipe. No PIN of the custody token is here.
fn open_shares(
    site: &Path,
    custody: &CustodyOptions,
    custodians: &[(casemate_types::UserName, String)],
    pin_files: &[(casemate_types::UserName, String)],
    module: Option<PathBuf>,
) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let roster = read_roster(site, custody.roster.as_deref())?;
    let folder = CustodyFolder::open(&folder(site, custody))?;
    let journal = folder.journal()?.ok_or_else(not_initialised)?;
    let module = module.or_else(|| custody.module.module.clone()).map_or_else(init::embedded_module, Ok)?;
    let module = Module::load(&module).map_err(CustodyError::from)?;
    // Two shares of each custodian, each of less than 4 KiB.
    let mut lines = Zeroizing::new(Vec::with_capacity(1 << 18));
    for (name, label) in custodians {
        let custodian = roster.custodian(name)?;
        let file = pin_files.iter().find(|(owner, _)| owner == name).map(|(_, file)| Path::new(file));
        let pin = read_pin(&format!("PIN of {name}'s token `{label}`"), file)?;
        let token = HsmToken::open(std::sync::Arc::clone(&module), label, &pin)?;
        token.check_holder(custodian)?;
        for (kind, generation) in journal.needed() {
            let share = folder.share(kind, generation, name)?.open(custodian, &token)?;
            lines.extend_from_slice(&share.expose_for_pipe()?);
        }
    }
    Ok(lines)
}

/// This program again, for a part of the work. Nothing secret is in its arguments.
fn child(
    site: &Path,
    custody: &CustodyOptions,
    name: &str,
    more: impl FnOnce(&mut Command),
) -> Result<Command, CustodyError> {
    let program = std::env::current_exe()
        .map_err(|error| CustodyError::Session { why: format!("this program is not found: {error}") })?;
    let mut command = Command::new(program);
    command.arg("--site").arg(site).args(["custodian", name, "--label", &custody.label]);
    for (option, path) in
        [("--folder", &custody.folder), ("--roster", &custody.roster), ("--module", &custody.module.module)]
    {
        if let Some(path) = path {
            command.arg(option).arg(path);
        }
    }
    for variable in &custody.module.module_env {
        command.arg("--module-env").arg(variable);
    }
    more(&mut command);
    Ok(command)
}

/// The process that has the PINs.
pub fn session(
    site: &Path,
    first: bool,
    statement: Option<&Path>,
    custody: &CustodyOptions,
) -> Result<ExitCode, Failure> {
    let hardening = process::harden()?;
    let request = process::read_request()?;
    let roster = read_roster(site, custody.roster.as_deref())?;
    let module = load(&custody.module)?;
    let folder = CustodyFolder::open(&folder(site, custody))?;
    let token = Custody { folder: &folder, module: &module, roster: &roster, next_roster: &roster };
    let mut steps = Vec::new();
    let mut observe = |step: Step| steps.push(format!("{step:?}"));
    let mut record = serde_json::Value::Null;
    if first {
        token.initialise(&custody.label, &mut SystemEntropy, &mut observe)?;
    } else {
        let statement = statement.ok_or_else(|| Failure::new("no approval was given").with_code(2))?;
        let envelope = Envelope::parse(&files::read(statement)?)?;
        let log = SiteLog::open(site)?;
        let mut ledger = NonceFile::open(&nonces(site))?;
        let verifier = verifier(&roster, SiteConfig::read(site)?.profile, QuorumBackend::SplitPackageAndPin);
        let approved = verifier.approve(&envelope, now()?, &log, &mut ledger)?;
        approved.permits(casemate_custody::Operation::OpenCustody, None, None)?;
        record = serde_json::to_value(approved.record()).unwrap_or_default();
        let lines = request.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let shares = lines.map(OpenShare::from_pipe).collect::<Result<Vec<_>, _>>()?;
        token.run(&approved, shares, |ring| Ok(ring.health()?), &mut observe)?;
    }
    let journal = folder.journal()?.ok_or_else(not_initialised)?;
    output::json(&serde_json::json!({
        "token": journal.token_label, "serial": journal.token_serial, "generation": journal.generation,
        "steps": steps, "hardening": hardening, "approval": record,
    }))?;
    Ok(ExitCode::SUCCESS)
}

fn report(said: &[u8], json: bool) -> Result<ExitCode, Failure> {
    let text = String::from_utf8_lossy(said);
    if json {
        output::line(text.trim())?;
        return Ok(ExitCode::SUCCESS);
    }
    let value: serde_json::Value = serde_json::from_str(&text)
        .map_err(|error| Failure::caused_by("the session said something strange", &error))?;
    output::line(&format!(
        "Custody token `{}` (serial {}): PINs of generation {} are in force; nobody knows them.",
        value["token"].as_str().unwrap_or("?"),
        value["serial"].as_str().unwrap_or("?"),
        value["generation"]
    ))?;
    if value["hardening"]["memory-locked"] == false {
        output::line(
            "Note: memory could not be locked (root, or an unlimited RLIMIT_MEMLOCK, is needed); switch swap off.",
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

pub fn shares(site: &Path, command: SharesCommand, json: bool) -> Result<ExitCode, Failure> {
    let SharesCommand::List { folder } = command;
    let folder = match folder {
        Some(folder) => folder,
        None => {
            let custody = site.join("custody/token");
            let journal = CustodyFolder::open(&custody)?.journal()?.ok_or_else(not_initialised)?;
            custody.join(format!("gen-{}", journal.generation.0))
        }
    };
    let (mut sets, mut shares) = (Vec::new(), Vec::new());
    let unreadable = |error: std::io::Error| Failure::caused_by(format!("cannot read {}", folder.display()), &error);
    for entry in std::fs::read_dir(&folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let about = |error: CustodyError| Failure::from(error).about(&path);
        if name.ends_with(".set.json") {
            sets.push(ShareSet::parse(&files::read(&path)?).map_err(about)?);
        } else if name.ends_with(".share.json") {
            shares.push((name, SealedShare::parse(&files::read(&path)?).map_err(about)?));
        }
    }
    let mut list = Vec::new();
    for set in &sets {
        let digest = set.digest()?;
        for (holder, commitment) in set.holders() {
            let file = shares.iter().find(|(_, share)| share.set_digest() == digest && share.custodian() == holder);
            list.push(serde_json::json!({
                "kind": set.kind(), "about": set.about(), "epoch": set.epoch(), "threshold": set.threshold(),
                "custodian": holder, "commitment": commitment, "file": file.map(|(name, _)| name),
            }));
        }
    }
    let known = |share: &SealedShare| sets.iter().any(|set| set.digest().ok() == Some(share.set_digest()));
    let strays: Vec<&str> = shares.iter().filter(|(_, share)| !known(share)).map(|(name, _)| name.as_str()).collect();
    if json {
        output::json(&serde_json::json!({ "shares": list, "strays": strays }))?;
    } else {
        for share in &list {
            let text = |name: &str| share[name].as_str().unwrap_or("missing").to_owned();
            output::line(&format!(
                "{} of {}, epoch {}: {} ({}), commitment {}",
                text("kind"),
                text("about"),
                share["epoch"],
                text("custodian"),
                text("file"),
                text("commitment")
            ))?;
        }
    }
    if strays.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Failure::new(format!("shares of no set in this folder: {}", strays.join(", "))).with_code(code::VERIFICATION))
}

fn folder(site: &Path, custody: &CustodyOptions) -> PathBuf {
    custody.folder.clone().unwrap_or_else(|| site.join("custody/token"))
}

fn not_initialised() -> Failure {
    Failure::new("no custody token was initialised here").hint("casemate custodian token init")
}

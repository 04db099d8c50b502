//! The custody token: the process that talks to the custodians, the one that has the audit log, and the short-lived one that has
//! the PINs. Each starts the next.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use casemate_audit::{AuditError, Event, Record, entries};
use casemate_custody::session::{Custody, Step};
use casemate_custody::{
    CustodyError, CustodyFolder, Envelope, HsmToken, NonceFile, OpenShare, Operation, QuorumBackend, SealedShare,
    ShareSet, Signed, Statement, SystemEntropy, files, process,
};
use casemate_gate::{Gate, SiteConfig};
use casemate_hsm::Module;
use casemate_types::{Digest, UserName};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::args::{CustodyOptions, CustodyTokenCommand, SharesCommand};
use super::{SiteLog, by_name, load, nonces, now, read_pin, read_roster, verifier};
use crate::failure::{Failure, code};
use crate::{environment, init, output};

/// The audit log's name for what is here.
const ACTION: &str = "custody";

/// By what means two people are needed on a custody token.
const TIER: QuorumBackend = QuorumBackend::SplitPackageAndPin;

pub fn run(site: &Path, command: CustodyTokenCommand, json: bool) -> Result<ExitCode, Failure> {
    match command {
        CustodyTokenCommand::Init { custody } => {
            begin_ledger(site, Some(&folder(site, &custody)))?;
            let mut recorder = child(site, &custody, "record", |command| {
                command.arg("--first");
            })?;
            let _shares = environment::hand_on(&mut recorder)?;
            report(&process::call(recorder, &[])?, json)
        }
        CustodyTokenCommand::Renew { statement, custodians, pin_files, custodian_module, custody } => {
            // This process is going to have enough shares to put the PINs together.
            process::harden()?;
            environment::set_pairs(&custody.module.module_env)?;
            environment::lock_down()?;
            // No share is opened for a statement that would be refused.
            inspect(site, &statement)?;
            let shares = open_shares(site, &custody, &by_name(&custodians)?, &by_name(&pin_files)?, custodian_module)?;
            let mut recorder = child(site, &custody, "record", |command| {
                command.arg("--statement").arg(&statement);
            })?;
            let _pipe = environment::hand_on(&mut recorder)?;
            report(&process::call(recorder, &shares)?, json)
        }
    }
}

/// Begins the ledger of used approvals. Not where there must have been one: approvals that were used could be used again.
pub fn begin_ledger(site: &Path, other: Option<&Path>) -> Result<(), Failure> {
    if nonces(site).exists() {
        return Ok(());
    }
    let known = has_generations(&site.join("custody/token"))?
        || other.map_or(Ok(false), has_generations)?
        || log_tells_of_custody(site)?;
    if known {
        return Err(Failure::new(format!(
            "{} is gone, the ledger of used approvals, and this site has had a custody token: with a new ledger, approvals \
             that were used could be used again",
            nonces(site).display()
        ))
        .hint("restore it from the newest backup; docs/keys.md, \"Ask, approve, verify\", says what to do without one")
        .with_code(code::VERIFICATION));
    }
    let folder = site.join("custody");
    std::fs::create_dir_all(&folder)
        .map_err(|error| Failure::caused_by(format!("cannot create {}", folder.display()), &error))?;
    super::begin_ledger(site)
}

/// Whether a custody folder holds a journal or shares.
fn has_generations(folder: &Path) -> Result<bool, Failure> {
    let unreadable = |error: std::io::Error| Failure::caused_by(format!("cannot read {}", folder.display()), &error);
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        entries => entries.map_err(unreadable)?,
    };
    for entry in entries {
        let name = entry.map_err(unreadable)?.file_name();
        let name = name.to_string_lossy();
        if name == "journal.json" || name.starts_with("gen-") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the audit log, as far as its records are here, tells of a custody token.
pub fn log_tells_of_custody(site: &Path) -> Result<bool, Failure> {
    let unreadable = |error: AuditError| Failure::caused_by("cannot read the audit log", &error);
    for bytes in entries(&site.join("log")).map_err(unreadable)? {
        let record = Record::from_bytes(&bytes.map_err(unreadable)?)
            .map_err(|error| Failure::new(format!("cannot read the audit log: {error}")))?;
        let told = |action: &str| [ACTION, "approval", "approval-used"].contains(&action);
        if matches!(record.event, Event::Site { action, .. } if told(&action)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Checks a statement against the site's own roster and log, without using it up.
fn inspect(site: &Path, statement: &Path) -> Result<Signed<Statement>, Failure> {
    let roster = read_roster(site, None)?;
    let envelope = Envelope::parse(&files::read(statement)?)?;
    let verifier = verifier(&roster, SiteConfig::read(site)?.profile, TIER);
    let signed = verifier.inspect(&envelope, now()?, &SiteLog::open(site)?)?;
    if signed.document().operation != Operation::OpenCustody {
        let approved = signed.document().operation;
        return Err(CustodyError::NotApproved { what: "operation", approved }.into());
    }
    Ok(signed)
}

/// The process that has the audit log: it starts the session between two records. Nothing is done that the log does not announce,
/// and what was done it has from the session itself. The shares go from this process's standard input to the session unread.
pub fn record(
    site: &Path,
    first: bool,
    statement: Option<&Path>,
    custody: &CustodyOptions,
) -> Result<ExitCode, Failure> {
    let begun = statement.map(|path| inspect(site, path).map(|signed| Approval::of(&signed))).transpose()?;
    if begun.is_none() && !first {
        return Err(Failure::new("no approval was given").with_code(2));
    }
    let mut session = child(site, custody, "session", |command| {
        match statement {
            Some(path) => command.arg("--statement").arg(path),
            None => command.arg("--first"),
        };
    })?;
    // The site's token may be behind the same module, which reads its environment once: the session gets that of before.
    session.env_clear().envs(std::env::vars_os());
    environment::prepare(site)?;
    environment::lock_down()?;
    let first = || format!("initialise custody token `{}`", custody.label);
    environment::block_on(async {
        let gate = Gate::open_without_plugins(site)?;
        let note = |outcome: &str, what: String| {
            gate.journal().record(Event::Site { action: ACTION.to_owned(), detail: format!("{outcome}: {what}") })
        };
        let announced = begun.as_ref().map_or_else(first, Approval::to_string);
        note("begun", announced.clone()).await?;
        let said = match process::call_with_own_input(session) {
            Ok(said) => said,
            Err(error) => {
                note("failed", announced).await?;
                return Err(error.into());
            }
        };
        let done = match &begun {
            None => first(),
            Some(_) => match Approval::from_session(&said) {
                Ok(approval) => approval.to_string(),
                Err(error) => {
                    note("ended without naming its approval", announced).await?;
                    return Err(error);
                }
            },
        };
        note("done", done).await?;
        output::line(String::from_utf8_lossy(&said).trim())?;
        Ok(ExitCode::SUCCESS)
    })
}

/// A verified approval in the words of the audit log.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Approval {
    statement: Statement,
    digest: Digest,
    approvers: Vec<Approver>,
    tier: QuorumBackend,
}

#[derive(Deserialize)]
struct Approver {
    name: UserName,
}

impl Approval {
    fn of(signed: &Signed<Statement>) -> Self {
        let approvers = signed.signers().iter().map(|signer| Approver { name: signer.name.clone() }).collect();
        Self { statement: signed.document().clone(), digest: signed.digest(), approvers, tier: TIER }
    }

    /// What the session verified and acted on ([`casemate_custody::ApprovalRecord`]).
    fn from_session(said: &[u8]) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        struct Said {
            approval: Approval,
        }
        let strange = |error: serde_json::Error| Failure::caused_by("the session said something strange", &error);
        serde_json::from_slice(said).map(|Said { approval }| approval).map_err(strange)
    }
}

impl std::fmt::Display for Approval {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Statement { operation, tokens, requester, roster, epoch, .. } = &self.statement;
        let tokens: Vec<&str> = tokens.iter().map(|serial| serial.as_str()).collect();
        let approvers: Vec<&str> = self.approvers.iter().map(|approver| approver.name.as_str()).collect();
        write!(
            f,
            "{operation} on {} by {}, requested by {requester} (their claim), statement {}, roster {roster} of epoch {epoch}, \
             tier {}",
            tokens.join(" "),
            approvers.join(" "),
            self.digest,
            self.tier
        )
    }
}

/// What the journal asks for, opened by each custodian's token, as lines for the pipe. No PIN of the custody token is here.
fn open_shares(
    site: &Path,
    custody: &CustodyOptions,
    custodians: &[(UserName, String)],
    pin_files: &[(UserName, String)],
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
        let verifier = verifier(&roster, SiteConfig::read(site)?.profile, TIER);
        let approved = verifier.approve(&envelope, now()?, &log, &mut ledger)?;
        approved.permits(Operation::OpenCustody, None, None)?;
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

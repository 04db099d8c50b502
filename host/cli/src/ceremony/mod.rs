//! `casemate ceremony`: a key ceremony at a terminal.

pub mod args;
mod recorder;
mod rehearsal;

use std::fs;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use casemate_audit::Event;
use casemate_ceremony::{
    AuditTrail, Bindings, Ceremony, CeremonyError, Console, Desk, Hashed, Permission, Plan, StepResult,
    check_statement, print, verify,
};
use casemate_custody::session::Leave;
use casemate_custody::{Envelope, Generation, NonceFile, Roster, TokenSerial, UnixTime, Verifier, files, process};
use casemate_gate::SiteConfig;
use casemate_types::Digest;

use crate::custodian::{self, SiteLog};
use crate::failure::{Failure, code};
use crate::{environment, init, output};
use args::{CeremonyCommand, PlanCommand, RunOptions};
use recorder::Recorder;

pub fn run(site: &Path, command: CeremonyCommand, json: bool) -> Result<ExitCode, Failure> {
    match command {
        CeremonyCommand::Plan(PlanCommand::Check { plan }) => check(&read_plan(&plan)?.0, json),
        CeremonyCommand::Rehearse { plan, out, split_pins, yes } => rehearsal::run(&plan, &out, split_pins, yes, json),
        CeremonyCommand::Run { options, statement } => {
            environment::require_site(site)?;
            set_environment(&options.bindings)?;
            environment::lock_down()?;
            carry_out(site, &options, Some(&statement), false, json)
        }
        CeremonyCommand::Resume { options, statement } => {
            environment::require_site(site)?;
            set_environment(&options.bindings)?;
            environment::lock_down()?;
            carry_out(site, &options, statement.as_deref(), true, json)
        }
        CeremonyCommand::Verify { transcript, plan, roster } => {
            let roster = custodian::read_roster(site, roster.as_deref())?;
            let envelope = Envelope::parse(&files::read(&transcript)?)?;
            let (plan, _) = read_plan(&plan)?;
            let key = fs::read_to_string(site.join("log.vkey"))
                .map_err(|error| Failure::caused_by("cannot read log.vkey of the site", &error))?;
            let verified = verify(&envelope, &plan, &roster, &site.join("log"), key.trim())?;
            let own = own_digest()?;
            let same = verified.transcript.software.iter().any(|software| software.digest == own);
            let names: Vec<&str> = verified.signers.iter().map(|signer| signer.name.as_str()).collect();
            if json {
                output::json(&serde_json::json!({
                    "verified": true, "digest": verified.digest, "plan": plan.digest(), "signers": names,
                    "this-program": same,
                }))?;
            } else {
                output::line(&format!(
                    "Transcript {}\n  plan        {} {}\n  signed by   {}\n  audit log   holds it from its first record to its last\n  program     {}",
                    verified.digest,
                    plan.name(),
                    plan.digest(),
                    names.join(", "),
                    if same {
                        "the ceremony was run by this program"
                    } else {
                        "the ceremony was run by another version of this program"
                    },
                ))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        CeremonyCommand::Print { transcript, roster } => {
            let roster = custodian::read_roster(site, roster.as_deref())?;
            let envelope = Envelope::parse(&files::read(&transcript)?)?;
            output::line(print::page(&envelope, &roster)?.trim_end())?;
            Ok(ExitCode::SUCCESS)
        }
        CeremonyCommand::Recorder => recorder::serve(site),
    }
}

fn check(plan: &Plan, json: bool) -> Result<ExitCode, Failure> {
    let steps: Vec<String> = plan.steps().iter().map(ToString::to_string).collect();
    if json {
        output::json(&serde_json::json!({ "name": plan.name(), "plan": plan.digest(), "steps": steps }))?;
        return Ok(ExitCode::SUCCESS);
    }
    output::line(&format!("Plan `{}`: {}\n  hash  {}\n\nTokens", plan.name(), plan.purpose(), plan.digest()))?;
    for (role, purpose) in plan.roles() {
        output::line(&format!("  {role}: {purpose}"))?;
    }
    output::line("\nSteps")?;
    for (index, step) in steps.iter().enumerate() {
        output::line(&format!("  {:>2}  {step}", index + 1))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs or resumes. The environment is set and the network is closed.
fn carry_out(
    site: &Path,
    options: &RunOptions,
    statement: Option<&Path>,
    resume: bool,
    json: bool,
) -> Result<ExitCode, Failure> {
    attended(options.yes)?;
    let (plan, plan_file) = read_plan(&options.plan)?;
    let bindings = read_bindings(&options.bindings)?;
    let roster = Roster::parse(&files::read(&bindings.roster)?)?;
    let profile = SiteConfig::read(site)?.profile;
    let pins = |of: &str, file: Option<&Path>| {
        custodian::read_pin(&format!("PIN of {of}"), file)
            .map_err(|failure| CeremonyError::Pin { of: of.to_owned(), why: failure.to_string() })
    };
    let embedded = init::embedded_module().ok();
    let desk = Desk::open(&bindings, &roster, &plan, embedded.as_deref(), &pins)?;
    let mut software = vec![Hashed { name: "casemate".to_owned(), digest: own_digest()? }];
    for (name, path) in desk.libraries() {
        software.push(Hashed { name: format!("module {name}"), digest: hash(&path)? });
    }
    let serials = plan
        .roles()
        .map(|(role, _)| Ok(desk.token(role)?.serial.parse()?))
        .collect::<Result<Vec<TokenSerial>, CeremonyError>>()?;

    // What the log says now is judged before the recorder has it open.
    let log = SiteLog::open(site)?;
    let verifier = Verifier {
        site: roster.site(),
        roster: &roster,
        tier: desk.tier()?,
        profile,
        max_head_age: Verifier::MAX_HEAD_AGE,
    };
    if desk.has_split() {
        // PINs are going to be put together here.
        process::harden()?;
        desk.greet()?;
    }
    let approval = match statement {
        Some(path) => Envelope::parse(&files::read(path)?)?,
        None => Envelope::parse(&files::read(&options.folder.join("approval.json"))?)?,
    };
    let now = custodian::now()?;
    let signed = verifier.inspect(&approval, now, &log)?;
    check_statement(signed.document(), &plan, &serials)?;
    let approved = match statement {
        Some(_) => {
            let mut ledger = NonceFile::open(&custodian::nonces(site))?;
            Some(verifier.approve(&approval, now, &log, &mut ledger)?)
        }
        None => None,
    };
    drop(log);

    let mut recorder = Recorder::start(site)?;
    let leases = if desk.has_split() {
        let leave = approved.as_ref().map_or(Leave::Standing(&signed), Leave::Approved);
        note(
            &mut recorder,
            format!("begun: open the tokens of a ceremony by statement {}, tier {}", signed.digest(), desk.tier()?),
        )?;
        Some(desk.unlock(leave)?)
    } else {
        None
    };
    let mut console = Terminal { yes: options.yes, quiet: json };
    let clock = || custodian::now().unwrap_or(UnixTime(0));
    let ceremony = Ceremony {
        plan: &plan,
        roster: &roster,
        desk: &desk,
        folder: options.folder.clone(),
        profile,
        software,
        trail: &mut recorder,
        console: &mut console,
        clock: &clock,
    };
    let ran = match (resume, approved) {
        (true, approved) => {
            let permission = match approved {
                Some(approved) => Permission::Again(Box::new(approved)),
                None => Permission::Standing(Box::new(signed)),
            };
            ceremony.resume(&permission).map_err(Failure::from)
        }
        (false, Some(approved)) => ceremony.run(&approved, &approval, &plan_file).map_err(Failure::from),
        (false, None) => Err(Failure::new("no approval was given").with_code(2)),
    };
    // However it ended: PINs that were put together are used up.
    if let Some(leases) = leases {
        let closed = leases.close(&desk);
        let said = match &closed {
            Ok(replaced) => {
                let of = |(role, generation): &(String, Generation)| format!("{role} {}", generation.0);
                format!("done: new PINs, by generation: {}", replaced.iter().map(of).collect::<Vec<_>>().join(", "))
            }
            Err(error) => format!("failed: {error}"),
        };
        note(&mut recorder, said)?;
        closed?;
    }
    let envelope = ran?;
    drop(recorder);
    let path = options.folder.join("transcript.json");
    if json {
        output::json(&serde_json::json!({
            "transcript": path, "digest": envelope.digest(), "plan": plan.digest(), "signatures": envelope.signatures().len(),
        }))?;
    } else {
        output::line(&format!(
            "\nDone. Transcript {}, signed by {} custodians.\n  {}\n  {} (for paper)\n\nNext: casemate --site {} ceremony verify {} --plan {}",
            envelope.digest(),
            envelope.signatures().len(),
            path.display(),
            options.folder.join("transcript.txt").display(),
            site.display(),
            path.display(),
            options.plan.display(),
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A record about PINs that are split.
fn note(recorder: &mut Recorder, detail: String) -> Result<(), CeremonyError> {
    recorder.append(Event::Site { action: "custody".to_owned(), detail })
}

/// Somebody has to agree to each step, or to say that nobody does.
fn attended(yes: bool) -> Result<(), Failure> {
    if yes || std::io::stdin().is_terminal() {
        return Ok(());
    }
    Err(Failure::new("nobody is here to agree to the steps").hint("run it at a terminal, or give --yes").with_code(2))
}

/// People at a terminal, or nobody.
struct Terminal {
    yes: bool,
    quiet: bool,
}

impl Console for Terminal {
    fn before(&mut self, step: usize, of: usize, words: &str) -> Result<(), CeremonyError> {
        let words = output::plain(words);
        if !self.quiet {
            if step == 0 {
                eprintln!("\n{words}");
            } else {
                eprintln!("\nStep {step} of {of}: {words}");
            }
        }
        if self.yes {
            return Ok(());
        }
        eprint!("  Enter to do it, `stop` to pause: ");
        let _ = std::io::stderr().flush();
        let mut answer = String::new();
        let read = std::io::stdin().read_line(&mut answer);
        match read {
            Ok(length) if length > 0 && answer.trim().is_empty() => Ok(()),
            _ => Err(CeremonyError::Paused { why: "somebody said stop".to_owned() }),
        }
    }

    fn after(&mut self, _: usize, result: &StepResult) -> Result<(), CeremonyError> {
        if self.quiet {
            return Ok(());
        }
        for call in &result.calls {
            eprintln!("  {}", output::plain(&format!("{}: {} -> {}", call.token, call.call, call.result)));
        }
        for address in &result.addresses {
            eprintln!("  compare: transport key of {} is {}", address.token, address.fingerprint);
        }
        if let Some(escrow) = &result.escrow {
            let holders: Vec<&str> = escrow.shares.iter().map(|share| share.custodian.as_str()).collect();
            eprintln!("  shares: {} of {}", escrow.threshold, holders.join(", "));
        }
        for remark in &result.remarks {
            eprintln!("  {}", output::plain(remark));
        }
        Ok(())
    }
}

pub(crate) fn read_plan(path: &Path) -> Result<(Plan, Vec<u8>), Failure> {
    let bytes = files::read(path)?;
    Ok((Plan::parse(&bytes).map_err(|error| Failure::from(error).about(path))?, bytes))
}

fn read_bindings(path: &Path) -> Result<Bindings, Failure> {
    let unreadable = |error: std::io::Error| Failure::caused_by(format!("cannot read {}", path.display()), &error);
    let text = fs::read_to_string(path).map_err(unreadable)?;
    let path = fs::canonicalize(path).map_err(unreadable)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    Bindings::parse(&text, folder).map_err(|error| Failure::from(error).about(&path))
}

/// Sets what the modules read. Call before any thread is started.
fn set_environment(bindings: &Path) -> Result<(), Failure> {
    let bindings = read_bindings(bindings)?;
    environment::set_variables(bindings.environment()?);
    Ok(())
}

fn own_digest() -> Result<Digest, Failure> {
    let program =
        std::env::current_exe().map_err(|error| Failure::caused_by("cannot find this program's file", &error))?;
    hash(&program)
}

fn hash(path: &Path) -> Result<Digest, Failure> {
    let bytes =
        fs::read(path).map_err(|error| Failure::caused_by(format!("cannot read {}", path.display()), &error))?;
    Ok(Digest::of(&bytes))
}

impl From<CeremonyError> for Failure {
    fn from(error: CeremonyError) -> Self {
        match error {
            CeremonyError::Custody(error) => error.into(),
            CeremonyError::Hsm(error) => Failure::from(casemate_custody::CustodyError::from(error)),
            error => {
                let code = match &error {
                    CeremonyError::Audit { .. }
                    | CeremonyError::FolderUsed { .. }
                    | CeremonyError::InUse { .. }
                    | CeremonyError::Io { .. }
                    | CeremonyError::Paused { .. }
                    | CeremonyError::Pin { .. } => code::FAILED,
                    _ => code::VERIFICATION,
                };
                let failure = match std::error::Error::source(&error) {
                    Some(source) => Failure::caused_by(error.to_string(), source),
                    None => Failure::new(error.to_string()),
                };
                failure.with_code(code)
            }
        }
    }
}

//! `casemate custodian`: what custodians, and those who ask them for something, do at a terminal.

pub mod args;
pub mod consent;
mod heads;
mod token;

use std::fs;
use std::io::{IsTerminal, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use casemate_custody::{
    AuditHead, Card, Custodian, Envelope, HsmToken, Nonce, NonceFile, QuorumBackend, Roster, Statement,
    StatementFormat, SystemEntropy, UnixTime, Verifier, files,
};
use casemate_gate::{Gate, SiteConfig};
use casemate_hsm::{KeyClass, KeyId, Module, Pin};
use casemate_types::{Digest, Profile};
use zeroize::Zeroizing;

use crate::failure::{Failure, code};
use crate::{environment, init, output};
use args::{CustodianCommand, RequestOptions, RosterCommand, TierName, TokenOptions};
pub use heads::SiteLog;

pub fn run(site: &Path, command: CustodianCommand, json: bool) -> Result<ExitCode, Failure> {
    match command {
        CustodianCommand::Enrol { name, person, token, pin_file, initialise, so_pin_file, out, module } => {
            let module = load(&module)?;
            let pin = read_pin(&format!("PIN of token `{token}`"), pin_file.as_deref())?;
            if initialise {
                let so_pin = read_pin(&format!("new SO PIN of token `{token}`"), so_pin_file.as_deref())?;
                module.initialise(&token, &so_pin, &pin).map_err(casemate_custody::CustodyError::from)?;
            }
            let (custodian, card) = HsmToken::open(module, &token, &pin)?.enrol(name, person)?;
            files::write_new(&out, &card.to_bytes()?)?;
            show_custodians(std::slice::from_ref(&custodian), json)
        }
        CustodianCommand::Roster(command) => roster(site, command, json),
        CustodianCommand::Request(options) => request(site, &options, json),
        CustodianCommand::Approve { statement, name, token, pin_file, yes, roster, module } => {
            let roster = read_roster(site, roster.as_deref())?;
            let custodian = roster.custodian(&name)?;
            let mut envelope = Envelope::parse(&files::read(&statement)?)?;
            let wanted: Statement = envelope.document()?;
            if wanted.roster != roster.digest() {
                return Err(Failure::new("this statement is for another roster").with_code(code::VERIFICATION));
            }
            show(&wanted, &envelope.digest());
            if custodian.is_requester(&wanted.requester) {
                return Err(Failure::new(format!(
                    "{name} asks for this, and the requester's signature does not count"
                ))
                .hint("have another custodian sign"));
            }
            confirm(yes, &custodian.name.to_string())?;
            let module = load(&module)?;
            let pin = read_pin(&format!("PIN of token `{token}`"), pin_file.as_deref())?;
            HsmToken::open(module, &token, &pin)?.sign_envelope(custodian, &mut envelope)?;
            files::replace(&statement, &envelope.to_bytes()?)?;
            let signatures = envelope.signatures().len();
            if json {
                output::json(&serde_json::json!({ "signed-by": name, "signatures": signatures }))?;
            } else {
                output::line(&format!("\nSigned by {name}. Signatures: {signatures} of {}.", roster.threshold()))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        CustodianCommand::Verify { statement, roster, profile, tier } => {
            environment::require_site(site)?;
            let roster = read_roster(site, roster.as_deref())?;
            let log = SiteLog::open(site)?;
            let envelope = Envelope::parse(&files::read(&statement)?)?;
            let profile = profile.map_or_else(|| SiteConfig::read(site).map(|config| config.profile), Ok)?;
            let verifier = verifier(&roster, profile, tier.into());
            let signed = verifier.inspect(&envelope, now()?, &log)?;
            if json {
                output::json(&serde_json::json!({
                    "verified": true, "statement": signed.document(), "approvers": signed.signers(), "digest": signed.digest(),
                }))?;
            } else {
                show(signed.document(), &signed.digest());
                let names: Vec<_> = signed.signers().iter().map(|signer| signer.name.as_str()).collect();
                output::line(&format!(
                    "\nApproved by {}. It would be accepted now, if it was not used yet.",
                    names.join(" and ")
                ))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        CustodianCommand::Shares(command) => token::shares(site, command, json),
        CustodianCommand::Token(command) => token::run(site, command, json),
        CustodianCommand::Record { first, statement, custody } => {
            token::record(site, first, statement.as_deref(), &custody)
        }
        CustodianCommand::Session { first, statement, custody } => {
            token::session(site, first, statement.as_deref(), &custody)
        }
    }
}

fn roster(site: &Path, command: RosterCommand, json: bool) -> Result<ExitCode, Failure> {
    match command {
        RosterCommand::Build { cards, threshold, epoch, site_name, out } => {
            let custodians = cards
                .iter()
                .map(|path| Card::open(&files::read(path)?).map_err(|error| Failure::from(error).about(path)))
                .collect::<Result<Vec<_>, Failure>>()?;
            let name = match site_name {
                Some(name) => name,
                None => SiteConfig::read(site)?.name,
            };
            let roster = Roster::new(&name, epoch, threshold, custodians)?;
            if let Some(parent) = out.parent() {
                fs::create_dir_all(parent)
                    .map_err(|error| Failure::caused_by(format!("cannot create {}", parent.display()), &error))?;
            }
            files::write_new(&out, &roster.to_bytes()?)?;
            // A site's first roster begins its ledger of used approvals; later ones find it.
            if out.parent() == nonces(site).parent() && roster.epoch() == 1 && !token::log_tells_of_custody(site)? {
                begin_ledger(site)?;
            }
            show_roster(&roster, json)
        }
        RosterCommand::Adopt { roster, statement, tier } => {
            environment::prepare(site)?;
            environment::lock_down()?;
            let gate = Gate::open_without_plugins(site)?;
            let next = read_roster(site, roster.as_deref())?;
            // The roster in force approves the next one, and lies beside it until then.
            let approved = statement
                .map(|statement| consent::approve(site, &gate, &statement, None, tier))
                .transpose()?
                .map(|(approved, _)| approved);
            let adopted = gate.adopt_roster(&environment::officer(), &next, approved.as_ref())?;
            if let Some(path) = roster.filter(|_| approved.is_some()) {
                files::replace(&site.join("custody/roster.json"), &files::read(&path)?)?;
            }
            if json {
                output::json(&adopted)?;
            } else {
                output::line(&format!(
                    "Roster {} (epoch {}) decides about this site's keys from here on.",
                    adopted.digest, adopted.epoch
                ))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        RosterCommand::Show { roster } => show_roster(&read_roster(site, roster.as_deref())?, json),
        RosterCommand::Verify { roster, digest } => {
            let roster = read_roster(site, roster.as_deref())?;
            match digest {
                Some(digest) if digest != roster.digest() => {
                    Err(Failure::new(format!("the roster's digest is {}, not {digest}", roster.digest()))
                        .with_code(code::VERIFICATION))
                }
                _ => show_roster(&roster, json),
            }
        }
    }
}

fn show_roster(roster: &Roster, json: bool) -> Result<ExitCode, Failure> {
    if json {
        output::json(&serde_json::json!({
            "site": roster.site(), "epoch": roster.epoch(), "threshold": roster.threshold(), "digest": roster.digest(),
            "custodians": roster.custodians(),
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    output::line(&format!(
        "Roster of `{}`, epoch {}: {} of {} custodians.\n  digest  {}",
        roster.site(),
        roster.epoch(),
        roster.threshold(),
        roster.custodians().len(),
        roster.digest()
    ))?;
    show_custodians(roster.custodians(), json)
}

fn show_custodians(custodians: &[Custodian], json: bool) -> Result<ExitCode, Failure> {
    if json {
        output::json(&custodians)?;
        return Ok(ExitCode::SUCCESS);
    }
    for custodian in custodians {
        output::line(&format!(
            "  {}: person {}, token {}\n    statements  Ed25519 {}\n    shares      RSA-3072 {}",
            custodian.name,
            custodian.person,
            custodian.token_serial,
            custodian.signing.key_id(),
            Digest::of(&custodian.shares.public),
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn request(site: &Path, options: &RequestOptions, json: bool) -> Result<ExitCode, Failure> {
    environment::require_site(site)?;
    let roster = read_roster(site, options.roster.as_deref())?;
    let wrong = |what: &str| Failure::new(format!("{what} cannot be read")).with_code(2);
    let key: Option<KeyId> = options.key.as_deref().map(str::parse).transpose().map_err(|_| wrong("--key"))?;
    let class = |text: &str| serde_json::from_value::<KeyClass>(text.into()).map_err(|_| wrong("--class"));
    let log = SiteLog::open(site)?;
    let (size, root) = log.head();
    let mut nonce = [0; 16];
    casemate_custody::Entropy::fill(&mut SystemEntropy, &mut nonce)?;
    let seconds = |time: jiff::Timestamp| UnixTime(u64::try_from(time.as_second()).unwrap_or(0));
    let not_before = options.not_before.map_or_else(now, |time| Ok(seconds(time)))?;
    let statement = Statement {
        format: StatementFormat::One,
        operation: options.operation,
        site: roster.site().to_owned(),
        roster: roster.digest(),
        epoch: roster.epoch(),
        key,
        class: options.class.as_deref().map(class).transpose()?,
        version: options.version,
        tokens: options.tokens.clone(),
        template: options.template,
        subject: options.subject,
        until: options.until.map(seconds),
        reason: options.reason.clone(),
        requester: options.requester.clone(),
        nonce: Nonce::from_random(nonce),
        audit_head: AuditHead { size, root },
        not_before,
        expires: UnixTime(not_before.0.saturating_add(u64::from(options.hours) * 3600)),
    };
    let envelope = Envelope::new(&statement)?;
    files::write_new(&options.out, &envelope.to_bytes()?)?;
    if json {
        output::json(&serde_json::json!({ "statement": statement, "digest": envelope.digest() }))?;
    } else {
        show(&statement, &envelope.digest());
        output::line(&format!("\nNext: {} custodians sign it with `casemate custodian approve`.", roster.threshold()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// One screen: everything that is signed.
fn show(statement: &Statement, digest: &Digest) {
    let date = |time: UnixTime| {
        let second = i64::try_from(time.0).unwrap_or(i64::MAX);
        jiff::Timestamp::from_second(second).map_or_else(|_| time.to_string(), |time| time.to_string())
    };
    let text = statement.to_string().replace('\n', "\n  ");
    let until = statement.until.map_or_else(String::new, |until| format!("\n  enabled until {}", date(until)));
    eprintln!(
        "Statement {digest}\n\n  {text}\n\n  good from     {} to {}{until}",
        date(statement.not_before),
        date(statement.expires)
    );
}

fn confirm(yes: bool, name: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new("nobody is here to confirm")
            .hint("sign at a terminal, or read it and give --yes")
            .with_code(2));
    }
    eprint!("\nType `{name}` to sign exactly this: ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(|error| Failure::caused_by("cannot read your answer", &error))?;
    if answer.trim() == name { Ok(()) } else { Err(Failure::new("not signed")) }
}

pub fn read_roster(site: &Path, path: Option<&Path>) -> Result<Roster, Failure> {
    let path = path.map_or_else(|| site.join("custody/roster.json"), Path::to_owned);
    let parsed = files::read(&path).and_then(|bytes| Roster::parse(&bytes));
    parsed.map_err(|error| Failure::from(error).about(&path))
}

fn verifier(roster: &Roster, profile: Profile, tier: QuorumBackend) -> Verifier<'_> {
    Verifier { site: roster.site(), roster, tier, profile, max_head_age: Verifier::MAX_HEAD_AGE }
}

pub fn now() -> Result<UnixTime, Failure> {
    let second = u64::try_from(jiff::Timestamp::now().as_second());
    second.map(UnixTime).map_err(|_| Failure::new("the clock is before 1970"))
}

/// Closes the network, sets the module's environment and loads it.
fn load(options: &TokenOptions) -> Result<std::sync::Arc<Module>, Failure> {
    environment::set_pairs(&options.module_env)?;
    environment::lock_down()?;
    let path = match &options.module {
        Some(path) => path.clone(),
        None => init::embedded_module()?,
    };
    Ok(Module::load(&path).map_err(casemate_custody::CustodyError::from)?)
}

/// A PIN from a file that is its owner's alone, or from the terminal without echo.
pub fn read_pin(what: &str, file: Option<&Path>) -> Result<Pin, Failure> {
    let text = match file {
        Some(path) => read_pin_file(path)?,
        None if std::io::stdin().is_terminal() => rpassword::prompt_password(format!("{what}: "))
            .map(Zeroizing::new)
            .map_err(|error| Failure::caused_by("cannot read the PIN", &error))?,
        None => {
            return Err(Failure::new(format!("the {what} is wanted, and there is no terminal"))
                .hint("name a file that holds it with --pin-file")
                .with_code(2));
        }
    };
    Ok(Pin::new(text).map_err(casemate_custody::CustodyError::from)?)
}

fn read_pin_file(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let unreadable = |error: std::io::Error| Failure::caused_by(format!("cannot read {}", path.display()), &error);
    let file = fs::File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.is_file() && metadata.mode() & 0o077 != 0 {
        return Err(Failure::new(format!("{} can be read by others", path.display())).hint("chmod 600"));
    }
    // Filled in place: a buffer that grows would leave copies of the PIN behind.
    let mut text = Zeroizing::new(String::with_capacity(1024));
    file.take(1024).read_to_string(&mut text).map_err(unreadable)?;
    Ok(text)
}

/// Splits the `NAME=VALUE` options of several custodians.
fn by_name(options: &[String]) -> Result<Vec<(casemate_types::UserName, String)>, Failure> {
    let parse = |text: &String| {
        let (name, value) = environment::pair(text)?;
        let name =
            name.parse().map_err(|error| Failure::caused_by(format!("`{text}` names nobody"), &error).with_code(2))?;
        Ok((name, value))
    };
    options.iter().map(parse).collect()
}

/// Begins the ledger of used approvals, unless there is one.
pub fn begin_ledger(site: &Path) -> Result<(), Failure> {
    let path = nonces(site);
    drop(if path.exists() { NonceFile::open(&path)? } else { NonceFile::create(&path)? });
    Ok(())
}

pub fn nonces(site: &Path) -> PathBuf {
    site.join("custody/nonces")
}

impl From<TierName> for QuorumBackend {
    fn from(name: TierName) -> Self {
        match name {
            TierName::ApprovalsOnly => Self::ApprovalsOnly,
            TierName::SplitPackageAndPin => Self::SplitPackageAndPin,
            TierName::Vendor => Self::Vendor,
        }
    }
}

//! `casemate custodian`: what custodians, and those who ask them for something, do at a terminal.

pub mod args;
mod open;
mod token;

use std::fs;
use std::io::{IsTerminal, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use casemate_custody::{
    AuditHead, Card, Custodian, DestructionCertificate, Envelope, HsmToken, Nonce, NonceFile, Operation, QuorumBackend,
    Roster, Signed, Statement, StatementFormat, SystemEntropy, UnixTime, Verifier, files,
};
use casemate_gate::{Founding, Gate, Officer, SiteConfig};
use casemate_hsm::{KeyClass, KeyId, Module, Pin};
use casemate_types::{Digest, Profile};
use zeroize::Zeroizing;

use crate::failure::{Failure, code};
use crate::{environment, init, output};
use args::{CustodianCommand, RequestOptions, RosterCommand, TierName, TokenOptions};
pub use casemate_gate::SiteLog;

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
            let custodian = roster.signer(&name)?;
            let mut envelope = Envelope::parse(&files::read(&statement)?)?;
            let wanted: Statement = envelope.document()?;
            if wanted.roster != roster.digest() {
                return Err(Failure::new("this statement is for another roster").with_code(code::VERIFICATION));
            }
            show(&wanted, &envelope.digest());
            let asks = custodian.is_requester(&wanted.requester);
            if !asks && roster.custodian(&name).is_err() {
                return Err(Failure::new(format!("{name} may ask and not approve, and somebody else asks for this"))
                    .hint("have a custodian sign")
                    .with_code(code::VERIFICATION));
            }
            if asks {
                eprintln!("\n{name} asks for this: the signature proves it, and does not count as an approval.");
            }
            confirm(yes, &custodian.name.to_string())?;
            let module = load(&module)?;
            let pin = read_pin(&format!("PIN of token `{token}`"), pin_file.as_deref())?;
            HsmToken::open(module, &token, &pin)?.sign_envelope(custodian, &mut envelope)?;
            files::replace(&statement, &envelope.to_bytes()?)?;
            let signatures = envelope.signatures().len();
            let asking = roster.asking(&wanted.requester).map(|one| one.signing.key_id());
            let approvals = envelope.signatures().iter().filter(|one| Some(one.keyid) != asking).count();
            if json {
                output::json(&serde_json::json!({
                    "signed-by": name, "signatures": signatures, "approvals": approvals, "as-requester": asks,
                }))?;
            } else {
                let threshold = roster.threshold();
                output::line(&format!("\nSigned by {name}. Approvals: {approvals} of {threshold}."))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        CustodianCommand::Certify { certificate, name, token, pin_file, yes, roster, module } => {
            let roster = read_roster(site, roster.as_deref())?;
            let mut envelope = read_envelope(&certificate)?;
            let document: DestructionCertificate = envelope.document()?;
            if document.site != roster.site() {
                return Err(Failure::new("the certificate is of another site").with_code(code::VERIFICATION));
            }
            if let (Some(name), Some(token)) = (&name, &token) {
                let custodian = roster.custodian(name)?;
                eprintln!("{document}");
                confirm(yes, &custodian.name.to_string())?;
                let module = load(&module)?;
                let pin = read_pin(&format!("PIN of token `{token}`"), pin_file.as_deref())?;
                HsmToken::open(module, token, &pin)?.sign_envelope(custodian, &mut envelope)?;
                files::replace(&certificate, &envelope.to_bytes()?)?;
                let signatures = envelope.signatures().len();
                if json {
                    output::json(&serde_json::json!({ "signed-by": name, "signatures": signatures }))?;
                } else {
                    output::line(&format!("\nSigned by {name}. Signatures: {signatures} of {}.", roster.threshold()))?;
                }
                return Ok(ExitCode::SUCCESS);
            }
            let signed = Signed::<DestructionCertificate>::verify(&envelope, &roster)?;
            if json {
                output::json(&serde_json::json!({
                    "verified": true, "certificate": document, "signers": signed.signers(), "digest": signed.digest(),
                }))?;
            } else {
                output::line(&document.to_string())?;
                for signer in signed.signers() {
                    output::line(&format!("signed by {} (person {})", signer.name, signer.person))?;
                }
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
            let used = uses(site, signed.document())?;
            let allowed = signed.document().grant.as_ref().map_or(1, |grant| grant.uses);
            let left = allowed.saturating_sub(u32::try_from(used.len()).unwrap_or(u32::MAX));
            if left == 0 {
                return Err(Failure::new(format!(
                    "statement {} was used {}",
                    signed.document().nonce,
                    used.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
                ))
                .hint("an approval is good for as many uses as it says; have a new one signed")
                .with_code(code::VERIFICATION));
            }
            if json {
                output::json(&serde_json::json!({
                    "verified": true, "statement": signed.document(), "approvers": signed.signers(), "digest": signed.digest(),
                    "requester-signed": signed.requester().is_some(), "used": used, "uses-left": left,
                }))?;
            } else {
                show(signed.document(), &signed.digest());
                let names: Vec<_> = signed.signers().iter().map(|signer| signer.name.as_str()).collect();
                output::line(&format!(
                    "\nApproved by {}; {}. It would be accepted now: {left} of {allowed} uses are left{}.",
                    names.join(" and "),
                    match signed.requester() {
                        Some(requester) => format!("{} signed as the requester", requester.name),
                        None => "the requester's name is a claim".to_owned(),
                    },
                    match used.last() {
                        Some(last) => format!(", the last one {last}"),
                        None => String::new(),
                    }
                ))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        CustodianCommand::Open(options) => open::run(site, &options, json),
        CustodianCommand::OpenShares(options) => open::shares(site, &options),
        CustodianCommand::RenewPins { config, roster, next } => {
            open::renew(site, config.as_deref(), roster.as_deref(), &next)
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
        RosterCommand::Build { cards, requesters, threshold, epoch, site_name, out } => {
            let open = |paths: &[PathBuf]| {
                let card =
                    |path: &PathBuf| Card::open(&files::read(path)?).map_err(|error| Failure::from(error).about(path));
                paths.iter().map(card).collect::<Result<Vec<_>, Failure>>()
            };
            let (custodians, requesters) = (open(&cards)?, open(&requesters)?);
            let name = match site_name {
                Some(name) => name,
                None => SiteConfig::read(site)?.name,
            };
            let roster = Roster::with_requesters(&name, epoch, threshold, custodians, requesters)?;
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
        RosterCommand::Adopt { roster, approval } => {
            let roster = read_roster(site, roster.as_deref())?;
            token::begin_ledger(site, None)?;
            environment::prepare(site)?;
            environment::lock_down()?;
            let by = environment::officer();
            let officer = Officer { name: &by, approval: approval.as_deref().map(read_envelope).transpose()? };
            let changed = Gate::open_without_plugins(site)?.adopt_roster(&officer, &roster)?;
            if json {
                output::json(
                    &serde_json::json!({ "adopted": roster.digest(), "epoch": roster.epoch(), "changed": changed }),
                )?;
                return Ok(ExitCode::SUCCESS);
            }
            output::line(
                "From now on these custodians are asked before a key is made, issued, replaced or destroyed.",
            )?;
            show_roster(&roster, json)
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
            "custodians": roster.custodians(), "requesters": roster.requesters(),
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
    show_custodians(roster.custodians(), json)?;
    if !roster.requesters().is_empty() {
        output::line("They are asked by, besides each other:")?;
        show_custodians(roster.requesters(), json)?;
    }
    Ok(ExitCode::SUCCESS)
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
    let roster = read_roster(site, options.roster.as_deref())?;
    let wrong = |what: &str| Failure::new(format!("{what} cannot be read")).with_code(2);
    let key: Option<KeyId> = options.key.as_deref().map(str::parse).transpose().map_err(|_| wrong("--key"))?;
    let class = |text: &str| serde_json::from_value::<KeyClass>(text.into()).map_err(|_| wrong("--class"));
    // A site that is to be founded has no log yet.
    let (size, root) = if options.operation == Operation::Found {
        Founding::head()
    } else {
        environment::require_site(site)?;
        SiteLog::open(site)?.head()
    };
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
        name: options.name.clone(),
        version: options.version,
        tokens: options.tokens.clone(),
        template: options.template,
        subject: options.subject()?,
        until: options.until.map(seconds),
        grant: options.grant.grant(options.operation)?,
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

/// When a statement was used, as the site's ledger has it.
fn uses(site: &Path, statement: &Statement) -> Result<Vec<String>, Failure> {
    let path = nonces(site);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let said = |at: &Option<UnixTime>| match at {
        Some(at) => format!("on {}", date(*at)),
        None => "at a time that was not noted".to_owned(),
    };
    Ok(NonceFile::open(&path)?.uses(&statement.nonce).iter().map(said).collect())
}

pub fn read_envelope(path: &Path) -> Result<Envelope, Failure> {
    let parsed = files::read(path).and_then(|bytes| Envelope::parse(&bytes));
    parsed.map_err(|error| Failure::from(error).about(path))
}

fn date(time: UnixTime) -> String {
    let second = i64::try_from(time.0).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(second).map_or_else(|_| time.to_string(), |time| time.to_string())
}

/// One screen: everything that is signed.
fn show(statement: &Statement, digest: &Digest) {
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

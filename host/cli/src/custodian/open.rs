//! `casemate custodian open`: a site whose tokens' PINs are split, opened for one command, and their PINs replaced.
//!
//! Two processes that end: one lets the custodians' tokens open their shares; one puts the PINs together, replaces them and has the new USER
//! PINs. Pipes lead from each to the next, and to the command. This one sees nothing of it and becomes the command.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;

use casemate_custody::session::{Custody, Leave};
use casemate_custody::{
    Custodian, CustodyError, CustodyFolder, HsmToken, OpenShare, Operation, Roster, Signed, SplitPin, Statement,
    process,
};
use casemate_gate::SiteConfig;
use casemate_hsm::{HsmError, Module, Role};
use zeroize::Zeroizing;

use super::args::{NextRoster, OpenOptions, OpenSharesOptions, ShareHolders};
use super::{by_name, load, read_envelope, read_pin, read_roster};
use crate::environment;
use crate::failure::{Failure, code};

pub fn run(site: &Path, options: &OpenOptions, json: bool) -> Result<ExitCode, Failure> {
    // Its pipes carry shares and PINs: no other process of the account reads them through this one.
    process::no_core_dumps()?;
    let config = read_config(site, options.config.as_deref())?;
    let folders = folders(site, &config)?;
    // Before anybody types a PIN. A site that is open holds the folders.
    casemate_gate::refuse_planted(site, &config)?;
    for (_, folder) in &folders {
        drop(CustodyFolder::open(folder)?);
    }
    let program = std::env::current_exe().map_err(|error| Failure::caused_by("cannot find this program", &error))?;
    let failed = |error: std::io::Error| Failure::caused_by("cannot pass the custodians' shares on", &error);
    let mut opener = Command::new(&program);
    opener.arg("--site").arg(site).args(["custodian", "open-shares"]);
    for (_, folder) in &folders {
        opener.arg("--folder").arg(folder);
    }
    hand_over(&options.shares, &mut opener);
    let mut renewer = Command::new(&program);
    renewer.arg("--site").arg(site).args(["custodian", "renew-pins"]);
    for (option, path) in [
        ("--config", &options.config),
        ("--roster", &options.shares.roster),
        ("--next-roster", &options.next.next_roster),
        ("--change", &options.next.change),
    ] {
        if let Some(path) = path {
            renewer.arg(option).arg(path);
        }
    }
    let (shares, from_opener) = std::io::pipe().map_err(failed)?;
    let (pins, from_renewer) = std::io::pipe().map_err(failed)?;
    let mut renewer = renewer.stdin(shares).stdout(from_renewer).spawn().map_err(failed)?;
    let opened = opener.stdout(Stdio::from(from_opener)).status();
    // The last writing ends of both pipes go with the processes and with `opener`.
    drop(opener);
    let code_of = |status: std::process::ExitStatus| u8::try_from(status.code().unwrap_or(1)).unwrap_or(1);
    let opened = match opened {
        Ok(status) if status.success() => None,
        Ok(status) => Some(
            Failure::new("the shares were not opened, so nothing was done and no PIN was replaced")
                .with_code(code_of(status)),
        ),
        Err(error) => Some(failed(error)),
    };
    // Without a share it ends by itself, and says nothing.
    let renewed = renewer.wait().map_err(failed)?;
    if let Some(failure) = opened {
        return Err(failure);
    }
    if !renewed.success() {
        return Err(Failure::new("the site's tokens were not opened, so the command was not started")
            .hint("whatever was cut off, the next opening finishes or undoes it")
            .with_code(code_of(renewed)));
    }
    let mut command = Command::new(&program);
    command.arg("--site").arg(site);
    if json {
        command.arg("--json");
    }
    environment::inherit(&pins, &mut command)?;
    Err(failed(command.args(&options.command).exec()))
}

/// The configuration of the site, or of the one that is going to be.
fn read_config(site: &Path, config: Option<&Path>) -> Result<SiteConfig, Failure> {
    let Some(path) = config else { return Ok(SiteConfig::read(site)?) };
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::caused_by(format!("cannot read {}", path.display()), &error))?;
    toml::from_str(&text).map_err(|error| Failure::caused_by(format!("cannot read {}", path.display()), &error))
}

/// The tokens whose PINs are split, with the folders of their shares.
fn folders(site: &Path, config: &SiteConfig) -> Result<Vec<(Role, PathBuf)>, Failure> {
    let folders: Vec<(Role, PathBuf)> = [Role::Primary, Role::Backup]
        .into_iter()
        .filter_map(|role| Some((role, site.join(config.hsm.custody(role)?))))
        .collect();
    if folders.is_empty() {
        return Err(Failure::new(
            "the PINs of this site's tokens are not split: its site.toml names no `custody` under [hsm]",
        )
        .hint("docs/keys.md, \"A site that its custodians open\""));
    }
    Ok(folders)
}

fn hand_over(holders: &ShareHolders, command: &mut Command) {
    let repeated = [
        ("--custodian", &holders.custodians),
        ("--pin-file", &holders.pin_files),
        ("--module-env", &holders.module.module_env),
    ];
    for (option, values) in repeated {
        for value in values {
            command.arg(option).arg(value);
        }
    }
    for (option, path) in [("--roster", &holders.roster), ("--module", &holders.module.module)] {
        if let Some(path) = path {
            command.arg(option).arg(path);
        }
    }
}

/// Lets each custodian's token open this custodian's shares of the PINs, and writes them to standard output, which is a pipe: a block of
/// lines for each folder, and an empty line after each.
pub fn shares(site: &Path, options: &OpenSharesOptions) -> Result<ExitCode, Failure> {
    process::harden()?;
    let holders = &options.shares;
    let roster = read_roster(site, holders.roster.as_deref())?;
    let (custodians, files) = (by_name(&holders.custodians)?, by_name(&holders.pin_files)?);
    let module = load(&holders.module)?;
    let mut tokens: Vec<(&Custodian, HsmToken)> = Vec::new();
    for (name, label) in &custodians {
        if tokens.iter().any(|(other, _)| other.name == *name) {
            return Err(CustodyError::ShareTwice { custodian: name.clone() }.into());
        }
        let custodian = roster.custodian(name)?;
        let file = files.iter().find(|(owner, _)| owner == name).map(|(_, file)| Path::new(file));
        let pin = read_pin(&format!("PIN of {name}'s token `{label}`"), file)?;
        let token = HsmToken::open(Arc::clone(&module), label, &pin)?;
        token.check_holder(custodian)?;
        tokens.push((custodian, token));
    }
    let mut lines = Zeroizing::new(Vec::with_capacity(1 << 18));
    for folder in &options.folders {
        let folder = CustodyFolder::open(folder)?;
        let journal = folder.journal()?.ok_or_else(|| Failure::new("a folder that site.toml names holds no shares"))?;
        for (custodian, token) in &tokens {
            for (kind, generation) in journal.needed() {
                let share = folder.share(kind, generation, &custodian.name).map_err(|error| match &error {
                    CustodyError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Failure::new(
                        format!("there is no share of `{}`: the PINs were split for other custodians", custodian.name),
                    )
                    .hint("name those of the roster in force; docs/keys.md, \"A site that its custodians open\""),
                    _ => error.into(),
                })?;
                let share = share.open(custodian, token)?;
                lines.extend_from_slice(&share.expose_for_pipe()?);
            }
        }
        lines.push(b'\n');
    }
    to_pipe(&lines)?;
    Ok(ExitCode::SUCCESS)
}

fn to_pipe(lines: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(lines).and_then(|()| out.flush());
    written.map_err(|error| Failure::caused_by("cannot pass on what was opened", &error))
}

/// One of the site's tokens on the way from the shares of its PINs to its new USER PIN.
struct Held {
    role: Role,
    folder: CustodyFolder,
    /// None while the token is away.
    module: Option<Arc<Module>>,
    shares: Vec<OpenShare>,
}

/// Puts the PINs of the site's tokens together, replaces them, and writes the new USER PINs to standard output, which is a pipe. Nothing
/// is replaced in any token before the shares of all are found right, and those of the new PINs are durable.
pub fn renew(
    site: &Path,
    config: Option<&Path>,
    roster: Option<&Path>,
    next: &NextRoster,
) -> Result<ExitCode, Failure> {
    process::harden()?;
    let request = process::read_request()?;
    if request.is_empty() {
        // The process before this one has said why.
        return Ok(ExitCode::FAILURE);
    }
    let config = read_config(site, config)?;
    let roster = read_roster(site, roster)?;
    let next_roster = next_roster(site, &roster, next)?;
    let rosters = (&roster, next_roster.as_ref().unwrap_or(&roster));
    let place = std::path::absolute(site).map_err(|error| Failure::caused_by("cannot find the site", &error))?;
    let place = std::fs::canonicalize(&place).unwrap_or(place);
    let place = place.to_str().ok_or_else(|| Failure::new("the site's path is not UTF-8"))?;
    environment::set_variables(environment::variables_at(place, &config)?);
    environment::lock_down()?;

    let mut held = Vec::new();
    let mut blocks = Blocks(&request);
    for (role, folder) in folders(site, &config)? {
        let shares = blocks.next().ok_or_else(|| Failure::new("shares of a token are missing").with_code(2))?;
        let shares = shares.iter().map(|line| OpenShare::from_pipe(line)).collect::<Result<Vec<_>, _>>()?;
        let folder = CustodyFolder::open(&folder)?;
        held.push(Held { role, folder, module: module_of(site, &config, role)?, shares });
    }
    if held.iter().all(|token| token.module.is_none()) {
        return Err(Failure::new("no token of the site answers, so its PINs cannot be replaced")
            .hint("look at [hsm] of site.toml, and bring the token back"));
    }
    let mut prepared = Vec::new();
    for Held { role, folder, module, shares } in &mut held {
        let shares = std::mem::take(shares);
        prepared.push(match module {
            Some(module) => {
                let custody = custody(folder, module, rosters);
                Ok(custody.begin(Leave::Present, shares, &mut |_| {}).map_err(|error| about(*role, error))?)
            }
            None => Err(SplitPin::put_together(folder, &roster, shares).map_err(|error| about(*role, error))?),
        });
    }
    let mut lines = Zeroizing::new(Vec::with_capacity(1 << 14));
    for (token, prepared) in held.iter().zip(prepared) {
        let pin = match (prepared, &token.module) {
            (Ok(opened), Some(module)) => custody(&token.folder, module, rosters)
                .hand_over(opened, &mut |_| {})
                .map_err(|error| about(token.role, error))?,
            (Err(pin), _) => pin,
            (Ok(_), None) => return Err(Failure::new("a token was opened that is away")),
        };
        let (role, serial, generation) = (token.role, pin.serial(), pin.generation().0);
        match pin.is_renewed() {
            true => eprintln!(
                "The {role} token {serial} has new PINs (generation {generation}): the shares shown are worth nothing. Back up the \
                 folder of its shares."
            ),
            false => eprintln!("The {role} token {serial} is away: its PINs of generation {generation} stay in force."),
        }
        lines.extend_from_slice(&pin.expose_for_pipe()?);
    }
    to_pipe(&lines)?;
    Ok(ExitCode::SUCCESS)
}

fn custody<'a>(
    folder: &'a CustodyFolder,
    module: &'a Arc<Module>,
    (roster, next_roster): (&'a Roster, &'a Roster),
) -> Custody<'a> {
    Custody { folder, module, roster, next_roster }
}

/// The roster that new PINs are split for. Enough custodians of the one before have signed exactly it: whoever gives the arguments alone would
/// have the PINs split for friends.
fn next_roster(site: &Path, roster: &Roster, options: &NextRoster) -> Result<Option<Roster>, Failure> {
    let (Some(next), Some(change)) = (&options.next_roster, &options.change) else { return Ok(None) };
    let next = read_roster(site, Some(next))?;
    let signed = Signed::<Statement>::verify(&read_envelope(change)?, roster)?;
    let statement = signed.document();
    let refused = |why: &str| {
        Failure::new(format!("the PINs cannot be split for the next roster: {why}"))
            .hint("casemate custodian request --operation change-roster --subject DIGEST-OF-THE-NEXT-ROSTER")
            .with_code(code::VERIFICATION)
    };
    if statement.operation != Operation::ChangeRoster || statement.subject != Some(next.digest()) {
        return Err(refused("the custodians approved something else"));
    }
    if statement.site != roster.site() || next.site() != roster.site() || statement.roster != roster.digest() {
        return Err(refused("it is of another site, or approved by another roster"));
    }
    let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default();
    if now < statement.not_before.0 || now > statement.expires.0 {
        return Err(refused("what they signed is not in date: it lapsed, or was given up"));
    }
    if next.epoch() <= roster.epoch() {
        return Err(refused("its epoch is not a later one"));
    }
    Ok(Some(next))
}

fn about(role: Role, error: CustodyError) -> Failure {
    Failure::from(error).about(Path::new(&format!("the {role} token")))
}

/// The module of a token; none while it does not answer, and a pair may go on with the other.
fn module_of(site: &Path, config: &SiteConfig, role: Role) -> Result<Option<Arc<Module>>, Failure> {
    let (module, label) = config.hsm.place(role).ok_or(HsmError::PairIncomplete { role })?;
    let found = Module::load(&site.join(module)).and_then(|module| module.token(label).map(|_| module));
    match found {
        Ok(module) => Ok(Some(module)),
        Err(_) if config.hsm.backup.is_some() => Ok(None),
        Err(error) => Err(about(role, error.into())),
    }
}

/// Blocks of lines, each ended by an empty line.
struct Blocks<'a>(&'a [u8]);

impl<'a> Iterator for Blocks<'a> {
    type Item = Vec<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut block = Vec::new();
        while let Some(end) = self.0.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = (self.0.get(..end)?, self.0.get(end + 1..)?);
            self.0 = rest;
            if line.is_empty() {
                return Some(block);
            }
            block.push(line);
        }
        None
    }
}

//! `casemate custodian open`: a site whose tokens' PINs are split, opened for one command.
//!
//! One process opens the shares and ends; another, the command, gets them through a pipe. This one sees none and becomes the command.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use casemate_custody::{CustodyError, CustodyFolder, HsmToken, Phase, SecretKind, process};
use casemate_gate::SiteConfig;
use casemate_hsm::Role;
use zeroize::Zeroizing;

use super::args::{OpenOptions, OpenSharesOptions, ShareHolders};
use super::{by_name, load, read_pin, read_roster};
use crate::environment;
use crate::failure::Failure;

pub fn run(site: &Path, options: &OpenOptions, json: bool) -> Result<ExitCode, Failure> {
    let config = match &options.config {
        None => SiteConfig::read(site)?,
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| Failure::caused_by(format!("cannot read {}", path.display()), &error))?;
            toml::from_str(&text)
                .map_err(|error| Failure::caused_by(format!("cannot read {}", path.display()), &error))?
        }
    };
    let folders: Vec<PathBuf> = [Role::Primary, Role::Backup]
        .into_iter()
        .filter_map(|role| config.hsm.custody(role))
        .map(|folder| site.join(folder))
        .collect();
    if folders.is_empty() {
        return Err(Failure::new(
            "the PINs of this site's tokens are not split: its site.toml names no `custody` under [hsm]",
        )
        .hint("docs/keys.md, \"A site that its custodians open\""));
    }
    let program = std::env::current_exe().map_err(|error| Failure::caused_by("cannot find this program", &error))?;
    let failed = |error: std::io::Error| Failure::caused_by("cannot pass the custodians' shares on", &error);
    let (reader, writer) = std::io::pipe().map_err(failed)?;
    let mut opener = Command::new(&program);
    opener.arg("--site").arg(site).args(["custodian", "open-shares"]);
    for folder in &folders {
        opener.arg("--folder").arg(folder);
    }
    hand_over(&options.shares, &mut opener);
    // The pipe holds all of them, so the process ends before anybody reads.
    let status = opener.stdout(Stdio::from(writer)).status().map_err(failed)?;
    drop(opener);
    if !status.success() {
        let code = u8::try_from(status.code().unwrap_or(1)).unwrap_or(1);
        return Err(Failure::new("the shares were not opened, so nothing was done").with_code(code));
    }
    let mut command = Command::new(&program);
    command.arg("--site").arg(site);
    if json {
        command.arg("--json");
    }
    environment::inherit(&reader, &mut command)?;
    Err(failed(command.args(&options.command).exec()))
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

/// Lets each custodian's token open this custodian's shares of the USER PINs, and writes them to standard output, which is a pipe.
pub fn shares(site: &Path, options: &OpenSharesOptions) -> Result<ExitCode, Failure> {
    process::harden()?;
    let holders = &options.shares;
    let roster = read_roster(site, holders.roster.as_deref())?;
    let (custodians, files) = (by_name(&holders.custodians)?, by_name(&holders.pin_files)?);
    let module = load(&holders.module)?;
    let mut lines = Zeroizing::new(Vec::with_capacity(1 << 16));
    for (name, label) in &custodians {
        let custodian = roster.custodian(name)?;
        let file = files.iter().find(|(owner, _)| owner == name).map(|(_, file)| Path::new(file));
        let pin = read_pin(&format!("PIN of {name}'s token `{label}`"), file)?;
        let token = HsmToken::open(std::sync::Arc::clone(&module), label, &pin)?;
        token.check_holder(custodian)?;
        for folder in &options.folders {
            let folder = CustodyFolder::open(folder)?;
            let journal =
                folder.journal()?.ok_or_else(|| Failure::new("a folder that site.toml names holds no shares"))?;
            if !matches!(journal.phase, Phase::Settled | Phase::Prepared) {
                return Err(CustodyError::PinsUnsettled { label: journal.token_label }.into());
            }
            let share = folder.share(SecretKind::UserPin, journal.generation, name)?.open(custodian, &token)?;
            lines.extend_from_slice(&share.expose_for_pipe()?);
        }
    }
    let mut out = std::io::stdout().lock();
    out.write_all(&lines)
        .and_then(|()| out.flush())
        .map_err(|error| Failure::caused_by("cannot pass the shares on", &error))?;
    Ok(ExitCode::SUCCESS)
}

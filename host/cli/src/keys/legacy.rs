//! `casemate keys legacy`: FF3-1, off unless two custodians say until when.

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use casemate_gate::{Gate, LegacyDirection, LegacyStatus};
use casemate_hsm::Alphabet;
use clap::{Args, Subcommand};
use zeroize::Zeroizing;

use super::rotate::date;
use crate::failure::Failure;
use crate::keys::Consent;
use crate::{environment, output};

/// FF3-1 is for data that exists: NIST withdrew it. It is off until two custodians enable it, in a site that has adopted its roster,
/// for one key and until a date; profile `government` refuses it. `status` prints the request for what comes next.
#[derive(Subcommand)]
pub enum LegacyCommand {
    /// Show whether FF3-1 is on, until when, who approved, and the request for the next step.
    Status,
    /// Make the site's FF3-1 key (operation generate, class fpe-ff3, name site/legacy). It stays off.
    MakeKey {
        #[command(flatten)]
        consent: Consent,
    },
    /// Turn FF3-1 on until the date in the statement (operation enable-legacy), at most 366 days.
    Enable {
        #[command(flatten)]
        consent: Consent,
    },
    /// Turn FF3-1 off at once. One officer may do that.
    Disable,
    /// Destroy the FF3-1 key (operation destroy, name site/legacy). What is still under it is lost.
    DestroyKey {
        #[command(flatten)]
        consent: Consent,
    },
    /// Encrypt lines of standard input, each one a value, to standard output.
    Encrypt(Convert),
    /// Decrypt lines of standard input, for instance to bring them under FF1.
    Decrypt(Convert),
}

#[derive(Args)]
pub struct Convert {
    /// The alphabet of the values: digits, base36, base62, printable, chars:TEXT or unicode:RANGES.
    #[arg(long)]
    alphabet: Alphabet,
    /// The tweak, 7 bytes as 14 hexadecimal digits; the same for all lines.
    #[arg(long, value_parser = tweak)]
    tweak: [u8; 7],
}

fn tweak(text: &str) -> Result<[u8; 7], String> {
    let mut bytes = [0; 7];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| "an FF3-1 tweak has 14 hexadecimal digits".to_owned())?;
    Ok(bytes)
}

pub fn run(site: &Path, command: LegacyCommand, json: bool) -> Result<ExitCode, Failure> {
    let by = environment::officer();
    // By name, before the token is looked at; what only shows FF3-1 or takes it away goes on.
    if !matches!(command, LegacyCommand::Status | LegacyCommand::Disable | LegacyCommand::DestroyKey { .. }) {
        Gate::admits_legacy(site)?;
    }
    let gate = Gate::open_without_plugins(site)?;
    match command {
        LegacyCommand::Status => status(&gate.legacy_status()?, json),
        LegacyCommand::MakeKey { consent } => {
            gate.make_legacy_key(&consent.officer(&by)?)?;
            status(&gate.legacy_status()?, json)
        }
        LegacyCommand::Enable { consent } => status(&gate.enable_legacy(&consent.officer(&by)?)?, json),
        LegacyCommand::Disable => {
            gate.disable_legacy(&by)?;
            status(&gate.legacy_status()?, json)
        }
        LegacyCommand::DestroyKey { consent } => {
            let key = gate.destroy_legacy_key(&consent.officer(&by)?)?;
            if json {
                output::json(&serde_json::json!({ "destroyed": key }))?;
            } else {
                output::line(&format!("The FF3-1 key {} is destroyed in every token of the site.", key.id))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        LegacyCommand::Encrypt(convert) => lines(&gate, &by, LegacyDirection::Encrypt, &convert),
        LegacyCommand::Decrypt(convert) => lines(&gate, &by, LegacyDirection::Decrypt, &convert),
    }
}

fn lines(gate: &Gate, by: &str, direction: LegacyDirection, convert: &Convert) -> Result<ExitCode, Failure> {
    let mut text = Zeroizing::new(String::new());
    std::io::stdin()
        .take(64 << 20)
        .read_to_string(&mut text)
        .map_err(|error| Failure::caused_by("cannot read values from standard input", &error))?;
    let values: Vec<&str> = text.lines().collect();
    let Convert { alphabet, tweak } = convert;
    for line in gate.convert_legacy(by, direction, alphabet, *tweak, &values)?.into_iter().map(Zeroizing::new) {
        output::line(&line)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn status(status: &LegacyStatus, json: bool) -> Result<ExitCode, Failure> {
    if json {
        output::json(status)?;
        return Ok(ExitCode::SUCCESS);
    }
    let on: String = status.tokens.iter().map(|serial| format!(" --on {}", serial.trim())).collect();
    let Some(key) = &status.key else {
        output::line("FF3-1 is off, and the site has no key for it. Custodians have one made:")?;
        output::line(&format!(
            "    casemate custodian request --operation generate --class fpe-ff3 --name site/legacy{on} --reason WHY --requester WHO --out FILE"
        ))?;
        output::line("    casemate keys legacy make-key --approval FILE")?;
        return Ok(ExitCode::SUCCESS);
    };
    match (status.enabled, status.until) {
        (true, Some(until)) => {
            let people = status.custodians.join(" and ");
            output::line(&format!("FF3-1 is on until {}, by {people}, for key {}", date(until), key.id))?;
        }
        _ => {
            output::line(&format!("FF3-1 is off: {}", status.why.as_deref().unwrap_or("nobody enabled it")))?;
            output::line(&format!(
                "    casemate custodian request --operation enable-legacy --key {} --class {}{on} --until DATE --reason WHY --requester WHO --out FILE",
                key.id, key.class
            ))?;
            output::line("    casemate keys legacy enable --approval FILE")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

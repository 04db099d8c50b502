mod show;

use std::fs::{self, File};
use std::io::{BufReader, BufWriter};
use std::path::Path;
use std::process::ExitCode;

use casemate_audit::{
    AuditError, Cosigned, Export, WitnessKey, receipt_from, verify_cosigned, verify_dir, verify_export,
    verify_export_cosigned, verify_receipt,
};
use casemate_gate::{Gate, SiteConfig};

use crate::args::AuditCommand;
use crate::failure::{Failure, code};
use crate::{environment, output};

pub fn run(site: &Path, command: AuditCommand, json: bool) -> Result<ExitCode, Failure> {
    let needs_no_site = match &command {
        AuditCommand::Verify { key, receipt, export, .. } => key.is_some() && (receipt.is_some() || export.is_some()),
        _ => false,
    };
    if !needs_no_site {
        environment::require_site(site)?;
    }
    match command {
        AuditCommand::Show(options) => show::run(site, &options, json),
        AuditCommand::Verify { receipt: Some(receipt), key, .. } => receipt_verify(site, &receipt, key, json),
        AuditCommand::Verify { export: Some(export), key, witness, .. } => {
            export_verify(site, &export, key, witness, json)
        }
        AuditCommand::Verify { key, witness, .. } => verify(site, key, witness, json),
        AuditCommand::Export { file, from, to } => export(site, &file, from, to.unwrap_or(u64::MAX), json),
        AuditCommand::Receipt { index, file } => receipt(site, index, &file, json),
        AuditCommand::Erase { decision, person, reason } => {
            let gate = open(site)?;
            let said = if let Some(id) = decision {
                let recordings = gate.journal().erase(id, &reason)?;
                (serde_json::json!({ "erased": recordings }), format!("{recordings} recordings of {id} are erased."))
            } else {
                let person = person.map(|person| person.to_string()).unwrap_or_default();
                let known = gate.journal().erase_person(&person, &reason)?;
                let said = if known { "names nobody any more" } else { "was not in the log under a pseudonym" };
                (serde_json::json!({ "erased": u8::from(known) }), format!("{person} {said}."))
            };
            answer(json, &said.0, &said.1)
        }
        AuditCommand::Seal { before, archive } => {
            let segment = open(site)?.seal_log(before, &archive)?;
            answer(
                json,
                &serde_json::json!({ "from": segment.from, "to": segment.to, "archive": segment.archive }),
                &format!(
                    "Records {} to {} are in {} ({}). Keep it: the log holds only their hashes.",
                    segment.from,
                    segment.to - 1,
                    archive.display(),
                    segment.archive
                ),
            )
        }
        AuditCommand::RotateKey { consent } => {
            environment::prepare(site)?;
            environment::lock_down()?;
            let by = environment::officer();
            let key = casemate_gate::rotate_log_key(site, &consent.officer(&by)?)?;
            answer(
                json,
                &serde_json::json!({ "log-key": key }),
                &format!(
                    "The log is signed by a new key from here on. Tell your auditors, and the witness (with --hand-over {}):\n  {key}",
                    site.join("log/pinned").display()
                ),
            )
        }
    }
}

/// The site, its network closed.
fn open(site: &Path) -> Result<Gate, Failure> {
    environment::prepare(site)?;
    environment::lock_down()?;
    Ok(Gate::open_without_plugins(site)?)
}

fn answer(json: bool, value: &serde_json::Value, text: &str) -> Result<ExitCode, Failure> {
    if json {
        output::json(value)?
    } else {
        output::line(text)?
    }
    Ok(ExitCode::SUCCESS)
}

fn export(site: &Path, path: &Path, from: u64, to: u64, json: bool) -> Result<ExitCode, Failure> {
    let vkey = verifier_key(site, None)?;
    let witness = SiteConfig::read(site)?.audit.witness;
    let witness = witness.map(|witness| WitnessKey::from_vkey(&witness.key)).transpose()?;
    let cannot = |error: &dyn std::error::Error| Failure::caused_by(format!("cannot write {}", path.display()), error);
    let file = File::create_new(path).map_err(|error| cannot(&error))?;
    let export = Export { dir: &site.join("log"), vkey: &vkey, witness: witness.as_ref(), from, to };
    let written = export.write(BufWriter::with_capacity(1 << 20, file)).map_err(|error| {
        // Half an export is none.
        let _ = fs::remove_file(path);
        failed(&error)
    })?;
    let file = written.into_inner().map_err(|error| cannot(error.error()))?;
    file.sync_all().map_err(|error| cannot(&error))?;
    let file = File::open(path).map_err(|error| cannot(&error))?;
    let verified = verify_export(BufReader::with_capacity(1 << 20, file), &vkey)?;
    answer(
        json,
        &serde_json::json!({ "size": verified.size, "from": verified.from, "to": verified.to }),
        &format!(
            "{} holds the hashes of {} records and the content of {} to {}. It was read back and verified.",
            path.display(),
            verified.size,
            verified.from,
            verified.to
        ),
    )
}

fn export_verify(
    site: &Path,
    path: &Path,
    key: Option<String>,
    witness: Option<String>,
    json: bool,
) -> Result<ExitCode, Failure> {
    let key = verifier_key(site, key)?;
    let file =
        File::open(path).map_err(|error| Failure::caused_by(format!("cannot read {}", path.display()), &error))?;
    let input = BufReader::with_capacity(1 << 20, file);
    let verified = match witness {
        None => verify_export(input, &key)?,
        Some(witness) => verify_export_cosigned(input, &key, &witness_key(&witness)?)?,
    };
    answer(
        json,
        &serde_json::json!({
            "verified": true, "size": verified.size, "root": hex::encode(verified.root), "from": verified.from, "to": verified.to,
            "cosigned": verified.cosigned.map(|cosigned| cosigned.size),
        }),
        &format!(
            "The export is whole: {} signed records, root {}, content of {} to {}.{}",
            verified.size,
            hex::encode(verified.root),
            verified.from,
            verified.to,
            said(verified.cosigned)
        ),
    )
}

fn witness_key(text: &str) -> Result<WitnessKey, Failure> {
    let text = fs::read_to_string(text).unwrap_or_else(|_| text.to_owned());
    Ok(WitnessKey::from_vkey(text.trim())?)
}

/// What the witness saw, as a sentence.
fn said(cosigned: Option<Cosigned>) -> String {
    let Some(cosigned) = cosigned else { return String::new() };
    let time = jiff::Timestamp::from_second(cosigned.seconds as i64).map_or_else(|_| String::new(), |t| t.to_string());
    format!("\nThe witness cosigned the first {} of them, at {time}.", cosigned.size)
}

fn receipt(site: &Path, index: u64, path: &Path, json: bool) -> Result<ExitCode, Failure> {
    let receipt = receipt_from(&site.join("log"), &verifier_key(site, None)?, index).map_err(|error| failed(&error))?;
    fs::write(path, receipt.to_text())
        .map_err(|error| Failure::caused_by(format!("cannot write {}", path.display()), &error))?;
    answer(
        json,
        &serde_json::json!({ "index": index, "receipt": path }),
        &format!("The receipt of record {index} is in {}.", path.display()),
    )
}

fn failed(error: &AuditError) -> Failure {
    let code = if matches!(error, AuditError::Damaged(_)) { code::VERIFICATION } else { code::FAILED };
    Failure::caused_by("cannot read the audit log", error).with_code(code)
}

fn verify(site: &Path, key: Option<String>, witness: Option<String>, json: bool) -> Result<ExitCode, Failure> {
    let key = verifier_key(site, key)?;
    let verified = verify_dir(&site.join("log"), &key, |_| {})?;
    let cosigned = match witness {
        None => None,
        Some(witness) => Some(verify_cosigned(&site.join("log"), &key, &witness_key(&witness)?)?),
    };
    if json {
        output::json(&serde_json::json!({
            "verified": true, "size": verified.size, "root": hex::encode(verified.root), "unsigned-tail": verified.unsigned_tail,
            "sealed": verified.sealed, "cosigned": cosigned.map(|cosigned| cosigned.size),
        }))?;
    } else {
        output::line(&format!(
            "The log is whole: {} signed records, root {}, {} records after the last checkpoint.{}",
            verified.size,
            hex::encode(verified.root),
            verified.unsigned_tail,
            said(cosigned)
        ))?;
        if verified.sealed > 0 {
            output::line(&format!("The content of {} of them is in archives.", verified.sealed))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn receipt_verify(site: &Path, receipt: &Path, key: Option<String>, json: bool) -> Result<ExitCode, Failure> {
    let key = verifier_key(site, key)?;
    let text = fs::read_to_string(receipt)
        .map_err(|error| Failure::caused_by(format!("cannot read {}", receipt.display()), &error))?;
    let verified = verify_receipt(&text, &key)?;
    if json {
        output::json(&serde_json::json!({
            "verified": true, "index": verified.index, "size": verified.size,
            "record": serde_json::from_slice::<serde_json::Value>(&verified.record).unwrap_or_default(),
        }))?;
    } else {
        output::line(&format!(
            "The receipt holds: record {} of {} is in the log.\n  {}",
            verified.index,
            verified.size,
            String::from_utf8_lossy(&verified.record)
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn verifier_key(site: &Path, key: Option<String>) -> Result<String, Failure> {
    match key {
        // The key is one line of text; anything that is a file holds it.
        Some(key) if Path::new(&key).is_file() => {
            let text =
                fs::read_to_string(&key).map_err(|error| Failure::caused_by(format!("cannot read {key}"), &error))?;
            return Ok(text.trim().to_owned());
        }
        Some(key) => return Ok(key),
        None => {}
    }
    let path = site.join("log.vkey");
    let text = fs::read_to_string(&path).map_err(|error| {
        Failure::caused_by(format!("cannot read {}", path.display()), &error).hint("give the key with --key")
    })?;
    Ok(text.trim().to_owned())
}

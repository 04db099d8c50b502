use std::fs;
use std::path::Path;
use std::process::ExitCode;

use casemate_audit::{Record, entries, verify_dir, verify_receipt};

use crate::args::AuditCommand;
use crate::failure::{Failure, code};
use crate::{environment, output};

pub fn run(site: &Path, command: AuditCommand, json: bool) -> Result<ExitCode, Failure> {
    if !matches!(command, AuditCommand::Verify { key: Some(_), receipt: Some(_) }) {
        environment::require_site(site)?;
    }
    match command {
        AuditCommand::Show { last } => show(site, last, json),
        AuditCommand::Verify { receipt: Some(receipt), key } => receipt_verify(site, &receipt, key, json),
        AuditCommand::Verify { receipt: None, key } => verify(site, key, json),
    }
}

fn show(site: &Path, last: Option<usize>, json: bool) -> Result<ExitCode, Failure> {
    let damaged = |error: &casemate_audit::AuditError| {
        Failure::caused_by("cannot read the audit log", error).with_code(code::VERIFICATION)
    };
    let records =
        entries(&site.join("log")).map_err(|e| damaged(&e))?.collect::<Result<Vec<_>, _>>().map_err(|e| damaged(&e))?;
    let skip = last.map_or(0, |last| records.len().saturating_sub(last));
    for (index, bytes) in records.iter().enumerate().skip(skip) {
        if json {
            output::line(&String::from_utf8_lossy(bytes))?;
        } else {
            let record = Record::from_bytes(bytes).map_err(|e| damaged(&e))?;
            output::line(&format!("{index:>6}  {}", summary(&record)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// One record on one line: its kind, then every field that says something.
fn summary(record: &Record) -> String {
    let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(&record.event) else {
        return "unreadable".to_owned();
    };
    let kind = fields.get("event").and_then(|v| v.as_str()).unwrap_or("event").to_owned();
    let text: Vec<String> = fields
        .iter()
        .filter(|(name, value)| *name != "event" && !value.is_null() && *value != &serde_json::json!([]))
        .map(|(name, value)| match value {
            serde_json::Value::String(text) if text.contains(' ') => format!("{name}={text:?}"),
            serde_json::Value::String(text) => format!("{name}={text}"),
            other => format!("{name}={other}"),
        })
        .collect();
    let time =
        jiff::Timestamp::from_millisecond(record.time_ms as i64).map_or_else(|_| String::new(), |t| t.to_string());
    let rehearsal = if record.rehearsal { " (rehearsal)" } else { "" };
    format!("{time} {kind}{rehearsal} {}", text.join(" "))
}

fn verify(site: &Path, key: Option<String>, json: bool) -> Result<ExitCode, Failure> {
    let key = verifier_key(site, key)?;
    let verified = verify_dir(&site.join("log"), &key, |_| {})?;
    if json {
        output::json(&serde_json::json!({
            "verified": true, "size": verified.size, "root": hex::encode(verified.root), "unsigned-tail": verified.unsigned_tail,
        }))?;
    } else {
        output::line(&format!(
            "The log is whole: {} signed records, root {}, {} records after the last checkpoint.",
            verified.size,
            hex::encode(verified.root),
            verified.unsigned_tail
        ))?;
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

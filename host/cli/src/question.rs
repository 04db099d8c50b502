use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use casemate_gate::{Outcome, Reply, condition};

use crate::args::AskOptions;
use crate::environment;
use crate::failure::{Failure, code};
use crate::output::{self, plain};

pub fn run(site: &Path, options: &AskOptions, json: bool) -> Result<ExitCode, Failure> {
    environment::prepare(site)?;
    environment::lock_down()?;
    let filter = options
        .conditions
        .iter()
        .map(|text| condition(text).map_err(|problem| Failure::new(problem).with_code(2)))
        .collect::<Result<Vec<_>, _>>()?;
    environment::block_on(environment::with_session(site, &options.user, |gate, session| async move {
        // Before anything is asked: an answer whose receipt cannot be written should not have been given.
        let receipt_file = options.receipt.as_deref().map(ReceiptFile::create).transpose()?;
        let reply = gate.ask(&session, &options.question, filter).await?;
        let receipt = tokio::task::spawn_blocking({
            let (gate, record) = (gate.clone(), reply.record);
            move || gate.journal().receipt(record)
        })
        .await
        .map_err(|error| Failure::caused_by("cannot make the receipt", &error))??;
        if let Some(file) = receipt_file {
            file.finish(&receipt.to_text())?;
        }
        print(&reply, json)?;
        Ok(match reply.outcome {
            Outcome::Answered { .. } => ExitCode::SUCCESS,
            Outcome::Denied { .. } => ExitCode::from(code::DENIED),
        })
    }))
}

/// A receipt that is being written. What stood there before stays until the new one is whole.
struct ReceiptFile<'a> {
    path: &'a Path,
    temporary: PathBuf,
    file: File,
}

impl<'a> ReceiptFile<'a> {
    fn create(path: &'a Path) -> Result<Self, Failure> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.tmp", std::process::id()));
        let temporary = path.with_file_name(name);
        let file = File::create_new(&temporary).map_err(|error| unwritable(path, &error))?;
        Ok(Self { path, temporary, file })
    }

    fn finish(mut self, text: &str) -> Result<(), Failure> {
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_all());
        written
            .and_then(|()| std::fs::rename(&self.temporary, self.path))
            .map_err(|error| unwritable(self.path, &error))
    }
}

impl Drop for ReceiptFile<'_> {
    fn drop(&mut self) {
        // Gone already when it was finished.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::caused_by(format!("cannot write the receipt {}", path.display()), error)
}

fn print(reply: &Reply, json: bool) -> Result<(), Failure> {
    if json {
        let mut value =
            serde_json::to_value(reply).map_err(|error| Failure::caused_by("cannot encode the answer", &error))?;
        if let (Some(fault), Some(fields)) = (&reply.fault, value.as_object_mut()) {
            fields.insert("operator".to_owned(), fault.clone().into());
        }
        if let Some(fields) = value.as_object_mut() {
            let withheld = reply.withheld.iter().map(|(reason, count)| (reason.clone(), (*count).into())).collect();
            fields.insert("withheld".to_owned(), serde_json::Value::Object(withheld));
            fields.insert("record".to_owned(), reply.record.into());
            fields.insert("timings".to_owned(), serde_json::json!(reply.timings));
        }
        return output::json(&value);
    }
    match &reply.outcome {
        Outcome::Answered { text, citations, masked, .. } => {
            output::line(&output::plain(text))?;
            if !citations.is_empty() {
                output::line("")?;
            }
            for (mark, citation) in citations.iter().enumerate() {
                output::line(&format!(
                    "  [{}] {} ({}; {}, {})",
                    mark + 1,
                    output::plain(&citation.title),
                    output::plain(&citation.source),
                    citation.compartment,
                    citation.label
                ))?;
            }
            if *masked > 0 {
                let noun = if *masked == 1 { "identifier is" } else { "identifiers are" };
                output::line(&format!("  {masked} {noun} masked"))?;
            }
        }
        Outcome::Denied { reason, message, policy, phase } => {
            let who = policy.as_ref().map_or_else(|| "the host".to_owned(), |policy| format!("policy `{policy}`"));
            output::line(&format!("DENIED by {who} in the {phase} phase: {reason}\n  {message}"))?;
        }
    }
    if let Some(fault) = &reply.fault {
        output::line(&format!("  operator: {}", plain(fault)))?;
    }
    for (reason, count) in &reply.withheld {
        output::line(&format!("  {count} passages withheld: {reason}"))?;
    }
    let rehearsal = if reply.rehearsal { " (rehearsal)" } else { "" };
    output::line(&format!("  decision {} is record {} of the audit log{rehearsal}", reply.id, reply.record))
}

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use casemate_audit::{AuditError, Index, Query, Record, RecordReader, VerifyError, entries_from, size_of};
use casemate_gate::Pseudonyms;

use crate::args::ShowOptions;
use crate::failure::{Failure, code};
use crate::output;

/// How often `--follow` looks for new records.
const LOOK: Duration = Duration::from_millis(200);

/// A log of fewer records is walked over. An index beside it could hide records: what it does not find is not looked for.
const WALKED: u64 = 100_000;

/// `casemate audit show`.
pub fn run(site: &Path, options: &ShowOptions, json: bool) -> Result<ExitCode, Failure> {
    let people = Pseudonyms::read(site)?;
    let shown = Shown { log: &site.join("log"), query: query(options, &people), names: people.names(), json };
    let mut next = match options.last {
        Some(last) => shown.last(&site.join("index"), last, options.no_index)?,
        None => shown.all(&site.join("index"), options.no_index)?,
    };
    if !options.follow {
        return Ok(ExitCode::SUCCESS);
    }
    loop {
        std::thread::sleep(LOOK);
        next = match shown.walk(next) {
            Ok(next) => next,
            // The next look meets another checkpoint.
            Err(AuditError::Damaged(VerifyError::TooBusy)) => next,
            Err(error) => return Err(damaged(&error)),
        };
    }
}

fn query(options: &ShowOptions, people: &Pseudonyms) -> Query {
    let user = options.user.as_ref().map(|user| people.of(user).unwrap_or_else(|| user.clone()));
    Query {
        since_ms: options.since,
        until_ms: options.until,
        event: options.event.clone(),
        user,
        policy: options.policy.clone(),
        decision: options.decision.clone(),
        key: options.key.clone(),
        component: options.component.clone(),
        generation: options.generation,
        reason: options.reason.clone(),
    }
}

struct Shown<'a> {
    log: &'a Path,
    query: Query,
    names: BTreeMap<String, &'a str>,
    json: bool,
}

impl Shown<'_> {
    /// Prints every match; returns the index behind the last record looked at.
    fn all(&self, index: &Path, no_index: bool) -> Result<u64, Failure> {
        let mut from = 0;
        if let Some(index) = self.index(index, no_index) {
            let mut reader = RecordReader::new(self.log);
            for found in index.select(&self.query).map_err(|e| damaged(&e))? {
                let record = reader.read(found).map_err(|e| damaged(&e))?;
                // The index only says where to look.
                if let Some(record) = record.filter(|record| self.query.matches(record)) {
                    self.print(found, record).map_err(|e| damaged(&e))?;
                }
            }
            from = index.end();
        }
        self.walk(from).map_err(|e| damaged(&e))
    }

    /// Prints the last matches, as many as are wanted.
    fn last(&self, index: &Path, wanted: usize, no_index: bool) -> Result<u64, Failure> {
        let size = size_of(self.log).map_err(|e| damaged(&e))?;
        if self.query.is_empty() {
            return self.walk(size.saturating_sub(wanted as u64)).map_err(|e| damaged(&e));
        }
        let index = self.index(index, no_index);
        let from = index.as_ref().map_or(0, Index::end);
        let (mut found, mut next) = (Vec::new(), from);
        for (index, record) in entries_from(self.log, from).map_err(|e| damaged(&e))? {
            let record = record.map_err(|e| damaged(&e))?;
            next = index + 1;
            if self.query.matches(&record) {
                found.push((index, record));
            }
        }
        found.reverse();
        if let Some(index) = index {
            let mut reader = RecordReader::new(self.log);
            for candidate in index.select(&self.query).map_err(|e| damaged(&e))?.into_iter().rev() {
                if found.len() >= wanted {
                    break;
                }
                let record = reader.read(candidate).map_err(|e| damaged(&e))?;
                if let Some(record) = record.filter(|record| self.query.matches(record)) {
                    found.push((candidate, record.to_vec()));
                }
            }
        }
        found.truncate(wanted);
        for (index, record) in found.iter().rev() {
            self.print(*index, record).map_err(|e| damaged(&e))?;
        }
        Ok(next)
    }

    /// Prints every match from an index on by looking at each record.
    fn walk(&self, from: u64) -> Result<u64, AuditError> {
        let mut next = from;
        for (index, record) in entries_from(self.log, from)? {
            let record = record?;
            if self.query.matches(&record) {
                self.print(index, &record)?;
            }
            next = index + 1;
        }
        Ok(next)
    }

    /// The index, where it helps and can be kept.
    fn index(&self, dir: &Path, no_index: bool) -> Option<Index> {
        if no_index || self.query.is_empty() || size_of(self.log).is_ok_and(|size| size < WALKED) {
            return None;
        }
        Index::open(self.log, dir, |_| {})
            .inspect_err(|error| eprintln!("note: walking over the log, because its index cannot be used: {error}"))
            .ok()
    }

    fn print(&self, index: u64, bytes: &[u8]) -> Result<(), AuditError> {
        let text = if self.json {
            String::from_utf8_lossy(bytes).into_owned()
        } else {
            format!("{index:>6}  {}", summary(&Record::from_bytes(bytes)?, &self.names))
        };
        // Whoever reads may have read enough.
        let _ = output::line(&text);
        Ok(())
    }
}

fn damaged(error: &AuditError) -> Failure {
    Failure::caused_by("cannot read the audit log", error).with_code(code::VERIFICATION)
}

/// One record on one line: its kind, then every field that says something.
fn summary(record: &Record, names: &BTreeMap<String, &str>) -> String {
    let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(&record.event) else {
        return "unreadable".to_owned();
    };
    let kind = fields.get("event").and_then(|v| v.as_str()).unwrap_or("event").to_owned();
    let text: Vec<String> = fields
        .iter()
        .filter(|(name, value)| *name != "event" && !value.is_null() && *value != &serde_json::json!([]))
        .map(|(name, value)| match value {
            serde_json::Value::String(text) if names.contains_key(text) => {
                format!("{name}={} ({text})", names.get(text).copied().unwrap_or_default())
            }
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

//! The transcript on paper: plain text, every line numbered, with a check of four digits that a copy can be compared by.

use std::fmt::Write as _;

use casemate_custody::{Envelope, Roster, UnixTime};
use casemate_types::Digest;

use crate::{CeremonyError, StepResult, Transcript};

/// Characters of text in a line.
const WIDTH: usize = 92;

/// The page of a transcript, with as many signatures as it has. Whether they hold is for [`crate::verify`] to say.
///
/// # Errors
/// [`CeremonyError::Custody`] when the envelope holds no transcript.
pub fn page(envelope: &Envelope, roster: &Roster) -> Result<String, CeremonyError> {
    let transcript: Transcript = envelope.document()?;
    let mut text = Vec::new();
    head(&transcript, &envelope.digest(), &mut text);
    for step in &transcript.steps {
        text.push(String::new());
        text.push(format!("STEP {} - {}", step.step, step.words));
        let again = if step.attempts > 1 { format!(", begun {} times", step.attempts) } else { String::new() };
        text.push(format!("  from {} to {}{again}", date(step.begun), date(step.done)));
        result(&step.result, &mut text);
    }
    text.push(String::new());
    text.push(format!("JOURNAL     {}", transcript.journal));
    text.push(format!(
        "AUDIT LOG   {} records, root {}",
        transcript.audit_head.size,
        hex::encode(transcript.audit_head.root)
    ));
    text.push(format!("TRANSCRIPT  {}", envelope.digest()));
    for signature in envelope.signatures() {
        let name = roster.custodians().iter().find(|custodian| custodian.signing.key_id() == signature.keyid);
        text.push(String::new());
        text.push(match name {
            Some(custodian) => {
                format!(
                    "SIGNED BY   {} (person {}, token {})",
                    custodian.name, custodian.person, custodian.token_serial
                )
            }
            None => "SIGNED BY   a key that is not on the roster".to_owned(),
        });
        text.push(format!("  key       {}", signature.keyid));
        text.push(format!("  signature {}", hex::encode(&signature.sig)));
        text.push("  by hand   ______________________________".to_owned());
    }
    Ok(checked(&text))
}

fn head(transcript: &Transcript, digest: &Digest, text: &mut Vec<String>) {
    text.push("TRANSCRIPT OF A KEY CEREMONY".to_owned());
    text.push(String::new());
    text.push(format!("digest      {digest}"));
    text.push(format!("site        {}", transcript.site));
    text.push(format!("ceremony    {}", transcript.ceremony));
    text.push(format!("plan        {} {}", transcript.plan_name, transcript.plan));
    let names: Vec<&str> = transcript.approvers.iter().map(|name| name.as_str()).collect();
    text.push(format!("approved by {}", names.join(", ")));
    for statement in &transcript.statements {
        text.push(format!("statement   {statement}"));
    }
    text.push(format!("roster      {}", transcript.roster));
    text.push(format!("from        {} to {}", date(transcript.begun), date(transcript.closed)));
    for software in &transcript.software {
        text.push(format!("software    {} {}", software.name, software.digest));
    }
    for token in &transcript.tokens {
        text.push(format!("token       {}: {}", token.role, token.purpose));
        let (model, firmware) = (&token.model, &token.firmware);
        text.push(format!("            serial {}, label {}, {model}, firmware {firmware}", token.serial, token.label));
        if let Some(login) = token.login {
            text.push(format!("            logged in to by {login}"));
        }
    }
}

fn result(result: &StepResult, text: &mut Vec<String>) {
    for call in &result.calls {
        text.push(format!("  {}: {} -> {}", call.token, call.call, call.result));
        if !call.attributes.is_empty() {
            text.push(format!("    {}", call.attributes.join("; ")));
        }
    }
    for made in &result.keys {
        let key = &made.key;
        text.push(format!(
            "  key {} on {}: class {}, CKA_ID {}, check {}",
            made.name, made.token, key.class, key.id, key.check
        ));
    }
    for address in &result.addresses {
        text.push(format!("  transport key of {}: sha256:{}", address.token, address.fingerprint));
    }
    if let Some(escrow) = &result.escrow {
        text.push(format!(
            "  escrow of {}: epoch {}, {} of {} shares, opens in {}, set {}; commitments to the shares:",
            escrow.key,
            escrow.epoch,
            escrow.threshold,
            escrow.shares.len(),
            escrow.opens_in,
            escrow.set
        ));
        for share in &escrow.shares {
            text.push(format!("    {}: {}", share.custodian, share.commitment));
        }
    }
    for remark in &result.remarks {
        text.push(format!("  {remark}"));
    }
}

/// Numbers lines, puts a check behind each, and the check of all at the end.
fn checked(text: &[String]) -> String {
    let (mut out, mut number) = (String::new(), 0);
    for line in text.iter().flat_map(|line| wrapped(line)) {
        number += 1;
        let digits = Digest::of(format!("{number} {line}").as_bytes()).hex();
        let check = digits.get(..4).unwrap_or_default();
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{number:>4}  {line:<WIDTH$}  {check}");
    }
    let whole = Digest::of(out.as_bytes());
    let _ =
        writeln!(out, "\n{number} lines. The four digits behind a line are its check; two copies agree where they do.");
    let _ = writeln!(out, "Page {whole}");
    out
}

/// Breaks a line; what is left is indented.
fn wrapped(line: &str) -> Vec<String> {
    // A terminal or a printer must not be steered by a token's label.
    let line: String =
        line.chars().map(|c| if c == ' ' || c.is_ascii_graphic() || c.is_alphanumeric() { c } else { '?' }).collect();
    let indent = line.len() - line.trim_start().len() + 4;
    let (mut lines, mut current) = (Vec::new(), String::new());
    for word in line.split_inclusive(' ') {
        let mut word: Vec<char> = word.chars().collect();
        while current.chars().count() + word.len() > WIDTH {
            if current.trim().is_empty() {
                let rest = word.split_off((WIDTH - current.chars().count()).min(word.len()));
                current.extend(word);
                word = rest;
            }
            lines.push(current.trim_end().to_owned());
            current = " ".repeat(indent.min(WIDTH / 2));
            if word.is_empty() {
                break;
            }
        }
        current.extend(word);
    }
    if !current.trim().is_empty() || lines.is_empty() {
        lines.push(current.trim_end().to_owned());
    }
    lines
}

fn date(time: UnixTime) -> String {
    let second = i64::try_from(time.0).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(second).map_or_else(|_| time.to_string(), |time| time.to_string())
}

//! What happened, signed by the custodians.

use std::path::Path;

use casemate_custody::{AuditHead, CustodyError, Document, Envelope, Roster, Signed, Signer, UnixTime};
use casemate_types::{Digest, UserName};
use serde::{Deserialize, Serialize};

use crate::journal::{Begun, StepResult};
use crate::{CeremonyError, Plan, trail};

/// A file by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hashed {
    /// `casemate`, or the name of a module.
    pub name: String,
    /// SHA-256 of the file.
    pub digest: Digest,
}

/// A token as it described itself when the ceremony began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenFact {
    /// Its role in the plan.
    pub role: String,
    /// What the plan says it is for.
    pub purpose: String,
    /// Its serial number.
    pub serial: String,
    /// Its label.
    pub label: String,
    /// Maker and model.
    pub model: String,
    /// Its firmware version.
    pub firmware: String,
    /// By whose leave it was logged in to; not in transcripts of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<LoginBy>,
}

/// By whose leave a token is logged in to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoginBy {
    /// A PIN from this machine, which a person may know.
    HostPin,
    /// PINs that nobody knows, put together from custodians' shares.
    SplitPins,
    /// The token's own pad. Whether it asks for more than one person, nobody stated.
    Pad,
    /// The token's own pad, at which, by the bindings, its maker's quorum is asked.
    VendorQuorum,
}

impl std::fmt::Display for LoginBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::HostPin => "host-pin",
            Self::SplitPins => "split-pins",
            Self::Pad => "pad",
            Self::VendorQuorum => "vendor-quorum",
        })
    }
}

/// One step as it was carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TranscriptStep {
    /// Its number, from 1.
    pub step: usize,
    /// What the plan says.
    pub words: String,
    /// When it was begun first.
    pub begun: UnixTime,
    /// When it was done.
    pub done: UnixTime,
    /// How often it was begun: more than once after a crash.
    pub attempts: usize,
    /// What was done.
    pub result: StepResult,
}

/// The transcript of a ceremony. Its canonical JSON (RFC 8785) is the payload of a DSSE envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Transcript {
    format: TranscriptFormat,
    /// Names the ceremony in the audit log.
    pub ceremony: String,
    /// The site.
    pub site: String,
    /// What the plan calls itself.
    pub plan_name: String,
    /// SHA-256 of the plan file.
    pub plan: Digest,
    /// Digests of the statements that approved it; more than one where the first was over before the end.
    pub statements: Vec<Digest>,
    /// Who approved it first.
    pub approvers: Vec<UserName>,
    /// Digest of the roster.
    pub roster: Digest,
    /// Program and modules.
    pub software: Vec<Hashed>,
    /// The tokens.
    pub tokens: Vec<TokenFact>,
    /// When it began.
    pub begun: UnixTime,
    /// When the last step was done.
    pub closed: UnixTime,
    /// The steps.
    pub steps: Vec<TranscriptStep>,
    /// Digest of the journal's last entry about a step; each entry holds that of the one before.
    pub journal: Digest,
    /// Indices of the audit log's records that name the journal's entries, up to that one.
    pub records: Vec<u64>,
    /// The audit log after the last step.
    pub audit_head: AuditHead,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum TranscriptFormat {
    #[serde(rename = "casemate ceremony transcript 1")]
    One,
}

impl Document for Transcript {
    const PAYLOAD_TYPE: &'static str = "application/vnd.casemate.ceremony-transcript+json";
    const NAME: &'static str = "a ceremony's transcript";

    fn check(&self) -> Result<(), CustodyError> {
        let numbered = self.steps.iter().enumerate().all(|(index, step)| step.step == index + 1);
        if numbered && !self.steps.is_empty() && !self.records.is_empty() && !self.statements.is_empty() {
            return Ok(());
        }
        Err(CustodyError::Malformed {
            what: Self::NAME,
            why: "its steps are not numbered, or something is missing".into(),
        })
    }
}

impl Transcript {
    #[allow(clippy::too_many_arguments, reason = "a document has as many parts as it has")]
    pub(crate) fn new(
        begun: Begun,
        plan: &Plan,
        statements: Vec<Digest>,
        steps: Vec<TranscriptStep>,
        journal: Digest,
        records: Vec<u64>,
        audit_head: AuditHead,
        closed: UnixTime,
    ) -> Self {
        Self {
            format: TranscriptFormat::One,
            ceremony: begun.ceremony,
            site: begun.site,
            plan_name: plan.name().to_owned(),
            plan: begun.plan,
            statements,
            approvers: begun.approvers,
            roster: begun.roster,
            software: begun.software,
            tokens: begun.tokens,
            begun: begun.at,
            closed,
            steps,
            journal,
            records,
            audit_head,
        }
    }
}

/// A transcript that was checked.
#[derive(Debug)]
pub struct Verified {
    /// What happened.
    pub transcript: Transcript,
    /// Who signed.
    pub signers: Vec<Signer>,
    /// SHA-256 of the signed payload.
    pub digest: Digest,
}

/// Checks a transcript's signatures, its plan, and that the audit log holds the ceremony from its first record to its last.
///
/// # Errors
/// [`CeremonyError::Custody`] for signatures; [`CeremonyError::PlanDiffers`]; [`CeremonyError::TranscriptUnproven`] when plan,
/// roster, steps or the log's records do not fit; [`CeremonyError::Audit`] when the log itself does not verify.
pub fn verify(
    envelope: &Envelope,
    plan: &Plan,
    roster: &Roster,
    log: &Path,
    log_key: &str,
) -> Result<Verified, CeremonyError> {
    let claimed: Transcript = envelope.document()?;
    // A transcript of another plan is one, whoever signed it.
    if claimed.plan != plan.digest() {
        return Err(CeremonyError::PlanDiffers { what: "transcript", found: claimed.plan, plan: plan.digest() });
    }
    let signed = Signed::<Transcript>::verify(envelope, roster)?;
    let unproven = |why: String| Err(CeremonyError::TranscriptUnproven { why });
    if claimed.roster != roster.digest() || claimed.site != roster.site() {
        return unproven("it was made under another roster".to_owned());
    }
    if !claimed.steps.iter().map(|step| step.words.clone()).eq(plan.steps().iter().map(ToString::to_string)) {
        return unproven("its steps are not those of the plan".to_owned());
    }
    let logged = casemate_audit::verify_dir(log, log_key, |_| {}).map_err(CeremonyError::audit)?;
    let head = claimed.audit_head;
    if head.size > logged.size
        || casemate_audit::root_at(log, head.size).map_err(CeremonyError::audit)? != Some(head.root)
    {
        return unproven(format!("the audit log never had its head ({} records)", head.size));
    }
    let marks = trail::marks(log, &claimed.ceremony)?;
    for (n, index) in claimed.records.iter().enumerate() {
        match marks.get(n) {
            Some(mark) if mark.index == *index && mark.entry == n && *index < head.size => {}
            _ => return unproven(format!("the audit log has no record of entry {n} at {index}")),
        }
    }
    let last = claimed.records.len().checked_sub(1).and_then(|last| marks.get(last));
    if last.is_none_or(|mark| mark.digest != claimed.journal) {
        return unproven("the journal it names is not the one that the audit log holds".to_owned());
    }
    if !marks.first().is_some_and(|mark| mark.words.contains(&claimed.plan.to_string())) {
        return unproven("the audit log's record of its beginning names another plan".to_owned());
    }
    let end = format!("finished: transcript {}", signed.digest());
    if !marks.iter().any(|mark| mark.index < logged.size && mark.words == end) {
        return unproven("the audit log has no record of its end; another transcript was signed, or none".to_owned());
    }
    Ok(Verified { digest: signed.digest(), signers: signed.signers().to_vec(), transcript: claimed })
}

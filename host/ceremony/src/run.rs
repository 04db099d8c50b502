//! Running a plan: for each step the journal, then the audit log, then the token, and the same backwards.

use std::collections::BTreeMap;
use std::path::PathBuf;

use casemate_audit::Event;
use casemate_custody::{
    Approved, Envelope, Operation, Roster, Signed, Signer, Statement, TokenSerial, UnixTime, files,
};
use casemate_hsm::{KeyId, KeyRef};
use casemate_types::{Profile, UserName};

use crate::desk::Desk;
use crate::folder::{self, Folder};
use crate::journal::{Begun, Entry, Journal, StepResult};
use crate::transcript::{Hashed, TokenFact, Transcript, TranscriptStep};
use crate::{AuditTrail, CeremonyError, MadeKey, Mark, Plan, Step, print, trail};

/// The people at the terminal.
pub trait Console {
    /// Shows what is done next and waits until they agree. Steps count from 1.
    ///
    /// # Errors
    /// [`CeremonyError::Paused`].
    fn before(&mut self, step: usize, of: usize, words: &str) -> Result<(), CeremonyError>;

    /// Shows what came of it.
    ///
    /// # Errors
    /// [`CeremonyError::Paused`].
    fn after(&mut self, step: usize, result: &StepResult) -> Result<(), CeremonyError>;

    /// Something is durable now. For tests that pull the plug.
    fn reached(&mut self, _point: &str) {}
}

/// By what right a ceremony goes on.
pub enum Permission {
    /// An approval that was used for this now, because the first one is over.
    Again(Box<Approved<Statement>>),
    /// The approval it was begun with, which still holds.
    Standing(Box<Signed<Statement>>),
}

/// Everything a ceremony needs.
pub struct Ceremony<'a> {
    /// What is done.
    pub plan: &'a Plan,
    /// The custodians.
    pub roster: &'a Roster,
    /// The tokens.
    pub desk: &'a Desk<'a>,
    /// Where its journal, shares and transcript go.
    pub folder: PathBuf,
    /// What the site demands of tokens.
    pub profile: Profile,
    /// Digests of the program and the modules.
    pub software: Vec<Hashed>,
    /// The site's audit log.
    pub trail: &'a mut dyn AuditTrail,
    /// The people.
    pub console: &'a mut dyn Console,
    /// The time.
    pub clock: &'a dyn Fn() -> UnixTime,
}

/// Refuses an approval of something else than this plan on these tokens.
///
/// # Errors
/// [`CeremonyError::PlanNotApproved`]; [`casemate_custody::CustodyError::NotApproved`] for another operation or token.
pub fn check_statement(statement: &Statement, plan: &Plan, tokens: &[TokenSerial]) -> Result<(), CeremonyError> {
    let refused = |what| casemate_custody::CustodyError::NotApproved { what, approved: statement.operation };
    if statement.operation != Operation::Ceremony {
        return Err(refused("operation").into());
    }
    if statement.subject != Some(plan.digest()) {
        let approved = statement.subject.map_or_else(|| "nothing".to_owned(), |subject| subject.to_string());
        return Err(CeremonyError::PlanNotApproved { approved, plan: plan.digest() });
    }
    for serial in tokens {
        if !statement.tokens.iter().any(|approved| approved.same_device(serial)) {
            return Err(refused("token").into());
        }
    }
    Ok(())
}

impl Ceremony<'_> {
    /// Runs the plan from its beginning. Gives the signed transcript.
    ///
    /// # Errors
    /// As [`check_statement`]; [`CeremonyError::FolderUsed`]; what a step returns. After most of them `resume` goes on.
    pub fn run(
        self,
        approved: &Approved<Statement>,
        approval: &Envelope,
        plan_file: &[u8],
    ) -> Result<Envelope, CeremonyError> {
        let tokens = self.tokens()?;
        check_statement(approved.statement(), self.plan, &serials(&tokens)?)?;
        let folder = Folder::create(&self.folder)?;
        let journal = Journal::create(&folder.journal())?;
        files::replace(&folder.plan(), plan_file)?;
        files::replace(&folder.approval(), &approval.to_bytes()?)?;
        let begun = Begun {
            ceremony: approved.digest().hex().chars().take(16).collect(),
            site: self.roster.site().to_owned(),
            plan: self.plan.digest(),
            statement: approved.digest(),
            approvers: names(approved.approvers()),
            roster: self.roster.digest(),
            software: self.software.clone(),
            tokens,
            at: (self.clock)(),
        };
        let mut running = Running { ceremony: self, id: begun.ceremony.clone(), folder, journal };
        running.note(Entry::Begun(begun))?;
        running.go_on()
    }

    /// Goes on with a ceremony that was cut off: completes or undoes what was under way. Gives the signed transcript.
    ///
    /// # Errors
    /// [`CeremonyError::PlanDiffers`], [`CeremonyError::JournalAltered`], [`CeremonyError::JournalTruncated`],
    /// [`CeremonyError::Bindings`] when a token is another one; as [`Ceremony::run`].
    pub fn resume(self, permission: &Permission) -> Result<Envelope, CeremonyError> {
        let folder = Folder(self.folder.clone());
        let journal = Journal::open(&folder.journal())?;
        let Some((_, Entry::Begun(begun))) = journal.entries().first() else {
            return Err(CeremonyError::JournalAltered { entry: 0, why: "does not begin a ceremony" });
        };
        let begun = begun.clone();
        let (found, plan) = (begun.plan, self.plan.digest());
        if found != plan {
            return Err(CeremonyError::PlanDiffers { what: "journal", found, plan });
        }
        let marks = self.trail.marks(&begun.ceremony)?;
        let unmarked = journal.compare(&marks)?;
        if begun.roster != self.roster.digest() {
            return Err(CeremonyError::bindings("the roster is not the one the ceremony was begun with"));
        }
        if self.tokens()? != begun.tokens {
            return Err(CeremonyError::bindings("the tokens are not those the ceremony was begun with"));
        }
        let mut running = Running { ceremony: self, id: begun.ceremony.clone(), folder, journal };
        if let Some(entry) = unmarked {
            running.mark(entry)?;
        }
        let serials = serials(&begun.tokens)?;
        match permission {
            Permission::Standing(signed) => {
                check_statement(signed.document(), running.ceremony.plan, &serials)?;
                if signed.digest() != begun.statement {
                    return Err(CeremonyError::bindings("the approval is not the one the ceremony was begun with"));
                }
            }
            Permission::Again(approved) => {
                check_statement(approved.statement(), running.ceremony.plan, &serials)?;
                let (statement, approvers) = (approved.digest(), names(approved.approvers()));
                running.note(Entry::ApprovedAgain { statement, approvers })?;
            }
        }
        running.go_on()
    }

    fn tokens(&self) -> Result<Vec<TokenFact>, CeremonyError> {
        let fact = |(role, purpose): (&str, &str)| {
            let token = self.desk.token(role)?;
            let login = Some(self.desk.login_by(role, &token)?);
            Ok(TokenFact {
                role: role.to_owned(),
                purpose: purpose.to_owned(),
                serial: token.serial,
                label: token.label,
                model: format!("{} {}", token.manufacturer, token.model),
                firmware: token.firmware,
                login,
            })
        };
        self.plan.roles().map(fact).collect()
    }
}

fn serials(tokens: &[TokenFact]) -> Result<Vec<TokenSerial>, CeremonyError> {
    tokens.iter().map(|token| Ok(token.serial.parse()?)).collect()
}

/// The token's own words, where it is one that refused.
fn reason(error: &CeremonyError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn names(signers: &[Signer]) -> Vec<UserName> {
    signers.iter().map(|signer| signer.name.clone()).collect()
}

/// A ceremony with its journal open.
pub(crate) struct Running<'a> {
    pub(crate) ceremony: Ceremony<'a>,
    id: String,
    pub(crate) folder: Folder,
    journal: Journal,
}

impl Running<'_> {
    fn go_on(mut self) -> Result<Envelope, CeremonyError> {
        let steps = self.ceremony.plan.steps();
        for (index, step) in steps.iter().enumerate() {
            let number = index + 1;
            if self.result(number).is_none() {
                self.step(number, steps.len(), step)?;
            }
            self.sweep(step)?;
        }
        self.close()
    }

    fn step(&mut self, number: usize, of: usize, step: &Step) -> Result<(), CeremonyError> {
        self.ceremony.console.before(number, of, &step.to_string())?;
        let at = (self.ceremony.clock)();
        self.note(Entry::StepBegun { step: number, at })?;
        let result = match self.work(number, step) {
            Ok(result) => result,
            Err(error) => {
                // The step's own error is the one to report.
                let _ = self.ceremony.trail.append(trail::failure(&self.id, number, &reason(&error)));
                return Err(error);
            }
        };
        self.reached("worked", number);
        let at = (self.ceremony.clock)();
        self.note(Entry::StepDone { step: number, at, result: result.clone() })?;
        self.ceremony.console.after(number, &result)
    }

    /// Removes packages that nobody needs any more.
    fn sweep(&self, step: &Step) -> Result<(), CeremonyError> {
        match step {
            Step::Generate { key, .. } => folder::remove(&self.folder.packages(key)),
            Step::Escrow { key, .. } => folder::remove(&self.folder.escrow_package(key)),
            _ => Ok(()),
        }
    }

    /// The transcript and its signatures.
    fn close(mut self) -> Result<Envelope, CeremonyError> {
        if !self.journal.entries().iter().any(|(_, entry)| matches!(entry, Entry::Closed { .. })) {
            let head = self.ceremony.trail.head()?;
            let at = (self.ceremony.clock)();
            self.note(Entry::Closed { head, at })?;
        }
        let marks = self.ceremony.trail.marks(&self.id)?;
        let transcript = self.transcript(&marks)?;
        let mut envelope = Envelope::new(&transcript)?;
        // Signatures of before the crash count, if they are on this transcript.
        let path = self.folder.transcript();
        if path.exists() {
            let earlier = Envelope::parse(&files::read(&path)?)?;
            if earlier.digest() == envelope.digest() {
                envelope = earlier;
            }
        }
        files::replace(&path, &envelope.to_bytes()?)?;
        let page = print::page(&envelope, self.ceremony.roster)?;
        files::replace(&self.folder.page(), page.as_bytes())?;
        self.reached("transcript", 0);
        for name in self.ceremony.desk.custodians().cloned().collect::<Vec<_>>() {
            let custodian = self.ceremony.roster.custodian(&name)?;
            let key = custodian.signing.key_id();
            if envelope.signatures().iter().any(|signature| signature.keyid == key) {
                continue;
            }
            let words = format!("custodian {name} signs the transcript {}", envelope.digest());
            self.ceremony.console.before(0, 0, &words)?;
            let (custodian, token) = self.ceremony.desk.custodian(&name)?;
            token.sign_envelope(custodian, &mut envelope)?;
            files::replace(&path, &envelope.to_bytes()?)?;
            self.reached(&format!("signed {name}"), 0);
        }
        Signed::<Transcript>::verify(&envelope, self.ceremony.roster)?;
        let page = print::page(&envelope, self.ceremony.roster)?;
        files::replace(&self.folder.page(), page.as_bytes())?;
        let keys: Vec<&MadeKey> = transcript.steps.iter().flat_map(|step| &step.result.keys).collect();
        let text = serde_json::to_vec_pretty(&keys).map_err(|error| CeremonyError::malformed("keys", error))?;
        files::replace(&self.folder.keys(), &text)?;
        let finished = Entry::Finished { transcript: envelope.digest() };
        if !self.journal.entries().iter().any(|(_, entry)| *entry == finished) {
            self.note(finished)?;
        }
        // The log's last state holds the end.
        self.ceremony.trail.head()?;
        Ok(envelope)
    }

    /// A function of the journal and its records: the same after any crash.
    fn transcript(&self, marks: &[Mark]) -> Result<Transcript, CeremonyError> {
        let entries = self.journal.entries();
        let (mut begun, mut head, mut closed) = (None, None, 0);
        let mut times: BTreeMap<usize, (UnixTime, usize)> = BTreeMap::new();
        let mut approvals = Vec::new();
        for (n, (_, entry)) in entries.iter().enumerate() {
            match entry {
                Entry::Begun(first) => {
                    approvals.push(first.statement);
                    begun = Some(first.clone());
                }
                Entry::ApprovedAgain { statement, .. } if head.is_none() => approvals.push(*statement),
                Entry::StepBegun { step, at } => {
                    let time = times.entry(*step).or_insert((*at, 0));
                    time.1 += 1;
                }
                Entry::Closed { head: at_close, at } => (head, closed) = (Some((*at_close, *at)), n),
                _ => {}
            }
        }
        let unproven = || CeremonyError::JournalAltered { entry: entries.len(), why: "is missing: nothing was closed" };
        let (Some(begun), Some((audit_head, at))) = (begun, head) else { return Err(unproven()) };
        let mut steps = Vec::new();
        for (index, step) in self.ceremony.plan.steps().iter().enumerate() {
            let number = index + 1;
            let (done, result) = self.result(number).ok_or_else(unproven)?;
            let (begun, attempts) = times.get(&number).copied().ok_or_else(unproven)?;
            steps.push(TranscriptStep { step: number, words: step.to_string(), begun, done, attempts, result });
        }
        let journal = entries.get(closed.saturating_sub(1)).map(|(digest, _)| *digest).ok_or_else(unproven)?;
        let records = marks.iter().filter(|mark| mark.entry < closed).map(|mark| mark.index).collect();
        Ok(Transcript::new(begun, self.ceremony.plan, approvals, steps, journal, records, audit_head, at))
    }

    /// When a step was done, and what it did.
    fn result(&self, number: usize) -> Option<(UnixTime, StepResult)> {
        self.journal.entries().iter().find_map(|(_, entry)| match entry {
            Entry::StepDone { step, at, result } if *step == number => Some((*at, result.clone())),
            _ => None,
        })
    }

    /// Results of all steps that are done.
    pub(crate) fn results(&self) -> impl Iterator<Item = &StepResult> {
        self.journal.entries().iter().filter_map(|(_, entry)| match entry {
            Entry::StepDone { result, .. } => Some(result),
            _ => None,
        })
    }

    /// The identifier that was drawn last for a step.
    pub(crate) fn drawn(&self, number: usize) -> Option<KeyId> {
        self.journal.entries().iter().rev().find_map(|(_, entry)| match entry {
            Entry::Drawn { step, key } if *step == number => Some(*key),
            _ => None,
        })
    }

    /// The journal, then the audit log.
    pub(crate) fn note(&mut self, entry: Entry) -> Result<(), CeremonyError> {
        let (kind, number) = entry.place();
        let (n, _) = self.journal.append(entry)?;
        self.reached(&format!("journal {kind}"), number);
        self.mark(n)?;
        self.reached(&format!("log {kind}"), number);
        Ok(())
    }

    fn mark(&mut self, n: usize) -> Result<(), CeremonyError> {
        let Some((digest, entry)) = self.journal.entries().get(n) else { return Ok(()) };
        let event = trail::mark(&self.id, n, *digest, &self.words(entry));
        self.ceremony.trail.append(event)
    }

    fn words(&self, entry: &Entry) -> String {
        let plan = self.ceremony.plan;
        let step =
            |number: &usize| plan.steps().get(number.saturating_sub(1)).map(ToString::to_string).unwrap_or_default();
        let by = |names: &[UserName]| names.iter().map(UserName::as_str).collect::<Vec<_>>().join(" ");
        match entry {
            Entry::Begun(begun) => format!(
                "begun: plan {} {}, approved by {} in statement {}",
                plan.name(),
                begun.plan,
                by(&begun.approvers),
                begun.statement
            ),
            Entry::ApprovedAgain { statement, approvers } => {
                format!("approved again by {} in statement {statement}", by(approvers))
            }
            Entry::StepBegun { step: number, .. } => format!("step {number} begun: {}", step(number)),
            Entry::Drawn { step, key } => format!("step {step}: key {key} is about to be made"),
            Entry::StepDone { step: number, .. } => format!("step {number} done: {}", step(number)),
            Entry::Closed { .. } => "all steps done".to_owned(),
            Entry::Finished { transcript } => format!("finished: transcript {transcript}"),
        }
    }

    /// The record of what was done with a key.
    pub(crate) fn record_key(&mut self, operation: &str, key: &KeyRef, token: &str) -> Result<(), CeremonyError> {
        let by = self.ceremony.desk.custodians().map(UserName::as_str).collect::<Vec<_>>().join(" ");
        self.ceremony.trail.append(Event::KeyOperation {
            operation: format!("ceremony {operation} on {token}"),
            class: key.class.to_string(),
            key_id: key.id.to_string(),
            key_check: key.check.clone(),
            version: Some(1),
            user: None,
            by: Some(format!("ceremony {}, custodians {by}", self.id)),
            result: "ok".to_owned(),
        })
    }

    pub(crate) fn reached(&mut self, point: &str, number: usize) {
        self.ceremony.console.reached(&format!("{point} {number}"));
    }
}

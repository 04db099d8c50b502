//! From a signed statement to the permission to act.

use casemate_hsm::KeyId;
use casemate_types::{Digest, Profile};
use serde::Serialize;

use crate::CustodyError;
use crate::envelope::{Envelope, Signed, Signer};
use crate::ledger::{NonceFile, NonceLedger};
use crate::quorum::QuorumBackend;
use crate::roster::Roster;
use crate::statement::{AuditHead, MAX_VALIDITY_SECONDS, Operation, Statement};
use crate::text::{TokenSerial, UnixTime};

/// A clock may stand this much behind the log's last record, in seconds: records and statements round differently.
const CLOCK_TOLERANCE: u64 = 5;

/// What the audit log can tell about its past.
pub trait AuditHeads {
    /// The log's root when it had `size` records; `None` if it never was that large.
    ///
    /// # Errors
    /// [`CustodyError::AuditLog`] when the log cannot be read.
    fn root_at(&self, size: u64) -> Result<Option<[u8; 32]>, CustodyError>;

    /// When record `index` was written; `None` if it is not at hand: never written, or moved into an archive.
    ///
    /// # Errors
    /// As [`AuditHeads::root_at`].
    fn time_of(&self, index: u64) -> Result<Option<UnixTime>, CustodyError>;

    /// When record `index` and each one after it was written.
    ///
    /// # Errors
    /// As [`AuditHeads::root_at`]; [`CustodyError::RecordMissing`] where one is not at hand.
    fn times_from(&self, index: u64) -> Result<Vec<UnixTime>, CustodyError> {
        let time = |index| self.time_of(index)?.ok_or(CustodyError::RecordMissing { index });
        (index..self.size()).map(time).collect()
    }

    /// Records in the log.
    fn size(&self) -> u64;
}

/// What a site demands of an approval.
#[derive(Debug)]
pub struct Verifier<'a> {
    /// The site's name.
    pub site: &'a str,
    /// Who may approve.
    pub roster: &'a Roster,
    /// By what means two people are needed on the tokens in question.
    pub tier: QuorumBackend,
    /// What the site accepts.
    pub profile: Profile,
    /// For how many seconds a head of the audit log may be outdated.
    pub max_head_age: u64,
}

impl Verifier<'_> {
    /// The default of [`Verifier::max_head_age`]: three days, so that 48 hours' notice fits.
    pub const MAX_HEAD_AGE: u64 = 3 * 24 * 3600;

    /// Checks everything and spends the nonce. This is the only way to an [`Approved`].
    ///
    /// # Errors
    /// One per defect: as [`Signed::verify`]; [`CustodyError::RequesterApproved`], [`CustodyError::OtherSite`],
    /// [`CustodyError::OtherRoster`], [`CustodyError::NotYetValid`], [`CustodyError::Expired`], [`CustodyError::ClockBehind`],
    /// [`CustodyError::ForeignHead`], [`CustodyError::StaleHead`], [`CustodyError::RecordMissing`], [`CustodyError::TierTooLow`],
    /// [`CustodyError::RequesterUnproven`], [`CustodyError::RequesterUnknown`], [`CustodyError::Replayed`],
    /// [`CustodyError::UsedUp`].
    pub fn approve(
        &self,
        envelope: &Envelope,
        now: UnixTime,
        heads: &dyn AuditHeads,
        ledger: &mut dyn NonceLedger,
    ) -> Result<Approved<Statement>, CustodyError> {
        let signed = self.inspect(envelope, now, heads)?;
        let (statement, approvers, requester, digest) = signed.into_parts();
        let uses = statement.grant.as_ref().map_or(1, |grant| grant.uses);
        // Last, because it cannot be undone.
        let used = ledger.spend(&statement.nonce, &digest, uses, now)?;
        let requester_proven = requester.is_some();
        Ok(Approved { document: statement, approvers, requester_proven, used, digest, tier: self.tier, at: now })
    }

    /// The same checks without spending the nonce: whether the statement would be approved now, if it has not been used.
    ///
    /// # Errors
    /// As [`Verifier::approve`], without [`CustodyError::Replayed`].
    pub fn inspect(
        &self,
        envelope: &Envelope,
        now: UnixTime,
        heads: &dyn AuditHeads,
    ) -> Result<Signed<Statement>, CustodyError> {
        let signed = self.verify(envelope)?;
        let statement = signed.document();
        self.check_time(statement, now, heads)?;
        // A grant may stand as long as a statement can be good; it has an expiry and a count of its own.
        let age = if statement.grant.is_some() { MAX_VALIDITY_SECONDS } else { self.max_head_age };
        self.check_head(&statement.audit_head, now, heads, age)?;
        Ok(signed)
    }

    /// What was approved here before and goes on having effect: the signatures of the roster in force, and the ledger's word that the
    /// statement was used. It gives no [`Approved`]: whoever reads it again does nothing new.
    ///
    /// # Errors
    /// As [`Verifier::inspect`], but for time and log; [`CustodyError::NeverUsed`].
    pub fn was_approved(&self, envelope: &Envelope, ledger: &NonceFile) -> Result<Signed<Statement>, CustodyError> {
        let signed = self.verify(envelope)?;
        let nonce = signed.document().nonce;
        if ledger.uses(&nonce).is_empty() {
            return Err(CustodyError::NeverUsed { nonce });
        }
        Ok(signed)
    }

    /// Who signed what, whatever the time.
    fn verify(&self, envelope: &Envelope) -> Result<Signed<Statement>, CustodyError> {
        let lowest = QuorumBackend::lowest_for(self.profile);
        if self.tier < lowest {
            return Err(CustodyError::TierTooLow { tier: self.tier, lowest, profile: self.profile });
        }
        // Foreign statements first: otherwise they would be refused as signed by strangers, which says less.
        let claimed: Statement = envelope.document()?;
        if claimed.site != self.site || self.roster.site() != self.site {
            return Err(CustodyError::OtherSite { site: self.site.to_owned() });
        }
        if claimed.roster != self.roster.digest() || claimed.epoch != self.roster.epoch() {
            return Err(CustodyError::OtherRoster { epoch: claimed.epoch, current: self.roster.epoch() });
        }
        let signed: Signed<Statement> = Signed::verify(envelope, self.roster)?;
        self.check_requester(&signed)?;
        Ok(signed)
    }

    /// A name is a claim until its owner signs. Who is on the roster can sign, and has to; a stranger's name is taken, and recorded as
    /// a claim, only where nobody is listed who may ask and the profile promises nothing.
    fn check_requester(&self, signed: &Signed<Statement>) -> Result<(), CustodyError> {
        let requester = signed.document().requester.clone();
        let strict = matches!(self.profile, Profile::Enterprise | Profile::Government);
        match (self.roster.asking(&requester), signed.requester()) {
            (Some(_), Some(_)) => Ok(()),
            (Some(_), None) => Err(CustodyError::RequesterUnproven { requester }),
            (None, _) if strict || !self.roster.requesters().is_empty() => {
                Err(CustodyError::RequesterUnknown { requester })
            }
            (None, _) => Ok(()),
        }
    }

    fn check_time(&self, statement: &Statement, now: UnixTime, heads: &dyn AuditHeads) -> Result<(), CustodyError> {
        // A clock that was set back would make an expired statement good again.
        if let Some(last) = heads.size().checked_sub(1) {
            let recorded = heads.time_of(last)?.ok_or(CustodyError::RecordMissing { index: last })?;
            if now.0.saturating_add(CLOCK_TOLERANCE) < recorded.0 {
                return Err(CustodyError::ClockBehind { now, recorded });
            }
        }
        if now < statement.not_before {
            return Err(CustodyError::NotYetValid { from: statement.not_before, now });
        }
        if now >= statement.expires {
            return Err(CustodyError::Expired { at: statement.expires, now });
        }
        Ok(())
    }

    fn check_head(
        &self,
        head: &AuditHead,
        now: UnixTime,
        heads: &dyn AuditHeads,
        allowed: u64,
    ) -> Result<(), CustodyError> {
        if heads.root_at(head.size)? != Some(head.root) {
            return Err(CustodyError::ForeignHead { size: head.size });
        }
        if head.size >= heads.size() {
            return Ok(());
        }
        // A head is outdated from the moment the log grew beyond it. A head of which nobody can tell is not fresh.
        let outdated = heads.time_of(head.size)?.ok_or(CustodyError::RecordMissing { index: head.size })?;
        if now.0.saturating_sub(outdated.0) > allowed {
            return Err(CustodyError::StaleHead { size: head.size, allowed });
        }
        Ok(())
    }
}

/// Proof that enough custodians approved this, that it is fresh, and that it was not used before.
///
/// Neither `Clone` nor constructible elsewhere: whoever holds one may do what it says, on the tokens that it names.
#[derive(Debug)]
pub struct Approved<T> {
    document: T,
    approvers: Vec<Signer>,
    requester_proven: bool,
    used: u32,
    digest: Digest,
    tier: QuorumBackend,
    at: UnixTime,
}

impl Approved<Statement> {
    /// What was approved.
    pub fn statement(&self) -> &Statement {
        &self.document
    }

    /// Who approved; the requester is not among them.
    pub fn approvers(&self) -> &[Signer] {
        &self.approvers
    }

    /// By what means two people were needed.
    pub fn tier(&self) -> QuorumBackend {
        self.tier
    }

    /// Whether the requester signed, so that the name is no mere claim.
    pub fn requester_proven(&self) -> bool {
        self.requester_proven
    }

    /// Which use of the approval this is, from 1.
    pub fn used(&self) -> u32 {
        self.used
    }

    /// When it was verified.
    pub fn at(&self) -> UnixTime {
        self.at
    }

    /// SHA-256 of the signed payload.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Refuses an operation, a key or a token other than the approved ones.
    ///
    /// # Errors
    /// [`CustodyError::NotApproved`].
    pub fn permits(
        &self,
        operation: Operation,
        key: Option<KeyId>,
        token: Option<&TokenSerial>,
    ) -> Result<(), CustodyError> {
        let refused = |what| Err(CustodyError::NotApproved { what, approved: self.document.operation });
        if self.document.operation != operation {
            return refused("operation");
        }
        if key.is_some() && self.document.key != key {
            return refused("key");
        }
        match token {
            Some(token) => self.permits_token(token),
            None => Ok(()),
        }
    }

    /// Refuses a token that the statement does not name.
    ///
    /// # Errors
    /// [`CustodyError::NotApproved`].
    pub fn permits_token(&self, token: &TokenSerial) -> Result<(), CustodyError> {
        if self.document.tokens.iter().any(|approved| approved.same_device(token)) {
            return Ok(());
        }
        Err(CustodyError::NotApproved { what: "token", approved: self.document.operation })
    }

    /// What the audit log has to hold about it. Nothing in it is secret.
    pub fn record(&self) -> ApprovalRecord<'_> {
        ApprovalRecord {
            statement: &self.document,
            digest: self.digest,
            approvers: &self.approvers,
            requester_proven: self.requester_proven,
            used: self.used,
            tier: self.tier,
            verified_at: self.at,
        }
    }
}

/// An approval as it is recorded.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct ApprovalRecord<'a> {
    /// What was approved.
    pub statement: &'a Statement,
    /// SHA-256 of the signed payload.
    pub digest: Digest,
    /// Who approved.
    pub approvers: &'a [Signer],
    /// Whether the requester signed.
    pub requester_proven: bool,
    /// Which use of it this is, from 1.
    pub used: u32,
    /// By what means two people were needed.
    pub tier: QuorumBackend,
    /// When it was verified.
    pub verified_at: UnixTime,
}

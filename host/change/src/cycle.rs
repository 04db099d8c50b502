//! The life cycle of one change, without I/O. Each state is a type: a step that is not allowed does not compile.
//!
//! ```text
//! Received --verified--> Verified --staged--> Staged --approved--> Approved --activated--> Active
//!                                                                     superseded | rolled back | revoked
//! ```
//!
//! What has not been staged cannot be approved, and what has not been approved cannot become active:
//!
//! ```compile_fail,E0599
//! # use casemate_change::cycle::{Change, Received};
//! fn in_haste(change: Change<Received>) {
//!     change.approved(&[]);
//! }
//! ```
//!
//! ```compile_fail,E0599
//! # use casemate_change::cycle::{Change, Staged};
//! fn without_approval(change: Change<Staged>) {
//!     change.activated(casemate_types::Generation(2));
//! }
//! ```
//!
//! An end is an end:
//!
//! ```compile_fail,E0599
//! # use casemate_change::cycle::{Change, Revoked};
//! fn again(change: Change<Revoked>) {
//!     change.activated(casemate_types::Generation(3));
//! }
//! ```
//!
//! A step uses the state up:
//!
//! ```compile_fail,E0382
//! # use casemate_change::cycle::{Change, Active};
//! fn twice(change: Change<Active>) {
//!     let _ = change.revoked();
//!     let _ = change.superseded(casemate_types::Generation(3));
//! }
//! ```

use std::collections::BTreeSet;

use casemate_bundle::THRESHOLD;
use casemate_types::{Digest, Generation, PluginName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ApprovalError;
use crate::approval::Approval;

/// A change of what runs at a site, in the state `S`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change<S> {
    content: Digest,
    requester: String,
    state: S,
}

/// Bytes have come in; somebody asks for them to become active.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received;

/// They are a bundle, unaltered, and every signature on it is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    name: PluginName,
    version: u64,
    expires: Timestamp,
    settings: Digest,
    difference: Value,
}

/// It was tried on what the site was asked before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staged {
    seen: Seen,
}

/// Enough people approved exactly what they saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approved {
    seen: Seen,
    approvers: Vec<String>,
}

/// It runs, since a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Active {
    generation: Generation,
}

/// A later one took its place in a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superseded {
    by: Generation,
}

/// The one before came back in a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolledBack {
    by: Generation,
}

/// It may never run again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked;

/// What is known of a bundle once it is verified.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The name under which it would be active.
    pub name: PluginName,
    /// The bundle's version.
    pub version: u64,
    /// When its signatures expire.
    pub expires: Timestamp,
    /// Digest of the settings, or of the document.
    pub settings: Digest,
    /// What changes against the active bundle, as the approvers are shown it; `null` where nothing of that name is active.
    pub difference: Value,
}

/// What a staging report says that approvals depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The digest of the report's statement.
    pub digest: Digest,
    /// The content that was tried.
    pub content: Digest,
    /// The generation that it was compared with.
    pub generation: Generation,
    /// Names of recorded requests that were denied and would be allowed: each wants a reason of each approver.
    pub newly_allowed: BTreeSet<String>,
    /// Until when the report counts.
    pub expires: Timestamp,
}

/// Everything that an approver sees and signs the digest of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Seen {
    /// The site's name.
    pub site: String,
    /// The digest of its root of trust.
    pub root: Digest,
    /// The name under which it would be active.
    pub name: PluginName,
    /// The bundle's version.
    pub version: u64,
    /// The digest of what the bundle's signatures are over.
    pub content: Digest,
    /// What changes against the active bundle.
    pub difference: Value,
    /// Digest of the settings, or of the document.
    pub settings: Digest,
    /// The digest of the staging report.
    pub report: Digest,
    /// The generation that all of this was compared with.
    pub generation: Generation,
    /// Recorded requests that would be allowed from now on.
    pub newly_allowed: BTreeSet<String>,
    /// Who asks for it.
    pub requester: String,
    /// Until when it can be approved and activated.
    pub expires: Timestamp,
}

impl Seen {
    /// SHA-256 of its canonical JSON: what is compared, and signed.
    ///
    /// # Errors
    /// [`ApprovalError::Malformed`].
    pub fn digest(&self) -> Result<Digest, ApprovalError> {
        let malformed = |error: serde_json::Error| ApprovalError::Malformed(error.to_string());
        // Through a value, whose members are sorted.
        let value = serde_json::to_value(self).map_err(malformed)?;
        Ok(Digest::of(&serde_json::to_vec(&value).map_err(malformed)?))
    }
}

impl<S> Change<S> {
    /// The digest of what the bundle's signatures are over: names the change, whoever signed.
    pub fn content(&self) -> Digest {
        self.content
    }

    /// Who asks for it.
    pub fn requester(&self) -> &str {
        &self.requester
    }

    /// The state.
    pub fn state(&self) -> &S {
        &self.state
    }

    fn to<T>(self, state: T) -> Change<T> {
        Change { content: self.content, requester: self.requester, state }
    }
}

impl Change<Received> {
    /// A change that `requester`, who has proven to be it, asks for.
    pub fn received(content: Digest, requester: String) -> Self {
        Self { content, requester, state: Received }
    }

    /// The next state, with what was found.
    pub fn verified(self, facts: Facts) -> Change<Verified> {
        let Facts { name, version, expires, settings, difference } = facts;
        self.to(Verified { name, version, expires, settings, difference })
    }
}

impl Change<Verified> {
    /// What changes against the active bundle.
    pub fn difference(&self) -> &Value {
        &self.state.difference
    }

    /// The next state, by a report that is about this change and about what runs now, in date at `now`.
    ///
    /// # Errors
    /// [`ApprovalError::OtherReport`], [`ApprovalError::Stale`], [`ApprovalError::Expired`].
    pub fn staged(
        self,
        report: Report,
        site: &str,
        root: Digest,
        generation: Generation,
        now: Timestamp,
    ) -> Result<Change<Staged>, ApprovalError> {
        if report.content != self.content {
            return Err(ApprovalError::OtherReport { content: report.content });
        }
        if report.generation != generation {
            return Err(ApprovalError::Stale { then: report.generation, now: generation });
        }
        let expires = report.expires.min(self.state.expires);
        if now > expires {
            return Err(ApprovalError::Expired { at: expires });
        }
        let Verified { name, version, settings, ref difference, .. } = self.state;
        let seen = Seen {
            site: site.to_owned(),
            root,
            name: name.clone(),
            version,
            content: self.content,
            difference: difference.clone(),
            settings,
            report: report.digest,
            generation,
            newly_allowed: report.newly_allowed,
            requester: self.requester.clone(),
            expires,
        };
        Ok(Change { content: self.content, requester: self.requester, state: Staged { seen } })
    }
}

impl Change<Staged> {
    /// What an approver has to see.
    pub fn seen(&self) -> &Seen {
        &self.state.seen
    }

    /// The next state, by approvals of exactly this by enough different people, none of whom asked for it.
    ///
    /// # Errors
    /// [`ApprovalError::OtherThing`], [`ApprovalError::SamePerson`], [`ApprovalError::Requester`], [`ApprovalError::TooFew`].
    pub fn approved(self, approvals: &[Approval]) -> Result<Change<Approved>, ApprovalError> {
        let digest = self.state.seen.digest()?;
        let mut approvers: Vec<String> = Vec::new();
        for approval in approvals {
            let name = approval.approver().to_owned();
            if approval.seen() != digest {
                return Err(ApprovalError::OtherThing { approver: name });
            }
            if name == self.requester {
                return Err(ApprovalError::Requester { name });
            }
            if approvers.contains(&name) {
                return Err(ApprovalError::SamePerson { name });
            }
            approvers.push(name);
        }
        if approvers.len() < THRESHOLD {
            return Err(ApprovalError::TooFew { found: approvers.len(), needed: THRESHOLD });
        }
        approvers.sort();
        let Staged { seen } = self.state;
        Ok(Change { content: self.content, requester: self.requester, state: Approved { seen, approvers } })
    }
}

impl Change<Approved> {
    /// What was approved.
    pub fn seen(&self) -> &Seen {
        &self.state.seen
    }

    /// By whom, sorted.
    pub fn approvers(&self) -> &[String] {
        &self.state.approvers
    }

    /// The next state: it runs since `generation`.
    pub fn activated(self, generation: Generation) -> Change<Active> {
        self.to(Active { generation })
    }
}

impl Change<Active> {
    /// Since when it runs.
    pub fn generation(&self) -> Generation {
        self.state.generation
    }

    /// A later change took its place.
    pub fn superseded(self, by: Generation) -> Change<Superseded> {
        self.to(Superseded { by })
    }

    /// The one before it came back.
    pub fn rolled_back(self, by: Generation) -> Change<RolledBack> {
        self.to(RolledBack { by })
    }

    /// It may never run again.
    pub fn revoked(self) -> Change<Revoked> {
        self.to(Revoked)
    }
}

impl Change<Superseded> {
    /// In which generation.
    pub fn by(&self) -> Generation {
        self.state.by
    }

    /// It may never come back.
    pub fn revoked(self) -> Change<Revoked> {
        self.to(Revoked)
    }
}

impl Change<RolledBack> {
    /// In which generation.
    pub fn by(&self) -> Generation {
        self.state.by
    }

    /// It may never come back.
    pub fn revoked(self) -> Change<Revoked> {
        self.to(Revoked)
    }
}

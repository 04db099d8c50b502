//! The life of a key's versions: proposed, noticed, eligible, in force, superseded, re-encrypted, scheduled, destroyed.
//!
//! The core of rotation and destruction, without I/O: approvals, log and counts go in, the next state comes out. A step that the
//! state does not allow is refused by name. What the custodians' statements have to name:
//!
//! | step | operation | key | version | subject |
//! |---|---|---|---|---|
//! | notice | `rotate` | the one in force | the next | none |
//! | activation | `rotate` | the next, made during the notice | the next | digest of the notice |
//! | emergency | `rotate-emergency` | the one in force | the next | none |
//! | destruction | `destroy` | the superseded one | its own | none |

use casemate_hsm::{KeyId, KeyRef};
use casemate_types::Digest;
use serde::{Deserialize, Serialize};

use crate::CustodyError;
use crate::approval::{Approved, AuditHeads};
use crate::statement::{Operation, Statement};
use crate::text::{TokenSerial, UnixTime};

/// The shortest notice, in seconds. Nothing makes it shorter but the emergency path, which says that it is one.
pub const NOTICE_SECONDS: u64 = 48 * 3600;

/// How much of the time between two records of the log counts towards the notice, in seconds: a clock that jumps forward makes one
/// long gap, and a site that is looked at once a day has none.
pub const COUNTED_GAP_SECONDS: u64 = 24 * 3600;

/// What the reason of an emergency begins with, followed by a colon and words.
pub const EMERGENCY_CODES: [&str; 5] =
    ["custodian-left", "device-lost", "key-compromised", "key-suspected", "legal-order"];

/// The versions of one key. The reference of the key in force is kept by the site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct KeyVersions {
    in_force: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ahead: Option<Ahead>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    older: Vec<Older>,
}

/// A version that is to come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Ahead {
    /// Somebody wants it. Nothing is made, and no time runs.
    Proposed {
        /// Since when.
        at: UnixTime,
    },
    /// Custodians gave notice; the key is made and waits.
    Noticed(Notice),
}

/// A notice that was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Notice {
    /// SHA-256 of the approved statement; the activating statement has it as its subject.
    pub statement: Digest,
    /// From when the notice runs.
    pub from: UnixTime,
    /// The log's record of it.
    pub record: u64,
    /// The next version.
    pub next: KeyRef,
}

impl Notice {
    /// The first moment at which the next version can be put in force.
    pub fn until(&self) -> UnixTime {
        UnixTime(self.from.0.saturating_add(NOTICE_SECONDS))
    }
}

/// A version that is no longer in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Older {
    /// Its number.
    pub version: u32,
    /// The key.
    pub key: KeyRef,
    /// Where it stands.
    pub stage: Stage,
    /// On whose word it is destroyed, or was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
}

/// The approval of a version's destruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct End {
    /// SHA-256 of the statement.
    pub statement: Digest,
    /// The record of the audit log that names it; the proofs come after it.
    pub record: u64,
}

/// Where a version that is no longer in force stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Data is still encrypted under it; it only decrypts.
    DecryptOnly,
    /// A count found nothing under it any more.
    ReEncrypted,
    /// Custodians approved its destruction, which has begun.
    DestroyScheduled,
    /// It is gone from the token.
    Destroyed,
}

/// The right to put a version in force. Made only by [`KeyVersions::eligible`] and [`KeyVersions::emergency`].
#[derive(Debug)]
pub struct Activation {
    version: u32,
    emergency: bool,
}

impl Activation {
    /// The version that comes into force.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Whether there was no notice.
    pub fn is_emergency(&self) -> bool {
        self.emergency
    }
}

impl Default for KeyVersions {
    /// A key that was never rotated.
    fn default() -> Self {
        Self { in_force: 1, ahead: None, older: Vec::new() }
    }
}

impl KeyVersions {
    /// The version in force.
    pub fn in_force(&self) -> u32 {
        self.in_force
    }

    /// The version that is to come, if a rotation is under way.
    pub fn ahead(&self) -> Option<&Ahead> {
        self.ahead.as_ref()
    }

    /// Versions that are no longer in force, oldest first.
    pub fn older(&self) -> &[Older] {
        &self.older
    }

    /// Proposes the next version.
    ///
    /// # Errors
    /// [`RotationError::UnderWay`]; [`RotationError::OlderInUse`] while data is encrypted under an older version.
    pub fn propose(&mut self, at: UnixTime) -> Result<(), RotationError> {
        self.nothing_older_in_use()?;
        if self.ahead.is_some() {
            return Err(RotationError::UnderWay { next: self.next() });
        }
        self.ahead = Some(Ahead::Proposed { at });
        Ok(())
    }

    /// Takes a proposal or a notice back. Returns the key that was made for it.
    ///
    /// # Errors
    /// [`RotationError::NotProposed`].
    pub fn withdraw(&mut self) -> Result<Option<KeyRef>, RotationError> {
        match self.ahead.take() {
            None => Err(RotationError::NotProposed),
            Some(Ahead::Proposed { .. }) => Ok(None),
            Some(Ahead::Noticed(notice)) => Ok(Some(notice.next)),
        }
    }

    /// Checks that the custodians approved giving notice.
    ///
    /// # Errors
    /// [`RotationError::NotProposed`], [`RotationError::UnderWay`], [`RotationError::OtherVersion`],
    /// [`RotationError::OtherNotice`] for a statement that has a subject, [`RotationError::Approval`] for another operation, key or
    /// token.
    pub fn may_notice(
        &self,
        approved: &Approved<Statement>,
        current: KeyId,
        token: &TokenSerial,
    ) -> Result<(), RotationError> {
        match self.ahead {
            None => return Err(RotationError::NotProposed),
            Some(Ahead::Noticed(_)) => return Err(RotationError::UnderWay { next: self.next() }),
            Some(Ahead::Proposed { .. }) => {}
        }
        self.permitted(approved, Operation::Rotate, current, self.next(), token)?;
        if approved.statement().subject.is_some() { Err(RotationError::OtherNotice) } else { Ok(()) }
    }

    /// Notes a notice, after [`KeyVersions::may_notice`].
    ///
    /// # Errors
    /// [`RotationError::NotProposed`].
    pub fn notice(&mut self, notice: Notice) -> Result<(), RotationError> {
        if !matches!(self.ahead, Some(Ahead::Proposed { .. })) {
            return Err(RotationError::NotProposed);
        }
        self.ahead = Some(Ahead::Noticed(notice));
        Ok(())
    }

    /// Whether the next version may come into force: 48 hours after the notice by the clock, by the log and by the custodians, whose
    /// second statement is good from then on only.
    ///
    /// # Errors
    /// [`RotationError::NotNoticed`], [`RotationError::OtherNotice`], [`RotationError::OtherVersion`],
    /// [`RotationError::PromisedTooEarly`], [`RotationError::BeforeNotice`], [`RotationError::NoticeRunning`],
    /// [`RotationError::NoticeUncounted`], [`RotationError::Approval`].
    pub fn eligible(
        &self,
        approved: &Approved<Statement>,
        token: &TokenSerial,
        log: &dyn AuditHeads,
    ) -> Result<Activation, RotationError> {
        let Some(Ahead::Noticed(notice)) = &self.ahead else { return Err(RotationError::NotNoticed) };
        let statement = approved.statement();
        if statement.subject != Some(notice.statement) {
            return Err(RotationError::OtherNotice);
        }
        self.permitted(approved, Operation::Rotate, notice.next.id, self.next(), token)?;
        let until = notice.until();
        if statement.not_before < until {
            return Err(RotationError::PromisedTooEarly { not_before: statement.not_before, until });
        }
        if statement.audit_head.size <= notice.record {
            return Err(RotationError::BeforeNotice);
        }
        if approved.at() < until {
            return Err(RotationError::NoticeRunning { until, now: approved.at() });
        }
        let counted = counted(log, notice.record, approved.at())?;
        if counted < NOTICE_SECONDS {
            return Err(RotationError::NoticeUncounted { counted });
        }
        Ok(Activation { version: self.next(), emergency: false })
    }

    /// Whether the next version may come into force at once.
    ///
    /// # Errors
    /// [`RotationError::EmergencyReason`], [`RotationError::OlderInUse`], [`RotationError::OtherVersion`],
    /// [`RotationError::Approval`].
    pub fn emergency(
        &self,
        approved: &Approved<Statement>,
        current: KeyId,
        token: &TokenSerial,
    ) -> Result<Activation, RotationError> {
        self.nothing_older_in_use()?;
        self.permitted(approved, Operation::RotateEmergency, current, self.next(), token)?;
        let reason = approved.statement().reason.split_once(':');
        let reason = reason.filter(|(code, words)| EMERGENCY_CODES.contains(code) && !words.trim().is_empty());
        if reason.is_none() {
            return Err(RotationError::EmergencyReason);
        }
        Ok(Activation { version: self.next(), emergency: true })
    }

    /// Puts the next version in force; `before` is the key that was. Returns the key made during a notice that this overtakes.
    pub fn activate(&mut self, activation: &Activation, before: KeyRef) -> Option<KeyRef> {
        self.older.push(Older { version: self.in_force, key: before, stage: Stage::DecryptOnly, end: None });
        self.in_force = activation.version;
        match self.ahead.take() {
            Some(Ahead::Noticed(notice)) => Some(notice.next),
            _ => None,
        }
    }

    /// Notes a count of what is still encrypted under older versions.
    ///
    /// # Errors
    /// [`RotationError::NotReEncrypted`] when something is left.
    pub fn counted(&mut self, left: u64) -> Result<(), RotationError> {
        if left > 0 {
            return Err(RotationError::NotReEncrypted { left: Some(left) });
        }
        for older in self.older.iter_mut().filter(|older| older.stage == Stage::DecryptOnly) {
            older.stage = Stage::ReEncrypted;
        }
        Ok(())
    }

    /// Schedules a version's destruction: from then on it is destroyed, whatever cuts it off. `record` names the approval in the log.
    ///
    /// # Errors
    /// [`RotationError::InForce`], [`RotationError::Unknown`], [`RotationError::NotReEncrypted`], [`RotationError::Gone`],
    /// [`RotationError::OtherVersion`], [`RotationError::Approval`].
    pub fn schedule_destruction(
        &mut self,
        approved: &Approved<Statement>,
        version: u32,
        token: &TokenSerial,
        record: u64,
    ) -> Result<(), RotationError> {
        if version == self.in_force {
            return Err(RotationError::InForce { version });
        }
        let place = self.older.iter().position(|older| older.version == version);
        let older = place.and_then(|place| self.older.get(place)).ok_or(RotationError::Unknown { version })?;
        match older.stage {
            Stage::DecryptOnly => return Err(RotationError::NotReEncrypted { left: None }),
            Stage::DestroyScheduled | Stage::Destroyed => return Err(RotationError::Gone { version }),
            Stage::ReEncrypted => {}
        }
        self.permitted(approved, Operation::Destroy, older.key.id, version, token)?;
        if let Some(older) = place.and_then(|place| self.older.get_mut(place)) {
            older.stage = Stage::DestroyScheduled;
            older.end = Some(End { statement: approved.digest(), record });
        }
        Ok(())
    }

    /// Notes that a scheduled destruction is done and proven.
    pub fn destroyed(&mut self, key: &KeyRef) {
        let scheduled = |older: &&mut Older| older.key.id == key.id && older.stage == Stage::DestroyScheduled;
        if let Some(older) = self.older.iter_mut().find(scheduled) {
            older.stage = Stage::Destroyed;
        }
    }

    /// The number of the version that comes next.
    pub fn next(&self) -> u32 {
        self.in_force.saturating_add(1)
    }

    fn nothing_older_in_use(&self) -> Result<(), RotationError> {
        match self.older.iter().find(|older| older.stage == Stage::DecryptOnly) {
            Some(older) => Err(RotationError::OlderInUse { version: older.version }),
            None => Ok(()),
        }
    }

    fn permitted(
        &self,
        approved: &Approved<Statement>,
        operation: Operation,
        key: KeyId,
        version: u32,
        token: &TokenSerial,
    ) -> Result<(), RotationError> {
        approved.permits(operation, Some(key), Some(token))?;
        match approved.statement().version {
            Some(named) if named == version => Ok(()),
            named => Err(RotationError::OtherVersion { named, wanted: version }),
        }
    }
}

/// Seconds from record `from` of the log until `now`, of each gap between records no more than [`COUNTED_GAP_SECONDS`].
///
/// # Errors
/// [`CustodyError::ClockBehind`] when `now` is before the last record; [`CustodyError::AuditLog`].
pub fn counted(log: &dyn AuditHeads, from: u64, now: UnixTime) -> Result<u64, CustodyError> {
    let times = log.times_from(from)?;
    let Some(first) = times.first() else { return Ok(0) };
    let (mut last, mut counted) = (*first, 0_u64);
    for time in times.iter().skip(1) {
        counted = counted.saturating_add(time.0.saturating_sub(last.0).min(COUNTED_GAP_SECONDS));
        last = last.max(*time);
    }
    if now < last {
        return Err(CustodyError::ClockBehind { now, recorded: last });
    }
    Ok(counted.saturating_add((now.0 - last.0).min(COUNTED_GAP_SECONDS)))
}

/// Why a step of a rotation or a destruction is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RotationError {
    /// The approval is not for this.
    #[error(transparent)]
    Approval(#[from] CustodyError),
    /// The activating statement was written before the notice was in the log.
    #[error("activate a version: the statement was written before the notice was recorded; request a new one")]
    BeforeNotice,
    /// No reason code.
    #[error("rotate at once: the reason must begin with a code ({}) and a colon", EMERGENCY_CODES.join(", "))]
    EmergencyReason,
    /// The version is being destroyed or is destroyed.
    #[error("destroy version {version}: its destruction was approved before")]
    Gone {
        /// Which.
        version: u32,
    },
    /// The version in force is not destroyed.
    #[error("destroy version {version}: it is in force; rotate first")]
    InForce {
        /// Which.
        version: u32,
    },
    /// The notice is still running.
    #[error("activate a version: the notice runs until {until}, and it is {now}")]
    NoticeRunning {
        /// Until when.
        until: UnixTime,
        /// The clock.
        now: UnixTime,
    },
    /// The audit log does not bear the notice out.
    #[error(
        "activate a version: the clock says that 48 hours have passed, and the audit log bears out {counted} s of {NOTICE_SECONDS}; \
         was the clock set forward? `casemate keys rotate status` once a day lets the time count"
    )]
    NoticeUncounted {
        /// Seconds that count.
        counted: u64,
    },
    /// There is no notice.
    #[error("activate a version: no notice was given; `casemate keys rotate notice` first")]
    NotNoticed,
    /// There is no proposal.
    #[error("no rotation was proposed; `casemate keys rotate propose` first")]
    NotProposed,
    /// Data is still encrypted under the version.
    #[error(
        "data is still encrypted under the old version{}; `casemate keys rotate reencrypt` first",
        left.map_or_else(String::new, |left| format!(" ({left} records)"))
    )]
    NotReEncrypted {
        /// How many records, where they were counted.
        left: Option<u64>,
    },
    /// An older version is in use.
    #[error("data is still encrypted under version {version}; `casemate keys rotate reencrypt` first")]
    OlderInUse {
        /// Which.
        version: u32,
    },
    /// The statement belongs to another notice.
    #[error(
        "the statement is about another step: a notice has no subject, an activation the digest of the notice as its subject"
    )]
    OtherNotice,
    /// The statement is about another version.
    #[error("the statement names version {named:?}, and this is about version {wanted}; have the right one approved")]
    OtherVersion {
        /// In the statement.
        named: Option<u32>,
        /// The right one.
        wanted: u32,
    },
    /// The activating statement could have been used before the notice was over.
    #[error(
        "activate a version: the statement is good from {not_before}, and the notice runs until {until}; request a new one"
    )]
    PromisedTooEarly {
        /// In the statement.
        not_before: UnixTime,
        /// Until when the notice runs.
        until: UnixTime,
    },
    /// A rotation is under way.
    #[error("a rotation to version {next} is under way; `casemate keys rotate status`")]
    UnderWay {
        /// To which.
        next: u32,
    },
    /// There is no such version.
    #[error("there is no version {version} of this key")]
    Unknown {
        /// Which.
        version: u32,
    },
}

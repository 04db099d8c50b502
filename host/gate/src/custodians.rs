//! Who may decide about keys: the roster that a site has adopted, and what an operation needs of its custodians.
//!
//! The roster's digest stands in `state.json` under the HMAC of the token, so that nobody who can write files exchanges it or takes it
//! away. From its adoption on, what makes or gives keys needs two custodians' statement about exactly that; what only takes away
//! (`keys revoke`) does not.

use casemate_audit::Event;
use casemate_custody::{Approved, Operation, Roster, Statement, TokenSerial};
use casemate_hsm::KeyRef;
use casemate_types::{CompartmentName, Digest, Profile, UserName};
use serde::{Deserialize, Serialize};

use crate::GateError;
use crate::config::{CompartmentRule, SiteConfig, UserConfig};
use crate::keys::Office;
use crate::site::Gate;
use crate::state::{SiteKey, SiteState};

/// The roster in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AdoptedRoster {
    /// Its digest, which statements name.
    pub digest: Digest,
    /// Its epoch.
    pub epoch: u64,
}

/// An operation on keys that custodians approve.
#[derive(Debug, Clone)]
pub enum KeyRequest {
    /// A new user, and a key for the user.
    AddUser {
        /// Who.
        name: UserName,
        /// What the key is issued for.
        attributes: UserConfig,
    },
    /// A key for what the policy file gives a user now.
    Issue {
        /// Who.
        name: UserName,
    },
    /// First keys for all users of the policy file who have none.
    IssueMissing,
    /// A new credential, and a key, for the same attributes.
    RenewCredential {
        /// Who.
        name: UserName,
    },
    /// The keys of a compartment.
    AddCompartment {
        /// Which.
        name: CompartmentName,
        /// Who belongs to it; that of the policy file otherwise.
        rule: Option<CompartmentRule>,
    },
    /// A new key for the audit log.
    RotateLogKey,
}

/// What a statement about a [`KeyRequest`] has to say.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Its operation.
    pub operation: Operation,
    /// Its key.
    pub key: KeyRef,
    /// Its subject: the digest of the request with all that it gives.
    pub subject: Digest,
    /// Its reason, which custodians read.
    pub reason: String,
    /// Its tokens.
    pub tokens: Vec<String>,
}

impl Gate {
    /// The roster in force.
    pub fn adopted_roster(&self) -> Option<AdoptedRoster> {
        self.state().roster.clone()
    }

    /// Adopts the site's first roster, or with its approval the next one.
    ///
    /// # Errors
    /// [`GateError::KeyOffice`] for a roster of another site or epoch, and without the approval that a change needs.
    pub fn adopt_roster(
        &self,
        by: &str,
        roster: &Roster,
        approved: Option<&Approved<Statement>>,
    ) -> Result<AdoptedRoster, GateError> {
        let mut office = self.office(by)?;
        let refuse = |why: String| Err(GateError::KeyOffice(why));
        if roster.site() != self.config.name {
            return refuse(format!("the roster is of site `{}`, this is `{}`", roster.site(), self.config.name));
        }
        let adopted = AdoptedRoster { digest: roster.digest(), epoch: roster.epoch() };
        match (&office.state.roster, approved) {
            (Some(held), _) if *held == adopted => return Ok(adopted),
            (None, None) => {}
            (None, Some(_)) => return refuse("no roster is in force that could approve another".to_owned()),
            (Some(held), None) => {
                return refuse(format!(
                    "roster {} of epoch {} is in force; a new one needs its custodians' approval (operation change-roster)",
                    held.digest, held.epoch
                ));
            }
            (Some(held), Some(approved)) => {
                if adopted.epoch != held.epoch.saturating_add(1) {
                    return refuse(format!("the next roster has epoch {}, not {}", held.epoch + 1, adopted.epoch));
                }
                of_roster(held, approved)?;
                approved.permits(Operation::ChangeRoster, None, None)?;
                if approved.statement().subject != Some(adopted.digest) {
                    return refuse("the custodians approved another roster".to_owned());
                }
                office.approved(approved)?;
            }
        }
        let detail = format!("{} of epoch {}, {} of {}", adopted.digest, adopted.epoch, roster.threshold(), roster.custodians().len());
        self.journal.record_blocking(Event::Site { action: "roster-adopted".to_owned(), detail })?;
        office.state.roster = Some(adopted.clone());
        office.commit()?;
        Ok(adopted)
    }

    /// What a statement has to say so that the request is done.
    ///
    /// # Errors
    /// [`GateError::KeyOffice`] for somebody whom the policy file does not know.
    pub fn wanted(&self, request: &KeyRequest) -> Result<Wanted, GateError> {
        wanted(self, &SiteConfig::read(&self.dir)?, &self.state(), request)
    }

    /// Checks, and notes in the log, that custodians approved the rotation of the log's key, where the site has custodians.
    ///
    /// # Errors
    /// As for every operation on keys.
    pub fn may_rotate_log_key(&self, by: &str, approved: Option<&Approved<Statement>>) -> Result<(), GateError> {
        self.office(by)?.require(&KeyRequest::RotateLogKey, approved)
    }

    /// The first of the site's tokens, after the statement was seen to be of the roster in force and to name all tokens.
    pub(crate) fn permitted_tokens(&self, approved: &Approved<Statement>) -> Result<TokenSerial, GateError> {
        match &self.state().roster {
            Some(held) => of_roster(held, approved)?,
            None => return Err(GateError::KeyOffice(NO_ROSTER.to_owned())),
        }
        let serials = self.keyring.serials();
        let serials = serials.iter().map(|serial| serial.parse()).collect::<Result<Vec<TokenSerial>, _>>()?;
        serials.iter().try_for_each(|serial| approved.permits_token(serial))?;
        serials.into_iter().next().ok_or(GateError::StateIncomplete { what: "a token".to_owned() })
    }
}

const NO_ROSTER: &str = "this site has no custodians; `casemate custodian roster adopt` first";

impl Office<'_> {
    /// Refuses what custodians did not approve. Without a roster that is everything, but for a rehearsal or a development site.
    pub(crate) fn require(
        &self,
        request: &KeyRequest,
        approved: Option<&Approved<Statement>>,
    ) -> Result<(), GateError> {
        let refuse = |why: String| Err(GateError::KeyOffice(why));
        let approved = match (&self.state.roster, approved) {
            (None, None) if matches!(self.gate.config.profile, Profile::Rehearsal | Profile::Development) => return Ok(()),
            (None, _) => return refuse(NO_ROSTER.to_owned()),
            (Some(_), None) => {
                return refuse(
                    "two custodians decide this: write the request with --ask FILE --requester WHO, have them sign it, and give it \
                     with --statement FILE"
                        .to_owned(),
                );
            }
            (Some(_), Some(approved)) => approved,
        };
        self.gate.permitted_tokens(approved)?;
        let wanted = wanted(self.gate, self.config(), &self.state, request)?;
        approved.permits(wanted.operation, Some(wanted.key.id), None)?;
        let statement = approved.statement();
        if statement.subject != Some(wanted.subject) || statement.reason != wanted.reason {
            return refuse(format!("the custodians approved something else: `{}`, not `{}`", statement.reason, wanted.reason));
        }
        self.approved(approved)
    }
}

fn of_roster(held: &AdoptedRoster, approved: &Approved<Statement>) -> Result<(), GateError> {
    if approved.statement().roster == held.digest {
        return Ok(());
    }
    let why = format!("the statement was signed under another roster than the one in force ({})", held.digest);
    Err(GateError::KeyOffice(why))
}

fn wanted(gate: &Gate, config: &SiteConfig, state: &SiteState, request: &KeyRequest) -> Result<Wanted, GateError> {
    let unknown = |name: &UserName| GateError::KeyOffice(format!("site.toml knows no user `{name}`"));
    let entry = |name: &UserName| config.users.get(name).ok_or_else(|| unknown(name));
    // All that is given stands in the subject, and as much as fits a line in the words.
    let (operation, key, said, what) = match request {
        KeyRequest::AddUser { name, attributes } => {
            (Operation::Issue, SiteKey::UserKekWrapping, format!("add-user {name}"), json(attributes)?)
        }
        KeyRequest::Issue { name } => {
            (Operation::Issue, SiteKey::UserKekWrapping, format!("issue {name}"), json(entry(name)?)?)
        }
        KeyRequest::RenewCredential { name } => {
            (Operation::Issue, SiteKey::UserKekWrapping, format!("renew-credential {name}"), json(entry(name)?)?)
        }
        KeyRequest::IssueMissing => {
            let missing: Vec<_> = config.users.iter().filter(|(name, _)| !state.users.contains_key(*name)).collect();
            let said = format!("issue --all: {} users", missing.len());
            (Operation::Issue, SiteKey::UserKekWrapping, said, json(&missing)?)
        }
        KeyRequest::AddCompartment { name, rule } => {
            let rule = rule.as_ref().or(config.compartments.get(name));
            (Operation::Issue, SiteKey::UserKekWrapping, format!("add-compartment {name}"), json(&rule)?)
        }
        KeyRequest::RotateLogKey => (Operation::Rotate, SiteKey::Audit, "rotate the log's key".to_owned(), String::new()),
    };
    let subject = Digest::of_parts(&[b"casemate key request 1\0", said.as_bytes(), b"\0", what.as_bytes()]);
    let reason: String = format!("{said} {what}").trim().chars().take(480).collect();
    Ok(Wanted { operation, key: state.key(key)?.clone(), subject, reason, tokens: gate.keyring.serials() })
}

fn json(value: &impl Serialize) -> Result<String, GateError> {
    serde_json::to_string(value).map_err(crate::collection::store)
}

//! The key office: users and compartments come, change and go while the site exists.
//!
//! Each operation is recorded before (`begun`) and after, and is committed by one replacement of `state.json`; cut off at any
//! point, the old state or the new one is in force, and the next opening tidies up. Whatever ends a user's key (revocation, a new
//! issue, a new credential) also replaces the key that wraps all users' key-encryption keys and destroys the old one in the token:
//! a copy of the old state opens nothing any more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::MutexGuard;

use casemate_custody::{CustodyError, Grant, Operation};
use casemate_hsm::{HsmError, KeyClass, KeyRef};
use casemate_types::{CompartmentName, Digest, UserName};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::GateError;
use crate::config::{CompartmentRule, SiteConfig, UserConfig};
use crate::consent::{Consent, Desk, Officer, Wanted};
use crate::doomed::WRAPPING_LABEL;
use crate::journal::officer_operation;
use crate::policy_file;
use crate::session::{SECRETS, compartment_aad};
use crate::site::Gate;
use crate::state::{CompartmentState, SiteKey, SiteState, write_private};
use crate::user_key::{self, Issuer};
use crate::vault::{VaultKey, is_down};

/// A key that was issued.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Issued {
    /// To whom.
    pub user: UserName,
    /// Which key of the site it is.
    pub version: u64,
    /// The compartments it opens.
    pub compartments: BTreeSet<CompartmentName>,
    /// Compartments the user's last key opened and this one does not.
    pub lost: BTreeSet<CompartmentName>,
    /// Where the new credential lies; nothing when the user keeps the old one.
    pub credential: Option<PathBuf>,
}

/// The site's keys, for people.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct KeyList {
    /// Key objects in the token. Does not grow with users.
    pub token_objects: usize,
    /// The site's own keys and the compartments', by name.
    pub keys: BTreeMap<String, KeyRef>,
    /// Users of the policy file and of the state.
    pub users: Vec<UserLine>,
}

/// One user's key.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct UserLine {
    /// Whose.
    pub user: UserName,
    /// Which key of the site it is.
    pub version: Option<u64>,
    /// Check value of the user's key-encryption key.
    pub check: Option<String>,
    /// The compartments it opens.
    pub compartments: BTreeSet<CompartmentName>,
    /// Whether the user can open a session, or why not, or what is about to change.
    pub status: UserStatus,
}

/// Where a user stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum UserStatus {
    /// Policy file and key agree.
    Issued,
    /// The policy file says something else than the key: what both say counts.
    AttributesChanged,
    /// In the policy file, without a key.
    NoKey,
    /// With a key, and no longer in the policy file: no session opens.
    NotInPolicy,
}

impl Gate {
    /// Every key and user of the site.
    ///
    /// # Errors
    /// As the token answers.
    pub fn key_list(&self) -> Result<KeyList, GateError> {
        let (state, policy) = (self.state(), self.policy());
        let site_keys = state.keys.values().map(|key| (key.label.clone(), key.clone()));
        let compartments = state.compartments.values().map(|held| (held.key.label.clone(), held.key.clone()));
        let names: BTreeSet<&UserName> = policy.users.keys().chain(state.users.keys()).collect();
        let users = names
            .into_iter()
            .map(|name| {
                let (said, held) = (policy.users.get(name), state.users.get(name));
                let changed = held.is_some_and(|held| {
                    said != Some(&held.attributes) || policy.compartments_of(&held.attributes) != held.compartments
                });
                UserLine {
                    user: name.clone(),
                    version: held.map(|held| held.version),
                    check: held.map(|held| held.kek.key.check.clone()),
                    compartments: held.map(|held| held.compartments.clone()).unwrap_or_default(),
                    status: match (said, held) {
                        (None, _) => UserStatus::NotInPolicy,
                        (_, None) => UserStatus::NoKey,
                        _ if changed => UserStatus::AttributesChanged,
                        _ => UserStatus::Issued,
                    },
                }
            })
            .collect();
        let token_objects = self.keyring.key_count()?;
        Ok(KeyList { token_objects, keys: site_keys.chain(compartments).collect(), users })
    }

    /// Adds a user to the policy file and issues a key for the given attributes.
    ///
    /// # Errors
    /// [`GateError::KeyOffice`] for a user who is there with a key or with other attributes; as the token answers.
    pub fn add_user(&self, by: &Officer<'_>, name: &UserName, attributes: &UserConfig) -> Result<Issued, GateError> {
        let mut office = self.office(by.name)?;
        if let Some(held) = office.config.users.get(name) {
            // A command that was cut off between policy file and state is finished by the same command.
            if held != attributes || office.state.users.contains_key(name) {
                return Err(GateError::KeyOffice(format!(
                    "`{name}` is a user already; change site.toml, then `casemate keys issue {name}`"
                )));
            }
        }
        if office.state.users.contains_key(name) {
            return Err(GateError::KeyOffice(format!(
                "`{name}` holds a key and is not in site.toml; `casemate keys revoke {name}` first"
            )));
        }
        office.ask_to_issue(by, [(name, attributes)])?;
        office.recorded("add-user", Some(name), |office| {
            office.set_policy(policy_file::add_user(&self.dir, name, attributes)?);
            office.issue(name, None)
        })
    }

    /// Issues a key for the attributes that the policy file gives the user now. A user with a key presents the credential and
    /// keeps it; the old key ends. A user without one gets a credential.
    ///
    /// # Errors
    /// [`GateError::KeyOffice`] for somebody who is not in the policy file, [`GateError::Unauthenticated`] for a wrong credential;
    /// as the token answers.
    pub fn issue_key(&self, by: &Officer<'_>, name: &UserName, credential: Option<&str>) -> Result<Issued, GateError> {
        let mut office = self.office(by.name)?;
        office.known(name)?;
        let held = office.state.users.get(name);
        if held.is_some_and(|held| credential.map(|text| Digest::of(text.as_bytes())) != Some(held.credential)) {
            return Err(GateError::Unauthenticated);
        }
        office.check_entry(name)?;
        let kept = held.and(credential);
        office.ask_to_issue_known(by, std::slice::from_ref(name))?;
        office.recorded("issue", Some(name), |office| office.issue(name, kept))
    }

    /// Issues keys to all users of the policy file who have none.
    ///
    /// # Errors
    /// As [`Gate::issue_key`]; then nobody got one.
    pub fn issue_missing(&self, by: &Officer<'_>) -> Result<Vec<Issued>, GateError> {
        let mut office = self.office(by.name)?;
        let without = |office: &Office<'_>| {
            let state = &office.state;
            office.config.users.keys().filter(|name| !state.users.contains_key(*name)).cloned().collect::<Vec<_>>()
        };
        let names = without(&office);
        if names.is_empty() {
            return Ok(Vec::new());
        }
        office.ask_to_issue_known(by, &names)?;
        office.recorded_all("issue", |office| office.issue_all(&names))
    }

    /// Gives a user a new credential for the same attributes. The old credential and the old key end.
    ///
    /// # Errors
    /// [`GateError::AttributesChanged`] when the policy file says something else than the key; as the token answers.
    pub fn renew_credential(&self, by: &Officer<'_>, name: &UserName) -> Result<Issued, GateError> {
        let mut office = self.office(by.name)?;
        office.known(name)?;
        let held = office.state.users.get(name);
        let held =
            held.ok_or_else(|| GateError::KeyOffice(format!("`{name}` has no key: `casemate keys issue {name}`")))?;
        office.check_entry(name)?;
        if office.config.users.get(name) != Some(&held.attributes)
            || office.config.compartments_of(&held.attributes) != held.compartments
        {
            return Err(GateError::AttributesChanged { user: name.clone() });
        }
        office.ask_to_issue_known(by, std::slice::from_ref(name))?;
        office.recorded("renew-credential", Some(name), |office| office.issue(name, None))
    }

    /// Takes a user out of the policy file and ends the user's key, whatever copies of it exist. Open sessions end.
    ///
    /// # Errors
    /// [`GateError::KeyOffice`] for somebody who is neither in the policy file nor has a key; as the token answers.
    pub fn revoke(&self, by: &str, name: &UserName) -> Result<(), GateError> {
        let mut office = self.office(by)?;
        if !office.state.users.contains_key(name) {
            office.known(name)?;
        }
        office.recorded("revoke", Some(name), |office| {
            // First, because without it no session opens, whatever happens next.
            office.set_policy(policy_file::remove_user(&self.dir, name)?);
            if office.state.users.remove(name).is_some() {
                let epoch = office.begin_epoch()?;
                office.commit_epoch(epoch)?;
            }
            remove(&self.dir.join(format!("users/{name}.token")))
        })
    }

    /// Makes a compartment's keys. `rule` goes into the policy file; without it the file must have one.
    ///
    /// Returns the users who satisfy the rule: their next key opens the compartment.
    ///
    /// # Errors
    /// [`GateError::KeyOffice`] for a compartment that has keys, or that the file knows otherwise; as the token answers.
    pub fn add_compartment(
        &self,
        by: &Officer<'_>,
        name: &CompartmentName,
        rule: Option<&CompartmentRule>,
    ) -> Result<Vec<UserName>, GateError> {
        let mut office = self.office(by.name)?;
        let refuse = |why: String| Err(GateError::KeyOffice(why));
        if office.state.compartments.contains_key(name) {
            return refuse(format!("compartment `{name}` has its keys already"));
        }
        let write = match (office.config.compartments.get(name), rule) {
            (None, None) => {
                return refuse(format!(
                    "site.toml has no compartment `{name}`; say who belongs to it, or write its rule there"
                ));
            }
            (Some(held), Some(rule)) if held != rule => {
                return refuse(format!(
                    "site.toml has another rule for `{name}`; leave the options away to take that one"
                ));
            }
            (None, Some(rule)) => Some(rule),
            (Some(_), _) => None,
        };
        if write.is_some_and(|rule| rule.roles.is_empty() && rule.groups.is_empty() && rule.departments.is_empty()) {
            return refuse(format!("nobody would belong to `{name}`: name a role, a group or a department"));
        }
        let rule = write.or_else(|| office.config.compartments.get(name));
        let wanted = Wanted {
            class: Some(KeyClass::Compartment),
            name: Some(format!("compartment/{name}")),
            subject: rule.map(CompartmentRule::digest),
            ..Wanted::default()
        };
        office.ask(by, Operation::Generate, &wanted)?;
        office.recorded("add-compartment", None, |office| {
            if let Some(rule) = write {
                office.set_policy(policy_file::add_compartment(&self.dir, name, rule)?);
            }
            let (reference, key) = office.generate(KeyClass::Compartment, &format!("compartment/{name}"))?;
            let secrets = self.keyring.random(SECRETS)?;
            let sealed_secrets = self.keyring.seal(&key, compartment_aad(name).as_bytes(), &secrets)?;
            office.state.compartments.insert(name.clone(), CompartmentState { key: reference.clone(), sealed_secrets });
            office.state.doomed.retain(|doomed| doomed.id != reference.id);
            office.commit()?;
            Ok(())
        })?;
        let satisfied = |user: &UserConfig| office.config.compartments_of(user).contains(name);
        Ok(office.config.users.iter().filter(|(_, user)| satisfied(user)).map(|(name, _)| name.clone()).collect())
    }

    /// Finishes what a cut-off operation left: keys to be destroyed, and credentials that belong to a committed state or to none.
    pub(crate) fn tidy(&self) -> Result<(), GateError> {
        match self.office("the site's opening") {
            Ok(office) => settle_credentials(&self.dir, &office.state),
            // A pair opens with one token; what is to be destroyed in both waits for the other.
            Err(GateError::Hsm(error)) if is_down(&error) && self.keyring.complete().is_err() => {
                tracing::warn!(%error, "keys of an operation that was cut off are not destroyed yet");
                settle_credentials(&self.dir, &self.state())
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) fn office(&self, by: &str) -> Result<Office<'_>, GateError> {
        let exclusive = self.lock_office();
        let mut office = Office {
            gate: self,
            by: by.to_owned(),
            config: SiteConfig::read(&self.dir)?,
            state: (*self.state()).clone(),
            granted: BTreeMap::new(),
            _exclusive: exclusive,
        };
        self.check_keys(&office.state)?;
        let strays = self.stray_wrapping_keys(&office.state)?;
        office.state.doomed.extend(strays);
        office.destroy_doomed()?;
        Ok(office)
    }
}

/// One operation: what it changes becomes real with a commit.
pub(crate) struct Office<'a> {
    pub(crate) gate: &'a Gate,
    by: String,
    config: SiteConfig,
    pub(crate) state: SiteState,
    /// What custodians granted, by user.
    granted: BTreeMap<UserName, Grant>,
    _exclusive: MutexGuard<'a, ()>,
}

/// A new wrapping key, under which every user's key-encryption key lies already, and the old one.
pub(crate) struct Epoch {
    old: KeyRef,
    new: KeyRef,
}

impl Office<'_> {
    /// Asks the custodians to agree to an operation, and notes that they did. Returns the digest of what they signed; nothing on a site
    /// of one person.
    pub(crate) fn ask(
        &mut self,
        by: &Officer<'_>,
        operation: Operation,
        wanted: &Wanted,
    ) -> Result<Option<Digest>, GateError> {
        let desk = self.gate.desk(by, self.gate.keyring.serials())?;
        Ok(self.ask_at(desk, by, operation, wanted)?.1.statement())
    }

    /// Who gives the order, as it is recorded.
    pub(crate) fn by(&self) -> &str {
        &self.by
    }

    /// Records a step of an operation. Returns the record's index.
    pub(crate) fn note(&self, key: &KeyRef, operation: &str, result: &str) -> Result<u64, GateError> {
        let event = officer_operation(key, operation, None, None, &self.by, result);
        self.gate.journal.record_blocking(event)
    }

    pub(crate) fn ask_at(
        &mut self,
        desk: Option<Desk>,
        by: &Officer<'_>,
        operation: Operation,
        wanted: &Wanted,
    ) -> Result<(Option<Desk>, Consent), GateError> {
        let Some(mut desk) = desk else { return Ok((None, Consent::Alone)) };
        let consent = desk.ask(operation, wanted)?;
        if let Some(event) = consent.event() {
            self.gate.journal.record_blocking(event)?;
        }
        self.by = consent.by(by.name);
        Ok((Some(desk), consent))
    }

    /// As [`Office::ask`], for the keys of these users, of whom each is one use of a grant.
    fn ask_to_issue<'u>(
        &mut self,
        by: &Officer<'_>,
        users: impl IntoIterator<Item = (&'u UserName, &'u UserConfig)>,
    ) -> Result<(), GateError> {
        let mut desk = self.gate.desk(by, self.gate.keyring.serials())?;
        for (name, attributes) in users {
            let grant = grant(name, attributes, self.config.compartments_of(attributes));
            let wanted = Wanted { grant: Some(grant), ..Wanted::default() };
            let (kept, consent) = self.ask_at(desk, by, Operation::IssueUser, &wanted)?;
            if let Some(grant) = consent.grant() {
                self.granted.insert(name.clone(), grant.clone());
            }
            desk = kept;
        }
        Ok(())
    }

    /// As [`Office::ask_to_issue`], for users of the policy file.
    fn ask_to_issue_known(&mut self, by: &Officer<'_>, names: &[UserName]) -> Result<(), GateError> {
        let users = self.config.users.clone();
        self.ask_to_issue(by, names.iter().filter_map(|name| Some((name, users.get(name)?))))
    }

    fn known(&self, name: &UserName) -> Result<(), GateError> {
        if self.config.users.contains_key(name) {
            return Ok(());
        }
        Err(GateError::KeyOffice(format!("site.toml knows no user `{name}`; `casemate keys add-user {name}` adds one")))
    }

    /// Refuses to decide by an entry that was altered.
    fn check_entry(&self, name: &UserName) -> Result<(), GateError> {
        let Some(held) = self.state.users.get(name) else { return Ok(()) };
        let keyring = &self.gate.keyring;
        user_key::check(keyring, &keyring.find(self.state.key(SiteKey::Tokens)?)?, name, held)
    }

    /// Runs an operation between its two records.
    fn recorded<T>(
        &mut self,
        operation: &str,
        user: Option<&UserName>,
        run: impl FnOnce(&mut Self) -> Result<T, GateError>,
    ) -> Result<T, GateError> {
        let key = self.state.key(SiteKey::UserKekWrapping)?.clone();
        let version = |office: &Self| user.and_then(|user| office.state.users.get(user)).map(|held| held.version);
        let before = version(self);
        self.record(&key, operation, before, user, "begun").map(drop)?;
        let result = run(self);
        let held = user.and_then(|user| self.state.users.get(user)).map(|held| held.kek.key.clone());
        // What ended has the old version, what was made the new one.
        let after = version(self).or(before);
        let said = match &result {
            Ok(_) => "ok".to_owned(),
            Err(error) => format!("failed: {}", error.reason()),
        };
        self.record(&held.unwrap_or(key), operation, after, user, &said)?;
        result
    }

    /// As [`Office::recorded`] for several users: one record before, one for each afterwards.
    fn recorded_all(
        &mut self,
        operation: &str,
        run: impl FnOnce(&mut Self) -> Result<Vec<Issued>, GateError>,
    ) -> Result<Vec<Issued>, GateError> {
        let key = self.state.key(SiteKey::UserKekWrapping)?.clone();
        self.record(&key, operation, None, None, "begun")?;
        let result = run(self);
        match &result {
            Ok(issued) => {
                for Issued { user, version, .. } in issued {
                    let held = self.state.users.get(user).map_or(&key, |held| &held.kek.key);
                    self.record(held, operation, Some(*version), Some(user), "ok")?;
                }
            }
            Err(error) => {
                self.record(&key, operation, None, None, &format!("failed: {}", error.reason()))?;
            }
        }
        result
    }

    pub(crate) fn record(
        &self,
        key: &KeyRef,
        operation: &str,
        version: Option<u64>,
        user: Option<&UserName>,
        result: &str,
    ) -> Result<u64, GateError> {
        let event = officer_operation(key, operation, version, user.map(ToString::to_string), &self.by, result);
        self.gate.journal.record_blocking(event)
    }

    fn issue(&mut self, name: &UserName, kept: Option<&str>) -> Result<Issued, GateError> {
        let before = self.state.users.remove(name);
        // A user's first key ends nobody's.
        let epoch = if before.is_some() { Some(self.begin_epoch()?) } else { None };
        let (issued, credential) = self.prepare(name, kept, epoch.as_ref(), before.map(|held| held.compartments))?;
        if let Some(credential) = &credential {
            write_private(&pending(&self.gate.dir, name), credential.as_bytes())?;
        }
        match epoch {
            Some(epoch) => self.commit_epoch(epoch)?,
            None => self.commit()?,
        }
        if credential.is_some() {
            settle(&self.gate.dir, name, &self.state)?;
        }
        Ok(issued)
    }

    fn issue_all(&mut self, names: &[UserName]) -> Result<Vec<Issued>, GateError> {
        let mut all = Vec::new();
        for name in names {
            let (issued, credential) = self.prepare(name, None, None, None)?;
            if let Some(credential) = credential {
                write_private(&pending(&self.gate.dir, name), credential.as_bytes())?;
            }
            all.push(issued);
        }
        self.commit()?;
        names.iter().try_for_each(|name| settle(&self.gate.dir, name, &self.state))?;
        Ok(all)
    }

    /// Makes a user's key and puts it into the uncommitted state.
    fn prepare(
        &mut self,
        name: &UserName,
        kept: Option<&str>,
        epoch: Option<&Epoch>,
        before: Option<BTreeSet<CompartmentName>>,
    ) -> Result<(Issued, Option<Zeroizing<String>>), GateError> {
        let keyring = &self.gate.keyring;
        let attributes = self.config.users.get(name).cloned();
        let attributes = attributes.ok_or_else(|| GateError::StateIncomplete { what: format!("user `{name}`") })?;
        let version = self.state.issued + 1;
        let fresh = if kept.is_some() { None } else { Some(user_key::credential(keyring)?) };
        let credential = kept.or(fresh.as_ref().map(|fresh| fresh.as_str())).unwrap_or_default();
        let wrapping = match epoch {
            Some(epoch) => keyring.find(&epoch.new)?,
            None => keyring.find(self.state.key(SiteKey::UserKekWrapping)?)?,
        };
        let issuer = Issuer {
            keyring,
            wrapping: &wrapping,
            tokens: &keyring.find(self.state.key(SiteKey::Tokens)?)?,
            config: &self.config,
            compartments: &self.state.compartments,
        };
        let held = user_key::issue(&issuer, (name, version), &attributes, credential)?;
        let compartments = held.compartments.clone();
        // The file was read again since the custodians were asked; a rule may have been changed meanwhile.
        if let Some(granted) = self.granted.get(name)
            && let Some(what) = granted.exceeded_by(&grant(name, &attributes, compartments.clone()))
        {
            return Err(CustodyError::BeyondGrant { what }.into());
        }
        self.state.issued = version;
        self.state.users.insert(name.clone(), held);
        let lost = before.unwrap_or_default().difference(&compartments).cloned().collect();
        let path = fresh.as_ref().map(|_| self.gate.dir.join(format!("users/{name}.token")));
        Ok((Issued { user: name.clone(), version, compartments, lost, credential: path }, fresh))
    }

    /// Makes a new wrapping key and puts every remaining user's key-encryption key under it, in the uncommitted state.
    pub(crate) fn begin_epoch(&mut self) -> Result<Epoch, GateError> {
        let keyring = &self.gate.keyring;
        let old = self.state.key(SiteKey::UserKekWrapping)?.clone();
        let (new, new_key) = self.generate(KeyClass::KekWrapping, WRAPPING_LABEL)?;
        let old_key = keyring.find(&old)?;
        for held in self.state.users.values_mut() {
            held.kek = keyring.rewrap_user_kek(&old_key, &new_key, &held.kek)?;
        }
        Ok(Epoch { old, new })
    }

    /// Commits the state with the new wrapping key, then destroys the old one.
    pub(crate) fn commit_epoch(&mut self, Epoch { old, new }: Epoch) -> Result<(), GateError> {
        self.state.doomed.retain(|doomed| doomed.id != new.id);
        self.state.doomed.push(old);
        self.state.keys.insert(SiteKey::UserKekWrapping, new);
        self.commit()?;
        self.destroy_doomed()
    }

    /// Generates a key in the token. Before it is made, and until it is part of a committed state, the committed one says that what
    /// answers to its identifier is to be destroyed.
    pub(crate) fn generate(&mut self, class: KeyClass, label: &str) -> Result<(KeyRef, VaultKey), GateError> {
        self.generate_version(class, label, 1)
    }

    pub(crate) fn generate_version(
        &mut self,
        class: KeyClass,
        label: &str,
        version: u32,
    ) -> Result<(KeyRef, VaultKey), GateError> {
        let keyring = &self.gate.keyring;
        let announced = keyring.announce(class, label)?;
        self.state.doomed.push(announced.clone());
        let mut committed = (*self.gate.state()).clone();
        committed.doomed.push(announced.clone());
        self.gate.commit_state(committed)?;
        let reference = keyring.make(&announced, version)?;
        self.record(&reference, "generate", None, None, "ok")?;
        let key = keyring.find(&reference)?;
        Ok((reference, key))
    }

    /// Destroys the keys that no committed state needs. The list is the site's own ([`Gate::check_keys`]), so a key of it that is
    /// not there was destroyed by an attempt before this one.
    pub(crate) fn destroy_doomed(&mut self) -> Result<(), GateError> {
        if self.state.doomed.is_empty() {
            return Ok(());
        }
        for reference in std::mem::take(&mut self.state.doomed) {
            self.record(&reference, "destroy", None, None, "begun")?;
            if reference.is_announced() {
                let result = match self.gate.keyring.clear(&reference)? {
                    0 => "ok: it was never made".to_owned(),
                    found => format!("ok: {found} objects of a birth that was cut off"),
                };
                self.record(&reference, "destroy", None, None, &result)?;
                continue;
            }
            let result = match self.gate.keyring.find(&reference) {
                Ok(key) => format!("ok: {}", self.gate.keyring.destroy(key)?),
                Err(HsmError::KeyMissing { .. }) => "ok: it was gone".to_owned(),
                Err(error) => return Err(error.into()),
            };
            self.record(&reference, "destroy", None, None, &result)?;
            for versions in self.state.versions.values_mut() {
                versions.destroyed(&reference);
            }
        }
        self.commit()
    }

    pub(crate) fn commit(&self) -> Result<(), GateError> {
        self.gate.commit_state(self.state.clone())
    }

    pub(crate) fn set_policy(&mut self, config: SiteConfig) {
        self.gate.set_policy(config.clone());
        self.config = config;
    }
}

/// What one user's key takes of a grant.
fn grant(name: &UserName, attributes: &UserConfig, compartments: BTreeSet<CompartmentName>) -> Grant {
    let UserConfig { clearance, roles, groups, departments } = attributes.clone();
    Grant { user: Some(name.clone()), clearance, roles, groups, departments, compartments, uses: 1 }
}

/// Where a credential lies until its state is committed.
fn pending(site: &Path, name: &UserName) -> PathBuf {
    site.join(format!("users/{name}.token.new"))
}

/// Puts a pending credential in force if it is the committed one; otherwise it is nobody's.
fn settle(site: &Path, name: &UserName, state: &SiteState) -> Result<(), GateError> {
    let path = pending(site, name);
    let io = |source| GateError::Io { action: "settle the credential", path: path.clone(), source };
    let text = Zeroizing::new(fs::read(&path).map_err(io)?);
    if state.users.get(name).is_some_and(|held| held.credential == Digest::of(&text)) {
        fs::rename(&path, site.join(format!("users/{name}.token"))).map_err(io)
    } else {
        fs::remove_file(&path).map_err(io)
    }
}

fn settle_credentials(site: &Path, state: &SiteState) -> Result<(), GateError> {
    let folder = site.join("users");
    // A site whose credentials were taken elsewhere has nothing to settle.
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let user = name.to_str().and_then(|name| name.strip_suffix(".token.new")).and_then(|name| name.parse().ok());
        if let Some(user) = user {
            settle(site, &user, state)?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), GateError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(GateError::Io { action: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

//! New versions of the site's own keys, and the end of old ones, as custodians approve them.
//!
//! ```text
//! propose -> notice (two custodians; the next version is made and proven in every token) -> 48 hours -> activate (two custodians)
//!         -> re-encrypt until nothing is left under the old version -> destroy it (two custodians)
//! ```
//!
//! What is allowed when is decided by [`KeyVersions`], without I/O; this module does it. Each step is one commit of `state.json`, with a
//! record before and after: cut off anywhere, the state before or the one after is in force, and a key that belongs to neither is
//! destroyed at the next opening.

use casemate_audit::Event;
use casemate_custody::{
    Activation, Ahead, Approved, AuditHeads, End, KeyVersions, Notice, Stage, Statement, TokenSerial, UnixTime,
};
use casemate_hsm::KeyRef;
use casemate_types::{CollectionName, CompartmentName};
use casemate_vectors::{Change, DocumentId, PassageRecord};
use serde::Serialize;

use crate::GateError;
use crate::collection::store;
use crate::destruction::Destroyed;
use crate::keys::Office;
use crate::site::{Gate, SITE_AAD};
use crate::state::SiteKey;

/// Passages brought under the new version in one change of a collection.
const STEP: usize = 128;

/// Where a key of the site stands.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct KeyStatus {
    /// Which.
    pub key: SiteKey,
    /// The version in force.
    pub version: u32,
    /// Its reference.
    pub reference: KeyRef,
    /// The version that is to come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ahead: Option<Ahead>,
    /// Seconds of the notice that the log bears out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counted: Option<u64>,
    /// Versions that are no longer in force.
    pub older: Vec<OlderStatus>,
    /// The tokens that a statement about it has to name.
    pub tokens: Vec<String>,
}

/// An older version.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct OlderStatus {
    /// Its number.
    pub version: u32,
    /// The key.
    pub reference: KeyRef,
    /// Where it stands.
    pub stage: Stage,
    /// Its destruction was cut off: the key goes or is gone, and the certificate is missing.
    pub unfinished: bool,
}

/// What a run of re-encryption did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ReEncrypted {
    /// Passages brought under the version in force now.
    pub passages: u64,
    /// Fields that are still under an older version.
    pub left: u64,
}

impl Gate {
    /// Where the rotating keys stand. While a notice runs this writes a record, which lets the log bear its time out.
    ///
    /// # Errors
    /// As the log answers.
    pub fn rotation_status(&self, log: &dyn AuditHeads) -> Result<Vec<KeyStatus>, GateError> {
        let state = self.state();
        let noticed = |key: &SiteKey| state.versions.get(key).and_then(KeyVersions::ahead).is_some();
        if SiteKey::ROTATED.iter().any(noticed) {
            let detail = "a rotation is under way".to_owned();
            self.journal.record_blocking(Event::Site { action: "rotation-status".to_owned(), detail })?;
        }
        let now = self.now()?;
        let status = |key: SiteKey| {
            let versions = state.versions.get(&key);
            let ahead = versions.and_then(KeyVersions::ahead).cloned();
            let counted = match &ahead {
                Some(Ahead::Noticed(notice)) => Some(casemate_custody::counted(log, notice.record, now)?),
                _ => None,
            };
            let older = versions.map(KeyVersions::older).unwrap_or_default().iter().map(|older| OlderStatus {
                version: older.version,
                reference: older.key.clone(),
                stage: older.stage,
                unfinished: self.unfinished_version(key, older.version),
            });
            Ok(KeyStatus {
                key,
                version: state.version_in_force(key),
                reference: state.key(key)?.clone(),
                ahead,
                counted,
                older: older.collect(),
                tokens: self.keyring.serials(),
            })
        };
        SiteKey::ROTATED.into_iter().map(status).collect()
    }

    /// Proposes the next version of a key. Nothing is made yet.
    ///
    /// # Errors
    /// As [`KeyVersions::propose`]; [`GateError::KeyOffice`] for a key without versions.
    pub fn propose_rotation(&self, by: &str, key: SiteKey) -> Result<u32, GateError> {
        let at = self.now()?;
        self.step(by, key, "rotation-propose", |office, current| {
            let versions = office.state.versions.entry(key).or_default();
            versions.propose(at)?;
            let next = versions.next();
            office.commit()?;
            Ok((current, next, next))
        })
    }

    /// Takes a proposal or a notice back; a key that was made for it is destroyed.
    ///
    /// # Errors
    /// As [`KeyVersions::withdraw`].
    pub fn withdraw_rotation(&self, by: &str, key: SiteKey) -> Result<(), GateError> {
        self.step(by, key, "rotation-withdraw", |office, current| {
            let versions = office.state.versions.entry(key).or_default();
            let next = versions.next();
            let made = versions.withdraw()?;
            office.state.doomed.extend(made);
            office.commit()?;
            office.destroy_doomed()?;
            Ok((current, next, ()))
        })
    }

    /// Gives the notice that two custodians approved: the next version is made, and proven in every token that has to hold it.
    ///
    /// # Errors
    /// As [`KeyVersions::may_notice`] and [`crate::vault::Vault::prove`]; then nothing is left of the new key.
    pub fn give_notice(&self, by: &str, key: SiteKey, approved: &Approved<Statement>) -> Result<Notice, GateError> {
        self.step(by, key, "rotation-notice", |office, current| {
            let tokens = self.permitted_tokens(approved)?;
            let versions = office.state.versions.get(&key).cloned().unwrap_or_default();
            versions.may_notice(approved, current.id, &tokens)?;
            office.approved(approved)?;
            let version = versions.next();
            let next = office.next_version(&current, version)?;
            let record = office.record(&next, "rotation-notice", Some(version.into()), None, "given")?;
            let notice = Notice { statement: approved.digest(), from: self.now()?, record, next: next.clone() };
            office.state.versions.entry(key).or_default().notice(notice.clone())?;
            office.state.doomed.retain(|doomed| doomed.id != next.id);
            office.commit()?;
            Ok((next, version, notice))
        })
    }

    /// Puts the next version in force, 48 hours after its notice.
    ///
    /// # Errors
    /// As [`KeyVersions::eligible`] and [`crate::vault::Vault::prove`].
    pub fn activate_rotation(
        &self,
        by: &str,
        key: SiteKey,
        approved: &Approved<Statement>,
        log: &dyn AuditHeads,
    ) -> Result<u32, GateError> {
        self.step(by, key, "rotation-activate", |office, current| {
            let tokens = self.permitted_tokens(approved)?;
            let versions = office.state.versions.get(&key).cloned().unwrap_or_default();
            let activation = versions.eligible(approved, &tokens, log)?;
            let next = match versions.ahead() {
                Some(Ahead::Noticed(notice)) => notice.next.clone(),
                _ => return Err(casemate_custody::RotationError::NotNoticed.into()),
            };
            office.approved(approved)?;
            self.keyring.prove(&next)?;
            office.put_in_force(key, &current, next.clone(), &activation)?;
            Ok((next, activation.version(), activation.version()))
        })
    }

    /// Makes a new version and puts it in force at once, for a reason that the statement names by its code.
    ///
    /// # Errors
    /// As [`KeyVersions::emergency`] and [`crate::vault::Vault::prove`].
    pub fn rotate_at_once(&self, by: &str, key: SiteKey, approved: &Approved<Statement>) -> Result<u32, GateError> {
        self.step(by, key, "rotation-emergency", |office, current| {
            let tokens = self.permitted_tokens(approved)?;
            let versions = office.state.versions.get(&key).cloned().unwrap_or_default();
            let activation = versions.emergency(approved, current.id, &tokens)?;
            office.approved(approved)?;
            let next = office.next_version(&current, activation.version())?;
            office.put_in_force(key, &current, next.clone(), &activation)?;
            office.destroy_doomed()?;
            Ok((next, activation.version(), activation.version()))
        })
    }

    /// Brings everything that is encrypted under older versions of a key under the one in force, and counts what is left. Can be cut off
    /// and called again: each step of a collection is whole or not there. `progress` is told passages looked at, and their number.
    ///
    /// # Errors
    /// As the store and the tokens answer.
    pub fn re_encrypt(
        &self,
        by: &str,
        key: SiteKey,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<ReEncrypted, GateError> {
        self.step(by, key, "rotation-reencrypt", |office, current| {
            let mut done = ReEncrypted::default();
            // Only metadata lie anywhere: what was masked has left, and the at-rest key's one value is sealed anew at activation.
            if key == SiteKey::Metadata {
                done.passages = self.bring_up_metadata(office, &mut progress)?;
                done.left = self.outdated_metadata(office)?;
            }
            let versions = office.state.versions.entry(key).or_default();
            versions.counted(done.left)?;
            let version = versions.in_force();
            office.commit()?;
            Ok((current, version, done))
        })
    }

    /// Destroys an older version under which nothing is encrypted any more, proves it, and writes the certificate that custodians sign.
    /// Once begun it is finished, the key by the next opening if need be, the certificate by [`Gate::finish_version`].
    ///
    /// # Errors
    /// As [`KeyVersions::schedule_destruction`]; as the tokens answer.
    pub fn destroy_version(
        &self,
        by: &str,
        key: SiteKey,
        version: u32,
        approved: &Approved<Statement>,
    ) -> Result<Destroyed, GateError> {
        self.step(by, key, "destroy-version", |office, current| {
            let tokens = self.permitted_tokens(approved)?;
            let versions = office.state.versions.entry(key).or_default();
            // On a copy first: what is refused is not noted as approved.
            versions.clone().schedule_destruction(approved, version, &tokens, 0)?;
            let record = office.approved(approved)?;
            let versions = office.state.versions.entry(key).or_default();
            versions.schedule_destruction(approved, version, &tokens, record)?;
            let gone = versions.older().iter().find(|older| older.version == version).map(|older| older.key.clone());
            office.state.doomed.extend(gone.clone());
            office.commit()?;
            office.destroy_doomed()?;
            Ok((gone.unwrap_or(current), version, ()))
        })?;
        self.finish_version(by, key, version)
    }

    /// Whether an older version's destruction was approved and begun, and its certificate is missing.
    pub fn unfinished_version(&self, key: SiteKey, version: u32) -> bool {
        self.ended_version(key, version).is_some_and(|(key, _)| !self.certificate_path(&key).exists())
    }

    /// Finishes the destruction of an older version that was cut off: it needs no other approval.
    ///
    /// # Errors
    /// [`GateError::KeyOffice`] where nothing was begun; [`GateError::Undestroyed`] when something still answers.
    pub fn finish_version(&self, by: &str, key: SiteKey, version: u32) -> Result<Destroyed, GateError> {
        // Opening the office destroys what was begun.
        drop(self.office(by)?);
        let name = format!("{key}@{version}");
        let (gone, end) = self
            .ended_version(key, version)
            .ok_or_else(|| GateError::KeyOffice(format!("no destruction of {name} was begun")))?;
        self.certify_version(by, &name, &gone, &end)
    }

    fn ended_version(&self, key: SiteKey, version: u32) -> Option<(KeyRef, End)> {
        let state = self.state();
        let older = state.versions.get(&key)?.older().iter().find(|older| older.version == version)?;
        Some((older.key.clone(), older.end?))
    }

    /// One step between its two records.
    fn step<T>(
        &self,
        by: &str,
        key: SiteKey,
        operation: &str,
        run: impl FnOnce(&mut Office<'_>, KeyRef) -> Result<(KeyRef, u32, T), GateError>,
    ) -> Result<T, GateError> {
        if !SiteKey::ROTATED.contains(&key) {
            let names = SiteKey::ROTATED.map(|key| key.to_string()).join(", ");
            return Err(GateError::KeyOffice(format!("`{key}` has no versions; those have: {names}")));
        }
        let mut office = self.office(by)?;
        let current = office.state.key(key)?.clone();
        let version = u64::from(office.state.version_in_force(key));
        office.record(&current, operation, Some(version), None, "begun")?;
        match run(&mut office, current.clone()) {
            Ok((about, version, done)) => {
                office.record(&about, operation, Some(version.into()), None, "ok")?;
                Ok(done)
            }
            Err(error) => {
                let refused = format!("refused: {error}").chars().take(512).collect::<String>();
                office.record(&current, operation, Some(version), None, &refused)?;
                Err(error)
            }
        }
    }

    /// The first of the site's tokens, after the statement was seen to name them all.
    fn permitted_tokens(&self, approved: &Approved<Statement>) -> Result<TokenSerial, GateError> {
        self.by_adopted(approved)?;
        let serials = self.keyring.serials();
        let serials = serials.iter().map(|serial| serial.parse()).collect::<Result<Vec<TokenSerial>, _>>()?;
        serials.iter().try_for_each(|serial| approved.permits_token(serial))?;
        serials.into_iter().next().ok_or(GateError::StateIncomplete { what: "a token".to_owned() })
    }

    /// The log's time: never before its last record.
    pub(crate) fn now(&self) -> Result<UnixTime, GateError> {
        Ok(UnixTime(self.journal.now_ms() / 1000))
    }

    /// The compartments' collections that hold anything.
    fn collections(&self, office: &Office<'_>) -> Vec<(CompartmentName, CollectionName)> {
        office.state.compartments.keys().map(|name| (name.clone(), CollectionName::from(name))).collect()
    }

    fn bring_up_metadata(&self, office: &Office<'_>, progress: &mut impl FnMut(u64, u64)) -> Result<u64, GateError> {
        let collections = self.collections(office);
        let mut documents = Vec::new();
        for (name, collection) in collections {
            let all = self.store.documents(&collection).map_err(store)?;
            documents.push((name, collection, all));
        }
        let total: u64 = documents.iter().map(|(_, _, all)| all.len() as u64).sum();
        let (mut seen, mut changed) = (0, 0);
        for (name, collection, all) in documents {
            for step in all.chunks(STEP) {
                let mut outdated: Vec<(DocumentId, PassageRecord)> = Vec::new();
                for (_, document) in step {
                    let record = self.store.passage(&collection, document).map_err(store)?;
                    outdated.extend(
                        record
                            .filter(|record| self.fields.outdated(&record.metadata) > 0)
                            .map(|record| (*document, record)),
                    );
                }
                seen += step.len() as u64;
                changed += outdated.len() as u64;
                if !outdated.is_empty() {
                    self.replace_metadata(&name, &collection, outdated)?;
                }
                progress(seen, total);
            }
        }
        Ok(changed)
    }

    /// One change of a collection, in which only metadata differ. The sealed manifest stays: it does not speak of metadata.
    fn replace_metadata(
        &self,
        name: &CompartmentName,
        collection: &CollectionName,
        mut passages: Vec<(DocumentId, PassageRecord)>,
    ) -> Result<(), GateError> {
        let mut tokens: Vec<_> = passages.iter().map(|(_, record)| record.metadata.clone()).collect();
        self.fields.bring_up(&self.config, name, &mut tokens)?;
        for ((_, record), tokens) in passages.iter_mut().zip(tokens) {
            record.metadata = tokens;
        }
        let lost = || GateError::Store(format!("`{name}`: the store lost the collection's manifest"));
        let manifest = self.store.manifest(collection).map_err(store)?.ok_or_else(lost)?;
        let version = self.store.reserve_version(collection).map_err(store)?;
        let change = Change { version, put_passages: passages, manifest, ..Change::default() };
        self.store.apply(collection, change).map_err(store)
    }

    fn outdated_metadata(&self, office: &Office<'_>) -> Result<u64, GateError> {
        let mut left = 0;
        for (_, collection) in self.collections(office) {
            for (_, document) in self.store.documents(&collection).map_err(store)? {
                let record = self.store.passage(&collection, &document).map_err(store)?;
                left += record.map_or(0, |record| self.fields.outdated(&record.metadata) as u64);
            }
        }
        Ok(left)
    }
}

impl Office<'_> {
    /// What custodians approved goes into the log before it is acted on.
    pub(crate) fn approved(&self, approved: &Approved<Statement>) -> Result<u64, GateError> {
        let people: Vec<_> = approved.approvers().iter().map(|signer| signer.name.as_str()).collect();
        let statement = approved.statement();
        let detail = format!(
            "{} by {} (asked for by {}, tier {}): statement {}; {}",
            statement.operation,
            people.join(" and "),
            statement.requester,
            approved.tier(),
            approved.digest(),
            statement.reason
        );
        self.gate.journal.record_blocking(Event::Site { action: "approval".to_owned(), detail })
    }

    /// Makes the next version of a key and proves it in every token. Until it is committed it is on the list of keys to be destroyed.
    fn next_version(&mut self, current: &KeyRef, version: u32) -> Result<KeyRef, GateError> {
        let (next, _) = self.generate_version(current.class, &current.label, version)?;
        let proven = self.gate.keyring.prove(&next)?;
        self.record(&next, "prove", Some(version.into()), None, &format!("ok: in {}", proven.join(" and ")))?;
        Ok(next)
    }

    /// Commits the next version as the one in force. What the at-rest key seals is sealed under it.
    fn put_in_force(
        &mut self,
        key: SiteKey,
        current: &KeyRef,
        next: KeyRef,
        activation: &Activation,
    ) -> Result<(), GateError> {
        let keyring = &self.gate.keyring;
        let versions = self.state.versions.entry(key).or_default();
        let overtaken = versions.activate(activation, current.clone());
        if key == SiteKey::AtRest {
            let secrets = keyring.open_sealed(&keyring.find(current)?, SITE_AAD, &self.state.sealed_site_secrets)?;
            self.state.sealed_site_secrets = keyring.seal(&keyring.find(&next)?, SITE_AAD, &secrets)?;
            versions.counted(0)?;
        }
        self.state.doomed.retain(|doomed| doomed.id != next.id);
        // A key that was made during a notice which an emergency overtook.
        self.state.doomed.extend(overtaken.filter(|overtaken| *overtaken != next));
        self.state.keys.insert(key, next);
        self.commit()
    }
}

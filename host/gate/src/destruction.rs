//! A compartment's key is destroyed, and its collection with it: nobody reads it again, whatever copies there are.
//!
//! ```text
//! approval -> destruction.json (what is to be done, under an HMAC of the token) -> rule out of site.toml
//!          -> one commit: compartment and the keys of its users out of state.json, a new wrapping key for all others
//!          -> key and old wrapping key destroyed in the token, with proofs in the log
//!          -> stored passages, escrow packages and shares deleted -> everything is tried -> certificate
//! ```
//!
//! Cut off at any point, the same command finishes it; `destruction.json` stands for the approval, which is used up by then.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use casemate_audit::{Event, Record, entries_from};
use casemate_custody::{
    AuditHead, CertificateFormat, DestructionCertificate, End, Envelope, Operation, SealedShare, SecretKind, ShareSet,
    files,
};
use casemate_hsm::{HsmError, KeyRef, WrappedKek};
use casemate_types::{CollectionName, CompartmentName, Digest, UserName};
use serde::{Deserialize, Serialize};

use crate::GateError;
use crate::collection::{floor_key, store};
use crate::consent::{Officer, Wanted, now};
use crate::keys::Office;
use crate::policy_file;
use crate::site::Gate;
use crate::site_log::SiteLog;
use crate::state::{SiteKey, write_private};

/// A destruction that is under way.
const PLAN: &str = "destruction.json";

/// What was destroyed.
pub struct Destroyed {
    /// What custodians sign.
    pub certificate: DestructionCertificate,
    /// Where it is, in an envelope; the text for paper is beside it, as `.txt`.
    pub path: PathBuf,
}

/// What is to be done, or is done already.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Plan {
    name: CompartmentName,
    key: KeyRef,
    wrapping: KeyRef,
    statement: Option<Digest>,
    by: String,
    passages: u64,
    users: Vec<UserName>,
    /// Users' key-encryption keys as a backup of the state holds them.
    keks: Vec<WrappedKek>,
    /// The collection's secrets as a backup of the state holds them.
    #[serde(with = "hex::serde")]
    secrets: Vec<u8>,
    /// The record that announces it.
    begun: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct PlanFile {
    plan: String,
    #[serde(with = "hex::serde")]
    tag: [u8; 32],
}

impl Gate {
    /// How many passages nobody could read any more, decoys included, if the compartment's key were destroyed.
    ///
    /// # Errors
    /// [`GateError::KeyOffice`] for a compartment that has no key.
    pub fn passages_of(&self, name: &CompartmentName) -> Result<u64, GateError> {
        if !self.state().compartments.contains_key(name) {
            return Err(GateError::KeyOffice(format!("compartment `{name}` has no key")));
        }
        Ok(self.store.documents(&CollectionName::from(name)).map_err(store)?.len() as u64)
    }

    /// Destroys a compartment's key and whatever it opens, proves it, and writes the certificate. The keys of users who hold it end.
    /// `passages` is what [`Gate::passages_of`] said to whoever confirmed it.
    ///
    /// # Errors
    /// [`GateError::Consent`] and [`GateError::Custody`] without the approval (operation `destroy`); [`GateError::KeyOffice`] for a
    /// compartment without key, another number of passages, or another destruction that has to be finished first;
    /// [`GateError::Undestroyed`] when something still answers; as the token and the store answer. Calling it again goes on.
    pub fn destroy_compartment(
        &self,
        officer: &Officer<'_>,
        name: &CompartmentName,
        passages: u64,
    ) -> Result<Destroyed, GateError> {
        let mut office = self.office(officer.name)?;
        let plan = match self.read_plan()? {
            Some(plan) if plan.name == *name => plan,
            Some(plan) => {
                return Err(GateError::KeyOffice(format!(
                    "the destruction of `compartment/{0}` was cut off; `casemate keys destroy compartment/{0}` finishes it",
                    plan.name
                )));
            }
            None => self.begin_destruction(&mut office, officer, name, passages)?,
        };
        office.take_out(&plan)?;
        drop(office);
        let deleted = self.delete_rest(&plan)?;
        self.certify(&plan, deleted)
    }

    /// The compartment whose destruction was cut off.
    ///
    /// # Errors
    /// [`GateError::Undestroyed`] for a file that was altered.
    pub fn unfinished_destruction(&self) -> Result<Option<CompartmentName>, GateError> {
        Ok(self.read_plan()?.map(|plan| plan.name))
    }

    fn begin_destruction(
        &self,
        office: &mut Office<'_>,
        officer: &Officer<'_>,
        name: &CompartmentName,
        passages: u64,
    ) -> Result<Plan, GateError> {
        let found = self.passages_of(name)?;
        if found != passages {
            return Err(GateError::KeyOffice(format!(
                "`{name}` holds {found} passages that nobody could read any more, not {passages}; confirm that number"
            )));
        }
        // Half of a pair destroyed is not destroyed.
        self.keyring.complete()?;
        let state = self.state();
        let held = state.compartments.get(name);
        let held = held.ok_or_else(|| GateError::StateIncomplete { what: format!("key of compartment `{name}`") })?;
        let label = format!("compartment/{name}");
        let (key, class) = (Some(held.key.id), Some(held.key.class));
        let wanted = Wanted { key, class, name: Some(label), ..Wanted::default() };
        let statement = office.ask(officer, Operation::Destroy, &wanted)?;
        let members = state.users.iter().filter(|(_, user)| user.compartments.contains(name));
        let (users, keks) = members.map(|(user, held)| (user.clone(), held.kek.clone())).unzip();
        let begun = office.note(&held.key, "destroy-compartment", "begun")?;
        let plan = Plan {
            name: name.clone(),
            key: held.key.clone(),
            wrapping: state.key(SiteKey::UserKekWrapping)?.clone(),
            statement,
            by: office.by().to_owned(),
            passages,
            users,
            keks,
            secrets: held.sealed_secrets.clone(),
            begun,
        };
        self.write_plan(&plan)?;
        Ok(plan)
    }

    /// Deletes what the key opened and what could bring it back, as far as the site has it.
    fn delete_rest(&self, plan: &Plan) -> Result<Vec<String>, GateError> {
        let collection = CollectionName::from(&plan.name);
        self.store.delete_collection(&collection).map_err(store)?;
        self.record_ingest("destroyed", &plan.name, 0, 0, 0)?;
        self.small.remove(floor_key(&plan.name)).map_err(store)?;
        self.small.flush().map_err(store)?;
        for user in &plan.users {
            // A credential that the user was given since then opens another key.
            if !self.state().users.contains_key(user) {
                remove(&self.dir.join(format!("users/{user}.token")))?;
            }
        }
        self.delete_packages(&plan.key)
    }

    /// Deletes the escrow packages of a key and their shares below the site's `custody`.
    fn delete_packages(&self, key: &KeyRef) -> Result<Vec<String>, GateError> {
        let custody = self.dir.join("custody");
        let mut packages = Vec::new();
        walk(&custody, &mut packages)?;
        let id = key.id.to_string();
        let sets: Vec<Digest> = packages
            .iter()
            .filter(|path| ends(path, ".set.json"))
            .filter_map(|path| ShareSet::parse(&files::read(path).ok()?).ok())
            .filter(|set| set.kind() == SecretKind::Package && set.about().contains(&id))
            .filter_map(|set| set.digest().ok())
            .collect();
        let mut deleted = Vec::new();
        // Shares first: a set without shares is found again by the next attempt, shares without their set are not.
        for last in [false, true] {
            for path in packages.iter().filter(|path| ends(path, ".set.json") == last) {
                let set = match files::read(path) {
                    Ok(bytes) if last => ShareSet::parse(&bytes).ok().and_then(|set| set.digest().ok()),
                    Ok(bytes) => SealedShare::parse(&bytes).ok().map(|share| share.set_digest()),
                    Err(_) => None,
                };
                if set.is_some_and(|set| sets.contains(&set)) {
                    remove(path)?;
                    deleted.push(path.strip_prefix(&self.dir).unwrap_or(path).display().to_string());
                }
            }
        }
        Ok(deleted)
    }

    /// Tries everything, and writes down how it failed.
    fn certify(&self, plan: &Plan, deleted: Vec<String>) -> Result<Destroyed, GateError> {
        let alive = |what: &str| {
            Err(GateError::Undestroyed { name: format!("compartment/{}", plan.name), what: what.to_owned() })
        };
        self.journal.checkpoint()?;
        let mut proofs = self.recorded_proofs(&plan.key, plan.begun)?;
        if proofs.is_empty() {
            return alive("the audit log holds no record of its destruction");
        }
        for (what, key) in [("the key", &plan.key), ("the old key around users' keys", &plan.wrapping)] {
            for token in self.keyring.gone(key)? {
                proofs.push(format!("{what}: a search by CKA_ID {} finds nothing in token {token}", key.id));
            }
        }
        // What a backup of the folder holds: users' keys under the old wrapping key, and the collection's secrets.
        let wrapping = self.keyring.find(self.state().key(SiteKey::UserKekWrapping)?)?;
        for (user, kek) in plan.users.iter().zip(&plan.keks) {
            if self.keyring.open_user_kek(&wrapping, kek).is_ok() {
                return alive("a user's key of an old backup still opens");
            }
            proofs.push(format!("old backup: the key of user {user} no longer unwraps"));
        }
        match self.keyring.find(&plan.key) {
            Err(HsmError::KeyMissing { .. }) => {
                let digest = Digest::of(&plan.secrets);
                proofs.push(format!("old backup: nothing opens the collection's sealed secrets {digest}"));
            }
            Err(error) => return Err(error.into()),
            Ok(_) => return alive("the token still finds it"),
        }
        if !self.store.documents(&CollectionName::from(&plan.name)).map_err(store)?.is_empty() {
            return alive("the store still holds its passages");
        }
        let (size, root) = SiteLog::open(&self.dir)?.head();
        let tokens = self.keyring.serials().iter().map(|serial| serial.trim().parse()).collect::<Result<_, _>>()?;
        let certificate = DestructionCertificate {
            format: CertificateFormat::One,
            site: self.config.name.clone(),
            rehearsal: self.journal.rehearsal(),
            name: format!("compartment/{}", plan.name),
            key: plan.key.clone(),
            tokens,
            statement: plan.statement,
            passages: plan.passages,
            users: plan.users.iter().map(ToString::to_string).collect(),
            proofs,
            deleted,
            elsewhere: [
                "backups and snapshots of the tokens' storage from before, with the PINs of that time",
                "escrow packages of this key and custodians' own copies of their shares",
                "documents in clear outside the site, and recordings of decisions that saw them (casemate audit erase)",
            ]
            .map(str::to_owned)
            .to_vec(),
            audit_head: AuditHead { size, root },
            at: now()?,
        };
        let about = format!("{} passages, keys of {} users ended", plan.passages, plan.users.len());
        let destroyed = self.issue_certificate(certificate, &plan.by, &about)?;
        remove(&self.dir.join(PLAN))?;
        Ok(destroyed)
    }

    /// Tries a version of a key that was destroyed, and writes down how it failed.
    pub(crate) fn certify_version(
        &self,
        by: &str,
        name: &str,
        key: &KeyRef,
        end: &End,
    ) -> Result<Destroyed, GateError> {
        let deleted = self.delete_packages(key)?;
        self.journal.checkpoint()?;
        let mut proofs = self.recorded_proofs(key, end.record)?;
        if proofs.is_empty() {
            let what = "the audit log holds no record of its destruction".to_owned();
            return Err(GateError::Undestroyed { name: name.to_owned(), what });
        }
        for token in self.keyring.gone(key)? {
            proofs.push(format!("the key: a search by CKA_ID {} finds nothing in token {token}", key.id));
        }
        let (size, root) = SiteLog::open(&self.dir)?.head();
        let tokens = self.keyring.serials().iter().map(|serial| serial.trim().parse()).collect::<Result<_, _>>()?;
        let certificate = DestructionCertificate {
            format: CertificateFormat::One,
            site: self.config.name.clone(),
            rehearsal: self.journal.rehearsal(),
            name: name.to_owned(),
            key: key.clone(),
            tokens,
            statement: Some(end.statement),
            passages: 0,
            users: Vec::new(),
            proofs,
            deleted,
            elsewhere: [
                "backups and snapshots of the tokens' storage from before, with the PINs of that time",
                "escrow packages of this key and custodians' own copies of their shares",
                "what was encrypted under this version outside the site: answers that were masked, ciphertext that plugins gave away",
            ]
            .map(str::to_owned)
            .to_vec(),
            audit_head: AuditHead { size, root },
            at: now()?,
        };
        self.issue_certificate(certificate, by, "an older version")
    }

    /// Where the certificate of a key's destruction lies.
    pub(crate) fn certificate_path(&self, key: &KeyRef) -> PathBuf {
        self.dir.join(format!("custody/destroyed/{}.json", key.id))
    }

    fn issue_certificate(
        &self,
        certificate: DestructionCertificate,
        by: &str,
        about: &str,
    ) -> Result<Destroyed, GateError> {
        let path = self.certificate_path(&certificate.key);
        let folder = self.dir.join("custody/destroyed");
        fs::create_dir_all(&folder).map_err(|source| GateError::Io { action: "create", path: folder, source })?;
        let envelope = Envelope::new(&certificate)?;
        let detail = format!(
            "{}: key {} destroyed by {by}, {about}, certificate {}",
            certificate.name,
            certificate.key.id,
            envelope.digest()
        );
        write_private(&path.with_extension("txt"), certificate.to_string().as_bytes())?;
        // Announced before it is there: a certificate that lies there is in the log.
        self.journal.record_blocking(Event::Site { action: "key-destroyed".to_owned(), detail })?;
        self.journal.checkpoint()?;
        files::replace(&path, &envelope.to_bytes()?)?;
        Ok(Destroyed { certificate, path })
    }

    /// The token's own answers, as they were recorded when the key went.
    fn recorded_proofs(&self, key: &KeyRef, begun: u64) -> Result<Vec<String>, GateError> {
        let id = key.id.to_string();
        let mut proofs = Vec::new();
        for entry in entries_from(&self.dir.join("log"), begun)? {
            let record = Record::from_bytes(&entry.1?).map_err(|error| GateError::Store(error.to_string()))?;
            if let Event::KeyOperation { operation, key_id, result, .. } = record.event
                && operation == "destroy"
                && key_id == id
                && let Some(answers) = result.strip_prefix("ok: ")
            {
                proofs.push(format!("the key: {answers} (record {})", entry.0));
            }
        }
        Ok(proofs)
    }

    fn read_plan(&self) -> Result<Option<Plan>, GateError> {
        let path = self.dir.join(PLAN);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(GateError::Io { action: "read", path, source }),
        };
        let altered = || GateError::Undestroyed {
            name: PLAN.to_owned(),
            what: "the file was altered; put back the one that was written, or remove it and ask the custodians again"
                .to_owned(),
        };
        let file: PlanFile = serde_json::from_slice(&bytes).map_err(|_| altered())?;
        let tag = self.plan_tag(&file.plan)?;
        aws_lc_rs::constant_time::verify_slices_are_equal(&tag, &file.tag).map_err(|_| altered())?;
        serde_json::from_str(&file.plan).map(Some).map_err(|_| altered())
    }

    fn write_plan(&self, plan: &Plan) -> Result<(), GateError> {
        let fault = |error: serde_json::Error| GateError::Store(error.to_string());
        let plan = serde_json::to_string(plan).map_err(fault)?;
        let tag = self.plan_tag(&plan)?;
        write_private(&self.dir.join(PLAN), &serde_json::to_vec(&PlanFile { plan, tag }).map_err(fault)?)
    }

    fn plan_tag(&self, plan: &str) -> Result<[u8; 32], GateError> {
        let key = self.keyring.find(self.state().key(SiteKey::Tokens)?)?;
        Ok(self.keyring.mac(&key, &[b"casemate/destruction/1".as_slice(), plan.as_bytes()].concat())?)
    }
}

impl Office<'_> {
    /// Takes the compartment out of the policy file and, in one commit, out of the state; then nothing needs its key, and it is destroyed.
    fn take_out(&mut self, plan: &Plan) -> Result<(), GateError> {
        self.set_policy(policy_file::remove_compartment(&self.gate.dir, &plan.name)?);
        let held = self.state.compartments.get(&plan.name);
        if held.is_none_or(|held| held.key.id != plan.key.id) {
            // Committed: what was left to be destroyed was destroyed when the office opened.
            return Ok(());
        }
        let name = &plan.name;
        self.state.compartments.remove(name);
        self.state.users.retain(|_, user| !user.compartments.contains(name));
        let epoch = self.begin_epoch()?;
        self.state.doomed.push(plan.key.clone());
        self.commit_epoch(epoch)
    }
}

fn ends(path: &Path, with: &str) -> bool {
    path.to_string_lossy().ends_with(with)
}

/// Every set and share below a folder, but for the custody token's PINs.
fn walk(folder: &Path, found: &mut Vec<PathBuf>) -> Result<(), GateError> {
    let io = |source| GateError::Io { action: "list", path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(io)?,
    };
    for entry in entries {
        let entry = entry.map_err(io)?;
        let path = entry.path();
        if entry.file_type().map_err(io)?.is_dir() {
            walk(&path, found)?;
        } else if ends(&path, ".set.json") || ends(&path, ".share.json") {
            found.push(path);
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), GateError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            Err(GateError::Io { action: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

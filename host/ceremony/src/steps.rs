//! What each step does in the tokens, and how it finds out that it was cut off before.

use std::sync::Arc;

use casemate_custody::{Collector, SealedShare, SecretKind, ShareSet, SplitOf, TokenEntropy, files, split};
use casemate_hsm::probe::Outcome;
use casemate_hsm::{Key, KeyClass, KeyRef, Keyring, TransportKey, WrappedKek, WrappedPackage};
use casemate_types::UserName;
use serde::{Deserialize, Serialize};

use crate::folder;
use crate::journal::{Address, Call, Entry, EscrowRecord, Holder, MadeKey, StepResult};
use crate::run::Running;
use crate::{CeremonyError, Step};

/// What is handed to a user's site: it opens in the token only.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Issued {
    format: IssuedFormat,
    user: UserName,
    /// The key that the user's own is wrapped under.
    under: KeyRef,
    kek: WrappedKek,
    compartments: Vec<WrappedCompartment>,
}

#[derive(Serialize, Deserialize)]
enum IssuedFormat {
    #[serde(rename = "casemate issued keys 1")]
    One,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrappedCompartment {
    name: String,
    key: KeyRef,
    /// AES-KW (RFC 3394), hexadecimal.
    blob: String,
}

impl Running<'_> {
    /// Does a step; a step that was cut off is completed or undone and done again.
    pub(crate) fn work(&mut self, number: usize, step: &Step) -> Result<StepResult, CeremonyError> {
        match step {
            Step::Probe { token } => self.probe(token),
            Step::Fresh { token } => self.fresh(token),
            Step::Transport { token } => self.transport(number, token),
            Step::Generate { key, class, label, on, escrow_for } => match (on.as_slice(), escrow_for) {
                ([only], None) => self.generate(number, key, *class, label, only),
                _ => self.birth(number, key, *class, label, on, escrow_for.as_deref()),
            },
            Step::Escrow { key, epoch } => self.escrow(key, *epoch),
            Step::Recover { key, keep } => self.recover(key, *keep),
            Step::Issue { user, keys, under } => self.issue(user, keys, under),
            Step::Record { text } => Ok(StepResult { remarks: vec![text.clone()], ..StepResult::default() }),
        }
    }

    fn probe(&mut self, token: &str) -> Result<StepResult, CeremonyError> {
        let report = self.ceremony.desk.probe(token)?;
        let profile = self.ceremony.profile;
        let judgement = report.judge(profile);
        if !judgement.fit {
            let failed = judgement.with(Outcome::Failed).join(", ");
            return Err(CeremonyError::TokenUnfit { serial: report.token.serial, profile, failed });
        }
        let mut result = StepResult::default();
        for line in &report.lines {
            result.call(token, &format!("probe {}", line.id), &line.finding.to_string());
        }
        result.remarks = vec![
            format!("fit for profile {profile}; library {}; report {}", report.library, report.digest()),
            format!("compensated: {}", judgement.with(Outcome::Compensated).join(", ")),
        ];
        Ok(result)
    }

    fn fresh(&mut self, token: &str) -> Result<StepResult, CeremonyError> {
        let ring = self.ceremony.desk.keyring(token)?;
        let (built_in, stored): (Vec<_>, Vec<_>) = ring.inventory()?.into_iter().partition(|object| object.built_in);
        if let Some(first) = stored.first() {
            let words = [first.class.as_str(), first.label.as_str(), first.id.as_str()];
            let first = words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
            return Err(CeremonyError::NotFresh { serial: ring.serial().to_owned(), count: stored.len(), first });
        }
        let mut result = StepResult::default();
        result.call(token, "C_FindObjects (everything)", "0 objects");
        result.remarks.push(format!("besides them the token describes itself with {} objects", built_in.len()));
        Ok(result)
    }

    fn transport(&mut self, number: usize, token: &str) -> Result<StepResult, CeremonyError> {
        let name = format!("transport-{token}");
        let mut result = self.generate(number, &name, KeyClass::Transport, &name, token)?;
        let ring = self.ceremony.desk.keyring(token)?;
        let reference = result.keys.first().map(|made| made.key.clone());
        let reference = reference.ok_or_else(|| CeremonyError::malformed("a step", "no pair was made"))?;
        let address = ring.transport_key(&ring.find(&reference)?)?;
        let fingerprint = address.fingerprint();
        result.remarks.push(format!("public key of {token}: {fingerprint}"));
        result.addresses.push(Address { token: token.to_owned(), fingerprint, address });
        Ok(result)
    }

    /// Generates in place, under an identifier that is in the journal first.
    fn generate(
        &mut self,
        number: usize,
        name: &str,
        class: KeyClass,
        label: &str,
        token: &str,
    ) -> Result<StepResult, CeremonyError> {
        let ring = self.ceremony.desk.keyring(token)?;
        let mut result = StepResult::default();
        if let Some(left) = self.drawn(number) {
            let count = ring.discard_reserved(left)?;
            result.remarks.push(format!("undone: {count} objects of an attempt that was cut off (CKA_ID {left})"));
        }
        let id = ring.reserve_id()?;
        self.note(Entry::Drawn { step: number, key: id })?;
        let reference = ring.generate_reserved(id, class, label)?;
        self.reached("generated", number);
        let pair = matches!(class, KeyClass::Transport | KeyClass::AuditSigning);
        let call = if pair { "C_GenerateKeyPair" } else { "C_GenerateKey" };
        result.made(&ring, token, name, call, &reference)?;
        self.record_key("generate", &reference, token)?;
        Ok(result)
    }

    /// Makes a key as a session object, wraps it for each token, and lets each take it in. The object dies with this process, so
    /// before its packages are written nothing of it is left after a crash, and afterwards they are admitted again.
    fn birth(
        &mut self,
        number: usize,
        name: &str,
        class: KeyClass,
        label: &str,
        on: &[String],
        escrow_for: Option<&str>,
    ) -> Result<StepResult, CeremonyError> {
        let mut result = StepResult::default();
        let (path, escrow_path) = (self.folder.packages(name), self.folder.escrow_package(name));
        let earlier = if path.exists() { Some(read_packages(&path)?) } else { None };
        let drawn = self.drawn(number);
        let packages = match earlier {
            Some(packages)
                if packages.iter().all(|package| Some(package.id) == drawn) && packages.len() == on.len() =>
            {
                result.remarks.push("completed: the key was made by an attempt that was cut off".to_owned());
                packages
            }
            _ => {
                let birthplace = on.first().map_or("", String::as_str);
                let ring = self.ceremony.desk.keyring(birthplace)?;
                let birth = ring.birth(class, label)?;
                result.call(birthplace, "C_GenerateKey (session object)", "ok");
                self.note(Entry::Drawn { step: number, key: birth.reference().id })?;
                let mut packages = Vec::new();
                for token in on {
                    packages.push(ring.wrap_for(&birth, &self.address(token)?)?);
                    result.call(birthplace, &format!("C_WrapKey for {token}"), "ok");
                }
                // The package for escrow first: whoever sees the others knows that it is there.
                if let Some(token) = escrow_for {
                    let package = ring.wrap_for(&birth, &self.address(token)?)?;
                    result.call(birthplace, &format!("C_WrapKey for {token} (escrow)"), "ok");
                    files::replace(&escrow_path, &package.to_bytes())?;
                }
                self.reached("escrow-wrapped", number);
                let text =
                    serde_json::to_vec(&packages).map_err(|error| CeremonyError::malformed("packages", error))?;
                files::replace(&path, &text)?;
                drop(birth);
                result.call(birthplace, "C_DestroyObject (session object)", "ok");
                self.reached("wrapped", number);
                packages
            }
        };
        for (token, package) in on.iter().zip(&packages) {
            let ring = self.ceremony.desk.keyring(token)?;
            let reference = ring.admit(&self.opener(&ring, token)?, package)?;
            self.reached(&format!("admitted {token}"), number);
            result.made(&ring, token, name, "C_UnwrapKey", &reference)?;
            self.record_key("generate", &reference, token)?;
        }
        Ok(result)
    }

    fn escrow(&mut self, name: &str, epoch: u64) -> Result<StepResult, CeremonyError> {
        let (_, on, opens_in) =
            self.ceremony.plan.generation(name).ok_or_else(|| CeremonyError::malformed("a plan", "no such key"))?;
        let opens_in = opens_in.unwrap_or_default().to_owned();
        let birthplace = on.first().cloned().unwrap_or_default();
        let path = self.folder.escrow_package(name);
        let package = WrappedPackage::from_bytes(&files::read(&path)?)?;
        let key = self.key(name, &birthplace)?;
        // The package lay in a file: it has to be that of this key.
        if package.id != key.id || package.check != key.check {
            return Err(CeremonyError::malformed("the package for escrow", "it is not of the key that was made"));
        }
        let mut entropy = TokenEntropy(self.ceremony.desk.keyring(&birthplace)?);
        let about = package.id.to_string();
        let of = SplitOf { kind: SecretKind::Package, about: &about, epoch };
        let (set, shares) = split(&package.to_bytes(), of, self.ceremony.roster, &mut entropy)?;
        drop(entropy);
        // Shares of an attempt that was cut off are replaced as a whole: nobody has counted on them.
        let mut contents = vec![("set.json".to_owned(), set.to_bytes()?)];
        for share in &shares {
            contents.push((format!("{}.share.json", share.custodian()), share.to_bytes()?));
        }
        folder::write_folder(&self.folder.shares(name), &contents)?;
        self.reached(&format!("shares {name}"), 0);
        let holders = set.holders().map(|(name, commitment)| Holder { custodian: name.clone(), commitment }).collect();
        let mut result = StepResult::default();
        result.call(&birthplace, "C_GenerateRandom (shares)", "ok");
        result.escrow = Some(EscrowRecord {
            key: name.to_owned(),
            opens_in: opens_in.clone(),
            epoch,
            set: set.digest()?,
            threshold: set.threshold(),
            shares: holders,
        });
        self.record_key("escrow", &key, &opens_in)?;
        Ok(result)
    }

    fn recover(&mut self, name: &str, keep: bool) -> Result<StepResult, CeremonyError> {
        let escrow = self.results().find_map(|result| result.escrow.clone().filter(|escrow| escrow.key == name));
        let escrow = escrow.ok_or_else(|| CeremonyError::malformed("the journal", "the key was not escrowed"))?;
        let token = escrow.opens_in.clone();
        let shares = self.folder.shares(name);
        let set = ShareSet::parse(&files::read(&shares.join("set.json"))?)?;
        let mut result = StepResult::default();
        let mut collector = Collector::new(&set, self.ceremony.roster, escrow.epoch)?;
        if set.digest()? != escrow.set {
            return Err(CeremonyError::malformed("a share set", "it is not the one that the journal holds"));
        }
        for custodian in self.ceremony.desk.custodians().cloned().collect::<Vec<_>>() {
            let share = SealedShare::parse(&files::read(&shares.join(format!("{custodian}.share.json")))?)?;
            let (holder, held) = self.ceremony.desk.custodian(&custodian)?;
            let missing = collector.enter(share.open(holder, &held)?)?;
            result.call(custodian.as_str(), "C_Decrypt (share)", "ok, the share fits its commitment");
            if missing == 0 {
                break;
            }
        }
        let package = WrappedPackage::from_bytes(&collector.combine()?)?;
        let original =
            self.ceremony.plan.generation(name).and_then(|(_, on, _)| on.first().cloned()).unwrap_or_default();
        let original = self.key(name, &original)?;
        let ring = self.ceremony.desk.keyring(&token)?;
        let recovered = ring.admit(&self.opener(&ring, &token)?, &package)?;
        self.reached(&format!("recovered {name}"), 0);
        if recovered.check != original.check || recovered.id != original.id {
            return Err(CeremonyError::KeyDiffers { key: name.to_owned() });
        }
        let key = ring.find(&recovered)?;
        let attributes = ring.read_back(&key)?;
        result.calls.push(Call {
            token: token.clone(),
            call: format!("C_UnwrapKey {name}"),
            result: format!("ok, check value {} is that of the original", recovered.check),
            attributes,
        });
        self.record_key("recover", &recovered, &token)?;
        if keep {
            result.keys.push(MadeKey { name: name.to_owned(), token, key: recovered });
        } else {
            let gone = ring.destroy(key)?;
            result.call(&token, &format!("C_DestroyObject {name}"), &gone.summary());
            self.record_key("destroy the recovered copy of", &recovered, &token)?;
        }
        Ok(result)
    }

    fn issue(&mut self, user: &UserName, names: &[String], under: &str) -> Result<StepResult, CeremonyError> {
        let token = self.ceremony.plan.generation(under).and_then(|(_, on, _)| on.first().cloned()).unwrap_or_default();
        let ring = self.ceremony.desk.keyring(&token)?;
        let wrapping_ref = self.key(under, &token)?;
        let wrapping = ring.find(&wrapping_ref)?;
        let kek = ring.generate_user_kek(&wrapping, &format!("user {user}"))?;
        let opened = ring.open_user_kek(&wrapping, &kek)?;
        let mut result = StepResult::default();
        result.call(&token, &format!("C_GenerateKey, C_WrapKey (key of {user} under {under})"), "ok");
        let mut compartments = Vec::new();
        for name in names {
            let reference = self.key(name, &token)?;
            let blob = ring.wrap(&opened, &ring.find(&reference)?)?;
            // What does not open again was never issued.
            drop(ring.unwrap_known(&opened, &reference, &blob)?);
            result.call(
                &token,
                &format!("C_WrapKey {name}, C_UnwrapKey"),
                &format!("ok, check value {}", reference.check),
            );
            compartments.push(WrappedCompartment { name: name.clone(), key: reference, blob: hex::encode(blob) });
        }
        let kek_key = kek.key.clone();
        let issued = Issued { format: IssuedFormat::One, user: user.clone(), under: wrapping_ref, kek, compartments };
        let text =
            serde_json::to_vec_pretty(&issued).map_err(|error| CeremonyError::malformed("issued keys", error))?;
        files::replace(&self.folder.issued(user.as_str()), &text)?;
        self.record_key(&format!("issue to {user}"), &kek_key, &token)?;
        Ok(result)
    }

    /// A key that an earlier step made, as it is found in a token.
    fn key(&self, name: &str, token: &str) -> Result<KeyRef, CeremonyError> {
        let found =
            self.results().flat_map(|result| &result.keys).find(|made| made.name == name && made.token == token);
        found.map(|made| made.key.clone()).ok_or_else(|| CeremonyError::malformed("the journal", "it lacks a key"))
    }

    fn address(&self, token: &str) -> Result<TransportKey, CeremonyError> {
        let found = self.results().flat_map(|result| &result.addresses).find(|address| address.token == token);
        found
            .map(|address| address.address.clone())
            .ok_or_else(|| CeremonyError::malformed("the journal", "it lacks a transport key"))
    }

    /// The transport pair that opens what was wrapped for a token.
    fn opener(&self, ring: &Arc<Keyring>, token: &str) -> Result<Key, CeremonyError> {
        Ok(ring.find(&self.key(&format!("transport-{token}"), token)?)?)
    }
}

impl StepResult {
    fn call(&mut self, token: &str, call: &str, result: &str) {
        let (token, call, result) = (token.to_owned(), call.to_owned(), result.to_owned());
        self.calls.push(Call { token, call, result, attributes: Vec::new() });
    }

    /// Notes a key with what the token says of it.
    fn made(
        &mut self,
        ring: &Arc<Keyring>,
        token: &str,
        name: &str,
        call: &str,
        reference: &KeyRef,
    ) -> Result<(), CeremonyError> {
        let attributes = ring.read_back(&ring.find(reference)?)?;
        self.calls.push(Call {
            token: token.to_owned(),
            call: format!("{call} {name}"),
            result: format!("ok, check value {}", reference.check),
            attributes,
        });
        self.keys.push(MadeKey { name: name.to_owned(), token: token.to_owned(), key: reference.clone() });
        Ok(())
    }
}

fn read_packages(path: &std::path::Path) -> Result<Vec<WrappedPackage>, CeremonyError> {
    serde_json::from_slice(&files::read(path)?).map_err(|error| CeremonyError::malformed("packages", error))
}

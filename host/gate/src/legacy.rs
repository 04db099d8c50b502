//! FF3-1 for data that exists: a key of its own, off unless custodians say until when.
//!
//! What custodians signed is kept (`custody/legacy.json`), and `state.json` names its digest under the tag of the site's keys. At each use the
//! signatures are verified again, against the roster in force and the ledger of used approvals; nothing else makes a [`LegacyPermit`].

use std::fs;
use std::path::{Path, PathBuf};

use casemate_custody::{CustodyError, Envelope, LegacyPermit, Operation, UnixTime, files};
use casemate_hsm::fpe::FF3_TWEAK;
use casemate_hsm::{Alphabet, Ff1Value, HsmError, KeyClass, KeyRef};
use casemate_types::{Digest, Profile};
use serde::Serialize;

use crate::GateError;
use crate::config::SiteConfig;
use crate::consent::{Consent, Officer, Wanted};
use crate::site::Gate;
use crate::state::{SiteKey, SiteState};

/// The most values of one call.
pub const MAX_LEGACY_VALUES: usize = 16_384;

/// Whether FF3-1 is on.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LegacyStatus {
    /// The key; none until one is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyRef>,
    /// Serial numbers of the tokens that a statement has to name.
    pub tokens: Vec<String>,
    /// Whether values can be converted now.
    pub enabled: bool,
    /// Until when, if it was enabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<UnixTime>,
    /// Who approved.
    pub custodians: Vec<String>,
    /// SHA-256 of what they signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statement: Option<Digest>,
    /// Why it is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Which way values go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LegacyDirection {
    /// Into FF3-1.
    Encrypt,
    /// Out of it.
    Decrypt,
}

impl Gate {
    /// Makes the FF3-1 key, which stays off.
    ///
    /// # Errors
    /// [`GateError::Consent`] and [`GateError::Custody`] without the approval (operation `generate`), [`GateError::KeyOffice`] for a site
    /// without custodians or with such a key, [`HsmError::LegacyPermit`] in profile `government`; as the token answers.
    pub fn make_legacy_key(&self, officer: &Officer<'_>) -> Result<KeyRef, GateError> {
        self.may_have_legacy()?;
        let mut office = self.office(officer.name)?;
        if let Some(held) = office.state.keys.get(&SiteKey::Legacy) {
            return Err(GateError::KeyOffice(format!("the site has its FF3-1 key already: {}", held.id)));
        }
        let label = SiteKey::Legacy.label();
        let (class, name) = (Some(KeyClass::FpeFf3), Some(label.clone()));
        office.ask(officer, Operation::Generate, &Wanted { class, name, ..Wanted::default() })?;
        let (reference, _) = office.generate(KeyClass::FpeFf3, &label)?;
        office.state.keys.insert(SiteKey::Legacy, reference.clone());
        office.state.doomed.retain(|doomed| doomed.id != reference.id);
        office.commit()?;
        office.record(&reference, "legacy-key", None, None, "ok: made, and off")?;
        Ok(reference)
    }

    /// Turns FF3-1 on, until the time in the statement that the officer brings (operation `enable-legacy`).
    ///
    /// # Errors
    /// [`GateError::Custody`] as the statement is refused, [`GateError::KeyOffice`] for a site without custodians or such a key,
    /// [`HsmError::LegacyPermit`] in profile `government` and for a time that is over.
    pub fn enable_legacy(&self, officer: &Officer<'_>) -> Result<LegacyStatus, GateError> {
        self.may_have_legacy()?;
        let Some(envelope) = &officer.approval else {
            let why = "two custodians enable FF3-1 until a date; `casemate keys legacy status` shows the request";
            return Err(GateError::Consent(why.to_owned()));
        };
        let mut office = self.office(officer.name)?;
        let key = office.state.keys.get(&SiteKey::Legacy).cloned().ok_or_else(no_key)?;
        let wanted = Wanted { key: Some(key.id), class: Some(key.class), ..Wanted::default() };
        let desk = self.desk(officer, self.keyring.serials())?;
        let (desk, consent) = office.ask_at(desk, officer, Operation::EnableLegacy, &wanted)?;
        // The ledger is one process's at a time, and is read again below.
        drop(desk);
        let Consent::Approved(approved) = consent else { return Err(no_custodians()) };
        let permit = approved.legacy_permit()?;
        permit.check(self.config.profile, self.now()?)?;
        files::replace(&self.legacy_path(), &envelope.to_bytes()?)?;
        office.state.legacy = Some(permit.statement());
        office.commit()?;
        office.record(&key, "legacy-enable", None, None, &format!("ok: until {}", permit.until()))?;
        drop(office);
        self.legacy_status()
    }

    /// Turns FF3-1 off. Takes away only, so nobody is asked. Returns whether it was on.
    ///
    /// # Errors
    /// As the log and the disk answer.
    pub fn disable_legacy(&self, by: &str) -> Result<bool, GateError> {
        let mut office = self.office(by)?;
        let key = office.state.keys.get(&SiteKey::Legacy).cloned().ok_or_else(no_key)?;
        let was = office.state.legacy.take().is_some();
        if was {
            office.commit()?;
        }
        office.record(&key, "legacy-disable", None, None, if was { "ok" } else { "ok: it was off" })?;
        Ok(was)
    }

    /// Destroys the FF3-1 key: whatever is still under it is lost.
    ///
    /// # Errors
    /// [`GateError::Consent`] and [`GateError::Custody`] without the approval (operation `destroy`); as the token answers.
    pub fn destroy_legacy_key(&self, officer: &Officer<'_>) -> Result<KeyRef, GateError> {
        let mut office = self.office(officer.name)?;
        let key = office.state.keys.get(&SiteKey::Legacy).cloned().ok_or_else(no_key)?;
        let (id, class, name) = (Some(key.id), Some(key.class), Some(SiteKey::Legacy.label()));
        office.ask(officer, Operation::Destroy, &Wanted { key: id, class, name, ..Wanted::default() })?;
        office.state.keys.remove(&SiteKey::Legacy);
        office.state.legacy = None;
        office.state.doomed.push(key.clone());
        office.commit()?;
        office.destroy_doomed()?;
        Ok(key)
    }

    /// Whether FF3-1 is on, and who said so.
    ///
    /// # Errors
    /// As the clock and the ledger answer.
    pub fn legacy_status(&self) -> Result<LegacyStatus, GateError> {
        let key = self.state().keys.get(&SiteKey::Legacy).cloned();
        let permit = self.legacy_permit();
        let checked = match &permit {
            Ok(permit) => permit.check(self.config.profile, self.now()?).err().map(|error| error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        let permit = permit.ok();
        let people = |permit: &LegacyPermit| permit.custodians().iter().map(|signer| signer.name.to_string()).collect();
        Ok(LegacyStatus {
            key,
            tokens: self.keyring.serials(),
            enabled: checked.is_none(),
            until: permit.as_ref().map(LegacyPermit::until),
            custodians: permit.as_ref().map(people).unwrap_or_default(),
            statement: permit.as_ref().map(LegacyPermit::statement),
            why: checked,
        })
    }

    /// Brings texts over an alphabet into FF3-1 or out of it, all under one tweak. All are converted, or none.
    ///
    /// # Errors
    /// [`HsmError::LegacyPermit`] while it is off; as [`LegacyPermit::encrypt`]; [`GateError::KeyOffice`] for too many values.
    pub fn convert_legacy(
        &self,
        by: &str,
        direction: LegacyDirection,
        alphabet: &Alphabet,
        tweak: [u8; FF3_TWEAK],
        texts: &[&str],
    ) -> Result<Vec<String>, GateError> {
        if texts.len() > MAX_LEGACY_VALUES {
            return Err(GateError::KeyOffice(format!("{MAX_LEGACY_VALUES} values at most in one call")));
        }
        let office = self.office(by)?;
        let key = office.state.keys.get(&SiteKey::Legacy).cloned().ok_or_else(no_key)?;
        let operation = match direction {
            LegacyDirection::Encrypt => "legacy-encrypt",
            LegacyDirection::Decrypt => "legacy-decrypt",
        };
        let note = |result: &str| office.record(&key, operation, None, None, result);
        note(&format!("begun: {} values", texts.len()))?;
        let convert = || -> Result<Vec<String>, GateError> {
            let permit = self.legacy_permit()?;
            let value = |text: &&str| Ok(Ff1Value { numerals: alphabet.numerals(text)?, tweak: tweak.to_vec() });
            let mut batch = texts.iter().map(value).collect::<Result<Vec<_>, HsmError>>()?;
            let (radix, profile, now) = (alphabet.radix(), self.config.profile, self.now()?);
            self.keyring.with_key(&key, |ring, key| match direction {
                LegacyDirection::Encrypt => permit.encrypt((ring, key), radix, &mut batch, profile, now),
                LegacyDirection::Decrypt => permit.decrypt((ring, key), radix, &mut batch, profile, now),
            })?;
            Ok(batch.iter().map(|value| alphabet.text(&value.numerals)).collect::<Result<_, _>>()?)
        };
        match convert() {
            Ok(texts) => {
                note(&format!("ok: {} values", texts.len()))?;
                Ok(texts)
            }
            Err(error) => {
                note(&format!("refused: {error}").chars().take(512).collect::<String>())?;
                Err(error)
            }
        }
    }

    /// What custodians signed, verified again.
    fn legacy_permit(&self) -> Result<LegacyPermit, GateError> {
        let state = self.state();
        let off = || GateError::Hsm(HsmError::LegacyPermit { reason: "it is off" });
        let digest = state.legacy.ok_or_else(off)?;
        let key = state.keys.get(&SiteKey::Legacy).ok_or_else(no_key)?;
        let path = self.legacy_path();
        let bytes = fs::read(&path).map_err(|source| GateError::Io { action: "read", path, source })?;
        let envelope = Envelope::parse(&bytes)?;
        if envelope.digest() != digest {
            return Err(GateError::Consent(
                "custody/legacy.json is not what the custodians signed when FF3-1 was enabled; put that file back"
                    .to_owned(),
            ));
        }
        let desk = self.desk(&Officer::alone(""), Vec::new())?.ok_or_else(no_custodians)?;
        let permit = desk.legacy_permit(&envelope)?;
        if permit.key() != key.id {
            return Err(CustodyError::NotApproved { what: "key", approved: Operation::EnableLegacy }.into());
        }
        Ok(permit)
    }

    /// Refuses FF3-1 by name under a profile that has none, before the site in `dir` is opened and whatever its token is.
    ///
    /// # Errors
    /// [`HsmError::LegacyPermit`] in profile `government`; as `site.toml` reads.
    pub fn admits_legacy(dir: &Path) -> Result<(), GateError> {
        admits(SiteConfig::read(dir)?.profile)
    }

    fn may_have_legacy(&self) -> Result<(), GateError> {
        admits(self.config.profile)?;
        if self.state().custody.is_none() {
            return Err(no_custodians());
        }
        Ok(())
    }

    fn legacy_path(&self) -> PathBuf {
        self.dir.join("custody/legacy.json")
    }
}

fn admits(profile: Profile) -> Result<(), GateError> {
    if profile == Profile::Government {
        return Err(HsmError::LegacyPermit { reason: "profile `government` has no FF3-1" }.into());
    }
    Ok(())
}

/// Refuses to start a site that says FF3-1 is on under a profile that has none. The state is not authenticated yet: that can only close.
pub(crate) fn check(config: &SiteConfig, state: &SiteState) -> Result<(), GateError> {
    if config.profile == Profile::Government && state.legacy.is_some() {
        let reason = "profile `government` has no FF3-1, and it is on in this site: \
                      `casemate keys legacy disable` under the profile of before";
        return Err(HsmError::LegacyPermit { reason }.into());
    }
    Ok(())
}

fn no_key() -> GateError {
    GateError::KeyOffice("the site has no FF3-1 key; `casemate keys legacy make-key`".to_owned())
}

fn no_custodians() -> GateError {
    GateError::Consent(
        "FF3-1 needs two custodians, and this site has none; `casemate custodian roster adopt`".to_owned(),
    )
}

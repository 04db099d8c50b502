//! What stands between `state.json` and the destruction of a key.
//!
//! The lists of keys in force and of keys to be destroyed carry an HMAC under a key in the token, and a generation whose floor is
//! kept sealed and apart: neither an altered nor an old list is carried out, and a wrapping key that no list names is noticed.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;

use casemate_hsm::{KeyClass, KeyRef};

use crate::GateError;
use crate::collection::store;
use crate::site::Gate;
use crate::state::{SiteKey, SiteState, write_private};
use crate::vault::{Vault, VaultKey};

/// The label of every key that wraps users' key-encryption keys.
pub(crate) const WRAPPING_LABEL: &str = "site/user-kek-wrapping";

/// The file that holds the generation below which no `state.json` is taken. A file of its own, replaced whole: it is written at every
/// change of a key, and has to survive whatever cuts that off.
const FLOOR: &str = "state.floor";

impl Gate {
    /// Gives a state that is about to be written the next generation, and its tag.
    pub(crate) fn tag_keys(&self, state: &mut SiteState) -> Result<(), GateError> {
        state.generation = state.generation.max(self.state_generation()?) + 1;
        state.keys_tag = self.keyring.mac(&self.tokens_key(state)?, &covered(state)?)?.to_vec();
        Ok(())
    }

    /// Refuses lists of keys that this site did not write last, or that would destroy a key in force. Of a change that was cut off
    /// before its floor was written, the floor is raised.
    pub(crate) fn check_keys(&self, state: &SiteState) -> Result<(), GateError> {
        let refuse = |problem: String| Err(GateError::Doomed { problem });
        let floor = self.state_generation()?;
        if state.generation < floor {
            return refuse(format!("it is of generation {}, and {floor} was written: an old copy", state.generation));
        }
        // The first change may have been cut off before its floor was written; later ones cannot have been.
        if floor == 0 && state.generation > 1 {
            return refuse(format!("it is of generation {}, and {FLOOR} is gone", state.generation));
        }
        // Until its first change a site has nothing to destroy.
        if state.generation > 0
            || !state.keys_tag.is_empty()
            || !state.doomed.is_empty()
            || state.custody.is_some()
            || state.legacy.is_some()
        {
            let tag = self.keyring.mac(&self.tokens_key(state)?, &covered(state)?)?;
            if aws_lc_rs::constant_time::verify_slices_are_equal(&tag, &state.keys_tag).is_err() {
                return refuse("its lists of keys were altered".to_owned());
            }
        }
        if !state.rehearsal && state.custody.is_none() {
            return refuse("it calls itself no rehearsal, and has no custodians".to_owned());
        }
        match state.doomed.iter().find(|doomed| state.held().any(|held| held.id == doomed.id)) {
            Some(held) => refuse(format!("it would destroy {}, which is in force", held.label)),
            // A change that was cut off before its floor was written.
            None if state.generation > floor => self.raise_generation(state.generation),
            None => Ok(()),
        }
    }

    /// Wrapping keys in the token that are neither in force nor to be destroyed: made by a command that was killed before it could
    /// write them down. The state has passed [`Gate::check_keys`]. Of a pair, the manifest lists the keys, and none is looked for.
    pub(crate) fn stray_wrapping_keys(&self, state: &SiteState) -> Result<Vec<KeyRef>, GateError> {
        // Where the one in force is not, the state is not this token's, and what is there may be the one to keep.
        self.keyring.find(state.key(SiteKey::UserKekWrapping)?)?;
        let mut found = self.keyring.labelled(KeyClass::KekWrapping, WRAPPING_LABEL)?;
        found.retain(|key| !state.held().chain(&state.doomed).any(|named| named.id == key.id));
        Ok(found)
    }

    /// Raised after the state is written: a crash in between leaves a state that is newer than its floor.
    pub(crate) fn raise_generation(&self, generation: u64) -> Result<(), GateError> {
        let sealed = self
            .site_key
            .seal("a state's generation", &[FLOOR.as_bytes()], &generation.to_be_bytes())
            .map_err(store)?;
        write_private(&self.dir.join(FLOOR), &sealed)?;
        // The file can be put back together with the state; the log cannot.
        self.record_state(generation)
    }

    fn state_generation(&self) -> Result<u64, GateError> {
        let path = self.dir.join(FLOOR);
        let sealed = match fs::read(&path) {
            Ok(sealed) => sealed,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(self.recorded_state()),
            Err(source) => return Err(GateError::Io { action: "read", path, source }),
        };
        let bytes = self.site_key.open("a state's generation", &[FLOOR.as_bytes()], &sealed).map_err(store)?;
        let bytes: [u8; 8] = bytes.as_slice().try_into().map_err(store)?;
        Ok(self.recorded_state().max(u64::from_be_bytes(bytes)))
    }

    fn tokens_key(&self, state: &SiteState) -> Result<VaultKey, GateError> {
        Ok(self.keyring.find(state.key(SiteKey::Tokens)?)?)
    }
}

/// The tag of a state that is written before a gate has opened the site.
pub(crate) fn first_tag(keyring: &Vault, state: &SiteState) -> Result<Vec<u8>, GateError> {
    Ok(keyring.mac(&keyring.find(state.key(SiteKey::Tokens)?)?, &covered(state)?)?.to_vec())
}

/// What the tag covers.
fn covered(state: &SiteState) -> Result<Vec<u8>, GateError> {
    let compartments: BTreeMap<_, _> = state.compartments.iter().map(|(name, held)| (name, &held.key)).collect();
    let fields = serde_json::to_vec(&(state.generation, &state.doomed, &state.keys, compartments)).map_err(store)?;
    if state.versions.is_empty() && state.custody.is_none() {
        return Ok([b"casemate/state-keys/1".as_slice(), &fields].concat());
    }
    // Of a site whose keys have versions, their stages as well: an older one that was cut out would not be re-encrypted. And who the
    // custodians are: one form cannot be taken for another, so nobody cuts them out of a file and keeps its tag.
    let versions = serde_json::to_vec(&state.versions).map_err(store)?;
    let Some(custody) = &state.custody else {
        // Without custodians nothing legacy is on, so nothing of it is covered, and nothing is taken: `Gate::legacy_permit` asks them.
        return Ok([b"casemate/state-keys/2".as_slice(), &fields, b"\0", &versions].concat());
    };
    let custody = serde_json::to_vec(custody).map_err(store)?;
    // A rehearsal is not made the real thing by its file.
    let split: &[u8] = if state.rehearsal { b"" } else { b"\0no rehearsal" };
    let Some(legacy) = &state.legacy else {
        return Ok([b"casemate/state-keys/3".as_slice(), &fields, b"\0", &versions, b"\0", &custody, split].concat());
    };
    let legacy = legacy.to_string();
    let form = b"casemate/state-keys/4".as_slice();
    Ok([form, &fields, b"\0", &versions, b"\0", &custody, b"\0", legacy.as_bytes(), split].concat())
}

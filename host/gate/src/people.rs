//! Users in the log as commitments: `p:` and the salted digest of the name. The salt of each user lies in `people.json`, outside the log,
//! and erasing it leaves records that verify and name nobody.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use casemate_audit::Event;
use casemate_hsm::KeyClass;
use casemate_types::Digest;
use serde::{Deserialize, Serialize};

use crate::GateError;
use crate::state::write_private;

const FILE: &str = "people.json";
const PREFIX: &str = "p:";

/// The names behind the pseudonyms, for who may read the site's folder.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pseudonyms {
    /// User name to salt, 32 bytes in hexadecimal.
    salts: BTreeMap<String, String>,
}

impl Pseudonyms {
    /// Reads the file of a site; empty when there is none.
    pub fn read(site: &Path) -> Result<Self, GateError> {
        let path = site.join(FILE);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| GateError::Config { path: path.clone(), problem: error.to_string() }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(GateError::Io { action: "read", path, source }),
        }
    }

    /// What the log says for this user; `None` for a user it never named, or whose salt was erased.
    pub fn of(&self, user: &str) -> Option<String> {
        let salt = self.salt(user)?;
        Some(format!("{PREFIX}{}", Digest::salted(&salt, user.as_bytes()).hex()))
    }

    fn salt(&self, user: &str) -> Option<[u8; 32]> {
        let mut salt = [0; 32];
        hex::decode_to_slice(self.salts.get(user)?, &mut salt).ok()?;
        Some(salt)
    }

    /// Every known pseudonym with its name.
    pub fn names(&self) -> BTreeMap<String, &str> {
        self.salts.keys().filter_map(|user| Some((self.of(user)?, user.as_str()))).collect()
    }
}

/// The writing side: the process that has the site open.
pub(crate) struct People {
    path: PathBuf,
    known: Mutex<Pseudonyms>,
}

impl People {
    pub(crate) fn open(site: &Path) -> Result<Self, GateError> {
        Ok(Self { path: site.join(FILE), known: Mutex::new(Pseudonyms::read(site)?) })
    }

    /// Puts the user's pseudonym in the place of the name.
    pub(crate) fn disguise(&self, event: &mut Event) -> Result<(), GateError> {
        self.disguise_key(event)?;
        let user = match event {
            Event::Answer { user, .. }
            | Event::Decision { user, .. }
            | Event::Run { user, .. }
            | Event::Session { user, .. } => Some(user),
            Event::KeyOperation { user, .. } => user.as_mut(),
            _ => None,
        };
        if let Some(user) = user.filter(|user| !user.is_empty()) {
            *user = self.pseudonym(user)?;
        }
        Ok(())
    }

    /// Takes away what names the user beside the pseudonym: `state.json` lists versions and users' own keys by name. The identifier of a
    /// user's own key becomes a commitment under the same salt, so that records of one key can be told until the salt is erased.
    fn disguise_key(&self, event: &mut Event) -> Result<(), GateError> {
        let Event::KeyOperation { class, key_id, key_check, version, user: Some(user), .. } = event else {
            return Ok(());
        };
        *version = None;
        if !user.is_empty() && *class == KeyClass::UserKek.to_string() {
            let salt = self.salt(user)?;
            *key_id = format!("{PREFIX}{}", Digest::salted(&salt, key_id.as_bytes()).hex());
            key_check.clear();
        }
        Ok(())
    }

    /// Forgets the salt of a user; whether there was one.
    pub(crate) fn erase(&self, user: &str) -> Result<bool, GateError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(salt) = known.salts.remove(user) else { return Ok(false) };
        if let Err(error) = self.write(&known) {
            known.salts.insert(user.to_owned(), salt);
            return Err(error);
        }
        Ok(true)
    }

    fn pseudonym(&self, user: &str) -> Result<String, GateError> {
        let salt = self.salt(user)?;
        Ok(format!("{PREFIX}{}", Digest::salted(&salt, user.as_bytes()).hex()))
    }

    /// The salt of a user, made at the first record.
    fn salt(&self, user: &str) -> Result<[u8; 32], GateError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(salt) = known.salt(user) {
            return Ok(salt);
        }
        let salt = crate::random_salt()?;
        known.salts.insert(user.to_owned(), hex::encode(salt));
        // Durable before the first record that needs it.
        if let Err(error) = self.write(&known) {
            known.salts.remove(user);
            return Err(error);
        }
        Ok(salt)
    }

    fn write(&self, known: &Pseudonyms) -> Result<(), GateError> {
        let bytes = serde_json::to_vec_pretty(known)
            .map_err(|error| GateError::Config { path: self.path.clone(), problem: error.to_string() })?;
        write_private(&self.path, &bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    fn session(user: &str) -> Event {
        Event::Session { action: "opened".into(), user: user.into(), compartments: vec![], reason: None }
    }

    fn user_of(event: &Event) -> String {
        match event {
            Event::Session { user, .. } => user.clone(),
            _ => panic!("a session"),
        }
    }

    #[test]
    fn a_users_own_key_in_a_record_does_not_name_who_has_the_pseudonym() {
        let site = tempfile::tempdir().unwrap();
        let people = People::open(site.path()).unwrap();
        let operation = |class: KeyClass| Event::KeyOperation {
            operation: "unwrap".into(),
            class: class.to_string(),
            key_id: "0f0e0d0c".into(),
            key_check: "A1B2C3".into(),
            version: Some(7),
            user: Some("ana".into()),
            by: None,
            result: "ok".into(),
        };
        let disguised = |class| {
            let mut event = operation(class);
            people.disguise(&mut event).unwrap();
            event
        };
        let own = disguised(KeyClass::UserKek);
        let text = serde_json::to_string(&own).unwrap();
        for telling in ["ana", "0f0e0d0c", "A1B2C3", "\"version\":7"] {
            assert!(!text.contains(telling), "{text}");
        }
        assert_eq!(own, disguised(KeyClass::UserKek), "one key can be followed");
        // A key that many use names nobody; a version is one user's.
        let text = serde_json::to_string(&disguised(KeyClass::Compartment)).unwrap();
        assert!(text.contains("0f0e0d0c") && text.contains("\"version\":null"), "{text}");
        people.erase("ana").unwrap();
        assert_ne!(own, disguised(KeyClass::UserKek), "and not over an erasure");
    }

    #[test]
    fn a_name_becomes_the_same_commitment_until_its_salt_is_erased() {
        let site = tempfile::tempdir().unwrap();
        let people = People::open(site.path()).unwrap();
        let [mut first, mut second, mut other] = [session("ana"), session("ana"), session("ben")];
        for event in [&mut first, &mut second, &mut other] {
            people.disguise(event).unwrap();
        }
        assert_eq!(first, second);
        assert_ne!(first, other);
        let pseudonym = user_of(&first);
        assert!(pseudonym.starts_with("p:") && !pseudonym.contains("ana"));
        let read = Pseudonyms::read(site.path()).unwrap();
        assert_eq!(read.names()[&pseudonym], "ana");

        assert!(People::open(site.path()).unwrap().erase("ana").unwrap());
        let read = Pseudonyms::read(site.path()).unwrap();
        assert_eq!(read.of("ana"), None);
        assert!(!read.names().contains_key(&pseudonym));
        assert!(!fs::read_to_string(site.path().join(FILE)).unwrap().contains("ana"));
        // The same person later is somebody new.
        let people = People::open(site.path()).unwrap();
        let mut again = session("ana");
        people.disguise(&mut again).unwrap();
        assert_ne!(user_of(&again), pseudonym);
        assert!(!people.erase("nobody").unwrap());
    }
}

//! Users in the log as commitments: `p:` and the salted digest of the name. The salt of each user lies in `people.json`, outside the log,
//! and erasing it leaves records that verify and name nobody.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use casemate_audit::Event;
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
        let mut salt = [0; 32];
        hex::decode_to_slice(self.salts.get(user)?, &mut salt).ok()?;
        Some(format!("{PREFIX}{}", Digest::salted(&salt, user.as_bytes()).hex()))
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
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pseudonym) = known.of(user) {
            return Ok(pseudonym);
        }
        known.salts.insert(user.to_owned(), hex::encode(crate::random_salt()?));
        // Durable before the first record that needs it.
        if let Err(error) = self.write(&known) {
            known.salts.remove(user);
            return Err(error);
        }
        known.of(user).ok_or(GateError::Store("a salt that was just made is gone".to_owned()))
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

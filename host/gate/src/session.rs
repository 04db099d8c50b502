//! Who is asking, and the keys they hold: opened in the HSM at the start of a session, gone at its end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use casemate_audit::record::Event;
use casemate_fhe::Params;
use casemate_fhe_owner::{DataKey, OwnerKey};
use casemate_types::{Claims, CompartmentName, Digest, UserName};
use zeroize::Zeroizing;

use crate::GateError;
use crate::config::SiteConfig;
use crate::journal::{key_operation, user_key_operation};
use crate::site::Gate;
use crate::state::{CompartmentState, SiteKey, SiteState};
use crate::user_key;
use crate::vault::{Vault, VaultKey};

/// An authenticated user with the opened keys of the compartments the user satisfies.
///
/// The only place where FHE secret keys and compartment data keys exist in clear: no HSM can use them. Zeroized when dropped.
pub struct Session {
    /// What the host vouches for.
    pub claims: Claims,
    /// Which key of the site opened it.
    pub(crate) key_version: u64,
    pub(crate) compartments: BTreeMap<CompartmentName, Compartment>,
}

/// The opened secrets of one compartment.
pub(crate) struct Compartment {
    pub(crate) owner: OwnerKey,
    pub(crate) data: DataKey,
    pub(crate) identifiers: Zeroizing<[u8; 32]>,
    /// What keys for models are derived from: the seed of `owner`, under another purpose.
    pub(crate) models: Zeroizing<[u8; 32]>,
}

/// FHE seed, data key, identifier key: 32 bytes each.
pub(crate) const SECRETS: usize = 96;

impl Session {
    /// Authenticates a bearer token and opens the user's compartment keys in the HSM. Both outcomes are recorded.
    pub(crate) async fn open(gate: &Gate, meter: &RefusalMeter, credential: &str) -> Result<Arc<Self>, GateError> {
        let journal = &gate.journal;
        let Some(user) = authenticate(&gate.policy(), &gate.state(), credential) else {
            if let Some(unrecorded) = meter.admit(journal.now_ms()) {
                let refused = Event::Session {
                    action: if unrecorded == 0 {
                        "refused".to_owned()
                    } else {
                        format!("refused, and {unrecorded} more before")
                    },
                    user: String::new(),
                    compartments: Vec::new(),
                    reason: Some(GateError::Unauthenticated.reason()),
                };
                journal.record(refused).await?;
            }
            return Err(GateError::Unauthenticated);
        };
        // A token that hangs must not take an async thread with it.
        match tokio::task::block_in_place(|| unlock(gate, &user, credential)) {
            Ok(session) => {
                let opened = Event::Session {
                    action: "opened".to_owned(),
                    user: user.to_string(),
                    compartments: session.compartments.keys().cloned().collect(),
                    reason: None,
                };
                journal.record(opened).await?;
                Ok(Arc::new(session))
            }
            Err(error) => {
                let refused = Event::Session {
                    action: "refused".to_owned(),
                    user: user.to_string(),
                    compartments: Vec::new(),
                    reason: Some(error.reason()),
                };
                journal.record(refused).await?;
                Err(error)
            }
        }
    }

    pub(crate) fn compartment(&self, name: &str) -> Option<(&CompartmentName, &Compartment)> {
        self.compartments.iter().find(|(held, _)| held.as_str() == name)
    }
}

/// Bounds what strangers can write into the log: refusals beyond a rate are counted, and the next record says how many.
#[derive(Default)]
pub(crate) struct RefusalMeter(Mutex<Refusals>);

#[derive(Default)]
struct Refusals {
    second: u64,
    recorded: u32,
    unrecorded: u64,
}

/// Refused tokens that get a record of their own in one second.
const REFUSALS_A_SECOND: u32 = 16;

impl RefusalMeter {
    /// Whether this refusal is recorded, and then how many before it were not.
    fn admit(&self, now_ms: u64) -> Option<u64> {
        let mut state = match self.0.lock() {
            Ok(state) => state,
            Err(poisoned) => poisoned.into_inner(),
        };
        let second = now_ms / 1000;
        if state.second != second {
            state.second = second;
            state.recorded = 0;
        }
        if state.recorded < REFUSALS_A_SECOND {
            state.recorded += 1;
            Some(std::mem::take(&mut state.unrecorded))
        } else {
            state.unrecorded += 1;
            None
        }
    }
}

/// The user whose token this is. Tokens are 256 random bits, so an unsalted digest reveals nothing, and every digest is compared.
fn authenticate(config: &SiteConfig, state: &SiteState, credential: &str) -> Option<UserName> {
    let digest = Digest::of(credential.as_bytes());
    let mut found = None;
    for (user, held) in &state.users {
        let same = aws_lc_rs::constant_time::verify_slices_are_equal(held.credential.as_bytes(), digest.as_bytes());
        if same.is_ok() && config.users.contains_key(user) {
            found = Some(user.clone());
        }
    }
    found
}

fn unlock(gate: &Gate, user: &UserName, credential: &str) -> Result<Session, GateError> {
    let (keyring, journal) = (&gate.keyring, &gate.journal);
    // Held to the end, so that the key office does not replace the wrapping key in between.
    let state = gate.hold_state();
    let policy = gate.policy();
    let missing = || GateError::StateIncomplete { what: format!("user `{user}`") };
    let held = state.users.get(user).ok_or_else(missing)?;
    user_key::check(keyring, &keyring.find(state.key(SiteKey::Tokens)?)?, user, held)?;
    let contents = user_key::open(user, held, credential)?;
    // Neither the key nor the policy file alone gives an attribute.
    let mut attributes = policy.users.get(user).ok_or_else(missing)?.both(&contents.attributes);
    let mut entitled = policy.compartments_of(&attributes);
    // Nor both of them, where two officers approved who may be here.
    if let Some(people) = gate.approved_people()? {
        attributes = people.both(user, &attributes).ok_or(GateError::Unauthenticated)?;
        entitled = &policy.compartments_of(&attributes) & &people.compartments_of(&attributes);
    }

    let kek = keyring.open_user_kek(&keyring.find(state.key(SiteKey::UserKekWrapping)?)?, &held.kek);
    let result = if kek.is_ok() { "ok" } else { "refused" };
    journal.record_blocking(user_key_operation(&held.kek.key, "unwrap", held.version, user, result))?;
    let kek = kek?;
    let mut compartments = BTreeMap::new();
    for (name, wrapped) in &contents.compartments {
        // A wrapped key that the policy file no longer grants is left wrapped.
        let (Some(sealed), true) = (state.compartments.get(name), entitled.contains(name)) else { continue };
        let key = keyring.unwrap_known(&kek, &sealed.key, &wrapped.0);
        let result = if key.is_ok() { "ok" } else { "refused" };
        journal.record_blocking(key_operation(&sealed.key, None, "unwrap", Some(user.to_string()), result))?;
        let compartment = open_compartment(keyring, &key?, name, sealed)?;
        compartments.insert(name.clone(), compartment);
    }
    // The user's key and the compartments' leave the token here; what they opened lives as long as the session.
    let claims = attributes.claims(user, compartments.keys().cloned().collect());
    Ok(Session { claims, key_version: held.version, compartments })
}

/// Opens a compartment's secrets with its key in the HSM.
fn open_compartment(
    keyring: &Vault,
    key: &VaultKey,
    name: &CompartmentName,
    state: &CompartmentState,
) -> Result<Compartment, GateError> {
    let secrets = keyring.open_sealed(key, compartment_aad(name).as_bytes(), &state.sealed_secrets)?;
    let part = |n: usize| -> Result<Zeroizing<[u8; 32]>, GateError> {
        let mut out = Zeroizing::new([0; 32]);
        let slice = secrets.get(n * 32..(n + 1) * 32).filter(|_| secrets.len() == SECRETS);
        out.copy_from_slice(slice.ok_or(GateError::StateIncomplete { what: format!("secrets of `{name}`") })?);
        Ok(out)
    };
    Ok(Compartment {
        owner: OwnerKey::from_seed(&part(0)?, Params::default()).map_err(|e| GateError::Fhe(e.to_string()))?,
        data: DataKey::from_bytes(&part(1)?).map_err(|e| GateError::Fhe(e.to_string()))?,
        identifiers: part(2)?,
        models: part(0)?,
    })
}

/// Binds sealed secrets to their compartment.
pub(crate) fn compartment_aad(name: &CompartmentName) -> String {
    format!("casemate/compartment/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_wrong_tokens_cannot_flood_the_log() {
        let meter = RefusalMeter::default();
        let recorded = (0..1000).filter(|_| meter.admit(5_000).is_some()).count();
        assert_eq!(recorded, REFUSALS_A_SECOND as usize);
        // The next second's first record says how many were not recorded.
        assert_eq!(meter.admit(6_000), Some(1000 - u64::from(REFUSALS_A_SECOND)));
        assert_eq!(meter.admit(6_001), Some(0));
    }
}

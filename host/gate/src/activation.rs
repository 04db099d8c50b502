//! A signed bundle becomes part of the active set: verified, tried, activated, swapped in; each step recorded.

use casemate_audit::Event;
use casemate_bundle::VerifiedBundle;
use casemate_change::{OrderError, SiteStore};
use casemate_types::{Digest, Generation};

use crate::GateError;
use crate::site::Gate;

impl Gate {
    /// Verifies a bundle against the pinned root, compiles it, asks it to describe itself, and activates it: one swap, after which
    /// requests start with the new set, while those under way end with theirs. A bundle that fails at any of these never becomes active,
    /// and the refusal is recorded by name.
    pub async fn load_bundle(&self, raw: &[u8]) -> Result<(VerifiedBundle, Generation), GateError> {
        let mut verified = None;
        match self.verify_and_activate(raw, &mut verified).await {
            Ok(done) => Ok(done),
            Err(error) => {
                // Names and signers are recorded only where the signatures hold: anyone can write anything into a file.
                let (name, version, signers) = verified.unwrap_or_default();
                self.journal
                    .record(Event::Bundle {
                        action: "refused".to_owned(),
                        name,
                        version,
                        digest: Digest::of(raw),
                        signers,
                        reason: Some(error.to_string().chars().take(512).collect()),
                        generation: self.standing().active.generation,
                    })
                    .await?;
                Err(error)
            }
        }
    }

    async fn verify_and_activate(
        &self,
        raw: &[u8],
        verified: &mut Option<(String, u64, Vec<String>)>,
    ) -> Result<(VerifiedBundle, Generation), GateError> {
        let bundle = casemate_bundle::verify(raw, &self.trust()?, self.trusted_now())?;
        *verified = Some((bundle.manifest().name.to_string(), bundle.version(), bundle.signers().to_vec()));
        // Compiled before anything is held: an order to stop does not wait for it.
        self.try_load(&bundle).await?;
        let _changing = self.changing.lock().await;
        if self.standing().revoked.contains(&bundle.bundle_digest()) {
            return Err(OrderError::Revoked { bundle: bundle.bundle_digest() }.into());
        }
        let mut changes = self.changes()?;
        self.record_bundle("verified", &bundle, changes.active().generation).await?;
        let generation = changes.activate(&bundle, raw)?;
        // On disk it is in force from here on, whatever becomes of the others: that is what the log must say.
        self.record_bundle("activated", &bundle, generation).await?;
        self.reload_held().await?;
        Ok((bundle, generation))
    }

    /// Records what a crash between the state and the log left out.
    pub(crate) async fn catch_up(&self, changes: &SiteStore, bundles: &[VerifiedBundle]) -> Result<(), GateError> {
        let standing = self.standing();
        for bundle in bundles {
            let name = &bundle.manifest().name;
            if changes.active().entries.get(name) != standing.active.entries.get(name) {
                let back = changes.active().rolled_back.contains(name);
                let action = if back { "rolled-back" } else { "activated" };
                self.record_bundle(action, bundle, changes.active().generation).await?;
            }
        }
        Ok(())
    }

    /// Records it, and takes it into the standing of the site. The caller holds `changing`.
    pub(crate) async fn record_bundle(
        &self,
        action: &str,
        bundle: &VerifiedBundle,
        generation: Generation,
    ) -> Result<(), GateError> {
        let event = Event::Bundle {
            action: action.to_owned(),
            name: bundle.manifest().name.to_string(),
            version: bundle.version(),
            digest: bundle.bundle_digest(),
            signers: bundle.signers().to_vec(),
            reason: None,
            generation,
        };
        let index = self.journal.record(event.clone()).await?;
        self.take_in(&event, index)
    }
}

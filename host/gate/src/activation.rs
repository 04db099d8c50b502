//! A signed bundle becomes part of the active set: verified, tried, activated, swapped in; each step recorded.

use casemate_audit::Event;
use casemate_bundle::VerifiedBundle;
use casemate_change::SiteStore;
use casemate_types::{Digest, Generation};

use crate::GateError;
use crate::site::Gate;

impl Gate {
    /// Verifies a bundle against the pinned root, compiles it, asks it to describe itself, and activates it. A bundle that fails at
    /// any of these never becomes active, and the refusal is recorded by name.
    pub async fn load_bundle(&self, raw: &[u8]) -> Result<(VerifiedBundle, Generation), GateError> {
        let mut verified = None;
        match self.verify_and_activate(raw, &mut verified).await {
            Ok((bundle, generation)) => {
                // On disk it is in force from here on, whatever becomes of the others: that is what the log must say.
                self.record_bundle("activated", &bundle, generation).await?;
                self.reload().await?;
                Ok((bundle, generation))
            }
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
                        generation: SiteStore::open(self.dir()).map(|c| c.active().generation).unwrap_or_default(),
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
        let bundle = casemate_bundle::verify(raw, &self.trust()?, jiff::Timestamp::now())?;
        *verified = Some((bundle.manifest().name.to_string(), bundle.version(), bundle.signers().to_vec()));
        self.try_load(&bundle).await?;
        let mut changes = SiteStore::open(self.dir())?;
        self.record_bundle("verified", &bundle, changes.active().generation).await?;
        let generation = changes.activate(&bundle, raw)?;
        Ok((bundle, generation))
    }

    async fn record_bundle(
        &self,
        action: &str,
        bundle: &VerifiedBundle,
        generation: Generation,
    ) -> Result<u64, GateError> {
        self.journal
            .record(Event::Bundle {
                action: action.to_owned(),
                name: bundle.manifest().name.to_string(),
                version: bundle.version(),
                digest: bundle.bundle_digest(),
                signers: bundle.signers().to_vec(),
                reason: None,
                generation,
            })
            .await
    }
}

//! A signed bundle becomes part of the active set: verified, tried, activated, swapped in; each step recorded.

use casemate_audit::Event;
use casemate_bundle::Verified;
use casemate_change::{ApprovalError, OrderError, SiteStore};
use casemate_types::{Digest, Generation, PluginName, Profile};

use crate::GateError;
use crate::site::Gate;

/// What the log says about a verified bundle.
pub(crate) struct Written {
    pub(crate) name: PluginName,
    version: u64,
    digest: Digest,
    signers: Vec<String>,
}

impl From<&Verified> for Written {
    fn from(bundle: &Verified) -> Self {
        let (name, signers) = (bundle.name().clone(), bundle.signers().to_vec());
        Self { name, version: bundle.version(), digest: bundle.bundle_digest(), signers }
    }
}

impl Written {
    pub(crate) fn of(bundles: &[Verified]) -> Vec<Self> {
        bundles.iter().map(Self::from).collect()
    }
}

impl Gate {
    /// Verifies a bundle against the pinned root, compiles it and asks it to describe itself (or tries the document that it holds), and activates it: one swap, after which
    /// requests start with the new set, while those under way end with theirs. A bundle that fails at any of these never becomes active,
    /// and the refusal is recorded by name.
    ///
    /// # Errors
    /// [`GateError::Refused`] at a site whose profile asks for staged and approved changes, once it runs.
    pub async fn load_bundle(&self, raw: &[u8]) -> Result<(Verified, Generation), GateError> {
        let strict = matches!(self.config.profile, Profile::Enterprise | Profile::Government);
        // What is active already changes nothing: that is how a damaged file is put back.
        let active = || self.standing().active.entries.values().any(|entry| entry.bundle_digest == Digest::of(raw));
        if strict && !active() {
            let why = "this site takes changes that were staged and approved: casemate change receive";
            return Err(GateError::Refused(why.to_owned()));
        }
        self.load_approved(raw, None).await
    }

    /// As [`Gate::load_bundle`], for a change whose approvals were checked against the generation `against`: another one that became
    /// active meanwhile makes them stale.
    pub(crate) async fn load_approved(
        &self,
        raw: &[u8],
        against: Option<Generation>,
    ) -> Result<(Verified, Generation), GateError> {
        let mut verified = None;
        match self.verify_and_activate(raw, against, &mut verified).await {
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
        against: Option<Generation>,
        verified: &mut Option<(String, u64, Vec<String>)>,
    ) -> Result<(Verified, Generation), GateError> {
        let bundle = casemate_bundle::verify_any(raw, &self.trust()?, self.trusted_now())?;
        let written = Written::from(&bundle);
        *verified = Some((written.name.to_string(), written.version, written.signers.clone()));
        // Compiled before anything is held: an order to stop does not wait for it.
        self.try_any(&bundle).await?;
        let _changing = self.changing.lock().await;
        let now = self.standing().active.generation;
        if let Some(then) = against.filter(|then| *then != now) {
            return Err(ApprovalError::Stale { then, now }.into());
        }
        if self.standing().revoked.contains(&bundle.bundle_digest()) {
            return Err(OrderError::Revoked { bundle: bundle.bundle_digest() }.into());
        }
        let mut changes = self.changes()?;
        self.record_bundle("verified", &written, changes.active().generation).await?;
        let generation = changes.activate(&bundle, raw)?;
        // On disk it is in force from here on, whatever becomes of the others: that is what the log must say.
        self.record_bundle("activated", &written, generation).await?;
        self.reload_held().await?;
        Ok((bundle, generation))
    }

    /// Records what a crash between the state and the log left out.
    pub(crate) async fn catch_up(&self, changes: &SiteStore, bundles: &[Written]) -> Result<(), GateError> {
        let standing = self.standing();
        for bundle in bundles {
            let name = &bundle.name;
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
        bundle: &Written,
        generation: Generation,
    ) -> Result<(), GateError> {
        let event = Event::Bundle {
            action: action.to_owned(),
            name: bundle.name.to_string(),
            version: bundle.version,
            digest: bundle.digest,
            signers: bundle.signers.clone(),
            reason: None,
            generation,
        };
        let index = self.journal.record(event.clone()).await?;
        self.take_in(&event, index)
    }
}

//! Orders of custodians: stop at once, resume, roll back, revoke. What closes takes effect before it is recorded, what opens afterwards.

use casemate_audit::Event;
use casemate_change::{Order, OrderError, OrderFile, Scope, SignedOrder};
use casemate_types::{Digest, Generation, PluginName};
use serde::Serialize;

use crate::GateError;
use crate::activation::Written;
use crate::site::{Active, Gate};

/// What became of an order.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CarriedOut {
    /// `stopped`, `resumed`, `rolled-back` or `revoked`.
    pub action: String,
    /// `everything`, `component:NAME`, `NAME@DIGEST` that came back, or the digest that was revoked.
    pub what: String,
    /// Who signed.
    pub signers: Vec<String>,
    /// The generation in force now.
    pub generation: Generation,
}

impl Gate {
    /// Verifies an order and carries it out. A refusal is recorded by name.
    ///
    /// # Errors
    /// [`GateError::Order`] for what [`OrderFile::verify`] and [`casemate_change::Standing::check`] refuse; as [`Gate::reload`].
    pub async fn carry_out_order(&self, bytes: &[u8]) -> Result<CarriedOut, GateError> {
        let mut verified = None;
        match self.verify_and_carry_out(bytes, &mut verified).await {
            Err(error) => {
                // Names are recorded only where the signatures hold: anyone can write anything into a file.
                let signers = verified.as_ref().map(|order| order.signers().to_vec()).unwrap_or_default();
                let scope = verified.as_ref().map(|order| subject(order.order())).unwrap_or_default();
                let order = verified.map_or_else(|| Digest::of(bytes), |order| order.digest());
                let reason = error.to_string().chars().take(512).collect();
                let refused = Event::Order { action: "refused".to_owned(), scope, order, signers, reason };
                self.journal.record(refused).await?;
                Err(error)
            }
            done => done,
        }
    }

    async fn verify_and_carry_out(
        &self,
        bytes: &[u8],
        verified: &mut Option<SignedOrder>,
    ) -> Result<CarriedOut, GateError> {
        let signed = OrderFile::parse(bytes)?.verify(&self.config.name, &self.trust()?, self.trusted_now())?;
        let signed = verified.insert(signed);
        let _changing = self.changing.lock().await;
        let standing = self.standing();
        standing.check(signed)?;
        let event = |action: &str| Event::Order {
            action: action.to_owned(),
            scope: subject(signed.order()),
            order: signed.digest(),
            signers: signed.signers().to_vec(),
            reason: signed.order().reason().to_owned(),
        };
        let action = match signed.order() {
            Order::Stop { .. } | Order::Revoke { .. } => {
                let action = if matches!(signed.order(), Order::Stop { .. }) { "stopped" } else { "revoked" };
                let event = event(action);
                // Closed first: a log that cannot be written keeps nothing open.
                let mut closed = (*standing).clone();
                crate::standing::apply(&mut closed, &event)?;
                // It counts as carried out once it is recorded: until then the same order may be given again.
                closed.orders.remove(&signed.digest());
                self.set_standing(closed);
                self.rearrange();
                let index = self.journal.record(event.clone()).await?;
                self.take_in(&event, index)?;
                action
            }
            Order::Resume { .. } => {
                let event = event("resumed");
                let index = self.journal.record(event.clone()).await?;
                self.take_in(&event, index)?;
                self.rearrange();
                "resumed"
            }
            Order::Rollback { name, to, .. } => {
                self.roll_back(name, *to, event("rollback")).await?;
                "rolled-back"
            }
        };
        Ok(CarriedOut {
            action: action.to_owned(),
            what: subject(signed.order()),
            signers: signed.signers().to_vec(),
            generation: self.active().generation,
        })
    }

    /// The old bundle is verified and tried like a new one: it may have expired meanwhile.
    async fn roll_back(&self, name: &PluginName, to: Digest, ordered: Event) -> Result<(), GateError> {
        let never = || OrderError::NeverActive { name: name.clone(), bundle: to };
        let version = self.standing().version_of(name, to).ok_or_else(never)?;
        let mut changes = self.changes()?;
        let bundle = changes.load_one(name, version, to, &self.trust()?, self.trusted_now())?;
        self.try_any(&bundle).await?;
        let index = self.journal.record(ordered.clone()).await?;
        self.take_in(&ordered, index)?;
        let generation = changes.roll_back(name, version, to)?;
        self.record_bundle("rolled-back", &Written::from(&bundle), generation).await?;
        self.reload_held().await.map(drop)
    }

    /// Refuses while everything is stopped.
    pub(crate) fn check_not_stopped(&self) -> Result<(), GateError> {
        match self.standing().stops.contains_key(&Scope::Everything) {
            true => Err(GateError::Stopped { what: Scope::Everything.to_string() }),
            false => Ok(()),
        }
    }

    /// Refuses what was begun with a set of which something was stopped or revoked since.
    pub(crate) fn check_running(&self, active: &Active) -> Result<(), GateError> {
        let standing = self.standing();
        match active.parts().find(|(name, bundle)| standing.denies(name, *bundle)) {
            Some((name, _)) => Err(GateError::Stopped { what: name.to_string() }),
            None => Ok(()),
        }
    }
}

fn subject(order: &Order) -> String {
    match order {
        Order::Stop { scope, .. } | Order::Resume { scope, .. } => scope.to_string(),
        Order::Rollback { name, to, .. } => format!("{name}@{to}"),
        Order::Revoke { bundle, .. } => bundle.to_string(),
    }
}

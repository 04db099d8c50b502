//! Shadow: the new component of a change runs beside the active one on live requests, without effect. It gets the answers that the active one
//! got, from memory, and nothing real stands behind it; what it would have said is recorded with mode `shadow`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use casemate_audit::{Event, Record};
use casemate_bundle::Verified;
use casemate_engine::{Plugin, wit};
use casemate_types::{Decision, DecisionId, Digest, LogLevel, Phase, Reason};
use serde::Serialize;

use crate::GateError;
use crate::changes::component_of_change;
use crate::journal::{RecordedRun, Recording, Said};
use crate::replay::{Outcome, compare, replay};
use crate::site::Gate;

/// The mode of its records.
const SHADOW: &str = "shadow";
/// The note that says what became of the run.
const NOTE: &str = "outcome";
/// Requests that a summary names.
const NAMED: usize = 1000;

/// What a shadow would have done so far.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ShadowSummary {
    /// The component.
    pub component: Option<Digest>,
    /// Live runs that it did as well.
    pub runs: u64,
    /// How many of each outcome.
    pub counts: BTreeMap<Outcome, u64>,
    /// Requests that were denied and that it would have allowed; at most 1,000.
    pub newly_allowed: Vec<String>,
}

/// What the log says about the shadow of a change, whether or not another process has the site open.
///
/// # Errors
/// For a change or a log that cannot be read.
pub fn shadow_of(dir: &Path, content: Digest) -> Result<ShadowSummary, GateError> {
    let wanted = component_of_change(dir, content)?;
    let mut summary = ShadowSummary { component: wanted, ..ShadowSummary::default() };
    for (_, bytes) in casemate_audit::entries_from(&dir.join("log"), 0)? {
        let bytes = bytes?;
        if !std::str::from_utf8(&bytes).unwrap_or_default().contains("\"mode\":\"shadow\"") {
            continue;
        }
        let Event::Decision { id, phase, mode, component, annotations, .. } = Record::from_bytes(&bytes)?.event else {
            continue;
        };
        if mode != SHADOW || component != wanted {
            continue;
        }
        let note = annotations.iter().find(|(name, _)| name == NOTE).map(|(_, value)| value.clone());
        let outcome = serde_json::from_value(note.unwrap_or_default().into());
        let Ok(outcome) = outcome else { continue };
        summary.runs += 1;
        *summary.counts.entry(outcome).or_default() += 1;
        if outcome == Outcome::NewlyAllowed && summary.newly_allowed.len() < NAMED {
            summary.newly_allowed.push(format!("{id}/{phase}"));
        }
    }
    Ok(summary)
}

impl Gate {
    /// Lets the component of a verified change run beside the active one, or no longer. Until this process ends.
    ///
    /// # Errors
    /// [`GateError::Refused`] for a change without a component, or with nothing active to run beside; as [`Gate::try_load`].
    pub async fn shadow_change(&self, content: Digest, on: bool) -> Result<(), GateError> {
        let (raw, name, version) = self.received_bundle(content)?;
        let Verified::Component(bundle) = casemate_bundle::verify_any(&raw, &self.trust()?, self.trusted_now())? else {
            return Err(GateError::Refused("it holds no component, so there is nothing to run".to_owned()));
        };
        if !self.standing().active.entries.contains_key(&name) {
            return Err(GateError::Refused(format!("nothing called `{name}` is active to run beside")));
        }
        if on && self.standing().denies(&name, bundle.bundle_digest()) {
            return Err(GateError::Stopped { what: name.to_string() });
        }
        let plugin = Arc::new(Plugin::load(self.engine(), &bundle).await?);
        let _changing = self.changing.lock().await;
        let action = if on { "shadowed" } else { "unshadowed" };
        self.record_step(action, &name, version, content, Vec::new()).await?;
        let mut shadows = self.shadows.write().unwrap_or_else(PoisonError::into_inner);
        if on {
            shadows.insert(name, (bundle.bundle_digest(), plugin));
        } else {
            shadows.remove(&name);
        }
        Ok(())
    }

    /// Runs the shadow of a component, if it has one, on a run that has just been recorded. Does not wait for it.
    pub(crate) fn run_shadow(
        &self,
        id: DecisionId,
        phase: Phase,
        (claims, now_ms): (&wit::Claims, u64),
        input: &impl Serialize,
        run: &RecordedRun,
    ) {
        let shadows = self.shadows.read().unwrap_or_else(PoisonError::into_inner);
        let Some((bundle, plugin)) = shadows.get(&run.plugin).cloned() else { return };
        drop(shadows);
        if self.standing().denies(&run.plugin, bundle) {
            return;
        }
        let Ok(input) = serde_json::to_value(input) else { return };
        let recording =
            Recording { salt: String::new(), phase, now_ms, claims: claims.clone(), input, runs: Vec::new() };
        let (journal, run, generation) = (Arc::clone(&self.journal), run.clone(), self.standing().active.generation);
        let work = async move {
            let Ok(replayed) = replay(&plugin, &recording, &run, false).await else { return };
            let compared = compare(&run, &replayed);
            let outcome = serde_json::to_value(compared.outcome).ok().and_then(|word| word.as_str().map(str::to_owned));
            let (verdict, reason) = said(&replayed.said);
            let event = Event::Decision {
                id,
                user: recording.claims.user.clone(),
                phase,
                verdict: verdict.to_owned(),
                reason,
                policy: Some(run.plugin.clone()),
                mode: SHADOW.to_owned(),
                generation,
                component: Some(plugin.component_digest()),
                obligations: Vec::new(),
                input: Digest::of(b""),
                recording: None,
                host_calls: u32::try_from(replayed.trace.exchanges.len()).unwrap_or(u32::MAX),
                annotations: vec![(NOTE.to_owned(), outcome.unwrap_or_default())],
                log_level: LogLevel::Info,
            };
            if let Err(error) = journal.record(event).await {
                tracing::error!(%id, %error, "what a shadow said is not recorded");
            }
        };
        if !self.monitors.start(work) {
            tracing::warn!(%id, "a shadow was skipped: too much runs beside requests");
        }
    }
}

fn said(said: &Said) -> (&'static str, Option<Reason>) {
    match said {
        Said::Decision(Decision::Allow) => ("allow", None),
        Said::Decision(Decision::Deny { reason, .. }) => ("deny", Some(reason.clone())),
        Said::Decision(Decision::Transform { .. }) => ("transform", None),
        Said::Ended(reason) => ("deny", Some(reason.clone())),
        Said::References(_) | Said::Answer { .. } => ("answered", None),
        Said::Error(_) => ("error", None),
    }
}

//! Staging: a new component is tried on what the site was asked before, beside the component that was asked then.
//!
//! First the *old* component runs again on every recording, and must do exactly what the log says it did: a set of which one does not is
//! refused as a whole. Then the new one runs on the same, and what it makes of each is counted and named.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use casemate_audit::{Event, Record};
use casemate_engine::{Engine, EngineOptions, Plugin};
use casemate_types::{Digest, PluginName};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::GateError;
use crate::journal::{Found, RecordedRun};
use crate::replay::{Compared, Outcome, Replayed, compare, ended_by_time, replay, same_again};
use crate::site::Gate;

/// Requests that a report names, of each outcome but "the same" and "newly allowed"; of those all are named.
const NAMED: usize = 200;
/// Replays under way at once.
const AT_ONCE: usize = 16;

/// What a trial found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Trial {
    /// Runs that were replayed with both components.
    pub replayed: u64,
    /// How many of each outcome.
    pub counts: BTreeMap<Outcome, u64>,
    /// Requests that were denied and would be allowed: all of them. Each approver gives a reason for each.
    pub newly_allowed: BTreeMap<String, String>,
    /// Other requests of which something would change, by outcome, with what; at most 200 each.
    pub changed: BTreeMap<Outcome, BTreeMap<String, String>>,
    /// Runs in which the host would be asked for other things.
    pub other_calls: u64,
    /// Instructions of all runs together, old and new.
    pub fuel: (u64, u64),
    /// Runs that would take a tenth more instructions, and more than a thousand more.
    pub more_fuel: u64,
    /// The most memory of a run in bytes, old and new.
    pub memory_bytes: (u64, u64),
    /// Mean share of the recorded passages that a strategy would find again; none for other components.
    pub overlap: Option<f64>,
    /// Recorded runs that were left out, by why.
    pub left_out: BTreeMap<String, u64>,
}

/// One run to be replayed.
struct Item {
    found: Arc<Found>,
    run: RecordedRun,
}

impl Gate {
    /// Replays recordings of `name` with the component that made them and with `new`. `tell` is told how many are done.
    ///
    /// # Errors
    /// [`GateError::Replay`] for a set that the old component does not repeat exactly, or of which the log knows a recording otherwise.
    pub(crate) async fn try_on_recordings(
        &self,
        old: Arc<Plugin>,
        new: Arc<Plugin>,
        mut tell: impl FnMut(u64),
    ) -> Result<Trial, GateError> {
        let mut trial = Trial::default();
        let items = self.runs_of(&old, &mut trial)?;
        let mut at_work = JoinSet::new();
        let mut overlaps: Vec<f64> = Vec::new();
        let mut items = items.into_iter();
        loop {
            while at_work.len() < AT_ONCE
                && let Some(item) = items.next()
            {
                at_work.spawn(both(Arc::clone(&old), Arc::clone(&new), item));
            }
            let Some(done) = at_work.join_next().await else { break };
            let done = done.map_err(|error| GateError::Store(format!("a replay was cut off: {error}")))??;
            let Both { request, compared, before, after } = done;
            overlaps.extend(compared.overlap);
            trial.take(request, compared, &before, &after);
            tell(trial.replayed);
        }
        trial.overlap = (!overlaps.is_empty()).then(|| overlaps.iter().sum::<f64>() / overlaps.len() as f64);
        Ok(trial)
    }

    /// The runs that the component `old` made with its present settings, each checked against the log.
    fn runs_of(&self, old: &Plugin, trial: &mut Trial) -> Result<Vec<Item>, GateError> {
        let (name, component, settings) = (&old.manifest().name, old.component_digest(), old.settings_digest());
        let mut logged = self.logged_recordings()?;
        let mut items = Vec::new();
        for found in self.journal.all_recordings() {
            let found = match found {
                Ok(found) => found,
                // Written before recordings held what a replay needs; it has no run of this component.
                Err((key, error)) if error.contains("missing field") => {
                    tracing::debug!(key, %error, "a recording in an older form is left out");
                    trial.leave_out("recorded in an older form");
                    continue;
                }
                Err((key, error)) => return Err(GateError::Replay { request: key, problem: error }),
            };
            if !logged.digests.remove(&found.commitment) {
                if logged.whole {
                    let problem = "the log does not know it: it was put there, or altered".to_owned();
                    return Err(GateError::Replay { request: found.key, problem });
                }
                trial.leave_out("its record is in an archive");
                continue;
            }
            let found = Arc::new(found);
            for run in found.recording.runs.iter().filter(|run| run.plugin == *name) {
                if run.component != component || run.settings != settings {
                    trial.leave_out("another version or other settings ran then");
                } else if ended_by_time(&run.said) {
                    trial.leave_out("it was ended for its time, which no replay repeats");
                } else {
                    items.push(Item { found: Arc::clone(&found), run: run.clone() });
                }
            }
        }
        // Erased by order, or taken away so that nobody sees what would change of them.
        if !logged.digests.is_empty() {
            trial.left_out.insert("the log knows it, and it is gone".to_owned(), logged.digests.len() as u64);
        }
        Ok(items)
    }

    /// The commitments to recordings that the log holds, and whether it is all there.
    fn logged_recordings(&self) -> Result<Logged, GateError> {
        let (mut digests, mut whole, mut next) = (BTreeSet::new(), true, 0);
        let log = self.dir.join("log");
        // A record that was altered could hide a recording that was taken away.
        casemate_audit::verify_from(&log, &self.journal.verifier_key(), 0).map_err(casemate_audit::AuditError::from)?;
        for (index, bytes) in casemate_audit::entries_from(&log, 0)? {
            whole &= index == next;
            next = index + 1;
            let bytes = bytes?;
            if !std::str::from_utf8(&bytes).unwrap_or_default().contains("\"recording\":\"") {
                continue;
            }
            if let Event::Decision { recording, .. } | Event::Run { recording, .. } = Record::from_bytes(&bytes)?.event
            {
                digests.extend(recording);
            }
        }
        Ok(Logged { digests, whole })
    }

    /// An engine for replays: small, and it counts instructions.
    pub(crate) fn replay_engine() -> Result<Engine, GateError> {
        let options = EngineOptions { instances: 2 * AT_ONCE as u32, count_fuel: true, ..EngineOptions::default() };
        Ok(Engine::new(&options, None)?)
    }
}

struct Logged {
    digests: BTreeSet<Digest>,
    whole: bool,
}

/// A run replayed with both components.
struct Both {
    request: String,
    compared: Compared,
    before: Replayed,
    after: Replayed,
}

async fn both(old: Arc<Plugin>, new: Arc<Plugin>, item: Item) -> Result<Both, GateError> {
    let Item { found, run } = item;
    let request = found.key.clone();
    let refused = |problem: String| GateError::Replay { request: request.clone(), problem };
    let before = replay(&old, &found.recording, &run, true).await.map_err(refused)?;
    same_again(&run, &before).map_err(refused)?;
    let after = replay(&new, &found.recording, &run, false).await.map_err(refused)?;
    Ok(Both { compared: compare(&run, &after), request, before, after })
}

impl Trial {
    fn leave_out(&mut self, why: &str) {
        *self.left_out.entry(why.to_owned()).or_default() += 1;
    }

    fn take(&mut self, request: String, compared: Compared, before: &Replayed, after: &Replayed) {
        self.replayed += 1;
        *self.counts.entry(compared.outcome).or_default() += 1;
        self.other_calls += u64::from(compared.other_calls);
        let fuel = (before.trace.fuel.unwrap_or_default(), after.trace.fuel.unwrap_or_default());
        self.fuel = (self.fuel.0.saturating_add(fuel.0), self.fuel.1.saturating_add(fuel.1));
        self.more_fuel += u64::from(fuel.1 > fuel.0.saturating_add(1000).max(fuel.0 / 10 * 11));
        let memory = (before.trace.memory_bytes, after.trace.memory_bytes);
        self.memory_bytes = (self.memory_bytes.0.max(memory.0), self.memory_bytes.1.max(memory.1));
        match compared.outcome {
            Outcome::Same => {}
            Outcome::NewlyAllowed => drop(self.newly_allowed.insert(request, compared.detail)),
            outcome => {
                let named = self.changed.entry(outcome).or_default();
                named.insert(request, compared.detail);
                // The first by name, whichever was done first.
                if named.len() > NAMED {
                    named.pop_last();
                }
            }
        }
    }

    /// What a person reads: the most important first.
    pub fn lines(&self, name: &PluginName) -> Vec<String> {
        let mut lines = vec![format!("{} recorded runs of `{name}` were replayed with both components", self.replayed)];
        lines.extend(self.newly_allowed.iter().map(|(request, detail)| format!("  NOW ALLOWED   {request}: {detail}")));
        for (outcome, count) in &self.counts {
            lines.push(format!("  {:<14}{count}", word(*outcome)));
        }
        for (outcome, requests) in &self.changed {
            let shown = requests.iter().take(10);
            lines.extend(shown.map(|(request, detail)| format!("  {:<14}{request}: {detail}", word(*outcome))));
        }
        lines.push(format!("  other calls   {}", self.other_calls));
        lines.push(format!(
            "  instructions  {} -> {}; {} runs take a tenth more",
            self.fuel.0, self.fuel.1, self.more_fuel
        ));
        lines.push(format!("  memory        {} -> {} bytes at most", self.memory_bytes.0, self.memory_bytes.1));
        lines.extend(self.overlap.map(|overlap| format!("  overlap       {overlap:.3} of the passages found again")));
        lines.extend(self.left_out.iter().map(|(why, count)| format!("  left out      {count}: {why}")));
        lines
    }
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::NewlyAllowed => "now allowed",
        Outcome::NewlyDenied => "now denied",
        Outcome::OtherReason => "other reason",
        Outcome::OtherMasking => "other masking",
        Outcome::OtherRanking => "other ranking",
        Outcome::OtherAnswer => "other answer",
        Outcome::Trapped => "trapped",
        Outcome::NotReplayable => "not replayable",
        Outcome::Same => "the same",
    }
}

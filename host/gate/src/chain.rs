//! Asks the chain of policies, in every phase, and records what they said before anyone acts on it.

use std::sync::Arc;

use casemate_audit::AuditError;
use casemate_audit::record::Event;
use casemate_engine::{Exchange, HostAnswer, HostCall, Invocation, Plugin, wit};
use casemate_types::{Decision, DecisionId, Digest, Generation, LogLevel, Obligation, Phase, PluginName, Reason};

use crate::combine::{Combined, Combining, Vote};
use crate::config::Mode;
use crate::journal::{Journal, RecordedRun, Said};
use crate::services::RequestServices;
use crate::site::Gate;
use crate::{GateError, random_salt};

/// The policies of one generation.
pub struct Chain {
    pub(crate) combining: Combining,
    pub(crate) policies: Vec<(Arc<Plugin>, Mode)>,
    pub(crate) generation: Generation,
    /// Whether a custodian stopped everything, or a policy of it.
    pub(crate) stopped: bool,
}

/// A decision that is already durable in the log.
#[derive(Debug, Clone)]
pub struct Decided {
    /// What holds.
    pub decision: Decision,
    /// Which policy settled it.
    pub policy: Option<PluginName>,
    /// The index of its record.
    pub index: u64,
    /// Why the host had to end a policy, for the operator alone.
    pub fault: Option<String>,
}

/// One verdict as it is recorded: of the chain, or of a policy that only monitors.
struct Verdict<'a> {
    decision: &'a Decision,
    policy: Option<&'a PluginName>,
    component: Option<Digest>,
    generation: Generation,
    mode: Mode,
    runs: &'a [RecordedRun],
}

/// The verdict of a run that only monitors, where there was no room for it.
const SKIPPED: &str = "skipped";

impl Chain {
    /// Asks every enforced policy of `phase`, combines their votes, and returns once the record is durable. Policies that only
    /// monitor run afterwards, beside the request, with services of their own: what fails behind them cannot touch the request.
    pub(crate) async fn decide(
        &self,
        services: &RequestServices,
        request: wit::Request,
        phase: Phase,
    ) -> Result<Decided, GateError> {
        let (gate, id) = (&services.gate, services.id);
        let mut votes = Vec::new();
        let mut runs = Vec::new();
        let mut fault = None;
        let invocation = services.invocation();
        for plugin in self.policies_of(phase, Mode::Enforce) {
            let (vote, why, run) = vote(plugin, &request, invocation.clone()).await;
            runs.push(run);
            votes.push(vote);
            fault = fault.or(why);
        }
        let Combined { decision, policy } = match self.stopped {
            false => self.combining.combine(&votes),
            true => Combined { decision: stopped(), policy: None },
        };
        let verdict = Verdict {
            decision: &decision,
            policy: policy.as_ref(),
            component: policy.as_ref().and_then(|name| self.digest_of(name)),
            generation: self.generation,
            mode: Mode::Enforce,
            runs: &runs,
        };
        let (decision, index) = match record(&gate.journal, id, &request, phase, &invocation, verdict).await {
            Ok(index) => (decision, index),
            // Remarks and kinds of the policies together are more than a record holds: what cannot be recorded is not allowed.
            Err(GateError::Audit(AuditError::RecordTooLarge { .. })) => {
                let message = "The policies said more than a record holds, so nothing is allowed.".to_owned();
                let denial = Decision::Deny { reason: Reason::output_limit(), message };
                let verdict = Verdict {
                    decision: &denial,
                    policy: None,
                    component: None,
                    generation: self.generation,
                    mode: Mode::Enforce,
                    runs: &[],
                };
                let index = record(&gate.journal, id, &request, phase, &invocation, verdict).await?;
                (denial, index)
            }
            Err(error) => return Err(error),
        };
        for run in &runs {
            gate.run_shadow(id, phase, (&invocation.claims, invocation.now_ms), &request, run);
        }
        let mut watching = self.policies_of(phase, Mode::Monitor).peekable();
        if watching.peek().is_some() {
            let apart = services.apart().invocation();
            watching.for_each(|plugin| self.monitor(gate, plugin, id, &request, phase, &apart));
        }
        Ok(Decided { decision, policy, index, fault })
    }

    fn policies_of(&self, phase: Phase, wanted: Mode) -> impl Iterator<Item = &Arc<Plugin>> {
        let of = move |plugin: &Plugin, mode: Mode| mode == wanted && plugin.manifest().phases.contains(&phase);
        self.policies.iter().filter(move |(plugin, mode)| of(plugin, *mode)).map(|(plugin, _)| plugin)
    }

    /// Runs a policy that has no vote, and records what it would have said.
    fn monitor(
        &self,
        gate: &Gate,
        plugin: &Arc<Plugin>,
        id: DecisionId,
        request: &wit::Request,
        phase: Phase,
        invocation: &Invocation,
    ) {
        let (journal, plugin, generation) = (Arc::clone(&gate.journal), Arc::clone(plugin), self.generation);
        let run = {
            let (journal, plugin, request, invocation) =
                (Arc::clone(&journal), Arc::clone(&plugin), request.clone(), invocation.clone());
            async move {
                let (vote, _, run) = vote(&plugin, &request, invocation.clone()).await;
                let verdict = Verdict {
                    decision: &vote.decision,
                    policy: Some(&vote.policy),
                    component: Some(plugin.component_digest()),
                    generation,
                    mode: Mode::Monitor,
                    runs: &[run],
                };
                if let Err(error) = record(&journal, id, &request, phase, &invocation, verdict).await {
                    tracing::error!(%id, policy = %vote.policy, %error, "a monitored verdict is not recorded");
                }
            }
        };
        if !gate.monitors.start(run) {
            let name = plugin.manifest().name.clone();
            tracing::warn!(%id, policy = %name, "a monitored policy was skipped: too many run at once");
            let event = skipped(id, request.claims.user.clone(), phase, name, plugin.component_digest(), generation);
            tokio::spawn(async move {
                if let Err(error) = journal.record(event).await {
                    tracing::error!(%id, %error, "a skipped monitored policy is not recorded");
                }
            });
        }
    }

    fn digest_of(&self, name: &PluginName) -> Option<Digest> {
        self.policies
            .iter()
            .find(|(plugin, _)| plugin.manifest().name == *name)
            .map(|(plugin, _)| plugin.component_digest())
    }
}

fn stopped() -> Decision {
    let message = "A custodian has stopped this site, so nothing is allowed.".to_owned();
    Decision::Deny { reason: Reason::stopped(), message }
}

/// One policy's word, why the host had to end it if it did, and what a replay of it needs.
async fn vote(plugin: &Plugin, request: &wit::Request, invocation: Invocation) -> (Vote, Option<String>, RecordedRun) {
    let policy = plugin.manifest().name.clone();
    let run = plugin.evaluate(request, invocation).await;
    let said = Said::from(&run.outcome);
    let refused = |reason, message: &str| (Decision::Deny { reason, message: message.to_owned() }, true);
    let mut fault = None;
    let (decision, failed) = match (run.outcome, failed_capability(&run.trace.exchanges)) {
        (Err(refusal), _) => {
            tracing::warn!(%policy, %refusal, "a policy was ended by the host");
            fault = Some(format!("policy `{policy}`: {refusal}"));
            refused(refusal.reason(), "A policy was stopped by the host, so nothing is allowed.")
        }
        // What it decided, it decided from less than it asked for.
        (Ok(_), Some(reason)) => {
            refused(reason, "A policy could not be told what it asked for, so nothing is allowed.")
        }
        (Ok(decision), None) => (decision, false),
    };
    (Vote { policy, decision, failed }, fault, RecordedRun::of(plugin, said, run.trace.exchanges))
}

/// Keeps what a replay needs, then waits until the record of the verdict is durable.
async fn record(
    journal: &Journal,
    id: DecisionId,
    request: &wit::Request,
    phase: Phase,
    asked: &Invocation,
    verdict: Verdict<'_>,
) -> Result<u64, GateError> {
    let Verdict { decision, policy, component, generation, mode, runs } = verdict;
    let exchanges = || runs.iter().flat_map(|run| &run.exchanges);
    let annotations = annotations(exchanges());
    let commitment = journal.keep(id, random_salt()?, phase, (&asked.claims, asked.now_ms), request, runs).await?;
    let (verdict, reason, obligations) = match decision {
        Decision::Allow => ("allow", None, &[][..]),
        Decision::Deny { reason, .. } => ("deny", Some(reason.clone()), &[][..]),
        Decision::Transform { obligations } => ("transform", None, obligations.as_slice()),
    };
    let event = Event::Decision {
        id,
        user: request.claims.user.clone(),
        phase,
        verdict: verdict.to_owned(),
        reason,
        policy: policy.cloned(),
        mode: match mode {
            Mode::Enforce => "enforce",
            Mode::Monitor => "monitor",
        }
        .to_owned(),
        generation,
        component,
        obligations: obligations.iter().map(obligation_kind).collect(),
        input: commitment.input,
        recording: commitment.recording,
        host_calls: exchanges().count() as u32,
        annotations,
        log_level: log_level(obligations),
    };
    journal.record(event).await
}

fn skipped(
    id: DecisionId,
    user: String,
    phase: Phase,
    policy: PluginName,
    component: Digest,
    generation: Generation,
) -> Event {
    Event::Decision {
        id,
        user,
        phase,
        verdict: SKIPPED.to_owned(),
        reason: None,
        policy: Some(policy),
        mode: "monitor".to_owned(),
        generation,
        component: Some(component),
        obligations: Vec::new(),
        input: Digest::of(b""),
        recording: None,
        host_calls: 0,
        annotations: Vec::new(),
        log_level: LogLevel::Notice,
    }
}

/// The reason of the first capability that failed behind a component.
fn failed_capability(exchanges: &[Exchange]) -> Option<Reason> {
    let code = exchanges.iter().find_map(|exchange| exchange.answer.unavailable())?;
    Some(Reason::of_host(code).unwrap_or_else(Reason::capability_failed))
}

/// The remarks a component made and the host took.
pub(crate) fn annotations<'a>(exchanges: impl IntoIterator<Item = &'a Exchange>) -> Vec<(String, String)> {
    exchanges
        .into_iter()
        .filter(|exchange| exchange.answer == HostAnswer::Unit(Ok(())))
        .filter_map(|exchange| match &exchange.call {
            HostCall::Annotate { name, value } => Some((name.clone(), value.clone())),
            _ => None,
        })
        .collect()
}

/// Kinds of spans that a record names; a component may invent as many as it likes.
const MAX_KINDS: usize = 16;

fn obligation_kind(obligation: &Obligation) -> String {
    match obligation {
        Obligation::CapClassification { level } => format!("cap-classification:{level}"),
        Obligation::LogAt { .. } => "log-at".to_owned(),
        Obligation::MaskSpans { spans } => {
            let mut kinds: Vec<&str> = spans.iter().map(|span| span.kind.as_str()).collect();
            kinds.sort_unstable();
            kinds.dedup();
            let more = if kinds.len() > MAX_KINDS { "+more" } else { "" };
            kinds.truncate(MAX_KINDS);
            format!("mask-spans:{}:{}{more}", spans.len(), kinds.join("+"))
        }
        Obligation::RequireStepUp { method } => format!("require-step-up:{method}"),
    }
}

fn log_level(obligations: &[Obligation]) -> LogLevel {
    obligations
        .iter()
        .filter_map(|obligation| match obligation {
            Obligation::LogAt { level } => Some(*level),
            _ => None,
        })
        .max()
        .unwrap_or(LogLevel::Info)
}

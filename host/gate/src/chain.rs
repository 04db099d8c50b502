//! Asks the chain of policies, in every phase, and records what they said before anyone acts on it.

use std::sync::Arc;

use casemate_audit::record::Event;
use casemate_engine::{Exchange, HostAnswer, HostCall, Invocation, Plugin, wit};
use casemate_types::{Decision, DecisionId, Digest, Generation, LogLevel, Obligation, Phase, PluginName, Reason};

use crate::combine::{Combined, Combining, Vote};
use crate::config::Mode;
use crate::journal::Journal;
use crate::{GateError, random_salt};

/// The policies of one generation.
pub struct Chain {
    pub(crate) combining: Combining,
    pub(crate) policies: Vec<(Arc<Plugin>, Mode)>,
    pub(crate) generation: Generation,
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
}

/// What stands behind the policies of one question. A policy that only monitors has services of its own: what fails behind them
/// cannot touch the request.
#[derive(Clone)]
pub(crate) struct Invocations {
    pub(crate) enforced: Invocation,
    pub(crate) monitored: Invocation,
}

/// One verdict as it is recorded: of the chain, or of a policy that only monitors.
struct Verdict<'a> {
    decision: &'a Decision,
    policy: Option<&'a PluginName>,
    component: Option<Digest>,
    mode: Mode,
    exchanges: Vec<Exchange>,
}

impl Chain {
    /// Asks every policy of `request.phase`, combines the enforced ones, and returns once the record is durable.
    pub(crate) async fn decide(
        &self,
        journal: &Journal,
        id: DecisionId,
        request: wit::Request,
        phase: Phase,
        invocations: Invocations,
    ) -> Result<Decided, GateError> {
        let mut votes = Vec::new();
        let mut exchanges = Vec::new();
        for (plugin, mode) in self.policies.iter().filter(|(plugin, _)| plugin.manifest().phases.contains(&phase)) {
            let invocation = match mode {
                Mode::Enforce => &invocations.enforced,
                Mode::Monitor => &invocations.monitored,
            };
            let run = plugin.evaluate(&request, invocation.clone()).await;
            let (decision, failed) = match (run.outcome, fault(&run.trace.exchanges)) {
                (Err(refusal), _) => (Decision::Deny { reason: refusal.reason(), message: refusal.to_string() }, true),
                // What it decided, it decided from less than it asked for.
                (Ok(_), Some(reason)) => {
                    let message = "A policy could not be told what it asked for, so nothing is allowed.".to_owned();
                    (Decision::Deny { reason, message }, true)
                }
                (Ok(decision), None) => (decision, false),
            };
            let vote = Vote { policy: plugin.manifest().name.clone(), decision, failed };
            match mode {
                Mode::Enforce => {
                    exchanges.extend(run.trace.exchanges);
                    votes.push(vote);
                }
                Mode::Monitor => {
                    let verdict = Verdict {
                        decision: &vote.decision,
                        policy: Some(&vote.policy),
                        component: Some(plugin.component_digest()),
                        mode: Mode::Monitor,
                        exchanges: run.trace.exchanges,
                    };
                    self.record(journal, id, &request, phase, verdict).await?;
                }
            }
        }
        let Combined { decision, policy } = self.combining.combine(&votes);
        let verdict = Verdict {
            decision: &decision,
            policy: policy.as_ref(),
            component: policy.as_ref().and_then(|name| self.digest_of(name)),
            mode: Mode::Enforce,
            exchanges,
        };
        let index = self.record(journal, id, &request, phase, verdict).await?;
        Ok(Decided { decision, policy, index })
    }

    /// Keeps what a replay needs, then waits until the record of the verdict is durable.
    async fn record(
        &self,
        journal: &Journal,
        id: DecisionId,
        request: &wit::Request,
        phase: Phase,
        verdict: Verdict<'_>,
    ) -> Result<u64, GateError> {
        let Verdict { decision, policy, component, mode, exchanges } = verdict;
        let annotations = annotations(&exchanges);
        let commitment = journal.keep(id, random_salt()?, phase, request, &exchanges).await?;
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
            generation: self.generation,
            component,
            obligations: obligations.iter().map(obligation_kind).collect(),
            input: commitment.input,
            recording: commitment.recording,
            host_calls: exchanges.len() as u32,
            annotations,
            log_level: log_level(obligations),
        };
        journal.record(event).await
    }

    fn digest_of(&self, name: &PluginName) -> Option<Digest> {
        self.policies
            .iter()
            .find(|(plugin, _)| plugin.manifest().name == *name)
            .map(|(plugin, _)| plugin.component_digest())
    }
}

/// The reason of the first capability that failed behind a component.
fn fault(exchanges: &[Exchange]) -> Option<Reason> {
    let code = exchanges.iter().find_map(|exchange| exchange.answer.unavailable())?;
    Some(Reason::of_host(code).unwrap_or_else(Reason::capability_failed))
}

/// The remarks a component made and the host took.
pub(crate) fn annotations(exchanges: &[Exchange]) -> Vec<(String, String)> {
    exchanges
        .iter()
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

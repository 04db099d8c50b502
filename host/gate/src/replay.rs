//! Exact replay: a component runs on a recorded request and gets the recorded answers of the host. Nothing real stands behind it, and it
//! cannot tell: claims, clock, randomness, answers and limits are those of the recorded run.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use casemate_bundle::World;
use casemate_engine::wit::{Field, Request};
use casemate_engine::{Exchange, HostAnswer, HostCall, Invocation, Plugin, Services, Trace};
use casemate_types::{Decision, Obligation, PluginName, Reason};
use serde::{Deserialize, Serialize};

use crate::journal::{RecordedRun, Recording, Said};

/// What became of a recorded run when another component did it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was denied, and would be allowed. First, because it opens something.
    NewlyAllowed,
    /// It was allowed, and would be denied.
    NewlyDenied,
    /// Denied as before, for another reason.
    OtherReason,
    /// Allowed as before, with other duties: what is masked, the cap, how it is logged.
    OtherMasking,
    /// A strategy would find other passages, or in another order.
    OtherRanking,
    /// An agent would answer otherwise.
    OtherAnswer,
    /// The host would have to end it.
    Trapped,
    /// It asked the host something that was not asked then, so nobody knows what it would be told.
    NotReplayable,
    /// The same.
    Same,
}

/// One replayed run beside the recorded one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Compared {
    pub(crate) outcome: Outcome,
    /// In words, without anything of the request.
    pub(crate) detail: String,
    /// Whether it asked the host for other things, or in another order.
    pub(crate) other_calls: bool,
    /// Share of the recorded references that are found again, for a strategy.
    pub(crate) overlap: Option<f64>,
}

/// What a replay gave.
pub(crate) struct Replayed {
    pub(crate) said: Said,
    pub(crate) trace: Trace,
    /// The first call that no recorded answer fits.
    pub(crate) unanswered: Option<&'static str>,
}

/// Answers from a recording.
struct Recorded {
    left: Mutex<VecDeque<Exchange>>,
    unanswered: Mutex<Option<&'static str>>,
    /// Whether calls may come in another order, or be new ones that only leave a remark.
    lenient: bool,
}

#[async_trait]
impl Services for Recorded {
    async fn call(&self, _: &PluginName, call: &HostCall) -> HostAnswer {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if left.front().is_some_and(|next| next.call == *call)
            && let Some(next) = left.pop_front()
        {
            return next.answer;
        }
        if self.lenient {
            if let Some(place) = left.iter().position(|other| other.call == *call)
                && let Some(found) = left.remove(place)
            {
                return found.answer;
            }
            if only_says(call) {
                return HostAnswer::Unit(Ok(()));
            }
        }
        let mut unanswered = self.unanswered.lock().unwrap_or_else(PoisonError::into_inner);
        unanswered.get_or_insert(call.action());
        // No call takes this answer (the engine itself tells the time), so the component ends here.
        HostAnswer::Time(0)
    }
}

/// Calls that are told nothing by their answer.
fn only_says(call: &HostCall) -> bool {
    matches!(call, HostCall::Annotate { .. } | HostCall::Log { .. })
}

/// Calls that the engine answers itself, from the invocation.
fn of_the_engine(call: &HostCall) -> bool {
    matches!(call, HostCall::ClockNow | HostCall::SessionClaims)
}

/// Runs `plugin` on a recorded run. `exactly` wants every call as it was, in its order.
pub(crate) async fn replay(
    plugin: &Plugin,
    recording: &Recording,
    run: &RecordedRun,
    exactly: bool,
) -> Result<Replayed, String> {
    let left = run.exchanges.iter().filter(|exchange| !of_the_engine(&exchange.call)).cloned().collect();
    let services = Arc::new(Recorded { left: Mutex::new(left), unanswered: Mutex::default(), lenient: !exactly });
    let invocation = Invocation {
        claims: recording.claims.clone(),
        now_ms: recording.now_ms,
        services: Arc::clone(&services) as Arc<dyn Services>,
    };
    let malformed = |error: serde_json::Error| format!("its input cannot be read: {error}");
    let input = &recording.input;
    let (said, trace) = match plugin.manifest().world {
        World::Policy => {
            let request = Request::deserialize(input).map_err(malformed)?;
            let ran = plugin.evaluate(&request, invocation).await;
            (Said::from(&ran.outcome), ran.trace)
        }
        World::RetrievalStrategy => {
            let Asked { question, filter, k } = Asked::deserialize(input).map_err(malformed)?;
            let ran = plugin.retrieve(&question, &filter, k, invocation).await;
            (Said::from(&ran.outcome), ran.trace)
        }
        World::AgentHandler => {
            let Asked { question, filter, .. } = Asked::deserialize(input).map_err(malformed)?;
            let ran = plugin.handle(&question, &filter, invocation).await;
            (Said::from(&ran.outcome), ran.trace)
        }
    };
    let unanswered = *services.unanswered.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Replayed { said, trace, unanswered })
}

/// The input of a strategy or an agent.
#[derive(Deserialize)]
struct Asked {
    question: String,
    filter: Vec<Field>,
    #[serde(default)]
    k: u32,
}

/// Whether the recorded component did again exactly what it did then; says what differs.
pub(crate) fn same_again(run: &RecordedRun, replayed: &Replayed) -> Result<(), String> {
    if let Some(call) = replayed.unanswered {
        return Err(format!("it called {call}, which it did not then"));
    }
    if replayed.trace.exchanges != run.exchanges {
        return Err("its calls of the host differ from the recorded ones".to_owned());
    }
    if replayed.said != run.said {
        return Err("it said something else than was recorded".to_owned());
    }
    Ok(())
}

/// Whether a run ended for its time, which no replay repeats.
pub(crate) fn ended_by_time(said: &Said) -> bool {
    matches!(said, Said::Ended(reason) if *reason == Reason::deadline())
}

/// What another component made of a recorded run.
pub(crate) fn compare(run: &RecordedRun, replayed: &Replayed) -> Compared {
    let calls = |exchanges: &[Exchange]| exchanges.iter().map(|exchange| exchange.call.clone()).collect::<Vec<_>>();
    let other_calls = calls(&run.exchanges) != calls(&replayed.trace.exchanges);
    let found = |outcome, detail: String| Compared { outcome, detail, other_calls, overlap: None };
    if let Some(call) = replayed.unanswered {
        return Compared {
            other_calls: true,
            ..found(Outcome::NotReplayable, format!("it calls {call}, of which there is no recorded answer"))
        };
    }
    match (&run.said, &replayed.said) {
        (before, after) if before == after => {
            Compared { overlap: references(before).map(|_| 1.0), ..found(Outcome::Same, String::new()) }
        }
        (_, Said::Ended(reason)) => found(Outcome::Trapped, format!("ended by the host: {reason}")),
        (Said::Decision(before), Said::Decision(after)) => {
            let outcome = match (before, after) {
                (Decision::Deny { .. }, Decision::Deny { .. }) => Outcome::OtherReason,
                (Decision::Deny { .. }, _) => Outcome::NewlyAllowed,
                (_, Decision::Deny { .. }) => Outcome::NewlyDenied,
                (before, after) if lifts(before, after) => Outcome::NewlyAllowed,
                _ => Outcome::OtherMasking,
            };
            found(outcome, format!("{} -> {}", verdict(before), verdict(after)))
        }
        // What the host had ended counted as a denial.
        (Said::Ended(reason), Said::Decision(after)) => {
            let outcome =
                if matches!(after, Decision::Deny { .. }) { Outcome::OtherReason } else { Outcome::NewlyAllowed };
            found(outcome, format!("ended by the host: {reason} -> {}", verdict(after)))
        }
        (Said::References(before), Said::References(after)) => {
            let shared = before.iter().filter(|reference| after.contains(reference)).count();
            let overlap = shared as f64 / before.len().max(1) as f64;
            let detail = format!("{shared} of {} passages found again, {} found", before.len(), after.len());
            Compared { overlap: Some(overlap), ..found(Outcome::OtherRanking, detail) }
        }
        (Said::References(_), _) | (_, Said::References(_)) => Compared {
            overlap: Some(0.0),
            ..found(Outcome::OtherRanking, "found something where there was an error, or the other way".to_owned())
        },
        _ => found(Outcome::OtherAnswer, "another answer, or an error where there was none".to_owned()),
    }
}

fn references(said: &Said) -> Option<usize> {
    match said {
        Said::References(references) => Some(references.len()),
        _ => None,
    }
}

/// Whether a duty is gone with which the host denied: a step-up, or a cap on what passages may be used.
fn lifts(before: &Decision, after: &Decision) -> bool {
    let duties = |decision: &Decision| match decision {
        Decision::Transform { obligations } => obligations.clone(),
        _ => Vec::new(),
    };
    let (before, after) = (duties(before), duties(after));
    let cap = |duties: &[Obligation]| {
        let level = |duty: &Obligation| match duty {
            Obligation::CapClassification { level } => Some(*level),
            _ => None,
        };
        duties.iter().filter_map(level).min()
    };
    let step_up = |duty: &&Obligation| matches!(duty, Obligation::RequireStepUp { .. });
    before.iter().filter(step_up).any(|duty| !after.contains(duty))
        || cap(&before).is_some_and(|old| cap(&after).is_none_or(|new| new > old))
}

/// A decision in words, without its message.
fn verdict(decision: &Decision) -> String {
    match decision {
        Decision::Allow => "allow".to_owned(),
        Decision::Deny { reason, .. } => format!("deny ({reason})"),
        Decision::Transform { obligations } => {
            let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
            for obligation in obligations {
                let (kind, count) = match obligation {
                    Obligation::CapClassification { .. } => ("cap", 1),
                    Obligation::LogAt { .. } => ("log", 1),
                    Obligation::MaskSpans { spans } => ("mask", spans.len()),
                    Obligation::RequireStepUp { .. } => ("step-up", 1),
                };
                *kinds.entry(kind).or_default() += count;
            }
            let kinds: Vec<String> = kinds.into_iter().map(|(kind, count)| format!("{kind} {count}")).collect();
            format!("allow with {}", kinds.join(", "))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use casemate_types::{Digest, Level};

    use super::*;

    fn run(said: Said) -> RecordedRun {
        let digest = Digest::of(b"");
        RecordedRun { plugin: "p".parse().unwrap(), component: digest, settings: digest, said, exchanges: Vec::new() }
    }

    fn deny(reason: &str) -> Said {
        Said::Decision(Decision::Deny { reason: Reason::from_policy(reason), message: String::new() })
    }

    fn stepped() -> Said {
        let obligations = vec![Obligation::RequireStepUp { method: "smartcard".to_owned() }];
        Said::Decision(Decision::Transform { obligations })
    }

    fn capped(level: Level) -> Said {
        Said::Decision(Decision::Transform { obligations: vec![Obligation::CapClassification { level }] })
    }

    fn outcome(before: Said, after: Said) -> Outcome {
        let replayed = Replayed { said: after, trace: Trace::default(), unanswered: None };
        compare(&run(before), &replayed).outcome
    }

    #[test]
    fn what_opens_is_told_from_what_closes() {
        let allow = || Said::Decision(Decision::Allow);
        let masked = || Said::Decision(Decision::Transform { obligations: Vec::new() });
        let ended = || Said::Ended(Reason::deadline());
        for (before, after, wanted) in [
            (deny("a"), allow(), Outcome::NewlyAllowed),
            (deny("a"), masked(), Outcome::NewlyAllowed),
            (ended(), allow(), Outcome::NewlyAllowed),
            (allow(), deny("a"), Outcome::NewlyDenied),
            (masked(), deny("a"), Outcome::NewlyDenied),
            (deny("a"), deny("b"), Outcome::OtherReason),
            (ended(), deny("b"), Outcome::OtherReason),
            (allow(), masked(), Outcome::OtherMasking),
            (stepped(), allow(), Outcome::NewlyAllowed),
            (capped(Level::Internal), capped(Level::Secret), Outcome::NewlyAllowed),
            (capped(Level::Internal), masked(), Outcome::NewlyAllowed),
            (capped(Level::Secret), capped(Level::Internal), Outcome::OtherMasking),
            (allow(), ended(), Outcome::Trapped),
            (allow(), allow(), Outcome::Same),
            (Said::Error("x".to_owned()), Said::Error("y".to_owned()), Outcome::OtherAnswer),
        ] {
            assert_eq!(outcome(before.clone(), after.clone()), wanted, "{before:?} {after:?}");
        }
    }

    /// A call without a recorded answer is never taken for agreement, whatever is said in the end.
    #[tokio::test]
    async fn an_answer_is_never_made_up() {
        let name = "p".parse().unwrap();
        let get = HostCall::KvGet { key: "a".to_owned() };
        let exchange = Exchange { call: get.clone(), answer: HostAnswer::Value(Ok(Some(vec![1]))) };
        for lenient in [false, true] {
            let left = Mutex::new(VecDeque::from([exchange.clone()]));
            let recorded = Recorded { left, unanswered: Mutex::default(), lenient };
            assert_eq!(recorded.call(&name, &get).await, exchange.answer);
            // Asked twice where it was asked once.
            assert!(matches!(recorded.call(&name, &get).await, HostAnswer::Time(_)));
            assert_eq!(*recorded.unanswered.lock().unwrap(), Some("kv.get"));
        }
        let remark = HostCall::Log { level: casemate_engine::wit::LogLevel::Info, message: String::new() };
        let recorded = |lenient| Recorded { left: Mutex::default(), unanswered: Mutex::default(), lenient };
        assert_eq!(recorded(true).call(&name, &remark).await, HostAnswer::Unit(Ok(())));
        assert!(matches!(recorded(false).call(&name, &remark).await, HostAnswer::Time(_)));
        let replayed =
            Replayed { said: Said::Decision(Decision::Allow), trace: Trace::default(), unanswered: Some("kv.get") };
        assert_eq!(compare(&run(Said::Decision(Decision::Allow)), &replayed).outcome, Outcome::NotReplayable);
    }
}

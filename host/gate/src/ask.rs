//! One request, from top to bottom: the flow that `ARCHITECTURE.md` draws.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use casemate_audit::record::Event;
use casemate_engine::wit::{self, Field, Request};
use casemate_types::{Decision, DecisionId, Digest, Level, Obligation, Phase, PluginName, Reason};
use serde::Serialize;

use crate::chain::Decided;
use crate::collection::store;
use crate::journal::Said;
use crate::services::{RequestServices, said};
use crate::session::Session;
use crate::site::Gate;
use crate::state::SiteKey;
use crate::{GateError, random_id, random_salt};

/// What a user gets. Nothing of it left the gate before its records were durable.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Reply {
    /// Names the decision; the log, the receipt and the recordings go by it.
    pub id: DecisionId,
    /// Answered or denied.
    pub outcome: Outcome,
    /// Index of the last record of this request in the audit log. For the operator alone: each passage that was looked at has a
    /// record, so a difference of two indexes counts passages a user may not read.
    #[serde(skip)]
    pub record: u64,
    /// The site has no two-person custody yet.
    pub rehearsal: bool,
    /// Passages kept from the agent, by reason. For the operator alone: a count is an oracle about what a user may not read.
    #[serde(skip)]
    pub withheld: BTreeMap<String, usize>,
    /// How long each step took, in microseconds. For the operator alone, for the same reason.
    #[serde(skip)]
    pub timings: BTreeMap<&'static str, u64>,
    /// What failed inside, for the operator alone: never sent to a caller.
    #[serde(skip)]
    pub fault: Option<String>,
}

/// Answered or denied; there is nothing between.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// The answer.
    Answered {
        /// The text, with identifiers masked where a policy asks for it.
        text: String,
        /// What it rests on, in the order of its marks.
        citations: Vec<Citation>,
        /// Values masked in the text.
        masked: usize,
        /// The key that masked them, as `mask@VERSION`; nothing when nothing was masked.
        #[serde(rename = "mask-key", skip_serializing_if = "Option::is_none")]
        mask_key: Option<String>,
    },
    /// Why not.
    Denied {
        /// Machine-readable.
        reason: Reason,
        /// For the user.
        message: String,
        /// Which policy; none when the host itself refused.
        policy: Option<PluginName>,
        /// In which phase.
        phase: Phase,
    },
}

/// One cited passage.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Citation {
    /// The passage's title.
    pub title: String,
    /// Where it comes from.
    pub source: String,
    /// Its compartment.
    pub compartment: String,
    /// Its classification.
    pub label: Level,
}

/// A policy evaluation on its own: what integrators call from their own flow.
#[derive(Debug, Clone)]
pub struct Question {
    /// In which phase.
    pub phase: Phase,
    /// What is to be done, for instance `ask`.
    pub action: String,
    /// The text under decision.
    pub text: String,
    /// The passage, in the retrieval phase.
    pub passage: Option<wit::PassageInfo>,
    /// Further facts.
    pub attributes: Vec<Field>,
}

/// Longest question, in bytes.
pub const MAX_QUESTION: usize = 16 * 1024;
/// Most fields of a filter.
const MAX_FILTER: usize = 16;
/// Longest text under decision, in bytes.
pub const MAX_TEXT: usize = 1 << 20;

impl Gate {
    /// Asks the chain about something, without an agent. The decision is durable when this returns.
    pub async fn evaluate(
        self: &Arc<Self>,
        session: &Arc<Session>,
        question: Question,
    ) -> Result<(DecisionId, Decided), GateError> {
        self.check_current(session)?;
        self.check_tokens()?;
        if question.text.len() > MAX_TEXT || question.attributes.len() > 64 {
            return Err(GateError::Question("a text has at most 1 MiB and 64 attributes".to_owned()));
        }
        let id = random_id()?;
        let active = self.active();
        let services = RequestServices::new(
            Arc::clone(self),
            Arc::clone(&active),
            Arc::clone(session),
            id,
            self.journal.now_ms(),
            Level::Secret,
        );
        let request = Request {
            phase: question.phase.into(),
            claims: (&session.claims).into(),
            action: question.action,
            text: question.text,
            passage: question.passage,
            attributes: question.attributes,
        };
        let decided = active.chain.decide(&services, request, question.phase).await?;
        Ok((id, decided))
    }

    /// Answers a question, or says why not. Errors of the gate itself are denials too, with a reason of their own; only a log that
    /// cannot be written has no answer at all.
    pub async fn ask(
        self: &Arc<Self>,
        session: &Arc<Session>,
        question: &str,
        filter: Vec<Field>,
    ) -> Result<Reply, GateError> {
        self.check_current(session)?;
        self.check_tokens()?;
        if question.trim().is_empty() || question.len() > MAX_QUESTION {
            return Err(GateError::Question(format!("a question has 1 to {MAX_QUESTION} bytes")));
        }
        if filter.len() > MAX_FILTER || filter.iter().any(|field| field.name.len() > 64 || field.value.len() > 256) {
            return Err(GateError::Question(
                "a filter has at most 16 fields, names of 64 and values of 256 bytes".to_owned(),
            ));
        }
        let id = random_id()?;
        let mut run = Run {
            gate: self,
            session,
            id,
            record: 0,
            withheld: BTreeMap::new(),
            fault: None,
            recording: None,
            clock: Clock::start(),
        };
        let outcome = match run.answer(question, filter).await {
            Ok(outcome) => outcome,
            Err(GateError::Audit(error)) => return Err(error.into()),
            Err(error) => run.fault(&error).await?,
        };
        Ok(Reply {
            id,
            outcome,
            record: run.record,
            rehearsal: self.journal.rehearsal(),
            withheld: run.withheld,
            timings: run.clock.steps,
            fault: run.fault,
        })
    }

    /// Carries out obligations on a text. The inner error is a denial by obligation, the outer a failure of the gate.
    pub(crate) fn oblige(
        &self,
        text: String,
        obligations: &[Obligation],
        label: Option<Level>,
    ) -> Result<Result<String, Reason>, GateError> {
        let mut spans = Vec::new();
        for obligation in obligations {
            match obligation {
                Obligation::CapClassification { level } if label.is_some_and(|label| label > *level) => {
                    return Ok(Err(Reason::from_policy("above-cap")));
                }
                Obligation::CapClassification { .. } | Obligation::LogAt { .. } => {}
                Obligation::MaskSpans { spans: more } => spans.extend(more.iter().cloned()),
                Obligation::RequireStepUp { .. } => return Ok(Err(Reason::from_policy("step-up-required"))),
            }
        }
        if spans.is_empty() {
            return Ok(Ok(text));
        }
        self.masker.mask(&text, &spans).map(Ok)
    }
}

/// One request under way.
struct Run<'a> {
    gate: &'a Arc<Gate>,
    session: &'a Arc<Session>,
    id: DecisionId,
    record: u64,
    withheld: BTreeMap<String, usize>,
    fault: Option<String>,
    /// Commitment to the agent's run, once there was one.
    recording: Option<Digest>,
    clock: Clock,
}

impl Run<'_> {
    async fn answer(&mut self, question: &str, filter: Vec<Field>) -> Result<Outcome, GateError> {
        let active = self.gate.active();
        let (gate, session, id) = (Arc::clone(self.gate), Arc::clone(self.session), self.id);
        let now_ms = self.gate.journal.now_ms();
        let services =
            |cap| RequestServices::new(Arc::clone(&gate), Arc::clone(&active), Arc::clone(&session), id, now_ms, cap);

        // Request phase. Its record is durable before anything else happens.
        let mut request = self.request(Phase::Request, question.to_owned());
        // What narrows the question is part of it.
        request.attributes =
            filter.iter().map(|f| Field { name: format!("filter.{}", f.name), value: f.value.clone() }).collect();
        let decided = active.chain.decide(&services(Level::Secret), request, Phase::Request).await?;
        self.clock.step("request-policies");
        self.record = decided.index;
        let (question, cap) = match self.apply(question.to_owned(), decided, Phase::Request).await? {
            Ok(applied) => (applied.text, applied.cap),
            Err(denied) => return Ok(denied),
        };

        // The agent, with retrieval, passages and capability calls below it.
        let agent = active
            .agent
            .as_ref()
            .ok_or_else(|| GateError::NotLoaded { name: active.chosen.agent.to_string(), role: "agent" })?;
        let services = services(cap);
        let run = agent.handle(&question, &filter, services.invocation()).await;
        self.clock.step("agent-and-retrieval");
        let input = serde_json::json!({ "question": question, "filter": filter });
        self.recording = services.record_run(agent, &input, Said::from(&run.outcome), &run.trace.exchanges).await?;
        self.withheld = services.withheld();
        if let Some((reason, message)) = services.faults().into_iter().next() {
            // Something below the agent broke. Its answer, if it made one, was made from less than it asked for.
            return Err(GateError::Below { reason, message });
        }
        let answer = match run.outcome {
            Ok(Ok(answer)) => answer,
            Ok(Err(message)) => return Err(store(format!("agent: {}", said(&message)))),
            Err(refusal) => {
                return self.refused(refusal.reason(), "The agent was stopped by the host.", Phase::Response).await;
            }
        };
        let Some(citations) =
            answer.citations.iter().map(|r| services.opened(r).map(|o| (r, o))).collect::<Option<Vec<_>>>()
        else {
            return self
                .refused(Reason::malformed_output(), "The agent cited a passage it had not read.", Phase::Response)
                .await;
        };
        let citations: Vec<Citation> = citations
            .into_iter()
            .map(|(reference, opened)| Citation {
                title: opened.title,
                source: opened.source,
                compartment: reference.collection.clone(),
                label: opened.label,
            })
            .collect();

        // Revoked while the agent ran: nothing leaves.
        self.gate.check_current(self.session)?;
        self.gate.check_tokens()?;
        // So with a stop, which waits for no request; here, and once more before the answer is recorded.
        self.gate.check_running(&active)?;

        // Response phase. Titles and sources leave as well, so they are under decision, and masked, with the text.
        let leaving = leaving(&answer.text, &citations);
        let request = self.request(Phase::Response, leaving.clone());
        let decided = active.chain.decide(&services, request, Phase::Response).await?;
        self.clock.step("response-policies");
        self.record = decided.index;
        let applied = match self.apply(leaving, decided, Phase::Response).await? {
            Ok(applied) => applied,
            Err(denied) => return Ok(denied),
        };
        if services.highest_opened().is_some_and(|label| label > applied.cap) {
            return self
                .refused(
                    Reason::from_policy("above-cap"),
                    "The answer rests on passages above the cap.",
                    Phase::Response,
                )
                .await;
        }
        let Some((text, citations)) = parts(&applied.text, citations) else {
            return self.refused(Reason::obligation_failed(), "The answer could not be masked.", Phase::Response).await;
        };
        self.gate.check_running(&active)?;
        self.record = self
            .gate
            .journal
            .record(Event::Answer {
                id: self.id,
                user: self.session.claims.user.to_string(),
                citations: citations.len() as u32,
                output: Digest::salted(&random_salt()?, text.as_bytes()),
                recording: self.recording,
            })
            .await?;
        self.clock.step("mask-and-record");
        let mask_key = (applied.masked > 0).then(|| self.gate.masker.name());
        Ok(Outcome::Answered { text, citations, masked: applied.masked, mask_key })
    }

    fn request(&self, phase: Phase, text: String) -> Request {
        Request {
            phase: phase.into(),
            claims: (&self.session.claims).into(),
            action: "ask".to_owned(),
            text,
            passage: None,
            attributes: Vec::new(),
        }
    }

    /// Carries out what the chain decided: the text goes on, changed as obliged, or the request ends.
    async fn apply(
        &mut self,
        text: String,
        decided: Decided,
        phase: Phase,
    ) -> Result<Result<Applied, Outcome>, GateError> {
        match decided.decision {
            Decision::Allow => Ok(Ok(Applied { text, cap: Level::Secret, masked: 0 })),
            Decision::Deny { reason, message } => {
                self.fault = decided.fault;
                if reason == Reason::no_policy() {
                    self.fault = Some(self.gate.why_no_policy(phase));
                }
                Ok(Err(Outcome::Denied { reason, message, policy: decided.policy, phase }))
            }
            Decision::Transform { obligations } => {
                let cap = obligations.iter().filter_map(cap_of).min().unwrap_or(Level::Secret);
                let masked = obligations.iter().map(spans_of).sum();
                if masked > 0 {
                    self.gate
                        .record_key_use(SiteKey::Mask, "encrypt", &self.session.claims.user, &format!("{masked} spans"))
                        .await?;
                }
                let gate = Arc::clone(self.gate);
                let obliged = tokio::task::spawn_blocking(move || gate.oblige(text, &obligations, None))
                    .await
                    .map_err(store)??;
                match obliged {
                    Ok(text) => Ok(Ok(Applied { text, cap, masked })),
                    Err(reason) => {
                        let message = "An obligation of the policy is not met.".to_owned();
                        self.record = self.host_denial(reason.clone(), phase, Vec::new()).await?;
                        Ok(Err(Outcome::Denied { reason, message, policy: decided.policy, phase }))
                    }
                }
            }
        }
    }

    async fn refused(&mut self, reason: Reason, message: &str, phase: Phase) -> Result<Outcome, GateError> {
        self.record = self.host_denial(reason.clone(), phase, Vec::new()).await?;
        Ok(Outcome::Denied { reason, message: message.to_owned(), policy: None, phase })
    }

    /// A failure of the gate is a denial: recorded, with a reason, and without detail for the user.
    async fn fault(&mut self, error: &GateError) -> Result<Outcome, GateError> {
        tracing::error!(id = %self.id, %error, "a request was denied because the gate failed");
        let message = "The gate could not answer safely, so nothing is allowed; the operator can see why.".to_owned();
        self.fault = Some(error.to_string());
        // What a store or a scoring tier did is evidence: it stands in the log by name.
        let reason = error.reason();
        let evidence = reason == Reason::store_failed() || reason == Reason::scores_refused();
        let notes = if evidence { vec![("fault".to_owned(), error.to_string())] } else { Vec::new() };
        self.record = self.host_denial(reason, Phase::Response, notes).await?;
        Ok(Outcome::Denied { reason: error.reason(), message, policy: None, phase: Phase::Response })
    }

    /// Records a denial that the host itself decided.
    async fn host_denial(
        &self,
        reason: Reason,
        phase: Phase,
        annotations: Vec<(String, String)>,
    ) -> Result<u64, GateError> {
        self.gate
            .journal
            .record(Event::Decision {
                id: self.id,
                user: self.session.claims.user.to_string(),
                phase,
                verdict: "deny".to_owned(),
                reason: Some(reason),
                policy: None,
                mode: "enforce".to_owned(),
                generation: self.gate.active().generation,
                component: None,
                obligations: Vec::new(),
                input: Digest::salted(&random_salt()?, b""),
                recording: self.recording,
                host_calls: 0,
                annotations,
                log_level: casemate_types::LogLevel::Notice,
            })
            .await
    }
}

/// Stands between the parts of what leaves; taken out of the parts themselves.
const PART: char = '\u{1f}';

/// The answer's text with every citation's title and source: all that a caller will see of passages.
fn leaving(text: &str, citations: &[Citation]) -> String {
    let shown = citations.iter().flat_map(|citation| [&citation.title, &citation.source]);
    let parts: Vec<String> =
        std::iter::once(text).chain(shown.map(String::as_str)).map(|part| part.replace(PART, " ")).collect();
    parts.join(&format!("\n{PART}"))
}

/// Takes apart what [`leaving`] put together; nothing when a mask ran over the border of a part.
fn parts(leaving: &str, mut citations: Vec<Citation>) -> Option<(String, Vec<Citation>)> {
    let separator = format!("\n{PART}");
    let mut parts = leaving.split(separator.as_str()).map(str::to_owned);
    let text = parts.next()?;
    for citation in &mut citations {
        citation.title = parts.next()?;
        citation.source = parts.next()?;
    }
    parts.next().is_none().then_some((text, citations))
}

struct Applied {
    text: String,
    cap: Level,
    masked: usize,
}

fn cap_of(obligation: &Obligation) -> Option<Level> {
    match obligation {
        Obligation::CapClassification { level } => Some(*level),
        _ => None,
    }
}

pub(crate) fn spans_of(obligation: &Obligation) -> usize {
    match obligation {
        Obligation::MaskSpans { spans } => spans.len(),
        _ => 0,
    }
}

/// Names the steps of a request and how long each took.
struct Clock {
    last: Instant,
    steps: BTreeMap<&'static str, u64>,
}

impl Clock {
    fn start() -> Self {
        Self { last: Instant::now(), steps: BTreeMap::new() }
    }

    fn step(&mut self, name: &'static str) {
        let elapsed: Duration = self.last.elapsed();
        self.last = Instant::now();
        self.steps.insert(name, elapsed.as_micros() as u64);
    }
}

//! Between the contract's records and the host's types. What a component returned is checked here, once.

use casemate_types::{Claims, Decision, Level, LogLevel, Obligation, Phase, Reason, Span};

use crate::Refusal;
use crate::bindings::types as wit;

impl From<Level> for wit::Level {
    fn from(level: Level) -> Self {
        match level {
            Level::Public => Self::Public,
            Level::Internal => Self::Internal,
            Level::Confidential => Self::Confidential,
            Level::Secret => Self::Secret,
        }
    }
}

impl From<wit::Level> for Level {
    fn from(level: wit::Level) -> Self {
        match level {
            wit::Level::Public => Self::Public,
            wit::Level::Internal => Self::Internal,
            wit::Level::Confidential => Self::Confidential,
            wit::Level::Secret => Self::Secret,
        }
    }
}

impl From<wit::LogLevel> for LogLevel {
    fn from(level: wit::LogLevel) -> Self {
        match level {
            wit::LogLevel::Info => Self::Info,
            wit::LogLevel::Notice => Self::Notice,
            wit::LogLevel::Alert => Self::Alert,
        }
    }
}

impl From<Phase> for wit::Phase {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Request => Self::Request,
            Phase::Retrieval => Self::Retrieval,
            Phase::Action => Self::Action,
            Phase::Response => Self::Response,
        }
    }
}

impl From<&Claims> for wit::Claims {
    fn from(claims: &Claims) -> Self {
        Self {
            user: claims.user.to_string(),
            clearance: claims.clearance.into(),
            roles: claims.roles.iter().cloned().collect(),
            groups: claims.groups.iter().cloned().collect(),
            departments: claims.departments.iter().cloned().collect(),
            compartments: claims.compartments.iter().map(ToString::to_string).collect(),
        }
    }
}

const MAX_OBLIGATIONS: usize = 16;
const MAX_SPANS: usize = 4096;
const MAX_DENIAL_MESSAGE: usize = 512;

/// Checks a returned decision against the contract and the text it is about.
pub(crate) fn decision(returned: wit::Decision, text: &str) -> Result<Decision, Refusal> {
    match returned {
        wit::Decision::Allow => Ok(Decision::Allow),
        wit::Decision::Deny(denial) => Ok(Decision::Deny {
            reason: Reason::from_policy(&denial.reason),
            message: denial.message.chars().filter(|c| !c.is_control()).take(MAX_DENIAL_MESSAGE).collect(),
        }),
        wit::Decision::Transform(obligations) => {
            if obligations.len() > MAX_OBLIGATIONS {
                return Err(malformed("more than 16 obligations"));
            }
            let obligations = obligations.into_iter().map(|o| obligation(o, text)).collect::<Result<Vec<_>, _>>()?;
            Ok(Decision::Transform { obligations })
        }
    }
}

fn obligation(returned: wit::Obligation, text: &str) -> Result<Obligation, Refusal> {
    Ok(match returned {
        wit::Obligation::CapClassification(level) => Obligation::CapClassification { level: level.into() },
        wit::Obligation::LogAt(level) => Obligation::LogAt { level: level.into() },
        wit::Obligation::RequireStepUp(method) => {
            Obligation::RequireStepUp { method: Reason::from_policy(&method).as_str().to_owned() }
        }
        wit::Obligation::MaskSpans(spans) => {
            if spans.len() > MAX_SPANS {
                return Err(malformed("more than 4,096 spans"));
            }
            Obligation::MaskSpans { spans: spans.into_iter().map(|s| span(s, text)).collect::<Result<_, _>>()? }
        }
    })
}

fn span(returned: wit::Span, text: &str) -> Result<Span, Refusal> {
    // `get` refuses a range that is reversed, outside the text or not on character boundaries.
    match text.get(returned.start as usize..returned.end as usize) {
        Some(found) if !found.is_empty() => Ok(Span {
            start: returned.start,
            end: returned.end,
            kind: Reason::from_policy(&returned.kind).as_str().to_owned(),
        }),
        _ => Err(malformed("a span that is empty, outside the text or not on character boundaries")),
    }
}

fn malformed(detail: &str) -> Refusal {
    Refusal::MalformedOutput { detail: detail.to_owned() }
}

/// Bytes a returned decision holds, for the output limit.
pub(crate) fn decision_size(returned: &wit::Decision) -> usize {
    match returned {
        wit::Decision::Allow => 0,
        wit::Decision::Deny(denial) => denial.reason.len() + denial.message.len(),
        wit::Decision::Transform(obligations) => obligations
            .iter()
            .map(|o| match o {
                wit::Obligation::MaskSpans(spans) => spans.iter().map(|s| 16 + s.kind.len()).sum(),
                wit::Obligation::RequireStepUp(method) => 16 + method.len(),
                wit::Obligation::CapClassification(_) | wit::Obligation::LogAt(_) => 16,
            })
            .sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(start: u32, end: u32) -> wit::Decision {
        wit::Decision::Transform(vec![wit::Obligation::MaskSpans(vec![wit::Span { start, end, kind: "x".to_owned() }])])
    }

    #[test]
    fn spans_outside_the_text_or_inside_a_character_are_malformed() {
        assert!(decision(mask(0, 2), "é!").is_ok());
        for (start, end) in [(0, 1), (1, 2), (2, 2), (3, 2), (0, 4), (u32::MAX, u32::MAX)] {
            assert!(matches!(decision(mask(start, end), "é!"), Err(Refusal::MalformedOutput { .. })), "{start}..{end}");
        }
    }
}

use serde::Deserialize;
use serde_json::Value;

use super::{Host, with_host};
use crate::{
    Claims, Decision, Description, Field, Level, Obligation, PassageInfo, Phase, Policy, Request, Setting, SettingKind,
    SettingValue, Settings, Span,
};

/// Runs the cases of a `cases.json` against a policy that uses no capability, with the settings of a `settings.json`.
///
/// Panics with every case that differs, and when settings or decisions break the contract.
pub fn run_policy_cases<P: Policy>(cases: &str, settings: &str) {
    run_policy_cases_with::<P>(cases, settings, Host::new);
}

/// As [`run_policy_cases`], for a policy that uses capabilities: every case gets a host of its own.
pub fn run_policy_cases_with<P: Policy>(cases: &str, settings: &str, host: impl Fn() -> Host) {
    let file: CaseFile = serde_json::from_str(cases).unwrap_or_else(|error| panic!("cases.json: {error}"));
    assert!(!file.cases.is_empty(), "cases.json holds no case");
    let settings = self::settings(settings, &P::describe());
    let mut failures = Vec::new();
    for case in file.cases {
        let request = case.request.into();
        let (decision, _) = with_host(host(), || P::evaluate(&request, &settings));
        check_decision(&decision, &request.text);
        if let Some(difference) = case.expect.difference(&decision, &request.text) {
            failures.push(format!("{}: {difference}", case.name));
        }
    }
    assert!(failures.is_empty(), "{} case(s) differ:\n{}", failures.len(), failures.join("\n"));
}

/// Settings from a flat JSON object, checked against the description as the host checks them at load: unknown names, wrong
/// types and missing required settings panic.
pub fn settings(json: &str, description: &Description) -> Settings {
    let object: serde_json::Map<String, Value> =
        serde_json::from_str(json).unwrap_or_else(|error| panic!("settings: {error}"));
    for spec in description.settings.iter().filter(|spec| spec.required) {
        assert!(object.contains_key(&spec.name), "the required setting `{}` is missing", spec.name);
    }
    let typed = object.into_iter().map(|(name, value)| {
        let spec = description.settings.iter().find(|spec| spec.name == name);
        let spec = spec.unwrap_or_else(|| panic!("`describe` declares no setting `{name}`"));
        let value =
            typed(spec.kind, &value).unwrap_or_else(|| panic!("the setting `{name}` must be of type {:?}", spec.kind));
        Setting { name, value }
    });
    Settings::new(typed.collect())
}

/// Panics when a decision breaks the contract in a way that the host answers with a denial.
pub fn check_decision(decision: &Decision, text: &str) {
    match decision {
        Decision::Allow => {}
        Decision::Deny(denial) => {
            let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-:.".contains(c);
            let reason = &denial.reason;
            assert!((1..=64).contains(&reason.len()) && reason.chars().all(allowed), "malformed reason `{reason}`");
            assert!(!reason.starts_with("host:"), "`{reason}` pretends to be the host's");
            assert!(denial.message.chars().count() <= 512, "the message is longer than 512 characters");
        }
        Decision::Transform(obligations) => {
            assert!(obligations.len() <= 16, "more than 16 obligations");
            for spans in obligations.iter().filter_map(masked) {
                assert!(spans.len() <= 4096, "more than 4,096 spans");
                for span in spans {
                    assert!(
                        covered(span, text).is_some_and(|part| !part.is_empty()),
                        "{span:?} is no part of the text"
                    );
                }
            }
        }
    }
}

fn typed(kind: SettingKind, value: &Value) -> Option<SettingValue> {
    match kind {
        SettingKind::Boolean => value.as_bool().map(SettingValue::Boolean),
        SettingKind::Integer => value.as_i64().map(SettingValue::Integer),
        SettingKind::Text => value.as_str().map(|text| SettingValue::Text(text.to_owned())),
        SettingKind::Texts => {
            let texts = value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned));
            texts.collect::<Option<Vec<_>>>().map(SettingValue::Texts)
        }
    }
}

fn masked(obligation: &Obligation) -> Option<&[Span]> {
    match obligation {
        Obligation::MaskSpans(spans) => Some(spans),
        _ => None,
    }
}

fn covered<'t>(span: &Span, text: &'t str) -> Option<&'t str> {
    text.get(span.start as usize..span.end as usize)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseFile {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    request: CaseRequest,
    expect: Expect,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    verdict: Verdict,
    reason: Option<String>,
    spans: Option<Vec<String>>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Allow,
    Deny,
    Transform,
}

impl Expect {
    fn difference(&self, decision: &Decision, text: &str) -> Option<String> {
        let (verdict, reason, spans) = match decision {
            Decision::Allow => (Verdict::Allow, None, Vec::new()),
            Decision::Deny(denial) => (Verdict::Deny, Some(&denial.reason), Vec::new()),
            Decision::Transform(obligations) => {
                let spans = obligations.iter().filter_map(masked).flatten();
                (Verdict::Transform, None, spans.filter_map(|span| covered(span, text)).collect())
            }
        };
        if verdict != self.verdict || self.reason.is_some() && self.reason.as_ref() != reason {
            return Some(format!("expected {:?} {:?}, got {decision:?}", self.verdict, self.reason));
        }
        match &self.spans {
            Some(expected) if *expected != spans => Some(format!("expected spans {expected:?}, got {spans:?}")),
            _ => None,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseRequest {
    phase: PhaseName,
    claims: CaseClaims,
    action: String,
    text: String,
    passage: Option<CasePassage>,
    #[serde(default)]
    attributes: Vec<CaseField>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PhaseName {
    Request,
    Retrieval,
    Action,
    Response,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseClaims {
    user: String,
    clearance: LevelName,
    #[serde(default)]
    roles: Vec<String>,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    departments: Vec<String>,
    #[serde(default)]
    compartments: Vec<String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum LevelName {
    Public,
    Internal,
    Confidential,
    Secret,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CasePassage {
    collection: String,
    document: String,
    title: String,
    source: String,
    compartment: String,
    label: LevelName,
    #[serde(default)]
    metadata: Vec<CaseField>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseField {
    name: String,
    value: String,
}

impl From<CaseRequest> for Request {
    fn from(case: CaseRequest) -> Self {
        Self {
            phase: match case.phase {
                PhaseName::Request => Phase::Request,
                PhaseName::Retrieval => Phase::Retrieval,
                PhaseName::Action => Phase::Action,
                PhaseName::Response => Phase::Response,
            },
            claims: Claims {
                user: case.claims.user,
                clearance: case.claims.clearance.into(),
                roles: case.claims.roles,
                groups: case.claims.groups,
                departments: case.claims.departments,
                compartments: case.claims.compartments,
            },
            action: case.action,
            text: case.text,
            passage: case.passage.map(|passage| PassageInfo {
                collection: passage.collection,
                document: passage.document,
                title: passage.title,
                source: passage.source,
                compartment: passage.compartment,
                label: passage.label.into(),
                metadata: fields(passage.metadata),
            }),
            attributes: fields(case.attributes),
        }
    }
}

impl From<LevelName> for Level {
    fn from(name: LevelName) -> Self {
        match name {
            LevelName::Public => Self::Public,
            LevelName::Internal => Self::Internal,
            LevelName::Confidential => Self::Confidential,
            LevelName::Secret => Self::Secret,
        }
    }
}

fn fields(fields: Vec<CaseField>) -> Vec<Field> {
    fields.into_iter().map(|field| Field { name: field.name, value: field.value }).collect()
}

//! Finds personal and payment data in answers and has the host mask it.
#![deny(unsafe_code)]

mod banking;
mod contact;
mod numbers;
mod scan;

use casemate_sdk::{Decision, Description, Phase, Policy, Request, SettingKind, Settings};
use scan::{Finds, Kind};

/// Masks what an answer should not disclose, or denies the answer.
pub struct Disclosure;

impl Policy for Disclosure {
    fn describe() -> Description {
        Description::new("Masks e-mail addresses, card numbers, IBANs, social security and phone numbers in answers.")
            .optional("kinds", SettingKind::Texts, "Kinds to mask: email, card, iban, ssn, phone (the default), ipv4.")
            .optional("deny-kinds", SettingKind::Texts, "Kinds whose presence denies the answer instead.")
    }

    fn evaluate(request: &Request, settings: &Settings) -> Decision {
        if request.phase != Phase::Response {
            return Decision::allow();
        }
        let (Some(denied), Some(masked)) =
            (kinds(settings.texts("deny-kinds"), &[]), kinds(settings.texts("kinds"), DEFAULT))
        else {
            return Decision::deny(
                "settings",
                "The policy `disclosure` names a kind that does not exist; ask the operator.",
            );
        };
        for kind in denied {
            let mut finds = Finds::at_most(1);
            kind.scan(&request.text, &mut finds);
            if !finds.spans.is_empty() {
                let message = ["The answer would disclose protected data of kind `", kind.as_str(), "`."].concat();
                return Decision::deny("disclosure", &message);
            }
        }
        let mut finds = Finds::at_most(MAX_SPANS);
        for kind in masked {
            kind.scan(&request.text, &mut finds);
        }
        if finds.overflown {
            return Decision::deny("too-many-spans", "The answer holds more protected data than can be masked.");
        }
        finds.spans.sort_by_key(|span| (span.start, span.end));
        Decision::mask(finds.spans)
    }
}

casemate_sdk::export_policy!(Disclosure);

/// `None` when a name is no kind: a misspelt kind must not turn into no kind.
fn kinds(names: Option<&[String]>, default: &[Kind]) -> Option<Vec<Kind>> {
    match names {
        Some(names) => names.iter().map(|name| Kind::named(name)).collect(),
        None => Some(default.to_vec()),
    }
}

const DEFAULT: &[Kind] = &[Kind::Email, Kind::Card, Kind::Iban, Kind::Ssn, Kind::Phone];

/// The contract's limit.
const MAX_SPANS: usize = 4096;

#[cfg(test)]
mod tests {
    use casemate_sdk::testing::run_policy_cases;

    use super::*;

    #[test]
    fn the_published_cases_hold() {
        run_policy_cases::<Disclosure>(include_str!("../cases.json"), include_str!("../settings.json"));
    }

    fn case(text: &str, expect: &str) -> String {
        format!(
            r#"{{"cases": [{{"name": "case", "request": {{"phase": "response", "claims": {{"user": "ana", "clearance":
            "secret"}}, "action": "ask", "text": "{text}", "passage": null}}, "expect": {expect}}}]}}"#
        )
    }

    #[test]
    fn the_settings_choose_the_kinds() {
        let text = "ana@example.org at 10.0.0.1";
        let masks = |spans: &str| case(text, &format!(r#"{{"verdict": "transform", "spans": [{spans}]}}"#));
        run_policy_cases::<Disclosure>(&masks(r#""ana@example.org""#), "{}");
        run_policy_cases::<Disclosure>(&masks(r#""10.0.0.1""#), r#"{"kinds": ["ipv4"]}"#);
        run_policy_cases::<Disclosure>(&case(text, r#"{"verdict": "allow"}"#), r#"{"kinds": []}"#);
    }

    #[test]
    fn a_denied_kind_denies_whether_or_not_it_is_masked() {
        let denied = case("mail ana@example.org", r#"{"verdict": "deny", "reason": "disclosure"}"#);
        run_policy_cases::<Disclosure>(&denied, r#"{"deny-kinds": ["card", "email"]}"#);
        run_policy_cases::<Disclosure>(&denied, r#"{"kinds": ["card"], "deny-kinds": ["email"]}"#);
        let masked = case("mail ana@example.org", r#"{"verdict": "transform", "spans": ["ana@example.org"]}"#);
        run_policy_cases::<Disclosure>(&masked, r#"{"deny-kinds": ["card"]}"#);
    }

    #[test]
    fn a_misspelt_kind_denies() {
        let denied = case("nothing here", r#"{"verdict": "deny", "reason": "settings"}"#);
        run_policy_cases::<Disclosure>(&denied, r#"{"kinds": ["e-mail"]}"#);
        run_policy_cases::<Disclosure>(&denied, r#"{"deny-kinds": ["Card"]}"#);
    }

    #[test]
    fn more_than_can_be_masked_denies() {
        let masked = case(&"a@b.io ".repeat(4096), r#"{"verdict": "transform"}"#);
        run_policy_cases::<Disclosure>(&masked, "{}");
        let denied = case(&"a@b.io ".repeat(4097), r#"{"verdict": "deny", "reason": "too-many-spans"}"#);
        run_policy_cases::<Disclosure>(&denied, "{}");
    }
}

//! No read up, need to know: the policy every site starts with.
#![deny(unsafe_code)]

mod words;

use casemate_sdk::{Decision, Description, Phase, Policy, Request, SettingKind, Settings};
use words::Words;

/// Refuses questions about compartments the user does not hold, and passages above the user's clearance.
pub struct Clearance;

impl Policy for Clearance {
    fn describe() -> Description {
        Description::new("No read up, need to know, and topics that are blocked for everyone.")
            .optional(
                "restricted",
                SettingKind::Texts,
                "`term=compartment`: asking about the term needs the compartment.",
            )
            .optional("blocked-topics", SettingKind::Texts, "Terms that nobody may ask about.")
    }

    fn evaluate(request: &Request, settings: &Settings) -> Decision {
        match request.phase {
            Phase::Request => question(request, settings),
            Phase::Retrieval => passage(request),
            Phase::Action | Phase::Response => Decision::allow(),
        }
    }
}

casemate_sdk::export_policy!(Clearance);

fn question(request: &Request, settings: &Settings) -> Decision {
    let words = Words::of(&request.text);
    for topic in settings.texts("blocked-topics").unwrap_or_default() {
        match words.contain(topic) {
            None => return misconfigured(),
            Some(true) => {
                return Decision::deny("blocked-topic", "This topic is closed to questions.");
            }
            Some(false) => {}
        }
    }
    for rule in settings.texts("restricted").unwrap_or_default() {
        let Some((term, compartment)) = rule.split_once('=') else {
            return misconfigured();
        };
        let compartment = compartment.trim();
        let held = request.claims.compartments.iter().any(|each| each == compartment);
        match words.contain(term) {
            None => return misconfigured(),
            Some(true) if !held => {
                let message = ["This question needs the compartment `", compartment, "`."].concat();
                return Decision::deny("need-to-know", &message);
            }
            Some(_) => {}
        }
    }
    Decision::allow()
}

fn passage(request: &Request) -> Decision {
    let Some(passage) = &request.passage else {
        return Decision::deny("no-passage", "The host did not say which passage this is.");
    };
    if passage.label > request.claims.clearance {
        return Decision::deny("no-read-up", "The passage is above your clearance.");
    }
    if !request.claims.compartments.contains(&passage.compartment) {
        return Decision::deny("need-to-know", "The passage belongs to a compartment that you do not hold.");
    }
    Decision::allow()
}

/// A rule that cannot be read must not turn into no rule.
fn misconfigured() -> Decision {
    Decision::deny("settings", "A rule of the policy `clearance` cannot be read; ask the operator.")
}

#[cfg(test)]
mod tests {
    use casemate_sdk::testing::run_policy_cases;

    use super::*;

    #[test]
    fn the_published_cases_hold() {
        run_policy_cases::<Clearance>(include_str!("../cases.json"), include_str!("../settings.json"));
    }

    #[test]
    fn a_rule_that_cannot_be_read_denies() {
        let unreadable = [
            r#"{"restricted": ["cipher"]}"#,
            r#"{"restricted": ["=cryptography"]}"#,
            r#"{"restricted": [" - = x"]}"#,
            r#"{"blocked-topics": [""]}"#,
        ];
        let case = include_str!("../cases.json");
        let first = case.split(r#""expect""#).next().unwrap_or_default().to_owned()
            + r#""expect": {"verdict": "deny", "reason": "settings"}}]}"#;
        for settings in unreadable {
            run_policy_cases::<Clearance>(&first, settings);
        }
    }
}

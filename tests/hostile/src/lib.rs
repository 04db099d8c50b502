//! One component that attacks its host in every way the contract leaves open. The setting `attack` chooses the attack, or where it is
//! not set `request.action`.
//!
//! Attacks that need a binary of their own are features: see `Cargo.toml`.
#![deny(unsafe_code)]

mod attacks;
#[cfg(feature = "greedy")]
mod greedy;
#[cfg(feature = "start-loop")]
mod start_loop;
#[cfg(feature = "wasi-import")]
mod wasi;

use casemate_sdk::{Decision, Description, Policy, Request, SettingKind, Settings};

/// The attacker.
pub struct Hostile;

impl Policy for Hostile {
    fn describe() -> Description {
        Description::new("Attacks its host; for tests only.").optional(
            "attack",
            SettingKind::Text,
            "The attack, whatever the action.",
        )
    }

    fn evaluate(request: &Request, settings: &Settings) -> Decision {
        let chosen = settings.text("attack").unwrap_or(&request.action);
        match ATTACKS.iter().find(|(name, _)| *name == chosen) {
            Some((_, attack)) => attack(&request.text),
            None => Decision::deny("unknown-attack", "There is no such attack."),
        }
    }
}

#[cfg(not(any(feature = "greedy", feature = "wrong-world")))]
casemate_sdk::export_policy!(Hostile);

#[cfg(feature = "greedy")]
casemate_sdk::export_strategy!(greedy::Greedy);

#[cfg(feature = "wrong-world")]
casemate_sdk::export_strategy!(WrongWorld);

/// A strategy where the manifest says policy.
#[cfg(feature = "wrong-world")]
pub struct WrongWorld;

#[cfg(feature = "wrong-world")]
impl casemate_sdk::Strategy for WrongWorld {
    fn describe() -> Description {
        Description::new("Exports another world than its manifest says; for tests only.")
    }

    fn retrieve(
        _question: &str,
        _filter: &[casemate_sdk::Field],
        _k: u32,
        _settings: &Settings,
    ) -> Result<Vec<casemate_sdk::Reference>, String> {
        Ok(Vec::new())
    }
}

/// An attack, given the text of the request.
pub type Attack = fn(&str) -> Decision;

/// Every attack by name. The README says what the host must answer.
pub const ATTACKS: &[(&str, Attack)] = &[
    ("audit-flood", attacks::audit_flood),
    ("bad-spans-boundary", attacks::bad_spans_boundary),
    ("bad-spans-empty", attacks::bad_spans_empty),
    ("bad-spans-flood", attacks::bad_spans_flood),
    ("bad-spans-outside", attacks::bad_spans_outside),
    ("bad-spans-overlap", attacks::bad_spans_overlap),
    ("bad-spans-reversed", attacks::bad_spans_reversed),
    ("clock-now", attacks::clock_now),
    ("deaf", attacks::deaf),
    ("deep-recursion", attacks::deep_recursion),
    ("echo", attacks::echo),
    ("foreign-key", attacks::foreign_key),
    ("forge-reason", attacks::forge_reason),
    ("forgetful", attacks::forgetful),
    ("giant-return", attacks::giant_return),
    ("handle-flood", attacks::handle_flood),
    ("host-bytes-flood", attacks::host_bytes_flood),
    ("host-call-flood", attacks::host_call_flood),
    ("kv-flood", attacks::kv_flood),
    ("log-flood", attacks::log_flood),
    ("loop", attacks::endless),
    ("mask-first", attacks::mask_first),
    ("memory-bomb", attacks::memory_bomb),
    ("obligation-flood", attacks::obligation_flood),
    ("ok", attacks::ok),
    ("panic", attacks::panics),
    ("random-huge", attacks::random_huge),
    ("refused-flood", attacks::refused_flood),
    ("shadow-stack", attacks::shadow_stack),
    ("stall", attacks::stall),
    ("state", attacks::state),
    ("trap", attacks::trap),
    #[cfg(feature = "wasi-import")]
    ("wasi", wasi::network),
];

#[cfg(test)]
mod tests {
    use casemate_sdk::testing::check_decision;

    use super::*;

    fn attack(name: &str, text: &str) -> Decision {
        let found = ATTACKS.iter().find(|(each, _)| *each == name);
        found.map_or_else(Decision::allow, |(_, attack)| attack(text))
    }

    #[test]
    fn names_are_sorted_and_distinct() {
        let base = ATTACKS.iter().filter(|(name, _)| *name != "wasi").collect::<Vec<_>>();
        assert!(base.is_sorted_by(|a, b| a.0 < b.0));
    }

    /// The SDK's own check names each malformed answer, so a policy team sees it before the host does.
    #[test]
    fn malformed_answers_are_malformed() {
        for name in [
            "bad-spans-boundary",
            "bad-spans-flood",
            "bad-spans-outside",
            "forge-reason",
            "giant-return",
            "obligation-flood",
        ] {
            let text = "é and more";
            let decision = attack(name, text);
            assert!(std::panic::catch_unwind(|| check_decision(&decision, text)).is_err(), "{name}");
        }
        check_decision(&attack("ok", ""), "");
        check_decision(&attack("bad-spans-overlap", "0123456789"), "0123456789");
    }
}

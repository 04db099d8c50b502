use std::fmt;

use serde::{Deserialize, Serialize};

/// Why something was denied: a stable, machine-readable code.
///
/// The host's own reasons start with `host:`; a policy's never do ([`Reason::from_policy`] takes the prefix away), so a
/// component cannot pretend that the host denied.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Reason(String);

macro_rules! host_reasons {
    ($($(#[$doc:meta])* $constant:ident = $text:literal;)*) => {
        impl Reason {
            /// Every reason the host itself can give.
            pub const HOST: &'static [&'static str] = &[$($text),*];
            $($(#[$doc])* pub fn $constant() -> Self { Self($text.to_owned()) })*
        }
    };
}

host_reasons! {
    /// The disk of the audit log is full.
    audit_disk_full = "host:audit-disk-full";
    /// The audit log could not make the record durable.
    audit_unavailable = "host:audit-unavailable";
    /// The witness of the audit log has not cosigned for too long, or refuses the log.
    audit_unwitnessed = "host:audit-unwitnessed";
    /// The caller asked for something that cannot be taken, for instance a text that is too long.
    bad_request = "host:bad-request";
    /// The call's byte budget for host answers or arguments is spent.
    byte_budget = "host:byte-budget";
    /// A capability failed and the component gave up.
    capability_failed = "host:capability-failed";
    /// The component asked the host more often than its manifest allows.
    call_budget = "host:call-budget";
    /// The component ran past its deadline.
    deadline = "host:deadline";
    /// The component returned something the contract does not allow.
    malformed_output = "host:malformed-output";
    /// The component asked for more memory, tables or instances than its manifest allows.
    memory_limit = "host:memory-limit";
    /// No policy is loaded for this phase.
    no_policy = "host:no-policy";
    /// No agent or retrieval strategy of the asked name is loaded.
    no_plugin = "host:no-plugin";
    /// An obligation could not be carried out.
    obligation_failed = "host:obligation-failed";
    /// The returned value is larger than the manifest allows.
    output_limit = "host:output-limit";
    /// The host has no free instance slot.
    overloaded = "host:overloaded";
    /// The scoring tier gave an answer that the owner's checks refuse.
    scores_refused = "host:scores-refused";
    /// The component ran out of stack.
    stack_overflow = "host:stack-overflow";
    /// A custodian stopped the site, or a component that the answer rests on.
    stopped = "host:stopped";
    /// The encrypted store or its integrity check failed.
    store_failed = "host:store-failed";
    /// The HSM is gone or refused.
    token_unavailable = "host:token-unavailable";
    /// The component trapped.
    trap = "host:trap";
    /// The credentials are wrong or missing.
    unauthenticated = "host:unauthenticated";
}

impl Reason {
    /// A reason given by a component: at most 64 characters of `a-z 0-9 - : .`, never with the host's prefix.
    pub fn from_policy(text: &str) -> Self {
        let clean: String = text
            .chars()
            .filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | ':' | '.'))
            .take(64)
            .collect();
        let mut rest = clean.as_str();
        while let Some(stripped) = rest.strip_prefix("host:") {
            rest = stripped;
        }
        if rest.is_empty() { Self("unspecified".to_owned()) } else { Self(rest.to_owned()) }
    }

    /// The host's own reason of this code, if it is one.
    pub fn of_host(code: &str) -> Option<Self> {
        Self::HOST.contains(&code).then(|| Self(code.to_owned()))
    }

    /// The code as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_code_of_the_host_is_one() {
        assert_eq!(Reason::of_host("host:token-unavailable"), Some(Reason::token_unavailable()));
        assert_eq!(Reason::of_host("token-unavailable"), None);
        assert_eq!(Reason::of_host("host:anything"), None);
    }

    #[test]
    fn a_component_cannot_forge_a_host_reason() {
        assert_eq!(Reason::from_policy("host:deadline").as_str(), "deadline");
        assert_eq!(Reason::from_policy("host:host:deadline").as_str(), "deadline");
        assert_eq!(Reason::from_policy("HOST:\n").as_str(), ":");
        assert_eq!(Reason::from_policy("").as_str(), "unspecified");
    }
}

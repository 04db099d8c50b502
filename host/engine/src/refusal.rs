use casemate_types::Reason;
use wasmtime::Trap;

/// Why the host ended a component. One variant per way to misbehave; each has a reason code of its own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Arguments and answers of host calls exceeded `limits.host-bytes`.
    #[error("the component moved more than its {limit} bytes of host calls")]
    ByteBudget {
        /// The manifest's limit.
        limit: u64,
    },
    /// More host calls than `limits.host-calls`.
    #[error("the component made more than its {limit} host calls")]
    CallBudget {
        /// The manifest's limit.
        limit: u32,
    },
    /// A service answered in a form the call does not take.
    #[error("the host could not answer `{action}`")]
    CapabilityFailed {
        /// `capability.function`.
        action: &'static str,
    },
    /// Ran past `limits.time-ms`, in the guest or waiting for the host.
    #[error("the component ran past its {limit_ms} ms")]
    Deadline {
        /// The manifest's limit.
        limit_ms: u64,
    },
    /// Returned something the contract does not allow.
    #[error("the component returned something malformed: {detail}")]
    MalformedOutput {
        /// Which rule; holds no returned text.
        detail: String,
    },
    /// Asked for more memory, tables or instances than its manifest allows.
    #[error("the component asked for more than its {limit} {unit}")]
    MemoryLimit {
        /// The manifest's limit.
        limit: usize,
        /// Of what.
        unit: &'static str,
    },
    /// Returned more than `limits.output-bytes`.
    #[error("the component returned {size} bytes, more than its {limit}")]
    OutputLimit {
        /// What it returned.
        size: usize,
        /// The manifest's limit.
        limit: u64,
    },
    /// No free instance slot.
    #[error("the host has no free instance slot")]
    Overloaded,
    /// Ran out of stack.
    #[error("the component ran out of stack")]
    StackOverflow,
    /// Trapped.
    #[error("the component trapped: {0}")]
    Trap(String),
}

impl Refusal {
    /// The reason code that goes into the denial.
    pub fn reason(&self) -> Reason {
        match self {
            Self::ByteBudget { .. } => Reason::byte_budget(),
            Self::CallBudget { .. } => Reason::call_budget(),
            Self::CapabilityFailed { .. } => Reason::capability_failed(),
            Self::Deadline { .. } => Reason::deadline(),
            Self::MalformedOutput { .. } => Reason::malformed_output(),
            Self::MemoryLimit { .. } => Reason::memory_limit(),
            Self::OutputLimit { .. } => Reason::output_limit(),
            Self::Overloaded => Reason::overloaded(),
            Self::StackOverflow => Reason::stack_overflow(),
            Self::Trap(_) => Reason::trap(),
        }
    }

    /// Decides by type, never by message text, what ended a run that wasmtime reports as `error`.
    pub(crate) fn from_wasmtime(error: &wasmtime::Error, limit_ms: u64) -> Self {
        if let Some(refusal) = error.downcast_ref::<Self>() {
            return refusal.clone();
        }
        match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => return Self::Deadline { limit_ms },
            Some(Trap::StackOverflow) => return Self::StackOverflow,
            Some(trap) => return Self::Trap(trap.to_string()),
            None => {}
        }
        if error.is::<wasmtime::PoolConcurrencyLimitError>() {
            return Self::Overloaded;
        }
        // Only lifting a value out of the guest is left: bad UTF-8, a wild pointer, an unknown case, too much data.
        Self::MalformedOutput { detail: error.root_cause().to_string() }
    }
}

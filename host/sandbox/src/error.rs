use std::io;

/// Why the process is not locked down. Each of them means: stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// The kernel did not take the filter.
    #[error("cannot put the no-egress filter on all threads: use Linux 3.17 or later with CONFIG_SECCOMP_FILTER")]
    Apply {
        /// What the kernel said.
        source: seccompiler::Error,
    },
    /// There are no rules for this processor.
    #[error("cannot build the no-egress filter for this processor: use x86_64 or aarch64")]
    Build {
        /// What the compiler of filters said.
        source: seccompiler::BackendError,
    },
    /// The open descriptors cannot be listed.
    #[error("cannot list the open descriptors in /proc/self/fd: mount /proc")]
    Descriptors {
        /// Why not.
        source: io::Error,
    },
    /// Landlock is there and refused.
    #[error("cannot confine the process to its files")]
    Confine {
        /// What Landlock said.
        source: landlock::RulesetError,
    },
    /// A socket that was open before the lock-down could carry data out.
    #[error("cannot lock down while descriptor {descriptor} is {what}: close it before")]
    InheritedSocket {
        /// The number of the descriptor.
        descriptor: i32,
        /// What it is.
        what: String,
    },
    /// The self-check did what must be impossible.
    #[error("the no-egress filter is not in force: {probe} worked")]
    NotDenied {
        /// What was tried.
        probe: &'static str,
    },
    /// The self-check failed, but not because of our filter, so it proves nothing.
    #[error("the no-egress filter is not in force: {probe} failed for another reason")]
    NotOurs {
        /// What was tried.
        probe: &'static str,
        /// What the kernel said instead.
        source: io::Error,
    },
}

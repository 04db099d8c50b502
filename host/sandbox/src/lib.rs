//! No egress: after [`lock_down`] the process can open no socket that leaves the machine.
//!
//! ```no_run
//! use casemate_sandbox::{Profile, lock_down, self_check};
//!
//! let listener = std::net::TcpListener::bind("127.0.0.1:8080")?; // before: afterwards nobody can
//! lock_down(Profile::LoopbackListener)?;                         // before the async runtime starts
//! self_check()?;                                                 // proves it by trying
//! # drop(listener);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Two things are done, in this order: the sockets the process already has are looked at, and a seccomp filter is put
//! on all its threads, which children inherit and nobody can take off. The rules are data (`filter.rs`), one line and
//! one reason each.
//!
//! # What it does not stop
//!
//! - A local process that has a network and cooperates: it can hand over an open socket (`SCM_RIGHTS`) or act as a
//!   proxy on a Unix socket. Keep such sockets out of reach by file permissions.
//! - Root: mounting a network file system or loading a module needs no socket. Run as a user without capabilities.
//! - Data carried out in files. That is the disk's and the operator's side.
//!
//! [`confine`] is a second layer, by Landlock: which files and TCP ports are left. Alone it leaves UDP, netlink and vsock open.

mod confine;
mod error;
mod filter;
mod inherited;
mod probe;
mod sys;

pub use confine::{Confinement, Enforced, confine};
pub use error::SandboxError;
pub use filter::Profile;
pub use probe::self_check;

/// Locks the process down for good: sets `no_new_privs` and filters the system calls of all threads, those that run
/// already included. A second call can only add rules.
///
/// Call it before the async runtime starts, after the last listening socket is bound.
///
/// # Errors
///
/// [`SandboxError::InheritedSocket`] if an open descriptor is already a way out; nothing has been changed then.
/// Otherwise the kernel refused the filter. The caller must stop either way.
pub fn lock_down(profile: Profile) -> Result<(), SandboxError> {
    let program = filter::program(profile, filter::RULES)?;
    inherited::check(profile)?;
    seccompiler::apply_filter_all_threads(&program).map_err(|source| SandboxError::Apply { source })
}

//! Landlock (landlock(7)): the files and TCP ports that are left to a process, besides what it has open.

use std::fmt;
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, NetPort, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
    path_beneath_rules,
};

use crate::SandboxError;

/// The newest rules that were looked at. An older kernel enforces those it knows.
const REVIEWED: ABI = ABI::V5;

/// What is left to the process. Everything else is denied for good, to it and to what it starts.
#[derive(Debug, Clone, Default)]
pub struct Confinement {
    /// Files and folders that it may read.
    pub read: Vec<PathBuf>,
    /// Folders in which it may do everything.
    pub write: Vec<PathBuf>,
    /// TCP ports that it may connect to.
    pub connect: Vec<u16>,
}

/// How much of it the kernel enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforced {
    /// All.
    Fully,
    /// What an older Landlock knows.
    Partly,
    /// Nothing: the kernel has no Landlock. The filter of system calls is in force all the same.
    Not,
}

impl fmt::Display for Enforced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fully => "files and ports confined by Landlock",
            Self::Partly => "files confined by an older Landlock",
            Self::Not => "this kernel has no Landlock: files are not confined",
        })
    }
}

/// Confines this thread and all that it starts: call it before there are others. Paths that are not there are left out.
///
/// # Errors
/// [`SandboxError::Confine`] when the kernel has Landlock and refuses.
pub fn confine(to: &Confinement) -> Result<Enforced, SandboxError> {
    restrict(to).map_err(|source| SandboxError::Confine { source })
}

fn restrict(to: &Confinement) -> Result<Enforced, RulesetError> {
    let ports = to.connect.iter().map(|port| Ok::<_, RulesetError>(NetPort::new(*port, AccessNet::ConnectTcp)));
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(REVIEWED))?
        .handle_access(AccessNet::BindTcp | AccessNet::ConnectTcp)?
        .create()?
        .add_rules(path_beneath_rules(&to.read, AccessFs::from_read(REVIEWED)))?
        .add_rules(path_beneath_rules(&to.write, AccessFs::from_all(REVIEWED)))?
        .add_rules(ports)?
        .restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Enforced::Fully,
        RulesetStatus::PartiallyEnforced => Enforced::Partly,
        RulesetStatus::NotEnforced => Enforced::Not,
    })
}

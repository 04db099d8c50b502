//! The process in which PINs exist in clear: short-lived, without core dumps, in memory that is not swapped out. Its secrets
//! come and go through pipes.
#![allow(unsafe_code, reason = "three calls of the operating system")]

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::CustodyError;

/// More than any request or answer.
const MAX_PIPE: usize = 1 << 20;

/// What this process could be given. Goes into transcripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Hardening {
    /// No core dump is written, and no other process of the same user can read this one's memory.
    pub core_dumps_off: bool,
    /// Nothing is swapped out. Needs root, CAP_IPC_LOCK or an unlimited RLIMIT_MEMLOCK.
    pub memory_locked: bool,
}

/// Hardens the calling process. To be called before a secret comes in.
///
/// Core dumps off is a condition; locked memory is tried and reported, because ordinary users may not lock a whole process.
///
/// # Errors
/// [`CustodyError::Session`] when core dumps cannot be switched off.
pub fn harden() -> Result<Hardening, CustodyError> {
    no_core_dumps()?;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` lives through the call; the others take no pointers. Under a finite limit MCL_FUTURE would make later
    // allocations fail, so it is not asked for then.
    let memory_locked = unsafe {
        let known = libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) == 0;
        let free = libc::geteuid() == 0 || (known && limit.rlim_cur == libc::RLIM_INFINITY);
        free && libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) == 0
    };
    Ok(Hardening { core_dumps_off: true, memory_locked })
}

/// For a process that lives long with a PIN in its memory: no core dump is written, and no other process of the same user reads it. Its
/// memory may be swapped out, because all of it would have to be locked.
///
/// # Errors
/// [`CustodyError::Session`] when core dumps cannot be switched off.
pub fn no_core_dumps() -> Result<(), CustodyError> {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: plain numbers, and a pointer to a value that lives through the call.
    let core_dumps_off = unsafe {
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) == 0 && libc::setrlimit(libc::RLIMIT_CORE, &none) == 0
    };
    if core_dumps_off {
        return Ok(());
    }
    Err(CustodyError::Session { why: "core dumps cannot be switched off for this process".to_owned() })
}

/// Runs a session process: `input` goes through its standard input, which is then closed; what it prints is returned.
///
/// `command` must not carry a secret: arguments and environment are visible to others.
///
/// # Errors
/// [`CustodyError::Session`] with the process's own words when it fails or cannot be started.
pub fn call(mut command: Command, input: &[u8]) -> Result<Vec<u8>, CustodyError> {
    let mut child = start(command.stdin(Stdio::piped()))?;
    if let Some(mut pipe) = child.stdin.take() {
        // A process that refuses early closes the pipe; what it says is the better message.
        let _ = pipe.write_all(input);
    }
    answer_of(child)
}

/// As [`call`], with this process's standard input for the session: what comes through it is never in this process's memory.
///
/// # Errors
/// As [`call`].
pub fn call_with_own_input(mut command: Command) -> Result<Vec<u8>, CustodyError> {
    answer_of(start(command.stdin(Stdio::inherit()))?)
}

fn failed(why: String) -> CustodyError {
    CustodyError::Session { why }
}

fn start(command: &mut Command) -> Result<Child, CustodyError> {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    child.map_err(|error| failed(format!("its process does not start: {error}")))
}

fn answer_of(child: Child) -> Result<Vec<u8>, CustodyError> {
    let output = child.wait_with_output().map_err(|error| failed(format!("its process is lost: {error}")))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let words = String::from_utf8_lossy(&output.stderr);
    // One process may have asked another.
    let words = words.trim().trim_start_matches("error: ").trim_start_matches("run the custody session: ");
    let words: String = words.chars().take(2000).collect();
    Err(failed(if words.is_empty() { format!("its process ended with {}", output.status) } else { words }))
}

/// In a session process: everything from standard input.
///
/// # Errors
/// [`CustodyError::Io`], [`CustodyError::Malformed`] beyond 1 MiB.
pub fn read_request() -> Result<Zeroizing<Vec<u8>>, CustodyError> {
    // Filled in place: a buffer that grows would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_PIPE + 1));
    let io = |source| CustodyError::Io { action: "read", path: "standard input".into(), source };
    std::io::stdin().lock().take(MAX_PIPE as u64 + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() > MAX_PIPE {
        return Err(CustodyError::malformed("a session's request", "it is larger than any"));
    }
    Ok(bytes)
}

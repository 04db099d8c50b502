//! The proof by trying: each way out is walked, and must be closed by our filter and by nothing else.

use std::io;

use crate::{SandboxError, sys};

/// A way out, by what an auditor would call it.
type Probe = (&'static str, fn() -> io::Result<()>);

/// Every one of them ends at the filter's `EPERM`, before the kernel looks at modules, addresses or capabilities: the
/// result does not depend on the machine. Nothing is sent.
const PROBES: &[Probe] = &[
    ("a UDP socket", || sys::open_socket(libc::AF_INET, libc::SOCK_DGRAM)),
    ("a UDP socket over IPv6", || sys::open_socket(libc::AF_INET6, libc::SOCK_DGRAM)),
    ("a TCP socket", || sys::open_socket(libc::AF_INET, libc::SOCK_STREAM)),
    ("a TCP socket over IPv6", || sys::open_socket(libc::AF_INET6, libc::SOCK_STREAM)),
    ("a netlink socket", || sys::open_socket(libc::AF_NETLINK, libc::SOCK_RAW)),
    ("a vsock socket", || sys::open_socket(libc::AF_VSOCK, libc::SOCK_STREAM)),
    ("a packet socket", || sys::open_socket(libc::AF_PACKET, libc::SOCK_RAW)),
    ("io_uring_setup", sys::open_ring),
];

/// Tries to get out: UDP, TCP, netlink, vsock and packet sockets and an io_uring. Opens and closes, sends nothing.
///
/// # Errors
///
/// [`SandboxError::NotDenied`] names the first that worked, [`SandboxError::NotOurs`] the first that failed otherwise
/// than by our filter, for instance on a machine without vsock when [`lock_down`](crate::lock_down) was forgotten.
pub fn self_check() -> Result<(), SandboxError> {
    for (probe, try_it) in PROBES {
        match try_it() {
            Ok(()) => return Err(SandboxError::NotDenied { probe }),
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
            Err(source) => return Err(SandboxError::NotOurs { probe, source }),
        }
    }
    Ok(())
}

//! The tests' only `unsafe`: system calls that the standard library does not offer.

#![allow(unsafe_code, reason = "attacks are made of raw system calls")]

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

fn result(value: libc::c_long) -> io::Result<i32> {
    if value < 0 { Err(io::Error::last_os_error()) } else { Ok(value as i32) }
}

fn owned(value: libc::c_long) -> io::Result<OwnedFd> {
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    result(value).map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// socket(2).
pub fn socket(family: i32, kind: i32) -> io::Result<OwnedFd> {
    // SAFETY: integers only.
    owned(unsafe { libc::socket(family, kind, 0) }.into())
}

/// io_uring_setup(2) with one entry.
pub fn ring() -> io::Result<OwnedFd> {
    let mut params = [0_u32; 30];
    // SAFETY: the kernel writes the 120 bytes of `struct io_uring_params`.
    owned(unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr()) })
}

/// A call with small integers for arguments; wrong as pointers, so the kernel itself would answer `EFAULT` or the like.
pub fn call(number: libc::c_long) -> io::Result<i32> {
    // SAFETY: the callers' calls with null pointers and zero lengths write nothing.
    result(unsafe { libc::syscall(number, 0, 0, 0, 0, 0, 0) })
}

fn inet(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
        sin_zero: [0; 8],
    }
}

const INET: libc::socklen_t = size_of::<libc::sockaddr_in>() as libc::socklen_t;

/// Dissolves a connection with AF_UNSPEC and connects the same socket to `address`.
pub fn turn_around(socket: &impl AsRawFd, address: SocketAddrV4) -> io::Result<()> {
    let unspecified = libc::sockaddr_in { sin_family: libc::AF_UNSPEC as u16, ..inet(address) };
    for to in [unspecified, inet(address)] {
        // SAFETY: the pointer is valid for reads of the structure.
        result(unsafe { libc::connect(socket.as_raw_fd(), (&raw const to).cast(), INET) }.into())?;
    }
    Ok(())
}

/// Shuts a listener down and sends from it to `address` with TCP Fast Open.
pub fn fast_open(listener: &impl AsRawFd, address: SocketAddrV4) -> io::Result<()> {
    let to = inet(address);
    let flags = libc::MSG_FASTOPEN | libc::MSG_NOSIGNAL;
    // SAFETY: pointers are valid for reads of the lengths given.
    unsafe {
        result(libc::shutdown(listener.as_raw_fd(), libc::SHUT_RD).into())?;
        result(libc::sendto(listener.as_raw_fd(), b"out".as_ptr().cast(), 3, flags, (&raw const to).cast(), INET) as _)?;
    }
    Ok(())
}

//! The only place with `unsafe`: system calls that the standard library does not offer.

#![allow(unsafe_code, reason = "system calls take raw descriptors and pointers")]

use std::io;
use std::mem::{MaybeUninit, size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// What the kernel says about a socket.
#[derive(Debug)]
pub(crate) struct SocketFacts {
    /// `AF_*`.
    pub(crate) family: i32,
    /// `IPPROTO_*` for internet families.
    pub(crate) protocol: i32,
    /// Whether it accepts connections.
    pub(crate) listening: bool,
    /// The local address of an internet socket.
    pub(crate) address: Option<IpAddr>,
}

/// The facts about a descriptor; `None` if it is not a socket, or is closed by now.
pub(crate) fn socket_facts(descriptor: RawFd) -> io::Result<Option<SocketFacts>> {
    let family = match option(descriptor, libc::SO_DOMAIN) {
        Ok(family) => family,
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTSOCK | libc::EBADF)) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    if !matches!(family, libc::AF_INET | libc::AF_INET6) {
        return Ok(Some(SocketFacts { family, protocol: 0, listening: false, address: None }));
    }
    Ok(Some(SocketFacts {
        family,
        protocol: option(descriptor, libc::SO_PROTOCOL)?,
        listening: option(descriptor, libc::SO_ACCEPTCONN)? != 0,
        address: local_address(descriptor)?,
    }))
}

/// Opens and closes a socket.
pub(crate) fn open_socket(family: i32, kind: i32) -> io::Result<()> {
    // SAFETY: socket(2) takes three integers and touches no memory of ours.
    let descriptor = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, 0) };
    close(descriptor.into())
}

/// Opens and closes an io_uring of one entry.
pub(crate) fn open_ring() -> io::Result<()> {
    // `struct io_uring_params` (linux/io_uring.h) is 120 bytes: 30 numbers of 32 bits.
    let mut params = [0_u32; 30];
    // SAFETY: the pointer is valid for writes of the 120 bytes the kernel writes, for the time of the call.
    let descriptor = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr()) };
    close(descriptor)
}

fn close(descriptor: libc::c_long) -> io::Result<()> {
    match RawFd::try_from(descriptor) {
        Ok(descriptor) if descriptor >= 0 => {
            // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
            drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
            Ok(())
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// An option of level `SOL_SOCKET` that is an `int`.
fn option(descriptor: RawFd, name: i32) -> io::Result<i32> {
    let mut value = 0_i32;
    let mut length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `value` is valid for writes of `length` bytes; a wrong descriptor is an error, not undefined.
    let result =
        unsafe { libc::getsockopt(descriptor, libc::SOL_SOCKET, name, (&raw mut value).cast(), &raw mut length) };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

fn local_address(descriptor: RawFd) -> io::Result<Option<IpAddr>> {
    // SAFETY: `sockaddr_storage` is plain old data, for which all zeroes is a value.
    let mut storage: libc::sockaddr_storage = unsafe { zeroed() };
    let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: `storage` is valid for writes of `length` bytes; a wrong descriptor is an error, not undefined.
    if unsafe { libc::getsockname(descriptor, (&raw mut storage).cast(), &raw mut length) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(match i32::from(storage.ss_family) {
        libc::AF_INET => {
            let address: libc::sockaddr_in = reinterpret(&storage);
            Some(Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)).into())
        }
        libc::AF_INET6 => {
            let address: libc::sockaddr_in6 = reinterpret(&storage);
            Some(Ipv6Addr::from(address.sin6_addr.s6_addr).into())
        }
        _ => None,
    })
}

/// Reads an address structure out of the storage that holds it. For `sockaddr_*` types only.
fn reinterpret<T: Copy>(storage: &libc::sockaddr_storage) -> T {
    const { assert!(size_of::<T>() <= size_of::<libc::sockaddr_storage>()) };
    let mut address = MaybeUninit::<T>::uninit();
    // SAFETY: the assertion above keeps the copy inside the storage; the two callers' types are plain integers, for
    // which every byte pattern is a value.
    unsafe {
        std::ptr::copy_nonoverlapping((&raw const *storage).cast::<u8>(), address.as_mut_ptr().cast(), size_of::<T>());
        address.assume_init()
    }
}

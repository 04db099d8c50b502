//! A filter sees a system call begin, not which socket it is about: those that are open already are looked at before.

use std::os::fd::RawFd;

use crate::sys::{self, SocketFacts};
use crate::{Profile, SandboxError};

/// Refuses if an open descriptor is a socket that `profile` does not allow.
pub(crate) fn check(profile: Profile) -> Result<(), SandboxError> {
    let list = || -> std::io::Result<Vec<RawFd>> {
        std::fs::read_dir("/proc/self/fd")?
            .map(|entry| {
                let name = entry?.file_name();
                name.to_str().and_then(|name| name.parse().ok()).ok_or_else(|| std::io::ErrorKind::InvalidData.into())
            })
            .collect()
    };
    let descriptors = list().map_err(|source| SandboxError::Descriptors { source })?;
    for descriptor in descriptors {
        let facts = sys::socket_facts(descriptor).map_err(|source| SandboxError::Descriptors { source })?;
        if let Some(what) = facts.and_then(|facts| way_out(profile, &facts)) {
            return Err(SandboxError::InheritedSocket { descriptor, what });
        }
    }
    Ok(())
}

/// What the socket is, if `profile` does not allow it.
fn way_out(profile: Profile, facts: &SocketFacts) -> Option<String> {
    if facts.family == libc::AF_UNIX {
        return None;
    }
    if !matches!(facts.family, libc::AF_INET | libc::AF_INET6) {
        return Some(format!("a socket of address family {}", facts.family));
    }
    match profile {
        Profile::FullAirGap => Some("an internet socket".to_owned()),
        // Other protocols, SCTP for one, connect by sending.
        Profile::LoopbackListener | Profile::Listener if facts.protocol != libc::IPPROTO_TCP => {
            Some("an internet socket other than TCP".to_owned())
        }
        Profile::LoopbackListener | Profile::Listener if !facts.listening => {
            Some("a TCP socket that does not listen".to_owned())
        }
        Profile::Listener => None,
        Profile::LoopbackListener => match facts.address {
            Some(address) if address.to_canonical().is_loopback() => None,
            Some(address) => Some(format!("a TCP socket that listens on {address}, not on a loopback address")),
            None => Some("a TCP socket without a readable address".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    fn listener(address: impl Into<IpAddr>) -> SocketFacts {
        SocketFacts {
            family: libc::AF_INET,
            protocol: libc::IPPROTO_TCP,
            listening: true,
            address: Some(address.into()),
        }
    }

    #[test]
    fn only_tcp_listeners_on_loopback_pass_and_only_in_their_profile() {
        let allowed = |facts: &SocketFacts| way_out(Profile::LoopbackListener, facts).is_none();
        for address in
            [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into(), Ipv4Addr::new(127, 9, 9, 9).into()]
        {
            assert!(allowed(&listener(address)));
            assert!(way_out(Profile::FullAirGap, &listener(address)).is_some());
        }
        assert!(allowed(&listener(Ipv4Addr::LOCALHOST.to_ipv6_mapped())));
        for address in
            [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::new(10, 0, 0, 1).into()]
        {
            assert!(!allowed(&listener(address)), "{address}");
            assert!(way_out(Profile::Listener, &listener(address)).is_none(), "{address}");
        }
        assert!(!allowed(&SocketFacts { listening: false, ..listener(Ipv4Addr::LOCALHOST) }));
        assert!(
            way_out(Profile::Listener, &SocketFacts { listening: false, ..listener(Ipv4Addr::LOCALHOST) }).is_some()
        );
        assert!(!allowed(&SocketFacts { protocol: libc::IPPROTO_UDP, ..listener(Ipv4Addr::LOCALHOST) }));
        assert!(!allowed(&SocketFacts { protocol: libc::IPPROTO_SCTP, ..listener(Ipv4Addr::LOCALHOST) }));
        assert!(!allowed(&SocketFacts { address: None, ..listener(Ipv4Addr::LOCALHOST) }));
    }

    #[test]
    fn only_unix_sockets_pass_in_the_air_gap() {
        for family in 0..50 {
            let facts = SocketFacts { family, protocol: 0, listening: false, address: None };
            assert_eq!(way_out(Profile::FullAirGap, &facts).is_none(), family == libc::AF_UNIX, "{family}");
        }
    }
}

//! The rules, as data, and how they become a program.
//!
//! A list of what is denied, not of what is allowed: PKCS#11 modules are foreign code whose system calls we do not
//! know. The usual weaknesses of such a list are closed like this:
//!
//! - *32-bit calls* (`int 0x80`, where `socketcall` hides its arguments in memory): the program has a check of
//!   the architecture, and another one than the process's kills it.
//! - *x32 calls* carry the architecture of x86-64 and bit 30 in their number, and *calls not yet invented* have
//!   numbers above [`LAST_REVIEWED`]: both are answered with `ENOSYS`, as by an older kernel, so C libraries fall back.
//! - *Arguments behind pointers* cannot be seen by a filter: no rule depends on one.

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

use crate::SandboxError;

/// How much network a process keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// None. Unix sockets stay, for PKCS#11 daemons and the local interface.
    FullAirGap,
    /// The TCP sockets that listen on a loopback address already: `accept4` goes on working. In exchange no socket of
    /// any family can `connect`, `bind` or `listen` any more, because an accepted one could be turned around.
    LoopbackListener,
    /// The same for TCP sockets that listen on whatever address, for a server that has mutual TLS.
    Listener,
}

impl Profile {
    fn listens(self) -> bool {
        matches!(self, Self::LoopbackListener | Self::Listener)
    }
}

/// The highest number of a system call that was looked at for these rules: `file_setattr` of Linux 6.17. From 424 on
/// numbers are the same on all processors.
const LAST_REVIEWED: u32 = 469;

/// When a rule denies its call.
#[derive(Clone, Copy)]
pub(crate) enum When {
    Always,
    /// The 32-bit argument of this index is not `AF_UNIX`.
    NotUnix(u8),
    /// The argument of this index has the flag `MSG_FASTOPEN`.
    FastOpen(u8),
}

/// One system call that is denied with `EPERM`.
#[derive(Clone, Copy)]
pub(crate) struct Rule {
    pub(crate) call: c_long,
    pub(crate) when: When,
    /// In [`Profile::LoopbackListener`] and [`Profile::Listener`] only.
    pub(crate) listener_only: bool,
}

const fn rule(call: c_long, when: When) -> Rule {
    Rule { call, when, listener_only: false }
}

const fn listener_rule(call: c_long, when: When) -> Rule {
    Rule { call, when, listener_only: true }
}

/// Everything that is denied, and why.
pub(crate) const RULES: &[Rule] = &[
    // TCP, UDP, raw, packet, netlink, vsock, Bluetooth, ...: every way out begins here.
    rule(libc::SYS_socket, When::NotUnix(0)),
    // TIPC has socket pairs too, and they can be connected further.
    rule(libc::SYS_socketpair, When::NotUnix(0)),
    // A ring's SOCKET and CONNECT operations never pass a seccomp filter: no ring.
    rule(libc::SYS_io_uring_setup, When::Always),
    // A ring that was inherited.
    rule(libc::SYS_io_uring_enter, When::Always),
    // Opcodes can be allowed on, and sockets registered with, an inherited ring.
    rule(libc::SYS_io_uring_register, When::Always),
    // Takes an open socket out of another process of the same user.
    rule(libc::SYS_pidfd_getfd, When::Always),
    // Makes another process of the same user dial for us; also lets a tracer of ours step around the filter.
    rule(libc::SYS_ptrace, When::Always),
    // The same by writing into its memory.
    rule(libc::SYS_process_vm_writev, When::Always),
    // Programs in the kernel can send and redirect packets.
    rule(libc::SYS_bpf, When::Always),
    // A key of type `dns_resolver` makes the kernel ask a name server: a way out by DNS without a socket.
    rule(libc::SYS_request_key, When::Always),
    // An accepted connection can be dissolved with AF_UNSPEC and connected to anywhere.
    listener_rule(libc::SYS_connect, When::Always),
    // The same socket bound to an address that is not loopback.
    listener_rule(libc::SYS_bind, When::Always),
    // A listener that was shut down loses its address; listening again would take all addresses.
    listener_rule(libc::SYS_listen, When::Always),
    // TCP Fast Open connects while sending, for instance a listener that was shut down.
    listener_rule(libc::SYS_sendto, When::FastOpen(3)),
    listener_rule(libc::SYS_sendmsg, When::FastOpen(2)),
    listener_rule(libc::SYS_sendmmsg, When::FastOpen(3)),
];

/// The program of `rules` under `profile`, for the processor this was compiled for.
pub(crate) fn program(profile: Profile, rules: &[Rule]) -> Result<BpfProgram, SandboxError> {
    compile(profile, rules).map_err(|source| SandboxError::Build { source })
}

fn compile(profile: Profile, rules: &[Rule]) -> Result<BpfProgram, BackendError> {
    let rules = rules
        .iter()
        .filter(|rule| !rule.listener_only || profile.listens())
        .map(|rule| Ok((rule.call, rule.when.conditions()?)))
        .collect::<Result<_, BackendError>>()?;
    let eperm = SeccompAction::Errno(libc::EPERM as u32);
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let mut program = BpfProgram::from(unknown_calls());
    // Begins with the check of the architecture; jumps are relative, so what stands before does not disturb them.
    program.extend(BpfProgram::try_from(SeccompFilter::new(rules, SeccompAction::Allow, eperm, arch)?)?);
    Ok(program)
}

impl When {
    /// None means: whatever the arguments are.
    fn conditions(self) -> Result<Vec<SeccompRule>, BackendError> {
        // The kernel takes the family and the flags as `int`: the upper half of the register must not count.
        let condition =
            |index, operator, value: i32| SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value as u64);
        Ok(match self {
            Self::Always => Vec::new(),
            Self::NotUnix(index) => {
                vec![SeccompRule::new(vec![condition(index, SeccompCmpOp::Ne, libc::AF_UNIX)?])?]
            }
            Self::FastOpen(index) => {
                let flag = SeccompCmpOp::MaskedEq(libc::MSG_FASTOPEN as u64);
                vec![SeccompRule::new(vec![condition(index, flag, libc::MSG_FASTOPEN)?])?]
            }
        })
    }
}

/// `ENOSYS` for numbers above [`LAST_REVIEWED`], the x32 ones among them.
fn unknown_calls() -> [sock_filter; 3] {
    let instruction = |code: u32, jt, jf, k| sock_filter { code: code as u16, jt, jf, k };
    [
        // `nr` is the first field of `struct seccomp_data`.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, 0, 1, LAST_REVIEWED),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
    ]
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
    const I386: u32 = 3 | 0x4000_0000;
    const PROFILES: [Profile; 3] = [Profile::FullAirGap, Profile::LoopbackListener, Profile::Listener];

    /// `AUDIT_ARCH_*` of linux/audit.h for this processor.
    fn native() -> u32 {
        0xc000_0000 | if cfg!(target_arch = "x86_64") { 62 } else { 183 }
    }

    /// Runs a program as the kernel does (linux/filter.h), for the instructions that filters use.
    fn run(program: &[sock_filter], arch: u32, call: i64, arguments: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend((call as u32).to_le_bytes());
        data.extend(arch.to_le_bytes());
        data.extend([0; 8]);
        data.extend(arguments.iter().flat_map(|argument| argument.to_le_bytes()));
        let (mut accumulator, mut at) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at].clone();
            at += 1;
            let jump = |condition| usize::from(if condition { jt } else { jf });
            match code {
                0x20 => accumulator = u32::from_le_bytes(data[k as usize..][..4].try_into().unwrap()),
                0x54 => accumulator &= k,
                0x05 => at += k as usize,
                0x15 => at += jump(accumulator == k),
                0x25 => at += jump(accumulator > k),
                0x35 => at += jump(accumulator >= k),
                0x06 => return k,
                _ => panic!("instruction {code:#x}"),
            }
        }
    }

    fn verdict(profile: Profile, call: c_long, arguments: [u64; 6]) -> u32 {
        run(&program(profile, RULES).unwrap(), native(), call, arguments)
    }

    #[test]
    fn every_family_but_unix_is_denied() {
        for profile in PROFILES {
            for call in [libc::SYS_socket, libc::SYS_socketpair] {
                for family in 0..=64 {
                    let expected = if family == libc::AF_UNIX as u64 { ALLOW } else { EPERM };
                    assert_eq!(verdict(profile, call, [family, 1, 0, 0, 0, 0]), expected, "{family}");
                }
            }
        }
    }

    #[test]
    fn upper_half_of_the_family_register_does_not_count() {
        let inet_with_noise = (1 << 32) | libc::AF_INET as u64;
        assert_eq!(verdict(Profile::FullAirGap, libc::SYS_socket, [inet_with_noise, 1, 0, 0, 0, 0]), EPERM);
        let unix_with_noise = (7 << 32) | libc::AF_UNIX as u64;
        assert_eq!(verdict(Profile::FullAirGap, libc::SYS_socket, [unix_with_noise, 1, 0, 0, 0, 0]), ALLOW);
    }

    #[test]
    fn a_listener_can_neither_dial_nor_bind_nor_fast_open() {
        let fast = libc::MSG_FASTOPEN as u64 | libc::MSG_NOSIGNAL as u64;
        for (call, arguments) in [
            (libc::SYS_connect, [0; 6]),
            (libc::SYS_bind, [0; 6]),
            (libc::SYS_listen, [0; 6]),
            (libc::SYS_sendto, [0, 0, 0, fast, 0, 0]),
            (libc::SYS_sendmsg, [0, 0, fast, 0, 0, 0]),
            (libc::SYS_sendmmsg, [0, 0, 0, fast, 0, 0]),
        ] {
            assert_eq!(verdict(Profile::LoopbackListener, call, arguments), EPERM, "{call}");
            assert_eq!(verdict(Profile::Listener, call, arguments), EPERM, "{call}");
            assert_eq!(verdict(Profile::FullAirGap, call, arguments), ALLOW, "{call}");
        }
        let plain = [0, 0, libc::MSG_NOSIGNAL as u64, libc::MSG_NOSIGNAL as u64, 0, 0];
        for call in [libc::SYS_sendto, libc::SYS_sendmsg, libc::SYS_sendmmsg, libc::SYS_accept4, libc::SYS_recvfrom] {
            assert_eq!(verdict(Profile::LoopbackListener, call, plain), ALLOW, "{call}");
        }
    }

    #[test]
    fn every_rule_denies_something_no_other_rule_does() {
        for (index, rule) in RULES.iter().enumerate() {
            let arguments = match rule.when {
                When::Always | When::NotUnix(_) => [libc::AF_INET as u64; 6],
                When::FastOpen(_) => [libc::MSG_FASTOPEN as u64; 6],
            };
            let others: Vec<Rule> =
                RULES.iter().enumerate().filter(|(i, _)| *i != index).map(|(_, rule)| *rule).collect();
            let without = program(Profile::LoopbackListener, &others).unwrap();
            assert_eq!(verdict(Profile::LoopbackListener, rule.call, arguments), EPERM, "rule {index}");
            assert_eq!(run(&without, native(), rule.call, arguments), ALLOW, "rule {index} is redundant");
        }
    }

    #[test]
    fn foreign_architecture_is_killed() {
        for profile in PROFILES {
            let program = program(profile, RULES).unwrap();
            // 102 is socketcall of i386, 1 is exit: whatever the call.
            for call in [1, 102, 359] {
                assert_eq!(run(&program, I386, call, [0; 6]), KILL, "{call}");
            }
        }
    }

    #[test]
    fn x32_and_unknown_calls_do_not_exist() {
        const X32: c_long = 0x4000_0000;
        for call in [X32 | libc::SYS_socket, X32 | 518, c_long::from(LAST_REVIEWED) + 1, 1_000, -1] {
            assert_eq!(verdict(Profile::FullAirGap, call, [libc::AF_INET as u64; 6]), ENOSYS, "{call}");
        }
        assert_eq!(verdict(Profile::FullAirGap, LAST_REVIEWED.into(), [0; 6]), ALLOW);
    }

    #[test]
    fn ordinary_work_goes_on() {
        for call in
            [libc::SYS_read, libc::SYS_openat, libc::SYS_mmap, libc::SYS_futex, libc::SYS_clone3, libc::SYS_execve]
        {
            for profile in PROFILES {
                assert_eq!(verdict(profile, call, [0; 6]), ALLOW, "{call}");
            }
        }
    }
}

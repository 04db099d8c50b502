//! The lock-down in real processes: the test binary starts itself as a child, which plays one scenario and prints what
//! came of it. Every attack is also made without lock-down, where it must work: else the test would prove nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(clippy::explicit_write, reason = "eprintln! is captured by the test harness")]

mod raw;

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::sync::mpsc;

use casemate_sandbox::{Confinement, Profile, SandboxError, confine, lock_down, self_check};

const SCENARIO: &str = "CASEMATE_SANDBOX_SCENARIO";
const TCP: &str = "CASEMATE_SANDBOX_TCP";
const UDP: &str = "CASEMATE_SANDBOX_UDP";

const EPERM: &str = "EPERM";
const WORKS: &str = "works";

/// Says, past the capture of the test harness, that an attack has no negative control on this machine.
macro_rules! without_control {
    ($($text:tt)*) => {
        writeln!(io::stderr(), "NO NEGATIVE CONTROL: {}", format_args!($($text)*)).unwrap()
    };
}

/// What a child printed: attack and outcome.
type Table = BTreeMap<String, String>;

/// Targets on loopback that notice whoever reaches them.
struct Targets {
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Targets {
    fn new() -> Self {
        let targets = Self {
            tcp: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(),
            udp: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(),
        };
        targets.tcp.set_nonblocking(true).unwrap();
        targets.udp.set_nonblocking(true).unwrap();
        targets
    }

    fn command(&self, scenario: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "scenario", "--nocapture", "--test-threads=1"])
            .env(SCENARIO, scenario)
            .env(TCP, self.tcp.local_addr().unwrap().to_string())
            .env(UDP, self.udp.local_addr().unwrap().to_string())
            .stdin(Stdio::null());
        command
    }

    /// Plays `scenario` to its end.
    fn play(&self, scenario: &str) -> Table {
        let output = self.command(scenario).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{scenario}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text.lines().filter_map(parse).collect()
    }

    /// How many connections and datagrams have arrived.
    fn arrived(&self) -> (usize, usize) {
        let connections = std::iter::from_fn(|| self.tcp.accept().ok()).count();
        let datagrams = std::iter::from_fn(|| self.udp.recv(&mut [0; 16]).ok()).count();
        (connections, datagrams)
    }
}

fn parse(line: &str) -> Option<(String, String)> {
    let (_, line) = line.split_once("RESULT ")?;
    let (name, outcome) = line.split_once('=')?;
    Some((name.to_owned(), outcome.to_owned()))
}

fn report<T, E: ToString>(name: &str, outcome: Result<T, E>) {
    let text = outcome.map_or_else(|error| error.to_string(), |_| WORKS.to_owned());
    // Names are clearer than the kernel's sentences.
    let text = if text.contains("(os error 1)") { EPERM.to_owned() } else { text };
    println!("RESULT {name}={text}");
}

fn target(name: &str) -> SocketAddr {
    std::env::var(name).unwrap().parse().unwrap()
}

fn target_v4() -> SocketAddrV4 {
    match target(TCP) {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(_) => panic!("the target listens on 127.0.0.1"),
    }
}

/// Walks every way out and reports it.
fn attack() {
    report("tcp", TcpStream::connect(target(TCP)));
    report("tcp-bind", TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    report("udp", UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.send_to(b"out", target(UDP))));
    report("netlink", raw::socket(libc::AF_NETLINK, libc::SOCK_RAW));
    report("vsock", raw::socket(libc::AF_VSOCK, libc::SOCK_STREAM));
    report("packet", raw::socket(libc::AF_PACKET, libc::SOCK_RAW));
    report("io_uring", raw::ring());
}

const ATTACKS: [&str; 7] = ["tcp", "tcp-bind", "udp", "netlink", "vsock", "packet", "io_uring"];

/// Calls that are denied whatever their arguments are. With null arguments the kernel alone never answers `EPERM`.
const CALLS: [(&str, libc::c_long); 5] = [
    ("io_uring_enter", libc::SYS_io_uring_enter),
    ("io_uring_register", libc::SYS_io_uring_register),
    ("pidfd_getfd", libc::SYS_pidfd_getfd),
    ("process_vm_writev", libc::SYS_process_vm_writev),
    ("request_key", libc::SYS_request_key),
];

fn attack_by_call() {
    for (name, number) in CALLS {
        report(name, raw::call(number));
    }
}

/// One connection from the parent, answered.
fn serve(listener: &TcpListener) -> TcpStream {
    println!("RESULT port={}", listener.local_addr().unwrap().port());
    io::stdout().flush().unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let mut word = [0; 4];
    stream.read_exact(&mut word).unwrap();
    stream.write_all(&word).unwrap();
    stream
}

/// A port that nobody serves refuses: the attempt got that far.
fn closed_is_fine(error: io::Error) -> String {
    if error.kind() == io::ErrorKind::ConnectionRefused { WORKS.to_owned() } else { error.to_string() }
}

/// The child's side: does nothing unless a scenario is asked for.
#[test]
fn scenario() {
    let Ok(scenario) = std::env::var(SCENARIO) else {
        return;
    };
    match scenario.as_str() {
        "open" => {
            report("self-check", self_check());
            attack();
            attack_by_call();
        }
        "air-gap" => {
            lock_down(Profile::FullAirGap).unwrap();
            report("self-check", self_check());
            attack();
            attack_by_call();
            report("unix-pair", UnixStream::pair());
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("socket");
            report("unix-connect", UnixListener::bind(&path).and_then(|_listener| UnixStream::connect(&path)));
        }
        "thread-started-before" => {
            let (go, wait) = mpsc::channel::<()>();
            let thread = std::thread::spawn(move || {
                wait.recv().unwrap();
                attack();
                report("self-check", self_check());
            });
            lock_down(Profile::FullAirGap).unwrap();
            go.send(()).unwrap();
            thread.join().unwrap();
        }
        "program-started-after" => {
            lock_down(Profile::FullAirGap).unwrap();
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", "scenario", "--nocapture", "--test-threads=1"]).env(SCENARIO, "open");
            assert!(child.status().unwrap().success());
        }
        "locked-twice" => {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            lock_down(Profile::LoopbackListener).unwrap();
            drop(listener);
            lock_down(Profile::FullAirGap).unwrap();
            attack();
        }
        "listener" => {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            lock_down(Profile::LoopbackListener).unwrap();
            report("self-check", self_check());
            let accepted = serve(&listener);
            attack();
            attack_by_call();
            report("turn-around", raw::turn_around(&accepted, target_v4()));
            report("listen", raw::call(libc::SYS_listen));
            report("fast-open", raw::fast_open(&listener, target_v4()));
        }
        "listener-everywhere" => {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            lock_down(Profile::Listener).unwrap();
            report("self-check", self_check());
            let accepted = serve(&listener);
            attack();
            attack_by_call();
            report("turn-around", raw::turn_around(&accepted, target_v4()));
            report("listen", raw::call(libc::SYS_listen));
            report("fast-open", raw::fast_open(&listener, target_v4()));
        }
        "confined" | "unconfined" => {
            let (mine, others) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            std::fs::write(others.path().join("secret"), "x").unwrap();
            let read = others.path().to_owned();
            if scenario == "confined" {
                let write = vec![mine.path().to_owned()];
                let left = Confinement { write, connect: vec![target(TCP).port()], ..Confinement::default() };
                report("enforced", confine(&left).map(|enforced| println!("RESULT how={enforced:?}")));
            }
            report("read", std::fs::read(read.join("secret")));
            report("list", std::fs::read_dir(&read));
            report("write", std::fs::write(read.join("new"), "x"));
            report("remove", std::fs::remove_file(read.join("secret")));
            report("own-write", std::fs::write(mine.path().join("new"), "x"));
            report("own-read", std::fs::read(mine.path().join("new")));
            report("listed-port", TcpStream::connect(target(TCP)));
            report("other-port", TcpStream::connect((Ipv4Addr::LOCALHOST, 9)).map_err(closed_is_fine));
            report("bind", TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        }
        "open-listener" => {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let accepted = serve(&listener);
            report("turn-around", raw::turn_around(&accepted, target_v4()));
            report("fast-open", raw::fast_open(&listener, target_v4()));
        }
        "inherited" => {
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            report("air-gap", lock_down(Profile::FullAirGap));
            report("listener", lock_down(Profile::LoopbackListener));
            drop(udp);
            report("after-refusal", UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)));
            let netlink = raw::socket(libc::AF_NETLINK, libc::SOCK_RAW).unwrap();
            report("netlink", lock_down(Profile::LoopbackListener));
            drop(netlink);
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            report("air-gap-with-listener", lock_down(Profile::FullAirGap));
            let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            report("connected", lock_down(Profile::LoopbackListener));
            drop(stream);
            let everywhere = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            report("everywhere", lock_down(Profile::LoopbackListener));
            drop(everywhere);
            report("loopback", lock_down(Profile::LoopbackListener));
        }
        "handed-down" => report("air-gap", lock_down(Profile::FullAirGap)),
        other => panic!("no scenario {other}"),
    }
}

#[test]
fn without_lock_down_every_attack_works() {
    let targets = Targets::new();
    let table = targets.play("open");
    for attack in ["tcp", "tcp-bind", "udp", "netlink"] {
        assert_eq!(table[attack], WORKS, "{attack}");
    }
    // These depend on the kernel, on capabilities or on an outer sandbox.
    for attack in ["vsock", "packet", "io_uring"] {
        if table[attack] != WORKS {
            without_control!("{attack} is not to be had on this machine: {}", table[attack]);
        }
    }
    assert_eq!(targets.arrived(), (1, 1));
    assert!(table["self-check"].contains("a UDP socket worked"), "{}", table["self-check"]);
    for (name, _) in CALLS {
        if table[name] == EPERM {
            without_control!("{name} is denied on this machine already");
        }
    }
}

#[test]
fn air_gap_closes_every_way_out() {
    let targets = Targets::new();
    let table = targets.play("air-gap");
    for attack in ATTACKS.into_iter().chain(CALLS.map(|(name, _)| name)) {
        assert_eq!(table[attack], EPERM, "{attack}");
    }
    assert_eq!(targets.arrived(), (0, 0));
    for allowed in ["self-check", "unix-pair", "unix-connect"] {
        assert_eq!(table[allowed], WORKS, "{allowed}");
    }
}

#[test]
fn threads_started_before_are_locked_down_too() {
    let targets = Targets::new();
    let table = targets.play("thread-started-before");
    for attack in ATTACKS {
        assert_eq!(table[attack], EPERM, "{attack}");
    }
    assert_eq!(table["self-check"], WORKS);
    assert_eq!(targets.arrived(), (0, 0));
}

#[test]
fn programs_started_after_are_locked_down_too() {
    let targets = Targets::new();
    let table = targets.play("program-started-after");
    for attack in ATTACKS.into_iter().chain(CALLS.map(|(name, _)| name)) {
        assert_eq!(table[attack], EPERM, "{attack}");
    }
    assert_eq!(table["self-check"], WORKS);
    assert_eq!(targets.arrived(), (0, 0));
}

#[test]
fn a_second_lock_down_adds_to_the_first() {
    let targets = Targets::new();
    let table = targets.play("locked-twice");
    assert!(ATTACKS.iter().all(|attack| table[*attack] == EPERM), "{table:?}");
}

/// Starts `scenario`, talks to its listener, and returns its table and what the parent's targets saw.
fn talk_to(scenario: &str) -> (Table, (usize, usize)) {
    let targets = Targets::new();
    let mut child = targets.command(scenario).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines =
        BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap).filter_map(|line| parse(&line));
    let mut table = Table::new();
    let port: u16 = loop {
        let (name, outcome) = lines.next().expect("the child listens");
        if name == "port" {
            break outcome.parse().unwrap();
        }
        table.insert(name, outcome);
    };
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.write_all(b"ping").unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"ping");
    table.extend(lines);
    assert!(child.wait().unwrap().success());
    (table, targets.arrived())
}

#[test]
fn a_listener_bound_before_still_serves_and_nothing_gets_out() {
    let (table, arrived) = talk_to("listener");
    for attack in ATTACKS.into_iter().chain(CALLS.map(|(name, _)| name)).chain(["turn-around", "listen", "fast-open"]) {
        assert_eq!(table[attack], EPERM, "{attack}");
    }
    assert_eq!(table["self-check"], WORKS);
    assert_eq!(arrived, (0, 0));
}

#[test]
fn a_listener_on_every_address_still_serves_and_nothing_gets_out() {
    let (table, arrived) = talk_to("listener-everywhere");
    for attack in ATTACKS.into_iter().chain(CALLS.map(|(name, _)| name)).chain(["turn-around", "listen", "fast-open"]) {
        assert_eq!(table[attack], EPERM, "{attack}");
    }
    assert_eq!(table["self-check"], WORKS);
    assert_eq!(arrived, (0, 0));
}

#[test]
fn confined_to_its_files_and_ports_a_process_reaches_no_other() {
    let targets = Targets::new();
    let (free, table) = (targets.play("unconfined"), targets.play("confined"));
    let denied = ["read", "list", "write", "remove", "other-port", "bind"];
    for attack in denied.into_iter().chain(["own-write", "own-read", "listed-port"]) {
        assert_eq!(free[attack], WORKS, "{attack}, without confinement");
    }
    if table["how"] != "Fully" {
        without_control!("this kernel enforces {} of it", table["how"]);
        return;
    }
    for attack in denied {
        assert!(table[attack].contains("ermission denied") || table[attack] == EPERM, "{attack}: {}", table[attack]);
    }
    for own in ["own-write", "own-read", "listed-port"] {
        assert_eq!(table[own], WORKS, "{own}");
    }
}

#[test]
fn without_lock_down_a_listener_can_be_turned_around() {
    let (table, (connections, _)) = talk_to("open-listener");
    assert_eq!(table["turn-around"], WORKS);
    if table["fast-open"] == WORKS {
        assert_eq!(connections, 2);
    } else {
        without_control!("TCP Fast Open is not to be had on this machine: {}", table["fast-open"]);
        assert_eq!(connections, 1);
    }
}

#[test]
fn sockets_opened_before_are_refused_by_name() {
    let table = Targets::new().play("inherited");
    for (case, reason) in [
        ("air-gap", "is an internet socket"),
        ("listener", "an internet socket other than TCP"),
        ("after-refusal", WORKS),
        ("netlink", "a socket of address family 16"),
        ("air-gap-with-listener", "is an internet socket"),
        ("connected", "a TCP socket that does not listen"),
        ("everywhere", "listens on 0.0.0.0"),
        ("loopback", WORKS),
    ] {
        assert!(table[case].contains(reason), "{case}: {}", table[case]);
    }
}

#[test]
fn a_socket_handed_down_by_the_parent_is_refused() {
    let targets = Targets::new();
    assert_eq!(targets.play("handed-down")["air-gap"], WORKS);
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    // As its standard input, so that no other child of this test binary can get it by accident.
    let output = targets.command("handed-down").stdin(std::os::fd::OwnedFd::from(udp)).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("descriptor 0 is an internet socket"), "{text}");
}

#[test]
fn errors_say_what_to_do() {
    let error = SandboxError::InheritedSocket { descriptor: 7, what: "an internet socket".to_owned() };
    assert_eq!(error.to_string(), "cannot lock down while descriptor 7 is an internet socket: close it before");
}

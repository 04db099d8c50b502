use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use casemate_tier::{Authority, ClientTls, Direct, Endpoint, Limits, Remote, Role, ServerTls, TierServer};
use casemate_types::CollectionName;
use casemate_vectors::VectorStore;

use crate::{remote, serve, sled};

/// An authority, and a tier that lets its people in.
struct Network {
    dir: tempfile::TempDir,
    authority: Authority,
    port: u16,
}

impl Network {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut authority = Authority::create(&dir.path().join("ca"), "test").unwrap();
        let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        authority.issue(Role::Tier, "tier", &hosts, 30, &dir.path().join("tier")).unwrap();
        authority.issue(Role::Gate, "gate", &[], 30, &dir.path().join("gate")).unwrap();
        let mut network = Self { dir, authority, port: 0 };
        network.port = network.start("tier", "tier", "store");
        network
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Serves with the certificate `name` of a folder.
    fn start(&self, folder: &str, name: &str, store: &str) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let tls = ServerTls::read(&self.path(folder), name).unwrap();
        let limits = Limits { stall: Duration::from_secs(5), ..Limits::default() };
        let server = Arc::new(TierServer::new(sled(&self.path(store)), true, 0, limits));
        std::thread::spawn(move || server.serve_tls(&listener, &tls));
        port
    }

    fn reach(&self, folder: &Path, name: &str, host: &str, port: u16) -> Remote {
        let endpoint = Endpoint::Tls { host: host.to_owned(), port };
        Remote::new(endpoint, Some(ClientTls::read(folder, name).unwrap()), Arc::new(Direct)).unwrap()
    }

    fn gate(&self) -> Remote {
        self.reach(&self.path("gate"), "gate", "localhost", self.port)
    }
}

fn alpha() -> CollectionName {
    "alpha".parse().unwrap()
}

/// What the innermost cause of a refusal says.
fn cause(remote: &Remote) -> String {
    let error = remote.reserve_version(&alpha()).unwrap_err();
    let mut words = Vec::new();
    let mut next: Option<&dyn std::error::Error> = Some(&error);
    while let Some(error) = next {
        words.push(error.to_string());
        next = error.source();
    }
    words.join(": ")
}

#[test]
fn a_gate_with_its_certificate_is_let_in_by_name_and_by_address() {
    let network = Network::new();
    assert_eq!(network.gate().reserve_version(&alpha()).unwrap(), 1);
    let by_address = network.reach(&network.path("gate"), "gate", "127.0.0.1", network.port);
    assert_eq!(by_address.reserve_version(&alpha()).unwrap(), 2);
}

#[test]
fn a_certificate_of_a_foreign_authority_is_refused() {
    let network = Network::new();
    let mut foreign = Authority::create(&network.path("foreign-ca"), "test").unwrap();
    foreign.issue(Role::Gate, "gate", &[], 30, &network.path("foreign")).unwrap();
    // It trusts the tier, so that only the tier can refuse.
    for file in ["ca.pem", "revoked.pem"] {
        std::fs::copy(network.path("gate").join(file), network.path("foreign").join(file)).unwrap();
    }
    let refused = cause(&network.reach(&network.path("foreign"), "gate", "localhost", network.port));
    assert!(!refused.is_empty());
    network.gate().reserve_version(&alpha()).unwrap();
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let network = Network::new();
    let mut plain = TcpStream::connect((Ipv4Addr::LOCALHOST, network.port)).unwrap();
    plain.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // A protocol message without TLS: the tier answers with an alert and closes.
    plain.write_all(&[0, 0, 0, 2, 0, 1]).unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(answer.first().is_none_or(|kind| *kind == 21), "no TLS alert: {answer:?}");
    network.gate().reserve_version(&alpha()).unwrap();
}

#[test]
fn a_revoked_certificate_is_refused() {
    let mut network = Network::new();
    network.gate().reserve_version(&alpha()).unwrap();
    network.authority.revoke("gate").unwrap();
    assert!(network.authority.revoke("gate").is_err(), "twice");
    network.authority.hand_out(&network.path("tier")).unwrap();
    let port = network.start("tier", "tier", "store-2");
    let refused = network.reach(&network.path("gate"), "gate", "localhost", port);
    assert!(refused.reserve_version(&alpha()).is_err());
    // A new one under the same name is let in.
    network.authority.issue(Role::Gate, "gate", &[], 30, &network.path("gate-2")).unwrap();
    network.reach(&network.path("gate-2"), "gate", "localhost", port).reserve_version(&alpha()).unwrap();
}

#[test]
fn a_gates_certificate_does_not_play_a_tier() {
    let network = Network::new();
    let port = network.start("gate", "gate", "store-2");
    assert!(network.reach(&network.path("gate"), "gate", "localhost", port).reserve_version(&alpha()).is_err());
}

#[test]
fn a_tier_under_another_hosts_name_is_refused() {
    let mut network = Network::new();
    network.authority.issue(Role::Tier, "other", &["tier.example".to_owned()], 30, &network.path("other")).unwrap();
    let port = network.start("other", "other", "store-2");
    let refused = cause(&network.reach(&network.path("gate"), "gate", "localhost", port));
    assert!(refused.contains("not valid for name"), "{refused}");
}

#[test]
fn a_tiers_certificate_reads_groups_of_another_and_nothing_else() {
    let network = Network::new();
    let tier = network.reach(&network.path("tier"), "tier", "localhost", network.port);
    assert_eq!(tier.group(&alpha(), 0).unwrap(), None);
    for refused in [
        tier.reserve_version(&alpha()).map(drop),
        tier.delete_collection(&alpha()),
        tier.documents(&alpha()).map(drop),
        tier.manifest(&alpha()).map(drop),
        tier.export(&mut std::io::sink()),
    ] {
        let error = refused.unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("may read groups and nothing else"), "{cause}");
    }
}

#[test]
fn a_name_is_not_issued_twice_and_hostile_names_are_no_paths() {
    let mut network = Network::new();
    let out = network.path("out");
    for name in ["gate", "", "ca", "revoked", "../gate", ".hidden", "a/b", "a\0b"] {
        assert!(network.authority.issue(Role::Gate, name, &[], 30, &out).is_err(), "{name:?}");
    }
    let again = Authority::create(&network.path("ca"), "test");
    assert!(again.is_err(), "an authority was overwritten");
    let mode = |path: PathBuf| std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).unwrap().permissions());
    assert_eq!(mode(network.path("ca/ca.key")) & 0o777, 0o600);
    assert_eq!(mode(network.path("gate/gate.key")) & 0o777, 0o600);
    assert!(!out.join("gate.key").exists());
}

#[test]
fn more_connections_than_a_client_may_have_are_told_that_the_tier_is_busy() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { per_client: 2, connections: 3, ..Limits::default() };
    let endpoint = serve(sled(&dir.path().join("store")), &dir.path().join("socket"), limits);
    let held: Vec<UnixStream> = (0..2).map(|_| UnixStream::connect(dir.path().join("socket")).unwrap()).collect();
    // Both are counted once their threads run.
    let busy = (0..6000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        let refused = remote(&endpoint).reserve_version(&alpha()).err();
        // The tier may close the connection before its answer was read.
        let cause = refused.as_ref().and_then(|error| std::error::Error::source(error));
        cause.is_some_and(|cause| cause.to_string().contains("busy"))
    });
    assert!(busy, "never busy");
    drop(held);
    let again = (0..6000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        remote(&endpoint).reserve_version(&alpha()).is_ok()
    });
    assert!(again, "places were not given back");
}

#[test]
fn hostile_bytes_end_their_connection_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { request_bytes: 1 << 20, ..Limits::default() };
    let endpoint = serve(sled(&dir.path().join("store")), &dir.path().join("socket"), limits);
    let hello = [0, 0, 0, 2, 0, 1];
    let mut hostile: Vec<Vec<u8>> = vec![
        vec![0xff; 64],                                         // a false length
        [&hello[..], &[0, 0x20, 0, 0]].concat(),                // more than is taken
        [&hello[..], &[0, 0, 0, 3, 99, 0, 0]].concat(),         // no such message
        [&hello[..], &[0, 0, 0, 4, 2, 2, b'.', b'.']].concat(), // no name of a collection
        [&hello[..], &[0, 0, 0, 1, 17]].concat(),               // the end of an import that did not begin
        vec![0, 0, 0, 1, 12],                                   // before the greeting
        vec![0, 0, 0, 2, 0, 9],                                 // another version
    ];
    // Lists and strings that claim more than is there.
    hostile.push([&hello[..], &[0, 0, 0, 7, 11, 1, b'a', 0xff, 0xff, 0xff, 0x7f]].concat());
    for bytes in hostile {
        let mut stream = UnixStream::connect(dir.path().join("socket")).unwrap();
        stream.write_all(&bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer);
        let open = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
        assert!(!ended.as_ref().is_err_and(open), "the connection stays open after {bytes:?}");
    }
    remote(&endpoint).reserve_version(&alpha()).unwrap();
}

//! The export: what it holds, what a forger can do to it, and a judge that is not ours.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use casemate_archive::Limits;
use casemate_audit::{AuditError, Export, VerifyError, verify_export};

use crate::support::{ORIGIN, SIGNED, fill, open, record, sound, vkey, vkey_of};

const LIMITS: Limits = Limits { entry: 1 << 25, total: 1 << 30, entries: 1 << 20 };

fn export(dir: &Path, from: u64, to: u64) -> Vec<u8> {
    Export { dir, vkey: &vkey(), witness: None, from, to }.write(Vec::new()).unwrap()
}

fn unpacked(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    casemate_archive::read(archive, LIMITS).unwrap()
}

fn refusal(files: &BTreeMap<String, Vec<u8>>) -> VerifyError {
    verify_export(casemate_archive::write(files, LIMITS).unwrap().as_slice(), &vkey()).unwrap_err()
}

#[test]
fn an_export_holds_what_the_standards_name_and_verifies() {
    let dir = sound();
    let archive = export(dir.path(), 0, u64::MAX);
    let names: Vec<String> = unpacked(&archive).into_keys().collect();
    assert_eq!(
        names,
        [
            "checkpoint",
            "keys",
            "policy",
            "range",
            "tile/0/000",
            "tile/0/001",
            "tile/0/002.p/10",
            "tile/1/000.p/2",
            "tile/entries/000",
            "tile/entries/001",
            "tile/entries/002.p/10",
        ]
    );
    let files = unpacked(&archive);
    assert_eq!(files["policy"], format!("log {}\nquorum none\n", vkey()).into_bytes());
    let verified = verify_export(archive.as_slice(), &vkey()).unwrap();
    assert_eq!((verified.size, verified.from, verified.to), (SIGNED, 0, SIGNED));
    assert_eq!(export(dir.path(), 0, u64::MAX), archive, "the same log gives the same bytes");
}

#[test]
fn a_range_is_widened_to_whole_bundles_and_keeps_all_hashes() {
    let dir = sound();
    for (from, to, first, end) in
        [(300, 301, 256, 512), (0, 0, 0, 0), (520, 600, 512, SIGNED), (9999, 10_000, 512, SIGNED)]
    {
        let archive = export(dir.path(), from, to);
        let verified = verify_export(archive.as_slice(), &vkey()).unwrap();
        assert_eq!((verified.size, verified.from, verified.to), (SIGNED, first, end), "{from} {to}");
    }
}

#[test]
fn an_empty_log_exports() {
    let dir = tempfile::tempdir().unwrap();
    let _log = open(dir.path());
    let verified = verify_export(export(dir.path(), 0, 10).as_slice(), &vkey()).unwrap();
    assert_eq!((verified.size, verified.to), (0, 0));
}

#[test]
fn every_file_changed_removed_or_added_is_named() {
    let dir = sound();
    let files = unpacked(&export(dir.path(), 0, u64::MAX));
    let changed = |name: &str, at: usize| {
        let mut files = files.clone();
        files.get_mut(name).unwrap()[at] ^= 1;
        refusal(&files)
    };
    assert!(matches!(changed("tile/entries/001", 14), VerifyError::BadEntry { index: 257 }));
    assert!(matches!(changed("tile/entries/002.p/10", 3), VerifyError::BadEntry { index: 512 }));
    assert!(matches!(changed("tile/0/001", 32 * 3), VerifyError::BadTile { level: 1, tile: 0, first_index: 256 }));
    assert!(matches!(changed("tile/0/002.p/10", 0), VerifyError::RootMismatch { size: SIGNED }));
    assert!(matches!(changed("tile/1/000.p/2", 0), VerifyError::BadTile { level: 1, tile: 0, first_index: 0 }));
    let error = changed("checkpoint", ORIGIN.len() + 2);
    assert!(matches!(error, VerifyError::BadSignature), "{error}");
    assert!(matches!(changed("range", 0), VerifyError::MalformedExport { .. }));
    for name in files.keys().filter(|name| !["keys", "policy"].contains(&name.as_str())) {
        let mut without = files.clone();
        without.remove(name);
        let error = refusal(&without);
        let expected = match name.as_str() {
            "checkpoint" => matches!(error, VerifyError::MissingCheckpoint),
            "range" => matches!(error, VerifyError::MalformedExport { .. }),
            entries if entries.contains("entries") => matches!(error, VerifyError::MissingEntries { .. }),
            _ => matches!(error, VerifyError::MissingTile { .. }),
        };
        assert!(expected, "{name}: {error}");
    }
    for name in ["evil", "tile/0/003", "tile/2/000.p/1", "tile/entries/003", "tile/zzz", "wal"] {
        let mut with = files.clone();
        with.insert(name.to_owned(), vec![0; 32]);
        assert!(matches!(refusal(&with), VerifyError::MalformedExport { .. }), "{name}");
    }
    assert!(matches!(
        verify_export(export(dir.path(), 0, 1).as_slice(), &vkey_of(ORIGIN, 2)),
        Err(VerifyError::UnknownSigner)
    ));
}

#[test]
fn a_hostile_export_is_refused_before_it_fills_the_memory() {
    struct Counted<'a>(&'a [u8], &'a mut usize);
    impl std::io::Read for Counted<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let read = self.0.read(buffer)?;
            *self.1 += read;
            Ok(read)
        }
    }
    let hostile: BTreeMap<_, _> = (0..40).map(|n| (format!("a{n:02}"), vec![0; 1 << 20])).collect();
    let archive = casemate_archive::write(&hostile, LIMITS).unwrap();
    let mut read = 0;
    let error = verify_export(Counted(&archive, &mut read), &vkey()).unwrap_err();
    assert!(matches!(error, VerifyError::MalformedExport { .. }), "{error}");
    assert!(read < 3 << 20, "the first name is enough: {read}");
    // A name that belongs there, and more than it can hold.
    for (name, size) in [("policy", 1_000_001), ("checkpoint", 1_000_001), ("pinned", 4_000_001), ("range", 65)] {
        let error = refusal(&BTreeMap::from([(name.to_owned(), vec![b'x'; size])]));
        assert!(matches!(error, VerifyError::MalformedExport { .. }), "{name}: {error}");
    }
}

#[test]
fn no_export_of_a_log_that_does_not_give_its_root() {
    let dir = sound();
    crate::support::flip(&dir.path().join("tile/0/002.p/10"), 1);
    let error = Export { dir: dir.path(), vkey: &vkey(), witness: None, from: 0, to: 1 }.write(Vec::new()).unwrap_err();
    assert!(matches!(error, AuditError::Damaged(VerifyError::RootMismatch { .. })), "{error}");
}

/// The Go judge, compiled once; `None` where it was left out by name.
fn judge() -> Option<&'static Path> {
    static JUDGE: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
        if std::env::var_os("CASEMATE_WITHOUT_GO").is_some() {
            eprintln!("left out: Go is not installed here (CASEMATE_WITHOUT_GO)");
            return None;
        }
        let folder = Box::leak(Box::new(tempfile::tempdir().unwrap()));
        let binary = folder.path().join("verify");
        let output = Command::new("go")
            .args(["build", "-o"])
            .arg(&binary)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign/verify.go"))
            // Debian's packages, no module proxy.
            .env("GO111MODULE", "off")
            .env("GOPATH", "/usr/share/gocode")
            .env("GOCACHE", folder.path().join("cache"))
            .env("GOFLAGS", "")
            .output()
            .expect("Go is needed: cargo xtask setup installs it, or sets CASEMATE_WITHOUT_GO");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(binary)
    });
    JUDGE.as_deref()
}

fn judged(judge: &Path, archive: &[u8], vkey: &str, old: Option<&str>) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("export.tar");
    std::fs::write(&file, archive).unwrap();
    let mut command = Command::new(judge);
    command.arg(&file).arg(vkey);
    if let Some(old) = old {
        std::fs::write(folder.path().join("old"), old).unwrap();
        command.arg(folder.path().join("old"));
    }
    command.output().unwrap()
}

#[test]
fn go_sumdb_verifies_an_export_and_refuses_a_forged_one() {
    let Some(judge) = judge() else { return };
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let mut old = None;
    for size in [1, 2, 255, 256, 257, 700] {
        fill(&log, log.size(), size);
        let text = log.checkpoint().unwrap();
        let archive = export(dir.path(), 0, u64::MAX);
        let output = judged(judge, &archive, &vkey(), old.as_deref());
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{size}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(said.starts_with(&format!("ok size={size} records={size} ")), "{said}");
        old = Some(text);
    }
    // A range, against an older signed checkpoint.
    let archive = export(dir.path(), 256, 512);
    assert!(judged(judge, &archive, &vkey(), old.as_deref()).status.success());

    let files = unpacked(&export(dir.path(), 0, u64::MAX));
    for (name, at) in [("tile/entries/001", 9), ("tile/0/000", 3), ("tile/1/000.p/2", 40), ("checkpoint", 30)] {
        let mut forged = files.clone();
        forged.get_mut(name).unwrap()[at] ^= 1;
        let archive = casemate_archive::write(&forged, LIMITS).unwrap();
        assert!(!judged(judge, &archive, &vkey(), None).status.success(), "{name}");
    }
    assert!(!judged(judge, &archive, &vkey_of(ORIGIN, 2), None).status.success());
    // A checkpoint of another history by the same key.
    let other = tempfile::tempdir().unwrap();
    let fork = open(other.path());
    (0..100).for_each(|n| _ = fork.append(format!("another {n}").into_bytes()).unwrap());
    assert!(!judged(judge, &archive, &vkey(), Some(&fork.checkpoint().unwrap())).status.success());
    assert_eq!(log.read(0).unwrap(), record(0));
}

#[test]
#[ignore = "a million records: for the benchmark's figures"]
fn go_sumdb_verifies_a_million_records() {
    let Some(judge) = judge() else { return };
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    fill(&log, 0, 1_000_000);
    log.checkpoint().unwrap();
    let started = std::time::Instant::now();
    let archive = export(dir.path(), 0, u64::MAX);
    println!("exported in {:.2?}", started.elapsed());
    let started = std::time::Instant::now();
    let output = judged(judge, &archive, &vkey(), None);
    println!("{} in {:.2?}", String::from_utf8_lossy(&output.stdout).trim(), started.elapsed());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

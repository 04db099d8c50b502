//! The container: what a hostile archive can look like.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use casemate_bundle::{BundleError, ustar};

use crate::forge::{Entries, Site};

fn two() -> Entries {
    [("a.txt".to_owned(), b"first".to_vec()), ("b.txt".to_owned(), vec![7; 512])].into()
}

/// Entry `a.txt` at 0, its body at 512, entry `b.txt` at 1024, its body at 1536, the end blocks at 2048.
fn archive() -> Vec<u8> {
    ustar::write(&two()).unwrap()
}

/// `archive` with `bytes` put at `at` of the header that starts at `header`, and the checksum made good.
fn patched(header: usize, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut archive = archive();
    archive[header + at..header + at + bytes.len()].copy_from_slice(bytes);
    fix_checksum(&mut archive[header..header + 512]);
    archive
}

fn fix_checksum(head: &mut [u8]) {
    head[148..156].copy_from_slice(b"        ");
    let sum: u32 = head.iter().map(|b| u32::from(*b)).sum();
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

#[track_caller]
fn refusal(archive: &[u8]) -> BundleError {
    match ustar::read(archive) {
        Ok(_) => panic!("the attack was not noticed"),
        Err(error) => error,
    }
}

#[test]
fn what_is_written_is_read() {
    assert_eq!(ustar::read(&archive()).unwrap(), two());
    assert_eq!(patched(0, 0, b"a"), archive(), "the attacker's checksum is the writer's");
    let empty = BTreeMap::new();
    assert_eq!(ustar::read(&ustar::write(&empty).unwrap()).unwrap(), empty);
}

#[test]
fn traversal_and_odd_names_are_refused_on_both_sides() {
    let long = "a".repeat(101);
    for name in [
        "../a",
        "a/../b",
        "a..b",
        "/etc/passwd",
        "a//b",
        "a/",
        "./a",
        "",
        "A",
        "a b",
        "a\\b",
        "é",
        "-rf",
        "a/-rf",
        &long,
    ] {
        let entries: Entries = [(name.to_owned(), Vec::new())].into();
        assert!(matches!(ustar::write(&entries), Err(BundleError::BadName { .. })), "{name:?}");
    }
    for name in [b"../x\0".as_slice(), b"/abs\0", b"a//b\0", b"A.txt", b"a\n\0\0\0", b"\xc3\xa9\0\0\0"] {
        assert!(matches!(refusal(&patched(0, 0, name)), BundleError::BadName { .. }), "{name:?}");
    }
}

#[test]
fn name_hidden_behind_a_zero_byte_is_refused() {
    assert!(matches!(refusal(&patched(0, 50, b"evil")), BundleError::MalformedHeader { .. }));
}

#[test]
fn name_prefix_field_is_refused() {
    assert!(matches!(refusal(&patched(0, 345, b"dir")), BundleError::MalformedHeader { .. }));
}

#[test]
fn pax_headers_are_refused() {
    for kind in [b"x", b"g", b"X"] {
        assert!(matches!(refusal(&patched(1024, 156, kind)), BundleError::PaxHeader { offset: 1024 }));
    }
}

#[test]
fn gnu_headers_are_refused() {
    for kind in [b"L", b"K", b"S", b"V", b"D", b"M"] {
        assert!(matches!(refusal(&patched(0, 156, kind)), BundleError::GnuHeader { offset: 0, .. }));
    }
    assert!(matches!(refusal(&patched(0, 257, b"ustar  \0")), BundleError::GnuHeader { .. }));
}

#[test]
fn links_are_refused() {
    for kind in [b"1", b"2"] {
        assert!(matches!(refusal(&patched(0, 156, kind)), BundleError::LinkEntry { offset: 0 }));
    }
}

#[test]
fn directories_devices_and_old_files_are_refused() {
    for kind in [b"3", b"4", b"5", b"6", b"7", b"\0", b"z"] {
        assert!(matches!(refusal(&patched(0, 156, kind)), BundleError::UnsupportedEntryType { .. }), "{kind:?}");
    }
}

#[test]
fn other_modes_owners_times_and_magics_are_refused() {
    for (at, bytes) in [
        (100, b"0004755\0".as_slice()),
        (108, b"0000001\0"),
        (116, b"0000001\0"),
        (136, b"00000000001\0"),
        (157, b"target"),
        (257, b"ustar\x0001"),
        (265, b"root"),
        (329, b"0000000\0"),
        (500, b"hidden"),
    ] {
        assert!(matches!(refusal(&patched(0, at, bytes)), BundleError::MalformedHeader { offset: 0, .. }), "{at}");
    }
}

#[test]
fn unsorted_entries_are_refused() {
    let (a, b) = (archive()[..1024].to_vec(), archive()[1024..2048].to_vec());
    let swapped = [b, a, vec![0; 1024]].concat();
    assert!(matches!(refusal(&swapped), BundleError::UnsortedEntry { entry } if entry == "a.txt"));
}

#[test]
fn duplicate_entries_are_refused_wherever_they_stand() {
    let (a, b) = (archive()[..1024].to_vec(), archive()[1024..2048].to_vec());
    for parts in [vec![&a, &a, &b], vec![&a, &b, &a]] {
        let mut bytes = parts.into_iter().flatten().copied().collect::<Vec<_>>();
        bytes.extend([0; 1024]);
        assert!(matches!(refusal(&bytes), BundleError::DuplicateEntry { entry } if entry == "a.txt"));
    }
}

#[test]
fn bad_checksum_is_named() {
    let mut bytes = archive();
    bytes[1024 + 148] ^= 1;
    assert!(matches!(refusal(&bytes), BundleError::BadChecksum { offset: 1024 }));
    // A right sum in another spelling.
    let mut bytes = archive();
    bytes[148 + 6] = b' ';
    assert!(matches!(refusal(&bytes), BundleError::BadChecksum { offset: 0 }));
}

#[test]
fn sizes_that_overflow_or_are_not_octal_are_refused() {
    assert!(matches!(refusal(&patched(0, 124, b"77777777777\0")), BundleError::EntryTooLarge { .. }));
    for size in [b"\x80\0\0\0\0\0\0\0\0\0\0\x05", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfb"] {
        assert!(matches!(refusal(&patched(0, 124, size)), BundleError::WrongSize { offset: 0 }), "base-256");
    }
    for size in [b"00000000008\0", b"-0000000001\0", b"         5 \0", b"000000000005", b"0000000005 \0"] {
        assert!(matches!(refusal(&patched(0, 124, size)), BundleError::WrongSize { offset: 0 }), "{size:?}");
    }
}

#[test]
fn a_size_beyond_the_file_is_a_truncation() {
    assert!(matches!(refusal(&patched(1024, 124, b"00000100000\0")), BundleError::Truncated { .. }));
}

#[test]
fn an_entry_that_swallows_the_next_header_is_noticed() {
    // The desync trick: the first entry claims the second header as its body; what is left is no header.
    assert!(matches!(refusal(&patched(0, 124, b"00000002000\0")), BundleError::BadChecksum { .. }));
}

#[test]
fn oversized_entries_and_archives_are_refused() {
    let exact: Entries = [("a".to_owned(), vec![0; ustar::MAX_ENTRY])].into();
    let exact = ustar::write(&exact).unwrap();
    assert!(ustar::read(&exact).is_ok());
    let entries: Entries = [("a".to_owned(), vec![0; ustar::MAX_ENTRY + 1])].into();
    assert!(matches!(ustar::write(&entries), Err(BundleError::EntryTooLarge { .. })));
    let entries: Entries = ["a", "b"].map(|name| (name.to_owned(), vec![0; ustar::MAX_ENTRY])).into();
    assert!(matches!(ustar::write(&entries), Err(BundleError::TooLarge)));
    assert!(matches!(ustar::read(&vec![0; ustar::MAX_TOTAL + 1]), Err(BundleError::TooLarge)));
    let many: Entries = (0..1025).map(|i| (format!("f{i:04}"), Vec::new())).collect();
    assert!(matches!(ustar::write(&many), Err(BundleError::TooLarge)));
}

#[test]
fn trailing_data_is_counted() {
    for extra in [1, 512, 1024] {
        let mut bytes = archive();
        bytes.resize(bytes.len() + extra, 0);
        assert!(matches!(refusal(&bytes), BundleError::TrailingData { count } if count == extra));
    }
}

#[test]
fn missing_end_blocks_are_named() {
    let bytes = archive();
    for end in [2048, 2048 + 512, 2048 + 1023] {
        assert!(matches!(refusal(&bytes[..end]), BundleError::MissingEndBlocks), "{end}");
    }
    let mut bytes = archive();
    bytes[2048 + 512] = 1;
    assert!(matches!(refusal(&bytes), BundleError::MissingEndBlocks));
    assert!(matches!(refusal(b""), BundleError::MissingEndBlocks));
}

#[test]
fn data_after_an_early_end_is_refused() {
    let bytes = archive();
    let early = [&bytes[..1024], &[0; 1024], &bytes[1024..]].concat();
    assert!(matches!(refusal(&early), BundleError::TrailingData { .. }));
}

#[test]
fn non_zero_padding_is_named() {
    let mut bytes = archive();
    bytes[1023] = 1;
    assert!(matches!(refusal(&bytes), BundleError::NonZeroPadding { entry } if entry == "a.txt"));
}

#[test]
fn truncated_at_every_length_is_refused() {
    let bytes = archive();
    for end in 0..bytes.len() {
        assert!(ustar::read(&bytes[..end]).is_err(), "{end}");
    }
}

#[test]
fn the_tar_of_the_system_reads_the_same() {
    let site = Site::new();
    let bundle = site.bundle(1);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("clearance.casemate");
    std::fs::write(&path, &bundle).unwrap();
    let tar = |option: &str, name: &[&str]| {
        let output = Command::new("tar").arg(option).arg(&path).args(name).stdin(Stdio::null()).output();
        let output = match output {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            output => output.unwrap(),
        };
        assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(output.stdout)
    };
    let entries = ustar::read(&bundle).unwrap();
    let Some(list) = tar("-tf", &[]) else {
        return eprintln!("no tar on this machine");
    };
    let names: Vec<String> = String::from_utf8(list).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(names, entries.keys().cloned().collect::<Vec<_>>());
    for (name, body) in &entries {
        assert_eq!(tar("-xOf", &[name]).as_ref(), Some(body), "{name}");
    }
}

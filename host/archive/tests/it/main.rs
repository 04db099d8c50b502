//! The one law of the strict reader, against archives that chance makes: what it accepts is exactly what writing would have made of what it
//! found. Then two readers cannot see different files, whatever the bytes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::io::{self, Read};

use casemate_archive::{Limits, Reader, read, write};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::Index;

type Entries = BTreeMap<String, Vec<u8>>;

const LIMITS: Limits = Limits { entry: 4096, total: 1 << 20, entries: 16 };
const BLOCK: usize = 512;

fn entries() -> impl Strategy<Value = Entries> {
    btree_map("[a-z0-9]{1,9}(/[a-z0-9._]{1,2}[a-z0-9]){0,3}", vec(any::<u8>(), 0..1500), 0..6)
        .prop_map(|found| found.into_iter().filter(|(name, _)| !name.contains("..")).collect())
}

/// One way to damage an archive, or to forge one.
#[derive(Debug, Clone)]
enum Change {
    Byte(Index, u8),
    Cut(Index),
    Append(Vec<u8>),
    /// Blocks copied to another place.
    Copy(Index, Index),
    Remove(Index),
    /// A header's field set, its checksum made good again: names, modes, sizes, types, links, magics, prefixes.
    Field(Index, usize, Vec<u8>),
}

fn change() -> impl Strategy<Value = Change> {
    let fields =
        prop::sample::select(vec![0usize, 100, 108, 116, 124, 136, 148, 156, 157, 257, 263, 265, 329, 345, 500]);
    let octal = "[0-7 ]{0,11}".prop_map(String::into_bytes);
    let name = "[a-z./]{0,12}".prop_map(String::into_bytes);
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        any::<Index>().prop_map(Change::Cut),
        vec(prop_oneof![Just(0u8), any::<u8>()], 0..1200).prop_map(Change::Append),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Change::Copy(from, to)),
        any::<Index>().prop_map(Change::Remove),
        (any::<Index>(), fields, prop_oneof![octal, name, vec(any::<u8>(), 1..12)])
            .prop_map(|(block, at, value)| Change::Field(block, at, value)),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    let blocks = bytes.len() / BLOCK;
    if blocks == 0 {
        return;
    }
    match change {
        Change::Byte(at, byte) => {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        Change::Cut(at) => bytes.truncate(at.index(bytes.len())),
        Change::Append(more) => bytes.extend(more),
        Change::Copy(from, to) => {
            let (from, to) = (from.index(blocks) * BLOCK, to.index(blocks) * BLOCK);
            let block = bytes[from..from + BLOCK].to_vec();
            bytes.splice(to..to, block);
        }
        Change::Remove(at) => {
            let start = at.index(blocks) * BLOCK;
            drop(bytes.drain(start..start + BLOCK));
        }
        Change::Field(block, at, value) => {
            let start = block.index(blocks) * BLOCK;
            let head = &mut bytes[start..start + BLOCK];
            let end = (at + value.len()).min(BLOCK);
            head[*at..end].copy_from_slice(&value[..end - at]);
            head[148..156].fill(b' ');
            let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
            head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

/// Reads in crumbs of a length.
struct Crumbs<'a>(&'a [u8], usize);

impl Read for Crumbs<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(self.1);
        self.0.read(&mut buffer[..most])
    }
}

/// The law; returns whether the bytes were accepted.
fn accepted_is_canonical(bytes: &[u8], crumb: usize) -> Result<bool, TestCaseError> {
    let whole = read(bytes, LIMITS);
    let mut reader = Reader::new(Crumbs(bytes, crumb), LIMITS);
    let mut streamed = Entries::new();
    let outcome = loop {
        match reader.entry() {
            Ok(Some((name, body))) => drop(streamed.insert(name, body)),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    match (whole, outcome) {
        (Ok(found), Ok(())) => {
            prop_assert_eq!(&found, &streamed, "a stream shows other files than the bytes");
            prop_assert_eq!(write(&found, LIMITS).unwrap(), bytes, "two archives for the same files");
            Ok(true)
        }
        (Err(one), Err(other)) => {
            prop_assert_eq!(one.to_string(), other.to_string());
            Ok(false)
        }
        (whole, outcome) => Err(TestCaseError::fail(format!("{whole:?} but {outcome:?}"))),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(entries in entries(), crumb in 1usize..600) {
        let bytes = write(&entries, LIMITS).unwrap();
        prop_assert!(accepted_is_canonical(&bytes, crumb)?);
        prop_assert_eq!(read(&bytes, LIMITS).unwrap(), entries);
    }

    #[test]
    fn damaged_and_forged_archives_are_refused_or_canonical(
        entries in entries(), changes in vec(change(), 1..4), crumb in 1usize..600,
    ) {
        let mut bytes = write(&entries, LIMITS).unwrap();
        for change in &changes {
            apply(&mut bytes, change);
        }
        accepted_is_canonical(&bytes, crumb)?;
    }

    #[test]
    fn a_single_change_is_refused_or_changes_nothing_or_what_is_seen(entries in entries(), change in change()) {
        let bytes = write(&entries, LIMITS).unwrap();
        let mut other = bytes.clone();
        apply(&mut other, &change);
        if let Ok(found) = read(&other, LIMITS) {
            prop_assert_eq!(found == entries, other == bytes, "the same files from other bytes");
        }
    }

    #[test]
    fn noise_is_refused(bytes in vec(any::<u8>(), 0..3000)) {
        prop_assert!(!accepted_is_canonical(&bytes, 512)?);
    }
}

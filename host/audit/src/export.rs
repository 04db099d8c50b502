//! One file for an auditor: everything that verifies the log with other people's tools, in strict USTAR.
//!
//! ```text
//! checkpoint                the signed checkpoint (C2SP `tlog-checkpoint`)
//! cosigned                  the last one a witness cosigned, if there is one
//! keys                      verifier keys of the log, oldest first (C2SP `signed-note`)
//! pinned                    hand-overs and sealed segments, if there are any
//! policy                    whom to trust (C2SP `tlog-policy`)
//! range                     first record and one past the last record whose entries are here
//! tile/<L>/<N>[.p/<W>]      all hashes (C2SP `tlog-tiles`)
//! tile/entries/<N>[.p/<W>]  the records of the range, in whole bundles
//! ```
//!
//! Keys in the file are for reading it, not for trusting it: an auditor compares them with the ones received before.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;

use casemate_archive::{ArchiveError, Limits, Reader, Writer};

use crate::clock::ClockCheck;
use crate::cosignature::{self, Cosigned, WitnessKey};
use crate::courier::COSIGNED;
use crate::note::TreeHead;
use crate::pinned::{self, Pinned};
use crate::snapshot::Snapshot;
use crate::tree::{self, Edge, WIDTH, first_index, hash_at, leaf_hash, partial_number, partial_width};
use crate::{AuditError, VerifyError, store};

/// 32 MiB hold the largest entry bundle twice; the rest is more than any log has.
const LIMITS: Limits = Limits { entry: 32 << 20, total: 1 << 44, entries: 1 << 26 };

/// The files before the tiles, and how large each may be: as large as a log's own may be.
const SMALL: [(&str, usize); 6] = [
    (store::CHECKPOINT, 1_000_000),
    (COSIGNED, 1_000_000),
    ("keys", 1_000_000),
    (pinned::NAME, 4_000_000),
    ("policy", 1_000_000),
    ("range", 64),
];

/// What to export.
#[derive(Debug, Clone, Copy)]
pub struct Export<'a> {
    /// The log's directory.
    pub dir: &'a Path,
    /// A verifier key of the log.
    pub vkey: &'a str,
    /// The witness that the policy should name.
    pub witness: Option<&'a WitnessKey>,
    /// The first record whose entries are wanted; widened to whole bundles of 256.
    pub from: u64,
    /// One past the last; cut at what is signed.
    pub to: u64,
}

/// What [`verify_export`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// Records the checkpoint covers; all their hashes are in the file.
    pub size: u64,
    /// The signed root.
    pub root: [u8; 32],
    /// First record in the file.
    pub from: u64,
    /// One past the last.
    pub to: u64,
    /// The checkpoint that the witness cosigned, if a witness was asked for.
    pub cosigned: Option<Cosigned>,
}

impl Export<'_> {
    /// Writes the export. Needs no HSM and no lock, and works on a log that is in use.
    pub fn write<W: Write>(&self, out: W) -> Result<W, AuditError> {
        let snapshot = Snapshot::take(self.dir, Some(self.vkey))?;
        // Nothing is exported that the signature does not cover.
        let edge = snapshot.edge()?;
        let size = snapshot.head.size;
        let (from, to) = (self.from.min(size) / WIDTH * WIDTH, self.to.min(size).next_multiple_of(WIDTH).min(size));
        let (from, to) = (from, to.max(from));
        let mut writer = Writer::new(out, LIMITS);
        for (name, body) in self.small_files(&snapshot, from, to)? {
            writer.push(&name, &body).map_err(failed)?;
        }
        for part in parts(size, from, to) {
            let body = match part.content {
                Content::Hashes { level, .. } if part.width < WIDTH => edge.partial(level).to_vec(),
                Content::Hashes { level, number } => store::read_tile(self.dir, level, number, WIDTH)?,
                Content::Entries { number } => self.bundle(&snapshot, number, part.width)?,
            };
            writer.push(&part.name, &body).map_err(failed)?;
        }
        writer.finish().map_err(failed)
    }

    fn bundle(&self, snapshot: &Snapshot, number: u64, width: u64) -> Result<Vec<u8>, AuditError> {
        let full;
        let bundle = match &snapshot.bundle {
            Some(bundle) if width < WIDTH => bundle.as_ref().map_err(Clone::clone)?,
            _ => {
                full = store::read_bundle(self.dir, number, WIDTH)?;
                &full
            }
        };
        let mut body = Vec::new();
        for entry in bundle.entries() {
            tree::push_entry(&mut body, entry?);
        }
        Ok(body)
    }

    fn small_files(&self, snapshot: &Snapshot, from: u64, to: u64) -> Result<BTreeMap<String, Vec<u8>>, AuditError> {
        let mut files = BTreeMap::new();
        let mut put = |name: &str, body: Vec<u8>| files.insert(name.to_owned(), body);
        put(store::CHECKPOINT, snapshot.head.text.clone().into_bytes());
        if let Some(cosigned) = store::read_note(&self.dir.join(COSIGNED))? {
            put(COSIGNED, cosigned);
        }
        let keys: Vec<&str> = snapshot.keys.iter().flat_map(|keys| keys.all()).collect();
        put("keys", keys.iter().map(|key| format!("{key}\n")).collect::<String>().into_bytes());
        if !snapshot.pinned.is_empty() {
            put(pinned::NAME, snapshot.pinned.to_bytes());
        }
        let mut policy: String = keys.iter().map(|key| format!("log {key}\n")).collect();
        match self.witness {
            Some(witness) => policy.push_str(&format!("witness custodian {}\nquorum custodian\n", witness.vkey())),
            None => policy.push_str("quorum none\n"),
        }
        put("policy", policy.into_bytes());
        put("range", format!("{from} {to}\n").into_bytes());
        Ok(files)
    }
}

/// Checks an export against a verifier key from a trusted place: signature, every hash, every record in it, and that nothing else is
/// there. Reads a stream; keeps 32 bytes a record in memory.
pub fn verify_export(input: impl Read, vkey: &str) -> Result<Exported, VerifyError> {
    verify(input, vkey, None)
}

/// As [`verify_export`], and that `witness` cosigned a checkpoint of this very tree.
pub fn verify_export_cosigned(input: impl Read, vkey: &str, witness: &WitnessKey) -> Result<Exported, VerifyError> {
    verify(input, vkey, Some(witness))
}

fn verify(input: impl Read, vkey: &str, witness: Option<&WitnessKey>) -> Result<Exported, VerifyError> {
    let mut reader = Reader::new(input, LIMITS);
    let mut small = BTreeMap::new();
    let mut next = entry(&mut reader)?;
    while let Some((name, body)) = next.take_if(|(name, _)| !name.starts_with("tile/")) {
        // Before it is kept: nothing is signed yet, and a stranger's file may go on without end.
        if !SMALL.iter().any(|(known, limit)| name == *known && body.len() <= *limit) {
            return Err(unexpected(&name));
        }
        small.insert(name, body);
        next = entry(&mut reader)?;
    }
    let (head, pinned, from, to) = read_small(&small, vkey)?;

    // Names are sorted, so all hashes come before the first entries.
    let mut tiles = BTreeMap::new();
    let mut edge = None;
    let mut clock = ClockCheck::default();
    for part in parts(head.size, from, to) {
        let (name, body) = next.take().ok_or_else(|| missing(&part.content))?;
        if name != part.name {
            return Err(if name < part.name { unexpected(&name) } else { missing(&part.content) });
        }
        match part.content {
            Content::Hashes { level, number } => {
                if body.len() as u64 != part.width * 32 {
                    return Err(VerifyError::BadTile {
                        level,
                        tile: number,
                        first_index: first_index(level, number, 0),
                    });
                }
                tiles.insert((level, number), body);
            }
            Content::Entries { number } => {
                if edge.is_none() {
                    edge = Some(check_tree(&head, &tiles)?);
                }
                check_entries(&tiles, number, part.width, &body, &mut clock)?;
            }
        }
        next = entry(&mut reader)?;
    }
    if let Some((name, _)) = next {
        return Err(unexpected(&name));
    }
    if edge.is_none() {
        check_tree(&head, &tiles)?;
    }
    pinned.check(head.size, |index| {
        Ok(tiles.get(&(0, index / WIDTH)).and_then(|tile| hash_at(tile, (index % WIDTH) as usize)))
    })?;
    let cosigned = match witness {
        None => None,
        Some(witness) => {
            let not_cosigned = || VerifyError::NotCosigned { witness: witness.name().to_owned() };
            let text = small.get(COSIGNED).ok_or_else(not_cosigned)?;
            let (cosigned, seconds) = cosignature::open(text, &pinned.keys(vkey)?, witness)?;
            let mut edge = Edge::default();
            for index in 0..cosigned.size.min(head.size) {
                let leaf = tiles.get(&(0, index / WIDTH)).and_then(|tile| hash_at(tile, (index % WIDTH) as usize));
                leaf.into_iter().for_each(|leaf| edge.push(leaf, |_| {}));
            }
            if edge.size() != cosigned.size || edge.root() != cosigned.root {
                return Err(VerifyError::CosignedAnother { size: cosigned.size });
            }
            Some(Cosigned { size: cosigned.size, seconds })
        }
    };
    Ok(Exported { size: head.size, root: head.root.0, from, to, cosigned })
}

fn read_small(small: &BTreeMap<String, Vec<u8>>, vkey: &str) -> Result<(TreeHead, Pinned, u64, u64), VerifyError> {
    let pinned = small.get(pinned::NAME).map(|bytes| Pinned::parse(bytes)).transpose()?.unwrap_or_default();
    let checkpoint = small.get(store::CHECKPOINT).ok_or(VerifyError::MissingCheckpoint)?;
    let head = pinned.keys(vkey)?.open(checkpoint)?;
    let range = small.get("range").and_then(|bytes| str::from_utf8(bytes).ok()).and_then(|text| {
        let (from, to) = text.strip_suffix('\n')?.split_once(' ')?;
        Some((from.parse::<u64>().ok()?, to.parse::<u64>().ok()?))
    });
    let whole = |end: u64| end.is_multiple_of(WIDTH) || end == head.size;
    match range {
        Some((from, to)) if from <= to && to <= head.size && from.is_multiple_of(WIDTH) && whole(to) => {
            Ok((head, pinned, from, to))
        }
        _ => Err(VerifyError::MalformedExport { detail: "the range is missing or impossible".to_owned() }),
    }
}

/// Rebuilds the tree from the leaf hashes and compares every stored hash and the root.
fn check_tree(head: &TreeHead, tiles: &BTreeMap<(u8, u64), Vec<u8>>) -> Result<Edge, VerifyError> {
    let mut edge = Edge::default();
    let mut bad = None;
    for number in 0..head.size.div_ceil(WIDTH) {
        let tile = tiles.get(&(0, number)).ok_or_else(|| missing(&Content::Hashes { level: 0, number }))?;
        for position in 0..tile.len() / 32 {
            let Some(leaf) = hash_at(tile, position) else { continue };
            edge.push(leaf, |full| {
                if tiles.get(&(full.level, full.tile)) != Some(&full.bytes) && bad.is_none() {
                    bad = first_difference(full.level, full.tile, tiles.get(&(full.level, full.tile)), &full.bytes);
                }
            });
        }
    }
    for level in tree::levels(head.size) {
        let (number, width) = (partial_number(head.size, level), partial_width(head.size, level));
        if width > 0 && tiles.get(&(level, number)).map(Vec::as_slice) != Some(edge.partial(level)) && bad.is_none() {
            bad = first_difference(level, number, tiles.get(&(level, number)), edge.partial(level));
        }
    }
    match bad {
        Some(bad) => Err(bad),
        None if edge.size() == head.size && edge.root() == head.root => Ok(edge),
        None => Err(VerifyError::RootMismatch { size: head.size }),
    }
}

fn first_difference(level: u8, tile: u64, stored: Option<&Vec<u8>>, right: &[u8]) -> Option<VerifyError> {
    let stored = stored.map(Vec::as_slice).unwrap_or_default();
    let position = (0..right.len() / 32).find(|at| hash_at(stored, *at) != hash_at(right, *at))?;
    Some(VerifyError::BadTile { level, tile, first_index: first_index(level, tile, position as u64) })
}

fn check_entries(
    tiles: &BTreeMap<(u8, u64), Vec<u8>>,
    number: u64,
    width: u64,
    body: &[u8],
    clock: &mut ClockCheck,
) -> Result<(), VerifyError> {
    let tile = tiles.get(&(0, number)).map(Vec::as_slice).unwrap_or_default();
    let mut rest = body;
    for position in 0..width {
        let index = number * WIDTH + position;
        let record = tree::take_entry(&mut rest).ok_or(VerifyError::MissingEntries { index })?;
        if hash_at(tile, position as usize) != Some(leaf_hash(record)) {
            return Err(VerifyError::BadEntry { index });
        }
        clock.see(index, record)?;
    }
    if rest.is_empty() { Ok(()) } else { Err(VerifyError::MalformedEntries { first_index: number * WIDTH }) }
}

struct Part {
    name: String,
    content: Content,
    width: u64,
}

enum Content {
    Hashes { level: u8, number: u64 },
    Entries { number: u64 },
}

/// Every tile of a tree of `size` records, and the bundles of the range, in the order of their names.
fn parts(size: u64, from: u64, to: u64) -> Vec<Part> {
    let mut parts = Vec::new();
    for level in tree::levels(size) {
        let (full, partial) = (partial_number(size, level), partial_width(size, level));
        let widths = (0..full).map(|number| (number, WIDTH)).chain((partial > 0).then_some((full, partial)));
        parts.extend(widths.map(|(number, width)| Part {
            name: tree::tile_path(level, number, width),
            content: Content::Hashes { level, number },
            width,
        }));
    }
    parts.extend((from / WIDTH..to.div_ceil(WIDTH)).map(|number| {
        let width = (to - number * WIDTH).min(WIDTH);
        Part { name: tree::bundle_path(number, width), content: Content::Entries { number }, width }
    }));
    parts.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    parts
}

fn entry<R: Read>(reader: &mut Reader<R>) -> Result<Option<(String, Vec<u8>)>, VerifyError> {
    reader.entry().map_err(|error| VerifyError::MalformedExport { detail: error.to_string() })
}

fn missing(content: &Content) -> VerifyError {
    match *content {
        Content::Hashes { level, number } => {
            VerifyError::MissingTile { level, tile: number, first_index: first_index(level, number, 0) }
        }
        Content::Entries { number } => VerifyError::MissingEntries { index: number * WIDTH },
    }
}

fn unexpected(name: &str) -> VerifyError {
    VerifyError::MalformedExport {
        detail: format!("`{name}` does not belong into an export, or is larger than it can be"),
    }
}

fn failed(error: ArchiveError) -> AuditError {
    match error {
        ArchiveError::Io { source, .. } => AuditError::io("write", Path::new("the export"))(source),
        // Names and sizes are ours; only a log beyond all limits comes here.
        other => AuditError::Damaged(VerifyError::MalformedExport { detail: other.to_string() }),
    }
}

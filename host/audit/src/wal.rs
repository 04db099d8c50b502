//! The write-ahead file: what is durable and not yet signed.
//!
//! ```text
//! header  "casemate-wal-v1\n"  first index u64 BE  SHA-256 of both          56 bytes
//! record  length u16 BE  its complement u16 BE  check, 32 bytes  the record
//! check = SHA-256(check of the one before, or the header's || length || record)
//! ```
//!
//! The chain makes exchanged and repeated records visible, the complement a damaged length. A write that power loss cut short
//! leaves a record that runs past the end of the file, or zeros; only those are dropped, everything else is damage.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use casemate_types::Digest;

use crate::VerifyError;

/// Name of the file below the log directory.
pub(crate) const NAME: &str = "wal";

const MAGIC: &[u8; 16] = b"casemate-wal-v1\n";
const HEADER: usize = 16 + 8 + 32;
const RECORD_HEADER: usize = 2 + 2 + 32;

/// Refuse to read a write-ahead file beyond this: the log never lets its tail grow so far.
const MAX_FILE: u64 = 2 << 30;

/// What a write-ahead file holds.
#[derive(Debug, PartialEq)]
pub(crate) struct Scan {
    pub(crate) first: u64,
    pub(crate) records: Vec<Vec<u8>>,
}

impl Scan {
    /// One past the last index.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.records.len() as u64
    }

    /// The records from `size` on, or the reason why this file does not continue a checkpoint of `size` records.
    pub(crate) fn after(self, size: u64) -> Result<impl Iterator<Item = Vec<u8>>, VerifyError> {
        let gap = VerifyError::Gap { checkpoint: size, first: self.first, end: self.end() };
        if size < self.first || self.end() < size {
            return Err(gap);
        }
        // A crash between checkpoint and reset leaves records that are already signed: skip them.
        Ok(self.records.into_iter().skip((size - self.first) as usize))
    }
}

/// Encodes a write-ahead file, or a continuation of one.
pub(crate) struct Encoder {
    check: [u8; 32],
    pub(crate) bytes: Vec<u8>,
}

impl Encoder {
    /// A new file that begins at index `first`.
    pub(crate) fn begin(first: u64) -> Self {
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&first.to_be_bytes());
        let check = *Digest::of(&bytes).as_bytes();
        bytes.extend_from_slice(&check);
        Self { check, bytes }
    }

    /// More records behind the one with this check.
    pub(crate) fn resume(check: [u8; 32]) -> Self {
        Self { check, bytes: Vec::new() }
    }

    /// The check of the last record.
    pub(crate) fn check(&self) -> [u8; 32] {
        self.check
    }

    /// Adds a record of at most [`crate::MAX_RECORD`] bytes.
    pub(crate) fn push(&mut self, record: &[u8]) {
        let length = record.len() as u16;
        self.check = chain(&self.check, length, record);
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(&(!length).to_be_bytes());
        self.bytes.extend_from_slice(&self.check);
        self.bytes.extend_from_slice(record);
    }
}

/// Reads a write-ahead file. A torn end is dropped; damage before it is [`VerifyError::BadTail`] with its index.
pub(crate) fn scan(bytes: &[u8]) -> Result<Scan, VerifyError> {
    let (header, mut rest) = bytes.split_at_checked(HEADER).ok_or(VerifyError::MalformedWal)?;
    let (signed, check) = header.split_at(HEADER - 32);
    let first = signed
        .strip_prefix(MAGIC)
        .and_then(|first| first.try_into().ok())
        .map(u64::from_be_bytes)
        .filter(|first| *first <= crate::tree::MAX_SIZE)
        .ok_or(VerifyError::MalformedWal)?;
    let mut check = <[u8; 32]>::try_from(check).map_err(|_| VerifyError::MalformedWal)?;
    if Digest::of(signed).as_bytes() != &check {
        return Err(VerifyError::MalformedWal);
    }
    let mut records = Vec::new();
    while !rest.is_empty() {
        let index = first + records.len() as u64;
        match next(rest, &check) {
            Next::Record { record, next_check, after } => {
                records.push(record.to_vec());
                (check, rest) = (next_check, after);
            }
            Next::Torn => break,
            Next::Damaged => return Err(VerifyError::BadTail { index }),
        }
    }
    Ok(Scan { first, records })
}

/// Reads and scans the file of a log directory; `None` when there is none.
pub(crate) fn read(dir: &Path) -> Result<Option<Scan>, VerifyError> {
    let path = dir.join(NAME);
    let mut bytes = Vec::new();
    match File::open(&path) {
        Ok(file) => file.take(MAX_FILE).read_to_end(&mut bytes).map_err(VerifyError::io("read", &path))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(VerifyError::io("open", &path)(error)),
    };
    scan(&bytes).map(Some)
}

enum Next<'a> {
    Record { record: &'a [u8], next_check: [u8; 32], after: &'a [u8] },
    Torn,
    Damaged,
}

fn next<'a>(bytes: &'a [u8], check: &[u8; 32]) -> Next<'a> {
    // Space that was allocated and never written reads as zeros.
    let only_zeros = |from: &[u8]| from.iter().all(|byte| *byte == 0);
    let Some((header, rest)) = bytes.split_at_checked(RECORD_HEADER) else {
        return Next::Torn;
    };
    let length = u16::from_be_bytes([header[0], header[1]]);
    if u16::from_be_bytes([header[2], header[3]]) != !length {
        return if only_zeros(&bytes[3..]) { Next::Torn } else { Next::Damaged };
    }
    let Some((record, after)) = rest.split_at_checked(usize::from(length)) else {
        return Next::Torn;
    };
    let next_check = chain(check, length, record);
    if header[4..] != next_check {
        // A record is JSON and never ends in a zero byte, so a zero here was not written.
        let unwritten = record.last().or(header.last()) == Some(&0) && only_zeros(after);
        return if unwritten { Next::Torn } else { Next::Damaged };
    }
    Next::Record { record, next_check, after }
}

fn chain(check: &[u8; 32], length: u16, record: &[u8]) -> [u8; 32] {
    *Digest::of_parts(&[check, &length.to_be_bytes(), record]).as_bytes()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    fn file(first: u64, records: &[&[u8]]) -> Vec<u8> {
        let mut encoder = Encoder::begin(first);
        records.iter().for_each(|record| encoder.push(record));
        encoder.bytes
    }

    #[test]
    fn round_trip_and_resume() {
        let mut encoder = Encoder::begin(7);
        encoder.push(b"one");
        let mut more = Encoder::resume(encoder.check());
        more.push(b"");
        let bytes = [encoder.bytes, more.bytes].concat();
        let scan = scan(&bytes).unwrap();
        assert_eq!((scan.first, scan.end()), (7, 9));
        assert_eq!(scan.records, [b"one".to_vec(), vec![]]);
    }

    #[test]
    fn a_cut_at_any_byte_drops_only_the_records_it_hits() {
        let records: [&[u8]; 3] = [b"first", b"second", b"third"];
        let bytes = file(0, &records);
        let ends = [HEADER, HEADER + 41, HEADER + 41 + 42, bytes.len()];
        for end in HEADER..=bytes.len() {
            let whole = ends.iter().filter(|at| **at <= end).count() - 1;
            assert_eq!(scan(&bytes[..end]).unwrap().records, records[..whole], "{end}");
            // The same cut with the rest allocated and never written.
            let mut zeros = bytes[..end].to_vec();
            zeros.resize(bytes.len() + 100, 0);
            assert_eq!(scan(&zeros).unwrap().records, records[..whole], "zeros from {end}");
        }
    }

    #[test]
    fn every_flipped_byte_is_damage_with_its_index() {
        let bytes = file(10, &[b"first", b"second", b"third"]);
        for at in 0..bytes.len() {
            let mut hostile = bytes.clone();
            hostile[at] ^= 0x80;
            let error = scan(&hostile).unwrap_err();
            let expected = match at {
                0..56 => None,
                56..97 => Some(10),
                97..139 => Some(11),
                _ => Some(12),
            };
            match (error, expected) {
                (VerifyError::MalformedWal, None) => {}
                (VerifyError::BadTail { index }, Some(expected)) => {
                    assert_eq!(index, expected, "{at}")
                }
                (error, _) => panic!("{at}: {error}"),
            }
        }
    }

    #[test]
    fn exchanged_and_repeated_records_are_damage() {
        let bytes = file(0, &[b"aaaa", b"bbbb"]);
        let (header, records) = bytes.split_at(HEADER);
        let (a, b) = records.split_at(RECORD_HEADER + 4);
        for hostile in [[header, b, a].concat(), [header, a, a, b].concat(), [header, b].concat()] {
            assert!(matches!(scan(&hostile), Err(VerifyError::BadTail { .. })));
        }
    }

    #[test]
    fn a_file_that_does_not_continue_the_checkpoint_is_a_gap() {
        let scan = |first| scan(&file(first, &[b"a", b"b"])).unwrap();
        assert_eq!(scan(5).after(6).unwrap().collect::<Vec<_>>(), [b"b"]);
        assert_eq!(scan(5).after(7).unwrap().count(), 0);
        assert!(matches!(scan(5).after(4).err(), Some(VerifyError::Gap { checkpoint: 4, first: 5, end: 7 })));
        assert!(matches!(scan(5).after(8).err(), Some(VerifyError::Gap { .. })));
    }
}

//! Strict USTAR (POSIX.1-1988, IEEE Std 1003.1): what one `tar` reads, every `tar` reads.
//!
//! Parsers that disagree about an archive let a scanner at the media desk and the host see different files
//! (RUSTSEC-2025-0111, RUSTSEC-2026-0112, GHSA-3cv2-h65g-fgmm, all through extension headers). So there are none here:
//! plain files only, one possible header per name and size, sorted, without duplicates. Reading accepts exactly what
//! writing can make.

use std::collections::BTreeMap;

use crate::BundleError;

/// The largest entry, in bytes: 32 MiB.
pub const MAX_ENTRY: usize = 32 << 20;
/// The largest bundle, in bytes: 64 MiB.
pub const MAX_TOTAL: usize = 64 << 20;
/// The most entries.
pub const MAX_ENTRIES: usize = 1024;

/// Writes `entries` as one archive. The bytes are a pure function of the entries.
///
/// Errors: [`BundleError::BadName`], [`BundleError::EntryTooLarge`], [`BundleError::TooLarge`].
pub fn write(entries: &BTreeMap<String, Vec<u8>>) -> Result<Vec<u8>, BundleError> {
    let mut out = Vec::new();
    if entries.len() > MAX_ENTRIES {
        return Err(BundleError::TooLarge);
    }
    for (name, body) in entries {
        check_name(name)?;
        check_size(name, body.len() as u64)?;
        out.extend_from_slice(&header(name, body.len()));
        out.extend_from_slice(body);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
        if out.len() + 2 * BLOCK > MAX_TOTAL {
            return Err(BundleError::TooLarge);
        }
    }
    out.resize(out.len() + 2 * BLOCK, 0);
    Ok(out)
}

/// Reads an archive that [`write`] could have made; refuses every other one by the name of its defect.
pub fn read(bytes: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, BundleError> {
    if bytes.len() > MAX_TOTAL {
        return Err(BundleError::TooLarge);
    }
    let mut entries = BTreeMap::new();
    let mut offset = 0;
    loop {
        if offset == bytes.len() {
            return Err(BundleError::MissingEndBlocks);
        }
        let head = slice(bytes, offset, BLOCK)?;
        if head.iter().all(|b| *b == 0) {
            return end(bytes, offset).map(|()| entries);
        }
        let (name, size) = parse_header(head, offset)?;
        if entries.contains_key(&name) {
            return Err(BundleError::DuplicateEntry { entry: name });
        }
        if entries.last_key_value().is_some_and(|(last, _)| *last > name) {
            return Err(BundleError::UnsortedEntry { entry: name });
        }
        if entries.len() == MAX_ENTRIES {
            return Err(BundleError::TooLarge);
        }
        let body = slice(bytes, offset + BLOCK, size)?;
        let padding = slice(bytes, offset + BLOCK + size, size.next_multiple_of(BLOCK) - size)?;
        if padding.iter().any(|b| *b != 0) {
            return Err(BundleError::NonZeroPadding { entry: name });
        }
        offset += BLOCK + size.next_multiple_of(BLOCK);
        entries.insert(name, body.to_vec());
    }
}

fn end(bytes: &[u8], offset: usize) -> Result<(), BundleError> {
    let rest = bytes.get(offset + BLOCK..).unwrap_or_default();
    match rest.split_at_checked(BLOCK) {
        Some((second, _)) if second.iter().any(|b| *b != 0) => Err(BundleError::MissingEndBlocks),
        Some((_, [])) => Ok(()),
        Some((_, after)) => Err(BundleError::TrailingData { count: after.len() }),
        None => Err(BundleError::MissingEndBlocks),
    }
}

/// The name and size of the header at `offset`. Checks the telling fields first, then that the rest is canonical.
fn parse_header(head: &[u8], offset: usize) -> Result<(String, usize), BundleError> {
    let field = |from: usize, len: usize| head.get(from..from + len).unwrap_or_default();
    let kind = field(156, 1).first().copied().unwrap_or_default();
    // The checksum covers the header with its own eight bytes taken as spaces.
    if field(148, 8) != checksum(head) {
        return Err(BundleError::BadChecksum { offset });
    }
    match kind {
        b'0' => {}
        b'1' | b'2' => return Err(BundleError::LinkEntry { offset }),
        b'x' | b'g' | b'X' => return Err(BundleError::PaxHeader { offset }),
        b'A'..=b'Z' => {
            return Err(BundleError::GnuHeader { offset, kind: char::from(kind).to_string() });
        }
        _ => {
            return Err(BundleError::UnsupportedEntryType { offset, kind: kind.escape_ascii().to_string() });
        }
    }
    if field(257, 8) == b"ustar  \0" {
        return Err(BundleError::GnuHeader { offset, kind: "magic".to_owned() });
    }
    let raw = field(0, NAME);
    let name = String::from_utf8_lossy(raw.split(|b| *b == 0).next().unwrap_or_default()).into_owned();
    check_name(&name)?;
    let digits = field(124, 12);
    let Some((b"\0", octal)) = digits.split_last().map(|(last, octal)| (std::slice::from_ref(last), octal)) else {
        return Err(BundleError::WrongSize { offset });
    };
    // Eleven octal digits are at most 2^33: no overflow.
    let mut size = 0u64;
    for digit in octal {
        match digit {
            b'0'..=b'7' => size = size * 8 + u64::from(digit - b'0'),
            _ => return Err(BundleError::WrongSize { offset }),
        }
    }
    let size = check_size(&name, size)?;
    if head != header(&name, size) {
        return Err(BundleError::MalformedHeader { offset, entry: name });
    }
    Ok((name, size))
}

/// The one header for a name of at most 100 bytes and a size below 8 GiB.
fn header(name: &str, size: usize) -> [u8; BLOCK] {
    let mut head = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| head[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000644\0"); // mode
    put(108, b"0000000\0"); // user id
    put(116, b"0000000\0"); // group id
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0"); // modification time
    put(156, b"0"); // plain file
    put(257, b"ustar\x0000"); // magic and version
    let sum = checksum(&head);
    head[148..156].copy_from_slice(&sum);
    head
}

fn checksum(head: &[u8]) -> [u8; 8] {
    let sum: u32 = head.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) }).sum();
    let mut out = *b"000000\0 ";
    for (at, shift) in (0..6).rev().zip((0..).step_by(3)) {
        out[at] = b'0' + (sum >> shift & 7) as u8;
    }
    out
}

fn check_name(name: &str) -> Result<(), BundleError> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-' | b'/');
    // A part that starts with `-` would be an option to a tool that extracts it.
    let parts_ok = name.split('/').all(|part| !part.is_empty() && part != "." && !part.starts_with('-'));
    if name.len() <= NAME && name.bytes().all(allowed) && parts_ok && !name.contains("..") {
        Ok(())
    } else {
        Err(BundleError::BadName { name: name.chars().take(120).collect() })
    }
}

fn check_size(name: &str, size: u64) -> Result<usize, BundleError> {
    usize::try_from(size).ok().filter(|size| *size <= MAX_ENTRY).ok_or_else(|| BundleError::EntryTooLarge {
        entry: name.to_owned(),
        size,
        max: MAX_ENTRY as u64,
    })
}

fn slice(bytes: &[u8], from: usize, len: usize) -> Result<&[u8], BundleError> {
    bytes.get(from..from + len).ok_or(BundleError::Truncated { offset: bytes.len() })
}

const BLOCK: usize = 512;
const NAME: usize = 100;

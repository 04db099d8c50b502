use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};

use crate::ArchiveError;

/// What an archive may hold at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one entry; headers cannot express more than 8 GiB.
    pub entry: u64,
    /// Bytes of the archive.
    pub total: u64,
    /// Entries.
    pub entries: usize,
}

/// Which names an archive may hold: parts joined by `/`, at most 100 bytes, none empty, `.`, `..` or, but below the first part of a
/// kit's names, with `-` in front.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Names {
    /// Lower-case letters, digits, `.`, `_` and `-`: bundles and exports.
    #[default]
    Strict,
    /// Besides capitals and `+`, which names of source files and crates have: kits.
    Files,
}

/// Writes `entries` as one archive. The bytes are a pure function of the entries.
///
/// Errors: [`ArchiveError::BadName`], [`ArchiveError::EntryTooLarge`], [`ArchiveError::TooLarge`].
pub fn write(entries: &BTreeMap<String, Vec<u8>>, limits: Limits) -> Result<Vec<u8>, ArchiveError> {
    let mut writer = Writer::new(Vec::new(), limits);
    for (name, body) in entries {
        writer.push(name, body)?;
    }
    writer.finish()
}

/// Reads an archive that [`write`] could have made; refuses every other one by the name of its defect.
pub fn read(bytes: &[u8], limits: Limits) -> Result<BTreeMap<String, Vec<u8>>, ArchiveError> {
    if bytes.len() as u64 > limits.total {
        return Err(ArchiveError::TooLarge);
    }
    let mut reader = Reader::new(bytes, limits);
    let mut entries = BTreeMap::new();
    while let Some((name, body)) = reader.entry()? {
        entries.insert(name, body);
    }
    Ok(entries)
}

/// Writes an archive entry by entry. Without [`Writer::finish`] it is no archive.
pub struct Writer<W> {
    out: W,
    limits: Limits,
    alphabet: Names,
    written: u64,
    entries: usize,
    last: Option<String>,
}

impl<W: Write> Writer<W> {
    /// An archive that goes to `out`; buffer it when it is a file.
    pub fn new(out: W, limits: Limits) -> Self {
        Self { out, limits, alphabet: Names::Strict, written: 0, entries: 0, last: None }
    }

    /// Takes these names instead of [`Names::Strict`] ones.
    pub fn names(self, alphabet: Names) -> Self {
        Self { alphabet, ..self }
    }

    /// Adds an entry. Names must rise.
    ///
    /// Errors: [`ArchiveError::BadName`], [`ArchiveError::DuplicateEntry`], [`ArchiveError::EntryTooLarge`], [`ArchiveError::Io`],
    /// [`ArchiveError::TooLarge`], [`ArchiveError::UnsortedEntry`].
    pub fn push(&mut self, name: &str, body: &[u8]) -> Result<(), ArchiveError> {
        check_name(name, self.alphabet)?;
        let size = check_size(name, body.len() as u64, self.limits)?;
        match self.last.as_deref() {
            Some(last) if last == name => return Err(ArchiveError::DuplicateEntry { entry: name.to_owned() }),
            Some(last) if last > name => return Err(ArchiveError::UnsortedEntry { entry: name.to_owned() }),
            _ => {}
        }
        let padded = size.next_multiple_of(BLOCK as u64);
        let total = self.written + BLOCK as u64 + padded;
        if self.entries == self.limits.entries || total + 2 * BLOCK as u64 > self.limits.total {
            return Err(ArchiveError::TooLarge);
        }
        self.put(&header(name, size))?;
        self.put(body)?;
        self.put(&[0; BLOCK][..(padded - size) as usize])?;
        self.entries += 1;
        self.last = Some(name.to_owned());
        Ok(())
    }

    /// Writes the end of the archive and hands the output back, flushed.
    pub fn finish(mut self) -> Result<W, ArchiveError> {
        self.put(&[0; 2 * BLOCK])?;
        self.out.flush().map_err(|source| ArchiveError::Io { action: "write", source })?;
        Ok(self.out)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes).map_err(|source| ArchiveError::Io { action: "write", source })
    }
}

/// Reads an archive entry by entry. Only when [`Reader::entry`] has returned `None` is it known to be whole.
pub struct Reader<R> {
    input: R,
    limits: Limits,
    alphabet: Names,
    offset: u64,
    names: BTreeSet<String>,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// The archive in `input`; buffer it when it is a file.
    pub fn new(input: R, limits: Limits) -> Self {
        Self { input, limits, alphabet: Names::Strict, offset: 0, names: BTreeSet::new(), ended: false }
    }

    /// Takes these names instead of [`Names::Strict`] ones.
    pub fn names(self, alphabet: Names) -> Self {
        Self { alphabet, ..self }
    }

    /// The next entry's name and body, or `None` after the last one.
    pub fn entry(&mut self) -> Result<Option<(String, Vec<u8>)>, ArchiveError> {
        if self.ended {
            return Ok(None);
        }
        let start = self.offset;
        let head = self.take(BLOCK)?;
        if head.is_empty() {
            return Err(ArchiveError::MissingEndBlocks);
        }
        let head = whole(head, BLOCK, self.offset)?;
        if head.iter().all(|byte| *byte == 0) {
            self.end()?;
            self.ended = true;
            return Ok(None);
        }
        let (name, size) = parse_header(&head, start, self.limits, self.alphabet)?;
        if self.names.contains(&name) {
            return Err(ArchiveError::DuplicateEntry { entry: name });
        }
        if self.names.last().is_some_and(|last| *last > name) {
            return Err(ArchiveError::UnsortedEntry { entry: name });
        }
        let padded = size.next_multiple_of(BLOCK as u64);
        if self.names.len() == self.limits.entries || self.offset + padded + 2 * BLOCK as u64 > self.limits.total {
            return Err(ArchiveError::TooLarge);
        }
        let body = self.take(size as usize)?;
        let body = whole(body, size as usize, self.offset)?;
        let rest = (padded - size) as usize;
        let padding = self.take(rest)?;
        if whole(padding, rest, self.offset)?.iter().any(|byte| *byte != 0) {
            return Err(ArchiveError::NonZeroPadding { entry: name });
        }
        self.names.insert(name.clone());
        Ok(Some((name, body)))
    }

    /// The second zero block, and nothing after it.
    fn end(&mut self) -> Result<(), ArchiveError> {
        let second = self.take(BLOCK)?;
        if second.len() < BLOCK || second.iter().any(|byte| *byte != 0) {
            return Err(ArchiveError::MissingEndBlocks);
        }
        match io::copy(&mut self.input, &mut io::sink()) {
            Ok(0) => Ok(()),
            Ok(count) => Err(ArchiveError::TrailingData { count }),
            Err(source) => Err(ArchiveError::Io { action: "read", source }),
        }
    }

    /// Up to `count` bytes; fewer only at the end of the input.
    fn take(&mut self, count: usize) -> Result<Vec<u8>, ArchiveError> {
        let mut bytes = Vec::new();
        let read = (&mut self.input).take(count as u64).read_to_end(&mut bytes);
        self.offset += read.map_err(|source| ArchiveError::Io { action: "read", source })? as u64;
        Ok(bytes)
    }
}

fn whole(bytes: Vec<u8>, wanted: usize, offset: u64) -> Result<Vec<u8>, ArchiveError> {
    if bytes.len() == wanted { Ok(bytes) } else { Err(ArchiveError::Truncated { offset }) }
}

/// The name and size of the header at `offset`. Checks the telling fields first, then that the rest is canonical.
fn parse_header(head: &[u8], offset: u64, limits: Limits, alphabet: Names) -> Result<(String, u64), ArchiveError> {
    let field = |from: usize, len: usize| head.get(from..from + len).unwrap_or_default();
    let kind = field(156, 1).first().copied().unwrap_or_default();
    // The checksum covers the header with its own eight bytes taken as spaces.
    if field(148, 8) != checksum(head) {
        return Err(ArchiveError::BadChecksum { offset });
    }
    match kind {
        b'0' => {}
        b'1' | b'2' => return Err(ArchiveError::LinkEntry { offset }),
        b'x' | b'g' | b'X' => return Err(ArchiveError::PaxHeader { offset }),
        b'A'..=b'Z' => {
            return Err(ArchiveError::GnuHeader { offset, kind: char::from(kind).to_string() });
        }
        _ => {
            return Err(ArchiveError::UnsupportedEntryType { offset, kind: kind.escape_ascii().to_string() });
        }
    }
    if field(257, 8) == b"ustar  \0" {
        return Err(ArchiveError::GnuHeader { offset, kind: "magic".to_owned() });
    }
    let raw = field(0, NAME);
    let name = String::from_utf8_lossy(raw.split(|b| *b == 0).next().unwrap_or_default()).into_owned();
    check_name(&name, alphabet)?;
    let digits = field(124, 12);
    let Some((b"\0", octal)) = digits.split_last().map(|(last, octal)| (std::slice::from_ref(last), octal)) else {
        return Err(ArchiveError::WrongSize { offset });
    };
    // Eleven octal digits are at most 2^33: no overflow.
    let mut size = 0u64;
    for digit in octal {
        match digit {
            b'0'..=b'7' => size = size * 8 + u64::from(digit - b'0'),
            _ => return Err(ArchiveError::WrongSize { offset }),
        }
    }
    let size = check_size(&name, size, limits)?;
    if head != header(&name, size) {
        return Err(ArchiveError::MalformedHeader { offset, entry: name });
    }
    Ok((name, size))
}

/// The one header for a name of at most 100 bytes and a size below 8 GiB.
fn header(name: &str, size: u64) -> [u8; BLOCK] {
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

fn check_name(name: &str, alphabet: Names) -> Result<(), ArchiveError> {
    let more = |b: u8| alphabet == Names::Files && (b.is_ascii_uppercase() || b == b'+');
    let allowed =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-' | b'/') || more(b);
    // A part that starts with `-` would be an option to a tool that extracts it.
    // (Within a kit's index of crates there are folders like `id/-a`: only the first part is what a tool is given.)
    let dash = |at: usize, part: &str| part.starts_with('-') && (at == 0 || alphabet == Names::Strict);
    let mut parts = name.split('/').enumerate();
    let parts_ok = parts.all(|(at, part)| !part.is_empty() && part != "." && !dash(at, part));
    if name.len() <= NAME && name.bytes().all(allowed) && parts_ok && !name.contains("..") {
        Ok(())
    } else {
        Err(ArchiveError::BadName { name: name.chars().take(120).collect() })
    }
}

fn check_size(name: &str, size: u64, limits: Limits) -> Result<u64, ArchiveError> {
    let max = limits.entry.min((1 << 33) - 1);
    if size <= max { Ok(size) } else { Err(ArchiveError::EntryTooLarge { entry: name.to_owned(), size, max }) }
}

const BLOCK: usize = 512;
const NAME: usize = 100;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    const SMALL: Limits = Limits { entry: 1 << 20, total: 4 << 20, entries: 8 };

    #[test]
    fn names_of_crates_pass_in_kits_only_and_traversal_nowhere() {
        let pushed = |name: &str, names| Writer::new(Vec::new(), SMALL).names(names).push(name, b"").is_ok();
        for name in ["README.md", "index/id/-a/id-arena", "registry/openssl-src-300.6.1+3.6.3.crate"] {
            assert!(pushed(name, Names::Files) && !pushed(name, Names::Strict), "{name}");
            let mut writer = Writer::new(Vec::new(), SMALL).names(Names::Files);
            writer.push(name, b"").unwrap();
            let bytes = writer.finish().unwrap();
            assert!(matches!(read(&bytes, SMALL), Err(ArchiveError::BadName { .. })));
            let mut reader = Reader::new(bytes.as_slice(), SMALL).names(Names::Files);
            assert_eq!(reader.entry().unwrap().unwrap().0, name);
        }
        for name in ["../a", "a/../b", "/a", "a//b", "./a", "-a", "a b", "a\\b", "a\nb", "\u{e9}", ""] {
            assert!(!pushed(name, Names::Files), "{name}");
        }
    }

    #[test]
    fn a_stream_in_crumbs_reads_as_the_bytes_do() {
        struct Crumbs<'a>(&'a [u8]);
        impl Read for Crumbs<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let most = buffer.len().min(7);
                self.0.read(&mut buffer[..most])
            }
        }
        let entries: BTreeMap<_, _> = [("a".to_owned(), vec![1; 600]), ("b/c".to_owned(), Vec::new())].into();
        let bytes = write(&entries, SMALL).unwrap();
        let mut reader = Reader::new(Crumbs(&bytes), SMALL);
        let mut found = BTreeMap::new();
        while let Some((name, body)) = reader.entry().unwrap() {
            found.insert(name, body);
        }
        assert_eq!(found, entries);
        assert!(reader.entry().unwrap().is_none());
    }

    #[test]
    fn names_out_of_order_and_twice_are_refused_by_the_writer() {
        let mut writer = Writer::new(Vec::new(), SMALL);
        writer.push("b", b"").unwrap();
        assert!(matches!(writer.push("a", b""), Err(ArchiveError::UnsortedEntry { .. })));
        assert!(matches!(writer.push("b", b""), Err(ArchiveError::DuplicateEntry { .. })));
    }

    #[test]
    fn a_cut_stream_and_trailing_bytes_are_refused() {
        let bytes = write(&[("a".to_owned(), vec![1; 600])].into(), SMALL).unwrap();
        for end in 0..bytes.len() {
            assert!(read(&bytes[..end], SMALL).is_err(), "{end}");
        }
        let longer = [bytes.as_slice(), &[0; 3]].concat();
        assert!(matches!(read(&longer, SMALL), Err(ArchiveError::TrailingData { count: 3 })));
    }
}

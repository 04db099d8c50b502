use std::io;

/// Why an archive cannot be written or was refused. One variant per defect; `offset` is in bytes from the start of the archive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// A header checksum does not match.
    #[error("the header at byte {offset} has a wrong checksum: the file is damaged or was edited")]
    BadChecksum {
        /// Where the header starts.
        offset: u64,
    },
    /// A name has a character, a form or a length that is not allowed.
    #[error(
        "the entry name {name:?} is not allowed: use up to 100 of `a-z 0-9 . _ / -`, relative, without empty or dot-only parts"
    )]
    BadName {
        /// The name, cut at 120 characters.
        name: String,
    },
    /// Two entries of one name.
    #[error("the entry `{entry}` occurs twice")]
    DuplicateEntry {
        /// The name.
        entry: String,
    },
    /// An entry is too large.
    #[error("`{entry}` has {size} bytes; the most is {max}")]
    EntryTooLarge {
        /// The file.
        entry: String,
        /// Its size in bytes, as declared.
        size: u64,
        /// The cap in bytes.
        max: u64,
    },
    /// A GNU extension header (long names, sparse files and the like).
    #[error("the header at byte {offset} is a GNU extension (`{kind}`): only plain USTAR files are allowed")]
    GnuHeader {
        /// Where the header starts.
        offset: u64,
        /// The type flag, or `magic`.
        kind: String,
    },
    /// The operating system refused.
    #[error("cannot {action} the archive")]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A symbolic or hard link.
    #[error("the header at byte {offset} is a link: only plain files are allowed")]
    LinkEntry {
        /// Where the header starts.
        offset: u64,
    },
    /// A header that the writer would not have made.
    #[error("the header of `{entry}` at byte {offset} is not in the one form that is allowed")]
    MalformedHeader {
        /// Where the header starts.
        offset: u64,
        /// The entry's name.
        entry: String,
    },
    /// The two zero blocks at the end are missing.
    #[error("the archive does not end with two zero blocks: it was cut short")]
    MissingEndBlocks,
    /// Bytes between an entry and the next header.
    #[error("the padding after `{entry}` is not zero: something is hidden there")]
    NonZeroPadding {
        /// The entry before it.
        entry: String,
    },
    /// A PAX extension header.
    #[error("the header at byte {offset} is a PAX extension: only plain USTAR files are allowed")]
    PaxHeader {
        /// Where the header starts.
        offset: u64,
    },
    /// Too many bytes or entries.
    #[error("the archive is too large, or holds too many entries")]
    TooLarge,
    /// Something follows the end.
    #[error("{count} bytes follow the end of the archive")]
    TrailingData {
        /// How many bytes.
        count: u64,
    },
    /// The file ends inside an entry.
    #[error("the archive ends at byte {offset}, inside an entry")]
    Truncated {
        /// Its length.
        offset: u64,
    },
    /// Entries are not in the order of their names.
    #[error("the entry `{entry}` stands in the wrong place: entries are sorted by name")]
    UnsortedEntry {
        /// The first that is out of order.
        entry: String,
    },
    /// A directory, device or other special entry.
    #[error("the header at byte {offset} has type `{kind}`: only plain files are allowed")]
    UnsupportedEntryType {
        /// Where the header starts.
        offset: u64,
        /// The type flag.
        kind: String,
    },
    /// The size field is not eleven octal digits.
    #[error("the size in the header at byte {offset} is not eleven octal digits")]
    WrongSize {
        /// Where the header starts.
        offset: u64,
    },
}

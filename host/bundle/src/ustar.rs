//! The bundle's container: strict USTAR of `casemate-archive` under a bundle's limits.

use std::collections::BTreeMap;

use casemate_archive::{ArchiveError, Limits};

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
    Ok(casemate_archive::write(entries, LIMITS)?)
}

/// Reads an archive that [`write`] could have made; refuses every other one by the name of its defect.
pub fn read(bytes: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, BundleError> {
    Ok(casemate_archive::read(bytes, LIMITS)?)
}

impl From<ArchiveError> for BundleError {
    fn from(error: ArchiveError) -> Self {
        // Never cut: a bundle is at most MAX_TOTAL bytes.
        let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
        match error {
            ArchiveError::BadChecksum { offset } => Self::BadChecksum { offset: at(offset) },
            ArchiveError::BadName { name } => Self::BadName { name },
            ArchiveError::DuplicateEntry { entry } => Self::DuplicateEntry { entry },
            ArchiveError::EntryTooLarge { entry, size, max } => Self::EntryTooLarge { entry, size, max },
            ArchiveError::GnuHeader { offset, kind } => Self::GnuHeader { offset: at(offset), kind },
            ArchiveError::LinkEntry { offset } => Self::LinkEntry { offset: at(offset) },
            ArchiveError::MalformedHeader { offset, entry } => Self::MalformedHeader { offset: at(offset), entry },
            ArchiveError::MissingEndBlocks => Self::MissingEndBlocks,
            ArchiveError::NonZeroPadding { entry } => Self::NonZeroPadding { entry },
            ArchiveError::PaxHeader { offset } => Self::PaxHeader { offset: at(offset) },
            ArchiveError::TrailingData { count } => Self::TrailingData { count: at(count) },
            ArchiveError::Truncated { offset } => Self::Truncated { offset: at(offset) },
            ArchiveError::UnsortedEntry { entry } => Self::UnsortedEntry { entry },
            ArchiveError::UnsupportedEntryType { offset, kind } => {
                Self::UnsupportedEntryType { offset: at(offset), kind }
            }
            ArchiveError::WrongSize { offset } => Self::WrongSize { offset: at(offset) },
            // Reading and writing memory cannot fail; what this match does not know is refused all the same.
            _ => Self::TooLarge,
        }
    }
}

const LIMITS: Limits = Limits { entry: MAX_ENTRY as u64, total: MAX_TOTAL as u64, entries: MAX_ENTRIES };

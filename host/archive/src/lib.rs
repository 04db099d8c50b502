//! Strict USTAR, the one container of everything that crosses the air gap: signed bundles, and exports of the audit log.
//!
//! What one `tar` reads, every `tar` reads (POSIX.1-1988, IEEE Std 1003.1). Parsers that disagree about an archive let a scanner at the
//! media desk and the host see different files (RUSTSEC-2025-0111, RUSTSEC-2026-0112, GHSA-3cv2-h65g-fgmm, all through extension
//! headers). So there are none here: plain files only, one possible header per name and size, sorted, without duplicates. Reading
//! accepts exactly what writing can make.
//!
//! [`read`] and [`write`] work on bytes; [`Reader`] and [`Writer`] on streams that may be larger than memory.

#![forbid(unsafe_code)]

mod error;
mod ustar;

pub use error::ArchiveError;
pub use ustar::{Limits, Names, Reader, Writer, read, write};

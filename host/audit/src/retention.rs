//! Retention: whole segments of records move into an archive, their hashes stay, and the log still verifies to the first record.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read};
use std::path::Path;

use casemate_types::Digest;

use crate::export::{Export, verify_export};
use crate::pinned::{Pinned, Segment};
use crate::tree::{WIDTH, bundle_path};
use crate::{AuditError, Event, Log, store};

/// Records of a segment: what one tile of level 1 covers.
pub const SEGMENT: u64 = 65_536;

impl Log {
    /// Moves every whole segment of signed records before `before` into the new file `archive`, and deletes its entry bundles.
    ///
    /// The archive is an export ([`Export`]); it is read back and verified before anything is deleted, and its SHA-256 is in the log.
    /// `record` makes the bytes of the record from its event. Segments go oldest first, so what remains is one range.
    pub fn seal(
        &self,
        before: u64,
        archive: &Path,
        record: impl FnOnce(Event) -> Vec<u8>,
    ) -> Result<Segment, AuditError> {
        let dir = self.dir();
        self.checkpoint()?;
        let mut pinned = Pinned::read(dir)?;
        let from = pinned.segments().iter().map(|segment| segment.to).max().unwrap_or(0);
        remove_bundles(dir, 0, from);
        let to = before.min(self.size()) / SEGMENT * SEGMENT;
        if to <= from {
            return Err(AuditError::NothingToSeal { segment: SEGMENT, sealed: from });
        }
        let vkey = self.verifier_key();
        let io = |action| AuditError::io(action, archive);
        let file = File::create_new(archive).map_err(io("create"))?;
        let export = Export { dir, vkey: &vkey, witness: None, from, to };
        let file = export.write(BufWriter::new(file))?;
        file.into_inner().map_err(|error| io("write")(error.into_error()))?.sync_all().map_err(io("synchronise"))?;
        let parent = archive.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        store::sync_dir(parent)?;
        let open = || File::open(archive).map_err(AuditError::io("open", archive));
        verify_export(BufReader::new(open()?), &vkey)?;
        let digest = digest_of(open()?).map_err(io("read"))?;

        let event = Event::Segment { action: "sealed".to_owned(), from, to, archive: digest };
        let record = record(event);
        let index = self.append(record.clone())?;
        self.checkpoint()?;
        pinned.add(dir, index, record)?;
        let segment = Segment { from, to, archive: digest };
        self.forget(segment.clone());
        remove_bundles(dir, from, to);
        Ok(segment)
    }
}

/// Deletes the entry bundles of sealed records. Those that stay behind do no harm, and the next sealing tries again.
fn remove_bundles(dir: &Path, from: u64, to: u64) {
    for number in from / WIDTH..to / WIDTH {
        let path = dir.join(bundle_path(number, WIDTH));
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, ?path, "cannot delete the entries of a sealed segment");
        }
    }
}

fn digest_of(file: File) -> std::io::Result<Digest> {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut file = BufReader::with_capacity(1 << 20, file);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        context.update(&buffer[..read]);
    }
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    Ok(Digest::from_bytes(bytes))
}

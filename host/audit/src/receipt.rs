//! Receipts: one text file that proves offline that a record is in the log (C2SP `tlog-proof`).

use std::path::Path;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use tlog_tiles::{Hash, check_record};

use crate::log::Head;
use crate::proof::HeadHashes;
use crate::snapshot::Snapshot;
use crate::tree::{WIDTH, hash_at, leaf_hash};
use crate::{AuditError, MAX_RECORD, VerifyError, note, store};

const FIRST_LINE: &str = "c2sp.org/tlog-proof@v1";

/// Larger than any receipt: a record, 64 hashes, a checkpoint with many cosignatures.
const MAX_TEXT: usize = 1_000_000;

/// A record and the proof that it was logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// What was logged.
    pub record: Vec<u8>,
    /// The proof: index, inclusion proof and signed checkpoint as C2SP `tlog-proof` text, without an extra line.
    pub proof: String,
}

/// What a receipt proves, given the verifier key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedReceipt {
    /// Index of the record.
    pub index: u64,
    /// Size of the signed tree it was found in.
    pub size: u64,
    /// The record.
    pub record: Vec<u8>,
}

impl Receipt {
    /// The receipt as one file (`.tlog-proof`): the proof, with the record in base64 in its extra line.
    pub fn to_text(&self) -> String {
        let extra = format!("{FIRST_LINE}\nextra {}\n", BASE64_STANDARD.encode(&self.record));
        self.proof.replacen(&format!("{FIRST_LINE}\n"), &extra, 1)
    }

    /// Takes a file apart again. Nothing is verified: that is [`verify_receipt`].
    pub fn from_text(text: &str) -> Result<Self, VerifyError> {
        let parsed = Parsed::parse(text)?;
        let proof = format!("{FIRST_LINE}\n{}", parsed.after_extra);
        Ok(Self { record: parsed.record, proof })
    }

    /// Proves record `index` of a signed tree; refuses when what is on disk does not lead to the signed root.
    pub(crate) fn prove(dir: &Path, head: &Head, index: u64, record: Vec<u8>) -> Result<Self, VerifyError> {
        let (size, root) = (head.tree.size, head.tree.root);
        let hashes = HeadHashes::new(dir, head);
        let proof = hashes.inclusion(index)?;
        let leaf = leaf_hash(&record);
        if check_record(&proof, size, root, index, leaf).is_err() {
            let stored = hash_at(&hashes.tile(0, index / WIDTH)?, (index % WIDTH) as usize);
            return Err(if stored == Some(leaf) {
                VerifyError::BadProof { index }
            } else {
                VerifyError::BadEntry { index }
            });
        }
        let hashes: String = proof.iter().map(|hash| format!("{hash}\n")).collect();
        Ok(Self { record, proof: format!("{FIRST_LINE}\nindex {index}\n{hashes}\n{}", head.tree.text) })
    }
}

/// The receipt of record `index` from a log's directory: needs no HSM and no lock, and covers what is signed.
///
/// `vkey` is checked against the checkpoint; after a rotation an older one will do, and the receipt then needs the newer one.
pub fn receipt_from(dir: &Path, vkey: &str, index: u64) -> Result<Receipt, AuditError> {
    let snapshot = Snapshot::take(dir, Some(vkey))?;
    let size = snapshot.head.size;
    if index >= size {
        return Err(AuditError::NoSuchRecord { index, size });
    }
    let edge = snapshot.edge()?;
    let full;
    let bundle = match &snapshot.bundle {
        Some(bundle) if index / WIDTH == size / WIDTH => bundle.as_ref().map_err(Clone::clone)?,
        _ => {
            full = store::read_bundle(dir, index / WIDTH, WIDTH)?;
            &full
        }
    };
    let record = bundle.entries().nth((index % WIDTH) as usize);
    let record = record.ok_or(VerifyError::MissingEntries { index }).flatten()?.to_vec();
    Ok(Receipt::prove(dir, &Head { tree: snapshot.head, edge }, index, record)?)
}

/// Checks a receipt file against a verifier key: the signature, and that the record in it is at its index in the signed tree.
pub fn verify_receipt(text: &str, vkey: &str) -> Result<VerifiedReceipt, VerifyError> {
    let Parsed { record, index, hashes, checkpoint, .. } = Parsed::parse(text)?;
    let head = note::open(checkpoint.as_bytes(), vkey)?;
    check_record(&hashes, head.size, head.root, index, leaf_hash(&record))
        .map_err(|_| VerifyError::BadProof { index })?;
    Ok(VerifiedReceipt { index, size: head.size, record })
}

struct Parsed<'a> {
    record: Vec<u8>,
    index: u64,
    hashes: Vec<Hash>,
    checkpoint: &'a str,
    after_extra: &'a str,
}

impl<'a> Parsed<'a> {
    /// C2SP `tlog-proof`, format. The extra line, optional there, is where the record stands.
    fn parse(text: &'a str) -> Result<Self, VerifyError> {
        let malformed = |detail| VerifyError::MalformedReceipt { detail };
        if text.len() > MAX_TEXT {
            return Err(malformed("it is longer than any receipt"));
        }
        let rest = text
            .strip_prefix(FIRST_LINE)
            .and_then(|rest| rest.strip_prefix('\n'))
            .ok_or(malformed("expected `c2sp.org/tlog-proof@v1` in the first line"))?;
        let (extra, after_extra) = rest
            .strip_prefix("extra ")
            .and_then(|rest| rest.split_once('\n'))
            .ok_or(malformed("expected `extra` and the record in base64 in the second line"))?;
        let record = BASE64_STANDARD.decode(extra).map_err(|_| malformed("the record is not base64"))?;
        if record.len() > MAX_RECORD {
            return Err(malformed("the record is larger than any record"));
        }
        let (number, rest) = after_extra
            .strip_prefix("index ")
            .and_then(|rest| rest.split_once('\n'))
            .ok_or(malformed("expected `index` and a number in the third line"))?;
        let index: u64 = number.parse().map_err(|_| malformed("the index is not a number"))?;
        if index.to_string() != number {
            return Err(malformed("the index is not in canonical form"));
        }
        // The hashes end at the first empty line, which comes at once when the tree has one leaf.
        let (hashes, checkpoint) = match rest.strip_prefix('\n') {
            Some(checkpoint) => ("", checkpoint),
            None => rest.split_once("\n\n").ok_or(malformed("expected an empty line before the checkpoint"))?,
        };
        let hashes = hashes
            .lines()
            .map(|line| Hash::parse_hash(line).map_err(|_| malformed("a line of the proof is not a hash")))
            .collect::<Result<Vec<_>, _>>()?;
        if hashes.len() > 64 {
            return Err(malformed("the proof is longer than any proof"));
        }
        Ok(Self { record, index, hashes, checkpoint, after_extra })
    }
}

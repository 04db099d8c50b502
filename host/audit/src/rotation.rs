//! A new key for the log: the old one signs the hand-over, the hand-over is a record, and from the next checkpoint on the new one signs.
//! And a key in reserve: announced by the log's key while that is there, it signs when that cannot.

use std::path::Path;

use crate::note::LogKey;
use crate::pinned::{self, Change, Pinned};
use crate::{AuditError, CheckpointSigner, Event, Log, LogOptions, RecordClock};

/// Hands the log in `dir` over from the key of `old` to that of `new`; nobody else may have it open. Returns the new verifier key.
///
/// `announced` is recorded before the hand-over: who asked for it. `record` makes the bytes of a record from its event and its time in
/// milliseconds since 1970, which is never before that of the log's last record. Open the log with the new signer from then on: the old one is refused.
/// Interrupted at any step, the log opens with the old key (before the hand-over is pinned) or with the new one (after).
pub fn rotate(
    dir: &Path,
    options: LogOptions,
    old: impl CheckpointSigner + Clone + 'static,
    new: &dyn CheckpointSigner,
    announced: Vec<Event>,
    record: impl Fn(Event, u64) -> Vec<u8>,
) -> Result<String, AuditError> {
    let old_key = LogKey::new(&options.origin, &old.public_key())?;
    let new_key = LogKey::new(&options.origin, &new.public_key())?;
    let log = Log::open(dir, options, Box::new(old.clone()))?;
    let clock = RecordClock::of(&log)?;
    for event in announced {
        log.append(record(event, clock.now_ms()))?;
    }
    let index = log.size();
    let note = pinned::declare(Change::HandOver, index, (&old_key, &old), (&new_key, new))?;
    let event = Event::LogKey {
        action: Change::HandOver.action().to_owned(),
        from: old_key.vkey().to_owned(),
        to: new_key.vkey().to_owned(),
        note,
    };
    let record = record(event, clock.now_ms());
    log.append(record.clone())?;
    log.checkpoint()?;
    // Pinned while the log is still held: the old key signs nothing after this.
    Pinned::read(dir)?.add(dir, index, record)?;
    drop(log);
    Ok(new_key.vkey().to_owned())
}

/// Announces a key that may sign checkpoints of the log in `dir` when the key of `current` cannot; nobody else may have the log open.
/// Returns its verifier key. Nothing is done when the current key has announced it already; an announcement replaces the one before.
///
/// `record` makes the bytes of the record from its event and its time, as for [`rotate`]. Then open the log with [`Log::open_with_reserve`].
pub fn announce_reserve(
    dir: &Path,
    options: LogOptions,
    current: impl CheckpointSigner + Clone + 'static,
    reserve: &dyn CheckpointSigner,
    record: impl FnOnce(Event, u64) -> Vec<u8>,
) -> Result<String, AuditError> {
    let current_key = LogKey::new(&options.origin, &current.public_key())?;
    let reserve_key = LogKey::new(&options.origin, &reserve.public_key())?;
    if Pinned::read(dir)?.keys(current_key.vkey())?.reserve() == Some(reserve_key.vkey()) {
        return Ok(reserve_key.vkey().to_owned());
    }
    let log = Log::open(dir, options, Box::new(current.clone()))?;
    let index = log.size();
    let note = pinned::declare(Change::Reserve, index, (&current_key, &current), (&reserve_key, reserve))?;
    let event = Event::LogKey {
        action: Change::Reserve.action().to_owned(),
        from: current_key.vkey().to_owned(),
        to: reserve_key.vkey().to_owned(),
        note,
    };
    let record = record(event, RecordClock::of(&log)?.now_ms());
    log.append(record.clone())?;
    log.checkpoint()?;
    Pinned::read(dir)?.add(dir, index, record)?;
    drop(log);
    Ok(reserve_key.vkey().to_owned())
}

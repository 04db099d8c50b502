//! The rehearsal of an outage: the primary is killed in mid-batch, the backup carries on, and every ciphertext is compared.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Pair, PairState, PairStatus, Role};
use crate::{Ff1Value, HsmError, KeyId, minimum_length};

/// What a drill does.
#[derive(Debug, Clone, Copy)]
pub struct DrillPlan {
    /// A key of class `fpe-ff1` in the manifest.
    pub key: KeyId,
    /// Batches before, during and after the outage.
    pub batches: usize,
    /// Values in each.
    pub values: usize,
    /// The primary dies in this batch, counted from 0, between its fifth and sixth call into the token.
    pub kill_in: usize,
    /// How long to wait for the primary's return.
    pub patience: Duration,
}

/// How a drill went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DrillReport {
    /// Serial number of the primary token.
    pub primary: String,
    /// Serial number of the backup token.
    pub backup: String,
    /// Values encrypted in each of three passes: before the outage, through it, and after fail back.
    pub values: usize,
    /// Ciphertexts that differ from those of before the outage, over all passes and both tokens.
    pub different: usize,
    /// Values that could not be served at all.
    pub lost: usize,
    /// Batches of the second pass that were done again on the backup from their beginning.
    pub repeated: usize,
    /// Whether an operation met the outage; otherwise the health check found it.
    pub noticed_by_operation: bool,
    /// Why the primary was taken out of use.
    pub fault: String,
    /// From the primary's death to the first batch served after it, in microseconds.
    pub gap_us: u64,
    /// From the primary's restoration to its return into service, in microseconds; nothing if it did not return in time.
    pub fail_back_us: Option<u64>,
    /// The state at the end.
    pub state: PairState,
}

impl DrillReport {
    /// Whether nothing was lost, nothing differed, and both tokens serve again.
    pub fn passed(&self) -> bool {
        self.different == 0 && self.lost == 0 && self.state == PairState::Healthy
    }
}

const RADIX: u32 = 10;
const KILL_BEFORE_CALL: u32 = 6;

/// Runs a drill. `kill` makes the primary fail, `restore` brings it back; other health checks wait until the drill is over.
///
/// # Errors
/// [`HsmError::PairIncomplete`] when a token is down before; [`HsmError::OutageUnnoticed`] when the primary serves on after
/// `kill`; as `kill`, `restore` and [`Pair::ff1_encrypt`].
pub fn drill(
    pair: &Pair,
    plan: &DrillPlan,
    kill: &mut dyn FnMut() -> Result<(), HsmError>,
    restore: &mut dyn FnMut() -> Result<(), HsmError>,
) -> Result<DrillReport, HsmError> {
    let inner = &*pair.inner;
    let _one = inner.checking.lock().unwrap_or_else(PoisonError::into_inner);
    inner.check_alone();
    match inner.status().state {
        PairState::Healthy => {}
        PairState::BackupDown => return Err(HsmError::PairIncomplete { role: Role::Backup }),
        PairState::PrimaryDown | PairState::BothDown => return Err(HsmError::PairIncomplete { role: Role::Primary }),
    }
    let plain: Vec<Vec<Ff1Value>> = (0..plan.batches).map(|batch| values(batch, plan.values)).collect();
    let mut different = 0;

    // Before: each token on its own.
    let expected = pass_on(pair, Role::Primary, plan.key, &plain)?;
    different += differences(&expected, &pass_on(pair, Role::Backup, plan.key, &plain)?);

    // Through the outage.
    let latched_before = inner.status().latched;
    let mut killed: Option<(Instant, Result<(), HsmError>)> = None;
    let (mut lost, mut gap) = (0, None);
    let mut repeated = 0;
    for (index, batch) in plain.iter().enumerate() {
        let mut result = batch.clone();
        let latched = inner.status().latched;
        let outcome = inner.run(plan.key, |live, key| {
            let ff1 = live.ff1(key, RADIX)?;
            if index != plan.kill_in || killed.is_some() {
                return ff1.encrypt(&mut result);
            }
            let mut event = || killed = Some((Instant::now(), kill()));
            ff1.encrypt_interrupted(&live.keyring, &mut result, KILL_BEFORE_CALL, &mut event)
        });
        repeated += (inner.status().latched - latched) as usize;
        match outcome {
            Ok(_) => different += differences(&expected[index..=index], &[result]),
            Err(HsmError::PairDown) => lost += batch.len(),
            Err(error) => return Err(error),
        }
        if let Some((moment, _)) = &killed
            && gap.is_none()
        {
            gap = Some(moment.elapsed());
        }
    }
    if let Some((_, outcome)) = killed {
        outcome?;
    }
    let noticed_by_operation = inner.status().latched > latched_before;
    if !noticed_by_operation {
        inner.check_alone();
    }
    let PairStatus { state, primary_fault: Some(fault), .. } = inner.status() else {
        return Err(HsmError::OutageUnnoticed);
    };
    if state == PairState::PrimaryDown {
        different += differences(&expected, &pass(pair, plan.key, &plain)?);
    }

    // Back again.
    restore()?;
    let restored = Instant::now();
    let fail_back_us = loop {
        inner.check_alone();
        if inner.status().state == PairState::Healthy {
            break Some(micros(restored.elapsed()));
        }
        if restored.elapsed() >= plan.patience {
            break None;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    different += differences(&expected, &pass(pair, plan.key, &plain)?);
    let manifest = inner.manifest();
    Ok(DrillReport {
        primary: manifest.manifest().primary.clone(),
        backup: manifest.manifest().backup.clone(),
        values: plan.batches * plan.values,
        different,
        lost,
        repeated,
        noticed_by_operation,
        fault,
        gap_us: micros(gap.unwrap_or_default()),
        fail_back_us,
        state: inner.status().state,
    })
}

fn pass(pair: &Pair, key: KeyId, plain: &[Vec<Ff1Value>]) -> Result<Vec<Vec<Ff1Value>>, HsmError> {
    let encrypted = |batch: &Vec<Ff1Value>| {
        let mut result = batch.clone();
        pair.ff1_encrypt(key, RADIX, &mut result).map(|_| result)
    };
    plain.iter().map(encrypted).collect()
}

/// As [`pass`], on one token.
fn pass_on(pair: &Pair, role: Role, key: KeyId, plain: &[Vec<Ff1Value>]) -> Result<Vec<Vec<Ff1Value>>, HsmError> {
    let live = pair.inner.member(role).live().ok_or(HsmError::PairIncomplete { role })?;
    let ff1 = live.ff1(&pair.inner.reference(key)?, RADIX)?;
    let encrypted = |batch: &Vec<Ff1Value>| {
        let mut result = batch.clone();
        ff1.encrypt(&mut result).map(|_| result)
    };
    plain.iter().map(encrypted).collect()
}

fn differences(expected: &[Vec<Ff1Value>], found: &[Vec<Ff1Value>]) -> usize {
    expected.iter().flatten().zip(found.iter().flatten()).filter(|(expected, found)| expected != found).count()
}

/// Made-up values of several lengths.
fn values(batch: usize, count: usize) -> Vec<Ff1Value> {
    let value = |index: usize| {
        let length = minimum_length(RADIX) + index % 20;
        let numerals = (0..length).map(|place| ((batch * 31 + index * 7 + place * 3) % 10) as u16).collect();
        Ff1Value { numerals, tweak: b"casemate drill".to_vec() }
    };
    (0..count).map(value).collect()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

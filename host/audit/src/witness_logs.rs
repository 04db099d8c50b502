//! The logs a witness knows, a key a line: `VKEY` signs, `VKEY reserve INDEX` may sign from its announcement on, `VKEY SIZE` handed over.

use std::path::Path;

use crate::note::LogKeys;
use crate::pinned::Pinned;
use crate::{AuditError, VerifyError, store};

const NAME: &str = "logs";

#[derive(Debug, Clone, Default)]
pub(crate) struct WitnessLogs(Vec<LogKeys>);

impl WitnessLogs {
    pub(crate) fn read(dir: &Path) -> Result<Self, AuditError> {
        let text = store::read_note(&dir.join(NAME))?.unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let mut origins: Vec<&str> = text.lines().map(origin_of).collect();
        origins.sort_unstable();
        origins.dedup();
        let logs = origins.into_iter().filter_map(|origin| {
            let (mut retired, mut current, mut reserve) = (Vec::new(), None::<String>, None);
            for line in text.lines().filter(|line| origin_of(line) == origin) {
                let mut words = line.split(' ');
                let vkey = words.next().unwrap_or_default().to_owned();
                let number = |word: Option<&str>| word.and_then(|word| word.parse().ok()).unwrap_or(0);
                match words.next() {
                    Some("reserve") => reserve = Some((vkey, number(words.next()))),
                    Some(size) => retired.push((vkey, number(Some(size)))),
                    // Two keys without more were added before hand-overs were asked for: the newer one signs.
                    None => retired.extend(current.replace(vkey).map(|before| (before, 0))),
                }
            }
            Some(LogKeys::from_parts(retired, current?, reserve))
        });
        Ok(Self(logs.collect()))
    }

    pub(crate) fn write(&self, dir: &Path) -> Result<(), AuditError> {
        let mut text = String::new();
        for keys in &self.0 {
            let (retired, reserve) = keys.parts();
            retired.iter().for_each(|(vkey, size)| text.push_str(&format!("{vkey} {size}\n")));
            text.push_str(&format!("{}\n", keys.current()));
            reserve.iter().for_each(|(vkey, index)| text.push_str(&format!("{vkey} reserve {index}\n")));
        }
        store::replace(dir, NAME, text.as_bytes()).map(drop)
    }

    /// The keys of the log of this origin.
    pub(crate) fn of(&self, origin: &str) -> Option<&LogKeys> {
        self.0.iter().find(|keys| origin_of(keys.current()) == origin)
    }

    pub(crate) fn add(&mut self, vkey: &str) {
        self.0.push(LogKeys::of(vkey));
    }

    /// Puts these keys in the place of those known of their log.
    pub(crate) fn replace(&mut self, keys: LogKeys) {
        self.0.retain(|known| origin_of(known.current()) != origin_of(keys.current()));
        self.0.push(keys);
    }
}

/// The keys of a log after what `pinned` says, from the key known on: hand-overs, and the key in reserve that the last one announced.
pub(crate) fn followed(known: &LogKeys, pinned: &Pinned) -> Result<LogKeys, VerifyError> {
    let chain = pinned.keys(known.current())?;
    let announced = pinned.keys(chain.current())?;
    let (before, reserve_before) = known.parts();
    let (since, _) = chain.parts();
    let mut retired = [before, since].concat();
    let mut reserve = announced.parts().1.cloned();
    if let Some(replaced) = reserve_before.filter(|before| reserve.as_ref().is_none_or(|now| now.0 != before.0)) {
        if chain.current() == known.current() && reserve.is_none() {
            reserve = Some(replaced.clone());
        } else {
            retired.push((replaced.0.clone(), since.last().map_or(0, |(_, size)| *size)));
        }
    }
    // A key may have been in reserve and in force: what it may do now is what counts.
    retired.retain(|(vkey, _)| vkey != chain.current() && reserve.as_ref().is_none_or(|now| now.0 != *vkey));
    let mut seen = std::collections::BTreeSet::new();
    retired.retain(|(vkey, _)| seen.insert(vkey.clone()));
    Ok(LogKeys::from_parts(retired, chain.current().to_owned(), reserve))
}

/// The log that a verifier key is of.
pub(crate) fn origin_of(vkey: &str) -> &str {
    vkey.split('+').next().unwrap_or_default()
}

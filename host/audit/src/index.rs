//! The index beside the log: one row of 44 bytes a record, and a dictionary of the words in them.
//!
//! It is derived from the log, can be deleted at any time, and proves nothing: what it finds is read from the log and asked again. The
//! columns are scanned from front to back, which for ten million records is 440 MB.
//!
//! ```text
//! rows    time_ms u64 LE, generation u64 LE (all ones: none), seven words u32 LE (0: none)
//! words   u16 LE length and bytes; the first is word 1
//! state   "casemate-index-v1", rows, bytes of `words`, SHA-256 of the last record indexed
//! ```

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use casemate_types::Digest;

use crate::query::{Facets, Query, WORDS};
use crate::tree::WIDTH;
use crate::verify::{entries_from, signed_size};
use crate::{AuditError, store};

const ROW: usize = 8 + 8 + 4 * WORDS;
const NO_GENERATION: u64 = u64::MAX;
const MAGIC: &str = "casemate-index-v1";

/// An open index, caught up with the log's full bundles.
pub struct Index {
    dir: PathBuf,
    log: PathBuf,
    rows: u64,
    words: Vec<String>,
    numbers: HashMap<String, u32>,
}

impl Index {
    /// Opens the index of the log in `log`, kept in `dir`; builds what is missing, and everything anew when it is of another log.
    /// `progress` is told the number of records indexed.
    pub fn open(log: &Path, dir: &Path, progress: impl FnMut(u64)) -> Result<Self, AuditError> {
        fs::create_dir_all(dir).map_err(AuditError::io("create", dir))?;
        let lock_path = dir.join("lock");
        let lock = File::create(&lock_path).map_err(AuditError::io("create", &lock_path))?;
        lock.lock().map_err(AuditError::io("lock", &lock_path))?;
        let mut index = Self::load(log, dir)?;
        index.catch_up(progress)?;
        Ok(index)
    }

    /// Records it covers: all in full, signed bundles. Those after are for the caller to look at.
    pub fn end(&self) -> u64 {
        self.rows
    }

    /// The indexes that may match, in order. Read the records and ask [`Query::matches`]: the index is not trusted.
    pub fn select(&self, query: &Query) -> Result<Vec<u64>, AuditError> {
        let mut wanted = [None; WORDS];
        for (wanted, word) in wanted.iter_mut().zip(query.words()) {
            let Some(word) = word else { continue };
            match self.numbers.get(word.as_str()) {
                Some(number) => *wanted = Some(*number),
                // A word that no record has.
                None => return Ok(Vec::new()),
            }
        }
        if self.rows == 0 {
            return Ok(Vec::new());
        }
        let path = self.dir.join("rows");
        let file = File::open(&path).map_err(AuditError::io("open", &path))?;
        let mut reader = BufReader::with_capacity(ROW * 65_536, file);
        let mut chunk = vec![0; ROW * 65_536];
        let mut found = Vec::new();
        let mut at = 0;
        while at < self.rows {
            let rows = (self.rows - at).min(65_536) as usize;
            let chunk = &mut chunk[..rows * ROW];
            reader.read_exact(chunk).map_err(AuditError::io("read", &path))?;
            for (row, index) in chunk.chunks_exact(ROW).zip(at..) {
                let words_match = wanted
                    .iter()
                    .enumerate()
                    .all(|(column, wanted)| wanted.is_none_or(|wanted| u32_at(row, 16 + 4 * column) == wanted));
                if words_match
                    && query.matches_time(u64_at(row, 0))
                    && query.generation.is_none_or(|wanted| u64_at(row, 8) == wanted)
                {
                    found.push(index);
                }
            }
            at += rows as u64;
        }
        Ok(found)
    }

    /// What is on disk, if it is of this log and whole; else an empty index.
    fn load(log: &Path, dir: &Path) -> Result<Self, AuditError> {
        let mut index =
            Self { dir: dir.to_owned(), log: log.to_owned(), rows: 0, words: Vec::new(), numbers: HashMap::new() };
        let Some((rows, words_bytes, last)) = read_state(dir)? else { return Ok(index) };
        let sound = rows == 0 || index.is_of_this_log(rows, &last)?;
        let words = read_words(&dir.join("words"), words_bytes);
        let long_enough = fs::metadata(dir.join("rows")).is_ok_and(|file| file.len() >= rows * ROW as u64);
        if let (true, true, Some(words)) = (sound, long_enough, words) {
            index.numbers = (1..).zip(&words).map(|(number, word)| (word.clone(), number)).collect();
            index.words = words;
            index.rows = rows;
        } else {
            tracing::info!("the index of the audit log is rebuilt");
        }
        Ok(index)
    }

    fn is_of_this_log(&self, rows: u64, last: &str) -> Result<bool, AuditError> {
        if rows > signed_size(&self.log)? {
            return Ok(false);
        }
        match entries_from(&self.log, rows - 1)?.next() {
            Some((index, Ok(record))) => Ok(index == rows - 1 && Digest::of(&record).hex() == last),
            // Sealed since: its rows stay, its words can be asked, its records are in the archive.
            _ => Ok(true),
        }
    }

    fn catch_up(&mut self, mut progress: impl FnMut(u64)) -> Result<(), AuditError> {
        let end = signed_size(&self.log)? / WIDTH * WIDTH;
        if self.rows >= end {
            return Ok(());
        }
        let mut rows = self.append_to("rows", self.rows * ROW as u64)?;
        let words_bytes: u64 = self.words.iter().map(|word| word.len() as u64 + 2).sum();
        let mut words = self.append_to("words", words_bytes)?;
        let known = self.words.len();
        let mut last = Digest::of(&[]);
        for (index, record) in entries_from(&self.log, self.rows)? {
            if index >= end {
                break;
            }
            // Sealed records leave empty rows.
            while self.rows < index {
                rows.write_all(&[0; ROW]).map_err(AuditError::io("write", &self.dir))?;
                self.rows += 1;
            }
            let record = record?;
            let row = self.row(&record);
            rows.write_all(&row).map_err(AuditError::io("write", &self.dir))?;
            self.rows += 1;
            if self.rows.is_multiple_of(65_536) {
                progress(self.rows);
            }
            if self.rows == end {
                last = Digest::of(&record);
            }
        }
        for word in self.words.iter().skip(known) {
            let length = word.len() as u16;
            words
                .write_all(&length.to_le_bytes())
                .and_then(|()| words.write_all(word.as_bytes()))
                .map_err(AuditError::io("write", &self.dir))?;
        }
        for mut file in [rows, words] {
            file.flush().and_then(|()| file.get_ref().sync_data()).map_err(AuditError::io("write", &self.dir))?;
        }
        let words_bytes: u64 = self.words.iter().map(|word| word.len() as u64 + 2).sum();
        let state = format!("{MAGIC}\n{}\n{words_bytes}\n{}\n", self.rows, last.hex());
        store::replace(&self.dir, "state", state.as_bytes())?;
        store::sync_dir(&self.dir)
    }

    fn row(&mut self, record: &[u8]) -> [u8; ROW] {
        let mut row = [0; ROW];
        let Some(facets) = Facets::of(record) else { return row };
        row[..8].copy_from_slice(&facets.time_ms.to_le_bytes());
        row[8..16].copy_from_slice(&facets.generation.unwrap_or(NO_GENERATION).to_le_bytes());
        for (column, word) in facets.words().into_iter().enumerate() {
            let number = word.map_or(0, |word| self.number(word));
            row[16 + 4 * column..][..4].copy_from_slice(&number.to_le_bytes());
        }
        row
    }

    fn number(&mut self, word: &str) -> u32 {
        if let Some(number) = self.numbers.get(word) {
            return *number;
        }
        self.words.push(word.to_owned());
        let number = self.words.len() as u32;
        self.numbers.insert(word.to_owned(), number);
        number
    }

    fn append_to(&self, name: &str, length: u64) -> Result<BufWriter<File>, AuditError> {
        let path = self.dir.join(name);
        let open = || {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
            // What a run that ended early wrote behind the last state is written again.
            file.set_len(length)?;
            let mut file = BufWriter::with_capacity(1 << 20, file);
            std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(length))?;
            Ok(file)
        };
        open().map_err(AuditError::io("open", &path))
    }
}

fn read_state(dir: &Path) -> Result<Option<(u64, u64, String)>, AuditError> {
    let Some(bytes) = store::read_note(&dir.join("state"))? else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let mut lines = text.lines();
    let state = || {
        (lines.next()? == MAGIC).then_some(())?;
        Some((lines.next()?.parse().ok()?, lines.next()?.parse().ok()?, lines.next()?.to_owned()))
    };
    let mut state = state;
    Ok(state())
}

fn read_words(path: &Path, length: u64) -> Option<Vec<String>> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(length).read_to_end(&mut bytes).ok()?;
    let mut rest = bytes.as_slice();
    let mut words = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk() {
        let (word, after) = after.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        words.push(String::from_utf8(word.to_vec()).ok()?);
        rest = after;
    }
    (rest.is_empty() && bytes.len() as u64 == length).then_some(words)
}

fn u64_at(row: &[u8], at: usize) -> u64 {
    row.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn u32_at(row: &[u8], at: usize) -> u32 {
    row.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

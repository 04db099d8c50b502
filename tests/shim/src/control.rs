use std::path::PathBuf;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use cryptoki_sys::{CK_RV, CKR_GENERAL_ERROR};

/// What becomes of a call.
pub enum Verdict {
    /// It answers this and does nothing.
    Fail(CK_RV),
    /// It is forwarded.
    Forward,
    /// It is forwarded, and 16 bytes of its output are not reported.
    Short,
    /// It is done, and its result is changed.
    Wrong,
}

static DELAY: LazyLock<Option<Duration>> = LazyLock::new(|| {
    let microseconds = std::env::var("CASEMATE_SHIM_DELAY_US").ok()?.parse().ok()?;
    Some(Duration::from_micros(microseconds))
});

static FAULT_FILE: LazyLock<Option<PathBuf>> =
    LazyLock::new(|| std::env::var_os("CASEMATE_SHIM_FAULT_FILE").map(PathBuf::from));

/// The line in force, and how many calls of its function came since.
static SEEN: Mutex<(String, u32)> = Mutex::new((String::new(), 0));

/// To be asked before a call is forwarded.
pub fn before(function: &str) -> Verdict {
    if let Some(delay) = *DELAY {
        std::thread::sleep(delay);
    }
    let Some(file) = &*FAULT_FILE else { return Verdict::Forward };
    let line = std::fs::read_to_string(file).unwrap_or_default();
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    if seen.0 != line {
        *seen = (line.clone(), 0);
    }
    let mut words = line.split_whitespace();
    let (Some(name), Some(nth), Some(what)) = (words.next(), words.next(), words.next()) else {
        return Verdict::Forward;
    };
    if name != function {
        return Verdict::Forward;
    }
    seen.1 += 1;
    let (nth, later) = nth.strip_suffix('+').map_or((nth, false), |nth| (nth, true));
    let nth: u32 = nth.parse().unwrap_or_default();
    if seen.1 != nth && !(later && seen.1 > nth) {
        return Verdict::Forward;
    }
    match what {
        "short" => Verdict::Short,
        "wrong" => Verdict::Wrong,
        // A line that cannot be read must not look like a sound token.
        code => Verdict::Fail(CK_RV::from_str_radix(code.trim_start_matches("0x"), 16).unwrap_or(CKR_GENERAL_ERROR)),
    }
}

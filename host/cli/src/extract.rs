//! Text out of HTML and PDF. The parsers are large and their input comes from anywhere, so they run in a process of their own that has
//! no key, no file, no network and little memory; what it prints is the text.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use casemate_sandbox::{Confinement, Profile, confine, lock_down};
use clap::ValueEnum;

use crate::failure::Failure;

/// The largest file that is read, in bytes.
const LARGEST: u64 = 256 << 20;
/// The most text that is taken from one file, in bytes.
const MOST: u64 = 64 << 20;
/// Address space of the process that reads it.
const MEMORY: u64 = 4 << 30;
/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// What text is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A page.
    Html,
    /// A document with a text layer.
    Pdf,
}

impl Kind {
    /// By the file's name.
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "html" | "htm" | "xhtml" => Some(Self::Html),
            "pdf" => Some(Self::Pdf),
            _ => None,
        }
    }
}

/// The text of a file.
///
/// # Errors
/// A file that cannot be read, is none of its kind, holds no text, or keeps the parser busy for too long.
pub fn text(path: &Path, kind: Kind) -> Result<String, Failure> {
    let failed = |what: &str| Failure::new(format!("{}: {what}", path.display()));
    let file = std::fs::File::open(path)
        .map_err(|error| Failure::caused_by(format!("cannot read {}", path.display()), &error))?;
    let size = file.metadata().map(|metadata| metadata.len()).unwrap_or_default();
    if size > LARGEST {
        return Err(failed("more than 256 MiB; split it"));
    }
    let start = |error| Failure::caused_by("cannot start the process that reads HTML and PDF", &error);
    let program = std::env::current_exe().map_err(start)?;
    let name = kind.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let mut child = Command::new(program)
        .args(["extract", &name])
        .env_clear()
        .stdin(Stdio::from(file))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(start)?;
    let output = child.stdout.take().ok_or_else(|| failed("no text came of it"))?;
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        output.take(MOST + 1).read_to_end(&mut text).map(|_| text)
    });
    let begun = Instant::now();
    let ended = loop {
        match child.try_wait().map_err(start)? {
            Some(status) => break Some(status),
            None if begun.elapsed() > PATIENCE || reader.is_finished() && begun.elapsed() > PATIENCE / 2 => break None,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let Some(status) = ended else {
        let _ = child.kill();
        let _ = child.wait();
        return Err(failed("its text could not be taken within two minutes"));
    };
    let text = reader.join().ok().and_then(Result::ok).unwrap_or_default();
    if !status.success() {
        return Err(
            failed(&format!("it is no readable {}", name.to_uppercase())).hint("leave it out with --skip-unreadable")
        );
    }
    if text.len() as u64 > MOST {
        return Err(failed("it holds more than 64 MiB of text; split it"));
    }
    let text = String::from_utf8(text).map_err(|_| failed("its text is not UTF-8"))?;
    if text.trim().is_empty() {
        return Err(
            failed("there is no text in it; scanned pages need OCR first").hint("leave it out with --skip-unreadable")
        );
    }
    Ok(text)
}

/// The process that parses: standard input to standard output.
pub fn run(kind: Kind) -> Result<ExitCode, Failure> {
    let failed =
        |error: &dyn std::error::Error| Failure::caused_by("cannot confine the process that reads files", error);
    let limit = rustix::process::Rlimit { current: Some(MEMORY), maximum: Some(MEMORY) };
    rustix::process::setrlimit(rustix::process::Resource::As, limit).map_err(|error| failed(&error))?;
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(rustix::process::Resource::Core, none).map_err(|error| failed(&error))?;
    let read = vec!["/proc/self".into()];
    confine(&Confinement { read, ..Confinement::default() }).map_err(|error| failed(&error))?;
    lock_down(Profile::FullAirGap).map_err(|error| failed(&error))?;
    let mut bytes = Vec::new();
    let unreadable = |error| Failure::caused_by("cannot read standard input", &error);
    std::io::stdin().take(LARGEST).read_to_end(&mut bytes).map_err(unreadable)?;
    let text = match kind {
        Kind::Html => html2text::config::plain_no_decorate()
            .string_from_read(bytes.as_slice(), WIDTH)
            .map_err(|error| Failure::caused_by("no readable HTML", &error))?,
        Kind::Pdf => {
            pdf_extract::extract_text_from_mem(&bytes).map_err(|error| Failure::caused_by("no readable PDF", &error))?
        }
    };
    std::io::stdout().write_all(text.as_bytes()).map_err(|error| Failure::caused_by("cannot write", &error))?;
    Ok(ExitCode::SUCCESS)
}

/// Columns before a line is broken: a paragraph is to stay in one.
const WIDTH: usize = 100_000;

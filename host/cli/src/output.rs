use std::io::{self, Write};

use serde::Serialize;

use crate::failure::Failure;

/// Prints one JSON document on standard output.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure::caused_by("cannot encode the answer", &error))?;
    line(&text)
}

/// Prints a line; a closed pipe is not a failure.
pub fn line(text: &str) -> Result<(), Failure> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::caused_by("cannot write the answer", &error))
        }
        _ => Ok(()),
    }
}

/// Takes out what could steer a terminal: control characters besides the line break, and marks that turn the reading direction.
pub fn plain(text: &str) -> String {
    let steers = |c: char| {
        (c.is_control() && c != '\n')
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect()
}

//! `cargo xtask bench [decision | search | fpe | audit | audit-large | bundle | change | http | replay] [--json]`: every figure beside a named baseline of the same run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a benchmark stops where something is not there"
)]

mod audit;
mod bundle;
mod change;
mod decision;
mod fixture;
mod fpe_token;
mod http;
mod replay;
mod report;
mod search;

use std::process::ExitCode;

use report::Report;

/// A benchmark: its name, and what prints its rows.
type Bench = (&'static str, fn(&mut Report));

/// Run by name only: they take minutes, or gigabytes.
const BY_NAME: [Bench; 1] = [("audit-large", audit::large)];

const ALL: [Bench; 8] = [
    ("decision", decision::run),
    ("search", search::run),
    ("fpe", fpe_token::run),
    ("audit", audit::run),
    ("bundle", bundle::run),
    ("change", change::run),
    ("http", http::run),
    ("replay", replay::run),
];

fn main() -> ExitCode {
    if fpe_token::is_child() {
        return fpe_token::child();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let json = arguments.iter().any(|argument| argument == "--json");
    let named: Vec<&String> = arguments.iter().filter(|argument| *argument != "--json").collect();
    if let Some(unknown) = named.iter().find(|name| !ALL.iter().chain(&BY_NAME).any(|(bench, _)| bench == **name)) {
        eprintln!(
            "error: no benchmark `{unknown}`; there are decision, search, fpe, audit, audit-large, bundle, change, http and replay"
        );
        return ExitCode::from(2);
    }
    let mut report = Report::new(json);
    for (name, run) in ALL {
        if named.is_empty() || named.iter().any(|wanted| *wanted == name) {
            run(&mut report);
        }
    }
    for (name, run) in BY_NAME {
        if named.iter().any(|wanted| *wanted == name) {
            run(&mut report);
        }
    }
    ExitCode::SUCCESS
}

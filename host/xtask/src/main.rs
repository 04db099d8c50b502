//! `cargo xtask setup | demo | test | bench | kit | tuf-conformance | lint`: everything a developer or a new user runs.

#![forbid(unsafe_code)]

mod corpus;
mod databases;
mod demo;
mod judges;
mod kit;
mod setup;
mod shell;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask setup            install what building needs (idempotent; offline once done)
cargo xtask demo             set up, build, and run the main job on real text
cargo xtask test             set up and run every test
cargo xtask bench [NAME] [--json]
                             decision | search | fpe | audit | http; all without a name;
                             audit-large by its name only (2 GB)
cargo xtask kit [--out DIR] [--key FILE]... [--model] [--pack] [--check]
                             the offline install package; --check installs from it with networking cut off
cargo xtask tuf-conformance PATH [--version V] [--digest SHA256] [--built]
                             runs the TUF conformance suite that lies at PATH with our client
cargo xtask lint             formatting and clippy, warnings as errors";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = arguments.split_first().map_or(("", &[][..]), |(command, rest)| (command.as_str(), rest));
    let done = match command {
        "setup" => setup::run().map(drop),
        "demo" => demo::run(),
        "test" => test(rest),
        "bench" => bench(rest),
        "kit" => kit::run(rest),
        "tuf-conformance" => judges::conformance(rest),
        "lint" => lint(),
        _ => {
            println!("{HELP}");
            return if matches!(command, "" | "help" | "--help" | "-h") {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(2)
            };
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Builds and tests the whole workspace in one profile, so that every heavy crate is compiled once.
fn test(rest: &[String]) -> Result<(), String> {
    let ready = setup::run()?;
    setup::build(&ready)?;
    println!("== testing");
    let mut cargo = shell::cargo();
    cargo.args(["test", "--release", "--workspace", "--locked"]).args(rest);
    ready.environment(&mut cargo);
    shell::run(&mut cargo)
}

fn bench(rest: &[String]) -> Result<(), String> {
    let ready = setup::run()?;
    setup::build(&ready)?;
    let mut program = std::process::Command::new(shell::binary("casemate-bench"));
    program.args(rest);
    ready.environment(&mut program);
    let corpus = shell::work().join("bench/corpus.jsonl");
    std::fs::create_dir_all(shell::work().join("bench")).map_err(|error| error.to_string())?;
    corpus::write(&corpus)?;
    program.env("CASEMATE_BENCH_CORPUS", corpus);
    shell::run(&mut program)
}

fn lint() -> Result<(), String> {
    let ready = setup::run()?;
    shell::run(shell::cargo().args(["fmt", "--all", "--check"]))?;
    let mut clippy = shell::cargo();
    clippy.args(["clippy", "--release", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]);
    ready.environment(&mut clippy);
    shell::run(&mut clippy)
}

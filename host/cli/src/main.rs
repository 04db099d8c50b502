//! `casemate`: the commands of operators, policy teams and auditors.

#![deny(unsafe_code)]

mod args;
mod audit;
mod bundle;
mod ceremony;
mod change;
mod classify;
mod custodian;
mod drill;
mod environment;
mod evaluate;
mod extract;
mod failure;
mod fhe;
mod fips;
mod fpe;
mod hsm;
mod inference;
mod ingest;
mod init;
mod keys;
mod kit;
mod officer;
mod output;
mod plugin;
mod policy;
mod question;
mod reindex;
mod serve;
mod witness;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use crate::args::{Arguments, Command};
use crate::failure::Failure;

fn main() -> ExitCode {
    let arguments = Arguments::from_arg_matches(&officer::with_pages(Arguments::command()).get_matches());
    let arguments = arguments.unwrap_or_else(|error| error.exit());
    let json = arguments.json;
    match run(arguments) {
        Ok(code) => code,
        Err(failure) => failure.report(json),
    }
}

fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let site = arguments.site;
    let json = arguments.json;
    if let Some(pipe) = arguments.opened_fd {
        environment::take_opened(pipe)?;
    }
    match arguments.command {
        Command::Init(options) => init::run(&site, &options, json),
        Command::Ingest(options) => ingest::run(&site, &options, json),
        Command::Extract { kind } => extract::run(kind),
        Command::Reindex(options) => reindex::run(&site, &options, json),
        Command::Eval(options) => evaluate::run(&site, &options, json),
        Command::Ask(options) => question::run(&site, &options, json),
        Command::Bundle(command) => bundle::run(&site, command, json),
        Command::Plugin(command) => plugin::run(&site, command, json),
        Command::Kit(command) => kit::run(&site, command, json),
        Command::Change(command) => change::run(&site, command, json),
        Command::Policy(command) => policy::run(&site, command, json),
        Command::Audit(command) => audit::run(&site, command, json),
        Command::Ceremony(command) => ceremony::run(&site, command, json),
        Command::Custodian(command) => custodian::run(&site, command, json),
        Command::Hsm(command) => hsm::run(&site, command, json),
        Command::Keys(command) => keys::run(&site, command, json),
        Command::Fips(command) => fips::run(&site, command, json),
        Command::Fpe(options) => fpe::run(&options, json),
        Command::Witness(command) => witness::run(command, json),
        Command::Fhe(command) => fhe::run(&site, command, json),
        Command::Inference(command) => inference::run(command, json),
        Command::Serve(options) => serve::run(&site, &options, json),
    }
}

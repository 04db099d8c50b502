//! The arguments of `casemate ceremony`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Key ceremonies. PINs are asked for at the terminal, or read from the files that the bindings name.
#[derive(Subcommand)]
pub enum CeremonyCommand {
    /// Check plans.
    #[command(subcommand)]
    Plan(PlanCommand),
    /// Make a scratch folder with tokens, custodians, bindings and approval of its own, and run the plan there.
    Rehearse {
        /// The plan.
        plan: PathBuf,
        /// The folder to make.
        #[arg(long)]
        out: PathBuf,
        /// Make the plan's tokens with PINs that nobody knows, split among the custodians.
        #[arg(long)]
        split_pins: bool,
        /// Do not wait for Enter at each step.
        #[arg(long)]
        yes: bool,
    },
    /// Run an approved plan on the tokens that the bindings name.
    Run {
        #[command(flatten)]
        options: RunOptions,
        /// The custodians' approval (operation ceremony, subject the plan's hash).
        #[arg(long)]
        statement: PathBuf,
    },
    /// Go on with a ceremony that was cut off. What was under way is completed or undone.
    Resume {
        #[command(flatten)]
        options: RunOptions,
        /// A new approval, where the one of the beginning has expired.
        #[arg(long)]
        statement: Option<PathBuf>,
    },
    /// Check a transcript: signatures, plan, and that the site's audit log holds the ceremony. Exit code 4 when not.
    Verify {
        /// The transcript (`transcript.json`).
        transcript: PathBuf,
        /// The plan it has to be of.
        #[arg(long)]
        plan: PathBuf,
        /// The roster; `custody/roster.json` of the site otherwise.
        #[arg(long)]
        roster: Option<PathBuf>,
    },
    /// Print a transcript for paper: numbered lines, each with a check.
    Print {
        /// The transcript.
        transcript: PathBuf,
        /// The roster; `custody/roster.json` of the site otherwise.
        #[arg(long)]
        roster: Option<PathBuf>,
    },
    /// The process that writes the site's audit log; started by `run`, `resume` and `rehearse`.
    #[command(hide = true)]
    Recorder,
}

#[derive(Subcommand)]
pub enum PlanCommand {
    /// Check a plan, print its steps and the hash that custodians approve.
    Check {
        /// The plan.
        plan: PathBuf,
    },
}

#[derive(Args)]
pub struct RunOptions {
    /// The plan.
    pub plan: PathBuf,
    /// Which tokens and custodians play the plan's roles.
    #[arg(long)]
    pub bindings: PathBuf,
    /// The ceremony's folder: journal, shares, transcript.
    #[arg(long)]
    pub folder: PathBuf,
    /// Do not wait for Enter at each step.
    #[arg(long)]
    pub yes: bool,
}

//! What an officer reads below the options of each command about keys: who has to be there, and the command as it is typed.

use clap::Command;

/// A command, who has to be there, and an example.
type Page = (&'static str, &'static str, &'static str);

const OFFICER: &str = "one officer at the site's machine";
const OFFICER_STOPPED: &str = "one officer at the site's machine, while `casemate serve` is stopped";
const SIGNED: &str =
    "one officer; the custodians have signed the approval before, wherever they were. `casemate serve` is stopped";
const FIRST_SIGNED: &str = "one officer; once the site has adopted a roster the custodians have signed an approval before (`casemate custodian \
    request --operation issue-user --help`). `casemate serve` is stopped";
const ALONE: &str = "one custodian alone, with the own token";
const ANYBODY: &str = "anybody; nothing is changed";
const THRESHOLD: &str = "as many custodians as the roster's threshold says, each with the own token and its PIN";
const APPROVER: &str = "one approver of the site, at a machine of the own";

const PAGES: &[Page] = &[
    ("keys list", OFFICER_STOPPED, "casemate keys list"),
    (
        "keys add-user",
        FIRST_SIGNED,
        "casemate keys add-user dora --clearance internal --role analyst --department engineering",
    ),
    ("keys issue", FIRST_SIGNED, "casemate keys issue dora --credential dora.token"),
    (
        "keys revoke",
        "one officer; the log says who. No approval is needed, because it only takes away",
        "casemate keys revoke dora",
    ),
    ("keys renew-credential", FIRST_SIGNED, "casemate keys renew-credential dora"),
    ("keys destroy", SIGNED, "casemate keys destroy compartment/legal --confirm-passages 120 --approval destroy.json"),
    (
        "keys add-compartment",
        SIGNED,
        "casemate keys add-compartment finance --department finance,audit --clearance confidential",
    ),
    ("keys rotate status", OFFICER_STOPPED, "casemate keys rotate status"),
    ("keys rotate propose", OFFICER_STOPPED, "casemate keys rotate propose metadata"),
    ("keys rotate notice", SIGNED, "casemate keys rotate notice metadata --statement notice.json"),
    ("keys rotate activate", SIGNED, "casemate keys rotate activate metadata --statement activate.json"),
    ("keys rotate emergency", SIGNED, "casemate keys rotate emergency metadata --statement emergency.json"),
    ("keys rotate withdraw", OFFICER_STOPPED, "casemate keys rotate withdraw metadata"),
    ("keys rotate reencrypt", OFFICER_STOPPED, "casemate keys rotate reencrypt metadata"),
    ("keys legacy status", OFFICER_STOPPED, "casemate keys legacy status"),
    ("keys legacy make-key", SIGNED, "casemate keys legacy make-key --approval make.json"),
    ("keys legacy enable", SIGNED, "casemate keys legacy enable --approval enable.json"),
    ("keys legacy disable", OFFICER_STOPPED, "casemate keys legacy disable"),
    ("keys legacy destroy-key", SIGNED, "casemate keys legacy destroy-key --approval destroy.json"),
    (
        "keys legacy encrypt",
        OFFICER_STOPPED,
        "casemate keys legacy encrypt --alphabet digits --tweak d8e7920afa330a < values.txt",
    ),
    (
        "keys legacy decrypt",
        OFFICER_STOPPED,
        "casemate keys legacy decrypt --alphabet digits --tweak d8e7920afa330a < values.txt",
    ),
    (
        "custodian enrol",
        ALONE,
        "casemate custodian enrol --name ana --person p-1001 --token ana --initialise --out ana.card",
    ),
    (
        "custodian roster build",
        "one officer with the custodians' cards; afterwards everybody compares the digest aloud",
        "casemate custodian roster build --threshold 2 ana.card bo.card carla.card --requester rita.card --out site/custody/roster.json",
    ),
    (
        "custodian roster adopt",
        "one officer for the first roster; a later one needs the approval of the custodians in force",
        "casemate custodian roster adopt next.json --approval change.json",
    ),
    ("custodian roster show", ANYBODY, "casemate custodian roster show"),
    (
        "custodian roster verify",
        ANYBODY,
        "casemate custodian roster verify --digest sha256:44778ff0a268c8b6a73b783f43ffde85ab75a5ea13284b9aa2526cffbd00faf9",
    ),
    ("custodian open", THRESHOLD, "casemate custodian open --custodian ana=ana --custodian bo=bo -- serve"),
    (
        "custodian request",
        "whoever asks. They sign it as well (`custodian approve`), which proves the request and approves nothing; then the custodians sign. \
         `casemate fips status` prints the serial numbers of the site's tokens",
        "casemate custodian request --operation issue-user --on 287BB506AEA03514 --clearance internal --role analyst --department \
         engineering --uses 20 --requester p-1004 --reason interns --out standing.json",
    ),
    ("custodian approve", ALONE, "casemate custodian approve standing.json --as ana --token ana"),
    ("custodian certify", ALONE, "casemate custodian certify site/custody/destroyed/ID.json --as ana --token ana"),
    ("custodian verify", ANYBODY, "casemate custodian verify standing.json --tier approvals-only"),
    ("custodian shares list", ANYBODY, "casemate custodian shares list"),
    (
        "custodian token init",
        "one officer with a blank token: nobody will know its PINs. `casemate serve` is stopped",
        "casemate custodian token init --label primary --folder keys/primary --module LIB.so",
    ),
    (
        "custodian token renew",
        THRESHOLD,
        "casemate custodian token renew --statement open.json --custodian ana=ana --custodian bo=bo",
    ),
    ("ceremony plan check", ANYBODY, "casemate ceremony plan check docs/samples/ceremony-plan.toml"),
    (
        "ceremony rehearse",
        "whoever learns it: tokens, custodians and approvals are made up",
        "casemate ceremony rehearse docs/samples/ceremony-plan.toml --out rehearsal",
    ),
    (
        "ceremony run",
        "as many custodians as the roster's threshold says, each with the own token, and an officer who types; they read each step aloud before \
         Enter. `casemate serve` is stopped",
        "casemate ceremony run plan.toml --bindings bindings.toml --statement ceremony.json --folder first-ceremony",
    ),
    (
        "ceremony resume",
        "the same people as at `run`, or others of the roster",
        "casemate ceremony resume plan.toml --bindings bindings.toml --folder first-ceremony",
    ),
    ("ceremony verify", ANYBODY, "casemate ceremony verify first-ceremony/transcript.json --plan plan.toml"),
    ("ceremony print", ANYBODY, "casemate ceremony print first-ceremony/transcript.json"),
    ("hsm drill", "one officer; the site may be in use", "casemate hsm drill --rehearsal"),
    (
        "hsm init-token",
        "the security officer and the user of the token, each typing the own PIN while the other looks away",
        "casemate hsm init-token --module /usr/lib/softhsm/libsofthsm2.so --label device",
    ),
    ("hsm probe", OFFICER_STOPPED, "casemate hsm probe --scratch --module /usr/lib/softhsm/libsofthsm2.so"),
    ("hsm status", OFFICER, "casemate hsm status"),
    ("fips status", OFFICER, "casemate fips status --profile government"),
    (
        "fips mode",
        "two approvers who look at the device with its maker's tool",
        "casemate fips mode --certificate 4700 --seen \"maker's tool: FIPS mode on\" --out mode.json",
    ),
    ("fips sign", APPROVER, "casemate fips sign cmvp.json --key site/approvers/ana.key"),
    ("fips inspect", ANYBODY, "casemate fips inspect cmvp.json"),
    (
        "fips install",
        "one officer; two approvers have signed before. `casemate serve` is stopped",
        "casemate fips install cmvp.json",
    ),
];

/// Puts a page below the options of each command that has one.
pub fn with_pages(program: Command) -> Command {
    dress(program, "")
}

fn dress(command: Command, path: &str) -> Command {
    let command = command.mut_subcommands(|sub| {
        let path = format!("{path} {}", sub.get_name());
        dress(sub, path.trim_start())
    });
    match PAGES.iter().find(|(of, ..)| *of == path) {
        Some((_, who, example)) => command.after_long_help(format!("Who is there: {who}.\n\nExample: {example}")),
        None => command,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::args::Arguments;

    fn leaves(command: &Command, path: &str, found: &mut Vec<(String, String)>) {
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
            let path = format!("{path} {}", sub.get_name()).trim_start().to_owned();
            if sub.has_subcommands() {
                leaves(sub, &path, found);
            } else {
                found.push((path, sub.clone().render_long_help().to_string()));
            }
        }
    }

    /// What it does, who has to be there, and an example that the program takes.
    #[test]
    fn every_command_about_keys_says_who_is_there_and_shows_how() {
        let program = with_pages(Arguments::command());
        let mut found = Vec::new();
        for area in ["keys", "custodian", "ceremony", "hsm", "fips"] {
            leaves(program.find_subcommand(area).unwrap(), area, &mut found);
        }
        assert!(found.len() >= 45, "{}", found.len());
        for (path, help) in &found {
            assert!(help.contains("Example: casemate "), "`casemate {path} --help` has no example");
            let told = PAGES.iter().any(|(of, ..)| of == path);
            assert!(
                told && help.contains("Who is there: ") || help.contains("present"),
                "`casemate {path} --help` says not who is there"
            );
        }
        for (path, who, example) in PAGES {
            assert!(found.iter().any(|(of, _)| of == path), "there is no `casemate {path}`");
            assert!(!who.is_empty() && example.starts_with(&format!("casemate {path}")), "{example}");
            // As a shell splits it; what stands behind `<` is no argument.
            let typed = example.split(" < ").next().unwrap();
            let (mut words, mut quoted) = (vec![String::new()], false);
            for character in typed.chars() {
                match character {
                    '"' => quoted = !quoted,
                    ' ' if !quoted => words.push(String::new()),
                    other => words.last_mut().unwrap().push(other),
                }
            }
            words.retain(|word| !word.is_empty());
            let taken = program.clone().try_get_matches_from(&words);
            assert!(taken.is_ok(), "{example}: {}", taken.unwrap_err());
        }
    }
}

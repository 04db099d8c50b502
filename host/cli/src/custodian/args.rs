//! The arguments of `casemate custodian`.

use std::path::PathBuf;

use casemate_custody::{Operation, PersonId, TokenSerial};
use casemate_types::{Digest, Profile, UserName};
use clap::{Args, Subcommand, ValueEnum};

/// Where a PKCS#11 token is. PINs are asked for at the terminal, or read from files; never given as arguments.
#[derive(Args)]
pub struct TokenOptions {
    /// The PKCS#11 module; without it, the embedded software token.
    #[arg(long)]
    pub module: Option<PathBuf>,
    /// An environment variable the module reads, as NAME=VALUE. May be repeated.
    #[arg(long = "module-env", value_name = "NAME=VALUE")]
    pub module_env: Vec<String>,
}

#[derive(Subcommand)]
pub enum CustodianCommand {
    /// Make a custodian's two keys in the custodian's own token, and write the card for the roster.
    Enrol {
        /// The custodian's name.
        #[arg(long)]
        name: UserName,
        /// Which human being this is, for instance a personnel number.
        #[arg(long)]
        person: PersonId,
        /// The label of the custodian's token.
        #[arg(long)]
        token: String,
        /// A file with the token's PIN; asked for otherwise.
        #[arg(long)]
        pin_file: Option<PathBuf>,
        /// Initialise a fresh token first, under this label.
        #[arg(long)]
        initialise: bool,
        /// With --initialise: a file with the security officer's PIN; asked for otherwise.
        #[arg(long, requires = "initialise")]
        so_pin_file: Option<PathBuf>,
        /// The card to write.
        #[arg(long)]
        out: PathBuf,
        #[command(flatten)]
        module: TokenOptions,
    },
    /// Build, show and verify the roster.
    #[command(subcommand)]
    Roster(RosterCommand),
    /// Write a statement that asks the custodians for an operation.
    Request(RequestOptions),
    /// Show what is to be approved, ask, and sign it in the custodian's token.
    Approve {
        /// The statement; the signature is added to it.
        statement: PathBuf,
        /// Which custodian signs.
        #[arg(long = "as", value_name = "NAME")]
        name: UserName,
        /// The label of the custodian's token.
        #[arg(long)]
        token: String,
        /// A file with the token's PIN; asked for otherwise.
        #[arg(long)]
        pin_file: Option<PathBuf>,
        /// Do not ask; for scripts, after the statement was read.
        #[arg(long)]
        yes: bool,
        /// The roster; `custody/roster.json` of the site otherwise.
        #[arg(long)]
        roster: Option<PathBuf>,
        #[command(flatten)]
        module: TokenOptions,
    },
    /// Check whether a statement would be accepted now. Exit code 4 when not. Nothing is used up.
    Verify {
        /// The statement.
        statement: PathBuf,
        /// The roster; `custody/roster.json` of the site otherwise.
        #[arg(long)]
        roster: Option<PathBuf>,
        /// The profile to judge by; that of `site.toml` otherwise.
        #[arg(long)]
        profile: Option<Profile>,
        /// By what means two people are needed on the tokens in question.
        #[arg(long, value_enum, default_value = "split-package-and-pin")]
        tier: TierName,
    },
    /// List the shares in a folder.
    #[command(subcommand)]
    Shares(SharesCommand),
    /// The custody token, whose PINs are split among the custodians and used once.
    #[command(subcommand)]
    Token(CustodyTokenCommand),
    /// The process that starts the session, and notes in the audit log what becomes of it; started by `token init` and `token renew`.
    #[command(hide = true)]
    Record {
        /// Initialise the token instead of opening it.
        #[arg(long)]
        first: bool,
        /// The approval to act on.
        #[arg(long, required_unless_present = "first", conflicts_with = "first")]
        statement: Option<PathBuf>,
        #[command(flatten)]
        custody: CustodyOptions,
    },
    /// The process that holds the PINs; started by the one of `record`.
    #[command(hide = true)]
    Session {
        /// Initialise the token instead of opening it.
        #[arg(long)]
        first: bool,
        /// The approval to act on.
        #[arg(long, required_unless_present = "first")]
        statement: Option<PathBuf>,
        #[command(flatten)]
        custody: CustodyOptions,
    },
}

#[derive(Subcommand)]
pub enum RosterCommand {
    /// Put a roster in force for the site's keys: from then on its custodians decide. The first needs no approval, each later one the
    /// custodians' before it (operation change-roster, --subject with the new roster's digest).
    Adopt {
        /// The roster; `custody/roster.json` of the site otherwise. A later one is put there.
        #[arg(long)]
        roster: Option<PathBuf>,
        /// What the custodians of the roster in force signed.
        #[arg(long, requires = "roster")]
        statement: Option<PathBuf>,
        /// By what means two people are needed on the site's tokens.
        #[arg(long, value_enum, default_value = "approvals-only")]
        tier: TierName,
    },
    /// Build a roster from cards. Each card is checked against the key that it announces.
    Build {
        /// The cards.
        #[arg(required = true)]
        cards: Vec<PathBuf>,
        /// How many custodians an operation needs; at least 2.
        #[arg(long, default_value_t = 2)]
        threshold: u8,
        /// 1 for the first roster of a site, one more for each that follows.
        #[arg(long, default_value_t = 1)]
        epoch: u64,
        /// The site's name; that of `site.toml` otherwise.
        #[arg(long)]
        site_name: Option<String>,
        /// The roster to write.
        #[arg(long)]
        out: PathBuf,
    },
    /// Print a roster and its digest.
    Show {
        /// The roster; `custody/roster.json` of the site otherwise.
        roster: Option<PathBuf>,
    },
    /// Check a roster, and its digest against one that is known.
    Verify {
        /// The roster; `custody/roster.json` of the site otherwise.
        roster: Option<PathBuf>,
        /// The digest it has to have, `sha256:...`.
        #[arg(long)]
        digest: Option<Digest>,
    },
}

#[derive(Args)]
pub struct RequestOptions {
    /// What is to be done: ceremony, change-roster, destroy, enable-legacy, escrow, export-share, generate, issue,
    /// open-custody, re-enable, recover, replicate, revoke, rotate or rotate-emergency.
    #[arg(long)]
    pub operation: Operation,
    /// The serial number of a token on which it is to be done. May be repeated.
    #[arg(long = "on", value_name = "SERIAL")]
    pub tokens: Vec<TokenSerial>,
    /// The key's identifier, 32 hexadecimal digits.
    #[arg(long)]
    pub key: Option<String>,
    /// The key's class, such as fpe-ff1.
    #[arg(long)]
    pub class: Option<String>,
    /// The key's version.
    #[arg(long)]
    pub version: Option<u32>,
    /// Digest of the key's attribute template.
    #[arg(long)]
    pub template: Option<Digest>,
    /// Digest of what else it is about: a plan, a new roster, a package.
    #[arg(long)]
    pub subject: Option<Digest>,
    /// With enable-legacy: until when, such as 2027-01-31T00:00:00Z.
    #[arg(long)]
    pub until: Option<jiff::Timestamp>,
    /// Why, in one line.
    #[arg(long)]
    pub reason: String,
    /// Who asks for it; this person's signature does not count.
    #[arg(long)]
    pub requester: PersonId,
    /// From when on it is good; now otherwise.
    #[arg(long)]
    pub not_before: Option<jiff::Timestamp>,
    /// For how many hours it is good.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=720))]
    pub hours: u32,
    /// The roster; `custody/roster.json` of the site otherwise.
    #[arg(long)]
    pub roster: Option<PathBuf>,
    /// The statement to write.
    #[arg(long)]
    pub out: PathBuf,
}

#[derive(Subcommand)]
pub enum SharesCommand {
    /// Print the sets and shares, and check that they belong together. No share is opened.
    List {
        /// The folder; the generation in force in `custody/token` of the site otherwise.
        folder: Option<PathBuf>,
    },
}

#[derive(Args)]
pub struct CustodyOptions {
    /// The folder with the journal and the shares; `custody/token` of the site otherwise.
    #[arg(long)]
    pub folder: Option<PathBuf>,
    /// The custody token's label.
    #[arg(long, default_value = "custody")]
    pub label: String,
    /// The roster; `custody/roster.json` of the site otherwise.
    #[arg(long)]
    pub roster: Option<PathBuf>,
    #[command(flatten)]
    pub module: TokenOptions,
}

#[derive(Subcommand)]
pub enum CustodyTokenCommand {
    /// Initialise a fresh token with random PINs that nobody knows, split among the custodians.
    Init {
        #[command(flatten)]
        custody: CustodyOptions,
    },
    /// Open the custody token with the custodians' shares, check it, and give it new PINs. Finishes a change that was cut off.
    Renew {
        /// The approval (operation open-custody).
        #[arg(long)]
        statement: PathBuf,
        /// A custodian and the label of this custodian's token, as NAME=LABEL. Repeated up to the threshold.
        #[arg(long = "custodian", value_name = "NAME=LABEL", required = true)]
        custodians: Vec<String>,
        /// A file with a custodian's PIN, as NAME=FILE; asked for otherwise. May be repeated.
        #[arg(long = "pin-file", value_name = "NAME=FILE")]
        pin_files: Vec<String>,
        /// The module of the custodians' tokens, where it is another.
        #[arg(long)]
        custodian_module: Option<PathBuf>,
        #[command(flatten)]
        custody: CustodyOptions,
    },
}

/// By what means two people are needed.
#[derive(Clone, Copy, ValueEnum)]
pub enum TierName {
    ApprovalsOnly,
    SplitPackageAndPin,
    Vendor,
}

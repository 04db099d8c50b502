//! The arguments of `casemate custodian`.

use std::path::PathBuf;

use casemate_custody::{Grant, Operation, PersonId, TokenSerial};
use casemate_gate::CompartmentRule;
use casemate_types::{CompartmentName, Digest, Level, Profile, UserName};
use clap::{Args, Subcommand, ValueEnum};

use crate::failure::Failure;

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
    /// Open a site whose tokens' PINs are split, for one command, and replace these PINs.
    ///
    /// A threshold of custodians is here, each with the own token and its PIN. Their tokens open their shares; a process that ends puts both
    /// PINs of each of the site's tokens together, uses them once and replaces them. The command gets the new USER PIN of each in its memory.
    /// What was shown is worth nothing from then on, and the folders of shares hold new ones: back them up. The command may be `serve`: the
    /// site can be opened again when it has ended.
    Open(OpenOptions),
    /// The process that opens the shares; started by `open`.
    #[command(hide = true)]
    OpenShares(OpenSharesOptions),
    /// The process that has the PINs and replaces them; started by `open`.
    #[command(hide = true)]
    RenewPins {
        /// The `site.toml` of a site that is not made yet.
        #[arg(long)]
        config: Option<PathBuf>,
        /// The roster.
        #[arg(long)]
        roster: Option<PathBuf>,
        #[command(flatten)]
        next: NextRoster,
    },
    /// Write a statement that asks the custodians for an operation.
    Request(Box<RequestOptions>),
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
    /// Show a certificate of destruction, ask, and sign it in the custodian's token. Whoever signs has destroyed what it says is out of
    /// the site's reach.
    Certify {
        /// The certificate; the signature is added to it.
        certificate: PathBuf,
        /// Which custodian signs; without it, the certificate is verified: exit code 4 unless enough custodians have signed it.
        #[arg(long = "as", value_name = "NAME", requires = "token")]
        name: Option<UserName>,
        /// The label of the custodian's token.
        #[arg(long)]
        token: Option<String>,
        /// A file with the token's PIN; asked for otherwise.
        #[arg(long)]
        pin_file: Option<PathBuf>,
        /// Do not ask; for scripts, after the certificate was read.
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
    /// Build a roster from cards. Each card is checked against the key that it announces.
    Build {
        /// The cards.
        #[arg(required = true)]
        cards: Vec<PathBuf>,
        /// The card of somebody who may ask for operations and approve none. May be repeated.
        #[arg(long = "requester", value_name = "CARD")]
        requesters: Vec<PathBuf>,
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
    /// Make the site ask these custodians from now on, before any key is made, issued, replaced or destroyed.
    ///
    /// The first roster is adopted by one person: compare its digest with the custodians before. A later one needs the approval of
    /// the one in force: `custodian request --operation change-roster --subject DIGEST`.
    Adopt {
        /// The roster; `custody/roster.json` of the site otherwise.
        roster: Option<PathBuf>,
        /// The approval (operation change-roster); not for the first roster.
        #[arg(long)]
        approval: Option<PathBuf>,
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
    /// What is to be done: ceremony, change-roster, destroy, enable-legacy, escrow, export-share, found, generate, issue,
    /// issue-user, open-custody, re-enable, recover, replicate, revoke, rotate or rotate-emergency.
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
    /// What the key is called at the site, such as compartment/legal.
    #[arg(long)]
    pub name: Option<String>,
    /// The key's version.
    #[arg(long)]
    pub version: Option<u32>,
    /// Digest of the key's attribute template.
    #[arg(long)]
    pub template: Option<Digest>,
    /// Digest of what else it is about: a plan, a new roster, a package.
    #[arg(long)]
    pub subject: Option<Digest>,
    /// A file whose digest is the subject, such as site.toml with operation found.
    #[arg(long, conflicts_with = "subject", value_name = "FILE")]
    pub subject_of: Option<PathBuf>,
    #[command(flatten)]
    pub grant: GrantOptions,
    /// With enable-legacy: until when, such as 2027-01-31T00:00:00Z.
    #[arg(long)]
    pub until: Option<jiff::Timestamp>,
    /// Why, in one line.
    #[arg(long)]
    pub reason: String,
    /// Who asks for it: signs the statement too, which proves the request and does not count as an approval.
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

impl RequestOptions {
    pub fn subject(&self) -> Result<Option<Digest>, Failure> {
        match (&self.subject_of, &self.operation) {
            (Some(path), _) => Ok(Some(Digest::of(&casemate_custody::files::read(path)?))),
            // The rule of a compartment to be made.
            (None, Operation::Generate) if self.subject.is_none() && self.class.as_deref() == Some("compartment") => {
                self.grant.rule().map(|rule| Some(rule.digest()))
            }
            (None, _) => Ok(self.subject),
        }
    }
}

/// How far an approval to issue users' keys reaches, or the rule of a compartment that is to be made.
#[derive(Args)]
pub struct GrantOptions {
    /// With issue-user: for this user alone.
    #[arg(long, value_name = "USER")]
    r#for: Option<UserName>,
    /// With issue-user: the highest clearance. With generate: the lowest clearance that the compartment's rule admits.
    #[arg(long, value_name = "LEVEL")]
    clearance: Option<Level>,
    /// A role that users may have, or that the compartment's rule asks for. May be repeated, or separated by commas.
    #[arg(long = "role", value_name = "ROLE", value_delimiter = ',')]
    roles: Vec<String>,
    /// A group, likewise.
    #[arg(long = "group", value_name = "GROUP", value_delimiter = ',')]
    groups: Vec<String>,
    /// A department, likewise.
    #[arg(long = "department", value_name = "DEPARTMENT", value_delimiter = ',')]
    departments: Vec<String>,
    /// With issue-user: a compartment that the keys may open. May be repeated, or separated by commas.
    #[arg(long = "compartment", value_name = "COMPARTMENT", value_delimiter = ',')]
    compartments: Vec<CompartmentName>,
    /// With issue-user: how many keys may be issued on it.
    #[arg(long, default_value_t = 1)]
    uses: u32,
}

impl GrantOptions {
    pub fn grant(&self, operation: Operation) -> Result<Option<Grant>, Failure> {
        if operation != Operation::IssueUser {
            return Ok(None);
        }
        let clearance = self.clearance.ok_or_else(|| Failure::new("issue-user needs --clearance").with_code(2))?;
        let set = |names: &[String]| names.iter().cloned().collect();
        Ok(Some(Grant {
            user: self.r#for.clone(),
            clearance,
            roles: set(&self.roles),
            groups: set(&self.groups),
            departments: set(&self.departments),
            compartments: self.compartments.iter().cloned().collect(),
            uses: self.uses,
        }))
    }

    fn rule(&self) -> Result<CompartmentRule, Failure> {
        let clearance = self.clearance.ok_or_else(|| {
            Failure::new(
                "generate needs the compartment's rule: --clearance, and --role, --group or --department, or --subject",
            )
            .with_code(2)
        })?;
        let set = |names: &[String]| names.iter().cloned().collect();
        Ok(CompartmentRule {
            clearance,
            roles: set(&self.roles),
            groups: set(&self.groups),
            departments: set(&self.departments),
        })
    }
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

#[derive(Args)]
pub struct OpenOptions {
    /// The `site.toml` that names the folders of shares, where the site is not made yet (`init --config`).
    #[arg(long)]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub shares: ShareHolders,
    #[command(flatten)]
    pub next: NextRoster,
    /// The command, after `--`.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<std::ffi::OsString>,
}

/// Who holds the shares of the new PINs, where custodians come and go.
#[derive(Args)]
pub struct NextRoster {
    /// The roster that the new PINs are split for, where it is another; --roster is then the one of before.
    #[arg(long, value_name = "FILE", requires = "change")]
    pub next_roster: Option<PathBuf>,
    /// The statement by which the custodians of before approved the next roster (operation change-roster).
    #[arg(long, value_name = "FILE", requires = "next_roster")]
    pub change: Option<PathBuf>,
}

#[derive(Args)]
pub struct OpenSharesOptions {
    /// The folders of shares.
    #[arg(long = "folder", required = true)]
    pub folders: Vec<PathBuf>,
    #[command(flatten)]
    pub shares: ShareHolders,
}

/// The custodians who are here.
#[derive(Args)]
pub struct ShareHolders {
    /// A custodian and the label of this custodian's token, as NAME=LABEL. Repeated up to the threshold.
    #[arg(long = "custodian", value_name = "NAME=LABEL", required = true)]
    pub custodians: Vec<String>,
    /// A file with a custodian's PIN, as NAME=FILE; asked for otherwise. May be repeated.
    #[arg(long = "pin-file", value_name = "NAME=FILE")]
    pub pin_files: Vec<String>,
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

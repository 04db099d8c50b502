use std::net::SocketAddr;
use std::path::PathBuf;

use casemate_types::{Phase, Profile, UserName};
use clap::builder::TypedValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// A policy-plugin host for sovereign, air-gapped AI.
///
/// Casemate answers questions over encrypted documents. Every request passes signed
/// WebAssembly policies, keys stay in an HSM, and every decision is in a log that shows
/// tampering.
///
/// A first walk:
///   casemate init                                  make a site: token, keys, users
///   for p in clearance disclosure nearest librarian; do
///     casemate plugin build plugins/$p             compile and pack a plugin
///     casemate plugin sign $p.casemate --key site/approvers/ana.key
///     casemate plugin sign $p.casemate --key site/approvers/bo.key
///     casemate plugin load $p.casemate             verify and activate it
///   done
///   casemate ingest docs/ --as carla --compartment engineering --label internal
///   casemate ask "What does a compromised store learn?" --as ana
///   casemate audit verify                          check the log
///
/// Exit codes: 0 done; 1 failed; 2 wrong usage; 3 denied, by a policy or the host;
/// 4 verification failed; 5 not authenticated.
#[derive(Parser)]
#[command(name = "casemate", version, verbatim_doc_comment, arg_required_else_help = true)]
pub struct Arguments {
    /// The site's folder.
    #[arg(long, global = true, default_value = "site", env = "CASEMATE_SITE")]
    pub site: PathBuf,
    /// Print JSON.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Make a site: initialise a token, make keys in it, users and approvers. One person: a rehearsal.
    Init(InitOptions),
    /// Encrypt documents into the compartments you hold: JSON lines, or folders of Markdown and text.
    Ingest(IngestOptions),
    /// Ask a question as a user of the site.
    Ask(AskOptions),
    /// Write, build, inspect, sign, verify and load plugins.
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Ask the policies about something, without an agent.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Read and verify the audit log.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Look after the HSM that holds the keys.
    #[command(subcommand)]
    Hsm(HsmCommand),
    /// Encrypted search: what its settings cost.
    #[command(subcommand)]
    Fhe(FheCommand),
    /// Serve ask, policy evaluation and health over HTTP/JSON on loopback.
    Serve(ServeOptions),
}

#[derive(Args)]
pub struct InitOptions {
    /// A `site.toml` to start from; without it, a documented example is written.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// The PKCS#11 module that holds the keys; without it, the embedded software token.
    #[arg(long)]
    pub module: Option<PathBuf>,
    /// An environment variable the module reads, as NAME=VALUE; `{site}` stands for the site's folder. May be repeated.
    #[arg(long = "module-env", value_name = "NAME=VALUE")]
    pub module_env: Vec<String>,
    /// The people whose two signatures a bundle needs.
    #[arg(long, value_delimiter = ',', default_value = "ana,bo")]
    pub approvers: Vec<String>,
    /// The folder of the sentence model (`model.safetensors`, `tokenizer.json`).
    #[arg(long, value_name = "DIR")]
    pub model_dir: Option<PathBuf>,
}

#[derive(Args)]
pub struct IngestOptions {
    /// JSON-lines files (`.jsonl`), or Markdown and text files, or folders of them.
    #[arg(required_unless_present = "delete")]
    pub paths: Vec<PathBuf>,
    /// Who ingests; must hold the compartments' keys.
    #[arg(long = "as", value_name = "USER")]
    pub user: UserName,
    /// For Markdown and text: the compartment.
    #[arg(long)]
    pub compartment: Option<String>,
    /// For Markdown and text: the classification.
    #[arg(long, default_value = "internal")]
    pub label: String,
    /// Delete the document of this id from --compartment instead. May be repeated.
    #[arg(long, value_name = "ID", requires = "compartment", conflicts_with = "paths")]
    pub delete: Vec<String>,
}

#[derive(Args)]
pub struct AskOptions {
    /// The question.
    pub question: String,
    /// Who asks.
    #[arg(long = "as", value_name = "USER")]
    pub user: UserName,
    /// Only passages whose metadata field has this value. May be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    pub filter: Vec<String>,
    /// Write the audit receipt of the answer here.
    #[arg(long, value_name = "FILE")]
    pub receipt: Option<PathBuf>,
}

#[derive(Subcommand)]
pub enum PluginCommand {
    /// Write the skeleton of a plugin.
    New {
        /// Its name, also the folder's.
        name: String,
        /// What it is.
        #[arg(long, value_enum, default_value = "policy")]
        kind: Kind,
        /// The guest SDK's folder; found beside this program or above the current folder otherwise.
        #[arg(long)]
        sdk: Option<PathBuf>,
    },
    /// Compile a plugin's folder to a component and pack it, unsigned, with manifest and settings.
    Build {
        /// The plugin's folder.
        dir: PathBuf,
        /// The bundle to write; `NAME.casemate` otherwise.
        #[arg(long)]
        out: Option<PathBuf>,
        /// The bundle's version; must rise with every change.
        #[arg(long, default_value_t = 1)]
        bundle_version: u64,
        /// Days until the signatures expire.
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
        valid_days: u32,
        /// Use a component that is compiled already.
        #[arg(long, value_name = "FILE")]
        component: Option<PathBuf>,
    },
    /// Show what an approver must know about a bundle.
    Inspect {
        /// The bundle.
        bundle: PathBuf,
    },
    /// Add an approver's signature to a bundle.
    Sign {
        /// The bundle; changed in place.
        bundle: PathBuf,
        /// The approver's key file.
        #[arg(long)]
        key: PathBuf,
    },
    /// Verify a bundle against the site's root of trust.
    Verify {
        /// The bundle.
        bundle: PathBuf,
    },
    /// Verify bundles, compile them and activate them.
    Load {
        /// The bundles.
        #[arg(required = true)]
        bundles: Vec<PathBuf>,
    },
    /// List the active plugins.
    List,
}

/// What kind of plugin.
#[derive(Clone, Copy, ValueEnum)]
pub enum Kind {
    Policy,
    Strategy,
    Agent,
}

#[derive(Subcommand)]
pub enum PolicyCommand {
    /// Evaluate the chain on a text. Exit code 3 when it denies.
    Eval {
        /// The text under decision.
        #[arg(long)]
        text: String,
        /// On whose behalf.
        #[arg(long = "as", value_name = "USER")]
        user: UserName,
        /// request, retrieval, action or response.
        #[arg(long, default_value = "request", value_parser = parse_phase)]
        phase: Phase,
        /// What is to be done.
        #[arg(long, default_value = "evaluate")]
        action: String,
        /// A further fact. May be repeated.
        #[arg(long, value_name = "NAME=VALUE")]
        attribute: Vec<String>,
    },
}

#[derive(Subcommand)]
pub enum AuditCommand {
    /// Print records, oldest first.
    Show {
        /// Only the last N.
        #[arg(long, value_name = "N")]
        last: Option<usize>,
    },
    /// Check every record against the signed tree, or one receipt. Needs neither the HSM nor the site's keys.
    Verify {
        /// A receipt to check instead of the whole log.
        #[arg(long, value_name = "FILE")]
        receipt: Option<PathBuf>,
        /// The log's public key, or a file that holds it; `log.vkey` of the site otherwise.
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
    },
}

#[derive(Subcommand)]
pub enum HsmCommand {
    /// Cut the primary token off in mid-batch, let the backup carry on, compare every ciphertext, and fail back.
    ///
    /// Runs on the tokens of [hsm] and [hsm.backup] in site.toml, with keys of its own that are destroyed at the end; the site may
    /// be in use. Exit code 4 when a value was lost or differs, or the primary does not come back.
    Drill(DrillOptions),
    /// Find out by doing what a token really enforces, on scratch objects. Exit code 4 when it must not hold keys.
    ///
    /// Without --module: the site's token; what is found is recorded in the audit log and kept, and a site whose token was
    /// exchanged or got other firmware opens again only after this. Lines that would lock the PIN or end the login are not
    /// tried on a token in use, and count as failed where the profile demands them: use --scratch.
    Probe(ProbeOptions),
}

#[derive(Args)]
pub struct DrillOptions {
    /// Drill on two new software tokens in a temporary folder instead of the site's.
    #[arg(long)]
    pub rehearsal: bool,
    /// Values to encrypt in each of the three passes.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(10..=1_000_000).map(|values| values as usize))]
    pub values: usize,
}

#[derive(Args)]
pub struct ProbeOptions {
    /// Probe this PKCS#11 module instead of the site's token; nothing is recorded.
    #[arg(long)]
    pub module: Option<PathBuf>,
    /// An environment variable the module reads, as NAME=VALUE. May be repeated.
    #[arg(long = "module-env", value_name = "NAME=VALUE", requires = "module")]
    pub module_env: Vec<String>,
    /// The string that some modules want at initialisation (NSS: `configDir=... flags=noModDB`).
    #[arg(long, value_name = "TEXT", requires = "module")]
    pub module_parameters: Option<String>,
    /// The token's label; needs --pin-file.
    #[arg(long, value_name = "LABEL", requires_all = ["module", "pin_file"])]
    pub token_label: Option<String>,
    /// A file that holds the user PIN; `pins/user` of the site otherwise.
    #[arg(long, value_name = "FILE")]
    pub pin_file: Option<PathBuf>,
    /// A file that holds the security officer's PIN; needed to probe --token-label as a scratch token.
    #[arg(long, value_name = "FILE", requires_all = ["token_label", "scratch"])]
    pub so_pin_file: Option<PathBuf>,
    /// Run every line, also those that lock PINs and change logins. With --token-label: on that token, which must hold
    /// nothing. Otherwise on a new token: in temporary storage for a software token, in a free slot for an HSM, which is
    /// initialised for it.
    #[arg(long)]
    pub scratch: bool,
    /// government, enterprise, rehearsal or development; the site's otherwise, or rehearsal.
    #[arg(long)]
    pub profile: Option<Profile>,
}

#[derive(Subcommand)]
pub enum FheCommand {
    /// Print every offered setting with its sizes and its error, computed from the parameters. Needs no site.
    Settings {
        /// Components of a vector, 1 to 4096.
        #[arg(long, default_value_t = 384)]
        dimension: usize,
    },
}

#[derive(Args)]
pub struct ServeOptions {
    /// Where to listen; loopback only.
    #[arg(long, default_value = "127.0.0.1:8470")]
    pub listen: SocketAddr,
}

fn parse_phase(text: &str) -> Result<Phase, String> {
    [Phase::Request, Phase::Retrieval, Phase::Action, Phase::Response]
        .into_iter()
        .find(|phase| phase.to_string() == text)
        .ok_or_else(|| "use request, retrieval, action or response".to_owned())
}

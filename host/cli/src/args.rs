use std::net::SocketAddr;
use std::path::PathBuf;

use casemate_types::{DecisionId, Phase, Profile, UserName};
use clap::builder::TypedValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::fips::FipsCommand;
use crate::keys::KeysCommand;
use crate::kit::KitCommand;

/// A policy-plugin host for sovereign, air-gapped AI.
///
/// Casemate answers questions over encrypted documents. Every request passes signed
/// WebAssembly policies, keys stay in an HSM, and every decision is in a log that shows
/// tampering.
///
/// A first walk:
///   casemate init                                  make a site: token, keys, users
///   for p in clearance disclosure nearest librarian; do
///     casemate bundle build plugins/$p             compile and pack a plugin
///     casemate bundle sign $p.casemate --key site/approvers/ana.key
///     casemate bundle sign $p.casemate --key site/approvers/bo.key
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
    /// The pipe with what custodians opened, from `custodian open`.
    #[arg(long, global = true, hide = true)]
    pub opened_fd: Option<u32>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Make a site: initialise a token, make keys in it, users and approvers. One person: a rehearsal.
    Init(InitOptions),
    /// Encrypt documents into the compartments you hold: JSON lines, or folders of Markdown, text, HTML and PDF.
    ///
    /// What is there already, unchanged, is left as it is: an ingest that was cut off is finished by the same command.
    Ingest(IngestOptions),
    /// Take the text out of HTML or PDF, standard input to standard output. Started by `ingest`.
    #[command(hide = true)]
    Extract {
        /// What it is.
        kind: crate::extract::Kind,
    },
    /// Write a compartment's collection anew as site.toml has it now: forms of metadata fields, keywords, clusters.
    Reindex(crate::reindex::ReindexOptions),
    /// Measure retrieval by judgements (BEIR, TREC): encrypted and plaintext search side by side.
    Eval(crate::evaluate::EvalOptions),
    /// Ask a question as a user of the site.
    Ask(AskOptions),
    /// What crosses the air gap: build, sign, inspect, verify and compare bundles; make approvers' keys, change the root of trust.
    #[command(subcommand)]
    Bundle(crate::bundle::args::BundleCommand),
    /// Write plugins, load their bundles, list what is active.
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Seal, sign and pack the offline install package that `cargo xtask kit` gathers.
    #[command(subcommand)]
    Kit(KitCommand),
    /// Bring changes in (receive, stage, approve, activate), and stop, resume, roll back and revoke by signed orders.
    #[command(subcommand)]
    Change(crate::change::ChangeCommand),
    /// Ask the policies about something, without an agent.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Read and verify the audit log.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Key ceremonies: check a plan, rehearse it, run it, go on after a crash, verify and print the transcript.
    #[command(subcommand)]
    Ceremony(crate::ceremony::args::CeremonyCommand),
    /// Custodians: make their keys, keep the roster, approve operations, guard the custody token.
    #[command(subcommand)]
    Custodian(crate::custodian::args::CustodianCommand),
    /// Look after the HSM that holds the keys.
    #[command(subcommand)]
    Hsm(HsmCommand),
    /// Users' and compartments' keys: list, add, issue, revoke, renew.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Whether the token is a validated module: judge, and keep the list of certificates.
    #[command(subcommand)]
    Fips(FipsCommand),
    /// Run published FF1 and FF3-1 test vectors through a token. Needs no site.
    Fpe(FpeOptions),
    /// Be the second pair of eyes on a log: cosign its checkpoints while it only grows.
    #[command(subcommand)]
    Witness(WitnessCommand),
    /// Encrypted search: what its settings cost; models over encrypted vectors.
    #[command(subcommand)]
    Fhe(FheCommand),
    /// The inference tier as a process of its own: serve it, and make certificates for it.
    #[command(subcommand)]
    Inference(crate::inference::args::InferenceCommand),
    /// Serve ask, policy evaluation and health over HTTP/JSON on loopback.
    Serve(ServeOptions),
}

#[derive(Args)]
pub struct InitOptions {
    /// A `site.toml` to start from; without it, a documented example is written.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// The custodians who found the site: asked before its keys are made, and from then on.
    #[arg(long, requires = "approval", requires = "config", value_name = "FILE")]
    pub roster: Option<PathBuf>,
    /// Their approval (operation found), whose subject is the digest of the file given with --config.
    #[arg(long, requires = "roster", value_name = "FILE")]
    pub approval: Option<PathBuf>,
    /// The PKCS#11 module that holds the keys; without it, the embedded software token.
    #[arg(long)]
    pub module: Option<PathBuf>,
    /// An environment variable the module reads, as NAME=VALUE; `{site}` stands for the site's folder. May be repeated.
    #[arg(long = "module-env", value_name = "NAME=VALUE")]
    pub module_env: Vec<String>,
    /// The PKCS#11 module of a second token, which takes over when the first is out of order; `embedded` for a second software token.
    #[arg(long, value_name = "MODULE", conflicts_with = "config")]
    pub backup: Option<PathBuf>,
    /// Take the keys of a ceremony with this transcript instead of making them; `--config` names the tokens.
    #[arg(long, value_name = "TRANSCRIPT", requires_all = ["config", "ceremony_plan", "ceremony_site"])]
    pub from_ceremony: Option<PathBuf>,
    /// The plan that the ceremony carried out.
    #[arg(long, value_name = "PLAN", requires = "from_ceremony")]
    pub ceremony_plan: Option<PathBuf>,
    /// The site in whose audit log the ceremony was recorded.
    #[arg(long, value_name = "DIR", requires = "from_ceremony")]
    pub ceremony_site: Option<PathBuf>,
    /// The roster of the ceremony's custodians; that of --ceremony-site otherwise.
    #[arg(long, value_name = "FILE", requires = "from_ceremony")]
    pub ceremony_roster: Option<PathBuf>,
    /// A file that holds the user PIN of the ceremony's token `primary`; asked for at the terminal otherwise.
    #[arg(long, value_name = "FILE", requires = "from_ceremony")]
    pub pin_file: Option<PathBuf>,
    /// The same of its token `backup`.
    #[arg(long, value_name = "FILE", requires = "from_ceremony")]
    pub backup_pin_file: Option<PathBuf>,
    /// An environment variable the backup's module reads, as NAME=VALUE. May be repeated.
    #[arg(long = "backup-env", value_name = "NAME=VALUE", requires = "backup")]
    pub backup_env: Vec<String>,
    /// The people whose two signatures a bundle needs.
    #[arg(long, value_delimiter = ',', default_value = "ana,bo")]
    pub approvers: Vec<String>,
    /// The folder of the sentence model (`model.safetensors`, `tokenizer.json`).
    #[arg(long, value_name = "DIR")]
    pub model_dir: Option<PathBuf>,
}

#[derive(Args)]
pub struct IngestOptions {
    /// JSON-lines files (`.jsonl`: documents, or BEIR's corpus), or Markdown, text, HTML and PDF files, or folders of them.
    #[arg(required_unless_present = "delete")]
    pub paths: Vec<PathBuf>,
    /// Who ingests; must hold the compartments' keys.
    #[arg(long = "as", value_name = "USER")]
    pub user: UserName,
    /// For all but our own JSON lines: the compartment.
    #[arg(long)]
    pub compartment: Option<String>,
    /// For all but our own JSON lines: the classification.
    #[arg(long, default_value = "internal")]
    pub label: String,
    /// Leave out HTML and PDF files that hold no readable text, and say which, instead of ingesting nothing.
    #[arg(long)]
    pub skip_unreadable: bool,
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
    /// Only passages whose metadata meet this: FIELD=VALUE, 'FIELD in A,B', 'FIELD>=VALUE' or 'FIELD<=VALUE' (integers and dates).
    /// May be repeated; all must hold.
    #[arg(long = "where", visible_alias = "filter", value_name = "CONDITION")]
    pub conditions: Vec<String>,
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
        /// The guest SDK: its sources, or the local registry `sdk` of a kit; found beside this program or above the current folder otherwise.
        #[arg(long)]
        sdk: Option<PathBuf>,
    },
    /// Compile a plugin's folder to a component and nothing else. Needs no site.
    Component {
        /// The plugin's folder.
        dir: PathBuf,
        /// The file to write.
        #[arg(long)]
        out: PathBuf,
        /// A local registry, such as `sdk` of a kit, in the place of all registries.
        #[arg(long, value_name = "FOLDER")]
        registry: Option<PathBuf>,
        /// Ask nothing of a network, and take the lock file as it is.
        #[arg(long)]
        offline: bool,
    },
    /// Compile sources afresh and offline, and compare with a bundle's component. Exit code 4 when they differ.
    Rebuild {
        /// The bundle, or a component in a file.
        bundle: PathBuf,
        /// The plugin's folder, with its lock file.
        source: PathBuf,
        /// A local registry, such as `sdk` of a kit, in the place of all registries.
        #[arg(long, value_name = "FOLDER")]
        registry: Option<PathBuf>,
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
    /// Print records, oldest first; with --json as JSON lines.
    ///
    /// Records are looked up in an index beside a log of 100,000 records or more. Nothing authenticates the index: whoever can write to
    /// `index/` of the site can hide records from it, but not invent any. --no-index looks at every record, and so does a smaller log.
    Show(ShowOptions),
    /// Check every record against the signed tree, or one receipt, or an export. Needs neither the HSM nor the site's keys.
    Verify {
        /// A receipt to check instead of the whole log.
        #[arg(long, value_name = "FILE", conflicts_with = "export")]
        receipt: Option<PathBuf>,
        /// An export to check instead of the whole log.
        #[arg(long, value_name = "FILE")]
        export: Option<PathBuf>,
        /// The log's public key, or a file that holds it; `log.vkey` of the site otherwise.
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
        /// Ask besides that this witness has cosigned a checkpoint of this very log: its public key, or a file that holds it.
        #[arg(long, value_name = "KEY", conflicts_with = "receipt")]
        witness: Option<String>,
    },
    /// Write hashes, checkpoint, keys, policy and records into one file that an auditor checks without this program.
    Export {
        /// The file to write.
        file: PathBuf,
        /// The first record whose content is wanted.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// One past the last; everything signed otherwise.
        #[arg(long)]
        to: Option<u64>,
    },
    /// Write the receipt (`.tlog-proof`) of one record.
    Receipt {
        /// The record's index.
        index: u64,
        /// The file to write.
        file: PathBuf,
    },
    /// Erase what is kept beside the log about a decision or a person. The log still verifies.
    #[command(group = clap::ArgGroup::new("whom").required(true))]
    Erase {
        /// The decision whose recordings are erased.
        #[arg(long, group = "whom")]
        decision: Option<DecisionId>,
        /// The user whose pseudonym is to name nobody any more.
        #[arg(long, group = "whom")]
        person: Option<UserName>,
        /// Why, for the record.
        #[arg(long)]
        reason: String,
    },
    /// Move old records, in whole segments of 65,536, into an archive. Their hashes stay.
    Seal {
        /// Only records before this index.
        #[arg(long, value_name = "INDEX")]
        before: u64,
        /// The archive to write: an export.
        archive: PathBuf,
    },
    /// Make a new signing key in the token and hand the log over to it.
    RotateKey {
        #[command(flatten)]
        consent: crate::keys::Consent,
    },
}

/// The kinds of records. A misspelt one would look like a log without such records.
const EVENTS: [&str; 11] = [
    "answer",
    "bundle",
    "decision",
    "erasure",
    "ingest",
    "key-operation",
    "log-key",
    "run",
    "segment",
    "session",
    "site",
];

/// Which records to print. A record must meet every option.
#[derive(Args)]
pub struct ShowOptions {
    /// Only the last N.
    #[arg(long, value_name = "N")]
    pub last: Option<usize>,
    /// Not before: RFC 3339, or `90s`, `15m`, `2h`, `3d` ago.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub since: Option<u64>,
    /// Before.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub until: Option<u64>,
    /// The kind, for instance `decision`, `answer`, `key-operation`, `session`, `bundle`.
    #[arg(long, value_parser = EVENTS)]
    pub event: Option<String>,
    /// The user it concerns.
    #[arg(long)]
    pub user: Option<String>,
    /// The policy that decided.
    #[arg(long)]
    pub policy: Option<String>,
    /// `allow`, `deny` or `transform`.
    #[arg(long, value_parser = ["allow", "deny", "transform"])]
    pub decision: Option<String>,
    /// Identifier of the key that was used.
    #[arg(long)]
    pub key: Option<String>,
    /// Digest of the component or bundle (`sha256:...`).
    #[arg(long)]
    pub component: Option<String>,
    /// The generation.
    #[arg(long)]
    pub generation: Option<u64>,
    /// The reason code.
    #[arg(long)]
    pub reason: Option<String>,
    /// Go on with new records as they come.
    #[arg(long)]
    pub follow: bool,
    /// Walk over the log instead of asking the index beside it, which could hide records.
    #[arg(long)]
    pub no_index: bool,
}

#[derive(Subcommand)]
pub enum WitnessCommand {
    /// Make a witness: its folder, its name and its key.
    Init {
        /// The witness's folder, on the second custodian's machine or account.
        dir: PathBuf,
        /// Its name, for instance `witness.example/second-custodian`.
        #[arg(long)]
        name: String,
        /// Make the key in a token through this PKCS#11 module; without it, in a file of the folder.
        #[arg(long, requires = "token_label", requires = "pin_file")]
        module: Option<PathBuf>,
        /// An environment variable the module reads, as NAME=VALUE; `{site}` stands for the witness's folder. May be repeated.
        #[arg(long = "module-env", value_name = "NAME=VALUE", requires = "module")]
        module_env: Vec<String>,
        /// The label of the token; it must be initialised.
        #[arg(long, requires = "module")]
        token_label: Option<String>,
        /// A file with the token's user PIN.
        #[arg(long)]
        pin_file: Option<PathBuf>,
    },
    /// Make a log known, by its verifier key. The next key of a log that is known needs the log's hand-over.
    AddLog {
        /// The witness's folder.
        dir: PathBuf,
        /// The key, or a file that holds it (`log.vkey`).
        key: String,
        /// The log's file `log/pinned`, in which the key known here hands over to this one.
        #[arg(long, value_name = "FILE")]
        hand_over: Option<PathBuf>,
        /// A file with the token's user PIN.
        #[arg(long)]
        pin_file: Option<PathBuf>,
    },
    /// Answer the requests in a folder once, for instance on removable media.
    Cosign {
        /// The witness's folder.
        dir: PathBuf,
        /// The folder with requests.
        folder: PathBuf,
        /// A file with the token's user PIN.
        #[arg(long)]
        pin_file: Option<PathBuf>,
    },
    /// Answer requests until stopped: over a Unix socket, or in a folder.
    #[command(group = clap::ArgGroup::new("where").required(true))]
    Serve {
        /// The witness's folder.
        dir: PathBuf,
        /// The socket to make.
        #[arg(long, group = "where")]
        socket: Option<PathBuf>,
        /// The folder to watch.
        #[arg(long, group = "where")]
        folder: Option<PathBuf>,
        /// A file with the token's user PIN.
        #[arg(long)]
        pin_file: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
pub enum HsmCommand {
    /// Cut the primary token off in mid-batch, let the backup carry on, compare every ciphertext, and fail back.
    ///
    /// Runs on the tokens of [hsm] and [hsm.backup] in site.toml, with keys of its own that are destroyed at the end; the site may
    /// be in use. Exit code 4 when a value was lost or differs, or the primary does not come back.
    Drill(DrillOptions),
    /// Initialise a blank token: label, security officer's PIN and user's PIN. Needs no site; a token that is in use is refused.
    ///
    /// PINs are asked for at the terminal, twice, or read from files or file descriptors; never from the command line. Called again
    /// with the same officer's PIN, it finishes a token that was cut off before it got its user's PIN.
    InitToken(InitTokenOptions),
    /// Find out by doing what a token really enforces, on scratch objects. Exit code 4 when it must not hold keys.
    ///
    /// Without --module: the site's token; what is found is recorded in the audit log and kept, and a site whose token was
    /// exchanged or got other firmware opens again only after this. Lines that would lock the PIN or end the login are not
    /// tried on a token in use, and count as failed where the profile demands them: use --scratch.
    Probe(ProbeOptions),
    /// Log in to both tokens of the site's pair, check every key, and say which of them serve. Exit code 4 unless both do.
    ///
    /// The site may be in use; what the process that serves it sees is in /v1/health.
    Status,
}

#[derive(Args)]
pub struct InitTokenOptions {
    /// The PKCS#11 module; `embedded` for the software token beside this program.
    #[arg(long)]
    pub module: PathBuf,
    /// An environment variable the module reads, as NAME=VALUE. May be repeated.
    #[arg(long = "module-env", value_name = "NAME=VALUE")]
    pub module_env: Vec<String>,
    /// The token's new label: 1 to 32 printable ASCII characters.
    #[arg(long)]
    pub label: String,
    /// The serial number of the token that is meant; the first blank one otherwise.
    #[arg(long)]
    pub serial: Option<String>,
    /// A file that holds the security officer's PIN.
    #[arg(long, value_name = "FILE", conflicts_with = "so_pin_fd")]
    pub so_pin_file: Option<PathBuf>,
    /// An open file descriptor from which the security officer's PIN is read.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(3..))]
    pub so_pin_fd: Option<u32>,
    /// A file that holds the user's PIN.
    #[arg(long, value_name = "FILE", conflicts_with = "pin_fd")]
    pub pin_file: Option<PathBuf>,
    /// An open file descriptor from which the user's PIN is read.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(3..))]
    pub pin_fd: Option<u32>,
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
    /// Probe the site's backup token instead of its primary.
    #[arg(long, conflicts_with = "module")]
    pub backup: bool,
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
    /// Classify texts with a linear or logistic model, their vectors encrypted: the tier multiplies, the owner reads the logits.
    Classify(crate::classify::ClassifyOptions),
    /// Encrypt the weights of a model for a compartment, so that the tier cannot read them either.
    EncryptModel(crate::classify::EncryptOptions),
    /// Train a logistic model on labelled texts with the site's embedder.
    Train(crate::classify::TrainOptions),
    /// Print every offered setting with its sizes and its error, computed from the parameters. Needs no site.
    Settings {
        /// Components of a vector, 1 to 4096.
        #[arg(long, default_value_t = 384)]
        dimension: usize,
    },
}

#[derive(Args)]
pub struct FpeOptions {
    /// The files of one ACVP vector set: internalProjection.json, or prompt.json and expectedResults.json.
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub vectors: Vec<PathBuf>,
    /// The PKCS#11 module to run them in; without it, a scratch token of the embedded module. The keys of the vectors are
    /// imported as session objects and destroyed again.
    #[arg(long, requires_all = ["token_label", "pin_file"])]
    pub module: Option<PathBuf>,
    /// The label of the module's token.
    #[arg(long, value_name = "LABEL", requires = "module")]
    pub token_label: Option<String>,
    /// A file that holds the PIN of the token's user.
    #[arg(long, value_name = "FILE", requires = "module")]
    pub pin_file: Option<PathBuf>,
    /// An environment variable the module reads, as NAME=VALUE. May be repeated.
    #[arg(long = "module-env", value_name = "NAME=VALUE", requires = "module")]
    pub module_env: Vec<String>,
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

/// Milliseconds since 1970 of a time, or of so long ago.
fn parse_time(text: &str) -> Result<u64, String> {
    let wrong = || "use RFC 3339 (2026-01-31T08:00:00Z), or so long ago: 90s, 15m, 2h, 3d".to_owned();
    let ms = match text.parse::<jiff::Timestamp>() {
        Ok(time) => time.as_millisecond(),
        Err(_) => {
            let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
            let number: i64 = number.parse().map_err(|_| wrong())?;
            let seconds = match unit {
                "s" => 1,
                "m" => 60,
                "h" => 3600,
                "d" => 86_400,
                _ => return Err(wrong()),
            };
            let ago = number.checked_mul(seconds * 1000).filter(|ago| *ago >= 0).ok_or_else(wrong)?;
            jiff::Timestamp::now().as_millisecond() - ago
        }
    };
    u64::try_from(ms).map_err(|_| wrong())
}

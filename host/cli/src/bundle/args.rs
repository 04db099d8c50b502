use std::path::PathBuf;

use casemate_types::Digest;
use clap::{Args, Subcommand};

#[derive(Subcommand)]
pub enum BundleCommand {
    /// Compile a plugin's folder to a component and pack it, unsigned, with manifest, settings and evidence.
    ///
    /// A folder whose manifest.toml says `kind` holds a document instead: settings, policy-set, people, model or host-kit.
    Build(BuildOptions),
    /// Add an approver's signature to a bundle.
    Sign {
        /// The bundle; changed in place.
        bundle: PathBuf,
        #[command(flatten)]
        key: KeyOptions,
    },
    /// Show what an approver must know about a bundle, and what it changes at this site.
    Inspect {
        /// The bundle.
        bundle: PathBuf,
    },
    /// Verify a bundle against the site's root of trust.
    Verify {
        /// The bundle.
        bundle: PathBuf,
    },
    /// Show what changes from one bundle to another.
    Diff {
        /// The one that is replaced.
        old: PathBuf,
        /// The one that replaces it.
        new: PathBuf,
    },
    /// Make an approver's key, encrypted under a passphrase or in a token, and print its public half.
    Key(NewKeyOptions),
    /// Change who may approve: draft, sign and accept the next root of trust.
    #[command(subcommand)]
    TrustRoot(RootCommand),
}

#[derive(Args)]
pub struct BuildOptions {
    /// The folder of the plugin or the document.
    pub dir: PathBuf,
    /// The bundle to write; `NAME.casemate` otherwise.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// The bundle's version; must rise with every change.
    #[arg(long, default_value_t = 1)]
    pub bundle_version: u64,
    /// Days until the signatures expire.
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub valid_days: u32,
    /// The moment at which the signatures expire instead, such as 2027-06-01T00:00:00Z: two builders then get the same bytes.
    #[arg(long, value_name = "TIME", conflicts_with = "valid_days")]
    pub expires: Option<jiff::Timestamp>,
    /// Use a component that is compiled already. No provenance and no bill of materials are made then.
    #[arg(long, value_name = "FILE")]
    pub component: Option<PathBuf>,
    /// Further evidence, an in-toto statement in a DSSE envelope about the component. May be repeated.
    #[arg(long, value_name = "FILE")]
    pub evidence: Vec<PathBuf>,
    /// The digest of the component that this one is to take the place of.
    #[arg(long, value_name = "DIGEST")]
    pub replaces: Option<Digest>,
}

#[derive(Args)]
pub struct KeyOptions {
    /// The approver's key file. It may name a key in a token.
    #[arg(long)]
    pub key: PathBuf,
    /// Read the passphrase, or the token's PIN, from this file descriptor instead of the terminal.
    #[arg(long, value_name = "N")]
    pub passphrase_fd: Option<u32>,
}

#[derive(Args)]
pub struct NewKeyOptions {
    /// The approver's name.
    pub name: String,
    /// The file to write.
    #[arg(long)]
    pub out: PathBuf,
    /// ECDSA on P-256 instead of Ed25519.
    #[arg(long)]
    pub p256: bool,
    /// Make the key in the approver's own token, behind this PKCS#11 module; `embedded` for the software token beside this program.
    #[arg(long, value_name = "MODULE", requires = "token_label")]
    pub token: Option<PathBuf>,
    /// An environment variable the module reads, as NAME=VALUE. May be repeated.
    #[arg(long = "module-env", value_name = "NAME=VALUE", requires = "token")]
    pub module_env: Vec<String>,
    /// The label of the token; it must be initialised.
    #[arg(long, value_name = "LABEL", requires = "token")]
    pub token_label: Option<String>,
    /// Read the passphrase, or the token's PIN, from this file descriptor instead of the terminal.
    #[arg(long, value_name = "N")]
    pub passphrase_fd: Option<u32>,
}

#[derive(Subcommand)]
pub enum RootCommand {
    /// Print the approvers of the pinned root, or of a root file.
    Show {
        /// A root file instead of the site's.
        root: Option<PathBuf>,
    },
    /// Write the next root, unsigned: the approvers of today, with some added and some taken out.
    Draft {
        /// The file to write.
        #[arg(long)]
        out: PathBuf,
        /// An approver to add or whose key to replace, as NAME=KEY with the key that `bundle key` printed. May be repeated.
        #[arg(long, value_name = "NAME=KEY")]
        add: Vec<String>,
        /// An approver to take out. May be repeated.
        #[arg(long, value_name = "NAME")]
        remove: Vec<String>,
        /// Days until the root expires.
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
        valid_days: u32,
    },
    /// Add the signature of an approver, of the old root or the new one, to a drafted root.
    Sign {
        /// The root; changed in place.
        root: PathBuf,
        #[command(flatten)]
        key: KeyOptions,
    },
    /// Pin the next root: two approvers of the old one and two of the new one must have signed it.
    Accept {
        /// The root.
        root: PathBuf,
    },
}

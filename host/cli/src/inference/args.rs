//! `casemate inference ...` on the command line.

use std::path::PathBuf;

use casemate_tier::Endpoint;
use clap::{Args, Subcommand};

#[derive(Subcommand)]
pub enum InferenceCommand {
    /// Be the inference tier: keep ciphertext and score it, without any key that opens something.
    ///
    /// Binds its sockets, closes the network and the file system to itself but for them and its store, and answers until stopped.
    Serve(ServeOptions),
    /// Write the store that a tier keeps to a file: ciphertext, with a checksum.
    Export(MoveOptions),
    /// Fill a tier's empty store, on whatever back end, from such a file.
    Import(MoveOptions),
    /// Certificates of gates and tiers, from an authority of the site's own in a folder that stays offline.
    #[command(subcommand)]
    Ca(CaCommand),
    /// Dial tiers for a process that is locked down. Started by the other commands; the socket to it is its standard input.
    #[command(hide = true)]
    Dial {
        /// The endpoints; nothing else is dialled.
        endpoints: Vec<Endpoint>,
    },
}

#[derive(Args)]
#[command(group = clap::ArgGroup::new("where").required(true).args(["store", "backend", "store_of"]))]
#[command(group = clap::ArgGroup::new("how").required(true).multiple(true).args(["unix", "tls"]))]
pub struct ServeOptions {
    /// The folder in which the store is kept; made if it is not there.
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
    /// The file that says which database keeps the store (docs/operating.md, "Stores"). Several tiers may share one.
    #[arg(long, value_name = "FILE")]
    pub backend: Option<PathBuf>,
    /// Keep no store, only score: groups are read from this tier.
    #[arg(long, value_name = "ENDPOINT")]
    pub store_of: Option<Endpoint>,
    /// The Unix socket to make. Whoever can open it is taken for a gate: keep it in a folder that only the gate's account can enter.
    #[arg(long, value_name = "SOCKET")]
    pub unix: Option<PathBuf>,
    /// The address to listen on with mutual TLS, as IP:PORT.
    #[arg(long, value_name = "ADDRESS", requires = "certificates")]
    pub tls: Option<std::net::SocketAddr>,
    /// The folder with ca.pem, revoked.pem, and NAME.pem and NAME.key of this tier.
    #[arg(long, value_name = "DIR")]
    pub certificates: Option<PathBuf>,
    /// The name of this tier's certificate.
    #[arg(long, default_value = "tier")]
    pub name: String,
    /// Memory for groups in the form they are scored in.
    #[arg(long, default_value = "2 GiB", value_parser = parse_memory)]
    pub memory: casemate_gate::MemorySize,
    /// Connections in all.
    #[arg(long, default_value_t = 128)]
    pub connections: usize,
    /// Connections of one client.
    #[arg(long, default_value_t = 32)]
    pub per_client: usize,
    /// Queries scored at the same time; 64 more wait, at most ten seconds.
    #[arg(long, default_value_t = 2)]
    pub scoring: usize,
}

#[derive(Args)]
pub struct MoveOptions {
    /// The tier that keeps the store.
    #[arg(value_name = "ENDPOINT")]
    pub tier: Endpoint,
    /// The file; an export replaces none.
    pub file: PathBuf,
    /// For `tls:`: the folder with ca.pem, revoked.pem, gate.pem and gate.key.
    #[arg(long, value_name = "DIR")]
    pub certificates: Option<PathBuf>,
}

#[derive(Subcommand)]
pub enum CaCommand {
    /// Make the authority.
    Init {
        /// Its folder, which stays offline.
        folder: PathBuf,
        /// Its name, as it stands in certificates.
        #[arg(long, default_value = "casemate inference tier")]
        name: String,
    },
    /// Issue a certificate and its key into a folder that is carried to the gate or tier.
    #[command(group = clap::ArgGroup::new("part").required(true).args(["gate", "tier"]))]
    Issue {
        /// The authority's folder.
        #[arg(long)]
        ca: PathBuf,
        /// For a gate.
        #[arg(long)]
        gate: bool,
        /// For a tier.
        #[arg(long)]
        tier: bool,
        /// Its name; the files are NAME.pem and NAME.key. A gate looks for `gate`, a tier for `tier` unless told otherwise.
        #[arg(long, default_value_if("gate", "true", "gate"), default_value_if("tier", "true", "tier"))]
        name: Option<String>,
        /// A name or address that gates reach the tier by. May be repeated.
        #[arg(long = "host", requires = "tier")]
        hosts: Vec<String>,
        /// How long it holds, in days.
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
        /// The folder to write into.
        #[arg(long)]
        out: PathBuf,
    },
    /// Revoke the certificates of a name; carry the new revoked.pem to every gate and tier.
    Revoke {
        /// The authority's folder.
        #[arg(long)]
        ca: PathBuf,
        /// The name.
        name: String,
    },
}

fn parse_memory(text: &str) -> Result<casemate_gate::MemorySize, String> {
    text.to_owned().try_into()
}

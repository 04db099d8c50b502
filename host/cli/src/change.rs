mod cycle;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use casemate_bundle::TrustRoot;
use casemate_change::{MAX_ORDER, Order, OrderFile, Scope};
use casemate_gate::{Gate, GateError, Request, SiteConfig};
use casemate_types::{Digest, PluginName};
use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};

use crate::bundle::args::KeyOptions;
use crate::bundle::signer;
use crate::failure::Failure;
use crate::{environment, output};

/// Orders are signed with the key files of the people in the site's root of trust. To close takes one of them, to open two:
/// `resume` and `rollback` write an order that the first has signed; the second signs it with `sign`, and `submit` carries it
/// out. Where the site is served, the server carries it out at once.
#[derive(Subcommand)]
pub enum ChangeCommand {
    /// Take in a signed bundle that a user of the site asks for.
    Receive(cycle::ReceiveOptions),
    /// Show every change that was received and how far each has come.
    List,
    /// Show one change with its staging report, and the digest that an approver signs.
    Show {
        /// The change, as `list` shows it, or the first digits of it.
        change: String,
    },
    /// Replay what the site was asked with the component that answered and with the new one, and write the report.
    Stage {
        /// The change, as `list` shows it, or the first digits of it.
        change: String,
    },
    /// Let the new component run beside the active one in a running server, without effect; or say what it would have done.
    Shadow(cycle::ShadowOptions),
    /// Approve exactly what `show` showed.
    Approve(cycle::ApproveOptions),
    /// Make a change active that two people approved. Where the site is served, the server does it.
    Activate {
        /// The change, as `list` shows it, or the first digits of it.
        change: String,
    },
    /// Show what is active, what is stopped, and which bundles can come back.
    Status,
    /// Deny at once. One custodian.
    ///
    /// Example: casemate change stop --everything --reason "suspected leak" --key site/approvers/ana.key
    Stop {
        #[command(flatten)]
        scope: ScopeArguments,
        #[command(flatten)]
        by: Signing,
    },
    /// Write the order that lifts a stop; a second custodian has to sign it.
    ///
    /// Example: casemate change resume --everything --reason "looked into" --key site/approvers/ana.key --out resume.order
    Resume {
        #[command(flatten)]
        scope: ScopeArguments,
        #[command(flatten)]
        by: Signing,
        #[command(flatten)]
        out: Out,
    },
    /// Write the order that brings back a bundle that was active before; a second custodian has to sign it.
    ///
    /// Example: casemate change rollback clearance --reason "denies too much" --key site/approvers/ana.key --out back.order
    Rollback {
        /// The plugin.
        name: PluginName,
        /// The bundle to come back, `sha256:...`; else the one with the highest version below the active one.
        #[arg(long)]
        to: Option<Digest>,
        #[command(flatten)]
        by: Signing,
        #[command(flatten)]
        out: Out,
    },
    /// Take a bundle out of use for ever. One custodian.
    Revoke {
        /// The bundle, `sha256:...`, as `status` and `bundle inspect` show it.
        bundle: Digest,
        #[command(flatten)]
        by: Signing,
    },
    /// Show an order and add a signature to it.
    Sign {
        /// The order.
        order: PathBuf,
        #[command(flatten)]
        key: KeyOptions,
    },
    /// Carry out an order that enough people have signed.
    Submit {
        /// The order.
        order: PathBuf,
    },
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct ScopeArguments {
    /// Every request.
    #[arg(long)]
    everything: bool,
    /// Whatever needs this plugin. A stopped policy denies every request: a chain without it is none.
    #[arg(long, value_name = "NAME")]
    component: Option<PluginName>,
}

#[derive(Args)]
pub struct Signing {
    /// Why, on one line: it goes into the log.
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    key: KeyOptions,
}

#[derive(Args)]
pub struct Out {
    /// Where to write the order.
    #[arg(long)]
    out: PathBuf,
    /// Hours in which it can be carried out.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u16).range(1..=720))]
    hours: u16,
}

pub fn run(site: &Path, command: ChangeCommand, json: bool) -> Result<ExitCode, Failure> {
    environment::require_site(site)?;
    match command {
        ChangeCommand::Receive(options) => cycle::receive(site, &options, json),
        ChangeCommand::List => cycle::list(site, json),
        ChangeCommand::Show { change } => cycle::show(site, &change, json),
        ChangeCommand::Stage { change } => cycle::stage(site, &change, json),
        ChangeCommand::Shadow(options) => cycle::shadow(site, &options, json),
        ChangeCommand::Approve(options) => cycle::approve(site, &options, json),
        ChangeCommand::Activate { change } => cycle::activate(site, &change, json),
        ChangeCommand::Status => status(site, json),
        ChangeCommand::Stop { scope, by } => {
            let order = Order::Stop { scope: scope.into(), reason: by.reason.clone(), at: Timestamp::now() };
            submit(site, &signed(site, order, &by)?.to_bytes()?, json)
        }
        ChangeCommand::Revoke { bundle, by } => {
            let order = Order::Revoke { bundle, reason: by.reason.clone(), at: Timestamp::now() };
            submit(site, &signed(site, order, &by)?.to_bytes()?, json)
        }
        ChangeCommand::Resume { scope, by, out } => {
            let scope = Scope::from(scope);
            let standing = casemate_gate::standing_of(site)?;
            let stop = standing.stops.get(&scope).copied();
            let stop =
                stop.ok_or_else(|| Failure::new(format!("`{scope}` is not stopped")).hint("casemate change status"))?;
            let order = Order::Resume { scope, stop, reason: by.reason.clone(), expires: expires(out.hours)? };
            write_new(site, order, &by, &out.out, json)
        }
        ChangeCommand::Rollback { name, to, by, out } => {
            let standing = casemate_gate::standing_of(site)?;
            let active = standing.active.entries.get(&name);
            let active = active.ok_or_else(|| Failure::new(format!("no plugin `{name}` is active")))?;
            let before = || {
                let known = standing.history.get(&name)?.iter();
                let older =
                    known.filter(|(bundle, version)| **version < active.version && !standing.revoked.contains(*bundle));
                older.max_by_key(|(_, version)| **version).map(|(bundle, _)| *bundle)
            };
            let to = to.or_else(before);
            let to = to.ok_or_else(|| Failure::new(format!("no older bundle of `{name}` was active here")))?;
            let (from, reason) = (active.bundle_digest, by.reason.clone());
            let order = Order::Rollback { name, from, to, reason, expires: expires(out.hours)? };
            write_new(site, order, &by, &out.out, json)
        }
        ChangeCommand::Sign { order: path, key } => {
            let mut file = OrderFile::parse(&read(&path)?)?;
            let order = file.order()?;
            file.sign(&signer(site, &key)?)?;
            fs::write(&path, file.to_bytes()?).map_err(|error| cannot("write", &path, &error))?;
            said(&order, &path, json)
        }
        ChangeCommand::Submit { order } => submit(site, &read(&order)?, json),
    }
}

/// Carried out here, or by the process that has the site open.
fn submit(site: &Path, bytes: &[u8], json: bool) -> Result<ExitCode, Failure> {
    environment::prepare(site)?;
    environment::lock_down()?;
    let done = environment::block_on(async {
        match Gate::open_without_plugins(site) {
            Ok(gate) => Ok(gate.carry_out_order(bytes).await.map(|done| serde_json::json!(done))?),
            Err(GateError::InUse { .. }) => Ok(casemate_gate::ask_beside(site, Request::Order, bytes)?),
            Err(error) => Err(Failure::from(error)),
        }
    })?;
    if json {
        output::json(&done)?;
    } else {
        let word = |name: &str| done[name].as_str().unwrap_or_default().to_owned();
        let (action, what) = (word("action"), word("what"));
        output::line(&format!(
            "{what} is {action}. It is in the log, and stays so whatever happens to files of the site."
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn status(site: &Path, json: bool) -> Result<ExitCode, Failure> {
    let standing = casemate_gate::standing_of(site)?;
    if json {
        output::json(&standing)?;
        return Ok(ExitCode::SUCCESS);
    }
    output::line(&format!("generation {}, as the audit log has it", standing.active.generation))?;
    for (name, entry) in &standing.active.entries {
        let state = if standing.denies(name, entry.bundle_digest) { "  STOPPED" } else { "" };
        output::line(&format!("  {name} {} {}{state}", entry.version, entry.bundle_digest))?;
    }
    for (scope, order) in &standing.stops {
        output::line(&format!("stopped: {scope} by order {order}"))?;
    }
    for (name, bundles) in &standing.history {
        let active = standing.active.entries.get(name).map(|entry| entry.bundle_digest);
        for (bundle, version) in bundles.iter().filter(|(bundle, _)| Some(**bundle) != active) {
            let state = if standing.revoked.contains(bundle) { "revoked" } else { "can come back" };
            output::line(&format!("before: {name} {version} {bundle} {state}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write_new(site: &Path, order: Order, by: &Signing, out: &Path, json: bool) -> Result<ExitCode, Failure> {
    let file = signed(site, order.clone(), by)?;
    let mut created = fs::File::create_new(out).map_err(|error| cannot("create", out, &error))?;
    std::io::Write::write_all(&mut created, &file.to_bytes()?).map_err(|error| cannot("write", out, &error))?;
    said(&order, out, json)
}

fn said(order: &Order, path: &Path, json: bool) -> Result<ExitCode, Failure> {
    if json {
        output::json(&serde_json::json!({ "order": order, "file": path, "needed": order.threshold() }))?;
    } else {
        let text = serde_json::to_string_pretty(order).unwrap_or_default();
        output::line(&format!(
            "{text}\nsigned. With {} different signatures: casemate change submit {}",
            order.threshold(),
            path.display()
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn signed(site: &Path, order: Order, by: &Signing) -> Result<OrderFile, Failure> {
    let path = site.join("trust/root.json");
    let trust = TrustRoot::parse(&fs::read(&path).map_err(|error| cannot("read", &path, &error))?)?;
    let mut file = OrderFile::new(order, &SiteConfig::read(site)?.name, &trust)?;
    file.sign(&signer(site, &by.key)?)?;
    Ok(file)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let size = fs::metadata(path).map_err(|error| cannot("read", path, &error))?.len();
    if size > MAX_ORDER as u64 {
        return Err(Failure::new(format!("{} is larger than an order can be", path.display())));
    }
    fs::read(path).map_err(|error| cannot("read", path, &error))
}

fn expires(hours: u16) -> Result<Timestamp, Failure> {
    let at = Timestamp::now().checked_add(SignedDuration::from_hours(i64::from(hours)));
    at.map_err(|error| Failure::caused_by("no such time", &error))
}

fn cannot(action: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::caused_by(format!("cannot {action} {}", path.display()), error)
}

impl From<ScopeArguments> for Scope {
    fn from(arguments: ScopeArguments) -> Self {
        arguments.component.map_or(Self::Everything, Self::Component)
    }
}

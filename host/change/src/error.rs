use std::path::PathBuf;

use casemate_bundle::BundleError;
use casemate_types::{Digest, PluginName};
use jiff::Timestamp;

/// Why a change was refused, or why the site's state cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// A stored bundle is not the one that was activated.
    #[error("the stored bundle of `{name}` was altered (`{file}`); put the original back or activate a new bundle")]
    BundleAltered {
        /// The plugin.
        name: PluginName,
        /// The file, relative to the store.
        file: String,
    },
    /// A stored bundle is gone.
    #[error("the stored bundle of `{name}` is missing (`{file}`); put it back or activate a new bundle")]
    BundleMissing {
        /// The plugin.
        name: PluginName,
        /// The file, relative to the store.
        file: String,
    },
    /// A stored, unaltered bundle no longer verifies, for instance because it expired.
    #[error("the active bundle of `{name}` is refused")]
    BundleRefused {
        /// The plugin.
        name: PluginName,
        /// The cause.
        #[source]
        source: BundleError,
    },
    /// The generation counter is exhausted.
    #[error("the generation counter is exhausted: the site's state must be set up anew")]
    GenerationsExhausted,
    /// Reading or writing the store failed.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Another process is changing the store.
    #[error("another process is changing the store `{}`; try again when it is done", path.display())]
    Locked {
        /// The store.
        path: PathBuf,
    },
    /// Nothing of that name is active.
    #[error("no plugin `{name}` is active")]
    NotActive {
        /// The plugin.
        name: PluginName,
    },
    /// The raw bytes are not the ones that were verified.
    #[error("the bytes offered are not the bundle that was verified ({verified}, but {offered} was offered)")]
    NotTheVerifiedBytes {
        /// What was verified.
        verified: Digest,
        /// What the bytes are.
        offered: Digest,
    },
    /// An older version than the site has seen.
    #[error(
        "`{name}` version {offered} is older than {floor}, which this site has had; to go back, sign the old component as a higher version"
    )]
    Rollback {
        /// The plugin.
        name: PluginName,
        /// The highest version activated so far.
        floor: u64,
        /// The version offered.
        offered: u64,
    },
    /// Another bundle of a version the site has already had.
    #[error(
        "this site has had another bundle of `{name}` version {version}; one version names one bundle, so raise the version"
    )]
    SameVersion {
        /// The plugin.
        name: PluginName,
        /// The version.
        version: u64,
    },
    /// The state file is damaged or was edited.
    #[error("the site's state `{}` cannot be used: {why}", path.display())]
    StateDamaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The state file is gone while bundles are there: without it version floors are lost.
    #[error("the site's state `{}` is missing though bundles are stored; restore it, or version floors are lost", path.display())]
    StateMissing {
        /// The file.
        path: PathBuf,
    },
    /// The offered file is larger than any bundle.
    #[error("`{}` is larger than a bundle can be (64 MiB)", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

/// Why an order of custodians was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OrderError {
    /// A signature that is not of a key of the root, or not over this order.
    #[error(
        "a signature of key {key_id} does not hold: the order was altered, or its signer is not in the site's root of trust"
    )]
    BadSignature {
        /// The key it claims.
        key_id: String,
    },
    /// The order lapsed.
    #[error("the order expired at {at}; give a new one")]
    Expired {
        /// When.
        at: Timestamp,
    },
    /// The signing key cannot be used.
    #[error("the signing key cannot be used: {0}")]
    Key(#[source] BundleError),
    /// No order, or one of another format.
    #[error("the file is no order: {0}")]
    Malformed(String),
    /// A bundle that was never active at this site.
    #[error("{bundle} was never active here as `{name}`; only what was active before can come back")]
    NeverActive {
        /// The plugin.
        name: PluginName,
        /// The bundle.
        bundle: Digest,
    },
    /// The stop it would lift is not in force.
    #[error(
        "`{scope}` is not stopped by {stop}; see `casemate change status`, and sign an order about the stop in force"
    )]
    NotStopped {
        /// What.
        scope: String,
        /// The stop it names.
        stop: Digest,
    },
    /// An order of another site.
    #[error("the order is for the site `{site}` or for another root of trust, and not for this one")]
    OtherSite {
        /// The site it names.
        site: String,
    },
    /// No reason, or too long a one.
    #[error("an order needs a reason: one line of at most 200 characters")]
    Reason,
    /// It was carried out before.
    #[error("the order was carried out before; give a new one")]
    Replayed,
    /// The bundle is revoked.
    #[error("{bundle} is revoked for ever; sign a new version")]
    Revoked {
        /// The bundle.
        bundle: Digest,
    },
    /// The root of trust is out of date.
    #[error("the site's root of trust expired at {at}; no order holds under it")]
    RootExpired {
        /// When.
        at: Timestamp,
    },
    /// Two signatures of one person.
    #[error("{name} has signed it already; another person has to")]
    SamePerson {
        /// Who.
        name: String,
    },
    /// Something else is active than the signers saw.
    #[error(
        "`{name}` is no longer the bundle that the order was signed for; look at `casemate change status` and sign anew"
    )]
    Stale {
        /// The plugin.
        name: PluginName,
    },
    /// Too few people signed.
    #[error("{found} of {needed} people have signed; `casemate change sign ORDER --key KEY`")]
    TooFew {
        /// How many did.
        found: usize,
        /// How many must.
        needed: usize,
    },
}

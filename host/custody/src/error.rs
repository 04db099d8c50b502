use std::path::PathBuf;

use casemate_hsm::HsmError;
use casemate_types::{Digest, Profile, UserName};

use crate::quorum::QuorumBackend;
use crate::statement::{Nonce, Operation};
use crate::text::{PersonId, UnixTime};

/// Why custody refused. No message holds a PIN, a share or a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CustodyError {
    /// The folder has a custody token.
    #[error("initialise a custody token: this folder belongs to token `{label}` already; use a folder of its own")]
    AlreadyInitialised {
        /// That token's label.
        label: String,
    },
    /// The audit log could not be read.
    #[error("read the audit log: {why}; run `casemate audit verify`")]
    AuditLog {
        /// The cause.
        why: String,
    },
    /// A card that its own key did not sign.
    #[error(
        "read the card of `{name}`: it is not signed by the key that it announces; have it made again with `enrol`"
    )]
    CardNotSigned {
        /// The custodian.
        name: UserName,
    },
    /// The clock is behind the audit log.
    #[error("check the time: the clock says {now}, the audit log's last record {recorded}; set the clock right")]
    ClockBehind {
        /// The clock.
        now: UnixTime,
        /// The record.
        recorded: UnixTime,
    },
    /// A custodian's keys are unfit.
    #[error("check custodian `{name}`: {why}")]
    Custodian {
        /// The custodian.
        name: UserName,
        /// What is wrong.
        why: &'static str,
    },
    /// The custody folder does not fit the token.
    #[error("open the custody token: the folder is about token {expected}, and this is {found}; use the right one")]
    CustodyTokenMismatch {
        /// Serial number in the journal.
        expected: String,
        /// Serial number of the token.
        found: String,
    },
    /// A value that has no canonical form.
    #[error("encode a document: a number in it is too large for JSON")]
    Encoding,
    /// The statement is too old.
    #[error("approve: the statement expired at {at}, it is {now}; have a new one signed")]
    Expired {
        /// Its end.
        at: UnixTime,
        /// The clock.
        now: UnixTime,
    },
    /// Shares of new PINs that no session wrote.
    #[error(
        "open the custody token: the shares of generation {generation} were not made by a session that had the PINs before, so \
         somebody wrote them into the folder; no PIN was changed; restore the custody folder from its backup"
    )]
    ForgedGeneration {
        /// The generation.
        generation: u64,
    },
    /// The audit log never had this head.
    #[error(
        "approve: this site's audit log never had the statement's head ({size} records); it is another log's, or forged"
    )]
    ForeignHead {
        /// Size of the head.
        size: u64,
    },
    /// Another process has it.
    #[error("open {}: another process is using it; wait for it", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A file could not be read or written.
    #[error("{action} {}", path.display())]
    Io {
        /// What was done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The process that handles the PINs failed.
    #[error("run the custody session: {why}")]
    Session {
        /// What its process said, or how it ended.
        why: String,
    },
    /// A file that is not what it should be.
    #[error("read {what}: {why}")]
    Malformed {
        /// The kind of file.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// No custodian of this name.
    #[error("find custodian `{name}`: the roster has nobody of this name")]
    NoSuchCustodian {
        /// The name.
        name: UserName,
    },
    /// A vendor's quorum was stated and is not there.
    #[error("use the quorum of token {serial}: it takes its PIN from the host, so it has none; split its PINs instead")]
    NoVendorQuorum {
        /// The token.
        serial: String,
    },
    /// Something other than what was approved.
    #[error("act on an approval: the custodians approved `{approved}`, and for another {what}; have this one approved")]
    NotApproved {
        /// What differs.
        what: &'static str,
        /// The approved operation.
        approved: Operation,
    },
    /// Two custodians are not two.
    #[error("read a roster: `{}` and `{}` have the same {what}; custodians must not share anything", names[0], names[1])]
    NotDistinct {
        /// What they share.
        what: &'static str,
        /// Both names.
        names: [UserName; 2],
    },
    /// The statement is for later.
    #[error("approve: the statement is good from {from}, it is {now}; wait")]
    NotYetValid {
        /// Its begin.
        from: UnixTime,
        /// The clock.
        now: UnixTime,
    },
    /// A share or set of an earlier split.
    #[error("enter a share: it is of epoch {found}, the current one is {current}; a share works in its own epoch only")]
    OlderEpoch {
        /// The share's.
        found: u64,
        /// The current one.
        current: u64,
    },
    /// Approved by another roster.
    #[error(
        "approve: the statement is for another roster (epoch {epoch}, this one is {current}); have it signed for this one"
    )]
    OtherRoster {
        /// The statement's.
        epoch: u64,
        /// The current one.
        current: u64,
    },
    /// Made for another site.
    #[error("check the site: this was not made for `{site}`")]
    OtherSite {
        /// This site.
        site: String,
    },
    /// Neither set of PINs opens the custody token.
    #[error("open the custody token: neither the old nor the new {pin} PIN is right; the token was changed around us")]
    PinsDead {
        /// Which PIN.
        pin: &'static str,
    },
    /// The random source failed.
    #[error("draw random bytes: the random source failed")]
    Random,
    /// The approval was used before.
    #[error("approve: statement {nonce} was used before; an approval is good for once")]
    Replayed {
        /// Its nonce.
        nonce: Nonce,
    },
    /// A change of PINs was cut off.
    #[error(
        "open token `{label}`: a change of its PINs was cut off, and it is away; bring it back and open the site again"
    )]
    PinsUnsettled {
        /// The token.
        label: String,
    },
    /// The shares fit together, and the token has other PINs.
    #[error(
        "open token `{label}`: its PINs of generation {generation} are not in force any more; this folder of shares is older than the \
         token: put the newest back, and if there is none, find out who opened the token"
    )]
    Superseded {
        /// The token.
        label: String,
        /// What the folder has.
        generation: u64,
    },
    /// A PIN was handed over, and is not in force any more.
    #[error(
        "open token `{label}`: its PINs were replaced by somebody else meanwhile; find out by whom, then open the site again"
    )]
    OpenedAnew {
        /// The token.
        label: String,
    },
    /// What goes on having effect was never put in force here.
    #[error("approve: statement {nonce} was never used at this site, so it enabled nothing here")]
    NeverUsed {
        /// Its nonce.
        nonce: Nonce,
    },
    /// A standing approval was used as often as it allows.
    #[error("approve: statement {nonce} was used {uses} times, as often as it allows; have a new one signed")]
    UsedUp {
        /// Its nonce.
        nonce: Nonce,
        /// How often it could be used.
        uses: u32,
    },
    /// A record whose time decides is not at hand.
    #[error(
        "approve: record {index} of the audit log, whose time decides, is missing or in an archive; have a new statement signed"
    )]
    RecordMissing {
        /// Its index.
        index: u64,
    },
    /// What is to be done goes beyond what was granted.
    #[error("approve: the {what} goes beyond what the custodians granted; have a statement signed that names it")]
    BeyondGrant {
        /// In what.
        what: &'static str,
    },
    /// Nothing shows that the named requester asked.
    #[error(
        "approve: `{requester}` is named as requester and did not sign; sign the request with \
         `casemate custodian approve FILE --as NAME`, which does not count as an approval"
    )]
    RequesterUnproven {
        /// Who is named.
        requester: PersonId,
    },
    /// The requester is on no roster.
    #[error("approve: the requester `{requester}` is neither a custodian nor a requester of the roster")]
    RequesterUnknown {
        /// Who is named.
        requester: PersonId,
    },
    /// Enough signatures, but one of them is the requester's.
    #[error("approve: the requester's own signature does not count; {wanted} other custodians have to sign")]
    RequesterApproved {
        /// How many.
        wanted: usize,
    },
    /// Encryption to a custodian failed.
    #[error("encrypt to a custodian: the cryptographic library failed")]
    Sealing,
    /// The shares fit their commitments, and not the digest of the secret.
    #[error("put shares together: the result is not what was split; the share set is damaged")]
    SecretMismatch,
    /// A share set for other custodians.
    #[error("enter shares: the set was split for another roster; use the roster of that time")]
    SetOfOtherRoster,
    /// A byte of a sealed share was changed.
    #[error("open the share of `{custodian}`: it was changed, or encrypted to another key; use the original file")]
    ShareAltered {
        /// Whose share.
        custodian: UserName,
    },
    /// A share does not fit its commitment.
    #[error("enter the share of `{custodian}`: it does not fit its commitment; it is corrupted, use the original")]
    ShareCorrupted {
        /// Whose share.
        custodian: UserName,
    },
    /// A share under another custodian.
    #[error("use the share of `{custodian}`: it belongs to another custodian or token than the one presenting it")]
    ShareOfAnother {
        /// Whose share.
        custodian: UserName,
    },
    /// A share of another secret.
    #[error("enter the share of `{custodian}`: it belongs to another package")]
    ShareOfOtherSet {
        /// Whose share.
        custodian: UserName,
    },
    /// One share twice.
    #[error("enter the share of `{custodian}`: it is entered already; one custodian counts once")]
    ShareTwice {
        /// Whose share.
        custodian: UserName,
    },
    /// Impossible parameters, or a broken library.
    #[error("{action}: two shares at least, at most 255, of 1 byte to 16 KiB")]
    Sharing {
        /// What was done.
        action: &'static str,
    },
    /// A signature is wrong.
    #[error("verify the signature of `{name}`: it is not over this document; the document was changed after signing")]
    SignatureInvalid {
        /// Whose.
        name: UserName,
    },
    /// One custodian twice.
    #[error("count signatures: `{name}` signed twice; one custodian counts once")]
    SignedTwice {
        /// Who.
        name: UserName,
    },
    /// The statement's head is too old.
    #[error(
        "approve: the statement's audit head ({size} records) has been outdated for more than {allowed} s; \
         have a new statement signed"
    )]
    StaleHead {
        /// Its size.
        size: u64,
        /// What the site allows, in seconds.
        allowed: u64,
    },
    /// A signature of nobody on the roster.
    #[error("count signatures: {key} is not a key of this roster")]
    Stranger {
        /// The key's digest.
        key: Digest,
    },
    /// Text that cannot be shown as it is.
    #[error("read {what}: it is empty, too long, or has characters that are not allowed")]
    Text {
        /// What it should be.
        what: &'static str,
    },
    /// One person would be enough, or nobody could.
    #[error("set a threshold of {threshold} of {custodians} custodians: at least 2, at most all of them (32)")]
    Threshold {
        /// The threshold.
        threshold: u8,
        /// How many there are.
        custodians: usize,
    },
    /// The profile wants more force.
    #[error("approve: profile `{profile}` accepts `{lowest}` or stronger, and these tokens have `{tier}`")]
    TierTooLow {
        /// What is in force.
        tier: QuorumBackend,
        /// What the profile accepts.
        lowest: QuorumBackend,
        /// The profile.
        profile: Profile,
    },
    /// A token refused.
    #[error("use a token")]
    Token(#[from] HsmError),
    /// A token that is not the custodian's.
    #[error("use the token of `{name}`: the roster says {expected}, this token is {found}")]
    TokenOfAnother {
        /// The custodian.
        name: UserName,
        /// Serial number on the roster.
        expected: String,
        /// Serial number of the token.
        found: String,
    },
    /// Not enough shares.
    #[error("put shares together: {found} of {wanted} are entered")]
    TooFewShares {
        /// How many there are.
        found: usize,
        /// How many are needed.
        wanted: usize,
    },
    /// Not enough signatures.
    #[error("count signatures: {found} of {wanted} custodians signed")]
    TooFewSignatures {
        /// How many count.
        found: usize,
        /// How many are needed.
        wanted: usize,
    },
    /// Something else was signed.
    #[error("read a signed file: it is not {wanted}")]
    WrongDocument {
        /// What was expected.
        wanted: &'static str,
    },
}

impl CustodyError {
    pub(crate) fn malformed(what: &'static str, why: impl Into<String>) -> Self {
        Self::Malformed { what, why: why.into() }
    }
}

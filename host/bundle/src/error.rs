use std::path::PathBuf;

use casemate_attest::{AttestError, SignerError};
use jiff::Timestamp;

/// Why a bundle, a trust root or an approver's key was refused. One variant per defect, so that an operator and a test
/// can tell an attack from an accident.
///
/// `entry` and `file` name a file inside the bundle, `offset` is in bytes from the start of the bundle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// A key, an envelope or a statement was refused.
    #[error(transparent)]
    Attest(#[from] AttestError),
    /// The bytes of a listed file are not the ones that were signed for.
    #[error(
        "`{entry}` is not the file the metadata was signed for: its length or SHA-256 differs; import the bundle again"
    )]
    AlteredEntry {
        /// The file.
        entry: String,
    },
    /// An approver's name is not a name.
    #[error("the approver's name cannot be used")]
    ApproverName(
        /// The rule.
        #[source]
        casemate_types::NameError,
    ),
    /// A header checksum does not match.
    #[error("the header at byte {offset} has a wrong checksum: the file is damaged or was edited")]
    BadChecksum {
        /// Where the header starts.
        offset: usize,
    },
    /// A key file cannot be understood.
    #[error("cannot use the approver key file: {why}; it must be as `ApproverKey::save` wrote it")]
    BadKeyFile {
        /// What is wrong, without any of the file's content.
        why: &'static str,
    },
    /// A name has a character, a form or a length that is not allowed.
    #[error(
        "the entry name {name:?} is not allowed: use up to 100 of `a-z 0-9 . _ / -`, relative, without empty or dot-only parts"
    )]
    BadName {
        /// The name, cut at 120 characters.
        name: String,
    },
    /// A signature by a known approver does not verify.
    #[error("the signature of `{approver}` on `{file}` is wrong: the metadata was altered after signing")]
    BadSignature {
        /// The metadata file.
        file: String,
        /// Whose key it claims.
        approver: String,
    },
    /// A capability the world does not offer.
    #[error("manifest: a {world} cannot have the capability `{capability}`; remove it")]
    CapabilityOutsideWorld {
        /// The world.
        world: &'static str,
        /// The capability.
        capability: &'static str,
    },
    /// The cryptographic library failed on our side, for instance while making a key.
    #[error("the cryptographic library failed to {action}")]
    Crypto {
        /// What was being done.
        action: &'static str,
    },
    /// The trust root lists the same public key twice.
    #[error("the trust root lists the same key for `{first}` and `{second}`: two people must hold two keys")]
    DuplicateApproverKey {
        /// The first holder.
        first: String,
        /// The second holder.
        second: String,
    },
    /// The trust root lists two keys for one person.
    #[error("the trust root lists two keys for `{name}`: one person must not count twice")]
    DuplicateApproverName {
        /// The approver.
        name: String,
    },
    /// Two entries of one name.
    #[error("the entry `{entry}` occurs twice")]
    DuplicateEntry {
        /// The name.
        entry: String,
    },
    /// One key id signs a file more than once.
    #[error("`{approver}` has signed `{file}` more than once; one approver counts once")]
    DuplicateSignature {
        /// The metadata file.
        file: String,
        /// The approver.
        approver: String,
    },
    /// An entry, or a file that must be small, is too large.
    #[error("`{entry}` has {size} bytes; the most is {max}")]
    EntryTooLarge {
        /// The file.
        entry: String,
        /// Its size in bytes, as declared.
        size: u64,
        /// The cap in bytes.
        max: u64,
    },
    /// A file of evidence that is none, or is about something else.
    #[error("`{entry}` is no evidence for this bundle: {why}")]
    Evidence {
        /// The file.
        entry: String,
        /// What is wrong.
        why: String,
    },
    /// The metadata is past its date.
    #[error("the {role} metadata expired at {expires}; have it re-issued and signed again")]
    Expired {
        /// `root`, `timestamp`, `snapshot` or `targets`.
        role: String,
        /// When.
        expires: Timestamp,
    },
    /// A GNU extension header (long names, sparse files and the like).
    #[error("the header at byte {offset} is a GNU extension (`{kind}`): only plain USTAR files are allowed")]
    GnuHeader {
        /// Where the header starts.
        offset: usize,
        /// The type flag, or `magic`.
        kind: String,
    },
    /// Reading or writing a key file failed.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The key file needs a passphrase.
    #[error("the approver key `{}` is encrypted; give its passphrase", path.display())]
    KeyFileEncrypted {
        /// The file.
        path: PathBuf,
    },
    /// Other users of the machine can read the secret key.
    #[error("the approver key `{}` can be read by others (mode {mode:o}); set its mode to 600", path.display())]
    KeyFileExposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A limit is zero where that cannot work, or above the maximum.
    #[error("manifest: `limits.{limit}` is {value}; it must be {min} to {max}")]
    LimitOutOfRange {
        /// The key.
        limit: &'static str,
        /// The value asked for.
        value: u64,
        /// The least allowed.
        min: u64,
        /// The most allowed.
        max: u64,
    },
    /// A hard or symbolic link.
    #[error("the header at byte {offset} is a link: only plain files are allowed")]
    LinkEntry {
        /// Where the header starts.
        offset: usize,
    },
    /// A header that is not the one our writer makes for its name and size.
    #[error(
        "the header at byte {offset} is not the canonical one for `{entry}` (mode, owner, time, magic or padding differ)"
    )]
    MalformedHeader {
        /// Where the header starts.
        offset: usize,
        /// The entry.
        entry: String,
    },
    /// JSON that does not parse, is not in canonical form or does not have the expected shape.
    #[error("`{file}`: {why}")]
    MalformedJson {
        /// The file.
        file: String,
        /// What is wrong.
        why: String,
    },
    /// The manifest's TOML has a syntax error, an unknown key or a wrong value.
    #[error("manifest.toml does not parse: correct it and build again")]
    Manifest(
        /// Where and what.
        #[source]
        Box<toml::de::Error>,
    ),
    /// A manifest value breaks a rule.
    #[error("manifest: `{key}` {rule}")]
    ManifestRule {
        /// The key.
        key: &'static str,
        /// The rule.
        rule: String,
    },
    /// The file does not end in two zero blocks.
    #[error("the bundle does not end with two zero blocks: it was cut off")]
    MissingEndBlocks,
    /// A required or listed file is not there.
    #[error("`{entry}` is missing from the bundle")]
    MissingEntry {
        /// The file.
        entry: String,
    },
    /// Metadata files that were not made together.
    #[error("`{file}` does not belong to this bundle: it was made for other content, another version or another date")]
    MixAndMatch {
        /// The metadata file that differs.
        file: String,
    },
    /// Bytes that should be padding carry something.
    #[error("the padding after `{entry}` is not zero: something is hidden there")]
    NonZeroPadding {
        /// The entry before it.
        entry: String,
    },
    /// The code is not a WebAssembly component.
    #[error("the component is not a WebAssembly component: it is {reason}")]
    NotAComponent {
        /// What it is instead.
        reason: &'static str,
    },
    /// The key belongs to nobody the site's root names.
    #[error("the signer is not an approver of this site: key {key_id} is not in the trust root")]
    NotAnApprover {
        /// Its key id.
        key_id: String,
    },
    /// An approver's key signs TUF metadata and DSSE statements, and nothing else.
    #[error("sign a statement: it is not in the form that DSSE signs; nothing was signed")]
    NotDsse,
    /// Fewer approvers than the site asks for have signed.
    #[error("`{file}` has {found} of {needed} signatures; another approver must sign")]
    NotEnoughSignatures {
        /// The metadata file.
        file: String,
        /// Distinct approvers that have signed.
        found: usize,
        /// The threshold.
        needed: usize,
    },
    /// The OCI image layout is not the one of component and manifest.
    #[error("`{entry}` is not what the OCI layout of this component and manifest holds: build the bundle again")]
    OciLayout {
        /// The file.
        entry: String,
    },
    /// A PAX extended header.
    #[error("the header at byte {offset} is a PAX extension: only plain USTAR files are allowed")]
    PaxHeader {
        /// Where the header starts.
        offset: usize,
    },
    /// The trust root is not one this site could have made.
    #[error("the trust root is not usable: {why}")]
    Root {
        /// What is wrong.
        why: String,
    },
    /// A root that is not the next one.
    #[error(
        "the root offered has version {offered}, and this site's is {pinned}: roots are taken one after the other, never an older one"
    )]
    RootVersion {
        /// Its version.
        offered: u64,
        /// The version of the pinned root.
        pinned: u64,
    },
    /// The bundle is larger than 64 MiB or has more than 1,024 entries.
    #[error("the bundle is too large: at most 64 MiB and 1,024 entries are read")]
    TooLarge,
    /// Bytes after the end.
    #[error("there are {count} bytes after the end of the bundle")]
    TrailingData {
        /// How many.
        count: usize,
    },
    /// The file ends inside a header or an entry.
    #[error("the bundle ends at byte {offset}, inside a header or an entry: it was cut off")]
    Truncated {
        /// Where it ends.
        offset: usize,
    },
    /// The TUF state machine refused.
    #[error("TUF refuses `{file}`")]
    Tuf {
        /// The metadata file.
        file: String,
        /// The cause.
        #[source]
        source: sigstore_tuf::Error,
    },
    /// A file that a bundle cannot have.
    #[error(
        "a bundle cannot hold `{entry}`: there are manifest, settings, one OCI layout and what is below `evidence/`"
    )]
    UnexpectedEntry {
        /// The file.
        entry: String,
    },
    /// A signature by a key the root does not name.
    #[error(
        "`{file}` carries a signature of key {key_id}, which the trust root does not name: wrong site, or an outsider"
    )]
    UnknownSigner {
        /// The metadata file.
        file: String,
        /// The key id, cut at 80 characters.
        key_id: String,
    },
    /// A file the signed metadata does not list.
    #[error("`{entry}` is in the bundle but not in its signed metadata: it was added afterwards")]
    UnlistedEntry {
        /// The file.
        entry: String,
    },
    /// Entries that are not in ascending order of their names.
    #[error("the entry `{entry}` is out of order; entries are sorted by name")]
    UnsortedEntry {
        /// The entry.
        entry: String,
    },
    /// The holder of a key, for instance a token, did not sign.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// A header of a type other than a plain file: directory, device, fifo or unknown.
    #[error("the header at byte {offset} has type `{kind}`: only plain files are allowed")]
    UnsupportedEntryType {
        /// Where the header starts.
        offset: usize,
        /// The type flag.
        kind: String,
    },
    /// A passphrase that can be guessed.
    #[error("the passphrase has fewer than {min} characters; take a longer one, for instance six random words")]
    WeakPassphrase {
        /// The least.
        min: usize,
    },
    /// A key file does not open under the passphrase.
    #[error("the passphrase is wrong, or the key file is damaged")]
    WrongPassphrase,
    /// A size field that is not eleven octal digits.
    #[error("the header at byte {offset} has a size that is not eleven octal digits")]
    WrongSize {
        /// Where the header starts.
        offset: usize,
    },
}

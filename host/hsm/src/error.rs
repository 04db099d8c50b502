use std::path::PathBuf;
use std::sync::Arc;

use casemate_types::Profile;
use cryptoki::context::Function;
use cryptoki::error::{Error as Pkcs11Error, Rv, RvError};

use crate::driver::Code;
use crate::pair::Role;
use crate::{KeyClass, KeyId};

/// Why the token, or this crate on its behalf, refused.
///
/// No message holds a PIN, a key, a value or a label chosen by another tenant.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HsmError {
    /// A key gives different results in the tokens that hold it, or none that comes back.
    #[error("key `{label}` does not do its work the same way in every token; destroy it and make another")]
    SelfTest {
        /// The key's label.
        label: String,
    },
    /// The process already holds a login on this token; PKCS#11 logins are per process, so a second PIN cannot be checked.
    #[error(
        "open token `{label}`: this process has it open already; share that keyring, or drop it and its keys first"
    )]
    AlreadyOpen {
        /// The token's label.
        label: String,
    },
    /// The alphabet of an FF1 field is not one.
    #[error("read an FF1 alphabet: {reason}")]
    Alphabet {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The token holds a key whose attributes are not those of its class.
    #[error(
        "check {class} key {id}: the token says {attribute} is not what this class requires; \
         do not use this token for keys, or restore the key if it was replaced"
    )]
    AttributeMismatch {
        /// The attribute, by its PKCS#11 name.
        attribute: String,
        /// The class the key should have.
        class: KeyClass,
        /// The key.
        id: KeyId,
    },
    /// The batch that these values went with failed; no value of it was encrypted.
    #[error(
        "encrypt values together with other callers': the batch failed as a whole; try again once its cause is gone"
    )]
    BatchFailed {
        /// Why, for every caller of the batch.
        source: Arc<HsmError>,
    },
    /// The label of a derivation would not be told apart from its context.
    #[error("derive a key: the label is empty or holds a zero byte; choose another")]
    DerivationLabel,
    /// A destroyed key still shows signs of life.
    #[error(
        "destroy key {id}: the token does not prove it ({proof}); treat the key as alive, and take the token out of use"
    )]
    DestructionUnproven {
        /// The key.
        id: KeyId,
        /// Which proof failed.
        proof: &'static str,
    },
    /// The device failed.
    #[error("{action}: the token reports a failure; check the device, then try again")]
    Device {
        /// What was being done.
        action: &'static str,
        /// The module's answer.
        source: Pkcs11Error,
    },
    /// FF1 is unsafe for small domains (SP 800-38G r1 draft, section 5.1: radix^minlen >= 1,000,000).
    #[error(
        "encrypt a value of {length} numerals in radix {radix}: the domain is too small; use at least {minimum} numerals, \
         or seal the value instead"
    )]
    DomainTooSmall {
        /// Numerals in the value.
        length: usize,
        /// The shortest permitted length.
        minimum: usize,
        /// The radix.
        radix: u32,
    },
    /// FF3-1 takes tweaks of 7 bytes.
    #[error("encrypt value {value} of the batch with FF3-1: its tweak has {length} bytes; FF3-1 takes 7")]
    Ff3Tweak {
        /// Bytes of the tweak.
        length: usize,
        /// Position of the value in its batch, from zero.
        value: usize,
    },
    /// A character is not in the alphabet. The character itself is part of a secret and is not shown.
    #[error("read a value: character {position} (counted from 0) is not in the alphabet; check the field's alphabet")]
    ForeignCharacter {
        /// Position in characters, from zero.
        position: usize,
    },
    /// A key of another keyring.
    #[error("use key {id}: it belongs to another token's keyring; find it again in this one")]
    ForeignKey {
        /// The key.
        id: KeyId,
    },
    /// A package of wrapped key for another token.
    #[error("admit a wrapped key: it is for token {expected}, and this is token {found}; carry it to the right token")]
    ForeignPackage {
        /// Serial number in the package.
        expected: String,
        /// Serial number of this token.
        found: String,
    },
    /// The key's bytes are not those the site recorded.
    #[error("check key {id}: its check value differs from the recorded one; the key was replaced, restore it")]
    KeyCheckMismatch {
        /// The key.
        id: KeyId,
    },
    /// The token has no such key.
    #[error("find {class} key {id}: the token does not hold it; check that this is the right token")]
    KeyMissing {
        /// The class.
        class: KeyClass,
        /// The key.
        id: KeyId,
    },
    /// Several objects answer to one identifier: one of them was planted.
    #[error("find key {id}: {count} objects answer to this identifier; remove the planted one before going on")]
    KeyTwin {
        /// How many objects there are.
        count: usize,
        /// The key.
        id: KeyId,
    },
    /// A token label that PKCS#11 cannot hold.
    #[error("label a token: use 1 to 32 printable ASCII characters")]
    Label,
    /// The manifest of a pair is not the next one in its chain.
    #[error("read the manifest of the HSM pair: {reason}; take the newest one from the primary's custodians")]
    ManifestRejected {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The token does not have the mechanism that a class stands on.
    #[error("generate a {class} key: this token has no {mechanism}; keep such keys on a token that has it")]
    MechanismMissing {
        /// The class.
        class: KeyClass,
        /// The mechanism, by its PKCS#11 name.
        mechanism: String,
    },
    /// FF3-1 is not permitted.
    #[error("use FF3-1: {reason}; move the data to FF1, or have two custodians permit FF3-1 until a date")]
    LegacyPermit {
        /// What is missing.
        reason: &'static str,
    },
    /// The library could not be loaded or initialised.
    #[error("load the PKCS#11 module {}: check the path and the module's own configuration", path.display())]
    ModuleUnusable {
        /// The library.
        path: PathBuf,
        /// The loader's or the module's answer.
        source: Pkcs11Error,
    },
    /// The HSM's own FF1 cannot be used.
    #[error("use the HSM's own FF1: {reason}; check the mechanism's number and layout, or leave it out")]
    NativeFf1 {
        /// What is wrong.
        reason: &'static str,
    },
    /// No slot waits for initialisation.
    #[error("initialise a token: no slot holds an uninitialised token; free a slot or configure a new one")]
    NoFreeSlot,
    /// A key that exists on two tokens or not at all.
    #[error(
        "generate a {class} key: on its own it is of no use; make a birth key and admit its packages on both tokens"
    )]
    NeedsTwoTokens {
        /// The class.
        class: KeyClass,
    },
    /// A key that is not in the manifest of the pair, or is being destroyed.
    #[error("use key {id} of the HSM pair: its manifest does not list it; adopt the manifest that does")]
    NotInPair {
        /// The key.
        id: KeyId,
    },
    /// A class of which each token has keys of its own.
    #[error("make a {class} key for two tokens: a key of this class belongs to one token")]
    NotReplicable {
        /// The class.
        class: KeyClass,
    },
    /// A numeral is not below the radix.
    #[error("encrypt value {value} of the batch: numeral {position} is not below the radix {radix}")]
    NumeralOutOfRange {
        /// Position of the numeral, from zero.
        position: usize,
        /// The radix.
        radix: u32,
        /// Position of the value in its batch, from zero.
        value: usize,
    },
    /// A drill killed the primary, and nobody noticed.
    #[error("drill the HSM pair: the primary was made to fail and serves on; check what the drill really cut")]
    OutageUnnoticed,
    /// Bytes that are no package of a wrapped key.
    #[error("read a package of wrapped key: it is damaged or of another version; join the shares again")]
    PackageMalformed,
    /// Neither token of a pair answers.
    #[error(
        "use the HSM pair: primary and backup are both down; bring one back, operation resumes after its next check"
    )]
    PairDown,
    /// Something that needs both tokens of a pair.
    #[error("use both tokens of the HSM pair: the {role} is down; bring it back first")]
    PairIncomplete {
        /// The one that is missing.
        role: Role,
    },
    /// The parameter string of a module holds a zero byte.
    #[error("load the PKCS#11 module: its parameters hold a zero byte; remove it")]
    Parameters,
    /// The PIN is wrong.
    #[error("log in to the token: the PIN is wrong; check the PIN file, some tokens lock after a few attempts")]
    PinIncorrect,
    /// The PIN is empty or has a length the token does not take.
    #[error("set or use a PIN: it is empty, too short, too long or not accepted by the token; choose another")]
    PinInvalid,
    /// A PIN was to be sent to a token that takes it by a way of its own.
    #[error(
        "open token `{label}`: it takes its PIN by a way of its own (keypad, cards, a quorum), and none may go through this \
         machine; take the PIN file away"
    )]
    PinUnwanted {
        /// The label.
        label: String,
    },
    /// Who had to act at the token's own pad did not.
    #[error(
        "log in to token `{label}`: it was refused at its own pad (keypad, cards, a quorum); the people it asks for have to be there and agree"
    )]
    PadRefused {
        /// The label.
        label: String,
    },
    /// A token is said to ask for its maker's quorum, and takes its PIN from the host.
    #[error(
        "open token `{label}`: `vendor-quorum` says that it asks for its maker's own quorum, and it takes its PIN from this machine; \
         switch its pad on, or take the line away"
    )]
    PadMissing {
        /// The label.
        label: String,
    },
    /// No PIN for a token that takes it from the host.
    #[error("open token `{label}`: it takes its PIN from this machine, and none was given; name its PIN file")]
    PinMissing {
        /// The label.
        label: String,
    },
    /// The PIN is locked.
    #[error("log in to the token: the PIN is locked; a security officer must reset it")]
    PinLocked,
    /// Bytes that should be an RSA public key are not one this crate makes.
    #[error("read an RSA public key: it is not SubjectPublicKeyInfo of 3072 bits and exponent 65537; export it again")]
    PublicKeyInvalid,
    /// The queue's worker has ended.
    #[error("encrypt through a queue: it is closed; open the key again")]
    QueueClosed,
    /// The answer did not come in time. The caller's values are unchanged.
    #[error("encrypt through a queue: no answer before the deadline; the token is slow or busy, try again")]
    QueueDeadline,
    /// Too many values wait.
    #[error("encrypt through a queue: {waiting} values wait already and {limit} may; try again later")]
    QueueFull {
        /// How many may wait.
        limit: usize,
        /// How many wait.
        waiting: usize,
    },
    /// The operating system did not start the queue's thread.
    #[error("start a queue: no thread could be started; check the process's limits")]
    QueueThread {
        /// The system's answer.
        source: std::io::Error,
    },
    /// The operating system's random source failed.
    #[error("make a PIN: the random source failed")]
    Random,
    /// The token does not permit the operation.
    #[error("{action}: the token refuses; check that it supports the mechanism and that the key permits it")]
    Refused {
        /// What was being done.
        action: &'static str,
        /// The module's answer.
        source: Pkcs11Error,
    },
    /// A sealed value does not open: another key, other associated data, or a changed byte.
    #[error("open a sealed value: it was changed, or sealed under another key or for another place")]
    SealRejected,
    /// A share does not decrypt: another custodian's, or a changed byte.
    #[error("decrypt a share: it was changed, or encrypted to another custodian's token")]
    ShareRejected,
    /// The token's answer has the wrong size or form, so nothing of it is used.
    #[error("{action}: the token's answer has the wrong form; do not use this token")]
    StrangeAnswer {
        /// What was being done.
        action: &'static str,
    },
    /// The token is not the one that was probed.
    #[error("open the token: its {what} is `{found}` and was `{probed}` when it was probed; probe it again")]
    TokenChanged {
        /// What differs.
        what: &'static str,
        /// What it was.
        probed: String,
        /// What it is.
        found: String,
    },
    /// The token went away.
    #[error("{action}: the token is gone; reconnect it and open the keyring again")]
    TokenGone {
        /// What was being done.
        action: &'static str,
        /// The module's answer.
        source: Pkcs11Error,
    },
    /// A token that is in use was to be initialised.
    #[error(
        "initialise token {serial}: it is initialised already, as `{label}`, and may hold keys; if nobody needs them, erase it with \
         its maker's tool first"
    )]
    TokenInUse {
        /// Its serial number.
        serial: String,
        /// Its label.
        label: String,
    },
    /// No token has this label.
    #[error("open token `{label}`: no initialised token has this label; check the module's configuration")]
    TokenMissing {
        /// The label.
        label: String,
    },
    /// The probe found that the token must not hold keys.
    #[error("trust the token: it must not hold keys under profile {profile}, by {lines}; use another token")]
    TokenRefused {
        /// The lines that fail.
        lines: String,
        /// The profile.
        profile: Profile,
    },
    /// Several tokens have this label.
    #[error("use token label `{label}`: several tokens have it, or one has it already; labels must be unique")]
    TokenTwin {
        /// The label.
        label: String,
    },
    /// The token was never probed, or not under this profile.
    #[error("open the token: it was not probed under profile {profile}; probe it before it is used")]
    TokenUnprobed {
        /// The profile.
        profile: Profile,
    },
    /// The value or its tweak is longer than this implementation takes.
    #[error("encrypt value {value} of the batch: at most {maximum} numerals and tweak bytes are supported")]
    TooLong {
        /// The limit, for each.
        maximum: usize,
        /// Position of the value in its batch, from zero.
        value: usize,
    },
    /// A tweak cannot be formed.
    #[error("form a tweak: {reason}; check the field's tweak policy")]
    Tweak {
        /// What is wrong.
        reason: &'static str,
    },
    /// FF1 takes a radix of 2 to 65,536.
    #[error("set up FF1: radix {radix} is not in 2..=65536")]
    UnsupportedRadix {
        /// The radix.
        radix: u32,
    },
    /// A vector file cannot be run.
    #[error("read vectors: {reason}; give an internalProjection.json, or a prompt.json with its expectedResults.json")]
    VectorFile {
        /// What is wrong.
        reason: String,
    },
    /// A test vector's key is no AES key.
    #[error("import a test vector's key: it has {length} bytes; AES takes 16, 24 or 32")]
    VectorKeyLength {
        /// Bytes of the key.
        length: usize,
    },
    /// The thread that watches a pair could not be started.
    #[error("watch the HSM pair: the system starts no further thread; free some")]
    Watch,
    /// A wrapped key does not unwrap: another wrapping key, or a changed byte.
    #[error("unwrap a key: the blob was changed, or wrapped under another key")]
    WrapRejected,
    /// A key was used for something its class does not do. Nothing reached the token.
    #[error("{action}: a {class} key does not do this; each key has one purpose")]
    WrongClass {
        /// What was asked for.
        action: &'static str,
        /// The class of the key.
        class: KeyClass,
    },
}

impl HsmError {
    /// As [`HsmError::from_pkcs11`], for an answer of [`crate::driver`].
    pub(crate) fn from_code(action: &'static str, function: Function, code: Code) -> Self {
        match Rv::from(code.0).into_result(function) {
            Err(source) => Self::from_pkcs11(action, source),
            Ok(()) => Self::StrangeAnswer { action },
        }
    }

    /// Sorts a module's answer: who is at fault decides what the operator has to do.
    pub(crate) fn from_pkcs11(action: &'static str, source: Pkcs11Error) -> Self {
        let Pkcs11Error::Pkcs11(code, _) = &source else {
            return Self::Device { action, source };
        };
        match code {
            RvError::PinIncorrect => Self::PinIncorrect,
            RvError::PinLocked => Self::PinLocked,
            RvError::PinInvalid | RvError::PinLenRange | RvError::PinTooWeak => Self::PinInvalid,
            RvError::CryptokiNotInitialized
            | RvError::DeviceRemoved
            | RvError::SessionClosed
            | RvError::SessionHandleInvalid
            | RvError::SlotIdInvalid
            | RvError::TokenNotPresent
            | RvError::TokenNotRecognized
            | RvError::UserNotLoggedIn => Self::TokenGone { action, source },
            RvError::DeviceError
            | RvError::DeviceMemory
            | RvError::FipsSelfTestFailed
            | RvError::FunctionFailed
            | RvError::GeneralError
            | RvError::HostMemory => Self::Device { action, source },
            _ => Self::Refused { action, source },
        }
    }

    /// Whether the token itself is out of order, as opposed to a refusal of this one request.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::BatchFailed { source } => source.is_outage(),
            _ => matches!(self, Self::Device { .. } | Self::StrangeAnswer { .. } | Self::TokenGone { .. }),
        }
    }
}

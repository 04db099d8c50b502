//! Keys in a PKCS#11 token: a keyring of handles, one purpose per key, and format-preserving encryption whose key never
//! leaves the token.
//!
//! Any module that speaks PKCS#11 2.40 or later works by configuration alone: a hardware HSM, SoftHSM, or
//! `casemate-softtoken` where there is none. Code holds [`Key`]s, never key bytes. Three rules hold everywhere:
//!
//! * A key is found by its random `CKA_ID` and its check value, never by label, and a second object with the same
//!   `CKA_ID` refuses both.
//! * Every usage flag is written explicitly and read back: a token that stores something else loses the key.
//! * An operation of another class is refused here, before it reaches the token.
//!
//! Before a token is trusted with keys, [`probe`] finds out by doing what it really enforces.

#![deny(unsafe_code)]

pub mod acvp;
mod class;
mod destroy;
mod driver;
mod error;
mod facts;
pub mod fpe;
mod inventory;
mod key;
mod keyring;
mod labelled;
mod module;
mod oaep;
mod ops;
pub mod pair;
mod pairs;
mod pin;
pub mod probe;
mod proof;
mod raw;
mod replicate;
mod sessions;
mod storage;
mod user_kek;

pub use class::{KeyClass, Origin};
pub use destroy::{Claim, Destruction, Proof};
pub use error::HsmError;
pub use facts::{ModuleFacts, ValidationClaim};
pub use fpe::{
    Alphabet, Backend, BatchReport, EcbBlocks, Ff1, Ff1Value, FpeQueue, NativeFf1, NativeLayout, OverlapFf1,
    QueueLimits, TweakPolicy, minimum_length,
};
pub use inventory::Listed;
pub use key::{Key, KeyId, KeyRef};
pub use keyring::{Keyring, Login};
pub use module::{Module, ModuleConfig, TokenInfo};
pub use oaep::{OaepHash, encrypt_share};
pub use pair::{Pair, PairEvent, PairKek, PairKey, PairMember, PairOptions, PairState, PairStatus, Role};
pub use pin::Pin;
pub use replicate::{BirthKey, Envelope, TransportKey, WrappedPackage};
pub use user_kek::WrappedKek;

//! The lines of the probe and what each profile demands of them.

use super::line::{Found, Line};
use super::report::Kind::{Attack, Need};
use super::report::{Kind, Rule};
use super::{derive, keys, logins, mechanisms, roles};
use Rule::{Compensated as C, Must as M, Warn as W};

/// One line.
pub(super) struct Spec {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    pub(super) kind: Kind,
    /// Locks a PIN or changes a login: for scratch tokens only.
    pub(super) destructive: bool,
    pub(super) run: fn(&mut Line<'_>) -> Found,
    /// What `government`, `enterprise` and `rehearsal` (with `development`) demand.
    pub(super) rules: [Rule; 3],
    /// How Casemate uses the token so that the failing does not matter, or what the failing costs.
    pub(super) answer: &'static str,
}

/// The line computed from the others: mechanisms that are listed and fail.
pub(super) const LISTED: &str = "mechanism/listed";

const fn line(
    id: &'static str,
    title: &'static str,
    run: fn(&mut Line<'_>) -> Found,
    rules: [Rule; 3],
    answer: &'static str,
) -> Spec {
    Spec { id, title, kind: Attack, destructive: false, run, rules, answer }
}

const fn need(
    id: &'static str,
    title: &'static str,
    run: fn(&mut Line<'_>) -> Found,
    rules: [Rule; 3],
    answer: &'static str,
) -> Spec {
    Spec { id, title, kind: Need, destructive: false, run, rules, answer }
}

const fn scratch(
    id: &'static str,
    title: &'static str,
    run: fn(&mut Line<'_>) -> Found,
    rules: [Rule; 3],
    answer: &'static str,
) -> Spec {
    Spec { id, title, kind: Attack, destructive: true, run, rules, answer }
}

const LIMITED: &str =
    "a key that derives names its one mechanism in CKA_ALLOWED_MECHANISMS, every other has CKA_DERIVE false";

/// Every line, in the order in which they run: what changes logins comes last.
#[rustfmt::skip]
pub(super) static LINES: &[Spec] = &[
    need("mechanism/aes-ecb", "AES-ECB in one open stream", mechanisms::aes_ecb, [M, M, M], "FF1 needs it"),
    need("mechanism/aes-gcm", "AES-GCM", mechanisms::aes_gcm, [M, M, M], "sealing needs it"),
    need("mechanism/aes-kw", "AES key wrap, RFC 3394", mechanisms::aes_kw, [M, M, M], "users' keys need it"),
    need("mechanism/hmac-sha256", "HMAC-SHA-256", mechanisms::hmac_sha256, [M, M, M], "keyed tokens need it"),
    need("mechanism/ed25519", "Ed25519", mechanisms::ed25519, [M, M, M], "the audit log needs it"),
    need("mechanism/aes-kwp", "AES key wrap with padding, RFC 5649", mechanisms::aes_kwp, [W, W, W], "RFC 3394 is used instead"),
    need("mechanism/rsa-oaep-sha1", "RSA-OAEP with SHA-1", mechanisms::oaep_sha1, [W, W, W], "keys then travel to a token of another make by SHA-256 only"),
    need("mechanism/rsa-oaep-sha256", "RSA-OAEP with SHA-256", mechanisms::oaep_sha256, [M, W, W], "keys then travel to another token by SHA-1 only"),
    need("mechanism/sp800-108", "SP 800-108 key derivation", mechanisms::sp800_108, [W, W, W], "keys are generated and wrapped instead of derived"),

    line("leak/read", "read a sensitive key", keys::read_sensitive, [M, M, M], ""),
    line("leak/wrap", "wrap a non-extractable key", keys::wrap_non_extractable, [M, M, M], ""),
    line("leak/set", "make a key extractable afterwards", keys::raise_extractable, [M, M, M], ""),
    line("leak/copy", "make an extractable copy", keys::copy_extractable, [M, M, M], ""),
    line("leak/wrap-then-decrypt", "wrap and decrypt with one key (Clulow)", keys::wrap_then_decrypt, [C, C, C], "no key class both wraps and decrypts, and attributes are read back"),
    line("unwrap/as-asked", "unwrap with Casemate's template", keys::unwrap_as_asked, [M, M, M], ""),
    line("unwrap/template", "unwrap weaker than CKA_UNWRAP_TEMPLATE", keys::unwrap_template, [M, C, C], "every attribute is written at unwrapping and read back"),
    line("unwrap/to-clear", "unwrap into a readable key", keys::unwrap_to_clear, [C, C, C], "every attribute is written at unwrapping and read back"),
    line("derive/extract", "EXTRACT_KEY_FROM_KEY to clear", derive::extract, [M, C, C], LIMITED),
    line("derive/concatenate", "CONCATENATE to clear", derive::concatenate, [M, C, C], LIMITED),
    line("derive/xor", "XOR_BASE_AND_DATA to clear", derive::xor, [M, C, C], LIMITED),
    line("derive/encrypt-data", "AES_*_ENCRYPT_DATA to clear", derive::encrypt_data, [C, C, C], "no AES key is made with CKA_DERIVE"),
    line("derive/allowed-mechanisms", "derive from a secret past CKA_ALLOWED_MECHANISMS", derive::allowed_mechanisms, [M, M, M], ""),
    line("derive/false", "derive from a key with CKA_DERIVE false", derive::derive_false, [M, M, M], ""),
    line("role/limit", "use a mechanism outside CKA_ALLOWED_MECHANISMS", roles::limit, [M, C, C], "an operation of another class is refused before it reaches the token"),
    line("role/set", "add a use to a key with CKA_MODIFIABLE false", roles::set_role, [M, M, M], ""),
    line("role/copy", "add a use in a copy of a key with CKA_COPYABLE false", roles::copy_role, [M, M, W], "whoever is logged in can copy a key and give the copy another use"),
    line("role/defaults", "uses that a template leaves out", roles::silent_defaults, [C, C, C], "every flag is written explicitly and read back"),
    line("trust/forged", "the user makes a CKA_TRUSTED key", roles::forged_trust, [C, C, C], "CKA_TRUSTED is never taken as evidence"),
    line("trust/wrap-with-trusted", "wrap a CKA_WRAP_WITH_TRUSTED key under another", roles::wrap_with_trusted, [C, C, C], "CKA_WRAP_WITH_TRUSTED is not relied on"),
    line("stream/after-destroy", "encrypt in a stream after C_DestroyObject", logins::stream_after_destroy, [C, C, C], "every session that had a stream is closed before a key is destroyed"),
    line("stream/after-close", "encrypt in a stream after C_CloseSession", logins::stream_after_close, [M, M, M], ""),

    scratch("stream/after-logout", "encrypt in a stream after C_Logout", logins::stream_after_logout, [C, C, C], "a stream ends with its batch, and sessions are closed before the logout"),
    scratch("pin/so-reset", "the SO PIN alone resets the user PIN and uses the keys", logins::officer_reset, [C, C, C], "the SO PIN is as secret as the user PIN and belongs under the same dual control"),
    scratch("pin/lock-out", "wrong PINs in a row", logins::lock_out, [M, C, C], "PINs are 32 random bytes"),
];

/// Rules and answer of [`LISTED`].
pub(super) const LISTED_RULES: ([Rule; 3], &str) = ([W, W, W], "each mechanism is judged by what it does");

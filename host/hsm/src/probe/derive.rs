//! Does a secret come out by derivation? The base is sensitive and stays; the derived key is asked for in clear.

use cryptoki_sys::*;

use super::Finding::{Absent, Broken, Held};
use super::line::{Found, Line, Object};
use super::template::{Template, mac_here};
use crate::driver::{Answer, Code, Mech, Value, mechanism_name};

const MESSAGE: &[u8] = b"casemate probe";

/// How the base is protected.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Guard {
    /// `CKA_ALLOWED_MECHANISMS` names another mechanism.
    Allowed,
    /// `CKA_DERIVE` is false.
    NoDerive,
    /// `CKA_DERIVE` is true and nothing else is said.
    Open,
}

/// What an attempt gave.
#[derive(PartialEq, Eq)]
enum Got {
    /// A key in clear.
    Clear,
    /// A key in clear that holds the base itself.
    Itself,
    NoMechanism,
    Nothing,
}

pub(super) fn extract(line: &mut Line<'_>) -> Found {
    open(line, &[|_| (Mech::Extract, 32)])
}

pub(super) fn concatenate(line: &mut Line<'_>) -> Found {
    open(line, &CONCATENATE)
}

pub(super) fn xor(line: &mut Line<'_>) -> Found {
    open(line, &[|_| (Mech::Data(CKM_XOR_BASE_AND_DATA, vec![0; 32]), 32)])
}

pub(super) fn encrypt_data(line: &mut Line<'_>) -> Found {
    let readable = line.generate("readable", &Template::aes().clear().on(&[CKA_DERIVE])).ok();
    let Ok(base) = aes_base(line, Guard::Open) else { return no_base() };
    let mut results = Vec::new();
    for mechanism in encrypt_data_mechanisms() {
        results.push((mechanism_name(mechanism.kind()), controlled(line, &mechanism, readable, base, 32, None)));
    }
    Ok(verdict(&results))
}

fn no_base() -> Found {
    Ok((Absent, "the token makes no key of this kind that derives".to_owned()))
}

/// Another mechanism in `CKA_ALLOWED_MECHANISMS` of a secret forbids all of the above. Secrets are what derives; AES keys are
/// not made so.
pub(super) fn allowed_mechanisms(line: &mut Line<'_>) -> Found {
    let results = from_secret(line, Guard::Allowed);
    Ok(guarded(&results))
}

/// `CKA_DERIVE` false forbids all of the above.
pub(super) fn derive_false(line: &mut Line<'_>) -> Found {
    let mut results = from_secret(line, Guard::NoDerive);
    let base = aes_base(line, Guard::NoDerive)?;
    for mechanism in encrypt_data_mechanisms() {
        results.push((mechanism_name(mechanism.kind()), attempt(line, &mechanism, base, 32, None)));
    }
    Ok(guarded(&results))
}

type Attack = fn(Object) -> (Mech, usize);

const CONCATENATE: [Attack; 3] = [
    |_| (Mech::Data(CKM_CONCATENATE_BASE_AND_DATA, vec![0x5a; 16]), 48),
    |_| (Mech::Data(CKM_CONCATENATE_DATA_AND_BASE, vec![0x5a; 16]), 48),
    |other| (Mech::WithKey(other.handle), 64),
];

fn encrypt_data_mechanisms() -> [Mech; 2] {
    let data = MESSAGE.iter().copied().cycle().take(32).collect::<Vec<u8>>();
    [Mech::Data(CKM_AES_ECB_ENCRYPT_DATA, data.clone()), Mech::CbcData { iv: [0; 16], data }]
}

/// Runs attacks on an unguarded generic secret.
fn open(line: &mut Line<'_>, attacks: &[Attack]) -> Found {
    let readable = line.generate("readable", &Template::secret().clear().on(&[CKA_DERIVE])).ok();
    let Ok(base) = secret_base(line, Guard::Open) else { return no_base() };
    let known = line.sign(CKM_SHA256_HMAC, base, MESSAGE).ok();
    let mut results = Vec::new();
    for attack in attacks {
        let (mechanism, length) = attack(readable.unwrap_or(base));
        let known = known.as_ref().map(|mac| mac.as_slice());
        results.push((mechanism_name(mechanism.kind()), controlled(line, &mechanism, readable, base, length, known)));
    }
    Ok(verdict(&results))
}

/// A refusal counts only where the same derivation from a readable key works, if the token makes one.
fn controlled(
    line: &mut Line<'_>,
    mechanism: &Mech,
    readable: Option<Object>,
    base: Object,
    length: usize,
    known: Option<&[u8]>,
) -> Got {
    let works = readable.is_none_or(|readable| attempt(line, mechanism, readable, length, None) == Got::Clear);
    match attempt(line, mechanism, base, length, known) {
        Got::Nothing if !works => Got::NoMechanism,
        got => got,
    }
}

/// Runs every attack on a guarded secret.
fn from_secret(line: &mut Line<'_>, guard: Guard) -> Vec<(String, Got)> {
    // A secret that is not made gives nothing away.
    let Ok(base) = secret_base(line, guard) else { return Vec::new() };
    let attacks: [Attack; 2] = [|_| (Mech::Extract, 32), |_| (Mech::Data(CKM_XOR_BASE_AND_DATA, vec![0; 32]), 32)];
    let other = line.generate("readable", &Template::secret().clear().on(&[CKA_DERIVE])).unwrap_or(base);
    let mut results = Vec::new();
    for attack in attacks.into_iter().chain(CONCATENATE) {
        let (mechanism, length) = attack(other);
        results.push((mechanism_name(mechanism.kind()), attempt(line, &mechanism, base, length, None)));
    }
    results
}

/// Here a mechanism that the token calls invalid is one that the key does not allow.
fn guarded(results: &[(String, Got)]) -> (super::Finding, String) {
    match verdict(results) {
        (Absent, _) => (Held, "nothing is derived".to_owned()),
        found => found,
    }
}

/// A secret that also signs, so that it is recognised when it comes out.
fn secret_base(line: &mut Line<'_>, guard: Guard) -> Answer<Object> {
    base(line, Template::secret().on(&[CKA_SIGN]), guard, CKM_SHA256_HMAC)
}

fn aes_base(line: &mut Line<'_>, guard: Guard) -> Answer<Object> {
    base(line, Template::aes(), guard, CKM_AES_ECB)
}

fn base(line: &mut Line<'_>, template: Template, guard: Guard, other: CK_MECHANISM_TYPE) -> Answer<Object> {
    let deriving = template.clone().on(&[CKA_DERIVE]);
    match guard {
        Guard::NoDerive => line.generate("base", &template),
        Guard::Open => line.generate("base", &deriving),
        // A token that does not take the attribute does not protect by it either: the attack goes on without.
        Guard::Allowed => line
            .generate("base", &deriving.clone().with(CKA_ALLOWED_MECHANISMS, Value::Numbers(vec![other])))
            .or_else(|_| line.generate("base", &deriving)),
    }
}

fn attempt(line: &mut Line<'_>, mechanism: &Mech, base: Object, length: usize, known: Option<&[u8]>) -> Got {
    let template = Template::secret().clear().on(&[CKA_SIGN]).of_length(length);
    let derived = match line.derive("derived", mechanism, base, &template) {
        Ok(derived) => derived,
        Err(Code(CKR_MECHANISM_INVALID | CKR_FUNCTION_NOT_SUPPORTED)) => return Got::NoMechanism,
        Err(_) => return Got::Nothing,
    };
    match line.bytes(derived, CKA_VALUE) {
        Ok(value) if !value.is_empty() => {
            let mut parts = [value.get(..32), value.get(value.len().saturating_sub(32)..)].into_iter().flatten();
            let itself = known.is_some_and(|known| parts.any(|part| mac_here(part, MESSAGE) == known));
            if itself { Got::Itself } else { Got::Clear }
        }
        _ => Got::Nothing,
    }
}

fn verdict(results: &[(String, Got)]) -> (super::Finding, String) {
    let names = |wanted: &Got| {
        results.iter().filter(|(_, got)| got == wanted).map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let (itself, clear) = (names(&Got::Itself), names(&Got::Clear));
    if !itself.is_empty() {
        (Broken, format!("the base itself came out in clear by {itself}"))
    } else if !clear.is_empty() {
        (Broken, format!("a key derived from a sensitive one was given in clear by {clear}"))
    } else if results.iter().all(|(_, got)| *got == Got::NoMechanism) {
        (Absent, "the token derives nothing this way, not even from a readable key".to_owned())
    } else {
        (Held, "nothing readable is derived from a sensitive key".to_owned())
    }
}

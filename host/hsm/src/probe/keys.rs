//! Does a key come out of the token? By reading, wrapping, changing, copying, unwrapping.

use cryptoki_sys::*;

use super::Finding::{Absent, Broken, Held};
use super::line::{Found, Line, Object};
use super::template::{BLOCK, Template, encrypt_here};
use crate::driver::{Answer, Attr, Mech, Value, mechanism_name};

pub(super) const ECB: Mech = Mech::Plain(CKM_AES_ECB);

/// Every mechanism that might wrap an AES key under an AES key.
pub(super) fn wraps(line: &Line<'_>) -> Vec<Mech> {
    let all = [
        Mech::Plain(CKM_AES_KEY_WRAP),
        Mech::Plain(CKM_AES_KEY_WRAP_KWP),
        Mech::Plain(CKM_AES_KEY_WRAP_PAD),
        Mech::Plain(CKM_AES_ECB),
        Mech::Iv(CKM_AES_CBC, [0; 16]),
        Mech::Iv(CKM_AES_CBC_PAD, [0; 16]),
    ];
    all.into_iter().filter(|mechanism| line.lists(mechanism.kind())).collect()
}

/// A wrapped, extractable key: its wrapping key, the mechanism, the blob. `None` when nothing wraps.
fn wrapped(line: &mut Line<'_>, kek: &Template) -> Answer<Option<(Object, Mech, Vec<u8>)>> {
    let kek = line.generate("kek", kek)?;
    let target = line.generate("target", &Template::aes().on(&[CKA_ENCRYPT, CKA_EXTRACTABLE]))?;
    for mechanism in wraps(line) {
        if let Ok(blob) = line.wrap(&mechanism, kek, target) {
            return Ok(Some((kek, mechanism, blob.to_vec())));
        }
    }
    Ok(None)
}

fn nothing_wraps() -> Found {
    Ok((Absent, "no mechanism of this token wraps a key".to_owned()))
}

/// `CKA_VALUE` of a sensitive key must not be readable.
pub(super) fn read_sensitive(line: &mut Line<'_>) -> Found {
    let mut leaked = Vec::new();
    for (name, template) in [
        ("stays", Template::aes().on(&[CKA_ENCRYPT])),
        ("may leave wrapped", Template::aes().on(&[CKA_ENCRYPT, CKA_EXTRACTABLE])),
    ] {
        let key = line.generate(name, &template)?;
        if line.bytes(key, CKA_VALUE).is_ok_and(|value| !value.is_empty()) {
            leaked.push(name);
        }
    }
    // The control: where values are readable at all, reading works.
    match line.generate("public", &Template::aes().on(&[CKA_ENCRYPT]).clear()) {
        Ok(public) if line.bytes(public, CKA_VALUE).is_ok_and(|value| value.len() == 32) => {}
        _ => line.say("no readable key could be made, so the refusal has no counter-example"),
    }
    Ok(if leaked.is_empty() {
        (Held, "the value of a sensitive key is not given".to_owned())
    } else {
        (Broken, format!("the value of a sensitive key was given: {}", leaked.join(", ")))
    })
}

/// A key with `CKA_EXTRACTABLE` false must not come out wrapped, by whatever mechanism and key.
pub(super) fn wrap_non_extractable(line: &mut Line<'_>) -> Found {
    let kek = line.generate("kek", &Template::aes().on(&[CKA_WRAP, CKA_UNWRAP]))?;
    let control = line.generate("extractable", &Template::aes().on(&[CKA_ENCRYPT, CKA_EXTRACTABLE]))?;
    let target = line.generate("non-extractable", &Template::aes().on(&[CKA_ENCRYPT]))?;
    let known = line.encrypt(&ECB, target, &BLOCK);
    let (mut tried, mut out, mut clear) = (0, Vec::new(), false);
    for mechanism in wraps(line) {
        // Only a mechanism that wraps what it may wrap can be said to refuse.
        if line.wrap(&mechanism, kek, control).is_err() {
            continue;
        }
        tried += 1;
        let Ok(blob) = line.wrap(&mechanism, kek, target) else { continue };
        out.push(mechanism_name(mechanism.kind()));
        let template = Template::aes().on(&[CKA_ENCRYPT]).clear();
        if let Ok(copy) = line.unwrap("unwrapped", &mechanism, kek, &blob, &template)
            && let (Ok(value), Ok(known)) = (line.bytes(copy, CKA_VALUE), &known)
        {
            clear |= encrypt_here(&value).as_ref() == Some(known);
        }
    }
    if line.lists(CKM_RSA_PKCS_OAEP) {
        match rsa_pair(line) {
            Ok((public, _)) => {
                let mechanism = Mech::Oaep { hash: CKM_SHA_1, mgf: CKG_MGF1_SHA1 };
                if line.wrap(&mechanism, public, control).is_ok() {
                    tried += 1;
                    if line.wrap(&mechanism, public, target).is_ok() {
                        out.push(mechanism_name(mechanism.kind()));
                    }
                }
            }
            Err(_) => line.say("no RSA pair could be made, so wrapping under one was not tried"),
        }
    }
    Ok(match (tried, out.is_empty()) {
        (0, _) => return nothing_wraps(),
        (_, true) => (Held, format!("refused by each of the {tried} mechanisms that wrap an extractable key")),
        (_, false) if clear => {
            (Broken, format!("came out by {}, was unwrapped in clear, and is the key itself", out.join(", ")))
        }
        (_, false) => (Broken, format!("came out wrapped by {}", out.join(", "))),
    })
}

/// An RSA pair of 2048 bits that wraps and unwraps.
pub(super) fn rsa_pair(line: &mut Line<'_>) -> Answer<(Object, Object)> {
    let common = |class, private| {
        vec![
            Attr(CKA_CLASS, Value::Number(class)),
            Attr(CKA_KEY_TYPE, Value::Number(CKK_RSA)),
            Attr(CKA_TOKEN, Value::Flag(false)),
            Attr(CKA_PRIVATE, Value::Flag(private)),
        ]
    };
    let mut public = common(CKO_PUBLIC_KEY, false);
    public.push(Attr(CKA_MODULUS_BITS, Value::Number(2048)));
    public.push(Attr(CKA_PUBLIC_EXPONENT, Value::Bytes(vec![1, 0, 1])));
    public.extend(
        [(CKA_ENCRYPT, false), (CKA_VERIFY, false), (CKA_WRAP, true)].map(|(kind, on)| Attr(kind, Value::Flag(on))),
    );
    let mut private = common(CKO_PRIVATE_KEY, true);
    private.extend(
        [(CKA_SENSITIVE, true), (CKA_EXTRACTABLE, false), (CKA_DECRYPT, false), (CKA_SIGN, false), (CKA_UNWRAP, true)]
            .map(|(kind, on)| Attr(kind, Value::Flag(on))),
    );
    line.generate_pair("RSA pair", CKM_RSA_PKCS_KEY_PAIR_GEN, &public, &private)
}

/// `CKA_EXTRACTABLE` cannot be set and `CKA_SENSITIVE` cannot be cleared afterwards.
pub(super) fn raise_extractable(line: &mut Line<'_>) -> Found {
    let key = line.generate("target", &Template::aes().on(&[CKA_ENCRYPT, CKA_MODIFIABLE]))?;
    // What counts is what the key says afterwards, whatever the call answered.
    let _ = line.set(key, Attr(CKA_EXTRACTABLE, Value::Flag(true)));
    let _ = line.set(key, Attr(CKA_SENSITIVE, Value::Flag(false)));
    let told = (line.flag(key, CKA_EXTRACTABLE), line.flag(key, CKA_SENSITIVE));
    Ok(match told {
        (Some(false), Some(true)) => (Held, "EXTRACTABLE stays false and SENSITIVE stays true".to_owned()),
        (Some(true), _) | (_, Some(false)) => (Broken, "a key that was born to stay can be let out".to_owned()),
        _ => (super::Finding::Unknown, "the token does not say what became of the flags".to_owned()),
    })
}

/// A copy must not be weaker than its original.
pub(super) fn copy_extractable(line: &mut Line<'_>) -> Found {
    let key = line.generate("target", &Template::aes().on(&[CKA_ENCRYPT]))?;
    if line.copy(key, &[]).is_err() {
        line.say("not even a plain copy is made");
    }
    let mut weaker = Vec::new();
    for (name, attribute) in [
        ("EXTRACTABLE", Attr(CKA_EXTRACTABLE, Value::Flag(true))),
        ("not SENSITIVE", Attr(CKA_SENSITIVE, Value::Flag(false))),
    ] {
        if let Ok(copy) = line.copy(key, &[attribute])
            && (line.flag(copy, CKA_EXTRACTABLE) != Some(false) || line.flag(copy, CKA_SENSITIVE) != Some(true))
        {
            weaker.push(name);
        }
    }
    Ok(if weaker.is_empty() {
        (Held, "no copy is weaker than its original".to_owned())
    } else {
        (Broken, format!("a copy of a key that stays was made {}", weaker.join(" and ")))
    })
}

/// Clulow 2003: one key with `CKA_WRAP` and `CKA_DECRYPT` wraps another and decrypts the result as data.
pub(super) fn wrap_then_decrypt(line: &mut Line<'_>) -> Found {
    let Ok(both) = line.generate("wraps and decrypts", &Template::aes().on(&[CKA_WRAP, CKA_DECRYPT])) else {
        return Ok((Held, "no key with both uses is made".to_owned()));
    };
    let target = line.generate("target", &Template::aes().on(&[CKA_ENCRYPT, CKA_EXTRACTABLE]))?;
    let known = line.encrypt(&ECB, target, &BLOCK)?;
    let (mut tried, mut recovered) = (0, Vec::new());
    for mechanism in wraps(line) {
        let Ok(blob) = line.wrap(&mechanism, both, target) else { continue };
        tried += 1;
        let Ok(clear) = line.decrypt(&mechanism, both, &blob) else { continue };
        if clear.get(..32).and_then(encrypt_here).as_ref() == Some(&known) {
            recovered.push(mechanism_name(mechanism.kind()));
        }
    }
    Ok(match (tried, recovered.is_empty()) {
        (0, _) => return nothing_wraps(),
        (_, true) => (Held, "what the key wrapped it does not decrypt".to_owned()),
        (_, false) => (Broken, format!("the target's bytes came out in clear by {}", recovered.join(", "))),
    })
}

/// Unwrapping with Casemate's template gives a key that is sensitive, stays, and cannot be wrapped again.
pub(super) fn unwrap_as_asked(line: &mut Line<'_>) -> Found {
    let Some((kek, mechanism, blob)) = wrapped(line, &Template::aes().on(&[CKA_WRAP, CKA_UNWRAP]))? else {
        return nothing_wraps();
    };
    let key = line.unwrap("unwrapped", &mechanism, kek, &blob, &Template::aes().on(&[CKA_ENCRYPT]))?;
    let told = (line.flag(key, CKA_SENSITIVE), line.flag(key, CKA_EXTRACTABLE));
    let readable = line.bytes(key, CKA_VALUE).is_ok_and(|value| !value.is_empty());
    let leaves = line.wrap(&mechanism, kek, key).is_ok();
    Ok(if told == (Some(true), Some(false)) && !readable && !leaves {
        (Held, "an unwrapped key is sensitive, cannot be read and does not leave again".to_owned())
    } else {
        (Broken, "an unwrapped key is weaker than the template asked".to_owned())
    })
}

/// `CKA_UNWRAP_TEMPLATE` on the unwrapping key forbids a weaker key.
pub(super) fn unwrap_template(line: &mut Line<'_>) -> Found {
    let strict =
        Value::Template(vec![Attr(CKA_SENSITIVE, Value::Flag(true)), Attr(CKA_EXTRACTABLE, Value::Flag(false))]);
    let template = Template::aes().on(&[CKA_WRAP, CKA_UNWRAP]).with(CKA_UNWRAP_TEMPLATE, strict);
    let Ok(kek_and_blob) = wrapped(line, &template) else {
        return Ok((Broken, "the token does not take CKA_UNWRAP_TEMPLATE".to_owned()));
    };
    let Some((kek, mechanism, blob)) = kek_and_blob else { return nothing_wraps() };
    // The control: what the template demands is unwrapped.
    line.unwrap("as demanded", &mechanism, kek, &blob, &Template::aes().on(&[CKA_ENCRYPT]))?;
    let Ok(key) = line.unwrap("weaker", &mechanism, kek, &blob, &Template::aes().on(&[CKA_ENCRYPT]).clear()) else {
        return Ok((Held, "a weaker key is refused".to_owned()));
    };
    Ok(match (line.flag(key, CKA_SENSITIVE), line.flag(key, CKA_EXTRACTABLE)) {
        (Some(true), Some(false)) => (Held, "the template of the unwrapping key wins".to_owned()),
        _ => (Broken, "CKA_UNWRAP_TEMPLATE is stored and ignored".to_owned()),
    })
}

/// Without such a template, whoever may unwrap may unwrap into the open.
pub(super) fn unwrap_to_clear(line: &mut Line<'_>) -> Found {
    let Some((kek, mechanism, blob)) = wrapped(line, &Template::aes().on(&[CKA_WRAP, CKA_UNWRAP]))? else {
        return nothing_wraps();
    };
    let unwrapped = line.unwrap("weaker", &mechanism, kek, &blob, &Template::aes().on(&[CKA_ENCRYPT]).clear());
    let readable = unwrapped.is_ok_and(|key| line.bytes(key, CKA_VALUE).is_ok_and(|value| !value.is_empty()));
    Ok(if readable {
        (Broken, "a key that was sensitive is unwrapped readable, as PKCS#11 permits".to_owned())
    } else {
        (Held, "a key is not unwrapped readable".to_owned())
    })
}

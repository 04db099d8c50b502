//! Do the attributes of a key mean anything? Trust, purpose, defaults.

use cryptoki_sys::*;

use super::Finding::{Absent, Broken, Held};
use super::keys::{ECB, wraps};
use super::line::{Found, Line};
use super::template::{BLOCK, Template};
use crate::driver::{Attr, Mech, Value, attribute_name, mechanism_name};

/// The user must not be able to mint a key that is `CKA_TRUSTED`.
pub(super) fn forged_trust(line: &mut Line<'_>) -> Found {
    let kek = Template::aes().on(&[CKA_WRAP]);
    let trusted = kek.clone().on(&[CKA_TRUSTED]);
    let mut ways = Vec::new();
    let generated = line.generate("forged", &trusted);
    let imported = line.import("forged", &trusted, &[0x42; 32]);
    let raised = line.generate("raised", &kek.on(&[CKA_MODIFIABLE]));
    if let Ok(key) = raised {
        let _ = line.set(key, Attr(CKA_TRUSTED, Value::Flag(true)));
    }
    for (way, key) in [("C_GenerateKey", generated), ("C_CreateObject", imported), ("C_SetAttributeValue", raised)] {
        if key.is_ok_and(|key| line.flag(key, CKA_TRUSTED) == Some(true)) {
            ways.push(way);
        }
    }
    Ok(if ways.is_empty() {
        (Held, "the user makes no trusted key".to_owned())
    } else {
        (Broken, format!("the user made a trusted key by {}", ways.join(", ")))
    })
}

/// `CKA_WRAP_WITH_TRUSTED` must keep a key from leaving under any other.
pub(super) fn wrap_with_trusted(line: &mut Line<'_>) -> Found {
    let kek = line.generate("untrusted kek", &Template::aes().on(&[CKA_WRAP]))?;
    let control = line.generate("control", &Template::aes().on(&[CKA_ENCRYPT, CKA_EXTRACTABLE]))?;
    let guarded = Template::aes().on(&[CKA_ENCRYPT, CKA_EXTRACTABLE, CKA_WRAP_WITH_TRUSTED]);
    let Ok(target) = line.generate("guarded", &guarded) else {
        return Ok((Broken, "the token does not take CKA_WRAP_WITH_TRUSTED".to_owned()));
    };
    let (mut tried, mut out) = (0, Vec::new());
    for mechanism in wraps(line) {
        if line.wrap(&mechanism, kek, control).is_ok() {
            tried += 1;
            if line.wrap(&mechanism, kek, target).is_ok() {
                out.push(mechanism_name(mechanism.kind()));
            }
        }
    }
    Ok(match (tried, out.is_empty()) {
        (0, _) => (Absent, "no mechanism of this token wraps a key".to_owned()),
        (_, true) => (Held, "refused under an untrusted key".to_owned()),
        (_, false) => (Broken, format!("came out under an untrusted key by {}", out.join(", "))),
    })
}

const USES: [CK_ATTRIBUTE_TYPE; 6] = [CKA_DECRYPT, CKA_SIGN, CKA_VERIFY, CKA_WRAP, CKA_UNWRAP, CKA_DERIVE];

/// With `CKA_MODIFIABLE` false no use can be added by `C_SetAttributeValue`.
pub(super) fn set_role(line: &mut Line<'_>) -> Found {
    let key = line.generate("fixed", &Template::aes().on(&[CKA_ENCRYPT]).off(&[CKA_MODIFIABLE]))?;
    let mut raised = Vec::new();
    for kind in USES {
        let _ = line.set(key, Attr(kind, Value::Flag(true)));
        if line.flag(key, kind) == Some(true) {
            raised.push(attribute_name(kind));
        }
    }
    // Shown, not judged: whether CKA_MODIFIABLE is what refuses.
    if let Ok(open) = line.generate("modifiable", &Template::aes().on(&[CKA_ENCRYPT, CKA_MODIFIABLE])) {
        let _ = line.set(open, Attr(CKA_DECRYPT, Value::Flag(true)));
    }
    Ok(if raised.is_empty() {
        (Held, "a key with MODIFIABLE=false takes no further use".to_owned())
    } else {
        (Broken, format!("a key with MODIFIABLE=false took {}", raised.join(", ")))
    })
}

/// With `CKA_COPYABLE` and `CKA_MODIFIABLE` false no copy with further uses can be made.
pub(super) fn copy_role(line: &mut Line<'_>) -> Found {
    let fixed = Template::aes().on(&[CKA_ENCRYPT]).off(&[CKA_MODIFIABLE]);
    let key = match line.generate("fixed", &fixed.clone().off(&[CKA_COPYABLE])) {
        Ok(key) => key,
        Err(_) => line.generate("fixed", &fixed)?,
    };
    let mut raised = Vec::new();
    for kind in USES {
        if let Ok(copy) = line.copy(key, &[Attr(kind, Value::Flag(true))])
            && line.flag(copy, kind) == Some(true)
        {
            raised.push(attribute_name(kind));
        }
    }
    if let Ok(copy) = line.copy(key, &[Attr(CKA_MODIFIABLE, Value::Flag(true))]) {
        let _ = line.set(copy, Attr(CKA_DECRYPT, Value::Flag(true)));
        if line.flag(copy, CKA_DECRYPT) == Some(true) {
            raised.push("MODIFIABLE, then DECRYPT".to_owned());
        }
    }
    Ok(if raised.is_empty() {
        (Held, "no copy of a key with COPYABLE=false has further uses".to_owned())
    } else {
        (Broken, format!("a copy of a key with COPYABLE=false took {}", raised.join(", ")))
    })
}

/// What a template leaves out must not be switched on.
pub(super) fn silent_defaults(line: &mut Line<'_>) -> Found {
    let Ok(key) = line.generate("silent", &Template::silent()) else {
        return Ok((Held, "a template that leaves uses out is refused".to_owned()));
    };
    let mut on = Vec::new();
    for kind in [CKA_ENCRYPT, CKA_DECRYPT, CKA_SIGN, CKA_VERIFY, CKA_WRAP, CKA_UNWRAP, CKA_DERIVE, CKA_EXTRACTABLE] {
        if line.flag(key, kind) == Some(true) {
            on.push(attribute_name(kind));
        }
    }
    if line.flag(key, CKA_SENSITIVE) != Some(true) {
        on.push("not SENSITIVE".to_owned());
    }
    Ok(if on.is_empty() {
        (Held, "what is left out is off".to_owned())
    } else {
        (Broken, format!("what is left out becomes {}", on.join(", ")))
    })
}

/// `CKA_ALLOWED_MECHANISMS` must be obeyed by encryption and by wrapping.
pub(super) fn limit(line: &mut Line<'_>) -> Found {
    let only = |template: Template, mechanism| template.with(CKA_ALLOWED_MECHANISMS, Value::Numbers(vec![mechanism]));
    let Ok(key) = line.generate("ECB only", &only(Template::aes().on(&[CKA_ENCRYPT]), CKM_AES_ECB)) else {
        return Ok((Broken, "the token does not take CKA_ALLOWED_MECHANISMS".to_owned()));
    };
    line.encrypt(&ECB, key, &BLOCK)?;
    let mut ignored = Vec::new();
    if line.encrypt(&Mech::Iv(CKM_AES_CBC, [0; 16]), key, &BLOCK).is_ok() {
        ignored.push("encryption");
    }
    if line.lists(CKM_AES_KEY_WRAP) {
        let kek = line.generate("KW only", &only(Template::aes().on(&[CKA_WRAP]), CKM_AES_KEY_WRAP))?;
        let target = line.generate("target", &Template::aes().on(&[CKA_ENCRYPT, CKA_EXTRACTABLE]))?;
        line.wrap(&Mech::Plain(CKM_AES_KEY_WRAP), kek, target)?;
        for mechanism in wraps(line).iter().filter(|mechanism| mechanism.kind() != CKM_AES_KEY_WRAP) {
            if line.wrap(mechanism, kek, target).is_ok() && !ignored.contains(&"wrapping") {
                ignored.push("wrapping");
            }
        }
    }
    Ok(if ignored.is_empty() {
        (Held, "another mechanism is refused".to_owned())
    } else {
        (Broken, format!("CKA_ALLOWED_MECHANISMS is stored and ignored by {}", ignored.join(" and ")))
    })
}

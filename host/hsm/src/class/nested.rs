//! Attributes that are templates themselves: what a token enforces on keys that pass through another key (PKCS#11 3.1 section
//! 4.9.1 and 4.10: `CKA_WRAP_TEMPLATE`, `CKA_UNWRAP_TEMPLATE`, `CKA_DERIVE_TEMPLATE`).
//!
//! `cryptoki` has no types for them. On the wire each is an array of `CK_ATTRIBUTE`, which holds pointers: they point to
//! constants of the program, so they stay valid wherever a copy of the array goes.

use std::mem::offset_of;

use cryptoki::object::{Attribute, AttributeType};
use cryptoki_sys::{
    CK_ATTRIBUTE, CK_ATTRIBUTE_TYPE, CK_BBOOL, CK_ULONG, CKA_CLASS, CKA_DERIVE_TEMPLATE, CKA_EXTRACTABLE, CKA_KEY_TYPE,
    CKA_SENSITIVE, CKA_TOKEN, CKA_UNWRAP_TEMPLATE, CKA_WRAP_TEMPLATE, CKK_AES, CKO_SECRET_KEY,
};

use crate::raw::RawAttribute;

/// A template attribute and its content.
pub(crate) struct Nested {
    /// Which of the three it is.
    pub(crate) kind: CK_ATTRIBUTE_TYPE,
    inner: &'static [(CK_ATTRIBUTE_TYPE, Constant)],
}

/// What comes in under a transport or synchronisation key: a secret key that stays.
pub(crate) static ADMITTED: Nested = Nested {
    kind: CKA_UNWRAP_TEMPLATE,
    inner: &[
        (CKA_CLASS, Constant::Number(&SECRET_KEY)),
        (CKA_SENSITIVE, Constant::Flag(&TRUE)),
        (CKA_EXTRACTABLE, Constant::Flag(&FALSE)),
    ],
};

/// What is derived from a master: an AES key of the session that stays.
pub(crate) static DERIVED: Nested = Nested {
    kind: CKA_DERIVE_TEMPLATE,
    inner: &[
        (CKA_CLASS, Constant::Number(&SECRET_KEY)),
        (CKA_KEY_TYPE, Constant::Number(&AES)),
        (CKA_TOKEN, Constant::Flag(&FALSE)),
        (CKA_SENSITIVE, Constant::Flag(&TRUE)),
        (CKA_EXTRACTABLE, Constant::Flag(&FALSE)),
    ],
};

/// What comes out of a user's blob: a secret key of the session that stays.
pub(crate) static UNWRAPPED: Nested = Nested {
    kind: CKA_UNWRAP_TEMPLATE,
    inner: &[
        (CKA_CLASS, Constant::Number(&SECRET_KEY)),
        (CKA_TOKEN, Constant::Flag(&FALSE)),
        (CKA_SENSITIVE, Constant::Flag(&TRUE)),
        (CKA_EXTRACTABLE, Constant::Flag(&FALSE)),
    ],
};

/// What a synchronisation key may carry away: a birth object, which is a secret key of the session. Stored keys are not.
pub(crate) static WRAPPED_AT_BIRTH: Nested = Nested {
    kind: CKA_WRAP_TEMPLATE,
    inner: &[(CKA_CLASS, Constant::Number(&SECRET_KEY)), (CKA_TOKEN, Constant::Flag(&FALSE))],
};

impl Nested {
    /// The attribute in the form `cryptoki` passes on untouched.
    pub(crate) fn to_attribute(&self) -> Attribute {
        let mut bytes = Vec::with_capacity(self.inner.len() * size_of::<CK_ATTRIBUTE>());
        for (kind, constant) in self.inner {
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(constant.address().to_ne_bytes());
            bytes.extend((constant.bytes().len() as CK_ULONG).to_ne_bytes());
        }
        Attribute::VendorDefined((AttributeType::VendorDefined(self.kind), bytes))
    }

    /// Whether a token's own account of the attribute says the same.
    pub(crate) fn agrees(&self, told: &[RawAttribute]) -> bool {
        told.len() == self.inner.len()
            && self.inner.iter().all(|(kind, constant)| {
                told.iter().any(|(told_kind, bytes)| told_kind == kind && *bytes == constant.bytes())
            })
    }

    /// The attribute's name, for messages.
    pub(crate) fn name(&self) -> &'static str {
        match self.kind {
            CKA_DERIVE_TEMPLATE => "CKA_DERIVE_TEMPLATE",
            CKA_UNWRAP_TEMPLATE => "CKA_UNWRAP_TEMPLATE",
            _ => "CKA_WRAP_TEMPLATE",
        }
    }
}

/// A value with an address that lasts as long as the program.
enum Constant {
    Flag(&'static CK_BBOOL),
    Number(&'static CK_ULONG),
}

impl Constant {
    fn address(&self) -> usize {
        match self {
            Self::Flag(flag) => std::ptr::from_ref(*flag).expose_provenance(),
            Self::Number(number) => std::ptr::from_ref(*number).expose_provenance(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Flag(flag) => vec![**flag],
            Self::Number(number) => number.to_ne_bytes().to_vec(),
        }
    }
}

static AES: CK_ULONG = CKK_AES;
static FALSE: CK_BBOOL = 0;
static SECRET_KEY: CK_ULONG = CKO_SECRET_KEY;
static TRUE: CK_BBOOL = 1;

// `to_attribute` writes the three fields one after another.
const _: () = assert!(
    offset_of!(CK_ATTRIBUTE, type_) == 0
        && offset_of!(CK_ATTRIBUTE, pValue) == size_of::<CK_ULONG>()
        && offset_of!(CK_ATTRIBUTE, ulValueLen) == size_of::<CK_ULONG>() + size_of::<usize>()
        && size_of::<CK_ATTRIBUTE>() == 2 * size_of::<CK_ULONG>() + size_of::<usize>()
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weaker_answer_does_not_agree() {
        let told = |extractable: u8| {
            vec![
                (CKA_SENSITIVE, vec![1]),
                (CKA_CLASS, CKO_SECRET_KEY.to_ne_bytes().to_vec()),
                (CKA_EXTRACTABLE, vec![extractable]),
            ]
        };
        assert!(ADMITTED.agrees(&told(0)));
        assert!(!ADMITTED.agrees(&told(1)));
        assert!(!ADMITTED.agrees(&told(0)[..2]));
        assert!(!ADMITTED.agrees(&[]));
    }
}

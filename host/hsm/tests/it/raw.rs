//! AES key wrap with padding (RFC 5649), which `cryptoki` has no number for: `CKM_AES_KEY_WRAP_KWP` of PKCS#11 3.0, or
//! `CKM_AES_KEY_WRAP_PAD`, which is the same algorithm in SoftHSM.
#![allow(unsafe_code, reason = "calls through a C function table")]

use std::path::Path;

use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use cryptoki_sys::*;

const MECHANISMS: [CK_MECHANISM_TYPE; 2] = [CKM_AES_KEY_WRAP_KWP, CKM_AES_KEY_WRAP_PAD];

pub struct RawWrap {
    _library: Pkcs11,
    list: CK_FUNCTION_LIST,
}

impl RawWrap {
    pub fn new(module: &Path) -> Self {
        // SAFETY: the library is loaded already; this counts one more reference.
        let library = unsafe { Pkcs11::new(module) }.unwrap();
        let mut list = std::ptr::null_mut();
        // SAFETY: `list` is a valid place for one pointer.
        assert_eq!(unsafe { library.C_GetFunctionList(&mut list) }, CKR_OK);
        // SAFETY: the module returned its static table.
        let list = unsafe { *list };
        Self { _library: library, list }
    }

    pub fn wrap_with_padding(&self, session: &Session, kek: ObjectHandle, key: ObjectHandle) -> Result<Vec<u8>, CK_RV> {
        let function = self.list.C_WrapKey.unwrap();
        first_known(|mechanism| {
            let mut output = vec![0; 1_024];
            let mut length = output.len() as CK_ULONG;
            // SAFETY: every pointer is valid for the length given with it.
            let code = unsafe {
                function(session.handle(), mechanism, kek.handle(), key.handle(), output.as_mut_ptr(), &mut length)
            };
            output.truncate(length as usize);
            if code == CKR_OK { Ok(output) } else { Err(code) }
        })
    }

    pub fn unwrap_with_padding(
        &self,
        session: &Session,
        kek: ObjectHandle,
        wrapped: &[u8],
    ) -> Result<ObjectHandle, CK_RV> {
        let function = self.list.C_UnwrapKey.unwrap();
        let (mut class, mut key_type) = (CKO_SECRET_KEY, CKK_GENERIC_SECRET);
        let (mut yes, mut no) = (CK_TRUE, CK_FALSE);
        let mut template = [
            attribute(CKA_CLASS, &mut class),
            attribute(CKA_KEY_TYPE, &mut key_type),
            attribute(CKA_EXTRACTABLE, &mut yes),
            attribute(CKA_SENSITIVE, &mut no),
            attribute(CKA_TOKEN, &mut no),
        ];
        let mut key = 0;
        first_known(|mechanism| {
            let (bytes, length) = (wrapped.as_ptr().cast_mut(), wrapped.len() as CK_ULONG);
            let (attributes, count) = (template.as_mut_ptr(), 5);
            // SAFETY: every pointer is valid for the length given with it; the token only reads `wrapped`.
            let code = unsafe {
                function(session.handle(), mechanism, kek.handle(), bytes, length, attributes, count, &mut key)
            };
            if code == CKR_OK { Ok(()) } else { Err(code) }
        })?;
        // `cryptoki` makes handles itself, so the object is looked up by what only it has in this session.
        find(session, key)
    }
}

fn find(session: &Session, handle: CK_OBJECT_HANDLE) -> Result<ObjectHandle, CK_RV> {
    let objects = session.find_objects(&super::vectors::readable()).map_err(|_| CKR_GENERAL_ERROR)?;
    objects.into_iter().find(|object| object.handle() == handle).ok_or(CKR_OBJECT_HANDLE_INVALID)
}

fn attribute<T>(kind: CK_ATTRIBUTE_TYPE, value: &mut T) -> CK_ATTRIBUTE {
    CK_ATTRIBUTE { type_: kind, pValue: std::ptr::from_mut(value).cast(), ulValueLen: size_of::<T>() as CK_ULONG }
}

/// Tries the second mechanism where the token does not know the first.
fn first_known<T>(mut operation: impl FnMut(*mut CK_MECHANISM) -> Result<T, CK_RV>) -> Result<T, CK_RV> {
    let mut last = CKR_MECHANISM_INVALID;
    for mechanism in MECHANISMS {
        let mut mechanism = CK_MECHANISM { mechanism, pParameter: std::ptr::null_mut(), ulParameterLen: 0 };
        match operation(&mut mechanism) {
            Err(code) if code == CKR_MECHANISM_INVALID => last = code,
            result => return result,
        }
    }
    Err(last)
}

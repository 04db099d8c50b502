//! PKCS#11 calls as the probe needs them: any mechanism number, nested templates, hostile templates, and the module's own
//! answer to each call. `cryptoki`'s types cannot express these. Nothing here knows what a good answer is.
#![allow(unsafe_code, reason = "calls through a C function table")]

mod names;
mod values;

use std::ptr::null_mut;
use std::sync::Arc;

use cryptoki_sys::*;
use zeroize::Zeroizing;

pub(crate) use self::names::{Code, attribute_name, mechanism_name};
use self::values::Encoded;
pub(crate) use self::values::{Attr, Mech, Value};
use crate::Module;

/// Room for an answer. No value of the probe is longer, so no call asks for a size first.
const ROOM: usize = 4096;

pub(crate) type Answer<T> = Result<T, Code>;

/// The functions of a loaded, initialised module.
pub(crate) struct Driver {
    /// Keeps the library mapped, hence the function pointers valid.
    module: Arc<Module>,
}

/// A function of the table, or the answer a module without it should have given.
macro_rules! function {
    ($driver:expr, $name:ident) => {
        $driver.module.raw.list.$name.ok_or(Code(CKR_FUNCTION_NOT_SUPPORTED))?
    };
}

/// SAFETY of every call below: the table is the module's own (PKCS#11 5.4) and the library stays mapped. Each pointer is
/// to a live Rust value of the C layout, each length is that of the value beside it, and every buffer that the module may
/// write to is mutable, initialised and not aliased. Session and object handles are plain numbers, which the module checks.
impl Driver {
    pub(crate) fn new(module: Arc<Module>) -> Self {
        Self { module }
    }

    pub(crate) fn mechanisms(&self, slot: CK_SLOT_ID) -> Answer<Vec<CK_MECHANISM_TYPE>> {
        let mut list = vec![0; ROOM];
        let mut count = list.len() as CK_ULONG;
        // SAFETY: see above.
        check(unsafe { function!(self, C_GetMechanismList)(slot, list.as_mut_ptr(), &mut count) })?;
        list.truncate(count as usize);
        Ok(list)
    }

    /// `label` is padded to the 32 bytes of PKCS#11 5.5.7.
    pub(crate) fn init_token(&self, slot: CK_SLOT_ID, so_pin: &[u8], label: &str) -> Answer<()> {
        let mut padded = [b' '; 32];
        padded.iter_mut().zip(label.bytes()).for_each(|(to, from)| *to = from);
        let pin = so_pin.as_ptr().cast_mut();
        // SAFETY: see above; the module only reads the PIN.
        check(unsafe { function!(self, C_InitToken)(slot, pin, so_pin.len() as CK_ULONG, padded.as_mut_ptr()) })
    }

    pub(crate) fn init_pin(&self, session: CK_SESSION_HANDLE, pin: &[u8]) -> Answer<()> {
        // SAFETY: see above; the module only reads the PIN.
        check(unsafe { function!(self, C_InitPIN)(session, pin.as_ptr().cast_mut(), pin.len() as CK_ULONG) })
    }

    pub(crate) fn open_session(&self, slot: CK_SLOT_ID) -> Answer<CK_SESSION_HANDLE> {
        let mut session = 0;
        let flags = CKF_SERIAL_SESSION | CKF_RW_SESSION;
        // SAFETY: see above; no callback is given.
        check(unsafe { function!(self, C_OpenSession)(slot, flags, null_mut(), None, &mut session) })?;
        Ok(session)
    }

    pub(crate) fn close_session(&self, session: CK_SESSION_HANDLE) -> Answer<()> {
        // SAFETY: see above.
        check(unsafe { function!(self, C_CloseSession)(session) })
    }

    pub(crate) fn login(&self, session: CK_SESSION_HANDLE, user: CK_USER_TYPE, pin: &[u8]) -> Answer<()> {
        // PKCS#11 5.6.8: a null PIN lets the token ask for it by its own way.
        let place = if pin.is_empty() { std::ptr::null_mut() } else { pin.as_ptr().cast_mut() };
        // SAFETY: see above; the module only reads the PIN.
        check(unsafe { function!(self, C_Login)(session, user, place, pin.len() as CK_ULONG) })
    }

    pub(crate) fn logout(&self, session: CK_SESSION_HANDLE) -> Answer<()> {
        // SAFETY: see above.
        check(unsafe { function!(self, C_Logout)(session) })
    }

    pub(crate) fn create(&self, session: CK_SESSION_HANDLE, template: &[Attr]) -> Answer<CK_OBJECT_HANDLE> {
        let (mut template, mut object) = (Encoded::new(template), 0);
        let (list, count) = template.pointer();
        // SAFETY: see above.
        check(unsafe { function!(self, C_CreateObject)(session, list, count, &mut object) })?;
        Ok(object)
    }

    pub(crate) fn copy(
        &self,
        session: CK_SESSION_HANDLE,
        object: CK_OBJECT_HANDLE,
        template: &[Attr],
    ) -> Answer<CK_OBJECT_HANDLE> {
        let (mut template, mut copy) = (Encoded::new(template), 0);
        let (list, count) = template.pointer();
        // SAFETY: see above.
        check(unsafe { function!(self, C_CopyObject)(session, object, list, count, &mut copy) })?;
        Ok(copy)
    }

    pub(crate) fn destroy(&self, session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE) -> Answer<()> {
        // SAFETY: see above.
        check(unsafe { function!(self, C_DestroyObject)(session, object) })
    }

    /// One attribute's bytes; empty when the object has none.
    pub(crate) fn attribute(
        &self,
        session: CK_SESSION_HANDLE,
        object: CK_OBJECT_HANDLE,
        kind: CK_ATTRIBUTE_TYPE,
    ) -> Answer<Zeroizing<Vec<u8>>> {
        let mut value = Zeroizing::new(vec![0; ROOM]);
        let mut list = [CK_ATTRIBUTE { type_: kind, pValue: value.as_mut_ptr().cast(), ulValueLen: ROOM as CK_ULONG }];
        // SAFETY: see above.
        check(unsafe { function!(self, C_GetAttributeValue)(session, object, list.as_mut_ptr(), 1) })?;
        let [CK_ATTRIBUTE { ulValueLen: length, .. }] = list;
        // CK_UNAVAILABLE_INFORMATION is the largest number there is.
        value.truncate(usize::try_from(length).ok().filter(|length| *length <= ROOM).unwrap_or(0));
        Ok(value)
    }

    pub(crate) fn set(&self, session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE, attribute: &Attr) -> Answer<()> {
        let mut template = Encoded::new(std::slice::from_ref(attribute));
        let (list, count) = template.pointer();
        // SAFETY: see above.
        check(unsafe { function!(self, C_SetAttributeValue)(session, object, list, count) })
    }

    pub(crate) fn find(&self, session: CK_SESSION_HANDLE, template: &[Attr]) -> Answer<Vec<CK_OBJECT_HANDLE>> {
        let mut template = Encoded::new(template);
        let (list, count) = template.pointer();
        // SAFETY: see above.
        check(unsafe { function!(self, C_FindObjectsInit)(session, list, count) })?;
        let mut found = vec![0; 64];
        let mut number = 0;
        // SAFETY: see above.
        let searched = check(unsafe { function!(self, C_FindObjects)(session, found.as_mut_ptr(), 64, &mut number) });
        // SAFETY: see above.
        check(unsafe { function!(self, C_FindObjectsFinal)(session) })?;
        searched?;
        found.truncate(number as usize);
        Ok(found)
    }

    pub(crate) fn generate(
        &self,
        session: CK_SESSION_HANDLE,
        mechanism: &Mech,
        template: &[Attr],
    ) -> Answer<CK_OBJECT_HANDLE> {
        let (mut template, mut key) = (Encoded::new(template), 0);
        let (list, count) = template.pointer();
        let call = function!(self, C_GenerateKey);
        // SAFETY: see above.
        check(mechanism.with(|mechanism| unsafe { call(session, mechanism, list, count, &mut key) }))?;
        Ok(key)
    }

    /// The public half, then the private one.
    pub(crate) fn generate_pair(
        &self,
        session: CK_SESSION_HANDLE,
        mechanism: &Mech,
        public: &[Attr],
        private: &[Attr],
    ) -> Answer<(CK_OBJECT_HANDLE, CK_OBJECT_HANDLE)> {
        let (mut public, mut private) = (Encoded::new(public), Encoded::new(private));
        let ((public, public_count), (private, private_count)) = (public.pointer(), private.pointer());
        let mut keys = (0, 0);
        let call = function!(self, C_GenerateKeyPair);
        // SAFETY: see above.
        check(mechanism.with(|mechanism| unsafe {
            call(session, mechanism, public, public_count, private, private_count, &mut keys.0, &mut keys.1)
        }))?;
        Ok(keys)
    }

    pub(crate) fn wrap(
        &self,
        session: CK_SESSION_HANDLE,
        mechanism: &Mech,
        kek: CK_OBJECT_HANDLE,
        key: CK_OBJECT_HANDLE,
    ) -> Answer<Zeroizing<Vec<u8>>> {
        let call = function!(self, C_WrapKey);
        // SAFETY: see above.
        output(|to, length| mechanism.with(|mechanism| unsafe { call(session, mechanism, kek, key, to, length) }))
    }

    pub(crate) fn unwrap(
        &self,
        session: CK_SESSION_HANDLE,
        mechanism: &Mech,
        kek: CK_OBJECT_HANDLE,
        blob: &[u8],
        template: &[Attr],
    ) -> Answer<CK_OBJECT_HANDLE> {
        let (mut template, mut key) = (Encoded::new(template), 0);
        let (list, count) = template.pointer();
        let (from, length) = (blob.as_ptr().cast_mut(), blob.len() as CK_ULONG);
        let call = function!(self, C_UnwrapKey);
        // SAFETY: see above; the module only reads the blob.
        check(
            mechanism.with(|mechanism| unsafe { call(session, mechanism, kek, from, length, list, count, &mut key) }),
        )?;
        Ok(key)
    }

    pub(crate) fn derive(
        &self,
        session: CK_SESSION_HANDLE,
        mechanism: &Mech,
        base: CK_OBJECT_HANDLE,
        template: &[Attr],
    ) -> Answer<CK_OBJECT_HANDLE> {
        let (mut template, mut key) = (Encoded::new(template), 0);
        let (list, count) = template.pointer();
        let call = function!(self, C_DeriveKey);
        // SAFETY: see above.
        check(mechanism.with(|mechanism| unsafe { call(session, mechanism, base, list, count, &mut key) }))?;
        Ok(key)
    }

    pub(crate) fn encrypt_init(
        &self,
        session: CK_SESSION_HANDLE,
        mechanism: &Mech,
        key: CK_OBJECT_HANDLE,
    ) -> Answer<()> {
        let call = function!(self, C_EncryptInit);
        // SAFETY: see above.
        check(mechanism.with(|mechanism| unsafe { call(session, mechanism, key) }))
    }

    pub(crate) fn encrypt_update(&self, session: CK_SESSION_HANDLE, input: &[u8]) -> Answer<Zeroizing<Vec<u8>>> {
        let call = function!(self, C_EncryptUpdate);
        let (from, count) = (input.as_ptr().cast_mut(), input.len() as CK_ULONG);
        // SAFETY: see above; the module only reads the input.
        output(|to, length| unsafe { call(session, from, count, to, length) })
    }

    pub(crate) fn encrypt(
        &self,
        session: CK_SESSION_HANDLE,
        mechanism: &Mech,
        key: CK_OBJECT_HANDLE,
        input: &[u8],
    ) -> Answer<Zeroizing<Vec<u8>>> {
        one_part(function!(self, C_EncryptInit), function!(self, C_Encrypt), session, mechanism, key, input)
    }

    pub(crate) fn decrypt(
        &self,
        session: CK_SESSION_HANDLE,
        mechanism: &Mech,
        key: CK_OBJECT_HANDLE,
        input: &[u8],
    ) -> Answer<Zeroizing<Vec<u8>>> {
        one_part(function!(self, C_DecryptInit), function!(self, C_Decrypt), session, mechanism, key, input)
    }

    pub(crate) fn sign(
        &self,
        session: CK_SESSION_HANDLE,
        mechanism: &Mech,
        key: CK_OBJECT_HANDLE,
        message: &[u8],
    ) -> Answer<Zeroizing<Vec<u8>>> {
        one_part(function!(self, C_SignInit), function!(self, C_Sign), session, mechanism, key, message)
    }
}

/// `C_EncryptInit`, `C_DecryptInit` or `C_SignInit`.
type Begin = unsafe extern "C" fn(CK_SESSION_HANDLE, *mut CK_MECHANISM, CK_OBJECT_HANDLE) -> CK_RV;
/// `C_Encrypt`, `C_Decrypt` or `C_Sign`.
type Finish = unsafe extern "C" fn(CK_SESSION_HANDLE, *mut CK_BYTE, CK_ULONG, *mut CK_BYTE, *mut CK_ULONG) -> CK_RV;

/// An operation in one part.
fn one_part(
    begin: Begin,
    finish: Finish,
    session: CK_SESSION_HANDLE,
    mechanism: &Mech,
    key: CK_OBJECT_HANDLE,
    input: &[u8],
) -> Answer<Zeroizing<Vec<u8>>> {
    let (from, count) = (input.as_ptr().cast_mut(), input.len() as CK_ULONG);
    // One mechanism structure for both calls: some modules read GCM's parameters at the second.
    mechanism.with(|mechanism| {
        // SAFETY: see [`Driver`].
        check(unsafe { begin(session, mechanism, key) })?;
        // SAFETY: see [`Driver`]; the module only reads the input.
        output(|to, length| unsafe { finish(session, from, count, to, length) })
    })
}

fn check(code: CK_RV) -> Answer<()> {
    if code == CKR_OK { Ok(()) } else { Err(Code(code)) }
}

/// Runs a call that writes at most [`ROOM`] bytes and tells how many.
fn output(call: impl FnOnce(*mut CK_BYTE, *mut CK_ULONG) -> CK_RV) -> Answer<Zeroizing<Vec<u8>>> {
    let mut buffer = Zeroizing::new(vec![0; ROOM]);
    let mut length = ROOM as CK_ULONG;
    check(call(buffer.as_mut_ptr(), &mut length))?;
    buffer.truncate(usize::try_from(length).unwrap_or(ROOM));
    Ok(buffer)
}

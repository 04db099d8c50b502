//! A PKCS#11 module for tests: it forwards to another module, and is slow or fails where it is told to.
//!
//! | variable | meaning |
//! |---|---|
//! | `CASEMATE_SHIM_MODULE` | the module that does the work |
//! | `CASEMATE_SHIM_DELAY_US` | microseconds before each forwarded call: a token on a network |
//! | `CASEMATE_SHIM_FAULT_FILE` | a file with one line, read at each call: a broken token |
//! | `CASEMATE_SHIM_QUORUM_FILE` | a file with lines `LABEL=NAME NAME`, read at each login: who is at the pad of a token that asks for two people. With fewer it answers `CKR_FUNCTION_CANCELED` |
//! | `CASEMATE_SHIM_PAD_FILE` | a file with lines `LABEL=PIN`, read at each call: these tokens have a pad into which that PIN is typed, and take none from the host |
//!
//! The line is `FUNCTION NTH CODE`: the NTH call (from 1) of the function since the line was written answers CODE, a `CK_RV` in
//! hexadecimal, and does nothing else. `NTH+` means that call and all later ones. `C_EncryptUpdate NTH short` does the work and
//! reports 16 bytes less. An empty file means no fault.
//!
//! The module also has an FF1 mechanism of its own, as some HSMs do: number `0x8000_4646`, layout `radix-tweak` of
//! `casemate_hsm::NativeLayout`. It computes with the `fpe` crate, each block in the real module. `C_Encrypt NTH wrong` changes the
//! last numeral of its result.
#![allow(unsafe_code, reason = "a C library: it exports a symbol and calls through a C function table")]

mod control;
mod ff1;
mod pad;

use std::sync::OnceLock;

use cryptoki_sys::*;

use control::Verdict;

/// The table of the module that does the work.
static REAL: OnceLock<Option<CK_FUNCTION_LIST>> = OnceLock::new();
/// The table that callers get.
static TABLE: OnceLock<CK_FUNCTION_LIST> = OnceLock::new();

fn real() -> Option<&'static CK_FUNCTION_LIST> {
    REAL.get_or_init(|| {
        let path = std::env::var_os("CASEMATE_SHIM_MODULE")?;
        // SAFETY: loading runs the library's initialisers; it is the module under test.
        let library = unsafe { Pkcs11::new(path) }.ok()?;
        library.C_GetFunctionList.as_ref().ok()?;
        let mut list = std::ptr::null_mut();
        // SAFETY: the symbol exists (checked above), and `list` is a valid place for one pointer.
        let code = unsafe { library.C_GetFunctionList(&mut list) };
        // The functions have to stay mapped for the life of the process.
        std::mem::forget(library);
        if code != CKR_OK || list.is_null() {
            return None;
        }
        // SAFETY: the module returned a non-null pointer to its static table.
        Some(unsafe { *list })
    })
    .as_ref()
}

/// PKCS#11 3.1 section 5.4.4.
///
/// # Safety
/// `list` is a valid place for one pointer, or null.
// SAFETY: the name is the one the standard reserves for this signature; nothing else in this library defines it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    let Some(real) = real() else { return CKR_GENERAL_ERROR };
    if list.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    let table = TABLE.get_or_init(|| table(real));
    // SAFETY: the caller's place for a pointer, not null. PKCS#11 tables are not written to, so no mutable access follows.
    unsafe { *list = std::ptr::from_ref(table).cast_mut() };
    CKR_OK
}

/// Functions that consult `control` first; every other entry of the table is the real module's.
macro_rules! forward {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {
        $(
            // SAFETY: the caller keeps PKCS#11's contract for this function; the arguments are handed on unread.
            #[allow(non_snake_case)]
            unsafe extern "C" fn $name($($argument: $type),*) -> CK_RV {
                if let Verdict::Fail(code) = control::before(stringify!($name)) {
                    return code;
                }
                match real().and_then(|real| real.$name) {
                    // SAFETY: as above.
                    Some(function) => unsafe { function($($argument),*) },
                    None => CKR_FUNCTION_NOT_SUPPORTED,
                }
            }
        )*

        fn table(real: &CK_FUNCTION_LIST) -> CK_FUNCTION_LIST {
            CK_FUNCTION_LIST {
                C_GetFunctionList: Some(C_GetFunctionList),
                C_GetMechanismInfo: Some(ff1::get_mechanism_info),
                C_GetTokenInfo: Some(pad::get_token_info),
                C_Login: Some(pad::login),
                C_EncryptInit: Some(ff1::encrypt_init),
                C_Encrypt: Some(ff1::encrypt),
                C_EncryptUpdate: Some(encrypt_update),
                $($name: Some($name),)*
                ..*real
            }
        }
    };
}

forward! {
    C_GetSlotList(present: CK_BBOOL, slots: *mut CK_SLOT_ID, count: *mut CK_ULONG);
    C_OpenSession(slot: CK_SLOT_ID, flags: CK_FLAGS, application: *mut std::ffi::c_void, notify: CK_NOTIFY, session: *mut CK_SESSION_HANDLE);
    C_CloseSession(session: CK_SESSION_HANDLE);
    C_InitPIN(session: CK_SESSION_HANDLE, pin: *mut CK_UTF8CHAR, length: CK_ULONG);
    C_CreateObject(session: CK_SESSION_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG, object: *mut CK_OBJECT_HANDLE);
    C_DestroyObject(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE);
    C_GetAttributeValue(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG);
    C_FindObjectsInit(session: CK_SESSION_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG);
    C_FindObjects(session: CK_SESSION_HANDLE, objects: *mut CK_OBJECT_HANDLE, most: CK_ULONG, count: *mut CK_ULONG);
    C_FindObjectsFinal(session: CK_SESSION_HANDLE);
    C_EncryptFinal(session: CK_SESSION_HANDLE, output: *mut CK_BYTE, length: *mut CK_ULONG);
    C_DecryptInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE);
    C_Decrypt(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, length: CK_ULONG, output: *mut CK_BYTE, output_length: *mut CK_ULONG);
    C_SignInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE);
    C_Sign(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, length: CK_ULONG, signature: *mut CK_BYTE, signature_length: *mut CK_ULONG);
    C_GenerateKey(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, template: *mut CK_ATTRIBUTE, count: CK_ULONG, key: *mut CK_OBJECT_HANDLE);
    C_WrapKey(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, wrapping: CK_OBJECT_HANDLE, key: CK_OBJECT_HANDLE, output: *mut CK_BYTE, length: *mut CK_ULONG);
    C_UnwrapKey(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, unwrapping: CK_OBJECT_HANDLE, wrapped: *mut CK_BYTE, length: CK_ULONG, template: *mut CK_ATTRIBUTE, count: CK_ULONG, key: *mut CK_OBJECT_HANDLE);
    C_GenerateRandom(session: CK_SESSION_HANDLE, output: *mut CK_BYTE, length: CK_ULONG);
}

/// `C_EncryptUpdate`, which can also hold bytes back.
// SAFETY: the caller keeps PKCS#11's contract for this function.
unsafe extern "C" fn encrypt_update(
    session: CK_SESSION_HANDLE,
    part: *mut CK_BYTE,
    length: CK_ULONG,
    output: *mut CK_BYTE,
    output_length: *mut CK_ULONG,
) -> CK_RV {
    let verdict = control::before("C_EncryptUpdate");
    if let Verdict::Fail(code) = verdict {
        return code;
    }
    let Some(function) = real().and_then(|real| real.C_EncryptUpdate) else { return CKR_FUNCTION_NOT_SUPPORTED };
    // SAFETY: as above.
    let code = unsafe { function(session, part, length, output, output_length) };
    if matches!(verdict, Verdict::Short) && code == CKR_OK && !output_length.is_null() {
        // SAFETY: the function above wrote this length.
        unsafe { *output_length = (*output_length).saturating_sub(16) };
    }
    code
}

//! The PKCS#11 functions that `cryptoki` cannot call as they are needed here. With `driver.rs` this is the only unsafe code of
//! the crate.
//!
//! * `C_EncryptUpdate` and `C_EncryptFinal`: the wrappers ask for the size first, which doubles the round trips to a network
//!   HSM in FF1's inner loop; and a closed session has to be tried again by its number, to show that its stream is dead.
//! * `C_CloseAllSessions`: has no wrapper.
//! * `C_GetAttributeValue`: attributes that are templates have no type there, and lists that name a vendor's mechanism cannot be read.
//! * `C_Initialize` with a parameter string.
#![allow(unsafe_code, reason = "calls through a C function table")]

use std::ffi::{CStr, c_void};
use std::path::Path;
use std::ptr::null_mut;

use cryptoki::context::Function;
use cryptoki::error::{Error as Pkcs11Error, Rv, RvError};
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use cryptoki::slot::Slot;
use cryptoki_sys::{
    CK_ATTRIBUTE, CK_ATTRIBUTE_TYPE, CK_C_EncryptFinal, CK_C_EncryptUpdate, CK_C_INITIALIZE_ARGS, CK_FUNCTION_LIST,
    CK_MECHANISM_TYPE, CK_SESSION_HANDLE, CK_ULONG, CK_UNAVAILABLE_INFORMATION, CKA_ALLOWED_MECHANISMS,
    CKF_OS_LOCKING_OK,
};

/// More entries, or longer ones, than any template of ours; an answer beyond is no answer.
const NESTED_LIMIT: usize = 64;

/// A type and the value's bytes.
pub(crate) type RawAttribute = (CK_ATTRIBUTE_TYPE, Vec<u8>);

/// The raw function table of a module that `cryptoki` has loaded and initialised.
pub(crate) struct RawFunctions {
    /// Keeps the library mapped, hence the function pointers valid.
    _library: cryptoki_sys::Pkcs11,
    /// The functions of PKCS#11 2.40.
    pub(crate) list: CK_FUNCTION_LIST,
    encrypt_update: CK_C_EncryptUpdate,
    encrypt_final: CK_C_EncryptFinal,
}

impl RawFunctions {
    pub(crate) fn load(path: &Path) -> Result<Self, Pkcs11Error> {
        // SAFETY: the library is already loaded by `cryptoki`; this only counts one more reference, no initialiser runs.
        let library = unsafe { cryptoki_sys::Pkcs11::new(path) }.map_err(Pkcs11Error::LibraryLoading)?;
        if library.C_GetFunctionList.is_err() {
            return Err(Pkcs11Error::MissingSymbol("C_GetFunctionList"));
        }
        let mut list: *mut CK_FUNCTION_LIST = std::ptr::null_mut();
        // SAFETY: the symbol exists (checked above), and `list` is a valid place for one pointer.
        Rv::from(unsafe { library.C_GetFunctionList(&mut list) }).into_result(Function::GetFunctionList)?;
        if list.is_null() {
            return Err(Pkcs11Error::NullFunctionPointer);
        }
        // SAFETY: the module returned a non-null pointer to its static table (PKCS#11 3.1 section 5.4.4), which begins with
        // the 2.40 functions in every version.
        let list = unsafe { *list };
        let (encrypt_update, encrypt_final) = (list.C_EncryptUpdate, list.C_EncryptFinal);
        Ok(Self { _library: library, list, encrypt_update, encrypt_final })
    }

    /// `C_Initialize` with a parameter string in `pReserved`, as NSS wants it. NSS also reads one word past the standard
    /// structure, so there is one.
    pub(crate) fn initialise(&self, parameters: &CStr) -> Result<(), Pkcs11Error> {
        #[repr(C)]
        struct Arguments {
            standard: CK_C_INITIALIZE_ARGS,
            reserved: *mut c_void,
        }
        let function = self.list.C_Initialize.ok_or(Pkcs11Error::NullFunctionPointer)?;
        let standard = CK_C_INITIALIZE_ARGS {
            flags: CKF_OS_LOCKING_OK,
            pReserved: parameters.as_ptr().cast_mut().cast(),
            ..CK_C_INITIALIZE_ARGS::default()
        };
        let mut arguments = Arguments { standard, reserved: std::ptr::null_mut() };
        // SAFETY: the structure begins with the standard's arguments and lives until the call returns; the module only reads
        // the string, which ends with a zero.
        let code = unsafe { function(std::ptr::from_mut(&mut arguments).cast()) };
        Rv::from(code).into_result(Function::Initialize)
    }

    /// `C_CloseAllSessions`: this process's sessions with one token, and with them its login.
    pub(crate) fn close_all_sessions(&self, slot: Slot) -> Result<(), Pkcs11Error> {
        let function = self.list.C_CloseAllSessions.ok_or(Pkcs11Error::NullFunctionPointer)?;
        // SAFETY: no memory passes. Sessions that are closed underneath their owners are error codes there, as their numbers
        // are checked by the module at each call.
        let code = unsafe { function(slot.into()) };
        Rv::from(code).into_result(Function::CloseAllSessions)
    }

    /// `C_EncryptUpdate` of `input` into `output`; gives the number of bytes the token returned.
    ///
    /// `session` must be open on the same module.
    pub(crate) fn encrypt_update(
        &self,
        session: &Session,
        input: &[[u8; 16]],
        output: &mut [[u8; 16]],
    ) -> Result<usize, Pkcs11Error> {
        let function = self.encrypt_update.ok_or(Pkcs11Error::NullFunctionPointer)?;
        let (input, output) = (input.as_flattened(), output.as_flattened_mut());
        let input_length = CK_ULONG::try_from(input.len()).map_err(Pkcs11Error::TryFromInt)?;
        let mut output_length = CK_ULONG::try_from(output.len()).map_err(Pkcs11Error::TryFromInt)?;
        // SAFETY: both buffers are valid for the lengths given with them and do not overlap; the token reads the first
        // (the C signature merely lacks `const`) and writes at most `output_length` bytes to the second.
        let code = unsafe {
            function(session.handle(), input.as_ptr().cast_mut(), input_length, output.as_mut_ptr(), &mut output_length)
        };
        Rv::from(code).into_result(Function::EncryptUpdate)?;
        usize::try_from(output_length).map_err(Pkcs11Error::TryFromInt)
    }

    /// `C_EncryptFinal`; gives the number of bytes the token still held back, which is none for whole blocks of ECB.
    pub(crate) fn encrypt_final(&self, session: &Session) -> Result<usize, Pkcs11Error> {
        let function = self.encrypt_final.ok_or(Pkcs11Error::NullFunctionPointer)?;
        let mut rest = [0; 64];
        let mut length = rest.len() as CK_ULONG;
        // SAFETY: `rest` is valid for `length` bytes.
        let code = unsafe { function(session.handle(), rest.as_mut_ptr(), &mut length) };
        Rv::from(code).into_result(Function::EncryptFinal)?;
        usize::try_from(length).map_err(Pkcs11Error::TryFromInt)
    }

    /// One block through whatever encryption is open in the session of this number, which may be closed by now.
    pub(crate) fn encrypt_in_session(&self, session: CK_SESSION_HANDLE) -> Result<(), Pkcs11Error> {
        let function = self.encrypt_update.ok_or(Pkcs11Error::NullFunctionPointer)?;
        let (input, mut output) = ([0u8; 16], [0u8; 64]);
        let mut length = output.len() as CK_ULONG;
        // SAFETY: both buffers are valid for the lengths given with them. A session number that is not in use is an error code
        // of the function (PKCS#11 3.1 section 5.10.2), not undefined behaviour.
        let code = unsafe {
            function(session, input.as_ptr().cast_mut(), input.len() as CK_ULONG, output.as_mut_ptr(), &mut length)
        };
        Rv::from(code).into_result(Function::EncryptUpdate)
    }

    /// `CKA_ALLOWED_MECHANISMS` by number: `None` where the token does not know it or the object has none.
    pub(crate) fn allowed_mechanisms(
        &self,
        session: &Session,
        object: ObjectHandle,
    ) -> Result<Option<Vec<CK_MECHANISM_TYPE>>, Pkcs11Error> {
        let function = self.list.C_GetAttributeValue.ok_or(Pkcs11Error::NullFunctionPointer)?;
        let mut list: [CK_MECHANISM_TYPE; NESTED_LIMIT] = [0; NESTED_LIMIT];
        let mut asked = CK_ATTRIBUTE {
            type_: CKA_ALLOWED_MECHANISMS,
            pValue: list.as_mut_ptr().cast(),
            ulValueLen: size_of_val(&list) as CK_ULONG,
        };
        // SAFETY: the attribute leads to as many bytes as its length says, and they are numbers for which all bits are valid.
        let code = unsafe { function(session.handle(), object.handle(), &mut asked, 1) };
        match Rv::from(code).into_result(Function::GetAttributeValue) {
            Ok(()) => {}
            Err(Pkcs11Error::Pkcs11(RvError::AttributeTypeInvalid, _)) => return Ok(None),
            Err(other) => return Err(other),
        }
        if asked.ulValueLen == CK_UNAVAILABLE_INFORMATION {
            return Ok(None);
        }
        let length = usize::try_from(asked.ulValueLen).map_err(Pkcs11Error::TryFromInt)?;
        let told = list.get(..length / size_of::<CK_MECHANISM_TYPE>()).ok_or(Pkcs11Error::InvalidValue)?;
        Ok(Some(told.to_vec()))
    }

    /// Reads an attribute that is a template: `None` where the token does not know it or the object has none.
    ///
    /// Three calls (PKCS#11 3.1 section 5.7.5): how many entries, of which types and lengths, and their values.
    pub(crate) fn nested(
        &self,
        session: &Session,
        object: ObjectHandle,
        kind: CK_ATTRIBUTE_TYPE,
    ) -> Result<Option<Vec<RawAttribute>>, Pkcs11Error> {
        let function = self.list.C_GetAttributeValue.ok_or(Pkcs11Error::NullFunctionPointer)?;
        let call = |outer: &mut CK_ATTRIBUTE| {
            // SAFETY: `outer` is one attribute whose pointer is null, or leads to as many entries as its length says; each
            // entry's pointer is null, or leads to as many bytes as its length says. The callers below see to that.
            let code = unsafe { function(session.handle(), object.handle(), outer, 1) };
            Rv::from(code).into_result(Function::GetAttributeValue)
        };
        let mut outer = CK_ATTRIBUTE { type_: kind, pValue: null_mut(), ulValueLen: 0 };
        match call(&mut outer) {
            Ok(()) => {}
            Err(Pkcs11Error::Pkcs11(RvError::AttributeTypeInvalid | RvError::AttributeSensitive, _)) => {
                return Ok(None);
            }
            Err(other) => return Err(other),
        }
        if outer.ulValueLen == CK_UNAVAILABLE_INFORMATION || outer.ulValueLen == 0 {
            return Ok(None);
        }
        let length = usize::try_from(outer.ulValueLen).map_err(Pkcs11Error::TryFromInt)?;
        let count = length / size_of::<CK_ATTRIBUTE>();
        if count > NESTED_LIMIT || length % size_of::<CK_ATTRIBUTE>() != 0 {
            return Err(Pkcs11Error::InvalidValue);
        }
        let unknown = CK_ATTRIBUTE { type_: CK_UNAVAILABLE_INFORMATION, pValue: null_mut(), ulValueLen: 0 };
        let mut inner = vec![unknown; count];
        outer.pValue = inner.as_mut_ptr().cast();
        call(&mut outer)?;
        let mut values = Vec::with_capacity(count);
        for entry in &mut inner {
            let length = usize::try_from(entry.ulValueLen).map_err(Pkcs11Error::TryFromInt)?;
            if length > NESTED_LIMIT {
                return Err(Pkcs11Error::InvalidValue);
            }
            let mut value = vec![0u8; length];
            // A vector's bytes stay where they are when the vector moves into `values`.
            entry.pValue = value.as_mut_ptr().cast();
            values.push(value);
        }
        outer.ulValueLen = length as CK_ULONG;
        call(&mut outer)?;
        Ok(Some(inner.iter().map(|entry| entry.type_).zip(values).collect()))
    }
}

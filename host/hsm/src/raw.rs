//! The two PKCS#11 functions whose `cryptoki` wrappers ask for the size first, which doubles the round trips to a network
//! HSM in FF1's inner loop, and initialisation with a parameter string. With `driver.rs` this is the only unsafe code of the
//! crate.
#![allow(unsafe_code, reason = "calls through a C function table")]

use std::ffi::{CStr, c_void};
use std::path::Path;

use cryptoki::context::Function;
use cryptoki::error::{Error as Pkcs11Error, Rv};
use cryptoki::session::Session;
use cryptoki_sys::{
    CK_C_EncryptFinal, CK_C_EncryptUpdate, CK_C_INITIALIZE_ARGS, CK_FUNCTION_LIST, CK_ULONG, CKF_OS_LOCKING_OK,
};

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
}

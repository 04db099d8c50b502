//! A PKCS#11 module for machines without an HSM: kryoptic in a shared library that is loaded exactly as a vendor's module.
//!
//! Point `KRYOPTIC_CONF` at a TOML file before the module is initialised:
//!
//! ```toml
//! [[slots]]
//! slot = 1
//! dbtype = "sqlite"
//! dbargs = "/var/lib/casemate/token.sql"
//! ```
//!
//! Keys are encrypted at rest under the PIN. This is a software token: it is not a validated module and must never be
//! presented as one.

// Feature selection only: kryoptic builds its OpenSSL and its SQLite from source through these two.
use openssl_sys as _;
use rusqlite as _;

/// The three entry points of a PKCS#11 module (PKCS#11 3.1 section 5.4); every other function is reached through them.
#[allow(
    unsafe_code,
    reason = "a C library exports unmangled symbols; no pointer is touched here, kryoptic checks them"
)]
mod exports {
    use kryoptic_lib::fns::general::{fn_get_function_list, fn_get_interface, fn_get_interface_list};
    use kryoptic_lib::pkcs11::{
        CK_FLAGS, CK_FUNCTION_LIST_PTR_PTR, CK_INTERFACE_PTR, CK_INTERFACE_PTR_PTR, CK_RV, CK_ULONG_PTR,
        CK_UTF8CHAR_PTR, CK_VERSION_PTR,
    };

    /// The PKCS#11 2.40 function table.
    // SAFETY: the name is the one the standard reserves for this signature; nothing else in this library defines it.
    #[unsafe(no_mangle)]
    pub extern "C" fn C_GetFunctionList(list: CK_FUNCTION_LIST_PTR_PTR) -> CK_RV {
        fn_get_function_list(list)
    }

    /// One interface by name and version (PKCS#11 3.0 and later).
    // SAFETY: as above.
    #[unsafe(no_mangle)]
    pub extern "C" fn C_GetInterface(
        name: CK_UTF8CHAR_PTR,
        version: CK_VERSION_PTR,
        interface: CK_INTERFACE_PTR_PTR,
        flags: CK_FLAGS,
    ) -> CK_RV {
        fn_get_interface(name, version, interface, flags)
    }

    /// Every interface (PKCS#11 3.0 and later).
    // SAFETY: as above.
    #[unsafe(no_mangle)]
    pub extern "C" fn C_GetInterfaceList(interfaces: CK_INTERFACE_PTR, count: CK_ULONG_PTR) -> CK_RV {
        fn_get_interface_list(interfaces, count)
    }
}

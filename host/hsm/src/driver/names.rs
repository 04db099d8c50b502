//! Numbers of the standard by their names, for evidence.

use std::fmt;

use cryptoki_sys::*;

/// What a module answered when it was not `CKR_OK`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) CK_RV);

/// `match` from numbers to their names in the standard.
macro_rules! names {
    ($number:expr, $prefix:literal, $($name:ident)*) => {
        match $number {
            $($name => stringify!($name).strip_prefix($prefix),)*
            _ => None,
        }
    };
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = names!(self.0, "", CKR_OK CKR_HOST_MEMORY CKR_SLOT_ID_INVALID CKR_GENERAL_ERROR CKR_FUNCTION_FAILED
            CKR_ARGUMENTS_BAD CKR_ATTRIBUTE_READ_ONLY CKR_ATTRIBUTE_SENSITIVE CKR_ATTRIBUTE_TYPE_INVALID
            CKR_ATTRIBUTE_VALUE_INVALID CKR_ACTION_PROHIBITED CKR_DATA_INVALID CKR_DATA_LEN_RANGE CKR_DEVICE_ERROR
            CKR_DEVICE_MEMORY CKR_DEVICE_REMOVED CKR_ENCRYPTED_DATA_INVALID CKR_ENCRYPTED_DATA_LEN_RANGE
            CKR_AEAD_DECRYPT_FAILED CKR_FUNCTION_NOT_SUPPORTED CKR_KEY_HANDLE_INVALID CKR_KEY_SIZE_RANGE
            CKR_KEY_TYPE_INCONSISTENT CKR_KEY_CHANGED CKR_KEY_NEEDED CKR_KEY_INDIGESTIBLE CKR_KEY_FUNCTION_NOT_PERMITTED
            CKR_KEY_NOT_WRAPPABLE CKR_KEY_UNEXTRACTABLE CKR_MECHANISM_INVALID CKR_MECHANISM_PARAM_INVALID
            CKR_OBJECT_HANDLE_INVALID CKR_OPERATION_ACTIVE CKR_OPERATION_NOT_INITIALIZED CKR_PIN_INCORRECT CKR_PIN_INVALID
            CKR_PIN_LEN_RANGE CKR_PIN_EXPIRED CKR_PIN_LOCKED CKR_SESSION_CLOSED CKR_SESSION_COUNT
            CKR_SESSION_HANDLE_INVALID CKR_SESSION_READ_ONLY CKR_SESSION_EXISTS CKR_SIGNATURE_INVALID
            CKR_TEMPLATE_INCOMPLETE CKR_TEMPLATE_INCONSISTENT CKR_TOKEN_NOT_PRESENT CKR_TOKEN_NOT_RECOGNIZED
            CKR_TOKEN_WRITE_PROTECTED CKR_UNWRAPPING_KEY_HANDLE_INVALID CKR_UNWRAPPING_KEY_SIZE_RANGE
            CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT CKR_USER_ALREADY_LOGGED_IN CKR_USER_NOT_LOGGED_IN
            CKR_USER_PIN_NOT_INITIALIZED CKR_USER_TYPE_INVALID CKR_USER_ANOTHER_ALREADY_LOGGED_IN CKR_WRAPPED_KEY_INVALID
            CKR_WRAPPED_KEY_LEN_RANGE CKR_WRAPPING_KEY_HANDLE_INVALID CKR_WRAPPING_KEY_SIZE_RANGE
            CKR_WRAPPING_KEY_TYPE_INCONSISTENT CKR_DOMAIN_PARAMS_INVALID CKR_CURVE_NOT_SUPPORTED CKR_BUFFER_TOO_SMALL
            CKR_INFORMATION_SENSITIVE CKR_CRYPTOKI_NOT_INITIALIZED CKR_PIN_TOO_WEAK CKR_FUNCTION_REJECTED
            CKR_TOKEN_RESOURCE_EXCEEDED);
        match name {
            Some(name) => f.write_str(name),
            None => write!(f, "CKR 0x{:08X}", self.0),
        }
    }
}

/// A mechanism by its name in the standard, without `CKM_`; a number where we have no name.
pub(crate) fn mechanism_name(mechanism: CK_MECHANISM_TYPE) -> String {
    let name = names!(mechanism, "CKM_", CKM_AES_KEY_GEN CKM_AES_ECB CKM_AES_CBC CKM_AES_CBC_PAD CKM_AES_GCM
        CKM_AES_KEY_WRAP CKM_AES_KEY_WRAP_PAD CKM_AES_KEY_WRAP_KWP CKM_AES_ECB_ENCRYPT_DATA CKM_AES_CBC_ENCRYPT_DATA
        CKM_CONCATENATE_BASE_AND_DATA CKM_CONCATENATE_BASE_AND_KEY CKM_CONCATENATE_DATA_AND_BASE CKM_EC_EDWARDS_KEY_PAIR_GEN
        CKM_EDDSA CKM_EXTRACT_KEY_FROM_KEY CKM_GENERIC_SECRET_KEY_GEN CKM_RSA_PKCS_KEY_PAIR_GEN CKM_RSA_PKCS_OAEP
        CKM_SHA256_HMAC CKM_SP800_108_COUNTER_KDF CKM_XOR_BASE_AND_DATA);
    name.map_or_else(|| format!("0x{mechanism:X}"), str::to_owned)
}

/// An attribute by its name in the standard, without `CKA_`.
pub(crate) fn attribute_name(attribute: CK_ATTRIBUTE_TYPE) -> String {
    let name = names!(attribute, "CKA_", CKA_ALLOWED_MECHANISMS CKA_CLASS CKA_COPYABLE CKA_DECRYPT CKA_DERIVE CKA_EC_PARAMS
        CKA_EC_POINT CKA_ENCRYPT CKA_EXTRACTABLE CKA_ID CKA_KEY_TYPE CKA_LABEL CKA_MODIFIABLE CKA_MODULUS_BITS CKA_PRIVATE
        CKA_PUBLIC_EXPONENT CKA_SENSITIVE CKA_SIGN CKA_TOKEN CKA_TRUSTED CKA_UNWRAP CKA_UNWRAP_TEMPLATE CKA_VALUE
        CKA_VALUE_LEN CKA_VERIFY CKA_WRAP CKA_WRAP_WITH_TRUSTED);
    name.map_or_else(|| format!("0x{attribute:X}"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_numbers_have_the_names_of_the_standard() {
        assert_eq!(Code(CKR_KEY_UNEXTRACTABLE).to_string(), "CKR_KEY_UNEXTRACTABLE");
        assert_eq!(Code(0x8000_0001).to_string(), "CKR 0x80000001");
        assert_eq!(mechanism_name(0x210B), "AES_KEY_WRAP_KWP");
        assert_eq!(mechanism_name(0x1054), "0x1054");
        assert_eq!(attribute_name(CKA_UNWRAP_TEMPLATE), "UNWRAP_TEMPLATE");
    }
}

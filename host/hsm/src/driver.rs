//! PKCS#11 calls as the probe needs them: any mechanism number, nested templates, hostile templates, and the module's own
//! answer to each call. `cryptoki`'s types cannot express these. Nothing here knows what a good answer is.
#![allow(unsafe_code, reason = "calls through a C function table")]

use std::fmt;
use std::ptr::null_mut;
use std::sync::Arc;

use cryptoki_sys::*;
use zeroize::Zeroizing;

use crate::Module;

/// Room for an answer. No value of the probe is longer, so no call asks for a size first.
const ROOM: usize = 4096;

/// What a module answered when it was not `CKR_OK`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) CK_RV);

pub(crate) type Answer<T> = Result<T, Code>;

/// One attribute of a template.
#[derive(Clone)]
pub(crate) struct Attr(pub(crate) CK_ATTRIBUTE_TYPE, pub(crate) Value);

/// The value of an attribute.
#[derive(Clone)]
pub(crate) enum Value {
    Bytes(Vec<u8>),
    Flag(bool),
    Number(CK_ULONG),
    Numbers(Vec<CK_ULONG>),
    Template(Vec<Attr>),
}

/// A mechanism with its parameter.
pub(crate) enum Mech {
    /// AES-CBC-ENCRYPT-DATA: derivation by encrypting public data.
    CbcData {
        iv: [u8; 16],
        data: Vec<u8>,
    },
    /// SP 800-108 in counter mode with HMAC-SHA-256: 32-bit counter, fixed input, 32-bit length in bits, all big-endian.
    CounterKdf {
        fixed: Vec<u8>,
    },
    /// Derivation from public data (`CK_KEY_DERIVATION_STRING_DATA`).
    Data(CK_MECHANISM_TYPE, Vec<u8>),
    /// EXTRACT_KEY_FROM_KEY from the first bit.
    Extract,
    Gcm {
        iv: [u8; 12],
        aad: Vec<u8>,
    },
    /// A mechanism whose parameter is an initialisation vector.
    Iv(CK_MECHANISM_TYPE, [u8; 16]),
    Oaep {
        hash: CK_MECHANISM_TYPE,
        mgf: CK_RSA_PKCS_MGF_TYPE,
    },
    Plain(CK_MECHANISM_TYPE),
    /// CONCATENATE_BASE_AND_KEY.
    WithKey(CK_OBJECT_HANDLE),
}

impl Mech {
    pub(crate) fn kind(&self) -> CK_MECHANISM_TYPE {
        match self {
            Self::CbcData { .. } => CKM_AES_CBC_ENCRYPT_DATA,
            Self::CounterKdf { .. } => CKM_SP800_108_COUNTER_KDF,
            Self::Data(kind, _) | Self::Iv(kind, _) | Self::Plain(kind) => *kind,
            Self::Extract => CKM_EXTRACT_KEY_FROM_KEY,
            Self::Gcm { .. } => CKM_AES_GCM,
            Self::Oaep { .. } => CKM_RSA_PKCS_OAEP,
            Self::WithKey(_) => CKM_CONCATENATE_BASE_AND_KEY,
        }
    }

    /// Builds the C structure, whose parameters live until `call` returns.
    fn with<T>(&self, call: impl FnOnce(*mut CK_MECHANISM) -> T) -> T {
        fn run<P, T>(kind: CK_MECHANISM_TYPE, parameter: &mut P, call: impl FnOnce(*mut CK_MECHANISM) -> T) -> T {
            let mut mechanism = CK_MECHANISM {
                mechanism: kind,
                pParameter: std::ptr::from_mut(parameter).cast(),
                ulParameterLen: size_of::<P>() as CK_ULONG,
            };
            call(&mut mechanism)
        }
        let kind = self.kind();
        match self {
            Self::CbcData { iv, data } => {
                let mut data = data.clone();
                let length = data.len() as CK_ULONG;
                run(kind, &mut CK_AES_CBC_ENCRYPT_DATA_PARAMS { iv: *iv, pData: data.as_mut_ptr(), length }, call)
            }
            Self::CounterKdf { fixed } => {
                let mut counter = CK_SP800_108_COUNTER_FORMAT { bLittleEndian: CK_FALSE, ulWidthInBits: 32 };
                let mut length = CK_SP800_108_DKM_LENGTH_FORMAT {
                    dkmLengthMethod: CK_SP800_108_DKM_LENGTH_SUM_OF_KEYS,
                    bLittleEndian: CK_FALSE,
                    ulWidthInBits: 32,
                };
                let mut fixed = fixed.clone();
                let fixed_length = fixed.len() as CK_ULONG;
                let mut parts = [
                    CK_PRF_DATA_PARAM {
                        type_: CK_SP800_108_ITERATION_VARIABLE,
                        pValue: std::ptr::from_mut(&mut counter).cast(),
                        ulValueLen: size_of::<CK_SP800_108_COUNTER_FORMAT>() as CK_ULONG,
                    },
                    CK_PRF_DATA_PARAM {
                        type_: CK_SP800_108_BYTE_ARRAY,
                        pValue: fixed.as_mut_ptr().cast(),
                        ulValueLen: fixed_length,
                    },
                    CK_PRF_DATA_PARAM {
                        type_: CK_SP800_108_DKM_LENGTH,
                        pValue: std::ptr::from_mut(&mut length).cast(),
                        ulValueLen: size_of::<CK_SP800_108_DKM_LENGTH_FORMAT>() as CK_ULONG,
                    },
                ];
                let mut parameter = CK_SP800_108_KDF_PARAMS {
                    prfType: CKM_SHA256_HMAC,
                    ulNumberOfDataParams: parts.len() as CK_ULONG,
                    pDataParams: parts.as_mut_ptr(),
                    ulAdditionalDerivedKeys: 0,
                    pAdditionalDerivedKeys: null_mut(),
                };
                run(kind, &mut parameter, call)
            }
            Self::Data(_, data) => {
                let mut data = data.clone();
                let length = data.len() as CK_ULONG;
                run(kind, &mut CK_KEY_DERIVATION_STRING_DATA { pData: data.as_mut_ptr(), ulLen: length }, call)
            }
            Self::Extract => run(kind, &mut (0 as CK_ULONG), call),
            Self::Gcm { iv, aad } => {
                let (mut iv, mut aad) = (*iv, aad.clone());
                let mut parameter = CK_GCM_PARAMS {
                    pIv: iv.as_mut_ptr(),
                    ulIvLen: iv.len() as CK_ULONG,
                    ulIvBits: 8 * iv.len() as CK_ULONG,
                    pAAD: aad.as_mut_ptr(),
                    ulAADLen: aad.len() as CK_ULONG,
                    ulTagBits: 128,
                };
                run(kind, &mut parameter, call)
            }
            Self::Iv(_, iv) => run(kind, &mut { *iv }, call),
            Self::Oaep { hash, mgf } => {
                let mut parameter = CK_RSA_PKCS_OAEP_PARAMS {
                    hashAlg: *hash,
                    mgf: *mgf,
                    source: CKZ_DATA_SPECIFIED,
                    pSourceData: null_mut(),
                    ulSourceDataLen: 0,
                };
                run(kind, &mut parameter, call)
            }
            Self::Plain(_) => call(&mut CK_MECHANISM { mechanism: kind, pParameter: null_mut(), ulParameterLen: 0 }),
            Self::WithKey(handle) => run(kind, &mut { *handle }, call),
        }
    }
}

/// A template as C sees it. Values lie in words, so that a module may read them as `CK_ULONG`.
struct Encoded {
    list: Vec<CK_ATTRIBUTE>,
    values: Vec<Vec<CK_ULONG>>,
    nested: Vec<Self>,
}

impl Encoded {
    fn new(template: &[Attr]) -> Self {
        let mut encoded = Self { list: Vec::new(), values: Vec::new(), nested: Vec::new() };
        for Attr(kind, value) in template {
            let (words, length) = match value {
                Value::Bytes(bytes) => (to_words(bytes), bytes.len()),
                Value::Flag(flag) => (to_words(&[u8::from(*flag)]), 1),
                Value::Number(number) => (vec![*number], size_of::<CK_ULONG>()),
                Value::Numbers(numbers) => (numbers.clone(), size_of_val(numbers.as_slice())),
                Value::Template(inner) => {
                    let mut inner = Self::new(inner);
                    let length = size_of_val(inner.list.as_slice()) as CK_ULONG;
                    let value = inner.list.as_mut_ptr().cast();
                    encoded.list.push(CK_ATTRIBUTE { type_: *kind, pValue: value, ulValueLen: length });
                    encoded.nested.push(inner);
                    continue;
                }
            };
            encoded.values.push(words);
            let value = encoded.values.last_mut().map_or(null_mut(), |words| words.as_mut_ptr().cast());
            encoded.list.push(CK_ATTRIBUTE { type_: *kind, pValue: value, ulValueLen: length as CK_ULONG });
        }
        encoded
    }

    fn pointer(&mut self) -> (*mut CK_ATTRIBUTE, CK_ULONG) {
        (self.list.as_mut_ptr(), self.list.len() as CK_ULONG)
    }
}

fn to_words(bytes: &[u8]) -> Vec<CK_ULONG> {
    bytes
        .chunks(size_of::<CK_ULONG>())
        .map(|chunk| {
            let mut word = [0; size_of::<CK_ULONG>()];
            word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
            CK_ULONG::from_ne_bytes(word)
        })
        .collect()
}

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
        // SAFETY: see above; the module only reads the PIN.
        check(unsafe { function!(self, C_Login)(session, user, pin.as_ptr().cast_mut(), pin.len() as CK_ULONG) })
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
        let (begin, run) = (function!(self, C_EncryptInit), function!(self, C_Encrypt));
        let (from, count) = (input.as_ptr().cast_mut(), input.len() as CK_ULONG);
        // One mechanism structure for both calls: some modules read GCM's parameters at the second.
        mechanism.with(|mechanism| {
            // SAFETY: see above.
            check(unsafe { begin(session, mechanism, key) })?;
            // SAFETY: see above; the module only reads the input.
            output(|to, length| unsafe { run(session, from, count, to, length) })
        })
    }

    pub(crate) fn decrypt(
        &self,
        session: CK_SESSION_HANDLE,
        mechanism: &Mech,
        key: CK_OBJECT_HANDLE,
        input: &[u8],
    ) -> Answer<Zeroizing<Vec<u8>>> {
        let (begin, run) = (function!(self, C_DecryptInit), function!(self, C_Decrypt));
        let (from, count) = (input.as_ptr().cast_mut(), input.len() as CK_ULONG);
        mechanism.with(|mechanism| {
            // SAFETY: see above.
            check(unsafe { begin(session, mechanism, key) })?;
            // SAFETY: see above; the module only reads the input.
            output(|to, length| unsafe { run(session, from, count, to, length) })
        })
    }

    pub(crate) fn sign(
        &self,
        session: CK_SESSION_HANDLE,
        mechanism: &Mech,
        key: CK_OBJECT_HANDLE,
        message: &[u8],
    ) -> Answer<Zeroizing<Vec<u8>>> {
        let (begin, run) = (function!(self, C_SignInit), function!(self, C_Sign));
        let (from, count) = (message.as_ptr().cast_mut(), message.len() as CK_ULONG);
        mechanism.with(|mechanism| {
            // SAFETY: see above.
            check(unsafe { begin(session, mechanism, key) })?;
            // SAFETY: see above; the module only reads the message.
            output(|to, length| unsafe { run(session, from, count, to, length) })
        })
    }
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
    fn values_keep_their_bytes_and_lengths() {
        let template = Encoded::new(&[
            Attr(CKA_LABEL, Value::Bytes(b"eleven byte".to_vec())),
            Attr(CKA_WRAP, Value::Flag(true)),
            Attr(CKA_UNWRAP_TEMPLATE, Value::Template(vec![Attr(CKA_SENSITIVE, Value::Flag(true))])),
            Attr(CKA_ALLOWED_MECHANISMS, Value::Numbers(vec![CKM_AES_ECB, CKM_AES_GCM])),
        ]);
        let lengths: Vec<usize> = template.list.iter().map(|attribute| attribute.ulValueLen as usize).collect();
        assert_eq!(lengths, [11, 1, size_of::<CK_ATTRIBUTE>(), 2 * size_of::<CK_ULONG>()]);
        assert!(template.list.iter().all(|attribute| !attribute.pValue.is_null() && attribute.pValue.is_aligned()));
        assert_eq!(to_words(b"abc").first().map(|word| word.to_ne_bytes()[..3].to_vec()), Some(b"abc".to_vec()));
    }

    #[test]
    fn answers_and_numbers_have_the_names_of_the_standard() {
        assert_eq!(Code(CKR_KEY_UNEXTRACTABLE).to_string(), "CKR_KEY_UNEXTRACTABLE");
        assert_eq!(Code(0x8000_0001).to_string(), "CKR 0x80000001");
        assert_eq!(mechanism_name(0x210B), "AES_KEY_WRAP_KWP");
        assert_eq!(mechanism_name(0x1054), "0x1054");
        assert_eq!(attribute_name(CKA_UNWRAP_TEMPLATE), "UNWRAP_TEMPLATE");
    }
}

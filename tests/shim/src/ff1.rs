//! An FF1 mechanism, as a vendor might have one.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use aes::cipher::consts::{U1, U8, U16};
use aes::cipher::inout::InOut;
use aes::cipher::{
    Block, BlockCipherEncBackend, BlockCipherEncClosure, BlockCipherEncrypt, BlockSizeUser, Key, KeyInit, KeySizeUser,
    ParBlocksSizeUser,
};
use cryptoki_sys::*;
use fpe::ff1::{FF1, FlexibleNumeralString};

use crate::control::{self, Verdict};
use crate::real;

/// The mechanism's number.
const MECHANISM: CK_MECHANISM_TYPE = CKM_VENDOR_DEFINED | 0x4646;

#[repr(C)]
struct Parameter {
    radix: CK_ULONG,
    tweak_length: CK_ULONG,
    tweak: *const u8,
}

/// What `C_EncryptInit` began in a session.
#[derive(Clone)]
struct Operation {
    key: CK_OBJECT_HANDLE,
    radix: u32,
    tweak: Vec<u8>,
}

static OPERATIONS: Mutex<Option<HashMap<CK_SESSION_HANDLE, Operation>>> = Mutex::new(None);

fn with_operations<T>(work: impl FnOnce(&mut HashMap<CK_SESSION_HANDLE, Operation>) -> T) -> T {
    work(OPERATIONS.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default())
}

// SAFETY: the caller keeps PKCS#11's contract for `C_GetMechanismInfo`.
pub unsafe extern "C" fn get_mechanism_info(
    slot: CK_SLOT_ID,
    mechanism: CK_MECHANISM_TYPE,
    info: *mut CK_MECHANISM_INFO,
) -> CK_RV {
    let Some(function) = real().and_then(|real| real.C_GetMechanismInfo) else { return CKR_FUNCTION_NOT_SUPPORTED };
    let mechanism = if mechanism == MECHANISM { CKM_AES_ECB } else { mechanism };
    // SAFETY: as above.
    unsafe { function(slot, mechanism, info) }
}

// SAFETY: the caller keeps PKCS#11's contract for `C_EncryptInit`.
pub unsafe extern "C" fn encrypt_init(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    if let Verdict::Fail(code) = control::before("C_EncryptInit") {
        return code;
    }
    with_operations(|operations| operations.remove(&session));
    // SAFETY: a mechanism by the contract, or null.
    let own = unsafe { mechanism.as_ref() }.filter(|mechanism| mechanism.mechanism == MECHANISM);
    let Some(own) = own else {
        let Some(function) = real().and_then(|real| real.C_EncryptInit) else { return CKR_FUNCTION_NOT_SUPPORTED };
        // SAFETY: as above.
        return unsafe { function(session, mechanism, key) };
    };
    if own.ulParameterLen != size_of::<Parameter>() as CK_ULONG || own.pParameter.is_null() {
        return CKR_MECHANISM_PARAM_INVALID;
    }
    // SAFETY: the mechanism's documented parameter, of the right length.
    let parameter = unsafe { &*own.pParameter.cast::<Parameter>() };
    let tweak = match parameter.tweak_length {
        0 => Vec::new(),
        // SAFETY: the tweak is valid for its length.
        length => unsafe { std::slice::from_raw_parts(parameter.tweak, length as usize) }.to_vec(),
    };
    let operation = Operation { key, radix: parameter.radix as u32, tweak };
    with_operations(|operations| operations.insert(session, operation));
    CKR_OK
}

// SAFETY: the caller keeps PKCS#11's contract for `C_Encrypt`.
pub unsafe extern "C" fn encrypt(
    session: CK_SESSION_HANDLE,
    data: *mut CK_BYTE,
    length: CK_ULONG,
    output: *mut CK_BYTE,
    output_length: *mut CK_ULONG,
) -> CK_RV {
    let verdict = control::before("C_Encrypt");
    if let Verdict::Fail(code) = verdict {
        return code;
    }
    let Some(operation) = with_operations(|operations| operations.get(&session).cloned()) else {
        let Some(function) = real().and_then(|real| real.C_Encrypt) else { return CKR_FUNCTION_NOT_SUPPORTED };
        // SAFETY: as above.
        return unsafe { function(session, data, length, output, output_length) };
    };
    // SAFETY: a place for a length by the contract.
    let Some(output_length) = (unsafe { output_length.as_mut() }) else { return CKR_ARGUMENTS_BAD };
    let room = std::mem::replace(output_length, length);
    if output.is_null() {
        return CKR_OK;
    }
    if room < length {
        return CKR_BUFFER_TOO_SMALL;
    }
    with_operations(|operations| operations.remove(&session));
    // SAFETY: the data is valid for its length.
    let input = unsafe { std::slice::from_raw_parts(data, length as usize) };
    let Some(mut numerals) = compute(session, &operation, input) else { return CKR_DATA_INVALID };
    if let (Verdict::Wrong, Some(last)) = (verdict, numerals.last_mut()) {
        *last = u16::from(*last == 0);
    }
    let bytes: Vec<u8> = numerals.iter().flat_map(|numeral| numeral.to_be_bytes()).collect();
    // SAFETY: the output has room for `length` bytes, and FF1 keeps the length.
    unsafe { std::slice::from_raw_parts_mut(output, bytes.len().min(length as usize)) }.copy_from_slice(&bytes);
    CKR_OK
}

fn compute(session: CK_SESSION_HANDLE, operation: &Operation, input: &[u8]) -> Option<Vec<u16>> {
    let numerals: Vec<u16> = input.as_chunks::<2>().0.iter().map(|numeral| u16::from_be_bytes(*numeral)).collect();
    let ff1 = FF1::<TokenAes>::new(&[0; 8], operation.radix).ok()?;
    CURRENT.set(Some((session, operation.key)));
    let result = ff1.encrypt(&operation.tweak, &FlexibleNumeralString::from(numerals)).ok().map(Vec::from);
    // A block that failed has cleared it.
    CURRENT.take().and(result)
}

thread_local! {
    static CURRENT: RefCell<Option<(CK_SESSION_HANDLE, CK_OBJECT_HANDLE)>> = const { RefCell::new(None) };
}

/// AES in the real module, one block at a time.
#[derive(Clone)]
struct TokenAes;

impl KeySizeUser for TokenAes {
    type KeySize = U8;
}
impl BlockSizeUser for TokenAes {
    type BlockSize = U16;
}
impl ParBlocksSizeUser for TokenAes {
    type ParBlocksSize = U1;
}
impl KeyInit for TokenAes {
    fn new(_: &Key<Self>) -> Self {
        Self
    }
}
impl BlockCipherEncBackend for TokenAes {
    fn encrypt_block(&self, mut block: InOut<'_, '_, Block<Self>>) {
        match encrypt_in_real_module(block.get_in()) {
            Some(encrypted) => block.get_out().copy_from_slice(&encrypted),
            None => drop(CURRENT.take()),
        }
    }
}
impl BlockCipherEncrypt for TokenAes {
    fn encrypt_with_backend(&self, f: impl BlockCipherEncClosure<BlockSize = U16>) {
        f.call(self);
    }
}

fn encrypt_in_real_module(block: &[u8]) -> Option<[u8; 16]> {
    let (session, key) = CURRENT.with_borrow(|current| *current)?;
    let (init, encrypt) = real().and_then(|real| Some((real.C_EncryptInit?, real.C_Encrypt?)))?;
    let mut mechanism = CK_MECHANISM { mechanism: CKM_AES_ECB, pParameter: std::ptr::null_mut(), ulParameterLen: 0 };
    let (mut input, mut output) = (block.to_vec(), [0; 16]);
    let mut length = 16;
    // SAFETY: every pointer is valid for the length given with it.
    let code = unsafe {
        match init(session, &mut mechanism, key) {
            CKR_OK => encrypt(session, input.as_mut_ptr(), input.len() as CK_ULONG, output.as_mut_ptr(), &mut length),
            code => code,
        }
    };
    (code == CKR_OK && length == 16).then_some(output)
}

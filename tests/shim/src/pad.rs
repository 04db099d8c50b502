//! A token with a pad of its own: it takes no PIN from the host, and knows what is typed into it.

use std::collections::BTreeSet;

use cryptoki_sys::*;

use crate::control::{self, Verdict};
use crate::real;

/// The PIN that is typed into the pad of the token with this label, if it has one.
fn typed(label: &str) -> Option<String> {
    let text = std::fs::read_to_string(std::env::var_os("CASEMATE_SHIM_PAD_FILE")?).ok()?;
    text.lines().find_map(|line| line.split_once('=').filter(|(of, _)| *of == label)).map(|(_, pin)| pin.to_owned())
}

/// Whether two different people are at the pad, where the token asks for that.
fn quorum(label: &str) -> bool {
    let Some(file) = std::env::var_os("CASEMATE_SHIM_QUORUM_FILE") else { return true };
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let people = text.lines().find_map(|line| line.split_once('=').filter(|(of, _)| *of == label)).map(|(_, who)| who);
    people.unwrap_or_default().split_whitespace().collect::<BTreeSet<_>>().len() >= 2
}

fn label(info: &CK_TOKEN_INFO) -> String {
    String::from_utf8_lossy(&info.label).trim_end().to_owned()
}

// SAFETY: the caller keeps PKCS#11's contract for `C_GetTokenInfo`.
pub unsafe extern "C" fn get_token_info(slot: CK_SLOT_ID, info: *mut CK_TOKEN_INFO) -> CK_RV {
    if let Verdict::Fail(code) = control::before("C_GetTokenInfo") {
        return code;
    }
    let Some(function) = real().and_then(|real| real.C_GetTokenInfo) else { return CKR_FUNCTION_NOT_SUPPORTED };
    // SAFETY: as above.
    let code = unsafe { function(slot, info) };
    // SAFETY: the function above filled it in, or it is null.
    if let (CKR_OK, Some(info)) = (code, unsafe { info.as_mut() })
        && typed(&label(info)).is_some()
    {
        info.flags |= CKF_PROTECTED_AUTHENTICATION_PATH;
    }
    code
}

// SAFETY: the caller keeps PKCS#11's contract for `C_Login`.
pub unsafe extern "C" fn login(
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: *mut CK_UTF8CHAR,
    length: CK_ULONG,
) -> CK_RV {
    if let Verdict::Fail(code) = control::before("C_Login") {
        return code;
    }
    let Some(real) = real() else { return CKR_FUNCTION_NOT_SUPPORTED };
    let (Some(function), Some(of_session), Some(of_slot)) = (real.C_Login, real.C_GetSessionInfo, real.C_GetTokenInfo)
    else {
        return CKR_FUNCTION_NOT_SUPPORTED;
    };
    let (mut about, mut info) = (CK_SESSION_INFO::default(), CK_TOKEN_INFO::default());
    // SAFETY: both places are valid.
    let known = unsafe { of_session(session, &mut about) == CKR_OK && of_slot(about.slotID, &mut info) == CKR_OK };
    match typed(&label(&info)).filter(|_| known) {
        // SAFETY: as above.
        None => unsafe { function(session, user, pin, length) },
        Some(_) if !pin.is_null() => CKR_PIN_INCORRECT,
        Some(_) if !quorum(&label(&info)) => CKR_FUNCTION_CANCELED,
        // SAFETY: the PIN is valid for its length.
        Some(typed) => unsafe { function(session, user, typed.as_ptr().cast_mut(), typed.len() as CK_ULONG) },
    }
}

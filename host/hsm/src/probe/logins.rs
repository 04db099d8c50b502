//! Open operations, logouts and PINs. Lines that lock a PIN or change a login run on a scratch token only.

use cryptoki_sys::*;
use zeroize::Zeroizing;

use super::Finding::{Broken, Held};
use super::keys::ECB;
use super::line::{Found, Line, Object};
use super::template::{BLOCK, Template};
use crate::driver::{Answer, Code, Value};

/// Wrong PINs in a row. Tokens that lock do so after 3 to 10.
const ATTEMPTS: usize = 12;

/// A key and an open stream of AES-ECB under it in a second session.
fn open_stream(line: &mut Line<'_>) -> Answer<(Object, CK_SESSION_HANDLE)> {
    let key = line.generate("key", &Template::aes().on(&[CKA_ENCRYPT]))?;
    let session = line.open_session()?;
    line.begin_stream(session, key)?;
    line.stream(session, &BLOCK)?;
    Ok((key, session))
}

fn still(line: &mut Line<'_>, session: CK_SESSION_HANDLE, after: &str) -> Found {
    Ok(match line.stream(session, &BLOCK) {
        Ok(_) => (Broken, format!("the stream still encrypts after {after}")),
        Err(_) => (Held, format!("the stream is dead after {after}")),
    })
}

/// A stream must die with its key.
pub(super) fn stream_after_destroy(line: &mut Line<'_>) -> Found {
    let (key, session) = open_stream(line)?;
    line.destroy(key)?;
    if line.encrypt(&ECB, key, &BLOCK).is_ok() {
        return Ok((Broken, "a destroyed key begins a new operation".to_owned()));
    }
    still(line, session, "C_DestroyObject")
}

/// A stream must die with its session: this is what Casemate relies on.
pub(super) fn stream_after_close(line: &mut Line<'_>) -> Found {
    let (_, session) = open_stream(line)?;
    line.close_session(session)?;
    still(line, session, "C_CloseSession")
}

/// A stream must die with the login.
pub(super) fn stream_after_logout(line: &mut Line<'_>) -> Found {
    let (_, session) = open_stream(line)?;
    line.logout()?;
    let found = still(line, session, "C_Logout");
    line.login_as_before()?;
    found
}

/// Wrong PINs must lock the PIN.
pub(super) fn lock_out(line: &mut Line<'_>) -> Found {
    // Another PIN of the same length, so that no rule about lengths answers instead.
    let mut wrong = Zeroizing::new(line.user_pin().to_vec());
    if let Some(last) = wrong.last_mut() {
        *last = if *last == b'0' { b'1' } else { b'0' };
    }
    line.logout()?;
    let mut answers = Vec::new();
    for _ in 0..ATTEMPTS {
        match line.try_login(CKU_USER, &wrong) {
            Ok(()) => return Ok((Broken, "a wrong PIN logs in".to_owned())),
            Err(code) => answers.push(code),
        }
    }
    let locked = answers.iter().position(|code| *code == Code(CKR_PIN_LOCKED)).map(|before| before + 1);
    let first = answers.first().map(ToString::to_string).unwrap_or_default();
    line.say(match locked {
        Some(at) => {
            format!("C_Login(USER, a wrong PIN), {ATTEMPTS} times -> {first}, from number {at} on CKR_PIN_LOCKED")
        }
        None => format!("C_Login(USER, a wrong PIN), {ATTEMPTS} times -> {first}"),
    });
    if line.login_as_before().is_ok() {
        return Ok((Broken, format!("the right PIN is taken after {ATTEMPTS} wrong ones")));
    }
    let pin = line.user_pin();
    reset_pin(line, pin)?;
    line.login_as_before()?;
    let attempts = locked.map_or_else(|| format!("at most {ATTEMPTS}"), |at| at.to_string());
    Ok((Held, format!("the PIN is locked by {attempts} wrong ones; the security officer reset it")))
}

/// The security officer alone resets the user's PIN and then uses the user's keys.
pub(super) fn officer_reset(line: &mut Line<'_>) -> Found {
    let template = Template::aes().on(&[CKA_ENCRYPT, CKA_TOKEN]).with(CKA_ID, Value::Bytes(b"so reset".to_vec()));
    let key = line.generate("user's token key", &template)?;
    let before = line.encrypt(&ECB, key, &BLOCK)?;
    let mut other = Zeroizing::new(line.user_pin().to_vec());
    other.reverse();
    line.logout()?;
    let used = reset_pin(line, &other).and_then(|()| line.login(CKU_USER, &other)).is_ok().then(|| {
        let found = line.find_own().unwrap_or_default();
        found.into_iter().any(|key| line.encrypt(&ECB, key, &BLOCK).is_ok_and(|block| block == before))
    });
    let pin = line.user_pin();
    let finding = match used {
        Some(true) => (Broken, "the security officer set a new user PIN and used the user's key".to_owned()),
        Some(false) => (Held, "the user's keys do not survive a reset by the security officer".to_owned()),
        None => (Held, "the security officer cannot set a new user PIN".to_owned()),
    };
    // Back to the PIN from before, whichever way it went.
    if used.is_some() {
        line.logout()?;
        reset_pin(line, pin)?;
    }
    if line.login_as_before().is_err() {
        reset_pin(line, pin)?;
        line.login_as_before()?;
    }
    Ok(finding)
}

/// Logs in as security officer, sets the user's PIN and logs out.
fn reset_pin(line: &mut Line<'_>, pin: &[u8]) -> Answer<()> {
    let so_pin = line.so_pin();
    line.login(CKU_SO, so_pin)?;
    let set = line.init_pin(pin);
    line.logout()?;
    set
}

//! The workbench: a session of its own for each line, every call written down, every scratch object destroyed.

use std::collections::BTreeSet;
use std::sync::Arc;

use aws_lc_rs::cipher::{AES_256, EncryptingKey, UnboundCipherKey};
use aws_lc_rs::hmac;
use cryptoki::context::Function;
use cryptoki_sys::*;
use zeroize::Zeroizing;

use super::Finding;
use crate::driver::{Answer, Attr, Code, Driver, Mech, Value, attribute_name, mechanism_name};
use crate::{HsmError, Module};

/// Marks every object of the probe, so that one left behind by a crash is found and destroyed by the next.
const LABEL: &[u8] = b"casemate probe scratch";

/// A block nobody else encrypts: tells two keys apart.
pub(super) const BLOCK: [u8; 16] = *b"casemate probe 1";

/// What one line found, in a word and in a sentence.
pub(super) type Found = Result<(Finding, String), Code>;

/// A login on one token.
pub(super) struct Bench {
    driver: Driver,
    slot: CK_SLOT_ID,
    /// The login ends with its last session, so this one stays open.
    anchor: CK_SESSION_HANDLE,
    pub(super) mechanisms: BTreeSet<CK_MECHANISM_TYPE>,
    user_pin: Zeroizing<Vec<u8>>,
    /// There only on a scratch token.
    so_pin: Option<Zeroizing<Vec<u8>>>,
}

/// A scratch object under the name its evidence uses.
#[derive(Clone, Copy)]
pub(super) struct Object {
    pub(super) handle: CK_OBJECT_HANDLE,
    name: &'static str,
}

/// One line at work.
pub(super) struct Line<'a> {
    bench: &'a Bench,
    session: CK_SESSION_HANDLE,
    extra: Vec<CK_SESSION_HANDLE>,
    pub(super) evidence: Vec<String>,
}

impl Bench {
    /// Logs in as the token's user and destroys what an earlier probe may have left.
    pub(super) fn open(
        module: Arc<Module>,
        slot: CK_SLOT_ID,
        label: &str,
        user_pin: &[u8],
        so_pin: Option<&[u8]>,
    ) -> Result<Self, HsmError> {
        let driver = Driver::new(module);
        let mechanisms = driver.mechanisms(slot).map_err(|code| fault(Function::GetMechanismList, code))?;
        let anchor = driver.open_session(slot).map_err(|code| fault(Function::OpenSession, code))?;
        let bench = Self {
            driver,
            slot,
            anchor,
            mechanisms: mechanisms.into_iter().collect(),
            user_pin: Zeroizing::new(user_pin.to_vec()),
            so_pin: so_pin.map(|pin| Zeroizing::new(pin.to_vec())),
        };
        match bench.driver.login(anchor, CKU_USER, user_pin) {
            Ok(()) => bench.sweep()?,
            // Going on would accept any PIN at all.
            Err(Code(CKR_USER_ALREADY_LOGGED_IN | CKR_USER_ANOTHER_ALREADY_LOGGED_IN)) => {
                return Err(HsmError::AlreadyOpen { label: label.to_owned() });
            }
            Err(code) => return Err(fault(Function::Login, code)),
        }
        Ok(bench)
    }

    /// Whether lines may lock PINs and change logins.
    pub(super) fn scratch(&self) -> bool {
        self.so_pin.is_some()
    }

    /// Runs one line in a session of its own. Session objects end with it; token objects are swept.
    pub(super) fn line(
        &self,
        run: impl FnOnce(&mut Line<'_>) -> Found,
    ) -> Result<(Finding, String, Vec<String>), HsmError> {
        let session = self.driver.open_session(self.slot).map_err(|code| fault(Function::OpenSession, code))?;
        let mut line = Line { bench: self, session, extra: Vec::new(), evidence: Vec::new() };
        let (finding, detail) = run(&mut line).unwrap_or_else(|code| {
            (Finding::Unknown, format!("a call that has to work was answered with {code}, so nothing is known"))
        });
        let evidence = std::mem::take(&mut line.evidence);
        drop(line);
        self.sweep()?;
        Ok((finding, detail, evidence))
    }

    /// Checks that nothing is left and that the user's PIN is what it was.
    pub(super) fn finish(self) -> Result<(), HsmError> {
        self.sweep()?;
        if self.scratch() {
            self.driver.logout(self.anchor).map_err(|code| fault(Function::Logout, code))?;
            let login = self.driver.login(self.anchor, CKU_USER, &self.user_pin);
            login.map_err(|code| fault(Function::Login, code))?;
        }
        Ok(())
    }

    fn sweep(&self) -> Result<(), HsmError> {
        let template = [Attr(CKA_LABEL, Value::Bytes(LABEL.to_vec()))];
        let find = || self.driver.find(self.anchor, &template).map_err(|code| fault(Function::FindObjects, code));
        for object in find()? {
            // What cannot be destroyed shows in the second search.
            let _ = self.driver.destroy(self.anchor, object);
        }
        if find()?.is_empty() {
            Ok(())
        } else {
            Err(HsmError::StrangeAnswer { action: "destroy the probe's scratch objects" })
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.driver.close_session(self.anchor);
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        for session in self.extra.drain(..).chain([self.session]) {
            let _ = self.bench.driver.close_session(session);
        }
    }
}

fn fault(function: Function, code: Code) -> HsmError {
    HsmError::from_code("probe the token", function, code)
}

impl<'a> Line<'a> {
    pub(super) fn user_pin(&self) -> &'a [u8] {
        &self.bench.user_pin
    }

    /// The security officer's PIN. Lines that ask for it run on a scratch token only.
    pub(super) fn so_pin(&self) -> &'a [u8] {
        self.bench.so_pin.as_ref().map_or(&[], |pin| pin)
    }
}

/// The calls. Each is written down with its answer; lengths are shown, bytes never.
impl Line<'_> {
    pub(super) fn say(&mut self, text: impl Into<String>) {
        self.evidence.push(text.into());
    }

    pub(super) fn lists(&self, mechanism: CK_MECHANISM_TYPE) -> bool {
        self.bench.mechanisms.contains(&mechanism)
    }

    pub(super) fn generate(&mut self, name: &'static str, template: &Template) -> Answer<Object> {
        let mechanism = template.generation();
        let answer = self.bench.driver.generate(self.session, &mechanism, &template.for_generation());
        let call = format!("C_GenerateKey({}, {name} {})", mechanism_name(mechanism.kind()), template.text());
        self.note(call, answer, |_| String::new()).map(|handle| Object { handle, name })
    }

    pub(super) fn generate_pair(
        &mut self,
        name: &'static str,
        mechanism: CK_MECHANISM_TYPE,
        public: &[Attr],
        private: &[Attr],
    ) -> Answer<(Object, Object)> {
        let answer = self.bench.driver.generate_pair(self.session, &Mech::Plain(mechanism), public, private);
        let call = format!("C_GenerateKeyPair({}, {name})", mechanism_name(mechanism));
        let (public, private) = self.note(call, answer, |_| String::new())?;
        Ok((Object { handle: public, name }, Object { handle: private, name }))
    }

    pub(super) fn import(&mut self, name: &'static str, template: &Template, value: &[u8]) -> Answer<Object> {
        let template = template.clone().with(CKA_VALUE, Value::Bytes(value.to_vec()));
        let answer = self.bench.driver.create(self.session, &template.attributes());
        self.note(format!("C_CreateObject({name} {})", template.text()), answer, |_| String::new())
            .map(|handle| Object { handle, name })
    }

    pub(super) fn copy(&mut self, object: Object, changes: &[Attr]) -> Answer<Object> {
        let mut template = vec![Attr(CKA_LABEL, Value::Bytes(LABEL.to_vec()))];
        template.extend_from_slice(changes);
        let answer = self.bench.driver.copy(self.session, object.handle, &template);
        self.note(format!("C_CopyObject({} {})", object.name, text(changes)), answer, |_| String::new())
            .map(|handle| Object { handle, name: "copy" })
    }

    pub(super) fn destroy(&mut self, object: Object) -> Answer<()> {
        let answer = self.bench.driver.destroy(self.session, object.handle);
        self.note(format!("C_DestroyObject({})", object.name), answer, |()| String::new())
    }

    pub(super) fn set(&mut self, object: Object, attribute: Attr) -> Answer<()> {
        let answer = self.bench.driver.set(self.session, object.handle, &attribute);
        self.note(format!("C_SetAttributeValue({} {})", object.name, text(&[attribute])), answer, |()| String::new())
    }

    /// A boolean attribute; `None` where the object has none.
    pub(super) fn flag(&mut self, object: Object, kind: CK_ATTRIBUTE_TYPE) -> Option<bool> {
        let answer = self.bench.driver.attribute(self.session, object.handle, kind);
        let call = format!("C_GetAttributeValue({}, {})", object.name, attribute_name(kind));
        let value = self.note(call, answer, |value| match value.as_slice() {
            [0] => "false".to_owned(),
            [_] => "true".to_owned(),
            other => format!("{} bytes", other.len()),
        });
        value.ok().and_then(|value| value.first().map(|byte| *byte != 0))
    }

    /// An attribute's bytes, of which the evidence tells the number only.
    pub(super) fn bytes(&mut self, object: Object, kind: CK_ATTRIBUTE_TYPE) -> Answer<Zeroizing<Vec<u8>>> {
        let answer = self.bench.driver.attribute(self.session, object.handle, kind);
        let call = format!("C_GetAttributeValue({}, {})", object.name, attribute_name(kind));
        self.note(call, answer, length)
    }

    pub(super) fn wrap(&mut self, mechanism: &Mech, kek: Object, key: Object) -> Answer<Zeroizing<Vec<u8>>> {
        let answer = self.bench.driver.wrap(self.session, mechanism, kek.handle, key.handle);
        self.note(
            format!("C_WrapKey({}, {}, {})", mechanism_name(mechanism.kind()), kek.name, key.name),
            answer,
            length,
        )
    }

    pub(super) fn unwrap(
        &mut self,
        name: &'static str,
        mechanism: &Mech,
        kek: Object,
        blob: &[u8],
        template: &Template,
    ) -> Answer<Object> {
        let answer = self.bench.driver.unwrap(self.session, mechanism, kek.handle, blob, &template.attributes());
        let call =
            format!("C_UnwrapKey({}, {}, {name} {})", mechanism_name(mechanism.kind()), kek.name, template.text());
        self.note(call, answer, |_| String::new()).map(|handle| Object { handle, name })
    }

    pub(super) fn derive(
        &mut self,
        name: &'static str,
        mechanism: &Mech,
        base: Object,
        template: &Template,
    ) -> Answer<Object> {
        let answer = self.bench.driver.derive(self.session, mechanism, base.handle, &template.attributes());
        let call =
            format!("C_DeriveKey({}, {}, {name} {})", mechanism_name(mechanism.kind()), base.name, template.text());
        self.note(call, answer, |_| String::new()).map(|handle| Object { handle, name })
    }

    pub(super) fn encrypt(&mut self, mechanism: &Mech, key: Object, input: &[u8]) -> Answer<Zeroizing<Vec<u8>>> {
        let answer = self.bench.driver.encrypt(self.session, mechanism, key.handle, input);
        let call = format!("C_Encrypt({}, {}, {} bytes)", mechanism_name(mechanism.kind()), key.name, input.len());
        self.note(call, answer, length)
    }

    pub(super) fn decrypt(&mut self, mechanism: &Mech, key: Object, input: &[u8]) -> Answer<Zeroizing<Vec<u8>>> {
        let answer = self.bench.driver.decrypt(self.session, mechanism, key.handle, input);
        let call = format!("C_Decrypt({}, {}, {} bytes)", mechanism_name(mechanism.kind()), key.name, input.len());
        self.note(call, answer, length)
    }

    pub(super) fn sign(
        &mut self,
        mechanism: CK_MECHANISM_TYPE,
        key: Object,
        message: &[u8],
    ) -> Answer<Zeroizing<Vec<u8>>> {
        let answer = self.bench.driver.sign(self.session, &Mech::Plain(mechanism), key.handle, message);
        let call = format!("C_Sign({}, {}, {} bytes)", mechanism_name(mechanism), key.name, message.len());
        self.note(call, answer, length)
    }

    /// A further session of this line.
    pub(super) fn open_session(&mut self) -> Answer<CK_SESSION_HANDLE> {
        let session = self.bench.driver.open_session(self.bench.slot)?;
        self.extra.push(session);
        Ok(session)
    }

    pub(super) fn close_session(&mut self, session: CK_SESSION_HANDLE) -> Answer<()> {
        self.extra.retain(|other| *other != session);
        let answer = self.bench.driver.close_session(session);
        self.note("C_CloseSession(second session)".to_owned(), answer, |()| String::new())
    }

    pub(super) fn begin_stream(&mut self, session: CK_SESSION_HANDLE, key: Object) -> Answer<()> {
        let answer = self.bench.driver.encrypt_init(session, &Mech::Plain(CKM_AES_ECB), key.handle);
        self.note(format!("C_EncryptInit(second session, AES_ECB, {})", key.name), answer, |()| String::new())
    }

    pub(super) fn stream(&mut self, session: CK_SESSION_HANDLE, input: &[u8]) -> Answer<Zeroizing<Vec<u8>>> {
        let answer = self.bench.driver.encrypt_update(session, input);
        self.note(format!("C_EncryptUpdate(second session, {} bytes)", input.len()), answer, length)
    }

    /// Not written down: a caller that tries many PINs writes one sentence.
    pub(super) fn try_login(&self, user: CK_USER_TYPE, pin: &[u8]) -> Answer<()> {
        self.bench.driver.login(self.session, user, pin)
    }

    pub(super) fn login(&mut self, user: CK_USER_TYPE, pin: &[u8]) -> Answer<()> {
        let who = if user == CKU_SO { "SO" } else { "USER" };
        let answer = self.try_login(user, pin);
        self.note(format!("C_Login({who})"), answer, |()| String::new())
    }

    pub(super) fn login_as_before(&mut self) -> Answer<()> {
        let pin = self.bench.user_pin.clone();
        self.login(CKU_USER, &pin)
    }

    pub(super) fn logout(&mut self) -> Answer<()> {
        let answer = self.bench.driver.logout(self.session);
        self.note("C_Logout()".to_owned(), answer, |()| String::new())
    }

    pub(super) fn init_pin(&mut self, pin: &[u8]) -> Answer<()> {
        let answer = self.bench.driver.init_pin(self.session, pin);
        self.note("C_InitPIN(new user PIN)".to_owned(), answer, |()| String::new())
    }

    /// The probe's own objects on the token.
    pub(super) fn find_own(&mut self) -> Answer<Vec<Object>> {
        let template = [Attr(CKA_LABEL, Value::Bytes(LABEL.to_vec()))];
        let answer = self.bench.driver.find(self.session, &template);
        let found =
            self.note("C_FindObjects(scratch label)".to_owned(), answer, |found| format!("{} objects", found.len()))?;
        Ok(found.into_iter().map(|handle| Object { handle, name: "found" }).collect())
    }

    fn note<T>(&mut self, call: String, answer: Answer<T>, say: impl FnOnce(&T) -> String) -> Answer<T> {
        let told = match &answer {
            Ok(value) => match say(value) {
                said if said.is_empty() => "CKR_OK".to_owned(),
                said => format!("CKR_OK, {said}"),
            },
            Err(code) => code.to_string(),
        };
        self.evidence.push(format!("{call} -> {told}"));
        answer
    }
}

fn length(value: &Zeroizing<Vec<u8>>) -> String {
    format!("{} bytes", value.len())
}

/// The attributes of a scratch key: a session object, sensitive, not extractable, every usage flag explicit and off.
#[derive(Clone)]
pub(super) struct Template {
    kind: CK_KEY_TYPE,
    attributes: Vec<Attr>,
}

impl Template {
    /// An AES-256 key.
    pub(super) fn aes() -> Self {
        Self::new(CKK_AES)
    }

    /// A 32-byte generic secret.
    pub(super) fn secret() -> Self {
        Self::new(CKK_GENERIC_SECRET)
    }

    /// As [`Template::aes`], with nothing said about protection and use.
    pub(super) fn silent() -> Self {
        let mut template = Self::aes();
        let said = [CKA_CLASS, CKA_KEY_TYPE, CKA_LABEL, CKA_TOKEN];
        template.attributes.retain(|Attr(kind, _)| said.contains(kind));
        template
    }

    fn new(kind: CK_KEY_TYPE) -> Self {
        let mut attributes = vec![
            Attr(CKA_CLASS, Value::Number(CKO_SECRET_KEY)),
            Attr(CKA_KEY_TYPE, Value::Number(kind)),
            Attr(CKA_LABEL, Value::Bytes(LABEL.to_vec())),
            Attr(CKA_TOKEN, Value::Flag(false)),
            Attr(CKA_PRIVATE, Value::Flag(true)),
            Attr(CKA_SENSITIVE, Value::Flag(true)),
            Attr(CKA_EXTRACTABLE, Value::Flag(false)),
        ];
        let uses = [CKA_ENCRYPT, CKA_DECRYPT, CKA_SIGN, CKA_VERIFY, CKA_WRAP, CKA_UNWRAP, CKA_DERIVE];
        attributes.extend(uses.map(|kind| Attr(kind, Value::Flag(false))));
        Self { kind, attributes }
    }

    pub(super) fn on(self, kinds: &[CK_ATTRIBUTE_TYPE]) -> Self {
        kinds.iter().fold(self, |template, kind| template.with(*kind, Value::Flag(true)))
    }

    pub(super) fn off(self, kinds: &[CK_ATTRIBUTE_TYPE]) -> Self {
        kinds.iter().fold(self, |template, kind| template.with(*kind, Value::Flag(false)))
    }

    /// Not sensitive and extractable: everybody may read the value.
    pub(super) fn clear(self) -> Self {
        self.off(&[CKA_SENSITIVE]).on(&[CKA_EXTRACTABLE])
    }

    pub(super) fn with(mut self, kind: CK_ATTRIBUTE_TYPE, value: Value) -> Self {
        self.attributes.retain(|Attr(other, _)| *other != kind);
        self.attributes.push(Attr(kind, value));
        self
    }

    /// For derivation, which needs to be told the length.
    pub(super) fn of_length(self, bytes: usize) -> Self {
        self.with(CKA_VALUE_LEN, Value::Number(bytes as CK_ULONG))
    }

    fn generation(&self) -> Mech {
        Mech::Plain(if self.kind == CKK_AES { CKM_AES_KEY_GEN } else { CKM_GENERIC_SECRET_KEY_GEN })
    }

    fn for_generation(&self) -> Vec<Attr> {
        self.clone().of_length(32).attributes()
    }

    fn attributes(&self) -> Vec<Attr> {
        let mut attributes = self.attributes.clone();
        // SoftHSM refuses every attribute of an unwrapped key that comes after CKA_MODIFIABLE (its issue 707).
        attributes.sort_by_key(|Attr(kind, _)| *kind == CKA_MODIFIABLE);
        attributes
    }

    fn text(&self) -> String {
        text(&self.attributes)
    }
}

/// What matters of a template: protection, and the uses that are on.
fn text(attributes: &[Attr]) -> String {
    let always = [CKA_SENSITIVE, CKA_EXTRACTABLE, CKA_MODIFIABLE, CKA_COPYABLE];
    let words: Vec<String> = attributes
        .iter()
        .filter_map(|Attr(kind, value)| {
            let name = attribute_name(*kind);
            match value {
                Value::Flag(true) if *kind == CKA_PRIVATE => None,
                Value::Flag(true) => Some(name),
                Value::Flag(false) => always.contains(kind).then(|| format!("{name}=false")),
                Value::Numbers(numbers) => {
                    let list: Vec<String> = numbers.iter().map(|number| mechanism_name(*number)).collect();
                    Some(format!("{name}={}", list.join("+")))
                }
                Value::Template(inner) => Some(format!("{name}={}", text(inner))),
                Value::Bytes(_) | Value::Number(_) => None,
            }
        })
        .collect();
    format!("{{{}}}", words.join(" "))
}

/// AES-256-ECB of [`BLOCK`] on this side, to recognise a key whose bytes came out.
pub(super) fn encrypt_here(key: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut block = Zeroizing::new(BLOCK.to_vec());
    let key = UnboundCipherKey::new(&AES_256, key).ok()?;
    EncryptingKey::ecb(key).ok()?.encrypt(&mut block).ok()?;
    Some(block)
}

/// HMAC-SHA-256 on this side.
pub(super) fn mac_here(key: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_names_uses_and_never_bytes() {
        let template = Template::aes().on(&[CKA_WRAP]).with(CKA_VALUE, Value::Bytes(b"0123456789abcdef".to_vec()));
        assert_eq!(template.text(), "{SENSITIVE EXTRACTABLE=false WRAP}");
        let silent = Template::silent();
        assert_eq!(silent.text(), "{}");
    }

    /// FIPS 197, appendix C.3: this side's AES is the one of the standard, so a match is a match.
    #[test]
    fn this_side_encrypts_as_the_standard_says() {
        let key: Vec<u8> = (0..32).collect();
        let one = encrypt_here(&key);
        assert!(one.as_ref().is_some_and(|block| block.len() == 16 && **block != BLOCK));
        assert_ne!(one, encrypt_here(&[0; 32]));
        assert_eq!(encrypt_here(&[0; 5]), None);
    }
}

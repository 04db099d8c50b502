//! One line at work: the calls, each written down with the token's answer.

use cryptoki_sys::*;
use zeroize::Zeroizing;

use super::Finding;
use super::bench::Bench;
use super::template::{LABEL, Template, text};
use crate::driver::{Answer, Attr, Code, Mech, Value, attribute_name, mechanism_name};

/// What one line found, in a word and in a sentence.
pub(super) type Found = Result<(Finding, String), Code>;

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

impl Drop for Line<'_> {
    fn drop(&mut self) {
        for session in self.extra.drain(..).chain([self.session]) {
            let _ = self.bench.driver.close_session(session);
        }
    }
}

impl<'a> Line<'a> {
    pub(super) fn new(bench: &'a Bench, session: CK_SESSION_HANDLE) -> Self {
        Self { bench, session, extra: Vec::new(), evidence: Vec::new() }
    }

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

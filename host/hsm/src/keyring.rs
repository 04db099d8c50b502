use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cryptoki::error::{Error as Pkcs11Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki_sys::CK_MECHANISM_TYPE;
use zeroize::Zeroizing;

use crate::class::{Generation, Template};
use crate::key::PublicHalf;
use crate::sessions::Sessions;
use crate::{HsmError, Key, KeyClass, KeyId, KeyRef, Module, NativeFf1, OaepHash, Origin, Pin};

/// The keys of one token, after login. Shared between threads; the PIN is not kept.
///
/// The login ends when the keyring and every [`Key`] from it are gone.
pub struct Keyring {
    pub(crate) sessions: Arc<Sessions>,
    /// A stored key whose check value proves that the token's storage is still there.
    witness: Mutex<Option<KeyRef>>,
    /// The best hash this token takes in OAEP, once a pair has tried.
    pub(crate) oaep: OnceLock<OaepHash>,
}

/// What a login takes.
#[derive(Clone, Copy, Default)]
pub struct Login<'a> {
    /// The user's PIN; none for a token that takes it by a way of its own (`CKF_PROTECTED_AUTHENTICATION_PATH`).
    pub pin: Option<&'a Pin>,
    /// The token's own FF1. Keys of class `fpe-ff1` allow it from their birth on; others are encrypted with in lock-step.
    pub native_ff1: Option<NativeFf1>,
}

impl Keyring {
    /// Logs in as the token's user, with a PIN.
    ///
    /// # Errors
    /// [`HsmError::TokenMissing`], [`HsmError::TokenTwin`], [`HsmError::PinIncorrect`], [`HsmError::PinLocked`],
    /// [`HsmError::AlreadyOpen`] when this process is logged in already, or as the module answers.
    pub fn open(module: Arc<Module>, token_label: &str, pin: &Pin) -> Result<Arc<Self>, HsmError> {
        Self::open_with(module, token_label, &Login { pin: Some(pin), native_ff1: None })
    }

    /// Logs in as the token's user.
    ///
    /// # Errors
    /// As [`Keyring::open`]; [`HsmError::PinUnwanted`] and [`HsmError::PinMissing`] where the token's way and the PIN contradict;
    /// [`HsmError::NativeFf1`] for a mechanism that is no vendor's.
    pub fn open_with(module: Arc<Module>, token_label: &str, login: &Login<'_>) -> Result<Arc<Self>, HsmError> {
        login.native_ff1.map_or(Ok(()), |native| native.number().map(drop))?;
        let sessions = Sessions::open(module, token_label, login)?;
        Ok(Arc::new(Self { sessions, witness: Mutex::default(), oaep: OnceLock::new() }))
    }

    /// The token's serial number: unlike its label, not chosen by the operator.
    pub fn serial(&self) -> &str {
        &self.sessions.serial
    }

    /// Whether this token can hold keys of a class: some lack a mechanism.
    ///
    /// # Errors
    /// As the module answers.
    pub fn supports(&self, class: KeyClass) -> Result<bool, HsmError> {
        match class.needs() {
            Some(mechanism) => self.sessions.has_mechanism(mechanism),
            None => Ok(true),
        }
    }

    /// Generates a key in the token, reads every attribute back and destroys the key if one differs.
    ///
    /// # Errors
    /// [`HsmError::MechanismMissing`] on a token that lacks the class's mechanism; [`HsmError::NeedsTwoTokens`] for half a
    /// synchronisation key; [`HsmError::AttributeMismatch`] for a token that stores something else, or as the module answers.
    pub fn generate(&self, class: KeyClass, label: &str) -> Result<KeyRef, HsmError> {
        if matches!(class, KeyClass::SyncKekDestination | KeyClass::SyncKekSource) {
            return Err(HsmError::NeedsTwoTokens { class });
        }
        let (_, reference) = self.generate_as(class, label, Origin::Generated)?;
        self.remember(&reference);
        Ok(reference)
    }

    /// As [`Keyring::generate`], under an identifier that was drawn and written down before ([`KeyRef::announced`]).
    ///
    /// # Errors
    /// [`HsmError::KeyTwin`] when something answers to the identifier already; as [`Keyring::generate`].
    pub fn generate_announced(&self, id: KeyId, class: KeyClass, label: &str) -> Result<KeyRef, HsmError> {
        if matches!(class, KeyClass::SyncKekDestination | KeyClass::SyncKekSource) {
            return Err(HsmError::NeedsTwoTokens { class });
        }
        self.require_unused(id)?;
        self.require_mechanism(class)?;
        let (_, reference) = self.generate_with_id(id, class, label, Origin::Generated)?;
        self.remember(&reference);
        Ok(reference)
    }

    /// A fresh, random `CKA_ID`.
    ///
    /// # Errors
    /// As the module answers.
    pub fn draw_id(&self) -> Result<KeyId, HsmError> {
        let mut id = [0; 16];
        id.copy_from_slice(&self.random(16)?);
        Ok(KeyId::from_random(id))
    }

    /// Destroys whatever answers to an identifier that was announced and belongs to no key: what a process that was killed while it made
    /// the key left. Returns how many objects there were.
    ///
    /// # Errors
    /// As the module answers.
    pub fn clear(&self, id: KeyId) -> Result<usize, HsmError> {
        self.forget(id);
        let found = self.objects(id)?.len();
        self.destroy_objects(id)?;
        Ok(found)
    }

    pub(crate) fn require_unused(&self, id: KeyId) -> Result<(), HsmError> {
        match self.objects(id)?.len() {
            0 => Ok(()),
            count => Err(HsmError::KeyTwin { count, id }),
        }
    }

    /// Finds a key by its `CKA_ID`, and checks that it is alone, has its class's attributes and its check value.
    ///
    /// # Errors
    /// [`HsmError::KeyMissing`], [`HsmError::KeyTwin`], [`HsmError::AttributeMismatch`], [`HsmError::KeyCheckMismatch`],
    /// or as the module answers.
    pub fn find(&self, key: &KeyRef) -> Result<Key, HsmError> {
        let (id, class, origin) = (key.id, key.class, key.origin);
        let missing = HsmError::KeyMissing { class, id };
        // A session object belongs to its handle: whoever looks for one has been given the wrong reference.
        if !matches!(origin, Origin::Generated | Origin::Replicated) {
            return Err(missing);
        }
        let (handle, public) = match self.objects(id)?.as_slice() {
            [] => return Err(missing),
            &[only] if !class.is_pair() => (only, None),
            // Half a pair is no key.
            [_] => return Err(missing),
            &[first, second] if class.is_pair() => {
                let (private, public) = self.halves(first, second)?;
                self.check_attributes(public, class, id, &class.public_template(id), &[])?;
                (private, Some(self.read_public_half(class, public)?))
            }
            more => return Err(HsmError::KeyTwin { count: more.len(), id }),
        };
        self.check_attributes(handle, class, id, &self.template(class, id, origin), &class.history(origin))?;
        if !self.matches(class, handle, public.as_ref(), &key.check)? {
            return Err(HsmError::KeyCheckMismatch { id });
        }
        self.remember(key);
        Ok(Key { handle, public, reference: key.clone(), session_object: false, sessions: Arc::clone(&self.sessions) })
    }

    /// `n` bytes from the token's random generator.
    ///
    /// # Errors
    /// As the module answers.
    pub fn random(&self, n: usize) -> Result<Zeroizing<Vec<u8>>, HsmError> {
        let mut bytes = Zeroizing::new(vec![0; n]);
        self.sessions.with("draw random bytes", |session| session.generate_random_slice(&mut bytes))?;
        Ok(bytes)
    }

    /// Whether the token still answers, and still has its keys.
    ///
    /// Random numbers and open operations go on after a token's storage is gone, so a stored key is used.
    ///
    /// # Errors
    /// As [`Keyring::find`] and [`Keyring::random`].
    pub fn health(&self) -> Result<(), HsmError> {
        self.random(1)?;
        let witness = self.witness.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match witness {
            Some(witness) => self.find(&witness).map(drop),
            None => Ok(()),
        }
    }

    /// What a key of a class has to be in this token.
    pub(crate) fn template(&self, class: KeyClass, id: KeyId, origin: Origin) -> Template {
        let mut template = class.template(id, origin);
        if let (KeyClass::FpeFf1, Some(Ok(native))) = (class, self.sessions.native_ff1.map(|native| native.number())) {
            for attribute in &mut template.optional {
                if let Attribute::AllowedMechanisms(allowed) = attribute {
                    allowed.push(native);
                }
            }
        }
        template
    }

    /// Refuses an object whose attributes differ from what its class requires.
    pub(crate) fn check_attributes(
        &self,
        handle: ObjectHandle,
        class: KeyClass,
        id: KeyId,
        template: &Template,
        history: &[Attribute],
    ) -> Result<(), HsmError> {
        let wanted = template.required.iter().chain(&template.optional).chain(history).collect::<Vec<_>>();
        let (allowed, wanted): (Vec<_>, Vec<_>) =
            wanted.into_iter().partition(|attribute| class == KeyClass::FpeFf1 && is_list_of_mechanisms(attribute));
        for attribute in allowed {
            let told = self.allowed_mechanisms(handle)?;
            if told.is_some_and(|told| !allows_no_more(&told, attribute)) {
                return Err(HsmError::AttributeMismatch {
                    attribute: attribute.attribute_type().to_string(),
                    class,
                    id,
                });
            }
        }
        let types = wanted.iter().map(|attribute| attribute.attribute_type()).collect::<Vec<_>>();
        let found = self.sessions.with("read a key's attributes", |session| session.get_attributes(handle, &types))?;
        for attribute in wanted {
            let told = found.iter().find(|found| found.attribute_type() == attribute.attribute_type());
            let fits = match told {
                Some(told) => told == attribute,
                None => template.optional.contains(attribute),
            };
            if !fits {
                return Err(HsmError::AttributeMismatch {
                    attribute: attribute.attribute_type().to_string(),
                    class,
                    id,
                });
            }
        }
        for nested in &template.nested {
            let raw = &self.sessions.module.raw;
            let told =
                self.sessions.with("read a key's attributes", |session| raw.nested(session, handle, nested.kind))?;
            // A token that does not know the attribute has said nothing; one that knows it must say the same.
            if told.is_some_and(|told| !nested.agrees(&told)) {
                return Err(HsmError::AttributeMismatch { attribute: nested.name().to_owned(), class, id });
            }
        }
        Ok(())
    }

    /// The mechanisms that a key allows, by number, also a vendor's; nothing where the token does not know the attribute.
    pub(crate) fn allowed_mechanisms(&self, handle: ObjectHandle) -> Result<Option<Vec<CK_MECHANISM_TYPE>>, HsmError> {
        let raw = &self.sessions.module.raw;
        self.sessions.with("read a key's attributes", |session| raw.allowed_mechanisms(session, handle))
    }

    /// Makes a key and its reference; whatever was created does not outlive an error.
    pub(crate) fn generate_as(
        &self,
        class: KeyClass,
        label: &str,
        origin: Origin,
    ) -> Result<(ObjectHandle, KeyRef), HsmError> {
        self.require_mechanism(class)?;
        let id = self.draw_id()?;
        self.generate_with_id(id, class, label, origin)
    }

    fn require_mechanism(&self, class: KeyClass) -> Result<(), HsmError> {
        match class.needs() {
            Some(mechanism) if !self.sessions.has_mechanism(mechanism)? => {
                Err(HsmError::MechanismMissing { class, mechanism: mechanism.to_string() })
            }
            _ => Ok(()),
        }
    }

    /// As [`Keyring::generate_as`], under an identifier that was drawn before. The token has the class's mechanism.
    pub(crate) fn generate_with_id(
        &self,
        id: KeyId,
        class: KeyClass,
        label: &str,
        origin: Origin,
    ) -> Result<(ObjectHandle, KeyRef), HsmError> {
        let generation = class.generation().ok_or(HsmError::NeedsTwoTokens { class })?;
        let key = match generation {
            Generation::Ed25519 | Generation::P256 | Generation::Rsa => self.generate_pair(class, id, label),
            Generation::Secret(mechanism) => self.generate_secret(class, id, label, origin, &mechanism),
        };
        let made = key.and_then(|(handle, public)| {
            let check = self.check_value(class, handle, public.as_ref())?;
            Ok((handle, KeyRef { id, class, check, label: label.to_owned(), origin }))
        });
        if made.is_err() {
            // The first error is the one to report.
            drop(self.destroy_objects(id));
        }
        made
    }

    fn generate_secret(
        &self,
        class: KeyClass,
        id: KeyId,
        label: &str,
        origin: Origin,
        mechanism: &Mechanism<'_>,
    ) -> Result<(ObjectHandle, Option<PublicHalf>), HsmError> {
        let template = self.template(class, id, origin);
        let extra = [KeyClass::length(), Attribute::Label(label.as_bytes().to_vec())];
        let handle = self.sessions.with_anchor("generate a key", |session| {
            with_fallback(&template, &extra, |attributes| session.generate_key(mechanism, attributes))
        })?;
        self.check_attributes(handle, class, id, &template, &class.history(origin))?;
        Ok((handle, None))
    }

    /// Every object, of whatever class, that answers to the identifier.
    pub(crate) fn objects(&self, id: KeyId) -> Result<Vec<ObjectHandle>, HsmError> {
        self.sessions.with("find a key", |session| session.find_objects(&[Attribute::Id(id.as_bytes().to_vec())]))
    }

    pub(crate) fn destroy_objects(&self, id: KeyId) -> Result<(), HsmError> {
        for object in self.objects(id)? {
            self.sessions.with_anchor("destroy a key", |session| session.destroy_object(object))?;
        }
        Ok(())
    }

    pub(crate) fn remember(&self, key: &KeyRef) {
        *self.witness.lock().unwrap_or_else(PoisonError::into_inner) = Some(key.clone());
    }

    /// The key is about to go, so it cannot bear witness to the token's health.
    pub(crate) fn forget(&self, id: KeyId) {
        let mut witness = self.witness.lock().unwrap_or_else(PoisonError::into_inner);
        if witness.as_ref().is_some_and(|witness| witness.id == id) {
            *witness = None;
        }
    }
}

/// Creates an object with the full template; if the token does not know an attribute, with as much of it as it takes.
pub(crate) fn with_fallback<T>(
    template: &Template,
    extra: &[Attribute],
    create: impl Fn(&[Attribute]) -> Result<T, Pkcs11Error>,
) -> Result<T, Pkcs11Error> {
    let mut refusal = Pkcs11Error::InvalidValue;
    for mut attributes in template.attempts() {
        attributes.extend(extra.iter().cloned());
        // SoftHSM refuses every attribute of an unwrapped key that comes after CKA_MODIFIABLE (its issue 707).
        attributes.sort_by_key(|attribute| matches!(attribute, Attribute::Modifiable(_)));
        match create(&attributes) {
            Err(error @ Pkcs11Error::Pkcs11(code, _)) if is_about_attributes(code) => refusal = error,
            result => return result,
        }
    }
    Err(refusal)
}

pub(crate) fn is_list_of_mechanisms(attribute: &Attribute) -> bool {
    matches!(attribute, Attribute::AllowedMechanisms(_))
}

/// Whether a list names some of the wanted mechanisms and no other: a key of before the token's own FF1 was named allows less.
fn allows_no_more(told: &[CK_MECHANISM_TYPE], wanted: &Attribute) -> bool {
    match wanted {
        Attribute::AllowedMechanisms(wanted) => {
            let wanted: Vec<CK_MECHANISM_TYPE> = wanted.iter().map(|mechanism| (*mechanism).into()).collect();
            !told.is_empty() && told.iter().all(|mechanism| wanted.contains(mechanism))
        }
        _ => false,
    }
}

fn is_about_attributes(code: RvError) -> bool {
    matches!(code, RvError::AttributeTypeInvalid | RvError::AttributeValueInvalid | RvError::TemplateInconsistent)
}

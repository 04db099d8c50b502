use std::sync::{Arc, Mutex, PoisonError};

use cryptoki::error::{Error as Pkcs11Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use zeroize::Zeroizing;

use crate::class::{EDWARDS25519, Origin, Template};
use crate::sessions::Sessions;
use crate::{HsmError, Key, KeyClass, KeyId, KeyRef, Module, Pin};

/// The keys of one token, after login. Shared between threads; the PIN is not kept.
///
/// The login ends when the keyring and every [`Key`] from it are gone.
pub struct Keyring {
    pub(crate) sessions: Arc<Sessions>,
    /// A stored key whose check value proves that the token's storage is still there.
    witness: Mutex<Option<KeyRef>>,
}

impl Keyring {
    /// Logs in as the token's user.
    ///
    /// # Errors
    /// [`HsmError::TokenMissing`], [`HsmError::TokenTwin`], [`HsmError::PinIncorrect`], [`HsmError::PinLocked`],
    /// [`HsmError::AlreadyOpen`] when this process is logged in already, or as the module answers.
    pub fn open(module: Arc<Module>, token_label: &str, pin: &Pin) -> Result<Arc<Self>, HsmError> {
        Ok(Arc::new(Self { sessions: Sessions::open(module, token_label, pin)?, witness: Mutex::default() }))
    }

    /// Generates a key in the token, reads every attribute back and destroys the key if one differs.
    ///
    /// # Errors
    /// [`HsmError::AttributeMismatch`] for a token that stores something else, or as the module answers.
    pub fn generate(&self, class: KeyClass, label: &str) -> Result<KeyRef, HsmError> {
        let mut id = [0; 16];
        id.copy_from_slice(&self.random(16)?);
        let id = KeyId::from_random(id);
        let key = match class.generation() {
            Some(mechanism) => self.generate_secret(class, id, label, &mechanism),
            None => self.generate_pair(id, label),
        };
        let reference = key.and_then(|(handle, public)| {
            let check = self.check_value(class, handle, public)?;
            Ok(KeyRef { id, class, check, label: label.to_owned() })
        });
        match &reference {
            Ok(reference) => self.remember(reference),
            // The first error is the one to report; whatever was created must not stay.
            Err(_) => drop(self.destroy_objects(id)),
        }
        reference
    }

    /// Finds a key by its `CKA_ID`, and checks that it is alone, has its class's attributes and its check value.
    ///
    /// # Errors
    /// [`HsmError::KeyMissing`], [`HsmError::KeyTwin`], [`HsmError::AttributeMismatch`], [`HsmError::KeyCheckMismatch`],
    /// or as the module answers.
    pub fn find(&self, key: &KeyRef) -> Result<Key, HsmError> {
        let (id, class) = (key.id, key.class);
        let action = "find a key";
        let objects = self.objects(id)?;
        let (handle, public) = match (class, objects.as_slice()) {
            (_, []) => return Err(HsmError::KeyMissing { class, id }),
            (KeyClass::AuditSigning, &[first, second]) => {
                let of_class = |wanted| {
                    let found =
                        self.sessions.with(action, |session| session.get_attributes(first, &[AttributeType::Class]))?;
                    let ordered = found.contains(&Attribute::Class(wanted));
                    Ok::<_, HsmError>(if ordered { (first, second) } else { (second, first) })
                };
                let (public, private) = of_class(ObjectClass::PUBLIC_KEY)?;
                self.check_attributes(public, class, id, &KeyClass::public_template(id), &[])?;
                (private, Some(self.read_public_key(public)?))
            }
            // Half a pair is no key.
            (KeyClass::AuditSigning, &[_]) => return Err(HsmError::KeyMissing { class, id }),
            (_, &[only]) => (only, None),
            (_, more) => {
                return Err(HsmError::KeyTwin { count: more.len(), id });
            }
        };
        self.check_attributes(
            handle,
            class,
            id,
            &class.template(id, Origin::Generated),
            &class.history(Origin::Generated),
        )?;
        if self.check_value(class, handle, public)? != key.check {
            return Err(HsmError::KeyCheckMismatch { id });
        }
        self.remember(key);
        Ok(Key { handle, public, reference: key.clone(), session_object: false, sessions: Arc::clone(&self.sessions) })
    }

    /// The public half of a signing pair: 32 bytes (RFC 8032 section 5.1.5).
    ///
    /// # Errors
    /// [`HsmError::WrongClass`] for a key without one.
    pub fn public_key(&self, key: &Key) -> Result<[u8; 32], HsmError> {
        let action = "read a public key";
        key.handle_for(&self.sessions, action, &[KeyClass::AuditSigning])?;
        key.public.ok_or(HsmError::WrongClass { action, class: key.class() })
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

    /// Destroys a key in the token, after every operation that could still use it has ended.
    ///
    /// # Errors
    /// As the module answers; [`HsmError::StrangeAnswer`] when the token still shows the key afterwards.
    pub fn destroy(&self, key: Key) -> Result<(), HsmError> {
        key.handle_for(&self.sessions, "destroy a key", &[key.class()])?;
        if key.session_object {
            drop(key);
            return Ok(());
        }
        self.sessions.drain();
        let mut witness = self.witness.lock().unwrap_or_else(PoisonError::into_inner);
        if witness.as_ref().is_some_and(|witness| witness.id == key.id()) {
            *witness = None;
        }
        drop(witness);
        self.destroy_objects(key.id())?;
        if self.objects(key.id())?.is_empty() {
            Ok(())
        } else {
            Err(HsmError::StrangeAnswer { action: "destroy a key" })
        }
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

    /// Refuses an object whose attributes differ from what its class requires.
    pub(crate) fn check_attributes(
        &self,
        handle: ObjectHandle,
        class: KeyClass,
        id: KeyId,
        template: &Template,
        history: &[Attribute],
    ) -> Result<(), HsmError> {
        let wanted = template.full().into_iter().chain(history.iter().cloned()).collect::<Vec<_>>();
        let types = wanted.iter().map(Attribute::attribute_type).collect::<Vec<_>>();
        let found = self.sessions.with("read a key's attributes", |session| session.get_attributes(handle, &types))?;
        for attribute in &wanted {
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
        Ok(())
    }

    fn generate_secret(
        &self,
        class: KeyClass,
        id: KeyId,
        label: &str,
        mechanism: &Mechanism<'_>,
    ) -> Result<(ObjectHandle, Option<[u8; 32]>), HsmError> {
        let template = class.template(id, Origin::Generated);
        let extra = [KeyClass::length(), Attribute::Label(label.as_bytes().to_vec())];
        let handle = self.sessions.with_anchor("generate a key", |session| {
            with_fallback(&template, &extra, |attributes| session.generate_key(mechanism, attributes))
        })?;
        self.check_attributes(handle, class, id, &template, &class.history(Origin::Generated))?;
        Ok((handle, None))
    }

    fn generate_pair(&self, id: KeyId, label: &str) -> Result<(ObjectHandle, Option<[u8; 32]>), HsmError> {
        let class = KeyClass::AuditSigning;
        let public_template = KeyClass::public_template(id);
        let template = class.template(id, Origin::Generated);
        let label = Attribute::Label(label.as_bytes().to_vec());
        let generate = |session: &Session, curve: &[u8]| {
            let extra = [Attribute::EcParams(curve.to_vec()), label.clone()];
            with_fallback(&public_template, &extra, |public| {
                with_fallback(&template, std::slice::from_ref(&label), |private| {
                    session.generate_key_pair(&Mechanism::EccEdwardsKeyPairGen, public, private)
                })
            })
        };
        let [oid, name] = EDWARDS25519;
        let (public, private) = self.sessions.with_anchor("generate a signing key pair", |session| {
            generate(session, oid).or_else(|_| generate(session, name))
        })?;
        self.check_attributes(private, class, id, &template, &class.history(Origin::Generated))?;
        self.check_attributes(public, class, id, &public_template, &[])?;
        Ok((private, Some(self.read_public_key(public)?)))
    }

    /// `CKA_EC_POINT`: raw, or as the DER OCTET STRING of PKCS#11 2.40.
    fn read_public_key(&self, public: ObjectHandle) -> Result<[u8; 32], HsmError> {
        let action = "read a public key";
        let found = self.sessions.with(action, |session| session.get_attributes(public, &[AttributeType::EcPoint]))?;
        let point = match found.as_slice() {
            [Attribute::EcPoint(point)] => point.strip_prefix(&[0x04, 0x20]).unwrap_or(point),
            _ => return Err(HsmError::StrangeAnswer { action }),
        };
        point.try_into().map_err(|_| HsmError::StrangeAnswer { action })
    }

    /// Every object, of whatever class, that answers to the identifier.
    fn objects(&self, id: KeyId) -> Result<Vec<ObjectHandle>, HsmError> {
        self.sessions.with("find a key", |session| session.find_objects(&[Attribute::Id(id.as_bytes().to_vec())]))
    }

    fn destroy_objects(&self, id: KeyId) -> Result<(), HsmError> {
        for object in self.objects(id)? {
            self.sessions.with_anchor("destroy a key", |session| session.destroy_object(object))?;
        }
        Ok(())
    }

    fn remember(&self, key: &KeyRef) {
        *self.witness.lock().unwrap_or_else(PoisonError::into_inner) = Some(key.clone());
    }
}

/// Creates an object with the full template; if the token does not know an attribute, without the optional ones.
pub(crate) fn with_fallback<T>(
    template: &Template,
    extra: &[Attribute],
    create: impl Fn(&[Attribute]) -> Result<T, Pkcs11Error>,
) -> Result<T, Pkcs11Error> {
    let with_extra = |attributes: &[Attribute]| {
        let mut all = [attributes, extra].concat();
        // SoftHSM refuses every attribute of an unwrapped key that comes after CKA_MODIFIABLE (its issue 707).
        all.sort_by_key(|attribute| matches!(attribute, Attribute::Modifiable(_)));
        all
    };
    match create(&with_extra(&template.full())) {
        Err(Pkcs11Error::Pkcs11(
            RvError::AttributeTypeInvalid | RvError::AttributeValueInvalid | RvError::TemplateInconsistent,
            _,
        )) => create(&with_extra(&template.required)),
        result => result,
    }
}

use std::path::Path;
use std::sync::Arc;

use casemate_hsm::{Key, KeyClass, KeyId, Keyring, Module, Pin};
use cryptoki::context::Pkcs11;
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

pub const LABEL: &str = "casemate test";
pub const PIN: &str = "a user pin for tests";
pub const SO_PIN: &str = "a security officer pin";

pub const CLASSES: [KeyClass; 7] = [
    KeyClass::AtRest,
    KeyClass::AuditSigning,
    KeyClass::Compartment,
    KeyClass::FpeFf1,
    KeyClass::KekWrapping,
    KeyClass::Token,
    KeyClass::UserKek,
];

/// One token, logged in, and an attacker's direct access to it from inside the process.
pub struct Fixture {
    pub module: Arc<Module>,
    pub ring: Arc<Keyring>,
    direct: Pkcs11,
}

impl Fixture {
    pub fn new(path: &Path) -> Self {
        let module = Module::load(path).unwrap();
        let info = module.initialise(LABEL, &pin(SO_PIN), &pin(PIN)).unwrap();
        assert!(info.initialised && info.user_pin_set && info.label == LABEL, "{info:?}");
        let ring = Keyring::open(Arc::clone(&module), LABEL, &pin(PIN)).unwrap();
        Self { module, ring, direct: Pkcs11::new(path).unwrap() }
    }

    /// A fresh key of a class.
    pub fn key(&self, class: KeyClass) -> Key {
        let reference = self.ring.generate(class, "test").unwrap();
        self.ring.find(&reference).unwrap()
    }

    /// A session around this crate. The login is the process's, so it holds here too.
    pub fn session(&self, label: &str) -> Session {
        let slots = self.direct.get_slots_with_initialized_token().unwrap();
        let slot =
            slots.into_iter().find(|slot| self.direct.get_token_info(*slot).unwrap().label().trim_end() == label);
        self.direct.open_rw_session(slot.unwrap()).unwrap()
    }

    /// The objects that answer to an identifier.
    pub fn objects(&self, id: KeyId) -> Vec<ObjectHandle> {
        self.session(LABEL).find_objects(&by_id(id)).unwrap()
    }
}

pub fn by_id(id: KeyId) -> [Attribute; 1] {
    [Attribute::Id(id.as_bytes().to_vec())]
}

pub fn pin(text: &str) -> Pin {
    Pin::new(text.to_owned()).unwrap()
}

/// An FF1 key's template as this crate writes it, for attacks that differ in one place.
pub fn ff1_template(id: KeyId) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Id(id.as_bytes().to_vec()),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Modifiable(false),
        Attribute::Encrypt(true),
        Attribute::Decrypt(false),
        Attribute::Sign(false),
        Attribute::Verify(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
        Attribute::Copyable(false),
        Attribute::AllowedMechanisms(vec![cryptoki::mechanism::MechanismType::AES_ECB]),
    ]
}

use std::path::Path;
use std::sync::{Arc, OnceLock};

use casemate_hsm::{Key, KeyClass, KeyId, KeyRef, Keyring, Module, Pin};
use cryptoki::context::Pkcs11;
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

pub const LABEL: &str = "casemate test";
pub const PIN: &str = "a user pin for tests";
pub const SO_PIN: &str = "a security officer pin";

/// One token, logged in, and an attacker's direct access to it from inside the process.
pub struct Fixture {
    pub module: Arc<Module>,
    pub ring: Arc<Keyring>,
    direct: Pkcs11,
    transport: OnceLock<KeyRef>,
}

impl Fixture {
    pub fn new(path: &Path) -> Self {
        let module = Module::load(path).unwrap();
        let info = module.initialise(LABEL, &pin(SO_PIN), &pin(PIN)).unwrap();
        assert!(info.initialised && info.user_pin_set && info.label == LABEL, "{info:?}");
        let ring = Keyring::open(Arc::clone(&module), LABEL, &pin(PIN)).unwrap();
        Self { module, ring, direct: Pkcs11::new(path).unwrap(), transport: OnceLock::new() }
    }

    /// The classes this token can hold.
    pub fn classes(&self) -> Vec<KeyClass> {
        KeyClass::ALL.iter().copied().filter(|class| self.ring.supports(*class).unwrap()).collect()
    }

    /// A fresh key of a class.
    pub fn key(&self, class: KeyClass) -> Key {
        self.ring.find(&self.reference(class)).unwrap()
    }

    /// The reference of a fresh key of a class, made in the way its class is made.
    pub fn reference(&self, class: KeyClass) -> KeyRef {
        if !matches!(class, KeyClass::SyncKekDestination | KeyClass::SyncKekSource) {
            return self.ring.generate(class, "test").unwrap();
        }
        let transport = self.transport();
        let address = self.ring.transport_key(&transport).unwrap();
        let birth = self.ring.birth(KeyClass::SyncKekSource, "test").unwrap();
        let package = if class == KeyClass::SyncKekSource {
            self.ring.wrap_for(&birth, &address).unwrap()
        } else {
            self.ring.wrap_destination_half(&birth, &address).unwrap()
        };
        drop(birth);
        self.ring.admit(&transport, &package).unwrap()
    }

    /// One transport pair for all checks: an RSA key takes its time.
    pub fn transport(&self) -> Key {
        let reference = self.transport.get_or_init(|| self.ring.generate(KeyClass::Transport, "transport").unwrap());
        self.ring.find(reference).unwrap()
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

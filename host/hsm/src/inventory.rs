//! What a ceremony asks of a token: everything that is in it, keys under identifiers that were noted before, and attributes
//! as the token tells them.

use cryptoki::mechanism::MechanismType;
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki_sys::CK_MECHANISM_TYPE;

use crate::class::Template;
use crate::keyring::is_list_of_mechanisms;
use crate::{HsmError, Key, KeyClass, KeyId, KeyRef, Keyring, Origin};

const LIST: &str = "list a token's objects";

/// An object of a token, as the token describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// `CKA_CLASS`.
    pub class: String,
    /// `CKA_LABEL`; empty where it has none.
    pub label: String,
    /// `CKA_ID` in hexadecimal; empty where it has none.
    pub id: String,
    /// Whether the token describes itself with it (hardware features, mechanisms, profiles, validations): nobody put it there.
    pub built_in: bool,
}

impl Keyring {
    /// Every object that this login sees: keys, certificates, data and whatever else.
    ///
    /// # Errors
    /// As the module answers.
    pub fn inventory(&self) -> Result<Vec<Listed>, HsmError> {
        const BUILT_IN: [ObjectClass; 4] =
            [ObjectClass::HARDWARE_FEATURE, ObjectClass::MECHANISM, ObjectClass::PROFILE, ObjectClass::VALIDATION];
        let wanted = [AttributeType::Class, AttributeType::Label, AttributeType::Id];
        self.sessions.with(LIST, |session| {
            let mut listed = Vec::new();
            for object in session.find_objects(&[])? {
                // An object that does not say what it is counts as one that somebody put there.
                let unknown = "unknown".to_owned();
                let mut one = Listed { class: unknown, label: String::new(), id: String::new(), built_in: false };
                for attribute in session.get_attributes(object, &wanted)? {
                    match attribute {
                        Attribute::Class(class) => {
                            one.class = class.to_string();
                            one.built_in = BUILT_IN.contains(&class);
                        }
                        Attribute::Label(label) => one.label = String::from_utf8_lossy(&label).into_owned(),
                        Attribute::Id(id) => one.id = hex::encode(id),
                        _ => {}
                    }
                }
                listed.push(one);
            }
            Ok(listed)
        })
    }

    /// Draws an identifier for a key that is generated later: whoever notes it first finds the key after a crash.
    ///
    /// # Errors
    /// As the module answers.
    pub fn reserve_id(&self) -> Result<KeyId, HsmError> {
        self.draw_id()
    }

    /// As [`Keyring::generate`], under a reserved identifier.
    ///
    /// # Errors
    /// As [`Keyring::generate`]; [`HsmError::KeyTwin`] when an object has the identifier already.
    pub fn generate_reserved(&self, id: KeyId, class: KeyClass, label: &str) -> Result<KeyRef, HsmError> {
        if matches!(class, KeyClass::SyncKekDestination | KeyClass::SyncKekSource) {
            return Err(HsmError::NeedsTwoTokens { class });
        }
        if !self.supports(class)? {
            let mechanism = class.needs().map_or_else(String::new, |mechanism| mechanism.to_string());
            return Err(HsmError::MechanismMissing { class, mechanism });
        }
        match self.objects(id)?.len() {
            0 => {}
            count => return Err(HsmError::KeyTwin { count, id }),
        }
        let (_, reference) = self.generate_with_id(id, class, label, Origin::Generated)?;
        self.remember(&reference);
        Ok(reference)
    }

    /// Destroys what a generation under this reserved identifier left when it was cut off; tells how many objects there were.
    ///
    /// # Errors
    /// As the module answers.
    pub fn discard_reserved(&self, id: KeyId) -> Result<usize, HsmError> {
        let count = self.objects(id)?.len();
        self.forget(id);
        self.destroy_objects(id)?;
        Ok(count)
    }

    /// The attributes of a key as the token tells them now, `NAME = value` each: names, flags and numbers, no key material.
    /// Those of a pair's public half begin with `public `.
    ///
    /// # Errors
    /// [`HsmError::ForeignKey`], or as the module answers.
    pub fn read_back(&self, key: &Key) -> Result<Vec<String>, HsmError> {
        let (class, id) = (key.class(), key.id());
        let handle = key.handle_for(&self.sessions, "read a key's attributes", &[class])?;
        let origin = key.reference().origin;
        let mut told = self.told(handle, &self.template(class, id, origin), &class.history(origin))?;
        if key.public.is_some() {
            for object in self.objects(id)?.into_iter().filter(|object| *object != handle) {
                let public = self.told(object, &class.public_template(id), &[])?;
                told.extend(public.into_iter().map(|line| format!("public {line}")));
            }
        }
        Ok(told)
    }

    fn told(&self, handle: ObjectHandle, template: &Template, history: &[Attribute]) -> Result<Vec<String>, HsmError> {
        let wanted = template.required.iter().chain(&template.optional).chain(history);
        let types: Vec<_> =
            wanted.filter(|wanted| !is_list_of_mechanisms(wanted)).map(Attribute::attribute_type).collect();
        let found = self.sessions.with("read a key's attributes", |session| session.get_attributes(handle, &types))?;
        let mut told: Vec<_> =
            found.iter().filter_map(|one| Some(format!("{} = {}", one.attribute_type(), value(one)?))).collect();
        if let Some(allowed) = self.allowed_mechanisms(handle)?.filter(|allowed| !allowed.is_empty()) {
            let name = |number: &CK_MECHANISM_TYPE| match MechanismType::try_from(*number) {
                Ok(known) => known.to_string(),
                Err(_) => format!("{number:#x}"),
            };
            let names = allowed.iter().map(name).collect::<Vec<_>>().join(" ");
            told.push(format!("{} = {names}", AttributeType::AllowedMechanisms));
        }
        Ok(told)
    }
}

/// The value of an attribute that is no key material.
fn value(attribute: &Attribute) -> Option<String> {
    Some(match attribute {
        Attribute::Class(class) => class.to_string(),
        Attribute::Id(id) => hex::encode(id),
        Attribute::KeyType(kind) => kind.to_string(),
        Attribute::ValueLen(length) => length.to_string(),
        Attribute::AlwaysSensitive(flag)
        | Attribute::Copyable(flag)
        | Attribute::Decrypt(flag)
        | Attribute::Derive(flag)
        | Attribute::Encrypt(flag)
        | Attribute::Extractable(flag)
        | Attribute::Local(flag)
        | Attribute::Modifiable(flag)
        | Attribute::NeverExtractable(flag)
        | Attribute::Private(flag)
        | Attribute::Sensitive(flag)
        | Attribute::Sign(flag)
        | Attribute::SignRecover(flag)
        | Attribute::Token(flag)
        | Attribute::Unwrap(flag)
        | Attribute::Verify(flag)
        | Attribute::VerifyRecover(flag)
        | Attribute::Wrap(flag) => flag.to_string(),
        _ => return None,
    })
}

//! Keys by their label: never for use, only to find what a process that was killed left behind.

use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};

use crate::{HsmError, KeyClass, KeyId, KeyRef, Keyring, Origin};

const ACTION: &str = "find keys by their label";

impl Keyring {
    /// Secret keys of a class in the token that have this label, with their check values.
    ///
    /// # Errors
    /// [`HsmError::AttributeMismatch`] for one that has the label and not the class's attributes; as the module answers.
    pub fn labelled(&self, class: KeyClass, label: &str) -> Result<Vec<KeyRef>, HsmError> {
        self.objects_labelled(ObjectClass::SECRET_KEY, label)?
            .into_iter()
            .map(|handle| {
                let read =
                    self.sessions.with(ACTION, |session| session.get_attributes(handle, &[AttributeType::Id]))?;
                let [Attribute::Id(id)] = read.as_slice() else {
                    return Err(HsmError::StrangeAnswer { action: ACTION });
                };
                let id = id.as_slice().try_into().map_err(|_| HsmError::StrangeAnswer { action: ACTION })?;
                let id = KeyId::from_random(id);
                let fits = |origin| {
                    self.check_attributes(handle, class, id, &self.template(class, id, origin), &class.history(origin))
                };
                let origin = match fits(Origin::Generated) {
                    Ok(()) => Origin::Generated,
                    Err(error) => fits(Origin::Replicated).map(|()| Origin::Replicated).map_err(|_| error)?,
                };
                let check = self.check_value(class, handle, None)?;
                Ok(KeyRef { id, class, check, label: label.to_owned(), origin })
            })
            .collect()
    }

    /// Destroys every key with this label, without proofs: for keys that protect nothing.
    pub(crate) fn destroy_labelled(&self, label: &str) -> Result<(), HsmError> {
        for class in [ObjectClass::SECRET_KEY, ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
            for handle in self.objects_labelled(class, label)? {
                self.sessions.with_anchor("destroy a key", |session| session.destroy_object(handle))?;
            }
        }
        Ok(())
    }

    fn objects_labelled(&self, class: ObjectClass, label: &str) -> Result<Vec<ObjectHandle>, HsmError> {
        let wanted = [Attribute::Class(class), Attribute::Token(true), Attribute::Label(label.as_bytes().to_vec())];
        self.sessions.with(ACTION, |session| session.find_objects(&wanted))
    }
}

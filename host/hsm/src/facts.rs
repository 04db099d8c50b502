//! What a token and its library say about themselves without a login: the facts of a FIPS verdict.

use cryptoki::context::Function;
use cryptoki::error::{Error as Pkcs11Error, RvError};
use cryptoki::object::{Attribute, AttributeType, ObjectClass};
use cryptoki::session::{Session, ValidationFlagsType};
use serde::Serialize;

use crate::{HsmError, Module};

/// Statements of a token, its slot and its library. None of them is proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ModuleFacts {
    /// `CK_TOKEN_INFO.manufacturerID`.
    pub manufacturer: String,
    /// `CK_TOKEN_INFO.model`.
    pub model: String,
    /// `CK_TOKEN_INFO.serialNumber`.
    pub serial: String,
    /// `CK_TOKEN_INFO.hardwareVersion`, `major.minor`.
    pub hardware: String,
    /// `CK_TOKEN_INFO.firmwareVersion`, `major.minor`.
    pub firmware: String,
    /// `CK_INFO.manufacturerID` and `libraryDescription`.
    pub library: String,
    /// The library's file name.
    pub file: String,
    /// `CKF_HW_SLOT`.
    pub hardware_slot: bool,
    /// `CKS_LAST_VALIDATION_OK` after a random number (PKCS#11 3.2); nothing where the interface is older. An error is a no.
    pub approved: Option<bool>,
    /// `CKO_VALIDATION` objects (PKCS#11 3.2).
    pub claims: Vec<ValidationClaim>,
}

/// A validation that a token claims for itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ValidationClaim {
    /// `CKA_VALIDATION_CERTIFICATE_IDENTIFIER`.
    pub certificate: String,
    /// `CKA_VALIDATION_LEVEL`.
    pub level: u64,
}

impl Module {
    /// Asks the one initialised token of this label, its slot and the library.
    ///
    /// # Errors
    /// [`HsmError::TokenMissing`], [`HsmError::TokenTwin`], or as the module answers.
    pub fn facts(&self, label: &str) -> Result<ModuleFacts, HsmError> {
        let fail = |source| HsmError::from_pkcs11("ask a token about itself", source);
        let (slot, _) = self.slot(label)?;
        let token = self.context.get_token_info(slot).map_err(fail)?;
        let library = self.context.get_library_info().map_err(fail)?;
        let (hardware, firmware) = (token.hardware_version(), token.firmware_version());
        let session = self.context.open_ro_session(slot).map_err(fail)?;
        // Some modules answer that the function is there and then that it is not supported: they cannot say.
        let approved = if self.context.is_fn_supported(Function::GetSessionValidationFlags) {
            let flags = session
                .generate_random_slice(&mut [0; 1])
                .and_then(|()| session.get_validation_flags(ValidationFlagsType::VALIDATION_OK));
            approved(&flags)
        } else {
            None
        };
        Ok(ModuleFacts {
            manufacturer: token.manufacturer_id().trim_end().to_owned(),
            model: token.model().trim_end().to_owned(),
            serial: token.serial_number().trim_end().to_owned(),
            hardware: format!("{}.{}", hardware.major(), hardware.minor()),
            firmware: format!("{}.{}", firmware.major(), firmware.minor()),
            library: format!("{} {}", library.manufacturer_id().trim_end(), library.library_description().trim_end()),
            file: self.path().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            hardware_slot: self.context.get_slot_info(slot).map_err(fail)?.hardware_slot(),
            approved,
            claims: claims(&session),
        })
    }
}

/// What an answer about the approved mode means. Only a token that does not know the question has said nothing.
fn approved<T: Copy + Into<u64>>(flags: &Result<T, Pkcs11Error>) -> Option<bool> {
    match flags {
        Ok(flags) => Some((*flags).into() != 0),
        Err(Pkcs11Error::NullFunctionPointer | Pkcs11Error::Pkcs11(RvError::FunctionNotSupported, _)) => None,
        Err(_) => Some(false),
    }
}

/// Older modules do not know the class and refuse the search, which says as much as finding nothing.
fn claims(session: &Session) -> Vec<ValidationClaim> {
    let wanted = [AttributeType::ValidationCertificateIdentifier, AttributeType::ValidationLevel];
    let objects = session.find_objects(&[Attribute::Class(ObjectClass::VALIDATION)]).unwrap_or_default();
    objects
        .into_iter()
        .map(|object| {
            let mut claim = ValidationClaim { certificate: String::new(), level: 0 };
            for attribute in session.get_attributes(object, &wanted).unwrap_or_default() {
                match attribute {
                    Attribute::ValidationCertificateIdentifier(bytes) => {
                        claim.certificate = String::from_utf8_lossy(&bytes).into_owned();
                    }
                    Attribute::ValidationLevel(level) => claim.level = *level,
                    _ => {}
                }
            }
            claim
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_about_the_approved_mode_is_a_no() {
        let refused = |code| approved::<u64>(&Err(Pkcs11Error::Pkcs11(code, Function::GetSessionValidationFlags)));
        for code in
            [RvError::GeneralError, RvError::DeviceError, RvError::FunctionFailed, RvError::SessionHandleInvalid]
        {
            assert_eq!(refused(code), Some(false), "{code:?}");
        }
        assert_eq!(refused(RvError::FunctionNotSupported), None);
        assert_eq!(approved::<u64>(&Ok(0)), Some(false));
        assert_eq!(approved::<u64>(&Ok(1)), Some(true));
    }
}

use cryptoki::types::AuthPin;
use zeroize::Zeroizing;

use crate::HsmError;

/// A token PIN. Memory is wiped on drop; it is neither printed nor serialised nor cloned.
pub struct Pin(Zeroizing<String>);

impl Pin {
    /// A PIN from text, such as the content of a PIN file: one trailing line end is taken away.
    ///
    /// # Errors
    /// [`HsmError::PinInvalid`] for an empty PIN or one with a line break inside.
    pub fn new(text: impl Into<Zeroizing<String>>) -> Result<Self, HsmError> {
        let mut text = text.into();
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        if text.is_empty() || text.contains(['\n', '\r', '\0']) {
            return Err(HsmError::PinInvalid);
        }
        Ok(Self(text))
    }

    /// A random PIN: 32 bytes as 64 hexadecimal digits. Software tokens do not lock, so a short PIN can be guessed.
    ///
    /// # Errors
    /// [`HsmError::Random`] when the random source fails.
    pub fn random() -> Result<Self, HsmError> {
        let mut bytes = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(&mut bytes[..]).map_err(|_| HsmError::Random)?;
        Ok(Self(Zeroizing::new(hex::encode(&bytes[..]))))
    }

    /// The PIN in clear, for the one place that stores or shares it.
    pub fn expose_secret(&self) -> &str {
        &self.0
    }

    /// The form `cryptoki` takes; it wipes its copy.
    pub(crate) fn to_auth(&self) -> AuthPin {
        AuthPin::from(self.0.as_str().to_owned())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_pin_file_ends_with_a_newline() {
        let pin = |text: &str| Pin::new(text.to_owned());
        assert_eq!(pin("1234\n").unwrap().expose_secret(), "1234");
        assert_eq!(pin("1234\r\n").unwrap().expose_secret(), "1234");
        for bad in ["", "\n", "12\n34", "12\0"] {
            assert!(matches!(pin(bad), Err(HsmError::PinInvalid)), "{bad:?}");
        }
    }

    #[test]
    fn random_pins_differ() {
        let (a, b) = (Pin::random().unwrap(), Pin::random().unwrap());
        assert_eq!(a.expose_secret().len(), 64);
        assert_ne!(a.expose_secret(), b.expose_secret());
    }
}

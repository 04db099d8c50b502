use crate::{Setting, SettingValue};

/// The site's settings for this component. The host has checked names and types against `describe`; a getter answers
/// `None` for a setting that is absent, or that `describe` declares with another type.
#[derive(Default)]
pub struct Settings(Vec<Setting>);

impl Settings {
    /// Settings as the host hands them over.
    pub fn new(settings: Vec<Setting>) -> Self {
        Self(settings)
    }

    /// A boolean.
    pub fn boolean(&self, name: &str) -> Option<bool> {
        match self.value(name)? {
            SettingValue::Boolean(value) => Some(*value),
            _ => None,
        }
    }

    /// A whole number.
    pub fn integer(&self, name: &str) -> Option<i64> {
        match self.value(name)? {
            SettingValue::Integer(value) => Some(*value),
            _ => None,
        }
    }

    /// A text.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.value(name)? {
            SettingValue::Text(value) => Some(value),
            _ => None,
        }
    }

    /// A list of texts.
    pub fn texts(&self, name: &str) -> Option<&[String]> {
        match self.value(name)? {
            SettingValue::Texts(value) => Some(value),
            _ => None,
        }
    }

    fn value(&self, name: &str) -> Option<&SettingValue> {
        self.0.iter().find(|setting| setting.name == name).map(|setting| &setting.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_of_another_type_is_not_converted() {
        let settings = Settings::new(vec![
            Setting { name: "on".to_owned(), value: SettingValue::Boolean(true) },
            Setting { name: "n".to_owned(), value: SettingValue::Integer(-4) },
            Setting { name: "t".to_owned(), value: SettingValue::Text("x".to_owned()) },
            Setting { name: "l".to_owned(), value: SettingValue::Texts(vec!["y".to_owned()]) },
        ]);
        assert_eq!((settings.boolean("on"), settings.integer("n")), (Some(true), Some(-4)));
        assert_eq!((settings.text("t"), settings.texts("l").map(<[_]>::len)), (Some("x"), Some(1)));
        assert_eq!((settings.boolean("n"), settings.integer("t"), settings.text("l")), (None, None, None));
        assert!(settings.texts("absent").is_none());
    }
}

//! Conditions on metadata: what a filter asks for.

use std::collections::{BTreeMap, BTreeSet};

use casemate_engine::wit;
use casemate_types::CompartmentName;

use crate::config::SiteConfig;
use crate::schema::FieldRule;

/// One condition on a field. A filter holds several, and all must hold.
///
/// In the contract it is a `field`: its name says how its value is compared (`wit/types.wit`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) field: String,
    pub(crate) test: Test,
}

/// How the value is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Test {
    AtLeast(String),
    AtMost(String),
    OneOf(BTreeSet<String>),
}

/// What may stand behind a field's name; without one, values must be equal.
pub(crate) const OPERATORS: [&str; 3] = [">=", "<=", " in"];

/// Reads `FIELD=VALUE`, `FIELD in A,B`, `FIELD>=VALUE` or `FIELD<=VALUE`, as people write it. In a set a comma of a value is written
/// `\,` and a backslash `\\`.
///
/// # Errors
/// What is wanted.
pub fn condition(text: &str) -> Result<wit::Field, String> {
    let wanted =
        || format!("`{text}` is no condition; write FIELD=VALUE, `FIELD in A,B`, FIELD>=VALUE or FIELD<=VALUE");
    let found = [" in ", ">=", "<=", "="].iter().filter_map(|operator| Some((text.find(operator)?, *operator)));
    let (at, operator) = found.min_by_key(|(at, operator)| (*at, operator.len() == 1)).ok_or_else(wanted)?;
    let (name, value) = (text.get(..at).unwrap_or_default(), text.get(at + operator.len()..).unwrap_or_default());
    // Blanks around a comparison are for the eye; those of an equality may be the value's.
    let (name, value) = if operator == "=" { (name, value) } else { (name.trim(), value.trim()) };
    if name.is_empty() || name.trim_end().ends_with(['<', '>', '!']) {
        return Err(wanted());
    }
    let name = if operator == "=" { name.to_owned() } else { format!("{name}{}", operator.trim_end()) };
    Ok(wit::Field { name, value: value.to_owned() })
}

impl Condition {
    /// The condition that a field of the contract stands for.
    pub(crate) fn of(field: &wit::Field) -> Self {
        let (name, operator) = OPERATORS
            .iter()
            .find_map(|operator| Some((field.name.strip_suffix(operator)?, *operator)))
            .unwrap_or((&field.name, ""));
        let test = match operator {
            ">=" => Test::AtLeast(field.value.clone()),
            "<=" => Test::AtMost(field.value.clone()),
            " in" => Test::OneOf(members(&field.value)),
            _ => Test::OneOf([field.value.clone()].into()),
        };
        Self { field: name.trim_end().to_owned(), test }
    }

    /// Whether a collection can be asked this.
    pub(crate) fn check(&self, config: &SiteConfig, collection: &CompartmentName) -> Result<(), String> {
        let field = &self.field;
        let rule = config.field(collection, field);
        if rule.is_none() && !config.takes_unlisted(collection) {
            return Err(format!("`{collection}` has no field `{field}`"));
        }
        let check = |value: &str| match rule {
            Some(rule) => rule.check(value).map_err(|wanted| format!("field `{field}`: {wanted}")),
            None => Ok(()),
        };
        match &self.test {
            Test::OneOf(values) => values.iter().try_for_each(|value| check(value)),
            Test::AtLeast(value) | Test::AtMost(value) if rule.is_some_and(FieldRule::is_ordered) => check(value),
            Test::AtLeast(_) | Test::AtMost(_) => Err(format!(
                "field `{field}`: >= and <= are for fields of type integer or date, which `{collection}` does not say it is"
            )),
        }
    }

    /// Whether a passage's metadata meet it.
    pub(crate) fn holds(&self, rule: Option<&FieldRule>, metadata: &BTreeMap<String, String>) -> bool {
        let Some(held) = metadata.get(&self.field) else { return false };
        let number = |value: &String| rule.and_then(|rule| rule.number(value));
        let compared = |value: &String, fits: fn(&i64, &i64) -> bool| {
            number(held).zip(number(value)).is_some_and(|(held, value)| fits(&held, &value))
        };
        match &self.test {
            Test::AtLeast(value) => compared(value, i64::ge),
            Test::AtMost(value) => compared(value, i64::le),
            Test::OneOf(values) => values.contains(held),
        }
    }
}

/// The members of a set, as [`condition`] has them.
fn members(text: &str) -> BTreeSet<String> {
    let (mut members, mut member, mut escaped) = (BTreeSet::new(), String::new(), false);
    for letter in text.chars() {
        match letter {
            _ if escaped => {
                member.push(letter);
                escaped = false;
            }
            '\\' => escaped = true,
            ',' => drop(members.insert(std::mem::take(&mut member).trim().to_owned())),
            _ => member.push(letter),
        }
    }
    members.insert(member.trim().to_owned());
    members
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn field(name: &str, value: &str) -> wit::Field {
        wit::Field { name: name.to_owned(), value: value.to_owned() }
    }

    #[test]
    fn conditions_are_read_as_people_write_them() {
        for (text, name, value) in [
            ("licence=MIT", "licence", "MIT"),
            ("licence=", "licence", ""),
            ("title=what is in a name >= 3", "title", "what is in a name >= 3"),
            ("year>=2020", "year>=", "2020"),
            ("year <= 2020", "year<=", "2020"),
            ("licence in MIT,Apache-2.0", "licence in", "MIT,Apache-2.0"),
        ] {
            assert_eq!(condition(text).unwrap(), field(name, value), "{text}");
        }
        for text in ["", "licence", "=MIT", ">=5", "year>2020", "year<2020", "year!=2020", " in a"] {
            assert!(condition(text).is_err() || text == "year>2020", "{text}");
        }
        assert!(condition("year>2020").is_err() && condition("year > = 2020").is_err());
    }

    #[test]
    fn a_comma_of_a_value_is_escaped() {
        let of = |value: &str| Condition::of(&field("f in", value)).test;
        let set = |values: &[&str]| Test::OneOf(values.iter().map(|value| (*value).to_owned()).collect());
        assert_eq!(of("a, b ,a"), set(&["a", "b"]));
        assert_eq!(of(r"a\,b,c\\"), set(&["a,b", r"c\"]));
        assert_eq!(of(""), set(&[""]));
        assert_eq!(Condition::of(&field("f", "a,b")).test, set(&["a,b"]));
    }
}

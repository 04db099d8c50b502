//! Schemas of collections: what a metadata field holds, and in which form the store gets it. Sections `[fields]` and
//! `[collections.NAME]` of `site.toml`.
//!
//! ```toml
//! [fields]                                                          # of every collection
//! crate = "fpe"                                                     # any text
//! [collections.engineering.fields]                                  # of one, which then takes no others
//! year = { type = "integer", minimum = 1900, maximum = 2100 }       # 201 values: a keyed token
//! account = { type = "integer", minimum = 0, maximum = 99999999 }   # FF1 over eight digits
//! due = { type = "date" }                                           # no bounds: sealed
//! state = { type = "enumeration", values = ["draft", "final"] }     # a keyed token
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroU16;

use casemate_hsm::{Alphabet, HsmError};
use casemate_types::{CompartmentName, Digest};
use jiff::civil::Date;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::SiteConfig;

/// How one collection is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CollectionConfig {
    /// Its own fields, before those of `[fields]`. With any, a document with a field that neither lists is refused.
    #[serde(default)]
    pub fields: BTreeMap<String, FieldRule>,
    /// Passages are found by words too: the store keeps a keyed token for each word of a passage.
    #[serde(default)]
    pub keywords: bool,
    /// Most passages of a cluster; close passages share a group then, and the strategy `clustered` has only some groups scored.
    #[serde(default)]
    pub cluster_size: Option<NonZeroU16>,
}

/// What a field holds, and how the store gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldRule {
    holds: FieldType,
    kind: FieldKind,
}

/// The type of a field's values.
#[derive(Debug, Clone, PartialEq, Eq)]
enum FieldType {
    /// Any text.
    Text,
    /// Whole numbers, bounds included, in decimal without a plus or leading zeros.
    Integer { minimum: i64, maximum: i64 },
    /// Days as `YYYY-MM-DD`, counted from 1970-01-01, bounds included.
    Date { minimum: i64, maximum: i64 },
    /// One of these.
    Enumeration(BTreeSet<String>),
}

/// In which form the store gets a metadata field: `fpe`, `fpe:` and an alphabet, `token`, or `sealed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldKind {
    /// Format-preserving (FF1) over the printable ASCII characters where the value has at least a million alternatives, otherwise
    /// a keyed token. Numbers and dates: over decimal digits.
    Fpe,
    /// The same over an alphabet of the field's own, so that a card number stays digits.
    FpeOver(Box<Alphabet>),
    /// Not at all: the value lies in the sealed passage alone, and the gate filters by a sealed column.
    Sealed,
    /// A keyed token (HMAC): for small domains such as labels, years, licences.
    Token,
}

/// A value as a sealed column holds it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Cell {
    /// An integer, or a date's day.
    Number(i64),
    /// 128 bits of SHA-256 of a text, hexadecimal.
    Text(String),
}

/// FF1 needs so many values (SP 800-38G Rev. 1, 5.2).
const SMALLEST_FPE_DOMAIN: i128 = 1_000_000;

impl FieldRule {
    /// Any text, in this form.
    pub fn text(kind: FieldKind) -> Self {
        Self { holds: FieldType::Text, kind }
    }

    /// In which form the store gets it.
    pub fn kind(&self) -> &FieldKind {
        &self.kind
    }

    /// Whether a value is of the field's type; otherwise what is wanted, without the value.
    pub fn check(&self, value: &str) -> Result<(), String> {
        match &self.holds {
            FieldType::Text => Ok(()),
            FieldType::Integer { .. } | FieldType::Date { .. } if self.number(value).is_some() => Ok(()),
            FieldType::Enumeration(values) if values.contains(value) => Ok(()),
            FieldType::Integer { minimum: i64::MIN, maximum: i64::MAX } => Err("a whole number is wanted".to_owned()),
            FieldType::Integer { minimum, maximum } => {
                Err(format!("a whole number from {minimum} to {maximum} is wanted"))
            }
            FieldType::Date { minimum, maximum } => {
                Err(format!("a date as YYYY-MM-DD from {} to {} is wanted", written(*minimum), written(*maximum)))
            }
            FieldType::Enumeration(values) => {
                let values: Vec<&str> = values.iter().map(String::as_str).collect();
                Err(format!("one of {} is wanted", values.join(", ")))
            }
        }
    }

    /// Whether values have an order, so that ranges make sense.
    pub(crate) fn is_ordered(&self) -> bool {
        matches!(self.holds, FieldType::Integer { .. } | FieldType::Date { .. })
    }

    /// The integer, or the date's day, of a value that is of the type.
    pub(crate) fn number(&self, value: &str) -> Option<i64> {
        let (number, minimum, maximum) = match &self.holds {
            FieldType::Integer { minimum, maximum } => {
                let number: i64 = value.parse().ok()?;
                ((number.to_string() == value).then_some(number)?, minimum, maximum)
            }
            FieldType::Date { minimum, maximum } => (day(value)?, minimum, maximum),
            FieldType::Text | FieldType::Enumeration(_) => return None,
        };
        (minimum..=maximum).contains(&&number).then_some(number)
    }

    /// Whether the owner keeps a sealed column of it: for what the store cannot filter by.
    pub(crate) fn has_column(&self) -> bool {
        self.is_ordered() || self.kind == FieldKind::Sealed
    }

    /// A value as the column holds it.
    pub(crate) fn cell(&self, value: &str) -> Cell {
        self.number(value).map_or_else(|| Cell::text(value), Cell::Number)
    }

    /// The alphabet and the text that go through FF1; none where the value becomes a token. `printable` is the alphabet of fields
    /// that name none.
    pub(crate) fn format_preserved<'a>(
        &'a self,
        printable: &'a Alphabet,
        digits: &'a Alphabet,
        value: &str,
    ) -> Option<(&'a Alphabet, String)> {
        let alphabet = self.alphabet(printable, digits)?;
        match &self.holds {
            FieldType::Integer { minimum, maximum } | FieldType::Date { minimum, maximum } => {
                // Values from before the schema may be anything.
                let offset = i128::from(self.number(value)?) - i128::from(*minimum);
                let width = (i128::from(*maximum) - i128::from(*minimum)).to_string().len();
                Some((alphabet, format!("{offset:0width$}")))
            }
            FieldType::Text | FieldType::Enumeration(_) => {
                let fits = (alphabet.minimum_length()..=MAX_FPE).contains(&value.chars().count());
                (fits && alphabet.numerals(value).is_ok()).then(|| (alphabet, value.to_owned()))
            }
        }
    }

    /// The alphabet of ciphertexts under FF1.
    pub(crate) fn alphabet<'a>(&'a self, printable: &'a Alphabet, digits: &'a Alphabet) -> Option<&'a Alphabet> {
        match &self.kind {
            FieldKind::Fpe if self.is_ordered() => Some(digits),
            FieldKind::Fpe => Some(printable),
            FieldKind::FpeOver(alphabet) => Some(alphabet),
            FieldKind::Sealed | FieldKind::Token => None,
        }
    }

    /// Whether tweaks are those of policy `field`; fields without an alphabet of their own had tweaks before there was one.
    pub(crate) fn has_policy_tweak(&self) -> bool {
        matches!(self.kind, FieldKind::FpeOver(_)) || self.is_ordered()
    }
}

impl Cell {
    /// A text's.
    pub(crate) fn text(value: &str) -> Self {
        Self::Text(Digest::of(value.as_bytes()).hex().chars().take(32).collect())
    }
}

impl SiteConfig {
    /// What a field of a collection holds. None for one that is not listed: any text, as a keyed token.
    pub fn field(&self, compartment: &CompartmentName, name: &str) -> Option<&FieldRule> {
        self.own_fields(compartment).and_then(|own| own.get(name)).or_else(|| self.fields.get(name))
    }

    /// Whether a collection takes a field that is not listed.
    pub(crate) fn takes_unlisted(&self, compartment: &CompartmentName) -> bool {
        self.own_fields(compartment).is_none_or(BTreeMap::is_empty)
    }

    /// The fields of a collection of which its owner keeps columns.
    pub(crate) fn columns(&self, compartment: &CompartmentName) -> BTreeMap<&str, &FieldRule> {
        let own = self.own_fields(compartment).into_iter().flatten();
        let all: BTreeMap<&str, &FieldRule> =
            self.fields.iter().chain(own).map(|(name, rule)| (name.as_str(), rule)).collect();
        all.into_iter().filter(|(_, rule)| rule.has_column()).collect()
    }

    /// Every rule of the site, of whatever collection.
    pub(crate) fn field_rules(&self) -> impl Iterator<Item = &FieldRule> {
        self.fields.values().chain(self.collections.values().flat_map(|collection| collection.fields.values()))
    }

    /// Whether the store keeps tokens of words.
    pub(crate) fn keeps_keywords(&self, compartment: &CompartmentName) -> bool {
        self.collections.get(compartment).is_some_and(|collection| collection.keywords)
    }

    /// Most passages of a cluster, if the collection is clustered.
    pub(crate) fn cluster_size(&self, compartment: &CompartmentName) -> Option<usize> {
        self.collections.get(compartment)?.cluster_size.map(|size| usize::from(size.get()))
    }

    fn own_fields(&self, compartment: &CompartmentName) -> Option<&BTreeMap<String, FieldRule>> {
        self.collections.get(compartment).map(|collection| &collection.fields)
    }
}

/// A typed field as `site.toml` has it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Table {
    r#type: TypeName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    minimum: Option<Bound>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    maximum: Option<Bound>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    values: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    protect: Option<FieldKind>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum TypeName {
    Date,
    Enumeration,
    Integer,
    String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged, expecting = "a bound is a whole number, or for a date a text as \"2024-01-31\"")]
enum Bound {
    Number(i64),
    Day(String),
}

impl TryFrom<Table> for FieldRule {
    type Error = String;

    fn try_from(table: Table) -> Result<Self, String> {
        let Table { r#type, minimum, maximum, values, protect } = table;
        let bounded = matches!(r#type, TypeName::Integer | TypeName::Date);
        if !bounded && (minimum.is_some() || maximum.is_some()) {
            return Err("`minimum` and `maximum` are for integers and dates".to_owned());
        }
        if (r#type == TypeName::Enumeration) == values.is_empty() {
            return Err("`values` lists an enumeration's values, at least one, and is for nothing else".to_owned());
        }
        let closed = minimum.is_some() && maximum.is_some();
        let bound = |bound: Option<Bound>, otherwise: i64| match (bound, r#type) {
            (None, _) => Ok(otherwise),
            (Some(Bound::Number(number)), TypeName::Integer) => Ok(number),
            (Some(Bound::Day(text)), TypeName::Date) => {
                day(&text).ok_or_else(|| "a date's bounds are written as \"2024-01-31\"".to_owned())
            }
            (Some(_), TypeName::Integer) => Err("an integer's bounds are whole numbers".to_owned()),
            (Some(_), _) => Err("a date's bounds are written as \"2024-01-31\"".to_owned()),
        };
        let holds = match r#type {
            TypeName::String => FieldType::Text,
            TypeName::Enumeration => FieldType::Enumeration(values),
            TypeName::Integer => {
                FieldType::Integer { minimum: bound(minimum, i64::MIN)?, maximum: bound(maximum, i64::MAX)? }
            }
            TypeName::Date => {
                let (first, last) = (day("0001-01-01").unwrap_or_default(), day("9999-12-31").unwrap_or_default());
                FieldType::Date { minimum: bound(minimum, first)?, maximum: bound(maximum, last)? }
            }
        };
        let domain = match &holds {
            FieldType::Text => None,
            FieldType::Enumeration(values) => Some(values.len() as i128),
            FieldType::Integer { minimum, maximum } | FieldType::Date { minimum, maximum } => {
                if minimum > maximum {
                    return Err("`minimum` is above `maximum`".to_owned());
                }
                closed.then(|| i128::from(*maximum) - i128::from(*minimum) + 1)
            }
        };
        let large = domain.is_some_and(|domain| domain >= SMALLEST_FPE_DOMAIN);
        let kind = match (protect, r#type) {
            (None, TypeName::String) => FieldKind::Fpe,
            (None, _) if domain.is_none() => FieldKind::Sealed,
            (None, _) if large => FieldKind::Fpe,
            (None, _) => FieldKind::Token,
            (Some(FieldKind::FpeOver(_)), of) if of != TypeName::String => {
                return Err("an alphabet is for strings; write `protect = \"fpe\"`".to_owned());
            }
            (Some(FieldKind::Fpe), of) if of != TypeName::String && !large => {
                return Err("FF1 needs bounds that leave at least 1,000,000 values; use `token` or `sealed`".to_owned());
            }
            (Some(kind), _) => kind,
        };
        Ok(Self { holds, kind })
    }
}

impl From<&FieldRule> for Table {
    fn from(rule: &FieldRule) -> Self {
        let (r#type, minimum, maximum, values) = match &rule.holds {
            FieldType::Text => (TypeName::String, None, None, BTreeSet::new()),
            FieldType::Integer { minimum, maximum } => (
                TypeName::Integer,
                (*minimum != i64::MIN).then_some(Bound::Number(*minimum)),
                (*maximum != i64::MAX).then_some(Bound::Number(*maximum)),
                BTreeSet::new(),
            ),
            FieldType::Date { minimum, maximum } => {
                let day = |day: &i64| Some(Bound::Day(written(*day)));
                (TypeName::Date, day(minimum), day(maximum), BTreeSet::new())
            }
            FieldType::Enumeration(values) => (TypeName::Enumeration, None, None, values.clone()),
        };
        Self { r#type, minimum, maximum, values, protect: Some(rule.kind.clone()) }
    }
}

impl Serialize for FieldRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.holds {
            FieldType::Text => self.kind.serialize(serializer),
            _ => Table::from(self).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for FieldRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = FieldRule;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`fpe`, `token` or `sealed`, or a table with `type`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<FieldRule, E> {
                FieldKind::try_from(text.to_owned()).map(FieldRule::text).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<FieldRule, A::Error> {
                let table = Table::deserialize(MapAccessDeserializer::new(map))?;
                FieldRule::try_from(table).map_err(de::Error::custom)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl Serialize for FieldKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FieldKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::try_from(String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl TryFrom<String> for FieldKind {
    type Error = HsmError;
    fn try_from(text: String) -> Result<Self, HsmError> {
        match text.as_str() {
            "fpe" => Ok(Self::Fpe),
            "sealed" => Ok(Self::Sealed),
            "token" => Ok(Self::Token),
            other => {
                let alphabet = other.strip_prefix("fpe:");
                let unknown =
                    HsmError::Alphabet { reason: "a field is `token`, `sealed`, `fpe`, or `fpe:` and an alphabet" };
                Ok(Self::FpeOver(Box::new(alphabet.ok_or(unknown)?.parse()?)))
            }
        }
    }
}

impl fmt::Display for FieldKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fpe => f.write_str("fpe"),
            Self::FpeOver(alphabet) => write!(f, "fpe:{}", alphabet.name()),
            Self::Sealed => f.write_str("sealed"),
            Self::Token => f.write_str("token"),
        }
    }
}

/// Longest value that goes through FF1, in characters; longer ones become tokens.
const MAX_FPE: usize = 64;

/// Days from 1970-01-01 to a date, if it is one and written as ISO 8601 has it.
fn day(text: &str) -> Option<i64> {
    let date: Date = text.parse().ok()?;
    (date.to_string() == text).then_some(date.duration_since(EPOCH).as_hours() / 24)
}

fn written(day: i64) -> String {
    i32::try_from(day)
        .ok()
        .and_then(|day| EPOCH.checked_add(jiff::Span::new().try_days(day).ok()?).ok())
        .map_or_else(String::new, |date| date.to_string())
}

const EPOCH: Date = Date::constant(1970, 1, 1);

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn rule(toml: &str) -> Result<FieldRule, String> {
        #[derive(Deserialize)]
        struct One {
            field: FieldRule,
        }
        toml::from_str::<One>(&format!("field = {toml}")).map(|one| one.field).map_err(|error| error.to_string())
    }

    #[test]
    fn a_field_names_its_alphabet() {
        let read = |text: &str| FieldKind::try_from(text.to_owned());
        for text in [
            "fpe",
            "token",
            "sealed",
            "fpe:digits",
            "fpe:cyrillic",
            "fpe:chars:0123456789ABCDEF",
            "fpe:unicode:0410-044F,0401,0451",
        ] {
            assert_eq!(read(text).unwrap().to_string(), text);
        }
        for text in ["", "fpe:", "FPE", "fpe:digit", "fpe:chars:aa", "token:digits", "digits"] {
            assert!(matches!(read(text), Err(HsmError::Alphabet { .. })), "{text:?}");
        }
    }

    #[test]
    fn protection_follows_the_domain() {
        for (toml, kind) in [
            ("'fpe'", "fpe"),
            ("{ type = 'string' }", "fpe"),
            ("{ type = 'string', protect = 'fpe:digits' }", "fpe:digits"),
            ("{ type = 'integer' }", "sealed"),
            ("{ type = 'integer', minimum = 0 }", "sealed"),
            ("{ type = 'integer', minimum = 1900, maximum = 2100 }", "token"),
            ("{ type = 'integer', minimum = 1, maximum = 999999 }", "token"),
            ("{ type = 'integer', minimum = 1, maximum = 1000000 }", "fpe"),
            ("{ type = 'integer', minimum = 1, maximum = 1000000, protect = 'sealed' }", "sealed"),
            ("{ type = 'date' }", "sealed"),
            ("{ type = 'date', minimum = '2000-01-01', maximum = '2040-12-31' }", "token"),
            ("{ type = 'date', minimum = '0001-01-01', maximum = '9999-12-31' }", "fpe"),
            ("{ type = 'enumeration', values = ['a', 'b'] }", "token"),
        ] {
            let rule = rule(toml).unwrap();
            assert_eq!(rule.kind.to_string(), kind, "{toml}");
            let again = serde_json::to_value(&rule).unwrap();
            assert_eq!(serde_json::from_value::<FieldRule>(again).unwrap(), rule, "{toml}");
        }
    }

    #[test]
    fn fpe_over_a_small_domain_is_refused() {
        for toml in [
            "{ type = 'enumeration', values = ['a', 'b'], protect = 'fpe' }",
            "{ type = 'integer', minimum = 1900, maximum = 2100, protect = 'fpe' }",
            "{ type = 'integer', protect = 'fpe' }",
            "{ type = 'date', protect = 'fpe' }",
        ] {
            assert!(rule(toml).unwrap_err().contains("1,000,000"), "{toml}");
        }
    }

    #[test]
    fn senseless_fields_are_refused_by_what_is_wrong() {
        for (toml, wrong) in [
            ("{ type = 'number' }", "unknown variant"),
            ("{ type = 'string', minimum = 1 }", "for integers and dates"),
            ("{ type = 'string', values = ['a'] }", "enumeration"),
            ("{ type = 'enumeration' }", "enumeration"),
            ("{ type = 'integer', minimum = 2, maximum = 1 }", "above"),
            ("{ type = 'integer', minimum = '2000-01-01' }", "whole numbers"),
            ("{ type = 'date', minimum = 5 }", "2024-01-31"),
            ("{ type = 'date', minimum = '2000-02-30' }", "2024-01-31"),
            ("{ type = 'integer', protect = 'fpe:digits' }", "alphabet"),
            ("{ type = 'integer', unit = 'm' }", "unknown field"),
            ("7", "table with `type`"),
        ] {
            let error = rule(toml).unwrap_err();
            assert!(error.contains(wrong), "{toml}: {error}");
        }
    }

    #[test]
    fn values_have_one_spelling() {
        let year = rule("{ type = 'integer', minimum = -5, maximum = 2100 }").unwrap();
        for good in ["-5", "0", "2100"] {
            year.check(good).unwrap();
        }
        for bad in ["", "-6", "2101", "007", "+7", "-0", "7.0", " 7", "seven", "99999999999999999999"] {
            assert!(year.check(bad).is_err(), "{bad:?}");
        }
        let due = rule("{ type = 'date', minimum = '2000-01-01' }").unwrap();
        due.check("2024-02-29").unwrap();
        for bad in ["1999-12-31", "2023-02-29", "2024-2-9", "20240229", "2024-02-29T00:00", "yesterday"] {
            assert!(due.check(bad).unwrap_err().contains("2000-01-01"), "{bad:?}");
        }
        assert_eq!((day("1970-01-01"), day("1970-01-02"), day("1969-12-31")), (Some(0), Some(1), Some(-1)));
        assert_eq!(written(day("2024-02-29").unwrap()), "2024-02-29");
    }

    #[test]
    fn numbers_go_through_ff1_as_digits_of_one_length() {
        let account = rule("{ type = 'integer', minimum = -10, maximum = 99999989 }").unwrap();
        let (printable, digits) = (Alphabet::base62(), Alphabet::digits());
        let text = |value| account.format_preserved(&printable, &digits, value).map(|(_, text)| text);
        assert_eq!(text("-10").as_deref(), Some("00000000"));
        assert_eq!(text("99999989").as_deref(), Some("99999999"));
        assert_eq!(text("a"), None);
    }
}

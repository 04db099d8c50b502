//! What every scanner shares. A scanner walks the text from left to right and looks at each byte a bounded number of times.

use casemate_sdk::Span;

use crate::{banking, contact, numbers};

/// What can be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Card,
    Email,
    Iban,
    Ipv4,
    Phone,
    Ssn,
}

impl Kind {
    const ALL: [Self; 6] = [Self::Card, Self::Email, Self::Iban, Self::Ipv4, Self::Phone, Self::Ssn];

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Card => "card",
            Self::Email => "email",
            Self::Iban => "iban",
            Self::Ipv4 => "ipv4",
            Self::Phone => "phone",
            Self::Ssn => "ssn",
        }
    }

    /// Adds everything of this kind.
    pub(crate) fn scan(self, text: &str, finds: &mut Finds) {
        let scanner = match self {
            Self::Card => banking::cards,
            Self::Email => contact::emails,
            Self::Iban => banking::ibans,
            Self::Ipv4 => numbers::ipv4,
            Self::Phone => contact::phones,
            Self::Ssn => numbers::ssns,
        };
        scanner(text, &mut |start, end| finds.add(self, start, end));
    }
}

/// Called with each byte range found; answers whether to go on.
pub(crate) type Found<'a> = &'a mut dyn FnMut(usize, usize) -> bool;

/// The ranges found so far, up to a limit.
pub(crate) struct Finds {
    pub(crate) spans: Vec<Span>,
    pub(crate) overflown: bool,
    limit: usize,
}

impl Finds {
    pub(crate) fn at_most(limit: usize) -> Self {
        Self { spans: Vec::new(), overflown: false, limit }
    }

    /// Two ranges of one kind that overlap become one.
    fn add(&mut self, kind: Kind, start: usize, end: usize) -> bool {
        // The contract's texts are at most 1 MiB; a longer one counts as overflow.
        let (Ok(start), Ok(end)) = (u32::try_from(start), u32::try_from(end)) else {
            self.overflown = true;
            return false;
        };
        if let Some(last) = self.spans.last_mut().filter(|last| last.kind == kind.as_str() && start < last.end) {
            last.start = last.start.min(start);
            last.end = last.end.max(end);
        } else if self.spans.len() == self.limit {
            self.overflown = true;
            return false;
        } else {
            self.spans.push(Span { start, end, kind: kind.as_str().to_owned() });
        }
        true
    }
}

/// The byte at an index, or 0 beyond the text: no scanner looks for 0.
pub(crate) fn at(bytes: &[u8], index: usize) -> u8 {
    bytes.get(index).copied().unwrap_or(0)
}

/// The byte before an index, or 0 at the start.
pub(crate) fn before(bytes: &[u8], index: usize) -> u8 {
    index.checked_sub(1).map_or(0, |index| at(bytes, index))
}

/// Length in bytes of a blank or hyphen that groups digits, in ASCII or as typeset (no-break blanks, hyphens, dashes), or 0.
pub(crate) fn separator(bytes: &[u8], index: usize) -> usize {
    let typeset = |tail: u8, allowed: &[u8]| if allowed.contains(&tail) { 3 } else { 0 };
    match (at(bytes, index), at(bytes, index + 1)) {
        (b' ' | b'-', _) => 1,
        (0xc2, 0xa0) => 2,
        // U+2007, U+2009, U+200A; U+2010 to U+2013; U+202F.
        (0xe2, 0x80) => typeset(at(bytes, index + 2), &[0x87, 0x89, 0x8a, 0x90, 0x91, 0x92, 0x93, 0xaf]),
        _ => 0,
    }
}

/// As [`separator`], hyphens and dashes only.
pub(crate) fn hyphen(bytes: &[u8], index: usize) -> usize {
    let length = separator(bytes, index);
    let typeset = length == 3 && matches!(at(bytes, index + 2), 0x90..=0x93);
    if at(bytes, index) == b'-' || typeset { length } else { 0 }
}

/// Index after the digits that start at `index`.
pub(crate) fn digits_end(bytes: &[u8], mut index: usize) -> usize {
    while at(bytes, index).is_ascii_digit() {
        index += 1;
    }
    index
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What a scanner finds, as text; slicing fails when a range is not on character boundaries.
    pub(crate) fn found(kind: Kind, text: &str) -> Vec<&str> {
        let mut finds = Finds::at_most(1 << 20);
        kind.scan(text, &mut finds);
        finds.spans.iter().map(|span| &text[span.start as usize..span.end as usize]).collect()
    }

    /// Inputs that make a backtracking scanner quadratic: at 1 MiB that would be 10^12 steps, which no test run survives.
    #[test]
    fn a_mebibyte_of_hostile_text_stays_linear() {
        let units = [
            "1",
            "@",
            "+",
            "a",
            "é",
            "漢",
            "-",
            ".",
            "1 ",
            "1-",
            "+1",
            "+1 ",
            "a@",
            "@a",
            "a.",
            "a@a.",
            "DE12",
            "DE12 ",
            "DE89370400440532013000",
            "123-45-",
            "123-",
            "1.",
            "1.1.",
            "1.1.1.1.",
            "4111 ",
            "41111",
            "4111-1111-",
            "+4930",
            "(",
            "+(",
            "\u{a0}",
            "1\u{a0}",
            "\u{2011}",
            "1\u{2011}",
            "a@-",
            "DE",
            "D1",
            "\0",
        ];
        for unit in units {
            let text = unit.repeat((1 << 20) / unit.len());
            for kind in Kind::ALL {
                let _ = found(kind, &text);
            }
        }
    }

    /// Every scanner on texts of all short combinations of the characters it looks at: no panic, ranges on boundaries.
    #[test]
    fn short_combinations_give_ranges_on_character_boundaries() {
        let parts = [
            "1",
            "+",
            "@",
            "a",
            ".",
            "-",
            " ",
            "é",
            "漢",
            "\u{2011}",
            "DE89",
            "3704 0044 0532 0130 00",
            "4111111111111111",
        ];
        for a in parts {
            for b in parts {
                for c in parts {
                    for d in parts {
                        let text = [a, b, c, d, b, a].concat();
                        for kind in Kind::ALL {
                            assert!(found(kind, &text).iter().all(|part| !part.is_empty()));
                        }
                    }
                }
            }
        }
    }
}

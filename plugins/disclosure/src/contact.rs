//! E-mail addresses (RFC 5322 dot-atom, RFC 6531 beyond ASCII) and international phone numbers (ITU-T E.164).

use crate::scan::{Found, at, before, digits_end, separator};

/// Works outwards from each `@`. Neither side crosses another `@`, so no byte is looked at more than three times.
pub(crate) fn emails(text: &str, found: Found<'_>) {
    for (sign, _) in text.match_indices('@') {
        let local = local_start(text, sign);
        if local == sign {
            continue;
        }
        if let Some(end) = domain_end(text, sign + 1)
            && !found(local, end)
        {
            return;
        }
    }
}

fn local_start(text: &str, sign: usize) -> usize {
    let mut start = sign;
    for (index, c) in text[..sign].char_indices().rev() {
        if !(c.is_alphanumeric() || "!#$%&'*+/=?^_`{|}~.-".contains(c)) {
            break;
        }
        start = index;
    }
    // Quotation marks and dots around the address are not part of it.
    start + text[start..sign].len()
        - text[start..sign].trim_start_matches(['.', '\'', '`', '*', '_', '-', '/', '|']).len()
}

/// At least two labels of letters, digits and inner hyphens; the last one has two characters or more and a letter.
fn domain_end(text: &str, start: usize) -> Option<usize> {
    let (mut end, mut labels) = (None, 0);
    let mut label = start;
    loop {
        let rest = &text[label..];
        let raw = rest.find(|c: char| !(c.is_alphanumeric() || c == '-')).unwrap_or(rest.len());
        let name = rest[..raw].trim_end_matches('-');
        if name.is_empty() || name.starts_with('-') {
            return end;
        }
        labels += 1;
        if labels > 1 && name.chars().nth(1).is_some() && name.contains(char::is_alphabetic) {
            end = Some(label + name.len());
        }
        if name.len() < raw || at(text.as_bytes(), label + raw) != b'.' {
            return end;
        }
        label += raw + 1;
    }
}

/// `+`, then 8 to 15 digits of which the first is not 0; between digits a blank, hyphen, dot, slash or parentheses.
pub(crate) fn phones(text: &str, found: Found<'_>) {
    let bytes = text.as_bytes();
    for (sign, _) in text.match_indices('+') {
        if before(bytes, sign).is_ascii_alphanumeric() {
            continue;
        }
        if let Some(end) = phone_end(bytes, sign + 1)
            && !found(sign, end)
        {
            return;
        }
    }
}

fn phone_end(bytes: &[u8], start: usize) -> Option<usize> {
    let (mut count, mut end) = (0, start);
    let mut index = if at(bytes, start) == b'(' { start + 1 } else { start };
    if !matches!(at(bytes, index), b'1'..=b'9') {
        return None;
    }
    loop {
        // A group that would make the number too long is not part of it.
        let group = digits_end(&bytes[..bytes.len().min(index + MAX_DIGITS + 1)], index);
        if count + group - index > MAX_DIGITS {
            break;
        }
        (count, end) = (count + group - index, group);
        index = group;
        // At most `) ` or ` (` between two groups.
        for _ in 0..2 {
            index += match at(bytes, index) {
                b'.' | b'/' | b'(' | b')' => 1,
                _ => separator(bytes, index),
            };
        }
        if index == group || !at(bytes, index).is_ascii_digit() {
            break;
        }
    }
    (count >= MIN_DIGITS).then_some(end)
}

const MIN_DIGITS: usize = 8;
const MAX_DIGITS: usize = 15;

#[cfg(test)]
mod tests {
    use crate::scan::Kind::{Email, Phone};
    use crate::scan::tests::found;

    #[test]
    fn addresses_are_found_without_their_surroundings() {
        let cases = [
            ("Write to ana@example.org.", "ana@example.org"),
            ("<ana.b+tag@mail.example.co.uk>", "ana.b+tag@mail.example.co.uk"),
            ("(o'neil_7@example.museum)", "o'neil_7@example.museum"),
            ("'ana@example.org'", "ana@example.org"),
            ("**ana@example.org**", "ana@example.org"),
            ("jürgen@bücher.example", "jürgen@bücher.example"),
            ("mailto:ana@example.org?subject=x", "ana@example.org"),
            ("ana@xn--bcher-kva.example,", "ana@xn--bcher-kva.example"),
            ("用户@例子.广告", "用户@例子.广告"),
            ("ana@example.org-", "ana@example.org"),
            ("a@b.io", "a@b.io"),
            ("x@@ana@example.org", "ana@example.org"),
        ];
        for (text, address) in cases {
            assert_eq!(found(Email, text), [address], "{text}");
        }
        assert_eq!(found(Email, "a@b.io;c@d.io").len(), 2);
    }

    #[test]
    fn near_misses_of_addresses_are_left_alone() {
        for miss in [
            "@",
            "ana@",
            "@example.org",
            "ana@localhost",
            "ana@example.1",
            "ana@-x.org",
            "a @ b.org",
            "ana@.org",
            "a@b.c",
        ] {
            assert!(found(Email, miss).is_empty(), "{miss}");
        }
    }

    #[test]
    fn numbers_in_international_form_are_found() {
        let numbers = [
            "+1 202 555 0143",
            "+12025550143",
            "+49 30 901820",
            "+44 (0)20 7946 0958",
            "+1 (202) 555-0143",
            "+33.1.23.45.67.89",
            "+49\u{a0}30\u{a0}901820",
            "+86 10 6552 9988",
            "+999123456789012",
            "+49 (30) 901820",
            "+49 30/901820",
        ];
        for number in numbers {
            assert_eq!(found(Phone, number), [number]);
            assert_eq!(found(Phone, &format!("Call «{number}» é.")), [number]);
        }
    }

    #[test]
    fn near_misses_of_phone_numbers_are_left_alone() {
        let misses = [
            "+1 202 55",
            "+1234567",
            "+1234567890123456",
            "+0 202 555 0143",
            "2025550143",
            "1+12345678",
            "C+12345678",
            "++",
            "+ 49 30 901820",
            "+49   30   901820",
        ];
        for miss in misses {
            assert!(found(Phone, miss).is_empty(), "{miss}");
        }
    }

    #[test]
    fn a_number_ends_before_the_group_that_makes_it_too_long() {
        assert_eq!(found(Phone, "+49 30 901820 20240131"), ["+49 30 901820"]);
    }
}

//! Payment card numbers (ISO/IEC 7812-1: 13 to 19 digits, Luhn) and IBANs (ISO 13616: length by country, mod 97).

use crate::scan::{Found, at, before, digits_end, separator};

/// Digits in one run, or in groups of at least three (the last may be shorter) with one blank or hyphen between them.
pub(crate) fn cards(text: &str, found: Found<'_>) {
    let bytes = text.as_bytes();
    let mut recent: Vec<Group> = Vec::with_capacity(MAX_GROUPS);
    let mut index = 0;
    while index < bytes.len() {
        if !at(bytes, index).is_ascii_digit() {
            index += 1;
            continue;
        }
        let (start, end) = (index, digits_end(bytes, index));
        let gap = separator(bytes, end);
        let joined = gap > 0 && at(bytes, end + gap).is_ascii_digit();
        let count = end - start;
        // The part after a decimal point is no card number.
        let fraction = before(bytes, start) == b'.' && start >= 2 && at(bytes, start - 2).is_ascii_digit();
        if count > MAX_DIGITS || fraction {
            recent.clear();
        } else {
            if recent.len() == MAX_GROUPS {
                recent.remove(0);
            }
            recent.push(Group::of(bytes, start, end));
            if let Some(first) = window(&recent)
                && !found(first, end)
            {
                return;
            }
            if count < MIN_GROUP {
                recent.clear();
            }
        }
        if !joined {
            recent.clear();
        }
        index = end + if joined { gap } else { 0 };
    }
}

/// Start of the longest run of groups up to the last one that is a card number.
fn window(recent: &[Group]) -> Option<usize> {
    let (mut count, mut sum, mut longest) = (0, 0, None);
    for group in recent.iter().rev() {
        sum += group.luhn[count % 2];
        count += group.count;
        if count > MAX_DIGITS {
            break;
        }
        if count >= MIN_DIGITS && sum % 10 == 0 && group.first != b'0' {
            longest = Some(group.start);
        }
    }
    longest
}

/// A group of digits, with its share of the Luhn sum for an even and for an odd number of digits to its right.
struct Group {
    start: usize,
    first: u8,
    count: usize,
    luhn: [u32; 2],
}

impl Group {
    fn of(bytes: &[u8], start: usize, end: usize) -> Self {
        let mut luhn = [0, 0];
        for (place, index) in (start..end).rev().enumerate() {
            let digit = u32::from(at(bytes, index) - b'0');
            let doubled = if digit > 4 { digit * 2 - 9 } else { digit * 2 };
            luhn[place % 2] += digit;
            luhn[(place + 1) % 2] += doubled;
        }
        Self { start, first: at(bytes, start), count: end - start, luhn }
    }
}

const MIN_DIGITS: usize = 13;
const MAX_DIGITS: usize = 19;
const MIN_GROUP: usize = 3;
/// Six groups of three digits and a shorter last one.
const MAX_GROUPS: usize = 7;

/// A country code at the start of a word, two check digits, then as many letters and digits as the country has, with at
/// most one blank or hyphen between two of them.
pub(crate) fn ibans(text: &str, found: Found<'_>) {
    let bytes = text.as_bytes();
    let mut index = 0;
    while index + 4 <= bytes.len() {
        match iban_end(bytes, index) {
            Some(end) => {
                if !found(index, end) {
                    return;
                }
                index = end;
            }
            None => index += 1,
        }
    }
}

fn iban_end(bytes: &[u8], start: usize) -> Option<usize> {
    if before(bytes, start).is_ascii_alphanumeric() {
        return None;
    }
    let country = [at(bytes, start).to_ascii_uppercase(), at(bytes, start + 1).to_ascii_uppercase()];
    if !at(bytes, start + 2).is_ascii_digit() || !at(bytes, start + 3).is_ascii_digit() {
        return None;
    }
    let length = COUNTRIES
        .chunks_exact(4)
        .find(|entry| entry[..2] == country)
        .map(|entry| usize::from(entry[2] - b'0') * 10 + usize::from(entry[3] - b'0'))?;
    let mut characters = [0_u8; 34];
    let mut index = start;
    for (count, slot) in characters.iter_mut().enumerate().take(length) {
        if count >= 4 {
            index += separator(bytes, index);
        }
        *slot = at(bytes, index);
        if !slot.is_ascii_alphanumeric() {
            return None;
        }
        index += 1;
    }
    let ends = !at(bytes, index).is_ascii_alphanumeric();
    (ends && remainder(&characters[..length]) == 1).then_some(index)
}

/// ISO 7064 mod 97-10 over the number with its first four characters moved to the end.
fn remainder(characters: &[u8]) -> u32 {
    let (head, tail) = characters.split_at(4);
    tail.iter().chain(head).fold(0, |rest, &character| {
        let value = char::from(character).to_digit(36).unwrap_or(0);
        (rest * if value > 9 { 100 } else { 10 } + value) % 97
    })
}

/// The IBAN registry: country and length.
const COUNTRIES: &[u8] =
    b"AD24AE23AL28AT20AZ28BA20BE16BG22BH22BI27BR29BY28CH21CR22CY28CZ24DE22DJ27DK18DO28EE20EG29ES24\
FI18FK18FO18FR27GB22GE22GI23GL18GR27GT28HN28HR21HU28IE22IL23IQ23IS26IT27JO30KW30KZ20LB28LC32LI21LT20LU20LV21LY25MC27\
MD24ME22MK19MN20MR27MT31MU30NI28NL18NO15OM23PK24PL28PS29PT25QA29RO24RS22RU33SA24SC31SD18SE24SI19SK24SM27SO23ST25SV28\
TL23TN24TR26UA29VA22VG24XK20YE30";

#[cfg(test)]
mod tests {
    use crate::scan::Kind::{Card, Iban};
    use crate::scan::tests::found;

    #[test]
    fn the_card_schemes_test_numbers_are_found() {
        let numbers = [
            "4111111111111111",
            "4111 1111 1111 1111",
            "4111-1111-1111-1111",
            "5555555555554444",
            "2223003122003222",
            "378282246310005",
            "3782 822463 10005",
            "6011111111111117",
            "30569309025904",
            "3056 930902 5904",
            "3530111333300000",
            "4222222222222",
            "6205 5000 0000 0000 004",
            "4111\u{a0}1111\u{a0}1111\u{a0}1111",
            "4111\u{2011}1111\u{2011}1111\u{2011}1111",
        ];
        for number in numbers {
            assert_eq!(found(Card, number), [number]);
            let sentence = format!("Pay with «{number}», or call 112.");
            assert_eq!(found(Card, &sentence), [number]);
            let numbered = format!("2 {number}");
            assert!(found(Card, &numbered).iter().any(|part| part.contains(number)));
        }
    }

    #[test]
    fn near_misses_of_cards_are_left_alone() {
        let misses = [
            "4111111111111112",
            "4111 1111 1111 1112",
            "411111111111",
            "41111111111111111111",
            "4111  1111  1111  1111",
            "4111/1111/1111/1111",
            "0000000000000000",
            "0.4111111111111111",
            "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
            "",
            "4111 1111 1111",
            "Versions 1.2.3, 2024-01-31 and 12:30.",
        ];
        for miss in misses {
            assert!(found(Card, miss).is_empty(), "{miss}");
        }
    }

    #[test]
    fn two_cards_side_by_side_are_both_covered() {
        let text = "4111 1111 1111 1111 5555 5555 5555 4444";
        assert_eq!(found(Card, text).join(" ").len(), text.len());
        assert_eq!(found(Card, "4111111111111111,5555555555554444").len(), 2);
    }

    #[test]
    fn the_registrys_example_ibans_are_found() {
        let ibans = [
            "DE89370400440532013000",
            "DE89 3704 0044 0532 0130 00",
            "GB29 NWBK 6016 1331 9268 19",
            "gb29nwbk60161331926819",
            "FR14 2004 1010 0505 0001 3M02 606",
            "NO93 8601 1117 947",
            "MT84 MALT 0110 0001 2345 MTLC AST0 01S",
            "CH93 0076 2011 6238 5295 7",
            "BE68-5390-0754-7034",
            "SA03 8000 0000 6080 1016 7519",
            "LC55HEMM000100010012001200023015",
            "NL91\u{a0}ABNA\u{a0}0417\u{a0}1643\u{a0}00",
        ];
        for iban in ibans {
            assert_eq!(found(Iban, iban), [iban]);
            assert_eq!(found(Iban, &format!("Zahlbar an {iban}. Danke é")), [iban]);
        }
        assert_eq!(found(Iban, &ibans.join(", ")).len(), ibans.len());
    }

    #[test]
    fn near_misses_of_ibans_are_left_alone() {
        let misses = [
            "DE89370400440532013001",
            "DE88370400440532013000",
            "DE8937040044053201300",
            "DE893704004405320130000",
            "XX89370400440532013000",
            "ADE89370400440532013000",
            "DE89  3704 0044 0532 0130 00",
            "DE89",
            "DE",
            "DE89370400440532é13000",
            "In DE12 roads and 3704 bridges.",
        ];
        for miss in misses {
            assert!(found(Iban, miss).is_empty(), "{miss}");
        }
    }
}

//! US social security numbers (SSA rules for valid numbers) and IPv4 addresses (RFC 791, dotted decimal).

use crate::scan::{Found, at, before, digits_end, hyphen};

/// `ddd-dd-dddd` where no part is all zeros and the first is neither 666 nor 900 or above.
pub(crate) fn ssns(text: &str, found: Found<'_>) {
    let bytes = text.as_bytes();
    let mut index = 0;
    while index < bytes.len() {
        if !at(bytes, index).is_ascii_digit() {
            index += 1;
            continue;
        }
        let (start, end) = (index, digits_end(bytes, index));
        if end - start == 3
            && !continues_left(bytes, start)
            && let Some(last) = ssn_end(bytes, start, end)
        {
            if !found(start, last) {
                return;
            }
            index = last;
        } else {
            index = end;
        }
    }
}

fn ssn_end(bytes: &[u8], start: usize, area_end: usize) -> Option<usize> {
    let group = area_end + some(hyphen(bytes, area_end))?;
    let group_end = digits_end(&bytes[..bytes.len().min(group + 3)], group);
    let serial = group_end + some(hyphen(bytes, group_end))?;
    let end = digits_end(&bytes[..bytes.len().min(serial + 5)], serial);
    let parts = [&bytes[start..area_end], &bytes[group..group_end], &bytes[serial..end]];
    let zeros = parts.iter().any(|part| part.iter().all(|&byte| byte == b'0'));
    let area = parts[0];
    let shaped = (parts[1].len(), parts[2].len()) == (2, 4) && !zeros && area != b"666" && area[0] != b'9';
    let after = hyphen(bytes, end);
    let continues = at(bytes, end).is_ascii_alphanumeric() || after > 0 && at(bytes, end + after).is_ascii_digit();
    (shaped && !continues).then_some(end)
}

/// Part of a word, or of a longer number with hyphens.
fn continues_left(bytes: &[u8], start: usize) -> bool {
    let previous = before(bytes, start);
    let joined = |width: usize| {
        start > width && hyphen(bytes, start - width) == width && at(bytes, start - width - 1).is_ascii_digit()
    };
    previous.is_ascii_alphanumeric() || joined(1) || joined(3)
}

fn some(length: usize) -> Option<usize> {
    (length > 0).then_some(length)
}

/// Four numbers up to 255 without leading zeros, not part of a longer dotted number.
pub(crate) fn ipv4(text: &str, found: Found<'_>) {
    let bytes = text.as_bytes();
    let mut index = 0;
    while index < bytes.len() {
        if !at(bytes, index).is_ascii_digit() {
            index += 1;
            continue;
        }
        // A dotted number is taken as a whole, so that no part of a longer one is looked at again.
        let start = index;
        let (mut octets, mut valid) = (0_u32, true);
        loop {
            let end = digits_end(bytes, index);
            octets += 1;
            valid &= octets <= 4 && is_octet(&bytes[index..end]);
            index = end;
            if at(bytes, end) != b'.' || !at(bytes, end + 1).is_ascii_digit() {
                break;
            }
            index += 1;
        }
        let inside = matches!(before(bytes, start), b'.' | b'-') || before(bytes, start).is_ascii_alphanumeric();
        if octets == 4 && valid && !inside && !at(bytes, index).is_ascii_alphanumeric() && !found(start, index) {
            return;
        }
    }
}

fn is_octet(digits: &[u8]) -> bool {
    let value = digits.iter().take(4).fold(0_u32, |value, &digit| value * 10 + u32::from(digit - b'0'));
    value <= 255 && digits.len() <= 3 && (digits.len() == 1 || digits.first() != Some(&b'0'))
}

#[cfg(test)]
mod tests {
    use crate::scan::Kind::{Ipv4, Ssn};
    use crate::scan::tests::found;

    #[test]
    fn valid_social_security_numbers_are_found() {
        for number in ["123-45-6789", "001-01-0001", "899-99-9999", "665-01-0001", "123\u{2011}45\u{2011}6789"] {
            assert_eq!(found(Ssn, number), [number]);
            assert_eq!(found(Ssn, &format!("SSN:{number}, é")), [number]);
        }
        assert_eq!(found(Ssn, "123-45-6789 123-45-6780").len(), 2);
    }

    #[test]
    fn numbers_the_ssa_never_issues_are_left_alone() {
        let misses = [
            "000-45-6789",
            "666-45-6789",
            "900-45-6789",
            "999-45-6789",
            "123-00-6789",
            "123-45-0000",
            "123-45-678",
            "123-45-67890",
            "1123-45-6789",
            "123-456-789",
            "123 45 6789",
            "123456789",
            "1-123-45-6789",
            "123-45-6789-1",
            "A123-45-6789",
            "123-45-6789B",
            "123--45-6789",
            "123-45",
            "123-",
        ];
        for miss in misses {
            assert!(found(Ssn, miss).is_empty(), "{miss}");
        }
    }

    #[test]
    fn dotted_decimal_addresses_are_found() {
        for address in ["10.0.0.1", "255.255.255.255", "0.0.0.0", "192.168.1.20"] {
            assert_eq!(found(Ipv4, address), [address]);
            assert_eq!(found(Ipv4, &format!("At {address}. é")), [address]);
            assert_eq!(found(Ipv4, &format!("http://{address}:80/")), [address]);
        }
    }

    #[test]
    fn near_misses_of_addresses_are_left_alone() {
        let misses = [
            "10.0.0",
            "10.0.0.256",
            "10.0.0.01",
            "1.2.3.4.5",
            "v1.2.3.4",
            "1.2.3.4a",
            "1..2.3.4",
            "10.0.0.1000",
            "-1.2.3.4",
        ];
        for miss in misses {
            assert!(found(Ipv4, miss).is_empty(), "{miss}");
        }
    }
}

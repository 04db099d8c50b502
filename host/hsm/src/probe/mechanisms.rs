//! Does the token do what Casemate needs? Each mechanism is run, against the standard's own example where the token takes
//! a known key, and against this side's arithmetic otherwise.

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use cryptoki_sys::*;

use super::Finding::{Absent, Broken, Held};
use super::keys::{ECB, rsa_pair};
use super::line::{Found, Line, Object};
use super::template::{BLOCK, Template, mac_here};
use crate::class::EDWARDS25519;
use crate::driver::{Answer, Attr, Mech, Value};

fn absent() -> Found {
    Ok((Absent, "the token does not list it".to_owned()))
}

fn broken(what: &str) -> Found {
    Ok((Broken, what.to_owned()))
}

/// FIPS 197, one call for many blocks: FF1 needs every block back at once.
pub(super) fn aes_ecb(line: &mut Line<'_>) -> Found {
    if !line.lists(CKM_AES_ECB) {
        return absent();
    }
    let Ok(key) = line.generate("key", &Template::aes().on(&[CKA_ENCRYPT])) else {
        return broken("listed, and no key for it can be made");
    };
    let session = line.open_session()?;
    let streamed = line.begin_stream(session, key).and_then(|()| line.stream(session, &[BLOCK; 3].concat()));
    let once = line.encrypt(&ECB, key, &BLOCK);
    match (streamed, once) {
        (Ok(streamed), Ok(once)) if *streamed == [once.as_slice(); 3].concat() => {}
        (Ok(_), Ok(_)) => return broken("an open stream holds blocks back or changes them"),
        _ => return broken("listed, and it fails"),
    }
    // FIPS 197, appendix C.3.
    let known: Vec<u8> = (0..32).collect();
    let block: Vec<u8> = (0..16).map(|nibble| 0x11 * nibble).collect();
    let expected = "8ea2b7ca516745bfeafc49904b496089";
    known_answer(line, &Template::aes().on(&[CKA_ENCRYPT]), &known, expected, |line, key| {
        line.encrypt(&ECB, key, &block).map(|block| block.to_vec())
    })
}

/// SP 800-38D; a changed tag must be refused.
pub(super) fn aes_gcm(line: &mut Line<'_>) -> Found {
    if !line.lists(CKM_AES_GCM) {
        return absent();
    }
    let mechanism = Mech::Gcm { iv: *b"casemate iv1", aad: b"where it belongs".to_vec() };
    let key = line.generate("key", &Template::aes().on(&[CKA_ENCRYPT, CKA_DECRYPT]));
    let Ok((key, sealed)) = key.and_then(|key| Ok((key, line.encrypt(&mechanism, key, &BLOCK)?))) else {
        return broken("listed, and it fails");
    };
    if !line.decrypt(&mechanism, key, &sealed).is_ok_and(|opened| *opened == BLOCK) {
        return broken("what it sealed it does not open");
    }
    let mut forged = sealed.to_vec();
    if let Some(last) = forged.last_mut() {
        *last ^= 1;
    }
    if sealed.len() != 32 || line.decrypt(&mechanism, key, &forged).is_ok() {
        return broken("a changed tag is accepted");
    }
    // The GCM specification's test case 14: a key, an IV and a block of zeros.
    let expected = "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919";
    let zeros = Mech::Gcm { iv: [0; 12], aad: Vec::new() };
    known_answer(line, &Template::aes().on(&[CKA_ENCRYPT]), &[0; 32], expected, |line, key| {
        line.encrypt(&zeros, key, &[0; 16]).map(|sealed| sealed.to_vec())
    })
}

/// RFC 3394 (SP 800-38F).
pub(super) fn aes_kw(line: &mut Line<'_>) -> Found {
    let mechanism = Mech::Plain(CKM_AES_KEY_WRAP);
    if !line.lists(CKM_AES_KEY_WRAP) {
        return absent();
    }
    match round_trip(line, &mechanism) {
        Ok(Some(40)) => {}
        Ok(Some(length)) => return broken(&format!("a 32-byte key wraps to {length} bytes and not to 40")),
        Ok(None) => return broken("an unwrapped key is not the one that was wrapped"),
        Err(_) => return broken("listed, and it fails"),
    }
    // RFC 3394, section 4.6.
    let kek: Vec<u8> = (0..32).collect();
    let key = unhex("00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f");
    let expected = "28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21";
    known_answer(line, &Template::aes().on(&[CKA_WRAP]), &kek, expected, |line, kek| {
        let key = line.import("wrapped", &Template::aes().on(&[CKA_ENCRYPT, CKA_EXTRACTABLE]), &key)?;
        line.wrap(&mechanism, kek, key).map(|blob| blob.to_vec())
    })
}

/// RFC 5649 (SP 800-38F KWP), under whichever number this token has it: 0x210B by the standard, 0x210A by some.
pub(super) fn aes_kwp(line: &mut Line<'_>) -> Found {
    let numbers = [CKM_AES_KEY_WRAP_KWP, CKM_AES_KEY_WRAP_PAD];
    if !numbers.iter().any(|number| line.lists(*number)) {
        return absent();
    }
    let (mut found, mut works) = (Vec::new(), false);
    for number in numbers {
        let which = if line.lists(number) { which_rfc(line, number) } else { "absent" };
        // Casemate wraps keys of 32 bytes, which need no padding.
        works |= which.starts_with("RFC 5649");
        found.push(format!("0x{number:X} {which}"));
    }
    let detail = found.join(", ");
    line.say(detail.clone());
    if works { Ok((Held, detail)) } else { broken(&format!("none of its numbers is RFC 5649: {detail}")) }
}

/// Known keys decide: the example of RFC 5649 section 6, whose 20 bytes need padding, and 32 bytes, which need none. Where no
/// known key is taken, lengths do: RFC 5649 makes 40 bytes of 32 and starts from another constant than RFC 3394, which over
/// padded data makes 48.
fn which_rfc(line: &mut Line<'_>, number: CK_MECHANISM_TYPE) -> &'static str {
    let mechanism = Mech::Plain(number);
    let length = match round_trip(line, &mechanism) {
        Ok(Some(length)) => length,
        Ok(None) => return "does not give the same key back",
        Err(_) => return "listed, and it fails",
    };
    let kek = unhex("5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8");
    let key = unhex("c37b7e6492584340bed12207808941155068f738");
    let padded = wrap_known(line, &mechanism, &kek, &Template::secret().on(&[CKA_SIGN]), &key);
    let example = unhex("138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a");
    let (kek, key): (Vec<u8>, Vec<u8>) = ((0..32).collect(), (32..64).collect());
    let whole = wrap_known(line, &mechanism, &kek, &Template::aes().on(&[CKA_ENCRYPT]), &key);
    match (padded, whole) {
        (Ok(padded), Ok(_)) if padded == example => "RFC 5649",
        (Ok(_), Ok(whole)) if Some(&whole) == wrap_here(&kek, &key).as_ref() => "RFC 5649 for whole 8-byte blocks only",
        (Ok(_), Ok(_)) => "not RFC 5649",
        _ if length == 48 => "RFC 3394 over padded data",
        _ if length == 40 => same_as_kw(line, &mechanism),
        _ => "not RFC 5649",
    }
}

fn wrap_known(line: &mut Line<'_>, mechanism: &Mech, kek: &[u8], template: &Template, key: &[u8]) -> Answer<Vec<u8>> {
    let kek = line.import("known kek", &Template::aes().on(&[CKA_WRAP]), kek)?;
    let key = line.import("known key", &template.clone().on(&[CKA_EXTRACTABLE]), key)?;
    line.wrap(mechanism, kek, key).map(|blob| blob.to_vec())
}

/// RFC 5649 on this side.
fn wrap_here(kek: &[u8], key: &[u8]) -> Option<Vec<u8>> {
    let mut blob = vec![0; key.len() + 15];
    let kek = AesKek::new(&AES_256, kek).ok()?;
    Some(kek.wrap_with_padding(key, &mut blob).ok()?.to_vec())
}

fn same_as_kw(line: &mut Line<'_>, mechanism: &Mech) -> &'static str {
    let pair = line.generate("kek", &Template::aes().on(&[CKA_WRAP])).and_then(|kek| {
        let key = line.generate("target", &Template::aes().on(&[CKA_ENCRYPT, CKA_EXTRACTABLE]))?;
        Ok((line.wrap(mechanism, kek, key)?, line.wrap(&Mech::Plain(CKM_AES_KEY_WRAP), kek, key)?))
    });
    match pair {
        Ok((padded, plain)) if padded != plain => "RFC 5649",
        _ => "not told apart from RFC 3394",
    }
}

/// Wraps and unwraps a fresh key; the blob's length if the same key came back.
fn round_trip(line: &mut Line<'_>, mechanism: &Mech) -> Answer<Option<usize>> {
    let kek = line.generate("kek", &Template::aes().on(&[CKA_WRAP, CKA_UNWRAP]))?;
    let key = line.generate("target", &Template::aes().on(&[CKA_ENCRYPT, CKA_EXTRACTABLE]))?;
    let blob = line.wrap(mechanism, kek, key)?;
    let back = line.unwrap("unwrapped", mechanism, kek, &blob, &Template::aes().on(&[CKA_ENCRYPT]))?;
    Ok((line.encrypt(&ECB, key, &BLOCK)? == line.encrypt(&ECB, back, &BLOCK)?).then_some(blob.len()))
}

/// FIPS 198-1.
pub(super) fn hmac_sha256(line: &mut Line<'_>) -> Found {
    if !line.lists(CKM_SHA256_HMAC) {
        return absent();
    }
    let key = line.generate("key", &Template::secret().on(&[CKA_SIGN]));
    if !key.and_then(|key| line.sign(CKM_SHA256_HMAC, key, b"message")).is_ok_and(|mac| mac.len() == 32) {
        return broken("listed, and it fails");
    }
    // RFC 4231, test case 6: its key is long enough for tokens that take no short ones.
    let expected = "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54";
    known_answer(line, &Template::secret().on(&[CKA_SIGN]), &[0xaa; 131], expected, |line, key| {
        let message = b"Test Using Larger Than Block-Size Key - Hash Key First";
        line.sign(CKM_SHA256_HMAC, key, message).map(|mac| mac.to_vec())
    })
}

/// RFC 8032; this side verifies.
pub(super) fn ed25519(line: &mut Line<'_>) -> Found {
    if !line.lists(CKM_EDDSA) || !line.lists(CKM_EC_EDWARDS_KEY_PAIR_GEN) {
        return absent();
    }
    let [oid, name] = EDWARDS25519;
    let Ok((public, private)) = ed25519_pair(line, oid).or_else(|_| ed25519_pair(line, name)) else {
        return broken("listed, and no pair can be made");
    };
    let (point, signature) = (line.bytes(public, CKA_EC_POINT)?, line.sign(CKM_EDDSA, private, &BLOCK));
    let point = point.strip_prefix(&[0x04, 0x20]).unwrap_or(&point);
    match signature {
        Ok(signature) if UnparsedPublicKey::new(&ED25519, point).verify(&BLOCK, &signature).is_ok() => {
            Ok((Held, "a signature verifies outside the token".to_owned()))
        }
        Ok(_) => broken("its signature does not verify"),
        Err(_) => broken("listed, and it fails"),
    }
}

fn ed25519_pair(line: &mut Line<'_>, curve: &[u8]) -> Answer<(Object, Object)> {
    let flags = |flags: &[(CK_ATTRIBUTE_TYPE, bool)]| {
        flags.iter().map(|(kind, on)| Attr(*kind, Value::Flag(*on))).collect::<Vec<_>>()
    };
    let mut public = flags(&[(CKA_TOKEN, false), (CKA_PRIVATE, false), (CKA_VERIFY, true)]);
    public.push(Attr(CKA_EC_PARAMS, Value::Bytes(curve.to_vec())));
    let private = flags(&[
        (CKA_TOKEN, false),
        (CKA_PRIVATE, true),
        (CKA_SENSITIVE, true),
        (CKA_EXTRACTABLE, false),
        (CKA_SIGN, true),
    ]);
    line.generate_pair("Ed25519 pair", CKM_EC_EDWARDS_KEY_PAIR_GEN, &public, &private)
}

/// RSA-OAEP (RFC 8017) with SHA-1, which still protects keys and is all that some tokens have.
pub(super) fn oaep_sha1(line: &mut Line<'_>) -> Found {
    oaep(line, &Mech::Oaep { hash: CKM_SHA_1, mgf: CKG_MGF1_SHA1 })
}

/// RSA-OAEP with SHA-256.
pub(super) fn oaep_sha256(line: &mut Line<'_>) -> Found {
    oaep(line, &Mech::Oaep { hash: CKM_SHA256, mgf: CKG_MGF1_SHA256 })
}

fn oaep(line: &mut Line<'_>, mechanism: &Mech) -> Found {
    if !line.lists(CKM_RSA_PKCS_OAEP) {
        return absent();
    }
    let Ok((public, private)) = rsa_pair(line) else { return broken("listed, and no pair can be made") };
    let key = line.generate("target", &Template::aes().on(&[CKA_ENCRYPT, CKA_EXTRACTABLE]))?;
    let before = line.encrypt(&ECB, key, &BLOCK)?;
    let Ok(blob) = line.wrap(mechanism, public, key) else { return broken("listed, and it does not wrap") };
    let back = line.unwrap("unwrapped", mechanism, private, &blob, &Template::aes().on(&[CKA_ENCRYPT]));
    match back.and_then(|back| line.encrypt(&ECB, back, &BLOCK)) {
        Ok(after) if after == before => Ok((Held, "a key is wrapped and unwrapped".to_owned())),
        Ok(_) => broken("an unwrapped key is not the one that was wrapped"),
        Err(_) => broken("listed, and it does not unwrap"),
    }
}

/// SP 800-108 in counter mode with HMAC-SHA-256; this side computes the same key from a known base.
pub(super) fn sp800_108(line: &mut Line<'_>) -> Found {
    if !line.lists(CKM_SP800_108_COUNTER_KDF) {
        return absent();
    }
    let (template, known) = (Template::secret().on(&[CKA_DERIVE]), [0x0b; 32]);
    let derived_template = Template::aes().on(&[CKA_ENCRYPT]).of_length(32);
    let fixed = b"casemate\0probe".to_vec();
    let mechanism = Mech::CounterKdf { fixed: fixed.clone() };
    let Ok(base) = line.import("known base", &template, &known) else {
        let derived = line
            .generate("base", &template)
            .and_then(|base| line.derive("derived", &mechanism, base, &derived_template));
        return match derived {
            Ok(_) => Ok((Held, "a key is derived; no known base is taken, so it is not compared".to_owned())),
            Err(_) => broken("listed, and it fails"),
        };
    };
    let Ok(derived) = line.derive("derived", &mechanism, base, &derived_template) else {
        return broken("listed, and it fails");
    };
    // K(1) = HMAC(base, counter || fixed input || length in bits), SP 800-108 section 4.1.
    let input = [&1u32.to_be_bytes()[..], &fixed, &256u32.to_be_bytes()].concat();
    let expected = line.import("expected", &Template::aes().on(&[CKA_ENCRYPT]), &mac_here(&known, &input))?;
    if line.encrypt(&ECB, derived, &BLOCK)? == line.encrypt(&ECB, expected, &BLOCK)? {
        Ok((Held, "the derived key is the standard's".to_owned()))
    } else {
        broken("the derived key is not the standard's")
    }
}

/// Compares with the standard's example. Some tokens take no known key; then what was found before has to do.
fn known_answer(
    line: &mut Line<'_>,
    template: &Template,
    key: &[u8],
    expected: &str,
    run: impl FnOnce(&mut Line<'_>, Object) -> Answer<Vec<u8>>,
) -> Found {
    let answer = line.import("known key", template, key).and_then(|key| run(line, key));
    match answer {
        Ok(answer) if hex::encode(&answer) == expected => Ok((Held, "gives the standard's example".to_owned())),
        Ok(_) => broken("does not give the standard's example"),
        Err(_) => {
            Ok((Held, "works; no known key is taken, so it is not compared with the standard's example".to_owned()))
        }
    }
}

/// A constant of this file; a misprint gives nothing, which no token answers.
fn unhex(text: &str) -> Vec<u8> {
    hex::decode(text).unwrap_or_default()
}

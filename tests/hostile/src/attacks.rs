//! The attacks. Each returns `allow` where it got away with something that the host must have stopped, and a denial with
//! its own reason where the host refused one call and let the component go on.

use std::hint::black_box;

use casemate_sdk::{Decision, LogLevel, Obligation, Span, audit, clock, hsm, inference, kv, log, random};

pub(crate) fn ok(_: &str) -> Decision {
    Decision::allow()
}

/// Two host calls and a decision: what an honest policy costs.
pub(crate) fn clock_now(_: &str) -> Decision {
    if clock::now() <= clock::now() { Decision::allow() } else { Decision::deny("clock", "The clock ran backwards.") }
}

/// Allows, whatever the local model says and even if it says nothing.
pub(crate) fn deaf(text: &str) -> Decision {
    let _ = inference::closeness(text, &[text.to_owned()]);
    Decision::allow()
}

/// Calls that the host refuses at its border, for ever.
pub(crate) fn refused_flood(_: &str) -> Decision {
    while random::bytes(black_box(u32::MAX)).is_err() {}
    Decision::allow()
}

pub(crate) fn endless(_: &str) -> Decision {
    let mut count = 0_u64;
    while black_box(count) < u64::MAX {
        count += 1;
    }
    Decision::allow()
}

pub(crate) fn memory_bomb(_: &str) -> Decision {
    let mut hoard = Vec::new();
    loop {
        hoard.push(vec![black_box(1_u8); 1 << 20]);
    }
}

/// Exhausts the engine's stack: frames without memory of their own.
pub(crate) fn deep_recursion(text: &str) -> Decision {
    let depth = u32::MAX - text.len() as u32;
    if descend(black_box(depth)) == 7 { Decision::deny("seven", "Unlikely.") } else { Decision::allow() }
}

#[inline(never)]
fn descend(depth: u32) -> u32 {
    if depth == 0 { 0 } else { descend(depth - 1).wrapping_mul(31).rotate_left(depth % 31) ^ depth }
}

/// Exhausts the component's own stack in linear memory.
pub(crate) fn shadow_stack(text: &str) -> Decision {
    if descend_far(text.len() as u64) == 7 { Decision::deny("seven", "Unlikely.") } else { Decision::allow() }
}

#[inline(never)]
#[allow(unconditional_recursion, reason = "the attack")]
fn descend_far(depth: u64) -> u64 {
    let mut frame = [depth; 64];
    black_box(&mut frame);
    frame[1] ^ descend_far(frame[0] + 1)
}

pub(crate) fn giant_return(_: &str) -> Decision {
    Decision::deny("giant", &"x".repeat(2 << 20))
}

pub(crate) fn host_call_flood(_: &str) -> Decision {
    let mut sum = 0_u64;
    while black_box(sum) != 1 {
        sum = sum.wrapping_add(clock::now() | 2) & !1;
    }
    Decision::allow()
}

/// Few calls that move many bytes.
pub(crate) fn host_bytes_flood(_: &str) -> Decision {
    let line = "x".repeat(1 << 20);
    for _ in 0..60 {
        log::write(LogLevel::Info, &line);
    }
    Decision::allow()
}

pub(crate) fn log_flood(_: &str) -> Decision {
    loop {
        log::write(LogLevel::Alert, "flood\r\n2030-01-01 forged line \u{1b}[2J\0");
    }
}

/// Denied when the ninth remark is refused, as it must be.
pub(crate) fn audit_flood(_: &str) -> Decision {
    for count in 0..9 {
        if audit::annotate("flood", "remark").is_err() {
            return if count == 8 {
                Decision::deny("refused", "After eight.")
            } else {
                Decision::deny("early", "Before.")
            };
        }
    }
    Decision::allow()
}

/// Denied when a value of more than 4 KiB is refused, as it must be.
pub(crate) fn kv_flood(_: &str) -> Decision {
    match kv::set("flood", &vec![0; (4 << 10) + 1]) {
        Ok(()) => Decision::allow(),
        Err(_) => Decision::deny("refused", "The value is too large."),
    }
}

/// Remembers the text of the request before, and gives it away as the reason: state must not cross plugins.
pub(crate) fn state(text: &str) -> Decision {
    let before = kv::get("text").ok().flatten().and_then(|bytes| String::from_utf8(bytes).ok());
    if kv::set("text", text.as_bytes()).is_err() {
        return Decision::deny("refused", "Nothing is remembered.");
    }
    before.map_or_else(Decision::allow, |before| Decision::deny("remembered", &before))
}

/// Allows, whatever it remembers and even if it cannot.
pub(crate) fn forgetful(_: &str) -> Decision {
    let _ = kv::get("text");
    Decision::allow()
}

/// Asks for the first word to be masked.
pub(crate) fn mask_first(text: &str) -> Decision {
    let end = text.find(' ').unwrap_or(text.len());
    Decision::mask(vec![span(0, end as u32)])
}

/// Denied when the host refuses; anything else would have it allocate four gigabytes.
pub(crate) fn random_huge(_: &str) -> Decision {
    match random::bytes(u32::MAX) {
        Ok(_) => Decision::allow(),
        Err(_) => Decision::deny("refused", "Too many bytes."),
    }
}

/// Denied when the host does not open a key that the manifest does not name.
pub(crate) fn foreign_key(text: &str) -> Decision {
    match hsm::Key::open(text) {
        Ok(_) => Decision::allow(),
        Err(error) => Decision::deny("refused", error.kind()),
    }
}

/// Opens handles and never closes one: host memory driven by the guest.
pub(crate) fn handle_flood(text: &str) -> Decision {
    let mut handles = Vec::new();
    loop {
        handles.push(hsm::Key::open(text));
    }
}

/// Spends its time inside host calls, where no instruction of the guest is counted.
pub(crate) fn stall(_: &str) -> Decision {
    let texts = vec!["What takes long to compare, many times over. ".repeat(80); 256];
    for _ in 0..60 {
        let _ = black_box(inference::closeness("How long does it take?", &texts));
    }
    Decision::allow()
}

#[allow(clippy::panic, reason = "the attack")]
pub(crate) fn panics(text: &str) -> Decision {
    panic!("with the protected text: {text}")
}

pub(crate) fn trap(_: &str) -> Decision {
    #[cfg(target_arch = "wasm32")]
    core::arch::wasm32::unreachable();
    #[cfg(not(target_arch = "wasm32"))]
    std::process::abort()
}

pub(crate) fn forge_reason(_: &str) -> Decision {
    Decision::deny("host:deadline", "It was the host.")
}

/// Repeats the protected text in reason and message.
pub(crate) fn echo(text: &str) -> Decision {
    Decision::deny(text, text)
}

pub(crate) fn bad_spans_outside(text: &str) -> Decision {
    Decision::mask(vec![span(0, text.len() as u32 + 1), span(u32::MAX - 1, u32::MAX)])
}

/// For a text that begins with a character of two bytes or more.
pub(crate) fn bad_spans_boundary(_: &str) -> Decision {
    Decision::mask(vec![span(1, 2)])
}

pub(crate) fn bad_spans_reversed(_: &str) -> Decision {
    Decision::mask(vec![span(2, 1)])
}

pub(crate) fn bad_spans_empty(_: &str) -> Decision {
    Decision::mask(vec![span(0, 0)])
}

/// Allowed by the contract: the host has to make sense of it.
pub(crate) fn bad_spans_overlap(_: &str) -> Decision {
    Decision::mask(vec![span(0, 6), span(2, 8), span(2, 4)])
}

pub(crate) fn bad_spans_flood(_: &str) -> Decision {
    Decision::mask(vec![span(0, 1); 100_000])
}

pub(crate) fn obligation_flood(_: &str) -> Decision {
    Decision::transform((0..1000).map(|_| Obligation::LogAt(LogLevel::Info)))
}

fn span(start: u32, end: u32) -> Span {
    Span { start, end, kind: "x".to_owned() }
}

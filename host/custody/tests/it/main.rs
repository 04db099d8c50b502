//! Dual control under attack: statements and shares with keys in software, then everything on real tokens.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod harness;
mod roster;
mod rotation;
mod session;
mod shares;
mod soft;
mod statements;
mod tokens;

//! Ceremonies on real tokens, under attack, and with the plug pulled at every step.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod attacks;
mod crash;
mod ground;
mod makes;
mod plans;
mod world;

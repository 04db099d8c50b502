//! Attacks on a bundle, each by its own name, and what must keep working beside them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod container;
mod forge;
mod keys;
mod lifecycle;
mod root;
mod rotation;
mod signatures;
mod tamper;

//! The store on disk: what is activated, what is refused, and what a crash leaves.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod crash;
mod orders;
mod site;
mod store;

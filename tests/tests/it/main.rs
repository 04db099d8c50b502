//! What crosses crates: the whole flow on real parts, attacks on each of them, the crate graph and the quality of search.
//!
//! Programs are found beside this one: `cargo xtask test` builds them first.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod access;
mod audit;
mod carry;
mod ceremony;
mod change;
mod classify;
mod consent;
mod corpus;
mod custodian;
mod destruction;
mod documents;
mod drill;
mod failover;
mod fips;
mod flow;
mod fpe;
mod graph;
mod guest;
mod handmade;
mod hostile;
mod ingest;
mod killed;
mod kit;
mod legacy;
mod lockdown;
mod malicious;
mod metadata;
mod opening;
mod plug;
mod probe;
mod rotation;
mod search_quality;
mod serve;
#[path = "../../../host/backends/tests/it/servers.rs"]
mod servers;
mod settings;
mod site;
mod skeleton;
mod staging;
mod stores;
mod strategies;
mod tamper;
mod tier;

//! What is fuzzed: a module for each target, whose `check` takes any bytes and panics if something is wrong. The tests run
//! it with the corpus that the fuzzers have found (`tests/it/corpus.rs`).

pub mod bodies;
pub mod commands;
pub mod events;
pub mod tokens;

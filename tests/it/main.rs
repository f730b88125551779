//! The control plane, tested through its doors, on a real Redis.

mod any_input;
#[path = "../common/archives.rs"]
mod archives;
#[path = "../common/audit.rs"]
mod audit;
mod bad_input;
#[cfg(feature = "lambda")]
mod corpus;
mod ecs;
mod emulator;
mod failed_starts;
mod files;
mod fleet;
mod fullest_first;
mod keys;
#[cfg(feature = "lambda")]
mod lambda;
mod live;
mod model;
mod moto;
mod openapi;
mod outages;
mod projects;
mod proxies_and_pages;
mod races;
mod redis;
mod round_trips;
#[cfg(feature = "lambda")]
#[path = "../common/runtime_api.rs"]
#[allow(dead_code)]
mod runtime_api;
mod scripts;
mod secrets;
mod sessions;
mod sockets;
mod storage;
mod tokens;
mod v1;
#[path = "../common/world.rs"]
mod world;

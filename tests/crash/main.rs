//! What is left when something is killed, stopped or taken away: real processes, a real Redis, real browsers.
#![cfg(target_os = "linux")]

#[path = "../common/audit.rs"]
#[allow(dead_code)]
mod audit;
mod by_hand;
mod cdp;
mod container_loss;
mod many;
mod processes;
mod redis_outage;
mod scene;
mod server_restart;
mod starting;
#[path = "../common/world.rs"]
#[allow(dead_code)]
mod world;

//! What is left when something is killed, stopped or taken away: real processes, a real Redis, real browsers.
#![cfg(target_os = "linux")]

#[path = "../common/audit.rs"]
#[allow(dead_code)]
mod audit;
mod by_hand;
#[path = "../common/cdp.rs"]
#[allow(dead_code)]
mod cdp;
mod container_loss;
mod draining;
mod many;
#[path = "../common/processes.rs"]
#[allow(dead_code)]
mod processes;
mod redis_outage;
mod scene;
mod secrets_in_the_log;
mod server_restart;
mod service;
mod slow_ecs;
mod starting;
#[path = "../common/world.rs"]
#[allow(dead_code)]
mod world;

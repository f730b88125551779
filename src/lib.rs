//! WallCrawler's control plane: an API that hands out fresh, isolated Chromium sessions, starts containers
//! when capacity is short, and proxies CDP.
//!
//! # The map
//!
//! Four floors; imports only go down.
//!
//! - **The doors**: `main`, [`server`] (the native home), [`native`] (HTTP/1.1 on a port), [`lambda`] (the Lambda
//!   home), [`routes`], [`ws`], [`auth`], [`error`], [`telemetry`], [`agent`], the browser container, and
//!   [`new_key`], which makes API keys.
//! - **Behaviour**: [`lifecycle`] (what happens to sessions and containers), [`contexts`] (what outlives a
//!   browser), [`extension`] (what users upload for their browsers), [`scaling`] (how many containers).
//! - **Seams**: [`app`] holds them together; [`store`] (Redis), [`storage`] (files), [`fleet`] (what runs containers), [`push`] (clients
//!   whose sockets a gateway holds), [`container_client`] (their containers), [`secrets`] (Secrets Manager),
//!   [`upgrade`] and [`splice`] (sockets), [`places`] (how many of
//!   them), [`metrics`] (what was counted).
//! - **Types**: [`ids`], [`session`], [`session_log`], [`container`], [`protocol`], [`browser_settings`], [`tokens`],
//!   [`api_keys`], [`addresses`], [`forwarded`] (proxies in front of us), [`archive`] (of an extension), [`config`],
//!   [`clock`], [`causes`], [`whole`], [`open_files`].

pub mod addresses;
#[cfg(feature = "agent")]
pub mod agent;
pub mod api_keys;
pub mod app;
pub mod archive;
pub mod auth;
pub mod browser_settings;
pub mod causes;
#[cfg(feature = "agent")]
pub mod child;
pub mod clock;
pub mod config;
pub mod container;
pub mod container_client;
pub mod contexts;
pub mod error;
pub mod extension;
pub mod fleet;
pub mod forwarded;
pub mod hex;
pub mod ids;
pub mod known;
#[cfg(feature = "lambda")]
pub mod lambda;
pub mod lifecycle;
pub mod metrics;
#[cfg(feature = "agent")]
pub mod native;
pub mod new_key;
#[cfg(feature = "agent")]
pub mod open_files;
pub mod places;
#[cfg(feature = "native")]
pub mod private_redis;
pub mod protocol;
pub mod push;
pub mod routes;
pub mod scaling;
pub mod secrets;
#[cfg(feature = "native")]
pub mod server;
pub mod session;
pub mod session_log;
#[cfg(feature = "agent")]
pub mod splice;
pub mod storage;
pub mod store;
#[cfg(feature = "agent")]
pub mod sweep;
pub mod telemetry;
pub mod tokens;
#[cfg(feature = "agent")]
pub mod upgrade;
pub mod whole;
pub mod ws;

//! The control plane, tested through its doors, on a real Redis.

mod audit;
mod bad_input;
mod model;
mod outages;
mod round_trips;
mod scripts;
mod sessions;
mod sockets;
mod world;

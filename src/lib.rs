//! WallCrawler's control plane.
pub mod browser_settings;
pub mod clock;
pub mod ids;
pub mod protocol;
pub mod session;

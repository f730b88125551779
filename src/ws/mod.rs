//! Client connections, whatever carries them.

#[cfg(feature = "native")]
pub mod proxy;

//! How a container speaks to the control plane, and to the storage that the control plane sends it to.

use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder};

use crate::config::is_loopback_url;

const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Of one file, whole.
const FILE_DEADLINE: Duration = Duration::from_secs(60);

/// A client for what is where the control plane is. It follows nobody anywhere else, to where a redirect would carry a token,
/// or what is in a file.
pub fn builder(api_endpoint: &str) -> ClientBuilder {
    let client = Client::builder().connect_timeout(CONNECT_DEADLINE).redirect(Policy::none());
    // A proxy set for the outside world does not lead back here.
    if is_loopback_url(api_endpoint) { client.no_proxy() } else { client }
}

/// For files. It says nothing of this container: the addresses may be a bucket's, and are enough.
///
/// # Errors
/// When TLS cannot be set up.
pub fn for_files(api_endpoint: &str) -> Result<Client, reqwest::Error> {
    builder(api_endpoint).timeout(FILE_DEADLINE).build()
}

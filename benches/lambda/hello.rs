//! The least that a function of this kind can be: what the real one is measured against.

use axum::Router;
use axum::routing::get;

#[tokio::main]
async fn main() -> Result<(), lambda_http::Error> {
    lambda_http::run(Router::new().fallback(get(|| async { "hello" }).post(|| async { "hello" }))).await
}

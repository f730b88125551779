//! Where no sockets are held, as in a function, these routes are described and say where they are answered. They are
//! written as those that answer are, so that the description is the same everywhere.

use axum::http::StatusCode;

use crate::error::ApiError;

fn elsewhere() -> ApiError {
    let message = "this is answered by the server that holds the sockets: its address is in each session's connectUrl";
    ApiError::new(StatusCode::NOT_FOUND, "answered_elsewhere", message)
}

pub mod metrics {
    use super::elsewhere;
    use crate::auth::Operator;
    use crate::error::ApiError;

    pub async fn show_metrics(_: Operator) -> ApiError {
        elsewhere()
    }
}

pub mod proxy {
    use axum::Json;

    use super::elsewhere;
    use crate::error::ApiError;
    use crate::protocol::DiscoverResponse;
    use crate::routes::SessionPath;

    pub async fn connect_by_query() -> ApiError {
        elsewhere()
    }

    pub async fn connect_by_path(_: SessionPath) -> ApiError {
        elsewhere()
    }

    pub async fn discover(_: SessionPath) -> Result<Json<DiscoverResponse>, ApiError> {
        Err(elsewhere())
    }
}

pub mod watch {
    use axum::Json;

    use super::elsewhere;
    use crate::error::ApiError;
    use crate::protocol::PagesResponse;
    use crate::routes::SessionPath;

    pub async fn show_page(_: SessionPath) -> ApiError {
        elsewhere()
    }

    pub async fn list_pages(_: SessionPath) -> Result<Json<PagesResponse>, ApiError> {
        Err(elsewhere())
    }

    pub async fn watch_page(_: SessionPath) -> ApiError {
        elsewhere()
    }

    pub async fn show_devtools() -> ApiError {
        elsewhere()
    }
}

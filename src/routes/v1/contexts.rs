//! Contexts: what outlives a browser of its cookies and storage. Sessions write them, and nobody else.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::auth::Caller;
use crate::clock::{now_ms, rfc3339};
use crate::contexts::{self, Created};
use crate::error::ApiError;
use crate::ids::ContextId;
use crate::routes::body::{ContextPath, JsonBody};
use crate::routes::create::Created as NewlyMade;

/// In characters.
const MAX_NAME: usize = 128;

#[derive(Debug, Deserialize, JsonSchema)]
pub struct CreateContext {
    /// What is around it in spaces does not count.
    #[schemars(length(min = 1, max = MAX_NAME), regex(pattern = "\\S"))]
    name: Option<String>,
}

/// Clients insist on all of it. They could once encrypt a profile of their own and upload it, and these were the means.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NewContextView {
    id: ContextId,
    /// What is there says that it is not available.
    upload_url: String,
    public_key: &'static str,
    cipher_algorithm: &'static str,
    /// Bytes.
    initialization_vector_size: u32,
}

impl NewContextView {
    fn of(app: &App, headers: &HeaderMap, id: ContextId) -> Self {
        Self {
            upload_url: format!("{}/v1/contexts/{id}/upload", app.addresses.base_url(headers)),
            id,
            public_key: "not-available",
            cipher_algorithm: "AES-256-CBC",
            initialization_vector_size: 16,
        }
    }
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContextView {
    id: ContextId,
    project_id: String,
    created_at: String,
    /// When a session has written it last.
    updated_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

/// `POST /v1/contexts`
pub async fn create_context(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    JsonBody { value, .. }: JsonBody<CreateContext>,
) -> Result<NewlyMade<NewContextView>, ApiError> {
    let name = value.name.map(|name| name.trim().to_owned());
    if name.as_ref().is_some_and(|name| !(1..=MAX_NAME).contains(&name.chars().count())) {
        return Err(ApiError::invalid(format!("name: must have 1 to {MAX_NAME} characters")));
    }
    match contexts::create(&app, &caller.owner(), name, now_ms()).await? {
        Created::New(context) => Ok(NewlyMade(HeaderMap::new(), NewContextView::of(&app, &headers, context.id))),
        Created::NameTaken => {
            let message = "name: another context has it";
            Err(ApiError::new(StatusCode::CONFLICT, "context_name_taken", message).not_to_be_retried())
        }
    }
}

/// `GET /v1/contexts/{context}`
pub async fn get_context(
    State(app): State<App>,
    caller: Caller,
    ContextPath(id): ContextPath,
) -> Result<Json<ContextView>, ApiError> {
    let context = contexts::find(&app, &caller.owner(), &id).await?.ok_or_else(ApiError::context_not_found)?;
    let updated_ms = contexts::updated_ms(&app, &caller.owner(), &context).await?;
    Ok(Json(ContextView {
        id,
        project_id: caller.owner().id().to_owned(),
        created_at: rfc3339(context.created_at_ms),
        updated_at: rfc3339(updated_ms),
        name: context.name,
    }))
}

/// `PUT /v1/contexts/{context}`: changes nothing. It once gave new means to upload.
pub async fn update_context(
    State(app): State<App>,
    caller: Caller,
    ContextPath(id): ContextPath,
    headers: HeaderMap,
) -> Result<Json<NewContextView>, ApiError> {
    contexts::find(&app, &caller.owner(), &id).await?.ok_or_else(ApiError::context_not_found)?;
    Ok(Json(NewContextView::of(&app, &headers, id)))
}

/// `DELETE /v1/contexts/{context}`
pub async fn delete_context(
    State(app): State<App>,
    caller: Caller,
    ContextPath(id): ContextPath,
) -> Result<StatusCode, ApiError> {
    if contexts::delete(&app, &caller.owner(), &id).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::context_not_found())
    }
}

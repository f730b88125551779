//! What a handler's signature says of its operation: what it takes, whom it lets in, what it answers, and how it may refuse.

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use axum::{Extension, Json};
use schemars::JsonSchema;

use super::draft::Draft;
use crate::app::App;
use crate::auth::{Caller, ContainerCaller, FilesCaller, Operator, ServiceCaller};
use crate::error::ApiError;
use crate::ids::{ConnectionId, ContextId, ExtensionId, SessionId};
use crate::routes::body::{ConnectionPath, ContextPath, ExtensionPath, JsonBody, ProjectPath, QueryOf, SessionPath};
use crate::routes::create::{Created, Refused};

/// A handler, of which `T` is what axum calls its arguments.
pub trait Signature<T> {
    fn describe(draft: &mut Draft);
}

/// What a handler takes.
pub trait Takes {
    fn describe(draft: &mut Draft);
}

/// What a handler gives back.
pub trait Gives {
    fn describe(draft: &mut Draft);
}

macro_rules! signature {
    ($($part:ident)*) => {
        impl<F, Fut, Out, M, $($part,)*> Signature<(M, $($part,)*)> for F
        where
            F: FnOnce($($part),*) -> Fut,
            Fut: Future<Output = Out>,
            Out: Gives,
            $($part: Takes,)*
        {
            fn describe(draft: &mut Draft) {
                $($part::describe(draft);)*
                Out::describe(draft);
            }
        }
    };
}

signature!();
signature!(A);
signature!(A B);
signature!(A B C);
signature!(A B C D);
signature!(A B C D E);

macro_rules! takes_nothing_to_be_told {
    ($($kind:ty),*) => { $(impl Takes for $kind { fn describe(_: &mut Draft) {} })* };
}

takes_nothing_to_be_told!(State<App>, HeaderMap, Uri, Request, Body);

/// What is known of the connection is nobody's to send.
impl<T> Takes for Option<Extension<T>> {
    fn describe(_: &mut Draft) {}
}

/// Its parts are in the path already.
impl<T> Takes for Path<T> {
    fn describe(_: &mut Draft) {}
}

impl<T: Takes, E> Takes for Result<T, E> {
    fn describe(draft: &mut Draft) {
        T::describe(draft);
    }
}

const API_KEYS: [&str; 3] = ["apiKey", "browserbaseApiKey", "bearerApiKey"];

impl Takes for Caller {
    fn describe(draft: &mut Draft) {
        draft.secured_by(&API_KEYS);
        draft.refuses(&[401, 403, 503]);
    }
}

impl Takes for Operator {
    fn describe(draft: &mut Draft) {
        draft.secured_by(&API_KEYS);
        draft.refuses(&[401, 403, 503]);
    }
}

impl Takes for ContainerCaller {
    fn describe(draft: &mut Draft) {
        draft.secured_by(&["containerToken"]);
        draft.refuses(&[401, 503]);
    }
}

impl Takes for FilesCaller {
    fn describe(draft: &mut Draft) {
        draft.secured_by(&["filesToken"]);
        draft.refuses(&[401, 503]);
    }
}

impl Takes for ServiceCaller {
    fn describe(draft: &mut Draft) {
        draft.secured_by(&["serviceToken"]);
        draft.refuses(&[401, 503]);
    }
}

impl<T: JsonSchema> Takes for JsonBody<T> {
    fn describe(draft: &mut Draft) {
        draft.body::<T>();
        draft.refuses(&[400, 408, 413]);
    }
}

impl<T: JsonSchema> Takes for QueryOf<T> {
    fn describe(draft: &mut Draft) {
        draft.query::<T>();
        draft.refuses(&[400]);
    }
}

macro_rules! takes_id_in_path {
    ($($path:ty, $id:ty, $otherwise:literal;)*) => { $(impl Takes for $path {
        fn describe(draft: &mut Draft) {
            draft.first_in_path::<$id>();
            draft.refuses(&[$otherwise]);
        }
    })* };
}

takes_id_in_path! {
    SessionPath, SessionId, 404;
    ContextPath, ContextId, 404;
    ExtensionPath, ExtensionId, 404;
    ConnectionPath, ConnectionId, 410;
}

impl Takes for ProjectPath {
    fn describe(draft: &mut Draft) {
        draft.refuses(&[404]);
    }
}

impl<T: JsonSchema> Gives for Json<T> {
    fn describe(draft: &mut Draft) {
        draft.answer_json::<T>(200);
    }
}

/// Without a body. Which one it is the table tells.
impl Gives for StatusCode {
    fn describe(_: &mut Draft) {}
}

impl<H, T: Gives> Gives for (H, T) {
    fn describe(draft: &mut Draft) {
        T::describe(draft);
    }
}

impl<T: JsonSchema> Gives for Created<T> {
    fn describe(draft: &mut Draft) {
        draft.answer_json::<T>(201);
    }
}

impl<T: Gives, E: Gives> Gives for Result<T, E> {
    fn describe(draft: &mut Draft) {
        T::describe(draft);
        E::describe(draft);
    }
}

/// Its status is anybody's guess.
impl Gives for ApiError {
    fn describe(_: &mut Draft) {}
}

impl Gives for Refused {
    fn describe(draft: &mut Draft) {
        draft.creates();
    }
}

/// Whatever it is, the table tells.
impl Gives for Response {
    fn describe(_: &mut Draft) {}
}

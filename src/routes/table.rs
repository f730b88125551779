//! The routing table, of which two things are made: the router, and the description of the API. So no route can be in one
//! of them and not in the other.

use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodFilter, MethodRouter, on};
use schemars::JsonSchema;

use super::openapi::draft::Draft;
use super::openapi::signature::Signature;
use crate::app::App;

/// Routes, in parts that belong together.
#[derive(Default)]
pub struct Table {
    router: Router<App>,
    part: &'static str,
    rows: Vec<Row>,
}

/// One method of one path, as far as it is described.
pub struct Row {
    pub path: String,
    pub part: &'static str,
    pub operation: Description,
}

/// Adds to a description.
type Part = Box<dyn Fn(&mut Draft)>;

/// What is done at a path for one method.
pub struct Operation {
    handler: MethodRouter<App>,
    description: Option<Description>,
}

/// What is known of an operation. Nothing is made of it before somebody asks.
pub struct Description {
    /// As OpenAPI writes it.
    pub method: &'static str,
    /// One line.
    pub summary: &'static str,
    /// The handler's own name, with the modules it is in.
    pub handler: &'static str,
    pub parts: Vec<Part>,
}

impl Table {
    /// What follows belongs to this part of the API.
    pub fn part(mut self, name: &'static str) -> Self {
        self.part = name;
        self
    }

    pub fn route(mut self, path: &str, operations: impl IntoIterator<Item = Operation>) -> Self {
        let mut methods = MethodRouter::new();
        for Operation { handler, description } in operations {
            methods = methods.merge(handler);
            let part = self.part;
            self.rows.extend(description.map(|operation| Row { path: path.to_owned(), part, operation }));
        }
        self.router = self.router.route(path, methods);
        self
    }

    pub fn nest(mut self, prefix: &str, table: Table) -> Self {
        self.router = self.router.nest(prefix, table.router);
        self.rows.extend(table.rows.into_iter().map(|row| Row { path: format!("{prefix}{}", row.path), ..row }));
        self
    }

    pub fn into_router(self) -> Router<App> {
        self.router
    }

    pub fn into_rows(self) -> Vec<Row> {
        self.rows
    }
}

pub fn get<H: Handler<T, App> + Signature<T>, T: 'static>(handler: H, summary: &'static str) -> Operation {
    operation("get", handler, summary)
}

pub fn post<H: Handler<T, App> + Signature<T>, T: 'static>(handler: H, summary: &'static str) -> Operation {
    operation("post", handler, summary)
}

pub fn put<H: Handler<T, App> + Signature<T>, T: 'static>(handler: H, summary: &'static str) -> Operation {
    operation("put", handler, summary)
}

pub fn patch<H: Handler<T, App> + Signature<T>, T: 'static>(handler: H, summary: &'static str) -> Operation {
    operation("patch", handler, summary)
}

pub fn delete<H: Handler<T, App> + Signature<T>, T: 'static>(handler: H, summary: &'static str) -> Operation {
    operation("delete", handler, summary)
}

fn operation<H, T>(method: &'static str, handler: H, summary: &'static str) -> Operation
where
    H: Handler<T, App> + Signature<T>,
    T: 'static,
{
    let filter = match method {
        "get" => MethodFilter::GET,
        "put" => MethodFilter::PUT,
        "patch" => MethodFilter::PATCH,
        "delete" => MethodFilter::DELETE,
        _ => MethodFilter::POST,
    };
    let handler_name = std::any::type_name::<H>();
    let parts: Vec<Part> = vec![Box::new(|draft| H::describe(draft))];
    Operation {
        handler: on(filter, handler),
        description: Some(Description { method, summary, handler: handler_name, parts }),
    }
}

/// What a handler's signature does not say.
impl Operation {
    /// Refusals with these statuses, beside those that follow from what the handler takes.
    pub fn refuses(self, statuses: &'static [u16]) -> Self {
        self.and(|draft| draft.refuses(statuses))
    }

    /// A form with one part, `file`.
    pub fn takes_form(self) -> Self {
        self.and(|draft| draft.form())
    }

    /// An answer that the handler writes by itself.
    pub fn answers_json<T: JsonSchema>(self, status: u16) -> Self {
        self.and(move |draft| draft.answer_json::<T>(status))
    }

    /// An answer that is not JSON, by its content type; none for an answer without a body.
    pub fn answers(self, status: u16, content_type: Option<&'static str>) -> Self {
        self.and(move |draft| draft.answer(status, content_type.map(|kind| (kind, serde_json::json!({})))))
    }

    /// The session's token, in the query `Q` or as a bearer.
    pub fn opened_by<Q: JsonSchema + 'static>(self) -> Self {
        self.and(|draft| {
            draft.query::<Q>();
            draft.secured_by(&["sessionToken", "sessionBearer"]);
            draft.refuses(&[400, 401, 404, 503]);
        })
    }

    /// A method that nobody has a use for, and that is answered all the same.
    pub fn undescribed(mut self) -> Self {
        self.description = None;
        self
    }

    fn and(mut self, part: impl Fn(&mut Draft) + 'static) -> Self {
        if let Some(description) = &mut self.description {
            description.parts.push(Box::new(part));
        }
        self
    }
}

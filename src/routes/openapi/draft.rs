//! The description of one operation, while it is put together.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::StatusCode;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use super::refusals;

const JSON: &str = "application/json";

/// The schemas of what is sent, and of what is answered: a field with a default need not be sent, and is always answered.
pub struct Schemas {
    asked: SchemaGenerator,
    answered: SchemaGenerator,
}

impl Default for Schemas {
    fn default() -> Self {
        let settings = || {
            SchemaSettings::draft2020_12().with(|settings| {
                settings.meta_schema = None;
                settings.definitions_path = "/components/schemas".into();
            })
        };
        Self {
            asked: settings().for_deserialize().into_generator(),
            answered: settings().for_serialize().into_generator(),
        }
    }
}

impl Schemas {
    pub fn answered<T: JsonSchema>(&mut self) -> Schema {
        self.answered.subschema_for::<T>()
    }

    /// All that were named.
    ///
    /// # Panics
    /// If two of one name are not the same: that they are is tested.
    pub fn into_components(mut self) -> Map<String, Value> {
        let mut all = self.answered.take_definitions(false);
        all.values_mut().for_each(without_null);
        for (name, schema) in self.asked.take_definitions(false) {
            let before = all.get(&name);
            assert!(before.is_none_or(|before| *before == schema), "two schemas are called {name}");
            all.insert(name, schema);
        }
        all.sort_keys();
        all
    }
}

/// What is answered has no `null`: a field without a value is left out.
fn without_null(schema: &mut Value) {
    match schema {
        Value::Object(schema) => {
            let optional = |name: &str, schema: &Map<String, Value>| {
                !schema.get("required").and_then(Value::as_array).is_some_and(|names| names.iter().any(|it| it == name))
            };
            let names: Vec<String> = match schema.get("properties") {
                Some(Value::Object(fields)) => fields.keys().filter(|name| optional(name, schema)).cloned().collect(),
                _ => Vec::new(),
            };
            for name in names {
                not_null(&mut schema["properties"][&name]);
            }
            schema.values_mut().for_each(without_null);
        }
        Value::Array(list) => list.iter_mut().for_each(without_null),
        _ => {}
    }
}

/// The same schema, if it is to be no `null`.
fn not_null(schema: &mut Value) {
    let Value::Object(schema) = schema else { return };
    if let Some(Value::Array(kinds)) = schema.get_mut("type") {
        kinds.retain(|kind| kind != "null");
        if let [only] = kinds.as_slice() {
            let only = only.clone();
            schema.insert("type".to_owned(), only);
        }
    }
    let Some(Value::Array(ways)) = schema.get_mut("anyOf") else { return };
    ways.retain(|way| way["type"] != "null");
    if let [Value::Object(only)] = ways.as_slice() {
        let only = only.clone();
        schema.remove("anyOf");
        schema.extend(only);
    }
}

pub struct Draft<'a> {
    schemas: &'a mut Schemas,
    /// The names in the path, and what is there.
    in_path: Vec<(String, Schema)>,
    parameters: Vec<Value>,
    body: Option<Value>,
    security: Vec<Value>,
    answers: BTreeMap<u16, Option<(&'static str, Value)>>,
    refusals: BTreeSet<u16>,
    creates: bool,
}

impl<'a> Draft<'a> {
    pub fn new(schemas: &'a mut Schemas, path: &str) -> Self {
        let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let text = || schemars::json_schema!({ "type": "string", "minLength": 1 });
        Self {
            schemas,
            in_path: names.map(|name| (name.to_owned(), text())).collect(),
            parameters: Vec::new(),
            body: None,
            security: Vec::new(),
            answers: BTreeMap::new(),
            refusals: BTreeSet::from(refusals::ANYWHERE),
            creates: false,
        }
    }

    /// By any one of these.
    pub fn secured_by(&mut self, schemes: &[&str]) {
        self.security.extend(schemes.iter().map(|scheme| json!({ *scheme: [] })));
    }

    pub fn refuses(&mut self, statuses: &[u16]) {
        self.refusals.extend(statuses);
    }

    pub fn first_in_path<T: JsonSchema>(&mut self) {
        let schema = self.schemas.asked.subschema_for::<T>();
        if let Some((_, first)) = self.in_path.first_mut() {
            *first = schema;
        }
    }

    /// One parameter for each field. A token is not one of them: it is told by how the operation is secured.
    pub fn query<T: JsonSchema>(&mut self) {
        let mut schema = self.schemas.asked.root_schema_for::<T>().to_value();
        without_null(&mut schema);
        let required = schema["required"].take();
        let Value::Object(fields) = schema["properties"].take() else { return };
        for (name, mut field) in fields.into_iter().filter(|(name, _)| name != "token") {
            let description = field.as_object_mut().and_then(|field| field.remove("description"));
            let required = required.as_array().is_some_and(|names| names.iter().any(|it| *it == name.as_str()));
            let mut parameter = json!({ "name": name, "in": "query", "required": required, "schema": field });
            if let Some(description) = description {
                parameter["description"] = description;
            }
            self.parameters.push(parameter);
        }
    }

    /// An empty one is an empty object: it may be left out where that will do.
    pub fn body<T: JsonSchema>(&mut self) {
        let schema = self.schemas.asked.subschema_for::<T>();
        let whole = self.schemas.asked.root_schema_for::<T>().to_value();
        let required = whole["required"].as_array().is_some_and(|names| !names.is_empty());
        self.body = Some(json!({ "required": required, "content": { JSON: { "schema": schema } } }));
    }

    /// One file, as the only part of a form.
    pub fn form(&mut self) {
        let file = json!({ "type": "string", "contentMediaType": "application/octet-stream" });
        let form = json!({ "type": "object", "properties": { "file": file }, "required": ["file"] });
        self.body = Some(json!({ "required": true, "content": { "multipart/form-data": { "schema": form } } }));
    }

    pub fn answer_json<T: JsonSchema>(&mut self, status: u16) {
        let mut schema = self.schemas.answered::<T>().to_value();
        without_null(&mut schema);
        self.answer(status, Some((JSON, schema)));
    }

    pub fn answer(&mut self, status: u16, content: Option<(&'static str, Value)>) {
        self.answers.insert(status, content);
    }

    /// As every operation does that creates sessions.
    pub fn creates(&mut self) {
        self.creates = true;
        self.parameters.push(json!({ "$ref": "#/components/parameters/IdempotencyKey" }));
        self.refuses(&[409, 429, 503]);
    }

    /// As OpenAPI writes it. `example`: `request` and `answer`, where they are known.
    pub fn into_operation(self, example: &Value, statuses: &mut BTreeSet<u16>) -> Map<String, Value> {
        let in_path = self
            .in_path
            .into_iter()
            .map(|(name, schema)| json!({ "name": name, "in": "path", "required": true, "schema": schema }));
        let parameters: Vec<Value> = in_path.chain(self.parameters).collect();
        let mut operation = Map::new();
        if !parameters.is_empty() {
            operation.insert("parameters".to_owned(), parameters.into());
        }
        if let Some(mut body) = self.body {
            if let Some(request) = example.get("request") {
                body["content"][JSON]["example"] = request.clone();
            }
            operation.insert("requestBody".to_owned(), body);
        }
        let mut responses = Map::new();
        for (status, content) in self.answers {
            let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
            let mut response = json!({ "description": reason, "headers": refusals::headers(&["x-request-id"]) });
            if self.creates {
                response["headers"] = refusals::headers(&refusals::CREATING);
            }
            if let Some((kind, schema)) = content {
                response["content"] = json!({ kind: { "schema": schema } });
                if let Some(answer) = example.get("answer") {
                    response["content"][kind]["example"] = answer.clone();
                }
            }
            responses.insert(status.to_string(), response);
        }
        for status in &self.refusals {
            let reference = format!("#/components/responses/{}", refusals::name(*status));
            responses.insert(status.to_string(), json!({ "$ref": reference }));
        }
        statuses.extend(self.refusals);
        operation.insert("responses".to_owned(), responses.into());
        operation.insert("security".to_owned(), self.security.into());
        operation
    }
}

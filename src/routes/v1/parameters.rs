//! What a client may ask of a new session. What cannot be honoured and would be missed is refused by name: a browser
//! without the proxy or the login that was asked for is worse than none. What only makes a browser nicer is tolerated,
//! and so are fields of older clients.

use std::borrow::Cow;

use axum::http::StatusCode;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::auth::Caller;
use crate::browser_settings::{BrowserSettings, proxy_forms};
use crate::error::ApiError;
use crate::ids::SessionId;
use crate::routes::create;
use crate::session::NewSession;

/// Seconds.
pub const DEFAULT_TIMEOUT: u32 = 3_600;
const TIMEOUT: std::ops::RangeInclusive<f64> = 60.0..=21_600.0;

/// The regions that clients know: any other would be taken for a mistake in the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Region {
    #[serde(rename = "us-west-2")]
    UsWest2,
    #[serde(rename = "us-east-1")]
    UsEast1,
    #[serde(rename = "eu-central-1")]
    EuCentral1,
    #[serde(rename = "ap-southeast-1")]
    ApSoutheast1,
}

impl Region {
    /// The one of the four that is nearest to an AWS region; where nothing is known, the one clients take for granted.
    pub fn nearest(aws: Option<&str>) -> Self {
        let aws = aws.unwrap_or_default();
        match aws.split('-').next().unwrap_or_default() {
            "eu" | "af" | "me" | "il" => Region::EuCentral1,
            "ap" | "cn" => Region::ApSoutheast1,
            "ca" | "sa" => Region::UsEast1,
            "us" if aws.contains("-east-") => Region::UsEast1,
            _ => Region::UsWest2,
        }
    }
}

/// The body of a create.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "CreateBrowserbaseSession")]
pub struct CreateParameters {
    /// Whatever it says, the session belongs to the API key's project: clients have been made to send one for long.
    #[allow(dead_code)]
    project_id: Option<String>,
    /// Extensions are not available here: anything but an empty text is refused.
    #[schemars(length(max = 0))]
    extension_id: Option<String>,
    /// Seconds. Some clients write whole numbers as `300.0`.
    #[schemars(with = "Option<u32>", range(min = *TIMEOUT.start() as u32, max = *TIMEOUT.end() as u32))]
    #[schemars(extend("default" = DEFAULT_TIMEOUT))]
    timeout: Option<f64>,
    #[schemars(extend("default" = false))]
    keep_alive: Option<bool>,
    /// One proxy of your own, for all that the browser fetches; or none.
    #[schemars(with = "Option<Proxies>")]
    proxies: Option<Value>,
    proxy_settings: Option<Map<String, Value>>,
    /// It is checked; sessions run where the service does.
    #[allow(dead_code)]
    region: Option<Region>,
    /// Whatever it is to be known by: at most 4096 bytes of JSON.
    user_metadata: Option<Map<String, Value>>,
    #[schemars(with = "Option<BrowserSettings>")]
    browser_settings: Option<Map<String, Value>>,
}

/// What `proxy` takes.
struct Proxies;

impl JsonSchema for Proxies {
    fn schema_name() -> Cow<'static, str> {
        "Proxies".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
        { "const": false },
        { "type": "array", "maxItems": 1, "items": { "oneOf": [
            { "type": "object", "required": ["type"], "properties": { "type": { "const": "none" } } },
            {
                "type": "object",
                "required": ["type", "server"],
                "properties": { "type": { "const": "external" } },
                "anyOf": proxy_forms(),
            },
        ] } },
    ] })
    }
}

fn not_available<T>(field: &str, why: &str) -> Result<T, ApiError> {
    Err(ApiError::new(StatusCode::BAD_REQUEST, "not_available", format!("{field}: {why}")))
}

/// Whether a value asks for something.
fn asks(value: Option<&Value>) -> bool {
    value.is_some_and(|value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => true,
    })
}

impl CreateParameters {
    /// The session they ask for.
    pub fn check(self, caller: &Caller) -> Result<NewSession, ApiError> {
        let seconds = self.timeout.unwrap_or(f64::from(DEFAULT_TIMEOUT));
        if seconds.fract() != 0.0 || !TIMEOUT.contains(&seconds) {
            let (least, most) = (TIMEOUT.start(), TIMEOUT.end());
            return Err(ApiError::invalid(format!(
                "timeout: must be a whole number of seconds from {least} to {most}"
            )));
        }
        if asks(self.proxy_settings.as_ref().and_then(|settings| settings.get("caCertificates"))) {
            return not_available("proxySettings.caCertificates", "certificates are not available here");
        }
        let mut settings = browser_settings(self.browser_settings.unwrap_or_default())?;
        if let Some(id) = self.extension_id.filter(|id| !id.is_empty()) {
            let twice = settings.insert("extensionId".to_owned(), id.clone().into());
            if asks(twice.as_ref()) && twice != Some(id.into()) {
                return Err(ApiError::invalid("extensionId: must be the same as browserSettings.extensionId"));
            }
        }
        if let Some(proxy) = self.proxies.as_ref().map_or(Ok(None), proxy)? {
            settings.insert("proxy".to_owned(), proxy.into());
        }
        let (browser_settings, proxy_credentials) =
            create::browser_settings(settings).map_err(|error| of_proxies(error, &self.proxies))?;
        Ok(NewSession {
            id: SessionId::random(),
            user_id: caller.user.clone(),
            project: caller.project.clone(),
            // Whole, and in range.
            timeout_ms: seconds as u64 * 1_000,
            keep_alive: self.keep_alive.unwrap_or(false),
            browser_settings,
            proxy_credentials,
            extension: None,
            user_metadata: create::user_metadata(self.user_metadata.unwrap_or_default())?,
        })
    }
}

/// A mistake in the one proxy was made in `proxies`, and is told there.
fn of_proxies(mut error: ApiError, proxies: &Option<Value>) -> ApiError {
    if asks(proxies.as_ref()) {
        error.message = error.message.replacen("browserSettings.proxy.", "proxies[0].", 1);
    }
    error
}

fn browser_settings(mut settings: Map<String, Value>) -> Result<Map<String, Value>, ApiError> {
    for (name, why) in [("allowedDomains", "keeping a browser within domains is not available here")] {
        if asks(settings.get(name)) {
            return not_available(&format!("browserSettings.{name}"), why);
        }
    }
    match settings.get("ignoreCertificateErrors") {
        None | Some(Value::Null | Value::Bool(false)) => {}
        Some(Value::Bool(true)) => {
            let args = settings.entry("args").or_insert_with(|| json!([]));
            // One that is no list is refused where settings are checked.
            if let Value::Array(args) = args {
                args.push("--ignore-certificate-errors".into());
            }
        }
        Some(_) => {
            return Err(ApiError::invalid("browserSettings.ignoreCertificateErrors: must be true or false"));
        }
    }
    Ok(settings)
}

/// The one proxy for all that a browser fetches, which is what a browser here can have, as a setting.
fn proxy(proxies: &Value) -> Result<Option<Map<String, Value>>, ApiError> {
    let none_of_ours = "this service has no proxies: give one of your own, {type: \"external\", server}";
    let list = match proxies {
        Value::Null | Value::Bool(false) => return Ok(None),
        Value::Bool(true) => return not_available("proxies", none_of_ours),
        Value::Array(list) => list,
        _ => return Err(ApiError::invalid("proxies: must be true, false or a list")),
    };
    if list.len() > 1 {
        return not_available("proxies[1]", "a browser here has one proxy for all it fetches");
    }
    let Some(proxy) = list.first() else { return Ok(None) };
    if asks(proxy.get("domainPattern")) {
        return not_available("proxies[0].domainPattern", "a browser here has one proxy for all it fetches");
    }
    match proxy.get("type").and_then(Value::as_str) {
        Some("none") => Ok(None),
        Some("browserbase") => not_available("proxies[0].type", none_of_ours),
        Some("external") => {
            let field = |name: &str| Some((name.to_owned(), proxy.get(name)?.clone()));
            Ok(Some(["server", "username", "password"].into_iter().filter_map(field).collect()))
        }
        _ => Err(ApiError::invalid("proxies[0].type: must be external, browserbase or none")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_aws_region_is_one_that_clients_know() {
        for (aws, region) in [
            (Some("us-west-1"), Region::UsWest2),
            (Some("us-east-2"), Region::UsEast1),
            (Some("us-gov-east-1"), Region::UsEast1),
            (Some("eu-north-1"), Region::EuCentral1),
            (Some("ap-northeast-1"), Region::ApSoutheast1),
            (Some("sa-east-1"), Region::UsEast1),
            (Some(""), Region::UsWest2),
            (None, Region::UsWest2),
        ] {
            assert_eq!(Region::nearest(aws), region, "{aws:?}");
        }
    }
}

//! `browserSettings`: what a client may ask of its browser. Checked when the session is created, so that
//! a mistake is a clear 400 and not a browser that never starts; read again by the agent.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use crate::ids::ContextId;
use crate::protocol::{PORT, ProxyCredentials};

/// Which build of the browser runs the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BrowserKind {
    /// Starts in a third of the time and takes a third of the memory.
    #[default]
    HeadlessShell,
    /// The whole browser: extensions need it.
    Chromium,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Viewport {
    pub width: u32,
    pub height: u32,
}

/// What a fresh window measures, in CSS pixels, when nothing else was asked for.
pub const DEFAULT_VIEWPORT: Viewport = Viewport { width: 1280, height: 720 };

/// Which cookies and storage a browser begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextSetting {
    pub id: ContextId,
    /// Whether what becomes of them is kept when the session ends.
    pub persist: bool,
}

impl ContextSetting {
    /// That of settings which were checked, if they name one.
    pub fn of(settings: &Map<String, Value>) -> Option<Self> {
        settings.get("context").and_then(|value| context(value).ok())
    }
}

/// Whether what is said to a browser with these settings, and by it, is kept for its owner: unless they say otherwise.
pub fn is_logged(settings: &Map<String, Value>) -> bool {
    settings.get("logSession") != Some(&Value::Bool(false))
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BrowserSettings {
    pub browser: BrowserKind,
    pub viewport: Option<Viewport>,
    /// Command-line switches, each on the allow-list.
    pub args: Vec<String>,
    /// `http://host:port`, `https://..`, `socks5://..`: where all pages are fetched through.
    pub proxy_server: Option<String>,
    /// Hosts that are fetched directly all the same, as Chromium's `--proxy-bypass-list` takes them.
    pub proxy_bypass: Option<String>,
    /// Only as they come from a client: they are kept, and given to the container, apart from all other settings.
    pub proxy_credentials: Option<ProxyCredentials>,
    pub context: Option<ContextSetting>,
    /// Whether an extension is named, which only the whole browser loads.
    pub extension: bool,
    /// Settings nobody here knows: tolerated, and counted in a log line.
    pub unknown: Vec<String>,
}

/// A setting that cannot be honoured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidSetting {
    /// As in `browserSettings.viewport.width`.
    pub field: String,
    pub message: String,
}

/// Switches a client may set. None of them weakens the isolation between sessions, moves the profile,
/// opens a port or loads code from the container's disk.
const ALLOWED_SWITCHES: [&str; 22] = [
    "--accept-lang",
    "--autoplay-policy",
    "--blink-settings",
    "--disable-blink-features",
    "--disable-notifications",
    "--disable-popup-blocking",
    "--disable-smooth-scrolling",
    "--enable-unsafe-swiftshader",
    "--font-render-hinting",
    "--force-color-profile",
    "--force-dark-mode",
    "--force-device-scale-factor",
    "--force-prefers-reduced-motion",
    "--hide-scrollbars",
    "--ignore-certificate-errors",
    "--ignore-certificate-errors-spki-list",
    "--lang",
    "--mute-audio",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--user-agent",
    "--window-size",
];

/// What `--blink-settings` may set: the others include what keeps pages apart.
const ALLOWED_BLINK_SETTINGS: [&str; 8] = [
    "defaultFontSize",
    "forceDarkModeEnabled",
    "imagesEnabled",
    "minimumFontSize",
    "preferredColorScheme",
    "prefersReducedMotion",
    "primaryHoverType",
    "primaryPointerType",
];

/// Chromium paints every pixel of the viewport: a larger one would be a way to exhaust the container. With these it has 128 MB
/// at most, about what four screens of 3840x2160 have.
const MAX_LONG_SIDE: u32 = 8_192;
const MAX_SHORT_SIDE: u32 = 4_096;
/// The two as digits, in a pattern.
const LONG_SIDE: &str = "([1-9][0-9]{0,2}|[1-7][0-9]{3}|80[0-9]{2}|81[0-8][0-9]|819[0-2])";
const SHORT_SIDE: &str = "([1-9][0-9]{0,2}|[1-3][0-9]{3}|40[0-8][0-9]|409[0-6])";
const MAX_ARGS: usize = 64;
const MAX_TEXT: usize = 2_048;
/// In bytes, of a name or a password: their lengths are one byte each (RFC 1929), which does not say what others than ASCII are.
const MAX_SOCKS_CREDENTIAL: usize = 255;
/// Control characters, in the brackets of a pattern.
const CONTROL: &str = r"\u0000-\u001f\u007f-\u009f";

/// As `parse` takes them, but for what no schema can say: the values of switches.
impl JsonSchema for BrowserSettings {
    fn schema_name() -> Cow<'static, str> {
        "BrowserSettings".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let side = |most| json!({ "type": "integer", "minimum": 1, "maximum": most });
        let special = |switch: &&str| matches!(*switch, "--window-size" | "--blink-settings");
        let plain: Vec<&str> = ALLOWED_SWITCHES.into_iter().filter(|switch| !special(switch)).collect();
        let setting = format!("({})(=[^,{CONTROL}]*)?", ALLOWED_BLINK_SETTINGS.join("|"));
        let switches = [
            format!("^({})(=[^{CONTROL}]*)?$", plain.join("|")),
            format!("^--blink-settings={setting}(,{setting})*$"),
            format!("^--window-size=({LONG_SIDE},{SHORT_SIDE}|{SHORT_SIDE},{LONG_SIDE})$"),
        ];
        let switches = switches.map(|pattern| json!({ "pattern": pattern }));
        json_schema!({
            "type": "object",
            "description": "Settings nobody here knows are tolerated. At most 65536 bytes of JSON.",
            "properties": {
                "browser": { "enum": ["headless-shell", "chromium", null], "default": "headless-shell" },
                "viewport": {
                    "type": ["object", "null"],
                    "description": "In CSS pixels. One of the sides may be the longer one.",
                    "required": ["width", "height"],
                    "properties": { "width": side(MAX_LONG_SIDE), "height": side(MAX_LONG_SIDE) },
                    "anyOf": [
                        { "properties": { "width": side(MAX_SHORT_SIDE) } },
                        { "properties": { "height": side(MAX_SHORT_SIDE) } },
                    ],
                },
                "args": {
                    "type": ["array", "null"],
                    "description": "Command-line switches of Chromium, those that are allowed.",
                    "maxItems": MAX_ARGS,
                    "items": { "type": "string", "maxLength": MAX_TEXT, "anyOf": switches },
                },
                "logSession": {
                    "type": ["boolean", "null"],
                    "description": "Whether the session has a log: of all that its clients and its browser say.",
                    "default": true,
                },
                "proxy": {
                    "type": ["object", "null"],
                    "description": "A proxy for all that the browser fetches.",
                    "required": ["server"],
                    "properties": {
                        "bypass": { "type": ["string", "null"], "maxLength": MAX_TEXT, "pattern": format!("^[^{CONTROL}]*$"), "description": "Hosts that are fetched directly, separated by commas." },
                    },
                    "anyOf": proxy_forms(),
                },
            },
        })
    }
}

/// Where a proxy is, and what it asks for, each in its protocol: what `proxy` takes.
pub fn proxy_forms() -> Value {
    let server = |scheme: &str| {
        json!({
            "type": "string",
            "maxLength": MAX_TEXT,
            "pattern": format!(r"^{scheme}[A-Za-z0-9._\[\]:-]+:{PORT}$"),
            "examples": ["http://10.0.0.7:3128"],
        })
    };
    let credential = |kind: Value, pattern: &str, description: &str| {
        json!({
            "type": kind, "maxLength": MAX_TEXT, "pattern": pattern, "writeOnly": true,
            "description": format!("{description} It is in no answer."),
        })
    };
    // Empty is as good as none: so some clients say it.
    let nothing = json!({ "enum": [null, ""] });
    let (username, password) = ("For the proxy.", "Beside a username.");
    json!([
        { "properties": {
            "server": server("((http|https|socks4|socks5)://)?"), "username": nothing, "password": nothing,
        } },
        { "title": "HTTP, with credentials", "required": ["username"], "properties": {
            "server": server("((http|https)://)?"),
            "username": credential("string".into(), &format!("^[^:{CONTROL}]+$"), username),
            "password": credential(json!(["string", "null"]), &format!("^[^{CONTROL}]*$"), password),
        } },
        { "title": "SOCKS 5, with credentials", "required": ["username"], "properties": {
            "server": server("socks5://"),
            "username": credential("string".into(), "^[ -~]{1,255}$", username),
            "password": credential(json!(["string", "null"]), "^[ -~]{0,255}$", password),
        } },
    ])
}

/// Takes what is secret out of settings that were read.
pub fn remove_secrets(settings: &mut Map<String, Value>) {
    if let Some(Value::Object(proxy)) = settings.get_mut("proxy") {
        proxy.remove("username");
        proxy.remove("password");
    }
}

impl BrowserSettings {
    /// Reads the object a client sent. Values the API answers with (`cdpUrl`, `token`) are left alone.
    pub fn parse(settings: &Map<String, Value>) -> Result<Self, InvalidSetting> {
        let mut parsed = Self::default();
        let mut window = None;
        for (name, value) in settings {
            match name.as_str() {
                _ if value.is_null() => {}
                "browser" => parsed.browser = browser(value)?,
                "viewport" => parsed.viewport = Some(viewport(value)?),
                "args" => (parsed.args, window) = args(value)?,
                "context" => parsed.context = Some(context(value)?),
                "extensionId" => parsed.extension = extension(value)?,
                "proxy" => {
                    (parsed.proxy_server, parsed.proxy_bypass, parsed.proxy_credentials) = proxy(value)?;
                }
                // What is not understood would be logged against somebody's will.
                "logSession" if !value.is_boolean() => return invalid("logSession", "must be true or false"),
                "logSession" => {}
                _ => parsed.unknown.push(name.clone()),
            }
        }
        parsed.viewport = parsed.viewport.or(window);
        if parsed.extension {
            if settings.get("browser").is_some_and(|value| !value.is_null())
                && parsed.browser == BrowserKind::HeadlessShell
            {
                return invalid("browser", "must be \"chromium\" where there is an extension");
            }
            parsed.browser = BrowserKind::Chromium;
        }
        Ok(parsed)
    }

    /// Whether a browser that was launched ahead, with nothing special, will do.
    pub fn fits_a_warm_browser(&self) -> bool {
        self.browser == BrowserKind::HeadlessShell
            && self.viewport.is_none_or(|viewport| viewport == DEFAULT_VIEWPORT)
            && self.args.is_empty()
            && self.proxy_server.is_none()
            && self.context.is_none()
    }
}

fn invalid<T>(field: &str, message: impl Into<String>) -> Result<T, InvalidSetting> {
    let field = format!("browserSettings.{field}");
    Err(InvalidSetting { message: format!("{field} {}", message.into()), field })
}

fn browser(value: &Value) -> Result<BrowserKind, InvalidSetting> {
    match value.as_str() {
        Some("headless-shell") => Ok(BrowserKind::HeadlessShell),
        Some("chromium") => Ok(BrowserKind::Chromium),
        _ => invalid("browser", "must be \"headless-shell\" or \"chromium\""),
    }
}

fn context(value: &Value) -> Result<ContextSetting, InvalidSetting> {
    let Some(object) = value.as_object() else {
        return invalid("context", "must be an object with id");
    };
    let Some(id) = object.get("id").and_then(Value::as_str).and_then(|id| id.parse().ok()) else {
        return invalid("context.id", "must be the id of a context");
    };
    match object.get("persist") {
        None | Some(Value::Null) => Ok(ContextSetting { id, persist: false }),
        Some(Value::Bool(persist)) => Ok(ContextSetting { id, persist: *persist }),
        Some(_) => invalid("context.persist", "must be true or false"),
    }
}

fn extension(value: &Value) -> Result<bool, InvalidSetting> {
    match value.as_str() {
        Some(id) => Ok(!id.is_empty()),
        None => invalid("extensionId", "must be the id of an extension"),
    }
}

fn viewport(value: &Value) -> Result<Viewport, InvalidSetting> {
    let Some(object) = value.as_object() else {
        return invalid("viewport", "must be an object with width and height");
    };
    // Some clients write whole numbers as 1920.0.
    let side = |name: &str| {
        object
            .get(name)
            .and_then(Value::as_f64)
            .filter(|side| side.fract() == 0.0 && (1.0..=f64::from(MAX_LONG_SIDE)).contains(side))
            .map_or_else(
                || invalid(&format!("viewport.{name}"), format!("must be a whole number from 1 to {MAX_LONG_SIDE}")),
                // In range, and without a fraction.
                |side| Ok(side as u32),
            )
    };
    let viewport = Viewport { width: side("width")?, height: side("height")? };
    if viewport.width.min(viewport.height) > MAX_SHORT_SIDE {
        return invalid("viewport", format!("must have one side of at most {MAX_SHORT_SIDE} pixels"));
    }
    Ok(viewport)
}

/// The switches, and what a `--window-size` among them asks for: it is a viewport by another name.
fn args(value: &Value) -> Result<(Vec<String>, Option<Viewport>), InvalidSetting> {
    let Some(list) = value.as_array().filter(|list| list.len() <= MAX_ARGS) else {
        return invalid("args", format!("must be a list of at most {MAX_ARGS} switches"));
    };
    let (mut args, mut window) = (Vec::with_capacity(list.len()), None);
    for (index, value) in list.iter().enumerate() {
        let field = format!("args[{index}]");
        let Some(arg) = value.as_str().filter(|arg| is_clean(arg)) else {
            return invalid(
                &field,
                format!("must be a text of at most {MAX_TEXT} characters without control characters"),
            );
        };
        let switch = arg.split_once('=').map_or(arg, |(switch, _)| switch);
        if !ALLOWED_SWITCHES.contains(&switch) {
            return invalid(&field, format!("is not an allowed switch; allowed are {}", ALLOWED_SWITCHES.join(" ")));
        }
        if switch == "--window-size" {
            // Nothing but digits, the first of which says something.
            let plain = |text: &str| text.starts_with(|c: char| matches!(c, '1'..='9'));
            let side = |text: &str| text.parse().ok().filter(|side| plain(text) && (1..=MAX_LONG_SIDE).contains(side));
            let sides = arg.split_once('=').and_then(|(_, size)| size.split_once(','));
            window = sides.and_then(|(width, height)| Some(Viewport { width: side(width)?, height: side(height)? }));
            if window.is_none_or(|at| at.width.min(at.height) > MAX_SHORT_SIDE) {
                return invalid(
                    &field,
                    format!(
                        "must be --window-size=WIDTH,HEIGHT, of at most {MAX_LONG_SIDE} and {MAX_SHORT_SIDE} pixels"
                    ),
                );
            }
            continue;
        }
        if switch == "--blink-settings" {
            let allowed = |setting: &str| {
                ALLOWED_BLINK_SETTINGS.contains(&setting.split_once('=').map_or(setting, |(name, _)| name))
            };
            if arg.split_once('=').is_none_or(|(_, settings)| !settings.split(',').all(allowed)) {
                let allowed = ALLOWED_BLINK_SETTINGS.join(" ");
                return invalid(&field, format!("sets what may not be set; allowed are {allowed}"));
            }
        }
        args.push(arg.to_owned());
    }
    Ok((args, window))
}

type Proxy = (Option<String>, Option<String>, Option<ProxyCredentials>);

fn proxy(value: &Value) -> Result<Proxy, InvalidSetting> {
    let Some(object) = value.as_object() else {
        return invalid("proxy", "must be an object with server");
    };
    let is_server = |server: &&str| {
        let (scheme, authority) = server.split_once("://").unwrap_or(("http", server));
        is_clean(server)
            && matches!(scheme, "http" | "https" | "socks4" | "socks5")
            && authority.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty()
                    && port.parse::<u16>().is_ok_and(|port| port > 0)
                    // No credentials, no list of proxies, no path: each would mean something else to Chromium.
                    && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'[' | b']' | b':'))
            })
    };
    let server = object.get("server").and_then(Value::as_str);
    if server.is_some_and(|server| server.contains('@')) {
        return invalid("proxy.server", "must not have credentials in it: give them as username and password");
    }
    let Some(server) = server.filter(is_server) else {
        return invalid("proxy.server", "must be [http|https|socks4|socks5://]host:port");
    };
    let credentials = proxy_credentials(server, object)?;
    let bypass = match object.get("bypass") {
        None | Some(Value::Null) => None,
        Some(Value::String(bypass)) if is_clean(bypass) => Some(bypass.clone()),
        Some(_) => return invalid("proxy.bypass", "must be a text of hosts separated by commas"),
    };
    Ok((Some(server.to_owned()), bypass, credentials))
}

/// Those that can be said to the server, each in its protocol.
fn proxy_credentials(server: &str, proxy: &Map<String, Value>) -> Result<Option<ProxyCredentials>, InvalidSetting> {
    let text = |name: &str| match proxy.get(name) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) if is_clean(text) => Ok(text.clone()),
        Some(_) => invalid(
            &format!("proxy.{name}"),
            format!("must be a text of at most {MAX_TEXT} bytes without control characters"),
        ),
    };
    let (username, password) = (text("username")?, text("password")?);
    if username.is_empty() {
        return if password.is_empty() { Ok(None) } else { invalid("proxy.password", "needs a username beside it") };
    }
    match server.split_once("://").map_or("http", |(scheme, _)| scheme) {
        "socks4" => return invalid("proxy.username", "is nothing that a SOCKS 4 proxy can be told"),
        "socks5" => {
            let long = [("username", &username), ("password", &password)];
            let fits = |text: &str| text.is_ascii() && text.len() <= MAX_SOCKS_CREDENTIAL;
            if let Some((name, _)) = long.into_iter().find(|(_, text)| !fits(text)) {
                let most = format!("must be at most {MAX_SOCKS_CREDENTIAL} characters of ASCII for a SOCKS 5 proxy");
                return invalid(&format!("proxy.{name}"), most);
            }
        }
        // RFC 7617: where the name ends is told by the first colon.
        _ if username.contains(':') => return invalid("proxy.username", "must have no colon for an HTTP proxy"),
        _ => {}
    }
    Ok(Some(ProxyCredentials { username, password }))
}

fn is_clean(text: &str) -> bool {
    text.len() <= MAX_TEXT && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(value: Value) -> Result<BrowserSettings, InvalidSetting> {
        BrowserSettings::parse(value.as_object().expect("an object"))
    }

    #[test]
    fn what_is_known_is_read_and_what_is_not_is_named() {
        let settings = parse(json!({
            "browser": "chromium",
            "viewport": {"width": 1920.0, "height": 1080},
            "args": ["--lang=de", "--window-size=1,2", "--mute-audio"],
            "proxy": {"server": "socks5://10.0.0.1:1080", "bypass": "localhost"},
            "blockAds": true,
            "fingerprint": {},
            "context": null,
        }))
        .expect("valid");
        assert_eq!(settings.browser, BrowserKind::Chromium);
        assert_eq!(settings.viewport, Some(Viewport { width: 1920, height: 1080 }));
        assert_eq!(settings.args, ["--lang=de", "--mute-audio"]);
        assert_eq!(settings.proxy_server.as_deref(), Some("socks5://10.0.0.1:1080"));
        assert_eq!(settings.unknown, ["blockAds", "fingerprint"]);
        assert!(!settings.fits_a_warm_browser());
        let context = parse(json!({"context": {"id": "ctx_1", "persist": true}})).expect("valid");
        assert_eq!(context.context, Some(ContextSetting { id: "ctx_1".parse().expect("an id"), persist: true }));
        assert!(!context.fits_a_warm_browser());
        let window = parse(json!({"args": ["--window-size=800,600"]})).expect("valid");
        assert_eq!((window.viewport, window.args), (Some(Viewport { width: 800, height: 600 }), vec![]));
        let extension = parse(json!({"extensionId": "ext_1"})).expect("valid");
        assert_eq!((extension.browser, extension.fits_a_warm_browser()), (BrowserKind::Chromium, false));
        assert!(
            parse(json!({"extensionId": ""})).expect("valid").fits_a_warm_browser(),
            "none, as older clients say it"
        );
        assert!(parse(json!({"viewport": {"width": 1280, "height": 720}})).expect("valid").fits_a_warm_browser());
    }

    #[test]
    fn credentials_of_a_proxy_are_read_and_then_taken_out() {
        let secret = "a secret of somebody";
        for (proxy, expected) in [
            (json!({"server": "http://h:1", "username": "u", "password": secret}), Some(("u", secret))),
            (json!({"server": "socks5://h:1", "username": "u:v", "password": secret}), Some(("u:v", secret))),
            (json!({"server": "https://h:1", "username": "u", "password": null}), Some(("u", ""))),
            (json!({"server": "socks4://h:1", "username": "", "password": ""}), None),
            (json!({"server": "h:1", "username": null}), None),
        ] {
            let mut settings = Map::from_iter([("proxy".to_owned(), proxy)]);
            let parsed = BrowserSettings::parse(&settings).expect("valid");
            assert!(!format!("{parsed:?}").contains(secret), "{parsed:?}");
            let credentials = parsed.proxy_credentials;
            let credentials = credentials.as_ref().map(|it| (it.username.as_str(), it.password.as_str()));
            assert_eq!(credentials, expected);
            remove_secrets(&mut settings);
            assert_eq!(settings["proxy"].as_object().expect("an object").len(), 1, "{settings:?}");
        }
    }

    #[test]
    fn a_setting_that_cannot_be_honoured_is_named() {
        for (settings, field) in [
            (json!({"browser": "firefox"}), "browserSettings.browser"),
            (json!({"viewport": 3}), "browserSettings.viewport"),
            (json!({"viewport": {"width": 0, "height": 1}}), "browserSettings.viewport.width"),
            (json!({"viewport": {"width": 10, "height": 1.5}}), "browserSettings.viewport.height"),
            (json!({"viewport": {"width": 10, "height": 1e9}}), "browserSettings.viewport.height"),
            (json!({"context": "ctx_1"}), "browserSettings.context"),
            (json!({"context": {}}), "browserSettings.context.id"),
            (json!({"context": {"id": "../ctx_1"}}), "browserSettings.context.id"),
            (json!({"context": {"id": "ctx_1", "persist": "yes"}}), "browserSettings.context.persist"),
            (json!({"args": "--lang=de"}), "browserSettings.args"),
            (json!({"args": ["--lang=de", "--remote-debugging-port=1"]}), "browserSettings.args[1]"),
            (json!({"args": ["--user-data-dir=/"]}), "browserSettings.args[0]"),
            (json!({"args": ["--load-extension=/etc"]}), "browserSettings.args[0]"),
            (json!({"args": ["--lang=de\n--no-sandbox"]}), "browserSettings.args[0]"),
            (json!({"args": ["https://example.com"]}), "browserSettings.args[0]"),
            (json!({"args": [1]}), "browserSettings.args[0]"),
            (json!({"args": ["--window-size=800"]}), "browserSettings.args[0]"),
            (json!({"args": ["--window-size=4097,4097"]}), "browserSettings.args[0]"),
            (json!({"args": ["--window-size=8193,1"]}), "browserSettings.args[0]"),
            (json!({"args": ["--window-size=+5,5"]}), "browserSettings.args[0]"),
            (json!({"viewport": {"width": 8193, "height": 1}}), "browserSettings.viewport.width"),
            (json!({"viewport": {"width": 4097, "height": 4097}}), "browserSettings.viewport"),
            (
                json!({"args": ["--blink-settings=imagesEnabled=false,webSecurityEnabled=false"]}),
                "browserSettings.args[0]",
            ),
            (json!({"args": ["--blink-settings"]}), "browserSettings.args[0]"),
            (json!({"args": ["--window-size=0,99999"]}), "browserSettings.args[0]"),
            (json!({"extensionId": 1}), "browserSettings.extensionId"),
            (json!({"extensionId": "ext_1", "browser": "headless-shell"}), "browserSettings.browser"),
            (json!({"proxy": {"server": "example.com"}}), "browserSettings.proxy.server"),
            (json!({"proxy": {"server": "http://a:1,direct://"}}), "browserSettings.proxy.server"),
            (json!({"proxy": {"server": "file://etc:1"}}), "browserSettings.proxy.server"),
            (json!({"proxy": {"server": "http://u:p@h:1"}}), "browserSettings.proxy.server"),
            (json!({"proxy": {"server": "http://h:1", "username": 1}}), "browserSettings.proxy.username"),
            (json!({"proxy": {"server": "http://h:1", "username": "u\n"}}), "browserSettings.proxy.username"),
            (json!({"proxy": {"server": "h:1", "username": "u:v", "password": "p"}}), "browserSettings.proxy.username"),
            (json!({"proxy": {"server": "http://h:1", "password": "p"}}), "browserSettings.proxy.password"),
            (
                json!({"proxy": {"server": "http://h:1", "username": "", "password": "p"}}),
                "browserSettings.proxy.password",
            ),
            (
                json!({"proxy": {"server": "http://h:1", "username": "u", "password": "p".repeat(2_049)}}),
                "browserSettings.proxy.password",
            ),
            (json!({"proxy": {"server": "socks4://h:1", "username": "u"}}), "browserSettings.proxy.username"),
            (
                json!({"proxy": {"server": "socks5://h:1", "username": "u", "password": "p".repeat(256)}}),
                "browserSettings.proxy.password",
            ),
            (json!({"proxy": {"server": "http://h:1", "bypass": 1}}), "browserSettings.proxy.bypass"),
        ] {
            let error = parse(settings.clone()).expect_err(&settings.to_string());
            assert_eq!(error.field, field, "{settings}");
            assert!(error.message.starts_with(field), "{}", error.message);
        }
    }

    #[test]
    fn the_patterns_of_sides_are_their_bounds() {
        for (pattern, most) in [(LONG_SIDE, MAX_LONG_SIDE), (SHORT_SIDE, MAX_SHORT_SIDE)] {
            let pattern = json!({ "pattern": format!("^{pattern}$") });
            let pattern = jsonschema::validator_for(&pattern).expect("a schema");
            for side in 0..20_000 {
                assert_eq!(pattern.is_valid(&side.to_string().into()), (1..=most).contains(&side), "{side}");
            }
        }
    }
}

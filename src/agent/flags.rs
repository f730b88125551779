//! The command line of a browser. What is switched off here is what stands in an automated browser's way
//! or calls home; what is switched on is what the service promises (viewport, proxy, isolation).

use std::path::Path;

use super::account::Confinement;
use super::egress::{Destinations, Egress};
use crate::browser_settings::{BrowserKind, BrowserSettings, DEFAULT_VIEWPORT, Viewport};

/// Switches that hold for every browser. The second half is what the launchers of Playwright and
/// Puppeteer pass too: pages must run at full speed though nobody looks at them, and no dialog of the
/// browser's own may wait for somebody to answer it.
const ALWAYS: [&str; 33] = [
    "--remote-debugging-port=0",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    // QUIC would go around an HTTP proxy.
    "--disable-quic",
    // Fargate gives a task 64 MB of /dev/shm and no way to ask for more.
    "--disable-dev-shm-usage",
    "--disable-breakpad",
    "--disable-crash-reporter",
    "--mute-audio",
    "--hide-scrollbars",
    "--password-store=basic",
    "--use-mock-keychain",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--disable-back-forward-cache",
    "--disable-client-side-phishing-detection",
    "--disable-component-extensions-with-background-pages",
    "--disable-default-apps",
    "--disable-field-trial-config",
    "--disable-hang-monitor",
    "--disable-infobars",
    "--disable-ipc-flooding-protection",
    "--disable-popup-blocking",
    "--disable-prompt-on-repost",
    "--disable-search-engine-choice-screen",
    "--allow-pre-commit-input",
    "--export-tagged-pdf",
    "--force-color-profile=srgb",
    "--metrics-recording-only",
    "--no-service-autorun",
];

/// Joined to one switch, because Chromium takes only the last `--disable-features` it is given.
const DISABLED_FEATURES: &str = "--disable-features=AcceptCHFrame,DestroyProfileOnBrowserClose,DialMediaRouteProvider,\
     GlobalMediaControls,HttpsUpgrades,MediaRouter,OptimizationHints,PaintHolding,Translate";
/// Without it Google Chrome takes no `--load-extension`. Chromium does in any case (measured, 156).
const LOADS_EXTENSIONS: &str = ",DisableLoadExtensionCommandLineSwitch";

/// How a browser is kept to its egress: nothing goes around its proxy, and no name or address but the egress's own is
/// resolved to anything. WebRTC would go around any proxy; its switch has another name in either build.
fn kept_to(egress: &Egress, server: &str) -> [String; 5] {
    [
        format!("--proxy-server={server}"),
        // Chromium leaves loopback out by itself.
        "--proxy-bypass-list=<-loopback>".to_owned(),
        format!("--host-resolver-rules={}", egress.resolver_rules()),
        "--force-webrtc-ip-handling-policy=disable_non_proxied_udp".to_owned(),
        "--webrtc-ip-handling-policy=disable_non_proxied_udp".to_owned(),
    ]
}

/// What the machine, rather than the session, has to say about a command line.
#[derive(Debug, Clone)]
pub struct Surroundings {
    pub confinement: Confinement,
    pub destinations: Destinations,
}

/// Everything after the program's name. `window` is what the window measures, frame included.
pub fn command_line(
    full_browser: bool,
    settings: &BrowserSettings,
    window: Viewport,
    profile: &Path,
    sandbox: bool,
    (egress, server): (&Egress, &str),
    extension: Option<&Path>,
) -> Vec<String> {
    let Viewport { width, height } = settings.viewport.unwrap_or(DEFAULT_VIEWPORT);
    let mut line: Vec<String> = ALWAYS.iter().map(|&switch| switch.to_owned()).collect();
    line.push(format!("{DISABLED_FEATURES}{}", extension.map_or("", |_| LOADS_EXTENSIONS)));
    if let Some(extension) = extension {
        line.push(format!("--load-extension={}", extension.display()));
    }
    if full_browser {
        line.push("--headless=new".to_owned());
        // Without it the screen is 800x600, whatever the window measures.
        line.push(format!("--screen-info={{{width}x{height}}}"));
        // Takes the bar that warns of --no-sandbox out of the page's height.
        line.push("--test-type".to_owned());
    }
    if !sandbox {
        line.push("--no-sandbox".to_owned());
    }
    line.push(format!("--window-size={},{}", window.width, window.height));
    line.extend(settings.args.iter().cloned());
    // After what the client may say: of a switch given twice Chromium takes the last.
    line.extend(kept_to(egress, server));
    line.push(format!("--user-data-dir={}", profile.display()));
    line.push("about:blank".to_owned());
    line
}

/// Whether a session must have the whole browser.
pub fn needs_full_browser(settings: &BrowserSettings) -> bool {
    // The headless shell throws away the cookies that are to end with a browser (measured, 156).
    settings.browser == BrowserKind::Chromium || settings.context.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::egress::Resolver;

    fn line(full: bool, settings: &BrowserSettings) -> Vec<String> {
        let egress = Egress::new(&Destinations::new(true, Resolver::default()));
        let to = (&egress, "socks5://egress:1");
        let extension = settings.extension.then_some(Path::new("/w/b/extension"));
        command_line(full, settings, DEFAULT_VIEWPORT, Path::new("/w/b/profile"), false, to, extension)
    }

    #[test]
    fn no_switch_is_given_twice() {
        let line = line(true, &BrowserSettings { extension: true, ..BrowserSettings::default() });
        let mut names: Vec<&str> = line.iter().map(|switch| switch.split('=').next().expect("a name")).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    /// Taken out: the feature that keeps Google Chrome from it.
    #[test]
    fn an_extension_is_loaded_by_who_wants_one_and_by_nobody_else() {
        let with = line(true, &BrowserSettings { extension: true, ..BrowserSettings::default() });
        let without = line(true, &BrowserSettings::default());
        let has = |line: &[String], text: &str| line.iter().any(|switch| switch.contains(text));
        assert!(with.contains(&"--load-extension=/w/b/extension".to_owned()));
        assert!(with.iter().any(|switch| {
            switch.starts_with("--disable-features=")
                && switch.ends_with(",Translate,DisableLoadExtensionCommandLineSwitch")
        }));
        assert!(!has(&without, "load-extension") && !has(&without, "DisableLoadExtension"));
    }

    #[test]
    fn what_a_client_asks_for_comes_before_what_keeps_the_browser_in() {
        let settings = BrowserSettings {
            args: vec!["--lang=de".into(), "--mute-audio".into()],
            // Not the browser's business.
            proxy_server: Some("http://p:1".into()),
            proxy_bypass: Some("a.example".into()),
            ..BrowserSettings::default()
        };
        let line = line(false, &settings);
        let tail: Vec<&str> = line.iter().rev().take(9).rev().map(String::as_str).collect();
        assert_eq!(
            tail[..4],
            ["--lang=de", "--mute-audio", "--proxy-server=socks5://egress:1", "--proxy-bypass-list=<-loopback>"]
        );
        assert!(tail[4].ends_with(".wallcrawler 127.0.0.1, MAP * ~NOTFOUND"), "{}", tail[4]);
        assert_eq!(tail[7..], ["--user-data-dir=/w/b/profile", "about:blank"]);
        assert!(line.contains(&"--window-size=1280,720".to_owned()));
    }
}

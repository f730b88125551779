//! The command line of a browser. What is switched off here is what stands in an automated browser's way
//! or calls home; what is switched on is what the service promises (viewport, proxy, isolation).

use std::path::Path;

use super::account::Confinement;
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

/// One switch, because Chromium takes only the last `--disable-features` it is given.
const DISABLED_FEATURES: &str = "--disable-features=AcceptCHFrame,DestroyProfileOnBrowserClose,DialMediaRouteProvider,\
     GlobalMediaControls,HttpsUpgrades,MediaRouter,OptimizationHints,PaintHolding,Translate";

/// Where a cloud machine's credentials are to be had, in every spelling that reaches the resolver:
/// Chromium normalises decimal, hexadecimal and dotted IPv4 to the dotted form before the rules apply,
/// but not the IPv4-mapped IPv6 one, and IPv6 patterns are written without brackets (measured, 156).
/// The whole link-local network is closed, not only the two known addresses.
const METADATA_HOSTS: [&str; 4] = ["169.254.*", "::ffff:a9fe:*", "fd00:ec2::*", "metadata.google.internal"];

/// On a task all sessions share one loopback interface, and every Chrome answers `/json/list` on it: a
/// page of one session could list and close the pages of another.
const LOOPBACK_HOSTS: [&str; 10] = [
    "127.*",
    "localhost",
    "*.localhost",
    "localhost.",
    "*.localhost.",
    "0.0.0.0",
    "::",
    "::1",
    "::ffff:7f*",
    "::ffff:0:0",
];

/// What the machine, rather than the session, has to say about a command line.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings {
    pub confinement: Confinement,
    /// Nothing a page could want is on this machine's loopback interface.
    pub closed_loopback: bool,
}

/// Everything after the program's name. `window` is what the window measures, frame included.
pub fn command_line(
    full_browser: bool,
    settings: &BrowserSettings,
    window: Viewport,
    profile: &Path,
    surroundings: Surroundings,
) -> Vec<String> {
    let Viewport { width, height } = settings.viewport.unwrap_or(DEFAULT_VIEWPORT);
    let mut line: Vec<String> = ALWAYS.iter().map(|&switch| switch.to_owned()).collect();
    line.push(DISABLED_FEATURES.to_owned());
    if full_browser {
        line.push("--headless=new".to_owned());
        // Without it the screen is 800x600, whatever the window measures.
        line.push(format!("--screen-info={{{width}x{height}}}"));
        // Takes the bar that warns of --no-sandbox out of the page's height.
        line.push("--test-type".to_owned());
    }
    if !surroundings.confinement.sandbox {
        line.push("--no-sandbox".to_owned());
    }
    let closed = if surroundings.closed_loopback { &LOOPBACK_HOSTS[..] } else { &[] };
    let rules: Vec<String> = METADATA_HOSTS.iter().chain(closed).map(|host| format!("MAP {host} ~NOTFOUND")).collect();
    line.push(format!("--host-resolver-rules={}", rules.join(", ")));
    line.push(format!("--window-size={},{}", window.width, window.height));
    if let Some(server) = &settings.proxy_server {
        line.push(format!("--proxy-server={server}"));
    }
    if let Some(bypass) = &settings.proxy_bypass {
        line.push(format!("--proxy-bypass-list={bypass}"));
    }
    line.extend(settings.args.iter().cloned());
    // After what the client may say: of a switch given twice Chromium takes the last.
    line.push(format!("--user-data-dir={}", profile.display()));
    line.push("about:blank".to_owned());
    line
}

/// Whether a session must have the whole browser.
pub fn needs_full_browser(settings: &BrowserSettings) -> bool {
    settings.browser == BrowserKind::Chromium
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASK: Surroundings = Surroundings { confinement: Confinement::NONE, closed_loopback: true };

    fn line(full: bool, settings: &BrowserSettings, surroundings: Surroundings) -> Vec<String> {
        command_line(full, settings, DEFAULT_VIEWPORT, Path::new("/w/b/profile"), surroundings)
    }

    #[test]
    fn no_switch_is_given_twice() {
        let line = line(true, &BrowserSettings::default(), TASK);
        let mut names: Vec<&str> = line.iter().map(|switch| switch.split('=').next().expect("a name")).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn what_a_client_asks_for_comes_after_the_defaults_and_before_the_profile() {
        let settings = BrowserSettings {
            args: vec!["--lang=de".into(), "--mute-audio".into()],
            proxy_server: Some("http://p:1".into()),
            proxy_bypass: Some("a.example".into()),
            ..BrowserSettings::default()
        };
        let line = line(false, &settings, TASK);
        let tail: Vec<&str> = line.iter().rev().take(4).rev().map(String::as_str).collect();
        assert_eq!(tail, ["--lang=de", "--mute-audio", "--user-data-dir=/w/b/profile", "about:blank"]);
        assert!(line.contains(&"--proxy-server=http://p:1".to_owned()));
        assert!(line.contains(&"--proxy-bypass-list=a.example".to_owned()));
        assert!(line.contains(&"--window-size=1280,720".to_owned()));
    }

    #[test]
    fn loopback_is_closed_on_a_task_and_open_on_a_developers_machine() {
        let rules = |surroundings| {
            line(false, &BrowserSettings::default(), surroundings)
                .into_iter()
                .find(|switch| switch.starts_with("--host-resolver-rules="))
                .expect("always given")
        };
        assert!(rules(TASK).contains("MAP 127.* ~NOTFOUND"));
        let open = rules(Surroundings { closed_loopback: false, ..TASK });
        assert!(!open.contains("127.*") && open.contains("MAP 169.254.* ~NOTFOUND"));
    }
}

//! The process: read the configuration, see where we run, run, and end with an honest exit code.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::Context as _;
use wallcrawler::clock::now_ms;
use wallcrawler::config;
use wallcrawler::lifecycle::SERVICE_TOKEN_MS;
use wallcrawler::new_key::{self, KeysError};
use wallcrawler::protocol::CONTAINER_TOKEN_MS;
use wallcrawler::tokens::{Subject, Tokens};

const USAGE: &str = "\
wallcrawler: fresh Chromium sessions for browser agents

  wallcrawler                     serve the API and the CDP proxy; on Lambda, the API
  wallcrawler container           run browsers for a server (CONTAINER_ID, CONTAINER_TOKEN, API_ENDPOINT)
  wallcrawler token container ID  mint the token of a container that is started by hand (JWE_SECRET, TOKEN_AUDIENCE)
  wallcrawler token service       mint the token of all containers that a service of ECS runs (the same)";
const NOTES: &str = "  wallcrawler help | --version

Everything is configured by environment variables: see README.md. The build for Lambda serves only there.";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        #[cfg(feature = "lambda")]
        [] if on_lambda() => run(lambda()),
        #[cfg(feature = "native")]
        [] => run(serve()),
        #[cfg(feature = "agent")]
        ["container"] => run(container()),
        ["token", "container", id] => match id.parse() {
            Ok(container) => token(&Subject::Container(container), CONTAINER_TOKEN_MS),
            Err(error) => Err(anyhow::Error::from(error)),
        },
        ["token", "service"] => token(&Subject::Service, SERVICE_TOKEN_MS),
        ["keys", words @ ..] => match keys(words) {
            Err(error @ KeysError::Usage(_)) => {
                eprintln!("wallcrawler: {error}\n\n{}", new_key::USAGE);
                return ExitCode::from(2);
            }
            done => done.map_err(anyhow::Error::from),
        },
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}\n{}\n{NOTES}", new_key::USAGE);
            Ok(())
        }
        ["--version" | "-V"] => {
            println!("wallcrawler {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        _ => {
            eprintln!("{USAGE}\n{}\n{NOTES}", new_key::USAGE);
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wallcrawler: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Where AWS runs a function, it says by this variable where its events are to be had.
#[cfg(any(feature = "native", feature = "agent", feature = "lambda"))]
fn on_lambda() -> bool {
    config::env("AWS_LAMBDA_RUNTIME_API").is_some()
}

#[cfg(any(feature = "native", feature = "agent", feature = "lambda"))]
fn run(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let json = on_lambda() || config::env("LOG_FORMAT").as_deref() == Some("json");
    wallcrawler::telemetry::init(json, config::env("RUST_LOG").as_deref());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    let done = runtime.block_on(work);
    runtime.shutdown_background();
    done
}

/// Resolves at SIGINT or SIGTERM. The second one ends the process at once.
#[cfg(feature = "agent")]
fn stop_signal() -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be caught")?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be caught")?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            std::process::exit(130);
        });
    })
}

#[cfg(feature = "lambda")]
async fn lambda() -> anyhow::Result<()> {
    wallcrawler::lambda::serve(config::Config::from_env()?).await?;
    Ok(())
}

#[cfg(feature = "native")]
async fn serve() -> anyhow::Result<()> {
    let config = config::Config::from_env()?;
    let default_api_key = config.default_api_key;
    let program = std::env::current_exe().context("this program's own path cannot be found")?;
    let mut shutdown = Box::pin(stop_signal()?);
    let server = tokio::select! {
        server = wallcrawler::server::Server::start(config, program) => server?,
        // A start may wait: for secrets, half a minute.
        () = &mut shutdown => {
            tracing::info!("stopped before it had started");
            return Ok(());
        }
    };
    let url = format!("http://{}", server.address);
    if default_api_key {
        println!("{}", welcome(&url));
    } else {
        tracing::info!(url, "listening");
    }
    server.run(shutdown).await?;
    Ok(())
}

#[cfg(feature = "native")]
fn welcome(url: &str) -> String {
    use wallcrawler::config::DEV_API_KEY;
    format!(
        "
  wallcrawler is listening on {url}
  API key: {DEV_API_KEY}

  Create a session; its connectUrl is what Playwright, Puppeteer and Stagehand connect to:

    curl -s -X POST {url}/sessions -H 'x-api-key: {DEV_API_KEY}'

  Or let a program open a page with it:

    (cd examples && npm ci --silent && node open_a_page.mjs)
"
    )
}

#[cfg(feature = "agent")]
async fn container() -> anyhow::Result<()> {
    use wallcrawler::agent::{self, AgentConfig};
    let config = AgentConfig::from_env()?;
    let shutdown = stop_signal()?;
    agent::run(config, shutdown).await?;
    Ok(())
}

fn keys(words: &[&str]) -> Result<(), KeysError> {
    let input = std::io::stdin();
    if words.first() == Some(&"hash") && input.is_terminal() {
        eprintln!("The key, then Enter and Ctrl-D:");
    }
    println!("{}", new_key::keys(words, input, now_ms())?);
    if words.first() == Some(&"new") {
        eprintln!(
            "The key is shown this once. What follows it goes into API_KEYS, or into the secret of API_KEYS_SECRET_ARN."
        );
    }
    Ok(())
}

fn token(subject: &Subject, good_for_ms: u64) -> anyhow::Result<()> {
    let secret = config::env("JWE_SECRET").context(
        "JWE_SECRET must be set, to what the server has, itself or in JWE_SECRET_ARN: the token is made from it",
    )?;
    // Without blanks around it, as the server reads it.
    let audience = config::Config::token_audience(&config::env)?;
    let tokens = Tokens::new(&[secret.trim()], false).context("JWE_SECRET")?.with_audience(audience);
    let now_ms = now_ms();
    println!("{}", tokens.mint(subject, now_ms, now_ms + good_for_ms));
    Ok(())
}

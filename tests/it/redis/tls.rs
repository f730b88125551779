//! Redis with TLS, and certificates that are and are not to be trusted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::program::Program;
use super::{PATIENCE, free_port};
use crate::world::{Redis, eventually, redis_command};

const UNTRUSTED: &str = "redis is not available: its certificate is not accepted";

fn openssl(dir: &Path, args: &str) {
    let status = Command::new("openssl")
        .args(args.split(' '))
        .current_dir(dir)
        .stderr(Stdio::null())
        .status()
        .expect("openssl is installed");
    assert!(status.success(), "openssl {args}");
}

/// An authority, and a server's certificate of its making for `localhost`.
struct Authority {
    dir: PathBuf,
}

impl Authority {
    fn new(dir: &Path) -> Self {
        fs::create_dir_all(dir).expect("a directory");
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        let name = dir.file_name().expect("a name").display();
        openssl(dir, &format!("req -x509 {key} -keyout ca.key -out ca.crt -days 2 -subj /CN={name}"));
        openssl(dir, &format!("req {key} -keyout server.key -out server.csr -subj /CN=a-server"));
        fs::write(dir.join("names"), "subjectAltName=DNS:localhost").expect("written");
        openssl(dir, "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -days 2 -out server.crt -extfile names");
        Self { dir: dir.to_owned() }
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// On a port that speaks nothing but TLS.
    fn server(&self, args: &[&str]) -> (Redis, u16) {
        let port = free_port();
        let (text, ca, crt, key) =
            (port.to_string(), self.file("ca.crt"), self.file("server.crt"), self.file("server.key"));
        let tls = ["--tls-port", &text, "--tls-ca-cert-file", &ca, "--tls-cert-file", &crt, "--tls-key-file", &key];
        (Redis::with(&[&tls[..], &["--tls-auth-clients", "no"], args].concat()), port)
    }
}

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("wallcrawler-test-tls-{}-{}", std::process::id(), free_port()));
        fs::create_dir_all(&dir).expect("a directory");
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn a_certificate_of_an_authority_that_is_trusted_is_accepted_and_no_other() {
    let scratch = Scratch::new();
    let (ours, theirs) = (Authority::new(&scratch.0.join("ours")), Authority::new(&scratch.0.join("theirs")));
    let (_redis, port) = ours.server(&[]);
    let (good, bad) = (ours.file("ca.crt"), theirs.file("ca.crt"));
    let start =
        |host: &str, vars: &[(&str, &str)]| Program::start(&scratch.0, &format!("rediss://{host}:{port}"), vars);
    let trusting = start("localhost", &[("SSL_CERT_FILE", &good)]);
    // The one says what the system says elsewhere, the other adds to it.
    let directory = scratch.0.join("directory");
    fs::create_dir_all(&directory).expect("a directory");
    fs::copy(&good, directory.join("any-name.pem")).expect("copied");
    let both = start("localhost", &[("SSL_CERT_FILE", &bad), ("SSL_CERT_DIR", &directory.display().to_string())]);
    let system = start("localhost", &[]);
    let other = start("localhost", &[("SSL_CERT_FILE", &bad)]);
    let other_name = start("127.0.0.1", &[("SSL_CERT_FILE", &good)]);

    for program in [&trusting, &both] {
        program.is_ready().await;
        program.serves().await;
    }
    for program in [&system, &other] {
        program.is_refused(UNTRUSTED).await;
        assert!(program.log().contains("UnknownIssuer"), "{}", program.log());
    }
    other_name.is_refused(UNTRUSTED).await;
    assert!(other_name.log().contains("NotValidForName"), "{}", other_name.log());
}

#[tokio::test]
async fn the_nodes_of_a_cluster_are_asked_for_certificates_too() {
    let scratch = Scratch::new();
    let ours = Authority::new(&scratch.0.join("ours"));
    let bus = free_port().to_string();
    let cluster = ["--cluster-enabled", "yes", "--tls-cluster", "yes", "--cluster-port", &bus];
    let name = ["--cluster-announce-hostname", "localhost", "--cluster-preferred-endpoint-type", "hostname"];
    let (redis, port) = ours.server(&[&cluster[..], &name].concat());
    redis_command(&redis.client().await, &["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
    let prefix = ("KEY_PREFIX", "{wallcrawler}:");
    let start = |host: &str| {
        let url = format!("rediss-cluster://{host}:{port}");
        Program::start(&scratch.0, &url, &[("SSL_CERT_FILE", &ours.file("ca.crt")), prefix])
    };
    let (trusting, other_name) = (start("localhost"), start("127.0.0.1"));
    trusting.is_ready().await;
    trusting.serves().await;
    other_name.is_refused(UNTRUSTED).await;
}

#[tokio::test]
async fn who_does_not_speak_tls_is_told_nothing() {
    let scratch = Scratch::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let heard = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let noted = heard.clone();
    let listening = tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.expect("a connection");
            let mut first = [0; 1];
            if socket.read_exact(&mut first).await.is_ok() {
                noted.lock().expect("not poisoned").push(first[0]);
                let _ = socket.write_all(b"-ERR unknown command\r\n").await;
            }
        }
    });
    let url = format!("rediss://wallcrawler:a-password@127.0.0.1:{port}");
    let program = Program::start(&scratch.0, &url, &[]);
    program.is_refused("redis is not available: it is reached, but no TLS connection can be made").await;
    eventually(PATIENCE, async || {
        let heard = heard.lock().expect("not poisoned").clone();
        // The first byte of a handshake.
        assert!(heard.iter().all(|byte| *byte == 0x16), "{heard:?}");
        if heard.len() > 5 { Ok(()) } else { Err(format!("{} connections", heard.len())) }
    })
    .await;
    listening.abort();
}

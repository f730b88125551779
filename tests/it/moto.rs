//! A `moto_server` of a test's own, and in front of it something that plays what moto does not: faults, pages, and the
//! age of tasks.

use std::collections::{HashMap, VecDeque};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_sdk_ecs::Client;
use aws_sdk_ecs::config::Credentials;
use aws_sdk_ecs::types::{ContainerDefinition, NetworkMode, Task};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use wallcrawler::clock::now_ms;

const PATIENCE: Duration = Duration::from_secs(60);
const REGION: &str = "eu-west-1";
/// Real pages hold a hundred.
const PAGE: usize = 4;

/// What becomes of a `RunTask`, or of a `GetSecretValue`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    ServerError,
    Throttled,
    Denied,
    /// The failure that stands in an answer which is itself a success.
    NotPlaced,
    /// The connection breaks, and nothing has been done.
    Cut,
    /// The connection breaks, and the task was started.
    AnswerLost,
    /// No answer ever.
    Silence,
}

#[derive(Default)]
struct Play {
    /// What becomes of the next ones. `None`: they succeed. As all do when it is empty.
    faults: VecDeque<Option<Fault>>,
    /// What was asked for, whether or not it was done.
    run_tasks: Vec<Value>,
    started_ms: HashMap<String, u64>,
    /// How often tasks were listed, each page counted.
    listings: usize,
    /// How much older tasks are said to be.
    older_ms: u64,
    /// What becomes of all that ask for a secret, from now on.
    secrets: Option<Fault>,
    /// Which versions of secrets were asked for, whether or not they were given.
    secret_reads: Vec<String>,
}

#[derive(Clone)]
struct Front {
    moto: String,
    http: reqwest::Client,
    play: Arc<Mutex<Play>>,
}

pub struct Moto {
    child: Child,
    front: Front,
    pub endpoint: String,
    pub access: aws_config::SdkConfig,
    pub client: Client,
    secrets: aws_sdk_secretsmanager::Client,
    subnet: String,
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Moto {
    pub async fn start() -> Self {
        let http = reqwest::Client::new();
        let (child, moto) = spawn(&http).await;
        let post = async |path: &str, body: &Value| {
            let answer = http.post(format!("{moto}{path}")).body(body.to_string()).send().await.expect("moto answers");
            assert!(answer.status().is_success(), "{path}: {answer:?}");
        };
        post("/moto-api/reset", &json!({})).await;
        // Each look at a task would bring it nearer to its end.
        let frozen = json!({"model_name": "ecs::task", "transition": {"progression": "manual", "times": 1_000_000}});
        post("/moto-api/state-manager/set-transition", &frozen).await;
        let subnet = subnet(&http, &moto).await;

        let front = Front { moto, http, play: Arc::default() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
        let router = Router::new().fallback(pass).with_state(front.clone());
        let serve = wallcrawler::native::serve(listener, router, Default::default(), std::future::pending());
        tokio::spawn(async move { serve.await.expect("serves") });

        let access = aws_config::defaults(aws_config::BehaviorVersion::latest())
            .region(aws_config::Region::new(REGION))
            .endpoint_url(&endpoint)
            .credentials_provider(Credentials::new("test", "test", None, None, "test"))
            .load()
            .await;
        let client = Client::new(&access);
        client.create_cluster().cluster_name("browsers").send().await.expect("a cluster");
        let container = ContainerDefinition::builder().name("browser").image("wallcrawler").memory(2_048).build();
        let family = client.register_task_definition().family("browser").network_mode(NetworkMode::Awsvpc);
        family.container_definitions(container).send().await.expect("a task definition");
        let secrets = aws_sdk_secretsmanager::Client::new(&access);
        Self { child, front, endpoint, access, client, secrets, subnet }
    }

    /// What a control plane is configured with to start its tasks here.
    pub fn vars(&self) -> Vec<(&str, &str)> {
        vec![
            ("ECS_CLUSTER_ARN", "browsers"),
            ("ECS_TASK_DEFINITION_ARN", "browser:1"),
            ("SUBNET_IDS", &self.subnet),
            ("SECURITY_GROUP_ID", "sg-12345678"),
            ("AWS_REGION", REGION),
            ("MAX_CONTAINERS", "10"),
            ("API_ENDPOINT", "https://api.example.com/prod"),
        ]
    }

    /// What the program needs besides to find its way here.
    pub fn access_vars(&self) -> [(&str, &str); 4] {
        [
            ("AWS_ENDPOINT_URL_ECS", &self.endpoint),
            ("AWS_ENDPOINT_URL_SECRETS_MANAGER", &self.endpoint),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
        ]
    }

    /// A bucket, and access to it past what plays in front.
    pub async fn bucket(&self, name: &str) -> aws_config::SdkConfig {
        let made = self.front.http.put(format!("{}/{name}", self.front.moto));
        let place = format!(
            "<CreateBucketConfiguration><LocationConstraint>{REGION}</LocationConstraint></CreateBucketConfiguration>"
        );
        let scope = format!(
            "AWS4-HMAC-SHA256 Credential=test/20260101/{REGION}/s3/aws4_request, SignedHeaders=host, Signature=0"
        );
        let answer = made.header("authorization", scope).body(place).send().await.expect("moto answers");
        assert!(answer.status().is_success(), "{answer:?}");
        self.access.to_builder().endpoint_url(&self.front.moto).build()
    }

    /// Gives a secret a new version, which is the current one from now on.
    pub async fn put_secret(&self, name: &str, text: &str) {
        let known = self.secrets.put_secret_value().secret_id(name).secret_string(text).send().await;
        if known.is_err() {
            self.secrets.create_secret().name(name).secret_string(text).send().await.expect("a secret");
        }
    }

    pub fn fail_secrets(&self, fault: Option<Fault>) {
        self.play().secrets = fault;
    }

    /// Which versions of secrets were asked for: `name AWSCURRENT`.
    pub fn secret_reads(&self) -> Vec<String> {
        self.play().secret_reads.clone()
    }

    fn play(&self) -> std::sync::MutexGuard<'_, Play> {
        self.front.play.lock().expect("not poisoned")
    }

    pub fn next_run_tasks(&self, faults: impl IntoIterator<Item = Option<Fault>>) {
        self.play().faults = faults.into_iter().collect();
    }

    /// What a service does that is to keep so many tasks running, the way around our fleet.
    pub async fn run_service(&self, name: &str, count: i32) {
        let client = &self.client;
        let made = client.create_service().cluster("browsers").service_name(name).task_definition("browser");
        made.desired_count(count).send().await.expect("a service");
        let network = aws_sdk_ecs::types::AwsVpcConfiguration::builder()
            .subnets(&self.subnet)
            .security_groups("sg-12345678")
            .build()
            .expect("complete");
        let network = aws_sdk_ecs::types::NetworkConfiguration::builder().awsvpc_configuration(network).build();
        let call = client.run_task().cluster("browsers").task_definition("browser").count(count);
        let call = call.launch_type(aws_sdk_ecs::types::LaunchType::Fargate).network_configuration(network);
        call.group(format!("service:{name}")).started_by("ecs-svc/1").send().await.expect("tasks");
        // It is no call of ours.
        self.play().run_tasks.clear();
    }

    /// How many pages of tasks were listed.
    pub fn listings(&self) -> usize {
        self.play().listings
    }

    pub fn age_tasks(&self, older: Duration) {
        self.play().older_ms = older.as_millis().try_into().expect("not that long");
    }

    pub fn run_tasks(&self) -> Vec<Value> {
        self.play().run_tasks.clone()
    }

    /// All tasks that are meant to run, whoever started them.
    pub async fn tasks(&self) -> Vec<Task> {
        let mut arns = Vec::new();
        let mut next = None;
        loop {
            let call = self.client.list_tasks().cluster("browsers").desired_status("RUNNING".into());
            let page = call.set_next_token(next).send().await.expect("tasks");
            arns.extend(page.task_arns().iter().cloned());
            next = page.next_token().map(str::to_owned);
            if next.is_none() {
                break;
            }
        }
        if arns.is_empty() {
            return Vec::new();
        }
        let call = self.client.describe_tasks().cluster("browsers").set_tasks(Some(arns));
        call.send().await.expect("tasks").tasks().to_vec()
    }

    /// A task, whether or not it runs.
    pub async fn task(&self, arn: &str) -> Task {
        let call = self.client.describe_tasks().cluster("browsers").tasks(arn);
        call.send().await.expect("tasks").tasks().first().expect("it is known").clone()
    }

    /// The containers that they are meant to be.
    pub async fn containers(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.tasks().await.iter().map(|task| variable(task, "CONTAINER_ID")).collect();
        ids.sort();
        ids
    }

    pub async fn end_task(&self, container: &str) {
        let tasks = self.tasks().await;
        let task = tasks.iter().find(|task| variable(task, "CONTAINER_ID") == container).expect("it runs");
        let call = self.client.stop_task().cluster("browsers").task(task.task_arn().expect("an arn"));
        call.reason("a test").send().await.expect("stopped");
    }
}

/// What a task was told.
pub fn variable(task: &Task, name: &str) -> String {
    let overrides = task.overrides().expect("overrides").container_overrides();
    let variable = overrides[0].environment().iter().find(|variable| variable.name() == Some(name));
    variable.and_then(|variable| variable.value()).unwrap_or_default().to_owned()
}

async fn spawn(http: &reqwest::Client) -> (Child, String) {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/target/moto/bin/moto_server");
    // Another may take the port in between. Then it ends at once, and who answers there is somebody else's.
    for _ in 0..5 {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
        let mut child = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("moto is installed by: scripts/prerequisites test");
        let (url, deadline) = (format!("http://127.0.0.1:{port}"), Instant::now() + PATIENCE);
        while child.try_wait().expect("a child").is_none() {
            assert!(Instant::now() < deadline, "moto does not answer");
            let answers = http.get(format!("{url}/moto-api/data.json")).send().await.is_ok();
            if answers && child.try_wait().expect("a child").is_none() {
                return (child, url);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    panic!("moto does not start");
}

/// There are some from the beginning.
async fn subnet(http: &reqwest::Client, moto: &str) -> String {
    let scope =
        format!("AWS4-HMAC-SHA256 Credential=test/20260101/{REGION}/ec2/aws4_request, SignedHeaders=host, Signature=0");
    let ask =
        http.post(moto).header("authorization", scope).header("content-type", "application/x-www-form-urlencoded");
    let answer = ask.body("Action=DescribeSubnets&Version=2016-11-15").send().await.expect("moto answers");
    let text = answer.text().await.expect("a text");
    let id = text.split("<subnetId>").nth(1).and_then(|rest| rest.split('<').next());
    id.unwrap_or_else(|| panic!("a subnet in {text}")).to_owned()
}

fn refusal(status: StatusCode, kind: &str) -> Response {
    (status, json!({"__type": kind, "message": "as the test wishes"}).to_string()).into_response()
}

/// An answer that breaks off.
fn broken() -> Response {
    let broken = futures_util::stream::once(async { Err::<Bytes, _>(std::io::Error::other("cut")) });
    ([("content-length", "1000")], Body::from_stream(broken)).into_response()
}

async fn pass(State(front): State<Front>, headers: HeaderMap, body: Bytes) -> Response {
    let target = headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
    let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
    let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
    let mut fault = None;
    if operation == "RunTask" {
        let mut play = front.play.lock().expect("not poisoned");
        fault = play.faults.pop_front().flatten();
        play.run_tasks.push(asked.clone());
    }
    if operation == "GetSecretValue" {
        let mut play = front.play.lock().expect("not poisoned");
        fault = play.secrets;
        let text = |field: &str| asked[field].as_str().unwrap_or_default().to_owned();
        play.secret_reads.push(format!("{} {}", text("SecretId"), text("VersionStage")));
    }
    match fault {
        Some(Fault::ServerError) => return refusal(StatusCode::INTERNAL_SERVER_ERROR, "ServerException"),
        Some(Fault::Throttled) => return refusal(StatusCode::BAD_REQUEST, "ThrottlingException"),
        Some(Fault::Denied) => return refusal(StatusCode::BAD_REQUEST, "AccessDeniedException"),
        Some(Fault::NotPlaced) => {
            let failure = json!({"reason": "Capacity is unavailable at this time.", "arn": "arn:aws:ecs:none"});
            return json!({"tasks": [], "failures": [failure]}).to_string().into_response();
        }
        Some(Fault::Cut) => return broken(),
        Some(Fault::Silence) => std::future::pending().await,
        Some(Fault::AnswerLost) | None => {}
    }
    let mut request = front.http.post(&front.moto).body(body);
    for name in ["x-amz-target", "content-type", "authorization", "x-amz-date"] {
        if let Some(value) = headers.get(name) {
            request = request.header(name, value);
        }
    }
    let answer = request.send().await.expect("moto answers");
    let status = answer.status();
    let mut said: Value = serde_json::from_str(&answer.text().await.expect("a text")).unwrap_or_default();
    {
        let mut play = front.play.lock().expect("not poisoned");
        let now_ms = now_ms();
        if operation == "RunTask" {
            for task in said["tasks"].as_array().into_iter().flatten() {
                play.started_ms.insert(task["taskArn"].as_str().expect("an arn").to_owned(), now_ms);
            }
        }
        if operation == "DescribeTasks" {
            for task in said["tasks"].as_array_mut().into_iter().flatten() {
                let started_ms = play.started_ms.get(task["taskArn"].as_str().expect("an arn")).copied();
                let at_ms = started_ms.unwrap_or(now_ms) - play.older_ms;
                task["createdAt"] = json!(std::time::Duration::from_millis(at_ms).as_secs_f64());
            }
        }
    }
    if operation == "ListTasks" {
        front.play.lock().expect("not poisoned").listings += 1;
        let from = asked["nextToken"].as_str().map_or(0, |token| token.parse::<usize>().expect("a token of ours"));
        let all = said["taskArns"].as_array().cloned().unwrap_or_default();
        let page: Vec<_> = all.iter().skip(from).take(PAGE).cloned().collect();
        said = json!({"taskArns": page});
        if from + PAGE < all.len() {
            said["nextToken"] = json!((from + PAGE).to_string());
        }
    }
    if fault == Some(Fault::AnswerLost) {
        return broken();
    }
    (status, said.to_string()).into_response()
}

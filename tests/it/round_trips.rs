//! What each operation costs, counted by Redis itself.

use fred::prelude::Client as RedisClient;
use serde_json::json;

use crate::world::{World, claimed, redis_command};

/// How often Redis has read from a socket. A command is one read, a script's own commands are none.
async fn reads(redis: &RedisClient) -> u64 {
    let info = redis_command(redis, &["INFO", "stats"]).await.into_string().expect("a text");
    info.lines()
        .find_map(|line| line.strip_prefix("total_reads_processed:"))
        .and_then(|count| count.trim().parse().ok())
        .expect("redis counts its reads")
}

/// What `operation` costs, without the question that counts it.
pub async fn cost<T>(redis: &RedisClient, operation: impl Future<Output = T>) -> (u64, T) {
    let before = reads(redis).await;
    let value = operation.await;
    (reads(redis).await - before - 1, value)
}

#[tokio::test]
async fn create_claim_ready_get_list_and_end_cost_one_round_trip_each() {
    let world = World::new(&[]).await;
    let redis = world.redis.client().await;
    let client = world.client("key-one");
    let container = world.container("ctr-a");
    let report = json!({"lease": 1, "cdpSecret": "0123456789abcdef"});

    // The first round loads the scripts, which is done once per Redis; the second counts.
    for counted in [false, true] {
        let (create, id) = cost(&redis, client.create()).await;
        let (claim, answer) = cost(&redis, container.claim("ctr-a", 20, &[])).await;
        assert_eq!(claimed(&answer), [id.as_str()]);
        let (ready, answer) = cost(&redis, container.post(&format!("/sessions/{id}/ready"), &report)).await;
        assert_eq!(answer.body["success"], true);
        let (get, answer) = cost(&redis, client.get(&format!("/sessions/{id}"))).await;
        assert_eq!(answer.body["status"], "active");
        let (list, answer) = cost(&redis, client.get("/sessions?status=active")).await;
        assert_eq!(answer.body["sessions"].as_array().map(Vec::len), Some(1));
        let (end, answer) = cost(&redis, client.delete(&format!("/sessions/{id}"))).await;
        assert_eq!(answer.body["status"], "ended");
        if counted {
            assert_eq!([create, claim, ready, get, list, end], [1; 6], "create, claim, ready, get, list, end");
        }
    }
}

#[tokio::test]
async fn refused_requests_cost_nothing() {
    let world = World::new(&[]).await;
    let redis = world.redis.client().await;
    let nobody = world.client("not-a-key");
    let (wrong_key, _) = cost(&redis, nobody.get("/sessions")).await;
    let (bad_body, _) = cost(&redis, world.client("key-one").post("/sessions", &json!({"timeout": 0}))).await;
    let (wrong_token, _) = cost(&redis, nobody.get("/cdp?token=none")).await;
    assert_eq!([wrong_key, bad_body, wrong_token], [0; 3]);
}

use serde_json::json;

use super::*;

fn hash(key: &str) -> String {
    hex::encode(&sha256(key))
}

fn faults(text: &str) -> Vec<String> {
    ApiKeys::parse(text).err().map(|faults| faults.0).unwrap_or_default()
}

#[test]
fn a_key_and_its_hash_are_the_same_user_and_the_id_shows_neither() {
    let hash = hash("wc_secret");
    let plain = ApiKeys::parse("other, wc_secret").expect("valid");
    let hashed = ApiKeys::parse(&format!("sha256:{hash}")).expect("valid");
    let key = plain.find("wc_secret").expect("known");
    assert_eq!(hashed.find("wc_secret"), Some(key));
    assert_ne!(plain.find("other").expect("known").user, key.user);
    assert_eq!(plain.find("wc_secre"), None);
    assert_eq!(hashed.find(&format!("sha256:{hash}")), None);
    assert!(!key.user.as_str().contains("wc_secret") && !key.user.as_str().contains(&hash[..8]));
    assert_eq!(key.roles, [Role::Client]);
}

#[test]
fn keys_come_in_every_published_shape() {
    let record = json!({"sha256": hash("b")});
    for text in [
        "a,b".to_owned(),
        " a , b \n".to_owned(),
        json!(["a", "b"]).to_string(),
        json!({"API_KEYS": ["a", "b"]}).to_string(),
        json!({"API_KEYS": "a,b"}).to_string(),
        json!({"API_KEYS": "[\"a\", \"b\"]", "JWE_SECRET": "x"}).to_string(),
        json!(["a", record]).to_string(),
        json!({"API_KEYS": ["a", record, record]}).to_string(),
        json!({"API_KEYS": [format!("sha256:{}", hash("a")), record]}).to_string(),
    ] {
        let keys = ApiKeys::parse(&text).expect(&text);
        assert!(keys.find("a").is_some() && keys.find("b").is_some() && keys.0.len() == 2, "{text}");
        assert_eq!(keys.find("b"), ApiKeys::parse("b").expect("valid").find("b"), "{text}");
    }
}

#[test]
fn a_record_says_what_its_key_may() {
    let all = json!([{
        "sha256": hash("a").to_uppercase(), "userId": "alice", "projectId": "9c1f-7", "name": "Alice's laptop",
        "maxSessions": 3, "createsPerMinute": 10, "projectMaxSessions": 5, "projectCreatesPerMinute": 20, "roles": ["operator", "client"],
        "expiresAt": "2026-01-01T01:00:00+01:00",
    }, {"sha256": hash("b"), "userId": null, "roles": ["operator"]}]);
    let keys = ApiKeys::parse(&all.to_string()).expect("valid");
    let expected = ApiKey {
        user: "alice".parse().expect("an id"),
        project: Some("9c1f-7".parse().expect("an id")),
        name: Some("Alice's laptop".to_owned()),
        max_sessions: Some(3),
        creates_per_minute: Some(10),
        project_limits: ProjectLimits { max_sessions: Some(5), creates_per_minute: Some(20) },
        roles: vec![Role::Operator, Role::Client],
        expires_at_ms: Some(1_767_225_600_000),
    };
    assert_eq!(keys.find("a"), Some(&expected));
    let other = keys.find("b").expect("known");
    assert_eq!((&other.user, other.roles.as_slice()), (&user_of(&sha256("b")), &[Role::Operator][..]));
    let development = ApiKeys::development("wc_dev");
    assert_eq!(development.find("wc_dev").expect("known").roles, [Role::Client, Role::Operator]);
}

/// A key for each, of this project and with this field.
fn of_projects(keys: &[(&str, &str, Value)]) -> String {
    let records = keys.iter().enumerate().map(|(index, (project, field, value))| {
        let mut record = json!({"sha256": hash(&index.to_string()), "projectId": project});
        record[*field] = value.clone();
        record
    });
    Value::from_iter(records).to_string()
}

#[test]
fn what_one_record_says_of_a_project_holds_for_all_its_keys() {
    let limits = |text: &str, key: &str| ApiKeys::parse(text).expect("valid").find(key).expect("known").project_limits;
    let text = of_projects(&[
        ("p", "name", json!("says nothing")),
        ("p", "projectMaxSessions", json!(2)),
        ("q", "projectMaxSessions", json!(3)),
        ("p", "projectCreatesPerMinute", json!(4)),
        ("p", "projectMaxSessions", json!(2)),
        ("r", "name", json!("of another")),
    ]);
    for key in ["0", "1", "3", "4"] {
        let expected = ProjectLimits { max_sessions: Some(2), creates_per_minute: Some(4) };
        assert_eq!(limits(&text, key), expected, "{key}");
    }
    assert_eq!(limits(&text, "2"), ProjectLimits { max_sessions: Some(3), creates_per_minute: None });
    assert_eq!(limits(&text, "5"), ProjectLimits::default());
}

#[test]
fn what_cannot_be_a_key_is_named_by_its_place_and_field_and_never_by_its_value() {
    let hash = hash("a");
    let with = |field: &str, value: Value| json!([{"sha256": hash, field: value}]).to_string();
    for (text, fault) in [
        ("a, ".to_owned(), "API_KEYS[1] is empty"),
        ("sha256:hunter2".to_owned(), "API_KEYS[0] begins with sha256: but 64 hexadecimal digits do not follow"),
        ("{\"API_KEYS\": [hunter2]}".to_owned(), "API_KEYS is not valid JSON (line 1, column 15)"),
        ("{}".to_owned(), "API_KEYS must be keys separated by commas"),
        (json!({"API_KEYS": 7}).to_string(), "API_KEYS must be keys separated by commas"),
        (json!({"API_KEYS": {"hunter2": 7}}).to_string(), "API_KEYS must be keys separated by commas"),
        (json!(["a", 7]).to_string(), "API_KEYS[1] must be a key or a record"),
        (json!(["a", ["hunter2"]]).to_string(), "API_KEYS[1] must be a key or a record"),
        (json!(["a", {"userId": "b"}]).to_string(), "API_KEYS[1].sha256 must be given"),
        (json!([{"sha256": "hunter2"}]).to_string(), "API_KEYS[0].sha256 must be the 64"),
        (json!([{"sha256": 7}]).to_string(), "API_KEYS[0].sha256 must be the 64"),
        (with("userId", json!("hunter2!")), "API_KEYS[0].userId must be"),
        (with("userId", json!("")), "API_KEYS[0].userId must be"),
        (with("projectId", json!("hunter2/..")), "API_KEYS[0].projectId must be"),
        (with("name", json!("")), "API_KEYS[0].name must be"),
        (with("name", json!("hunter2\n")), "API_KEYS[0].name must be"),
        (with("name", json!("x".repeat(129))), "API_KEYS[0].name must be"),
        (with("maxSessions", json!(0)), "API_KEYS[0].maxSessions must be a whole number from 1 to 10000000"),
        (with("maxSessions", json!("hunter2")), "API_KEYS[0].maxSessions must be"),
        (with("maxSessions", json!(1.5)), "API_KEYS[0].maxSessions must be"),
        (with("createsPerMinute", json!(-1)), "API_KEYS[0].createsPerMinute must be"),
        (with("projectMaxSessions", json!(1)), "API_KEYS[0].projectMaxSessions is given without a project"),
        (with("projectCreatesPerMinute", json!(1)), "API_KEYS[0].projectCreatesPerMinute is given without a project"),
        (
            of_projects(&[("p", "projectMaxSessions", json!(0))]),
            "API_KEYS[0].projectMaxSessions must be a whole number from 1 to 10000000",
        ),
        (
            of_projects(&[("p", "projectCreatesPerMinute", json!("hunter2"))]),
            "API_KEYS[0].projectCreatesPerMinute must be a whole number from 1 to 1000000",
        ),
        (
            of_projects(&[("p", "projectMaxSessions", json!(1)), ("p", "projectMaxSessions", json!(2))]),
            "API_KEYS[1].projectMaxSessions is another than API_KEYS[0] says of its project",
        ),
        (
            of_projects(&[
                ("p", "projectCreatesPerMinute", json!(1)),
                ("q", "projectCreatesPerMinute", json!(3)),
                ("p", "projectCreatesPerMinute", json!(2)),
            ]),
            "API_KEYS[2].projectCreatesPerMinute is another than API_KEYS[0] says of its project",
        ),
        (with("roles", json!([])), "API_KEYS[0].roles must be a list of client, operator or both"),
        (with("roles", json!(["client", "hunter2"])), "API_KEYS[0].roles must be"),
        (with("roles", json!("client")), "API_KEYS[0].roles must be"),
        (with("expiresAt", json!("tomorrow, hunter2")), "API_KEYS[0].expiresAt must be"),
        (with("expiresAt", json!(1_767_225_600)), "API_KEYS[0].expiresAt must be"),
        (with("maxSession", json!("hunter2")), "API_KEYS[0].maxSession is not a field of a record"),
        (with("hunter2", json!(1)), "API_KEYS[0] has a field that a record does not have"),
        (
            json!([{"sha256": hash}, {"sha256": hash, "userId": "b"}]).to_string(),
            "API_KEYS[1] is the same key as API_KEYS[0], but says otherwise of it",
        ),
    ] {
        let found = faults(&text);
        assert!(found.len() == 1 && found[0].starts_with(fault), "{text}: {found:?}");
        assert!(!found[0].contains("hunter2"), "{found:?}");
    }
    let many = json!(["", {"sha256": "x", "roles": 1, "maxSessions": 0}, {}]).to_string();
    assert_eq!(faults(&many).len(), 5, "all at once: {:?}", faults(&many));
}

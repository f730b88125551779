//! Bodies of requests: what is taken keeps within the limits, and what is not is the client's fault. The first byte says
//! whose body it is.

use axum::http::StatusCode;
use wallcrawler::auth::ContainerCaller;
use wallcrawler::error::ApiError;
use wallcrawler::protocol::{
    ClaimRequest, DeliverRequest, EndedRequest, MAX_CLAIM_WAIT_SECONDS, MAX_SESSIONS_LIMIT, ReadyRequest,
};
use wallcrawler::routes::body::parse;
use wallcrawler::routes::claim;
use wallcrawler::routes::sessions::CreateSession;

pub fn check(data: &[u8]) {
    let Some((&kind, body)) = data.split_first() else { return };
    let checked = match kind % 5 {
        0 => create(body),
        1 => claim(body),
        2 => parse::<ReadyRequest>(body).map(drop),
        3 => parse::<EndedRequest>(body).map(drop),
        _ => parse::<DeliverRequest>(body).map(drop),
    };
    if let Err(error) = checked {
        assert!(matches!(error.status, StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN), "{error:?}");
        assert!(!error.message.is_empty() && error.message.len() < 1_000, "{error:?}");
    }
}

fn create(body: &[u8]) -> Result<(), ApiError> {
    let new = parse::<CreateSession>(body)?.check("user_1".parse().expect("an id"), None)?;
    assert!((60_000..=360 * 60_000).contains(&new.timeout_ms) && new.timeout_ms.is_multiple_of(60_000), "{new:?}");
    assert!(!new.browser_settings.contains_key("token") && !new.browser_settings.contains_key("cdpUrl"));
    let size = |object| serde_json::to_vec(object).expect("JSON").len();
    assert!(size(&new.browser_settings) <= 65_536 && size(&new.user_metadata) <= 4_096);
    Ok(())
}

fn claim(body: &[u8]) -> Result<(), ApiError> {
    let request = parse::<ClaimRequest>(body)?;
    let caller = ContainerCaller { container: "ctr-a".parse().expect("an id"), launched_for: None };
    claim::check(&request, &caller)?;
    assert_eq!(request.container_id, caller.container);
    assert!((1..=MAX_SESSIONS_LIMIT).contains(&request.max_sessions));
    assert!(request.wait_seconds <= MAX_CLAIM_WAIT_SECONDS);
    assert!(request.address.is_none_or(|address| !address.contains(['/', '@', ' ', '\r', '\n', '?', '#'])));
    Ok(())
}

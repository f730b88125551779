use aws_lc_rs::aead;
use serde_json::json;

use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const NOW: u64 = 1_767_225_600_000;

fn subject() -> Subject {
    Subject::Connect { session: SessionId::random(), user: "user_1".parse().expect("an id") }
}

/// A token made by hand by somebody who has the keys, with whatever `header` says of it.
fn seal(keys: &Keys, header: &str, payload: &[u8]) -> String {
    let protected = URL_SAFE_NO_PAD.encode(header);
    let key = aead::LessSafeKey::new(aead::UnboundKey::new(&aead::AES_256_GCM, &keys.encrypt).expect("a key"));
    let (iv, mut text) = ([7; 12], payload.to_vec());
    let nonce = aead::Nonce::assume_unique_for_key(iv);
    let tag = key.seal_in_place_separate_tag(nonce, aead::Aad::from(protected.as_bytes()), &mut text);
    let [iv, text, tag] = [&iv[..], &text, tag.expect("sealed").as_ref()].map(|part| URL_SAFE_NO_PAD.encode(part));
    format!("{protected}..{iv}.{text}.{tag}")
}

/// The same without encryption, signed by `algorithm`.
fn sign(key: &EncodingKey, algorithm: Algorithm, claims: &Value) -> String {
    jsonwebtoken::encode(&Header::new(algorithm), claims, key).expect("signed")
}

#[test]
fn a_token_speaks_for_its_subject_until_it_expires() {
    let tokens = Tokens::new(&[SECRET], false).expect("long enough");
    let view = Subject::View { session: SessionId::random(), user: "user_1".parse().expect("an id") };
    let launched = Subject::Launched { container: ContainerId::random(), max_sessions: 20 };
    let of_project = Subject::Files {
        session: SessionId::random(),
        owner: "project:p1".parse().expect("an owner"),
        context: Some("ctx_1".parse().expect("an id")),
    };
    let of_user =
        Subject::Files { session: SessionId::random(), owner: "user:u1".parse().expect("an owner"), context: None };
    let read = Subject::Object { name: ObjectName::in_token("logs/user/u1/ses_1.json".to_owned()), to: Use::Read };
    for subject in [
        subject(),
        view,
        of_project,
        of_user,
        read,
        Subject::Container("my-laptop".parse().expect("an id")),
        launched,
        Subject::Service,
    ] {
        let token = tokens.mint(&subject, NOW, NOW + 60_000);
        assert_eq!(tokens.verify(&token, NOW), Ok(subject.clone()));
        assert_eq!(tokens.verify(&token, NOW + 60_000 + CLOCK_SKEW_MS - 1), Ok(subject));
        assert_eq!(tokens.verify(&token, NOW + 60_000 + CLOCK_SKEW_MS), Err(TokenError::Expired));
        // It travels in a URL of at most 4,096 characters.
        assert!(token.len() < 700, "{}", token.len());
    }
}

#[test]
fn a_token_that_was_touched_anywhere_is_refused() {
    let tokens = Tokens::new(&[SECRET], false).expect("long enough");
    let token = tokens.mint(&subject(), NOW, NOW + 60_000);
    for at in 0..token.len() {
        let mut touched = token.clone().into_bytes();
        touched[at] = if touched[at] == b'A' { b'B' } else { b'A' };
        let touched = String::from_utf8(touched).expect("ascii");
        // It may then say that it is of another secret.
        let refused = matches!(tokens.verify(&touched, NOW), Err(TokenError::Invalid | TokenError::UnknownSecret));
        assert!(refused, "at {at}");
    }
    for cut in 0..token.len() {
        assert_eq!(tokens.verify(&token[..cut], NOW), Err(TokenError::Invalid), "cut at {cut}");
    }
    assert_eq!(tokens.verify(&"a".repeat(100_000), NOW), Err(TokenError::Invalid));
}

#[test]
fn only_encrypted_tokens_of_a_known_secret_are_accepted_unless_configured_otherwise() {
    let tokens = Tokens::new(&[SECRET], false).expect("long enough");
    let other = Tokens::new(&["another secret of thirty-two bytes"], false).expect("long enough");
    let token = other.mint(&subject(), NOW, NOW + 60_000);
    assert_eq!(tokens.verify(&token, NOW), Err(TokenError::UnknownSecret));
    let both = Tokens::new(&[SECRET, "another secret of thirty-two bytes"], false).expect("long enough");
    assert!(both.verify(&token, NOW).is_ok());

    let claims =
        serde_json::json!({"role": "connect", "sub": "ses_1", "uid": "user_1", "iat": 1, "exp": 9_999_999_999u64});
    let plain = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &tokens.keys[0].sign).expect("signed");
    assert_eq!(tokens.verify(&plain, NOW), Err(TokenError::Invalid));
    let lenient = Tokens::new(&[SECRET], true).expect("long enough");
    assert!(lenient.verify(&plain, NOW).is_ok());
    let unsigned =
        format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), plain.split('.').nth(1).expect("claims"));
    assert_eq!(lenient.verify(&unsigned, NOW), Err(TokenError::Invalid));
}

#[test]
fn a_replaced_secret_mints_no_more_and_what_it_minted_stays_good() {
    const NEXT: &str = "another secret of thirty-two bytes";
    let before = Tokens::new(&[SECRET], false).expect("long enough");
    let after = Tokens::new(&[NEXT, SECRET], false).expect("long enough");
    let (old, new) = (before.mint(&subject(), NOW, NOW + 60_000), after.mint(&subject(), NOW, NOW + 60_000));
    assert!(after.verify(&old, NOW).is_ok() && after.verify(&new, NOW).is_ok());
    assert_eq!(before.verify(&new, NOW), Err(TokenError::UnknownSecret));
    let kid = |token: &str| our_envelope(token).and_then(|envelope| envelope.kid).expect("it says");
    assert_ne!(kid(&old), kid(&new));
    assert_eq!(kid(&before.mint(&subject(), NOW, NOW)), kid(&old));
    assert!(!kid(&old).contains(&SECRET[..4]) && kid(&old).len() == 16);
    // As they were before they said which secret they are of.
    let keys = &before.keys[0];
    let claims = json!({"role": "connect", "sub": "ses_1", "uid": "user_1", "iat": 1, "exp": NOW});
    let signed = sign(&keys.sign, Algorithm::HS256, &claims);
    let unnamed = seal(keys, r#"{"alg":"dir","enc":"A256GCM","cty":"JWT"}"#, signed.as_bytes());
    assert!(before.verify(&unnamed, NOW).is_ok() && after.verify(&unnamed, NOW).is_ok());
    let other = Tokens::new(&[NEXT], false).expect("long enough");
    assert_eq!(other.verify(&unnamed, NOW), Err(TokenError::Invalid));
}

#[test]
fn a_secret_is_a_text_or_a_field_of_json() {
    for text in [SECRET.to_owned(), format!(" {SECRET}\n"), format!("{{\"JWE_SECRET\": \"{SECRET}\", \"x\": 1}}")] {
        assert_eq!(secret_in(&text).expect("a secret"), SECRET);
    }
    let generated = "{V]7Rw&~2(9sKq+b4Zx:Yh%Lc=Tn0gJd";
    assert_eq!(secret_in(generated).expect("a secret"), generated);
    for (text, fault) in [
        ("hunter2", "JWE_SECRET must be at least 32 bytes long"),
        (r#"{"JWE_SECRET": "hunter2"}"#, "JWE_SECRET must be at least 32 bytes long"),
        (r#"{"secret": "hunter2hunter2hunter2hunter2hunter2"}"#, "it is JSON, in which JWE_SECRET must be a text"),
        (r#"{"JWE_SECRET": 12345678901234567890123456789012}"#, "it is JSON, in which JWE_SECRET must be a text"),
    ] {
        assert_eq!(secret_in(text).expect_err("a fault").to_string(), fault);
    }
}

#[test]
fn a_token_of_another_making_is_refused_even_from_somebody_who_has_the_keys() {
    let tokens = Tokens::new(&[SECRET], false).expect("long enough");
    let keys = &tokens.keys[0];
    let claims = json!({"role": "connect", "sub": "ses_1", "uid": "user_1", "iat": 1, "exp": NOW});
    let signed = sign(&keys.sign, Algorithm::HS256, &claims);
    let with = |says: &str| format!(r#"{{"alg":"dir","enc":"A256GCM","cty":"JWT"{says}}}"#);
    let header = with("");
    let verify = |token: &str| tokens.verify(token, NOW);
    assert!(verify(&seal(keys, &header, signed.as_bytes())).is_ok(), "as it should be");
    assert!(verify(&seal(keys, &with(&format!(r#","kid":"{}""#, keys.id)), signed.as_bytes())).is_ok());

    // What the header says.
    for header in [
        with(r#","zip":"DEF""#),
        with(r#","zip":null"#),
        with(r#","crit":["exp"]"#),
        with(r#","typ":"JWT""#),
        with(r#","alg":"dir""#),
        with(r#","kid":7"#),
        with(r#","jwk":{}"#),
        with(r#","p2c":1000000000"#),
        header.replace("dir", "none"),
        header.replace("dir", "A256KW"),
        header.replace("dir", "PBES2-HS256+A128KW"),
        header.replace("dir", "DIR"),
        header.replace("A256GCM", "A128GCM"),
        header.replace("A256GCM", "A256CBC-HS512"),
        header.replace(r#","cty":"JWT""#, ""),
        format!("{header} x"),
        String::new(),
        "[".repeat(1_000),
    ] {
        assert_eq!(verify(&seal(keys, &header, signed.as_bytes())), Err(TokenError::Invalid), "{header}");
    }

    // What is in the envelope.
    let part = |part: &str| URL_SAFE_NO_PAD.encode(part);
    let [_, body, mac] = signed.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
    let none = part(r#"{"alg":"none"}"#);
    for inner in [
        format!("{none}.{body}."),
        format!("{none}.{body}.{mac}"),
        format!("{}.{body}.{mac}", part(r#"{"alg":"RS256"}"#)),
        sign(&keys.sign, Algorithm::HS512, &claims),
        sign(&EncodingKey::from_secret(&keys.encrypt), Algorithm::HS256, &claims),
        sign(&EncodingKey::from_secret(SECRET.as_bytes()), Algorithm::HS256, &claims),
        seal(keys, &header, signed.as_bytes()),
        claims.to_string(),
        String::new(),
        "\u{0}".repeat(300),
    ] {
        assert_eq!(verify(&seal(keys, &header, inner.as_bytes())), Err(TokenError::Invalid), "{inner}");
    }

    // What it claims.
    for (claim, value) in [
        ("role", json!("operator")),
        ("role", json!(null)),
        ("role", json!("container")),
        ("sub", json!("ctr-a")),
        ("sub", json!("ses_{a}:b")),
        ("sub", json!(["ses_1"])),
        ("uid", json!("../user")),
        ("uid", json!(null)),
        ("exp", json!("2030-01-01")),
        ("exp", json!(-1)),
        ("exp", json!(1.5e12)),
        ("exp", json!(null)),
        ("aud", json!("Wallcrawler")),
        ("aud", json!("")),
        ("aud", json!(null)),
        ("aud", json!(["wallcrawler"])),
        ("aud", json!(["elsewhere", "wallcrawler"])),
        ("aud", json!({"wallcrawler": true})),
    ] {
        let mut claims = claims.clone();
        claims[claim] = value;
        let inner = sign(&keys.sign, Algorithm::HS256, &claims);
        assert_eq!(verify(&seal(keys, &header, inner.as_bytes())), Err(TokenError::Invalid), "{claims}");
    }
    let mut container = json!({"role": "container", "sub": "ctr-a", "iat": 1, "exp": NOW});
    let sealed = |claims: &Value| seal(keys, &header, sign(&keys.sign, Algorithm::HS256, claims).as_bytes());
    assert!(verify(&sealed(&container)).is_ok());
    container["uid"] = json!("user_1");
    assert_eq!(verify(&sealed(&container)), Err(TokenError::Invalid));

    // How large it is: nothing of it is looked at.
    let mut large = claims.clone();
    large["sub"] = json!(format!("ses_{}", "1".repeat(2_000)));
    assert_eq!(verify(&sealed(&large)), Err(TokenError::Invalid));
    let nested = format!("{}{}", "e30.".repeat(4), "A".repeat(1_000_000));
    assert_eq!(verify(&nested), Err(TokenError::Invalid));
}

#[test]
fn a_short_secret_is_refused() {
    assert!(Tokens::new(&["0123456789abcdef0123456789abcde"], false).is_err());
    assert!(Tokens::new::<&str>(&[], false).is_err());
}

/// Taken out: the comparison of `aud` in `verify_until`; and, one by one, that it must be there, and `validate_aud`.
#[test]
fn a_token_of_another_deployment_with_the_same_secret_opens_nothing() {
    let of = |audience: Option<&str>| {
        let audience = audience.map(|audience| audience.parse().expect("an audience"));
        Tokens::new(&[SECRET], true).expect("long enough").with_audience(audience)
    };
    let (plain, blue, green) = (of(None), of(Some("blue")), of(Some("green")));
    let said = of(Some(DEFAULT_AUDIENCE));
    let view = Subject::View { session: SessionId::random(), user: "user_1".parse().expect("an id") };
    let launched = Subject::Launched { container: ContainerId::random(), max_sessions: 20 };
    for subject in [subject(), view, Subject::Container("ctr-a".parse().expect("an id")), launched, Subject::Service] {
        for (name, minting) in [("plain", &plain), ("blue", &blue), ("green", &green)] {
            let token = minting.mint(&subject, NOW, NOW + 60_000);
            for (other, checking) in [("plain", &plain), ("blue", &blue), ("green", &green)] {
                let expected = if name == other { Ok(subject.clone()) } else { Err(TokenError::Invalid) };
                assert_eq!(checking.verify(&token, NOW), expected, "of {name} at {other}");
            }
        }
        assert_eq!(said.verify(&plain.mint(&subject, NOW, NOW), NOW), Ok(subject), "it is the default's name");
    }
    // Older ones do not say. Sealed or only signed, it is the same.
    let claims = json!({"role": "connect", "sub": "ses_1", "uid": "user_1", "iat": 1, "exp": NOW});
    let keys = &plain.keys[0];
    let signed = sign(&keys.sign, Algorithm::HS256, &claims);
    let sealed = seal(keys, r#"{"alg":"dir","enc":"A256GCM","cty":"JWT"}"#, signed.as_bytes());
    for token in [signed, sealed] {
        assert!(plain.verify(&token, NOW).is_ok());
        for strict in [&blue, &said] {
            assert_eq!(strict.verify(&token, NOW), Err(TokenError::Invalid));
        }
    }
}

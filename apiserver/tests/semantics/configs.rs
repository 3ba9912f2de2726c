//! Secrets and ConfigMaps: what their types ask for, keys, sizes, base64, and what may not change.

use serde_json::{Value, json};
use strait_envtest::{older_in_part, since};

use crate::under::Under;

fn secret(kind: &str, data: Value) -> Value {
    json!({"metadata": {"name": "s"}, "type": kind, "data": data})
}

#[tokio::test]
async fn secrets_have_what_their_type_asks_for() {
    let u = Under::start().await;
    let path = u.path("secrets");
    let redacted = "Invalid value: \"<secret contents redacted>\"";
    for (kind, data, causes) in [
        (
            "tls",
            json!({"tls.key": "YQ=="}),
            vec!["data[tls.crt]: Required value".to_owned()],
        ),
        (
            "tls",
            json!({}),
            vec![
                "data[tls.crt]: Required value".into(),
                "data[tls.key]: Required value".into(),
            ],
        ),
        (
            "dockercfg",
            json!({"a": "YQ=="}),
            vec!["data[.dockercfg]: Required value".into()],
        ),
        (
            "dockerconfigjson",
            json!({}),
            vec!["data[.dockerconfigjson]: Required value".into()],
        ),
        (
            "dockerconfigjson",
            json!({".dockerconfigjson": "eA=="}),
            vec![format!(
                "data[.dockerconfigjson]: {redacted}: invalid character 'x' looking for beginning of value"
            )],
        ),
        (
            "dockercfg",
            json!({".dockercfg": "W10="}),
            vec![format!(
                "data[.dockercfg]: {redacted}: json: cannot unmarshal array into Go value of type map[string]interface {{}}"
            )],
        ),
        (
            "basic-auth",
            json!({"user": "YQ=="}),
            vec![
                "data[%s][username]: Required value".into(),
                "data[%s][password]: Required value".into(),
            ],
        ),
        (
            "ssh-auth",
            json!({"ssh-privatekey": ""}),
            vec!["data[%s][ssh-privatekey]: Required value".into()],
        ),
        (
            "service-account-token",
            json!({}),
            vec!["metadata.annotations[kubernetes.io/service-account.name]: Required value".into()],
        ),
    ] {
        let refused = u
            .post(&path, secret(&format!("kubernetes.io/{kind}"), data))
            .await
            .is(422);
        assert_eq!(
            (refused.reason(), refused.causes()),
            ("Invalid", causes),
            "{kind}"
        );
    }
    let one = u
        .post(&path, secret("kubernetes.io/tls", json!({"tls.key": "YQ=="})))
        .await;
    one.says(
        422,
        "Invalid",
        "Secret \"s\" is invalid: data[tls.crt]: Required value",
    );
    for (kind, data) in [
        // Nobody checks that a certificate is one, or that a password is not empty.
        ("tls", json!({"tls.crt": "", "tls.key": "YQ=="})),
        ("basic-auth", json!({"password": ""})),
        ("ssh-auth", json!({"ssh-privatekey": "YQ=="})),
        ("dockercfg", json!({".dockercfg": "e30="})),
        ("dockerconfigjson", json!({".dockerconfigjson": "e30="})),
        ("no-such-type", json!({})),
    ] {
        u.post(&path, secret(&format!("kubernetes.io/{kind}"), data))
            .await
            .is(201);
        u.delete(&format!("{path}/s")).await.is(200);
    }
    u.end().await;
}

#[tokio::test]
async fn what_is_frozen_does_not_change() {
    let u = Under::start().await;
    let (secrets, maps) = (u.path("secrets"), u.path("configmaps"));
    u.post(&secrets, secret("mine", json!({"a": "YQ=="})))
        .await
        .is(201);
    let at = format!("{secrets}/s");
    u.merge(&at, json!({"type": "other"})).await.says(
        422,
        "Invalid",
        "Secret \"s\" is invalid: type: Invalid value: \"other\": field is immutable",
    );
    // Without a type it would become an opaque one.
    u.put(&at, json!({"metadata": {"name": "s"}})).await.says(
        422,
        "Invalid",
        "Secret \"s\" is invalid: type: Invalid value: \"Opaque\": field is immutable",
    );
    u.merge(&at, json!({"immutable": true, "data": {"b": "Yg=="}}))
        .await
        .is(200);
    u.merge(&at, json!({"stringData": {"a": "b"}})).await.says(
        422,
        "Invalid",
        "Secret \"s\" is invalid: data: Forbidden: field is immutable when `immutable` is set",
    );
    u.merge(&at, json!({"immutable": false})).await.says(
        422,
        "Invalid",
        "Secret \"s\" is invalid: immutable: Forbidden: field is immutable when `immutable` is set",
    );
    let both = u
        .merge(&at, json!({"immutable": null, "data": {"bad key": "YQ=="}}))
        .await
        .is(422);
    let causes = both.causes();
    assert_eq!(
        causes[..2],
        [
            "immutable: Forbidden: field is immutable when `immutable` is set",
            "data: Forbidden: field is immutable when `immutable` is set"
        ]
    );
    assert!(
        causes[2].starts_with("data[bad key]: Invalid value: \"bad key\": a valid config key"),
        "{causes:?}"
    );
    // Its metadata is free, and so is the same data again.
    u.merge(
        &at,
        json!({"metadata": {"labels": {"x": "y"}}, "stringData": {"a": "a"}}),
    )
    .await
    .is(200);

    u.post(&maps, json!({"metadata": {"name": "m"}, "immutable": true, "data": {"a": "b"}, "binaryData": {"c": "YQ=="}})).await.is(201);
    let at = format!("{maps}/m");
    for (patch, field) in [
        (json!({"data": {"a": "c"}}), "data"),
        (json!({"data": null}), "data"),
        (json!({"binaryData": {"d": "YQ=="}}), "binaryData"),
        (json!({"immutable": null}), "immutable"),
    ] {
        let refused = u.merge(&at, patch).await.is(422);
        assert_eq!(
            refused.causes(),
            [format!(
                "{field}: Forbidden: field is immutable when `immutable` is set"
            )]
        );
    }
    u.delete(&at).await.is(200);
    u.end().await;
}

#[tokio::test]
async fn keys_and_sizes_are_bounded() {
    let u = Under::start().await;
    let (secrets, maps) = (u.path("secrets"), u.path("configmaps"));
    let both = u
        .post(
            &maps,
            json!({"metadata": {"name": "m"}, "data": {"a": "b"}, "binaryData": {"a": "YQ=="}}),
        )
        .await;
    both.says(
        422,
        "Invalid",
        "ConfigMap \"m\" is invalid: data[a]: Invalid value: \"a\": duplicate of key present in binaryData",
    );
    let rule = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
    for (key, why) in [
        (".", "must not be '.'"),
        ("..", "must not be '..'"),
        ("..data", "must not start with '..'"),
        ("a/b", rule),
        ("", rule),
        ("é", rule),
    ] {
        for (path, field) in [(&maps, "data"), (&maps, "binaryData"), (&secrets, "data")] {
            let mut object = json!({"metadata": {"name": "k"}});
            object[field] = json!({key: "YQ=="});
            let refused = u.post(path, object).await.is(422);
            assert_eq!(
                refused.causes(),
                [format!("{field}[{key}]: Invalid value: {key:?}: {why}")]
            );
        }
    }
    let long = "x".repeat(254);
    let refused = u
        .post(
            &maps,
            json!({"metadata": {"name": "k"}, "data": {long.clone(): ""}}),
        )
        .await
        .is(422);
    assert!(
        refused.causes()[0].contains("must be no more than 253"),
        "{:?}",
        refused.causes()
    );
    for fine in ["...", "-", "a..b", ".a", &long[1..]] {
        // Three dots begin with two.
        let status = if fine == "..." { 422 } else { 201 };
        u.post(
            &maps,
            json!({"metadata": {"generateName": "k-"}, "data": {fine: ""}}),
        )
        .await
        .is(status);
    }
    let too_long = since(
        32,
        "Too long: may not be more than 1048576 bytes",
        "Too long: must have at most 1048576 bytes",
    );
    // A mebibyte of what is meant, not of how it is written.
    let full = 1 << 20;
    let zeroes = |n: usize| {
        let text = "AAAA".repeat(n / 3);
        text + ["", "AA==", "AAA="][n % 3]
    };
    u.post(&secrets, secret("Opaque", json!({"a": zeroes(full)})))
        .await
        .is(201);
    u.post(
        &secrets,
        json!({"metadata": {"name": "t"}, "data": {"a": zeroes(full), "b": "AA=="}}),
    )
    .await
    .says(
        422,
        "Invalid",
        &format!("Secret \"t\" is invalid: data: {too_long}"),
    );
    let halves = |n: usize| json!({"metadata": {"name": "h"}, "data": {"a": "x".repeat(full / 2)}, "binaryData": {"b": zeroes(n)}});
    u.post(&maps, halves(full / 2)).await.is(201);
    u.put(&format!("{maps}/h"), halves(full / 2 + 1)).await.says(
        422,
        "Invalid",
        &format!("ConfigMap \"h\" is invalid: []: {too_long}"),
    );
    u.end().await;
}

#[tokio::test]
async fn data_that_is_no_base64_is_refused_at_its_place() {
    let u = Under::start().await;
    let (secrets, maps) = (u.path("secrets"), u.path("configmaps"));
    for (text, at) in [
        ("not base64!", 3),
        ("YQ", 0),
        ("YQ=", 3),
        ("YQ==YQ==", 4),
        ("_-8=", 0),
        ("YWJj\nZ", 5),
    ] {
        for (path, kind, field) in [(&secrets, "Secret", "data"), (&maps, "ConfigMap", "binaryData")] {
            let mut object = json!({"metadata": {"name": "b"}});
            object[field] = json!({"a": text});
            let refused = u.post(path, object).await;
            if older_in_part(23, "the words about data that is no base64") {
                let part = format!("decode base64: illegal base64 data at input byte {at}, error found");
                assert!(refused.message().contains(&part), "{}", refused.message());
                refused.is(400);
                continue;
            }
            refused.says(
                400,
                "BadRequest",
                &format!("{kind} in version \"v1\" cannot be handled as a {kind}: illegal base64 data at input byte {at}"),
            );
        }
    }
    // Line ends and spare bits are nothing; what is read is written plainly.
    let made = u
        .post(
            &secrets,
            json!({"metadata": {"name": "b"}, "data": {"a": "YQ\r\n==\n", "b": "YR==", "c": ""}}),
        )
        .await
        .is(201);
    assert_eq!(made.body["data"], json!({"a": "YQ==", "b": "YQ==", "c": ""}));
    let patched = u
        .merge(&format!("{secrets}/b"), json!({"data": {"a": "?"}}))
        .await
        .is(422);
    assert!(
        patched.message().contains("illegal base64 data at input byte 0"),
        "{}",
        patched.message()
    );
    u.end().await;
}

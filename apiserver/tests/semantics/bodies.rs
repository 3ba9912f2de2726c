//! Bodies that are no objects: what each is refused with.

use serde_json::json;
use strait_envtest::{ADMIN_TOKEN, older_in_part};

use crate::under::Under;

const PARSE: &str = "couldn't get version/kind; json parse error:";

/// How Go prints the type that it reads kind and version into.
const INTO: &str =
    r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;

#[tokio::test]
async fn bodies_that_are_no_objects_are_refused_by_what_they_are() {
    let u = Under::start().await;
    let widgets = u.define("widgets", "Widget", crate::open()).await;
    let maps = u.path("configmaps");
    u.post(&maps, json!({"metadata": {"name": "m"}})).await.is(201);
    let of_type = |what: &str| format!("{PARSE} json: cannot unmarshal {what} into Go value of type {INTO}");
    let long = format!("[{}]", "1,".repeat(40));
    let long_shown = format!("{} ...", hex(&long.as_bytes()[..30]));
    let cases = [
        ("", format!("{PARSE} unexpected end of JSON input (<empty>)")),
        ("[]", format!("{} (5b5d)", of_type("array"))),
        ("5", format!("{} (35)", of_type("number"))),
        ("\"x\"", format!("{} (227822)", of_type("string"))),
        ("true", format!("{} (74727565)", of_type("bool"))),
        ("{", format!("{PARSE} unexpected end of JSON input ({{)")),
        (
            "not json",
            format!("{PARSE} invalid character 'o' in literal null (expecting 'u') (6e6f74206a736f6e)"),
        ),
        (
            "hello",
            format!("{PARSE} invalid character 'h' looking for beginning of value (68656c6c6f)"),
        ),
        (
            "{}}",
            format!("{PARSE} invalid character '}}' after top-level value ({{}}}})"),
        ),
        (
            "{\"a\" 1}",
            format!("{PARSE} invalid character '1' after object key ({{\"a\" 1}})"),
        ),
        (
            "{\"a\": 1 2}",
            format!("{PARSE} invalid character '2' after object key:value pair ({{\"a\": 1 2}})"),
        ),
        (
            "{\"kind\": 5}",
            format!(
                "{PARSE} json: cannot unmarshal number into Go struct field .kind of type string ({{\"kind\": 5}})"
            ),
        ),
        (
            &long,
            format!("{PARSE} invalid character ']' looking for beginning of value ({long_shown})"),
        ),
        (
            "{\"metadata\": {\"name\": \"something long\"}, }",
            format!(
                "{PARSE} invalid character '}}' looking for beginning of object key string ({{\"metadata\": {{\"name\": \"somethi ...)"
            ),
        ),
    ];
    for (path, kind) in [(&maps, "ConfigMap"), (&widgets, "Widget")] {
        for (body, why) in &cases {
            let wanted = format!("the object provided is unrecognized (must be of type {kind}): {why}");
            let media = [("content-type", "application/json")];
            let got = u
                .ask(ADMIN_TOKEN, "POST", path, &media, body.as_bytes().to_vec())
                .await;
            got.says(400, "BadRequest", &wanted);
            let got = u
                .ask(
                    ADMIN_TOKEN,
                    "PUT",
                    &format!("{path}/m"),
                    &media,
                    body.as_bytes().to_vec(),
                )
                .await;
            got.says(400, "BadRequest", &wanted);
        }
    }
    // Null is an object without anything: built-in kinds take their path's kind, others have none.
    let sent = async |path: &str, media: &str, body: &str| {
        u.ask(
            ADMIN_TOKEN,
            "POST",
            path,
            &[("content-type", media)],
            body.as_bytes().to_vec(),
        )
        .await
    };
    let nameless =
        "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required";
    for (media, body) in [
        ("application/json", "null"),
        ("application/json", "{}"),
        ("application/yaml", ""),
    ] {
        sent(&maps, media, body).await.says(422, "Invalid", nameless);
    }
    for (body, shown) in [
        ("null", "6e756c6c"),
        ("{}", "{}"),
        ("{\"kind\": \"\"}", "{\"kind\": \"\"}"),
    ] {
        let refused = sent(&widgets, "application/json", body).await;
        if older_in_part(23, "the words about an object without a kind") {
            refused.is(400);
            continue;
        }
        refused.says(
            400,
            "BadRequest",
            &format!("the object provided is unrecognized (must be of type Widget): Object 'Kind' is missing in '{body}' ({shown})"),
        );
    }
    // YAML is JSON before anything else is said of it, and is shown as it came.
    sent(&maps, "application/yaml", "- a\n").await.says(
        400,
        "BadRequest",
        &format!(
            "the object provided is unrecognized (must be of type ConfigMap): {} (2d20610a)",
            of_type("array")
        ),
    );
    sent(&maps, "application/yaml", "just text").await.says(
        400,
        "BadRequest",
        &format!(
            "the object provided is unrecognized (must be of type ConfigMap): {} (6a7573742074657874)",
            of_type("string")
        ),
    );
    let broken = sent(&maps, "application/yaml", "a: [").await;
    assert_eq!((broken.status, broken.reason()), (400, "BadRequest"));
    assert!(
        broken
            .message()
            .starts_with("the object provided is unrecognized (must be of type ConfigMap): yaml: ")
            && broken.message().ends_with(" (613a205b)"),
        "{}",
        broken.message()
    );
    sent(&maps, "text/plain", "{}").await.says(
        415,
        "UnsupportedMediaType",
        "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf",
    );
    u.end().await;
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

//! Selection, paging, versions, forms; discovery.

use serde_json::{Value, json};
use strait_envtest::{older_in_part, since};

use crate::under::Under;

async fn maps(u: &Under, n: usize) -> String {
    let path = u.path("configmaps");
    for i in 0..n {
        let labels = json!({"test": "l", "n": i.to_string(), "even": (i % 2 == 0).to_string()});
        u.post(
            &path,
            json!({"metadata": {"name": format!("m{i}"), "labels": labels}}),
        )
        .await
        .is(201);
    }
    path
}

#[tokio::test]
async fn selectors_choose_by_labels_and_fields() {
    let u = Under::start().await;
    let path = maps(&u, 5).await;
    for (selector, want) in [
        ("labelSelector=n", "m0 m1 m2 m3 m4"),
        ("labelSelector=n%3D3", "m3"),
        ("labelSelector=n%3D%3D3", "m3"),
        ("labelSelector=test,n!%3D3", "m0 m1 m2 m4"),
        ("labelSelector=n+in+(1,2,9)", "m1 m2"),
        ("labelSelector=test,n+notin+(1,2)", "m0 m3 m4"),
        ("labelSelector=test,!gone", "m0 m1 m2 m3 m4"),
        ("labelSelector=!test,n", ""),
        ("labelSelector=n%3E2", "m3 m4"),
        ("labelSelector=n%3C2", "m0 m1"),
        ("labelSelector=even%3Dtrue,n%3E0", "m2 m4"),
        ("labelSelector=test&fieldSelector=metadata.name%3Dm3", "m3"),
        (
            "labelSelector=test&fieldSelector=metadata.name!%3Dm3",
            "m0 m1 m2 m4",
        ),
        (
            "labelSelector=test&fieldSelector=metadata.namespace%3Dnowhere",
            "",
        ),
    ] {
        let found = u.get(&format!("{path}?{selector}")).await.is(200).names();
        assert_eq!(found.join(" "), want, "{selector}");
    }
    for (selector, why) in [
        (
            "labelSelector=a%20in%20(",
            "unable to parse requirement: found '', expected: ',', ')' or identifier",
        ),
        (
            "fieldSelector=data.a%3Db",
            "\"data.a\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
        ),
        ("fieldSelector=x", "invalid selector: 'x'; can't understand 'x'"),
    ] {
        u.get(&format!("{path}?{selector}"))
            .await
            .says(400, "BadRequest", why);
    }
    let secrets = u.path("secrets");
    for (name, kind) in [("a", "Opaque"), ("b", "test.dev/x")] {
        u.post(&secrets, json!({"metadata": {"name": name}, "type": kind}))
            .await
            .is(201);
    }
    // Kinds with fields of their own say it otherwise.
    u.get(&format!("{secrets}?fieldSelector=data.a%3Db")).await.says(
        400,
        "BadRequest",
        "field label not supported: data.a",
    );
    let found = u.get(&format!("{secrets}?fieldSelector=type%3Dtest.dev/x")).await;
    assert_eq!(found.names(), ["b"]);
    let all = format!(
        "/api/v1/configmaps?labelSelector=test&fieldSelector=metadata.namespace%3D{}",
        u.namespace
    );
    assert_eq!(u.get(&all).await.names().len(), 5, "across namespaces");
    u.end().await;
}

#[tokio::test]
async fn versions_and_pages_show_the_states_that_are_asked_for() {
    let u = Under::start().await;
    let path = maps(&u, 5).await;
    let before = u.get(&format!("{path}?labelSelector=test")).await.rv();
    u.delete(&format!("{path}/m1")).await.is(200);
    u.post(
        &path,
        json!({"metadata": {"name": "m5", "labels": {"test": "l"}}}),
    )
    .await
    .is(201);
    let names = async |query: &str| u.get(&format!("{path}?labelSelector=test&{query}")).await.is(200);
    let now = "m0 m2 m3 m4 m5";
    let then = "m0 m1 m2 m3 m4";
    assert_eq!(names("").await.names().join(" "), now);
    for (query, want) in [
        ("resourceVersion=0".to_owned(), now),
        (format!("resourceVersion={before}"), now),
        (
            format!("resourceVersion={before}&resourceVersionMatch=NotOlderThan"),
            now,
        ),
        (
            format!("resourceVersion={before}&resourceVersionMatch=Exact"),
            then,
        ),
        ("resourceVersion=0&limit=2".to_owned(), now),
    ] {
        let got = names(&query).await;
        let mut found = got.names();
        // Out of the memory of an older server they come in any order.
        if since(31, false, !query.ends_with("Exact")) {
            found.sort();
        }
        assert_eq!(found.join(" "), want, "{query}");
        assert_eq!(got.text("/metadata/continue"), "", "{query}");
    }
    let exact = names(&format!("resourceVersion={before}&resourceVersionMatch=Exact")).await;
    assert_eq!(exact.rv(), before);

    // With a limit, a version means itself, and all pages show it.
    let mut page = names(&format!("resourceVersion={before}&limit=2")).await;
    let mut seen = page.names();
    while !page.text("/metadata/continue").is_empty() {
        assert_eq!(page.rv(), before);
        assert_eq!(
            page.body["metadata"].get("remainingItemCount"),
            None,
            "with a selector nobody counts"
        );
        page = names(&format!("limit=2&continue={}", page.text("/metadata/continue"))).await;
        seen.extend(page.names());
    }
    assert_eq!(seen.join(" "), then);

    let widgets = u.define("widgets", "Widget", crate::open()).await;
    for name in ["a", "b", "c"] {
        let w =
            json!({"apiVersion": format!("{}/v1", u.group), "kind": "Widget", "metadata": {"name": name}});
        u.post(&widgets, w).await.is(201);
    }
    let page = u.get(&format!("{widgets}?limit=1")).await;
    assert_eq!(page.body["metadata"]["remainingItemCount"], 2);
    let token = page.text("/metadata/continue");
    let page = u.get(&format!("{widgets}?limit=2&continue={token}")).await;
    assert_eq!(
        (page.names().join(" "), page.text("/metadata/continue")),
        ("b c".into(), String::new())
    );
    u.end().await;
}

#[tokio::test]
async fn options_of_lists_are_checked_in_the_usual_words() {
    let u = Under::start().await;
    let path = maps(&u, 1).await;
    let m = "resourceVersionMatch: Forbidden: ";
    if !older_in_part(27, "sendInitialEvents") {
        assert_eq!(
            u.get(&format!("{path}?sendInitialEvents=true"))
                .await
                .is(422)
                .causes(),
            ["sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"]
        );
    }
    for (query, want) in [
        ("resourceVersionMatch=Exact", vec![format!("{m}resourceVersionMatch is forbidden unless resourceVersion is provided")]),
        ("resourceVersionMatch=Exact&resourceVersion=0", vec![format!("{m}resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"")]),
        ("resourceVersionMatch=Best&resourceVersion=5", vec!["resourceVersionMatch: Unsupported value: \"Best\": supported values: \"Exact\", \"NotOlderThan\", \"\"".to_owned()]),
        ("resourceVersionMatch=Exact&continue=abc", vec![
            format!("{m}resourceVersionMatch is forbidden unless resourceVersion is provided"),
            format!("{m}resourceVersionMatch is forbidden when continue is provided"),
        ]),

        ("watch=1&sendInitialEvents=true", vec![format!("{m}sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")]),
        ("watch=1&resourceVersionMatch=NotOlderThan", vec![format!("{m}resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")]),
        ("watch=1&sendInitialEvents=true&resourceVersionMatch=Exact", vec![
            format!("{m}sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"),
            "resourceVersionMatch: Unsupported value: \"Exact\": supported values: \"NotOlderThan\"".to_owned(),
        ]),
    ] {
        if query.contains("watch") && older_in_part(27, "sendInitialEvents") {
            continue;
        }
        let got = u.get(&format!("{path}?{query}")).await.is(422);
        assert_eq!(got.causes(), want, "{query}");
        assert_eq!((got.reason(), got.text("/details/kind").as_str()), ("Invalid", "ListOptions"));
    }
    u.end().await;
}

#[tokio::test]
async fn answers_come_in_the_forms_that_are_asked_for() {
    let u = Under::start().await;
    let path = maps(&u, 2).await;
    let table = "application/json;as=Table;g=meta.k8s.io;v=v1";
    for (include, object) in [
        ("", "PartialObjectMetadata"),
        ("?includeObject=Object", "ConfigMap"),
        ("?includeObject=None", ""),
    ] {
        let got = u.get_as(&format!("{path}{include}"), table).await.is(200);
        assert_eq!(got.text("/kind"), "Table");
        let row = got.body["rows"]
            .as_array()
            .unwrap()
            .iter()
            .find(|r| r["cells"][0] == "m0")
            .unwrap()
            .clone();
        assert_eq!(
            row["object"]["kind"].as_str().unwrap_or_default(),
            object,
            "{include}"
        );
        let columns: Vec<&str> = got.body["columnDefinitions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["name"].as_str().unwrap())
            .collect();
        assert_eq!(columns, ["Name", "Data", "Age"]);
    }
    let one = u
        .get_as(
            &format!("{path}/m0"),
            "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
        )
        .await;
    assert_eq!(
        (one.text("/kind").as_str(), one.text("/metadata/name").as_str()),
        ("PartialObjectMetadata", "m0")
    );
    // The first form that can be served; others are refused.
    let fallback = u
        .get_as(
            &path,
            &format!("application/json;as=Chart;g=meta.k8s.io;v=v1,{table}"),
        )
        .await;
    assert_eq!(fallback.text("/kind"), "Table");
    u.get_as(&path, "text/html").await.is(406);
    let yaml = u.get_as(&format!("{path}/m0"), "application/yaml").await;
    assert_eq!(yaml.media_type, "application/yaml");
    assert!(
        yaml.body.as_str().unwrap().contains("kind: ConfigMap"),
        "{}",
        yaml.body
    );
    u.end().await;
}

#[tokio::test]
async fn discovery_tells_what_is_served_and_stops_when_it_is_not() {
    let u = Under::start().await;
    let version = |name: &str, storage: bool| {
        let mut v = crate::open();
        v["name"] = name.into();
        v["served"] = true.into();
        v["storage"] = storage.into();
        v["subresources"] = json!({"status": {}});
        v
    };
    let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let mut crd = u.crd(
        "gizmos",
        "Gizmo",
        json!([
            version("v1alpha1", false),
            version("v2", false),
            version("v1", true),
            version("v1beta1", false)
        ]),
    );
    crd["spec"]["names"]["shortNames"] = json!(["gz"]);
    crd["spec"]["names"]["categories"] = json!(["all"]);
    u.post(crds, crd).await.is(201);
    let group = format!("/apis/{}", u.group);
    let all = format!("{group}/v1");
    u.until("the group is served", async || {
        u.get(&group).await.status == 200 && u.get(&all).await.body["resources"].is_array()
    })
    .await;
    let of = |a: &Value, p: &str| -> Vec<String> {
        a.pointer(p)
            .unwrap()
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v["version"].as_str().unwrap().to_owned())
            .collect()
    };
    let told = u.get(&group).await;
    assert_eq!(of(&told.body, "/versions"), ["v2", "v1", "v1beta1", "v1alpha1"]);
    assert_eq!(told.text("/preferredVersion/version"), "v2");
    let list = u.get(&format!("{group}/v1")).await;
    let names: Vec<&str> = list.body["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["gizmos", "gizmos/status"]);
    assert_eq!(list.body["resources"][0]["shortNames"], json!(["gz"]));
    for (v, minor) in [("v2", 30), ("v2beta1", 27)] {
        if older_in_part(minor, "aggregated discovery") {
            continue;
        }
        let accept = format!("application/json;g=apidiscovery.k8s.io;v={v};as=APIGroupDiscoveryList");
        let find = async || {
            let all = u.get_as("/apis", &accept).await;
            all.items()
                .into_iter()
                .find(|g| g["metadata"]["name"] == u.group.as_str())
        };
        u.until("it is in the aggregated form", async || find().await.is_some())
            .await;
        let found = find().await.unwrap();
        assert_eq!(of(&found, "/versions"), ["v2", "v1", "v1beta1", "v1alpha1"]);
        assert_eq!(
            found["versions"][1]["resources"][0]["subresources"][0]["subresource"],
            "status"
        );
    }
    if !older_in_part(24, "OpenAPI v3") {
        u.until("it has an OpenAPI document", async || {
            let index = u.get("/openapi/v3").await;
            index.body["paths"].get(format!("apis/{}/v2", u.group)).is_some()
        })
        .await;
    }
    u.delete(&format!("{crds}/gizmos.{}", u.group)).await.is(200);
    u.until("the group is gone", async || u.get(&group).await.status == 404)
        .await;
    u.end().await;
}

//! Roles that are started wrongly end at once, and say what is wrong.
#![allow(clippy::unwrap_used)]

use std::process::Command;

const NOWHERE: &str = "/nowhere/kubeconfig";

/// What a command that must fail says.
fn refused(args: &[&str]) -> String {
    let state = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_strait"))
        .args(args)
        .env_clear()
        .env("STRAIT_STATE_DIR", state.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{args:?} went through: {text}");
    assert!(!text.contains("panicked"), "{args:?}: {text}");
    text
}

#[test]
fn a_kubeconfig_that_is_not_there_is_named_by_every_role() {
    for args in [
        &["gateway", "--node-name", "n"][..],
        &["route-agent", "--node-name", "n"],
        &["agent"],
        &["dns", "--listen", "127.0.0.1:0"],
        &["broker"],
        &["broker", "members"],
        &["leave"],
    ] {
        let text = refused(&[args, &["--kubeconfig", NOWHERE]].concat());
        assert!(text.contains(NOWHERE), "{args:?}: {text}");
    }
    // Outside a pod, and with none named.
    let text = refused(&["agent"]);
    assert!(
        text.contains("--kubeconfig") && text.contains("KUBECONFIG"),
        "{text}"
    );
    let text = refused(&["broker"]);
    assert!(
        text.contains("--kubeconfig") && text.contains("--standalone"),
        "{text}"
    );
}

#[test]
fn what_is_no_join_token_is_named_and_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let args = |file: &str| {
        let args = [
            "join",
            "--cluster-id",
            "blue",
            "--token-file",
            file,
            "--kubeconfig",
            NOWHERE,
        ];
        refused(&args)
    };
    let text = args("/nowhere/token");
    assert!(text.contains("/nowhere/token"), "{text}");
    for bad in ["c2VjcmV0LWJ1dC1uby10b2tlbg", "not base64!", ""] {
        std::fs::write(&file, bad).unwrap();
        let text = args(&file.display().to_string());
        assert!(text.contains("this is no join token"), "{bad}: {text}");
        assert!(
            bad.is_empty() || !text.contains(bad),
            "the token is shown: {text}"
        );
    }
}

#[test]
fn an_address_under_which_no_member_reaches_a_broker_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().display().to_string();
    let such = "such as https://192.0.2.1:6443";
    for url in [
        "ftp://x",
        "foo",
        "http://x",
        "https://",
        "https://me:secret@x",
        "https://x/?a=b",
    ] {
        for args in [
            &["broker", "token", "create", "--kubeconfig", NOWHERE, "--url", url][..],
            &["broker", "--standalone", "--data-dir", &data, "--advertise", url],
        ] {
            let text = refused(args);
            assert!(text.contains(such), "{args:?}: {text}");
        }
    }
    for (pool, said) in [
        ("240.0.0.0/32", "give one of /29 or shorter"),
        ("10.0.0.0/33", "\"33\" is no length of an IPv4 prefix"),
        ("240.0.0.1/8", "write 240.0.0.0/8"),
    ] {
        let text = refused(&["broker", "--standalone", "--data-dir", &data, "--node-pool", pool]);
        assert!(text.contains(pool) && text.contains(said), "{pool}: {text}");
    }
}

#[test]
fn a_log_filter_that_is_none_is_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_strait"))
        .args(["--log", "bogus=nope", "completion", "bash"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(
        text.contains("bogus=nope") && text.contains("strait_gateway=debug"),
        "{text}"
    );
}

//! `strait image` writes an archive that container engines take: every reference in it is checked.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The header of an ELF file for x86-64 with the program headers of these types.
fn elf(program_headers: &[u32]) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(64, 0);
    file[0x12] = 62;
    file[0x20] = 64;
    file[0x36] = 56;
    file[0x38] = u8::try_from(program_headers.len()).unwrap();
    for kind in program_headers {
        let at = file.len();
        file.extend(kind.to_le_bytes());
        file.resize(at + 56, 0);
    }
    file
}

fn strait_image(binary: &Path, output: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_strait"))
        .args(["image", "--binary"])
        .arg(binary)
        .arg("--output")
        .arg(output)
        .args(more)
        .output()
        .unwrap()
}

/// Path → (type, mode, owner, content).
type Entries = BTreeMap<String, (tar::EntryType, u32, u64, Vec<u8>)>;

fn entries(bytes: &[u8]) -> Entries {
    let mut found = Entries::new();
    for entry in tar::Archive::new(bytes).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        let header = entry.header();
        let facts = (header.entry_type(), header.mode().unwrap(), header.uid().unwrap());
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let before = found.insert(path.clone(), (facts.0, facts.1, facts.2, content));
        assert!(before.is_none(), "{path} stands twice in the archive");
    }
    found
}

/// The content that a descriptor speaks of, its digest and size checked.
fn follow<'a>(archive: &'a Entries, descriptor: &Value) -> &'a [u8] {
    let digest = descriptor["digest"]
        .as_str()
        .unwrap()
        .strip_prefix("sha256:")
        .unwrap();
    let content = &archive[&format!("blobs/sha256/{digest}")].3;
    assert_eq!(hex::encode(Sha256::digest(content)), digest);
    assert_eq!(descriptor["size"], json!(content.len()));
    content
}

fn parse(content: &[u8]) -> Value {
    serde_json::from_slice(content).unwrap()
}

#[test]
fn archive_is_whole_for_oci_and_docker() {
    let dir = tempfile::tempdir().unwrap();
    let (binary, output) = (dir.path().join("strait"), dir.path().join("image.tar"));
    std::fs::write(&binary, elf(&[1, 2])).unwrap();
    let done = strait_image(&binary, &output, &["--tag", "example.org/net/strait:9.8.7"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let bytes = std::fs::read(&output).unwrap();
    let archive = entries(&bytes);

    assert_eq!(
        parse(&archive["oci-layout"].3),
        json!({ "imageLayoutVersion": "1.0.0" })
    );
    let index = parse(&archive["index.json"].3);
    let [entry] = index["manifests"].as_array().unwrap().as_slice() else {
        panic!("{index}")
    };
    assert_eq!(
        entry["platform"],
        json!({ "architecture": "amd64", "os": "linux" })
    );
    assert_eq!(
        entry["annotations"]["io.containerd.image.name"],
        "example.org/net/strait:9.8.7"
    );
    assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], "9.8.7");
    let manifest = parse(follow(&archive, entry));
    assert_eq!(manifest["mediaType"], entry["mediaType"]);
    let config = parse(follow(&archive, &manifest["config"]));
    let [layer] = manifest["layers"].as_array().unwrap().as_slice() else {
        panic!("{manifest}")
    };
    let content = follow(&archive, layer);
    assert_eq!(
        config["rootfs"]["diff_ids"],
        json!([layer["digest"]]),
        "the layer is not compressed"
    );
    assert_eq!(config["architecture"], "amd64");

    let path = |d: &Value| d["digest"].as_str().unwrap().replace("sha256:", "blobs/sha256/");
    assert_eq!(
        parse(&archive["manifest.json"].3),
        json!([{
            "Config": path(&manifest["config"]),
            "RepoTags": ["example.org/net/strait:9.8.7"],
            "Layers": [path(layer)],
        }])
    );
    assert_eq!(
        archive
            .keys()
            .filter(|k| k.starts_with("blobs/sha256/") && k.len() > 13)
            .count(),
        3,
        "nothing but layer, config and manifest"
    );

    let files = entries(content);
    let entrypoint = config["config"]["Entrypoint"][0].as_str().unwrap();
    let (kind, mode, owner, program) = &files[entrypoint.trim_start_matches('/')];
    assert_eq!((*kind, *mode, *owner), (tar::EntryType::Regular, 0o755, 0));
    assert_eq!(*program, elf(&[1, 2]));
    let search = config["config"]["Env"][0].as_str().unwrap();
    assert_eq!(
        Some(search),
        Path::new(entrypoint)
            .parent()
            .map(|p| format!("PATH={}", p.display()))
            .as_deref()
    );
    for folder in ["run/strait/", "var/lib/strait/", "tmp/"] {
        assert_eq!(files[folder].0, tar::EntryType::Directory, "{folder}");
    }
    let passwd = String::from_utf8(files["etc/passwd"].3.clone()).unwrap();
    assert!(
        passwd.contains(":65532:65532:"),
        "the manifests' user has a name: {passwd}"
    );
}

#[test]
fn same_binary_same_archive() {
    let dir = tempfile::tempdir().unwrap();
    let binary = dir.path().join("strait");
    std::fs::write(&binary, elf(&[1])).unwrap();
    let [a, b] = ["a.tar", "b.tar"].map(|name| {
        let output = dir.path().join(name);
        assert!(strait_image(&binary, &output, &[]).status.success());
        std::fs::read(output).unwrap()
    });
    assert!(a == b);
    let tag = format!("docker.io/library/strait:{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        parse(&entries(&a)["manifest.json"].3)[0]["RepoTags"],
        json!([tag])
    );
}

#[test]
fn refuses_what_would_not_run() {
    let dir = tempfile::tempdir().unwrap();
    let (binary, output) = (dir.path().join("strait"), dir.path().join("image.tar"));
    let damaged = elf(&[1])[..80].to_vec();
    let arm = {
        let mut file = elf(&[]);
        file[0x12] = 40;
        file
    };
    for (content, why) in [
        (elf(&[6, 3, 1]), "dynamically linked"),
        (b"#!/bin/sh\n".to_vec(), "no 64-bit little-endian ELF file"),
        (damaged, "ends within its program headers"),
        (arm, "ELF number 40"),
        (Vec::new(), "no 64-bit little-endian ELF file"),
        (b"\x7fELF\x02\x01".to_vec(), "ends within its ELF header"),
    ] {
        std::fs::write(&binary, content).unwrap();
        let done = strait_image(&binary, &output, &[]);
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(!done.status.success(), "{why}");
        assert!(said.contains(why) && said.contains("deploy/image.sh"), "{said}");
        assert!(!output.exists(), "a refused image leaves no file");
    }
    let done = strait_image(&dir.path().join("nowhere"), &output, &[]);
    assert!(String::from_utf8_lossy(&done.stderr).contains("cannot read"));
}

#[test]
fn trusts_the_certificates_that_it_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (binary, output, pem) = (path("strait"), path("image.tar"), path("ca.pem"));
    std::fs::write(&binary, elf(&[1])).unwrap();
    std::fs::write(&pem, "no certificate").unwrap();
    let flags = ["--certificates", pem.to_str().unwrap()];
    let done = strait_image(&binary, &output, &flags);
    assert!(!done.status.success());
    assert!(String::from_utf8_lossy(&done.stderr).contains("holds no certificate"));

    let text = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    std::fs::write(&pem, text).unwrap();
    assert!(strait_image(&binary, &output, &flags).status.success());
    let archive = entries(&std::fs::read(&output).unwrap());
    let layer = parse(&archive["manifest.json"].3)[0]["Layers"][0]
        .as_str()
        .unwrap()
        .to_owned();
    let files = entries(&archive[&layer].3);
    assert_eq!(files["etc/ssl/certs/ca-certificates.crt"].3, text.as_bytes());
}

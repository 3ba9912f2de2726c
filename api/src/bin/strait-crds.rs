//! Writes the custom resource definitions of Strait as YAML, or says where the files differ from the types.
//!
//! `strait-crds DIR` writes, `strait-crds DIR --check` compares, `strait-crds --digest FILE…` prints what of
//! other definitions (upstream's) programs rely on: deploy/crds/mcs-upstream.digest was made so.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use strait_api::crds::{crds, digest, file_name, to_yaml};

const USAGE: &str = "usage: strait-crds DIR [--check] | strait-crds --digest FILE...";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["--digest", files @ ..] if !files.is_empty() => print_digest(files),
        [dir] if !dir.starts_with('-') => write(Path::new(dir)),
        [dir, "--check"] | ["--check", dir] => check(Path::new(dir)),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("strait-crds: {e}");
            ExitCode::FAILURE
        }
    }
}

fn write(dir: &Path) -> Result<(), Box<dyn Error>> {
    for crd in crds() {
        let file = dir.join(file_name(&crd));
        std::fs::write(&file, to_yaml(&crd)?).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
    }
    Ok(())
}

fn check(dir: &Path) -> Result<(), Box<dyn Error>> {
    let mut stale = Vec::new();
    for crd in crds() {
        let file = dir.join(file_name(&crd));
        let found =
            std::fs::read_to_string(&file).map_err(|e| format!("cannot read {}: {e}", file.display()))?;
        if found != to_yaml(&crd)? {
            stale.push(file.display().to_string());
        }
    }
    if stale.is_empty() {
        return Ok(());
    }
    Err(format!(
        "not as the types in api/ have it: {}; run strait-crds without --check",
        stale.join(", ")
    )
    .into())
}

fn print_digest(files: &[&str]) -> Result<(), Box<dyn Error>> {
    let mut lines = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).map_err(|e| format!("cannot read {file}: {e}"))?;
        let crd: serde_json::Value =
            serde_saphyr::from_str(&text).map_err(|e| format!("{file} is not YAML: {e}"))?;
        lines.extend(digest(&crd));
    }
    for line in lines {
        println!("{line}");
    }
    Ok(())
}

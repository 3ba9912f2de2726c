//! `strait image`: the binary as a container image, written without a container engine.
//!
//! The archive is an OCI image layout with Docker's `manifest.json` beside it, as `docker save` writes since
//! version 25: `docker load`, `podman load`, `ctr images import` and `kind load image-archive` all take it.
//! The image has one layer: the binary, the files that resolving names and users takes, and empty folders
//! to mount on. The same binary gives the same archive, byte for byte.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use strait_daemon::stdout::print;

/// Files of the image beside the binary.
const FILES: [(&str, &str); 3] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/:/sbin/nologin\nstrait:x:65532:65532:strait:/:/sbin/nologin\n",
    ),
    ("etc/group", "root:x:0:\nstrait:x:65532:\n"),
    // glibc has both of these built in; anything else it would have to load from the image.
    ("etc/nsswitch.conf", "hosts: files dns\n"),
];

/// Folders of the image, with their modes.
const FOLDERS: [(&str, u32); 12] = [
    ("dev/", 0o755),
    ("etc/", 0o755),
    ("etc/ssl/", 0o755),
    ("etc/ssl/certs/", 0o755),
    ("run/", 0o755),
    ("run/strait/", 0o755),
    ("tmp/", 0o1777),
    ("usr/", 0o755),
    ("usr/bin/", 0o755),
    ("var/", 0o755),
    ("var/lib/", 0o755),
    ("var/lib/strait/", 0o700),
];

/// Where the binary stands in the image.
const BINARY: &str = "usr/bin/strait";

/// Where programs look for the certificates that a machine trusts.
const CERTIFICATES: &str = "etc/ssl/certs/ca-certificates.crt";

/// How to write the image.
#[derive(Debug, clap::Args)]
pub(crate) struct ImageArgs {
    /// The archive to write
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// A statically linked binary of strait [default: this program itself]
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Certificates that the image trusts, in PEM; needed where the broker's is signed by a public authority
    #[arg(long, value_name = "FILE")]
    certificates: Option<PathBuf>,
    /// Name and tag that the image is loaded under
    #[arg(long, default_value = concat!("docker.io/library/strait:", env!("CARGO_PKG_VERSION")))]
    pub(crate) tag: String,
}

/// Writes the archive.
pub(crate) fn run(args: &ImageArgs) -> Result<()> {
    let source = match &args.binary {
        Some(path) => path.clone(),
        None => std::env::current_exe().context("cannot tell where this program's own file is")?,
    };
    let binary = std::fs::read(&source).with_context(|| {
        format!(
            "cannot read {}; name a binary that is there and may be read with --binary",
            source.display()
        )
    })?;
    let architecture = static_architecture(&binary).with_context(|| {
        format!(
            "{} cannot be the whole of an image; deploy/image.sh builds a binary that can",
            source.display()
        )
    })?;
    let certificates = args.certificates.as_deref().map(certificates).transpose()?;
    let archive = archive(&binary, architecture, certificates.as_deref(), &args.tag)?;
    write_whole(&args.output, &archive).with_context(|| format!("cannot write {}", args.output.display()))?;
    print(&format!(
        "{}: {} ({} bytes)",
        args.output.display(),
        args.tag,
        archive.len()
    ))?;
    Ok(())
}

fn certificates(path: &Path) -> Result<Vec<u8>> {
    let pem = std::fs::read(path).with_context(|| {
        format!(
            "cannot read {}; name a file of certificates in PEM that is there and may be read",
            path.display()
        )
    })?;
    ensure!(
        String::from_utf8_lossy(&pem).contains("-----BEGIN CERTIFICATE-----"),
        "{} holds no certificate in PEM",
        path.display()
    );
    Ok(pem)
}

/// The image architecture of a binary that needs nothing else to run.
fn static_architecture(elf: &[u8]) -> Result<&'static str> {
    const PT_INTERP: u32 = 3;
    let half = |at: usize| elf.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    let word = |at: usize| {
        elf.get(at..at + 4)
            .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    };
    // Magic, 64 bits, little endian.
    ensure!(
        elf.starts_with(b"\x7fELF\x02\x01"),
        "it is no 64-bit little-endian ELF file"
    );
    let architecture = match half(0x12) {
        Some(62) => "amd64",
        Some(183) => "arm64",
        Some(other) => bail!("its machine (ELF number {other}) is neither x86-64 nor AArch64"),
        None => bail!("it ends within its ELF header"),
    };
    let headers = (word(0x20), word(0x24), half(0x36), half(0x38));
    let (Some(offset), Some(0), Some(size), Some(count)) = headers else {
        bail!("its ELF header is damaged");
    };
    for i in 0..usize::from(count) {
        let at = usize::try_from(offset)? + i * usize::from(size);
        ensure!(
            at + usize::from(size) <= elf.len(),
            "it ends within its program headers"
        );
        ensure!(word(at) != Some(PT_INTERP), "it is dynamically linked");
    }
    Ok(architecture)
}

fn archive(binary: &[u8], architecture: &str, certificates: Option<&[u8]>, tag: &str) -> Result<Vec<u8>> {
    const EPOCH: &str = "1970-01-01T00:00:00Z";
    let layer = layer(binary, certificates)?;
    let config = serde_json::to_vec(&json!({
        "created": EPOCH,
        "architecture": architecture,
        "os": "linux",
        "config": {
            "Env": ["PATH=/usr/bin"],
            "Entrypoint": [format!("/{BINARY}")],
            "WorkingDir": "/",
            "Labels": {
                "org.opencontainers.image.title": "strait",
                "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
                "org.opencontainers.image.licenses": "Apache-2.0",
            },
        },
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
        "history": [{ "created": EPOCH, "created_by": "strait image" }],
    }))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    }))?;
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["platform"] = json!({ "architecture": architecture, "os": "linux" });
    entry["annotations"] = json!({
        "io.containerd.image.name": tag,
        "org.opencontainers.image.ref.name": tag.rsplit_once(':').map_or("latest", |(_, version)| version),
    });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    });
    let docker = json!([{ "Config": blob(&config), "RepoTags": [tag], "Layers": [blob(&layer)] }]);

    let mut tar = Tar::new();
    tar.folder("blobs/", 0o755)?;
    tar.folder("blobs/sha256/", 0o755)?;
    for content in [&layer, &config, &manifest] {
        tar.file(&blob(content), 0o644, content)?;
    }
    tar.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    tar.file("index.json", 0o644, &serde_json::to_vec(&index)?)?;
    tar.file("manifest.json", 0o644, &serde_json::to_vec(&docker)?)?;
    tar.finish()
}

fn layer(binary: &[u8], certificates: Option<&[u8]>) -> Result<Vec<u8>> {
    let mut tar = Tar::new();
    for (path, mode) in FOLDERS {
        tar.folder(path, mode)?;
    }
    for (path, content) in FILES {
        tar.file(path, 0o644, content.as_bytes())?;
    }
    if let Some(pem) = certificates {
        tar.file(CERTIFICATES, 0o644, pem)?;
    }
    tar.file(BINARY, 0o755, binary)?;
    tar.finish()
}

fn digest(content: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(content)))
}

fn blob(content: &[u8]) -> String {
    format!("blobs/sha256/{}", hex::encode(Sha256::digest(content)))
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(content), "size": content.len() })
}

/// A tar file whose entries belong to root and bear no time.
struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn folder(&mut self, path: &str, mode: u32) -> Result<()> {
        self.entry(path, mode, tar::EntryType::Directory, &[])
    }

    fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entry(path, mode, tar::EntryType::Regular, content)
    }

    fn entry(&mut self, path: &str, mode: u32, kind: tar::EntryType, content: &[u8]) -> Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(u64::try_from(content.len())?);
        self.0.append_data(&mut header, path, content)?;
        Ok(())
    }

    fn finish(self) -> Result<Vec<u8>> {
        Ok(self.0.into_inner()?)
    }
}

/// Writes a file so that it is there whole or not at all.
fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(content)?;
    file.as_file()
        .set_permissions(std::fs::Permissions::from_mode(0o644))?;
    file.persist(path)?;
    Ok(())
}

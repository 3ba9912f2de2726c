//! `strait apiserver backup` and `restore`: of a server that runs, or of a data folder that none has open.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use futures::AsyncReadExt as _;
use http::Request;
use strait_apiserver::backup::{self, BACKUP_PATH, RESTORE_PATH, Summary};
use strait_daemon::stdout::print;

/// The server, or its folder.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Whose {
    /// The running server of this kubeconfig; its user has to be an administrator
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// This data folder, on which no server runs
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Flags of `strait apiserver backup`.
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    #[command(flatten)]
    whose: Whose,
    /// File to write. It holds Secrets and private keys, and must not exist
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Flags of `strait apiserver restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    whose: Whose,
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

fn told(summary: &Summary) -> String {
    format!(
        "{} objects at version {}, taken {}",
        summary.objects, summary.version, summary.taken
    )
}

/// Writes a backup. It gets its name when it is whole.
pub(crate) async fn backup(args: BackupArgs) -> Result<()> {
    let file = &args.file;
    if file.symlink_metadata().is_ok() {
        bail!("{} exists; choose another name, or remove it", file.display());
    }
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let outcome = fill(&args.whose, &part).await;
    let finished = outcome.and_then(|summary| {
        std::fs::hard_link(&part, file).with_context(|| format!("{} cannot be made", file.display()))?;
        Ok(summary)
    });
    let removed = std::fs::remove_file(&part);
    let summary = finished?;
    removed.with_context(|| format!("{} cannot be removed", part.display()))?;
    print(&format!("{}: {}", file.display(), told(&summary)))?;
    Ok(())
}

async fn fill(whose: &Whose, part: &Path) -> Result<Summary> {
    let cannot = || format!("{} cannot be written", part.display());
    if let Err(e) = std::fs::remove_file(part)
        && e.kind() != std::io::ErrorKind::NotFound
    {
        return Err(e).with_context(cannot);
    }
    let mut out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(part)
        .with_context(cannot)?;
    match (&whose.kubeconfig, &whose.data_dir) {
        (Some(kubeconfig), _) => {
            let client = strait_daemon::client::connect(Some(kubeconfig), "strait-backup").await?;
            let request = Request::get(BACKUP_PATH).body(Vec::new())?;
            let mut stream = Box::pin(
                client
                    .request_stream(request)
                    .await
                    .context("the server gives no backup")?,
            );
            let mut piece = vec![0; 64 << 10];
            loop {
                let n = stream
                    .read(&mut piece)
                    .await
                    .context("the server's backup breaks off")?;
                if n == 0 {
                    break;
                }
                out.write_all(&piece[..n]).with_context(cannot)?;
            }
        }
        (None, Some(dir)) => backup::from_directory(dir, &mut std::io::BufWriter::new(&mut out))?,
        (None, None) => bail!("name a server with --kubeconfig or a folder with --data-dir"),
    }
    out.sync_all().with_context(cannot)?;
    let written = File::open(part).with_context(cannot)?;
    Ok(backup::verify(BufReader::new(written))?)
}

/// Brings a backup back.
pub(crate) async fn restore(args: RestoreArgs) -> Result<()> {
    let cannot = || format!("{} cannot be read", args.file.display());
    let open = || File::open(&args.file).map(BufReader::new).with_context(cannot);
    match (&args.whose.kubeconfig, &args.whose.data_dir) {
        (Some(kubeconfig), _) => {
            backup::verify(open()?)?;
            let client = strait_daemon::client::connect(Some(kubeconfig), "strait-backup").await?;
            let body = std::fs::read(&args.file).with_context(cannot)?;
            let request = Request::post(RESTORE_PATH).body(body)?;
            let answer: serde_json::Value = client
                .request(request)
                .await
                .context("the server does not take the backup")?;
            print(answer["message"].as_str().unwrap_or("restored"))?;
        }
        (None, Some(dir)) => {
            let summary = backup::into_directory(open()?, dir)?;
            print(&format!("{}: {}", dir.display(), told(&summary)))?;
        }
        (None, None) => bail!("name a server with --kubeconfig or a folder with --data-dir"),
    }
    Ok(())
}

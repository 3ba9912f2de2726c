//! `strait apiserver` by itself.
#![allow(clippy::unwrap_used)]

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::process::{Child, ChildStderr, Command, Stdio};

fn strait() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strait"));
    command.env_clear();
    command
}

/// A server that ends with the test, and what it says once it serves.
struct Serving {
    server: Child,
    /// Open for as long as it writes.
    _log: BufReader<ChildStderr>,
    said: String,
}

impl Serving {
    fn start(args: &[&OsStr]) -> Self {
        let mut server = strait()
            .args(["apiserver", "--listen", "127.0.0.1:0"])
            .args(args)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(server.stderr.take().unwrap());
        let said = log
            .by_ref()
            .lines()
            .find_map(|line| line.ok().filter(|l| l.contains("serving at")));
        let serving = Serving {
            server,
            _log: log,
            said: said.unwrap_or_default(),
        };
        assert!(!serving.said.is_empty(), "it says nothing");
        serving
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended by itself; there is nobody left to tell either way.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[test]
fn it_is_listed_and_says_where_it_serves_what() {
    let help = strait().arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(
        help.lines().any(|l| l.trim_start().starts_with("apiserver ")),
        "{help}"
    );

    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("admin.kubeconfig");
    let data = folder.path().join("data");
    let write = format!("https://127.0.0.1:6443={}", kubeconfig.display());
    let serving = Serving::start(&[
        "--data-dir".as_ref(),
        data.as_ref(),
        "--write-kubeconfig".as_ref(),
        write.as_ref(),
    ]);
    let said = &serving.said;
    let (_, address) = said.split_once("serving at 127.0.0.1:").unwrap();
    let port: String = address.chars().take_while(char::is_ascii_digit).collect();
    assert_ne!(port.parse::<u16>().unwrap(), 0, "the port that it got: {said}");
    for path in [&data, &kubeconfig] {
        assert!(said.contains(path.to_str().unwrap()), "{said}");
    }
    assert!(kubeconfig.exists());
    assert!(!data.join("admin.kubeconfig").exists(), "there is one already");
}

#[test]
fn its_administrator_finds_a_kubeconfig_beside_the_data_to_take_a_backup_with() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let serving = Serving::start(&["--data-dir".as_ref(), data.as_ref()]);
    let backup = folder.path().join("backup");
    let taken = strait()
        .args(["apiserver", "backup", "--kubeconfig"])
        .arg(data.join("admin.kubeconfig"))
        .arg(&backup)
        .output()
        .unwrap();
    assert!(taken.status.success(), "{taken:?}");
    assert!(backup.metadata().unwrap().len() > 0);
    let said = &serving.said;
    assert!(said.contains("data/admin.kubeconfig"), "{said}");
}

#[test]
fn what_it_cannot_serve_with_is_refused_with_the_next_step() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let here = ["--listen", "127.0.0.1:0"];
    for (args, said) in [
        (&[][..], &["--listen 127.0.0.1:6443"][..]),
        (
            &["--listen", &taken],
            &[&taken, "choose another address with --listen", "in use"],
        ),
        (
            &[here[0], here[1], "--service-cidr", "10.96.0.0/33"],
            &["\"33\" is no length of an IPv4 prefix", "--service-cidr"],
        ),
        (
            &[here[0], here[1], "--service-cidr", "10.96.0.7/32"],
            &["10.96.0.7/32 is too small", "/29"],
        ),
        (
            &[
                here[0],
                here[1],
                "--service-cidr",
                "10.96.0.0/16",
                "--service-cidr",
                "10.97.0.0/16",
            ],
            &["10.97.0.0/16", "10.96.0.0/16", "one of each family"],
        ),
    ] {
        let output = strait()
            .args(["apiserver", "--data-dir"])
            .arg(folder.path().join("data"))
            .args(args)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{args:?}: {text}");
        for part in said {
            assert!(text.contains(part), "{args:?}: {text}");
        }
    }
}

//! Arguments, environment and probes, as the program takes them.

use std::path::Path;

use clap::{CommandFactory as _, Parser as _};
use k8s_openapi::api::core::v1::Container;

use super::{only_container, workloads};
use crate::command::Cli;

/// The command line that a container runs with, its environment put into the flags that read it.
fn command_line(workload: &str, words: &[String], env: &[(String, Option<String>)]) -> Vec<String> {
    let root = Cli::command();
    let role = words.first().unwrap_or_else(|| panic!("{workload}: no role"));
    let command = root
        .find_subcommand(role)
        .unwrap_or_else(|| panic!("{workload}: no role {role}"));
    let mut line = vec!["strait".to_owned()];
    line.extend(words.iter().cloned());
    for (variable, value) in env {
        let argument = root
            .get_arguments()
            .chain(command.get_arguments())
            .find(|a| a.get_env().is_some_and(|e| e == variable.as_str()))
            .unwrap_or_else(|| panic!("{workload}: strait {role} reads no {variable}"));
        line.push(format!("--{}", argument.get_long().unwrap()));
        // A value that Kubernetes fills in; any name will do.
        line.push(value.clone().unwrap_or_else(|| "filled-in".to_owned()));
    }
    line
}

fn environment(container: &Container) -> Vec<(String, Option<String>)> {
    container
        .env
        .iter()
        .flatten()
        .map(|e| (e.name.clone(), e.value.clone()))
        .collect()
}

#[test]
fn roles_take_their_arguments_and_environment() {
    for (_, workload, template, _) in workloads() {
        let container = only_container(&template);
        assert_eq!(
            container.command, None,
            "{workload}: the image's entry point is the program"
        );
        let env = environment(container);
        let line = command_line(&workload, container.args.as_deref().unwrap(), &env);
        if let Err(e) = Cli::try_parse_from(&line) {
            panic!("{workload}: {line:?}: {e}");
        }
        let find = |wanted: &str| env.iter().find(|(n, _)| n == wanted).and_then(|(_, v)| v.clone());
        let mounts: Vec<&str> = container
            .volume_mounts
            .iter()
            .flatten()
            .map(|m| m.mount_path.as_str())
            .collect();
        let socket = find("STRAIT_PROBE_SOCKET").unwrap_or_else(|| panic!("{workload}: no probe socket"));
        let folder = Path::new(&socket).parent().unwrap().to_str().unwrap();
        assert!(
            mounts.contains(&folder),
            "{workload}: {folder} is no volume, and the root is read-only"
        );

        for probe in [&container.readiness_probe, &container.liveness_probe] {
            let probe = probe
                .as_ref()
                .unwrap_or_else(|| panic!("{workload}: both probes"));
            let command = probe.exec.as_ref().unwrap().command.clone().unwrap();
            assert_eq!(command[0], "strait", "{workload}");
            let socket_only = [("STRAIT_PROBE_SOCKET".to_owned(), Some(socket.clone()))];
            let line = command_line(&workload, &command[1..], &socket_only);
            Cli::try_parse_from(&line).unwrap_or_else(|e| panic!("{workload}: {line:?}: {e}"));
        }

        let port = find("STRAIT_METRICS_LISTEN")
            .unwrap()
            .rsplit_once(':')
            .unwrap()
            .1
            .to_owned();
        let annotations = template.metadata.as_ref().unwrap().annotations.clone().unwrap();
        assert_eq!(annotations["prometheus.io/port"], port, "{workload}");
    }
}

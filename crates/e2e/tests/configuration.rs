//! docs/configuration.md is what the flags say of themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fmt::Write;

use clap::{Command, CommandFactory};
use tandem_cli::Cli;
use tandem_orchestrator::OrchestratorArgs;
use tandem_worker::WorkerArgs;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
/// Set, it writes the file anew.
const UPDATE: &str = "TANDEM_UPDATE_DOCS";

#[test]
fn the_reference_of_all_flags_is_current() {
    let expected = reference();
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(FILE, &expected).unwrap();
    }
    let found = std::fs::read_to_string(FILE).unwrap_or_default();
    assert!(
        found == expected,
        "docs/configuration.md is old: run {UPDATE}=1 cargo test --workspace --test configuration"
    );
}

fn reference() -> String {
    let mut out = String::from(
        "# Configuration\n\nGenerated from the flags. Every flag is given on the command line or, where one is named, by the \
         environment variable; the command line wins.\n",
    );
    let worker = |name: &'static str, about: &'static str| WorkerArgs::command().name(name).about(about);
    describe(&mut out, worker("tandem-draft", "The draft service: proposes token trees"), "");
    describe(&mut out, worker("tandem-target", "The target service: scores token trees"), "");
    let orchestrator = OrchestratorArgs::command().name("tandem-orchestrator");
    describe(&mut out, orchestrator.about("The orchestrator: the generate loop, and the public APIs"), "");
    for command in Cli::command().get_subcommands() {
        describe(&mut out, command.clone(), "tandem ");
    }
    out
}

fn describe(out: &mut String, mut command: Command, prefix: &str) {
    command.build();
    writeln!(out, "\n## `{prefix}{}`\n", command.get_name()).unwrap();
    writeln!(out, "{}.\n", command.get_about().map(ToString::to_string).unwrap_or_default()).unwrap();
    writeln!(out, "| flag | environment | default | meaning |\n|---|---|---|---|").unwrap();
    for arg in command.get_arguments().filter(|a| !["help", "version"].contains(&a.get_id().as_str())) {
        let values: Vec<String> =
            arg.get_value_names().unwrap_or_default().iter().map(|n| format!("<{n}>")).collect();
        let takes = arg.get_action().takes_values() && !values.is_empty();
        let value = if takes { values.join(" ") } else { String::new() };
        let flag = match arg.get_long() {
            Some(long) if takes => format!("--{long} {value}"),
            Some(long) => format!("--{long}"),
            None => value,
        };
        let code = |text: String| if text.is_empty() { String::new() } else { format!("`{text}`") };
        let env = arg.get_env().map(|e| e.to_string_lossy().into_owned()).unwrap_or_default();
        let defaults: Vec<_> = arg.get_default_values().iter().map(|v| v.to_string_lossy()).collect();
        let defaults = if arg.get_action().takes_values() { defaults.join(",") } else { String::new() };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let cells = [code(flag), code(env), code(defaults), help];
        let cells = cells.map(|cell| cell.replace('|', "\\|").replace('\n', " "));
        writeln!(out, "| {} |", cells.join(" | ")).unwrap();
    }
}

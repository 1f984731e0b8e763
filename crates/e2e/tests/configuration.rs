//! docs/configuration.md is generated from the flags.
//!
//! ```text
//! TANDEM_UPDATE_DOCS=1 cargo test -p tandem-e2e configuration    # writes it anew
//! ```

use std::fmt::Write;

use clap::{Arg, Command, CommandFactory};
use tandem_cli::Cli;
use tandem_orchestrator::args::OrchestratorArgs;
use tandem_worker::args::WorkerArgs;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
/// If this is set, the test writes the file.
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
        "docs/configuration.md is out of date: run {UPDATE}=1 cargo test -p tandem-e2e configuration"
    );
}

fn reference() -> String {
    let mut out = String::from(
        "# Configuration\n\nGenerated from the flags. Every flag is given on the command line or, where one is named, by the \
         environment variable; the command line wins.\n",
    );
    let draft = WorkerArgs::command().name("tandem-draft");
    describe(&mut out, draft.about("The draft service: proposes token trees"), "");
    let target = WorkerArgs::command().name("tandem-target");
    describe(&mut out, target.about("The target service: scores token trees"), "");
    let orchestrator = OrchestratorArgs::command().name("tandem-orchestrator");
    describe(&mut out, orchestrator.about("The orchestrator: the generate loop, and the public APIs"), "");
    for command in Cli::command().get_subcommands() {
        describe(&mut out, command.clone(), "tandem ");
    }
    out
}

/// A section for a command, with a table of its flags.
fn describe(out: &mut String, mut command: Command, prefix: &str) {
    command.build();
    writeln!(out, "\n## `{prefix}{}`\n", command.get_name()).unwrap();
    writeln!(out, "{}.\n", command.get_about().map(ToString::to_string).unwrap_or_default()).unwrap();
    writeln!(out, "| flag | environment | default | meaning |\n|---|---|---|---|").unwrap();
    for arg in command.get_arguments().filter(|a| !["help", "version"].contains(&a.get_id().as_str())) {
        let cells = [flag(arg), environment(arg), default(arg), help(arg)];
        let cells = cells.map(|cell| cell.replace('|', "\\|").replace('\n', " "));
        writeln!(out, "| {} |", cells.join(" | ")).unwrap();
    }
}

fn flag(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default();
    let values: Vec<String> = names.iter().map(|name| format!("<{name}>")).collect();
    let value = if arg.get_action().takes_values() { values.join(" ") } else { String::new() };
    code(match arg.get_long() {
        Some(long) => format!("--{long} {value}").trim_end().to_owned(),
        None => value,
    })
}

fn environment(arg: &Arg) -> String {
    code(arg.get_env().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default())
}

fn default(arg: &Arg) -> String {
    if !arg.get_action().takes_values() {
        return String::new();
    }
    let values: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    code(values.join(","))
}

fn help(arg: &Arg) -> String {
    arg.get_help().map(ToString::to_string).unwrap_or_default()
}

/// `text` as code in Markdown, if there is any.
fn code(text: String) -> String {
    if text.is_empty() { text } else { format!("`{text}`") }
}

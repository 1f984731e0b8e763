//! The programs and models under test.

use std::path::PathBuf;

use anyhow::{Context, ensure};

/// The models of this repository.
const MODELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/demo");

/// Flags that say where programs and models are.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Programs {
    /// Directory of tandem-draft, tandem-target and tandem-orchestrator [default: the one of this program]
    #[arg(long, global = true, value_name = "DIR")]
    bin_dir: Option<PathBuf>,

    /// Directory with a model in draft/, one in target/, and prompts in data/sql_eval.jsonl
    #[arg(long, global = true, default_value = MODELS, hide_default_value = true, value_name = "DIR")]
    pub(crate) models: PathBuf,
}

impl Programs {
    /// The path of a program.
    pub(crate) fn binary(&self, name: &str) -> anyhow::Result<PathBuf> {
        let dir = match &self.bin_dir {
            Some(dir) => dir.clone(),
            None => own_directory()?,
        };
        let path = dir.join(name);
        ensure!(
            path.is_file(),
            "{} does not exist: build it with `cargo build --workspace --bins`, or give its directory with --bin-dir",
            path.display()
        );
        Ok(path)
    }
}

fn own_directory() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find the directory of this program: give --bin-dir")?;
    Ok(own.parent().map(PathBuf::from).unwrap_or_default())
}

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::{LogArgs, LogFormat};

/// Logs to stderr from now on, `default` if the flags do not say what. Prompts are logged where an operator asks for
/// that by a flag of its own, texts and keys never.
pub fn init_logging(args: &LogArgs, default: &str) -> Result<(), ParseError> {
    let filter = EnvFilter::builder().parse(args.log.as_deref().unwrap_or(default))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    // A second call, as in tests that start several services, keeps the first.
    let _ = match args.log_format {
        LogFormat::Text => builder.with_ansi(stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    Ok(())
}

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::{LogArgs, LogFormat};

/// Logs to stderr from now on. Prompts and texts are never logged.
pub fn init_logging(args: &LogArgs) -> Result<(), ParseError> {
    let filter = EnvFilter::builder().parse(&args.log)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    // A second call, as in tests that start several services, keeps the first.
    let _ = match args.log_format {
        LogFormat::Text => builder.with_ansi(stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    Ok(())
}

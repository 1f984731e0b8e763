//! Logs and traces.
//!
//! With tracing on, every span of our crates is exported, at level TRACE. With tracing off no subscriber is interested in such a span,
//! and it costs one comparison. Generated text is in neither logs nor spans. Prompts are logged if an operator turns that on, as events
//! with the target `prompts`, and are never in spans.

use std::env;
use std::io::{IsTerminal, stderr};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use thiserror::Error;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::{FilterFn, LevelFilter, ParseError};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::config::{LogConfig, LogFormat};

/// How long the end of a process waits for the last spans to be exported.
const LAST_SPANS_TIMEOUT: Duration = Duration::from_secs(5);
/// The supported values of `OTEL_TRACES_SAMPLER`; the last two take a ratio.
const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "parentbased_always_on",
    "parentbased_always_off",
    "traceidratio",
    "parentbased_traceidratio",
];

/// Why logging or tracing cannot be set up as configured.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum TelemetryError {
    #[error("--log: {0}")]
    Filter(#[from] ParseError),
    #[error("{variable}={value} is not supported: {instead}")]
    Unsupported { variable: &'static str, value: String, instead: String },
    #[error("traces cannot be exported: {0}")]
    Exporter(#[from] ExporterBuildError),
}

/// Exports the last spans when it is dropped.
#[must_use = "the last spans are exported when it is dropped"]
#[derive(Debug, Default)]
pub struct Telemetry(Option<SdkTracerProvider>);

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(traces) = &self.0
            && let Err(error) = traces.shutdown_with_timeout(LAST_SPANS_TIMEOUT)
        {
            tracing::warn!(%error, "the last spans were not exported");
        }
    }
}

/// Logs to stderr from now on. `default` is the filter if `config` has none.
pub fn init_logging(config: &LogConfig, default: &str) -> Result<(), TelemetryError> {
    // A second call, as in tests that start several services, changes nothing.
    let _ = Registry::default().with(log_layer(config, default)?).try_init();
    Ok(())
}

/// Logs as [`init_logging`] does, and exports traces of `service` if the `OTEL_*` variables name an endpoint. Must be called inside a
/// tokio runtime.
pub fn init_telemetry(config: &LogConfig, default: &str, service: &str) -> Result<Telemetry, TelemetryError> {
    let Some(traces) = tracer_provider(service, &|name| env::var(name).ok())? else {
        return init_logging(config, default).map(|()| Telemetry::default());
    };
    let layer = tracing_opentelemetry::layer()
        .with_tracer(traces.tracer("tandem"))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_context_activation(false)
        .with_target(false)
        .with_filter(traced());
    let _ = Registry::default().with(log_layer(config, default)?).with(layer).try_init();
    Ok(Telemetry(Some(traces)))
}

fn traced() -> FilterFn {
    FilterFn::new(is_traced as fn(&Metadata<'_>) -> bool).with_max_level_hint(LevelFilter::TRACE)
}

/// Selects the spans of our crates and what our crates log in them; not the target `prompts`, which is for the log alone.
fn is_traced(metadata: &Metadata<'_>) -> bool {
    let most_verbose = if metadata.is_span() { Level::TRACE } else { Level::INFO };
    metadata.target().starts_with("tandem") && *metadata.level() <= most_verbose
}

fn log_layer<S>(config: &LogConfig, default: &str) -> Result<Box<dyn Layer<S> + Send + Sync>, ParseError>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let filter = EnvFilter::builder().parse(config.filter.as_deref().unwrap_or(default))?;
    let layer = tracing_subscriber::fmt::layer().with_writer(stderr);
    Ok(match config.format {
        LogFormat::Text => layer.with_ansi(stderr().is_terminal()).with_filter(filter).boxed(),
        LogFormat::Json => layer.json().with_filter(filter).boxed(),
    })
}

/// The exporter of spans, if tracing is on. `var` reads an environment variable.
fn tracer_provider(
    service: &str,
    var: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<SdkTracerProvider>, TelemetryError> {
    if !is_on(var)? {
        return Ok(None);
    }
    let mut resource =
        Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    let named = var("OTEL_SERVICE_NAME").is_some_and(|name| !name.is_empty())
        || var("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|all| all.contains("service.name="));
    if !named {
        resource = resource.with_service_name(service.to_owned());
    }
    let exporter = SpanExporter::builder().with_tonic().build()?;
    // The SDK reads the variables for the sampler, the limits and the batches itself.
    let traces = SdkTracerProvider::builder().with_resource(resource.build()).with_batch_exporter(exporter);
    Ok(Some(traces.build()))
}

/// Whether the variables turn tracing on. What they request must be supported.
fn is_on(var: &dyn Fn(&str) -> Option<String>) -> Result<bool, TelemetryError> {
    let var = |name: &str| var(name).filter(|value| !value.is_empty());
    let endpoint = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"]
        .into_iter()
        .find_map(|variable| Some((variable, var(variable)?)));
    let disabled = var("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let Some((variable, endpoint)) = endpoint.filter(|_| !disabled) else { return Ok(false) };
    match var("OTEL_TRACES_EXPORTER") {
        Some(none) if none == "none" => return Ok(false),
        Some(other) if other != "otlp" => {
            return Err(unsupported("OTEL_TRACES_EXPORTER", other, "otlp and none are"));
        }
        _ => {}
    }
    if endpoint.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:")) {
        let instead = "traces are exported in plain text; give the http:// URL of a collector on this host or in the same pod, \
                       which can forward them over TLS";
        return Err(unsupported(variable, endpoint, instead));
    }
    check_protocol(&var)?;
    check_propagators(&var)?;
    check_sampler(&var)?;
    Ok(true)
}

fn unsupported(variable: &'static str, value: String, instead: &str) -> TelemetryError {
    TelemetryError::Unsupported { variable, value, instead: instead.to_owned() }
}

/// The variable for traces takes precedence over the one for all signals.
fn check_protocol(var: &dyn Fn(&str) -> Option<String>) -> Result<(), TelemetryError> {
    for variable in ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"] {
        match var(variable) {
            Some(protocol) if protocol == "grpc" => return Ok(()),
            Some(other) => {
                return Err(unsupported(variable, other, "grpc is, conventionally on port 4317"));
            }
            None => {}
        }
    }
    Ok(())
}

fn check_propagators(var: &dyn Fn(&str) -> Option<String>) -> Result<(), TelemetryError> {
    match var("OTEL_PROPAGATORS") {
        Some(all) if !all.split(',').any(|propagator| propagator.trim() == "tracecontext") => {
            Err(unsupported("OTEL_PROPAGATORS", all, "tracecontext is"))
        }
        _ => Ok(()),
    }
}

fn check_sampler(var: &dyn Fn(&str) -> Option<String>) -> Result<(), TelemetryError> {
    let Some(sampler) = var("OTEL_TRACES_SAMPLER") else { return Ok(()) };
    if !SAMPLERS.contains(&sampler.as_str()) {
        let instead = format!("{} are", SAMPLERS.join(", "));
        return Err(unsupported("OTEL_TRACES_SAMPLER", sampler, &instead));
    }
    let ratio = var("OTEL_TRACES_SAMPLER_ARG").filter(|_| sampler.ends_with("ratio"));
    match ratio {
        Some(text) if !text.parse().is_ok_and(|ratio: f64| (0.0..=1.0).contains(&ratio)) => {
            Err(unsupported("OTEL_TRACES_SAMPLER_ARG", text, "a number from 0 to 1 is"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn is_on_with(variables: &[(&str, &str)]) -> Result<bool, String> {
        let var = |name: &str| variables.iter().find(|v| v.0 == name).map(|v| v.1.to_owned());
        is_on(&var).map_err(|e| e.to_string())
    }

    const HERE: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317");

    #[test]
    fn tracing_is_on_if_an_endpoint_is_named() {
        assert_eq!(is_on_with(&[]), Ok(false));
        assert_eq!(is_on_with(&[HERE]), Ok(true));
        assert_eq!(is_on_with(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", HERE.1)]), Ok(true));
        assert_eq!(is_on_with(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]), Ok(false));
        assert_eq!(is_on_with(&[HERE, ("OTEL_SDK_DISABLED", "TRUE")]), Ok(false));
        assert_eq!(is_on_with(&[HERE, ("OTEL_TRACES_EXPORTER", "none")]), Ok(false));
        // With tracing off, other variables are not checked.
        assert_eq!(is_on_with(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")]), Ok(false));
        let ratio = ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio");
        assert_eq!(is_on_with(&[HERE, ratio, ("OTEL_TRACES_SAMPLER_ARG", "0.25")]), Ok(true));
        let traces_alone = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc");
        assert_eq!(is_on_with(&[HERE, traces_alone, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")]), Ok(true));
    }

    #[test]
    fn unsupported_values_are_refused_by_name() {
        for (variable, value) in [
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://collector:4317"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_PROPAGATORS", "b3"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
        ] {
            let refused = is_on_with(&[HERE, (variable, value)]).unwrap_err();
            assert!(refused.starts_with(&format!("{variable}={value} is not supported")), "{refused}");
        }
        let ratio = ("OTEL_TRACES_SAMPLER", "traceidratio");
        let refused = is_on_with(&[HERE, ratio, ("OTEL_TRACES_SAMPLER_ARG", "2")]).unwrap_err();
        assert!(refused.contains("OTEL_TRACES_SAMPLER_ARG=2"), "{refused}");
    }

    /// Records the targets of events.
    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Seen {
        fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
            self.0.lock().unwrap().push(event.metadata().target().to_owned());
        }
    }

    #[test]
    fn prompts_are_logged_but_not_traced() {
        let spans = Seen::default();
        let log = Seen::default();
        let all = Registry::default()
            .with(log.clone().with_filter(EnvFilter::new("info")))
            .with(spans.clone().with_filter(traced()));
        tracing::subscriber::with_default(all, || {
            let _span = tracing::trace_span!(target: "tandem_orchestrator", "a generation").entered();
            tracing::info!(target: "tandem_orchestrator", "failed over");
            tracing::info!(target: "prompts", prompt = "a secret", "prompt");
        });
        assert_eq!(*log.0.lock().unwrap(), ["tandem_orchestrator", "prompts"]);
        assert_eq!(*spans.0.lock().unwrap(), ["tandem_orchestrator"]);
    }
}

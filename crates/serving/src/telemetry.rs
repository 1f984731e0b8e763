//! Logs and traces.
//!
//! Every span at level TRACE of a crate of ours is exported, where traces are on. Where they are off nobody wants such a span, and it
//! costs a comparison. Texts are in neither logs nor spans; prompts are in the log where an operator asks for them, as events of the
//! target `prompts`, and in no span.

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

use crate::{LogArgs, LogFormat};

/// How long the end of a process may wait for the last spans to go out.
const LAST_SPANS: Duration = Duration::from_secs(5);
/// The samplers of `OTEL_TRACES_SAMPLER` that there are; the latter two take a ratio.
const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "parentbased_always_on",
    "parentbased_always_off",
    "traceidratio",
    "parentbased_traceidratio",
];

/// Why logs or traces cannot be had as asked for.
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

/// Sends the last spans when it is dropped.
#[must_use = "the last spans are sent when it is dropped"]
#[derive(Debug, Default)]
pub struct Telemetry(Option<SdkTracerProvider>);

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(traces) = &self.0
            && let Err(error) = traces.shutdown_with_timeout(LAST_SPANS)
        {
            tracing::warn!(%error, "the last spans were not exported");
        }
    }
}

/// Logs to stderr from now on, `default` if the flags do not say what.
pub fn init_logging(args: &LogArgs, default: &str) -> Result<(), TelemetryError> {
    // A second call, as in tests that start several services, keeps the first.
    let _ = Registry::default().with(log_layer(args, default)?).try_init();
    Ok(())
}

/// The same, and exports traces of `service` if the `OTEL_*` variables say where. Call it within a runtime.
pub fn init_telemetry(args: &LogArgs, default: &str, service: &str) -> Result<Telemetry, TelemetryError> {
    let Some(traces) = tracer_provider(service, &|name| env::var(name).ok())? else {
        return init_logging(args, default).map(|()| Telemetry::default());
    };
    let layer = tracing_opentelemetry::layer()
        .with_tracer(traces.tracer("tandem"))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_context_activation(false)
        .with_target(false)
        .with_filter(traced());
    let _ = Registry::default().with(log_layer(args, default)?).with(layer).try_init();
    Ok(Telemetry(Some(traces)))
}

fn traced() -> FilterFn {
    FilterFn::new(is_traced as fn(&Metadata<'_>) -> bool).with_max_level_hint(LevelFilter::TRACE)
}

/// Our own spans, and what is logged within them by our crates; not the target `prompts`, which is for the log alone.
fn is_traced(metadata: &Metadata<'_>) -> bool {
    let wanted = if metadata.is_span() { Level::TRACE } else { Level::INFO };
    metadata.target().starts_with("tandem") && *metadata.level() <= wanted
}

fn log_layer<S>(args: &LogArgs, default: &str) -> Result<Box<dyn Layer<S> + Send + Sync>, ParseError>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let filter = EnvFilter::builder().parse(args.log.as_deref().unwrap_or(default))?;
    let layer = tracing_subscriber::fmt::layer().with_writer(stderr);
    Ok(match args.log_format {
        LogFormat::Text => layer.with_ansi(stderr().is_terminal()).with_filter(filter).boxed(),
        LogFormat::Json => layer.json().with_filter(filter).boxed(),
    })
}

/// Where spans go, if anywhere. `var` reads a variable of the environment.
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
    // The sampler, the limits and the batches are as the variables say.
    let traces = SdkTracerProvider::builder().with_resource(resource.build()).with_batch_exporter(exporter);
    Ok(Some(traces.build()))
}

/// Whether traces are asked for, and in a way that we have.
fn is_on(var: &dyn Fn(&str) -> Option<String>) -> Result<bool, TelemetryError> {
    let var = |name| var(name).filter(|value| !value.is_empty());
    let endpoint = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"]
        .into_iter()
        .find_map(|variable| Some((variable, var(variable)?)));
    let disabled = var("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let Some((variable, endpoint)) = endpoint.filter(|_| !disabled) else { return Ok(false) };
    let unsupported = |variable, value, instead: &str| {
        Err(TelemetryError::Unsupported { variable, value, instead: instead.into() })
    };
    match var("OTEL_TRACES_EXPORTER") {
        Some(none) if none == "none" => return Ok(false),
        Some(other) if other != "otlp" => {
            return unsupported("OTEL_TRACES_EXPORTER", other, "traces go out by otlp, or none do");
        }
        _ => {}
    }
    if endpoint.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:")) {
        let instead = "traces go out in plain text; give the http:// URL of a collector on this host or in the same pod, \
                       which sends them on over TLS";
        return unsupported(variable, endpoint, instead);
    }
    for variable in ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"] {
        match var(variable) {
            Some(other) if other != "grpc" => {
                return unsupported(variable, other, "traces go out by grpc, conventionally to port 4317");
            }
            Some(_) => break,
            None => {}
        }
    }
    if let Some(other) =
        var("OTEL_PROPAGATORS").filter(|all| !all.split(',').any(|p| p.trim() == "tracecontext"))
    {
        return unsupported("OTEL_PROPAGATORS", other, "requests carry tracecontext");
    }
    let Some(sampler) = var("OTEL_TRACES_SAMPLER") else { return Ok(true) };
    if !SAMPLERS.contains(&sampler.as_str()) {
        return unsupported("OTEL_TRACES_SAMPLER", sampler, &format!("there are {}", SAMPLERS.join(", ")));
    }
    let ratio = var("OTEL_TRACES_SAMPLER_ARG").filter(|_| sampler.ends_with("ratio"));
    match ratio {
        Some(text) if !text.parse().is_ok_and(|ratio: f64| (0.0..=1.0).contains(&ratio)) => {
            unsupported("OTEL_TRACES_SAMPLER_ARG", text, "a ratio is a number from 0 to 1")
        }
        _ => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn asked(variables: &[(&str, &str)]) -> Result<bool, String> {
        let var = |name: &str| variables.iter().find(|v| v.0 == name).map(|v| v.1.to_owned());
        is_on(&var).map_err(|e| e.to_string())
    }

    const HERE: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317");

    #[test]
    fn traces_are_on_where_an_endpoint_is_named() {
        assert_eq!(asked(&[]), Ok(false));
        assert_eq!(asked(&[HERE]), Ok(true));
        assert_eq!(asked(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", HERE.1)]), Ok(true));
        assert_eq!(asked(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]), Ok(false));
        assert_eq!(asked(&[HERE, ("OTEL_SDK_DISABLED", "TRUE")]), Ok(false));
        assert_eq!(asked(&[HERE, ("OTEL_TRACES_EXPORTER", "none")]), Ok(false));
        // What is off may be anything.
        assert_eq!(asked(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")]), Ok(false));
        let ratio = ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio");
        assert_eq!(asked(&[HERE, ratio, ("OTEL_TRACES_SAMPLER_ARG", "0.25")]), Ok(true));
        let traces_alone = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc");
        assert_eq!(asked(&[HERE, traces_alone, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")]), Ok(true));
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (variable, value) in [
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://collector:4317"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_PROPAGATORS", "b3"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
        ] {
            let refused = asked(&[HERE, (variable, value)]).unwrap_err();
            assert!(refused.starts_with(&format!("{variable}={value} is not supported")), "{refused}");
        }
        let ratio = ("OTEL_TRACES_SAMPLER", "traceidratio");
        let refused = asked(&[HERE, ratio, ("OTEL_TRACES_SAMPLER_ARG", "2")]).unwrap_err();
        assert!(refused.contains("OTEL_TRACES_SAMPLER_ARG=2"), "{refused}");
    }

    /// Of which targets it saw events.
    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Seen {
        fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
            self.0.lock().unwrap().push(event.metadata().target().to_owned());
        }
    }

    #[test]
    fn prompts_are_for_the_log_alone() {
        let (spans, log) = (Seen::default(), Seen::default());
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

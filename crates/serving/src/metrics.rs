//! What a service counts, in the text form of OpenMetrics, which Prometheus reads.

use std::sync::Arc;

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry};

/// The form that [`Metrics`] are written in.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All that a service counts. Clones share it.
#[derive(Clone, Default)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    registry: Registry,
    refresh: Vec<Refresh>,
    described: Vec<Described>,
}

/// Reads what is known only when somebody asks.
type Refresh = Box<dyn Fn() + Send + Sync>;

/// A metric, as it is documented.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// As it is written: that of a counter ends in `_total`.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
}

/// Metrics to be.
pub struct MetricsBuilder {
    registry: Registry,
    alias: Option<String>,
    refresh: Vec<Refresh>,
    described: Vec<Described>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Build {
    version: &'static str,
    model: String,
}

impl MetricsBuilder {
    /// Of `service` (`orchestrator`, `draft` or `target`, a label of all metrics), which serves `model`. With an `alias`, the metrics
    /// whose names other servers have too come a second time, with it in front of their names.
    pub fn new(service: &'static str, model: String, alias: Option<String>) -> Self {
        let labels = [("service".into(), service.into())];
        let registry = Registry::with_labels(labels.into_iter());
        let mut builder = Self { registry, alias, refresh: Vec::new(), described: Vec::new() };
        let build = Family::<Build, Gauge>::default();
        build.get_or_create(&Build { version: env!("CARGO_PKG_VERSION"), model }).set(1);
        builder.own("build_info", "Always 1: which version serves which model", build);
        builder
    }

    /// Adds a metric of Tandem's own. The name is without `_total`.
    pub fn own(&mut self, name: &str, help: &str, metric: impl Metric) {
        let kind = metric.metric_type().as_str().to_owned();
        let suffix = if kind == "counter" { "_total" } else { "" };
        self.described.push(Described { name: format!("{name}{suffix}"), kind });
        self.registry.register(name, help, metric);
    }

    /// Adds a metric by a name that other servers have too.
    pub fn common(&mut self, name: &str, help: &str, metric: impl Metric + Clone) {
        if let Some(alias) = &self.alias {
            self.registry.register(format!("{alias}{name}"), help, metric.clone());
        }
        self.own(name, help, metric);
    }

    /// Runs `refresh` whenever somebody reads the metrics.
    pub fn before_reading(&mut self, refresh: impl Fn() + Send + Sync + 'static) {
        self.refresh.push(Box::new(refresh));
    }

    /// That is all.
    pub fn build(self) -> Metrics {
        let Self { registry, refresh, described, .. } = self;
        Metrics { inner: Arc::new(Inner { registry, refresh, described }) }
    }
}

impl Metrics {
    /// As they are now.
    pub fn read(&self) -> Result<String, std::fmt::Error> {
        self.inner.refresh.iter().for_each(|refresh| refresh());
        let mut text = String::new();
        encode(&mut text, &self.inner.registry)?;
        Ok(text)
    }

    /// What there is, without the names of an alias.
    pub fn described(&self) -> &[Described] {
        &self.inner.described
    }

    /// The answer to `GET /metrics`.
    pub(crate) fn response(&self) -> Response {
        match self.read() {
            Ok(text) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
            Err(_) => axum::http::StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }
}

/// A flag that names a prefix of metrics: a word, and maybe a colon or an underscore behind it.
pub fn metrics_prefix(text: &str) -> Result<String, String> {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
    let valid = text.starts_with(letter) && text.chars().all(|c| letter(c) || c.is_ascii_digit());
    valid.then(|| text.to_owned()).ok_or_else(|| {
        format!("{text:?} is no prefix of a metric: letters, digits, _ and : may be in one, as in vllm:")
    })
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[test]
    fn an_alias_repeats_the_common_metrics_and_no_others() {
        let (common, own): (Counter, Counter) = Default::default();
        let mut builder = MetricsBuilder::new("draft", "toy".into(), Some("vllm:".into()));
        builder.common("drafts", "Drafts", common.clone());
        builder.own("passes", "Passes", own.clone());
        builder.before_reading(move || {
            own.inc();
        });
        let metrics = builder.build();
        common.inc_by(3);
        assert!(metrics.read().unwrap().contains("passes_total{service=\"draft\"} 1\n"));
        let text = metrics.read().unwrap();
        for line in [
            "drafts_total{service=\"draft\"} 3",
            "vllm:drafts_total{service=\"draft\"} 3",
            "passes_total{service=\"draft\"} 2",
            "build_info{service=\"draft\",version=\"0.1.0\",model=\"toy\"} 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
        assert!(!text.contains("vllm:passes"));
        let names: Vec<_> = metrics.described().iter().map(|d| (d.name.as_str(), d.kind.as_str())).collect();
        assert_eq!(
            names,
            [("build_info", "gauge"), ("drafts_total", "counter"), ("passes_total", "counter")]
        );
    }

    #[test]
    fn prefixes_are_beginnings_of_names() {
        assert_eq!(metrics_prefix("vllm:"), Ok("vllm:".into()));
        for nonsense in ["", "1a", "a b", "ä", "a-"] {
            assert!(metrics_prefix(nonsense).is_err(), "{nonsense}");
        }
    }
}

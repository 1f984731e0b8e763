//! What a service measures, in the text formats that Prometheus reads.

mod format;
mod prefix;

use std::fmt;
use std::sync::Arc;

use axum::http::header::{CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry};

pub use format::MetricsFormat;
pub use prefix::{InvalidMetricsPrefix, MetricsPrefix};

/// All names of metrics begin with this, so that they stand together and clash with no other program's.
const NAMESPACE: &str = "tandem_";

/// All metrics of a service. Clones share them.
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

/// Updates metrics that are only computed for a scrape.
type Refresh = Box<dyn Fn() + Send + Sync>;

/// A metric as the documentation lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// The name of its samples: the name of a counter ends in `_total`.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
}

/// Collects the metrics of a service.
pub struct MetricsBuilder {
    registry: Registry,
    alias: Option<MetricsPrefix>,
    refresh: Vec<Refresh>,
    described: Vec<Described>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Build {
    version: &'static str,
    model: String,
}

impl MetricsBuilder {
    /// Metrics of `service` (`orchestrator`, `draft` or `target`; a label of all of them), which serves `model`. With an `alias`, the
    /// [common](Self::common) metrics are repeated with it in the place of `tandem_`.
    pub fn new(service: &'static str, model: String, alias: Option<MetricsPrefix>) -> Self {
        let labels = [("service".into(), service.into())];
        let registry = Registry::with_labels(labels.into_iter());
        let mut builder = Self { registry, alias, refresh: Vec::new(), described: Vec::new() };
        let build = Family::<Build, Gauge>::default();
        build.get_or_create(&Build { version: env!("CARGO_PKG_VERSION"), model }).set(1);
        builder.own("build_info", "Always 1: which version serves which model", build);
        builder
    }

    /// Adds a metric that only Tandem has. The name is without `tandem_`, and that of a counter without `_total`.
    pub fn own(&mut self, name: &str, help: &str, metric: impl Metric) {
        let kind = metric.metric_type().as_str().to_owned();
        let suffix = if kind == "counter" { "_total" } else { "" };
        self.described.push(Described { name: format!("{NAMESPACE}{name}{suffix}"), kind });
        self.registry.register(format!("{NAMESPACE}{name}"), help, metric);
    }

    /// Adds a metric that other servers have too, by the name that they have in common.
    pub fn common(&mut self, name: &str, help: &str, metric: impl Metric + Clone) {
        if let Some(alias) = &self.alias {
            self.registry.register(format!("{alias}{name}"), help, metric.clone());
        }
        self.own(name, help, metric);
    }

    /// Calls `refresh` before every scrape.
    pub fn before_reading(&mut self, refresh: impl Fn() + Send + Sync + 'static) {
        self.refresh.push(Box::new(refresh));
    }

    /// The metrics added so far.
    pub fn build(self) -> Metrics {
        let Self { registry, refresh, described, .. } = self;
        Metrics { inner: Arc::new(Inner { registry, refresh, described }) }
    }
}

impl Metrics {
    /// The metrics as they are now.
    pub fn read(&self, format: MetricsFormat) -> Result<String, fmt::Error> {
        for refresh in &self.inner.refresh {
            refresh();
        }
        let mut text = String::new();
        encode(&mut text, &self.inner.registry)?;
        Ok(match format {
            MetricsFormat::OpenMetrics => text,
            MetricsFormat::Prometheus => format::to_classic(&text),
        })
    }

    /// All metrics, without those repeated under an alias.
    pub fn described(&self) -> &[Described] {
        &self.inner.described
    }

    /// The response to `GET /metrics` with these `headers`.
    pub(crate) fn response(&self, headers: &HeaderMap) -> Response {
        let format = MetricsFormat::negotiate(headers);
        match self.read(format) {
            Ok(text) => ([(CONTENT_TYPE, format.content_type()), (VARY, "accept")], text).into_response(),
            Err(fmt::Error) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::header::ACCEPT;
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    /// A common counter at 3, and one of our own that counts scrapes.
    fn metrics(alias: Option<&str>) -> Metrics {
        let alias = alias.map(|alias| alias.parse().unwrap());
        let mut builder = MetricsBuilder::new("draft", "toy".into(), alias);
        let common = Counter::<u64>::default();
        let own = Counter::<u64>::default();
        builder.common("drafts", "Drafts", common.clone());
        builder.own("passes", "Passes", own.clone());
        builder.before_reading(move || {
            own.inc();
        });
        common.inc_by(3);
        builder.build()
    }

    #[test]
    fn metrics_have_a_namespace_and_are_refreshed_before_they_are_read() {
        let metrics = metrics(None);
        for scrapes in 1..=2 {
            let text = metrics.read(MetricsFormat::OpenMetrics).unwrap();
            let expected = format!(
                "\
# HELP tandem_build_info Always 1: which version serves which model.
# TYPE tandem_build_info gauge
tandem_build_info{{service=\"draft\",version=\"0.1.0\",model=\"toy\"}} 1
# HELP tandem_drafts Drafts.
# TYPE tandem_drafts counter
tandem_drafts_total{{service=\"draft\"}} 3
# HELP tandem_passes Passes.
# TYPE tandem_passes counter
tandem_passes_total{{service=\"draft\"}} {scrapes}
# EOF
"
            );
            assert_eq!(text, expected);
        }
        let names: Vec<_> = metrics.described().iter().map(|d| (d.name.as_str(), d.kind.as_str())).collect();
        let expected = [
            ("tandem_build_info", "gauge"),
            ("tandem_drafts_total", "counter"),
            ("tandem_passes_total", "counter"),
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn the_classic_format_gives_counters_their_full_name() {
        let text = metrics(None).read(MetricsFormat::Prometheus).unwrap();
        let expected = "\
# HELP tandem_build_info Always 1: which version serves which model.
# TYPE tandem_build_info gauge
tandem_build_info{service=\"draft\",version=\"0.1.0\",model=\"toy\"} 1
# HELP tandem_drafts_total Drafts.
# TYPE tandem_drafts_total counter
tandem_drafts_total{service=\"draft\"} 3
# HELP tandem_passes_total Passes.
# TYPE tandem_passes_total counter
tandem_passes_total{service=\"draft\"} 1
";
        assert_eq!(text, expected);
    }

    #[test]
    fn an_alias_repeats_the_common_metrics_and_no_others() {
        let metrics = metrics(Some("vllm:"));
        let text = metrics.read(MetricsFormat::OpenMetrics).unwrap();
        for line in [
            "tandem_drafts_total{service=\"draft\"} 3",
            "# TYPE vllm:drafts counter",
            "vllm:drafts_total{service=\"draft\"} 3",
            "tandem_passes_total{service=\"draft\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
        assert!(!text.contains("vllm:passes") && !text.contains("vllm:tandem"), "{text}");
        let classic = metrics.read(MetricsFormat::Prometheus).unwrap();
        assert!(classic.contains("# TYPE vllm:drafts_total counter\n"), "{classic}");
        assert_eq!(metrics.described().len(), 3);
    }

    #[tokio::test]
    async fn a_response_is_in_the_format_that_was_requested() {
        let metrics = metrics(None);
        for (accept, content_type, counter) in [
            (
                "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5",
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
                "# TYPE tandem_drafts counter",
            ),
            (
                "text/plain;version=0.0.4",
                "text/plain; version=0.0.4; charset=utf-8",
                "# TYPE tandem_drafts_total counter",
            ),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT, accept.parse().unwrap())]);
            let response = metrics.response(&headers);
            assert_eq!(response.headers()[CONTENT_TYPE], content_type);
            let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
            let body = String::from_utf8(body.to_vec()).unwrap();
            assert!(body.lines().any(|line| line == counter), "{counter} in {body}");
            assert_eq!(body.ends_with("# EOF\n"), accept.starts_with("application"), "{body}");
        }
    }
}

//! The text formats of metrics: which one a scraper gets, and how the classic one is written.

use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use mime::Mime;

/// A text format of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsFormat {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The classic format of Prometheus, 0.0.4, which every scraper reads.
    Prometheus,
}

/// How well a format suits a scraper.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Preference {
    specificity: Specificity,
    /// In thousandths, 0 for "not acceptable".
    quality: u16,
}

/// How closely a media range describes a format. The closest one counts (RFC 9110, section 12.5.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Specificity {
    #[default]
    Unmentioned,
    /// `*/*`
    Anything,
    /// `text/*`
    Type,
    /// `text/plain`
    Subtype,
    /// `text/plain; version=0.0.4`
    Version,
}

impl MetricsFormat {
    /// The format for a request with these headers: the one that its `Accept` prefers, and the classic one if it has no preference.
    /// OpenMetrics must be mentioned, because not every tool that accepts `*/*` reads it.
    pub(super) fn negotiate(headers: &HeaderMap) -> Self {
        let values = headers.get_all(ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
        let ranges: Vec<Mime> =
            values.flat_map(|value| value.split(',')).filter_map(|range| range.trim().parse().ok()).collect();
        let open_metrics = Self::OpenMetrics.preference(&ranges);
        let prometheus = Self::Prometheus.preference(&ranges);
        let mentioned = open_metrics.specificity > Specificity::Anything && open_metrics.quality > 0;
        if mentioned && open_metrics.quality >= prometheus.quality {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// The value of `Content-Type`.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// Type, subtype and version.
    fn media_type(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::OpenMetrics => ("application", "openmetrics-text", "1.0.0"),
            Self::Prometheus => ("text", "plain", "0.0.4"),
        }
    }

    fn preference(self, accepted: &[Mime]) -> Preference {
        let preferences = accepted.iter().filter_map(|range| {
            Some(Preference { specificity: self.specificity(range)?, quality: quality(range)? })
        });
        preferences.max().unwrap_or_default()
    }

    /// `None` if `range` is about other formats.
    fn specificity(self, range: &Mime) -> Option<Specificity> {
        let (format_type, subtype, version) = self.media_type();
        match (range.type_().as_str(), range.subtype().as_str()) {
            ("*", "*") => Some(Specificity::Anything),
            (t, "*") if t == format_type => Some(Specificity::Type),
            (t, s) if t == format_type && s == subtype => match range.get_param("version") {
                None => Some(Specificity::Subtype),
                Some(v) => (v == version).then_some(Specificity::Version),
            },
            _ => None,
        }
    }
}

/// The quality value of a media range, in thousandths. `None` if it is malformed.
fn quality(range: &Mime) -> Option<u16> {
    let Some(quality) = range.get_param("q") else { return Some(1000) };
    let quality: f32 = quality.as_str().parse().ok()?;
    (0.0..=1.0).contains(&quality).then(|| (quality * 1000.0).round() as u16)
}

/// Rewrites metrics in OpenMetrics as the classic format, which prometheus-client cannot write. The sample lines are the same, as
/// long as no metric has exemplars. What differs are the lines about a family of metrics: the classic format names it as its samples
/// are named, has fewer types, and neither units nor an end.
pub(super) fn to_classic(open_metrics: &str) -> String {
    let mut classic = String::with_capacity(open_metrics.len());
    // Comes before the type, which decides on the name.
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(name_and_help) = line.strip_prefix("# HELP ") {
            help = name_and_help.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                same => ("", same),
            };
            if let Some((_, help)) = help.take() {
                classic += &format!("# HELP {name}{suffix} {help}\n");
            }
            classic += &format!("# TYPE {name}{suffix} {kind}\n");
        } else if !line.starts_with('#') {
            classic += line;
            classic.push('\n');
        }
    }
    classic
}

#[cfg(test)]
mod tests {
    use super::*;

    fn negotiate(accept: &[&str]) -> MetricsFormat {
        let headers: HeaderMap = accept.iter().map(|value| (ACCEPT, value.parse().unwrap())).collect();
        MetricsFormat::negotiate(&headers)
    }

    #[test]
    fn a_request_that_names_openmetrics_gets_it() {
        for accept in [
            "application/openmetrics-text",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            "Application/OpenMetrics-Text;version=1.0.0",
            "text/plain;q=0.5, application/openmetrics-text;q=0.5",
            "application/*, text/plain;q=0.5",
            // Prometheus 2.
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
             text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            // Prometheus 3.
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
             application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
             text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
        ] {
            assert_eq!(negotiate(&[accept]), MetricsFormat::OpenMetrics, "{accept}");
        }
        assert_eq!(
            negotiate(&["text/plain;q=0.9", "application/openmetrics-text"]),
            MetricsFormat::OpenMetrics
        );
    }

    #[test]
    fn other_requests_get_the_classic_format() {
        assert_eq!(negotiate(&[]), MetricsFormat::Prometheus);
        for accept in [
            "text/plain; version=0.0.4",
            "text/plain",
            "text/*",
            "*/*",
            "",
            "nonsense",
            // A browser.
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            "application/openmetrics-text;q=0.2, text/plain;version=0.0.4;q=0.3",
            "application/openmetrics-text;q=0.2, */*;q=0.3",
            "application/openmetrics-text;q=0, */*",
            "application/openmetrics-text;q=0",
            // A version that is not written, and quality values that are not numbers.
            "application/openmetrics-text; version=0.0.1",
            "application/openmetrics-text; q=high",
            "application/openmetrics-text; q=NaN",
            // Prometheus 3 that was told to use its text formats.
            "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.5,\
             application/openmetrics-text;version=1.0.0;q=0.4,*/*;q=0.1",
        ] {
            assert_eq!(negotiate(&[accept]), MetricsFormat::Prometheus, "{accept}");
        }
    }

    #[test]
    fn the_closest_range_decides() {
        let closest = "application/*;q=1, application/openmetrics-text;q=0.1, text/plain;q=0.2";
        assert_eq!(negotiate(&[closest]), MetricsFormat::Prometheus);
        let version = "text/plain;q=1, text/plain;version=0.0.4;q=0.1, application/openmetrics-text;q=0.2";
        assert_eq!(negotiate(&[version]), MetricsFormat::OpenMetrics);
    }

    #[test]
    fn families_are_rewritten_and_samples_are_not() {
        let open_metrics = "\
# HELP drafts Drafts proposed.
# TYPE drafts counter
drafts_total{model=\"a \\\"# TYPE\\\" b\"} 3
# HELP pass_seconds Time of a pass.
# TYPE pass_seconds histogram
# UNIT pass_seconds seconds
pass_seconds_sum 0.5
pass_seconds_count 1
pass_seconds_bucket{le=\"1.0\"} 1
pass_seconds_bucket{le=\"+Inf\"} 1
# TYPE build info
build_info{version=\"1\"} 1
# TYPE other unknown
other 1
# HELP queue Passes that wait.
# TYPE queue gauge
queue 0
# EOF
";
        let classic = "\
# HELP drafts_total Drafts proposed.
# TYPE drafts_total counter
drafts_total{model=\"a \\\"# TYPE\\\" b\"} 3
# HELP pass_seconds Time of a pass.
# TYPE pass_seconds histogram
pass_seconds_sum 0.5
pass_seconds_count 1
pass_seconds_bucket{le=\"1.0\"} 1
pass_seconds_bucket{le=\"+Inf\"} 1
# TYPE build_info gauge
build_info{version=\"1\"} 1
# TYPE other untyped
other 1
# HELP queue Passes that wait.
# TYPE queue gauge
queue 0
";
        assert_eq!(to_classic(open_metrics), classic);
    }
}

//! Logs, traces and metrics: set up once by each program's `main`.
//!
//! Components only use the `tracing` and `metrics` facades; what becomes of
//! their words is decided here, by the `[log]` section.

use std::collections::HashMap;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use serde::Deserialize;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer};

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for programs.
    Json,
}

/// The `[log]` section.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What is logged: a level, or directives such as `info,palatine_gateway=debug`.
    /// Default `info`.
    pub filter: String,
    /// `text` or `json`. Default `text`.
    pub format: Format,
    /// Where traces go: the base URL of an OTLP/HTTP collector, such as
    /// `http://127.0.0.1:4318`. Default: nowhere.
    pub otlp_endpoint: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: Format::Text, otlp_endpoint: None }
    }
}

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `log.filter` is not a filter.
    #[error("log.filter: expected a level or directives such as info,palatine_gateway=debug")]
    Filter(#[from] ParseError),
    /// `log.otlp_endpoint` cannot be used.
    #[error("log.otlp_endpoint: expected the base URL of an OTLP/HTTP collector")]
    Otlp(#[from] ExporterBuildError),
    /// A second set-up in one process.
    #[error("telemetry is set up twice")]
    Twice(#[from] TryInitError),
    /// The metrics recorder cannot be installed.
    #[error("install the metrics recorder")]
    Metrics(#[from] BuildError),
}

/// Keeps the exporter alive; dropping it sends what is still held.
#[must_use = "dropping it ends the export of traces"]
#[derive(Debug)]
pub struct TelemetryGuard(Option<SdkTracerProvider>);

impl Drop for TelemetryGuard {
    fn drop(&mut self) {
        if let Some(provider) = self.0.take() {
            // Nobody is left to tell: the subscriber is going away with us.
            let _ = provider.shutdown();
        }
    }
}

impl Config {
    /// Checks the section without setting anything up.
    ///
    /// # Errors
    /// Names the key.
    pub fn check(&self) -> Result<(), Error> {
        EnvFilter::try_new(&self.filter)?;
        self.exporter().map(drop)
    }

    fn exporter(&self) -> Result<Option<SpanExporter>, Error> {
        let Some(base) = &self.otlp_endpoint else { return Ok(None) };
        let endpoint = format!("{}/v1/traces", base.trim_end_matches('/'));
        Ok(Some(SpanExporter::builder().with_http().with_endpoint(endpoint).build()?))
    }
}

/// Starts logging to standard error, and the export of traces where configured.
///
/// # Errors
/// A key of `[log]` that cannot be used, or a second call.
pub fn init(config: &Config, program: &'static str) -> Result<TelemetryGuard, Error> {
    let filter = EnvFilter::try_new(&config.filter)?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match config.format {
        Format::Text => lines.with_target(false).boxed(),
        Format::Json => lines.json().flatten_event(true).boxed(),
    };
    let provider = config.exporter()?.map(|exporter| {
        let resource = Resource::builder().with_service_name(program).build();
        SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build()
    });
    let traces = provider.as_ref().map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer(program)));
    tracing_subscriber::registry().with(filter).with(traces).with(lines).try_init()?;
    Ok(TelemetryGuard(provider))
}

/// Makes `span` a child of the trace that a `traceparent` header names (W3C
/// Trace Context); a header that names none changes nothing.
pub fn set_parent(span: &Span, traceparent: &str) {
    let carrier = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
    // Fails only where no traces are exported, and then there is nothing to follow.
    let _ = span.set_parent(TraceContextPropagator::new().extract(&carrier));
}

/// Seconds, from half a millisecond to a minute: every histogram of ours is one of time.
const BUCKETS: [f64; 15] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

/// Installs the recorder behind the `metrics` facade and returns what renders it.
///
/// # Errors
/// When a recorder is installed already.
pub fn prometheus() -> Result<PrometheusHandle, Error> {
    let seconds = Matcher::Suffix("_seconds".to_owned());
    Ok(PrometheusBuilder::new().set_buckets_for_metric(seconds, &BUCKETS)?.install_recorder()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_is_none_is_refused_by_its_key() {
        let config = Config { filter: "info,=,".to_owned(), ..Config::default() };
        assert!(config.check().unwrap_err().to_string().starts_with("log.filter"));
        assert!(Config::default().check().is_ok());
    }

    #[test]
    fn a_span_reaches_an_otlp_collector() {
        use std::io::{Read, Write};
        rustls::crypto::ring::default_provider().install_default().unwrap();
        let collector = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}/", collector.local_addr().unwrap());
        let received = std::thread::spawn(move || {
            let (mut stream, _) = collector.accept().unwrap();
            let mut request = vec![0; 64 * 1024];
            let mut length = 0;
            while !request[..length].windows(10).any(|word| word == b"a-traced-0") {
                length += stream.read(&mut request[length..]).unwrap();
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
            request.truncate(length);
            request
        });
        let config = Config { otlp_endpoint: Some(endpoint), ..Config::default() };
        let guard = init(&config, "palatine-test").unwrap();
        let span = tracing::info_span!("a-traced-0");
        set_parent(&span, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        drop(span);
        drop(guard);
        let request = received.join().unwrap();
        assert!(request.starts_with(b"POST /v1/traces HTTP/1.1"));
        let trace = [0x0a, 0xf7, 0x65, 0x19, 0x16, 0xcd, 0x43, 0xdd, 0x84, 0x48, 0xeb, 0x21, 0x1c, 0x80, 0x31, 0x9c];
        assert!(request.windows(16).any(|id| id == trace), "the caller's trace id is not the span's");
    }
}

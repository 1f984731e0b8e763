//! All workers of a kind: found by name, watched, and chosen by load.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use futures_util::future::join_all;
use tandem_proto::v1;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Endpoint as Transport;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::endpoint::{Endpoint, Health};
use super::role::model_info;
use crate::Network;
use crate::retry::{Backoff, RetryBudget};

/// What a worker is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerKind {
    /// Proposes.
    Draft,
    /// Scores.
    Target,
}

impl fmt::Display for WorkerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Draft => "draft",
            Self::Target => "target",
        })
    }
}

impl WorkerKind {
    /// By which its health is asked.
    fn service(self) -> &'static str {
        match self {
            Self::Draft => "tandem.v1.Draft",
            Self::Target => "tandem.v1.Target",
        }
    }
}

/// `http://host:port`: one worker, or all that the name resolves to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerName {
    host: String,
    port: u16,
}

impl FromStr for WorkerName {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        let no_url = || format!("{url:?} is no URL of a worker: write it like http://host:7701");
        let uri: tonic::transport::Uri = url.parse().map_err(|_| no_url())?;
        let plain =
            uri.scheme_str() == Some("http") && matches!(uri.path(), "" | "/") && uri.query().is_none();
        match (uri.host(), uri.port_u16()) {
            (Some(host), port) if plain && !host.is_empty() => {
                // An IPv6 address stands in brackets in a URL, and without them everywhere else.
                let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                Ok(Self { host, port: port.unwrap_or(80) })
            }
            _ => Err(no_url()),
        }
    }
}

impl fmt::Display for WorkerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(f, "http://[{host}]:{port}")
        } else {
            write!(f, "http://{host}:{port}")
        }
    }
}

/// How long things with workers may take.
#[derive(Clone, Copy, Debug)]
pub struct WorkerLimits {
    /// One request, the prefill of a prompt included.
    pub step: Duration,
    /// A worker that gives no sign of life for this long is lost.
    pub silence: Duration,
    /// How long a text waits for a target when none is there.
    pub patience: Duration,
    /// Between two looks at what the names resolve to.
    pub resolve: Duration,
}

/// Workers of a kind. Clones share them.
#[derive(Clone)]
pub(crate) struct Pool {
    inner: Arc<Inner>,
    /// Ends the watching with the last clone.
    _watching: Arc<DropGuard>,
}

struct Inner {
    kind: WorkerKind,
    names: Vec<WorkerName>,
    limits: WorkerLimits,
    network: Arc<dyn Network>,
    /// The vocabulary that all must have, if it is known before the first worker.
    vocabulary: Option<String>,
    /// The first that answered; the others must have the same.
    model: OnceLock<v1::ModelInfo>,
    endpoints: RwLock<Vec<Arc<Endpoint>>>,
    /// The last reason why there is nobody.
    trouble: Mutex<String>,
    changed: watch::Sender<()>,
    budget: RetryBudget,
    /// Nobody has the pool any more.
    gone: CancellationToken,
}

impl Pool {
    /// Begins to look for the workers that `names` stand for. The looking ends when the last clone is gone.
    pub(crate) fn start(
        kind: WorkerKind,
        names: Vec<WorkerName>,
        vocabulary: Option<String>,
        limits: WorkerLimits,
        network: Arc<dyn Network>,
    ) -> Self {
        let (changed, _) = watch::channel(());
        let gone = CancellationToken::new();
        let inner = Arc::new(Inner {
            kind,
            names,
            limits,
            network,
            vocabulary,
            model: OnceLock::new(),
            endpoints: RwLock::default(),
            trouble: Mutex::new("nobody answered yet".into()),
            changed,
            budget: RetryBudget::new(),
            gone: gone.clone(),
        });
        inner.spawn(resolve_forever(inner.clone()));
        Self { inner, _watching: Arc::new(gone.drop_guard()) }
    }

    pub(crate) fn kind(&self) -> WorkerKind {
        self.inner.kind
    }

    pub(crate) fn limits(&self) -> &WorkerLimits {
        &self.inner.limits
    }

    pub(crate) fn budget(&self) -> &RetryBudget {
        &self.inner.budget
    }

    /// What the workers serve, once one has answered.
    pub(crate) fn model(&self) -> Option<&v1::ModelInfo> {
        self.inner.model.get()
    }

    /// All, whether they answer or not.
    pub(crate) fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.inner.endpoints.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The one that serves with the fewest of our sessions, none of `not`.
    pub(crate) fn pick(&self, not: &[SocketAddr]) -> Option<Arc<Endpoint>> {
        let endpoints = self.inner.endpoints.read().unwrap_or_else(PoisonError::into_inner);
        let able = endpoints.iter().filter(|e| e.is_serving() && !not.contains(&e.address));
        able.min_by_key(|e| e.sessions()).cloned()
    }

    /// Told at every change of a worker.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.inner.changed.subscribe()
    }

    /// Returns once somebody serves, or why nobody did until `by`.
    pub(crate) async fn somebody(&self, by: Instant) -> Result<Arc<Endpoint>, String> {
        let mut changes = self.changes();
        loop {
            if let Some(endpoint) = self.pick(&[]) {
                return Ok(endpoint);
            }
            let wait = tokio::time::timeout_at(by, changes.changed()).await;
            if !matches!(wait, Ok(Ok(()))) {
                return Err(self.trouble());
            }
        }
    }

    /// Somebody's model that cannot be used, and why.
    pub(crate) fn unfit(&self) -> Option<String> {
        self.endpoints().iter().find_map(|e| match e.health() {
            Health::Unfit(why) => Some(why),
            _ => None,
        })
    }

    /// The last reason why there is nobody.
    pub(crate) fn trouble(&self) -> String {
        self.inner.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Checks that the life `incarnation` of `endpoint` serves the known model; `info` is what that face of it says.
    pub(crate) fn check(
        &self,
        endpoint: &Endpoint,
        incarnation: u64,
        info: &v1::ModelInfo,
    ) -> Result<(), String> {
        self.inner.check(info)?;
        endpoint.learn(incarnation);
        Ok(())
    }

    /// All of them as they are now; those that serve are asked.
    pub(crate) async fn status(&self) -> Vec<v1::WorkerStatus> {
        let role = match self.inner.kind {
            WorkerKind::Draft => v1::WorkerRole::Draft,
            WorkerKind::Target => v1::WorkerRole::Target,
        };
        let ask = async |endpoint: Arc<Endpoint>| {
            let state = endpoint.wire_state();
            let info = match state {
                v1::WorkerState::Serving | v1::WorkerState::Draining => self.inner.ask(&endpoint).await.ok(),
                _ => None,
            };
            v1::WorkerStatus {
                role: role.into(),
                address: endpoint.address.to_string(),
                state: state.into(),
                sessions: u32::try_from(endpoint.sessions()).unwrap_or(u32::MAX),
                load: info.as_ref().and_then(|i| i.load),
                kv_cache_tokens: info.map_or(0, |i| i.kv_cache_tokens),
            }
        };
        join_all(self.endpoints().into_iter().map(ask)).await
    }
}

impl Inner {
    /// Runs `watching` for as long as anybody has the pool.
    fn spawn(&self, watching: impl Future<Output = ()> + Send + 'static) {
        let gone = self.gone.clone();
        tokio::spawn(async move { gone.run_until_cancelled(watching).await });
    }

    /// The model of a worker, asked now.
    async fn ask(&self, endpoint: &Endpoint) -> Result<v1::ModelInfo, Status> {
        model_info(self.kind, endpoint.channel.clone(), self.limits.silence).await
    }

    fn check(&self, info: &v1::ModelInfo) -> Result<(), String> {
        if self.vocabulary.as_ref().is_some_and(|hash| *hash != info.vocab_hash) {
            return Err(format!("{} has another tokenizer than the target", info.model_id));
        }
        let known = self.model.get_or_init(|| info.clone());
        let same = (&info.vocab_hash, info.vocab_size, info.context_length, &info.eos_token_ids)
            == (&known.vocab_hash, known.vocab_size, known.context_length, &known.eos_token_ids);
        if same { Ok(()) } else { Err(format!("{} is another model than {}", info.model_id, known.model_id)) }
    }

    /// Records and tells how a worker is.
    fn report(&self, endpoint: &Endpoint, health: Health) {
        let (kind, address) = (self.kind, endpoint.address);
        if let Health::Unreachable(why) | Health::Unfit(why) = &health {
            *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = format!("{address}: {why}");
        }
        if !endpoint.set_health(health.clone()) {
            return;
        }
        match health {
            Health::Serving => tracing::info!(worker = %kind, %address, "serving"),
            Health::Draining => tracing::info!(worker = %kind, %address, "draining"),
            Health::Unreachable(why) => tracing::warn!(worker = %kind, %address, why, "unreachable"),
            Health::Unfit(why) => tracing::error!(worker = %kind, %address, why, "cannot be used"),
        }
        self.changed.send_replace(());
    }

    /// Takes what the names resolve to now.
    fn update(self: &Arc<Self>, found: &[SocketAddr]) {
        let mut endpoints = self.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        endpoints.retain(|e| {
            let stays = found.contains(&e.address);
            if !stays {
                tracing::info!(worker = %self.kind, address = %e.address, "gone from its name");
                e.retire();
            }
            stays
        });
        for &address in found {
            if endpoints.iter().all(|e| e.address != address) {
                let channel = self.network.channel(self.transport(address));
                let endpoint = Arc::new(Endpoint::new(address, channel));
                self.spawn(watch_forever(self.clone(), endpoint.clone()));
                endpoints.push(endpoint);
            }
        }
    }

    fn transport(&self, address: SocketAddr) -> Transport {
        let silence = self.limits.silence;
        // An address always is a valid authority.
        let transport = Transport::from_shared(format!("http://{address}"));
        transport
            .unwrap_or_else(|_| Transport::from_static("http://invalid"))
            .connect_timeout(silence)
            // A worker that was stopped or cut off keeps its connection; it does not answer pings.
            .http2_keep_alive_interval(silence / 2)
            .keep_alive_timeout(silence / 2)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true)
    }

    /// Follows the health of a worker until it breaks: why it did.
    async fn follow(&self, endpoint: &Endpoint, backoff: &mut Backoff) -> Result<(), Status> {
        let mut health = HealthClient::new(endpoint.channel.clone());
        let request = HealthCheckRequest { service: self.kind.service().into() };
        let opened = tokio::time::timeout(self.limits.silence, health.watch(request)).await;
        let listens = || Status::deadline_exceeded("it listens, but does not answer: is it still loading?");
        let mut states = opened.map_err(|_| listens())??.into_inner();
        let mut serving = false;
        loop {
            tokio::select! {
                biased;
                state = states.message() => match state? {
                    Some(state) if state.status() == ServingStatus::Serving => serving = true,
                    Some(_) => {
                        serving = false;
                        self.report(endpoint, Health::Draining);
                    }
                    None => return Err(Status::unavailable("it shut down")),
                },
                () = endpoint.suspected.notified() => {
                    if endpoint.is_retired() {
                        return Ok(());
                    }
                }
            }
            if serving {
                let info = self.ask(endpoint).await?;
                match self.check(&info) {
                    Ok(()) => {
                        endpoint.learn(info.incarnation);
                        backoff.reset();
                        self.report(endpoint, Health::Serving);
                    }
                    Err(why) => self.report(endpoint, Health::Unfit(why)),
                }
            }
        }
    }
}

/// Watches a worker for as long as its name stands for it.
async fn watch_forever(pool: Arc<Inner>, endpoint: Arc<Endpoint>) {
    let mut backoff = Backoff::new(u64::from(endpoint.address.port()));
    loop {
        let followed = pool.follow(&endpoint, &mut backoff).await;
        if endpoint.is_retired() {
            return;
        }
        if let Err(status) = followed {
            pool.report(&endpoint, Health::Unreachable(reason(&status)));
        }
        // Nobody tells when another process begins to listen.
        #[allow(clippy::disallowed_methods)]
        tokio::time::sleep(backoff.next()).await;
    }
}

/// Looks again and again at what the names stand for.
async fn resolve_forever(inner: Arc<Inner>) {
    loop {
        let lookups = inner.names.iter().map(|n| inner.network.resolve(n.host.clone(), n.port));
        let answers = join_all(lookups).await;
        let mut found = Vec::new();
        let mut complete = true;
        for (name, answer) in inner.names.iter().zip(answers) {
            match answer {
                Ok(addresses) => found.extend(addresses),
                Err(error) => {
                    complete = false;
                    tracing::warn!(worker = %inner.kind, %name, %error, "cannot be resolved");
                    *inner.trouble.lock().unwrap_or_else(PoisonError::into_inner) =
                        format!("{name} cannot be resolved: {error}");
                }
            }
        }
        if !complete {
            // A name server that fails is no reason to give up workers that serve.
            found.extend(
                inner.endpoints.read().unwrap_or_else(PoisonError::into_inner).iter().map(|e| e.address),
            );
        }
        found.sort_unstable();
        found.dedup();
        inner.update(&found);
        // Names change without notice.
        #[allow(clippy::disallowed_methods)]
        tokio::time::sleep(inner.limits.resolve).await;
    }
}

/// The innermost cause, which names what happened on the wire.
fn reason(status: &Status) -> String {
    let mut deepest: &dyn std::error::Error = status;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    match status.code() {
        Code::DeadlineExceeded => status.message().to_owned(),
        _ if std::ptr::addr_eq(deepest, status) => status.message().to_owned(),
        _ => deepest.to_string(),
    }
}

//! What runs next: the steps that wait, and parts of prompts beside them, as one forward.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::{Span, debug, trace_span};

use crate::model_thread::{Command, Run, Shared, Work};
use crate::pace::Pace;
use crate::{Backend, EngineError, Keep, Logits, Pass, PassReport, Segment};

/// Owns a model and all its caches.
pub(crate) struct Scheduler<B: Backend> {
    backend: B,
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    pace: Pace,
    caches: HashMap<u64, B::Cache>,
    /// First come, first served. A session has at most one.
    steps: VecDeque<Box<Run>>,
    /// Taken in turn, a part each.
    prefills: VecDeque<Box<Run>>,
}

/// One session's part of the next forward.
struct Part<C> {
    run: Box<Run>,
    pass: Pass,
    cache: C,
}

impl<B: Backend> Scheduler<B> {
    pub(crate) fn new(
        backend: B,
        shared: Arc<Shared>,
        commands: mpsc::Receiver<Command>,
        pace: Pace,
    ) -> Self {
        let (caches, steps, prefills) = Default::default();
        Self { backend, shared, commands, pace, caches, steps, prefills }
    }

    /// Runs what comes, until nobody can send any more.
    pub(crate) async fn serve(mut self) {
        while self.receive().await {
            // Before what is new allocates.
            self.sweep();
            let batch = self.choose();
            if !batch.is_empty() {
                self.forward(batch);
            }
            // And behind, so that a cache whose handle was dropped during its pass goes too.
            self.sweep();
            // On a thread of its own nothing else runs here; in a test's runtime the others do.
            tokio::task::yield_now().await;
        }
    }

    /// Frees the caches whose handles were dropped.
    fn sweep(&mut self) {
        for id in self.shared.take_dropped() {
            self.caches.remove(&id);
        }
    }

    /// Takes all that waits; waits if nothing is to do. False at the end.
    async fn receive(&mut self) -> bool {
        let next = if !self.steps.is_empty() {
            None
        } else if self.prefills.is_empty() {
            Some(self.commands.recv().await)
        } else if self.pace.expects_steps() {
            timeout(Pace::PATIENCE, self.commands.recv()).await.ok()
        } else {
            None
        };
        match next {
            Some(Some(command)) => self.enqueue(command),
            Some(None) => return false,
            None => {}
        }
        while let Ok(command) = self.commands.try_recv() {
            self.enqueue(command);
        }
        true
    }

    fn enqueue(&mut self, command: Command) {
        match command {
            Command::Run(run) if matches!(run.work, Work::Prefill { .. }) => self.prefills.push_back(run),
            Command::Run(run) => self.steps.push_back(run),
            Command::Sweep => {}
        }
    }

    /// The steps that fit, then a part of the prompt whose turn it is, if it fits the pace.
    fn choose(&mut self) -> Vec<Part<B::Cache>> {
        let mut batch = Vec::new();
        let mut rows = 0;
        while let Some(run) = self.steps.pop_front() {
            let Work::Step { pass, .. } = &run.work else { continue };
            let more = pass.tokens.len();
            if rows > 0 && rows + more > self.pace.most_rows() {
                self.steps.push_front(run);
                break;
            }
            if let Some(part) = self.prepare(run, usize::MAX) {
                rows += more;
                batch.push(part);
            }
        }
        if rows > 0 {
            self.pace.steps_run(rows);
        }
        let mut left = if self.prefills.is_empty() { 0 } else { self.pace.prefill_rows(rows) };
        while left > 0 {
            let Some(run) = self.prefills.pop_front() else { break };
            if let Some(part) = self.prepare(run, left) {
                left -= part.pass.tokens.len();
                batch.push(part);
            }
        }
        batch
    }

    /// Takes the cache of `run` out of the map and checks what is to run on it, at most `rows` of a prompt. A bad or cancelled run
    /// ends here, alone.
    fn prepare(&mut self, mut run: Box<Run>, rows: usize) -> Option<Part<B::Cache>> {
        if run.reply.is_closed() {
            run.span.in_scope(|| debug!("dropped a pass that nobody waits for"));
            return None;
        }
        run.waiting = None;
        let mut cache =
            self.caches.remove(&run.cache).unwrap_or_else(|| self.backend.new_cache(run.most_rows));
        let cached = self.backend.cached(&cache);
        match self.check(&mut run.work, &mut cache, cached, rows) {
            Ok(pass) => Some(Part { run, pass, cache }),
            Err(error) => {
                self.caches.insert(run.cache, cache);
                let _ = run.reply.send(Err(error));
                None
            }
        }
    }

    fn check(
        &self,
        work: &mut Work,
        cache: &mut B::Cache,
        cached: usize,
        rows: usize,
    ) -> Result<Pass, EngineError> {
        let spec = &self.shared.spec;
        match work {
            Work::Step { keep, pass } => {
                let kept = check_keep(keep.as_ref(), cached)?;
                pass.check(kept, spec.vocab_size, spec.context_length)?;
                if let Some(keep) = keep {
                    self.backend.keep(cache, keep)?;
                }
                Ok(std::mem::replace(pass, Pass::causal(0, Vec::new())))
            }
            Work::Prefill { left } => {
                let part = left.drain(..rows.min(left.len())).collect();
                let pass = Pass::causal(cached, part);
                pass.check(cached, spec.vocab_size, spec.context_length)?;
                Ok(pass)
            }
        }
    }

    /// Runs the batch; if it fails, each part alone, so that only the one to blame fails.
    fn forward(&mut self, mut batch: Vec<Part<B::Cache>>) {
        let (rows, prompt_rows) = rows(&batch);
        let spans: Vec<Span> = batch.iter().map(|part| part.span(rows, batch.len())).collect();
        let begun = Instant::now();
        let result = self.try_forward(&mut batch);
        drop(spans);
        if result.is_ok() {
            let took = begun.elapsed();
            self.pace.learn(rows, prompt_rows > 0, took.as_secs_f64());
            if let Some(tell) = self.shared.observer.get() {
                tell(&PassReport { rows, prompt_rows, sessions: batch.len(), took });
            }
        }
        if result.is_err() && batch.len() > 1 {
            for part in batch {
                self.forward(vec![part]);
            }
            return;
        }
        let replies: Vec<Result<Logits, EngineError>> = match result {
            Ok(all) => all.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        };
        for (Part { mut run, cache, .. }, reply) in batch.into_iter().zip(replies) {
            self.caches.insert(run.cache, cache);
            match &run.work {
                Work::Prefill { left } if reply.is_ok() && !left.is_empty() => {
                    run.waiting = Some(self.shared.queue.enter(trace_span!(parent: &run.span, "queue")));
                    self.prefills.push_back(run);
                }
                _ => drop(run.reply.send(reply)),
            }
        }
    }

    /// A panic in the model is a failure of this batch, not the end of the thread and of everybody's sessions.
    fn try_forward(&self, batch: &mut [Part<B::Cache>]) -> Result<Vec<Logits>, EngineError> {
        let mut segments: Vec<Segment<'_, B::Cache>> =
            batch.iter_mut().map(|part| Segment { cache: &mut part.cache, pass: &part.pass }).collect();
        // A failed pass leaves the rows of a cache as they were, whatever is behind them.
        let result = catch_unwind(AssertUnwindSafe(|| self.backend.forward(&mut segments)));
        result.unwrap_or_else(|_| Err(EngineError::Failed("a panic, see the log".into())))
    }
}

impl<C> Part<C> {
    /// Of its part in a pass of `rows` with `sessions`.
    fn span(&self, rows: usize, sessions: usize) -> Span {
        trace_span!(
            parent: &self.run.span,
            "pass",
            tandem.rows = self.pass.tokens.len() as i64,
            tandem.batch.rows = rows as i64,
            tandem.batch.sessions = sessions as i64
        )
    }
}

/// Rows in all, and those of prompts.
fn rows<C>(batch: &[Part<C>]) -> (usize, usize) {
    let is_prompt = |part: &&Part<C>| matches!(part.run.work, Work::Prefill { .. });
    let count = |part: &Part<C>| part.pass.tokens.len();
    (batch.iter().map(count).sum(), batch.iter().filter(is_prompt).map(count).sum())
}

/// The rows that are left after `keep`.
fn check_keep(keep: Option<&Keep>, cached: usize) -> Result<usize, EngineError> {
    let Some(keep) = keep else { return Ok(cached) };
    let ascending = keep.rows.windows(2).all(|w| w[0] < w[1]);
    let within = keep.prefix <= cached
        && keep.rows.first().is_none_or(|&r| r >= keep.prefix)
        && keep.rows.last().is_none_or(|&r| r < cached);
    if !ascending || !within {
        return Err(EngineError::InvalidPass(format!("cannot keep {keep:?} of {cached} rows")));
    }
    Ok(keep.prefix + keep.rows.len())
}

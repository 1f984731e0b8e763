//! What runs next: the steps that wait, and chunks of prompts beside them, as one forward pass.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use tandem_decoding::RowSummary;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::{Span, debug, trace_span};

use super::batch::{Load, Part};
use super::batch_policy::{BatchPolicy, STEP_GRACE};
use super::command::{Command, Shared, Task, Work};
use super::observer::PassReport;
use super::steps::Step;
use crate::model::{Backend, EngineError, Pass, Segment};

/// Owns a model and all its caches.
pub(super) struct Scheduler<B: Backend> {
    backend: B,
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    policy: BatchPolicy,
    /// Bytes that a pass may take besides weights and caches.
    pass_bytes: usize,
    caches: HashMap<u64, B::Cache>,
    /// Served in the order of arrival. A session has at most one.
    steps: VecDeque<Box<Task>>,
    /// Served in turn, a chunk each.
    prefills: VecDeque<Box<Task>>,
}

impl<B: Backend> Scheduler<B> {
    pub(super) fn new(
        backend: B,
        shared: Arc<Shared>,
        commands: mpsc::Receiver<Command>,
        policy: BatchPolicy,
        pass_bytes: usize,
    ) -> Self {
        Self {
            backend,
            shared,
            commands,
            policy,
            pass_bytes,
            caches: HashMap::new(),
            steps: VecDeque::new(),
            prefills: VecDeque::new(),
        }
    }

    /// Runs tasks until no handle is left that could send one.
    pub(super) async fn serve(mut self) {
        while self.receive().await {
            // Before new tasks allocate.
            self.free_dropped();
            let batch = self.choose();
            if !batch.is_empty() {
                self.forward(batch);
            }
            // Once more, for caches whose handles were dropped during their pass.
            self.free_dropped();
            // On a thread of its own nothing else runs here; in the runtime of a test, the other tasks do.
            tokio::task::yield_now().await;
        }
    }

    /// Frees the caches whose handles were dropped. Once no session is left that could run a step, none is
    /// expected.
    fn free_dropped(&mut self) {
        for id in self.shared.take_dropped() {
            self.caches.remove(&id);
        }
        let waits = |id: &u64| self.prefills.iter().any(|task| task.cache == *id);
        if self.steps.is_empty() && self.caches.keys().all(waits) {
            self.policy.forget_steps();
        }
    }

    /// Receives all commands that wait; if there is nothing to do, waits for one. Returns false at the end.
    async fn receive(&mut self) -> bool {
        if self.steps.is_empty() {
            if self.prefills.is_empty() {
                match self.commands.recv().await {
                    Some(command) => self.enqueue(command),
                    None => return false,
                }
            } else if self.policy.expects_steps() {
                match timeout(STEP_GRACE, self.commands.recv()).await {
                    Ok(Some(command)) => self.enqueue(command),
                    Ok(None) => return false,
                    Err(_) => {}
                }
            }
        }
        while let Ok(command) = self.commands.try_recv() {
            self.enqueue(command);
        }
        true
    }

    fn enqueue(&mut self, command: Command) {
        match command {
            Command::Run(task) if matches!(task.work, Work::Prefill { .. }) => self.prefills.push_back(task),
            Command::Run(task) => self.steps.push_back(task),
            // `serve` frees caches after every command.
            Command::FreeCaches => {}
        }
    }

    /// The steps that fit into a pass, then chunks of prompts in turn, as many rows as the policy allows.
    fn choose(&mut self) -> Vec<Part<B::Cache>> {
        let mut batch = Vec::new();
        let steps = self.choose_steps(&mut batch);
        if steps.rows > 0 {
            self.policy.record_steps(steps.rows);
        }
        if !self.prefills.is_empty() {
            self.choose_chunks(&mut batch, steps);
        }
        batch
    }

    /// Returns what they take.
    fn choose_steps(&mut self, batch: &mut Vec<Part<B::Cache>>) -> Load {
        let mut load = Load::default();
        while let Some(task) = self.steps.pop_front() {
            let Work::Steps { next, .. } = &task.work else { continue };
            let rows = next.pass.tokens.len();
            let more = self.load(&task, rows);
            let fits =
                load.rows + rows <= self.policy.max_rows() && load.bytes + more.bytes <= self.pass_bytes;
            if load.rows > 0 && !fits {
                self.steps.push_front(task);
                break;
            }
            if let Some(part) = self.prepare(task, rows) {
                load += more;
                batch.push(part);
            }
        }
        load
    }

    fn choose_chunks(&mut self, batch: &mut Vec<Part<B::Cache>>, mut load: Load) {
        let mut rows = self.policy.chunk_rows(load.rows);
        while rows > 0 {
            let Some(task) = self.prefills.pop_front() else { break };
            let fitting = self.fitting_rows(&task, rows.min(task.work.remaining()), load.bytes);
            // A prompt makes progress in any case.
            if fitting == 0 && load.rows > 0 {
                self.prefills.push_front(task);
                break;
            }
            let more = self.load(&task, fitting.max(1));
            if let Some(part) = self.prepare(task, more.rows) {
                rows -= part.pass.tokens.len();
                load += more;
                batch.push(part);
            }
        }
    }

    /// The rows of a prompt, at most `rows`, whose memory a pass has that takes `used` bytes already.
    fn fitting_rows(&self, task: &Task, mut rows: usize, used: usize) -> usize {
        while rows > 0 && used + self.load(task, rows).bytes > self.pass_bytes {
            rows /= 2;
        }
        rows
    }

    /// What `rows` rows of a task take in a pass.
    fn load(&self, task: &Task, rows: usize) -> Load {
        let cached = self.caches.get(&task.cache).map_or(0, |cache| self.backend.cached(cache));
        Load { rows, bytes: self.backend.pass_bytes(rows, cached + rows) }
    }

    /// Takes the cache of `task` out of the map and checks the pass to run on it, which has at most
    /// `max_rows` of a prompt. A task that is invalid or cancelled ends here, without the others.
    fn prepare(&mut self, mut task: Box<Task>, max_rows: usize) -> Option<Part<B::Cache>> {
        if task.work.is_cancelled() {
            task.span.in_scope(|| debug!("dropped a pass whose request was cancelled"));
            return None;
        }
        task.queued = None;
        let cache = self.caches.remove(&task.cache);
        let mut cache = cache.unwrap_or_else(|| self.backend.new_cache(task.max_rows));
        match self.next_pass(&mut task, &mut cache, max_rows) {
            Ok(pass) => Some(Part { task, pass, cache, outcome: None }),
            Err(error) => {
                self.caches.insert(task.cache, cache);
                task.work.finish(Err(error));
                None
            }
        }
    }

    /// The next pass of `task`, checked. Applies what a step keeps.
    fn next_pass(&self, task: &mut Task, cache: &mut B::Cache, max_rows: usize) -> Result<Pass, EngineError> {
        let spec = &self.shared.spec;
        let limit = task.max_rows;
        let check_room = |rows: usize| match rows > limit {
            true => Err(EngineError::BudgetFull { needed: rows, free: limit, total: limit }),
            false => Ok(()),
        };
        let cached = self.backend.cached(cache);
        match &mut task.work {
            Work::Steps { next: Step { keep, pass }, .. } => {
                let kept = match keep {
                    Some(keep) => keep.check(cached)?,
                    None => cached,
                };
                let rows = pass.tokens.len();
                check_room(kept + rows)?;
                self.check_memory(rows, kept + rows)?;
                pass.check(kept, spec.vocab_size, spec.context_length)?;
                if let Some(keep) = keep {
                    self.backend.keep(cache, keep)?;
                }
                Ok(std::mem::replace(pass, Pass::causal(0, Vec::new())))
            }
            Work::Prefill { remaining, .. } => {
                check_room(cached + remaining.len())?;
                let chunk = remaining.drain(..max_rows.min(remaining.len())).collect();
                let pass = Pass::causal(cached, chunk);
                pass.check(cached, spec.vocab_size, spec.context_length)?;
                Ok(pass)
            }
        }
    }

    /// Refuses a step that takes more memory than a pass may take.
    fn check_memory(&self, rows: usize, cached: usize) -> Result<(), EngineError> {
        let (bytes, limit) = (self.backend.pass_bytes(rows, cached), self.pass_bytes);
        if bytes > limit {
            return Err(EngineError::PassTooLarge { rows, bytes, limit });
        }
        Ok(())
    }

    /// Runs the batch. If it fails, runs each part that has no result by itself, so that only those fail whose
    /// pass is at fault.
    fn forward(&mut self, mut batch: Vec<Part<B::Cache>>) {
        let alone = batch.len() == 1;
        let result = self.try_forward(&mut batch);
        for mut part in batch {
            match (part.outcome.take(), &result) {
                (Some(outcome), _) => self.finish(part, outcome),
                (None, Err(_)) if !alone => self.forward(vec![part]),
                (None, Err(error)) => self.finish(part, Err(error.clone())),
                (None, Ok(())) => {
                    self.finish(part, Err(EngineError::Failed("a pass had no result".into())));
                }
            }
        }
    }

    /// Runs the batch as one pass, and reports and learns how long it took.
    fn try_forward(&mut self, batch: &mut [Part<B::Cache>]) -> Result<(), EngineError> {
        let sessions = batch.len();
        let rows: usize = batch.iter().map(Part::rows).sum();
        let prompt_rows: usize = batch.iter().filter(|part| part.is_prompt()).map(Part::rows).sum();
        let spans: Vec<Span> = batch.iter().map(|part| part.span(rows, sessions)).collect();
        let begun = Instant::now();
        let result = self.forward_caught(batch);
        drop(spans);
        if result.is_ok() {
            let took = begun.elapsed();
            self.policy.record_pass(rows, prompt_rows > 0, took.as_secs_f64());
            if let Some(observe) = self.shared.observer.get() {
                observe(&PassReport { rows, prompt_rows, sessions, took });
            }
        }
        result
    }

    /// Turns a panic of the model into a failure of this batch: the thread and the other sessions go on. Hands
    /// the outputs of each part to its session as soon as they are there.
    fn forward_caught(&self, batch: &mut [Part<B::Cache>]) -> Result<(), EngineError> {
        let mut segments = Vec::with_capacity(batch.len());
        let mut takers = Vec::with_capacity(batch.len());
        for Part { task, pass, cache, outcome } in batch {
            segments.push(Segment { cache, pass: &*pass });
            takers.push((&mut task.work, outcome));
        }
        let mut done = |index: usize, outputs: Result<Vec<RowSummary>, EngineError>| {
            let (work, outcome): &mut (&mut Work, &mut Option<_>) = &mut takers[index];
            // Stays if taking them panics: the rows are in the cache, so the pass must not run again.
            **outcome = Some(Err(EngineError::Failed("a panic, see the log".into())));
            **outcome = Some(outputs.and_then(|outputs| match work {
                Work::Steps { steps, .. } => steps.take(outputs).map(|()| steps.next()),
                Work::Prefill { .. } => Ok(None),
            }));
        };
        // Unwind-safe: a failed pass leaves the valid rows of a cache as they were.
        let result = catch_unwind(AssertUnwindSafe(|| self.backend.forward(&mut segments, &mut done)));
        result.unwrap_or_else(|_| Err(EngineError::Failed("a panic, see the log".into())))
    }

    /// Returns the cache, and replies unless the task goes on.
    fn finish(&mut self, part: Part<B::Cache>, outcome: Result<Option<Step>, EngineError>) {
        let Part { mut task, cache, .. } = part;
        self.caches.insert(task.cache, cache);
        match (outcome, &mut task.work) {
            (Ok(Some(step)), Work::Steps { next, .. }) => *next = step,
            (Ok(_), Work::Prefill { remaining, .. }) if !remaining.is_empty() => {}
            (outcome, _) => return task.work.finish(outcome.map(|_| ())),
        }
        task.queued = Some(self.shared.queue.enter(trace_span!(parent: &task.span, "queue")));
        self.enqueue(Command::Run(task));
    }
}

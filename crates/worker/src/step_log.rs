//! Step numbers: the next step runs, the last one repeated gets the same reply, and any other is refused.

use thiserror::Error;

/// The steps of one session.
#[derive(Debug)]
pub(crate) struct StepLog<R> {
    last: u64,
    reply: Option<R>,
}

/// What to do with a step.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn<R> {
    /// It ran before: its reply.
    Repeat(R),
    /// It is the next one.
    Run,
}

/// A step that is neither the last nor the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("step {step} is out of order: the next is {expected}")]
pub struct OutOfOrder {
    /// The requested step.
    pub step: u64,
    /// The next step.
    pub expected: u64,
}

impl<R> Default for StepLog<R> {
    fn default() -> Self {
        Self { last: 0, reply: None }
    }
}

impl<R: Clone> StepLog<R> {
    /// What to do with `step`. Steps are numbered from 1.
    pub(crate) fn turn(&self, step: u64) -> Result<Turn<R>, OutOfOrder> {
        let expected = self.last + 1;
        match &self.reply {
            Some(reply) if step == self.last => Ok(Turn::Repeat(reply.clone())),
            _ if step == expected => Ok(Turn::Run),
            _ => Err(OutOfOrder { step, expected }),
        }
    }

    /// Records the reply of the step that ran.
    pub(crate) fn done(&mut self, reply: R) {
        self.last += 1;
        self.reply = Some(reply);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_and_the_next_step_are_accepted() {
        let mut log = StepLog::default();
        assert_eq!(log.turn(0), Err(OutOfOrder { step: 0, expected: 1 }));
        assert_eq!(log.turn(1), Ok(Turn::Run));
        log.done("one");
        assert_eq!(log.turn(1), Ok(Turn::Repeat("one")));
        assert_eq!(log.turn(2), Ok(Turn::Run));
        log.done("two");
        assert_eq!(log.turn(1), Err(OutOfOrder { step: 1, expected: 3 }));
        assert_eq!(log.turn(4), Err(OutOfOrder { step: 4, expected: 3 }));
    }
}

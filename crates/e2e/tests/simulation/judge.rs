//! What must be true of what a client saw.

use std::time::Duration;

use tandem_proto::v1;
use tonic::Code;

use super::client::SLACK;
use super::outcome::{End, Outcome};
use super::reference::{self, Expected};
use super::report::Report;
use super::scenario::Request;

/// A deadline that passes only if something went wrong.
const GENEROUS_DEADLINE: Duration = Duration::from_secs(5);
/// What a stream may fail with when there are faults. The last two come from a connection that broke.
const EXPLAINED_CODES: [Code; 5] =
    [Code::DeadlineExceeded, Code::Unavailable, Code::ResourceExhausted, Code::Cancelled, Code::Unknown];

/// Adds what a stream showed to the report. `calm`: the scenario has no faults.
pub(crate) fn judge(outcome: Outcome, request: &Request, calm: bool, report: &mut Report) {
    let undisturbed = calm && request.deadline > GENEROUS_DEADLINE;
    let expected = reference::generate(&request.request, &outcome.drafted);
    let mut violations = Vec::new();
    match &outcome.end {
        End::Never => violations.push(format!("no end within {:?}", request.deadline + SLACK)),
        End::Finished(finished) => {
            let statistics = finished.statistics.clone().unwrap_or_default();
            compare(&outcome, finished, &expected, &mut violations);
            if undisturbed && (statistics.failovers, statistics.undrafted_iterations) != (0, 0) {
                violations.push(format!("failovers although nothing failed: {statistics:?}"));
            }
            report.finished += 1;
            report.failovers += statistics.failovers as usize;
            report.undrafted += statistics.undrafted_iterations as usize;
        }
        End::Failed(code, message) => {
            if undisturbed || !EXPLAINED_CODES.contains(code) {
                violations.push(format!("an error that no fault explains: {code:?} {message}"));
            }
            report.failed += 1;
        }
        End::Cancelled => report.cancelled += 1,
    }
    // However it ended: no token is lost, changed or repeated.
    if !expected.tokens.starts_with(&outcome.tokens) || !expected.text.starts_with(&outcome.text) {
        violations.push(format!("not a prefix of {expected:?}"));
    }
    report
        .violations
        .extend(violations.into_iter().map(|what| format!("{what}\n  {request:?}\n  {outcome:?}")));
    report.log += &log_line(&outcome);
}

/// Compares a finished stream with the undisturbed one.
fn compare(outcome: &Outcome, finished: &v1::Finished, expected: &Expected, violations: &mut Vec<String>) {
    if (&outcome.tokens, &outcome.text) != (&expected.tokens, &expected.text) {
        violations.push(format!("a sequence unlike the undisturbed one: {expected:?}"));
    }
    if (finished.reason(), &finished.stop) != (expected.reason, &expected.stop) {
        violations.push(format!("another end than {expected:?}"));
    }
    let undrafted = finished.statistics.as_ref().map_or(0, |s| s.undrafted_iterations);
    if undrafted as usize != expected.undrafted {
        violations.push(format!("{} undrafted iterations, not {undrafted}", expected.undrafted));
    }
}

fn log_line(outcome: &Outcome) -> String {
    let end = match &outcome.end {
        End::Finished(finished) => format!("{:?}", finished.reason()),
        End::Failed(code, _) => format!("{code:?}"),
        other => format!("{other:?}"),
    };
    format!("{end} {} {:?}\n", outcome.text, outcome.drafted)
}

//! Generation in the language of the domain: what a client requests, what it is answered, and the loop between.
//!
//! The loop is [`generate()`]: propose, score, accept, emit. It knows the draft and the target only as its ports [`Drafter`] and
//! [`Scorer`], and reports its progress to an [`Observer`]. Pools of workers over gRPC implement the ports in the
//! orchestrator, and toy models in tests. Nothing here knows a wire format, a status code or a flag.

mod accept;
mod error;
mod events;
mod generate;
mod generation;
mod output;
mod ports;
mod request;
mod role;
mod scores;
mod session;
mod statistics;
mod steps;
mod text;

pub use error::{GenerateError, Refusal, RefusalKind};
pub use events::{Chunk, Event, Iteration, SequenceStart, Token, TopToken};
pub use generate::generate;
pub use generation::{ChunkSender, Generation};
pub use ports::{DraftSession, Drafter, Observer, Scorer, TargetSession};
pub use request::{
    ChatMessage, Field, GenerateRequest, Input, InvalidRequest, MAX_CHOICES, MAX_TOP_LOG_PROBS, Problem,
    RequestParams,
};
pub use role::Role;
pub use scores::{DraftRequest, Proposal, ScoreRequest, Scores, TokenLogProbs, TopTokens};
pub use session::{OpenSession, SessionHandle};
pub use statistics::{Finish, FinishReason, Statistics};
pub use text::{Piece, StopMatch, TextStream};

//! Turns tokens into text as they are committed: no character is cut, and no part of a stop string is emitted.

mod byte_tokens;
mod incremental;

#[cfg(test)]
mod equality;
#[cfg(test)]
mod tests;

use tandem_decoding::TokenId;
use tokenizers::Tokenizer;

use crate::GenerateError;
use incremental::{Decoded, IncrementalDecoder};

/// The text of one sequence, grown token by token.
pub struct TextStream<'a> {
    decoder: IncrementalDecoder<'a>,
    stops: &'a [String],
    /// Decoded text that is not sent yet, because it may be the beginning of a stop string or because it may change.
    held: String,
    /// `held[..firm]` does not change any more.
    firm: usize,
    /// Tokens whose text is not completely sent.
    held_tokens: Vec<HeldToken>,
    /// Text that was sent although its token is held back, because the token also begins the next character.
    ahead: String,
}

struct HeldToken {
    token: TokenId,
    /// Special tokens add no text.
    is_skipped: bool,
    /// Where the token's text ends in `held`; `None` while it is not decoded.
    end: Option<usize>,
}

/// Text that is safe to send, and the tokens that end in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// May be empty.
    pub text: String,
    /// Every token that `text` wholly contains, given once.
    pub tokens: Vec<TokenId>,
    /// `[tokens]`: what each adds to the text; of the tokens that make up one character, the first has it.
    pub texts: Vec<String>,
}

/// A stop string was met: the text ends before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopMatch {
    /// The stop string.
    pub stop: String,
    /// What is left to send. A token in which the stop string begins is not part of it.
    pub last: Piece,
}

impl Piece {
    /// Adds what comes next.
    pub(crate) fn append(&mut self, next: Self) {
        self.text += &next.text;
        self.tokens.extend(next.tokens);
        self.texts.extend(next.texts);
    }
}

impl<'a> TextStream<'a> {
    /// The text that follows `prompt`, which is not repeated; a character that the prompt begins counts as new text. The stop strings
    /// must not be empty.
    pub fn new(
        tokenizer: &'a Tokenizer,
        prompt: &[TokenId],
        stops: &'a [String],
    ) -> Result<Self, GenerateError> {
        Ok(Self {
            decoder: IncrementalDecoder::new(tokenizer, prompt.iter().map(|token| token.0))?,
            stops,
            held: String::new(),
            firm: 0,
            held_tokens: Vec::new(),
            ahead: String::new(),
        })
    }

    /// Adds a token. Returns the text that is safe to send now, or the stop string that the token completed.
    pub fn push(&mut self, token: TokenId) -> Result<Result<Piece, StopMatch>, GenerateError> {
        match self.decoder.push(token.0)? {
            Some(decoded) => {
                self.held_tokens.push(HeldToken { token, is_skipped: false, end: None });
                self.hold(&decoded);
            }
            None => {
                // It ends where the text does, unless tokens before it are still to be decoded.
                let is_whole = self.held_tokens.iter().all(|held| held.end.is_some());
                let end = is_whole.then_some(self.held.len());
                self.held_tokens.push(HeldToken { token, is_skipped: true, end });
            }
        }
        // Text that may still change ends the sequence too: if it ends here, the text is what it is now.
        if let Some((at, stop)) = self.first_stop() {
            return Ok(Err(StopMatch { stop, last: self.take(at) }));
        }
        let firm = &self.held[..self.firm];
        let safe_if_firm = firm.len() - self.possible_stop(firm);
        let safe = safe_if_firm.min(self.held.len() - self.possible_stop(&self.held));
        Ok(Ok(self.take(safe)))
    }

    /// What was held back, at the end of the sequence. The beginning of a character that was not completed is not part of the text, but
    /// its tokens are part of the tokens.
    pub fn finish(&mut self) -> Piece {
        let end = self.held.len();
        let mut last = self.take(end);
        for held in self.held_tokens.drain(..) {
            last.tokens.push(held.token);
            last.texts.push(std::mem::take(&mut self.ahead));
        }
        last
    }

    /// Replaces the text that was not firm by what follows instead.
    fn hold(&mut self, decoded: &Decoded) {
        let Decoded { text, tentative, open } = decoded;
        let old = self.held.split_off(self.firm);
        let firm = self.firm;
        self.held.push_str(text);
        self.firm = self.held.len();
        self.held.push_str(tentative);
        if !self.held[firm..].starts_with(&old) {
            for held in self.held_tokens.iter_mut().filter(|held| held.end.is_some_and(|end| end > firm)) {
                held.end = None;
            }
        }
        let mut visible = self.held_tokens.iter().enumerate().rev().filter(|(_, held)| !held.is_skipped);
        let whole = match open.checked_sub(1) {
            None => self.held_tokens.len(),
            Some(after) => visible.nth(after).map_or(0, |(first_open, _)| first_open),
        };
        for held in self.held_tokens.iter_mut().take(whole).filter(|held| held.end.is_none()) {
            held.end = Some(self.held.len());
        }
    }

    /// The stop string that begins first in the held text; of several that begin there, the longest.
    fn first_stop(&self) -> Option<(usize, String)> {
        let found = self.stops.iter().filter_map(|s| self.held.find(s.as_str()).map(|at| (at, s)));
        found.min_by_key(|&(at, s)| (at, std::cmp::Reverse(s.len()))).map(|(at, s)| (at, s.clone()))
    }

    /// Bytes at the end of `text` that may be the beginning of a stop string.
    fn possible_stop(&self, text: &str) -> usize {
        let longest = |stop: &String| {
            (1..stop.len())
                .rev()
                .filter(|&n| stop.is_char_boundary(n))
                .find(|&n| text.ends_with(&stop[..n]))
                .unwrap_or(0)
        };
        self.stops.iter().map(longest).max().unwrap_or(0)
    }

    /// Takes `held[..to]` and the tokens that end in it.
    fn take(&mut self, to: usize) -> Piece {
        let text: String = self.held.drain(..to).collect();
        self.firm = self.firm.saturating_sub(to);
        let whole = self.held_tokens.iter().take_while(|t| t.end.is_some_and(|end| end <= to)).count();
        let mut tokens = Vec::with_capacity(whole);
        let mut texts = Vec::with_capacity(whole);
        let mut from = 0;
        for held in self.held_tokens.drain(..whole) {
            let end = held.end.unwrap_or(from);
            tokens.push(held.token);
            texts.push(std::mem::take(&mut self.ahead) + &text[from..end]);
            from = end;
        }
        self.ahead.push_str(&text[from..]);
        for held in &mut self.held_tokens {
            held.end = held.end.map(|end| end - to);
        }
        Piece { text, tokens, texts }
    }
}

//! Decodes tokens one after another to the text that all of them have together.
//!
//! What a token adds to a text depends on what is around it: a decoder strips the space at the beginning of a text, and makes
//! characters of bytes that are spread over tokens. So tokens are decoded after a few of those before them, and bytes wait until it is
//! known what they are. The number of tokens that are decoded again with each token does not depend on the length of the text.

use std::ops::Range;

use tokenizers::Tokenizer;

use super::byte_tokens::{ByteDecoding, incomplete_bytes, invalid_from, is_continuation, last_character};
use crate::GenerateError;

/// What a decoder writes for bytes that are not a character.
pub(super) const REPLACEMENT: char = '\u{FFFD}';
/// Tokens of the prompt after which the first new token is decoded.
const PROMPT_CONTEXT: usize = 8;
/// Tokens after which the next one is decoded. One that has text would do, but tokens may be empty.
const CONTEXT: usize = 4;
/// Bytes that make up the longest character. As many suffice to see that a sequence of bytes is invalid.
const LONGEST_CHARACTER: usize = 4;
/// The text of a run of byte tokens is final when the run ends, because one invalid byte changes all of it. A run of this many tokens
/// is text already: a script without tokens of its own must be streamed too.
const LONGEST_HELD_RUN: usize = 64;

/// What a token adds to a text.
#[derive(Debug)]
pub(super) struct Decoded {
    /// Follows what was final before, and does not change any more.
    pub(super) text: String,
    /// Follows `text` if the sequence ends here; the next token replaces it by its own `text` and `tentative`.
    pub(super) tentative: String,
    /// The number of tokens at the end that this text does not contain wholly: they begin a character that is not complete.
    pub(super) open: usize,
}

/// Tokens decoded so far, of which a few are kept.
pub(super) struct IncrementalDecoder<'a> {
    tokenizer: &'a Tokenizer,
    byte_decoding: ByteDecoding,
    /// The last tokens that are not skipped.
    window: Vec<VisibleToken>,
    /// The first tokens of `window`, whose text is final but for an incomplete character.
    read: usize,
    /// The text of `window` that was final before.
    context: String,
    /// Byte tokens since the last other token, with byte fallback.
    run: usize,
}

/// A token that a decoder does not skip.
struct VisibleToken {
    id: u32,
    /// The bytes that it stands for; `None` if it stands for text.
    bytes: Option<Vec<u8>>,
}

impl<'a> IncrementalDecoder<'a> {
    /// A decoder of the text that follows `prompt`.
    pub(super) fn new(
        tokenizer: &'a Tokenizer,
        prompt: impl DoubleEndedIterator<Item = u32>,
    ) -> Result<Self, GenerateError> {
        let byte_decoding = ByteDecoding::of(tokenizer);
        let mut decoder =
            Self { tokenizer, byte_decoding, window: Vec::new(), read: 0, context: String::new(), run: 0 };
        let last = prompt.rev().filter_map(|id| decoder.visible(id)).take(PROMPT_CONTEXT);
        let mut window: Vec<VisibleToken> = last.collect();
        window.reverse();
        if byte_decoding == ByteDecoding::Fallback && window.len() == PROMPT_CONTEXT {
            // The character that these bytes end may have been cut here, and must not make the run invalid.
            let cut = window.iter().take_while(|token| token.is_continuation()).count();
            window.drain(..cut);
        }
        decoder.window = window;
        let bytes = decoder.bytes_at_end();
        let incomplete = incomplete_bytes(&bytes);
        let end = decoder.window.len();
        if byte_decoding == ByteDecoding::Fallback {
            decoder.run = bytes.len();
            let undecided = if invalid_from(&bytes).is_some() { 0 } else { incomplete };
            decoder.keep(0..end, end - undecided, 0)?;
        } else {
            decoder.keep(0..end, end, incomplete)?;
        }
        Ok(decoder)
    }

    /// What the next token adds. `None` if it is skipped, as special tokens are: it changes nothing.
    pub(super) fn push(&mut self, id: u32) -> Result<Option<Decoded>, GenerateError> {
        let Some(token) = self.visible(id) else { return Ok(None) };
        let is_byte = token.bytes.is_some();
        self.window.push(token);
        if self.byte_decoding == ByteDecoding::Fallback {
            self.run = if is_byte { self.run + 1 } else { 0 };
            if is_byte {
                return self.decode_run().map(Some);
            }
        }
        let end = self.window.len();
        let incomplete = incomplete_bytes(&self.bytes_at_end());
        let mut text = self.added(end)?;
        drop_incomplete(&mut text, incomplete);
        let open = self.tokens_of_last(incomplete);
        let context = CONTEXT.max(open).min(end);
        self.keep(end - context..end, context, incomplete)?;
        Ok(Some(Decoded { text, tentative: String::new(), open }))
    }

    /// What the last token adds, which is a byte by byte fallback.
    fn decode_run(&mut self) -> Result<Decoded, GenerateError> {
        let bytes = self.bytes_at_end();
        let end = self.window.len();
        let start = end - bytes.len();
        if let Some(from) = invalid_from(&bytes) {
            let text = self.added(end)?;
            // Whatever follows these few bytes, they are invalid, and with them all that follows in the run.
            let kept = start + from..(start + from + LONGEST_CHARACTER).min(end);
            self.keep(kept.clone(), kept.len(), 0)?;
            return Ok(Decoded { text, tentative: String::new(), open: 0 });
        }
        // Each byte is a token here.
        let open = incomplete_bytes(&bytes);
        let characters = &bytes[..bytes.len() - open];
        let tentative = self.added(end - open)?;
        if self.run < LONGEST_HELD_RUN || characters.is_empty() {
            return Ok(Decoded { text: String::new(), tentative, open });
        }
        let last = last_character(characters);
        self.keep(start + last..end, characters.len() - last, 0)?;
        Ok(Decoded { text: tentative, tentative: String::new(), open })
    }

    /// The text of `window[..end]` that is not final yet.
    fn added(&self, end: usize) -> Result<String, GenerateError> {
        let whole = self.decode(0..end)?;
        match whole.strip_prefix(&self.context) {
            Some(added) => Ok(added.to_owned()),
            // The decoder rewrote what was final, which cannot be taken back. What follows it must not be lost.
            None => self.decode(self.read.min(end)..end),
        }
    }

    /// Keeps only `kept` of the window. The text of the first `read` of these tokens is final, but for the `incomplete` bytes at their
    /// end.
    fn keep(&mut self, kept: Range<usize>, read: usize, incomplete: usize) -> Result<(), GenerateError> {
        self.window.truncate(kept.end);
        self.window.drain(..kept.start);
        self.read = read;
        self.context = self.decode(0..read)?;
        drop_incomplete(&mut self.context, incomplete);
        Ok(())
    }

    /// The bytes of the tokens after the last one that is text.
    fn bytes_at_end(&self) -> Vec<u8> {
        let start = self.window.iter().rposition(|token| token.bytes.is_none()).map_or(0, |last| last + 1);
        self.window[start..].iter().filter_map(|token| token.bytes.as_deref()).flatten().copied().collect()
    }

    /// The number of tokens at the end that have the last `count` bytes.
    fn tokens_of_last(&self, count: usize) -> usize {
        let mut missing = count;
        let mut tokens = 0;
        for token in self.window.iter().rev() {
            if missing == 0 {
                break;
            }
            missing = missing.saturating_sub(token.bytes.as_ref().map_or(0, Vec::len));
            tokens += 1;
        }
        tokens
    }

    fn visible(&self, id: u32) -> Option<VisibleToken> {
        let text = self.tokenizer.id_to_token(id)?;
        let is_special = self.tokenizer.get_added_vocabulary().is_special_token(&text);
        (!is_special).then(|| VisibleToken { id, bytes: self.byte_decoding.bytes(&text) })
    }

    fn decode(&self, tokens: Range<usize>) -> Result<String, GenerateError> {
        let ids: Vec<u32> = self.window[tokens].iter().map(|token| token.id).collect();
        self.tokenizer.decode(&ids, true).map_err(|e| GenerateError::Tokenizer(e.to_string()))
    }
}

impl VisibleToken {
    fn is_continuation(&self) -> bool {
        matches!(self.bytes.as_deref(), Some(&[byte]) if is_continuation(byte))
    }
}

/// Drops what a byte-level decoder writes for `incomplete` bytes at the end.
fn drop_incomplete(text: &mut String, incomplete: usize) {
    if incomplete > 0 && text.ends_with(REPLACEMENT) {
        text.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::equality::{ids, sentence_piece};

    /// The tokens that are decoded again with each token are those of the window.
    #[test]
    fn a_long_text_costs_no_more_per_token_than_a_short_one() {
        let byte_level = Tokenizer::from_bytes(
            r#"{"model":{"type":"BPE","vocab":{"a":0,"\u0122\u00f0":1,"\u0141":2,"\u013a":3,"\u00c3":4},"merges":[]},
                "decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true}}"#,
        )
        .unwrap();
        let sentence_piece = sentence_piece();
        let id = |token: &str| ids(&sentence_piece, &[token])[0].0;
        let bytes = |text: &str| text.bytes().map(|byte| id(&format!("<0x{byte:02X}>"))).collect::<Vec<_>>();
        for (tokenizer, repeated) in [
            // Words, characters that each begin in the token that ends the one before, and invalid bytes.
            (&byte_level, vec![0]),
            (&byte_level, vec![1, 2, 3]),
            (&byte_level, vec![4]),
            (&sentence_piece, vec![id("▁is")]),
            (&sentence_piece, bytes("é")),
            (&sentence_piece, bytes("😀")),
            (&sentence_piece, vec![id("<0xFF>")]),
            (&sentence_piece, vec![id("<0xC3>")]),
            (&sentence_piece, vec![id("<s>")]),
        ] {
            let mut decoder = IncrementalDecoder::new(tokenizer, std::iter::empty()).unwrap();
            for &token in repeated.iter().cycle().take(2000) {
                decoder.push(token).unwrap();
                assert!(decoder.window.len() <= LONGEST_HELD_RUN + CONTEXT, "{}", decoder.window.len());
            }
        }
    }
}

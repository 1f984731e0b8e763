//! Turns tokens into text as they are committed: no character is cut, and no part of a stop string is emitted.

use tandem_decoding::TokenId;
use tokenizers::Tokenizer;

use crate::GenerateError;

/// What a byte-level decoder writes for bytes that are not a complete character yet.
const INCOMPLETE: char = '\u{FFFD}';
/// Tokens that one character can be spread over, one per byte. Bytes that are incomplete for longer never become a character.
const TOKENS_PER_CHAR: usize = 4;

/// The text of one sequence, grown token by token.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    stops: &'a [String],
    /// The tokens still needed: `[..read]` give the decoder context, the text of the rest is not final yet.
    window: Vec<u32>,
    read: usize,
    /// The text of `window` that is already in `held`, or already sent.
    context: String,
    /// Tokens since the text last grew.
    waited: usize,
    /// Decoded text that is not sent yet, because it may be the beginning of a stop string.
    held: String,
    /// Tokens whose text is not completely sent.
    held_tokens: Vec<HeldToken>,
    /// Text that was sent although its token is held back, because the token also begins the next character.
    ahead: String,
}

struct HeldToken {
    token: TokenId,
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
    /// The text that follows `prompt`, which is not repeated. The stop strings must not be empty.
    pub fn new(
        tokenizer: &'a Tokenizer,
        prompt: &[TokenId],
        stops: &'a [String],
    ) -> Result<Self, GenerateError> {
        // A few tokens of context are enough for a decoder to decide about spaces and joins.
        let window: Vec<u32> = prompt[prompt.len().saturating_sub(8)..].iter().map(|t| t.0).collect();
        // A prompt given as tokens may end inside a character; its completion counts as new text.
        let context = decode(tokenizer, &window)?.trim_end_matches(INCOMPLETE).to_owned();
        let read = window.len();
        Ok(Self {
            tokenizer,
            stops,
            window,
            read,
            context,
            waited: 0,
            held: String::new(),
            held_tokens: Vec::new(),
            ahead: String::new(),
        })
    }

    /// Adds a token. Returns the text that is safe to send now, or the stop string that the token completed.
    pub fn push(&mut self, token: TokenId) -> Result<Result<Piece, StopMatch>, GenerateError> {
        self.window.push(token.0);
        self.held_tokens.push(HeldToken { token, end: None });
        let whole = decode(self.tokenizer, &self.window)?;
        let mut stable = whole.trim_end_matches(INCOMPLETE);
        self.waited = if stable.len() > self.context.len() { 0 } else { self.waited + 1 };
        if self.waited >= TOKENS_PER_CHAR {
            // These bytes are not the beginning of a character.
            stable = &whole;
        }
        // A decoder may rewrite earlier text, but what was sent cannot be taken back.
        self.held.push_str(stable.strip_prefix(&self.context).unwrap_or_default());
        if stable.len() == whole.len() {
            self.settle()?;
        } else if stable.len() > self.context.len() {
            // Complete characters of a token that also begins the next one: the text may go, the token waits.
            self.context = stable.to_owned();
        }
        if let Some((at, stop)) = self.first_stop() {
            return Ok(Err(StopMatch { stop, last: self.take(at) }));
        }
        let safe = self.held.len() - self.possible_stop();
        Ok(Ok(self.take(safe)))
    }

    /// What was held back, at the end of the sequence.
    pub fn finish(&mut self) -> Result<Piece, GenerateError> {
        let whole = decode(self.tokenizer, &self.window)?;
        if let Some(new) = whole.strip_prefix(&self.context) {
            // Bytes that never became a character appear as decoders write them.
            self.held.push_str(new);
        }
        let end = self.held.len();
        let mut last = self.take(end);
        for held in self.held_tokens.drain(..) {
            last.tokens.push(held.token);
            last.texts.push(std::mem::take(&mut self.ahead));
        }
        Ok(last)
    }

    /// All tokens so far end in the text so far. Keeps only a few of them as context, so that a long text costs no more per token
    /// than a short one.
    fn settle(&mut self) -> Result<(), GenerateError> {
        self.waited = 0;
        for held in self.held_tokens.iter_mut().filter(|t| t.end.is_none()) {
            held.end = Some(self.held.len());
        }
        self.window.drain(..self.read);
        self.read = self.window.len();
        self.context = decode(self.tokenizer, &self.window)?;
        Ok(())
    }

    /// The stop string that begins first in the held text; of several that begin there, the longest.
    fn first_stop(&self) -> Option<(usize, String)> {
        let found = self.stops.iter().filter_map(|s| self.held.find(s.as_str()).map(|at| (at, s)));
        found.min_by_key(|&(at, s)| (at, std::cmp::Reverse(s.len()))).map(|(at, s)| (at, s.clone()))
    }

    /// Bytes at the end of the held text that may be the beginning of a stop string.
    fn possible_stop(&self) -> usize {
        let longest = |stop: &String| {
            (1..stop.len())
                .rev()
                .filter(|&n| stop.is_char_boundary(n))
                .find(|&n| self.held.ends_with(&stop[..n]))
                .unwrap_or(0)
        };
        self.stops.iter().map(longest).max().unwrap_or(0)
    }

    /// Takes `held[..to]` and the tokens that end in it.
    fn take(&mut self, to: usize) -> Piece {
        let text: String = self.held.drain(..to).collect();
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

fn decode(tokenizer: &Tokenizer, ids: &[u32]) -> Result<String, GenerateError> {
    tokenizer.decode(ids, true).map_err(|e| GenerateError::Tokenizer(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The demo pair's tokenizer: byte-level, so that most characters beyond ASCII are several tokens.
    fn tokenizer() -> Tokenizer {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/demo/target/tokenizer.json");
        Tokenizer::from_file(path).unwrap()
    }

    fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<TokenId> {
        tokenizer.encode(text, false).unwrap().get_ids().iter().copied().map(TokenId).collect()
    }

    /// Streams `text` after `prompt`: the pieces, and the stop string that was met.
    fn stream(prompt: &str, text: &str, stops: &[&str]) -> (Vec<Piece>, Option<String>) {
        let t = tokenizer();
        let stops: Vec<String> = stops.iter().map(ToString::to_string).collect();
        let mut s = TextStream::new(&t, &encode(&t, prompt), &stops).unwrap();
        let mut pieces = Vec::new();
        for token in encode(&t, text) {
            match s.push(token).unwrap() {
                Ok(piece) => pieces.push(piece),
                Err(stop) => {
                    pieces.push(stop.last);
                    return (pieces, Some(stop.stop));
                }
            }
        }
        pieces.push(s.finish().unwrap());
        (pieces, None)
    }

    fn text(pieces: &[Piece]) -> String {
        pieces.iter().map(|p| p.text.as_str()).collect()
    }

    fn tokens(pieces: &[Piece]) -> Vec<TokenId> {
        pieces.iter().flat_map(|p| p.tokens.clone()).collect()
    }

    fn texts(pieces: &[Piece]) -> Vec<String> {
        pieces.iter().flat_map(|p| p.texts.clone()).collect()
    }

    #[test]
    fn pieces_make_up_the_text_and_no_character_is_cut() {
        for sample in ["SELECT count(*) FROM singer;", "naïve — Ünïcödé", "日本語テキスト 🎉👩‍👩‍👧 end", "", " "]
        {
            let (pieces, stop) = stream("Question: é", sample, &[]);
            assert_eq!((text(&pieces).as_str(), stop), (sample, None));
            assert_eq!(tokens(&pieces), encode(&tokenizer(), sample));
            assert_eq!(texts(&pieces).concat(), sample);
            assert_eq!(texts(&pieces).len(), tokens(&pieces).len());
            assert!(pieces.iter().all(|p| !p.text.contains(INCOMPLETE)), "{pieces:?}");
        }
    }

    #[test]
    fn a_stop_string_trims_text_and_tokens_wherever_it_falls() {
        let sample = "SELECT name FROM singer; Question: more";
        for (stop, before) in [
            (";", "SELECT name FROM singer"),
            ("singer; Q", "SELECT name FROM "),
            ("ion: m", "SELECT name FROM singer; Quest"),
            ("S", ""),
        ] {
            let (pieces, met) = stream("SQL:", sample, &[stop, "never"]);
            assert_eq!((text(&pieces).as_str(), met.as_deref()), (before, Some(stop)));
            // The tokens are those of the text before the stop, but for one that the stop begins inside of.
            let t = tokenizer();
            let ids: Vec<u32> = tokens(&pieces).iter().map(|t| t.0).collect();
            assert!(before.starts_with(&t.decode(&ids, true).unwrap()));
            assert!(encode(&t, sample).starts_with(&tokens(&pieces)));
        }
    }

    #[test]
    fn of_several_stops_the_first_in_the_text_counts() {
        for stops in [["c", "b c", "b"], ["b", "b c", "c"]] {
            let (pieces, met) = stream("", "a b c d", &stops);
            assert_eq!((text(&pieces).as_str(), met.as_deref()), ("a ", Some("b")));
        }
    }

    #[test]
    fn text_that_only_began_like_a_stop_string_is_sent() {
        let (pieces, met) = stream("", "SELECT; SELEC", &["SELECTED", "; SELECT *"]);
        assert_eq!((text(&pieces).as_str(), met), ("SELECT; SELEC", None));
    }

    #[test]
    fn bytes_that_never_become_a_character_do_not_hold_up_the_text() {
        let t = tokenizer();
        // The first byte of a two-byte character, again and again.
        let lead = encode(&t, "é")[0];
        let mut s = TextStream::new(&t, &encode(&t, "x"), &[]).unwrap();
        let sent: usize = (0..40).map(|_| s.push(lead).unwrap().unwrap().tokens.len()).sum();
        assert!(sent >= 36, "{sent} of 40 tokens were sent");
        let mut all = Piece::default();
        for token in encode(&t, "ok") {
            all.text += &s.push(token).unwrap().unwrap().text;
        }
        all.text += &s.finish().unwrap().text;
        assert!(all.text.ends_with("ok"));
    }

    #[test]
    fn a_prompt_may_end_inside_a_character() {
        let t = tokenizer();
        let ids = encode(&t, "é");
        assert!(ids.len() > 1, "this test needs a character of several tokens");
        let (last, first) = ids.split_last().unwrap();
        let mut s = TextStream::new(&t, first, &[]).unwrap();
        assert_eq!(s.push(*last).unwrap().unwrap().text, "é");
    }

    /// Some byte-level tokens end one character and begin the next.
    #[test]
    fn tokens_may_straddle_characters() {
        // The bytes "a F0", "9F", "98", "80 F0", "80" in the byte-level alphabet.
        let tokens = ["a\u{f0}", "\u{141}", "\u{13a}", "\u{122}\u{f0}", "\u{122}"];
        let vocab: Vec<String> = tokens.iter().enumerate().map(|(i, t)| format!("{t:?}:{i}")).collect();
        let json = format!(
            r#"{{"model":{{"type":"BPE","vocab":{{{}}},"merges":[]}},"decoder":{{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true}}}}"#,
            vocab.join(",")
        );
        let t = Tokenizer::from_bytes(json).unwrap();
        let mut s = TextStream::new(&t, &[], &[]).unwrap();
        let pieces: Vec<Piece> =
            [0, 1, 2, 3, 1, 2, 4].into_iter().map(|id| s.push(TokenId(id)).unwrap().unwrap()).collect();
        let texts: Vec<&str> = pieces.iter().map(|p| p.text.as_str()).collect();
        assert_eq!(texts, ["a", "", "", "😀", "", "", "😀"]);
        assert_eq!(super::tests::tokens(&pieces).len(), 7);
        assert_eq!(super::tests::texts(&pieces), ["a😀😀", "", "", "", "", "", ""]);
    }
}

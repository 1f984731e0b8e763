use super::*;
use crate::text::incremental::REPLACEMENT;

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
    pieces.push(s.finish());
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
        assert!(pieces.iter().all(|p| !p.text.contains(REPLACEMENT)), "{pieces:?}");
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
    all.text += &s.finish().text;
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
    assert_eq!(self::tokens(&pieces).len(), 7);
    assert_eq!(self::texts(&pieces), ["a😀", "", "", "😀", "", "", ""]);
}

/// Decoders of SentencePiece models make one U+FFFD of each byte of a run that is not UTF-8 as a whole. So the run waits for its end,
/// and what follows it is not lost.
#[test]
fn what_follows_invalid_bytes_is_not_lost() {
    let t = super::equality::sentence_piece();
    let ids =
        super::equality::ids(&t, &["▁the", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "<0xF0>", "▁is", "a"]);
    let mut s = TextStream::new(&t, &ids[..1], &[]).unwrap();
    let pieces: Vec<Piece> = ids[1..].iter().map(|&id| s.push(id).unwrap().unwrap()).collect();
    let sent: Vec<&str> = pieces.iter().map(|p| p.text.as_str()).collect();
    assert_eq!(sent, ["", "", "", "", "", "\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD} is", "a"]);
    assert_eq!(tokens(&pieces), ids[1..]);
}

/// The newline is a byte token in the vocabularies of Llama 2 and Mistral. A stop string of it needs no token after it.
#[test]
fn a_stop_string_of_byte_tokens_is_met_at_once() {
    let t = super::equality::sentence_piece();
    let ids = super::equality::ids(&t, &["▁is", "<0x0A>"]);
    let stops = ["\n".to_owned()];
    let mut s = TextStream::new(&t, &[], &stops).unwrap();
    assert_eq!(s.push(ids[0]).unwrap().unwrap().text, "is");
    assert_eq!(s.push(ids[1]).unwrap().unwrap_err(), StopMatch { stop: "\n".into(), last: Piece::default() });
}

#[test]
fn each_character_of_a_run_belongs_to_its_own_tokens() {
    let t = super::equality::sentence_piece();
    let ids = super::equality::ids(&t, &["<0x0A>", "<0xC3>", "<0xA9>", "<0x0A>", "▁is"]);
    let mut s = TextStream::new(&t, &ids[4..], &[]).unwrap();
    let pieces: Vec<Piece> = ids.iter().map(|&id| s.push(id).unwrap().unwrap()).collect();
    assert_eq!(texts(&pieces), ["\n", "é", "", "\n", " is"]);
}

/// `max_tokens` may end a sequence anywhere.
#[test]
fn no_half_character_ends_a_text() {
    let t = tokenizer();
    let ids = encode(&t, "ok é");
    for cut in [ids.len() - 1, ids.len()] {
        let mut s = TextStream::new(&t, &[], &[]).unwrap();
        let mut pieces: Vec<Piece> = ids[..cut].iter().map(|&id| s.push(id).unwrap().unwrap()).collect();
        pieces.push(s.finish());
        let expected = if cut == ids.len() { "ok é" } else { "ok " };
        assert_eq!((text(&pieces).as_str(), tokens(&pieces)), (expected, ids[..cut].to_vec()));
    }
    let t = super::equality::sentence_piece();
    let ids = super::equality::ids(&t, &["▁the", "<0x0A>", "<0xF0>", "<0x9F>"]);
    let mut s = TextStream::new(&t, &[], &[]).unwrap();
    let mut pieces: Vec<Piece> = ids.iter().map(|&id| s.push(id).unwrap().unwrap()).collect();
    pieces.push(s.finish());
    assert_eq!((text(&pieces).as_str(), tokens(&pieces)), ("the\n", ids));
}

/// A text in a script that has no tokens of its own is streamed although it is one run of bytes.
#[test]
fn a_long_run_of_bytes_is_streamed() {
    let t = super::equality::sentence_piece();
    let sample = "ကမ္ဘာ့နိုင်ငံ".repeat(20);
    let bytes: Vec<String> = sample.bytes().map(|byte| format!("<0x{byte:02X}>")).collect();
    let mut names: Vec<&str> = bytes.iter().map(String::as_str).collect();
    names.extend(["<0xFF>", "▁is"]);
    let mut s = TextStream::new(&t, &[], &[]).unwrap();
    let mut sent = String::new();
    for (pushed, &id) in super::equality::ids(&t, &names).iter().enumerate() {
        sent += &s.push(id).unwrap().unwrap().text;
        assert!(pushed.saturating_sub(sent.len()) < 68, "{} of {pushed} bytes", sent.len());
    }
    // What was sent cannot be taken back when the last byte turns out to be invalid.
    assert_eq!(sent, sample + "\u{FFFD} is");
}

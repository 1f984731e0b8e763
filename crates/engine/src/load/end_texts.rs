//! Texts of tokens that end an answer.

/// Texts of tokens that end a text, a turn or a message in the formats of published models. They are among those
/// that llama.cpp treats as the end of a generation (`llama-vocab.cpp`).
pub(super) const END_TEXTS: [&str; 15] = [
    "</s>",
    "<eos>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
];

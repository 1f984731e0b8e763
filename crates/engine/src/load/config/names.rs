//! Names of tensors in checkpoints.

/// The names of one layout. Names of a layer follow `layer`, its number and a dot; `.weight` or `.bias` is
/// appended.
#[derive(Debug)]
pub(crate) struct TensorNames {
    pub(crate) embedding: &'static str,
    /// The table of learned positions.
    pub(crate) positions: &'static str,
    pub(crate) layer: &'static str,
    pub(crate) attention_norm: &'static str,
    pub(crate) q: &'static str,
    pub(crate) k: &'static str,
    pub(crate) v: &'static str,
    pub(crate) q_norm: &'static str,
    pub(crate) k_norm: &'static str,
    pub(crate) output: &'static str,
    pub(crate) mlp_norm: &'static str,
    pub(crate) gate: &'static str,
    pub(crate) up: &'static str,
    pub(crate) down: &'static str,
    pub(crate) norm: &'static str,
    pub(crate) head: &'static str,
}

/// Llama, and the families that took over its module names: Mistral and Qwen.
pub(crate) const LLAMA: TensorNames = TensorNames {
    embedding: "model.embed_tokens",
    positions: "",
    layer: "model.layers.",
    attention_norm: "input_layernorm",
    q: "self_attn.q_proj",
    k: "self_attn.k_proj",
    v: "self_attn.v_proj",
    q_norm: "self_attn.q_norm",
    k_norm: "self_attn.k_norm",
    output: "self_attn.o_proj",
    mlp_norm: "post_attention_layernorm",
    gate: "mlp.gate_proj",
    up: "mlp.up_proj",
    down: "mlp.down_proj",
    norm: "model.norm",
    head: "lm_head",
};

/// OPT.
pub(crate) const OPT: TensorNames = TensorNames {
    embedding: "model.decoder.embed_tokens",
    positions: "model.decoder.embed_positions",
    layer: "model.decoder.layers.",
    attention_norm: "self_attn_layer_norm",
    output: "self_attn.out_proj",
    mlp_norm: "final_layer_norm",
    gate: "",
    up: "fc1",
    down: "fc2",
    norm: "model.decoder.final_layer_norm",
    ..LLAMA
};

/// GGUF files, whatever their architecture.
pub(crate) const GGUF: TensorNames = TensorNames {
    embedding: "token_embd",
    positions: "position_embd",
    layer: "blk.",
    attention_norm: "attn_norm",
    q: "attn_q",
    k: "attn_k",
    v: "attn_v",
    q_norm: "attn_q_norm",
    k_norm: "attn_k_norm",
    output: "attn_output",
    mlp_norm: "ffn_norm",
    gate: "ffn_gate",
    up: "ffn_up",
    down: "ffn_down",
    norm: "output_norm",
    head: "output",
};

use super::*;

fn read(change: impl FnOnce(&mut Value)) -> Result<ModelConfig, String> {
    let mut json = serde_json::json!({
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "vocab_size": 100,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "max_position_embeddings": 256, "eos_token_id": 2
    });
    change(&mut json);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    std::fs::write(&path, json.to_string()).unwrap();
    ModelConfig::read(&path, None).map_err(|e| e.to_string())
}

const LLAMA3: &str = r#"{"rope_type":"llama3","factor":32.0,"low_freq_factor":1.0,"high_freq_factor":4.0,
    "original_max_position_embeddings":8192,"rope_theta":500000.0}"#;

#[test]
fn rotary_settings_are_read_wherever_a_checkpoint_keeps_them() {
    let llama3: Value = serde_json::from_str(LLAMA3).unwrap();
    let scaling = Some(RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 8192,
    });
    let plain = read(|_| ()).unwrap();
    assert_eq!(plain.head_dim, 16);
    assert_eq!(plain.positions, Positions::Rotary { theta: 10_000.0, scaling: None });
    let old = read(|c| c["rope_scaling"] = llama3.clone()).unwrap();
    assert_eq!(old.positions, Positions::Rotary { theta: 10_000.0, scaling: scaling.clone() });
    let new = read(|c| c["rope_parameters"] = llama3.clone()).unwrap();
    assert_eq!(new.positions, Positions::Rotary { theta: 500_000.0, scaling });
    let default = read(|c| {
        c["rope_parameters"] = serde_json::json!({ "rope_type": "default", "rope_theta": 1e6 });
    });
    assert_eq!(default.unwrap().positions, Positions::Rotary { theta: 1e6, scaling: None });
}

#[test]
fn a_family_fixes_what_its_config_does_not_say() {
    let of = |family: &str| read(|c| c["model_type"] = family.into()).unwrap();
    let biases = |c: &ModelConfig| (c.qkv_bias, c.output_bias, c.mlp_bias);
    assert_eq!(biases(&of("llama")), (false, false, false));
    assert_eq!(biases(&of("mistral")), (false, false, false));
    assert_eq!(biases(&of("qwen2")), (true, false, false));
    assert_eq!((biases(&of("qwen3")), of("qwen3").qk_norm), ((false, false, false), true));
    let biased = read(|c| c["attention_bias"] = true.into()).unwrap();
    assert_eq!(biases(&biased), (true, true, false));
    let opt = of("opt");
    assert_eq!((biases(&opt), opt.tied), ((true, true, true), true));
    assert_eq!((opt.norm, opt.mlp), (NormKind::Layer, MlpKind::Relu));
    assert_eq!(opt.positions, Positions::Learned { offset: 2 });
}

#[test]
fn a_sliding_window_cuts_the_context() {
    let of = |family: &str, used: bool, window: Value| {
        let config = read(|c| {
            c["model_type"] = family.into();
            c["use_sliding_window"] = used.into();
            c["sliding_window"] = window;
        });
        config.unwrap().context
    };
    assert_eq!(of("mistral", false, 100.into()), 100);
    assert_eq!(of("mistral", false, 1000.into()), 256);
    assert_eq!(of("mistral", false, Value::Null), 256);
    assert_eq!(of("qwen2", false, 100.into()), 256);
    assert_eq!(of("qwen3", true, 100.into()), 100);
    assert_eq!(of("llama", true, 100.into()), 256);
}

#[test]
fn what_would_change_the_arithmetic_is_refused() {
    let yarn = serde_json::json!({ "rope_type": "yarn", "factor": 2.0 });
    let cases: [(&str, &str, Value); 11] = [
        ("rope_scaling", "only llama3 is", yarn.clone()),
        ("rope_parameters", "only llama3 is", yarn),
        ("quantization_config", "use a GGUF file", serde_json::json!({ "quant_method": "fp8" })),
        ("model_type", "\"gemma\" is not supported: llama, mistral, qwen2, qwen3, opt are", "gemma".into()),
        ("hidden_act", "only silu is", "gelu".into()),
        ("partial_rotary_factor", "only 1 is", 0.5.into()),
        ("num_key_value_heads", "no multiple", 3.into()),
        ("vocab_size", "the vocabulary is 0", 0.into()),
        ("num_attention_heads", "attention heads is 0", 0.into()),
        ("do_layer_norm_before", "only true is", false.into()),
        ("word_embed_proj_dim", "only the hidden size 64 is", 32.into()),
    ];
    for (field, expected, value) in cases {
        let error = read(|c| c[field] = value).unwrap_err();
        assert!(error.contains(expected), "{field}: {expected:?} is not in {error:?}");
    }
}

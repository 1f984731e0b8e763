//! The requests of all sections.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tandem_decoding::Method;
use tandem_proto::v1::generate_request::Input;
use tandem_proto::{method_to_wire, v1};

/// A generator of random numbers for each `stream`, independent of the others.
pub(crate) fn numbers(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}

/// A request with a prompt of random tokens, whose answer has `new_tokens` tokens.
pub(crate) fn request(
    rng: &mut ChaCha8Rng,
    vocab: u32,
    prompt_tokens: u32,
    new_tokens: u32,
    method: Method,
) -> v1::GenerateRequest {
    let ids = (0..prompt_tokens).map(|_| rng.random_range(0..vocab)).collect();
    v1::GenerateRequest {
        input: Some(Input::Tokens(v1::TokenIds { ids })),
        max_new_tokens: Some(new_tokens),
        seed: Some(rng.next_u64()),
        ignore_eos: true,
        decoding: Some(v1::DecodingParams {
            method: method_to_wire(method).into(),
            ..v1::DecodingParams::default()
        }),
        ..v1::GenerateRequest::default()
    }
}

"""Writes the GGUF fixtures of tests/engine/gguf.rs: models of make.py as the converter of llama.cpp writes them.

    venv/bin/pip install -r requirements.txt gguf
    venv/bin/pip download --no-deps --no-binary :all: llama-cpp-python==0.3.36   # its archive holds llama.cpp; unpack it
    venv/bin/python make_gguf.py llama_cpp_python-0.3.36/vendor/llama.cpp
"""

import runpy
import sys
from pathlib import Path

HERE = Path(__file__).parent
# As f32 they must give the logits of the safetensors; llama2 is quantised.
FILES = {"llama3": "f32", "llama-bias": "f32", "mistral": "f32", "qwen2": "f32", "qwen3": "f32", "llama2": "q8_0"}


def main(llama_cpp):
    sys.path[:0] = [str(llama_cpp), str(llama_cpp / "gguf-py")]
    from conversion import base, get_model_class

    for name, kind in FILES.items():
        # The models have no tokenizer.
        architecture = base.ModelBase.load_hparams(HERE / name, False)["architectures"][0]
        get_model_class(architecture).set_vocab = base.TextModel._set_vocab_none
        sys.argv = ["convert", str(HERE / name), "--outfile", str(HERE / name / "model.gguf"), "--outtype", kind]
        try:
            runpy.run_path(str(llama_cpp / "convert_hf_to_gguf.py"), run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())

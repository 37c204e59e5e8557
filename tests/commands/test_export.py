"""`python -m rtdlm.export`: what it writes is the model, with its tokenizer."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from rtdlm import TMSModel, evaluate, export, generate
from rtdlm.models.load import load_model


def test_an_exported_run_is_the_same_model(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "exported"
    flags = ["--checkpoint", str(plain), "--to", "hf", "--out", str(out)]
    assert export.main(flags) == 0
    assert capsys.readouterr().out == f"{out}: a qwen3 model in float32\n"
    assert json.loads((out / "config.json").read_text())["architectures"] == ["Qwen3ForCausalLM"]
    ours = load_model(plain)
    model, params = TMSModel.from_pretrained(out, precision={"compute": "float32"})
    ids = np.arange(10, dtype=np.int32)[None]
    expected = TMSModel(ours.model.config, precision={"compute": "float32"})
    np.testing.assert_array_equal(
        jax.jit(model.logits)(params, ids), jax.jit(expected.logits)(ours.params, ids)
    )
    told = []
    for checkpoint in (plain, out):
        asked = ["--checkpoint", str(checkpoint), "--prompt", "a", "--max-tokens", "8"]
        assert generate.main([*asked, "--temperature", "0"]) == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[1]
    shards, figures = str(plain / "data"), []
    for checkpoint in (plain, out):
        asked = ["--checkpoint", str(checkpoint), "--data-dir", shards, "--json"]
        assert evaluate.main(asked) == 0
        figures.append(json.loads(capsys.readouterr().out)["held_out"])
    assert figures[0]["tokens"] == figures[1]["tokens"]
    assert figures[0]["loss"] == pytest.approx(figures[1]["loss"], rel=1e-6)
    assert evaluate.main(["--checkpoint", str(out)]) == 2
    assert "is of no run that has text of its own; name shards" in capsys.readouterr().err
    again = ["--checkpoint", str(out), "--to", "hf", "--out", str(tmp_path / "again")]
    assert export.main(again) == 0
    for name in ("model.safetensors", "config.json", "tokenizer.json", "generation_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes()
    capsys.readouterr()
    # Whatever the format, a folder that is read and written again is the same bytes.
    half, copy = tmp_path / "half", tmp_path / "copy"
    asked = ["--checkpoint", str(out), "--to", "hf", "--dtype", "bfloat16", "--out", str(half)]
    assert export.main(asked) == 0
    assert export.main(["--checkpoint", str(half), "--to", "hf", "--out", str(copy)]) == 0
    assert capsys.readouterr().out.endswith(f"{copy}: a qwen3 model in bfloat16\n")
    weights = (half / "model.safetensors").read_bytes()
    assert weights == (copy / "model.safetensors").read_bytes()
    assert len(weights) < 0.55 * (out / "model.safetensors").stat().st_size
    assert export.main(flags) == 2
    assert capsys.readouterr().err == (
        f"error: {out} is there already; name a new or an empty folder\n"
    )


def test_an_onnx_graph_gives_the_logits(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx", reason="the graph is made with onnx")
    onnxruntime = pytest.importorskip("onnxruntime", reason="the graph is run by onnxruntime")
    out = tmp_path / "exported"
    flags = ["--checkpoint", str(plain), "--to", "onnx", "--out", str(out)]
    assert export.main([*flags, "--dtype", "float16"]) == 2
    assert "dtype=float16 has no effect with ONNX" in capsys.readouterr().err
    assert export.main(flags) == 0
    assert capsys.readouterr().out == f"{out}: a qwen3 model in float32\n"
    assert sorted(file.name for file in out.iterdir()) == [
        "generation_config.json", "model.onnx", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    ours = load_model(plain)
    model = TMSModel(ours.model.config, precision={"compute": "float32"})
    ids = np.arange(10, dtype=np.int32)[None]
    session = onnxruntime.InferenceSession(out / "model.onnx")
    [found] = session.run(None, {"input_ids": ids.astype(np.int64)})
    expected = jax.jit(model.logits)(ours.params, ids)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_gguf_file_holds_model_and_tokenizer(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gguf = pytest.importorskip("gguf", reason="the file is written with gguf")
    out = tmp_path / "exported"
    flags = ["--checkpoint", str(plain), "--to", "gguf", "--dtype", "float16", "--out", str(out)]
    assert export.main(flags) == 0
    assert capsys.readouterr().out == f"{out}: a qwen3 model in float16\n"
    reader = gguf.GGUFReader(out / "model.gguf")
    assert reader.get_field("general.architecture").contents() == "qwen3"
    assert reader.get_field("tokenizer.ggml.tokens").contents()[256] == "<|document|>"
    assert reader.get_field("tokenizer.ggml.bos_token_id").contents() == 256


def test_a_model_of_no_family_is_refused_and_nothing_is_written(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    flags = ["--to", "hf", "--out", str(out)]
    assert export.main(["--checkpoint", str(trained), *flags]) == 2
    assert capsys.readouterr().err == (
        "error: no Hugging Face family has short convolutions or value residuals, so that this "
        "model cannot be exported as one; train one with --set short_conv=0 value_residual=false\n"
    )
    assert export.main(["--checkpoint", str(tmp_path / "none"), *flags]) == 2
    assert not out.exists()
    with pytest.raises(SystemExit):
        export.main(["--checkpoint", "x", "--to", "onnxx", "--out", str(out)])

"""LoRAs merged into checkpoints, against the same sums in double precision."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pusa_core import bake as baking
from pusa_core.bake import LoraFile, bake
from pusa_core.lora import LoraError, read_lora
from pusa_core.lora_compress import Limit, compress_lora
from pusa_core.provenance import KEY, identify
from pusa_core.wan import diffusers_key
from tests import tiny

SIZE = {"dim": 32, "ffn": 48, "layers": 2, "text_dim": 64}
LORA = {"dim": 32, "ffn": 48, "layers": 2}
ANCHOR = "blocks.0.self_attn.q.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    tiny.write_wan(folder / "base.safetensors", heads=2, **SIZE)
    tiny.write_lora(folder / "pusa.safetensors", ranks=(4, 6), **LORA)
    tiny.write_lora(folder / "lightning.safetensors", ranks=(2,), spelling="kohya", alpha=1.0, seed=5, **LORA)
    return folder


@pytest.fixture(scope="module")
def both(folder):
    return [LoraFile(folder / "pusa.safetensors", 1.4), LoraFile(folder / "lightning.safetensors", 0.8)]


def expected(base, loras):
    """What should come out, in double precision."""
    weights = {name: tensor.double() for name, tensor in load_file(base).items()}
    for lora in loras:
        for name, module in read_lora(lora.path).modules.items():
            weights[f"{name}.weight"] += lora.alpha * module.scale * (module.up.double() @ module.down.double())
    return weights


def stored(path):
    """What a file holds, scales applied, and its metadata."""
    with safe_open(path, "pt") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    scales = {key.removesuffix("_scale"): tensor for key, tensor in tensors.items() if key.endswith("weight_scale")}
    weights = {key: tensor for key, tensor in tensors.items() if not key.endswith(("weight_scale", "comfy_quant"))}
    return {key: tensor.double() * scales.get(key, 1.0) for key, tensor in weights.items()}, tensors, metadata


def error(got, wanted):
    assert got.keys() == wanted.keys()
    return max(float((got[key] - wanted[key]).abs().max() / wanted[key].abs().max()) for key in wanted)


@pytest.mark.parametrize("form, goal", [("bf16", 2**-8), ("fp8_scaled", 2**-4)])
def test_a_baked_checkpoint_is_the_sum(folder, both, tmp_path, form, goal):
    seen = []
    report = bake(folder / "base.safetensors", both, tmp_path / "new.safetensors", form, progress=lambda *at: seen.append(at))
    got, tensors, metadata = stored(tmp_path / "new.safetensors")
    wanted = expected(folder / "base.safetensors", both)
    assert error(got, wanted) < goal and error(got, expected(folder / "base.safetensors", both[:1])) > goal
    dtypes = {tensor.dtype for key, tensor in tensors.items() if not key.endswith(("weight_scale", "comfy_quant"))}
    assert dtypes == ({torch.bfloat16} if form == "bf16" else {torch.bfloat16, torch.float8_e4m3fn})
    assert seen[-1] == (len(wanted), len(wanted)) and report.changed == 20 and not report.warnings
    made = json.loads(metadata[KEY])
    assert [(entry["file"], entry["alpha"]) for entry in made["loras"]] == [
        ("pusa.safetensors", 1.4),
        ("lightning.safetensors", 0.8),
    ]
    assert made["base"] == "base.safetensors" and json.loads(metadata["config"])["transformer"]["num_heads"] == 2


def as_scaled(weights, scale_name, per_row=False):
    made = {}
    for key, tensor in weights.items():
        if key.startswith("blocks") and tensor.ndim == 2:
            largest = tensor.abs().amax(1, keepdim=True) if per_row else tensor.abs().amax()
            scale = largest / 448
            made |= {key: (tensor / scale).to(torch.float8_e4m3fn), f"{key.rpartition('.')[0]}.{scale_name}": scale}
        else:
            made[key] = tensor
    return made


FORMS = {
    "fp32": lambda weights: weights,
    "bf16": lambda weights: {key: tensor.bfloat16() for key, tensor in weights.items()},
    "fp16": lambda weights: {key: tensor.half() for key, tensor in weights.items()},
    "fp8": lambda weights: {k: t.to(torch.float8_e4m3fn) if t.ndim == 2 else t for k, t in weights.items()},
    "fp8 e5m2": lambda weights: {k: t.to(torch.float8_e5m2) if t.ndim == 2 else t for k, t in weights.items()},
    "scaled, older": lambda w: as_scaled(w, "scale_weight") | {"scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)},
    "scaled, newer": lambda w: (
        as_scaled(w, "weight_scale") | {"blocks.0.ffn.0.comfy_quant": torch.zeros(9, dtype=torch.uint8)}
    ),
    "scaled by row": lambda w: as_scaled(w, "weight_scale", per_row=True),
    "Diffusers' names": lambda weights: {diffusers_key(key): tensor for key, tensor in weights.items()},
    "in a checkpoint": lambda weights: (
        {f"model.diffusion_model.{key}": tensor for key, tensor in weights.items()}
        | {"first_stage_model.decoder.conv1.weight": torch.zeros(4, 4)}
    ),
}


def save_as(form, folder, path):
    with safe_open(folder / "base.safetensors", "pt") as file:
        save_file(form(load_file(folder / "base.safetensors")), path, file.metadata())


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_base_is_read(folder, both, tmp_path, form):
    save_as(FORMS[form], folder, tmp_path / "base.safetensors")
    bake(tmp_path / "base.safetensors", both, tmp_path / "new.safetensors")
    goal = 2**-7 if "8" not in form and "scaled" not in form else 2**-2 if "e5m2" in form else 2**-3
    assert error(stored(tmp_path / "new.safetensors")[0], expected(folder / "base.safetensors", both)) < goal


@pytest.fixture
def sharded(folder, tmp_path):
    """The base in the files and the folder that Hugging Face's libraries make of a large model."""
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed: pip install .[diffusers]")
    made = tmp_path / "Wan2.2" / "high_noise_model"
    made.mkdir(parents=True)
    hub.save_torch_state_dict(load_file(folder / "base.safetensors"), made, max_shard_size=20_000)
    assert len(list(made.glob("*.safetensors"))) > 3
    return made


@pytest.mark.parametrize("given", ["", "model.safetensors.index.json", "model-00002-of-*.safetensors"])
def test_a_base_of_several_files_is_read_by_any_of_them(folder, both, sharded, tmp_path, given):
    (base,) = sharded.glob(given) if given else [sharded]
    report = bake(base, both, tmp_path / "new.safetensors")
    assert error(stored(tmp_path / "new.safetensors")[0], expected(folder / "base.safetensors", both)) < 2**-8
    assert report.base == "Wan2.2/high_noise_model"


def without_index(folder):
    (folder / "model.safetensors.index.json").unlink()


def with_index(**index):
    return lambda folder: (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def as_pipeline_of_two(folder):
    (folder / "model_index.json").write_text("{}")
    for name in ("transformer", "transformer_2"):
        (folder / name).mkdir()


WRONG_FOLDERS = {
    "has no model, or several": without_index,
    "one of the 10 files of this model, is not beside": lambda folder: next(folder.glob("*00003-of*")).unlink(),
    "does not list a model's files": with_index(weight_map={ANCHOR: "../base.safetensors"}),
    "index.json does not list": with_index(weight_map=[]),
    "index of the model's files is not valid JSON": lambda folder: (folder / "model.safetensors.index.json").write_text("{"),
    "has two models: give its transformer or transformer_2": as_pipeline_of_two,
}


@pytest.mark.parametrize("words", WRONG_FOLDERS)
def test_folders_that_hold_no_whole_model_are_refused(both, sharded, tmp_path, words):
    WRONG_FOLDERS[words](sharded)
    with pytest.raises(ValueError, match=words) as caught:
        bake(sharded, both, tmp_path / "new.safetensors")
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_a_shard_alone_is_refused(both, sharded, tmp_path):
    without_index(sharded)
    (shard,) = sharded.glob("*00002-of*")
    with pytest.raises(ValueError, match="model.safetensors.index.json is not beside the model's files: download it, too"):
        bake(shard, both, tmp_path / "new.safetensors")


def test_loras_of_other_modules_and_whole_differences_are_merged(folder, tmp_path):
    """As some Lightning LoRAs have them."""
    shapes = {"text_embedding.0": (32, 64), "head.head": (64, 32), "blocks.1.ffn.0": (48, 32)}
    pairs = {name: (torch.randn(3, columns), torch.randn(rows, 3)) for name, (rows, columns) in shapes.items()}
    norm, bias = torch.randn(32), torch.randn(48)
    for spell in (lambda name: f"diffusion_model.{name}", lambda name: f"lora_unet_{name.replace('.', '_')}"):
        lora = {f"{spell(name)}.lora_down.weight": down for name, (down, _) in pairs.items()}
        lora |= {f"{spell(name)}.lora_up.weight": up for name, (_, up) in pairs.items()}
        lora |= {f"{spell('blocks.0.self_attn.norm_q')}.diff": norm, f"{spell('blocks.1.ffn.0')}.diff_b": bias}
        save_file(lora, tmp_path / "lora.safetensors")
        (tmp_path / "new.safetensors").unlink(missing_ok=True)
        report = bake(
            folder / "base.safetensors", [LoraFile(tmp_path / "lora.safetensors", 0.5)], tmp_path / "new.safetensors"
        )
        wanted = expected(folder / "base.safetensors", [])
        for name, (down, up) in pairs.items():
            wanted[f"{name}.weight"] += 0.5 * up.double() @ down.double()
        wanted["blocks.0.self_attn.norm_q.weight"] += 0.5 * norm.double()
        wanted["blocks.1.ffn.0.bias"] += 0.5 * bias.double()
        assert error(stored(tmp_path / "new.safetensors")[0], wanted) < 2**-8 and report.changed == 5


def test_files_that_are_opened_anew_on_the_way_give_the_same(folder, both, tmp_path, monkeypatch):
    bake(folder / "base.safetensors", both, tmp_path / "once.safetensors")
    opened, read = [], baking.read_updates
    monkeypatch.setattr(baking, "MAPPED", 2000)
    monkeypatch.setattr(baking, "read_updates", lambda *a: opened.append(a) or read(*a))
    bake(folder / "base.safetensors", both, tmp_path / "often.safetensors")
    assert len(opened) > 6
    assert (tmp_path / "once.safetensors").read_bytes() == (tmp_path / "often.safetensors").read_bytes()


def test_a_second_merge_is_warned_of_whatever_the_file_is_called_now(folder, both, tmp_path):
    bake(folder / "base.safetensors", both, tmp_path / "baked.safetensors")
    save_file(load_file(both[0].path), tmp_path / "renamed.safetensors")
    compress_lora(read_lora(both[0].path), tmp_path / "smaller.safetensors", Limit(2))
    for name, warned in (("renamed", True), ("smaller", True), ("other", False)):
        lora = tmp_path / f"{name}.safetensors"
        if name == "other":
            tiny.write_lora(lora, seed=9, **LORA)
        report = bake(tmp_path / "baked.safetensors", [LoraFile(lora, 1.0)], tmp_path / f"{name} again.safetensors")
        assert len(report.warnings) == warned and len(report.loras) == 3
        assert not warned or "pusa.safetensors was merged into baked.safetensors already, with alpha 1.4" in str(report)
    report = bake(folder / "base.safetensors", [both[0], both[1], both[0]], tmp_path / "thrice.safetensors")
    (warning,) = report.warnings
    assert "pusa.safetensors is on this model 2 times, with strengths 1.4 and 1.4" in warning
    assert identify(read_lora(tmp_path / "smaller.safetensors")) == report.loras[0].id


def damaged(weights):
    weights[ANCHOR][0, 0] = float("inf")
    return weights


WRONG_BASES = {
    "is quantised in a way": lambda w: w | {ANCHOR: torch.zeros(32, 16, dtype=torch.uint8)},
    "is quantised": lambda w: as_scaled(w, "weight_scale") | {"blocks.0.self_attn.q.weight_scale": torch.zeros(32, 2)},
    "no Wan checkpoint": lambda w: {"model.weight": torch.zeros(3)},
    "36 input channels": lambda w: w | {"patch_embedding.weight": torch.zeros(32, 36, 1, 2, 2)},
    "blocks.0.self_attn.q.weight would not be finite": damaged,
}


@pytest.mark.parametrize("words", WRONG_BASES)
def test_bases_that_cannot_be_used_are_refused_and_nothing_is_left(folder, both, tmp_path, words):
    save_as(WRONG_BASES[words], folder, tmp_path / "odd.safetensors")
    with pytest.raises(ValueError, match=words) as caught:
        bake(tmp_path / "odd.safetensors", both, tmp_path / "new.safetensors")
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    assert [path.name for path in tmp_path.iterdir()] == ["odd.safetensors"]


@pytest.mark.parametrize(
    "content, words",
    [
        (b"GGUF\x03" + b"\0" * 60, "x.gguf is a GGUF file, .* choose the safetensors form"),
        (b"PK\x03\x04" + b"\0" * 60, "x.gguf is no safetensors file"),
        (b"", "x.gguf is no safetensors file"),
        (b"\x09" + b"\0" * 7 + b"{damaged}", "x.gguf is damaged or cut off"),
    ],
)
def test_other_files_are_refused_in_a_sentence(both, tmp_path, content, words):
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        bake(tmp_path / "x.gguf", both, tmp_path / "new.safetensors")
    with pytest.raises(ValueError, match="none.safetensors cannot be opened"):
        bake(tmp_path / "none.safetensors", both, tmp_path / "new.safetensors")


def test_loras_that_do_not_belong_are_refused(folder, tmp_path):
    wide = tiny.write_lora(tmp_path / "wide.safetensors", dim=64, layers=2)
    deep = tiny.write_lora(tmp_path / "deep.safetensors", **{**LORA, "layers": 3})
    odd = tmp_path / "odd.safetensors"
    save_file(load_file(folder / "pusa.safetensors") | {"diffusion_model.blocks.0.ffn.0.dora_scale": torch.ones(4)}, odd)
    for lora, words in ((wide, "another shape"), (deep, "modules that this model lacks"), (odd, "dora_scale")):
        with pytest.raises(LoraError, match=words):
            bake(folder / "base.safetensors", [LoraFile(lora, 1.0)], tmp_path / "new.safetensors")
    with pytest.raises(ValueError, match="0 LoRAs"):
        bake(folder / "base.safetensors", [], tmp_path / "new.safetensors")
    assert not list(tmp_path.glob("new*"))

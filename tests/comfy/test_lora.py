"""The LoRA on a real ComfyUI model, through ComfyUI's own patches."""

import comfy.lora
import comfy.sd
import comfy.utils
import folder_paths
import pytest
import torch
from safetensors.torch import load_file

from tests import tiny

pytestmark = pytest.mark.usefixtures("inference_mode")


def weights(model):
    """The weights as the model computes with them."""
    state = model.model.state_dict()
    return {k: comfy.lora.calculate_weight(model.patches.get(k, []), v.clone().float(), k) for k, v in state.items()}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    path = tiny.write_lora(tmp_path_factory.mktemp("lora") / "pusa.safetensors", spelling="bare", seed=5)
    return path, load_file(str(path))


@pytest.mark.parametrize("spelling", ["diffusion_model", "bare", "kohya"])
@pytest.mark.parametrize("container", ["safetensors", "pt"])
@pytest.mark.parametrize("alpha", [0.0, 1.0, 1.4])
def test_the_weights_change_by_alpha_up_down(host, wan, plain, tmp_path, spelling, container, alpha):
    path = tiny.write_lora(tmp_path / f"lora.{container}", spelling=spelling, seed=5)
    before, tensors = weights(wan), plain[1]
    patched, report = host.load_pusa_lora(wan, str(path), alpha)
    after = weights(patched)
    names = {key.partition(".lora_")[0] for key in tensors}
    assert len(names) == report.matched == report.total == 10 * tiny.LAYERS
    for key in before:
        name = key.removeprefix("diffusion_model.").removesuffix(".weight")
        expected = before[key]
        if name in names and key.endswith(".weight"):
            down = next(v for k, v in tensors.items() if k.startswith(name + ".") and ("lora_A" in k or "lora_down" in k))
            up = next(v for k, v in tensors.items() if k.startswith(name + ".") and ("lora_B" in k or "lora_up" in k))
            expected = expected + alpha * up.float() @ down.float()
        assert torch.allclose(after[key], expected, atol=1e-5), key
    assert all(torch.equal(before[key], value) for key, value in weights(wan).items()), "the given model is untouched"


def test_it_stacks_with_a_lightning_lora_in_either_order(host, wan, plain, tmp_path):
    lightning = comfy.utils.load_torch_file(
        str(tiny.write_lora(tmp_path / "l.safetensors", spelling="kohya", alpha=2, seed=9))
    )
    stock = lambda model: comfy.sd.load_lora_for_models(model, None, lightning, 1.0, 0)[0]  # noqa: E731
    pusa = lambda model: host.load_pusa_lora(model, str(plain[0]), 1.4)[0]  # noqa: E731
    first, second, alone = weights(stock(pusa(wan))), weights(pusa(stock(wan))), weights(pusa(wan))
    assert all(torch.allclose(first[key], second[key], atol=1e-5) for key in first)
    assert any(not torch.allclose(first[key], alone[key], atol=1e-3) for key in first)


@pytest.mark.parametrize("options, words", [({"dim": 256}, "width 256, this model has width 128"), ({"layers": 1}, "blocks"),
                                            ({"layers": 3}, "lacks")])  # fmt: skip
def test_a_lora_for_another_model_is_an_error(host, wan, tmp_path, options, words):
    path = tiny.write_lora(tmp_path / "other.safetensors", **options)
    patches = dict(wan.patches)
    with pytest.raises(ValueError, match=words):
        host.load_pusa_lora(wan, str(path), 1.4)
    assert wan.patches == patches


@pytest.fixture
def loras(tmp_path, monkeypatch):
    """A folder that ComfyUI lists as its loras."""
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors", ".pt"}))
    folder_paths.filename_list_cache.pop("loras", None)
    for seed, name in enumerate(("pusa.safetensors", "low.pt")):
        tiny.write_lora(tmp_path / name, seed=seed)
    yield tmp_path
    folder_paths.filename_list_cache.pop("loras", None)


def test_the_loader_nodes(pack, wan, low_noise_wan, loras):
    one = pack.nodes.loaders.PusaLoraLoader.execute(wan, "pusa.safetensors", 1.4).args
    assert len(one[0].patches) == 20
    assert "20 of 20 modules" in one[1]
    high, low, report = pack.nodes.loaders.PusaLoraLoaderHighLow.execute(
        wan, low_noise_wan, "pusa.safetensors", "low.pt", 1.5, 1.4
    ).args
    strengths = [{patch[0] for patches in model.patches.values() for patch in patches} for model in (high, low)]
    assert strengths == [{1.5}, {1.4}]
    assert "high noise: pusa.safetensors" in report
    assert "low noise: low.pt" in report


def test_the_loader_lists_what_comfyui_lists(pack, loras):
    inputs = {i.id: i for i in pack.nodes.loaders.PusaLoraLoader.define_schema().inputs}
    assert inputs["lora_name"].options == ["low.pt", "pusa.safetensors"]
    assert inputs["alpha"].default == 1.4

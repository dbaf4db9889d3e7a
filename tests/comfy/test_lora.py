"""The LoRA on a real ComfyUI model, through ComfyUI's own patches."""

import comfy.lora
import comfy.sd
import comfy.utils
import folder_paths
import pytest
import torch
from safetensors.torch import load_file

from demo_model import BASE, FIRST_FRAME_LORA, LORA
from pusa_core.lora import read_lora
from tests import tiny

SHIPPED = (LORA, FIRST_FRAME_LORA)
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


# --- stock loaders on what the trainer writes, and on what is shipped ---------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(model file, LoRA file), the latter as the trainer writes it, with random weights."""
    pytest.importorskip("peft", reason="the trainer's packages are not installed: pip install .[train]")
    from pusa_core.hosts.diffusers import open_wan
    from trainer.lora import add_lora, lora_state, save_weights

    folder = tmp_path_factory.mktemp("trained")
    model = tiny.write_wan(folder / "wan.safetensors", seed=1)
    with torch.inference_mode(False):
        wan = open_wan(model, torch.float32)
        for weight in add_lora(wan, 4, seed=0):
            torch.nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(weight.numel()))
        save_weights(lora_state(wan), folder / "pusa_lora.safetensors", torch.float32)
    return model, folder / "pusa_lora.safetensors"


@pytest.fixture(params=["trained", *SHIPPED], ids=lambda source: getattr(source, "stem", source))
def model_and_lora(request):
    return request.getfixturevalue("trained") if request.param == "trained" else (BASE, request.param)


def test_comfyuis_own_loader_does_what_ours_does(host, model_and_lora):
    model_file, lora_file = model_and_lora
    model, tensors = tiny.load_wan(model_file), comfy.utils.load_torch_file(str(lora_file))
    ours, report = host.load_pusa_lora(model, str(lora_file), 1.0)
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    assert len(comfy.lora.load_lora(dict(tensors), keys)) == report.matched == report.total
    stock = comfy.sd.load_lora_for_models(model, None, tensors, 1.0, 0)[0]
    assert len(stock.patches) == report.total
    before, after, expected = weights(model), weights(stock), weights(ours)
    assert all(torch.allclose(after[key], expected[key], atol=1e-6) for key in expected)
    assert sum(not torch.equal(after[key], before[key]) for key in before) == report.total


def test_diffusers_own_loader_does_what_ours_does(model_and_lora):
    diffusers = pytest.importorskip("diffusers", reason="Diffusers is not installed: pip install .[diffusers]")
    from peft.tuners.lora import LoraLayer

    from pusa_core.hosts.diffusers import open_wan
    from pusa_core.wan import original_key

    model_file, lora_file = model_and_lora
    with torch.inference_mode(False):
        pipe = diffusers.WanPipeline(None, None, None, None, open_wan(model_file, torch.float32))
        pipe.load_lora_weights(str(lora_file.parent), weight_name=lora_file.name, adapter_name="stock")
    layers = {name: layer for name, layer in pipe.transformer.named_modules() if isinstance(layer, LoraLayer)}
    deltas = {original_key(f"{name}.weight").removesuffix(".weight"): layer for name, layer in layers.items()}
    expected = read_lora(lora_file).modules
    assert deltas.keys() == expected.keys()
    for name, module in expected.items():
        ours = module.scale * module.up.float() @ module.down.float()
        assert torch.allclose(deltas[name].get_delta_weight("stock"), ours, atol=1e-6), name
        assert ours.abs().max() > 0, name


def test_the_trainers_file_may_be_read_by_whom_the_user_lets(trained, tmp_path):
    (tmp_path / "new").touch()
    assert trained[1].stat().st_mode == (tmp_path / "new").stat().st_mode


def test_a_lora_in_the_authors_spelling_goes_on_in_the_trainer(trained, tmp_path):
    """That is what the trainer's checkpoints hold that were written before."""
    from pusa_core.hosts.diffusers import open_wan
    from trainer.lora import add_lora, load_lora, lora_state, save_weights

    model_file, lora_file = trained
    state = load_file(lora_file)
    older = {k.removeprefix("diffusion_model.").replace(".weight", ".default.weight"): v for k, v in state.items()}
    assert "blocks.0.self_attn.q.lora_A.default.weight" in older
    save_weights(older, tmp_path / "older.safetensors", torch.float32)
    with torch.inference_mode(False):
        wan = open_wan(model_file, torch.float32)
        add_lora(wan, 4, seed=1)
    assert not all(torch.equal(tensor, state[key]) for key, tensor in lora_state(wan).items())
    load_lora(wan, tmp_path / "older.safetensors")
    assert all(torch.equal(tensor, state[key]) for key, tensor in lora_state(wan).items())

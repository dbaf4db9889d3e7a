"""Baked checkpoints and compressed LoRAs through ComfyUI's own loaders, and what is said of LoRAs that are there twice."""

import logging

import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.utils
import pytest
import torch

from pusa_core.bake import LoraFile, bake
from pusa_core.lora import read_lora
from pusa_core.lora_compress import Limit, compress_lora
from tests import tiny

pytestmark = pytest.mark.usefixtures("inference_mode")


@pytest.fixture(scope="module")
def loras(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loras")
    pusa = tiny.write_lora(folder / "pusa.safetensors", ranks=(4, 6, 8), seed=5)
    lightning = tiny.write_lora(folder / "lightning.safetensors", spelling="kohya", alpha=2, seed=9)
    return [LoraFile(pusa, 1.4), LoraFile(lightning, 0.7)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.write_wan(tmp_path_factory.mktemp("base") / "base.safetensors", seed=1)


def stock(model, lora, strength=None):
    tensors = comfy.utils.load_torch_file(str(lora.path), safe_load=True)
    return comfy.sd.load_lora_for_models(model, None, tensors, lora.alpha if strength is None else strength, 0)[0]


@pytest.fixture(scope="module")
def sampled(text):
    noise = torch.randn(1, 16, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def run(model):
        euler, sigmas = comfy.samplers.sampler_object("euler"), torch.tensor([1.0, 0.8, 0.4])
        return comfy.sample.sample_custom(
            model, noise, 2.0, euler, sigmas, text.positive, text.negative, torch.zeros_like(noise), disable_pbar=True, seed=1
        )

    return run


def distance(one, other):
    return float((one - other).norm() / other.norm())


@pytest.fixture(scope="module")
def exact(base, loras, sampled):
    """What the model does with both LoRAs on it as patches."""
    model = tiny.load_wan(base)
    with torch.inference_mode():
        for lora in loras:
            model = stock(model, lora)
        return sampled(model)


@pytest.mark.parametrize("form, goal", [("bf16", 0.01), ("fp8_scaled", 0.06)])
def test_the_stock_loader_reads_what_was_baked(base, loras, sampled, exact, tmp_path, form, goal):
    path = tmp_path / "baked.safetensors"
    bake(base, loras, path, form)
    model = tiny.load_wan(path)
    weight = model.model.diffusion_model.blocks[0].self_attn.q.weight
    assert ("QuantizedTensor" in type(weight).__name__) == (form == "fp8_scaled")
    made = sampled(model)
    assert distance(made, exact) < goal < distance(made, sampled(tiny.load_wan(base)))


def test_a_baked_fp8_model_is_as_good_as_loras_on_an_fp8_model(base, loras, sampled, exact, tmp_path):
    """And the pack's own loader stacks another LoRA on it."""
    bake(base, [LoraFile(loras[0].path, 0.0)], tmp_path / "plain.safetensors", "fp8_scaled")
    bake(tmp_path / "plain.safetensors", loras, tmp_path / "baked.safetensors", "fp8_scaled")
    patched = tiny.load_wan(tmp_path / "plain.safetensors")
    for lora in loras:
        patched = stock(patched, lora)
    baked = tiny.load_wan(tmp_path / "baked.safetensors")
    assert distance(sampled(baked), exact) < 1.3 * distance(sampled(patched), exact)
    assert distance(sampled(stock(baked, loras[0], 3.0)), sampled(baked)) > 0.1


def test_diffusers_reads_what_was_baked(base, loras, tmp_path):
    pytest.importorskip("diffusers", reason="Diffusers is not installed: pip install .[diffusers]")
    from pusa_core.hosts.diffusers import open_wan

    wans = []
    for form in ("bf16", "fp8_scaled"):
        bake(base, loras, tmp_path / f"{form}.safetensors", form)
        with torch.inference_mode(False):
            wans.append(open_wan(tmp_path / f"{form}.safetensors", torch.float32).state_dict())
    for key, weight in wans[0].items():
        assert distance(wans[1][key], weight) < 0.04, key


def test_diffusers_own_loader_reads_what_was_compressed(base, loras, tmp_path):
    """Ranks differ between modules, too."""
    diffusers = pytest.importorskip("diffusers", reason="Diffusers is not installed: pip install .[diffusers]")
    from peft.tuners.lora import LoraLayer

    from pusa_core.hosts.diffusers import open_wan
    from pusa_core.wan import original_key

    compress_lora(read_lora(loras[0].path), tmp_path / "new.safetensors", Limit(energy=0.9))
    wanted = read_lora(tmp_path / "new.safetensors").modules
    assert len({module.rank for module in wanted.values()}) > 1
    with torch.inference_mode(False):
        pipe = diffusers.WanPipeline(None, None, None, None, open_wan(base, torch.float32))
        pipe.load_lora_weights(str(tmp_path), weight_name="new.safetensors", adapter_name="stock")
    layers = [(name, layer) for name, layer in pipe.transformer.named_modules() if isinstance(layer, LoraLayer)]
    assert len(layers) == len(wanted)
    for name, layer in layers:
        module = wanted[original_key(f"{name}.weight").removesuffix(".weight")]
        assert distance(layer.get_delta_weight("stock"), module.up.float() @ module.down.float()) < 1e-5, name


def test_stock_loaders_read_what_was_compressed(host, base, loras, tmp_path):
    new = tmp_path / "new.safetensors"
    compress_lora(read_lora(loras[0].path), new, Limit(energy=0.999999))
    model = tiny.load_wan(base)
    patched, report = host.load_pusa_lora(model, str(new), 1.0)
    assert (report.rank_min, report.rank_max, report.scale_min, report.scale_max) == (4, 8, 1, 1)
    wanted = {f"diffusion_model.{name}.weight": m.up @ m.down for name, m in read_lora(loras[0].path).modules.items()}
    for loaded in (patched, stock(model, LoraFile(new, 1.0))):
        assert loaded.patches.keys() == wanted.keys()
        for key, update in wanted.items():
            weight = torch.zeros_like(update)
            assert distance(comfy.lora.calculate_weight(loaded.patches[key], weight, key), update) < 0.01


# --- noticed ---------------------------------------------------------------------------------------------------------


def warnings(caplog, call):
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        result = call()
    return [record.message for record in caplog.records if record.message.startswith("Warning: ")], result


def load(host, caplog, model, path, alpha=1.4, **more):
    said, (patched, report) = warnings(caplog, lambda: host.load_pusa_lora(model, str(path), alpha, **more))
    assert list(report.warnings) == said and str(report).count("Warning: ") == len(said)
    return said, patched


def test_a_lora_that_is_on_the_model_already_is_noticed_whichever_loader_put_it_there(host, caplog, base, loras, tmp_path):
    pusa, lightning = loras
    model = tiny.load_wan(base)
    said, once = load(host, caplog, stock(model, lightning), pusa.path)
    assert not said
    for first in (once, stock(model, pusa), stock(stock(model, lightning), pusa)):
        said, twice = load(host, caplog, first, pusa.path, 1.0)
        (warning,) = said
        assert "pusa.safetensors is on this model 2 times, with strengths 1.4 and 1" in warning
        assert len(twice.patches["diffusion_model.blocks.0.self_attn.q.weight"]) >= 2, "it is said, not refused"
    compress_lora(read_lora(pusa.path), tmp_path / "smaller.safetensors", Limit(3))
    assert load(host, caplog, once, tmp_path / "smaller.safetensors")[0], "its source is on the model"
    assert not load(host, caplog, once, tiny.write_lora(tmp_path / "other.safetensors", seed=8))[0]
    assert not load(host, caplog, host.load_pusa_lora(model, str(pusa.path), 0.0)[0], pusa.path)[0], "at 0 it does nothing"


def test_samplers_notice_what_a_stock_loader_put_on_again(pack, host, caplog, base, loras, make_clip):
    once = host.load_pusa_lora(tiny.load_wan(base), str(loras[0].path), 1.4)[0]
    clip = make_clip(once, {0: 0.0})
    apply = pack.nodes.schedule.PusaApplySchedule
    assert warnings(caplog, lambda: apply.execute(stock(once, loras[1]), clip.plan))[0] == []
    (warning,) = warnings(caplog, lambda: apply.execute(stock(once, loras[0], 1.0), clip.plan))[0]
    assert "the same LoRA is on this model 2 times, with strengths 1.4 and 1" in warning


def test_the_sampler_looks_at_both_models(pack, host, caplog, base, loras, text, make_clip):
    model = tiny.load_wan(base)
    once, other = (host.load_pusa_lora(model, str(lora.path), 1.4)[0] for lora in loras)
    clip, node = make_clip(once, {0: 0.0}), pack.nodes.sampling.PusaKSampler

    def sample(low):
        given = text.positive, text.negative, clip.latent, 0, 2, 1.0, "euler", "pusa", 5.0, 1.0
        return node.execute(once, *given, schedule=clip.plan, low_noise_model=low)

    assert warnings(caplog, lambda: sample(other))[0] == []
    assert len(warnings(caplog, lambda: sample(stock(other, loras[1], 1.0)))[0]) == 1


def remembers_files(model):
    return getattr(model, "cached_patcher_init", None) is not None


def test_a_lora_that_the_checkpoint_holds_is_noticed_where_its_file_is_known(
    pack, host, caplog, base, loras, make_clip, tmp_path
):
    bake(base, loras, tmp_path / "baked.safetensors")
    model = tiny.load_wan(tmp_path / "baked.safetensors")
    said, patched = load(host, caplog, model, loras[0].path)
    assert len(said) == remembers_files(model)
    if said:
        assert "pusa.safetensors was merged into baked.safetensors already, with alpha 1.4" in said[0]
    clip, apply = make_clip(model, {0: 0.0}), pack.nodes.schedule.PusaApplySchedule
    assert warnings(caplog, lambda: apply.execute(stock(model, loras[0]), clip.plan))[0] == said
    assert not load(host, caplog, model, tiny.write_lora(tmp_path / "other.safetensors", seed=8))[0]


HIGH, LOW = "Wan22_PusaV1_lora_HIGH_resized_bf16.safetensors", "low_noise_pusa.safetensors"


@pytest.fixture
def experts(tmp_path):
    """Files with the published names: LoRAs, and checkpoints that say which they are."""
    for seed, name in enumerate((HIGH, LOW)):
        tiny.write_lora(tmp_path / name, seed=seed)
        expert = ("high", "low")[seed]
        tiny.write_wan(tmp_path / f"wan2.2_t2v_{expert}_noise_14B_fp16.safetensors", seed=seed)
    return tmp_path


def test_high_and_low_exchanged_are_noticed_by_their_names(pack, caplog, experts, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_full_path_or_raise", lambda kind, name: str(experts / name))
    high, low = (tiny.load_wan(experts / f"wan2.2_t2v_{name}_noise_14B_fp16.safetensors") for name in ("high", "low"))
    known = remembers_files(high)
    both, single = pack.nodes.loaders.PusaLoraLoaderHighLow, pack.nodes.loaders.PusaLoraLoader

    def said(node, *given):
        return warnings(caplog, lambda: node.execute(*given))[0]

    assert said(both, high, low, HIGH, LOW, 1.5, 1.4) == []
    lines = said(both, high, low, LOW, HIGH, 1.5, 1.4)
    assert [line.partition(" says")[0].rpartition(" ")[2] for line in lines] == [LOW, HIGH]
    assert len(said(both, low, high, HIGH, LOW, 1.5, 1.4)) == 2 * known
    (same, name) = said(both, high, low, HIGH, HIGH, 1.5, 1.4)[::-1]
    assert "both models got the same LoRA" in same and "low_noise_lora is for low noise" in name
    assert said(single, high, HIGH, 1.4) == said(single, low, LOW, 1.4) == []
    assert len(said(single, high, LOW, 1.4)) == known

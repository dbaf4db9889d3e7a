"""The nodes that make files, in folders that stand for ComfyUI's."""

import logging

import folder_paths
import pytest
import torch
from safetensors.torch import load_file

from pusa_core.lora import read_lora
from tests import tiny

pytestmark = pytest.mark.usefixtures("inference_mode")


@pytest.fixture
def folders(comfyui, tmp_path, monkeypatch):
    """models/loras and models/diffusion_models, with a LoRA and a checkpoint."""
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", dict(folder_paths.folder_names_and_paths))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    for kind in ("loras", "diffusion_models"):
        (tmp_path / kind).mkdir()
        folder_paths.folder_names_and_paths[kind] = ([str(tmp_path / kind)], folder_paths.supported_pt_extensions)
    tiny.write_lora(tmp_path / "loras" / "pusa.safetensors", ranks=(4, 6))
    tiny.write_wan(tmp_path / "diffusion_models" / "wan.safetensors", dtype=torch.bfloat16)
    return tmp_path


def test_compress_writes_a_file_and_reports_every_module(pack, folders):
    output = pack.nodes.files.PusaCompressLora.execute("pusa.safetensors", 2, 1.0, "small/../small")
    report, modules = output.args
    made = read_lora(folders / "loras" / "small.safetensors")
    assert {module.rank for module in made.modules.values()} == {2}
    assert "pusa.safetensors became small.safetensors" in report and output.ui.as_dict() == {"text": (report,)}
    assert [line.split("\t")[:2] for line in modules.splitlines()] == [[name, "2"] for name in made.modules]


@pytest.mark.parametrize("form, dtype", [("bf16", torch.bfloat16), ("fp8_scaled", torch.float8_e4m3fn)])
def test_bake_writes_a_checkpoint(pack, folders, caplog, form, dtype):
    bake = pack.nodes.files.PusaBakeLoras.execute
    (report,) = bake("wan.safetensors", "pusa.safetensors", 1.4, form=form, name="both.safetensors").args
    made = load_file(folders / "diffusion_models" / "both.safetensors")
    assert made["blocks.0.ffn.0.weight"].dtype == dtype
    assert "both.safetensors: wan.safetensors with pusa.safetensors (1.4)" in report and not caplog.records
    with caplog.at_level(logging.WARNING):
        (report,) = bake("both.safetensors", "pusa.safetensors", 1.0, lora_2="none", form=form, name="again").args
    assert "Warning: pusa.safetensors was merged into both.safetensors already" in report
    assert [record.message for record in caplog.records] == report.splitlines()[2:]


def test_bake_takes_any_file_of_a_model_in_several(pack, folders):
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed: pip install .[diffusers]")
    models = folders / "diffusion_models"
    whole = load_file(models / "wan.safetensors")
    hub.save_torch_state_dict(whole, models, max_shard_size=2**20)
    shard = sorted(path.name for path in models.glob("model-*"))[1]
    assert shard in folder_paths.get_filename_list("diffusion_models")
    pack.nodes.files.PusaBakeLoras.execute(shard, "pusa.safetensors", 1.4, name="baked")
    assert load_file(models / "baked.safetensors").keys() > whole.keys()


def test_the_new_files_are_offered_by_loaders(pack, folders):
    pack.nodes.files.PusaCompressLora.execute("pusa.safetensors", 2, 1.0, "small")
    pack.nodes.files.PusaBakeLoras.execute("wan.safetensors", "small.safetensors", 1.0, name="baked")
    assert "small.safetensors" in folder_paths.get_filename_list("loras")
    assert "baked.safetensors" in folder_paths.get_filename_list("diffusion_models")


def test_a_new_checkpoint_goes_where_the_node_says(pack, folders, monkeypatch):
    """Not into ComfyUI's own models/unet, which it lists before models/diffusion_models; a folder that the user puts first
    is taken, whatever its name."""
    monkeypatch.setattr(folder_paths, "models_dir", str(folders))
    paths = folder_paths.folder_names_and_paths["diffusion_models"][0]
    paths.insert(0, str(folders / "unet"))
    assert pack.nodes.files.target("diffusion_models", "new") == folders / "diffusion_models" / "new.safetensors"
    paths.insert(0, str(folders / "elsewhere" / "unet"))
    assert pack.nodes.files.target("diffusion_models", "new") == folders / "elsewhere" / "unet" / "new.safetensors"


@pytest.mark.parametrize("name", ["", " ", ".safetensors", "../loras", "../../etc/passwd", "/tmp/elsewhere", "a\0b"])
def test_names_that_lead_elsewhere_are_refused(pack, folders, name):
    before = sorted(folders.rglob("*"))
    with pytest.raises(ValueError, match="is no name of a file in .*: give a plain one"):
        pack.nodes.files.PusaBakeLoras.execute("wan.safetensors", "pusa.safetensors", 1.0, name=name)
    assert sorted(folders.rglob("*")) == before


def test_cancel_leaves_nothing(pack, folders):
    import comfy.model_management

    before = sorted(folders.rglob("*"))
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        pack.nodes.files.PusaBakeLoras.execute("wan.safetensors", "pusa.safetensors", 1.0)
    assert sorted(folders.rglob("*")) == before

"""What files say of how they were made, and which of Wan2.2's two models names speak of."""

import json

import pytest

from pusa_core.provenance import KEY, MergedLora, expert, merged_before, merged_loras, swapped

HIGH = [
    "high_noise_pusa.safetensors",
    "Wan22_PusaV1_lora_HIGH_resized_dynamic_avg_rank_98_bf16.safetensors",
    "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors",
    "wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise.safetensors",
    "Wan2.2-T2V-A14B-HighNoise-Q4_K_M.gguf",
    "Wan2_2-T2V-A14B_HIGH_fp8_e4m3fn_scaled_KJ.safetensors",
    "pusa-high.safetensors",
    "wan22 High.safetensors",
]
NEITHER = [
    "pusa_v1.pt",
    "Wan21_PusaV1_LoRA_14B_rank512_bf16.safetensors",
    "wan_high_quality.safetensors",
    "highres_fix.safetensors",
    "high-res.safetensors",
    "slow_motion.safetensors",
    "HighQuality.safetensors",
    "low_rank.safetensors",
    "lowrank_high_and_low.safetensors",
    "high_noise_and_low_noise_merged.safetensors",
    "flower_thigh.safetensors",
    "",
]


@pytest.mark.parametrize("name", HIGH)
def test_names_that_say_which_model_they_are_for(name):
    assert expert(name) == "high"
    assert expert(name.replace("high", "low").replace("High", "Low").replace("HIGH", "LOW")) == "low"


@pytest.mark.parametrize("name", NEITHER)
def test_names_that_do_not(name):
    assert expert(name) is None


def test_only_a_name_that_says_the_other_one_is_warned_of():
    (warning,) = swapped(HIGH[0], "low.safetensors", "low")
    assert "the name of high_noise_pusa.safetensors says high noise, but low.safetensors is for low noise" in warning
    for name, wanted in ((HIGH[0], "high"), (HIGH[0], None), (NEITHER[0], "low"), (NEITHER[0], None)):
        assert swapped(name, "x", wanted) == []


@pytest.mark.parametrize(
    "made",
    ["", "{", "[]", "3", "null", '{"loras": 3}', '{"loras": [3]}', '{"loras": [{"file": "a"}]}', "[" * 100_000,
     '{"loras": [{"file": "a", "alpha": "x", "id": "b"}]}'],
)  # fmt: skip
def test_metadata_that_is_not_ours_says_nothing(made):
    assert merged_loras({KEY: made}) == merged_loras({}) == ()


def test_metadata_of_ours_is_read():
    (lora,) = merged_loras({KEY: json.dumps({"loras": [{"file": "a", "alpha": 1.4, "id": "b"}]})})
    assert (lora.file, lora.alpha, lora.id) == ("a", 1.4, "b")


def test_a_lora_that_was_merged_with_alpha_0_is_not_there():
    loras = [MergedLora("a", 1.4, "1"), MergedLora("b", 0.0, "2"), MergedLora("c", 1.0, "3")]
    (warning,) = merged_before(loras, ["1", "2"], "baked.safetensors")
    assert "a was merged into baked.safetensors already, with alpha 1.4" in warning

"""The table of what each Wan can do, and those who read it."""

from environment.comfyui import PACK
from pusa_core.capabilities import CHECKPOINTS, VAES, as_markdown, checkpoints_of


def test_the_readme_has_the_table():
    assert as_markdown() in (PACK / "README.md").read_text(encoding="utf-8")


def test_every_kind_says_why_or_works():
    for checkpoint in CHECKPOINTS:
        assert checkpoint.works == bool(checkpoint.lora), checkpoint.name
        assert not checkpoint.works or checkpoint.channels in VAES


def test_a_class_is_known_by_its_kinds_that_work_first():
    kinds = checkpoints_of("WAN21")
    assert kinds[0].works and not kinds[-1].works
    assert checkpoints_of("Flux") == []

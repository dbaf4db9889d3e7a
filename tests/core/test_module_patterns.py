"""PEFT's patterns of module names: what `re` gives, but never for ever."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pusa_core.module_patterns import MAX_PATTERN, ModulePatterns, PatternError

NAMES = ["blocks.0.self_attn.q", "blocks.10.ffn.0", "blocks.1.attn1.to_out.0", "lora_unet_blocks_0_ffn_2", "q"]


def by_re(patterns, name, default):
    """As PEFT finds the pattern of a module."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", name)), default)


atoms = st.sampled_from(
    ["a", "b", ".", r"\.", r"\d", r"\w", r"\S", "[ab]", "[^a.]", "[]a]", "[a-c1-3]", r"[\]b]", "1", "^", "$"]
)
expressions = st.recursive(
    atoms,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=4).map("".join)
        | st.tuples(inner, inner).map("({0[0]}|{0[1]})".format)
        | st.tuples(inner, st.sampled_from(["*", "+", "?", "*?", "+?", "??"])).map("(?:{0[0]}){0[1]}".format)
        | st.tuples(st.sampled_from(["a", r"\.", "[ab]", r"\d"]), st.sampled_from("*+?")).map("".join)
    ),
    max_leaves=8,
).filter(lambda pattern: len(pattern) <= MAX_PATTERN)


@given(st.dictionaries(expressions, st.integers(), max_size=4), st.text("ab1.", min_size=1, max_size=12))
def test_expressions_match_as_re_does(patterns, name):
    plain = {key: value for key, value in patterns.items() if not re.fullmatch(r"\^?(?:[\w-]|\\?\.)+", key)}
    assert ModulePatterns(plain).get(name, None) == by_re(plain, name, None)


@given(
    st.text("abq1.", min_size=1, max_size=8),
    st.sampled_from(["", "^"]),
    st.booleans(),
    st.sampled_from(NAMES + ["a.b", "a.a.b"]),
)
def test_plain_text_matches_whole_last_parts(text, caret, escaped, name):
    pattern = caret + (text.replace(".", r"\.") if escaped else text)
    expected = name == text if caret else f".{name}".endswith(f".{text}")
    assert ModulePatterns({pattern: 1}).get(name, 0) == expected


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "patterns",
    [{}, {"q": 1, "self_attn.q": 2}, {"self_attn.q": 2, "q": 1}, {r"blocks\.\d+\.(self|cross)_attn\.[qk]": 1, "q": 2}]
    + [
        {"q": 2, r"blocks\.\d+\.(self|cross)_attn\.[qk]": 1},
        {r".*attn1\..*": 1},
        {"^blocks.1.*0": 1, "^q": 3},
        {"": 1, "$": 2},
    ],
)
def test_the_first_pattern_that_matches_counts_as_in_peft(patterns, name):
    assert ModulePatterns(patterns).get(name, 0) == by_re(patterns, name, 0)


@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "(a|aa)+$", "(a*)*b", "(.*.*)*x", "((a?)*)*b", ".*.*.*.*.*.*b", "(a|a)" * 30 + "b"]
)
def test_what_runs_for_ever_in_re_ends(pattern):
    assert ModulePatterns({pattern: 1}).get("a" * 200 + "!", 0) == 0


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        ")",
        "a)",
        "*a",
        "a**",
        "a++",
        "a{2,3}",
        r"\1",
        r"(a)\1",
        r"a\b",
        r"\Z",
        "(?=a)",
        "(?i)a",
        "(?P<n>a)",
        "[a",
        "[b-a]",
    ]
    + ["\\", "(" * 9 + "a" + ")" * 9, "(" * 150, "(a)" * 100],
)
def test_patterns_that_are_not_understood(pattern):
    with pytest.raises(PatternError, match="is not understood, use names of modules$") as caught:
        ModulePatterns({pattern: 1})
    assert len(str(caught.value)) < 150


def test_tangled_patterns_take_too_long():
    patterns = ModulePatterns({"(.*.*)*" * 28 + chr(ord("a") + i): i for i in range(20)})
    with pytest.raises(PatternError, match="take too long"):
        for i in range(1000):
            patterns.get(f"{i}" + ".x" * 100, 0)


def test_a_pattern_for_each_of_many_modules_takes_no_work(monkeypatch):
    monkeypatch.setattr("pusa_core.module_patterns.MAX_WORK", 0)
    names = [f"blocks.{i}.ffn.0" for i in range(10_000)]
    patterns = ModulePatterns({name: number for number, name in enumerate(names)})
    assert [patterns.get(name, None) for name in names] == list(range(10_000))

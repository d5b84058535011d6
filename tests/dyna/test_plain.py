"""Plain data: what is written is read back, and a command line's texts become the data that a person means."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyna import plain
from dyna.errors import UserError

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
data = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@given(data)
def test_what_is_written_is_read_back_with_its_types(value: Any) -> None:
    assert repr(plain.read(plain.write(value))) == repr(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1e5", 1e5),
        ("3E-4", 3e-4),
        ("1_000", 1000),
        ("-7", -7),
        (".5", 0.5),
        ("null", None),
        ("None", None),
        ("True", True),
        ("false", False),
        ("no", "no"),
        ("2024-01-01", "2024-01-01"),
        ("1:30", "1:30"),
        ("lin_3e-4", "lin_3e-4"),
        ("[1,episode]", [1, "episode"]),
        ("{pi: [64, 64], vf: []}", {"pi": [64, 64], "vf": []}),
    ],
)
def test_texts_mean_what_a_person_means(text: str, value: Any) -> None:
    assert repr(plain.read(text)) == repr(value)


@pytest.mark.parametrize(
    "text",
    ["a: 1\nb: 2\na: 3", "c:\n  a: 1\n  'a': 1", "[{b: {\na: 1,\n\na: 3}}]", "- &x {a: 1}\n- <<: *x\n  a: 2\n  a: 3"],
)
def test_no_key_is_lost_to_another_of_its_name(text: str) -> None:
    with pytest.raises(UserError, match=r"the key 'a' stands twice, in lines \d and [34]: keep one"):
        plain.read(text)


def test_what_is_merged_may_be_replaced() -> None:
    text = "- {<<: &later {<<: &first {a: 1, b: 1}, a: 2}, b: 3}\n- *later\n- *first\n- {<<: *first, <<: *later}"
    assert plain.read(text) == [{"a": 2, "b": 3}, {"a": 2, "b": 1}, {"a": 1, "b": 1}, {"a": 2, "b": 1}]


def test_yaml_runs_no_code() -> None:
    with pytest.raises(UserError, match="is not YAML"):
        plain.read("!!python/object/apply:os.getcwd []")


few = st.recursive(st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner), max_leaves=6)
mappings = st.dictionaries(st.sampled_from("abc"), few)


@given(mappings, mappings)
def test_a_merge_lets_the_upper_win_and_forgets_nothing(under: dict[str, Any], over: dict[str, Any]) -> None:
    merged = plain.merge(under, over)
    assert merged.keys() == under.keys() | over.keys()
    for key, value in merged.items():
        both = isinstance(over.get(key), dict) and isinstance(under.get(key), dict)
        expected = plain.merge(under[key], over[key]) if both else over.get(key, under.get(key))
        assert repr(value) == repr(expected)


def test_a_merge_leaves_its_arguments_alone() -> None:
    under: dict[str, Any] = {"a": {"b": [1]}}
    plain.merge(under, {"a": {"c": 2}})["a"]["b"].append(2)
    assert under == {"a": {"b": [1]}}


def test_dotted_keys_reach_inside() -> None:
    assert plain.assignments(["a.b=1", "a.c=[2]", "d=x=y"]) == {"a": {"b": 1, "c": [2]}, "d": "x=y"}


@pytest.mark.parametrize(
    "item",
    [
        "map=#.S",
        "map=[S.., #.., ..G]",
        "map=S.. #.. ..G",
        "a='#' #",
        "a=1 # one",
        "map=[#.S, G..]",
        "a=[1, 2]#3",
        "a={b: 1}#c",
        "a=it's #1's",
    ],
)
def test_nothing_is_lost_to_a_comment(item: str) -> None:
    with pytest.raises(UserError, match="has a # that begins a comment: put quotes round the text"):
        plain.assignments([item])


def test_a_number_sign_in_a_text_is_part_of_it() -> None:
    assert plain.assignments(["map=[S.#, .#G]", "a='# b'", "c=[\"#S\", '.#']", 'd="a \\" # b"']) == {
        "map": ["S.#", ".#G"],
        "a": "# b",
        "c": ["#S", ".#"],
        "d": 'a " # b',
    }


@pytest.mark.parametrize("item", ["gamma", "=3", "gamma=", "a..b=1", "gamma=[", ".a=1"])
def test_what_is_no_assignment_is_refused_with_its_text(item: str) -> None:
    with pytest.raises(UserError) as error:
        plain.assignments([item])
    assert repr(item.rpartition("=")[2] if item.endswith("[") else item) in str(error.value)

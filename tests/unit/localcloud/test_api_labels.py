"""The label selector language, held against a second reading of its table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from localcloud.api.errors import ApiError
from localcloud.api.labels import label_problem, selector

KEYS = st.sampled_from(["env", "a.b/env", "in", "notin", "x"])
VALUES = st.sampled_from(["", "prod", "v1.2", "in"])
LABELS = st.dictionaries(KEYS, VALUES)


@given(LABELS, KEYS, VALUES, st.lists(VALUES.filter(bool), min_size=1, max_size=3), st.sampled_from(["", " "]))
def test_every_expression_means_what_the_table_says(labels: dict[str, str], key: str, value: str, values: list[str], space: str) -> None:
    listed = f"({f',{space}'.join(values)})"
    expected = {
        f"{key}{space}={space}{value}": labels.get(key) == value,
        f"{key}=={value}": labels.get(key) == value,
        f"{key}{space}!={space}{value}": labels.get(key) != value,
        f"{space}{key}{space}": key in labels,
        f"!{space}{key}": key not in labels,
        f"{key} in{space}{listed}": labels.get(key) in values,
        f"{key} notin {listed}": labels.get(key) not in values,
    }
    for text, result in expected.items():
        assert selector(text)(labels) is result, text
    assert selector(f",{space}".join(expected))(labels) is all(expected.values())


@pytest.mark.parametrize("text", ["a=b=c", "a,,b", "a in b", "a in (b", "=b", "a b", "!", "a,", "!a=b", "ä"])
def test_what_cannot_be_parsed_is_refused(text: str) -> None:
    with pytest.raises(ApiError) as caught:
        selector(text)
    assert (caught.value.status, caught.value.code) == (422, "invalid_input")


@pytest.mark.parametrize(
    "labels", [{"a" * 64: ""}, {"a": "b" * 64}, {"-a": ""}, {"a": "b."}, {"hetzner.cloud/a": ""}, {"/a": ""}, {"a/b/c": ""}]
)
def test_labels_that_are_refused(labels: dict[str, str]) -> None:
    assert label_problem(labels)


def test_labels_that_are_taken() -> None:
    assert label_problem({"cutover.stack": "demo", "example.com/my": "label", "a" * 63: "b" * 63, "just-a-key": ""}) is None

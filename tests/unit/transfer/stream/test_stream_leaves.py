"""Which partitions are others than they were."""

from __future__ import annotations

from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream import leaves

BEFORE = {("public", "a"): "1", ("odd.schema", "b.c"): "2"}


def test_a_table_is_changed_when_its_digest_is_another_one_or_it_is_new_and_not_when_it_is_gone() -> None:
    assert leaves.changed(BEFORE, BEFORE) == ()
    assert leaves.changed(BEFORE, {("public", "a"): "9"}) == (("public", "a"),)
    assert leaves.changed({}, BEFORE) == (("odd.schema", "b.c"), ("public", "a"))


def test_what_is_kept_is_read_back_whatever_the_names() -> None:
    assert leaves.from_plain(leaves.plain(BEFORE)) == BEFORE
    assert leaves.from_plain(None) == {}

"""What is written down of a failed task: the reason, never a secret; and which of several failures ended the phase."""

from __future__ import annotations

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.operations.failure import (
    LONGEST,
    UNTOLD,
    Failure,
    clean,
    decisive,
    message_of,
)


@pytest.mark.parametrize(
    "text",
    [
        "cannot connect to postgresql://mover:hunter2@10.0.0.1:5432/app",
        "redis://:hunter2@127.0.0.1/0 refused",
        "password=hunter2 sslmode=require",
        "PGPASSWORD: hunter2",
        '{"db_password": "hunter2", "user": "a"}',
        "vault_token='hunter2'",
        "GET https://x/y?apikey=hunter2&z=1 gave 401",
        "Authorization: Bearer hunter2",
        "authorization=Basic hunter2",
        "header Bearer hunter2hunter2",
        "key sb_secret_hunter2",
        "eyJhunter2.hunter2.hunter2 is expired",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n-----END OPENSSH PRIVATE KEY-----",
    ],
)
def test_secrets_do_not_get_into_the_record(text: str) -> None:
    assert "hunter2" not in clean(text) and "***" in clean(text)


@pytest.mark.parametrize(
    "text",
    ["role mover may not read public.a. Run GRANT SELECT ON public.a TO mover.", "disk is full: 3 of 40 GB", "wrong password of role app"],
)
def test_reasons_stay_as_they_are(text: str) -> None:
    assert clean(text) == text


def test_one_line_of_bounded_length() -> None:
    assert clean("a\n  b\tc") == "a b c"
    assert len(clean("word " * 1000)) == LONGEST


def test_the_message_is_that_of_the_item_that_failed_and_a_hidden_result_stays_hidden() -> None:
    assert (
        message_of({"msg": "All items completed", "results": [{"msg": "fine"}, {"failed": True, "msg": "no space"}]}, False) == "no space"
    )
    assert message_of({"msg": "hunter2"}, True) == UNTOLD
    assert message_of({"msg": "hunter2", "_ansible_no_log": True}, False) == UNTOLD
    assert message_of({"censored": "the output has been hidden"}, False) == UNTOLD
    assert message_of({"results": [{"failed": True, "_ansible_no_log": True, "msg": "hunter2"}]}, False) == UNTOLD
    assert message_of({"stdout": "hunter2", "cmd": "x", "msg": "non-zero return code"}, False) == "non-zero return code"
    assert message_of({}, False) == "no reason given"


def test_the_failure_that_ended_the_phase() -> None:
    def failed(host: str, task: str, phase: str = "two") -> Failure:
        return Failure(phase, task, host, "reason")

    log = [failed("a", "old", "one"), failed("a", "rescued"), failed("b", "rescued too"), failed("c", "first"), failed("a", "second")]
    found = decisive(log, {"a", "c"}, "two")
    assert found is not None and (found.host, found.task) == ("c", "first")
    alone = decisive(log, {"a"}, "two")
    assert alone is not None and alone.task == "second"
    assert decisive(log, set(), "two") is None and decisive(log, {"d"}, "two") is None and decisive(log, {"a"}, "three") is None

from __future__ import annotations

import json

from tests.support.membership import KEY, NEXT_KEY, OTHER_KEY, FakeInstallation, typed


def test_a_rotation_is_queued_and_shown(installation: FakeInstallation) -> None:
    shown = typed("rotate-key", KEY)
    assert (shown.exit_code, installation.asked[-1]) == (0, ("rotate", KEY))
    assert shown.stdout.splitlines() == [
        "transaction 1, Registry.addReceiptKey, is queued",
        "transaction 2, Registry.retireReceiptKey, is queued",
        f"retired key  {KEY}",
        f"next key     {NEXT_KEY}, in use once both transactions are confirmed and indexed",
        f"other key    {OTHER_KEY} is not retired: receipts that it signed still count",
        "receipts     3 unsettled ones are still to be signed again",
    ]


def test_a_rotation_is_waited_for_until_all_receipts_are_signed_again(installation: FakeInstallation) -> None:
    shown = typed("rotate-key", KEY, "--wait")
    assert (shown.exit_code, installation.num_looks) == (0, 3)
    assert shown.stdout.splitlines()[-4:] == [
        f"next key     {NEXT_KEY}, in use",
        f"other key    {OTHER_KEY} is not retired: receipts that it signed still count",
        "receipts     0 unsettled ones are still to be signed again",
        f"set LORALEDGER_RECEIPT_KEY={NEXT_KEY} before the processes are started again",
    ]


def test_a_rotation_as_json(installation: FakeInstallation) -> None:
    shown = typed("rotate-key", KEY, "--json")
    assert json.loads(shown.stdout) == {
        "retiring": [KEY],
        "next_key": NEXT_KEY,
        "other_keys": [OTHER_KEY],
        "is_in_use": False,
        "receipts_to_sign": 3,
        "is_done": False,
        "transactions": [1, 2],
    }
    assert installation.asked[-1] == ("rotate", KEY)

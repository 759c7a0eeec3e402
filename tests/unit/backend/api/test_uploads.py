from __future__ import annotations

from contextlib import ExitStack

import pytest

from backend.api.uploads import UploadsBusy, UploadSlots


def test_neither_an_account_nor_an_address_has_more_than_a_quarter_of_the_slots() -> None:
    slots = UploadSlots(8)
    with slots.take("a", "1"):
        with slots.take("a", "2"), slots.take("b", "1"):
            for account, address in (("a", "3"), ("c", "1")):
                with pytest.raises(UploadsBusy, match="has 2 uploads running"), slots.take(account, address):
                    pass
            with slots.take("b", "2"):
                pass
        with slots.take("a", "1"):
            pass


def test_an_upload_that_fails_frees_its_slot() -> None:
    slots = UploadSlots(4)
    for _ in range(2):
        with pytest.raises(ValueError, match="the upload"), slots.take("a", "1"):
            raise ValueError("the upload")
    with ExitStack() as all_slots:
        for number in range(4):
            all_slots.enter_context(slots.take(f"account {number}", f"address {number}"))
        with pytest.raises(UploadsBusy, match="Too many"), slots.take("a", "1"):
            pass

from __future__ import annotations

import pytest

from backend.services.market.cards import MAX_SUMMARY, MAX_TAGS, read_card


def test_the_summary_is_the_first_paragraph_that_is_text() -> None:
    head = "---\nlicense: mit\n---\n\n# A title\n\n| a | b |\n| --- | --- |\n\n- a list\n\n"
    text = head + "It writes\nverse.\n\nMore."
    card = read_card(text.encode())
    assert (card.title, card.summary) == ("A title", "It writes verse.")
    assert str(card.text).startswith("# A title")


@pytest.mark.parametrize(
    "front",
    [
        "tags: [lora",
        "tags: 7",
        "- a\n- b",
        "&a [*a, *a]",
        "tags: [[a], {a: b}]",
        "date: 2020-99-99",
        "!!bool maybe",
        "a: !!int ''",
        "a: !!timestamp never",
        "a: " + "1:" * 400 + "1.5",
        "&a {b: *c}",
        "!!python/object/apply:os.system [ls]",
        "[" * 5000,
    ],
)
def test_front_matter_that_makes_no_sense_has_no_tags(front: str) -> None:
    card = read_card(f"---\n{front}\n---\n# Still read\n".encode())
    assert (card.title, card.tags) == ("Still read", ())


def test_hostile_text_is_bounded_and_has_no_control_characters() -> None:
    tags = ", ".join(f"t{number}" for number in range(100))
    text = f"---\ntags: [{tags}]\n---\n# A\x1b[2J\x00 title\r\n\r\n{'word ' * 500}\u202e".encode() + b"\xff"
    card = read_card(text)
    assert card.title == "A[2J title"
    assert len(card.tags) == MAX_TAGS
    assert len(card.summary) == MAX_SUMMARY
    assert all(c.isprintable() or c in "\n\t" for c in str(card.text))
    assert read_card(b'---\ntags: ["a\\0b\\e", "\\0"]\n---\nText').tags == ("ab",)


def test_a_file_without_front_matter_is_all_text() -> None:
    assert read_card(b"plain").text == "plain"
    assert read_card(b"").title == ""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from inference.kernels.grouped_attention import group_spans
from inference.kernels.interface import SequenceSpan

MAX_PADDING, FREE_AREA = 2.0, 16_384


@st.composite
def spans(draw: st.DrawFn) -> list[SequenceSpan]:
    """Decodes and prefill chunks laid end to end, over contexts from a few tokens to many."""
    shapes = draw(
        st.lists(
            st.tuples(
                st.sampled_from([1, 1, 1, 2, 7, 64]),
                st.sampled_from([0, 1, 30, 900, 5000]),
                st.integers(0, 9),
            ),
            min_size=1,
            max_size=12,
        )
    )
    result: list[SequenceSpan] = []
    start = 0
    for num_queries, history, extra in shapes:
        context = num_queries + history + extra
        result.append(SequenceSpan(start, num_queries, context, range(1, context + 1)))
        start += num_queries
    return result


@settings(max_examples=60, deadline=None)
@given(spans())
def test_padding_at_most_doubles_a_groups_work_and_every_span_is_in_one_group(
    batch: list[SequenceSpan],
) -> None:
    groups = group_spans(batch)
    for group in groups:
        width = max(span.num_queries for span in group)
        padded_area = len(group) * width * max(span.context_len for span in group)
        real_area = sum(span.num_queries * span.context_len for span in group)
        assert len(group) == 1 or padded_area <= max(MAX_PADDING * real_area, FREE_AREA)
    starts = sorted(span.start for group in groups for span in group)
    assert starts == [span.start for span in batch]


def test_a_newcomer_with_a_longer_context_counts_with_its_own_length() -> None:
    """Few queries over a long context come after many over a short one, and would pad all of those."""
    batch = [SequenceSpan(0, 64, 64, range(64)), SequenceSpan(64, 1, 5000, range(5000))]
    assert len(group_spans(batch)) == 2

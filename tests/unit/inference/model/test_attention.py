from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.model.attention import SequenceSpan, plan_attention, plan_groups

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
def test_padding_at_most_doubles_a_groups_work_and_every_token_is_in_one_group(
    batch: list[SequenceSpan],
) -> None:
    groups = plan_groups(batch, block_size=1, heads_per_kv=1, dtype=torch.float32, device="cpu")
    for group in groups:
        num_sequences, width = group.token_index.shape
        members = [span for span in batch if span.start in set(group.tokens.tolist())]
        real_area = sum(span.num_queries * span.context_len for span in members)
        padded_area = num_sequences * width * group.mask.shape[-1]
        assert len(members) == num_sequences
        assert num_sequences == 1 or padded_area <= max(MAX_PADDING * real_area, FREE_AREA)
    tokens = torch.cat([group.tokens for group in groups])
    assert sorted(tokens.tolist()) == list(range(sum(span.num_queries for span in batch)))


def test_a_newcomer_with_a_longer_context_counts_with_its_own_length() -> None:
    """Few queries over a long context come after many over a short one, and would pad all of those."""
    batch = [SequenceSpan(0, 64, 64, range(64)), SequenceSpan(64, 1, 5000, range(5000))]
    assert len(plan_groups(batch, block_size=1, heads_per_kv=1, dtype=torch.float32, device="cpu")) == 2


@settings(max_examples=60, deadline=None)
@given(spans(), st.booleans())
def test_every_token_is_attended_to_once_over_its_own_past(
    batch: list[SequenceSpan], token_by_token: bool
) -> None:
    plan = plan_attention(batch, 1, 1, torch.float32, "cpu", reads_pages=True, token_by_token=token_by_token)
    assert not (token_by_token and plan.groups)
    grouped = [token for group in plan.groups for token in group.tokens.tolist()]
    paged = [] if plan.paged is None else plan.paged.tokens.tolist()
    assert sorted(grouped + paged) == list(range(sum(span.num_queries for span in batch)))
    if plan.paged is None:
        return
    rows = zip(paged, plan.paged.contexts.tolist(), plan.paged.sequences.tolist(), strict=True)
    for token, context, sequence in rows:
        (span,) = [span for span in batch if span.start <= token < span.start + span.num_queries]
        assert context == span.context_len - span.num_queries + 1 + token - span.start
        table = plan.paged.block_tables[sequence].tolist()
        assert table[: span.context_len] == list(span.block_table)[: span.context_len]

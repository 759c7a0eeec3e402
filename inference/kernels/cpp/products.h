// Products of the base model's matrices, combined with the deltas of a step's adapters.
#pragma once

#include <omp.h>

#include <algorithm>
#include <initializer_list>
#include <vector>

#include "lora.h"
#include "panels.h"

namespace loraledger {

// Rows of a chunk whose initial sums, of all outputs, need room in the L2 cache too.
constexpr Index kChunkRowsWithDeltas = 96;
// The largest tile of rows that stays in the L1 cache while panels pass.
constexpr Index kTileBytes = 40 << 10;

inline Index num_panels(Index out) { return (out + kPanel - 1) / kPanel; }

// Elements of a packed panel with `in` inputs, padding included.
template <class Weight>
inline Index panel_size(Index in) {
    return in * kPanel;
}

// Pack `weight` [out, in] into `packed` [num_panels, in rounded up to whole steps, kPanel], padded with zeros.
template <class Arithmetic>
void pack(const Bfloat16* weight, Index out, Index in, Bfloat16* packed) {
    const Index size = panel_size<Bfloat16>(round_up(in, Arithmetic::kDepth));
#pragma omp parallel for
    for (Index p = 0; p < num_panels(out); ++p) {
        Bfloat16* panel = packed + p * size;
        std::fill(panel, panel + size, Bfloat16{0});
        for (Index output = 0; output < std::min(kPanel, out - p * kPanel); ++output) {
            const Bfloat16* row = weight + (p * kPanel + output) * in;
            for (Index input = 0; input < in; ++input) panel[Arithmetic::offset(input, output)] = row[input];
        }
    }
}

// The sums of tokens [first_token, last_token) for outputs [first, last) of a weight.
struct Window {
    Index first_token, last_token, first, last;
    const float* bias;  // from output `first` on
    float* sums;        // [tokens, stride], from the first token and output on
    Index stride;

    Window with_tokens(Index from, Index to) const {
        return {from, to, first, last, bias, sums + (from - first_token) * stride, stride};
    }

    Window with_outputs(Index from, Index to) const {
        return {first_token, last_token, from, to, bias + (from - first), sums + (from - first), stride};
    }

    void fill_with_bias() const {
        for (Index t = 0; t < last_token - first_token; ++t) std::copy(bias, bias + (last - first), sums + t * stride);
    }
};

// Computes the deltas of a step's adapters to the outputs of one weight.
class Expansion {
   public:
    // `shrunk`: memory for `size(deltas)` floats, shared by all threads.
    Expansion(const Deltas& deltas, Index in, float* shrunk)
        : deltas_(deltas),
          work_(deltas, [&](const LoraTarget&) { return in; }),
          in_(in),
          offsets_(deltas.num_segments + 1),
          shrunk_(shrunk) {
        for (Index s = 0; s < deltas.num_segments; ++s) {
            const LoraSegment& segment = deltas.segments[s];
            offsets_[s + 1] = offsets_[s] + (segment.end - segment.start) * segment.rank;
        }
    }

    static std::size_t size(const Deltas& deltas) {
        Index rows = 0;
        for (Index s = 0; s < deltas.num_segments; ++s) {
            rows += (deltas.segments[s].end - deltas.segments[s].start) * deltas.segments[s].rank;
        }
        return static_cast<std::size_t>(rows * deltas.num_targets);
    }

    // Compute this thread's share of the shrunk states, which `initialise` reads.
    void shrink(const Bfloat16* states) const {
        work_.for_each_of_thread([&](const LoraUnit& unit) {
            float* shrunk = shrunk_ + offset(unit.target, segment_of(unit.start), unit.start);
            shrink_unit(states, in_, deltas_.targets[unit.target], unit, shrunk);
        });
    }

    // Set each sum of `window` to its bias plus the delta of its token's adapter.
    void initialise(const Window& window) const {
        Index filled = window.first_token;
        for (Index s = segment_of(filled);
             s < deltas_.num_segments && deltas_.segments[s].start < window.last_token; ++s) {
            const Index from = std::max(filled, deltas_.segments[s].start);
            const Index to = std::min(window.last_token, deltas_.segments[s].end);
            window.with_tokens(filled, from).fill_with_bias();
            initialise_segment(s, window.with_tokens(from, to));
            filled = to;
        }
        window.with_tokens(filled, window.last_token).fill_with_bias();
    }

   private:
    // Like `initialise`, for tokens of one segment.
    void initialise_segment(Index s, const Window& window) const {
        Index filled = window.first;
        for (Index p = 0; p < deltas_.num_targets; ++p) {
            const LoraTarget& target = deltas_.targets[p];
            const Index from = std::max(window.first, target.column);
            const Index to = std::min(window.last, target.column + target.out);
            if (from >= to) continue;
            window.with_outputs(filled, from).fill_with_bias();
            initialise_target(s, p, window.with_outputs(from, to));
            filled = to;
        }
        window.with_outputs(filled, window.last).fill_with_bias();
    }

    // Like `initialise_segment`, for outputs of one target.
    void initialise_target(Index s, Index p, const Window& window) const {
        const LoraTarget& target = deltas_.targets[p];
        const LoraSegment& segment = deltas_.segments[s];
        const float* shrunk = shrunk_ + offset(p, s, window.first_token);
        expand_tokens<Bfloat16>(shrunk, window.last_token - window.first_token, target, segment.first_row, segment.rank,
                                rows_ahead(deltas_.segments, deltas_.num_segments, s), window.first - target.column,
                                window.last - window.first, window.bias, 0, window.sums, window.stride);
    }

    // The first segment that ends after `token`.
    Index segment_of(Index token) const {
        const LoraSegment* end = deltas_.segments + deltas_.num_segments;
        const auto ends_before = [&](const LoraSegment& segment) { return segment.end <= token; };
        return std::partition_point(deltas_.segments, end, ends_before) - deltas_.segments;
    }

    Index offset(Index target, Index segment, Index token) const {
        const LoraSegment& found = deltas_.segments[segment];
        return target * offsets_.back() + offsets_[segment] + (token - found.start) * found.rank;
    }

    const Deltas deltas_;
    const LoraWork work_;
    const Index in_;
    std::vector<Index> offsets_;  // of each segment's shrunk states within one target
    float* shrunk_;
};

// Widen the bias of `count` outputs; zeros without a bias.
inline void widen_bias(const Bfloat16* bias, Index count, float* widened) {
    if (bias == nullptr) {
        std::fill(widened, widened + count, 0.0f);
    } else {
        for_each_vector(count, [&](Index i, Index lanes) { store(load(bias + i, lanes), widened + i, lanes); });
    }
}

// Initial sums (bias and deltas) of `num_rows` tokens from `start` on, for `width` outputs from `column` on.
inline const float* initial_sums(const Expansion& expansion, const Bfloat16* bias, Index start, Index num_rows,
                               Index column, Index count, Index width) {
    static thread_local Buffer<float> buffer;
    const std::size_t needed = (1 + num_rows) * width;
    if (buffer.size() < needed) buffer.resize(needed);
    float* widened = buffer.data();
    float* sums = widened + width;
    widen_bias(bias, count, widened);
    std::fill(widened + count, sums, 0.0f);
    expansion.initialise({start, start + num_rows, column, column + width, widened, sums, width});
    return sums;
}

// A weight packed by `pack` or `pack_int8`, and its bias or null.
struct Linear {
    const void* packed;
    const Bfloat16* bias;
    Index in, out;
};

// Panels [first, last) of a weight.
struct PanelRange {
    Index first, last;
};

// The share of a team's thread of `count` panels, moved by `start`.
inline PanelRange share_of_thread(Index start, Index count) {
    const Index threads = omp_get_num_threads(), thread = omp_get_thread_num();
    return {start + count * thread / threads, start + count * (thread + 1) / threads};
}

// The first panel of this thread's share of a weight.
template <class Arithmetic>
const typename Arithmetic::Weight* first_panel(const Linear& linear) {
    const Index first = share_of_thread(0, num_panels(linear.out)).first;
    const Index size = panel_size<typename Arithmetic::Weight>(round_up(linear.in, Arithmetic::kDepth));
    return static_cast<const typename Arithmetic::Weight*>(linear.packed) + first * size;
}

// One thread's part of a product: `result` [tokens, out] for the outputs in `ranges`. Adds the bias, then an adapter's
// rows, then the inputs, each in order, and rounds once. `expansion`: null without deltas; its states are shrunk.
// The states of a chunk of rows stay in the L2 cache during a pass over the panels; a tile of rows that stays in the L1
// cache is multiplied by `kPanelsOfTile` panels before the next tile, others by one.
// Calls finish(first token, number of tokens) when a chunk of tokens has all outputs of `ranges`. `following`: the panel
// that the thread reads after them, of any weight, or null.
template <class Arithmetic, class F>
void multiply_panels(Arithmetic& arithmetic, const Bfloat16* states, Index tokens, const Linear& linear,
                     const Expansion* expansion, std::initializer_list<PanelRange> ranges, Bfloat16* result, F finish,
                     const typename Arithmetic::Weight* following) {
    const Index in = linear.in, out = linear.out;
    using Weight = typename Arithmetic::Weight;
    const Index padded = round_up(in, Arithmetic::kDepth), size = panel_size<Weight>(padded);
    const Weight* packed = static_cast<const Weight*>(linear.packed);
    const Index tile_bytes = Arithmetic::kTileRows * padded * static_cast<Index>(sizeof(typename Arithmetic::Element));
    const Index panels_of_tile = tile_bytes <= kTileBytes ? Arithmetic::kPanelsOfTile : 1;
    const Index chunk_rows = expansion == nullptr ? Arithmetic::kChunkRows : kChunkRowsWithDeltas;
    for (Index start = 0; start < tokens; start += chunk_rows) {
        const Index num_rows = std::min(chunk_rows, tokens - start);
        const Index tiles = round_up(num_rows, Arithmetic::kTileRows) / Arithmetic::kTileRows;
        Index stride;
        const auto* rows = Arithmetic::rows(states + start * in, num_rows, in, stride);
        const auto panel_after = [&](const PanelRange* range, Index p) {
            if (p + 1 < range->last) return packed + (p + 1) * size;
            if (range + 1 != ranges.end()) return packed + range[1].first * size;
            return start + num_rows < tokens ? packed + ranges.begin()->first * size : following;
        };
        for (const PanelRange& range : ranges) {
            const Index left = range.first * kPanel, width = (range.last - range.first) * kPanel;
            const Bfloat16* bias = linear.bias == nullptr ? nullptr : linear.bias + left;
            const float* sums = nullptr;
            if (expansion != nullptr) {
                sums = initial_sums(*expansion, bias, start, num_rows, left, std::min(width, out - left), width);
            }
            for (Index first = range.first; first < range.last; first += panels_of_tile) {
                const Index last = std::min(first + panels_of_tile, range.last);
                for (Index tile = 0; tile < tiles; ++tile) {
                    const Index from = num_rows * tile / tiles, to = num_rows * (tile + 1) / tiles;
                    for (Index p = first; p < last; ++p) {
                        const Index column = p * kPanel, count = std::min(kPanel, out - column);
                        float widened_bias[kPanel] = {};
                        if (sums == nullptr) {
                            widen_bias(bias == nullptr ? nullptr : linear.bias + column, count, widened_bias);
                        }
                        const Panel<Weight> panel{packed + p * size, padded, count, tile, tiles, panel_after(&range, p)};
                        const Initial initial = sums == nullptr ? Initial{widened_bias, 0}
                                                                : Initial{sums + from * width + column - left, width};
                        arithmetic.multiply(to - from, rows + from * stride, stride, panel, initial,
                                            result + (start + from) * out + column, out);
                    }
                }
            }
        }
        finish(start, num_rows);
    }
}

// `result` [tokens, out] = `states` [tokens, in] times the weight, plus bias and deltas.
template <class Arithmetic>
void multiply(const Bfloat16* states, Index tokens, const Linear& linear, const Deltas& deltas, Bfloat16* result) {
    static thread_local Buffer<float> buffer;
    const bool has_deltas = deltas.num_segments != 0;
    if (buffer.size() < Expansion::size(deltas)) buffer.resize(Expansion::size(deltas));
    const Expansion expansion(deltas, linear.in, buffer.data());
#pragma omp parallel
    {
        if (has_deltas) {
            expansion.shrink(states);
#pragma omp barrier
        }
        Arithmetic arithmetic;
        multiply_panels(arithmetic, states, tokens, linear, has_deltas ? &expansion : nullptr,
                        {share_of_thread(0, num_panels(linear.out))}, result, [](Index, Index) {}, nullptr);
    }
}

}  // namespace loraledger

// Causal attention over the paged KV cache, in one pass over the context with a running softmax: Milakov and Gimelshein,
// "Online normalizer calculation for softmax" (2018); Dao et al., "FlashAttention" (2022).
//
// A row is one query head of one token; a tile the keys of some adjacent blocks, at fixed positions. A row's arithmetic
// does not depend on other rows: with `Single`, a token has the same bits in any chunk of its prompt and in any batch.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "accumulate.h"
#include "panels.h"
#include "rotation.h"

namespace loraledger {

// Tokens [start, start + count) of a batch: the last `count` of the first `context` positions of `table`; mirrors
// `_Span` in native.py.
struct Span {
    Index start, count, context;
    const Index* table;
};

// One layer's attention. A token attends to `window` positions, its own included; 0: to all before it.
template <class T>
struct Attention {
    const T* queries;  // [tokens, num_heads, head_dim]
    const T* keys;
    const T* values;
    HeadShape shape;
    float scale;
    Index window;
    T* result;  // like `queries`
};

// Some tokens of a span, counted from its first one, with the query heads of one KV head.
struct AttentionUnit {
    const Span* span;
    Index first, count, kv_head;
};

// A unit of at most this many rows reads keys and values from their pages; for more, repacking pays off.
constexpr Index kMaxDirectRows = 8;
// Rows of a larger unit: repacking is then a few percent of its products, and the rows stay in the L2 cache.
constexpr Index kUnitRows = 192;
// As many as `Vectors` takes for large units, so that a token has the same bits in both.
constexpr Index kDirectTileKeys = Vectors<Single>::kTileKeys;

// The hardware prefetcher cannot predict the next page.
template <class T>
void prefetch(const T* first, Index n) {
    for (Index i = 0; i < n; i += 64 / static_cast<Index>(sizeof(T))) __builtin_prefetch(first + i, 0, 2);
}

template <class T>
void copy_line(const T* from, Index n, T* to) {
    Index i = 0;
    for (; i + kLanes <= n; i += kLanes) std::memcpy(to + i, from + i, kLanes * sizeof(T));
    for (; i < n; ++i) to[i] = from[i];
}

// Pack `lines` [inputs, outputs], both multiples of kPanel, into the panels of `Arithmetic`.
template <class Arithmetic, class T>
void pack_lines(const T* lines, Index inputs, Index outputs, typename Arithmetic::Weight* packed) {
    for (Index column = 0; column < outputs; column += kPanel, packed += inputs * kPanel) {
        for (Index side = 0; side < kPanel; side += kLanes) {
            const T* line = lines + column + side;
            if constexpr (std::is_same_v<typename Arithmetic::Weight, float>) {
                for (Index i = 0; i < inputs; ++i) store(load(line + i * outputs), packed + i * kPanel + side);
            } else {
                for (Index i = 0; i < inputs; i += 2) {
                    Halves first, second;
                    std::memcpy(&first, line + i * outputs, sizeof first);
                    std::memcpy(&second, line + (i + 1) * outputs, sizeof second);
                    const Words pairs = widen(first) | widen(second) << 16;
                    std::memcpy(packed + Arithmetic::offset(i, side), &pairs, sizeof pairs);
                }
            }
        }
    }
}

// The softmax of some rows, tile by tile.
class RunningSoftmax {
   public:
    void begin(Index num_rows) {
        largest_.assign(num_rows, -std::numeric_limits<float>::infinity());
        totals_.assign(num_rows, Floats{});
    }

    // Exponentiate the `width` scores of a row, of which [low, high) are visible and the others count as zero, relative
    // to the largest one so far. If that grows, scale what was added up, `mixed` [dim]. `weights` may alias `scores`.
    template <class Number>
    void add(Index row, const float* scores, float scale, Index width, Index low, Index high, Number* weights,
             float* mixed, Index dim) {
        // In a short prompt most vectors of a tile are hidden, and are not computed.
        const Index first = std::clamp<Index>(low / kLanes * kLanes, 0, width);
        const Index last = std::clamp<Index>(round_up(high, kLanes), first, width);
        Floats best = broadcast(largest_[row]);
        for (Index i = first; i < last; i += kLanes) {
            Floats lanes = load(scores + i);
            if (i < low || i + kLanes > high) {
                lanes = is_visible(i, low, high) ? lanes : broadcast(-std::numeric_limits<float>::infinity());
            }
            best = lanes > best ? lanes : best;
        }
        grow(row, loraledger::largest(best), scale, mixed, dim);
        const Floats subtracted = broadcast(largest_[row]);
        Floats total = totals_[row];
        for (Index i = first; i < last; i += kLanes) {
            Floats lanes = exp_of_negative((load(scores + i) - subtracted) * scale);
            if (i < low || i + kLanes > high) lanes = is_visible(i, low, high) ? lanes : Floats{};
            total += lanes;
            store(lanes, weights + i);
        }
        totals_[row] = total;
        std::fill(weights, weights + first, Number{});
        std::fill(weights + last, weights + width, Number{});
    }

    // What the sum of a row's values is to be divided by.
    float total(Index row) const { return sum(totals_[row]); }

   private:
    static Ints is_visible(Index i, Index low, Index high) {
        Ints places;
        for (Index lane = 0; lane < kLanes; ++lane) places[lane] = static_cast<std::int32_t>(i + lane);
        return (places >= static_cast<std::int32_t>(low)) & (places < static_cast<std::int32_t>(high));
    }

    void grow(Index row, float largest, float scale, float* mixed, Index dim) {
        if (!(largest > largest_[row])) return;
        if (largest_[row] > -std::numeric_limits<float>::infinity()) {  // else there is nothing yet to scale
            const float factor = exp_of_negative(broadcast((largest_[row] - largest) * scale))[0];
            totals_[row] *= factor;
            for_each_vector(dim,
                            [&](Index i, Index count) { store(load(mixed + i, count) * factor, mixed + i, count); });
        }
        largest_[row] = largest;
    }

    Buffer<float> largest_;
    Buffer<Floats> totals_;
};

// Computes units, one after the other. `Arithmetic` multiplies the rows of large ones, with keys, then values, as weights.
template <class T, class Arithmetic>
class AttentionWorker {
   public:
    AttentionWorker(HeadShape shape, Arithmetic& arithmetic)
        : arithmetic_(arithmetic),
          shape_(shape),
          dim_stride_(round_up(shape_.head_dim, kPanel)) {}

    // `attention` has the shape of the constructor.
    void compute(const Attention<T>& attention, const AttentionUnit& unit) {
        begin(attention, unit);
        const bool is_direct = num_rows_ <= kMaxDirectRows;
        const Index first = first_visible(0) / tile_keys_ * tile_keys_, end = position(num_rows_ - 1) + 1;
        for (Index start = first; start < end; start += tile_keys_) {
            const Index count = std::min(tile_keys_, end - start);
            if (is_direct) {
                add_pages(start, count, std::make_index_sequence<kMaxDirectRows>());
            } else {
                add_packed(start, count);
            }
        }
        for (Index row = 0; row < num_rows_; ++row) {
            const float* mixed = &mixed_[row * dim_stride_];
            const float total = softmax_.total(row);
            T* result = attention_.result + offset(row);
            for_each_vector(shape_.head_dim, [&](Index i, Index lanes) {
                store(load(mixed + i, lanes) / total, result + i, lanes);
            });
        }
    }

   private:
    using Weight = typename Arithmetic::Weight;
    using Element = typename Arithmetic::Element;

    void begin(const Attention<T>& attention, const AttentionUnit& unit) {
        attention_ = attention;
        unit_ = unit;
        num_rows_ = unit.count * shape_.heads_per_kv();
        const Index keys = num_rows_ <= kMaxDirectRows ? kDirectTileKeys : Arithmetic::kTileKeys;
        tile_keys_ = std::max<Index>(1, keys / shape_.block_size) * shape_.block_size;
        key_stride_ = round_up(tile_keys_, kPanel);
        positions_.resize(num_rows_);
        for (Index row = 0; row < num_rows_; ++row) {
            const Span& span = *unit.span;
            positions_[row] = span.context - span.count + unit.first + row / shape_.heads_per_kv();
        }
        softmax_.begin(num_rows_);
        mixed_.assign(num_rows_ * dim_stride_, 0.0f);
        if (num_rows_ <= kMaxDirectRows) {
            scores_.resize(kMaxDirectRows * key_stride_);
            copy_queries(queries_);
        } else {
            scores_.resize(Arithmetic::kTileRows * key_stride_);
            weights_.resize(Arithmetic::kTileRows * key_stride_);
            lines_.resize(dim_stride_ * key_stride_);
            keys_.resize(dim_stride_ * key_stride_);
            values_.resize(dim_stride_ * key_stride_);
            copy_queries(packed_queries_);
        }
    }

    template <class Number>
    void copy_queries(Buffer<Number>& rows) const {
        rows.assign(num_rows_ * dim_stride_, Number{});
        for (Index row = 0; row < num_rows_; ++row) {
            const T* query = attention_.queries + offset(row);
            for_each_vector(shape_.head_dim, [&](Index i, Index count) {
                store(load(query + i, count), &rows[row * dim_stride_ + i], count);
            });
        }
    }

    // Of a row's token.
    Index position(Index row) const { return positions_[row]; }

    Index first_visible(Index row) const {
        return attention_.window == 0 ? 0 : std::max<Index>(0, position(row) + 1 - attention_.window);
    }

    // Of a row's query, and result.
    Index offset(Index row) const {
        const Index token = unit_.span->start + unit_.first + row / shape_.heads_per_kv();
        const Index head = unit_.kv_head * shape_.heads_per_kv() + row % shape_.heads_per_kv();
        return (token * shape_.num_heads + head) * shape_.head_dim;
    }

    // The keys or values of the block that begins at a position.
    const T* block(const T* pages, Index start) const {
        return pages + unit_.span->table[start / shape_.block_size] * shape_.block() + unit_.kv_head * shape_.tile();
    }

    template <class Number>
    void add_to_softmax(Index row, Index start, Index width, float* scores, Number* weights) {
        const Index low = first_visible(row) - start, high = std::min(position(row) + 1 - start, tile_keys_);
        softmax_.add(row, scores, attention_.scale, width, low, high, weights, &mixed_[row * dim_stride_],
                     shape_.head_dim);
    }

    template <std::size_t... kIndex>
    void add_pages(Index start, Index count, std::index_sequence<kIndex...>) {
        using Add = void (AttentionWorker::*)(Index, Index);
        static constexpr Add kAdd[] = {&AttentionWorker::add_pages_to<kIndex + 1>...};
        (this->*kAdd[num_rows_ - 1])(start, count);
    }

    // Add the tile of `count` keys from `start` on to kRows rows.
    template <Index kRows>
    void add_pages_to(Index start, Index count) {
        const Index size = shape_.block_size, dim = shape_.head_dim, last = position(kRows - 1);
        std::fill_n(scores_.begin(), kRows * key_stride_, 0.0f);
        for (Index at = 0; at < count; at += size) prefetch(block(attention_.values, start + at), shape_.tile());
        add_scores<kRows>(start, count);
        for (Index row = 0; row < kRows; ++row) {
            add_to_softmax(row, start, key_stride_, &scores_[row * key_stride_], &scores_[row * key_stride_]);
        }
        const bool has_next = start + tile_keys_ <= last;
        for (Index at = 0; at < count; at += size) {
            const Index next = std::min(start + tile_keys_ + at, last / size * size);
            if (has_next) prefetch(block(attention_.keys, next), shape_.tile());
            const T* values = block(attention_.values, start + at);
            const auto column = [&](Index v) { return Column<T>{values + v * kLanes, dim}; };
            accumulate<kRows>(&scores_[at], key_stride_, std::min(size, count - at), column, dim / kLanes, dim % kLanes,
                              mixed_.data(), dim_stride_);
        }
    }

    // The products of kRows queries with `count` keys from `start` on.
    template <Index kRows>
    void add_scores(Index start, Index count) {
        const Index size = shape_.block_size, dim = shape_.head_dim;
        if (size % kLanes == 0) {
            const auto column = [&](Index v) {
                const Index at = v * kLanes;
                return Column<T>{block(attention_.keys, start + at) + at % size, size};
            };
            const Index num_vectors = (count + size - 1) / size * (size / kLanes);
            accumulate<kRows>(queries_.data(), dim_stride_, dim, column, num_vectors, 0, scores_.data(), key_stride_);
            return;
        }
        for (Index at = 0; at < count; at += size) {
            const T* keys = block(attention_.keys, start + at);
            const auto column = [&](Index v) { return Column<T>{keys + v * kLanes, size}; };
            accumulate<kRows>(queries_.data(), dim_stride_, dim, column, size / kLanes, size % kLanes, &scores_[at],
                              key_stride_);
        }
    }

    // The same for any number of rows, with keys and values packed.
    void add_packed(Index start, Index count) {
        pack_tile(start, count);
        const Index tiles = (num_rows_ + Arithmetic::kTileRows - 1) / Arithmetic::kTileRows;
        for (Index tile = 0; tile < tiles; ++tile) {
            const Index first = num_rows_ * tile / tiles, last = num_rows_ * (tile + 1) / tiles;
            if (position(last - 1) < start || first_visible(first) >= start + tile_keys_) continue;
            static constexpr float kZeros[kPanel] = {};
            const Index visible = std::min(key_stride_, round_up(position(last - 1) + 1 - start, kPanel));
            const Rows queries{&packed_queries_[first * dim_stride_], last - first, dim_stride_};
            multiply(queries, dim_stride_, keys_, visible, {kZeros, 0}, 0, scores_.data(), key_stride_);
            for (Index row = first; row < last; ++row) {
                const Index at = (row - first) * key_stride_;
                add_to_softmax(row, start, visible, &scores_[at], &weights_[at]);
            }
            float* mixed = &mixed_[first * dim_stride_];
            const Rows weights{weights_.data(), last - first, key_stride_};
            multiply(weights, visible, values_, dim_stride_, {mixed, dim_stride_}, kPanel, mixed, dim_stride_);
        }
    }

    // Rows [count, stride] of one side of a product.
    struct Rows {
        const Weight* first;
        Index count, stride;
    };

    // The first `out` of `result` [rows, result_stride] = the first `in` of `rows` times packed [panels, rows.stride,
    // kPanel], plus `initial`, which moves by `initial_step` from panel to panel.
    void multiply(Rows rows, Index in, const Buffer<Weight>& packed, Index out, Initial initial, Index initial_step,
                  float* result, Index result_stride) {
        const Index stride = rows.stride * static_cast<Index>(sizeof(Weight)) / static_cast<Index>(sizeof(Element));
        for (Index column = 0; column < out; column += kPanel, initial.sums += initial_step) {
            const Panel<Weight> panel{packed.data() + column * rows.stride, in, kPanel, 1, 1, nullptr};
            arithmetic_.multiply(rows.count, reinterpret_cast<const Element*>(rows.first), stride, panel, initial,
                                 result + column, result_stride);
        }
    }

    void pack_tile(Index start, Index count) {
        const Index size = shape_.block_size, dim = shape_.head_dim;
        std::fill(lines_.begin() + dim * key_stride_, lines_.end(), T{});
        for (Index at = 0; at < count; at += size) {
            const T* keys = block(attention_.keys, start + at);
            for (Index d = 0; d < dim; ++d) copy_line(keys + d * size, size, &lines_[d * key_stride_ + at]);
        }
        pack_lines<Arithmetic>(lines_.data(), dim_stride_, key_stride_, keys_.data());
        // A weight of zero does not hide NaN, so what lies behind the last key must be zero.
        if (count < key_stride_ || dim < dim_stride_) std::fill(lines_.begin(), lines_.end(), T{});
        for (Index i = 0; i < count; ++i) {
            const T* values = block(attention_.values, start + i / size * size) + i % size * dim;
            copy_line(values, dim, &lines_[i * dim_stride_]);
        }
        pack_lines<Arithmetic>(lines_.data(), key_stride_, dim_stride_, values_.data());
    }

    Arithmetic& arithmetic_;
    Attention<T> attention_{};
    const HeadShape shape_;
    const Index dim_stride_;
    Index tile_keys_ = 0, key_stride_ = 0;  // the strides are whole panels
    AttentionUnit unit_{};
    Index num_rows_ = 0;
    std::vector<Index> positions_;
    RunningSoftmax softmax_;
    Buffer<float> mixed_, scores_, queries_;
    Buffer<T> lines_;
    Buffer<Weight> packed_queries_, weights_, keys_, values_;
};

inline std::vector<AttentionUnit> attention_units(const Span* spans, Index num_spans, HeadShape shape) {
    std::vector<AttentionUnit> units;
    const Index tokens = std::max<Index>(1, kUnitRows / shape.heads_per_kv());
    for (const Span* span = spans; span < spans + num_spans; ++span) {
        for (Index last = span->count; last > 0; last -= tokens) {  // the longest contexts first
            const Index first = std::max<Index>(0, last - tokens);
            for (Index head = 0; head < shape.num_kv_heads; ++head) {
                units.push_back({span, first, last - first, head});
            }
        }
    }
    return units;
}

template <class T, class Arithmetic>
void attend(const Attention<T>& attention, const Span* spans, Index num_spans) {
    const std::vector<AttentionUnit> units = attention_units(spans, num_spans, attention.shape);
#pragma omp parallel
    {
        Arithmetic arithmetic;
        AttentionWorker<T, Arithmetic> worker(attention.shape, arithmetic);
#pragma omp for schedule(dynamic)
        for (std::size_t u = 0; u < units.size(); ++u) worker.compute(attention, units[u]);
    }
}

}  // namespace loraledger

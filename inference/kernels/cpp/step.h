// A whole step of a decoder in one parallel region: what `inference/model/decoder.py` does with single kernels, by the
// same functions on the same rows, so with the same bits.
//
// Threads share the outputs of a product, the tokens of a norm or rotation, and the units of attention, with a barrier
// after each. A thread gates the outputs of `gate_up` that it has computed itself, while they are in its cache.
#pragma once

#include <omp.h>

#include <algorithm>
#include <type_traits>
#include <vector>

#include "attention.h"
#include "products.h"
#include "rotation.h"
#include "rows.h"

namespace loraledger {

// One layer's weights, tables, and keys and values; mirrors `_Layer` in native_step.py.
struct StepLayer {
    const Bfloat16 *attention_norm, *mlp_norm;
    Linear qkv, o, gate_up, down;
    Rotary<Bfloat16> rotary;
    Index is_rotated;  // 0: the tables have one row, for every position
    Index window;
    Bfloat16 *keys, *values;
};

// Mirrors `_Model` in native_step.py.
struct StepModel {
    const StepLayer* layers;
    Index num_layers;
    const Bfloat16* final_norm;
    float epsilon, attention_scale;
    HeadShape shape;
    Index hidden_size, mlp_width;
};

// The targets of one projection; mirrors `_Targets` in native_step.py.
struct StepTargets {
    const LoraTarget* targets;
    Index num_targets;
};

// The tokens of a step; mirrors `_Batch` in native_step.py.
struct StepBatch {
    Index tokens;
    const Index *positions, *kv_slots;
    const Span* spans;
    Index num_spans;
    const LoraSegment* segments;
    Index num_segments;
    const StepTargets* targets;  // [num_layers, kProjections], or null without adapters
};

// `Arithmetic` multiplies weights, `ForAttention` keys and values.
template <class Arithmetic, class ForAttention>
class DecoderStep {
   public:
    // `hidden` [tokens, hidden_size] are the embeddings, which are overwritten; `states`, like `hidden`, the result.
    DecoderStep(const StepModel& model, const StepBatch& batch, Bfloat16* hidden, Bfloat16* states)
        : model_(model),
          batch_(batch),
          hidden_(hidden),
          states_(states),
          units_(attention_units(batch.spans, batch.num_spans, model.shape)) {}

    void run() {
        const Index query_width = model_.shape.num_heads * model_.shape.head_dim;
        const Index kv_width = model_.shape.num_kv_heads * model_.shape.head_dim;
        static thread_local Buffer<Bfloat16> memory;
        const Index widths[] = {query_width + 2 * kv_width, query_width, query_width, model_.hidden_size,
                                2 * model_.mlp_width, model_.mlp_width};
        Bfloat16** const parts[] = {&qkv_, &queries_, &mixed_, &delta_, &gate_up_, &gated_};
        Index size = 0;
        for (Index width : widths) size += batch_.tokens * round_up(width, kPanel);
        if (memory.size() < static_cast<std::size_t>(size)) memory.resize(size);
        Bfloat16* next = memory.data();
        for (Index part = 0; part < kParts; ++part) {
            *parts[part] = next;
            next += batch_.tokens * round_up(widths[part], kPanel);
        }
        static thread_local Buffer<float> shrunk;
        std::size_t needed = 0;
        for (Index p = 0; p < model_.num_layers * kProjections; ++p) {
            needed = std::max(needed, Expansion::size(deltas(p / kProjections, p % kProjections)));
        }
        if (shrunk.size() < needed) shrunk.resize(needed);
        shrunk_ = shrunk.data();
#pragma omp parallel
        {
            Thread thread(model_.shape);
            add_and_norm(nullptr, model_.layers[0].attention_norm);
            for (Index layer = 0; layer < model_.num_layers; ++layer) compute_layer(layer, thread);
        }
    }

   private:
    enum Projection : Index { kQkv, kO, kGateUp, kDown, kProjections };
    static constexpr Index kParts = 6;
    static constexpr bool kIsOne = std::is_base_of_v<ForAttention, Arithmetic>;

    // A thread's registers and scratch memory. One object configures the tile registers for both uses.
    struct Thread {
        explicit Thread(HeadShape shape) : worker(shape, attention()), heads(2 * shape.head_dim) {}

        ForAttention& attention() {
            if constexpr (kIsOne) {
                return arithmetic;
            } else {
                return own;
            }
        }

        Arithmetic arithmetic;
        std::conditional_t<kIsOne, char, ForAttention> own{};
        AttentionWorker<Bfloat16, ForAttention> worker;
        Buffer<Bfloat16> heads;
    };

    void compute_layer(Index index, Thread& thread) {
        const StepLayer& layer = model_.layers[index];
        const bool is_last = index + 1 == model_.num_layers;
        project(index, kQkv, layer.qkv, &layer.o, states_, qkv_, thread);
        rotate(layer, thread);
        attend(layer, thread);
        project(index, kO, layer.o, &layer.gate_up, mixed_, delta_, thread);
        add_and_norm(delta_, layer.mlp_norm);
        gate(index, layer, thread);
        project(index, kDown, layer.down, is_last ? nullptr : &model_.layers[index + 1].qkv, gated_, delta_, thread);
        add_and_norm(delta_, is_last ? model_.final_norm : model_.layers[index + 1].attention_norm);
    }

    void add_and_norm(const Bfloat16* delta, const Bfloat16* weight) {
        const Index width = model_.hidden_size;
#pragma omp for
        for (Index t = 0; t < batch_.tokens; ++t) {
            const Bfloat16* row = delta == nullptr ? nullptr : delta + t * width;
            add_norm_row(hidden_ + t * width, row, weight, model_.epsilon, width, states_ + t * width);
        }
    }

    void rotate(const StepLayer& layer, Thread& thread) {
        const Index query_width = model_.shape.num_heads * model_.shape.head_dim;
#pragma omp for
        for (Index t = 0; t < batch_.tokens; ++t) {
            const Index position = layer.is_rotated != 0 ? batch_.positions[t] : 0;
            rotate_and_store_token(qkv_ + t * layer.qkv.out, layer.rotary, position, batch_.kv_slots[t], model_.shape,
                                   thread.heads.data(), queries_ + t * query_width, layer.keys, layer.values);
        }
    }

    void attend(const StepLayer& layer, Thread& thread) {
        const Attention<Bfloat16> attention{queries_,     layer.keys, layer.values, model_.shape, model_.attention_scale,
                                            layer.window, mixed_};
#pragma omp for schedule(dynamic)
        for (std::size_t u = 0; u < units_.size(); ++u) thread.worker.compute(attention, units_[u]);
    }

    void gate(Index index, const StepLayer& layer, Thread& thread) {
        const Index width = model_.mlp_width;
        const auto gate_tokens = [&](Index start, Index count, Index first, Index last) {
            for (Index t = start; t < start + count; ++t) {
                const Bfloat16* row = gate_up_ + 2 * t * width;
                gate_row(row + first, row + width + first, last - first, gated_ + t * width + first);
            }
        };
        if (width % kPanel == 0) {
            const PanelRange gates = share_of_thread(0, width / kPanel);
            const PanelRange ups = share_of_thread(width / kPanel, width / kPanel);
            project(index, kGateUp, layer.gate_up, &layer.down, states_, {gates, ups}, gate_up_, thread,
                    [&](Index start, Index count) {
                        gate_tokens(start, count, gates.first * kPanel, gates.last * kPanel);
                    });
        } else {
            project(index, kGateUp, layer.gate_up, &layer.down, states_, gate_up_, thread);
#pragma omp for
            for (Index t = 0; t < batch_.tokens; ++t) gate_tokens(t, 1, 0, width);
        }
    }

    // Compute this thread's share of a product. `next`: the weight of the product after it, or null.
    void project(Index layer, Projection projection, const Linear& linear, const Linear* next, const Bfloat16* states,
                 Bfloat16* result, Thread& thread) {
        project(layer, projection, linear, next, states, {share_of_thread(0, num_panels(linear.out))}, result, thread,
                [](Index, Index) {});
    }

    template <class F>
    void project(Index layer, Projection projection, const Linear& linear, const Linear* next, const Bfloat16* states,
                 std::initializer_list<PanelRange> ranges, Bfloat16* result, Thread& thread, F finish) {
        const auto* following = next == nullptr ? nullptr : first_panel<Arithmetic>(*next);
        const Deltas own = deltas(layer, projection);
        if (own.num_targets != 0) {
            const Expansion expansion(own, linear.in, shrunk_);
            expansion.shrink(states);
#pragma omp barrier
            multiply_panels(thread.arithmetic, states, batch_.tokens, linear, &expansion, ranges, result, finish,
                            following);
        } else {
            multiply_panels(thread.arithmetic, states, batch_.tokens, linear, nullptr, ranges, result, finish,
                            following);
        }
#pragma omp barrier
    }

    Deltas deltas(Index layer, Index projection) const {
        if (batch_.targets == nullptr) return {nullptr, 0, nullptr, 0};
        const StepTargets& found = batch_.targets[layer * kProjections + projection];
        return {found.targets, found.num_targets, batch_.segments, batch_.num_segments};
    }

    const StepModel& model_;
    const StepBatch& batch_;
    Bfloat16 *const hidden_, *const states_;
    const std::vector<AttentionUnit> units_;
    Bfloat16 *qkv_, *queries_, *mixed_, *delta_, *gate_up_, *gated_;
    float* shrunk_;
};

}  // namespace loraledger

// Products by AMX tile registers: 16 rows by 16 outputs by 32 inputs per instruction.
//
// Intel, "Architecture instruction set extensions and future features", chapter 3 (TDPBF16PS): pairs of inputs are added
// in order by fused multiply-adds that round to nearest, numbers below the normal range count as zero, and a row's
// sums do not depend on other rows.
#pragma once

#ifdef __AMX_BF16__

#include <sys/syscall.h>
#include <unistd.h>

#include <type_traits>

#include "panels.h"

namespace loraledger {

// Request tile registers from Linux (Documentation/arch/x86/xstate.rst). False if it does not grant them.
inline bool request_tiles() {
    constexpr long kRequestState = 0x1023, kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestState, kTileData) == 0;
}

class Tiled {
   public:
    using Element = Bfloat16;
    using Weight = Bfloat16;
    static constexpr Index kDepth = 32, kTileRows = 32;
    // The products are faster than the L3 cache delivers weights for fewer rows, and than the L2 cache delivers rows and
    // weights for each tile.
    static constexpr Index kChunkRows = 384, kPanelsOfTile = 8;
    // Of attention: more keys mean fewer passes over a row's sums, and with more the scores leave the L1 cache.
    static constexpr Index kTileKeys = 128;

    // One tile register holds kDepth inputs by kSide outputs, kBlock elements, with pairs of inputs adjacent.
    static Index offset(Index input, Index output) {
        const Index block = input / kDepth * 2 + output / kSide;
        return block * kBlock + input % kDepth / 2 * kDepth + output % kSide * 2 + input % 2;
    }

    static const Element* rows(const Bfloat16* states, Index num_rows, Index in, Index& stride) {
        stride = round_up(in, kDepth);
        return pad_inputs(states, num_rows, in, kDepth);
    }

    Tiled() = default;
    Tiled(const Tiled&) = delete;
    Tiled& operator=(const Tiled&) = delete;

    // Releases the tile registers, because registers in use make thread switches slower.
    ~Tiled() {
        if (num_rows_ != 0) _tile_release();
    }

    // `result` [num_rows, out] from a panel's first output on, of at most kTileRows rows.
    template <class Result>
    void multiply(Index num_rows, const Element* rows, Index stride, const Panel<Weight>& panel, Initial initial,
                  Result* result, Index out) {
        configure(num_rows);
        if (num_rows > kSide) {
            multiply_tile<true>(num_rows, rows, stride, panel, initial, result, out);
        } else {
            multiply_tile<false>(num_rows, rows, stride, panel, initial, result, out);
        }
    }

   protected:
    static constexpr Index kSide = 16;

    // Registers 0 to 3 are sums (upper left, upper right, lower left, lower right), 4 and 5 the upper and the lower
    // rows, 6 and 7 the left and the right outputs.
    void configure(Index num_rows) {
        if (num_rows == num_rows_) return;
        struct alignas(64) {
            std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
            std::uint16_t row_bytes[16] = {};
            std::uint8_t rows[16] = {};
        } shape;
        const Index upper = std::min(num_rows, kSide);
        const Index rows_of[] = {upper, upper, num_rows - upper, num_rows - upper, upper, num_rows - upper, kSide, kSide};
        for (Index tile = 0; tile < 8; ++tile) {
            shape.rows[tile] = static_cast<std::uint8_t>(rows_of[tile]);
            shape.row_bytes[tile] = rows_of[tile] == 0 ? 0 : 64;
        }
        flush_stores();
        _tile_loadconfig(&shape);
        num_rows_ = num_rows;
    }

    // Make the compiler write pending stores: it does not know that tile instructions read memory.
    static void flush_stores() { asm volatile("" ::: "memory"); }

   private:
    static constexpr Index kBlock = kSide * kDepth;

    template <bool kTwoHigh, class Result>
    static void multiply_tile(Index num_rows, const Element* rows, Index stride, const Panel<Weight>& panel,
                              Initial initial, Result* result, Index out) {
        const Index row_bytes = stride * static_cast<Index>(sizeof *rows);
        const Index initial_bytes = initial.stride * static_cast<Index>(sizeof *initial.sums);
        flush_stores();
        _tile_loadd(0, initial.sums, initial_bytes);
        _tile_loadd(1, initial.sums + kSide, initial_bytes);
        if (kTwoHigh) {
            _tile_loadd(2, initial.sums + kSide * initial.stride, initial_bytes);
            _tile_loadd(3, initial.sums + kSide * initial.stride + kSide, initial_bytes);
        }
        for (Index input = 0; input < panel.in; input += kDepth) {
            const Bfloat16* blocks = panel.weights + input * kPanel;
            if (panel.is_in_memory()) {
                // The next step; the hardware prefetcher does the rest.
                for (Index i = 0; i < 2 * kBlock; i += kDepth) __builtin_prefetch(blocks + 2 * kBlock + i, 0, 2);
            }
            // Loaded once per tile of rows: the hint keeps the rows in the L1 cache.
            _tile_stream_loadd(6, blocks, 64);
            _tile_stream_loadd(7, blocks + kBlock, 64);
            _tile_loadd(4, rows + input, row_bytes);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            if (kTwoHigh) {
                _tile_loadd(5, rows + kSide * stride + input, row_bytes);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
        }
        if constexpr (std::is_same_v<Result, float>) {
            if (panel.count == kPanel) {
                store_sums<kTwoHigh>(result, out);
                return;
            }
        }
        alignas(64) float sums[kTileRows][kPanel];
        store_sums<kTwoHigh>(sums[0], kPanel);
        for (Index row = 0; row < num_rows; ++row) {
            for_each_vector(panel.count, [&](Index i, Index count) {
                store(load(sums[row] + i, count), result + row * out + i, count);
            });
        }
    }

   protected:
    // Store the registers of sums, in 32 bits, to rows of kPanel.
    template <bool kTwoHigh, class Sum>
    static void store_sums(Sum* rows, Index stride) {
        const Index row_bytes = stride * static_cast<Index>(sizeof *rows);
        _tile_stored(0, rows, row_bytes);
        _tile_stored(1, rows + kSide, row_bytes);
        if (kTwoHigh) {
            _tile_stored(2, rows + kSide * stride, row_bytes);
            _tile_stored(3, rows + kSide * stride + kSide, row_bytes);
        }
        flush_stores();  // the compiler does not know that tile instructions write memory, either
    }

   private:
    Index num_rows_ = 0;  // that the tiles are configured for
};

}  // namespace loraledger

#endif

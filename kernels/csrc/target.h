// Included last by each target_*.cpp, after that file has chosen the instruction set and the vectors:
// compiles every kernel for them and gathers them in one table.
//
// The kernels use no templates of the standard library. Such a template could be compiled here with
// instructions that another CPU lacks, and the linker would then give this copy to the whole extension.

#include "simd_math.h"
#include "dot_tile.h"
#include "linear_kernels.h"
#include "row_kernels.h"
#include "norm_rope_kernels.h"
#include "attention_kernels.h"
#include "quantized_kernels.h"
#include "quantize_kernels.h"
#include "sampling_kernels.h"
#include "probe_kernels.h"

namespace quire::QUIRE_TARGET {

#if defined(QUIRE_PAIR_DOT)
constexpr bool kPairDot = true;
#else
constexpr bool kPairDot = false;
#endif

constexpr KernelTable kTable = {kFloatRows,
                                kPairRows,
                                kPairDot,
                                pack_tile,
                                pack_panel,
                                linear,
                                kQuantizedRows,
                                pack_quantized_rows,
                                quantized_linear,
                                quantize_weight,
                                rms_norm,
                                layer_norm,
                                silu_and_mul,
                                gelu_and_mul,
                                exact_gelu_and_mul,
                                gelu,
                                exact_gelu,
                                rope,
                                attention_scratch,
                                attention,
                                attention_merge,
                                row_largest,
                                probe_read,
                                probe_dot,
                                probe_int8};

}  // namespace quire::QUIRE_TARGET

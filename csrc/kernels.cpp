// Compiled once per instruction set, with TINYDIFF_ISA naming it; see CMakeLists.txt.
#include "kernels.hpp"

#include "attention.hpp"
#include "matmul.hpp"
#include "orthogonalise.hpp"
#include "rows.hpp"
#include "topk.hpp"

namespace tinydiff {
namespace TINYDIFF_ISA {

template <class T>
constexpr Kernels<T> table = {
    matmul<T>,     column_sum<T>,          softmax<T>, log_softmax<T>,   cross_entropy<T>, cross_entropy_backward<T>,
    layer_norm<T>, layer_norm_backward<T>, gelu<T>,    gelu_backward<T>, rotary<T>,        topk<T>,
    attention<T>,  attention_backward<T>,  adamw<T>,   orthogonalise<T>};

const Kernels<float> kernels_f32 = table<float>;
const Kernels<double> kernels_f64 = table<double>;

} // namespace TINYDIFF_ISA
} // namespace tinydiff

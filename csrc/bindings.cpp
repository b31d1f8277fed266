// The Python module `tinydiff.kernels._native`: checks shapes and dtypes, releases the GIL, calls a kernel.
// Signatures and errors are those of tinydiff/kernels/reference.py, the specification.
#include "kernels.hpp"
#include "team.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <atomic>
#include <cmath>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#ifdef TINYDIFF_X86_ISAS
#include <cpuid.h>
#endif
#ifdef TINYDIFF_HAS_amx
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace py = pybind11;
using tinydiff::AttentionShape;
using tinydiff::Heads;
using tinydiff::idx;
using tinydiff::Kernels;
using tinydiff::Mask;

namespace {

// --- which kernels run ----------------------------------------------------------------------------------------------

struct Isa {
    std::string name;
    const Kernels<float> *f32;
    const Kernels<double> *f64;
    const tinydiff::KernelsBfloat16 *bfloat16; // null if it has no such products
};

#define TINYDIFF_ISA_ROW(isa)                                                                                          \
    Isa { #isa, &tinydiff::isa::kernels_f32, &tinydiff::isa::kernels_f64, nullptr }

#define TINYDIFF_BFLOAT16_ROW(isa)                                                                                     \
    Isa { #isa, &tinydiff::avx512::kernels_f32, &tinydiff::avx512::kernels_f64, &tinydiff::isa::kernels_bfloat16 }

#ifdef TINYDIFF_X86_ISAS
struct Leaf7 { // of cpuid: what compilers' __builtin_cpu_supports does not know everywhere
    unsigned eax[2] = {}, edx = 0;
    Leaf7() {
        unsigned b, c, d;
        __get_cpuid_count(7, 0, &eax[0], &b, &c, &edx);
        if (eax[0] >= 1)
            __get_cpuid_count(7, 1, &eax[1], &b, &c, &d);
    }
    bool avx512_bf16() const { return eax[1] >> 5 & 1; }
    bool amx_bf16() const { return (edx >> 22 & 1) && (edx >> 24 & 1); }
};
#endif

// A process has to ask Linux for the tile registers of AMX, whose state takes 8 KB per thread. It is asked when they
// are first used: whoever multiplies no bfloat16 goes without.
#ifdef TINYDIFF_HAS_amx
constexpr long get_supported = 0x1021, request = 0x1023, tile_data = 18; // of arch_prctl

bool has_tiles() {
    unsigned long features = 0;
    return syscall(SYS_arch_prctl, get_supported, &features) == 0 && (features >> tile_data & 1);
}

void ask_for_tiles() {
    static const bool granted = syscall(SYS_arch_prctl, request, tile_data) == 0;
    if (!granted)
        throw std::runtime_error("the system refuses this process the tile registers of AMX; set "
                                 "TINYDIFF_ISA=avx512_bf16 to multiply bfloat16 without them");
}
#else
void ask_for_tiles() {}
#endif

// The instruction sets that were compiled in and that this CPU has, slowest first.
std::vector<Isa> find_isas() {
    std::vector<Isa> found{TINYDIFF_ISA_ROW(baseline)};
#ifdef TINYDIFF_X86_ISAS
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        found.push_back(TINYDIFF_ISA_ROW(avx2));
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"))
        found.push_back(TINYDIFF_ISA_ROW(avx512));
    [[maybe_unused]] const Leaf7 leaf;
    [[maybe_unused]] const bool bfloat16 = found.back().name == "avx512" && leaf.avx512_bf16();
#ifdef TINYDIFF_HAS_avx512_bf16
    if (bfloat16)
        found.push_back(TINYDIFF_BFLOAT16_ROW(avx512_bf16));
#endif
#ifdef TINYDIFF_HAS_amx
    if (bfloat16 && leaf.amx_bf16() && has_tiles())
        found.push_back(TINYDIFF_BFLOAT16_ROW(amx));
#endif
#endif
    return found;
}

const std::vector<Isa> available = find_isas();
std::atomic<const Isa *> active{&available.back()}; // Python threads may change it while others call kernels

template <class T> const Kernels<T> &kernels();
template <> const Kernels<float> &kernels() { return *active.load()->f32; }
template <> const Kernels<double> &kernels() { return *active.load()->f64; }

std::vector<std::string> isas() {
    std::vector<std::string> names;
    for (const Isa &isa : available)
        names.push_back(isa.name);
    return names;
}

void use_isa(const std::string &name) {
    std::string known;
    for (const Isa &isa : available) {
        if (isa.name == name) {
            active = &isa;
            return;
        }
        known += (known.empty() ? "" : ", ") + isa.name;
    }
    throw py::value_error("isa is '" + name + "', which this machine or build does not have; use one of: " + known);
}

void set_threads(int n) {
    if (n < 1 || n > tinydiff::most_threads)
        throw py::value_error("threads is " + std::to_string(n) + "; it must be at least 1 and at most " +
                              std::to_string(tinydiff::most_threads));
    tinydiff::set_team_size(n);
}

std::vector<std::string> pools() {
    std::vector<std::string> names{"team"};
    if (tinydiff::has_openmp() && !tinydiff::is_forked())
        names.push_back("openmp");
    return names;
}

std::string pool() { return tinydiff::pool() == tinydiff::Pool::openmp ? "openmp" : "team"; }

void use_pool(const std::string &name) {
    if (name != "team" && name != "openmp")
        throw py::value_error("pool is '" + name + "'; expected 'openmp' or 'team'");
    if (name == "openmp" && !tinydiff::has_openmp())
        throw py::value_error("pool is 'openmp', but the extension was built by a compiler without OpenMP; install "
                              "tinydiff again with one that has it, or use 'team'");
    if (name == "openmp" && tinydiff::is_forked())
        throw py::value_error("pool is 'openmp', but this process was forked and OpenMP's threads stayed behind in its "
                              "parent; start it by another way (multiprocessing: 'spawn'), or use 'team'");
    tinydiff::set_pool(name == "openmp" ? tinydiff::Pool::openmp : tinydiff::Pool::team);
}

// --- arguments ------------------------------------------------------------------------------------------------------

std::string shape_of(const py::array &a) { return py::str(a.attr("shape")); }

[[noreturn]] void bad(const char *name, const py::array &a, const std::string &wanted) {
    throw py::value_error(std::string(name) + " has shape " + shape_of(a) + "; expected " + wanted);
}

constexpr int aligned = 0x0100; // NPY_ARRAY_ALIGNED

template <class T> using Array = py::array_t<T, py::array::c_style | aligned>;

template <class T> bool is_type(const py::array &a) { return py::isinstance<py::array_t<T>>(a); }

// A C-contiguous, aligned version of `a`: itself where possible, a copy otherwise. Never converts the dtype.
template <class T> Array<T> contiguous(const py::array &a, const char *name) {
    if (!is_type<T>(a))
        throw py::type_error(std::string(name) + " has dtype " + std::string(py::str(a.dtype())) + "; expected " +
                             std::string(py::str(py::dtype::of<T>())) + ", like the first argument");
    return Array<T>(py::object(a)); // MemoryError where there is no room for a copy
}

// An array written in place: no copy can stand in for it.
template <class T> T *writable(const py::array &a, const char *name) {
    if (!is_type<T>(a) || !(a.flags() & py::array::c_style) || !(a.flags() & aligned) || !a.writeable())
        throw py::value_error(std::string(name) + " must be a writable, C-contiguous array of dtype " +
                              std::string(py::str(py::dtype::of<T>())));
    return static_cast<T *>(const_cast<void *>(a.data()));
}

// Calls f(T{}) with the element type of `a`.
template <class F> auto dispatch(const py::array &a, const char *name, F f) {
    if (is_type<float>(a))
        return f(float());
    if (is_type<double>(a))
        return f(double());
    throw py::type_error(std::string(name) + " has dtype " + std::string(py::str(a.dtype())) +
                         "; expected float32 or float64");
}

template <class T> Array<T> empty(const std::vector<idx> &shape) { return Array<T>(shape); }

std::vector<idx> shape_vector(const py::array &a) { return {a.shape(), a.shape() + a.ndim()}; }

// Rows and row length of an array whose last axis is worked on.
struct Rows {
    idx rows, n;
};

Rows rows_of(const py::array &a, const char *name) {
    if (a.ndim() < 1)
        bad(name, a, "at least one axis");
    idx rows = 1;
    for (int i = 0; i + 1 < a.ndim(); ++i)
        rows *= a.shape(i);
    return {rows, a.shape(a.ndim() - 1)};
}

void expect_vector(const py::array &a, const char *name, idx n) {
    if (a.ndim() != 1 || a.shape(0) != n)
        bad(name, a, "(" + std::to_string(n) + ",)");
}

void expect_matrix(const py::array &a, const char *name) {
    if (a.ndim() != 2)
        bad(name, a, "two axes");
}

void expect_same_shape(const py::array &a, const char *name, const py::array &like) {
    if (shape_vector(a) != shape_vector(like))
        bad(name, a, shape_of(like));
}

// --- matrix products ------------------------------------------------------------------------------------------------

// A matrix whose rows or columns are contiguous is read in place: transposed views need no copy.
template <class T> py::array matrix_argument(const py::array &a, const char *name) {
    constexpr idx size = sizeof(T);
    const idx row = a.strides(0), column = a.strides(1);
    if (is_type<T>(a) && (a.flags() & aligned) &&
        ((column == size && row % size == 0) || (row == size && column % size == 0)))
        return a;
    return contiguous<T>(a, name);
}

// What this instruction set computes with numbers rounded to bfloat16; an error if it has no such products, or `a` is
// not float32.
const tinydiff::KernelsBfloat16 &bfloat16_kernels(const py::array &a, const char *name) {
    if (!is_type<float>(a))
        throw py::type_error(std::string(name) + " has dtype " + std::string(py::str(a.dtype())) +
                             "; expected float32 for a product in bfloat16");
    const Isa &isa = *active.load();
    if (!isa.bfloat16)
        throw std::runtime_error("bfloat16 is True, but " + isa.name +
                                 " has no products of bfloat16: they take a CPU with AVX512_BF16 or AMX; use float32");
    if (isa.name == "amx")
        ask_for_tiles();
    return *isa.bfloat16;
}

py::array matmul(const py::array &a, const py::array &b, const std::optional<py::array> &bias,
                 const std::optional<py::array> &residual, bool bfloat16) {
    const auto *rounding = bfloat16 ? &bfloat16_kernels(a, "a") : nullptr;
    expect_matrix(a, "a");
    if (b.ndim() != 2 || b.shape(0) != a.shape(1))
        bad("b", b, "(" + std::to_string(a.shape(1)) + ", n)");
    if (bias)
        expect_vector(*bias, "bias", b.shape(1));
    if (residual && shape_vector(*residual) != std::vector<idx>{a.shape(0), b.shape(1)})
        bad("residual", *residual, "(" + std::to_string(a.shape(0)) + ", " + std::to_string(b.shape(1)) + ")");
    return dispatch(a, "a", [&](auto zero) -> py::array {
        using T = decltype(zero);
        constexpr idx size = sizeof(T);
        const py::array ac = matrix_argument<T>(a, "a"), bc = matrix_argument<T>(b, "b");
        const idx m = a.shape(0), k = a.shape(1), n = b.shape(1);
        auto c = empty<T>({m, n});
        const auto add = bias ? contiguous<T>(*bias, "bias") : Array<T>();
        const T *ap = static_cast<const T *>(ac.data()), *bp = static_cast<const T *>(bc.data());
        const auto base = residual ? contiguous<T>(*residual, "residual") : Array<T>();
        const T *biasp = bias ? add.data() : nullptr, *basep = residual ? base.data() : nullptr;
        T *to = c.mutable_data();
        {
            py::gil_scoped_release release;
            auto multiply = kernels<T>().matmul;
            if constexpr (std::is_same_v<T, float>)
                multiply = rounding ? rounding->matmul : multiply;
            multiply(ap, ac.strides(0) / size, ac.strides(1) / size, bp, bc.strides(0) / size, bc.strides(1) / size,
                     biasp, basep, to, m, k, n);
        }
        return c;
    });
}

py::array column_sum(const py::array &x) {
    expect_matrix(x, "x");
    const Rows s = rows_of(x, "x");
    return dispatch(x, "x", [&](auto zero) -> py::array {
        using T = decltype(zero);
        const auto in = contiguous<T>(x, "x");
        auto sums = empty<T>({s.n});
        const T *from = in.data();
        T *to = sums.mutable_data();
        {
            py::gil_scoped_release release;
            kernels<T>().column_sum(from, to, s.rows, s.n);
        }
        return sums;
    });
}

// --- rows -----------------------------------------------------------------------------------------------------------

py::array softmax_of(const py::array &x, bool logarithm) {
    const Rows s = rows_of(x, "x");
    return dispatch(x, "x", [&](auto zero) -> py::array {
        using T = decltype(zero);
        const auto in = contiguous<T>(x, "x");
        auto y = empty<T>(shape_vector(x));
        const T *from = in.data();
        T *to = y.mutable_data();
        {
            py::gil_scoped_release release;
            (logarithm ? kernels<T>().log_softmax : kernels<T>().softmax)(from, to, s.rows, s.n);
        }
        return y;
    });
}

Array<std::int64_t> checked_targets(const py::array &targets, idx rows, idx n) {
    expect_vector(targets, "targets", rows);
    auto ids = contiguous<std::int64_t>(targets, "targets");
    for (idx i = 0; i < rows; ++i)
        if (ids.data()[i] < 0 || ids.data()[i] >= n)
            throw py::value_error("targets[" + std::to_string(i) + "] is " + std::to_string(ids.data()[i]) +
                                  "; expected 0 <= target < " + std::to_string(n));
    return ids;
}

py::tuple cross_entropy(const py::array &logits, const py::array &targets) {
    expect_matrix(logits, "logits");
    const Rows s = rows_of(logits, "logits");
    const auto ids = checked_targets(targets, s.rows, s.n);
    return dispatch(logits, "logits", [&](auto zero) -> py::tuple {
        using T = decltype(zero);
        const auto in = contiguous<T>(logits, "logits");
        auto nll = empty<T>({s.rows}), lse = empty<T>({s.rows});
        const T *from = in.data();
        const std::int64_t *id = ids.data();
        T *to = nll.mutable_data(), *to_lse = lse.mutable_data();
        {
            py::gil_scoped_release release;
            kernels<T>().cross_entropy(from, id, to, to_lse, s.rows, s.n);
        }
        return py::make_tuple(nll, lse);
    });
}

py::array cross_entropy_backward(const py::array &g, const py::array &logits, const py::array &targets,
                                 const py::array &lse) {
    expect_matrix(logits, "logits");
    const Rows s = rows_of(logits, "logits");
    expect_vector(g, "g", s.rows);
    expect_vector(lse, "lse", s.rows);
    const auto ids = checked_targets(targets, s.rows, s.n);
    return dispatch(logits, "logits", [&](auto zero) -> py::array {
        using T = decltype(zero);
        const auto gc = contiguous<T>(g, "g"), in = contiguous<T>(logits, "logits"), l = contiguous<T>(lse, "lse");
        auto d = empty<T>({s.rows, s.n});
        const T *gp = gc.data(), *from = in.data(), *lp = l.data();
        const std::int64_t *id = ids.data();
        T *to = d.mutable_data();
        {
            py::gil_scoped_release release;
            kernels<T>().cross_entropy_backward(gp, from, id, lp, to, s.rows, s.n);
        }
        return d;
    });
}

py::tuple layer_norm(const py::array &x, const py::array &weight, const py::array &bias, double eps) {
    const Rows s = rows_of(x, "x");
    expect_vector(weight, "weight", s.n);
    expect_vector(bias, "bias", s.n);
    return dispatch(x, "x", [&](auto zero) -> py::tuple {
        using T = decltype(zero);
        const auto in = contiguous<T>(x, "x"), w = contiguous<T>(weight, "weight"), b = contiguous<T>(bias, "bias");
        std::vector<idx> lead = shape_vector(x);
        auto y = empty<T>(lead);
        lead.pop_back();
        auto mean = empty<T>(lead), rstd = empty<T>(lead);
        const T *from = in.data(), *wp = w.data(), *bp = b.data();
        T *to = y.mutable_data(), *m = mean.mutable_data(), *r = rstd.mutable_data();
        {
            py::gil_scoped_release release;
            kernels<T>().layer_norm(from, wp, bp, static_cast<T>(eps), to, m, r, s.rows, s.n);
        }
        return py::make_tuple(y, mean, rstd);
    });
}

py::tuple layer_norm_backward(const py::array &g, const py::array &x, const py::array &weight, const py::array &mean,
                              const py::array &rstd) {
    const Rows s = rows_of(x, "x");
    expect_same_shape(g, "g", x);
    expect_vector(weight, "weight", s.n);
    std::vector<idx> lead = shape_vector(x);
    lead.pop_back();
    for (const auto &[name, a] : {std::pair{"mean", &mean}, std::pair{"rstd", &rstd}})
        if (shape_vector(*a) != lead)
            bad(name, *a, "the shape of x without its last axis");
    return dispatch(x, "x", [&](auto zero) -> py::tuple {
        using T = decltype(zero);
        const auto gc = contiguous<T>(g, "g"), in = contiguous<T>(x, "x"), w = contiguous<T>(weight, "weight"),
                   mc = contiguous<T>(mean, "mean"), rc = contiguous<T>(rstd, "rstd");
        auto dx = empty<T>(shape_vector(x)), dw = empty<T>({s.n}), db = empty<T>({s.n});
        const T *gp = gc.data(), *from = in.data(), *wp = w.data(), *mp = mc.data(), *rp = rc.data();
        T *dxp = dx.mutable_data(), *dwp = dw.mutable_data(), *dbp = db.mutable_data();
        {
            py::gil_scoped_release release;
            kernels<T>().layer_norm_backward(gp, from, wp, mp, rp, dxp, dwp, dbp, s.rows, s.n);
        }
        return py::make_tuple(dx, dw, db);
    });
}

py::array gelu(const py::array &x) {
    return dispatch(x, "x", [&](auto zero) -> py::array {
        using T = decltype(zero);
        const auto in = contiguous<T>(x, "x");
        auto y = empty<T>(shape_vector(x));
        const T *from = in.data();
        T *to = y.mutable_data();
        {
            py::gil_scoped_release release;
            kernels<T>().gelu(from, to, in.size());
        }
        return y;
    });
}

py::array gelu_backward(const py::array &g, const py::array &x) {
    expect_same_shape(g, "g", x);
    return dispatch(x, "x", [&](auto zero) -> py::array {
        using T = decltype(zero);
        const auto gc = contiguous<T>(g, "g"), in = contiguous<T>(x, "x");
        auto dx = empty<T>(shape_vector(x));
        const T *gp = gc.data(), *from = in.data();
        T *to = dx.mutable_data();
        {
            py::gil_scoped_release release;
            kernels<T>().gelu_backward(gp, from, to, in.size());
        }
        return dx;
    });
}

py::array rotary(const py::array &qkv, const py::array &cos, const py::array &sin) {
    if (qkv.ndim() != 5 || qkv.shape(2) != 3 || qkv.shape(4) % 2 != 0)
        bad("qkv", qkv, "(B, L, 3, H, D) with D even");
    const bool per_sequence = cos.ndim() == 3;
    std::vector<idx> wanted{qkv.shape(1), qkv.shape(4) / 2};
    if (per_sequence)
        wanted.insert(wanted.begin(), qkv.shape(0));
    for (const auto &[name, table] : {std::pair{"cos", &cos}, std::pair{"sin", &sin}})
        if (shape_vector(*table) != wanted)
            bad(name, *table,
                "(L, D / 2) or (B, L, D / 2) with B " + std::to_string(qkv.shape(0)) + ", L " +
                    std::to_string(qkv.shape(1)) + ", D / 2 " + std::to_string(qkv.shape(4) / 2) + ", as the other");
    return dispatch(qkv, "qkv", [&](auto zero) -> py::array {
        using T = decltype(zero);
        const auto in = contiguous<T>(qkv, "qkv"), c = contiguous<T>(cos, "cos"), s = contiguous<T>(sin, "sin");
        auto out = empty<T>(shape_vector(qkv));
        const T *from = in.data(), *cp = c.data(), *sp = s.data();
        T *to = out.mutable_data();
        const idx batch = qkv.shape(0), length = qkv.shape(1), heads = qkv.shape(3), depth = qkv.shape(4);
        {
            py::gil_scoped_release release;
            kernels<T>().rotary(from, cp, sp, per_sequence, to, batch, length, heads, depth);
        }
        return out;
    });
}

py::tuple topk(const py::array &x, idx k) {
    const Rows s = rows_of(x, "x");
    if (k < 0 || k > s.n)
        throw py::value_error("k is " + std::to_string(k) + "; expected 0 <= k <= " + std::to_string(s.n) +
                              ", the length of the last axis");
    return dispatch(x, "x", [&](auto zero) -> py::tuple {
        using T = decltype(zero);
        const auto in = contiguous<T>(x, "x");
        std::vector<idx> shape = shape_vector(x);
        shape.back() = k;
        auto values = empty<T>(shape);
        auto indices = empty<std::int64_t>(shape);
        const T *from = in.data();
        T *to = values.mutable_data();
        std::int64_t *at = indices.mutable_data();
        {
            py::gil_scoped_release release;
            kernels<T>().topk(from, to, at, s.rows, s.n, k);
        }
        return py::make_tuple(values, indices);
    });
}

// --- attention ------------------------------------------------------------------------------------------------------

// A (B, L, H, D) array whose last axis is contiguous, such as one third of a packed qkv: read in place.
template <class T> struct HeadsArgument {
    py::array array;
    Heads<const T> view;
};

template <class T> Heads<T> heads_view(const py::array &a) {
    constexpr idx size = sizeof(T);
    return {static_cast<T *>(const_cast<void *>(a.data())), a.strides(0) / size, a.strides(1) / size,
            a.strides(2) / size};
}

bool regular(const py::array &a, idx size) {
    if (a.size() == 0)
        return true;
    if (!(a.flags() & aligned) || (a.shape(3) > 1 && a.strides(3) != size))
        return false;
    for (int i = 0; i < 3; ++i)
        if (a.strides(i) % size != 0)
            return false;
    return true;
}

template <class T> HeadsArgument<T> heads_argument(const py::array &a, const char *name) {
    if (is_type<T>(a) && regular(a, sizeof(T)))
        return {a, heads_view<const T>(a)};
    py::array copy = contiguous<T>(a, name);
    return {copy, heads_view<const T>(copy)};
}

template <class T> Heads<T> heads_output(const py::array &a, const char *name, const py::array &like) {
    expect_same_shape(a, name, like);
    if (!is_type<T>(a) || !regular(a, sizeof(T)) || !a.writeable())
        throw py::value_error(std::string(name) + " must be writable, of dtype " +
                              std::string(py::str(py::dtype::of<T>())) + ", with a contiguous last axis");
    return heads_view<T>(a);
}

AttentionShape attention_shape(const py::array &q, const py::array &k, const py::array &v, idx causal) {
    if (q.ndim() != 4)
        bad("q", q, "(B, Lq, H, D)");
    if (k.ndim() != 4 || k.shape(0) != q.shape(0) || k.shape(2) != q.shape(2) || k.shape(3) != q.shape(3))
        bad("k", k, "(B, Lk, H, D) with the B, H and D of q, " + shape_of(q));
    expect_same_shape(v, "v", k);
    if (q.shape(3) < 1)
        bad("q", q, "(B, Lq, H, D) with D at least 1");
    if (causal < 0)
        throw py::value_error("causal is " + std::to_string(causal) +
                              "; expected 0 (all), 1 (left to right) or the length of a block");
    if (causal && q.shape(1) > k.shape(1))
        bad("q", q, "at most as many queries as keys (" + std::to_string(k.shape(1)) + ") when causal");
    return {q.shape(0), q.shape(1), k.shape(1), q.shape(2), q.shape(3)};
}

Mask attention_mask(const std::optional<py::array> &mask, idx causal, const AttentionShape &s) {
    if (!mask)
        return {nullptr, 0, 0, 0, causal};
    if (!is_type<bool>(*mask))
        throw py::type_error("mask has dtype " + std::string(py::str(mask->dtype())) + "; expected bool");
    const int lead = static_cast<int>(mask->ndim()) - 2;
    if ((lead != 0 && lead != 1) || (lead == 1 && mask->shape(0) != s.batch) || mask->shape(lead) != s.queries ||
        mask->shape(lead + 1) != s.keys)
        bad("mask", *mask,
            "(Lq, Lk) or (B, Lq, Lk) with B " + std::to_string(s.batch) + ", Lq " + std::to_string(s.queries) +
                ", Lk " + std::to_string(s.keys));
    return {static_cast<const bool *>(mask->data()), lead ? mask->strides(0) : 0, mask->strides(lead),
            mask->strides(lead + 1), causal};
}

py::tuple attention(const py::array &q, const py::array &k, const py::array &v, const std::optional<py::array> &mask,
                    idx causal, bool bfloat16) {
    const auto *rounding = bfloat16 ? &bfloat16_kernels(q, "q") : nullptr;
    const AttentionShape s = attention_shape(q, k, v, causal);
    const Mask seen = attention_mask(mask, causal, s);
    return dispatch(q, "q", [&](auto zero) -> py::tuple {
        using T = decltype(zero);
        const auto qa = heads_argument<T>(q, "q"), ka = heads_argument<T>(k, "k"), va = heads_argument<T>(v, "v");
        auto out = empty<T>(shape_vector(q));
        auto lse = empty<T>({s.batch, s.heads, s.queries});
        const Heads<T> to = heads_view<T>(out);
        T *to_lse = lse.mutable_data();
        {
            py::gil_scoped_release release;
            auto attend = kernels<T>().attention;
            if constexpr (std::is_same_v<T, float>)
                attend = rounding ? rounding->attention : attend;
            attend(s, qa.view, ka.view, va.view, seen, to, to_lse);
        }
        return py::make_tuple(out, lse);
    });
}

void attention_backward(const py::array &g, const py::array &q, const py::array &k, const py::array &v,
                        const py::array &out, const py::array &lse, const py::array &dq, const py::array &dk,
                        const py::array &dv, const std::optional<py::array> &mask, idx causal, bool bfloat16) {
    const auto *rounding = bfloat16 ? &bfloat16_kernels(q, "q") : nullptr;
    const AttentionShape s = attention_shape(q, k, v, causal);
    const Mask seen = attention_mask(mask, causal, s);
    expect_same_shape(g, "g", q);
    expect_same_shape(out, "out", q);
    if (shape_vector(lse) != std::vector<idx>{s.batch, s.heads, s.queries})
        bad("lse", lse, "(B, H, Lq)");
    dispatch(q, "q", [&](auto zero) {
        using T = decltype(zero);
        const auto ga = heads_argument<T>(g, "g"), qa = heads_argument<T>(q, "q"), ka = heads_argument<T>(k, "k"),
                   va = heads_argument<T>(v, "v"), oa = heads_argument<T>(out, "out");
        const auto l = contiguous<T>(lse, "lse");
        const Heads<T> dqv = heads_output<T>(dq, "dq", q), dkv = heads_output<T>(dk, "dk", k),
                       dvv = heads_output<T>(dv, "dv", v);
        const T *lp = l.data();
        py::gil_scoped_release release;
        auto attend = kernels<T>().attention_backward;
        if constexpr (std::is_same_v<T, float>)
            attend = rounding ? rounding->attention_backward : attend;
        attend(s, ga.view, qa.view, ka.view, va.view, oa.view, lp, seen, dqv, dkv, dvv);
    });
}

// --- optimiser ------------------------------------------------------------------------------------------------------

std::atomic<bool> keeping{false};

// A training step makes and drops the same few hundred arrays again and again. By default the larger ones go back to
// the system each time, and clearing their pages anew takes longer than many a kernel. Keep them, from the first step
// of an optimiser on until give_back_memory.
void keep_memory() {
    if (keeping.exchange(true))
        return;
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, 32 << 20); // the largest value allowed
    mallopt(M_TRIM_THRESHOLD, -1);
#endif
}

void give_back_memory() {
    if (!keeping.exchange(false))
        return;
#ifdef __GLIBC__
    mallopt(M_TRIM_THRESHOLD, 64 << 20); // where glibc itself arrives with arrays of that size
    malloc_trim(0);
#endif
}

void adamw(const py::array &p, const py::array &g, const py::array &m, const py::array &v, double lr, double beta1,
           double beta2, double eps, double weight_decay, idx step) {
    for (const auto &[name, a] : {std::pair{"g", &g}, std::pair{"m", &m}, std::pair{"v", &v}})
        expect_same_shape(*a, name, p);
    if (step < 1)
        throw py::value_error("step is " + std::to_string(step) + "; it counts from 1");
    keep_memory();
    dispatch(p, "p", [&](auto zero) {
        using T = decltype(zero);
        T *pp = writable<T>(p, "p"), *mp = writable<T>(m, "m"), *vp = writable<T>(v, "v");
        const auto gc = contiguous<T>(g, "g");
        const T *gp = gc.data();
        const double count = static_cast<double>(step);
        const T c1 = static_cast<T>(1 - std::pow(beta1, count)), c2 = static_cast<T>(1 - std::pow(beta2, count));
        py::gil_scoped_release release;
        kernels<T>().adamw(pp, gp, mp, vp, static_cast<T>(lr), static_cast<T>(1 - beta1), static_cast<T>(1 - beta2),
                           static_cast<T>(eps), static_cast<T>(weight_decay), c1, c2, gc.size());
    });
}

py::array orthogonalise(const py::array &x) {
    if (x.ndim() != 3)
        bad("x", x, "(N, m, n)");
    return dispatch(x, "x", [&](auto zero) -> py::array {
        using T = decltype(zero);
        const auto in = contiguous<T>(x, "x");
        auto y = empty<T>(shape_vector(x));
        const T *from = in.data();
        T *to = y.mutable_data();
        {
            py::gil_scoped_release release;
            kernels<T>().orthogonalise(from, to, x.shape(0), x.shape(1), x.shape(2));
        }
        return y;
    });
}

} // namespace

PYBIND11_MODULE(_native, module, py::mod_gil_not_used()) {
    module.doc() = "Native kernels; see tinydiff/kernels/reference.py for what each computes.";
    module.attr("sources") = TINYDIFF_SOURCES; // a digest of the files of this folder
    module.def("isas", &isas, "Instruction sets of this build that this CPU has, slowest first.");
    module.def("isa", [] { return active.load()->name; }, "The instruction set in use.");
    module.def("use_isa", &use_isa, py::arg("name"));
    module.def("has_bfloat16", [] { return active.load()->bfloat16 != nullptr; }, "Whether it multiplies bfloat16.");
    module.def("threads", &tinydiff::team_size, "Threads a kernel may use.");
    module.def("set_threads", &set_threads, py::arg("n"));
    module.def("pools", &pools, "Threads that can run the kernels' tasks here: 'team', 'openmp'.");
    module.def("pool", &pool, "Whose threads do.");
    module.def("use_pool", &use_pool, py::arg("name"));
    module.def("give_back_memory", &give_back_memory, "Return what was kept for a next step of training.");

    module.def("matmul", &matmul, py::arg("a"), py::arg("b"), py::arg("bias") = py::none(),
               py::arg("residual") = py::none(), py::arg("bfloat16") = false);
    module.def("column_sum", &column_sum, py::arg("x"));
    module.def("softmax", [](const py::array &x) { return softmax_of(x, false); }, py::arg("x"));
    module.def("log_softmax", [](const py::array &x) { return softmax_of(x, true); }, py::arg("x"));
    module.def("cross_entropy", &cross_entropy, py::arg("logits"), py::arg("targets"));
    module.def("cross_entropy_backward", &cross_entropy_backward, py::arg("g"), py::arg("logits"), py::arg("targets"),
               py::arg("lse"));
    module.def("layer_norm", &layer_norm, py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("eps") = 1e-5);
    module.def("layer_norm_backward", &layer_norm_backward, py::arg("g"), py::arg("x"), py::arg("weight"),
               py::arg("mean"), py::arg("rstd"));
    module.def("gelu", &gelu, py::arg("x"));
    module.def("gelu_backward", &gelu_backward, py::arg("g"), py::arg("x"));
    module.def("rotary", &rotary, py::arg("qkv"), py::arg("cos"), py::arg("sin"));
    module.def("topk", &topk, py::arg("x"), py::arg("k"));
    module.def("attention", &attention, py::arg("q"), py::arg("k"), py::arg("v"), py::arg("mask") = py::none(),
               py::arg("causal") = 0, py::arg("bfloat16") = false);
    module.def("attention_backward", &attention_backward, py::arg("g"), py::arg("q"), py::arg("k"), py::arg("v"),
               py::arg("out"), py::arg("lse"), py::arg("dq"), py::arg("dk"), py::arg("dv"),
               py::arg("mask") = py::none(), py::arg("causal") = 0, py::arg("bfloat16") = false);
    module.def("adamw", &adamw, py::arg("p"), py::arg("g"), py::arg("m"), py::arg("v"), py::arg("lr"), py::arg("beta1"),
               py::arg("beta2"), py::arg("eps"), py::arg("weight_decay"), py::arg("step"));
    module.def("orthogonalise", &orthogonalise, py::arg("x"));
}

//! The vector unit: operands, masks and repeats, and the functions that work lane by lane (rules R11 to R16).
//!
//! Every function has a form over the first `count` elements, and one over repeats of 256 bytes: a mask says which
//! elements of a repeat take part, strides (in 32 bytes) how far its eight blocks, and the repeats, lie apart.
#pragma once
#include "copy.h"

namespace AscendC {

struct UnaryRepeatParams {
    uint16_t dstBlkStride = 1, srcBlkStride = 1;
    uint8_t dstRepStride = 8, srcRepStride = 8;
    UnaryRepeatParams() = default;
    UnaryRepeatParams(uint16_t dstBlk, uint16_t srcBlk, uint8_t dstRep, uint8_t srcRep)
        : dstBlkStride(dstBlk), srcBlkStride(srcBlk), dstRepStride(dstRep), srcRepStride(srcRep) {}
};

struct BinaryRepeatParams {
    uint8_t dstBlkStride = 1, src0BlkStride = 1, src1BlkStride = 1;
    uint8_t dstRepStride = 8, src0RepStride = 8, src1RepStride = 8;
    BinaryRepeatParams() = default;
    BinaryRepeatParams(uint8_t dstBlk, uint8_t src0Blk, uint8_t src1Blk, uint8_t dstRep, uint8_t src0Rep, uint8_t src1Rep)
        : dstBlkStride(dstBlk), src0BlkStride(src0Blk), src1BlkStride(src1Blk), dstRepStride(dstRep),
          src0RepStride(src0Rep), src1RepStride(src1Rep) {}
};

struct BrcbRepeatParams {
    uint16_t dstBlkStride = 1, dstRepStride = 8;
    BrcbRepeatParams() = default;
    BrcbRepeatParams(uint16_t blk, uint16_t rep) : dstBlkStride(blk), dstRepStride(rep) {}
};

struct CopyRepeatParams {
    uint16_t dstStride = 1, srcStride = 1, dstRepeatSize = 8, srcRepeatSize = 8;
    CopyRepeatParams() = default;
    CopyRepeatParams(uint16_t d, uint16_t s, uint16_t dr, uint16_t sr)
        : dstStride(d), srcStride(s), dstRepeatSize(dr), srcRepeatSize(sr) {}
};

enum class CMPMODE : uint8_t { LT, GT, EQ, LE, GE, NE };
enum class SELMODE : uint8_t { VSEL_CMPMASK_SPR, VSEL_TENSOR_SCALAR_MODE, VSEL_TENSOR_TENSOR_MODE };

namespace MaskMode {}

}  // namespace AscendC

namespace aic_model {

using AscendC::LocalTensor;

/// Which elements an instruction works on: the first `count`, or those of a mask in each repeat.
struct Lanes {
    bool is_flat = true;
    uint32_t count = 0;
    uint32_t n_repeats = 0;
    /// Elements in a repeat.
    uint32_t per = 0;
    uint64_t mask[2] = {};

    bool holds(uint32_t repeat, uint32_t e) const {
        if (is_flat) return true;
        return repeat * per + e < count && (mask[e / 64] >> (e % 64) & 1);
    }
};

/// A tensor as an instruction steps through it.
template <class T>
struct Operand {
    LocalTensor<T> t;
    uint32_t block = 1, repeat = 8;

    uint64_t at(const Lanes& l, uint32_t r, uint32_t e) const {
        if (l.is_flat) return e * sizeof(T);
        constexpr uint32_t per_block = 32 / sizeof(T);
        return (uint64_t(r) * repeat + uint64_t(e / per_block) * block) * 32 + e % per_block * sizeof(T);
    }
};

inline Lanes flat(int64_t count) { return {true, uint32_t(std::max<int64_t>(count, 0)), 0, 0, {}}; }

/// The lanes of `n` elements in each repeat (rules R12, R16). In counter mode `n` is the number of all elements.
template <class T>
Lanes repeats(Op& op, uint64_t n, uint32_t n_repeats) {
    Lanes l{false, ~0u, n_repeats, uint32_t(256 / sizeof(T)), {~0ull, ~0ull}};
    if (current->is_counter_mask) {
        l.count = uint32_t(n);
        l.n_repeats = uint32_t((n + l.per - 1) / l.per);
        return l;
    }
    op.require(n <= l.per, "R16", "a mask of %llu elements, of at most %u", (unsigned long long)n, l.per);
    op.require(n_repeats <= 255, "R12", "%u repeats, of at most 255", n_repeats);
    l.mask[0] = n >= 64 ? ~0ull : (1ull << n) - 1;
    l.mask[1] = n >= 128 ? ~0ull : n > 64 ? (1ull << (n - 64)) - 1 : 0;
    return l;
}

template <class T>
Lanes repeats(Op& op, const uint64_t mask[], uint32_t n_repeats) {
    op.require(n_repeats <= 255, "R12", "%u repeats, of at most 255", n_repeats);
    Lanes l{false, ~0u, n_repeats, uint32_t(256 / sizeof(T)), {mask[0], sizeof(T) <= 2 ? mask[1] : 0}};
    return l;
}

/// Calls `f` on every lane.
template <class F>
void each(const Lanes& l, F&& f) {
    if (l.is_flat) {
        for (uint32_t e = 0; e < l.count; ++e) f(0, e);
        return;
    }
    for (uint32_t r = 0; r < l.n_repeats; ++r) {
        for (uint32_t e = 0; e < l.per; ++e) {
            if (l.holds(r, e)) f(r, e);
        }
    }
}

/// The bytes that an instruction accesses of an operand, in order.
template <class T>
std::vector<std::pair<uint64_t, uint64_t>> spans(const Lanes& l, const Operand<T>& o) {
    std::vector<std::pair<uint64_t, uint64_t>> all;
    auto add = [&](uint64_t lo, uint64_t hi) {
        if (!all.empty() && all.back().second == lo) {
            all.back().second = hi;
        } else {
            all.push_back({lo, hi});
        }
    };
    if (l.is_flat) {
        if (l.count > 0) add(0, l.count * sizeof(T));
        return all;
    }
    each(l, [&](uint32_t r, uint32_t e) { add(o.at(l, r, e), o.at(l, r, e) + sizeof(T)); });
    return all;
}

/// Rule R13: what is written is either exactly what is read, or disjoint from it.
template <class D, class A>
void check_overlap(Op& op, const Lanes& l, const Operand<D>& d, const Operand<A>& s) {
    bool is_same = d.t.memory == s.t.memory && d.t.first == s.t.first && sizeof(D) == sizeof(A) &&
                   (l.is_flat || (d.block == s.block && (d.repeat == s.repeat || l.n_repeats <= 1)));
    if (is_same || d.t.memory != s.t.memory) return;
    auto a = spans(l, d), b = spans(l, s);
    for (size_t i = 0, j = 0; i < a.size() && j < b.size();) {
        uint64_t lo = a[i].first + d.t.first, hi = a[i].second + d.t.first;
        uint64_t lo2 = b[j].first + s.t.first, hi2 = b[j].second + s.t.first;
        if (lo < hi2 && lo2 < hi) {
            return op.violate("R13", "writes bytes [%llu, %llu) and reads [%llu, %llu) of %s, which overlap in part",
                              (unsigned long long)lo, (unsigned long long)hi, (unsigned long long)lo2,
                              (unsigned long long)hi2, d.t.memory->name.c_str());
        }
        if (hi <= hi2) ++i; else ++j;
    }
}

/// Cycles of a vector instruction: head, cycles per repeat, and tail of the published model.
struct Rate {
    double head, slope, tail;
};

inline Cost vector_cost(Rate r, double bytes) {
    return {r.head, r.slope * std::max(1.0, std::ceil(bytes / 256)), r.tail};
}

template <class T>
double bytes_of(const Lanes& l) {
    return l.is_flat ? double(l.count) * sizeof(T) : double(l.n_repeats) * 256;
}

template <class T>
void check_operand(Op& op, const Lanes& l, const Operand<T>& o, bool is_write) {
    op.require(!o.t.memory || o.t.memory == &current->ub, "R23", "an operand isn't in the unified buffer");
    op.aligned(o.t);
    for (auto [lo, hi] : spans(l, o)) {
        if (is_write) op.write(o.t, lo, hi - lo); else op.read(o.t, lo, hi - lo);
    }
}

/// `d[i] = f(s[i]...)`.
template <class D, class F, class... A>
void lanewise(Op& op, const Lanes& l, Rate rate, F f, const Operand<D>& d, const Operand<A>&... s) {
    constexpr size_t widest = std::max({sizeof(D), sizeof(A)...});
    op.instr.cost = vector_cost(rate, l.is_flat ? double(l.count) * widest : double(l.n_repeats) * 256);
    if ((l.is_flat ? l.count : l.n_repeats) == 0) return;
    (check_operand(op, l, s, false), ...);
    check_operand(op, l, d, true);
    (check_overlap(op, l, d, s), ...);
    op.issue([=] {
        uint8_t* to = reinterpret_cast<uint8_t*>(d.t.data());
        each(l, [&](uint32_t r, uint32_t e) {
            *reinterpret_cast<D*>(to + d.at(l, r, e)) =
                f(*reinterpret_cast<const A*>(reinterpret_cast<const uint8_t*>(s.t.data()) + s.at(l, r, e))...);
        });
    });
}

}  // namespace aic_model

/// A function of two tensors: its type list, its cycles, and what it computes.
#define AIC_BINARY(Name, head, slope, tail, expression, ...)                                                        \
    template <class T, bool isSetMask = true>                                                                       \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, int32_t count,     \
              Loc at = Loc::current()) {                                                                            \
        static_assert(aic_model::is_one_of<T, __VA_ARGS__>, "R11: " #Name " takes " #__VA_ARGS__);                  \
        aic_model::Op op(aic_model::V, #Name, at);                                                                  \
        aic_model::lanewise(op, aic_model::flat(count), {head, slope, tail}, [](T a, T b) -> T { return expression; }, \
                            aic_model::Operand<T>{dst}, aic_model::Operand<T>{src0}, aic_model::Operand<T>{src1});  \
    }                                                                                                               \
    template <class T, bool isSetMask = true, class Mask>                                                           \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, Mask mask,         \
              uint8_t repeatTimes, const BinaryRepeatParams& p, Loc at = Loc::current()) {                          \
        static_assert(aic_model::is_one_of<T, __VA_ARGS__>, "R11: " #Name " takes " #__VA_ARGS__);                  \
        aic_model::Op op(aic_model::V, #Name, at);                                                                  \
        aic_model::lanewise(op, aic_model::repeats<T>(op, mask, repeatTimes), {head, slope, tail},                  \
                            [](T a, T b) -> T { return expression; },                                               \
                            aic_model::Operand<T>{dst, p.dstBlkStride, p.dstRepStride},                             \
                            aic_model::Operand<T>{src0, p.src0BlkStride, p.src0RepStride},                          \
                            aic_model::Operand<T>{src1, p.src1BlkStride, p.src1RepStride});                         \
    }

/// A function of one tensor.
#define AIC_UNARY(Name, head, slope, tail, expression, ...)                                                         \
    template <class T, bool isSetMask = true>                                                                       \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, int32_t count, Loc at = Loc::current()) {       \
        static_assert(aic_model::is_one_of<T, __VA_ARGS__>, "R11: " #Name " takes " #__VA_ARGS__);                  \
        aic_model::Op op(aic_model::V, #Name, at);                                                                  \
        aic_model::lanewise(op, aic_model::flat(count), {head, slope, tail}, [](T a) -> T { return expression; },   \
                            aic_model::Operand<T>{dst}, aic_model::Operand<T>{src});                                \
    }                                                                                                               \
    template <class T, bool isSetMask = true, class Mask>                                                           \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, Mask mask, uint8_t repeatTimes,                 \
              const UnaryRepeatParams& p, Loc at = Loc::current()) {                                                \
        static_assert(aic_model::is_one_of<T, __VA_ARGS__>, "R11: " #Name " takes " #__VA_ARGS__);                  \
        aic_model::Op op(aic_model::V, #Name, at);                                                                  \
        aic_model::lanewise(op, aic_model::repeats<T>(op, mask, repeatTimes), {head, slope, tail},                  \
                            [](T a) -> T { return expression; },                                                    \
                            aic_model::Operand<T>{dst, p.dstBlkStride, p.dstRepStride},                             \
                            aic_model::Operand<T>{src, p.srcBlkStride, p.srcRepStride});                            \
    }

/// A function of a tensor and a scalar of its type.
#define AIC_SCALAR(Name, head, slope, tail, expression, ...)                                                        \
    template <class T, bool isSetMask = true>                                                                       \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, std::type_identity_t<T> b, int32_t count,       \
              Loc at = Loc::current()) {                                                                            \
        static_assert(aic_model::is_one_of<T, __VA_ARGS__>, "R11: " #Name " takes " #__VA_ARGS__);                  \
        aic_model::Op op(aic_model::V, #Name, at);                                                                  \
        aic_model::lanewise(op, aic_model::flat(count), {head, slope, tail}, [b](T a) -> T { return expression; },  \
                            aic_model::Operand<T>{dst}, aic_model::Operand<T>{src});                                \
    }                                                                                                               \
    template <class T, bool isSetMask = true, class Mask>                                                           \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, std::type_identity_t<T> b, Mask mask,           \
              uint8_t repeatTimes, const UnaryRepeatParams& p, Loc at = Loc::current()) {                           \
        static_assert(aic_model::is_one_of<T, __VA_ARGS__>, "R11: " #Name " takes " #__VA_ARGS__);                  \
        aic_model::Op op(aic_model::V, #Name, at);                                                                  \
        aic_model::lanewise(op, aic_model::repeats<T>(op, mask, repeatTimes), {head, slope, tail},                  \
                            [b](T a) -> T { return expression; },                                                   \
                            aic_model::Operand<T>{dst, p.dstBlkStride, p.dstRepStride},                             \
                            aic_model::Operand<T>{src, p.srcBlkStride, p.srcRepStride});                            \
    }

namespace aic_model {

/// IEEE minimum and maximum as the vector unit has them: NaN if either is.
template <class T>
T larger(T a, T b) {
    if (a != a || b != b) return a + b;
    return a > b ? a : b;
}
template <class T>
T smaller(T a, T b) {
    if (a != a || b != b) return a + b;
    return a < b ? a : b;
}
template <class T>
T apply(double (*f)(double), T x) { return T(f(double(x))); }

}  // namespace aic_model

namespace AscendC {

AIC_BINARY(Add, 10, 2, 14, T(a + b), half, float, int16_t, int32_t)
AIC_BINARY(Sub, 10, 2, 14, T(a - b), half, float, int16_t, int32_t)
AIC_BINARY(Mul, 10, 2, 14, T(a * b), half, float, int16_t, int32_t)
AIC_BINARY(Max, 10, 2, 14, aic_model::larger(a, b), half, float, int16_t, int32_t)
AIC_BINARY(Min, 10, 2, 14, aic_model::smaller(a, b), half, float, int16_t, int32_t)
AIC_BINARY(Div, 11, 4, 19, T(a / b), half, float)
AIC_BINARY(And, 10, 2, 14, T(a & b), int16_t, uint16_t)
AIC_BINARY(Or, 10, 2, 14, T(a | b), int16_t, uint16_t)

AIC_UNARY(Exp, 13, 2, 18, aic_model::apply(std::exp, a), half, float)
AIC_UNARY(Ln, 13, 2, 20, aic_model::apply(std::log, a), half, float)
AIC_UNARY(Sqrt, 14, 2, 25, aic_model::apply(std::sqrt, a), half, float)
AIC_UNARY(Rsqrt, 10, 1, 14, T(1.0 / std::sqrt(double(a))), half, float)
AIC_UNARY(Reciprocal, 10, 1, 14, T(1.0 / double(a)), half, float)
AIC_UNARY(Abs, 13, 1, 16, aic_model::apply(std::fabs, a), half, float)
AIC_UNARY(Relu, 10, 1, 13, aic_model::larger(a, T(0)), half, float, int32_t)
AIC_UNARY(Not, 10, 1, 13, T(~a), int16_t, uint16_t)

AIC_SCALAR(Adds, 13, 1, 18, T(a + b), half, float, int16_t, int32_t)
AIC_SCALAR(Muls, 11, 1, 15, T(a * b), half, float, int16_t, int32_t)
AIC_SCALAR(Maxs, 10, 1, 13, aic_model::larger(a, b), half, float, int16_t, int32_t)
AIC_SCALAR(Mins, 10, 1, 13, aic_model::smaller(a, b), half, float, int16_t, int32_t)
AIC_SCALAR(LeakyRelu, 11, 1, 15, T(a >= T(0) ? a : T(a * b)), half, float)
AIC_SCALAR(ShiftLeft, 11, 1, 15, T(std::make_unsigned_t<T>(a) << b), int16_t, uint16_t, int32_t, uint32_t)
AIC_SCALAR(ShiftRight, 11, 1, 15, T(a >> b), int16_t, uint16_t, int32_t, uint32_t)

/// `dst = src * scalar + dst`.
template <class T, class U>
void Axpy(const LocalTensor<T>& dst, const LocalTensor<U>& src, const U& scalar, int32_t count, Loc at = Loc::current()) {
    static_assert(aic_model::is_one_of<T, half, float> && aic_model::is_one_of<U, half, float>, "R11: Axpy takes half, float");
    aic_model::Op op(aic_model::V, "Axpy", at);
    aic_model::lanewise(op, aic_model::flat(count), {10, 2, 14}, [scalar](T d, U a) -> T { return T(T(a) * T(scalar) + d); },
                        aic_model::Operand<T>{dst}, aic_model::Operand<T>{dst}, aic_model::Operand<U>{src});
}

/// `dst = src0 * src1 + dst`.
template <class T, class U>
void MulAddDst(const LocalTensor<T>& dst, const LocalTensor<U>& src0, const LocalTensor<U>& src1, int32_t count,
               Loc at = Loc::current()) {
    static_assert(aic_model::is_one_of<T, half, float>, "R11: MulAddDst takes half, float");
    aic_model::Op op(aic_model::V, "MulAddDst", at);
    aic_model::lanewise(op, aic_model::flat(count), {10, 2, 14}, [](T d, U a, U b) -> T { return T(T(a) * T(b) + d); },
                        aic_model::Operand<T>{dst}, aic_model::Operand<T>{dst}, aic_model::Operand<U>{src0},
                        aic_model::Operand<U>{src1});
}

/// `dst = src0 * dst + src1`.
template <class T>
void FusedMulAdd(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, int32_t count,
                 Loc at = Loc::current()) {
    static_assert(aic_model::is_one_of<T, half, float>, "R11: FusedMulAdd takes half, float");
    aic_model::Op op(aic_model::V, "FusedMulAdd", at);
    aic_model::lanewise(op, aic_model::flat(count), {10, 2, 14}, [](T d, T a, T b) -> T { return T(a * d + b); },
                        aic_model::Operand<T>{dst}, aic_model::Operand<T>{dst}, aic_model::Operand<T>{src0},
                        aic_model::Operand<T>{src1});
}

}  // namespace AscendC

namespace aic_model {

/// The conversions of the vector unit (rule R11).
template <class D, class A>
constexpr bool converts = [] {
    if constexpr (std::is_same_v<A, float>) return is_one_of<D, half, bfloat16_t, int32_t, int16_t, int64_t, float>;
    if constexpr (std::is_same_v<A, half>) return is_one_of<D, float, int32_t, int16_t, int8_t, uint8_t>;
    if constexpr (std::is_same_v<A, bfloat16_t>) return is_one_of<D, float, int32_t>;
    if constexpr (std::is_same_v<A, int32_t>) return is_one_of<D, float, int16_t, int64_t>;
    if constexpr (std::is_same_v<A, int64_t>) return is_one_of<D, int32_t, float>;
    if constexpr (std::is_same_v<A, int16_t>) return is_one_of<D, half, float>;
    if constexpr (is_one_of<A, int8_t, uint8_t>) return is_one_of<D, half>;
    return false;
}();

}  // namespace aic_model

namespace AscendC {

template <class D, class A>
void Cast(const LocalTensor<D>& dst, const LocalTensor<A>& src, RoundMode mode, uint32_t count, Loc at = Loc::current()) {
    static_assert(aic_model::converts<D, A>, "R11: the vector unit has no such conversion");
    aic_model::Op op(aic_model::V, "Cast", at);
    aic_model::lanewise(
        op, aic_model::flat(count), {14, 2, 18},
        [mode](A a) -> D {
            if constexpr (std::is_same_v<A, D>) return D(aic_model::to_integer(double(a), mode));
            return aic_model::from_double<D>(aic_model::as_double(a), mode);
        },
        aic_model::Operand<D>{dst}, aic_model::Operand<A>{src});
}

template <class D, class A, bool isSetMask = true, class Mask>
void Cast(const LocalTensor<D>& dst, const LocalTensor<A>& src, RoundMode mode, Mask mask, uint8_t repeatTimes,
          const UnaryRepeatParams& p, Loc at = Loc::current()) {
    static_assert(aic_model::converts<D, A>, "R11: the vector unit has no such conversion");
    using Wide = std::conditional_t<(sizeof(D) > sizeof(A)), D, A>;
    aic_model::Op op(aic_model::V, "Cast", at);
    aic_model::lanewise(
        op, aic_model::repeats<Wide>(op, mask, repeatTimes), {14, 2, 18},
        [mode](A a) -> D { return aic_model::from_double<D>(aic_model::as_double(a), mode); },
        aic_model::Operand<D>{dst, p.dstBlkStride, p.dstRepStride}, aic_model::Operand<A>{src, p.srcBlkStride, p.srcRepStride});
}

template <class T, bool isSetMask = true>
void Duplicate(const LocalTensor<T>& dst, const std::type_identity_t<T>& scalar, int32_t count, Loc at = Loc::current()) {
    static_assert(sizeof(T) == 2 || sizeof(T) == 4, "R11: Duplicate takes 16-bit and 32-bit types");
    aic_model::Op op(aic_model::V, "Duplicate", at);
    aic_model::lanewise(op, aic_model::flat(count), {11, 1, 13}, [scalar]() -> T { return scalar; }, aic_model::Operand<T>{dst});
}

template <class T, bool isSetMask = true, class Mask>
void Duplicate(const LocalTensor<T>& dst, const std::type_identity_t<T>& scalar, Mask mask, uint8_t repeatTimes, uint16_t dstBlockStride,
               uint8_t dstRepeatStride, Loc at = Loc::current()) {
    static_assert(sizeof(T) == 2 || sizeof(T) == 4, "R11: Duplicate takes 16-bit and 32-bit types");
    aic_model::Op op(aic_model::V, "Duplicate", at);
    aic_model::lanewise(op, aic_model::repeats<T>(op, mask, repeatTimes), {11, 1, 13}, [scalar]() -> T { return scalar; },
                        aic_model::Operand<T>{dst, dstBlockStride, dstRepeatStride});
}

template <class T, bool isSetMask = true, class Mask>
void Copy(const LocalTensor<T>& dst, const LocalTensor<T>& src, Mask mask, uint8_t repeatTimes, const CopyRepeatParams& p,
          Loc at = Loc::current()) {
    static_assert(sizeof(T) == 2 || sizeof(T) == 4, "R11: Copy takes 16-bit and 32-bit types");
    aic_model::Op op(aic_model::V, "Copy", at);
    aic_model::lanewise(op, aic_model::repeats<T>(op, mask, repeatTimes), {11, 1, 13}, [](T a) { return a; },
                        aic_model::Operand<T>{dst, p.dstStride, p.dstRepeatSize},
                        aic_model::Operand<T>{src, p.srcStride, p.srcRepeatSize});
}

/// `dst[i] = first + i`.
template <class T>
void CreateVecIndex(const LocalTensor<T>& dst, std::type_identity_t<T> first, uint32_t count, Loc at = Loc::current()) {
    static_assert(aic_model::is_one_of<T, int16_t, half, int32_t, float>, "R11: CreateVecIndex takes int16_t, half, int32_t, float");
    aic_model::Op op(aic_model::V, "CreateVecIndex", at);
    op.aligned(dst);
    op.instr.cost = aic_model::vector_cost({14, 4, 14}, double(count) * sizeof(T));
    op.write(dst, 0, uint64_t(count) * sizeof(T));
    op.issue([=] { for (uint32_t k = 0; k < count; ++k) dst.data()[k] = T(double(first) + k); });
}

/// Counter mode: masks are numbers of elements of all repeats together.
inline void SetMaskCount() { aic_model::current->is_counter_mask = true; }
inline void SetMaskNorm() { aic_model::current->is_counter_mask = false; }
inline void ResetMask() { aic_model::current->mask[0] = aic_model::current->mask[1] = ~0ull; }

}  // namespace AscendC

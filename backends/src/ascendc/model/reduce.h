//! Reductions of the vector unit, and what spreads their results (rule R15).
#pragma once
#include "vector.h"

namespace AscendC {

enum class ReduceOrder { ORDER_VALUE_INDEX, ORDER_INDEX_VALUE, ORDER_ONLY_VALUE, ORDER_ONLY_INDEX };

}  // namespace AscendC

namespace aic_model {

/// The sum of values as the vector unit adds them: neighbours first.
template <class T>
T tree_sum(std::vector<T> x) {
    if (x.empty()) return T(0);
    while (x.size() > 1) {
        size_t half = (x.size() + 1) / 2;
        for (size_t k = 0; k < half; ++k) x[k] = 2 * k + 1 < x.size() ? T(x[2 * k] + x[2 * k + 1]) : x[2 * k];
        x.resize(half);
    }
    return x[0];
}

/// The position of the largest (or least) value; the first of equal ones.
template <class T>
size_t best(const std::vector<T>& x, bool is_max) {
    size_t at = 0;
    for (size_t k = 1; k < x.size(); ++k) {
        if (is_max ? x[k] > x[at] : x[k] < x[at]) at = k;
        if (x[k] != x[k] && x[at] == x[at]) at = k;
    }
    return at;
}

/// An index as it is stored in an element.
template <class T>
T index_bits(size_t k) {
    using Bits = std::conditional_t<sizeof(T) == 2, uint16_t, uint32_t>;
    Bits bits = Bits(k);
    T x;
    std::memcpy(&x, &bits, sizeof(T));
    return x;
}

/// The elements of repeat `r`.
template <class T>
std::vector<T> elements(const Lanes& l, const Operand<T>& s, uint32_t r) {
    std::vector<T> x;
    for (uint32_t e = 0; e < l.per; ++e) {
        if (!l.holds(r, e)) continue;
        x.push_back(*reinterpret_cast<T*>(reinterpret_cast<uint8_t*>(s.t.data()) + s.at(l, r, e)));
    }
    return x;
}

/// A reduction of each repeat to `n` elements, `step` elements apart.
template <class T, class F>
void reduce_repeats(Op& op, const Lanes& l, Rate rate, const LocalTensor<T>& dst, uint32_t n, uint32_t step,
                    uint32_t alignment, const Operand<T>& src, F f) {
    op.instr.cost = vector_cost(rate, l.n_repeats * 256.0);
    check_operand(op, l, src, false);
    op.aligned(dst, alignment);
    for (uint32_t r = 0; r < l.n_repeats; ++r) op.write(dst, uint64_t(r) * step * sizeof(T), n * sizeof(T));
    op.issue([=] {
        for (uint32_t r = 0; r < l.n_repeats; ++r) f(dst.data() + uint64_t(r) * step, elements(l, src, r), r);
    });
}

/// A reduction of `count` elements to one, through a buffer for partial results.
template <class T, class F>
void reduce_all(Op& op, const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<T>& tmp, uint32_t count,
                uint32_t n_results, uint32_t per_repeat, F f) {
    uint32_t per = 256 / sizeof(T), n_repeats = (count + per - 1) / per;
    uint64_t tmp_bytes = round_up(uint64_t(n_repeats) * per_repeat * sizeof(T), 32);
    op.require(tmp.bytes >= tmp_bytes, "R15", "%llu bytes for partial results, of at least %llu",
               (unsigned long long)tmp.bytes, (unsigned long long)tmp_bytes);
    op.require(count > 0, "R12", "a reduction of no elements");
    op.instr.cost = vector_cost({14, 7, 64}, double(count) * sizeof(T));
    op.aligned(src), op.aligned(tmp);
    op.read(src, 0, uint64_t(count) * sizeof(T));
    op.write(tmp, 0, std::min<uint64_t>(tmp_bytes, tmp.bytes));
    op.write(dst, 0, n_results * sizeof(T));
    op.issue([=] { f(dst.data(), std::vector<T>(src.data(), src.data() + count)); });
}

template <class T>
void whole_extreme(const char* name, bool is_max, const LocalTensor<T>& dst, const Operand<T>& src, const Lanes& l, Op& op,
                   int32_t dst_step, AscendC::ReduceOrder order) {
    using AscendC::ReduceOrder;
    bool is_pair = order == ReduceOrder::ORDER_VALUE_INDEX || order == ReduceOrder::ORDER_INDEX_VALUE;
    uint32_t n = is_pair ? 2 : 1;
    reduce_repeats(op, l, {14, 7, 32}, dst, n, dst_step * n, uint32_t(n * sizeof(T)), src,
                   [=](T* to, const std::vector<T>& x, uint32_t) {
                       size_t at = best(x, is_max);
                       T value = x[at], index = index_bits<T>(at);
                       if (order == ReduceOrder::ORDER_ONLY_INDEX) to[0] = index;
                       if (order == ReduceOrder::ORDER_ONLY_VALUE) to[0] = value;
                       if (order == ReduceOrder::ORDER_VALUE_INDEX) to[0] = value, to[1] = index;
                       if (order == ReduceOrder::ORDER_INDEX_VALUE) to[0] = index, to[1] = value;
                   });
}

/// Each block of 32 bytes to one element.
template <class T, class F>
void reduce_blocks(Op& op, const Lanes& l, const LocalTensor<T>& dst, uint32_t dst_step, const Operand<T>& src, F f) {
    constexpr uint32_t per_block = 32 / sizeof(T);
    reduce_repeats(op, l, {14, 1, 24}, dst, 8, dst_step * 8, 16, src,
                   [=](T* to, const std::vector<T>& x, uint32_t) {
                       for (uint32_t b = 0; b < 8 && b * per_block < x.size(); ++b) {
                           size_t end = std::min<size_t>((b + 1) * per_block, x.size());
                           to[b] = f(std::vector<T>(x.begin() + b * per_block, x.begin() + end));
                       }
                   });
}

}  // namespace aic_model

#define AIC_REDUCES(T, Name) static_assert(aic_model::is_one_of<T, half, float>, "R11: " #Name " takes half, float")

namespace AscendC {

template <class T>
void ReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<T>& tmp, int32_t count,
               Loc at = Loc::current()) {
    AIC_REDUCES(T, ReduceSum);
    aic_model::Op op(aic_model::V, "ReduceSum", at);
    aic_model::reduce_all(op, dst, src, tmp, count, 1, 1,
                          [](T* to, std::vector<T> x) { to[0] = aic_model::tree_sum(std::move(x)); });
}

#define AIC_REDUCE_EXTREME(Name, is_max)                                                                             \
    template <class T>                                                                                               \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<T>& tmp, int32_t count,        \
              bool calIndex = false, Loc at = Loc::current()) {                                                      \
        AIC_REDUCES(T, Name);                                                                                        \
        aic_model::Op op(aic_model::V, #Name, at);                                                                   \
        aic_model::reduce_all(op, dst, src, tmp, count, calIndex ? 2 : 1, 2,                                         \
                              [calIndex](T* to, const std::vector<T>& x) {                                           \
                                  size_t k = aic_model::best(x, is_max);                                             \
                                  to[0] = x[k];                                                                      \
                                  if (calIndex) to[1] = aic_model::index_bits<T>(k);                                 \
                              });                                                                                    \
    }

AIC_REDUCE_EXTREME(ReduceMax, true)
AIC_REDUCE_EXTREME(ReduceMin, false)

/// Each repeat to one element; strides between results in elements.
template <class T, bool isSetMask = true, class Mask>
void WholeReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, Mask mask, int32_t repeatTimes,
                    int32_t dstRepStride, int32_t srcBlkStride, int32_t srcRepStride, Loc at = Loc::current()) {
    AIC_REDUCES(T, WholeReduceSum);
    aic_model::Op op(aic_model::V, "WholeReduceSum", at);
    aic_model::reduce_repeats(op, aic_model::repeats<T>(op, mask, repeatTimes), {14, 7, 32}, dst, 1, dstRepStride, sizeof(T),
                              aic_model::Operand<T>{src, uint32_t(srcBlkStride), uint32_t(srcRepStride)},
                              [](T* to, std::vector<T> x, uint32_t) { to[0] = aic_model::tree_sum(std::move(x)); });
}

#define AIC_WHOLE_EXTREME(Name, is_max)                                                                              \
    template <class T, bool isSetMask = true, class Mask>                                                            \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, Mask mask, int32_t repeatTimes,                  \
              int32_t dstRepStride, int32_t srcBlkStride, int32_t srcRepStride,                                      \
              ReduceOrder order = ReduceOrder::ORDER_VALUE_INDEX, Loc at = Loc::current()) {                         \
        AIC_REDUCES(T, Name);                                                                                        \
        aic_model::Op op(aic_model::V, #Name, at);                                                                   \
        aic_model::whole_extreme(#Name, is_max, dst,                                                                 \
                                 aic_model::Operand<T>{src, uint32_t(srcBlkStride), uint32_t(srcRepStride)},         \
                                 aic_model::repeats<T>(op, mask, repeatTimes), op, dstRepStride, order);             \
    }

AIC_WHOLE_EXTREME(WholeReduceMax, true)
AIC_WHOLE_EXTREME(WholeReduceMin, false)

#define AIC_BLOCK_REDUCE(Name, expression)                                                                           \
    template <class T, bool isSetMask = true, class Mask>                                                            \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, int32_t repeatTimes, Mask mask,                  \
              int32_t dstRepStride, int32_t srcBlkStride, int32_t srcRepStride, Loc at = Loc::current()) {           \
        AIC_REDUCES(T, Name);                                                                                        \
        aic_model::Op op(aic_model::V, #Name, at);                                                                   \
        aic_model::reduce_blocks(op, aic_model::repeats<T>(op, mask, repeatTimes), dst, dstRepStride,                \
                                 aic_model::Operand<T>{src, uint32_t(srcBlkStride), uint32_t(srcRepStride)},         \
                                 [](const std::vector<T>& x) -> T { return expression; });                           \
    }

AIC_BLOCK_REDUCE(BlockReduceSum, aic_model::tree_sum(x))
AIC_BLOCK_REDUCE(BlockReduceMax, x[aic_model::best(x, true)])
AIC_BLOCK_REDUCE(BlockReduceMin, x[aic_model::best(x, false)])

/// Eight elements to eight blocks of 32 bytes, in each repeat.
template <class T>
void Brcb(const LocalTensor<T>& dst, const LocalTensor<T>& src, uint8_t repeatTimes, const BrcbRepeatParams& p,
          Loc at = Loc::current()) {
    static_assert(sizeof(T) == 2 || sizeof(T) == 4, "R11: Brcb takes 16-bit and 32-bit types");
    aic_model::Op op(aic_model::V, "Brcb", at, aic_model::vector_cost({14, 1, 18}, repeatTimes * 256.0));
    op.require(p.dstBlkStride != 0, "R12", "dstBlkStride is 0");
    op.aligned(dst), op.aligned(src);
    for (uint32_t r = 0; r < repeatTimes; ++r) {
        op.read(src, r * 8 * sizeof(T), 8 * sizeof(T));
        for (uint32_t b = 0; b < 8; ++b) op.write(dst, (r * p.dstRepStride + b * p.dstBlkStride) * 32ull, 32);
    }
    op.issue([=] {
        for (uint32_t r = 0; r < repeatTimes; ++r) {
            for (uint32_t b = 0; b < 8; ++b) {
                T* to = dst.data() + (r * p.dstRepStride + b * p.dstBlkStride) * (32 / sizeof(T));
                std::fill(to, to + 32 / sizeof(T), src.data()[r * 8 + b]);
            }
        }
    });
}

}  // namespace AscendC

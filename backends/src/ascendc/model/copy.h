//! Copies: between global memory and a core's buffers, and within the unified buffer (rules R7 to R10).
#pragma once
#include "queue.h"

namespace AscendC {

/// Blocks of 32 bytes: how many, how long, and how far from the end of one to the beginning of the next.
struct DataCopyParams {
    uint16_t blockCount = 1, blockLen = 0, srcStride = 0, dstStride = 0;
    DataCopyParams() = default;
    DataCopyParams(uint16_t count, uint16_t len, uint16_t src, uint16_t dst)
        : blockCount(count), blockLen(len), srcStride(src), dstStride(dst) {}
};

/// Blocks of any number of bytes; strides in bytes in global memory and in 32 bytes in the unified buffer.
struct DataCopyExtParams {
    uint16_t blockCount = 1;
    uint32_t blockLen = 0, srcStride = 0, dstStride = 0, rsv = 0;
    DataCopyExtParams() = default;
    DataCopyExtParams(uint16_t count, uint32_t len, uint32_t src, uint32_t dst, uint32_t rsv_)
        : blockCount(count), blockLen(len), srcStride(src), dstStride(dst), rsv(rsv_) {}
};

/// What each block is padded with, in elements.
template <class T>
struct DataCopyPadExtParams {
    bool isPad = false;
    uint8_t leftPadding = 0, rightPadding = 0;
    T paddingValue = T();
    DataCopyPadExtParams() = default;
    DataCopyPadExtParams(bool pad, uint8_t left, uint8_t right, T value)
        : isPad(pad), leftPadding(left), rightPadding(right), paddingValue(value) {}
};

struct DataCopyPadParams {
    bool isPad = false;
    uint8_t leftPadding = 0, rightPadding = 0;
    uint64_t paddingValue = 0;
    DataCopyPadParams() = default;
    DataCopyPadParams(bool pad, uint8_t left, uint8_t right, uint64_t value)
        : isPad(pad), leftPadding(left), rightPadding(right), paddingValue(value) {}
};

}  // namespace AscendC

namespace aic_model {

constexpr double GIB = 1024.0 * 1024 * 1024;

/// Bytes per second of the moves of a core (the published cycle model of its cores).
constexpr double GM_TO_UB = 100.9 * GIB, UB_TO_GM = 188.5 * GIB, GM_TO_L1 = 135 * GIB, UB_TO_UB = 1024 * GIB;
/// Cycles until a move from or to global memory begins.
constexpr double GM_LATENCY = 60;

inline Cost move_cost(double bytes, double rate) { return {GM_LATENCY, bytes / rate * machine->settings.clock, 20}; }

/// Equally long pieces of one tensor, each from a multiple of a step.
struct Pieces {
    uint64_t first, step, length;
};

/// Copies pieces; `atomic` adds them.
template <class T>
void copy_pieces(uint8_t* dst, Pieces d, const uint8_t* src, Pieces s, uint32_t n, bool is_atomic) {
    for (uint32_t k = 0; k < n; ++k) {
        uint8_t* to = dst + d.first + k * d.step;
        const uint8_t* from = src + s.first + k * s.step;
        if (!is_atomic) {
            std::memcpy(to, from, s.length);
            continue;
        }
        for (uint64_t e = 0; e * sizeof(T) < s.length; ++e) {
            T a, b;
            std::memcpy(&a, to + e * sizeof(T), sizeof(T));
            std::memcpy(&b, from + e * sizeof(T), sizeof(T));
            if constexpr (std::is_same_v<T, bfloat16_t>) {
                a = bfloat16_t(float(a) + float(b));
            } else {
                a = T(a + b);
            }
            std::memcpy(to + e * sizeof(T), &a, sizeof(T));
        }
    }
}

template <class Dst, class Src>
void copy(Op& op, const Dst& dst, Pieces d, const Src& src, Pieces s, uint32_t n) {
    using T = typename Dst::PrimType;
    for (uint32_t k = 0; k < n; ++k) op.read(src, s.first + k * s.step, s.length);
    for (uint32_t k = 0; k < n; ++k) op.write(dst, d.first + k * d.step, d.length);
    if constexpr (Dst::is_global || Src::is_global) current->gm_bytes += double(n) * double(s.length);
    bool is_atomic = Dst::is_global && current->is_atomic;
    uint8_t *to = dst.memory ? dst.memory->data + dst.first : nullptr,
            *from = src.memory ? src.memory->data + src.first : nullptr;
    op.issue([=] { copy_pieces<T>(to, d, from, s, n, is_atomic); });
}

/// Blocks of 32 bytes between any two tensors.
template <class Dst, class Src>
void copy_blocks(Op& op, const Dst& dst, const Src& src, const AscendC::DataCopyParams& p) {
    op.require(p.blockCount >= 1 && p.blockCount <= 4095, "R10", "blockCount %u isn't one of 1 to 4095", p.blockCount);
    uint64_t length = p.blockLen * 32ull;
    copy(op, dst, {0, length + p.dstStride * 32ull, length}, src, {0, length + p.srcStride * 32ull, length}, p.blockCount);
}

template <class T>
AscendC::DataCopyParams one_block(Op& op, uint32_t count) {
    uint64_t bytes = uint64_t(count) * sizeof(T);
    op.require(bytes % 32 == 0, "R7", "%llu bytes aren't a multiple of 32: the rest would not be copied",
               (unsigned long long)bytes);
    op.require(bytes / 32 <= 65535, "R10", "%llu bytes at once, of at most 2097120", (unsigned long long)bytes);
    return {1, uint16_t(bytes / 32), 0, 0};
}

template <class T>
Op load_op(const AscendC::LocalTensor<T>& dst, double bytes, const Loc& at) {
    bool is_l1 = dst.memory == &current->l1;
    Op op(MTE2, "DataCopy", at, move_cost(bytes, is_l1 ? GM_TO_L1 : GM_TO_UB));
    op.require(is_l1 || dst.memory == &current->ub, "R23", "global memory isn't copied to %s",
               dst.memory ? dst.memory->name.c_str() : "no memory");
    op.aligned(dst);
    return op;
}

template <class T>
Op store_op(const AscendC::LocalTensor<T>& src, double bytes, const Loc& at) {
    Op op(MTE3, "DataCopy", at, move_cost(bytes, UB_TO_GM));
    op.require(src.memory == &current->ub, "R23", "%s isn't copied to global memory",
               src.memory ? src.memory->name.c_str() : "no memory");
    op.aligned(src);
    return op;
}

/// Rule R8.
inline void check_pad(Op& op, const AscendC::DataCopyExtParams& p, uint32_t left, uint32_t right, uint32_t size) {
    op.require(p.blockCount >= 1 && p.blockCount <= 4095, "R8", "blockCount %u isn't one of 1 to 4095", p.blockCount);
    op.require(p.blockLen <= 2097151, "R8", "blockLen %u is more than 2097151 bytes", p.blockLen);
    op.require(p.blockLen % size == 0, "R8", "blockLen %u isn't a multiple of the element's %u bytes", p.blockLen, size);
    op.require(left * size <= 32 && right * size <= 32, "R8", "more than 32 bytes of padding");
}

inline uint64_t round_up(uint64_t n, uint64_t step) { return (n + step - 1) / step * step; }

}  // namespace aic_model

namespace AscendC {

template <class T>
void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const DataCopyParams& p, Loc at = Loc::current()) {
    aic_model::Op op = aic_model::load_op(dst, double(p.blockCount) * p.blockLen * 32, at);
    aic_model::copy_blocks(op, dst, src, p);
}

template <class T>
void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, uint32_t count, Loc at = Loc::current()) {
    aic_model::Op op = aic_model::load_op(dst, double(count) * sizeof(T), at);
    aic_model::copy_blocks(op, dst, src, aic_model::one_block<T>(op, count));
}

template <class T>
void DataCopy(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyParams& p, Loc at = Loc::current()) {
    aic_model::Op op = aic_model::store_op(src, double(p.blockCount) * p.blockLen * 32, at);
    aic_model::copy_blocks(op, dst, src, p);
}

template <class T>
void DataCopy(const GlobalTensor<T>& dst, const LocalTensor<T>& src, uint32_t count, Loc at = Loc::current()) {
    aic_model::Op op = aic_model::store_op(src, double(count) * sizeof(T), at);
    aic_model::copy_blocks(op, dst, src, aic_model::one_block<T>(op, count));
}

/// Within the unified buffer; from L1 to the table of biases.
template <class T>
void DataCopy(const LocalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyParams& p, Loc at = Loc::current()) {
    aic_model::Core& c = *aic_model::current;
    bool is_bias = src.memory == &c.l1 && dst.memory == &c.bt;
    double bytes = double(p.blockCount) * p.blockLen * 32;
    aic_model::Op op(is_bias ? aic_model::MTE1 : aic_model::V, "DataCopy", at,
                     aic_model::move_cost(bytes, aic_model::UB_TO_UB));
    op.require(is_bias || (src.memory == &c.ub && dst.memory == &c.ub), "R23", "no copy between these memories");
    op.aligned(dst), op.aligned(src, 32);
    aic_model::copy_blocks(op, dst, src, p);
}

template <class T>
void DataCopy(const LocalTensor<T>& dst, const LocalTensor<T>& src, uint32_t count, Loc at = Loc::current()) {
    aic_model::Op checks(dst.memory == &aic_model::current->bt ? aic_model::MTE1 : aic_model::V, "DataCopy", at);
    DataCopy(dst, src, aic_model::one_block<T>(checks, count), at);
}

/// Blocks into the unified buffer, each padded to 32 bytes there.
template <class T>
void DataCopyPad(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const DataCopyExtParams& p,
                 const DataCopyPadExtParams<T>& pad, Loc at = Loc::current()) {
    aic_model::Op op = aic_model::load_op(dst, double(p.blockCount) * p.blockLen, at);
    op.instr.name = "DataCopyPad";
    uint32_t left = pad.isPad ? pad.leftPadding : 0, right = pad.isPad ? pad.rightPadding : 0;
    aic_model::check_pad(op, p, left, right, sizeof(T));
    uint64_t used = p.blockLen + (left + right) * sizeof(T), length = aic_model::round_up(used, 32);
    uint64_t dst_step = length + p.dstStride * 32ull, src_step = p.blockLen + uint64_t(p.srcStride);
    uint32_t n = p.blockCount;
    // Without a value the bytes behind the block are undefined.
    uint64_t defined = pad.isPad ? length : used;
    for (uint32_t k = 0; k < n; ++k) op.read(src, k * src_step, p.blockLen), op.write(dst, k * dst_step, defined);
    aic_model::current->gm_bytes += double(n) * p.blockLen;
    if (!dst.memory || !src.memory) return;
    uint8_t *to = dst.memory->data + dst.first, *from = src.memory->data + src.first;
    T value = pad.paddingValue;
    op.issue([=, bytes = p.blockLen] {
        for (uint32_t k = 0; k < n; ++k) {
            auto* row = reinterpret_cast<T*>(to + k * dst_step);
            for (uint64_t e = 0; e < defined / sizeof(T); ++e) row[e] = value;
            std::memcpy(row + left, from + k * src_step, bytes);
        }
    });
}

template <class T>
void DataCopyPad(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const DataCopyParams& p,
                 const DataCopyPadParams& pad, Loc at = Loc::current()) {
    T value;
    std::memcpy(&value, &pad.paddingValue, sizeof(T));
    DataCopyPad(dst, src, {p.blockCount, p.blockLen, p.srcStride, p.dstStride, 0},
                DataCopyPadExtParams<T>{pad.isPad, pad.leftPadding, pad.rightPadding, value}, at);
}

/// Blocks of exactly so many bytes out of the unified buffer.
template <class T>
void DataCopyPad(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyExtParams& p,
                 Loc at = Loc::current()) {
    aic_model::Op op = aic_model::store_op(src, double(p.blockCount) * p.blockLen, at);
    op.instr.name = "DataCopyPad";
    aic_model::check_pad(op, p, 0, 0, sizeof(T));
    uint64_t src_step = aic_model::round_up(p.blockLen, 32) + p.srcStride * 32ull;
    aic_model::copy(op, dst, {0, p.blockLen + uint64_t(p.dstStride), p.blockLen}, src, {0, src_step, p.blockLen},
                    p.blockCount);
}

template <class T>
void DataCopyPad(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyParams& p,
                 Loc at = Loc::current()) {
    DataCopyPad(dst, src, DataCopyExtParams{p.blockCount, p.blockLen, p.srcStride, p.dstStride, 0}, at);
}

/// Until `SetAtomicNone`, copies to global memory add to what is there.
template <class T>
void SetAtomicAdd() { aic_model::current->is_atomic = true; }
inline void SetAtomicNone() { aic_model::current->is_atomic = false; }

/// The scalar unit's cache; the model has none.
enum class CacheLine { SINGLE_CACHE_LINE, ENTIRE_DATA_CACHE };
enum class DcciDst { CACHELINE_ALL, CACHELINE_UB, CACHELINE_OUT, CACHELINE_ATOMIC };
template <class T, CacheLine line, DcciDst dst = DcciDst::CACHELINE_OUT>
void DataCacheCleanAndInvalid(const GlobalTensor<T>&) {}

}  // namespace AscendC

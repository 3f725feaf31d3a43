//! Comparisons and selections, gathers and transposes in the unified buffer (rule R14).
#pragma once
#include "vector.h"

namespace aic_model {

template <class T>
bool holds(AscendC::CMPMODE mode, T a, T b) {
    using AscendC::CMPMODE;
    switch (mode) {
        case CMPMODE::LT: return a < b;
        case CMPMODE::GT: return a > b;
        case CMPMODE::EQ: return a == b;
        case CMPMODE::LE: return a <= b;
        case CMPMODE::GE: return a >= b;
        default: return a != b;
    }
}

template <class T, class F>
void compare(Op& op, const LocalTensor<uint8_t>& dst, const LocalTensor<T>& src, uint32_t count, F f) {
    op.require(count * sizeof(T) % 256 == 0, "R14", "%u elements of %zu bytes aren't a multiple of 256 bytes", count, sizeof(T));
    op.instr.cost = vector_cost({14, 2, 22}, double(count) * sizeof(T));
    op.aligned(dst), op.aligned(src);
    // Whole repeats are compared; the bits of what lies behind the end of a row are not used.
    op.peek(src, 0, uint64_t(count) * sizeof(T));
    op.write(dst, 0, (count + 7) / 8);
    op.issue([=] {
        for (uint32_t k = 0; k < count; ++k) {
            uint8_t bit = uint8_t(1u << (k % 8)), &byte = dst.data()[k / 8];
            byte = f(k, src.data()[k]) ? byte | bit : byte & ~bit;
        }
    });
}

template <class T, class M, class F>
void choose(Op& op, const LocalTensor<T>& dst, const LocalTensor<M>& mask, const LocalTensor<T>& src, uint32_t count, F f) {
    op.instr.cost = vector_cost({13, 2, 14}, double(count) * sizeof(T));
    op.aligned(dst), op.aligned(mask), op.aligned(src);
    op.read(mask, 0, (count + 7) / 8);
    op.read(src, 0, uint64_t(count) * sizeof(T));
    op.write(dst, 0, uint64_t(count) * sizeof(T));
    check_overlap(op, flat(count), Operand<T>{dst}, Operand<T>{src});
    op.issue([=] {
        auto* bits = reinterpret_cast<const uint8_t*>(mask.data());
        for (uint32_t k = 0; k < count; ++k) dst.data()[k] = bits[k / 8] >> (k % 8) & 1 ? src.data()[k] : f(k);
    });
}

}  // namespace aic_model

namespace AscendC {

template <class T, class U>
void Compare(const LocalTensor<U>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, CMPMODE mode, uint32_t count,
             Loc at = Loc::current()) {
    static_assert(aic_model::is_one_of<T, half, float, int32_t> && sizeof(U) == 1, "R11: Compare takes half, float, int32_t");
    aic_model::Op op(aic_model::V, "Compare", at);
    op.require(!std::is_same_v<T, int32_t> || mode == CMPMODE::EQ, "R11", "int32_t is compared for equality only");
    op.aligned(src1);
    op.peek(src1, 0, uint64_t(count) * sizeof(T));
    aic_model::compare(op, dst.template ReinterpretCast<uint8_t>(), src0, count,
                       [=](uint32_t k, T a) { return aic_model::holds(mode, a, src1.data()[k]); });
}

template <class T, class U>
void CompareScalar(const LocalTensor<U>& dst, const LocalTensor<T>& src, T scalar, CMPMODE mode, uint32_t count,
                   Loc at = Loc::current()) {
    static_assert(aic_model::is_one_of<T, half, float, int32_t> && sizeof(U) == 1, "R11: CompareScalar takes half, float, int32_t");
    aic_model::Op op(aic_model::V, "CompareScalar", at);
    op.require(!std::is_same_v<T, int32_t> || mode == CMPMODE::EQ, "R11", "int32_t is compared for equality only");
    aic_model::compare(op, dst.template ReinterpretCast<uint8_t>(), src, count,
                       [=](uint32_t, T a) { return aic_model::holds(mode, a, scalar); });
}

/// `src0` where the mask's bit is set.
template <class T, class U>
void Select(const LocalTensor<T>& dst, const LocalTensor<U>& mask, const LocalTensor<T>& src0, const LocalTensor<T>& src1,
            SELMODE mode, uint32_t count, Loc at = Loc::current()) {
    static_assert(aic_model::is_one_of<T, half, float>, "R11: Select takes half, float");
    aic_model::Op op(aic_model::V, "Select", at);
    op.require(mode != SELMODE::VSEL_TENSOR_SCALAR_MODE, "R11", "the mode isn't for two tensors");
    op.aligned(src1);
    op.read(src1, 0, uint64_t(count) * sizeof(T));
    aic_model::choose(op, dst, mask, src0, count, [=](uint32_t k) { return src1.data()[k]; });
}

template <class T, class U>
void Select(const LocalTensor<T>& dst, const LocalTensor<U>& mask, const LocalTensor<T>& src0, T src1, SELMODE mode,
            uint32_t count, Loc at = Loc::current()) {
    static_assert(aic_model::is_one_of<T, half, float>, "R11: Select takes half, float");
    aic_model::Op op(aic_model::V, "Select", at);
    op.require(mode == SELMODE::VSEL_TENSOR_SCALAR_MODE, "R11", "the mode isn't for a tensor and a scalar");
    aic_model::choose(op, dst, mask, src0, count, [=](uint32_t) { return src1; });
}

/// `dst[i]` is the element at `src`'s byte `base + offsets[i]`.
template <class T>
void Gather(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<uint32_t>& offsets, uint32_t base,
            uint32_t count, Loc at = Loc::current()) {
    static_assert(sizeof(T) == 2 || sizeof(T) == 4, "R11: Gather takes 16-bit and 32-bit types");
    aic_model::Op op(aic_model::V, "Gather", at, aic_model::vector_cost({24, 2, 14}, double(count) * sizeof(T)));
    op.aligned(dst), op.aligned(src), op.aligned(offsets);
    op.read(offsets, 0, count * 4ull);
    op.peek(src, base, src.bytes - std::min<uint64_t>(base, src.bytes));
    op.write(dst, 0, uint64_t(count) * sizeof(T));
    op.issue([=] {
        for (uint32_t k = 0; k < count; ++k) {
            uint64_t from = uint64_t(base) + offsets.data()[k];
            if (from + sizeof(T) > src.bytes) {
                aic_model::machine->violate("R5", at, aic_model::text("Gather: byte %llu of a tensor of %llu",
                                            (unsigned long long)from, (unsigned long long)src.bytes));
                return;
            }
            if (!src.memory->is_defined(src.first + from, sizeof(T))) {
                aic_model::machine->violate("R6", at, aic_model::text("Gather: byte %llu was never written",
                                            (unsigned long long)from));
                return;
            }
            std::memcpy(dst.data() + k, reinterpret_cast<uint8_t*>(src.data()) + from, sizeof(T));
        }
    });
}

/// A 16 x 16 matrix of 16-bit elements.
template <class T>
void Transpose(const LocalTensor<T>& dst, const LocalTensor<T>& src, Loc at = Loc::current()) {
    static_assert(sizeof(T) == 2, "R11: Transpose takes 16-bit types");
    aic_model::Op op(aic_model::V, "Transpose", at, aic_model::vector_cost({14, 1, 14}, 512));
    op.aligned(dst), op.aligned(src);
    op.read(src, 0, 512), op.write(dst, 0, 512);
    op.require(dst.memory != src.memory || dst.first + 512 <= src.first || src.first + 512 <= dst.first, "R13",
               "what is read and written overlaps");
    op.issue([=] {
        for (int r = 0; r < 16; ++r) {
            for (int c = 0; c < 16; ++c) dst.data()[c * 16 + r] = src.data()[r * 16 + c];
        }
    });
}

}  // namespace AscendC

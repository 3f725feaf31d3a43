//! The cube unit: fractals into L1, L0A and L0B, products into L0C, and results out of it (rules R20, R23 to R26).
#pragma once
#include "copy.h"

enum QuantMode_t {
    NoQuant = 0, F322F16 = 1, VREQ8 = 8, REQ8 = 9, VDEQF16 = 10, DEQF16 = 11, F322BF16 = 16, VQF322B8_PRE = 23, QF322B8_PRE = 24
};

namespace AscendC {

/// Row-major matrices to fractals of 16 rows and 32 bytes, column by column.
struct Nd2NzParams {
    uint16_t ndNum = 1, nValue = 0, dValue = 0, srcNdMatrixStride = 0, srcDValue = 0, dstNzC0Stride = 0, dstNzNStride = 1,
             dstNzMatrixStride = 0;
    Nd2NzParams() = default;
    Nd2NzParams(uint16_t nd, uint16_t n, uint16_t d, uint16_t srcMatrix, uint16_t srcD, uint16_t c0, uint16_t nStride,
                uint16_t dstMatrix)
        : ndNum(nd), nValue(n), dValue(d), srcNdMatrixStride(srcMatrix), srcDValue(srcD), dstNzC0Stride(c0),
          dstNzNStride(nStride), dstNzMatrixStride(dstMatrix) {}
};

/// Fractals of 512 bytes.
struct LoadData2DParams {
    uint16_t startIndex = 0;
    uint8_t repeatTimes = 0;
    uint16_t srcStride = 0;
    uint8_t sid = 0;
    uint16_t dstGap = 0;
    bool ifTranspose = false;
    uint8_t addrMode = 0;
    LoadData2DParams() = default;
    LoadData2DParams(uint16_t start, uint8_t times, uint16_t stride, uint8_t id, uint16_t gap, bool transpose, uint8_t mode)
        : startIndex(start), repeatTimes(times), srcStride(stride), sid(id), dstGap(gap), ifTranspose(transpose), addrMode(mode) {}
};

struct MmadParams {
    uint16_t m = 0, n = 0, k = 0;
    uint8_t unitFlag = 0;
    bool cmatrixSource = false, cmatrixInitVal = true;
    MmadParams() = default;
    MmadParams(uint16_t m_, uint16_t n_, uint16_t k_, uint8_t unit, bool source, bool init)
        : m(m_), n(n_), k(k_), unitFlag(unit), cmatrixSource(source), cmatrixInitVal(init) {}
};

struct FixpipeParamsV220 {
    uint16_t nSize = 0, mSize = 0, srcStride = 0;
    uint32_t dstStride = 0;
    QuantMode_t quantPre = NoQuant;
    uint64_t deqScalar = 0;
    uint16_t ndNum = 1, srcNdStride = 0, dstNdStride = 0;
    bool reluEn = false;
    uint8_t unitFlag = 0;
    bool isChannelSplit = false;
};

enum class CO2Layout : uint8_t { NZ = 0, ROW_MAJOR };
struct FixpipeConfig {
    CO2Layout format;
};
constexpr FixpipeConfig CFG_NZ{CO2Layout::NZ}, CFG_ROW_MAJOR{CO2Layout::ROW_MAJOR};

/// A value for fractals of L1, L0A or L0B.
template <class T>
struct InitConstValueParams {
    uint16_t repeatTimes = 0, blockNum = 0, dstGap = 0;
    T initValue = T();
    InitConstValueParams() = default;
    InitConstValueParams(uint16_t times, uint16_t blocks, uint16_t gap, T value)
        : repeatTimes(times), blockNum(blocks), dstGap(gap), initValue(value) {}
};

}  // namespace AscendC

namespace aic_model {

constexpr double L1_TO_L0A = 441 * GIB, L1_TO_L0B = 220.5 * GIB, L0C_TO_GM = 70 * GIB;

inline uint32_t fractals(uint32_t n, uint32_t size) { return (n + size - 1) / size; }

/// One fractal of 512 bytes, with rows and columns exchanged if 16-bit elements are to be.
template <class T>
void copy_fractal(T* dst, const T* src, bool is_transposed) {
    if (!is_transposed) {
        std::memcpy(dst, src, 512);
        return;
    }
    for (int r = 0; r < 16; ++r) {
        for (int c = 0; c < 16; ++c) dst[c * 16 + r] = src[r * 16 + c];
    }
}

/// The products of fractals: A in rows of fractals of 16 x C0, B in rows of fractals of C0 x 16 that hold columns, the
/// accumulator in columns of fractals of 16 x 16.
template <class C, class A, class B>
void multiply(C* c, const A* a, const B* b, const C* bias, uint32_t m, uint32_t n, uint32_t k, bool is_fresh) {
    constexpr uint32_t C0 = 32 / sizeof(A);
    uint32_t mf = fractals(m, 16), nf = fractals(n, 16), kf = fractals(k, C0);
    for (uint32_t i = 0; i < mf * 16; ++i) {
        for (uint32_t j = 0; j < nf * 16; ++j) {
            C sum = 0;
            const A* row = a + uint64_t(i / 16) * kf * 16 * C0 + i % 16 * C0;
            const B* column = b + uint64_t(j / 16) * 16 * C0 + j % 16 * C0;
            for (uint32_t q = 0; q < kf; ++q) {
                const A* x = row + uint64_t(q) * 16 * C0;
                const B* y = column + uint64_t(q) * nf * 16 * C0;
                for (uint32_t e = 0; e < C0; ++e) sum += C(as_double(x[e])) * C(as_double(y[e]));
            }
            C& to = c[uint64_t(j / 16) * mf * 256 + i * 16 + j % 16];
            to = sum + (is_fresh ? (bias && j < n ? bias[j] : C(0)) : to);
            // What lies beyond the result is whatever the factors' undefined rows gave.
            if (i >= m || j >= n) std::memset(&to, 0xff, sizeof(C));
        }
    }
}

/// A scale as Fixpipe uses it: without the low 13 bits of its mantissa.
inline float fixpipe_scale(uint64_t bits) {
    uint32_t u = uint32_t(bits) & ~0x1fffu;
    float x;
    std::memcpy(&x, &u, 4);
    return x;
}

template <class D, class A>
D fixpipe(A x, QuantMode_t mode, float scale, bool is_relu) {
    if (is_relu && x < A(0)) x = A(0);
    bool is_scaled = mode != NoQuant && mode != F322F16 && mode != F322BF16;
    double value = is_scaled ? double(float(x) * scale) : double(x);
    return from_double<D>(value, RoundMode::CAST_RINT);
}

/// Which types a mode converts.
template <class D, class A>
bool is_mode(QuantMode_t mode) {
    if (mode == NoQuant) return std::is_same_v<D, A>;
    if (mode == F322F16) return std::is_same_v<A, float> && std::is_same_v<D, half>;
    if (mode == F322BF16) return std::is_same_v<A, float> && std::is_same_v<D, bfloat16_t>;
    if (mode == DEQF16 || mode == VDEQF16) return std::is_same_v<A, int32_t> && std::is_same_v<D, half>;
    if (mode == REQ8 || mode == VREQ8) return std::is_same_v<A, int32_t> && sizeof(D) == 1;
    return std::is_same_v<A, float> && sizeof(D) == 1;
}

}  // namespace aic_model

namespace AscendC {

template <class T>
void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const Nd2NzParams& p, Loc at = Loc::current()) {
    constexpr uint32_t C0 = 32 / sizeof(T);
    aic_model::Op op = aic_model::load_op(dst, double(p.ndNum) * p.nValue * p.dValue * sizeof(T), at);
    op.require(dst.memory == &aic_model::current->l1, "R23", "fractals are made in L1 only");
    op.require(p.ndNum >= 1 && p.ndNum <= 4095 && p.nValue >= 1 && p.nValue <= 16384 && p.dValue >= 1 && p.dstNzC0Stride >= 1 &&
                   p.dstNzC0Stride <= 16384 && p.dstNzNStride >= 1 && p.dstNzNStride <= 16384,
               "R10", "ndNum %u, nValue %u, dValue %u, dstNzC0Stride %u or dstNzNStride %u is out of range", p.ndNum, p.nValue,
               p.dValue, p.dstNzC0Stride, p.dstNzNStride);
    uint32_t columns = aic_model::fractals(p.dValue, C0);
    // Where only times are wanted, which bytes it takes is of no interest.
    uint32_t n_matrices = aic_model::machine->settings.is_timing_only ? 0 : p.ndNum;
    for (uint32_t matrix = 0; matrix < n_matrices; ++matrix) {
        for (uint32_t r = 0; r < p.nValue; ++r) {
            op.read(src, (uint64_t(matrix) * p.srcNdMatrixStride + uint64_t(r) * p.srcDValue) * sizeof(T), p.dValue * sizeof(T));
        }
        for (uint32_t c = 0; c < columns; ++c) {
            for (uint32_t r = 0; r < p.nValue; ++r) {
                uint64_t block = uint64_t(c) * p.dstNzC0Stride + uint64_t(r) * p.dstNzNStride;
                op.write(dst, block * 32 + uint64_t(matrix) * p.dstNzMatrixStride * sizeof(T), 32);
            }
        }
    }
    aic_model::current->gm_bytes += double(p.ndNum) * p.nValue * p.dValue * sizeof(T);
    op.issue([=] {
        for (uint32_t matrix = 0; matrix < p.ndNum; ++matrix) {
            const T* from = src.GetPhyAddr() + uint64_t(matrix) * p.srcNdMatrixStride;
            T* to = dst.data() + uint64_t(matrix) * p.dstNzMatrixStride;
            for (uint32_t r = 0; r < p.nValue; ++r) {
                for (uint32_t c = 0; c < columns * C0; ++c) {
                    uint64_t block = uint64_t(c / C0) * p.dstNzC0Stride + uint64_t(r) * p.dstNzNStride;
                    to[block * C0 + c % C0] = c < p.dValue ? from[uint64_t(r) * p.srcDValue + c] : T();
                }
            }
        }
    });
}

/// Fractals from L1 to L0A or L0B.
template <class T>
void LoadData(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LoadData2DParams& p, Loc at = Loc::current()) {
    aic_model::Core& core = *aic_model::current;
    bool is_a = dst.memory == &core.l0a;
    double bytes = p.repeatTimes * 512.0;
    aic_model::Op op(aic_model::MTE1, "LoadData", at,
                     {10, bytes / (is_a ? aic_model::L1_TO_L0A : aic_model::L1_TO_L0B) * aic_model::machine->settings.clock, 20});
    op.require(src.memory == &core.l1 && (is_a || dst.memory == &core.l0b), "R23", "fractals are loaded from L1 to L0A or L0B");
    op.require(!p.ifTranspose || sizeof(T) == 2, "R10", "only fractals of 16-bit elements are transposed");
    op.require(p.repeatTimes >= 1, "R10", "repeatTimes is 0");
    op.aligned(src), op.aligned(dst);
    auto from = [=](uint32_t r) { return (uint64_t(p.startIndex) + uint64_t(r) * p.srcStride) * 512; };
    auto to = [=](uint32_t r) { return uint64_t(r) * (1 + p.dstGap) * 512; };
    for (uint32_t r = 0; r < p.repeatTimes; ++r) op.peek(src, from(r), 512), op.write(dst, to(r), 512);
    op.issue([=] {
        for (uint32_t r = 0; r < p.repeatTimes; ++r) {
            aic_model::copy_fractal(dst.data() + to(r) / sizeof(T), src.data() + from(r) / sizeof(T), p.ifTranspose);
            dst.memory->carry(*src.memory, dst.first + to(r), src.first + from(r), p.ifTranspose);
        }
    });
}

template <class T>
void InitConstValue(const LocalTensor<T>& dst, const InitConstValueParams<T>& p, Loc at = Loc::current()) {
    bool is_l1 = dst.memory == &aic_model::current->l1;
    uint64_t unit = is_l1 ? 32 : 512;
    aic_model::Op op(is_l1 ? aic_model::MTE2 : aic_model::MTE1, "InitConstValue", at, {10, p.repeatTimes * 16.0, 10});
    op.aligned(dst);
    for (uint32_t r = 0; r < p.repeatTimes; ++r) {
        op.write(dst, uint64_t(r) * (p.blockNum + p.dstGap) * unit, p.blockNum * unit);
    }
    op.issue([=] {
        for (uint32_t r = 0; r < p.repeatTimes; ++r) {
            T* to = dst.data() + uint64_t(r) * (p.blockNum + p.dstGap) * unit / sizeof(T);
            std::fill(to, to + p.blockNum * unit / sizeof(T), p.initValue);
        }
    });
}

}  // namespace AscendC

namespace aic_model {

template <class C, class A, class B>
void mmad(const LocalTensor<C>& c, const LocalTensor<A>& a, const LocalTensor<B>& b, const LocalTensor<C>* bias,
          const AscendC::MmadParams& p, const Loc& at) {
    static_assert(std::is_same_v<A, B> &&
                      ((std::is_same_v<A, int8_t> && std::is_same_v<C, int32_t>) ||
                       (is_one_of<A, half, bfloat16_t, float> && std::is_same_v<C, float>)),
                  "R11: Mmad multiplies int8_t to int32_t, and half, bfloat16_t and float to float");
    constexpr uint32_t C0 = 32 / sizeof(A);
    Core& core = *current;
    uint32_t mf = fractals(p.m, 16), nf = fractals(p.n, 16), kf = fractals(p.k, C0);
    double cycles = double(mf) * nf * kf * (std::is_same_v<A, float> ? 2 : 1);
    Op op(M, "Mmad", at, {21, cycles, 20});
    op.require(c.memory == &core.l0c && a.memory == &core.l0a && b.memory == &core.l0b, "R23",
               "the operands of a product lie in L0C, L0A and L0B");
    op.require(p.m >= 1 && p.n >= 1 && p.k >= 1 && p.m <= 4095 && p.n <= 4095 && p.k <= 4095, "R10",
               "m %u, n %u or k %u isn't one of 1 to 4095", p.m, p.n, p.k);
    op.require(p.m != 1, "R25", "one row is taken for a vector, which lies otherwise than a matrix");
    op.aligned(c), op.aligned(a), op.aligned(b);
    for (uint32_t i = 0; i < mf; ++i) {
        for (uint32_t q = 0; q < kf; ++q) op.read(a, (uint64_t(i) * kf + q) * 512, std::min(16u, p.m - i * 16) * 32);
    }
    for (uint32_t q = 0; q < kf; ++q) {
        for (uint32_t j = 0; j < nf; ++j) op.read(b, (uint64_t(q) * nf + j) * 512, std::min(16u, p.n - j * 16) * 32);
    }
    bool is_fresh = p.cmatrixInitVal || bias;
    if (bias) op.read(*bias, 0, p.n * sizeof(C)), op.aligned(*bias, 64);
    if (!is_fresh) {
        op.read(c, 0, uint64_t(mf) * nf * 256 * sizeof(C));
        op.require(core.small_product != c.first, "R20",
                   "adds to byte %llu of L0C, to which a product of fewer than 10 fractals was added without a barrier",
                   (unsigned long long)c.first);
    }
    core.small_product = mf * nf < 10 ? c.first : ~0ull;
    op.write(c, 0, uint64_t(mf) * nf * 256 * sizeof(C));
    const C* from = bias ? bias->data() : nullptr;
    op.issue([=] { multiply(c.data(), a.data(), b.data(), from, p.m, p.n, p.k, is_fresh); });
}

}  // namespace aic_model

namespace AscendC {

template <class C, class A, class B>
void Mmad(const LocalTensor<C>& c, const LocalTensor<A>& a, const LocalTensor<B>& b, const MmadParams& p,
          Loc at = Loc::current()) {
    aic_model::mmad<C, A, B>(c, a, b, nullptr, p, at);
}

template <class C, class A, class B>
void Mmad(const LocalTensor<C>& c, const LocalTensor<A>& a, const LocalTensor<B>& b, const LocalTensor<C>& bias,
          const MmadParams& p, Loc at = Loc::current()) {
    aic_model::mmad<C, A, B>(c, a, b, &bias, p, at);
}

/// Results out of L0C, converted, as rows of a matrix.
template <class D, class A, const FixpipeConfig& config = CFG_ROW_MAJOR>
void Fixpipe(const GlobalTensor<D>& dst, const LocalTensor<A>& src, const FixpipeParamsV220& p, Loc at = Loc::current()) {
    static_assert(config.format == CO2Layout::ROW_MAJOR, "the model has Fixpipe to rows only");
    double bytes = double(p.mSize) * p.nSize * sizeof(D);
    aic_model::Op op(aic_model::FIX, "Fixpipe", at,
                     {20, bytes / aic_model::L0C_TO_GM * aic_model::machine->settings.clock, 30});
    op.require(src.memory == &aic_model::current->l0c, "R23", "results come from L0C");
    op.require(p.nSize >= 1 && p.nSize <= 4095 && p.nSize % 16 == 0, "R10", "nSize %u isn't a multiple of 16 up to 4095", p.nSize);
    op.require(p.mSize >= 1 && p.mSize <= 8192, "R10", "mSize %u isn't one of 1 to 8192", p.mSize);
    op.require(p.srcStride % 16 == 0, "R10", "srcStride %u isn't a multiple of 16", p.srcStride);
    op.require((aic_model::is_mode<D, A>(p.quantPre)), "R11", "quantPre %d doesn't convert these types", int(p.quantPre));
    op.aligned(src);
    uint32_t mf = aic_model::fractals(p.mSize, 16);
    for (uint32_t j = 0; j < p.nSize / 16u; ++j) {
        op.read(src, uint64_t(j) * p.srcStride * 16 * sizeof(A), std::min<uint64_t>(mf * 16, p.srcStride) * 16 * sizeof(A));
    }
    for (uint32_t r = 0; r < p.mSize; ++r) op.write(dst, uint64_t(r) * p.dstStride * sizeof(D), p.nSize * sizeof(D));
    aic_model::current->gm_bytes += bytes;
    float scale = aic_model::fixpipe_scale(p.deqScalar);
    op.issue([=] {
        for (uint32_t r = 0; r < p.mSize; ++r) {
            for (uint32_t j = 0; j < p.nSize; ++j) {
                A x = src.data()[uint64_t(j / 16) * p.srcStride * 16 + r * 16 + j % 16];
                dst.GetPhyAddr()[uint64_t(r) * p.dstStride + j] = aic_model::fixpipe<D>(x, p.quantPre, scale, p.reluEn);
            }
        }
    });
}

}  // namespace AscendC

// d = gelu(a * b + bias): the cube unit puts tiles of sums into a ring in global memory, its two vector cores take half
// of the rows each, and tell it when they have read them.
#include "kernel_operator.h"
using namespace AscendC;

constexpr uint32_t M = 50, K = 80, N = 48, CORES = 2;
constexpr uint32_t TM = 32, TN = 32, TK = 32;  // a tile of d, and the part of k in L1
constexpr uint32_t RING = 2, READY = 0, READ = 1;  // tiles of the ring, and the flags between cores
constexpr uint32_t ACROSS = (N + TN - 1) / TN, DOWN = (M + TM - 1) / TM;

// A row-major matrix's tile into fractals of L1, rows beyond its end as zeros where they are summed over.
__aicore__ inline void LoadL1(const LocalTensor<half>& dst, const GlobalTensor<half>& src, uint32_t rows, uint32_t cols,
                              uint32_t ld, uint32_t height) {
    DataCopy(dst, src, Nd2NzParams(1, rows, cols, 0, ld, height, 1, 0));
}

// The cube unit's part: sums of a tile after the other.
__aicore__ inline void Multiply(TPipe& pipe, GM_ADDR a, GM_ADDR b, GM_ADDR workspace) {
    TQue<TPosition::A1, 1> qa1;
    TQue<TPosition::B1, 1> qb1;
    TQue<TPosition::A2, 1> qa2;
    TQue<TPosition::B2, 1> qb2;
    TQue<TPosition::CO1, 1> qc;
    pipe.InitBuffer(qa1, 2, TM * TK * sizeof(half));
    pipe.InitBuffer(qb1, 2, TK * TN * sizeof(half));
    pipe.InitBuffer(qa2, 2, TM * TK * sizeof(half));
    pipe.InitBuffer(qb2, 2, TK * TN * sizeof(half));
    pipe.InitBuffer(qc, 1, TM * TN * sizeof(float));
    GlobalTensor<half> ag, bg;
    GlobalTensor<float> ring;
    ag.SetGlobalBuffer((__gm__ half*)a, M * K);
    bg.SetGlobalBuffer((__gm__ half*)b, K * N);
    ring.SetGlobalBuffer((__gm__ float*)workspace + GetBlockIdx() * RING * TM * TN, RING * TM * TN);
    uint32_t turn = 0;
    for (uint32_t tile = GetBlockIdx(); tile < ACROSS * DOWN; tile += CORES, ++turn) {
        uint32_t m0 = tile / ACROSS * TM, n0 = tile % ACROSS * TN;
        uint32_t m = M - m0 < TM ? M - m0 : TM, n = N - n0 < TN ? N - n0 : TN;
        LocalTensor<float> sum = qc.AllocTensor<float>();
        for (uint32_t k0 = 0; k0 < K; k0 += TK) {
            uint32_t k = K - k0 < TK ? K - k0 : TK;
            LocalTensor<half> a1 = qa1.AllocTensor<half>();
            LoadL1(a1, ag[m0 * K + k0], m, k, K, TM);
            qa1.EnQue(a1);
            LocalTensor<half> b1 = qb1.AllocTensor<half>();
            LoadL1(b1, bg[k0 * N + n0], k, n, N, TK);
            qb1.EnQue(b1);
            a1 = qa1.DeQue<half>();
            b1 = qb1.DeQue<half>();
            LocalTensor<half> a2 = qa2.AllocTensor<half>();
            for (uint32_t i = 0; i < (m + 15) / 16; ++i) {
                LoadData(a2[i * 16 * k], a1[i * 256], LoadData2DParams(0, k / 16, TM / 16, 0, 0, false, 0));
            }
            qa2.EnQue(a2);
            LocalTensor<half> b2 = qb2.AllocTensor<half>();
            for (uint32_t i = 0; i < k / 16; ++i) {
                LoadData(b2[i * 16 * n], b1[i * 256], LoadData2DParams(0, n / 16, TK / 16, 0, 0, true, 0));
            }
            qb2.EnQue(b2);
            qa1.FreeTensor(a1);
            qb1.FreeTensor(b1);
            a2 = qa2.DeQue<half>();
            b2 = qb2.DeQue<half>();
            Mmad(sum, a2, b2, MmadParams(m, n, k, 0, false, k0 == 0));
            // Sums of few fractals follow each other too quickly for the next product to see them.
            PipeBarrier<PIPE_M>();
            qa2.FreeTensor(a2);
            qb2.FreeTensor(b2);
        }
        qc.EnQue(sum);
        sum = qc.DeQue<float>();
        FixpipeParamsV220 out;
        out.nSize = n, out.mSize = m, out.srcStride = (m + 15) / 16 * 16, out.dstStride = TN;
        if (turn >= RING) CrossCoreWaitFlag(READ);
        Fixpipe<float, float, CFG_ROW_MAJOR>(ring[turn % RING * TM * TN], sum, out);
        CrossCoreSetFlag<2, PIPE_FIX>(READY);
        qc.FreeTensor(sum);
    }
    for (uint32_t k = 0; k < RING && k < turn; ++k) CrossCoreWaitFlag(READ);
}

// gelu(x) = x / (1 + exp(-1.5957691 * (x + 0.044715 * x^3))), of n elements.
__aicore__ inline void Gelu(const LocalTensor<float>& x, const LocalTensor<float>& t, uint32_t n) {
    Mul(t, x, x, n);
    PipeBarrier<PIPE_V>();
    Muls(t, t, 0.044715f, n);
    PipeBarrier<PIPE_V>();
    Adds(t, t, 1.0f, n);
    PipeBarrier<PIPE_V>();
    Mul(t, t, x, n);
    PipeBarrier<PIPE_V>();
    Muls(t, t, -1.5957691f, n);
    PipeBarrier<PIPE_V>();
    Exp(t, t, n);
    PipeBarrier<PIPE_V>();
    Adds(t, t, 1.0f, n);
    PipeBarrier<PIPE_V>();
    Div(x, x, t, n);
    PipeBarrier<PIPE_V>();
}

// A vector core's part: its half of the rows of each tile.
__aicore__ inline void Finish(TPipe& pipe, GM_ADDR bias, GM_ADDR d, GM_ADDR workspace) {
    constexpr uint32_t HALF = TM / 2;
    TQue<TPosition::VECIN, 1> inSum, inBias;
    TQue<TPosition::VECOUT, 1> outD;
    TBuf<TPosition::VECCALC> tmpBuf;
    pipe.InitBuffer(inSum, 2, HALF * TN * sizeof(float));
    pipe.InitBuffer(inBias, 1, TN * sizeof(float));
    pipe.InitBuffer(outD, 2, HALF * TN * sizeof(half));
    pipe.InitBuffer(tmpBuf, HALF * TN * sizeof(float));
    LocalTensor<float> tmp = tmpBuf.Get<float>();
    GlobalTensor<float> biasGm, ring;
    GlobalTensor<half> dg;
    biasGm.SetGlobalBuffer((__gm__ float*)bias, N);
    dg.SetGlobalBuffer((__gm__ half*)d, M * N);
    uint32_t core = GetBlockIdx() / 2, own = GetSubBlockIdx() * HALF, turn = 0;
    ring.SetGlobalBuffer((__gm__ float*)workspace + core * RING * TM * TN, RING * TM * TN);
    for (uint32_t tile = core; tile < ACROSS * DOWN; tile += CORES, ++turn) {
        uint32_t m0 = tile / ACROSS * TM + own, n0 = tile % ACROSS * TN;
        uint32_t n = N - n0 < TN ? N - n0 : TN;
        uint16_t m = m0 >= M ? 0 : M - m0 < HALF ? M - m0 : HALF;
        CrossCoreWaitFlag(READY);
        if (m == 0) {
            CrossCoreSetFlag<2, PIPE_MTE2>(READ);
            continue;
        }
        uint32_t row = n * sizeof(float), gap = (TN - n) * sizeof(float);
        LocalTensor<float> x = inSum.AllocTensor<float>();
        DataCopyPad(x, ring[turn % RING * TM * TN + own * TN], DataCopyExtParams(m, row, gap, 0, 0), {false, 0, 0, 0});
        inSum.EnQue(x);
        CrossCoreSetFlag<2, PIPE_MTE2>(READ);
        LocalTensor<float> b = inBias.AllocTensor<float>();
        DataCopyPad(b, biasGm[n0], DataCopyExtParams(1, row, 0, 0, 0), {false, 0, 0, 0});
        inBias.EnQue(b);
        x = inSum.DeQue<float>();
        b = inBias.DeQue<float>();
        for (uint32_t r = 0; r < m; ++r) Add(x[r * n], x[r * n], b, n);
        PipeBarrier<PIPE_V>();
        Gelu(x, tmp, m * n);
        LocalTensor<half> y = outD.AllocTensor<half>();
        Cast(y, x, RoundMode::CAST_RINT, m * n);
        outD.EnQue(y);
        inSum.FreeTensor(x);
        inBias.FreeTensor(b);
        y = outD.DeQue<half>();
        DataCopyPad(dg[m0 * N + n0], y, DataCopyExtParams(m, n * sizeof(half), 0, (N - n) * sizeof(half), 0));
        outD.FreeTensor(y);
    }
}

extern "C" __global__ __aicore__ void matmul_gelu(GM_ADDR a, GM_ADDR b, GM_ADDR bias, GM_ADDR d, GM_ADDR workspace) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
    TPipe pipe;
    if ASCEND_IS_AIC {
        Multiply(pipe, a, b, workspace);
    } else {
        Finish(pipe, bias, d, workspace);
    }
}

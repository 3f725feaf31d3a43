// c = a * b in half with float sums: tiles of c in turn on the cube units, two buffers in L1 and in L0.
#include "kernel_operator.h"
using namespace AscendC;

constexpr uint32_t M = 50, K = 80, N = 48, CORES = 2;
constexpr uint32_t TM = 32, TN = 32, TK = 32;  // a tile of c, and the part of k in L1
constexpr uint32_t PART = 32;                  // the part of k in L0

// A row-major matrix's tile into fractals of L1, rows beyond its end as zeros where they are summed over.
__aicore__ inline void LoadL1(const LocalTensor<half>& dst, const GlobalTensor<half>& src, uint32_t rows, uint32_t cols,
                              uint32_t ld, uint32_t height) {
    DataCopy(dst, src, Nd2NzParams(1, rows, cols, 0, ld, height, 1, 0));
}

extern "C" __global__ __aicore__ void matmul(GM_ADDR a, GM_ADDR b, GM_ADDR c) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIC_ONLY);
    TPipe pipe;
    TQue<TPosition::A1, 1> qa1;
    TQue<TPosition::B1, 1> qb1;
    TQue<TPosition::A2, 1> qa2;
    TQue<TPosition::B2, 1> qb2;
    TQue<TPosition::CO1, 1> qc;
    pipe.InitBuffer(qa1, 2, TM * TK * sizeof(half));
    pipe.InitBuffer(qb1, 2, TK * TN * sizeof(half));
    pipe.InitBuffer(qa2, 2, TM * PART * sizeof(half));
    pipe.InitBuffer(qb2, 2, PART * TN * sizeof(half));
    pipe.InitBuffer(qc, 1, TM * TN * sizeof(float));
    GlobalTensor<half> ag, bg;
    GlobalTensor<float> cg;
    ag.SetGlobalBuffer((__gm__ half*)a, M * K);
    bg.SetGlobalBuffer((__gm__ half*)b, K * N);
    cg.SetGlobalBuffer((__gm__ float*)c, M * N);
    constexpr uint32_t ACROSS = (N + TN - 1) / TN, DOWN = (M + TM - 1) / TM;
    for (uint32_t tile = GetBlockIdx(); tile < ACROSS * DOWN; tile += CORES) {
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
            for (uint32_t p0 = 0; p0 < k; p0 += PART) {
                uint32_t p = k - p0 < PART ? k - p0 : PART;
                LocalTensor<half> a2 = qa2.AllocTensor<half>();
                for (uint32_t i = 0; i < (m + 15) / 16; ++i) {
                    LoadData(a2[i * 16 * p], a1[p0 * TM + i * 256], LoadData2DParams(0, p / 16, TM / 16, 0, 0, false, 0));
                }
                qa2.EnQue(a2);
                LocalTensor<half> b2 = qb2.AllocTensor<half>();
                for (uint32_t i = 0; i < p / 16; ++i) {
                    LoadData(b2[i * 16 * n], b1[p0 * 16 + i * 256], LoadData2DParams(0, n / 16, TK / 16, 0, 0, true, 0));
                }
                qb2.EnQue(b2);
                a2 = qa2.DeQue<half>();
                b2 = qb2.DeQue<half>();
                Mmad(sum, a2, b2, MmadParams(m, n, p, 0, false, k0 + p0 == 0));
                // Sums of few fractals follow each other too quickly for the next product to see them.
                if ((m / 16) * (n / 16) < 10) PipeBarrier<PIPE_M>();
                qa2.FreeTensor(a2);
                qb2.FreeTensor(b2);
            }
            qa1.FreeTensor(a1);
            qb1.FreeTensor(b1);
        }
        qc.EnQue(sum);
        sum = qc.DeQue<float>();
        FixpipeParamsV220 out;
        out.nSize = n, out.mSize = m, out.srcStride = (m + 15) / 16 * 16, out.dstStride = N;
        Fixpipe<float, float, CFG_ROW_MAJOR>(cg[m0 * N + n0], sum, out);
        qc.FreeTensor(sum);
    }
}

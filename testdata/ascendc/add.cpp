// z = x + y on vector cores: each takes tiles in turn, two buffers per queue, an exact tail.
#include "kernel_operator.h"
using namespace AscendC;

constexpr uint32_t N = 10007, TILE = 2048, CORES = 4;

extern "C" __global__ __aicore__ void add(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    TPipe pipe;
    TQue<TPosition::VECIN, 1> inX, inY;
    TQue<TPosition::VECOUT, 1> outZ;
    pipe.InitBuffer(inX, 2, TILE * sizeof(float));
    pipe.InitBuffer(inY, 2, TILE * sizeof(float));
    pipe.InitBuffer(outZ, 2, TILE * sizeof(float));
    GlobalTensor<float> xg, yg, zg;
    xg.SetGlobalBuffer((__gm__ float*)x, N);
    yg.SetGlobalBuffer((__gm__ float*)y, N);
    zg.SetGlobalBuffer((__gm__ float*)z, N);
    for (uint32_t first = GetBlockIdx() * TILE; first < N; first += CORES * TILE) {
        uint32_t n = N - first < TILE ? N - first : TILE;
        DataCopyExtParams whole{1, uint32_t(n * sizeof(float)), 0, 0, 0};
        LocalTensor<float> a = inX.AllocTensor<float>();
        DataCopyPad(a, xg[first], whole, {false, 0, 0, 0});
        inX.EnQue(a);
        LocalTensor<float> b = inY.AllocTensor<float>();
        DataCopyPad(b, yg[first], whole, {false, 0, 0, 0});
        inY.EnQue(b);
        a = inX.DeQue<float>();
        b = inY.DeQue<float>();
        LocalTensor<float> c = outZ.AllocTensor<float>();
        Add(c, a, b, n);
        outZ.EnQue(c);
        inX.FreeTensor(a);
        inY.FreeTensor(b);
        c = outZ.DeQue<float>();
        DataCopyPad(zg[first], c, whole);
        outZ.FreeTensor(c);
    }
}

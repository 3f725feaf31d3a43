// y = (x - mean) / sqrt(variance + eps) * gamma + beta along rows of half, computed in float; gamma and beta are loaded
// once per core.
#include "kernel_operator.h"
using namespace AscendC;

constexpr uint32_t ROWS = 9, COLS = 100, CORES = 3;
constexpr float EPS = 1e-5f;
constexpr uint32_t WIDTH = (COLS + 15) / 16 * 16;  // a row of half in the unified buffer

// A scalar of the unified buffer to the scalar unit.
__aicore__ inline float Scalar(const LocalTensor<float>& x, int32_t event) {
    SetFlag<HardEvent::V_S>(event);
    WaitFlag<HardEvent::V_S>(event);
    return x.GetValue(0);
}

extern "C" __global__ __aicore__ void layernorm(GM_ADDR x, GM_ADDR gamma, GM_ADDR beta, GM_ADDR y) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    TPipe pipe;
    TQue<TPosition::VECIN, 1> inX, inScale;
    TQue<TPosition::VECOUT, 1> outY;
    TBuf<TPosition::VECCALC> floatBuf, squareBuf, sumBuf, tmpBuf, gammaBuf, betaBuf;
    pipe.InitBuffer(inX, 2, WIDTH * sizeof(half));
    pipe.InitBuffer(inScale, 1, WIDTH * sizeof(half));
    pipe.InitBuffer(outY, 2, WIDTH * sizeof(half));
    pipe.InitBuffer(floatBuf, WIDTH * sizeof(float));
    pipe.InitBuffer(squareBuf, WIDTH * sizeof(float));
    pipe.InitBuffer(sumBuf, 32);
    pipe.InitBuffer(tmpBuf, (COLS / 64 + 1) * sizeof(float));
    pipe.InitBuffer(gammaBuf, WIDTH * sizeof(float));
    pipe.InitBuffer(betaBuf, WIDTH * sizeof(float));
    LocalTensor<float> f = floatBuf.Get<float>(), square = squareBuf.Get<float>(), sum = sumBuf.Get<float>();
    LocalTensor<float> tmp = tmpBuf.Get<float>(), g = gammaBuf.Get<float>(), b = betaBuf.Get<float>();
    GlobalTensor<half> xg, yg, gg, bg;
    xg.SetGlobalBuffer((__gm__ half*)x, ROWS * COLS);
    yg.SetGlobalBuffer((__gm__ half*)y, ROWS * COLS);
    gg.SetGlobalBuffer((__gm__ half*)gamma, COLS);
    bg.SetGlobalBuffer((__gm__ half*)beta, COLS);
    DataCopyExtParams row{1, uint32_t(COLS * sizeof(half)), 0, 0, 0};
    int32_t toScalar = pipe.AllocEventID<HardEvent::V_S>(), toVector = pipe.AllocEventID<HardEvent::S_V>();
    for (uint32_t k = 0; k < 2; ++k) {
        LocalTensor<half> h = inScale.AllocTensor<half>();
        DataCopyPad(h, k == 0 ? gg : bg, row, {false, 0, 0, (half)0});
        inScale.EnQue(h);
        h = inScale.DeQue<half>();
        Cast(k == 0 ? g : b, h, RoundMode::CAST_NONE, COLS);
        inScale.FreeTensor(h);
    }
    PipeBarrier<PIPE_V>();
    for (uint32_t r = GetBlockIdx(); r < ROWS; r += CORES) {
        LocalTensor<half> h = inX.AllocTensor<half>();
        DataCopyPad(h, xg[r * COLS], row, {false, 0, 0, (half)0});
        inX.EnQue(h);
        h = inX.DeQue<half>();
        Cast(f, h, RoundMode::CAST_NONE, COLS);
        inX.FreeTensor(h);
        PipeBarrier<PIPE_V>();
        ReduceSum(sum, f, tmp, COLS);
        Adds(f, f, -Scalar(sum, toScalar) / COLS, COLS);
        PipeBarrier<PIPE_V>();
        Mul(square, f, f, COLS);
        PipeBarrier<PIPE_V>();
        // The scalar unit has read the sum before the vector unit writes the next one.
        SetFlag<HardEvent::S_V>(toVector);
        WaitFlag<HardEvent::S_V>(toVector);
        ReduceSum(sum, square, tmp, COLS);
        PipeBarrier<PIPE_V>();
        Muls(sum, sum, 1.0f / COLS, 1);
        PipeBarrier<PIPE_V>();
        Adds(sum, sum, EPS, 1);
        PipeBarrier<PIPE_V>();
        Sqrt(sum, sum, 1);
        Muls(f, f, 1.0f / Scalar(sum, toScalar), COLS);
        PipeBarrier<PIPE_V>();
        Mul(f, f, g, COLS);
        PipeBarrier<PIPE_V>();
        Add(f, f, b, COLS);
        PipeBarrier<PIPE_V>();
        SetFlag<HardEvent::S_V>(toVector);
        WaitFlag<HardEvent::S_V>(toVector);
        LocalTensor<half> out = outY.AllocTensor<half>();
        Cast(out, f, RoundMode::CAST_RINT, COLS);
        PipeBarrier<PIPE_V>();
        outY.EnQue(out);
        out = outY.DeQue<half>();
        DataCopyPad(yg[r * COLS], out, row);
        outY.FreeTensor(out);
    }
}

// y = softmax(x) along rows that fit the unified buffer: rows of a tile are loaded together, reduced one by one.
#include "kernel_operator.h"
using namespace AscendC;

constexpr uint32_t ROWS = 37, COLS = 131, CORES = 4;
constexpr uint32_t WIDTH = (COLS + 7) / 8 * 8, TILE = 8;  // a row in the unified buffer, rows of a tile

// The largest of a row's elements, or their sum, into one element.
__aicore__ inline void RowMax(const LocalTensor<float>& dst, const LocalTensor<float>& row, const LocalTensor<float>& tmp) {
    ReduceMax(dst, row, tmp, COLS);
    PipeBarrier<PIPE_V>();
}

__aicore__ inline void RowSum(const LocalTensor<float>& dst, const LocalTensor<float>& row, const LocalTensor<float>& tmp) {
    ReduceSum(dst, row, tmp, COLS);
    PipeBarrier<PIPE_V>();
}

extern "C" __global__ __aicore__ void softmax(GM_ADDR x, GM_ADDR y) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    TPipe pipe;
    TQue<TPosition::VECIN, 1> inX;
    TQue<TPosition::VECOUT, 1> outY;
    TBuf<TPosition::VECCALC> rowBuf, spreadBuf, tmpBuf;
    pipe.InitBuffer(inX, 2, TILE * WIDTH * sizeof(float));
    pipe.InitBuffer(outY, 2, TILE * WIDTH * sizeof(float));
    pipe.InitBuffer(rowBuf, TILE * 8 * sizeof(float));
    pipe.InitBuffer(spreadBuf, 8 * sizeof(float) * 8);
    pipe.InitBuffer(tmpBuf, (COLS / 64 + 1) * 2 * sizeof(float));
    LocalTensor<float> row = rowBuf.Get<float>(), spread = spreadBuf.Get<float>(), tmp = tmpBuf.Get<float>();
    GlobalTensor<float> xg, yg;
    xg.SetGlobalBuffer((__gm__ float*)x, ROWS * COLS);
    yg.SetGlobalBuffer((__gm__ float*)y, ROWS * COLS);
    Duplicate(row, 0.0f, TILE * 8);
    PipeBarrier<PIPE_V>();
    for (uint32_t first = GetBlockIdx() * TILE; first < ROWS; first += CORES * TILE) {
        uint16_t n = ROWS - first < TILE ? ROWS - first : TILE;
        DataCopyExtParams rows{n, uint32_t(COLS * sizeof(float)), 0, 0, 0};
        LocalTensor<float> a = inX.AllocTensor<float>();
        DataCopyPad(a, xg[first * COLS], rows, {true, 0, uint8_t(WIDTH - COLS), 0});
        inX.EnQue(a);
        a = inX.DeQue<float>();
        LocalTensor<float> b = outY.AllocTensor<float>();
        for (uint16_t r = 0; r < n; ++r) {
            LocalTensor<float> from = a[r * WIDTH], to = b[r * WIDTH];
            RowMax(row[r * 8], from, tmp);
            Brcb(spread, row[r * 8], 1, {1, 8});
            PipeBarrier<PIPE_V>();
            // The first block holds the maximum eight times: it is the second operand of every block.
            Sub(to, from, spread, 64, WIDTH / 64, {1, 1, 0, 8, 8, 0});
            if (WIDTH % 64) Sub(to[WIDTH / 64 * 64], from[WIDTH / 64 * 64], spread, WIDTH % 64, 1, {1, 1, 0, 8, 8, 0});
            PipeBarrier<PIPE_V>();
            Exp(to, to, WIDTH);
            PipeBarrier<PIPE_V>();
            RowSum(row[r * 8], to, tmp);
            Brcb(spread, row[r * 8], 1, {1, 8});
            PipeBarrier<PIPE_V>();
            Div(to, to, spread, 64, WIDTH / 64, {1, 1, 0, 8, 8, 0});
            if (WIDTH % 64) Div(to[WIDTH / 64 * 64], to[WIDTH / 64 * 64], spread, WIDTH % 64, 1, {1, 1, 0, 8, 8, 0});
            PipeBarrier<PIPE_V>();
        }
        outY.EnQue(b);
        inX.FreeTensor(a);
        b = outY.DeQue<float>();
        DataCopyPad(yg[first * COLS], b, rows);
        outY.FreeTensor(b);
    }
}

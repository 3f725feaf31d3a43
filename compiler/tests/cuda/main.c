/* Runs a model of two inputs and one output on zeros. */
#include "model.h"
#include <stdio.h>
#include <stdlib.h>

int main(void)
{
    static const int64_t dims[2][3] = {DIMS};
    aic_session *session = NULL;
    if (aic_open(NULL, &session)) return puts(aic_error(NULL)), 1;
    aic_tensor inputs[2], output = {0};
    for (int k = 0; k < 2; k++)
        inputs[k] = (aic_tensor){.data = calloc(1 << 16, 1), .dims = (int64_t *)dims[k], .rank = RANK, .dtype = 10};
    if (aic_run(session, inputs, 2, &output, 1)) return puts(aic_error(session)), 1;
    aic_close(session);
    return 0;
}

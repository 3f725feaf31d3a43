/* What a launcher uses of the CUDA driver, without a GPU: memory is the host's, and what would be encoded and launched is
 * printed. A tensor map holds its number and the address that it is of; the first of a kernel's two is its argument
 * FIRST_MAP. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void *handle;
typedef struct { uint64_t number, at; } noted;

static uint64_t n_maps;
static char some;

int cuInit(unsigned flags) { return (int)flags; }
int cuDeviceGet(int *device, int n) { *device = n; return 0; }
int cuDevicePrimaryCtxRetain(handle *context, int device) { *context = &some; return device; }
int cuCtxSetCurrent(handle context) { return !context; }
int cuModuleLoadData(handle *module, const void *code) { *module = &some; return !code; }
int cuModuleGetFunction(handle *function, handle module, const char *name) { *function = module; return !*name; }
int cuFuncSetAttribute(handle function, int attribute, int value) { return !function || attribute != 8 || value <= 0; }
int cuMemAlloc_v2(uint64_t *at, size_t bytes)
{
    *at = (uint64_t)(uintptr_t)aligned_alloc(256, (bytes + 255) / 256 * 256);
    return !*at;
}
int cuMemFree_v2(uint64_t at) { free((void *)(uintptr_t)at); return 0; }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, handle stream)
{
    memcpy((void *)(uintptr_t)to, from, bytes);
    return !stream;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, handle stream)
{
    memcpy(to, (void *)(uintptr_t)from, bytes);
    return !stream;
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, handle stream)
{
    memmove((void *)(uintptr_t)to, (void *)(uintptr_t)from, bytes);
    return !stream;
}
int cuStreamCreate(handle *stream, unsigned flags) { *stream = &some; return flags != 1; }
int cuStreamSynchronize(handle stream) { return !stream; }
int cuStreamDestroy_v2(handle stream) { return !stream; }
int cuStreamBeginCapture_v2(handle stream, int mode) { return !stream || mode != 1; }
int cuStreamEndCapture(handle stream, handle *graph) { *graph = stream; return 0; }
int cuGraphInstantiateWithFlags(handle *made, handle graph, unsigned long long flags) { *made = graph; return flags != 0; }
int cuGraphLaunch(handle graph, handle stream) { return !graph || !stream; }
int cuGraphExecDestroy(handle graph) { return !graph; }
int cuGraphDestroy(handle graph) { return !graph; }
int cuModuleUnload(handle module) { return !module; }
int cuGetErrorString(int error, const char **text) { *text = "refused"; return error & 0; }

int cuTensorMapEncodeTiled(noted *map, int type, unsigned rank, void *at, const uint64_t *extents, const uint64_t *strides,
                           const uint32_t *boxed, const uint32_t *steps, int interleave, int swizzle, int l2, int fill)
{
    if ((uintptr_t)map % 64 || (uintptr_t)at % 16 || interleave || l2 != 2 || fill) return 1;
    printf("map %d: type %d, swizzle %d:", (int)n_maps, type, swizzle);
    for (unsigned axis = 0; axis < rank; axis++) {
        printf(" %u of %u", (unsigned)boxed[axis], (unsigned)extents[axis]);
        if (axis) printf(" by %u bytes", (unsigned)strides[axis - 1]);
        if (steps[axis] != 1) return 1;
    }
    printf("\n");
    *map = (noted){n_maps++, (uint64_t)(uintptr_t)at};
    return 0;
}

int cuLaunchKernel(handle function, unsigned x, unsigned y, unsigned z, unsigned tx, unsigned ty, unsigned tz,
                   unsigned shared, handle stream, void **args, void **extra)
{
    printf("%u x %u x %u blocks of %u x %u x %u threads, %u bytes", x, y, z, tx, ty, tz, shared);
    for (int k = 0; k < 2; k++) {
        noted *map = args[FIRST_MAP + k];
        printf(", map %d is %d bytes behind buffer %d", (int)map->number, (int)(map->at - *(uint64_t *)args[k]), k);
    }
    printf("\n");
    return !function || !stream || extra;
}

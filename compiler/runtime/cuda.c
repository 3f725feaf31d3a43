/* The launcher of a model compiled to PTX: runs its plan (plan.h) on a CUDA GPU.
 *
 * It needs nothing but the driver's libcuda.so.1, which it opens when a session is opened. A session has one allocation
 * on the device for weights, and one for intermediate results, inputs and outputs, laid out at compile time. What is
 * launched for inputs of the same dims is one CUDA graph, captured when dims change.
 *
 * Before it, the generated part defines plan_words, model_kernels, constant_offsets, model_code, model_info and the
 * weights. */
#include <dlfcn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int CUresult;
typedef uint64_t CUdeviceptr;
typedef void *handle;

/* What the tensor memory accelerator copies boxes of: opaque to all but the driver. */
typedef struct { _Alignas(64) char bytes[128]; } tensor_map;

enum { ERROR_BYTES = 1024, ALIGNMENT = 256, MAX_SHARED = 8 /* CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES */ };

/* What is used of the driver. */
#define DRIVER(f) \
    f(cuInit, (unsigned)) f(cuDeviceGet, (int *, int)) f(cuDevicePrimaryCtxRetain, (handle *, int)) \
    f(cuCtxSetCurrent, (handle)) f(cuModuleLoadData, (handle *, const void *)) \
    f(cuModuleGetFunction, (handle *, handle, const char *)) f(cuFuncSetAttribute, (handle, int, int)) \
    f(cuMemAlloc_v2, (CUdeviceptr *, size_t)) f(cuMemFree_v2, (CUdeviceptr)) \
    f(cuMemcpyHtoDAsync_v2, (CUdeviceptr, const void *, size_t, handle)) \
    f(cuMemcpyDtoHAsync_v2, (void *, CUdeviceptr, size_t, handle)) \
    f(cuMemcpyDtoDAsync_v2, (CUdeviceptr, CUdeviceptr, size_t, handle)) \
    f(cuStreamCreate, (handle *, unsigned)) f(cuStreamSynchronize, (handle)) f(cuStreamDestroy_v2, (handle)) \
    f(cuLaunchKernel, (handle, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, handle, void **, \
                       void **)) \
    f(cuStreamBeginCapture_v2, (handle, int)) f(cuStreamEndCapture, (handle, handle *)) \
    f(cuGraphInstantiateWithFlags, (handle *, handle, unsigned long long)) f(cuGraphLaunch, (handle, handle)) \
    f(cuGraphExecDestroy, (handle)) f(cuGraphDestroy, (handle)) f(cuModuleUnload, (handle)) \
    f(cuTensorMapEncodeTiled, (tensor_map *, int, unsigned, void *, const uint64_t *, const uint64_t *, const uint32_t *, \
                               const uint32_t *, int, int, int, int)) \
    f(cuGetErrorString, (CUresult, const char **))

static struct {
#define FIELD(name, args) CUresult(*name) args;
    DRIVER(FIELD)
#undef FIELD
} cu;

struct aic_session {
    handle context, stream, module, graph;
    handle functions[N_KERNELS + 1];
    CUdeviceptr weights, memory;
    size_t memory_bytes;
    int64_t symbols[N_SYMBOLS + 1], values[N_EXPRS + 1];
    CUdeviceptr pointers[N_BUFFERS + 1], inputs[N_INPUTS + 1], outputs[N_OUTPUTS + 1];
    bool sized;
    void *owned[N_OUTPUTS + 1];
    size_t owned_bytes[N_OUTPUTS + 1];
    int64_t output_dims[N_OUTPUTS + 1][MAX_RANK + 1];
    int busy;
    char error[ERROR_BYTES];
};

static _Thread_local char open_error[ERROR_BYTES];
static const plan_header *const plan = (const plan_header *)plan_words;

static int32_t __attribute__((format(printf, 3, 4))) fail(char *error, int32_t status, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    vsnprintf(error, ERROR_BYTES, format, list);
    va_end(list);
    return status;
}

static int32_t check(char *error, CUresult result, const char *what)
{
    if (!result) return AIC_OK;
    const char *text = "unknown error";
    cu.cuGetErrorString(result, &text);
    return fail(error, result == 2 ? AIC_NO_MEMORY : AIC_FAILED, "CUDA: %s: %s", what, text);
}

#define TRY(e) do { int32_t try_status = (e); if (try_status) return try_status; } while (0)
#define CU(call) TRY(check(s->error, cu.call, #call))

static const char *text_at(int64_t offset) { return (const char *)(plan_words + plan->text) + offset; }
static const plan_port *port_at(int64_t list, int64_t i) { return (const plan_port *)(plan_words + list) + i; }
static const plan_buffer *buffer_at(int64_t i) { return (const plan_buffer *)(plan_words + plan->buffers) + i; }

/* ------------------------------------------------------------------------------------------------ sizes */

static int64_t divide(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }
static int64_t modulo(int64_t a, int64_t b) { return a - divide(a, b) * b; }
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t saturated(__int128 x) { return x > INT64_MAX ? INT64_MAX : x < INT64_MIN ? INT64_MIN : (int64_t)x; }

static bool expr_value(const int64_t *code, const int64_t *symbols, int64_t *value)
{
    int64_t stack[AIC_PLAN_STACK];
    for (int n = 0;;) {
        int64_t op = *code++;
        if (op == AIC_PLAN_END) { *value = stack[0]; return true; }
        if (op == AIC_PLAN_CONST) { stack[n++] = *code++; continue; }
        if (op == AIC_PLAN_SYM) { stack[n++] = symbols[*code++]; continue; }
        int64_t b = stack[--n], *a = &stack[n - 1];
        switch (op) {
        case AIC_PLAN_ADD: *a = saturated((__int128)*a + b); break;
        case AIC_PLAN_MUL: *a = saturated((__int128)*a * b); break;
        case AIC_PLAN_MIN: *a = least(*a, b); break;
        case AIC_PLAN_MAX: *a = most(*a, b); break;
        default:
            if (b == 0 || b == -1) return false;
            *a = op == AIC_PLAN_DIV ? divide(*a, b) : modulo(*a, b);
        }
    }
}

static int32_t mismatch(aic_session *s, const char *what, const plan_port *port)
{
    return fail(s->error, AIC_INVALID, "%s \"%s\": expected %s, found another type or shape", what,
                text_at(port->name), text_at(port->type));
}

static int32_t bind_symbols(aic_session *s, const aic_tensor *inputs)
{
    const plan_symbol *symbols = (const plan_symbol *)(plan_words + plan->symbols);
    for (int64_t i = 0; i < plan->n_inputs; i++) {
        const plan_port *port = port_at(plan->inputs, i);
        const aic_tensor *t = &inputs[i];
        if (t->dtype != port->dtype || t->rank != port->rank || (t->rank > 0 && !t->dims))
            return mismatch(s, "input", port);
    }
    for (int64_t i = 0; i < plan->n_symbols; i++) {
        int64_t value = inputs[symbols[i].input].dims[symbols[i].axis];
        if (value < symbols[i].lo || value > symbols[i].hi || value < 0)
            return fail(s->error, AIC_INVALID, "%s = %lld is not what the model expects", text_at(symbols[i].name),
                        (long long)value);
        s->sized &= value == s->symbols[i];
        s->symbols[i] = value;
    }
    return AIC_OK;
}

static bool dims_are(const aic_session *s, const plan_port *port, const int64_t *dims)
{
    for (int64_t k = 0; k < port->rank; k++)
        if (dims[k] != s->values[plan_words[port->dims + k]]) return false;
    return true;
}

/* The addresses of all buffers: the arena, then inputs and outputs, in one allocation. */
static int32_t place(aic_session *s)
{
    size_t bytes = (size_t)s->values[plan->arena];
    size_t at_inputs[N_INPUTS + 1], at_outputs[N_OUTPUTS + 1];
    for (int side = 0; side < 2; side++) {
        int64_t n = side ? plan->n_outputs : plan->n_inputs;
        for (int64_t i = 0; i < n; i++) {
            bytes = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
            (side ? at_outputs : at_inputs)[i] = bytes;
            bytes += (size_t)s->values[port_at(side ? plan->outputs : plan->inputs, i)->bytes];
        }
    }
    if (bytes > s->memory_bytes || !s->memory) {
        if (s->memory) CU(cuMemFree_v2(s->memory));
        s->memory = 0;
        CU(cuMemAlloc_v2(&s->memory, bytes + ALIGNMENT));
        s->memory_bytes = bytes;
    }
    for (int64_t i = 0; i < plan->n_inputs; i++) s->inputs[i] = s->memory + at_inputs[i];
    for (int64_t i = 0; i < plan->n_outputs; i++) s->outputs[i] = s->memory + at_outputs[i];
    for (int pass = 0; pass < 2; pass++)
        for (int64_t i = 0; i < plan->n_buffers; i++) {
            const plan_buffer *b = buffer_at(i);
            switch (b->place) {
            case AIC_PLAN_INPUT: s->pointers[i] = s->inputs[b->at]; break;
            case AIC_PLAN_OUTPUT: s->pointers[i] = s->outputs[b->at]; break;
            case AIC_PLAN_CONSTANT: s->pointers[i] = s->weights + constant_offsets[b->at]; break;
            case AIC_PLAN_ARENA: s->pointers[i] = s->memory + (size_t)s->values[b->at]; break;
            default: s->pointers[i] = s->pointers[b->at];
            }
        }
    return AIC_OK;
}

/* ------------------------------------------------------------------------------------------------ steps */

/* A tensor map: boxes have rows of 128 bytes, which are swizzled; zeros are outside of the array. */
static int32_t encode(aic_session *s, const model_kernel *k, int64_t i, const int64_t *symbols, const plan_launch *step,
                      tensor_map *map)
{
    model_map m;
    k->map(symbols, i, &m);
    uint64_t extents[MAX_AXES], strides[MAX_AXES];
    uint32_t boxed[MAX_AXES], one[MAX_AXES];
    for (int axis = 0; axis < m.rank; axis++) {
        if (m.extents[axis] > INT32_MAX)
            return fail(s->error, AIC_INVALID, "kernel %s: an axis of %lld elements is too long for a tensor map", k->name,
                        (long long)m.extents[axis]);
        extents[axis] = (uint64_t)m.extents[axis];
        strides[axis] = (uint64_t)(m.steps[axis] * m.element);
        boxed[axis] = axis < 2 ? m.boxed[axis] : 1;
        one[axis] = 1;
    }
    CUdeviceptr at = s->pointers[step->rest[m.arg]] + (CUdeviceptr)(m.first * m.element);
    CU(cuTensorMapEncodeTiled(map, m.type, (unsigned)m.rank, (void *)(uintptr_t)at, extents, strides + 1, boxed, one,
                              0, 3 /* CU_TENSOR_MAP_SWIZZLE_128B */, 2 /* L2 promotion: 128 bytes */, 0));
    return AIC_OK;
}

static int32_t launch(aic_session *s, const plan_launch *step)
{
    const model_kernel *k = &model_kernels[step->kernel];
    int64_t symbols[MAX_SYMBOLS + 1], grid[3];
    void *args[MAX_ARGS + MAX_SYMBOLS + MAX_MAPS + 1];
    tensor_map maps[MAX_MAPS + 1];
    for (int64_t i = 0; i < step->n_args; i++) args[i] = &s->pointers[step->rest[i]];
    for (int64_t i = 0; i < step->n_symbols; i++) {
        symbols[i] = s->values[step->rest[step->n_args + i]];
        args[step->n_args + i] = &symbols[i];
    }
    k->grid(symbols, grid);
    if (grid[0] <= 0 || grid[1] <= 0 || grid[2] <= 0) return AIC_OK;
    if (grid[0] > INT32_MAX || grid[1] > 65535 || grid[2] > 65535)
        return fail(s->error, AIC_INVALID, "kernel %s: a grid of %lld x %lld x %lld blocks is too large", k->name,
                    (long long)grid[0], (long long)grid[1], (long long)grid[2]);
    for (int64_t i = 0; i < k->n_maps; i++) {
        TRY(encode(s, k, i, symbols, step, &maps[i]));
        args[step->n_args + step->n_symbols + i] = &maps[i];
    }
    CU(cuLaunchKernel(s->functions[step->kernel], (unsigned)grid[0], (unsigned)grid[1], (unsigned)grid[2],
                      k->threads[0], k->threads[1], k->threads[2], k->shared, s->stream, args, NULL));
    return AIC_OK;
}

static int32_t steps(aic_session *s)
{
    const int64_t *at = plan_words + plan->steps;
    for (int64_t i = 0; i < plan->n_steps; i++, at += at[1]) {
        if (at[0] == AIC_PLAN_LAUNCH) {
            TRY(launch(s, (const plan_launch *)at));
            continue;
        }
        const plan_copy *c = (const plan_copy *)at;
        size_t bytes = (size_t)s->values[buffer_at(c->dst)->bytes];
        if (bytes) CU(cuMemcpyDtoDAsync_v2(s->pointers[c->dst], s->pointers[c->src], bytes, s->stream));
    }
    return AIC_OK;
}

/* Captures what is to be launched for inputs of these dims. */
static int32_t prepare(aic_session *s)
{
    if (s->sized) return AIC_OK;
    const int64_t *codes = plan_words + plan->exprs;
    for (int64_t i = 0; i < plan->n_exprs; i++)
        if (!expr_value(plan_words + codes[i], s->symbols, &s->values[i]))
            return fail(s->error, AIC_INVALID, "a size of the model divides by zero for inputs of these dims");
    const plan_require *requires = (const plan_require *)(plan_words + plan->requires);
    for (int64_t i = 0; i < plan->n_requires; i++)
        if (s->values[requires[i].value] < 0)
            return fail(s->error, AIC_INVALID, "the model expects inputs whose dims give %s >= 0",
                        text_at(requires[i].text));
    TRY(place(s));
    if (s->graph) CU(cuGraphExecDestroy(s->graph));
    s->graph = NULL;
    handle graph = NULL;
    CU(cuStreamBeginCapture_v2(s->stream, 1 /* thread local */));
    int32_t status = steps(s);
    CUresult ended = cu.cuStreamEndCapture(s->stream, &graph);
    if (!status) status = check(s->error, ended, "cuStreamEndCapture");
    if (!status) status = check(s->error, cu.cuGraphInstantiateWithFlags(&s->graph, graph, 0), "cuGraphInstantiate");
    if (graph) cu.cuGraphDestroy(graph);
    s->sized = !status;
    return status;
}

/* ------------------------------------------------------------------------------------------------ interface */

/* The caller's memory if there is any, else the session's; fills in what the caller left open. */
static int32_t resolve_output(aic_session *s, int64_t i, aic_tensor *t)
{
    const plan_port *port = port_at(plan->outputs, i);
    size_t bytes = (size_t)s->values[port->bytes];
    if (t->data && t->data != s->owned[i]) {
        bool fits = t->dtype == port->dtype && (!t->dims || (t->rank == port->rank && dims_are(s, port, t->dims)));
        if (!fits) return mismatch(s, "output", port);
    } else {
        if (bytes > s->owned_bytes[i] || !s->owned[i]) {
            free(s->owned[i]);
            s->owned[i] = malloc(bytes + 1);
            s->owned_bytes[i] = bytes;
            if (!s->owned[i]) return fail(s->error, AIC_NO_MEMORY, "out of memory");
        }
        *t = (aic_tensor){s->owned[i], NULL, 0, (uint32_t)port->dtype};
    }
    if (!t->dims) {
        for (int64_t k = 0; k < port->rank; k++) s->output_dims[i][k] = s->values[plan_words[port->dims + k]];
        t->dims = s->output_dims[i];
        t->rank = (uint32_t)port->rank;
    }
    return AIC_OK;
}

static int32_t run(aic_session *s, const aic_tensor *inputs, size_t n_inputs, aic_tensor *outputs, size_t n_outputs)
{
    s->error[0] = 0;
    if (n_inputs != (size_t)plan->n_inputs || n_outputs != (size_t)plan->n_outputs)
        return fail(s->error, AIC_INVALID, "expected %lld inputs and %lld outputs, found %zu and %zu",
                    (long long)plan->n_inputs, (long long)plan->n_outputs, n_inputs, n_outputs);
    CU(cuCtxSetCurrent(s->context));
    TRY(bind_symbols(s, inputs));
    TRY(prepare(s));
    for (int64_t i = 0; i < plan->n_inputs; i++) {
        const plan_port *port = port_at(plan->inputs, i);
        size_t bytes = (size_t)s->values[port->bytes];
        if (!dims_are(s, port, inputs[i].dims)) return mismatch(s, "input", port);
        if (bytes && !inputs[i].data) return fail(s->error, AIC_INVALID, "input \"%s\": data is NULL", text_at(port->name));
        if (bytes) CU(cuMemcpyHtoDAsync_v2(s->inputs[i], inputs[i].data, bytes, s->stream));
    }
    for (int64_t i = 0; i < plan->n_outputs; i++) TRY(resolve_output(s, i, &outputs[i]));
    CU(cuGraphLaunch(s->graph, s->stream));
    for (int64_t i = 0; i < plan->n_outputs; i++) {
        size_t bytes = (size_t)s->values[port_at(plan->outputs, i)->bytes];
        if (bytes) CU(cuMemcpyDtoHAsync_v2(outputs[i].data, s->outputs[i], bytes, s->stream));
    }
    CU(cuStreamSynchronize(s->stream));
    return AIC_OK;
}

int32_t aic_run(aic_session *s, const aic_tensor *inputs, size_t n_inputs, aic_tensor *outputs, size_t n_outputs)
{
    if (!s) return AIC_INVALID;
    if (__atomic_exchange_n(&s->busy, 1, __ATOMIC_ACQUIRE)) return AIC_BUSY;
    int32_t status = run(s, inputs, n_inputs, outputs, n_outputs);
    __atomic_store_n(&s->busy, 0, __ATOMIC_RELEASE);
    return status;
}

const char *aic_error(const aic_session *s) { return s ? s->error : open_error; }

const aic_model_info *aic_info(void) { return &model_info; }

void aic_close(aic_session *s)
{
    if (!s) return;
    if (s->context) cu.cuCtxSetCurrent(s->context);
    if (s->graph) cu.cuGraphExecDestroy(s->graph);
    if (s->memory) cu.cuMemFree_v2(s->memory);
    if (s->weights) cu.cuMemFree_v2(s->weights);
    if (s->stream) cu.cuStreamDestroy_v2(s->stream);
    if (s->module) cu.cuModuleUnload(s->module);
    for (int64_t i = 0; i < plan->n_outputs; i++) free(s->owned[i]);
    free(s);
}

static int32_t load_driver(char *error)
{
    handle library = dlopen("libcuda.so.1", RTLD_NOW);
    if (!library)
        return fail(error, AIC_UNSUPPORTED, "there is no CUDA driver on this machine, so no GPU to run on: %s", dlerror());
#define LOAD(name, args) \
    if (!(*(void **)&cu.name = dlsym(library, #name))) \
        return fail(error, AIC_UNSUPPORTED, "the CUDA driver has no " #name ": it is older than 12.0");
    DRIVER(LOAD)
#undef LOAD
    return AIC_OK;
}

static int32_t open_device(aic_session *s)
{
    int device = 0;
    TRY(load_driver(s->error));
    CU(cuInit(0));
    CU(cuDeviceGet(&device, 0));
    CU(cuDevicePrimaryCtxRetain(&s->context, device));
    CU(cuCtxSetCurrent(s->context));
    CU(cuStreamCreate(&s->stream, 1 /* apart from the default one */));
    CUresult loaded = cu.cuModuleLoadData(&s->module, model_code);
    if (loaded && model_portable) loaded = cu.cuModuleLoadData(&s->module, model_portable);
    TRY(check(s->error, loaded, "the model's code doesn't fit this GPU"));
    for (int64_t i = 0; i < plan->n_kernels; i++) {
        const model_kernel *k = &model_kernels[i];
        CU(cuModuleGetFunction(&s->functions[i], s->module, k->name));
        if (k->shared > 48 << 10) CU(cuFuncSetAttribute(s->functions[i], MAX_SHARED, (int)k->shared));
    }
    CU(cuMemAlloc_v2(&s->weights, WEIGHT_BYTES + ALIGNMENT));
    if (WEIGHT_BYTES) CU(cuMemcpyHtoDAsync_v2(s->weights, model_weights, WEIGHT_BYTES, s->stream));
    CU(cuStreamSynchronize(s->stream));
    return AIC_OK;
}

int32_t aic_open(const aic_options *options, aic_session **session)
{
    open_error[0] = 0;
    if (!session) return AIC_INVALID;
    *session = NULL;
    if (options && options->struct_size < sizeof options->struct_size)
        return fail(open_error, AIC_INVALID, "aic_options.struct_size: expected sizeof(aic_options)");
    aic_session *s = calloc(1, sizeof *s);
    if (!s) return fail(open_error, AIC_NO_MEMORY, "out of memory");
    for (int64_t i = 0; i < plan->n_symbols; i++) s->symbols[i] = -1;
    int32_t status = open_device(s);
    if (!status) {
        *session = s;
        return AIC_OK;
    }
    memcpy(open_error, s->error, sizeof open_error);
    aic_close(s);
    return status;
}

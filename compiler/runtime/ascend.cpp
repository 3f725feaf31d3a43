/* The launcher of a model compiled to Ascend C: uploads weights once, and runs the model's steps on one stream.
 *
 * A session has one allocation on the device: weights, intermediate results, what kernels keep between their cores,
 * inputs and outputs, all laid out at compile time. Steps on the host wait for those before them, fetch what they read
 * and bring back what they write.
 *
 * Before it, the generated part defines WEIGHT_BYTES, ARENA_BYTES, WORKSPACE_BYTES, model_buffers, model_info and the
 * weights; behind it, `steps`. */

namespace {

constexpr size_t ALIGNMENT = 512, ERROR_BYTES = 512;

thread_local char open_error[ERROR_BYTES];
std::once_flag initialised;

size_t aligned(size_t n) { return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

}  // namespace

struct aic_session {
    aclrtStream stream = nullptr;
    uint8_t *memory = nullptr;
    /* On the device, of each buffer; and what kernels are given behind their arguments. */
    uint8_t *at[N_BUFFERS + 1] = {}, *workspace = nullptr;
    std::vector<uint8_t> owned[N_OUTPUTS + 1];
    std::atomic<bool> busy{false};
    char error[ERROR_BYTES] = "";
};

namespace {

int32_t fail(char *error, int32_t status, const char *format, ...) {
    va_list list;
    va_start(list, format);
    vsnprintf(error, ERROR_BYTES, format, list);
    va_end(list);
    return status;
}

int32_t check(char *error, aclError result, const char *what) {
    if (result == ACL_SUCCESS) return AIC_OK;
    return fail(error, AIC_FAILED, "%s: error %d of ACL", what, int(result));
}

#define TRY(e)                               \
    do {                                     \
        const int32_t try_status = (e);      \
        if (try_status) return try_status;   \
    } while (0)
#define ACL(call) TRY(check(s->error, call, #call))

int32_t upload(aic_session *s, void *to, const void *from, size_t bytes) {
    if (bytes) ACL(aclrtMemcpy(to, bytes, from, bytes, ACL_MEMCPY_HOST_TO_DEVICE));
    return AIC_OK;
}

int32_t download(aic_session *s, void *to, const void *from, size_t bytes) {
    if (bytes) ACL(aclrtMemcpy(to, bytes, from, bytes, ACL_MEMCPY_DEVICE_TO_HOST));
    return AIC_OK;
}

/* A step that copies a buffer. */
int32_t copy(aic_session *s, int to, int from) {
    const size_t bytes = model_buffers[to].bytes;
    if (bytes) {
        ACL(aclrtMemcpyAsync(s->at[to], bytes, s->at[from], bytes, ACL_MEMCPY_DEVICE_TO_DEVICE, s->stream));
    }
    return AIC_OK;
}

/* A step on the host: buffers that it reads, then those that it writes. */
[[maybe_unused]] int32_t on_host(aic_session *s, void (*function)(uint8_t *const *), size_t n_inputs,
                                 std::initializer_list<int> args) {
    ACL(aclrtSynchronizeStream(s->stream));
    std::vector<std::vector<uint8_t>> memory;
    std::vector<uint8_t *> pointers;
    memory.reserve(args.size());
    for (int id : args) {
        const model_buffer &b = model_buffers[id];
        memory.emplace_back(b.bytes + 1);
        pointers.push_back(memory.back().data());
        if (memory.size() <= n_inputs) TRY(download(s, pointers.back(), s->at[id], b.bytes));
    }
    function(pointers.data());
    size_t k = 0;
    for (int id : args) {
        if (k >= n_inputs) TRY(upload(s, s->at[id], pointers[k], model_buffers[id].bytes));
        ++k;
    }
    return AIC_OK;
}

int32_t steps(aic_session *s);

/* The addresses of all buffers in one allocation. */
int32_t place(aic_session *s) {
    size_t bytes = aligned(WEIGHT_BYTES);
    const size_t arena = bytes;
    bytes = aligned(bytes + ARENA_BYTES);
    const size_t workspace = bytes;
    bytes = aligned(bytes + WORKSPACE_BYTES);
    size_t at[N_BUFFERS + 1];
    for (int k = 0; k < N_BUFFERS; ++k) {
        const model_buffer &b = model_buffers[k];
        switch (b.place) {
        case WEIGHT: at[k] = b.at; break;
        case ARENA: at[k] = arena + b.at; break;
        case SAME: at[k] = at[b.at]; break;
        default: at[k] = bytes, bytes = aligned(bytes + b.bytes);
        }
    }
    void *memory = nullptr;
    ACL(aclrtMalloc(&memory, bytes + ALIGNMENT, ACL_MEM_MALLOC_HUGE_FIRST));
    s->memory = static_cast<uint8_t *>(memory);
    s->workspace = s->memory + workspace;
    for (int k = 0; k < N_BUFFERS; ++k) s->at[k] = s->memory + at[k];
    return upload(s, s->memory, model_weights, WEIGHT_BYTES);
}

bool fits(const aic_tensor &t, const aic_port_info &port, bool may_be_open) {
    if (t.dtype != port.dtype) return false;
    if (!t.dims) return may_be_open || port.rank == 0;
    return t.rank == port.rank && (port.rank == 0 || !memcmp(t.dims, port.dims, port.rank * sizeof(int64_t)));
}

int32_t mismatch(aic_session *s, const char *what, const aic_port_info &port) {
    return fail(s->error, AIC_INVALID, "%s \"%s\": expected %s, found another type or shape, or no data", what,
                port.name, port.type);
}

/* The caller's memory if there is any, else the session's; fills in what the caller left open. */
int32_t resolve_output(aic_session *s, int k, aic_tensor *t) {
    const aic_port_info &port = model_info.outputs[k];
    auto &owned = s->owned[k];
    if (t->data && t->data != owned.data()) {
        if (!fits(*t, port, true)) return mismatch(s, "output", port);
    } else {
        owned.resize(model_buffers[output_buffers[k]].bytes + 1);
        *t = {owned.data(), nullptr, 0, port.dtype};
    }
    if (!t->dims) t->dims = port.dims, t->rank = port.rank;
    return AIC_OK;
}

int32_t run(aic_session *s, const aic_tensor *inputs, size_t n_inputs, aic_tensor *outputs, size_t n_outputs) {
    s->error[0] = 0;
    if (n_inputs != N_INPUTS || n_outputs != N_OUTPUTS) {
        return fail(s->error, AIC_INVALID, "expected %d inputs and %d outputs, found %zu and %zu", N_INPUTS, N_OUTPUTS,
                    n_inputs, n_outputs);
    }
    ACL(aclrtSetDevice(0));
    for (int k = 0; k < N_INPUTS; ++k) {
        const size_t bytes = model_buffers[input_buffers[k]].bytes;
        if (!fits(inputs[k], model_info.inputs[k], false) || (bytes && !inputs[k].data)) {
            return mismatch(s, "input", model_info.inputs[k]);
        }
        TRY(upload(s, s->at[input_buffers[k]], inputs[k].data, bytes));
    }
    for (int k = 0; k < N_OUTPUTS; ++k) TRY(resolve_output(s, k, &outputs[k]));
    TRY(steps(s));
    ACL(aclrtSynchronizeStream(s->stream));
    for (int k = 0; k < N_OUTPUTS; ++k) {
        const int from = output_buffers[k];
        TRY(download(s, outputs[k].data, s->at[from], model_buffers[from].bytes));
    }
    return AIC_OK;
}

int32_t open_device(aic_session *s) {
    /* Another part of the process may have done it. */
    std::call_once(initialised, [] { (void)aclInit(nullptr); });
    ACL(aclrtSetDevice(0));
    ACL(aclrtCreateStream(&s->stream));
    return place(s);
}

}  // namespace

extern "C" {

const aic_model_info *aic_info(void) { return &model_info; }

const char *aic_error(const aic_session *s) { return s ? s->error : open_error; }

void aic_close(aic_session *s) {
    if (!s) return;
    (void)aclrtSetDevice(0);
    if (s->memory) (void)aclrtFree(s->memory);
    if (s->stream) (void)aclrtDestroyStream(s->stream);
    delete s;
}

int32_t aic_open(const aic_options *options, aic_session **session) {
    open_error[0] = 0;
    if (!session) return AIC_INVALID;
    *session = nullptr;
    if (options && options->struct_size < sizeof options->struct_size) {
        return fail(open_error, AIC_INVALID, "aic_options.struct_size: expected sizeof(aic_options)");
    }
    aic_session *s = new (std::nothrow) aic_session;
    if (!s) return fail(open_error, AIC_NO_MEMORY, "out of memory");
    const int32_t status = open_device(s);
    if (!status) {
        *session = s;
        return AIC_OK;
    }
    memcpy(open_error, s->error, sizeof open_error);
    aic_close(s);
    return status;
}

int32_t aic_run(aic_session *s, const aic_tensor *inputs, size_t n_inputs, aic_tensor *outputs, size_t n_outputs) {
    if (!s) return AIC_INVALID;
    if (s->busy.exchange(true, std::memory_order_acquire)) return AIC_BUSY;
    int32_t status = AIC_NO_MEMORY;
    try {
        status = run(s, inputs, n_inputs, outputs, n_outputs);
    } catch (const std::bad_alloc &) {
        fail(s->error, status, "out of memory");
    }
    s->busy.store(false, std::memory_order_release);
    return status;
}

}  // extern "C"

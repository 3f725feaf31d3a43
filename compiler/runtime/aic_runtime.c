/* The runtime of compiled models: interprets a plan (plan.h) with the kernels, constants and, in the process of the
 * compiler, host steps that belong to it.
 *
 * A run allocates nothing unless sizes grow. Sizes are computed anew only when the inputs' dims change. The plan is
 * trusted; what the caller gives is not: dims are checked against the model's types before anything is computed.
 *
 * With AIC_ARTIFACT defined it is the runtime of one model, whose aic_program is named aic_artifact. */
#define _GNU_SOURCE
#include "runtime.h"

#include "cpu.h"
#include "memory.h"
#include "plan.h"
#include "pool.h"
#include "weights.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

/* A second thread pays from this many scalar operations per thread on. */
enum { GRAIN = 32768 };
enum { ERROR_BYTES = 1024 };

/* ------------------------------------------------------------------------------------------------ session */

struct aic_session {
    aic_program program;
    const plan_header *plan;
    const int64_t *words;
    int64_t *symbols;        /* values; -1 where unknown */
    int64_t *values;         /* of exprs */
    bool sized;              /* the first exprs and the arena hold for the symbols */
    const void *const *constants;
    weights *weights;        /* what some of them lie in; NULL if they are used where they are */
    void **pointers;         /* of buffers */
    block arena;
    block *heaps;
    block *staged;           /* inputs whose memory isn't aligned to their elements */
    block *owned;            /* outputs that the caller gave no memory for */
    int64_t *output_dims;    /* max_rank for each output */
    void **args;             /* of the launch at hand */
    int64_t *arg_symbols;
    aic_tensor *operands;    /* of the host step at hand */
    int64_t *operand_dims;   /* max_rank for each operand */
    int64_t *step_times;     /* nanoseconds of the last run's; NULL if nobody asked */
    const aic_tensor *inputs;
    aic_tensor *outputs;
    _Atomic uint32_t busy;
    char error[ERROR_BYTES];
    pool pool;
};

static _Thread_local char open_error[ERROR_BYTES];

/* A message in a buffer of ERROR_BYTES bytes, cut off where it doesn't fit. */
typedef struct {
    char *at, *end;
} message;

static message message_in(char *buffer)
{
    buffer[0] = 0;
    return (message){buffer, buffer + ERROR_BYTES};
}

static void __attribute__((format(printf, 2, 3))) say(message *m, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    int n = vsnprintf(m->at, (size_t)(m->end - m->at), format, list);
    va_end(list);
    if (n > 0) m->at += n < m->end - m->at ? n : m->end - m->at - 1;
}

#define FAIL(status, s, ...)                      \
    do {                                          \
        message fail_message = message_in((s)->error); \
        say(&fail_message, __VA_ARGS__);          \
        return status;                            \
    } while (0)

static const char *text(const aic_session *s, int64_t offset)
{
    return (const char *)(s->words + s->plan->text) + offset;
}

static const plan_symbol *symbol_at(const aic_session *s, int64_t i)
{
    return (const plan_symbol *)(s->words + s->plan->symbols) + i;
}

static const plan_port *input_at(const aic_session *s, int64_t i)
{
    return (const plan_port *)(s->words + s->plan->inputs) + i;
}

static const plan_port *output_at(const aic_session *s, int64_t i)
{
    return (const plan_port *)(s->words + s->plan->outputs) + i;
}

static const plan_buffer *buffer_at(const aic_session *s, int64_t i)
{
    return (const plan_buffer *)(s->words + s->plan->buffers) + i;
}

/* ------------------------------------------------------------------------------------------------ exprs */

static int64_t saturating_add(int64_t a, int64_t b)
{
    int64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? (b < 0 ? INT64_MIN : INT64_MAX) : sum;
}

static int64_t saturating_mul(int64_t a, int64_t b)
{
    int64_t product;
    return __builtin_mul_overflow(a, b, &product) ? ((a < 0) != (b < 0) ? INT64_MIN : INT64_MAX) : product;
}

static int64_t floor_div(int64_t a, int64_t b)
{
    if (b == -1) return (int64_t)(0 - (uint64_t)a);
    return a / b - (a % b != 0 && (a < 0) != (b < 0));
}

static int64_t modulo(int64_t a, int64_t b)
{
    return (int64_t)((uint64_t)a - (uint64_t)floor_div(a, b) * (uint64_t)b);
}

/* The value of postfix code; false where it divides by zero. */
static bool expr_value(const int64_t *code, const int64_t *symbols, int64_t *value)
{
    int64_t stack[AIC_PLAN_STACK];
    for (int n = 0;;) {
        int64_t op = *code++;
        if (op == AIC_PLAN_END) {
            *value = stack[0];
            return true;
        }
        if (op == AIC_PLAN_CONST || op == AIC_PLAN_SYM) {
            int64_t operand = *code++;
            stack[n++] = op == AIC_PLAN_CONST ? operand : symbols[operand];
            continue;
        }
        n--;
        int64_t b = stack[n], *a = &stack[n - 1];
        switch (op) {
        case AIC_PLAN_ADD: *a = saturating_add(*a, b); break;
        case AIC_PLAN_MUL: *a = saturating_mul(*a, b); break;
        case AIC_PLAN_MIN: *a = *a < b ? *a : b; break;
        case AIC_PLAN_MAX: *a = *a > b ? *a : b; break;
        default:
            if (b == 0) return false;
            *a = op == AIC_PLAN_DIV ? floor_div(*a, b) : modulo(*a, b);
        }
    }
}

static int32_t eval_exprs(aic_session *s, int64_t begin, int64_t end)
{
    const int64_t *codes = s->words + s->plan->exprs;
    for (int64_t i = begin; i < end; i++)
        if (!expr_value(s->words + codes[i], s->symbols, &s->values[i]))
            FAIL(AIC_INVALID, s, "a size of the model divides by zero for inputs of these dims");
    return AIC_OK;
}

/* ------------------------------------------------------------------------------------------------ types */

typedef struct {
    const char *name;
    uint32_t size;
} dtype_row;

static dtype_row dtype_of(uint32_t dtype)
{
    static const dtype_row rows[] = {
        [AIC_F32] = {"f32", 4}, [AIC_U8] = {"u8", 1},     [AIC_I8] = {"i8", 1},   [AIC_U16] = {"u16", 2},
        [AIC_I16] = {"i16", 2}, [AIC_I32] = {"i32", 4},   [AIC_I64] = {"i64", 8}, [AIC_BOOL] = {"bool", 1},
        [AIC_F16] = {"f16", 2}, [AIC_F64] = {"f64", 8},   [AIC_U32] = {"u32", 4}, [AIC_U64] = {"u64", 8},
        [AIC_BF16] = {"bf16", 2},
    };
    if (dtype < sizeof rows / sizeof *rows && rows[dtype].name) return rows[dtype];
    return (dtype_row){"(unknown dtype)", 1};
}

static void say_tensor(message *m, const aic_tensor *t)
{
    say(m, "%s[", dtype_of(t->dtype).name);
    if (!t->dims && t->rank > 0) say(m, "dims is NULL");
    for (uint32_t i = 0; t->dims && i < t->rank; i++) say(m, "%s%lld", i ? "," : "", (long long)t->dims[i]);
    say(m, "]");
}

/* The values that other ports gave to symbols of a type: " where batch = 2, seq = 5". */
static void say_symbols(message *m, const aic_session *s, const plan_port *port)
{
    const char *between = " where";
    for (int64_t sym = 0; sym < s->plan->n_symbols; sym++) {
        int64_t input = symbol_at(s, sym)->input;
        if (input >= 0 && input_at(s, input) == port) continue;
        bool found = false;
        for (int64_t i = 0; i < port->rank; i++) {
            const int64_t *code = s->words + s->words[s->plan->exprs + s->words[port->dims + i]];
            for (; *code != AIC_PLAN_END; code += *code == AIC_PLAN_CONST || *code == AIC_PLAN_SYM ? 2 : 1)
                found |= code[0] == AIC_PLAN_SYM && code[1] == sym;
        }
        if (!found || s->symbols[sym] < 0) continue;
        say(m, "%s %s = %lld", between, text(s, symbol_at(s, sym)->name), (long long)s->symbols[sym]);
        between = ",";
    }
}

static int32_t mismatch(aic_session *s, const char *what, const plan_port *port, const aic_tensor *found)
{
    message m = message_in(s->error);
    say(&m, "%s \"%s\": expected %s", what, text(s, port->name), text(s, port->type));
    bool alike = found->rank == port->rank && found->dtype == port->dtype && (found->dims || found->rank == 0);
    if (alike) say_symbols(&m, s, port);
    say(&m, ", found ");
    say_tensor(&m, found);
    return AIC_INVALID;
}

static bool dims_are(const aic_session *s, int64_t rank, int64_t dims, const int64_t *found)
{
    for (int64_t i = 0; i < rank; i++)
        if (found[i] != s->values[s->words[dims + i]]) return false;
    return true;
}

/* Copies evaluated dims; false if one is negative. */
static bool get_dims(const aic_session *s, int64_t rank, int64_t dims, int64_t *out)
{
    bool ok = true;
    for (int64_t i = 0; i < rank; i++) {
        out[i] = s->values[s->words[dims + i]];
        ok &= out[i] >= 0;
    }
    return ok;
}

/* ------------------------------------------------------------------------------------------------ inputs */

static int32_t check_count(aic_session *s, const char *what, int64_t expected, size_t found, const void *array)
{
    if ((size_t)expected != found)
        FAIL(AIC_INVALID, s, "expected %lld %s%s, found %zu", (long long)expected, what, expected == 1 ? "" : "s",
             found);
    if (found > 0 && !array) FAIL(AIC_INVALID, s, "the array of %ss is NULL", what);
    return AIC_OK;
}

/* Takes the values of symbols from the inputs' dims, whose ranks and dtypes are checked first. */
static int32_t bind_symbols(aic_session *s)
{
    for (int64_t i = 0; i < s->plan->n_inputs; i++) {
        const plan_port *port = input_at(s, i);
        const aic_tensor *t = &s->inputs[i];
        if (t->dtype != port->dtype || t->rank != port->rank || (t->rank > 0 && !t->dims))
            return mismatch(s, "input", port, t);
    }
    for (int64_t i = 0; i < s->plan->n_symbols; i++) {
        const plan_symbol *sym = symbol_at(s, i);
        if (sym->input < 0) {
            s->symbols[i] = -1;
            continue;
        }
        int64_t value = s->inputs[sym->input].dims[sym->axis];
        const plan_port *port = input_at(s, sym->input);
        if (value < 0) return mismatch(s, "input", port, &s->inputs[sym->input]);
        if (value < sym->lo || value > sym->hi)
            FAIL(AIC_INVALID, s, "input \"%s\": expected %s with %s in %lld..%lld, found %s = %lld",
                 text(s, port->name), text(s, port->type), text(s, sym->name), (long long)sym->lo,
                 (long long)sym->hi, text(s, sym->name), (long long)value);
        if (value != s->symbols[i]) s->sized = false;
        s->symbols[i] = value;
    }
    return AIC_OK;
}

/* Whether the sizes of buffers are sound, and they lie within what they were given. */
static int32_t check_buffers(aic_session *s, const int64_t *buffers, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const plan_buffer *b = buffer_at(s, buffers[i]);
        int64_t bytes = s->values[b->bytes], room = PTRDIFF_MAX - HUGE_PAGE;
        bool fits = bytes >= 0 && bytes < room;
        for (int64_t k = 0; k < b->rank; k++) fits &= s->values[s->words[b->dims + k]] >= 0;
        if (!fits)
            FAIL(AIC_INVALID, s, "for inputs of these dims an array of the model has a negative or too large size");
        if (b->place == AIC_PLAN_INPUT) room = s->values[input_at(s, b->at)->bytes];
        if (b->place == AIC_PLAN_OUTPUT) room = s->values[output_at(s, b->at)->bytes];
        if (b->place == AIC_PLAN_ARENA) room = s->values[s->plan->arena] - s->values[b->at];
        if (b->place == AIC_PLAN_ALIAS) room = s->values[buffer_at(s, b->at)->bytes];
        if (bytes > room || (b->place == AIC_PLAN_ARENA && s->values[b->at] < 0))
            FAIL(AIC_FAILED, s, "buffer %lld of the plan doesn't fit its place", (long long)buffers[i]);
    }
    return AIC_OK;
}

static int32_t check_requires(aic_session *s)
{
    const plan_require *requires = (const plan_require *)(s->words + s->plan->requires);
    for (int64_t i = 0; i < s->plan->n_requires; i++) {
        int64_t value = s->values[requires[i].value];
        if (value < 0)
            FAIL(AIC_INVALID, s, "the model expects inputs whose dims give %s >= 0, found %lld",
                 text(s, requires[i].text), (long long)value);
    }
    return AIC_OK;
}

/* Sizes that follow from the symbols, and the arena. */
static int32_t update_sizes(aic_session *s)
{
    if (s->sized) return AIC_OK;
    int32_t status = eval_exprs(s, 0, s->plan->n_first_exprs);
    if (!status) status = check_requires(s);
    if (!status) status = check_buffers(s, s->words + s->plan->first_buffers, s->plan->n_first_buffers);
    if (status) return status;
    int64_t bytes = s->values[s->plan->arena];
    if (bytes < 0 || bytes > PTRDIFF_MAX - HUGE_PAGE)
        FAIL(AIC_INVALID, s, "inputs of these dims need too much memory");
    if ((size_t)bytes > s->arena.size || !s->arena.data) {
        if (!block_reserve(&s->arena, (size_t)bytes))
            FAIL(AIC_NO_MEMORY, s, "cannot allocate %lld bytes of intermediate memory", (long long)bytes);
        block_touch(&s->arena);
    }
    s->sized = true;
    return AIC_OK;
}

static int32_t check_inputs(aic_session *s)
{
    for (int64_t i = 0; i < s->plan->n_inputs; i++) {
        const plan_port *port = input_at(s, i);
        const aic_tensor *t = &s->inputs[i];
        if (!dims_are(s, port->rank, port->dims, t->dims)) return mismatch(s, "input", port, t);
        if (!t->data && s->values[port->bytes] > 0)
            FAIL(AIC_INVALID, s, "input \"%s\": data is NULL", text(s, port->name));
    }
    return AIC_OK;
}

/* ------------------------------------------------------------------------------------------------ buffers */

static bool aligned(const void *data, int64_t dtype)
{
    return (uintptr_t)data % dtype_of((uint32_t)dtype).size == 0;
}

static void poison(const aic_session *s, void *data, int64_t bytes)
{
    if (s->program.flags & AIC_POISON) memset(data, 0xff, (size_t)bytes);
}

static int32_t reserve(aic_session *s, block *b, int64_t bytes)
{
    if (!block_reserve(b, (size_t)bytes)) FAIL(AIC_NO_MEMORY, s, "cannot allocate %lld bytes", (long long)bytes);
    poison(s, b->data, bytes);
    return AIC_OK;
}

/* The caller's memory, or a copy of it where elements aren't aligned. */
static int32_t resolve_input(aic_session *s, int64_t i, void **pointer)
{
    const plan_port *port = input_at(s, i);
    *pointer = s->inputs[i].data;
    if (aligned(*pointer, port->dtype)) return AIC_OK;
    int64_t bytes = s->values[port->bytes];
    int32_t status = reserve(s, &s->staged[i], bytes);
    if (status) return status;
    memcpy(s->staged[i].data, *pointer, (size_t)bytes);
    *pointer = s->staged[i].data;
    return AIC_OK;
}

/* The caller's memory if there is any, else the session's; fills in what the caller left open. */
static int32_t resolve_output(aic_session *s, int64_t i, void **pointer)
{
    const plan_port *port = output_at(s, i);
    aic_tensor *t = &s->outputs[i];
    block *owned = &s->owned[i];
    int64_t *dims = s->output_dims + i * s->plan->max_rank;
    if (t->data && t->data != owned->data) {
        bool dims_fit = !t->dims || (t->rank == port->rank && dims_are(s, port->rank, port->dims, t->dims));
        if (t->dtype != port->dtype || !dims_fit) return mismatch(s, "output", port, t);
        if (!aligned(t->data, port->dtype))
            FAIL(AIC_INVALID, s, "output \"%s\": data isn't aligned to its elements", text(s, port->name));
    } else {
        int32_t status = reserve(s, owned, s->values[port->bytes]);
        if (status) return status;
        *t = (aic_tensor){owned->data, NULL, 0, (uint32_t)port->dtype};
    }
    if (!t->dims) {
        get_dims(s, port->rank, port->dims, dims);
        t->dims = dims;
        t->rank = (uint32_t)port->rank;
    }
    *pointer = t->data;
    return AIC_OK;
}

static int32_t resolve_buffer(aic_session *s, int64_t i)
{
    const plan_buffer *b = buffer_at(s, i);
    void **pointer = &s->pointers[i];
    int32_t status = AIC_OK;
    switch (b->place) {
    case AIC_PLAN_INPUT: return resolve_input(s, b->at, pointer);
    case AIC_PLAN_OUTPUT: return resolve_output(s, b->at, pointer);
    case AIC_PLAN_CONSTANT: *pointer = (void *)(uintptr_t)s->constants[b->at]; break;
    case AIC_PLAN_ARENA: *pointer = (char *)s->arena.data + s->values[b->at]; break;
    case AIC_PLAN_ALIAS: *pointer = s->pointers[b->at]; break;
    default:
        status = reserve(s, &s->heaps[b->at], s->values[b->bytes]);
        *pointer = s->heaps[b->at].data;
    }
    return status;
}

static int32_t resolve_buffers(aic_session *s, const int64_t *buffers, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        int32_t status = resolve_buffer(s, buffers[i]);
        if (status) return status;
    }
    return AIC_OK;
}

/* ------------------------------------------------------------------------------------------------ steps */

/* How many threads pay for this much work. */
static uint32_t threads_for(const aic_session *s, int64_t extent, int64_t work)
{
    int64_t n = s->pool.n_threads;
    if (n > work / GRAIN) n = work / GRAIN;
    if (n > extent) n = extent;
    return n < 1 ? 1 : (uint32_t)n;
}

static void launch(aic_session *s, const plan_launch *step)
{
    int64_t extent = s->values[step->extent];
    if (extent <= 0) return;
    const int64_t *args = step->rest, *symbols = args + step->n_args;
    for (int64_t i = 0; i < step->n_args; i++) s->args[i] = s->pointers[args[i]];
    for (int64_t i = 0; i < step->n_symbols; i++) s->arg_symbols[i] = s->values[symbols[i]];
    pool_run(&s->pool, threads_for(s, extent, s->values[step->work]), s->program.kernels[step->kernel], s->args,
             s->arg_symbols, extent);
}

/* Takes over what a host step computed: its symbols, and what follows from them; then its results. */
static int32_t finish_host(aic_session *s, const plan_host *step, const aic_tensor *results)
{
    const int64_t *outputs = step->rest + step->n_inputs, *defines = outputs + step->n_outputs;
    for (int64_t i = 0; i < step->n_outputs; i++) {
        const plan_buffer *b = buffer_at(s, outputs[i]);
        if (results[i].dtype != b->dtype || results[i].rank != b->rank)
            FAIL(AIC_FAILED, s, "a step's result has another dtype or rank than was inferred");
    }
    for (int64_t i = 0; i < step->n_defines; i++) {
        const int64_t *define = defines + 3 * i;
        const plan_symbol *sym = symbol_at(s, define[0]);
        int64_t value = results[define[1]].dims[define[2]];
        if (value < sym->lo || value > sym->hi)
            FAIL(AIC_FAILED, s, "a step's result gives %s = %lld, expected %lld..%lld", text(s, sym->name),
                 (long long)value, (long long)sym->lo, (long long)sym->hi);
        s->symbols[define[0]] = value;
    }
    const int64_t *resolves = defines + 3 * step->n_defines;
    int32_t status = eval_exprs(s, step->first_expr, step->end_expr);
    if (!status) status = check_buffers(s, resolves, step->n_resolves);
    if (!status) status = resolve_buffers(s, resolves, step->n_resolves);
    if (status) return status;
    for (int64_t i = 0; i < step->n_outputs; i++) {
        const plan_buffer *b = buffer_at(s, outputs[i]);
        if (!dims_are(s, b->rank, b->dims, results[i].dims))
            FAIL(AIC_FAILED, s, "a step's result has other dims than were inferred");
        if (s->values[b->bytes] > 0) memcpy(s->pointers[outputs[i]], results[i].data, (size_t)s->values[b->bytes]);
    }
    return AIC_OK;
}

static int32_t run_host(aic_session *s, const plan_host *step)
{
    aic_tensor *results = s->operands + step->n_inputs;
    for (int64_t i = 0; i < step->n_inputs; i++) {
        const plan_buffer *b = buffer_at(s, step->rest[i]);
        int64_t *dims = s->operand_dims + i * s->plan->max_rank;
        get_dims(s, b->rank, b->dims, dims);
        s->operands[i] = (aic_tensor){s->pointers[step->rest[i]], dims, (uint32_t)b->rank, (uint32_t)b->dtype};
    }
    memset(results, 0, (size_t)step->n_outputs * sizeof *results);
    if (!s->program.host) FAIL(AIC_FAILED, s, "the model has a step that nothing here can compute");
    if (s->program.host(s->program.host_context, step->step, s->symbols, s->operands, results))
        FAIL(AIC_FAILED, s, "a step failed");
    return finish_host(s, step, results);
}

static int32_t copy(aic_session *s, const plan_copy *step)
{
    int64_t bytes = s->values[buffer_at(s, step->dst)->bytes];
    if (bytes != s->values[buffer_at(s, step->src)->bytes]) FAIL(AIC_FAILED, s, "a copy between unequal sizes");
    if (bytes > 0) memmove(s->pointers[step->dst], s->pointers[step->src], (size_t)bytes);
    return AIC_OK;
}

static int32_t run_steps(aic_session *s)
{
    const int64_t *at = s->words + s->plan->steps;
    for (int64_t i = 0; i < s->plan->n_steps; i++, at += at[1]) {
        int32_t status = AIC_OK;
        int64_t begin = s->step_times ? pool_clock() : 0;
        switch (at[0]) {
        case AIC_PLAN_LAUNCH: launch(s, (const plan_launch *)at); break;
        case AIC_PLAN_HOST: status = run_host(s, (const plan_host *)at); break;
        default: status = copy(s, (const plan_copy *)at);
        }
        if (status) return status;
        if (s->step_times) s->step_times[i] = pool_clock() - begin;
    }
    return AIC_OK;
}

static int32_t run(aic_session *s, size_t n_inputs, size_t n_outputs)
{
    const plan_header *plan = s->plan;
    s->error[0] = 0;
    int32_t status = check_count(s, "input", plan->n_inputs, n_inputs, s->inputs);
    if (!status) status = check_count(s, "output", plan->n_outputs, n_outputs, s->outputs);
    if (!status) status = bind_symbols(s);
    if (!status) status = update_sizes(s);
    if (!status) status = check_inputs(s);
    if (status) return status;
    poison(s, s->arena.data, s->values[plan->arena]);
    status = resolve_buffers(s, s->words + plan->first_buffers, plan->n_first_buffers);
    return status ? status : run_steps(s);
}

/* ------------------------------------------------------------------------------------------------ interface */

EXPORT int32_t aic_run(aic_session *session, const aic_tensor *inputs, size_t n_inputs, aic_tensor *outputs,
                       size_t n_outputs)
{
    if (!session) return AIC_INVALID;
    if (atomic_exchange(&session->busy, 1)) return AIC_BUSY;
    session->inputs = inputs;
    session->outputs = outputs;
    int32_t status = run(session, n_inputs, n_outputs);
    atomic_store(&session->busy, 0);
    return status;
}

EXPORT const char *aic_error(const aic_session *session)
{
    return session ? session->error : open_error;
}

EXPORT void aic_close(aic_session *s)
{
    if (!s) return;
    pool_stop(&s->pool);
    weights_release(s->weights);
    block_free(&s->arena);
    for (int64_t i = 0; s->heaps && i < s->plan->n_heaps; i++) block_free(&s->heaps[i]);
    for (int64_t i = 0; s->staged && i < s->plan->n_inputs; i++) block_free(&s->staged[i]);
    for (int64_t i = 0; s->owned && i < s->plan->n_outputs; i++) block_free(&s->owned[i]);
    void *arrays[] = {s->symbols, s->values,      s->pointers, s->heaps,       s->staged,      s->owned,
                      s->args,    s->output_dims, s->operands, s->arg_symbols, s->operand_dims, s->step_times};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) free(arrays[i]);
    free(s);
}

int64_t aic_arena_bytes(const aic_session *session)
{
    return (int64_t)session->arena.size;
}

const int64_t *aic_step_times(const aic_session *session)
{
    return session->step_times;
}

static bool allocate_tables(aic_session *s)
{
    const plan_header *p = s->plan;
    size_t rank = (size_t)p->max_rank + 1;
#define TABLE(field, n) ((s->field = calloc((size_t)(n) + 1, sizeof *s->field)) != NULL)
    return TABLE(symbols, p->n_symbols) && TABLE(values, p->n_exprs) && TABLE(pointers, p->n_buffers)
        && TABLE(heaps, p->n_heaps) && TABLE(staged, p->n_inputs) && TABLE(owned, p->n_outputs)
        && TABLE(output_dims, (size_t)p->n_outputs * rank) && TABLE(args, p->max_args)
        && TABLE(arg_symbols, p->max_symbols) && TABLE(operands, p->max_operands)
        && TABLE(operand_dims, (size_t)p->max_operands * rank)
        && (!(s->program.flags & AIC_PROFILE) || TABLE(step_times, p->n_steps));
#undef TABLE
}

static int32_t check_cpu(const plan_header *plan)
{
    message m = message_in(open_error);
    const char *between = "the model was compiled for a processor with ";
    for (int i = 0; i < N_CPU_FEATURES; i++) {
        if (!((uint64_t)plan->cpu >> i & 1) || cpu_has(&CPU_FEATURES[i])) continue;
        say(&m, "%s%s", between, CPU_FEATURES[i].name);
        between = ", ";
    }
    if (!open_error[0]) return AIC_OK;
    say(&m, ", which this one lacks: compile it with another --cpu");
    return AIC_UNSUPPORTED;
}

/* The caller's options, with defaults for those that its version doesn't have. */
static int32_t check_options(const aic_options *given, aic_options *options)
{
    message m = message_in(open_error);
    *options = (aic_options){0};
    if (given && given->struct_size < sizeof given->struct_size) {
        say(&m, "aic_options.struct_size: expected sizeof(aic_options), found %u", given->struct_size);
        return AIC_INVALID;
    }
    if (given) memcpy(options, given, given->struct_size < sizeof *given ? given->struct_size : sizeof *given);
    if (options->n_threads > POOL_MAX_THREADS) {
        say(&m, "aic_options.n_threads: expected at most %d, found %u", POOL_MAX_THREADS, options->n_threads);
        return AIC_INVALID;
    }
    if (options->n_threads == 0) options->n_threads = pool_cores();
    return AIC_OK;
}

static int32_t check_version(const plan_header *plan)
{
    if (plan->magic == AIC_PLAN_MAGIC && plan->version == AIC_PLAN_VERSION) return AIC_OK;
    message m = message_in(open_error);
    say(&m, "the plan is not of this runtime's version");
    return AIC_UNSUPPORTED;
}

/* Bytes of each constant. Fails where a size can't be known, which leaves the constants where they are. */
static bool constant_sizes(const aic_session *s, size_t *sizes)
{
    const int64_t *codes = s->words + s->plan->exprs;
    for (int64_t i = 0; i < s->plan->n_buffers; i++) {
        const plan_buffer *b = buffer_at(s, i);
        int64_t bytes;
        if (b->place != AIC_PLAN_CONSTANT) continue;
        if (!expr_value(s->words + codes[b->bytes], s->symbols, &bytes) || bytes < 0) return false;
        sizes[b->at] = (size_t)bytes;
    }
    return true;
}

static int32_t place_constants(aic_session *s, bool in_place)
{
    s->constants = s->program.constants;
    if (in_place) return AIC_OK;
    size_t *sizes = calloc((size_t)s->plan->n_constants + 1, sizeof *sizes);
    if (!sizes) FAIL(AIC_NO_MEMORY, s, "out of memory");
    if (constant_sizes(s, sizes)) s->weights = weights_acquire(s->constants, sizes, (size_t)s->plan->n_constants);
    if (s->weights) s->constants = s->weights->constants;
    free(sizes);
    return AIC_OK;
}

/* Everything that depends on constants only is done now: sizes, the arena. */
static int32_t prepare(aic_session *s, const aic_options *options)
{
    if (!allocate_tables(s)) FAIL(AIC_NO_MEMORY, s, "out of memory");
    bool fixed = true;
    for (int64_t i = 0; i < s->plan->n_symbols; i++) {
        fixed &= symbol_at(s, i)->input < 0;
        s->symbols[i] = -1;
    }
    int32_t status = fixed ? update_sizes(s) : AIC_OK;
    if (!status) status = place_constants(s, options->weights_in_place);
    if (!status && !pool_start(&s->pool, options->n_threads))
        FAIL(AIC_NO_MEMORY, s, "cannot start %u threads", options->n_threads);
    return status;
}

static int32_t open_session(const aic_program *program, const aic_options *options, aic_session **session)
{
    aic_session *s = aligned_alloc(_Alignof(aic_session), sizeof *s);
    if (!s) return AIC_NO_MEMORY;
    memset(s, 0, sizeof *s);
    s->program = *program;
    s->plan = (const plan_header *)program->plan;
    s->words = program->plan;
    int32_t status = prepare(s, options);
    if (!status) {
        *session = s;
        return AIC_OK;
    }
    memcpy(open_error, s->error, sizeof open_error);
    aic_close(s);
    return status;
}

int32_t aic_open_program(const aic_program *program, const aic_options *given, aic_session **session)
{
    open_error[0] = 0;
    if (!session) return AIC_INVALID;
    *session = NULL;
    aic_options options;
    int32_t status = check_options(given, &options);
    if (!status) status = check_version((const plan_header *)program->plan);
    if (!status) status = check_cpu((const plan_header *)program->plan);
    return status ? status : open_session(program, &options, session);
}

#ifdef AIC_ARTIFACT
extern const aic_program aic_artifact;

EXPORT const aic_model_info *aic_info(void)
{
    return aic_artifact.info;
}

EXPORT int32_t aic_open(const aic_options *options, aic_session **session)
{
    return aic_open_program(&aic_artifact, options, session);
}
#endif

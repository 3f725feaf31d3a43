/* The C interface of a model compiled by aic.
 *
 * A session is a model ready to run: it owns its intermediate memory and its threads. Sessions are independent of one
 * another and may be used from different threads at the same time; one session runs one call at a time.
 *
 *     aic_session *session;
 *     if (aic_open(NULL, &session)) { puts(aic_error(NULL)); return 1; }
 *     int64_t dims[] = {1, 4};
 *     aic_tensor input = {values, dims, 2, AIC_F32}, output = {0};
 *     if (aic_run(session, &input, 1, &output, 1)) puts(aic_error(session));
 *     aic_close(session);
 *
 * Threads a session made do not survive fork(): open it in the process that uses it. */
#ifndef AIC_H
#define AIC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What the functions return. */
enum {
    AIC_OK = 0,
    AIC_INVALID = 1,     /* an argument doesn't fit the model; aic_error says which */
    AIC_NO_MEMORY = 2,   /* memory or threads could not be had */
    AIC_UNSUPPORTED = 3, /* this machine lacks something that the model was compiled for */
    AIC_FAILED = 4,      /* a step of the model failed */
    AIC_BUSY = 5         /* another thread is running this session; its aic_error is left alone */
};

/* Element types: the numbers of ONNX's TensorProto.DataType. A bool is one byte, 0 or 1. */
enum {
    AIC_F32 = 1,
    AIC_U8 = 2,
    AIC_I8 = 3,
    AIC_U16 = 4,
    AIC_I16 = 5,
    AIC_I32 = 6,
    AIC_I64 = 7,
    AIC_BOOL = 9,
    AIC_F16 = 10,
    AIC_F64 = 11,
    AIC_U32 = 12,
    AIC_U64 = 13,
    AIC_BF16 = 16
};

typedef struct aic_session aic_session;

/* How to open a session. Grows at its end in later versions; fields beyond struct_size take their defaults. */
typedef struct {
    uint32_t struct_size; /* sizeof(aic_options) */
    uint32_t n_threads;   /* including the one that calls aic_run; 0: one for each core this process may use */
    uint32_t weights_in_place; /* 0: large weights are copied to huge pages once for all sessions, which makes reading
                                  them faster; else they are used where they are, shared with other processes */
} aic_options;

/* A dense, row-major array. Inputs and outputs must not overlap. */
typedef struct {
    void *data;
    const int64_t *dims; /* may be NULL where rank is 0 */
    uint32_t rank;
    uint32_t dtype;
} aic_tensor;

/* An input or output. */
typedef struct {
    const char *name;
    const char *type;    /* as text: "f32[batch,3,224,224]" */
    const int64_t *dims; /* -1 for one that depends on the inputs */
    uint32_t rank;
    uint32_t dtype;
} aic_port_info;

/* What a model is. Grows at its end in later versions. */
typedef struct {
    uint32_t struct_size;
    uint32_t n_inputs;
    uint32_t n_outputs;
    uint32_t reserved;
    const char *name;
    const char *version;          /* of the compiler that made it */
    const aic_port_info *inputs;  /* in the order in which aic_run takes them */
    const aic_port_info *outputs;
    int64_t arena_bytes;          /* intermediate memory of a session; -1 where that depends on the inputs */
    int64_t constant_bytes;       /* weights, shared by all sessions */
} aic_model_info;

/* The model. Never fails. */
const aic_model_info *aic_info(void);

/* Opens a session; options may be NULL. Upon failure *session is NULL and aic_error(NULL) says why. */
int32_t aic_open(const aic_options *options, aic_session **session);

/* Runs the model: takes the inputs and outputs in the order of aic_info.
 *
 * Of each input data, dims, rank and dtype are given. Of each output either
 * - data is memory of the caller, large enough and aligned to its elements; then dtype must fit, and dims and rank too
 *   unless dims is NULL, in which case they are filled in; or
 * - data is NULL, or what the last run put there; then data, dims, rank and dtype are filled in and point to memory of
 *   the session, which stays as it is until the session's next run.
 * Upon failure the contents of outputs are undefined. */
int32_t aic_run(aic_session *session, const aic_tensor *inputs, size_t n_inputs, aic_tensor *outputs,
                size_t n_outputs);

/* What went wrong in the last call with this session, or "". With NULL: in this thread's last aic_open. Valid until the
 * next call with the session, or the thread's next aic_open. */
const char *aic_error(const aic_session *session);

/* Ends a session's threads and frees its memory; NULL is allowed. */
void aic_close(aic_session *session);

#ifdef __cplusplus
}
#endif
#endif

/* What a session is opened from: the part of the runtime's interface that is not the model's user's.
 *
 * In an artifact the compiler puts one aic_program, named aic_artifact, beside the weights; compiler/src/package.rs
 * writes it field by field. In the process of the compiler compiler/src/session.rs makes one. */
#ifndef AIC_RUNTIME_H
#define AIC_RUNTIME_H

#include "aic.h"

/* A kernel: runs iterations begin..end of its parallel loop. */
typedef void (*aic_kernel_fn)(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end);

/* Computes a step that has no kernel. The outputs are tensors in the host's memory, which stay valid until the next call.
 * Undefined symbols are -1. Anything but 0 ends the run. */
typedef int32_t (*aic_host_fn)(void *context, int64_t step, const int64_t *symbols, const aic_tensor *inputs,
                               aic_tensor *outputs);

typedef struct {
    const int64_t *plan;
    const aic_kernel_fn *kernels;
    const void *const *constants;
    const aic_model_info *info; /* NULL in the process of the compiler */
    aic_host_fn host;           /* NULL where the plan has no host step */
    void *host_context;
    uint64_t flags;
} aic_program;

/* Fills memory with 0xff bytes before it is used, so that reading what no step wrote shows. */
#define AIC_POISON 1
/* Measures how long each step takes. */
#define AIC_PROFILE 2

/* Opens a session. The program is copied; what it points to must outlive the session. */
int32_t aic_open_program(const aic_program *program, const aic_options *options, aic_session **session);

/* Bytes of intermediate memory that the session holds now. */
int64_t aic_arena_bytes(const aic_session *session);

/* Nanoseconds that each step of the last run took, in order; NULL without AIC_PROFILE. */
const int64_t *aic_step_times(const aic_session *session);

#endif

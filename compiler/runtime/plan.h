/* The plan: what a session executes, as one table of 64-bit words.
 *
 * compiler/src/plan.rs writes it, aic_runtime.c interprets it as it is; both take the format from here. Every field is
 * an int64_t of the machine's byte order. A "list" is the position of its first word in the table, counted from the
 * plan's start; its length stands beside it. A "string" is an offset in bytes into the text at the plan's end, where it
 * ends with a zero byte. An "expr" is the number of an integer expression; whatever depends on the inputs' dims (extents,
 * sizes, offsets, arguments of kernels) is one.
 *
 * Invariants, which the writer checks:
 * - Every number lies within what it counts. Expressions are numbered in the order in which they become known: the first
 *   n_first_exprs from the inputs' dims, the others after the host step that lists them.
 * - A buffer is resolved, that is given an address, when its size is known and before a step uses it: those in
 *   first_buffers at the start of a run, the others after the host step that lists them. An alias follows its root. */
#ifndef AIC_PLAN_H
#define AIC_PLAN_H

#include <stdint.h>

#define AIC_PLAN_MAGIC 0x6e616c7063696131 /* "1aicplan" */
#define AIC_PLAN_VERSION 1

typedef struct {
    int64_t magic;
    int64_t version;
    int64_t n_words; /* including the text */
    int64_t cpu;     /* features needed, a bit for each row of the table in cpu.h */
    int64_t text;    /* list of bytes, zero-terminated strings */
    int64_t name;    /* string: the model's */
    int64_t n_symbols, symbols;                             /* list of plan_symbol */
    int64_t n_exprs, exprs, n_first_exprs;                  /* list of lists of opcodes */
    int64_t n_inputs, inputs;                               /* list of plan_port */
    int64_t n_outputs, outputs;                             /* list of plan_port */
    int64_t n_buffers, buffers;                             /* list of plan_buffer */
    int64_t n_first_buffers, first_buffers;                 /* list of buffers */
    int64_t n_steps, steps;                                 /* list of steps, one after the other */
    int64_t arena;                                          /* expr: bytes */
    int64_t n_requires, requires;                           /* list of plan_require */
    int64_t n_kernels, n_constants, n_heaps;
    int64_t max_args, max_symbols;                          /* of any launch */
    int64_t max_operands, max_rank;                         /* of any host step; of any buffer */
} plan_header;

/* A named integer. Its value is the extent of an input's axis, or is defined by a host step. */
typedef struct {
    int64_t name;   /* string */
    int64_t input;  /* -1: defined by a host step */
    int64_t axis;
    int64_t lo, hi; /* what the kernels take for granted; both included */
} plan_symbol;

/* What the kernels take for granted. */
typedef struct {
    int64_t value; /* expr, of the first ones: at least 0 */
    int64_t text;  /* string: the expression */
} plan_require;

/* An input or output. */
typedef struct {
    int64_t name;       /* string */
    int64_t type;       /* string */
    int64_t dtype;      /* as in aic.h */
    int64_t rank, dims; /* list of exprs */
    int64_t bytes;      /* expr */
} plan_port;

/* An array that steps read or write. */
typedef struct {
    int64_t dtype;
    int64_t rank, dims; /* list of exprs */
    int64_t bytes;      /* expr */
    int64_t place;
    int64_t at;         /* what `place` says */
} plan_buffer;

/* Places. */
#define AIC_PLAN_INPUT 0    /* at: input */
#define AIC_PLAN_OUTPUT 1   /* at: output */
#define AIC_PLAN_CONSTANT 2 /* at: position in the table of constants */
#define AIC_PLAN_ARENA 3    /* at: expr, an offset in bytes */
#define AIC_PLAN_ALIAS 4    /* at: the buffer it lies in; never itself an alias */
#define AIC_PLAN_HEAP 5     /* at: a block of its own, allocated when its size is known */

/* Steps start with their kind and their length in words. */
#define AIC_PLAN_LAUNCH 0
#define AIC_PLAN_HOST 1
#define AIC_PLAN_COPY 2

/* Followed by n_args buffers and n_symbols exprs. */
typedef struct {
    int64_t kind, n_words;
    int64_t kernel;
    int64_t extent; /* expr: iterations of the parallel loop */
    int64_t work;   /* expr: predicted scalar operations */
    int64_t n_args, n_symbols;
    int64_t rest[];
} plan_launch;

/* Followed by n_inputs buffers, n_outputs buffers, n_defines triples (symbol, output, axis), n_resolves buffers. */
typedef struct {
    int64_t kind, n_words;
    int64_t step; /* what the host knows it by */
    int64_t n_inputs, n_outputs, n_defines, n_resolves;
    int64_t first_expr, end_expr; /* known once the symbols are defined */
    int64_t rest[];
} plan_host;

typedef struct {
    int64_t kind, n_words;
    int64_t src, dst; /* buffers of equal size */
} plan_copy;

/* Expressions are postfix code for a stack of this many words. Arithmetic saturates; division rounds towards minus
 * infinity, and the modulo has the sign of the divisor. */
#define AIC_PLAN_STACK 64
#define AIC_PLAN_END 0   /* the value is on the stack */
#define AIC_PLAN_CONST 1 /* followed by the value */
#define AIC_PLAN_SYM 2   /* followed by the symbol */
#define AIC_PLAN_ADD 3
#define AIC_PLAN_MUL 4
#define AIC_PLAN_DIV 5
#define AIC_PLAN_MOD 6
#define AIC_PLAN_MIN 7
#define AIC_PLAN_MAX 8

#endif

/* Weights on huge pages.
 *
 * Pages of a file are small: reading through them costs up to half of the memory's bandwidth. So when the first session
 * of a model is opened, its large constants are copied to huge pages if they are large together. All sessions of the
 * model use the copies; they are freed with the last one. */
#ifndef AIC_WEIGHTS_H
#define AIC_WEIGHTS_H

#include "memory.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

/* A constant is copied from the first size on, and only if all such constants have the second one together. */
enum { WEIGHT_BYTES = 64 << 10, WEIGHTS_BYTES = 8 << 20 };

typedef struct weights {
    const void *const *originals; /* the table that this one stands for */
    const void **constants;       /* copies, and originals of small ones */
    block data;
    size_t sessions;
    struct weights *next;
} weights;

static weights *weights_all;
static pthread_mutex_t weights_lock = PTHREAD_MUTEX_INITIALIZER;

/* Whether the system gives huge pages to who asks for them. */
static bool weights_have_huge_pages(void)
{
    char modes[64] = "[never]";
    FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "r");
    if (!file) return false;
    bool read = fgets(modes, sizeof modes, file) != NULL;
    fclose(file);
    return read && !strstr(modes, "[never]");
}

static size_t weights_room(size_t size)
{
    return size < WEIGHT_BYTES ? 0 : (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static weights *weights_copy(const void *const *originals, const size_t *sizes, size_t n)
{
    size_t room = 0;
    for (size_t i = 0; i < n; i++) room += weights_room(sizes[i]);
    if (room < WEIGHTS_BYTES || !weights_have_huge_pages()) return NULL;
    weights *w = calloc(1, sizeof *w);
    const void **constants = malloc(n * sizeof *constants);
    if (!w || !constants || !block_map(&w->data, room)) {
        free(w);
        free(constants);
        return NULL;
    }
    char *at = w->data.data;
    for (size_t i = 0; i < n; i++) {
        size_t size = weights_room(sizes[i]);
        constants[i] = size ? memcpy(at, originals[i], sizes[i]) : originals[i];
        at += size;
    }
    w->originals = originals;
    w->constants = constants;
    return w;
}

/* The weights of a model; NULL if its constants are to be used where they are, or memory is short. */
static weights *weights_acquire(const void *const *originals, const size_t *sizes, size_t n)
{
    pthread_mutex_lock(&weights_lock);
    weights *w = weights_all;
    while (w && w->originals != originals) w = w->next;
    if (!w && (w = weights_copy(originals, sizes, n))) {
        w->next = weights_all;
        weights_all = w;
    }
    if (w) w->sessions++;
    pthread_mutex_unlock(&weights_lock);
    return w;
}

static void weights_release(weights *w)
{
    if (!w) return;
    pthread_mutex_lock(&weights_lock);
    if (--w->sessions == 0) {
        weights **link = &weights_all;
        while (*link != w) link = &(*link)->next;
        *link = w->next;
        block_free(&w->data);
        free(w->constants);
        free(w);
    }
    pthread_mutex_unlock(&weights_lock);
}

#endif

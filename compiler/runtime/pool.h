/* The threads of one session.
 *
 * The thread that calls pool_run is number 0 and works too. A launch is cut into as many equal slices as threads take
 * part; slice t is meant for thread t, but whoever is done takes over what others haven't begun, so that nobody waits
 * for a thread that the system hasn't run yet.
 *
 * A launch is published by changing one word, which holds the number of the launch and of its threads. Waiting is
 * spinning for some microseconds, then sleeping on a condition variable; without a core for each thread it is sleeping
 * at once. The two sides of each wait are ordered by sequentially consistent operations: who waits says so, then looks
 * at the word; who changes the word looks afterwards whether somebody waits. So no wake-up is lost.
 *
 * A slice is claimed by raising its `claimed` to the number of the launch. A launch ends when all its slices have been
 * claimed and run, so a thread that comes late claims nothing, and only who has claimed a slice reads the launch. */
#ifndef AIC_POOL_H
#define AIC_POOL_H

#include "runtime.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    POOL_MAX_THREADS = 1024,
    POOL_ACTIVE_BITS = 16, /* enough for them */
    POOL_SPIN_NS = 50000,
    POOL_STACK_BYTES = 4 << 20 /* kernels keep up to 1 MB there */
};

typedef struct pool_worker {
    _Alignas(64) _Atomic uint64_t claimed; /* the last launch whose slice of this number was begun */
    struct pool *pool;
    uint32_t index;
    pthread_t thread;
} pool_worker;

typedef struct pool {
    uint32_t n_threads; /* including the caller's */
    uint32_t n_started;
    bool spin;
    pool_worker *workers; /* the first stands for the caller */
    pthread_mutex_t mutex;
    pthread_cond_t wake, done;

    aic_kernel_fn kernel;
    void *const *buffers;
    const int64_t *symbols;
    int64_t extent;

    _Alignas(64) _Atomic uint64_t word;    /* launches << POOL_ACTIVE_BITS | threads that take part; 0 of them: end */
    _Alignas(64) _Atomic uint32_t pending; /* slices that haven't been run */
    _Alignas(64) _Atomic uint32_t sleepers;
    _Atomic uint32_t caller_sleeps;
} pool;

/* The number of cores that this process may use. */
static uint32_t pool_cores(void)
{
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return (uint32_t)CPU_COUNT(&set);
#endif
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n > POOL_MAX_THREADS ? POOL_MAX_THREADS : (uint32_t)n;
}

static inline void pool_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static inline int64_t pool_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Slice t of n: as equal as can be, in order. */
static void pool_slice(const pool *p, uint32_t t, uint32_t n)
{
    int64_t share = p->extent / n, rest = p->extent % n;
    int64_t begin = share * t + (t < rest ? t : rest);
    p->kernel(p->buffers, p->symbols, begin, begin + share + (t < rest));
}

static bool pool_claim(pool_worker *w, uint64_t launch)
{
    uint64_t claimed = atomic_load_explicit(&w->claimed, memory_order_relaxed);
    return claimed < launch && atomic_compare_exchange_strong(&w->claimed, &claimed, launch);
}

/* Runs the slices of a launch that nobody has begun, thread `index`'s own first. */
static void pool_work(pool *p, uint32_t index, uint64_t word)
{
    uint64_t launch = word >> POOL_ACTIVE_BITS;
    uint32_t active = word & ((1 << POOL_ACTIVE_BITS) - 1);
    for (uint32_t i = 0; i < active; i++) {
        uint32_t t = (index + i) % active;
        if (!pool_claim(&p->workers[t], launch)) continue;
        pool_slice(p, t, active);
        if (atomic_fetch_sub(&p->pending, 1) == 1 && atomic_load(&p->caller_sleeps)) {
            pthread_mutex_lock(&p->mutex);
            pthread_cond_signal(&p->done);
            pthread_mutex_unlock(&p->mutex);
        }
    }
}

/* Waits until the word differs from `seen`; returns it. */
static uint64_t pool_next(pool *p, uint64_t seen)
{
    uint64_t word = atomic_load_explicit(&p->word, memory_order_acquire);
    for (int64_t end = p->spin ? pool_clock() + POOL_SPIN_NS : 0; word == seen && pool_clock() < end;) {
        for (int i = 0; i < 16 && word == seen; i++) {
            pool_pause();
            word = atomic_load_explicit(&p->word, memory_order_acquire);
        }
    }
    if (word != seen) return word;
    pthread_mutex_lock(&p->mutex);
    atomic_fetch_add(&p->sleepers, 1);
    while ((word = atomic_load(&p->word)) == seen) pthread_cond_wait(&p->wake, &p->mutex);
    atomic_fetch_sub(&p->sleepers, 1);
    pthread_mutex_unlock(&p->mutex);
    return word;
}

static void *pool_worker_main(void *argument)
{
    pool_worker *self = argument;
    for (uint64_t word = 1;;) {
        word = pool_next(self->pool, word);
        uint32_t active = word & ((1 << POOL_ACTIVE_BITS) - 1);
        if (active == 0) return NULL;
        if (self->index < active) pool_work(self->pool, self->index, word);
    }
}

/* Publishes a launch for `active` threads, or with 0 the end; gives the word. */
static uint64_t pool_publish(pool *p, uint32_t active)
{
    uint64_t launches = atomic_load_explicit(&p->word, memory_order_relaxed) >> POOL_ACTIVE_BITS;
    uint64_t word = (launches + 1) << POOL_ACTIVE_BITS | active;
    atomic_store(&p->word, word);
    if (atomic_load(&p->sleepers)) {
        pthread_mutex_lock(&p->mutex);
        pthread_cond_broadcast(&p->wake);
        pthread_mutex_unlock(&p->mutex);
    }
    return word;
}

/* Waits until all slices have been run. */
static void pool_join(pool *p)
{
    for (int64_t end = p->spin ? pool_clock() + POOL_SPIN_NS : 0; pool_clock() < end;) {
        for (int i = 0; i < 16; i++) {
            if (!atomic_load_explicit(&p->pending, memory_order_acquire)) return;
            pool_pause();
        }
    }
    pthread_mutex_lock(&p->mutex);
    atomic_store(&p->caller_sleeps, 1);
    while (atomic_load(&p->pending)) pthread_cond_wait(&p->done, &p->mutex);
    atomic_store(&p->caller_sleeps, 0);
    pthread_mutex_unlock(&p->mutex);
}

/* Runs all iterations of a kernel on the first `active` threads. */
static void pool_run(pool *p, uint32_t active, aic_kernel_fn kernel, void *const *buffers, const int64_t *symbols,
                     int64_t extent)
{
    if (active <= 1) {
        kernel(buffers, symbols, 0, extent);
        return;
    }
    p->kernel = kernel;
    p->buffers = buffers;
    p->symbols = symbols;
    p->extent = extent;
    atomic_store_explicit(&p->pending, active, memory_order_relaxed);
    pool_work(p, 0, pool_publish(p, active));
    pool_join(p);
}

/* Ends the threads; a pool that was never started is allowed. */
static void pool_stop(pool *p)
{
    if (p->n_started > 0) pool_publish(p, 0);
    for (uint32_t i = 0; i < p->n_started; i++) pthread_join(p->workers[i + 1].thread, NULL);
    if (p->workers) {
        pthread_cond_destroy(&p->done);
        pthread_cond_destroy(&p->wake);
        pthread_mutex_destroy(&p->mutex);
    }
    free(p->workers);
}

/* Starts a thread for each worker but the first. Signals are left to the process's own threads. */
static void pool_start_workers(pool *p)
{
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes)) return;
    pthread_attr_setstacksize(&attributes, POOL_STACK_BYTES);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (uint32_t i = 1; i < p->n_threads; i++, p->n_started++) {
        p->workers[i].pool = p;
        p->workers[i].index = i;
        if (pthread_create(&p->workers[i].thread, &attributes, pool_worker_main, &p->workers[i])) break;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
}

/* Starts n_threads - 1 threads. After a failure the pool must be stopped. */
static bool pool_start(pool *p, uint32_t n_threads)
{
    p->n_threads = n_threads;
    p->spin = n_threads <= pool_cores();
    atomic_store(&p->word, 1);
    if (n_threads <= 1) return true;
    size_t size = n_threads * sizeof *p->workers;
    p->workers = aligned_alloc(_Alignof(pool_worker), size);
    if (!p->workers) return false;
    memset(p->workers, 0, size);
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_cond_init(&p->done, NULL);
    pool_start_workers(p);
    return p->n_started == n_threads - 1;
}

#endif

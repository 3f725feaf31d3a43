/* Blocks of memory, large ones on huge pages. */
#ifndef AIC_MEMORY_H
#define AIC_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { ALIGNMENT = 64, PAGE = 4096, HUGE_PAGE = 2 << 20 };

/* A block that grows. */
typedef struct {
    void *data;
    size_t size;
    void *mapping; /* what data lies in where it was mapped */
    size_t mapped;
} block;

static void block_free(block *b)
{
    if (b->mapping) munmap(b->mapping, b->mapped);
    else free(b->data);
    *b = (block){0};
}

/* A large block begins at a huge page, and asks for such pages. */
static bool block_map(block *b, size_t size)
{
    size_t mapped = size + HUGE_PAGE;
    void *mapping = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED) return false;
    void *data = (void *)(((uintptr_t)mapping + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
#ifdef MADV_HUGEPAGE
    madvise(data, size, MADV_HUGEPAGE);
#endif
    *b = (block){data, size, mapping, mapped};
    return true;
}

/* Makes room for `size` bytes and at least one; contents are lost. */
static bool block_reserve(block *b, size_t size)
{
    if (b->data && size <= b->size) return true;
    block_free(b);
    size = ((size ? size : 1) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (size >= 2 * HUGE_PAGE) return block_map(b, size);
    b->data = aligned_alloc(ALIGNMENT, size);
    b->size = b->data ? size : 0;
    return b->data != NULL;
}

/* Has the system provide the pages now rather than during the first run. */
static void block_touch(const block *b)
{
    for (size_t at = 0; at < b->size; at += PAGE) ((volatile char *)b->data)[at] = 0;
}

#endif

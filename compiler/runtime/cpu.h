/* Which instruction sets this machine has, so that a model compiled for others fails with a message.
 *
 * The order of the table is the order of bits in the plan; names are LLVM's. backends/src/x86/mod.rs has the same list. */
#ifndef AIC_CPU_H
#define AIC_CPU_H

#include <stdbool.h>
#include <stdint.h>

enum { CPU_EAX, CPU_EBX, CPU_ECX, CPU_EDX };

/* State that the system must save for the instructions to be usable: bits of the register XCR0. */
enum { CPU_ANY = 0, CPU_YMM = 0x6, CPU_ZMM = 0xe6, CPU_TMM = 0x60000 };

typedef struct {
    const char *name;
    uint32_t leaf, subleaf;
    uint32_t reg, bit;
    uint32_t state;
} cpu_feature;

static const cpu_feature CPU_FEATURES[] = {
    {"sse3", 1, 0, CPU_ECX, 0, CPU_ANY},
    {"pclmul", 1, 0, CPU_ECX, 1, CPU_ANY},
    {"ssse3", 1, 0, CPU_ECX, 9, CPU_ANY},
    {"fma", 1, 0, CPU_ECX, 12, CPU_YMM},
    {"sse4.1", 1, 0, CPU_ECX, 19, CPU_ANY},
    {"sse4.2", 1, 0, CPU_ECX, 20, CPU_ANY},
    {"movbe", 1, 0, CPU_ECX, 22, CPU_ANY},
    {"popcnt", 1, 0, CPU_ECX, 23, CPU_ANY},
    {"aes", 1, 0, CPU_ECX, 25, CPU_ANY},
    {"avx", 1, 0, CPU_ECX, 28, CPU_YMM},
    {"f16c", 1, 0, CPU_ECX, 29, CPU_YMM},
    {"bmi", 7, 0, CPU_EBX, 3, CPU_ANY},
    {"avx2", 7, 0, CPU_EBX, 5, CPU_YMM},
    {"bmi2", 7, 0, CPU_EBX, 8, CPU_ANY},
    {"avx512f", 7, 0, CPU_EBX, 16, CPU_ZMM},
    {"avx512dq", 7, 0, CPU_EBX, 17, CPU_ZMM},
    {"adx", 7, 0, CPU_EBX, 19, CPU_ANY},
    {"avx512ifma", 7, 0, CPU_EBX, 21, CPU_ZMM},
    {"avx512cd", 7, 0, CPU_EBX, 28, CPU_ZMM},
    {"avx512bw", 7, 0, CPU_EBX, 30, CPU_ZMM},
    {"avx512vl", 7, 0, CPU_EBX, 31, CPU_ZMM},
    {"avx512vbmi", 7, 0, CPU_ECX, 1, CPU_ZMM},
    {"avx512vbmi2", 7, 0, CPU_ECX, 6, CPU_ZMM},
    {"gfni", 7, 0, CPU_ECX, 8, CPU_ANY},
    {"vaes", 7, 0, CPU_ECX, 9, CPU_YMM},
    {"vpclmulqdq", 7, 0, CPU_ECX, 10, CPU_YMM},
    {"avx512vnni", 7, 0, CPU_ECX, 11, CPU_ZMM},
    {"avx512bitalg", 7, 0, CPU_ECX, 12, CPU_ZMM},
    {"avx512vpopcntdq", 7, 0, CPU_ECX, 14, CPU_ZMM},
    {"avx512vp2intersect", 7, 0, CPU_EDX, 8, CPU_ZMM},
    {"amx-bf16", 7, 0, CPU_EDX, 22, CPU_TMM},
    {"avx512fp16", 7, 0, CPU_EDX, 23, CPU_ZMM},
    {"amx-tile", 7, 0, CPU_EDX, 24, CPU_TMM},
    {"amx-int8", 7, 0, CPU_EDX, 25, CPU_TMM},
    {"avxvnni", 7, 1, CPU_EAX, 4, CPU_YMM},
    {"avx512bf16", 7, 1, CPU_EAX, 5, CPU_ZMM},
    {"amx-fp16", 7, 1, CPU_EAX, 21, CPU_TMM},
    {"avxifma", 7, 1, CPU_EAX, 23, CPU_YMM},
    {"avxvnniint8", 7, 1, CPU_EDX, 4, CPU_YMM},
    {"avxneconvert", 7, 1, CPU_EDX, 5, CPU_YMM},
    {"avxvnniint16", 7, 1, CPU_EDX, 10, CPU_YMM},
    {"lzcnt", 0x80000001, 0, CPU_ECX, 5, CPU_ANY},
};

enum { N_CPU_FEATURES = sizeof CPU_FEATURES / sizeof *CPU_FEATURES };

#if defined(__x86_64__)
#include <cpuid.h>

/* The state that the system saves: XCR0, or 0 where it can't be read. */
static inline uint32_t cpu_state(void)
{
    uint32_t eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx >> 27 & 1)) return 0;
    __asm__("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
    return eax;
}

static inline bool cpu_has(const cpu_feature *feature)
{
    uint32_t regs[4];
    if (!__get_cpuid_count(feature->leaf, feature->subleaf, &regs[0], &regs[1], &regs[2], &regs[3])) return false;
    if (feature->subleaf > 0) {
        uint32_t last = 0, rest[3];
        if (!__get_cpuid_count(feature->leaf, 0, &last, &rest[0], &rest[1], &rest[2])) return false;
        if (feature->subleaf > last) return false;
    }
    return regs[feature->reg] >> feature->bit & 1 && (cpu_state() & feature->state) == feature->state;
}
#else
static inline bool cpu_has(const cpu_feature *feature)
{
    (void)feature;
    return false;
}
#endif

#endif

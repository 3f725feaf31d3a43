//! Tensors: views of global memory and of a core's buffers.
#pragma once
#include "machine.h"
#include "numbers.h"

#define __gm__
#define __aicore__
#define __global__
#define GM_ADDR uint8_t*

namespace AscendC {

/// The logical places of local tensors.
enum class TPosition : uint8_t { GM, A1, A2, B1, B2, C1, C2, CO1, CO2, VECIN, VECOUT, VECCALC, LCM, SPM, TSCM };
using QuePosition = TPosition;

enum class CacheMode { CACHE_MODE_DISABLE = 0, CACHE_MODE_NORMAL = 1 };

}  // namespace AscendC

namespace aic_model {

using AscendC::TPosition;

/// The memory of the core at hand that a logical place lies in.
inline Memory& memory_of(TPosition p) {
    switch (p) {
        case TPosition::A1:
        case TPosition::B1:
        case TPosition::C1: return current->l1;
        case TPosition::A2: return current->l0a;
        case TPosition::B2: return current->l0b;
        case TPosition::C2: return current->bt;
        case TPosition::CO1: return current->l0c;
        default: return current->ub;
    }
}

/// Bytes that operands in a memory begin at multiples of (rule R4).
inline uint32_t alignment_of(const Memory& m) {
    if (&m == &current->l0a || &m == &current->l0b) return 512;
    return &m == &current->l0c || &m == &current->bt ? 64 : 32;
}

/// A buffer of a queue, or one for temporaries.
struct Buffer {
    enum State { Free, Allocated, Queued, Dequeued };
    Memory* memory = nullptr;
    uint32_t first = 0, bytes = 0;
    /// Numbers its flags.
    uint32_t id = 0;
    State state = Free;
    bool was_freed = false;
    /// The queue; null for a temporary.
    void* queue = nullptr;
    TPosition position = TPosition::VECCALC;
};

/// An instruction in the making: its accesses are checked against the tensors' ends as they are added.
class Op {
  public:
    Op(Pipe pipe, const char* name, const Loc& at, Cost cost = {}) {
        instr.pipe = pipe, instr.name = name, instr.at = at, instr.cost = cost;
        check_core(pipe, name, at);
    }

    template <class Tensor>
    void read(const Tensor& t, uint64_t offset, uint64_t bytes) { access(t, offset, bytes, false); }

    /// Reads bytes that may be undefined.
    template <class Tensor>
    void peek(const Tensor& t, uint64_t offset, uint64_t bytes) { access(t, offset, bytes, false, false); }

    template <class Tensor>
    void write(const Tensor& t, uint64_t offset, uint64_t bytes) { access(t, offset, bytes, true); }

    template <class... Args>
    void violate(const char* rule, const char* format, Args... args) {
        machine->violate(rule, instr.at, std::string(instr.name) + ": " + text(format, args...));
        is_broken = true;
    }

    template <class... Args>
    void require(bool holds, const char* rule, const char* format, Args... args) {
        if (!holds) violate(rule, format, args...);
    }

    /// Rule R4.
    template <class T>
    void aligned(const T& t, uint32_t bytes) {
        require(t.first % bytes == 0, "R4", "an operand begins at byte %llu of %s, not at a multiple of %u",
                (unsigned long long)t.first, t.memory ? t.memory->name.c_str() : "?", bytes);
    }

    template <class T>
    void aligned(const T& t) { if (t.memory) aligned(t, alignment_of(*t.memory)); }

    /// Issues the instruction, unless it breaks a rule.
    void issue(std::function<void()> run) {
        if (is_broken) return;
        if (!machine->settings.is_timing_only) instr.run = std::move(run);
        machine->issue(std::move(instr));
    }

    Instr instr;

  private:
    bool is_broken = false;

    template <class Tensor>
    void access(const Tensor& t, uint64_t offset, uint64_t bytes, bool is_write, bool is_checked = true) {
        if (bytes == 0) return;
        if (!t.memory) return violate("R5", "an operand has no memory");
        if (offset + bytes > t.bytes) {
            return violate(t.is_global ? "R9" : "R5", "%s bytes [%llu, %llu) of a tensor of %llu bytes at byte %llu of %s",
                           is_write ? "writes" : "reads", (unsigned long long)offset,
                           (unsigned long long)(offset + bytes), (unsigned long long)t.bytes,
                           (unsigned long long)t.first, t.memory->name.c_str());
        }
        if (machine->settings.is_timing_only) return;
        uint64_t lo = t.first + offset, hi = lo + bytes;
        auto& all = instr.accesses;
        if (!all.empty() && all.back().memory == t.memory && all.back().is_write == is_write && all.back().hi == lo &&
            all.back().is_checked == is_checked) {
            all.back().hi = hi;
        } else {
            all.push_back({t.memory, lo, hi, is_write, is_checked});
        }
    }

    static void check_core(Pipe pipe, const char* name, const Loc& at) {
        bool is_cube_pipe = pipe == M || pipe == MTE1 || pipe == FIX;
        bool is_vector_pipe = pipe == V || pipe == MTE3;
        if ((current->is_cube && is_vector_pipe) || (!current->is_cube && is_cube_pipe)) {
            machine->violate("R23", at, text("%s is executed by pipe %s, which a %s core doesn't have", name,
                                             PIPE_NAMES[pipe], current->is_cube ? "cube" : "vector"));
            throw Stop{};
        }
    }
};

/// The number of an access by the scalar unit, which first waits where the compiler makes it wait.
inline void scalar_access(Memory* m, uint64_t lo, uint64_t hi, bool is_write, const char* name, const Loc& at) {
    PipeState& p = current->pipes[S];
    if (!machine->settings.is_strict && !current->is_cube) machine->drain(at);
    Actor who{current->id, S, ++p.clock.own[S], name, at};
    p.n_issued = p.clock.own[S];
    p.time += 10;
    m->access(machine->report, who, p.clock, lo, hi, is_write);
}

}  // namespace aic_model

namespace AscendC {

/// A view of an argument.
template <class T>
class GlobalTensor {
  public:
    using PrimType = T;
    static constexpr bool is_global = true;
    aic_model::Memory* memory = nullptr;
    uint64_t first = 0, bytes = 0;

    void SetGlobalBuffer(T* p, uint64_t size = 0, aic_model::Loc at = aic_model::Loc::current()) {
        auto* address = reinterpret_cast<uint8_t*>(p);
        for (aic_model::Memory* m : aic_model::machine->arguments) {
            if (address < m->data || address > m->data + m->size) continue;
            memory = m;
            first = address - m->data;
            bytes = size ? size * sizeof(T) : m->size - first;
            if (first + bytes > m->size) {
                aic_model::machine->violate(
                    "R9", at, aic_model::text("SetGlobalBuffer: bytes [%llu, %llu) of %s, which has %llu",
                                              (unsigned long long)first, (unsigned long long)(first + bytes),
                                              m->name.c_str(), (unsigned long long)m->size));
                bytes = m->size - first;
            }
            return;
        }
        aic_model::machine->violate("R9", at, "SetGlobalBuffer: the address is in no argument of the kernel");
    }

    GlobalTensor operator[](uint64_t k) const {
        GlobalTensor t = *this;
        uint64_t skipped = std::min(k * sizeof(T), bytes);
        t.first += k * sizeof(T), t.bytes -= skipped;
        return t;
    }

    T GetValue(uint64_t k, aic_model::Loc at = aic_model::Loc::current()) const {
        if (!holds(k, "GetValue", at)) return T();
        aic_model::scalar_access(memory, first + k * sizeof(T), first + (k + 1) * sizeof(T), false, "GetValue", at);
        return GetPhyAddr()[k];
    }
    T operator()(uint64_t k) const { return GetValue(k); }

    void SetValue(uint64_t k, T value, aic_model::Loc at = aic_model::Loc::current()) {
        if (!holds(k, "SetValue", at)) return;
        aic_model::scalar_access(memory, first + k * sizeof(T), first + (k + 1) * sizeof(T), true, "SetValue", at);
        GetPhyAddr()[k] = value;
    }

    T* GetPhyAddr() const { return reinterpret_cast<T*>(memory->data + first); }
    T* GetPhyAddr(uint64_t k) const { return GetPhyAddr() + k; }
    uint64_t GetSize() const { return bytes / sizeof(T); }
    void SetL2CacheHint(CacheMode) {}

  private:
    bool holds(uint64_t k, const char* name, const aic_model::Loc& at) const {
        if (memory && (k + 1) * sizeof(T) <= bytes) return true;
        aic_model::machine->violate("R9", at, aic_model::text("%s: element %llu of a tensor of %llu bytes", name,
                                                              (unsigned long long)k, (unsigned long long)bytes));
        return false;
    }
};

/// A view of a core's buffer.
template <class T>
class LocalTensor {
  public:
    using PrimType = T;
    static constexpr bool is_global = false;
    aic_model::Memory* memory = nullptr;
    uint64_t first = 0, bytes = 0;
    aic_model::Buffer* owner = nullptr;

    LocalTensor operator[](uint32_t k) const {
        LocalTensor t = *this;
        uint64_t skipped = std::min<uint64_t>(k * sizeof(T), bytes);
        t.first += k * sizeof(T), t.bytes -= skipped;
        return t;
    }

    T GetValue(uint32_t k, aic_model::Loc at = aic_model::Loc::current()) const {
        if (!holds(k, "GetValue", at)) return T();
        aic_model::scalar_access(memory, first + k * sizeof(T), first + (k + 1) * sizeof(T), false, "GetValue", at);
        return data()[k];
    }
    T operator()(uint32_t k) const { return GetValue(k); }

    void SetValue(uint32_t k, T value, aic_model::Loc at = aic_model::Loc::current()) const {
        if (!holds(k, "SetValue", at)) return;
        aic_model::scalar_access(memory, first + k * sizeof(T), first + (k + 1) * sizeof(T), true, "SetValue", at);
        data()[k] = value;
    }

    template <class U>
    LocalTensor<U> ReinterpretCast() const {
        LocalTensor<U> t;
        t.memory = memory, t.first = first, t.bytes = bytes, t.owner = owner;
        return t;
    }

    T* data() const { return reinterpret_cast<T*>(memory->data + first); }
    uint64_t GetPhyAddr() const { return first; }
    uint32_t GetSize() const { return uint32_t(bytes / sizeof(T)); }
    void SetSize(uint32_t n) { bytes = std::min<uint64_t>(bytes, n * sizeof(T)); }

  private:
    bool holds(uint32_t k, const char* name, const aic_model::Loc& at) const {
        if (memory && (k + 1) * sizeof(T) <= bytes) return true;
        aic_model::machine->violate("R5", at, aic_model::text("%s: element %u of a tensor of %llu bytes", name, k,
                                                              (unsigned long long)bytes));
        return false;
    }
};

}  // namespace AscendC

//! Buffers: `TPipe` hands them out, `TQue` passes them between pipes, `TBuf` keeps them for temporaries (rules R1 to R3,
//! R17). Enqueueing sets a flag of the pipe that fills a buffer, dequeueing waits for it; freeing sets one of the pipe
//! that uses it, and the next allocation of the same buffer waits for that.
#pragma once
#include "sync.h"

namespace aic_model {

constexpr uint32_t MAX_BUFFERS = 64, MAX_QUEUE_BUFFERS = 8;

/// The pipes that fill and use what lies at a place.
inline Edge pipes_of(TPosition from, TPosition to) {
    switch (from) {
        case TPosition::VECIN: return {MTE2, to == TPosition::VECOUT || to == TPosition::GM ? MTE3 : V};
        case TPosition::VECOUT: return {V, MTE3};
        case TPosition::A1:
        case TPosition::B1:
        case TPosition::C1: return {MTE2, MTE1};
        case TPosition::A2:
        case TPosition::B2:
        case TPosition::C2: return {MTE1, M};
        case TPosition::CO1: return {M, FIX};
        default: return {V, V};
    }
}

/// The buffers of a queue.
struct Queue {
    TPosition position;
    Edge edge;
    uint32_t depth;
    std::deque<Buffer> buffers;
    std::deque<Buffer*> queued;
    size_t next = 0;

    /// Flags of a buffer that say it is filled, or no longer used.
    static uint32_t filled(const Buffer& b) { return 1u << 30 | b.id << 1; }
    static uint32_t unused(const Buffer& b) { return 1u << 30 | b.id << 1 | 1; }

    Buffer* allocate(const Loc& at) {
        for (size_t k = 0; k < buffers.size(); ++k) {
            Buffer& b = buffers[(next + k) % buffers.size()];
            if (b.state != Buffer::Free) continue;
            next = (next + k + 1) % buffers.size();
            b.state = Buffer::Allocated;
            std::vector<Poison> poisons{{b.memory, b.first, b.first + b.bytes}};
            if (b.was_freed) wait_flag(edge.from, unused(b), at, std::move(poisons));
            return &b;
        }
        machine->violate("R17", at, buffers.empty() ? "AllocTensor of a queue that has no buffers"
                                                    : "AllocTensor while no buffer of the queue is free: it would hang");
        throw Stop{};
    }

    void enqueue(Buffer* b, const Loc& at) {
        if (!is_own(b, "EnQue", at)) return;
        if (b->state == Buffer::Queued) return machine->violate("R17", at, "EnQue of a tensor that is in the queue");
        if (b->state == Buffer::Free) return machine->violate("R17", at, "EnQue of a tensor that was freed");
        if (depth > 0 && queued.size() >= depth) {
            machine->violate("R17", at, text("EnQue of %zu tensors in a queue of depth %u", queued.size() + 1, depth));
        }
        b->state = Buffer::Queued;
        queued.push_back(b);
        set_flag(edge.from, filled(*b), at);
    }

    Buffer* dequeue(const Loc& at) {
        if (queued.empty()) {
            machine->violate("R17", at, "DeQue of an empty queue: it would hang");
            throw Stop{};
        }
        Buffer* b = queued.front();
        queued.pop_front();
        b->state = Buffer::Dequeued;
        wait_flag(edge.to, filled(*b), at);
        return b;
    }

    void release(Buffer* b, const Loc& at) {
        if (!is_own(b, "FreeTensor", at)) return;
        if (b->state == Buffer::Free) return machine->violate("R17", at, "FreeTensor of a tensor that was freed");
        if (b->state == Buffer::Queued) return machine->violate("R17", at, "FreeTensor of a tensor in the queue");
        if (b->state == Buffer::Allocated) {
            machine->violate("R17", at, "FreeTensor of a tensor that was never enqueued and dequeued");
        }
        b->state = Buffer::Free;
        b->was_freed = true;
        set_flag(edge.to, unused(*b), at);
    }

  private:
    bool is_own(const Buffer* b, const char* name, const Loc& at) const {
        if (b && b->queue == this) return true;
        machine->violate("R17", at, text("%s of a tensor that isn't of this queue", name));
        return false;
    }
};

/// What `TPipe` keeps: memory is handed out from its start, and never back.
struct Allocator {
    std::map<Memory*, uint32_t> used;
    std::map<TPosition, uint32_t> queue_buffers;
    uint32_t n_buffers = 0;
    std::vector<std::shared_ptr<Queue>> queues;
    Loc at;

    Buffer take(TPosition p, uint32_t bytes, const Loc& where) {
        Memory& m = memory_of(p);
        uint32_t rounded = (bytes + 31) / 32 * 32;
        uint32_t alignment = alignment_of(m);
        uint32_t first = (used[&m] + alignment - 1) / alignment * alignment;
        Buffer b;
        b.memory = &m, b.first = first, b.bytes = rounded, b.id = n_buffers++, b.position = p;
        used[&m] = first + rounded;
        if (used[&m] > m.size) {
            machine->violate("R1", where, text("InitBuffer: %u bytes of %s, which has %llu", used[&m], m.name.c_str(),
                                               (unsigned long long)m.size));
            throw Stop{};
        }
        if (n_buffers > MAX_BUFFERS) machine->violate("R2", where, text("InitBuffer: %u buffers, of 64", n_buffers));
        return b;
    }
};

}  // namespace aic_model

namespace AscendC {

/// A queue of buffers from the pipe that fills them to the pipe that uses them.
template <TPosition from, TPosition to, int32_t depth, auto config = 0>
class TQueBind {
  public:
    template <class T>
    LocalTensor<T> AllocTensor(Loc at = Loc::current()) { return view<T>(queue->allocate(at)); }

    template <class T>
    bool EnQue(const LocalTensor<T>& t, Loc at = Loc::current()) {
        queue->enqueue(t.owner, at);
        return true;
    }

    template <class T>
    LocalTensor<T> DeQue(Loc at = Loc::current()) { return view<T>(queue->dequeue(at)); }

    template <class T>
    void FreeTensor(const LocalTensor<T>& t, Loc at = Loc::current()) { queue->release(t.owner, at); }

    bool HasTensorInQue() const { return !queue->queued.empty(); }
    bool VacantInQue() const { return depth == 0 || queue->queued.size() < size_t(depth); }
    int32_t GetTensorCountInQue() const { return int32_t(queue->queued.size()); }

    /// For `TPipe`.
    std::shared_ptr<aic_model::Queue> queue{new aic_model::Queue{from, aic_model::pipes_of(from, to), uint32_t(depth)}};
    static constexpr TPosition position = from;

  private:
    template <class T>
    static LocalTensor<T> view(aic_model::Buffer* b) {
        LocalTensor<T> t;
        t.memory = b->memory, t.first = b->first, t.bytes = b->bytes, t.owner = b;
        return t;
    }
};

/// Where a queue's buffers go from their place.
constexpr TPosition next_position(TPosition p) {
    return p == TPosition::VECIN ? TPosition::VECCALC : TPosition::GM;
}

template <TPosition position, int32_t depth, auto config = 0>
class TQue : public TQueBind<position, next_position(position), depth, config> {};

/// A buffer for temporaries.
template <TPosition position = TPosition::VECCALC>
class TBuf {
  public:
    template <class T>
    LocalTensor<T> Get() const { return GetWithOffset<T>(buffer.bytes / sizeof(T), 0); }

    template <class T>
    LocalTensor<T> Get(uint32_t n) const { return GetWithOffset<T>(n, 0); }

    template <class T>
    LocalTensor<T> GetWithOffset(uint32_t n, uint32_t first) const {
        LocalTensor<T> t;
        t.memory = buffer.memory, t.first = buffer.first + first;
        t.bytes = std::min<uint64_t>(n * sizeof(T), buffer.bytes - std::min(first, buffer.bytes));
        return t;
    }

    /// For `TPipe`.
    aic_model::Buffer buffer;
    static constexpr TPosition place = position;
};

/// Hands out a core's buffers.
class TPipe {
  public:
    TPipe() = default;
    TPipe(const TPipe&) = delete;
    ~TPipe() { Destroy(); }

    template <TPosition from, TPosition to, int32_t depth, auto config>
    bool InitBuffer(TQueBind<from, to, depth, config>& q, uint8_t num, uint32_t bytes, Loc at = Loc::current()) {
        aic_model::Queue& queue = *q.queue;
        uint32_t& n = allocator.queue_buffers[from];
        n += num;
        if (n > aic_model::MAX_QUEUE_BUFFERS) {
            aic_model::machine->violate("R3", at, aic_model::text("InitBuffer: %u queue buffers at one place, of 8", n));
        }
        for (uint8_t k = 0; k < num; ++k) queue.buffers.push_back(allocator.take(from, bytes, at));
        for (auto& b : queue.buffers) b.queue = &queue;
        allocator.queues.push_back(q.queue);
        allocator.at = at;
        return true;
    }

    template <TPosition position>
    bool InitBuffer(TBuf<position>& b, uint32_t bytes, Loc at = Loc::current()) {
        b.buffer = allocator.take(position, bytes, at);
        return true;
    }

    int32_t FetchEventID(HardEvent event) { return int32_t(aic_model::current->n_events[int(event)]); }
    template <HardEvent event>
    int32_t FetchEventID() { return FetchEventID(event); }

    template <HardEvent event>
    int32_t AllocEventID(Loc at = Loc::current()) {
        uint32_t& n = aic_model::current->n_events[int(event)];
        if (n >= 6) aic_model::machine->violate("R19", at, "AllocEventID: all flags of this event are taken");
        return int32_t(n++);
    }

    template <HardEvent event>
    void ReleaseEventID(int32_t) {
        uint32_t& n = aic_model::current->n_events[int(event)];
        n -= n > 0;
    }

    void Reset() { Destroy(); allocator = {}; }

    /// Buffers that are still allocated or enqueued are leaks.
    void Destroy() {
        for (auto& q : allocator.queues) {
            for (auto& b : q->buffers) {
                if (b.state == aic_model::Buffer::Free) continue;
                aic_model::machine->violate("R17", allocator.at, "a tensor of a queue is never freed");
                b.state = aic_model::Buffer::Free;
            }
        }
        allocator.queues.clear();
    }

  private:
    aic_model::Allocator allocator;
};

inline TPipe* GetTPipePtr() { return static_cast<TPipe*>(aic_model::current->tpipe); }

}  // namespace AscendC

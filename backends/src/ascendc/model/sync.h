//! Flags between pipes and between cores, barriers, and what a core knows of itself (rules R19, R21, R27).
#pragma once
#include "tensor.h"

/// The pipes, as the API names them.
enum pipe_t { PIPE_S, PIPE_V, PIPE_M, PIPE_MTE1, PIPE_MTE2, PIPE_MTE3, PIPE_FIX, PIPE_ALL };
using event_t = int32_t;
constexpr event_t EVENT_ID0 = 0, EVENT_ID1 = 1, EVENT_ID2 = 2, EVENT_ID3 = 3, EVENT_ID4 = 4, EVENT_ID5 = 5,
                  EVENT_ID6 = 6, EVENT_ID7 = 7;

namespace AscendC {

/// A flag from the first pipe to the second one.
enum class HardEvent : uint8_t {
    MTE2_V, V_MTE2, V_MTE3, MTE3_V, MTE3_MTE2, MTE2_MTE3, MTE2_MTE1, MTE1_MTE2, MTE1_M, M_MTE1, M_FIX, FIX_M, M_V, V_M,
    V_S, S_V, MTE2_S, S_MTE2, MTE3_S, S_MTE3, M_S, S_M, MTE1_S, S_MTE1, FIX_S, S_FIX, FIX_MTE2, MTE2_FIX, MTE1_FIX,
    FIX_MTE1, MTE2_M, V_V
};

}  // namespace AscendC

namespace aic_model {

using AscendC::HardEvent;

struct Edge {
    Pipe from, to;
};

constexpr Edge EDGES[] = {
    {MTE2, V}, {V, MTE2}, {V, MTE3}, {MTE3, V}, {MTE3, MTE2}, {MTE2, MTE3}, {MTE2, MTE1}, {MTE1, MTE2},
    {MTE1, M}, {M, MTE1}, {M, FIX}, {FIX, M}, {M, V}, {V, M},
    {V, S}, {S, V}, {MTE2, S}, {S, MTE2}, {MTE3, S}, {S, MTE3}, {M, S}, {S, M}, {MTE1, S}, {S, MTE1},
    {FIX, S}, {S, FIX}, {FIX, MTE2}, {MTE2, FIX}, {MTE1, FIX}, {FIX, MTE1}, {MTE2, M}, {V, V}};

constexpr Pipe PIPES[] = {S, V, M, MTE1, MTE2, MTE3, FIX};

/// Sets a flag once its pipe has done all that it was given.
inline void set_flag(Pipe from, uint32_t key, const Loc& at) {
    if (from == S) {
        PipeState& p = current->pipes[S];
        current->flags[key].push_back({p.clock, p.time});
        return;
    }
    Instr i;
    i.kind = Kind::Set, i.pipe = from, i.name = "SetFlag", i.key = key, i.at = at;
    machine->issue(std::move(i));
}

/// Keeps a pipe from going on until a flag is set, and clears it.
inline void wait_flag(Pipe to, uint32_t key, const Loc& at, std::vector<Poison> poisons = {}) {
    if (to == S) {
        Core& core = *current;
        machine->block("a flag", at, [&core, key] { return !core.flags[key].empty(); });
        machine->learn(core.flags[key].front());
        core.flags[key].pop_front();
        return;
    }
    Instr i;
    i.kind = Kind::Wait, i.pipe = to, i.name = "WaitFlag", i.key = key, i.at = at, i.poisons = std::move(poisons);
    machine->issue(std::move(i));
}

inline uint32_t flag_key(HardEvent event, int32_t id, const Loc& at) {
    if (id < 0 || id > 7) machine->violate("R19", at, text("flag %d isn't one of 0 to 7", id));
    return uint32_t(event) << 8 | uint32_t(id & 7);
}

}  // namespace aic_model

namespace AscendC {

using aic_model::Loc;

template <HardEvent event>
void SetFlag(int32_t id, Loc at = Loc::current()) {
    uint32_t key = aic_model::flag_key(event, id, at);
    if (++aic_model::current->unpaired[key] > 1) {
        aic_model::machine->violate("R19", at, aic_model::text("flag %d is set twice before it is waited for", id));
    }
    aic_model::current->flag_lines[key] = at;
    aic_model::set_flag(aic_model::EDGES[int(event)].from, key, at);
}

template <HardEvent event>
void WaitFlag(int32_t id, Loc at = Loc::current()) {
    uint32_t key = aic_model::flag_key(event, id, at);
    --aic_model::current->unpaired[key];
    aic_model::current->flag_lines.insert({key, at});
    aic_model::wait_flag(aic_model::EDGES[int(event)].to, key, at);
}

template <pipe_t pipe>
void PipeBarrier(Loc at = Loc::current()) {
    if constexpr (pipe == PIPE_ALL) {
        aic_model::current->small_product = ~0ull;
        aic_model::machine->drain(at);
    } else if constexpr (pipe != PIPE_S) {
        if (pipe == PIPE_M) aic_model::current->small_product = ~0ull;
        aic_model::Instr i;
        i.kind = aic_model::Kind::Barrier, i.pipe = aic_model::PIPES[pipe], i.name = "PipeBarrier", i.at = at;
        aic_model::machine->issue(std::move(i));
    }
}

/// Mode 0: all cores of this kind; 1: both vector cores of a block; 2: a cube unit and its vector cores.
template <uint8_t mode, pipe_t pipe>
void CrossCoreSetFlag(uint16_t id, Loc at = Loc::current()) {
    static_assert(mode <= 2, "R21: the mode of a flag between cores is 0, 1 or 2");
    aic_model::Machine& m = *aic_model::machine;
    if (id > 10) m.violate("R21", at, aic_model::text("flag %u between cores isn't one of 0 to 10", id));
    if (!m.is_mix) m.violate("R21", at, "flags between cores need a kernel of a MIX type");
    aic_model::current->flag_lines[id | 1u << 31] = at;
    aic_model::Instr i;
    i.kind = aic_model::Kind::CrossSet, i.pipe = aic_model::PIPES[pipe], i.name = "CrossCoreSetFlag", i.at = at;
    i.key = uint32_t(mode) << 8 | (id & 15);
    m.issue(std::move(i));
}

template <uint8_t mode = 0, pipe_t pipe = PIPE_S>
void CrossCoreWaitFlag(uint16_t id, Loc at = Loc::current()) {
    aic_model::Machine& m = *aic_model::machine;
    if (!m.is_mix) m.violate("R21", at, "flags between cores need a kernel of a MIX type");
    auto& signals = aic_model::current->cross_flags[id];
    m.block(aic_model::text("flag %u of another core", id), at, [&signals] { return !signals.empty(); });
    m.learn(signals.front());
    signals.pop_front();
}

/// Waits until all vector cores are here, with all that they moved.
template <bool isAIVOnly = true>
void SyncAll(Loc at = Loc::current()) {
    aic_model::Machine& m = *aic_model::machine;
    if (!m.is_mix) m.violate("R21", at, "SyncAll needs a kernel of a MIX type");
    m.drain(at);
    aic_model::Core& core = *aic_model::current;
    m.rendezvous.join(m.abroad(core, core.pipes[aic_model::S].clock));
    m.rendezvous_time = std::max(m.rendezvous_time, core.pipes[aic_model::S].time);
    uint32_t generation = m.generation, n = 0;
    for (auto& c : m.cores) n += !isAIVOnly || !c->is_cube;
    if (++m.n_arrived == n) m.n_arrived = 0, ++m.generation;
    m.block("all cores at SyncAll", at, [&m, generation] { return m.generation != generation; });
    m.learn({m.rendezvous, m.rendezvous_time});
}

inline int64_t GetBlockIdx() {
    aic_model::Core& c = *aic_model::current;
    bool is_pair = aic_model::machine->is_mix && !c.is_cube && aic_model::machine->n_subs > 0;
    return is_pair ? c.block * aic_model::machine->n_subs + c.sub : c.block;
}
inline int64_t GetBlockNum() { return aic_model::machine->n_blocks; }
inline int64_t GetSubBlockIdx() { return aic_model::current->sub; }
inline int64_t GetSubBlockNum() { return std::max(1u, aic_model::machine->n_subs); }
inline int64_t GetSystemCycle() { return int64_t(aic_model::current->pipes[aic_model::S].time); }

}  // namespace AscendC

using AscendC::HardEvent;

inline int64_t get_block_idx() { return aic_model::current->block; }
inline int64_t get_block_num() { return aic_model::machine->n_blocks; }
inline bool aic_model_is_cube() { return aic_model::current->is_cube; }

#define ASCEND_IS_AIC (aic_model_is_cube())
#define ASCEND_IS_AIV (!aic_model_is_cube())
/// The type is read from the source when the kernel is compiled for the model.
#define KERNEL_TASK_TYPE_DEFAULT(type) static_cast<void>(0)

//! Cores, their pipes, and the order in which instructions are executed.
//!
//! A kernel's scalar code runs as a fiber per core. What it calls of the API becomes instructions in the queues of the
//! core's pipes, and these are executed in a random order that the chip could execute them in: pipes beside each other,
//! each one's instructions in order, except that nothing but a barrier orders those of V, MTE2 and MTE3 (rule R22).
//! The order is decided by the seed alone.
#pragma once
#include "memory.h"
#include <deque>
#include <functional>
#include <map>
#include <random>
#include <ucontext.h>

namespace aic_model {

/// Bytes that an instruction accesses.
struct Access {
    Memory* memory;
    uint64_t lo, hi;
    bool is_write;
    /// Whether what is read has to be defined.
    bool is_checked = true;
};

/// Bytes that become undefined.
struct Poison {
    Memory* memory;
    uint64_t lo, hi;
};

/// An argument of the kernel in global memory.
using Arguments = std::vector<Memory*>;

enum class Kind : uint8_t { Op, Set, Wait, Barrier, CrossSet };

/// Cycles of an instruction: until the next one may start, and from then until its result is there. The head is spent
/// by a pipe that was idle.
struct Cost {
    double head = 0, busy = 0, tail = 0;
};

/// Thrown where a core can't go on.
struct Stop {};

/// What a pipe executes.
struct Instr {
    Kind kind = Kind::Op;
    Pipe pipe = S;
    const char* name = "";
    Loc at;
    Cost cost;
    std::vector<Access> accesses;
    std::function<void()> run;
    std::vector<Poison> poisons;
    /// Event and number of a flag; mode and number of a flag between cores.
    uint32_t key = 0;
    /// Set by `issue`: the number within the pipe, the time, and what the scalar unit knew.
    uint32_t number = 0;
    double issued = 0;
    Others seen;
    uint32_t scalar_number = 0;
};

/// A flag that is set: what its setter knew, and when.
struct Signal {
    Clock clock;
    double time;
};

struct PipeState {
    std::deque<Instr> queue;
    Clock clock;
    /// Instructions issued to it.
    uint32_t n_issued = 0;
    /// When the next instruction may start, and when all results are there.
    double time = 0, ready = 0;
    double busy = 0;
    uint32_t weight = 1;
};

/// A stack of its own for a core's scalar code.
struct Fiber {
    ucontext_t context{};
    std::vector<char> stack;
};

class Machine;

/// A vector core, or a cube unit with what belongs to it.
class Core {
  public:
    uint32_t id = 0, block = 0, sub = 0;
    bool is_cube = false;
    Memory ub, l1, l0a, l0b, l0c, bt;
    std::array<PipeState, N_PIPES> pipes;
    /// Set flags, by event and number; and how many more were set than waited for, in program order.
    std::map<uint32_t, std::deque<Signal>> flags;
    std::map<uint32_t, int> unpaired;
    /// Flags of other cores, by number.
    std::map<uint32_t, std::deque<Signal>> cross_flags;
    std::map<uint32_t, Loc> flag_lines;
    Fiber fiber;
    bool is_finished = false;
    /// The condition that the scalar unit waits for, and what it is.
    std::function<bool()> until;
    std::string waits_for;
    Loc waits_at;
    /// The mask state machine (rule R16).
    bool is_counter_mask = false;
    uint64_t mask[2] = {~0ull, ~0ull};
    /// Element size of an atomic addition; 0 for plain stores.
    bool is_atomic = false;
    uint32_t n_events[32] = {};
    /// The pipe object of the kernel.
    void* tpipe = nullptr;
    std::vector<std::vector<uint8_t>> storage;
    /// Bytes moved from and to global memory.
    double gm_bytes = 0;
    /// Products on the same accumulator since the last barrier of pipe M (rule R20).
    uint64_t small_product = ~0ull;
};

inline Core* current = nullptr;
inline Machine* machine = nullptr;

/// How many instructions may wait in a queue.
inline size_t depth(Pipe p) { return p == MTE1 || p == M ? 32 : 64; }

class Machine {
  public:
    Settings settings;
    Report report;
    std::vector<std::unique_ptr<Core>> cores;
    std::mt19937_64 random;
    Arguments arguments;
    uint32_t n_blocks = 1;
    bool is_mix = false;
    /// Vector cores that belong to a cube unit in a mixed kernel.
    uint32_t n_subs = 0;
    /// How often each flag for all cores was set, by whom.
    std::map<uint32_t, std::map<uint32_t, std::deque<Signal>>> gathered;
    uint32_t n_arrived = 0, generation = 0;
    Clock rendezvous;
    double rendezvous_time = 0;

    explicit Machine(const Settings& s) : settings(s), random(s.seed) { machine = this; }

    void violate(const char* rule, const Loc& at, const std::string& what) { report.add(rule, at, what); }

    uint32_t draw(uint32_t n) { return uint32_t(random() % n); }

    /// Runs every core's scalar code and pipes until all are done, or none can go on.
    void run(const std::function<void()>& kernel) {
        entry = kernel;
        for (auto& core : cores) start(*core);
        std::vector<Core*> live;
        for (auto& core : cores) live.push_back(core.get());
        size_t n_stuck = 0;
        while (!live.empty() && n_stuck <= 4 * live.size() + 64) {
            size_t at = n_stuck ? n_stuck % live.size() : draw(uint32_t(live.size()));
            n_stuck = step(*live[at]) ? 0 : n_stuck + 1;
            if (is_done(*live[at])) live.erase(live.begin() + at);
        }
        for (Core* core : live) report_stuck(*core);
        for (auto& core : cores) check_end(*core);
    }

    /// Puts an instruction into its pipe's queue; the scalar unit waits while it is full.
    void issue(Instr&& i) {
        Core& core = *current;
        PipeState& p = core.pipes[i.pipe];
        i.number = ++p.n_issued;
        i.seen = core.pipes[S].clock.others;
        i.scalar_number = core.pipes[S].clock.own[S];
        core.pipes[S].time += SCALAR_CYCLES;
        i.issued = core.pipes[S].time;
        Pipe pipe = i.pipe;
        Loc at = i.at;
        p.queue.push_back(std::move(i));
        if (p.queue.size() >= depth(pipe)) {
            block("room in a queue", at, [&p, pipe] { return p.queue.size() < depth(pipe); });
        } else if (draw(4) == 0) {
            yield();
        }
    }

    /// Suspends the scalar unit until the condition holds.
    void block(const std::string& what, const Loc& at, std::function<bool()> until) {
        if (until()) return;
        current->waits_for = what;
        current->waits_at = at;
        current->until = std::move(until);
        yield();
        current->until = nullptr;
    }

    void yield() { swapcontext(&current->fiber.context, &scheduler); }

    /// Waits for all pipes of the core and knows all that they did.
    void drain(const Loc& at) {
        Core& core = *current;
        block("all pipes", at, [&core] {
            for (int p = V; p < N_PIPES; ++p) {
                if (!core.pipes[p].queue.empty()) return false;
            }
            return true;
        });
        Clock all;
        double time = 0;
        for (int p = 0; p < N_PIPES; ++p) {
            all.join(core.pipes[p].clock);
            all.own[p] = std::max(all.own[p], p == S ? core.pipes[S].clock.own[S] : core.pipes[p].n_issued);
            time = std::max({time, core.pipes[p].time, core.pipes[p].ready});
        }
        for (auto& p : core.pipes) p.clock = all, p.time = p.ready = time;
    }

    /// Joins what another core's signal says into this core's scalar unit.
    void learn(const Signal& s) {
        PipeState& p = current->pipes[S];
        p.clock.join(s.clock);
        p.time = std::max(p.time, s.time);
    }

    /// What a pipe of a core knows, as another core takes it.
    Clock abroad(const Core& core, const Clock& clock) const {
        auto all = std::make_shared<std::vector<Numbers>>(clock.others ? *clock.others
                                                                       : std::vector<Numbers>(cores.size()));
        join((*all)[core.id], clock.own);
        return {Numbers{}, all};
    }

    /// Cycles of the longest core.
    double makespan() const {
        double end = 0;
        for (auto& core : cores) {
            for (auto& p : core->pipes) end = std::max({end, p.time, p.ready});
        }
        return end;
    }

  private:
    /// Cycles that the scalar unit takes to issue an instruction.
    static constexpr double SCALAR_CYCLES = 4;
    static constexpr size_t STACK_BYTES = 1 << 20;
    static constexpr uint32_t WINDOW = 4;

    ucontext_t scheduler{};
    std::function<void()> entry;

    void start(Core& core) {
        core.fiber.stack.resize(STACK_BYTES);
        getcontext(&core.fiber.context);
        core.fiber.context.uc_stack.ss_sp = core.fiber.stack.data();
        core.fiber.context.uc_stack.ss_size = STACK_BYTES;
        core.fiber.context.uc_link = &scheduler;
        makecontext(&core.fiber.context, &Machine::main, 0);
        for (auto& p : core.pipes) p.weight = draw(2) ? 1 : 8;
    }

    static void main() {
        try {
            machine->entry();
        } catch (const Stop&) {
        }
        current->is_finished = true;
    }

    static bool is_done(const Core& core) {
        if (!core.is_finished) return false;
        for (auto& p : core.pipes) {
            if (!p.queue.empty()) return false;
        }
        return true;
    }

    /// Lets a pipe of the core that can do so go on by one instruction.
    bool step(Core& core) {
        uint32_t total = 0;
        uint32_t weights[N_PIPES];
        for (int p = 0; p < N_PIPES; ++p) {
            weights[p] = is_ready(core, Pipe(p)) ? core.pipes[p].weight : 0;
            total += weights[p];
        }
        if (total == 0) return false;
        uint32_t pick = draw(total);
        int p = 0;
        while (pick >= weights[p]) pick -= weights[p++];
        current = &core;
        if (p == S) {
            swapcontext(&scheduler, &core.fiber.context);
        } else {
            execute(core, Pipe(p));
        }
        return true;
    }

    bool is_ready(Core& core, Pipe p) {
        if (p == S) return !core.is_finished && (!core.until || core.until());
        auto& queue = core.pipes[p].queue;
        if (queue.empty()) return false;
        const Instr& head = queue.front();
        return head.kind != Kind::Wait || !core.flags[head.key].empty();
    }

    /// Whether instructions of the pipe are executed in no order but that of barriers.
    bool is_unordered(Pipe p) const { return (p == V && settings.is_strict) || p == MTE2 || p == MTE3; }

    void execute(Core& core, Pipe pipe) {
        PipeState& p = core.pipes[pipe];
        size_t pick = 0;
        if (is_unordered(pipe) && !settings.is_timing_only) {
            size_t n = 0;
            while (n < p.queue.size() && n < WINDOW && p.queue[n].kind == Kind::Op) ++n;
            if (n > 1) pick = draw(uint32_t(n));
        }
        Instr i = std::move(p.queue[pick]);
        p.queue.erase(p.queue.begin() + pick);
        join(p.clock.others, i.seen);
        if (i.seen) join(p.clock.own, (*i.seen)[core.id]);
        p.time = std::max(p.time, i.issued);
        switch (i.kind) {
            case Kind::Op: return operate(core, p, i);
            case Kind::Set: return set(core, p, i);
            case Kind::Wait: return wait(core, p, i);
            case Kind::Barrier: return barrier(p, i);
            case Kind::CrossSet: return cross_set(core, p, i);
        }
    }

    void operate(Core& core, PipeState& p, Instr& i) {
        bool was_idle = p.time > p.ready || p.ready == 0;
        double start = p.time + (was_idle ? i.cost.head : 0);
        p.busy += start - p.time + i.cost.busy;
        p.time = start + i.cost.busy;
        p.ready = std::max(p.ready, p.time + i.cost.tail);
        if (settings.is_timing_only) return;
        Clock clock = p.clock;
        if (!is_unordered(i.pipe)) clock.own[i.pipe] = i.number - 1;
        if (!settings.is_strict && !core.is_cube) clock.own[S] = std::max(clock.own[S], i.scalar_number);
        Actor who{core.id, i.pipe, i.number, i.name, i.at};
        for (auto& a : i.accesses) a.memory->access(report, who, clock, a.lo, a.hi, a.is_write, a.is_checked);
        if (i.run) i.run();
    }

    static Clock after(const PipeState& p, const Instr& i) {
        Clock clock = p.clock;
        clock.own[i.pipe] = i.number;
        return clock;
    }

    void set(Core& core, PipeState& p, const Instr& i) {
        core.flags[i.key].push_back({after(p, i), std::max(p.time, p.ready)});
    }

    void wait(Core& core, PipeState& p, const Instr& i) {
        for (auto& x : i.poisons) x.memory->poison(x.lo, x.hi);
        auto& signals = core.flags[i.key];
        p.clock.join(signals.front().clock);
        p.time = std::max(p.time, signals.front().time);
        signals.pop_front();
    }

    static void barrier(PipeState& p, const Instr& i) {
        p.clock.own[i.pipe] = i.number;
        p.time = std::max(p.time, p.ready);
    }

    /// Mode 0 waits for all cores of the kind, 1 for both vector cores of a block, 2 goes between a cube unit and its
    /// vector cores.
    void cross_set(Core& core, PipeState& p, const Instr& i) {
        Signal signal{abroad(core, after(p, i)), std::max(p.time, p.ready)};
        uint32_t mode = i.key >> 8, id = i.key & 255;
        if (mode == 2 && core.is_cube) {
            for (auto& c : cores) {
                if (!c->is_cube && c->block == core.block) give(*c, id, signal, i.at);
            }
            return;
        }
        // Gathered per kind or block until everyone has set it.
        uint32_t group = id | mode << 8 | uint32_t(core.is_cube) << 12 | (mode == 0 ? 0 : core.block + 1) << 16;
        auto& signals = gathered[group];
        signals[core.id].push_back(signal);
        std::vector<Core*> members;
        for (auto& c : cores) {
            bool is_member = c->is_cube == core.is_cube && (mode == 0 || c->block == core.block);
            if (is_member) members.push_back(c.get());
        }
        for (Core* c : members) {
            if (signals[c->id].empty()) return;
        }
        Signal all = signal;
        for (Core* c : members) {
            all.clock.join(signals[c->id].front().clock);
            all.time = std::max(all.time, signals[c->id].front().time);
            signals[c->id].pop_front();
        }
        for (auto& c : cores) {
            bool is_target = mode == 2 ? c->is_cube && c->block == core.block
                                       : c->is_cube == core.is_cube && (mode == 0 || c->block == core.block);
            if (is_target) give(*c, id, all, i.at);
        }
    }

    void give(Core& to, uint32_t id, const Signal& signal, const Loc& at) {
        to.cross_flags[id].push_back(signal);
        if (to.cross_flags[id].size() > 15) {
            violate("R21", at, text("flag %u of core %u is set more than 15 times before it is waited for", id, to.id));
        }
    }

    void report_stuck(Core& core) {
        if (!core.is_finished && core.until) {
            bool is_cross = core.waits_for.find("core") != std::string::npos;
            violate(is_cross ? "R21" : "R19", core.waits_at,
                    text("core %u waits for ever for %s", core.id, core.waits_for.c_str()));
        }
        for (auto& p : core.pipes) {
            if (p.queue.empty() || p.queue.front().kind != Kind::Wait) continue;
            const Instr& head = p.queue.front();
            violate("R19", head.at, text("pipe %s of core %u waits for ever for a flag that nothing sets",
                                         PIPE_NAMES[head.pipe], core.id));
        }
    }

    void check_end(Core& core) {
        for (auto& [key, n] : core.unpaired) {
            if (n == 0) continue;
            violate("R19", core.flag_lines[key],
                    text("flag %u of event %u is set %d times more often than it is waited for when the kernel ends",
                         key & 255, key >> 8, n));
        }
        for (auto& [id, signals] : core.cross_flags) {
            if (!signals.empty() && core.flag_lines.count(id | 1u << 31)) {
                violate("R21", core.flag_lines[id | 1u << 31], text("flag %u between cores is left set", id));
            }
        }
    }
};

}  // namespace aic_model

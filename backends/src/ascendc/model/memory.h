//! Memories, and who accessed their bytes last: how missing synchronisation is found.
//!
//! An access is ordered after an earlier one if the clock of its pipe knows the earlier one. Clocks are vector clocks:
//! for each pipe of each core the number of the latest instruction that, with all before it, is known to be finished.
#pragma once
#include "report.h"
#include <algorithm>
#include <array>
#include <memory>

namespace aic_model {

/// The units of a core that work beside each other.
enum Pipe : uint8_t { S, V, M, MTE1, MTE2, MTE3, FIX, N_PIPES };

constexpr const char* PIPE_NAMES[N_PIPES] = {"S", "V", "M", "MTE1", "MTE2", "MTE3", "FIX"};

/// For each pipe of a core the number of an instruction.
using Numbers = std::array<uint32_t, N_PIPES>;

/// What is known of other cores.
using Others = std::shared_ptr<const std::vector<Numbers>>;

inline void join(Numbers& a, const Numbers& b) {
    for (int p = 0; p < N_PIPES; ++p) a[p] = std::max(a[p], b[p]);
}

inline void join(Others& a, const Others& b) {
    if (a == b || !b) return;
    if (!a) {
        a = b;
        return;
    }
    auto all = std::make_shared<std::vector<Numbers>>(*a);
    for (size_t core = 0; core < all->size(); ++core) join((*all)[core], (*b)[core]);
    a = all;
}

/// What is known to be finished.
struct Clock {
    /// Of the core itself.
    Numbers own{};
    /// Of the others; null for nothing.
    Others others;

    void join(const Clock& b) {
        aic_model::join(own, b.own);
        aic_model::join(others, b.others);
    }

    bool knows(uint32_t me, uint32_t core, Pipe pipe, uint32_t number) const {
        if (core == me) return own[pipe] >= number;
        return others && (*others)[core][pipe] >= number;
    }
};

/// Who accesses bytes.
struct Actor {
    uint32_t core;
    Pipe pipe;
    uint32_t number;
    const char* name;
    Loc at;
};

/// A flat memory: a core's buffer, or an argument in global memory.
class Memory {
  public:
    std::string name;
    uint8_t* data = nullptr;
    uint64_t size = 0;

    /// Memory that holds data already, or none yet (rule R6).
    void open(std::string name_, uint8_t* data_, uint64_t size_, bool is_written, bool is_shadowed) {
        name = std::move(name_), data = data_, size = size_;
        if (!is_shadowed) return;
        written.assign(size, is_written);
        pages.assign(size / PAGE + 1, {});
    }

    /// Forgets who accessed what, between launches.
    void forget() {
        for (auto& page : pages) page.clear();
    }

    /// The first byte that is undefined; `size` if there is none.
    uint64_t first_undefined() const { return std::find(written.begin(), written.end(), 0) - written.begin(); }

    /// Whether bytes are defined.
    bool is_defined(uint64_t lo, uint64_t bytes) const {
        if (written.empty()) return true;
        return std::find(written.begin() + lo, written.begin() + lo + bytes, 0) == written.begin() + lo + bytes;
    }

    /// Makes bytes undefined.
    void poison(uint64_t lo, uint64_t hi) {
        if (written.empty()) return;
        std::fill(written.begin() + lo, written.begin() + hi, 0);
        std::fill(data + lo, data + hi, 0xff);
    }

    /// Notes an access, and reports one that isn't ordered after an earlier one (R18, R9) or reads undefined bytes (R6).
    void access(Report& report, const Actor& who, const Clock& clock, uint64_t lo, uint64_t hi, bool is_write,
                bool is_checked = true) {
        if (written.empty() || lo >= hi) return;
        if (is_write) {
            std::fill(written.begin() + lo, written.begin() + hi, 1);
        } else if (auto hole = std::find(written.begin() + lo, written.begin() + hi, 0);
                   is_checked && hole != written.begin() + hi) {
            report.add("R6", who.at,
                       text("%s reads bytes [%llu, %llu) of %s, of which byte %llu was never written", who.name, lo,
                            hi, name.c_str(), (unsigned long long)(hole - written.begin())));
        }
        for (uint64_t page = lo / PAGE; page <= (hi - 1) / PAGE; ++page) {
            note(report, pages[page], who, clock, std::max(lo, page * PAGE), std::min(hi, (page + 1) * PAGE), is_write);
        }
    }

    /// The elements of a fractal are as defined as those they were copied from; if it is transposed they have 16 bits.
    void carry(const Memory& from, uint64_t to_lo, uint64_t from_lo, bool is_transposed) {
        for (uint64_t k = 0; k < 512; ++k) {
            uint64_t row = k / 32, column = k % 32 / 2;
            uint64_t to = is_transposed ? column * 32 + row * 2 + k % 2 : k;
            written[to_lo + to] = from.written[from_lo + k];
        }
    }

  private:
    static constexpr uint64_t PAGE = 2048;

    struct Entry {
        uint64_t lo, hi;
        bool is_write;
        Actor who;
    };

    void note(Report& report, std::vector<Entry>& page, const Actor& who, const Clock& clock, uint64_t lo,
              uint64_t hi, bool is_write) {
        auto is_obsolete = [&](const Entry& e) {
            if (e.lo >= hi || lo >= e.hi) return false;
            bool is_known = clock.knows(who.core, e.who.core, e.who.pipe, e.who.number);
            bool is_self = e.who.core == who.core && e.who.pipe == who.pipe && e.who.number == who.number;
            if ((e.is_write || is_write) && !is_known && !is_self) race(report, e, who, lo, hi, is_write);
            bool is_same_pipe = e.who.core == who.core && e.who.pipe == who.pipe;
            bool is_covered = lo <= e.lo && e.hi <= hi && (is_write || !e.is_write);
            return is_covered && (is_same_pipe || (is_write && is_known));
        };
        page.erase(std::remove_if(page.begin(), page.end(), is_obsolete), page.end());
        page.push_back({lo, hi, is_write, who});
    }

    void race(Report& report, const Entry& e, const Actor& who, uint64_t lo, uint64_t hi, bool is_write) {
        const char* rule = e.who.core == who.core ? "R18" : "R9";
        const char* kinds[2][2] = {{"reads", "reads"}, {"writes", "reads"}};
        const char* now = is_write ? "writes" : "reads";
        const char* then = kinds[e.is_write][0];
        report.add(rule, who.at,
                   text("%s (pipe %s, core %u) %s bytes [%llu, %llu) of %s, which %s (pipe %s, core %u, line %u) %s: "
                        "nothing orders the two",
                        who.name, PIPE_NAMES[who.pipe], who.core, now, lo, hi, name.c_str(), e.who.name,
                        PIPE_NAMES[e.who.pipe], e.who.core, e.who.at.line(), then));
    }

    /// Whether each byte is defined.
    std::vector<uint8_t> written;
    std::vector<std::vector<Entry>> pages;
};

}  // namespace aic_model

//! What the model is told, and what it reports.
#pragma once
#include <cstdint>
#include <cstdio>
#include <set>
#include <source_location>
#include <string>
#include <vector>

namespace aic_model {

/// Where a kernel calls the API.
using Loc = std::source_location;

/// How kernels are run.
struct Settings {
    /// Decides in which legal order instructions are executed.
    uint64_t seed = 1;
    /// Whether the compiler's own synchronisation of the vector core (V after V, and the scalar unit) isn't relied on.
    bool is_strict = true;
    /// Whether only times are computed: no data, no hazards.
    bool is_timing_only = false;
    /// Bytes of the unified buffer that kernels may use: without what the compiler and `Select` keep (rule R1).
    uint32_t ub_bytes = 196608 - 256 - 8192;
    /// AI cores: cube units, each with two vector cores.
    uint32_t n_cores = 20;
    /// Cycles per second.
    double clock = 1.8e9;
};

/// A broken rule of a kernel.
struct Violation {
    /// `R1` to `R29`.
    std::string rule;
    /// File and line of the call.
    std::string place;
    /// What is wrong, with the bytes it is about.
    std::string text;
};

/// The violations of a launch, each rule once per line of the kernel.
class Report {
  public:
    void add(const char* rule, const Loc& at, const std::string& text) {
        const char* file = at.file_name();
        for (const char* p = file; *p; ++p) file = *p == '/' ? p + 1 : file;
        std::string place = std::string(file) + ":" + std::to_string(at.line());
        if (seen.insert(rule + place).second && all.size() < 50) all.push_back({rule, place, text});
    }

    const std::vector<Violation>& violations() const { return all; }

  private:
    std::set<std::string> seen;
    std::vector<Violation> all;
};

/// `printf` to a string.
template <class... Args>
std::string text(const char* format, Args... args) {
    char out[512];
    std::snprintf(out, sizeof out, format, args...);
    return out;
}

}  // namespace aic_model

//! Runs the kernels of a job: a text file of lines
//!
//! ```text
//! set seed 3            a number of `Settings`: seed, strict, timing, ub, cores, clock
//! buffer ID BYTES FILE  an argument: contents of a file, or `-` for undefined ones, or `0` for zeros
//! launch NAME TYPE BLOCKS ID...
//! host NAME ID...       a function of the host; its inputs first
//! copy FROM TO
//! save ID FILE          writes a buffer to a file; undefined bytes are a violation
//! ```
//!
//! and answers with lines `violation LAUNCH RULE PLACE TEXT` and
//! `time LAUNCH NAME CYCLES MOVED TOUCHED PIPE=CYCLES...` on standard output: bytes moved by all cores, and bytes of memory
//! that these can be of.
#pragma once
#include "queue.h"
#include <fstream>
#include <iostream>
#include <sstream>
#include <sys/mman.h>

namespace aic_model {

/// A kernel of the job.
struct Kernel {
    const char* name;
    uint32_t n_args;
    void (*call)(uint8_t* const* args);
};

/// The kernels of the program.
inline std::vector<Kernel>& kernels() {
    static std::vector<Kernel> all;
    return all;
}

/// Adds a kernel before `main` begins.
struct Register {
    explicit Register(const Kernel& k) { kernels().push_back(k); }
};

/// A function of the host.
struct HostFunction {
    const char* name;
    uint32_t n_inputs, n_outputs;
    void (*call)(uint8_t* const* args);
};

inline std::vector<HostFunction>& host_functions() {
    static std::vector<HostFunction> all;
    return all;
}

/// Adds a function of the host before `main` begins.
struct RegisterHost {
    explicit RegisterHost(const HostFunction& f) { host_functions().push_back(f); }
};

class Driver {
  public:
    /// Gives the exit code: 0, or 2 if the job can't be read.
    int run(const char* path) {
        std::ifstream file(path);
        std::string line;
        while (std::getline(file, line)) {
            std::istringstream words(line);
            std::string word;
            words >> word;
            bool is_good = word.empty() || (word == "set" && set(words)) || (word == "buffer" && buffer(words)) ||
                           (word == "launch" && launch(words)) || (word == "host" && host(words)) ||
                           (word == "copy" && copy(words)) || (word == "save" && save(words));
            if (!is_good) {
                std::cerr << "cannot execute: " << line << std::endl;
                return 2;
            }
        }
        return 0;
    }

  protected:
    Settings settings;
    std::map<int, std::unique_ptr<Memory>> buffers;
    int n_launches = 0;

    bool set(std::istream& words) {
        std::string name;
        double value;
        if (!(words >> name >> value)) return false;
        if (name == "seed") settings.seed = uint64_t(value);
        else if (name == "strict") settings.is_strict = value != 0;
        else if (name == "timing") settings.is_timing_only = value != 0;
        else if (name == "ub") settings.ub_bytes = uint32_t(value);
        else if (name == "cores") settings.n_cores = uint32_t(value);
        else if (name == "clock") settings.clock = value;
        else return false;
        return true;
    }

    bool buffer(std::istream& words) {
        int id;
        uint64_t bytes;
        std::string source;
        if (!(words >> id >> bytes >> source)) return false;
        // Pages beyond the end keep addresses of different arguments apart.
        void* data = mmap(nullptr, bytes + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (data == MAP_FAILED) return false;
        auto* m = (buffers[id] = std::make_unique<Memory>()).get();
        m->open("argument " + std::to_string(id), static_cast<uint8_t*>(data), bytes, source != "-",
                !settings.is_timing_only);
        if (source == "-" && !settings.is_timing_only) std::memset(data, 0xff, bytes);
        if (source == "-" || source == "0") return true;
        std::ifstream file(source, std::ios::binary);
        return bool(file.read(static_cast<char*>(data), std::streamsize(bytes)));
    }

    Memory* find(int id) {
        auto found = buffers.find(id);
        return found == buffers.end() ? nullptr : found->second.get();
    }

    bool copy(std::istream& words) {
        int from, to;
        if (!(words >> from >> to)) return false;
        Memory *a = find(from), *b = find(to);
        if (!a || !b || a->size != b->size) return false;
        if (settings.is_timing_only) return true;
        std::memcpy(b->data, a->data, a->size);
        b->open(b->name, b->data, b->size, true, true);
        return true;
    }

    /// A function of the host, which reads defined bytes only and defines all of its outputs.
    bool host(std::istream& words) {
        std::string name;
        words >> name;
        auto& all = host_functions();
        auto f = std::find_if(all.begin(), all.end(), [&](auto& f) { return name == f.name; });
        if (f == all.end()) return false;
        std::vector<Memory*> memories;
        std::vector<uint8_t*> args;
        for (int id; words >> id;) {
            if (!find(id)) return false;
            memories.push_back(find(id));
            args.push_back(find(id)->data);
        }
        if (args.size() != f->n_inputs + f->n_outputs) return false;
        if (settings.is_timing_only) return true;
        for (uint32_t k = 0; k < f->n_inputs; ++k) {
            Memory& m = *memories[k];
            if (m.first_undefined() < m.size) {
                std::cout << "violation " << n_launches << " R6 - " << name << ", on the host, reads byte "
                          << m.first_undefined() << " of " << m.name << ", which is never written\n";
            }
        }
        f->call(args.data());
        for (uint32_t k = f->n_inputs; k < args.size(); ++k) {
            Memory& m = *memories[k];
            m.open(m.name, m.data, m.size, true, true);
        }
        return true;
    }

    bool save(std::istream& words) {
        int id;
        std::string path;
        if (!(words >> id >> path) || !find(id)) return false;
        Memory& m = *find(id);
        if (m.first_undefined() < m.size) {
            std::cout << "violation " << n_launches - 1 << " R6 - byte " << m.first_undefined() << " of " << m.name
                      << ", an output, is never written\n";
        }
        std::ofstream file(path, std::ios::binary);
        return bool(file.write(reinterpret_cast<char*>(m.data), std::streamsize(m.size)));
    }

    bool launch(std::istream& words) {
        std::string name, type;
        uint32_t n_blocks;
        if (!(words >> name >> type >> n_blocks)) return false;
        auto kernel = std::find_if(kernels().begin(), kernels().end(), [&](auto& k) { return name == k.name; });
        if (kernel == kernels().end()) return false;
        Machine m(settings);
        std::vector<uint8_t*> args;
        for (int id; words >> id;) {
            if (!find(id)) return false;
            m.arguments.push_back(find(id));
            args.push_back(find(id)->data);
        }
        if (args.size() != kernel->n_args) return false;
        for (auto& b : buffers) b.second->forget();
        if (!create(m, type, n_blocks)) return false;
        m.run([&] { kernel->call(args.data()); });
        answer(m, name);
        ++n_launches;
        return true;
    }

    /// The cores of a launch (rule R27).
    bool create(Machine& m, const std::string& type, uint32_t n_blocks) {
        bool is_vector = type == "AIV_ONLY" || type == "MIX_AIV_1_0";
        uint32_t n_vectors = type == "MIX_AIC_1_1" ? 1 : type == "MIX_AIC_1_2" ? 2 : is_vector ? 1 : 0;
        if (!is_vector && n_vectors == 0 && type != "AIC_ONLY" && type != "MIX_AIC_1_0") return false;
        uint32_t most = is_vector ? 2 * settings.n_cores : settings.n_cores;
        if (n_blocks < 1 || n_blocks > most) {
            m.violate("R27", Loc::current(), text("%u blocks of type %s, of 1 to %u", n_blocks, type.c_str(), most));
            n_blocks = std::min(std::max(n_blocks, 1u), most);
        }
        m.n_blocks = n_blocks;
        m.is_mix = type.starts_with("MIX");
        m.n_subs = is_vector ? 0 : n_vectors;
        for (uint32_t block = 0; block < n_blocks; ++block) {
            if (!is_vector) add_core(m, block, 0, true);
            for (uint32_t sub = 0; sub < n_vectors; ++sub) add_core(m, block, sub, false);
        }
        return true;
    }

    void add_core(Machine& m, uint32_t block, uint32_t sub, bool is_cube) {
        auto core = std::make_unique<Core>();
        core->id = uint32_t(m.cores.size()), core->block = block, core->sub = sub, core->is_cube = is_cube;
        auto open = [&](Memory& memory, const char* name, uint64_t bytes) {
            core->storage.emplace_back(bytes);
            memory.open(name, core->storage.back().data(), bytes, false, !settings.is_timing_only);
        };
        open(core->ub, "UB", settings.ub_bytes);
        open(core->l1, "L1", 524288 - 256);
        open(core->l0a, "L0A", 65536);
        open(core->l0b, "L0B", 65536);
        open(core->l0c, "L0C", 131072);
        open(core->bt, "BT", 1024);
        m.cores.push_back(std::move(core));
    }

    void answer(const Machine& m, const std::string& name) const {
        for (auto& v : m.report.violations()) {
            std::cout << "violation " << n_launches << " " << v.rule << " " << v.place << " " << v.text << "\n";
        }
        double busy[N_PIPES] = {}, bytes = 0;
        for (auto& core : m.cores) {
            bytes += core->gm_bytes;
            for (int p = 0; p < N_PIPES; ++p) busy[p] = std::max(busy[p], core->pipes[p].busy);
        }
        double touched = 0;
        for (const Memory* argument : m.arguments) touched += double(argument->size);
        std::cout << "time " << n_launches << " " << name << " " << m.makespan() << " " << bytes << " "
                  << std::min(bytes, touched);
        for (int p = V; p < N_PIPES; ++p) std::cout << " " << PIPE_NAMES[p] << "=" << busy[p];
        std::cout << std::endl;
    }
};

}  // namespace aic_model
